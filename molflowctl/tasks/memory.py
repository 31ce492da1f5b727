"""A library kept in memory, where a task would else write a file: for what is asked in Python."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from rdkit import Chem

from molflowctl.chem.graphs import EXACT
from molflowctl.io.library import numbered_title

__all__ = ["Entry", "Memory", "Packed", "pack"]


class Packed(NamedTuple):
    """A record as a worker process sends it: every digit of its coordinates."""

    binary: bytes
    title: str
    tags: dict[str, object]


class Entry(NamedTuple):
    """A molecule of a library, its title, and what is said of it."""

    mol: Chem.Mol
    title: str
    tags: dict[str, object]


def pack(mol: Chem.Mol, title: str, tags: Mapping[str, object]) -> Packed:
    """What `Memory.write_record` takes, as `sdf_record` makes what an SDF takes."""
    return Packed(mol.ToBinary(EXACT), title, dict(tags))


class Memory:
    """Keeps what is written, in the place of an `SDFWriter` or a `TableWriter`.

    Attributes:
        entries: what was written so far, in order.
        record: None, as of a stream: there is no file that a record of the run could lie beside.
    """

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.record: Path | None = None
        self.extends = False

    def write(
        self, mol: Chem.Mol, tags: Mapping[str, object], title: str | None = None, block: str = ""
    ) -> None:
        """Append a molecule; `block`, the text it was read from, is of files."""
        title = numbered_title(len(self.entries)) if title is None else title
        self.entries.append(Entry(mol, title, dict(tags)))

    def write_record(self, record: Packed) -> None:
        """Append what `pack` made, perhaps in another process."""
        self.entries.append(Entry(Chem.Mol(record.binary), record.title, record.tags))

    def flush(self) -> None:
        """Nothing waits to be written."""

    def discard(self) -> None:
        """Nothing is in the way of another run."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """What was written stays, after Ctrl-C too."""
