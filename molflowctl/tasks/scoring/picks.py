"""A few of many ranked molecules: one of each scaffold, or as unlike each other as can be.

Scaffolds are those of Bemis and Murcko: rings and what links them, as RDKit gives them. MaxMin
starts with the best molecule and takes, again and again, the one whose nearest neighbour among
those taken is farthest, by Tanimoto distances of Morgan fingerprints (radius 2, 2,048 bits).

References:
    Bemis, Murcko, J. Med. Chem. 39, 2887 (1996), doi:10.1021/jm9602928; Ashton et al., Quant.
    Struct.-Act. Relat. 21, 598 (2002), doi:10.1002/qsar.200290002 (MaxMin).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

from rdkit import Chem
from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator
from rdkit.Chem.Scaffolds.MurckoScaffold import GetScaffoldForMol
from rdkit.SimDivFilters.rdSimDivPickers import MaxMinPicker

from molflowctl.chem.identity import read_identity

__all__ = ["diverse", "per_scaffold", "scaffold"]

T = TypeVar("T")


def scaffold(identity: str) -> str:
    """SMILES of a molecule's scaffold without stereo; empty for one without rings."""
    mol = read_identity(identity)
    return "" if mol is None else Chem.MolToSmiles(GetScaffoldForMol(mol), isomericSmiles=False)


def per_scaffold(ranked: Sequence[T], most: int, identity: Callable[[T], str]) -> list[T]:
    """The first `most` of each scaffold, in their order; all molecules without rings share one."""
    seen: Counter[str] = Counter()
    kept = []
    for item in ranked:
        name = scaffold(identity(item))
        seen[name] += 1
        if seen[name] <= most:
            kept.append(item)
    return kept


def diverse(ranked: Sequence[T], n: int, identity: Callable[[T], str]) -> list[T]:
    """`n` of them by MaxMin from the first, in their order; all where there are no more."""
    if len(ranked) <= n:
        return list(ranked)
    generator = GetMorganGenerator(radius=2, fpSize=2048)
    mols = [read_identity(identity(item)) or Chem.Mol() for item in ranked]
    prints = [generator.GetFingerprint(mol) for mol in mols]
    picked = MaxMinPicker().LazyBitVectorPick(prints, len(prints), n, firstPicks=[0])
    return [ranked[place] for place in sorted(picked)]
