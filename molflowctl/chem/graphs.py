"""The bridge between decoded graphs and RDKit molecules.

A flow decodes to a `Graph3D`, plain arrays; `assemble` turns it into a checked molecule with
hydrogens and a 3-D conformer, or into a `Failure` with one word for the reason. Files are read and
written by `molflowctl.io.library`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import rdForceFieldHelpers, rdMolDescriptors

from molflowctl.chem.geometry import COVALENT_RADII, add_conformer
from molflowctl.chem.hydrogens import point
from molflowctl.chem.identity import identity
from molflowctl.chem.relaxation import minimise, what_became

__all__ = [
    "EXACT",
    "FAILURE_REASONS",
    "Failure",
    "Graph3D",
    "Molecule",
    "Relaxation",
    "assemble",
    "canonical_smiles",
    "formula",
    "from_mol",
    "inchikey",
    "to_mol",
]

Relaxation = Literal["hydrogens", "none", "mmff"]

FAILURE_REASONS = {
    "nonfinite": "a coordinate is NaN or infinite",
    "valence": "an atom has more bonds than its element and charge allow",
    "sanitise": "RDKit cannot kekulise or otherwise sanitise the graph",
    "fragments": "the graph is not connected",
    "radical": "an atom has unpaired electrons",
    "clash": "two atoms are closer than half the sum of their covalent radii",
    "stretched": "a bond is longer than 1.5 times the sum of its covalent radii",
    "hand": "a stereocentre or double bond of the core came out as its mirror image",
    "relaxation": "it did not converge, or became another molecule, when it was relaxed",
    "error": "RDKit raised an unexpected error",
    "worker": "the process that drew it failed or was killed",
}

# For `Mol.ToBinary`: by default tags are dropped and coordinates rounded to single precision.
EXACT = int(Chem.PropertyPickleOptions.AllProps) | int(Chem.PropertyPickleOptions.CoordsAsDouble)

_BOND_TYPES = {1: Chem.BondType.SINGLE, 2: Chem.BondType.DOUBLE, 3: Chem.BondType.TRIPLE}
_BOND_ORDERS = {kind: order for order, kind in _BOND_TYPES.items()}
_CLASH_FACTOR = 0.5
_STRETCH_FACTOR = 1.5
_HYDROGEN_STEPS = 500
_MMFF_STEPS = 2000


@dataclass(frozen=True, eq=False)
class Graph3D:
    """One molecule of `N` atoms as arrays; implicit hydrogens are simply absent.

    numbers: `(N,)` integers, atomic numbers.
    charges: `(N,)` integers, formal charges.
    bonds: `(N, N)` int8, symmetric, kekulised orders 0 (no bond) to 3.
    positions: `(N, 3)` floats, angstrom.
    """

    numbers: np.ndarray
    charges: np.ndarray
    bonds: np.ndarray
    positions: np.ndarray


@dataclass(frozen=True, eq=False)
class Molecule:
    """A valid molecule: sanitised, in one piece, hydrogens explicit, one 3-D conformer.

    smiles: its identity, see `canonical_smiles`.
    force_field: the field that relaxed it, "MMFF94" or "UFF"; empty if none did, be it that none
        was asked for or that neither has parameters for this molecule.
    """

    mol: Chem.Mol
    smiles: str
    force_field: str = ""


@dataclass(frozen=True)
class Failure:
    """Why a graph is not a molecule: a key of `FAILURE_REASONS`, and the detail."""

    reason: str
    detail: str = ""


def to_mol(graph: Graph3D, explicit: bool = False) -> Chem.Mol:
    """The graph as an unsanitised RDKit molecule with its conformer.

    explicit: the graph shows every hydrogen, so RDKit may not fill up valences with implicit ones
        (an open valence becomes a radical).
    """
    mol = Chem.RWMol()
    for number, charge in zip(graph.numbers.tolist(), graph.charges.tolist(), strict=True):
        atom = Chem.Atom(number)
        atom.SetFormalCharge(charge)
        atom.SetNoImplicit(explicit)
        mol.AddAtom(atom)
    begins, ends = np.nonzero(np.triu(graph.bonds, 1))
    orders = graph.bonds[begins, ends]
    for i, j, order in zip(begins.tolist(), ends.tolist(), orders.tolist(), strict=True):
        mol.AddBond(i, j, _BOND_TYPES[order])
    add_conformer(mol, graph.positions)
    return mol.GetMol()


def from_mol(mol: Chem.Mol, hydrogens: bool) -> Graph3D:
    """The arrays of a sanitised molecule's first conformer, kekulised.

    hydrogens: True keeps all of them and adds missing ones with coordinates, False removes all.

    Raises `ValueError` if the molecule has no conformer or a bond that is not of order 1, 2 or 3.
    """
    if mol.GetNumConformers() == 0:
        raise ValueError("the molecule has no conformer")
    mol = Chem.AddHs(mol, addCoords=True) if hydrogens else Chem.RemoveAllHs(mol)
    Chem.Kekulize(mol, clearAromaticFlags=True)
    n = mol.GetNumAtoms()
    bonds = np.zeros((n, n), dtype=np.int8)
    for bond in mol.GetBonds():
        order = _BOND_ORDERS.get(bond.GetBondType())
        if order is None:
            raise ValueError(f"a bond of type {bond.GetBondType()} has no order from 1 to 3")
        i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        bonds[i, j] = bonds[j, i] = order
    return Graph3D(
        numbers=np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()], dtype=np.int64),
        charges=np.array([atom.GetFormalCharge() for atom in mol.GetAtoms()], dtype=np.int64),
        bonds=bonds,
        positions=mol.GetConformer().GetPositions(),
    )


def assemble(
    graph: Graph3D, relax: Relaxation = "hydrogens", explicit: bool = False
) -> Molecule | Failure:
    """Check a decoded graph and complete it to a molecule with hydrogens and coordinates.

    relax: "hydrogens" lets the hydrogens relax in MMFF94 (UFF where that lacks parameters) while
        the heavy atoms stay exactly where they are, "mmff" relaxes every atom, "none" neither;
        then hydrogens that had to be added stand where ideal bond lengths and angles put them.
    explicit: the graph shows every hydrogen; an open valence is then a "radical".

    The molecule may carry a net charge. Stereo marks are read off the final coordinates.
    """
    if not np.isfinite(graph.positions).all():
        return Failure("nonfinite")
    if clash := _clash(graph.numbers, graph.positions):
        return Failure("clash", clash)
    mol = to_mol(graph, explicit)
    with rdBase.BlockLogs():
        flaw = Chem.SanitizeMol(mol, catchErrors=True)
        if flaw != Chem.SanitizeFlags.SANITIZE_NONE:
            is_valence = flaw == Chem.SanitizeFlags.SANITIZE_PROPERTIES
            detail = "; ".join(p.Message() for p in Chem.DetectChemistryProblems(mol))
            return Failure("valence" if is_valence else "sanitise", detail)
        if len(Chem.GetMolFrags(mol)) != 1:
            return Failure("fragments", canonical_smiles(mol))
        if any(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms()):
            return Failure("radical", canonical_smiles(mol))
        smiles = canonical_smiles(mol)
        shown = mol.GetNumAtoms()
        mol = Chem.AddHs(mol, addCoords=True)
        added = range(shown, mol.GetNumAtoms())
        force_field, trouble = "", ""
        if relax != "none":
            force_field, trouble = _relax(mol, relax == "mmff", added)
    positions = mol.GetConformer().GetPositions()
    if not np.isfinite(positions).all():
        return Failure("nonfinite", "after adding and relaxing hydrogens")
    if clash := _clash(np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()]), positions):
        return Failure("clash", clash)
    if trouble:
        return Failure("relaxation", trouble)
    if stretched := _stretched(mol):
        return Failure("stretched", stretched)
    Chem.AssignStereochemistryFrom3D(mol)
    if force_field and relax == "mmff" and (trouble := what_became(mol)):
        return Failure("relaxation", trouble)
    return Molecule(mol, smiles, force_field)


def canonical_smiles(mol: Chem.Mol) -> str:
    """What uniqueness and novelty count by: the molecule's identity, stereo left out."""
    return identity(mol, stereo=False)


def formula(mol: Chem.Mol) -> str:
    """Hill formula with the net charge, hydrogens included: `C2H6O`."""
    return rdMolDescriptors.CalcMolFormula(mol)


def inchikey(mol: Chem.Mol) -> str:
    """Standard InChIKey, stereo included; empty if InChI has no name for the molecule."""
    with rdBase.BlockLogs():
        return Chem.MolToInchiKey(mol)


def _relax(mol: Chem.Mol, everything: bool, added: Sequence[int]) -> tuple[str, str]:
    """Minimise in place; the force field's name, "" where none can, and why it did not converge.

    Hydrogens that were `added` are turned to their lowest energy before.
    """
    hydrogens = [atom.GetAtomicNum() == 1 for atom in mol.GetAtoms()]
    if not everything and not any(hydrogens):
        return "", ""
    properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol)
    if properties is not None:
        name = "MMFF94"
        field = rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, properties)
    elif rdForceFieldHelpers.UFFHasAllMoleculeParams(mol):
        name = "UFF"
        field = rdForceFieldHelpers.UFFGetMoleculeForceField(mol)
    else:
        return "", ""
    field.Initialize()
    if not everything:
        for index, is_hydrogen in enumerate(hydrogens):
            if not is_hydrogen:
                field.AddFixedPoint(index)
    point(mol, field, added)
    return name, minimise(field, _MMFF_STEPS if everything else _HYDROGEN_STEPS)


def _clash(numbers: np.ndarray, positions: np.ndarray) -> str:
    """The first pair of atoms, bonded or not, that is far too close; empty if there is none."""
    radii = COVALENT_RADII[numbers]
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    close = np.argwhere(np.triu(distances < _CLASH_FACTOR * (radii[:, None] + radii[None]), 1))
    if len(close) == 0:
        return ""
    i, j = close[0].tolist()
    return f"atoms {i + 1} and {j + 1} are {distances[i, j]:.2f} angstrom apart"


def _stretched(mol: Chem.Mol) -> str:
    """The first bond that is far too long; empty if there is none."""
    ends = np.array([(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in mol.GetBonds()], int)
    first, second = ends.reshape(-1, 2).T
    radii = COVALENT_RADII[[atom.GetAtomicNum() for atom in mol.GetAtoms()]]
    positions = mol.GetConformer().GetPositions()
    lengths = np.linalg.norm(positions[first] - positions[second], axis=-1)
    for k in np.flatnonzero(lengths > _STRETCH_FACTOR * (radii[first] + radii[second]))[:1]:
        return f"the bond of atoms {first[k] + 1} and {second[k] + 1} is {lengths[k]:.2f} angstrom"
    return ""
