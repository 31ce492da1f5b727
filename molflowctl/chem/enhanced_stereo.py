"""Enhanced stereo: groups of stereocentres known only relative to one another.

A group says AND (`&1`: a mixture of the molecule as drawn and the one with all centres of the
group inverted) or OR (`o1`: one of these two, and it is not known which); ABS is plain stereo.
RDKit reads them from CXSMILES (`|&1:1,3|`) and V3000 MOL blocks.

References:
    BIOVIA, CTfile Formats (2020), "Enhanced stereochemical representation".
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, product
from typing import NamedTuple

from rdkit import Chem

__all__ = ["Isomers", "has_stereo_groups", "stereo_group_isomers"]

_TURNED = {
    Chem.BondStereo.STEREOATROPCW: Chem.BondStereo.STEREOATROPCCW,
    Chem.BondStereo.STEREOATROPCCW: Chem.BondStereo.STEREOATROPCW,
}


class Isomers(NamedTuple):
    """Molecules without groups; and what there is to say, empty if nothing."""

    mols: list[Chem.Mol]
    note: str


def has_stereo_groups(mol: Chem.Mol) -> bool:
    """Whether the molecule has a group that says AND or OR."""
    return any(g.GetGroupType() != Chem.StereoGroupType.STEREO_ABSOLUTE for g in _groups(mol))


def stereo_group_isomers(mol: Chem.Mol, limit: int = 8) -> Isomers:
    """The isomers that the groups of a molecule stand for, each without groups.

    Of an AND group both, as drawn first; of an OR group one, as drawn, and the note gives the
    other. A molecule with three-dimensional coordinates stays as these are.

    Arguments:
        limit: at most this many; the note says if there are more.
    """
    groups = _groups(mol)
    mixed = [g for g in groups if g.GetGroupType() == Chem.StereoGroupType.STEREO_AND]
    either = [g for g in groups if g.GetGroupType() == Chem.StereoGroupType.STEREO_OR]
    plain = _without_groups(mol, [])
    if not mixed and not either:
        return Isomers([plain], "")
    if mol.GetNumConformers() and mol.GetConformer().Is3D():
        says = "a mixture of isomers (AND)" if mixed else "one of several isomers (OR)"
        return Isomers([plain], f"{says}: the geometry shows one of them, which is taken")
    notes = []
    found = _different(mol, mixed)
    mols = list(islice(found, limit))
    if len(mols) > 1:
        more = f" of {2 ** len(mixed):,}" if next(found, None) is not None else ""
        notes.append(f"a mixture of isomers (AND): {len(mols)}{more} isomers made")
    others = list(islice(_different(mol, either), 1, 4))
    if others:
        smiles = ", ".join(Chem.MolToSmiles(other) for other in others)
        count = "" if len(either) == 1 else f" of {2 ** len(either):,}"
        notes.append(f"one isomer{count} (OR), which one is not known: as drawn; else {smiles}")
    return Isomers(mols, "; ".join(notes))


def _groups(mol: Chem.Mol) -> list[Chem.StereoGroup]:
    return list(mol.GetStereoGroups())


def _different(mol: Chem.Mol, groups: list[Chem.StereoGroup]) -> Iterator[Chem.Mol]:
    """Every combination of the groups as drawn or inverted, those that differ."""
    seen: set[str] = set()
    for turned in product((False, True), repeat=len(groups)):
        made = _without_groups(mol, [g for g, turn in zip(groups, turned, strict=True) if turn])
        smiles = Chem.MolToSmiles(made)
        if smiles not in seen:
            seen.add(smiles)
            yield made


def _without_groups(mol: Chem.Mol, inverted: list[Chem.StereoGroup]) -> Chem.Mol:
    """A copy without groups, in which the centres and axes of some are inverted."""
    made = Chem.RWMol(mol)
    for group in inverted:
        for atom in group.GetAtoms():
            made.GetAtomWithIdx(atom.GetIdx()).InvertChirality()
        for bond in group.GetBonds():
            axis = made.GetBondWithIdx(bond.GetIdx())
            axis.SetStereo(_TURNED.get(axis.GetStereo(), axis.GetStereo()))
    made.SetStereoGroups([])
    if inverted:
        Chem.AssignStereochemistry(made, cleanIt=True, force=True)
    return made.GetMol()
