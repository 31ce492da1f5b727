"""Reference ensembles in a library: which of its records are conformers of one molecule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from rdkit import Chem

from molflowctl.chem.graphs import EXACT
from molflowctl.io.library import Record, read_molecules
from molflowctl.tasks.failures import Failures

__all__ = ["Reference", "read_groups"]

_NOWHERE = Record("", None, {}, "")


@dataclass(frozen=True)
class Reference:
    """The reference conformers of one molecule.

    Attributes:
        number, title: of the molecule. mol: it, in bytes. place: its first record, without it.
    """

    number: int
    title: str
    mol: bytes
    place: Record = _NOWHERE


def read_groups(
    path: str,
    limit: int | None = None,
    left_out: Counter[str] | None = None,
    failures: Failures | None = None,
) -> Iterator[Reference]:
    """The molecules of a library: adjacent records of one title and graph are conformers of one.

    Arguments:
        left_out: counts records that are no reference, by reason; failures: takes them one by one.
    """
    left_out = Counter() if left_out is None else left_out

    def leave(record: Record, what: str, reason: str) -> None:
        left_out[what] += 1
        if failures is not None:
            failures.add(record, reason)

    place = _NOWHERE
    mol: Chem.Mol | None = None
    title, number = "", 0
    for record in read_molecules(path):
        if record.mol is None:
            leave(record, "that cannot be read", record.error)
            continue
        if not record.mol.GetNumConformers() or not record.mol.GetConformer().Is3D():
            leave(record, "without 3-D coordinates", "without 3-D coordinates")
            continue
        whole = Chem.AddHs(record.mol, addCoords=True)
        if mol is not None and record.name == title and _graph(mol) == _graph(whole):
            mol.AddConformer(whole.GetConformer(), assignId=True)
            continue
        if mol is not None:
            yield Reference(number, title, mol.ToBinary(EXACT), place)
            number += 1
            if number == limit:
                return
        mol, title = whole, record.name
        place = record._replace(mol=None, tags={}, block="")
    if mol is not None:
        yield Reference(number, title, mol.ToBinary(EXACT), place)


def _graph(mol: Chem.Mol) -> tuple:
    """Atoms in their order and who is bonded to whom.

    Without stereo, which each conformer has for itself, and without bond orders, of which a file
    may hold several resonance structures.
    """
    bonds = [sorted((b.GetBeginAtomIdx(), b.GetEndAtomIdx())) for b in mol.GetBonds()]
    return [a.GetAtomicNum() for a in mol.GetAtoms()], sorted(bonds)
