"""Whether a relaxation came to an end, and whether its geometry still is the molecule.

A relaxation follows an energy, which knows nothing of the bonds that are drawn. In GFN2-xTB the
proton of a zwitterion goes over to its carboxylate, strained rings open, an ion loses carbon
dioxide. Such a geometry under the old bonds is wrong, and so is its energy: whatever is relaxed
asks here before it is delivered or scored.

With `q` a distance divided by the sum of the two covalent radii (Cordero et al., Dalton Trans.
2832 (2008)), a geometry is the molecule if

    atoms that are bonded have           q < 1.3
    two that are not have                q > 1.15, or 1.05 across an angle; two hydrogens q > 1.3;
                                         an ion of one atom q > 0.75
    each hydrogen has                    its own heavy atom nearest of all, by q

and if every stereo mark holds. A hydrogen bond, the shortest ones included, passes: the proton is
nearer to its own atom. Ions of metals may touch whatever they like, for that is no covalent bond.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import rdDetermineBonds

from molflowctl.chem.axial import axes_text, declare_axes
from molflowctl.chem.geometry import COVALENT_RADII, add_conformer
from molflowctl.chem.stereo import stereo_kept

__all__ = ["BECAME", "bonds_kept", "changed", "minimise", "what_became"]

BECAME = "became another molecule"  # how every reason that `what_became` gives begins

_LONGEST_BOND = 1.3
_CONTACT, _ACROSS_AN_ANGLE, _OF_HYDROGENS, _OF_IONS = 1.15, 1.05, 1.3, 0.75
_NONMETALS = [1, 2, *range(5, 11), *range(14, 19), *range(32, 37), *range(51, 55), 85, 86]
_ZWITTERION = Chem.MolFromSmarts("[O,N;+]=[*]-[O,N;-]")
_MOST_ATOMS, _MOST_TRIALS = 80, 1000  # for which bond orders are looked for


def minimise(field: Any, steps: int = 2000, rounds: int = 5) -> str:
    """Follow an initialised force field of RDKit to its minimum; empty, or why it was not reached.

    Arguments:
        steps: after which it is begun again, at most `rounds` times.
    """
    try:
        if any(field.Minimize(maxIts=steps) == 0 for _ in range(rounds)):
            return ""
    except RuntimeError:  # the line search gives up
        return "the relaxation met a singular geometry"
    return "the relaxation did not converge"


def bonds_kept(mol: Chem.Mol, number: int = -1) -> bool:
    """Whether conformer `number` has the molecule's bonds and no others; see the module.

    Arguments:
        mol: with explicit hydrogens.
    """
    positions = mol.GetConformer(number).GetPositions()
    if not np.isfinite(positions).all():
        return False
    numbers = _numbers(mol)
    relative = _relative(numbers, positions)
    bonded = Chem.GetAdjacencyMatrix(mol) > 0
    if not (relative[bonded] < _LONGEST_BOND).all():
        return False
    hydrogen, nonmetal = numbers == 1, np.isin(numbers, _NONMETALS)
    least = np.full(relative.shape, _CONTACT)
    least[(bonded.astype(int) @ bonded) > 0] = _ACROSS_AN_ANGLE
    least[np.ix_(hydrogen, hydrogen)] = _OF_HYDROGENS
    alone = ~bonded.any(1)  # an ion of one atom, whose covalent radius is no size of it
    least[alone] = least[:, alone] = _OF_IONS
    apart = np.triu(~bonded, 1) & np.outer(nonmetal, nonmetal)
    if not (relative[apart] > least[apart]).all():
        return False
    heavy = ~hydrogen
    own = np.where(bonded & heavy, relative, np.inf).min(1, initial=np.inf)
    other = np.where(~bonded & heavy & nonmetal, relative, np.inf).min(1, initial=np.inf)
    placed = hydrogen & np.isfinite(own)
    return bool((own[placed] < other[placed]).all())


def what_became(mol: Chem.Mol, number: int = -1) -> str:
    """Empty if conformer `number` has the molecule's bonds and stereo; else what it is now.

    The text names both SMILES, as far as the second can be told from the geometry.
    """
    if not bonds_kept(mol, number):
        now = _perceived(mol, number)
    elif not stereo_kept(mol, number):
        now = _with_stereo_of(mol, number)
    else:
        return ""
    was = _smiles(mol)
    if now == was:
        mirrored = bonds_kept(mol, number)  # of a centre or an axis that SMILES cannot tell
        now = "the other hand" if mirrored else "the same bonds and stereo, between other atoms"
    return f"{BECAME}: {was} -> {now or 'bonds that cannot be told'}"


def changed(before: Chem.Mol, after: Chem.Mol) -> str:
    """As `what_became` of a relaxed molecule, also by the stereo that its start has in space.

    Arguments:
        before: with the geometry at the start; what its marks leave open is read from there.
        after: the same atoms at the end.
    """
    if found := what_became(after):
        return found
    start = Chem.Mol(before)
    Chem.AssignStereochemistryFrom3D(start)
    declare_axes(start, axes_text(before))
    if not stereo_kept(start):  # too distorted to say what it was
        return ""
    end = Chem.Mol(start)
    end.GetConformer().SetPositions(after.GetConformer().GetPositions())
    return what_became(end)


def _numbers(mol: Chem.Mol) -> np.ndarray:
    return np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])


def _relative(numbers: np.ndarray, positions: np.ndarray) -> np.ndarray:
    radii = COVALENT_RADII[numbers]
    gaps = np.linalg.norm(positions[:, None] - positions, axis=-1)
    return gaps / (radii[:, None] + radii)


def _smiles(mol: Chem.Mol) -> str:
    with rdBase.BlockLogs():
        return Chem.MolToSmiles(Chem.RemoveHs(mol, sanitize=False))


def _with_stereo_of(mol: Chem.Mol, number: int) -> str:
    found = Chem.Mol(mol)
    Chem.AssignStereochemistryFrom3D(found, confId=number)
    return _smiles(found)


def _perceived(mol: Chem.Mol, number: int) -> str:
    """SMILES of what a geometry is, read from it; empty where that cannot be told."""
    positions = mol.GetConformer(number).GetPositions()
    if not np.isfinite(positions).all():
        return ""
    with rdBase.BlockLogs():
        return _with_protons_moved(mol, positions) or _from_distances(mol, positions)


def _with_protons_moved(mol: Chem.Mol, positions: np.ndarray) -> str:
    """The molecule whose hydrogens are, as protons, where the geometry has them.

    Empty if bonds between heavy atoms have changed too, or the result is none that RDKit knows.
    """
    numbers = _numbers(mol)
    relative = _relative(numbers, positions)
    edited = Chem.RWMol(mol)
    Chem.Kekulize(edited, clearAromaticFlags=True)
    for atom in edited.GetAtoms():
        atom.SetNoImplicit(True)
    heavy = np.flatnonzero(numbers > 1)
    if not len(heavy):
        return ""
    for h in np.flatnonzero(numbers == 1).tolist():
        owners = [a.GetIdx() for a in mol.GetAtomWithIdx(h).GetNeighbors()]
        nearest = int(heavy[relative[h, heavy].argmin()])
        if nearest in owners or len(owners) != 1:
            continue
        for atom, shift in ((owners[0], -1), (nearest, 1)):
            held = edited.GetAtomWithIdx(atom)
            held.SetFormalCharge(held.GetFormalCharge() + shift)
        edited.RemoveBond(h, owners[0])
        edited.AddBond(h, nearest, Chem.BondType.SINGLE)
    for plus, middle, minus in edited.GetSubstructMatches(_ZWITTERION):  # onto =O of a carboxylate
        for atom in (plus, minus):
            edited.GetAtomWithIdx(atom).SetFormalCharge(0)
        edited.GetBondBetweenAtoms(plus, middle).SetBondType(Chem.BondType.SINGLE)
        edited.GetBondBetweenAtoms(middle, minus).SetBondType(Chem.BondType.DOUBLE)
    if Chem.SanitizeMol(edited, catchErrors=True):
        return ""
    edited.RemoveAllConformers()
    add_conformer(edited, positions)
    return _smiles(edited) if bonds_kept(edited) else ""


def _from_distances(mol: Chem.Mol, positions: np.ndarray) -> str:
    """SMILES by RDKit's perception of bonds and their orders; empty where it finds none."""
    if mol.GetNumAtoms() > _MOST_ATOMS:
        return ""
    found = Chem.RWMol()
    for number in _numbers(mol).tolist():
        found.AddAtom(Chem.Atom(number))
    add_conformer(found, positions)
    try:
        rdDetermineBonds.DetermineBonds(
            found, charge=Chem.GetFormalCharge(mol), maxIterations=_MOST_TRIALS
        )
    except (ValueError, RuntimeError):
        return ""
    return _smiles(found)
