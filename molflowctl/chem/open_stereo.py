"""Which stereoisomers stand for a molecule that leaves some of its stereo open.

    first       one of them, always the same, however the molecule is written
    refuse      none: a geometry would be that of an isomer that nobody asked for
    enumerate   all of them, up to `MOST`
    a number    at most so many

Centres and double bonds count (`unspecified_stereo`); what is marked stays as it is.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom
from rdkit.Chem.EnumerateStereoisomers import (
    EnumerateStereoisomers,
    GetStereoisomerCount,
    StereoEnumerationOptions,
)

from molflowctl.chem.stereo import unspecified_stereo

__all__ = ["MOST", "NONE_BUILT", "REFUSED", "IsomerRule", "Isomers", "isomers_of"]

IsomerRule = Literal["first", "refuse", "enumerate"] | int

MOST = 64  # of a molecule, where all are asked for
_SEED, _TRIES = 0xF00D, 20
REFUSED = "stereo is left open: --isomers first takes one isomer, --isomers enumerate all of them"
NONE_BUILT = "stereo is left open, and no stereoisomer can be built"


class Isomers(NamedTuple):
    """What stands for a molecule.

    mols: copies with every centre and double bond marked, atoms in their order; the molecule itself
    if nothing was open. open: how many were. possible: stereoisomers there may be, of which some
    cannot be built. refused: why there is none.
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
    options = StereoEnumerationOptions(onlyUnassigned=True, unique=True)
    possible = GetStereoisomerCount(mol, options=options)
    if rule == "refuse":
        return Isomers([], count, possible, REFUSED)
    most = {"first": 1, "enumerate": MOST}.get(rule, rule) if isinstance(rule, str) else rule
    # By the canonical SMILES, so that the order of the atoms does not decide which is the first.
    smiles = Chem.MolToSmiles(mol)
    order = list(mol.GetPropsAsDict(True, True)["_smilesAtomOutputOrder"])
    back = [order.index(k) for k in range(len(order))]
    options = StereoEnumerationOptions(onlyUnassigned=True, unique=True, maxIsomers=0)
    found: list[Chem.Mol] = []
    with rdBase.BlockLogs():
        for isomer in EnumerateStereoisomers(Chem.MolFromSmiles(smiles), options=options):
            if not _can_be_built(isomer):
                continue
            whole = Chem.RenumberAtoms(isomer, back)
            whole.RemoveAllConformers()
            for name in mol.GetPropNames():
                whole.SetProp(name, mol.GetProp(name))
            found.append(whole)
            if len(found) == most:
                break
    return Isomers(found, count, possible, "" if found else NONE_BUILT)


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
