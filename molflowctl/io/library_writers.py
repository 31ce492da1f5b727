"""Writing libraries of molecules: SDF files, plain or gzipped, tables, and plain texts.

The only writer of the package. A library takes its name when it is whole, together with the record
of its run; until then what was there stays.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Protocol, Self

from rdkit import Chem, rdBase

from molflowctl.errors import UserError
from molflowctl.io import escaping
from molflowctl.io.atomic import cannot_write
from molflowctl.io.library import is_stream, numbered_title, sdf_record
from molflowctl.io.writing.texts import TEXTS, TextWriter
from molflowctl.io.writing.unfinished import Unfinished, WholeFile, unfinished

__all__ = [
    "FLAT",
    "WRITABLE",
    "LibraryWriter",
    "SDFWriter",
    "TableWriter",
    "open_writer",
    "unfinished",
]

WRITABLE = (".sdf", ".sdf.gz", ".csv", ".parquet", *TEXTS)
FLAT = (".csv", ".parquet", ".smi")  # which hold no coordinates
_BLOCK = 1 << 18  # bytes of records written, and compressed, at once


class LibraryWriter(Protocol):
    """Writes molecules and their values; as a context manager as `SDFWriter` describes."""

    @property
    def record(self) -> Path | None:
        """Where to write the record of the run; None where none belongs."""
        ...

    def write(
        self, mol: Chem.Mol, tags: Mapping[str, object], title: str | None = None, block: str = ""
    ) -> None:
        """Append a molecule, in an SDF with the `block` of its `Record` if there is one."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: object,
    ) -> None: ...


def open_writer(path: str | os.PathLike[str], overwrite: bool = False) -> LibraryWriter:
    """The writer for this name.

    An `SDFWriter`; for `.csv` and `.parquet` a `TableWriter`; for `.smi`, `.xyz` and `.pdb` a
    `TextWriter`.

    Raises `UserError` for another kind, an existing file, or one that cannot be written.
    """
    if not is_stream(path):
        if not str(path).endswith(WRITABLE):
            raise UserError(f"{path}: cannot write this kind of file; use {', '.join(WRITABLE)}")
        if str(path).endswith((".csv", ".parquet")):
            return TableWriter(path, overwrite)
        if str(path).endswith(TEXTS):
            return TextWriter(path, overwrite)
    return SDFWriter(path, overwrite)


class TableWriter(WholeFile):
    """Writes a table of molecules, `.csv` or `.parquet`: name, SMILES, one column per tag.

    The table is held in memory, coordinates are not, and appears under its name when it is whole:
    an error or Ctrl-C leaves nothing. Missing values are empty cells, in Parquet nulls.
    """

    def __init__(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        super().__init__(path, overwrite)
        self._rows: list[dict[str, object]] = []

    def write(
        self, mol: Chem.Mol, tags: Mapping[str, object], title: str | None = None, block: str = ""
    ) -> None:
        """Append a molecule; without a title it is numbered by its place in the file."""
        with rdBase.BlockLogs():
            smiles = Chem.MolToSmiles(Chem.RemoveHs(mol))
        name = numbered_title(len(self._rows)) if title is None else title
        row: dict[str, object] = {"name": name, "smiles": smiles}
        own = dict(row)
        for tag, value in tags.items():
            # A tag of one of these names is no title and no structure, unless it says the same.
            if tag.lower() not in own:
                row[tag] = value
            elif value != own[tag.lower()]:
                row[f"input_{tag}"] = value
        self._rows.append(row)

    def _end(self) -> None:
        import pandas

        # The columns also of no rows: readers ask for them by name.
        frame = pandas.DataFrame(self._rows, columns=None if self._rows else ["name", "smiles"])
        if self._target.suffix == ".csv":
            frame = frame.rename(columns=_heading).map(_cell)
            frame.to_csv(self._unfinished.path, index=False)
        else:
            frame.to_parquet(self._unfinished.path, index=False)


def _heading(name: str) -> str:
    return escaping.cell(name, heading=True)


def _cell(value: object) -> object:
    return escaping.cell(value) if isinstance(value, str) else value


class SDFWriter:
    """Writes an SDF library: `.sdf`, `.sdf.gz`, or `-` for standard output.

    Records go to `<path>.<token>.partial` beside the target, which takes the target's name on
    `close`. As a context manager: Ctrl-C and a full disk keep the records written so far, complete,
    under the final name, unless a library is there already: it stays, and they keep the name they
    have. Any other exception discards them. Equal records give equal bytes.

    Args:
        overwrite: a library of this name may be there; it stays until the new one is whole.

    Every `OSError` (a full disk, a folder that cannot be written) becomes a `UserError` naming the
    path, save a broken pipe on standard output. So does an existing file unless `overwrite`.

    Attributes: `count`, the number of records written; `extends`, to be set once all that is there
    has been written again, which the new library may then replace unfinished.
    """

    def __init__(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        self.path = str(path)
        self.count = 0
        self.extends = False
        self._target = Path(path)
        self._compress = self.path.endswith(".gz")
        self._pending: list[bytes] = []
        self._pending_size = 0
        self._kept = 0  # records on the disk
        self._end = 0  # bytes of the file that hold whole records
        self._unfinished: Unfinished | None = None
        if is_stream(path):
            self._file = self._opened_stream()
            return
        if not self.path.endswith((".sdf", ".sdf.gz")):
            raise UserError(f"{self.path}: a library's name ends in .sdf or .sdf.gz, or is -")
        self._unfinished = Unfinished(self._target, overwrite)
        self._file = self._unfinished.file

    @property
    def record(self) -> Path | None:
        """Where to write the record of the run, which takes its name with the library."""
        return self._unfinished.record if self._unfinished else None

    def _opened_stream(self) -> BinaryIO:
        if self.path == "-":
            if sys.stdout is None:  # closed by whoever started this process
                raise UserError("-o -: standard output is closed; name a file")
            return sys.stdout.buffer
        try:
            return open(self._target, "wb")
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def write(
        self, mol: Chem.Mol, tags: Mapping[str, object], title: str | None = None, block: str = ""
    ) -> None:
        """Append a molecule; without a title it is numbered by its place in the file."""
        title = numbered_title(self.count) if title is None else title
        self.write_record(sdf_record(mol, title, tags, block))

    def write_record(self, record: str) -> None:
        """Append a record made by `sdf_record`, perhaps in another process."""
        data = record.encode()
        self._pending.append(data)
        self._pending_size += len(data)
        self.count += 1
        if self._pending_size >= _BLOCK or self.path == "-":
            with self._salvaging():
                self._flush()

    def flush(self) -> None:
        """Put everything written so far on the disk."""
        with self._salvaging():
            if self._pending:
                self._flush()
            self._file.flush()

    def close(self) -> None:
        """Finish the file and give it its final name."""
        self._close(self._unfinished.publish if self._unfinished else None)

    def _close(self, settle: Callable[[], None] | None) -> None:
        with self._salvaging():
            if settle is not None:
                self._file.truncate(self._end)  # drop a block whose writing was interrupted
                self._file.seek(self._end)
            if self._pending or self._end == 0:
                self._flush()
            if settle is not None:
                settle()
            elif self.path != "-":
                self._file.close()

    def discard(self) -> None:
        """Give up: remove what was written."""
        if self._unfinished is not None:
            self._unfinished.discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        if kind is None:
            self.close()
        elif issubclass(kind, KeyboardInterrupt):
            self._close(self._settle if self._unfinished else None)
            if error is not None and self._unfinished is not None:
                error.add_note(f"{self._kept} records are kept in {self._kept_in()}")
        else:
            self.discard()

    def _flush(self) -> None:
        # Each block is a gzip member of its own, so the file is whole after every block. Wherever
        # an interrupt falls, `_end` and `_pending` agree and `close` mends the rest.
        data = b"".join(self._pending)
        if self._compress:
            # Level 9, the default, takes ten times as long as 6 and saves a twentieth.
            data = gzip.compress(data, compresslevel=6, mtime=0)
        rest = memoryview(data)
        while rest:  # an unbuffered file may take a part
            rest = rest[self._file.write(rest) :]
        self._file.flush()
        self._end, self._pending, self._pending_size = self._end + len(data), [], 0
        self._kept = self.count

    def _in_the_way(self) -> bool:
        """Whether the final name holds what an unfinished library must not replace."""
        return os.path.lexists(self._target) and not self.extends

    def _kept_in(self) -> Path:
        """Where an unfinished library is."""
        assert self._unfinished is not None
        return self._unfinished.path if self._unfinished.path.exists() else self._target

    def _settle(self) -> None:
        """Keep what is unfinished: under the final name, if nothing is there that is to stay."""
        assert self._unfinished is not None
        if self._in_the_way():
            self._unfinished.keep()
        else:
            self._unfinished.publish()

    @contextlib.contextmanager
    def _salvaging(self) -> Iterator[None]:
        """A failed write in this block keeps what is whole; a pipe that nobody reads is no such."""
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            raise self._salvage(error) from error

    def _salvage(self, error: OSError) -> UserError:
        """After a failed write: keep what was written whole, and say how much and where."""
        trouble = cannot_write(self.path, error)
        if self._unfinished is None or self._kept == 0:
            self.discard()
            return trouble
        try:
            self._file.truncate(self._end)
            with contextlib.suppress(OSError):  # of the rest of its buffer
                self._file.close()
            self._settle()
        except OSError:
            self.discard()
            return trouble
        return UserError(f"{trouble}; the first {self._kept} records are kept in {self._kept_in()}")
