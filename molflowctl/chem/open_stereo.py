"""Which stereoisomers stand for a molecule that leaves some of its stereo open.

    first       one of them, always the same, however the molecule is written
    refuse      none: a geometry would be that of an isomer that nobody asked for
    enumerate   all of them, up to `MOST`
    a number    at most so many

Centres and double bonds count (`unspecified_stereo`); what is marked stays as it is.

Enhanced stereo knows groups of centres only relative to one another. A group says AND (`&1`: a
mixture of the molecule as drawn and the one with all centres of the group inverted) or OR (`o1`:
one of these two, and it is not known which); ABS is plain stereo. RDKit reads them from CXSMILES
(`|&1:1,3|`) and V3000 MOL blocks.

References:
    BIOVIA, CTfile Formats (2020), "Enhanced stereochemical representation".
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, product
from typing import Literal, NamedTuple

from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom
from rdkit.Chem.EnumerateStereoisomers import (
    EnumerateStereoisomers,
    StereoEnumerationOptions,
)

from molflowctl.chem.stereo import (
    is_bridgehead,
    opened,
    unspecified_stereo,
    without_false_centres,
)

__all__ = [
    "MOST",
    "NONE_BUILT",
    "REFUSED",
    "GroupIsomers",
    "IsomerRule",
    "Isomers",
    "has_stereo_groups",
    "isomers_of",
    "stereo_group_isomers",
]

IsomerRule = Literal["first", "refuse", "enumerate"] | int

MOST = 64  # of a molecule, where all are asked for
_SEED, _TRIES = 0xF00D, 20
_MOST_OF_BRIDGES = 16  # choices, of which all are tried
_TURNED = {
    Chem.BondStereo.STEREOATROPCW: Chem.BondStereo.STEREOATROPCCW,
    Chem.BondStereo.STEREOATROPCCW: Chem.BondStereo.STEREOATROPCW,
}
REFUSED = "stereo is left open: --isomers first takes one isomer, --isomers enumerate all of them"
NONE_BUILT = "stereo is left open, and no stereoisomer can be built"


class Isomers(NamedTuple):
    """What stands for a molecule.

    mols: copies with every centre and double bond marked, atoms in their order; the molecule itself
    if nothing was open, or only the bridge of a ring that can be built one way. open: how many
    were. possible: stereoisomers there may be, of which some cannot be built. refused: why there
    is none.
    """

    mols: list[Chem.Mol]
    open: int = 0
    possible: int = 1
    refused: str = ""


def isomers_of(mol: Chem.Mol, rule: IsomerRule) -> Isomers:
    """The isomers that a rule takes of a molecule without explicit hydrogens."""
    count = unspecified_stereo(mol)
    if not count:
        return Isomers([mol])
    possible = 2**count
    bridged = possible <= _MOST_OF_BRIDGES and _only_bridgeheads(mol)
    if rule == "refuse" and not bridged:
        return Isomers([], count, possible, REFUSED)
    most = rule if isinstance(rule, int) else {"enumerate": MOST}.get(rule, 1)
    # By the canonical SMILES, so that the order of the atoms does not decide which is the first.
    smiles = Chem.MolToSmiles(mol)
    order = list(mol.GetPropsAsDict(True, True)["_smilesAtomOutputOrder"])
    back = [order.index(k) for k in range(len(order))]
    options = StereoEnumerationOptions(onlyUnassigned=True, unique=True, maxIsomers=0)
    found: list[Chem.Mol] = []
    with rdBase.BlockLogs():
        held, false = without_false_centres(Chem.MolFromSmiles(smiles))
        for isomer in EnumerateStereoisomers(held, options=options):
            opened(isomer, false)
            if not _can_be_built(isomer):
                continue
            whole = Chem.RenumberAtoms(isomer, back)
            whole.RemoveAllConformers()
            for name in mol.GetPropNames():
                whole.SetProp(name, mol.GetProp(name))
            found.append(whole)
            if len(found) == max(most, 1 + bridged):
                break
    if bridged and len(found) == 1:  # norbornane: its bridge has one way round
        return Isomers([mol])
    if rule == "refuse":
        return Isomers([], count, possible, REFUSED)
    found = found[:most]
    return Isomers(found, count, possible, "" if found else NONE_BUILT)


def _only_bridgeheads(mol: Chem.Mol) -> bool:
    return all(
        info.type == Chem.StereoType.Atom_Tetrahedral and is_bridgehead(mol, info.centeredOn)
        for info in Chem.FindPotentialStereo(mol)
        if info.specified == Chem.StereoSpecified.Unspecified
    )


def _can_be_built(mol: Chem.Mol) -> bool:
    """Whether distance geometry finds a conformer; of a bridge the wrong way round it does not."""
    whole = Chem.AddHs(mol)
    settings = rdDistGeom.ETKDGv3()
    settings.randomSeed = _SEED
    settings.maxIterations = _TRIES  # by itself, ten for each atom: 6 s for camphor's wrong bridge
    if rdDistGeom.EmbedMolecule(whole, settings) >= 0:
        return True
    settings.useRandomCoords = True
    return rdDistGeom.EmbedMolecule(whole, settings) >= 0


class GroupIsomers(NamedTuple):
    """Molecules without groups; and what there is to say, empty if nothing."""

    mols: list[Chem.Mol]
    note: str


def has_stereo_groups(mol: Chem.Mol) -> bool:
    """Whether the molecule has a group that says AND or OR."""
    return any(g.GetGroupType() != Chem.StereoGroupType.STEREO_ABSOLUTE for g in _groups(mol))


def stereo_group_isomers(mol: Chem.Mol, limit: int = 8) -> GroupIsomers:
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
        return GroupIsomers([plain], "")
    if mol.GetNumConformers() and mol.GetConformer().Is3D():
        says = "a mixture of isomers (AND)" if mixed else "one of several isomers (OR)"
        return GroupIsomers([plain], f"{says}: the geometry shows one of them, which is taken")
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
    return GroupIsomers(mols, "; ".join(notes))


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
        Chem.AssignStereochemistry(made, cleanIt=True, force=True, flagPossibleStereoCenters=True)
    return made.GetMol()
