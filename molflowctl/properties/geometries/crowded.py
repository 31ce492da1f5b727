"""How neighbours stand around an atom that has more of them, or of lone pairs, than a tetrahedron.

    three single bonds of a halogen      T: two in line, the third at a right angle
    four of sulfur, selenium, tellurium  seesaw: two in line, two across them
    five of phosphorus, arsenic, ...     trigonal bipyramid: two in line, three around the middle

A molecule that is such an atom and its neighbours alone can have three more, and bromine or xenon
with as many electron pairs: of six pairs the octahedron, the square pyramid (IF5) and the square
(XeF4), of seven the pentagonal bipyramid (IF7), of five the line (XeF2, I3-).

In line stand the two most electronegative neighbours (Bent's rule) that no ring of up to six atoms
holds together. Distance geometry does not know this, and a relaxation does not turn one arrangement
into another: dichloroiodobenzene with a carbon in line stays there, 13 kcal/mol above the T.

References:
    Gillespie, Nyholm, Q. Rev. Chem. Soc. 11, 339 (1957); Bent, Chem. Rev. 61, 275 (1961);
    Pauling, The Nature of the Chemical Bond (1960) (electronegativities).
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from rdkit import Chem
from rdkit.Geometry import Point3D

from molflowctl.chem.geometry import COVALENT_RADII

__all__ = ["arrangement", "is_crowded"]

_HALOGENS, _CHALCOGENS = frozenset({17, 35, 53, 85}), frozenset({16, 34, 52, 84})
_PNICTOGENS = frozenset({15, 33, 51, 83})
_NOBLE_GASES = frozenset({2, 10, 18, 36, 54, 86})
_PAULING = {
    1: 2.20, 5: 2.04, 6: 2.55, 7: 3.04, 8: 3.44, 9: 3.98, 14: 1.90, 15: 2.19, 16: 2.58, 17: 3.16,
    34: 2.55, 35: 2.96, 53: 2.66,
}  # fmt: skip
_SMALL_RING = 6
_LONGER = 1.05  # times the sum of covalent radii: bonds of crowded atoms
# Directions in the plane across the line, by how many stand there.
_ACROSS = {0: [], 1: [0.0], 2: [-52.0, 52.0], 3: [0.0, 120.0, 240.0]}
# The same where there are six or seven electron pairs, by how many neighbours and lone pairs.
_WIDER = {
    (4, 2): [90.0, 270.0],
    (5, 1): [90.0, 180.0, 270.0],
    (6, 0): [0.0, 90.0, 180.0, 270.0],
    (7, 0): [0.0, 72.0, 144.0, 216.0, 288.0],
}


def is_crowded(atom: Chem.Atom) -> bool:
    """Whether an atom's neighbours stand in another way than those of a tetrahedron or less."""
    number, neighbours = atom.GetAtomicNum(), atom.GetDegree()
    if neighbours >= 5:
        return True
    if number in _HALOGENS:
        # The oxoanions of chlorine are tetrahedral, and MMFF94 has them.
        return neighbours >= 2 and not (number == 17 and neighbours == 4)
    if number in _CHALCOGENS:
        return neighbours == 4 and _only_single(atom)
    return number in _NOBLE_GASES and neighbours > 0


def arrangement(mol: Chem.Mol) -> dict[int, Point3D]:
    """Where the first such atom and its neighbours stand, in angstrom; empty if there is none."""
    for atom in mol.GetAtoms():
        number, neighbours = atom.GetAtomicNum(), atom.GetDegree()
        kinds = {3: _HALOGENS, 4: _CHALCOGENS, 5: _PNICTOGENS}
        if not _only_single(atom):
            continue
        angles = _ACROSS.get(neighbours - 2, [])
        if number not in kinds.get(neighbours, ()):
            if mol.GetNumAtoms() != neighbours + 1:
                continue
            pairs = neighbours, _lone_pairs(atom)
            if pairs not in ((2, 3), (3, 2), (4, 1), (5, 0), *_WIDER):
                continue
            angles = _WIDER.get(pairs, angles)
        around = [n.GetIdx() for n in atom.GetNeighbors()]
        line = min(combinations(around, 2), key=lambda pair: _unlikely(mol, pair))
        across = [n for n in around if n not in line]
        directions = dict(zip(line, ([0.0, 0.0, 1.0], [0.0, 0.0, -1.0]), strict=True))
        for n, degrees in zip(across, angles, strict=True):
            angle = np.radians(degrees)
            directions[n] = [np.cos(angle), np.sin(angle), 0.0]
        places = {atom.GetIdx(): Point3D(0.0, 0.0, 0.0)}
        for n, direction in directions.items():
            other = mol.GetAtomWithIdx(n).GetAtomicNum()
            length = _LONGER * (COVALENT_RADII[number] + COVALENT_RADII[other])
            places[n] = Point3D(*(length * np.array(direction)).tolist())
        return places
    return {}


def _only_single(atom: Chem.Atom) -> bool:
    return all(bond.GetBondType() == Chem.BondType.SINGLE for bond in atom.GetBonds())


def _lone_pairs(atom: Chem.Atom) -> int:
    """Of an atom that has single bonds alone; -1 where an electron is left over."""
    outer = Chem.GetPeriodicTable().GetNOuterElecs(atom.GetAtomicNum())
    pairs, odd = divmod(outer - atom.GetFormalCharge() - atom.GetDegree(), 2)
    return -1 if odd else pairs


def _unlikely(mol: Chem.Mol, pair: tuple[int, int]) -> tuple[bool, float, int]:
    """Sorts pairs of neighbours by how little they would stand in line."""
    rings = mol.GetRingInfo().AtomRings()
    held = any(len(ring) <= _SMALL_RING and {*pair} <= {*ring} for ring in rings)
    pull = sum(_PAULING.get(mol.GetAtomWithIdx(n).GetAtomicNum(), 2.0) for n in pair)
    # Of three carbons and one oxygen, that one is in line which shares no ring with a third.
    shared = sum(len(ring) <= _SMALL_RING and n in ring for n in pair for ring in rings)
    return held, -pull, shared
