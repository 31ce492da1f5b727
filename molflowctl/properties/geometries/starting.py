"""A first geometry for a molecule that has none: distance geometry, then the field that knows it.

    MMFF94      every fragment to its minimum
    UFF         where MMFF94 has no parameters: boron, selenium, tin, arsenic, magnesium
    GFN2-xTB    where UFF has none either, or is wrong: five and more neighbours of an atom, two and
                more of a halogen (hypervalent iodine, phosphoranes, SF6, PF6-)

UFF's angles at such atoms are those of a tetrahedron or a line: its minimum of PF6- lies 1,100
kcal/mol above that of GFN2-xTB. The fragments of a salt or a mixture are made one by one, set
beside each other (`complexes.py`), and relaxed together by MMFF94 with the terms between
them; where it does not know them all, as rigid bodies. What all of these cannot do, the ligands of
transition metals, lanthanides and actinides, is refused by the name of the element.

References:
    Wang, Witek, Landrum, Riniker, J. Chem. Inf. Model. 60, 2044 (2020) (ETKDGv3);
    Halgren, J. Comput. Chem. 17, 490 (1996) (MMFF94);
    Rappe, Casewit, Colwell, Goddard, Skiff, J. Am. Chem. Soc. 114, 10024 (1992) (UFF);
    Bannwarth, Ehlert, Grimme, J. Chem. Theory Comput. 15, 1652 (2019) (GFN2-xTB).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from molflowctl.chem.geometry import add_conformer, with_positions
from molflowctl.chem.identity import in_canonical_order, placings, without_labels
from molflowctl.chem.metals import TRANSITION_METALS, metal_complex
from molflowctl.chem.relaxation import BECAME, minimise, what_became
from molflowctl.chem.salts import COMPLEX
from molflowctl.chem.stereo import stereo_kept
from molflowctl.properties.geometries.complexes import fragments_apart, place, settle
from molflowctl.properties.geometries.crowded import arrangement, is_crowded
from molflowctl.properties.registry import PropertyError

__all__ = [
    "MOST_ATOMS",
    "Start",
    "draw",
    "field_for",
    "knows_mmff94",
    "method_of",
    "start",
    "unplaceable",
]

Field = Literal["MMFF94", "UFF", "GFN2-xTB", ""]

_SEED = 0xF00D  # one for all: a geometry depends on its molecule only, and can be cached
MOST_ATOMS = 1000  # a chain of 200 carbons, 602 atoms, takes 24 s of a processor; of 300, minutes
_PLACINGS = 4  # of the fragments of a complex, of which the lowest is taken
_TABLE = Chem.GetPeriodicTable()


@dataclass(frozen=True)
class Start:
    """A geometry, and how it was made.

    Attributes:
        mol: a copy of the molecule asked for, its atoms in their order, with one conformer.
        method: as `method_of`.
    """

    mol: Chem.Mol
    method: str


def start(mol: Chem.Mol) -> Start:
    """A copy with one conformer in the minimum of what knows it, see the module.

    Equal molecules get equal geometries, in whatever order their atoms are: distance geometry is
    done in the canonical one. So do molecules that differ in isotopes alone, unless labels make
    stereo that no placing of them on the plain molecule has. Hydrogens must be explicit.

    Raises:
        PropertyError: there is none; the message says why, with the element that it is about.
    """
    mol = Chem.Mol(mol)
    mol.RemoveAllConformers()
    if mol.GetNumAtoms() == 0:
        raise PropertyError("no atoms")
    if reason := unplaceable(mol):
        raise PropertyError(f"no geometry: {reason}")
    try:
        ordered, places = in_canonical_order(mol)
    except ValueError:  # no SMILES tells all of it
        ordered, places = mol, list(range(mol.GetNumAtoms()))
    if (found := _of_the_plain(ordered)) is None:
        pieces = Chem.GetMolFrags(ordered, asMols=True)
        found = _alone(ordered)[0] if len(pieces) == 1 else _together(ordered, pieces)
    positions = np.empty((len(places), 3))
    positions[places] = found.GetConformer().GetPositions()
    return Start(with_positions(mol, positions), method_of(mol))


def draw(mol: Chem.Mol, n: int, seed: int) -> int:
    """Replace the conformers by up to `n` of ETKDGv3, not relaxed; how many there are.

    For what one call of distance geometry cannot do: several fragments, which are set beside each
    other, and atoms with more neighbours than a tetrahedron.

    Args:
        mol: with explicit hydrogens; changed in place.
    """
    mol.RemoveAllConformers()
    pieces = Chem.GetMolFrags(mol, asMols=True)
    for k in range(n):
        shapes = [_conformer(piece, 1 + (seed + k) % (2**31 - 2)) for piece in pieces]
        whole = [shape for shape in shapes if shape is not None]
        if len(whole) < len(shapes):
            continue
        positions = whole[0].GetConformer().GetPositions()
        if len(pieces) > 1:
            parts = [shape.GetConformer().GetPositions() for shape in whole]
            positions, _ = place(mol, parts, np.random.default_rng([seed, k]))
            if not knows_mmff94(mol):
                positions, _ = settle(mol, positions)
        add_conformer(mol, positions)
    return mol.GetNumConformers()


def method_of(mol: Chem.Mol) -> str:
    """How `start` makes the geometry of a molecule with explicit hydrogens: `ETKDGv3, MMFF94`."""
    fields = {field_for(piece) for piece in Chem.GetMolFrags(mol, asMols=True)}
    named = [field for field in ("MMFF94", "UFF", "GFN2-xTB") if field in fields]
    text = ", ".join(["ETKDGv3", *named]) if named else "single atoms"
    if len(Chem.GetMolFrags(mol)) == 1:
        return text if named else "a single atom"
    return f"{text}, fragments {'relaxed together' if knows_mmff94(mol) else 'rigid'}"


def field_for(mol: Chem.Mol) -> Field:
    """What is to relax one fragment with explicit hydrogens; "" for a single atom."""
    if mol.GetNumAtoms() == 1:
        return ""
    with rdBase.BlockLogs():
        if any(map(is_crowded, mol.GetAtoms())):
            return "GFN2-xTB"
        if knows_mmff94(mol):
            return "MMFF94"
        return "UFF" if rdForceFieldHelpers.UFFHasAllMoleculeParams(mol) else "GFN2-xTB"


def unplaceable(mol: Chem.Mol) -> str:
    """Why nothing here makes a geometry of a molecule, naming the atom; empty if something may."""
    if (size := mol.GetNumAtoms()) > MOST_ATOMS:
        return f"{size:,} atoms: distance geometry takes hours beyond {MOST_ATOMS:,}"
    if metal := metal_complex(mol):
        return COMPLEX.format(metal)
    for atom in mol.GetAtoms():
        number = atom.GetAtomicNum()
        if number == 0:
            return "it has a dummy atom"
        what = f"{_TABLE.GetElementName(number).lower()} ({atom.GetSymbol()})"
        if number in TRANSITION_METALS and atom.GetDegree():
            return f"no field knows how ligands stand around {what}"
        if number > 86:
            return f"no method has parameters for {what}"
    return ""


def knows_mmff94(mol: Chem.Mol) -> bool:
    """Whether MMFF94 has parameters for all of a molecule, and they are right for it."""
    with rdBase.BlockLogs():
        return rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol) and not any(
            map(is_crowded, mol.GetAtoms())
        )


def _of_the_plain(mol: Chem.Mol) -> Chem.Mol | None:
    """A labelled molecule in the geometry of the plain one, where its stereo can hold in it."""
    if (plain := without_labels(mol)) is None:
        return None
    x = start(plain).mol.GetConformer().GetPositions()
    everywhere = chain([range(len(x))], placings(mol, plain))
    labelled = (with_positions(mol, x[list(places)]) for places in everywhere)
    return next(filter(stereo_kept, labelled), None)


def _alone(mol: Chem.Mol, seed: int = _SEED) -> tuple[Chem.Mol, float]:
    """One fragment with its conformer, and the energy of its field in kcal/mol (of GFN2-xTB, 0)."""
    made = _conformer(mol, seed)
    if made is None:
        raise PropertyError("no geometry: ETKDGv3 found none")
    field = field_for(made)
    if not field:
        return made, 0.0
    relaxed, energy = (_by_gfn2(made), 0.0) if field == "GFN2-xTB" else _by_field(made, field)
    if became := what_became(relaxed):
        raise PropertyError(f"no geometry: in {field} it {became}")
    return relaxed, energy


def _together(mol: Chem.Mol, pieces: tuple[Chem.Mol, ...]) -> Chem.Mol:
    """The fragments beside each other: the lowest of several placings."""
    together = knows_mmff94(mol)
    found: list[tuple[float, Chem.Mol]] = []
    reason = "its fragments could not be kept apart"
    alone = [_alone(piece) for piece in pieces]
    for k in range(_PLACINGS):
        # Alone an ion folds onto its own charge: in other conformers the next one comes nearer.
        shapes = [_shape(a, k, together) for a in alone] if k else alone
        parts = [shape.GetConformer().GetPositions() for shape, _ in shapes]
        placed, energy = place(mol, parts, np.random.default_rng([_SEED, k]))
        try:
            if together:
                one, energy = _by_field(with_positions(mol, placed), "MMFF94")
            else:
                placed, energy = settle(mol, placed)
                one, energy = with_positions(mol, placed), energy + sum(own for _, own in shapes)
        except PropertyError as error:
            reason = str(error).removeprefix("no geometry: ")
            continue
        if became := what_became(one):
            reason = f"it {became}"
        elif fragments_apart(one):
            found.append((energy, one))
    if not found:
        raise PropertyError(f"no geometry: {reason}")
    return min(found, key=lambda pair: pair[0])[1]


def _shape(made: tuple[Chem.Mol, float], k: int, together: bool) -> tuple[Chem.Mol, float]:
    """Another conformer of a fragment, relaxed unless they will be together; else the one there is.

    Of GFN2-xTB there is one: energies of different methods do not add up.
    """
    mol, _ = made
    if field_for(mol) in ("", "GFN2-xTB"):
        return made
    if together:
        other = _conformer(mol, _SEED + k)
        return made if other is None else (other, 0.0)
    try:
        return _alone(mol, _SEED + k)
    except PropertyError:
        return made


def _conformer(mol: Chem.Mol, seed: int) -> Chem.Mol | None:
    """A copy with one conformer of ETKDGv3; None if it finds none."""
    copy = Chem.Mol(mol)
    copy.RemoveAllConformers()
    parameters = rdDistGeom.ETKDGv3()
    parameters.randomSeed = seed
    places = arrangement(copy)
    if len(places) == copy.GetNumAtoms():  # which distance geometry would not leave there
        add_conformer(copy, np.array([[*places[k]] for k in range(len(places))]))
        return copy
    with rdBase.BlockLogs():
        if places:
            parameters.SetCoordMap(places)
            if rdDistGeom.EmbedMolecule(copy, parameters) >= 0:
                return copy
            parameters.SetCoordMap({})
        if rdDistGeom.EmbedMolecule(copy, parameters) >= 0:
            return copy
        parameters.useRandomCoords = True
        return copy if rdDistGeom.EmbedMolecule(copy, parameters) >= 0 else None


def _by_field(mol: Chem.Mol, field: Field) -> tuple[Chem.Mol, float]:
    """A copy in the nearest minimum of MMFF94 or UFF, and its energy in kcal/mol."""
    copy = Chem.Mol(mol)
    with rdBase.BlockLogs():
        made = _forces(copy, field)
        if failure := minimise(made):
            raise PropertyError(f"no geometry: in {field}, {failure}")
        return copy, float(made.CalcEnergy())


def _forces(mol: Chem.Mol, field: Field) -> Any:
    if field == "MMFF94":
        properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol)
        made = rdForceFieldHelpers.MMFFGetMoleculeForceField(
            mol, properties, ignoreInterfragInteractions=False
        )
    else:
        made = rdForceFieldHelpers.UFFGetMoleculeForceField(mol)
    made.Initialize()
    return made


def _by_gfn2(mol: Chem.Mol) -> Chem.Mol:
    from molflowctl.properties.energies.xtb import relax

    result = relax(mol)
    if result.failure:
        where = "in GFN2-xTB it " if result.failure.startswith(BECAME) else ""
        raise PropertyError(f"no geometry: {where}{result.failure}")
    return result.mol
