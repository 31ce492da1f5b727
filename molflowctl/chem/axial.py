"""Axial chirality: allenes, and single bonds whose crowded ends cannot turn past each other.

An axis has two ends, each with two substituents that differ. Seen along it, the first substituent
of one end lies clockwise or anticlockwise of the first of the other: the sign of the torsion
`first, begin, end, last`. It is the same from either side. No SMILES tells it; a mark of a MOL
block (a wedge at the axis) or three-dimensional coordinates do.

Which single bonds cannot turn is a matter of degree. Here it is those between two flat rings with
three or four of the four places beside the axis taken by more than hydrogen or fluorine (tri- and
tetra-ortho-substituted biaryls, whose barriers are 100 kJ/mol and more), those with all four taken
if one ring has five atoms, and those of tertiary anilides and benzamides with all four. Amines
turn, and the bond of an amide, which is nearly a double bond, is no axis. An axis with a mark
always counts.

References:
    Oki, Top. Stereochem. 14, 1 (1983), doi:10.1002/9780470147238.ch1 (biaryls);
    Clayden, Moran, Edwards, LaPlante, Angew. Chem. Int. Ed. 48, 6398 (2009),
    doi:10.1002/anie.200901719 (which axes are stable in drugs).
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem, rdBase

__all__ = [
    "Axis",
    "axes",
    "axes_text",
    "copy_marks",
    "declare_axes",
    "hands",
    "hands_kept",
    "symmetry_ranks",
]

_FLAT = 0.17  # sine of a torsion, 10 degrees, below which a geometry has no hand
_PLACES_TAKEN = 3  # of the four beside a bond of two six-membered rings
_SMALLEST_RING = 8  # in which a single bond can be an axis
_MARKS = {Chem.BondStereo.STEREOATROPCW: 1, Chem.BondStereo.STEREOATROPCCW: -1}
_MIRRORED = {
    Chem.BondStereo.STEREOATROPCW: Chem.BondStereo.STEREOATROPCCW,
    Chem.BondStereo.STEREOATROPCCW: Chem.BondStereo.STEREOATROPCW,
}
_DECLARED = "_axes"  # a private property of RDKit's, which no writer puts in a file


class Axis(NamedTuple):
    """Ends of an axis, and a substituent of each that it is told by: atoms of the molecule."""

    first: int
    begin: int
    end: int
    last: int


def axes(mol: Chem.Mol) -> list[Axis]:
    """The axes of a sanitised molecule that have a hand, whether or not it is known.

    Of two substituents the one of the higher canonical rank is taken, without regard to how the
    record is written.
    """
    ends = _allenes(mol) + _crowded_bonds(mol)
    if not ends:
        return []
    ranks = symmetry_ranks(mol)
    found = []
    for begin, end, beside_begin, beside_end in ends:
        first, last = (
            _leading(mol, begin, beside_begin, ranks),
            _leading(mol, end, beside_end, ranks),
        )
        if first is not None and last is not None:
            found.append(Axis(first, begin, end, last))
    return found


def _may_have_hands(mol: Chem.Mol) -> bool:
    """Whether anything could tell the hand of an axis: a geometry or a mark."""
    if mol.GetNumConformers() and mol.GetConformer().Is3D():
        return True
    return any(bond.GetStereo() in _MARKS for bond in mol.GetBonds())


def hands(mol: Chem.Mol, number: int = -1) -> list[tuple[Axis, int]]:
    """Axes with +1 or -1, the sign of their torsion; 0 where neither geometry nor mark tells it.

    Arguments:
        number: the conformer. If it is not three-dimensional, marks of bonds are read.
    """
    found = axes(mol)
    solid = bool(mol.GetNumConformers()) and mol.GetConformer(number).Is3D()
    x = mol.GetConformer(number).GetPositions() if found and solid else None
    return [(axis, _marked(mol, axis) if x is None else _sign(x[list(axis)])) for axis in found]


def axes_text(mol: Chem.Mol, number: int = -1) -> str:
    """The axes whose hand is known, by the ranks of their ends, with + or -: `3-7+`; "" for none.

    Equal molecules of equal hands have equal texts.
    """
    if not _may_have_hands(mol) or not (known := [h for h in hands(mol, number) if h[1]]):
        return ""
    ranks = symmetry_ranks(mol)
    told = sorted(
        (*sorted((ranks[axis.begin], ranks[axis.end])), "+" if sign > 0 else "-")
        for axis, sign in known
    )
    return ",".join(f"{one}-{other}{sign}" for one, other, sign in told)


def declare_axes(mol: Chem.Mol, text: str) -> None:
    """Say, in place, which hands the conformers of a molecule are to have; "" for any.

    Arguments:
        text: the `axes_text` of a record of the same molecule.
    """
    mol.SetProp(_DECLARED, text) if text else mol.ClearProp(_DECLARED)


def hands_kept(mol: Chem.Mol, number: int = -1) -> bool:
    """Whether a conformer has the hands that were declared for the molecule, if any were."""
    if not mol.HasProp(_DECLARED):
        return True
    wanted = Counter(mol.GetProp(_DECLARED).split(","))
    return wanted <= Counter(axes_text(mol, number).split(","))


def copy_marks(mol: Chem.Mol, other: Chem.Mol, places: list[int]) -> None:
    """Give the axes of `other` the marks of `mol`, whose atom `places[k]` is its atom `k`."""
    index = {place: k for k, place in enumerate(places)}
    for bond in mol.GetBonds():
        if bond.GetStereo() not in _MARKS:
            continue
        begin, end = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        first = min(n for n in _neighbours(mol, begin) if n != end)
        last = min(n for n in _neighbours(mol, end) if n != begin)
        axis = Axis(index[first], index[begin], index[end], index[last])
        copied = other.GetBondBetweenAtoms(axis.begin, axis.end)
        copied.SetStereo(bond.GetStereo())
        if _marked(other, axis) != _MARKS[bond.GetStereo()]:
            copied.SetStereo(_MIRRORED[bond.GetStereo()])


def symmetry_ranks(mol: Chem.Mol) -> list[int]:
    """Canonical ranks of atoms, equal for those that nothing but stereo tells apart.

    They are those of the molecule, however much of its stereo is known. Hydrogens that can be
    counted instead have -1.
    """
    plain = Chem.Mol(mol, True)  # without conformers
    for atom in plain.GetAtoms():
        atom.SetIntProp("_index", atom.GetIdx())
        atom.SetAtomMapNum(0)
    Chem.RemoveStereochemistry(plain)
    with rdBase.BlockLogs():
        plain = Chem.RemoveHs(plain)
    ranks = [-1] * mol.GetNumAtoms()
    found = Chem.CanonicalRankAtoms(plain, breakTies=False)
    for atom, rank in zip(plain.GetAtoms(), found, strict=True):
        ranks[atom.GetIntProp("_index")] = rank
    return ranks


def _sign(x: NDArray[np.float64]) -> int:
    """Of the torsion of four positions (4, 3)."""
    first, axis, last = x[1] - x[0], x[2] - x[1], x[3] - x[2]
    left, right = np.cross(first, axis), np.cross(axis, last)
    scale = np.linalg.norm(left) * np.linalg.norm(right) * np.linalg.norm(axis)
    sine = np.cross(left, right) @ axis / max(scale, 1e-12)
    return int(np.sign(sine)) if abs(sine) > _FLAT else 0


def _marked(mol: Chem.Mol, axis: Axis) -> int:
    """What RDKit's mark says of the torsion: it is of the neighbours of the lowest indices."""
    bond = mol.GetBondBetweenAtoms(axis.begin, axis.end)
    if bond is None or bond.GetStereo() not in _MARKS:
        return 0
    sign = _MARKS[bond.GetStereo()]
    for end, told, other in ((axis.begin, axis.first, axis.end), (axis.end, axis.last, axis.begin)):
        if told != min(n for n in _neighbours(mol, end) if n != other):
            sign = -sign
    return sign


def _allenes(mol: Chem.Mol) -> list[tuple[int, int, list[int], list[int]]]:
    """Ends and substituents of rows of an even number of double bonds."""
    found = []
    for start in mol.GetAtoms():
        doubles = _doubles(start)
        if len(doubles) != 1 or start.IsInRing():
            continue
        row = [start.GetIdx(), doubles[0]]
        while len(doubles := _doubles(mol.GetAtomWithIdx(row[-1]))) == 2:
            (following,) = [n for n in doubles if n != row[-2]]
            row.append(following)
        if len(row) % 2 and row[0] < row[-1]:
            beside = [
                [n for n in _neighbours(mol, end) if n != inner]
                for end, inner in ((row[0], row[1]), (row[-1], row[-2]))
            ]
            found.append((row[0], row[-1], *beside))
    return found


def _doubles(atom: Chem.Atom) -> list[int]:
    return [
        bond.GetOtherAtomIdx(atom.GetIdx())
        for bond in atom.GetBonds()
        if bond.GetBondType() == Chem.BondType.DOUBLE
    ]


def _crowded_bonds(mol: Chem.Mol) -> list[tuple[int, int, list[int], list[int]]]:
    """Ends and substituents of single bonds that cannot turn, or that have a mark."""
    found = []
    for bond in mol.GetBonds():
        if bond.GetBondType() != Chem.BondType.SINGLE or _in_small_ring(bond):
            continue
        begin, end = bond.GetBeginAtom(), bond.GetEndAtom()
        if not (_is_planar(begin) and _is_planar(end)) or not (begin.IsInRing() or end.IsInRing()):
            continue
        beside = [
            [n for n in _neighbours(mol, atom.GetIdx()) if n != other.GetIdx()]
            for atom, other in ((begin, end), (end, begin))
        ]
        taken = sum(
            _takes_place(mol, atom.GetIdx(), n)
            for atom, places in zip((begin, end), beside, strict=True)
            for n in places
        )
        if (taken >= _needed(begin, end) and not _turns(begin, end)) or bond.GetStereo() in _MARKS:
            found.append((begin.GetIdx(), end.GetIdx(), *beside))
    return found


def _in_small_ring(bond: Chem.Bond) -> bool:
    return any(bond.IsInRingSize(size) for size in range(3, _SMALLEST_RING))


def _is_planar(atom: Chem.Atom) -> bool:
    """Whether its three neighbours lie in a plane with it, as those of an amide's nitrogen do."""
    return atom.GetDegree() == 3 and atom.GetHybridization() == Chem.HybridizationType.SP2


def _is_stiff(atom: Chem.Atom) -> bool:
    """Whether an end is in a flat ring, or the nitrogen or carbonyl of a tertiary amide."""
    if atom.GetIsAromatic():
        return True
    around = list(atom.GetNeighbors())
    if atom.GetAtomicNum() == 7:
        return all(n.GetAtomicNum() == 6 for n in around) and any(map(_doubles_to_hetero, around))
    if atom.IsInRing():
        return True
    amine = [n for n in around if n.GetAtomicNum() == 7]
    return any(sum(m.GetAtomicNum() > 1 for m in n.GetNeighbors()) == 3 for n in amine)


def _needed(begin: Chem.Atom, end: Chem.Atom) -> int:
    """How many places must be taken: beside a ring of five they lie farther from the axis."""
    return _PLACES_TAKEN + sum(not atom.IsInRing() or atom.IsInRingSize(5) for atom in (begin, end))


def _turns(begin: Chem.Atom, end: Chem.Atom) -> bool:
    return _is_amide(begin, end) or not (_is_stiff(begin) and _is_stiff(end))


def _is_amide(begin: Chem.Atom, end: Chem.Atom) -> bool:
    """Whether a bond is the one between nitrogen and C=O, C=N or C=C: flat, so that no hand is."""
    for nitrogen, carbon in ((begin, end), (end, begin)):
        if nitrogen.GetAtomicNum() == 7 and not carbon.GetIsAromatic() and _doubles(carbon):
            return True
    return False


def _doubles_to_hetero(atom: Chem.Atom) -> bool:
    mol = atom.GetOwningMol()
    return any(mol.GetAtomWithIdx(n).GetAtomicNum() in (7, 8, 16) for n in _doubles(atom))


def _takes_place(mol: Chem.Mol, end: int, index: int) -> bool:
    """Whether an atom beside an axis is in the way: in a ring, if it has more than H or F."""
    atom = mol.GetAtomWithIdx(index)
    if atom.GetAtomicNum() == 1:
        return False
    if not mol.GetBondBetweenAtoms(end, index).IsInRing():
        return True
    return sum(neighbour.GetAtomicNum() not in (1, 9) for neighbour in atom.GetNeighbors()) > 2


def _leading(mol: Chem.Mol, end: int, beside: list[int], ranks: list[int]) -> int | None:
    """The substituent that an end is told by; None if its two are alike."""
    hidden = mol.GetAtomWithIdx(end).GetTotalNumHs()
    if len(beside) + hidden != 2 or not beside or len({ranks[n] for n in beside}) != len(beside):
        return None
    return max(beside, key=lambda n: ranks[n])


def _neighbours(mol: Chem.Mol, index: int) -> list[int]:
    return [atom.GetIdx() for atom in mol.GetAtomWithIdx(index).GetNeighbors()]
