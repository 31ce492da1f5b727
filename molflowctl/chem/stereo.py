"""Stereo as geometry: which atoms stand how, whether coordinates agree, what is left open.

A stereocentre is a centre and four atoms `q0..q3` in an order for which the right geometry has a
positive volume `(q0-q3) . ((q1-q3) x (q2-q3))`; `q3` is the fourth neighbour, or the centre itself
where there are three. An even permutation of the four changes nothing. Across a double bond, pairs
of atoms are cis or trans. No CIP label is needed, so centres that have none count as well.
"""

from __future__ import annotations

from itertools import islice, product

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import EnumerateStereoisomers

from molflowctl.chem.axial import hands_kept

__all__ = [
    "across_double_bonds",
    "is_bridgehead",
    "opened",
    "stereo_kept",
    "stereocentres",
    "stereoisomers",
    "unspecified_stereo",
    "without_false_centres",
]

_FLAT = 0.1  # volume of three unit vectors below which a centre is flat, as in RDKit
_MOST_OF_A_CAGE = 8  # centres: 256 choices, a tenth of a second
_RESONANT = (15, 16, 33, 34)  # P, S, As, Se
_CIS = (Chem.BondStereo.STEREOZ, Chem.BondStereo.STEREOCIS)
_TRANS = (Chem.BondStereo.STEREOE, Chem.BondStereo.STEREOTRANS)


def stereocentres(mol: Chem.Mol) -> list[tuple[int, int, int, int, int]]:
    """Centre and `q0..q3` of every atom with a tetrahedral mark, see the module.

    RDKit's mark is the sense of the first three neighbours, in the order of the bonds: seen from
    the centre their volume is positive for CCW.
    """
    found = []
    for atom in mol.GetAtoms():
        tag = atom.GetChiralTag()
        if tag not in (Chem.CHI_TETRAHEDRAL_CW, Chem.CHI_TETRAHEDRAL_CCW):
            continue
        i = atom.GetIdx()
        around = [bond.GetOtherAtomIdx(i) for bond in atom.GetBonds()]
        if len(around) not in (3, 4):
            continue
        a, b, c, d = around if len(around) == 4 else [*around, i]
        found.append((i, a, b, c, d) if tag == Chem.CHI_TETRAHEDRAL_CCW else (i, b, a, c, d))
    return found


def across_double_bonds(mol: Chem.Mol) -> list[tuple[int, int, bool]]:
    """Pairs of atoms across double bonds with a mark, and whether they are cis."""
    found = []
    for bond in mol.GetBonds():
        if bond.GetStereo() not in _CIS + _TRANS:
            continue
        begin, end = bond.GetBeginAtom(), bond.GetEndAtom()
        first, last = bond.GetStereoAtoms()
        sides = [
            [n.GetIdx() for n in atom.GetNeighbors() if n.GetIdx() != other.GetIdx()]
            for atom, other in ((begin, end), (end, begin))
        ]
        for i, j in product(*sides):
            flipped = (i != first) != (j != last)
            found.append((i, j, (bond.GetStereo() in _CIS) != flipped))
    return found


def stereo_kept(mol: Chem.Mol, number: int = -1) -> bool:
    """Whether conformer `number` has every stereocentre and double bond as the molecule says.

    So has it every axis whose hand was declared (`chem/axial.py`).

    The hand of a centre is that of the four atoms, wherever between or beside them the centre is:
    in cages it may lie outside, where RDKit's reader of coordinates, which looks from the centre,
    depends on the order of the atoms; and that reader leaves out nitrogen. A flat centre or a
    double bond twisted by more than 60 degrees is as wrong as the mirrored one.
    """
    x = mol.GetConformer(number).GetPositions()
    for _, *around in stereocentres(mol):
        edges = x[around[:3]] - x[around[3]]
        if not np.linalg.det(edges) > _FLAT * np.linalg.norm(edges, axis=1).prod():
            return False
    for bond in mol.GetBonds():
        if bond.GetStereo() not in _CIS + _TRANS:
            continue
        begin, end = x[[bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()]]
        axis = (end - begin) / max(np.linalg.norm(end - begin), 1e-9)
        out = x[list(bond.GetStereoAtoms())] - [begin, end]
        out -= np.outer(out @ axis, axis)
        cosine = out[0] @ out[1] / max(np.linalg.norm(out, axis=1).prod(), 1e-9)
        if not (cosine if bond.GetStereo() in _CIS else -cosine) > 0.5:
            return False
    return hands_kept(mol, number)


def unspecified_stereo(mol: Chem.Mol) -> int:
    """Stereocentres and double bonds whose sense the molecule leaves open.

    RDKit lists some that have no sense. Left out are double bonds in a row (azides, isocyanates;
    an allene has one hand, see `axial`, which no mark of a double bond can say), those with two
    equal ends (guanidine), centres with two hydrogens (silanes), those where a charge or
    a proton is drawn on one of two equal ends (phosphates, phosphonates, sulfinic acids), and cages
    in which every choice gives one molecule (cubane, adamantane).
    """
    found = [
        info
        for info in Chem.FindPotentialStereo(mol)
        if info.specified == Chem.StereoSpecified.Unspecified
    ]
    centres = [
        info.centeredOn
        for info in found
        if info.type == Chem.StereoType.Atom_Tetrahedral
        and _may_be_centre(mol.GetAtomWithIdx(info.centeredOn))
    ]
    bonds = [
        info.centeredOn
        for info in found
        if info.type == Chem.StereoType.Bond_Double
        and not _cumulated(mol, info.centeredOn)
        and not _equal_ends(mol.GetBondWithIdx(info.centeredOn))
    ]
    count = len(centres) + len(bonds)
    bridged = centres and not bonds and all(is_bridgehead(mol, atom) for atom in centres)
    if not bridged or count > _MOST_OF_A_CAGE:
        return count
    options = EnumerateStereoisomers.StereoEnumerationOptions(
        onlyUnassigned=True, unique=True, maxIsomers=0
    )
    with rdBase.BlockLogs():
        choices = EnumerateStereoisomers.EnumerateStereoisomers(Chem.RemoveHs(mol), options)
        isomers = list(islice(choices, 2))
    return count if len(isomers) > 1 else 0


def is_bridgehead(mol: Chem.Mol, atom: int) -> bool:
    """Whether three bonds or more of an atom are in rings."""
    return sum(bond.IsInRing() for bond in mol.GetAtomWithIdx(atom).GetBonds()) > 2


def _cumulated(mol: Chem.Mol, number: int) -> bool:
    """Whether a double bond ends at an atom with another multiple bond, straight as in allene."""
    bond = mol.GetBondWithIdx(number)
    ends = (bond.GetBeginAtom(), bond.GetEndAtom())
    return any(atom.GetHybridization() == Chem.HybridizationType.SP for atom in ends)


def _equal_ends(bond: Chem.Bond) -> bool:
    """Whether one atom of a double bond holds two equal neighbours, each with no other."""
    for atom, other in (
        (bond.GetBeginAtom(), bond.GetEndAtom()),
        (bond.GetEndAtom(), bond.GetBeginAtom()),
    ):
        ends = [end for end in atom.GetNeighbors() if end.GetIdx() != other.GetIdx()]
        if (
            len(ends) == 2
            and len({_kind(end) for end in ends}) == 1
            and None not in map(_kind, ends)
        ):
            return True
    return False


def _kind(atom: Chem.Atom) -> tuple[int, ...] | None:
    """What tells an end of a molecule from another end; None of an atom that is no end."""
    heavy = [n for n in atom.GetNeighbors() if not _plain_hydrogen(n)]
    if len(heavy) > 1:
        return None
    hydrogens = atom.GetTotalNumHs() + atom.GetDegree() - len(heavy)
    return atom.GetAtomicNum(), atom.GetIsotope(), atom.GetFormalCharge(), hydrogens


def _plain_hydrogen(atom: Chem.Atom) -> bool:
    return atom.GetAtomicNum() == 1 and atom.GetIsotope() == 0


def _may_be_centre(atom: Chem.Atom) -> bool:
    """Not if it has two hydrogens, or two ends that are equal by resonance or by moving a proton.

    So are =O and -O(-) or -OH of a phosphonate or a sulfinic acid, and =NH and -NH2; =O and -SH of
    a thiophosphate are not.
    """
    around = list(atom.GetNeighbors())
    if atom.GetTotalNumHs() + sum(map(_plain_hydrogen, around)) > 1:
        return False
    if atom.GetAtomicNum() not in _RESONANT:
        return True
    ends = [kind for kind in map(_kind, around) if kind and kind[0] in (7, 8, 16)]
    return len({kind[:2] for kind in ends}) == len(ends)


def stereoisomers(mol: Chem.Mol, limit: int, seed: int = 0) -> list[Chem.Mol]:
    """At most `limit` ways to specify what the molecule leaves open, only such as can be built.

    Arguments:
        mol: without explicit hydrogens. What it does specify is kept.
        limit: if there are more, that many drawn by `seed`.
    """
    options = EnumerateStereoisomers.StereoEnumerationOptions(
        tryEmbedding=True, onlyUnassigned=True, maxIsomers=limit, rand=seed, unique=True
    )
    held, false = without_false_centres(mol)
    with rdBase.BlockLogs():
        found = list(EnumerateStereoisomers.EnumerateStereoisomers(held, options=options))
    return [opened(isomer, false) for isomer in found]


def without_false_centres(mol: Chem.Mol) -> tuple[Chem.Mol, list[int]]:
    """The molecule with a mark at each centre that RDKit takes for an open one and is none.

    Nothing asks then for a choice there. `opened`, with the list of these atoms, takes the marks
    away; the molecule itself is returned where there are none.
    """
    false = [
        info.centeredOn
        for info in Chem.FindPotentialStereo(mol)
        if info.type == Chem.StereoType.Atom_Tetrahedral
        and info.specified == Chem.StereoSpecified.Unspecified
        and not _may_be_centre(mol.GetAtomWithIdx(info.centeredOn))
    ]
    if not false:
        return mol, []
    held = Chem.Mol(mol)
    for atom in false:
        held.GetAtomWithIdx(atom).SetChiralTag(Chem.CHI_TETRAHEDRAL_CW)
    return held, false


def opened(mol: Chem.Mol, false: list[int]) -> Chem.Mol:
    """The molecule, in place, without the marks of `without_false_centres`."""
    for atom in false:
        mol.GetAtomWithIdx(atom).SetChiralTag(Chem.CHI_UNSPECIFIED)
    return mol
