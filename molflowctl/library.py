"""Reading and writing libraries of molecules: SDF, SMILES and CSV files, plain or gzipped.

The only reader and writer of the package. Both stream: neither holds a library in memory.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import math
import os
import sys
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple, Protocol, Self, cast

from rdkit import Chem, rdBase

from molflowctl.errors import UserError

__all__ = [
    "READABLE",
    "WRITABLE",
    "LibraryWriter",
    "Record",
    "SDFWriter",
    "TableWriter",
    "count_records",
    "has_coordinates",
    "is_stream",
    "numbered_title",
    "open_writer",
    "read_molecules",
    "read_records",
    "sdf_record",
]

READABLE = (".sdf", ".smi", ".csv")
WRITABLE = (".sdf", ".sdf.gz", ".csv", ".parquet")
_BLOCK = 1 << 18  # bytes of records written, and compressed, at once


class Record(NamedTuple):
    """One entry of a library.

    name: title or name column, may be empty. mol: None if the entry is bad; SMILES give a molecule
    without conformer. tags: the text of each tag or column. error: what is wrong, else empty.
    block: of a good SDF record, its MOL block as it stands there, after the title.
    """

    name: str
    mol: Chem.Mol | None
    tags: dict[str, str]
    error: str
    block: str = ""


def numbered_title(index: int) -> str:
    """The title of the molecule with this index, from 0: `mfc-000000`."""
    return f"mfc-{index:06d}"


def is_stream(path: str | os.PathLike[str]) -> bool:
    """Whether this is `-`, a device or a pipe: nothing is renamed, and nothing can be resumed."""
    target = Path(path)
    return str(path) == "-" or (target.exists() and not target.is_file() and not target.is_dir())


def sdf_record(mol: Chem.Mol, title: str, tags: Mapping[str, object], block: str = "") -> str:
    """One molecule as the text of an SDF record, `$$$$` line included.

    block: of the `Record` that the molecule was read from, if nothing changed it: written again as
        it was, which is exact and takes no time.
    tags: written in their order, names as given (numbers carry their unit there:
        `dipole_debye`). None, NaN, infinities and empty texts mean failed and are left out.

    Raises `ValueError` for a title, tag name or value that the format cannot hold, and for the
    name `ID`, which readers take for the title.
    """
    if "\n" in title or "\r" in title:
        raise ValueError(f"an SDF title is one line: {title!r}")
    block = block or Chem.MolToMolBlock(mol).split("\n", 1)[1]
    lines = [title, block.rstrip("\n")]
    for name, value in tags.items():
        if name == "ID" or not name or any(sign in name for sign in "<>\r\n"):
            raise ValueError(f"not a name for an SDF tag: {name!r}")
        if text := _tag_text(value):
            if any(line.startswith("$$$$") for line in text.split("\n")):
                raise ValueError(f"tag {name} would end its SDF record: {value!r}")
            lines += [f">  <{name}>", text, ""]
    return "\n".join([*lines, "$$$$", ""])


def _tag_text(value: object) -> str:
    """The text of a tag's value, empty if it is missing. A blank line would end the value."""
    if value is None:
        return ""
    if isinstance(value, str):
        return "\n".join(line for line in value.splitlines() if line.strip())
    number = float(value)  # type: ignore[arg-type]
    if not math.isfinite(number):
        return ""
    return f"{number:.0f}" if number.is_integer() and abs(number) < 1e15 else f"{number:.10g}"


class LibraryWriter(Protocol):
    """Writes molecules and their values; as a context manager as `SDFWriter` describes."""

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
        trace: TracebackType | None,
    ) -> None: ...


def open_writer(path: str | os.PathLike[str], overwrite: bool = False) -> LibraryWriter:
    """The writer for this name: an `SDFWriter`, or for `.csv` and `.parquet` a `TableWriter`.

    Raises `UserError` for another kind, an existing file, or one that cannot be written.
    """
    if not is_stream(path):
        if not str(path).endswith(WRITABLE):
            raise UserError(f"{path}: cannot write this kind of file; use {', '.join(WRITABLE)}")
        if str(path).endswith((".csv", ".parquet")):
            return TableWriter(path, overwrite)
    return SDFWriter(path, overwrite)


class TableWriter:
    """Writes a table of molecules, `.csv` or `.parquet`: name, SMILES, one column per tag.

    The table is held in memory, coordinates are not, and appears under its name when it is whole:
    an error or Ctrl-C leaves nothing. Missing values are empty cells, in Parquet nulls.

    Every `OSError` becomes a `UserError` naming the path; so does an existing file unless
    `overwrite`.
    """

    def __init__(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        self._target = Path(path)
        if self._target.is_dir():
            raise UserError(f"{path} is a folder; name a file in it")
        if self._target.exists() and not overwrite:
            raise UserError(f"{path} exists; choose another name or pass --overwrite")
        if not self._target.parent.is_dir():
            raise UserError(f"cannot write {path}: there is no folder {self._target.parent}")
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

    def close(self) -> None:
        """Write the file."""
        import pandas

        partial = self._target.with_name(self._target.name + ".partial")
        # The columns also of no rows: readers ask for them by name.
        frame = pandas.DataFrame(self._rows, columns=None if self._rows else ["name", "smiles"])
        try:
            if self._target.suffix == ".csv":
                frame.to_csv(partial, index=False)
            else:
                frame.to_parquet(partial, index=False)
            os.replace(partial, self._target)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise UserError(f"cannot write {self._target}: {error.strerror or error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()


class SDFWriter:
    """Writes an SDF library: `.sdf`, `.sdf.gz`, or `-` for standard output.

    Records go to `<path>.partial` beside the target, which takes the target's name on `close`. As a
    context manager: Ctrl-C and a full disk keep the records written so far, complete, under the
    final name; any other exception discards them. Equal records give equal bytes.

    Every `OSError` (a full disk, a folder that cannot be written) becomes a `UserError` naming the
    path, save a broken pipe on standard output. So does an existing file unless `overwrite`.

    Attributes: `count`, the number of records written.
    """

    def __init__(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        self.path = str(path)
        self.count = 0
        self._target = Path(path)
        self._compress = self.path.endswith(".gz")
        self._pending: list[bytes] = []
        self._pending_size = 0
        self._kept = 0  # records on the disk
        self._end = 0  # bytes of the file that hold whole records
        self._in_place = is_stream(path)
        if not self._in_place:
            if not self.path.endswith((".sdf", ".sdf.gz")):
                raise UserError(f"{self.path}: a library's name ends in .sdf or .sdf.gz, or is -")
            if self._target.is_dir():
                raise UserError(f"{self.path} is a folder; name a file in it")
            if self._target.exists() and not overwrite:
                raise UserError(f"{self.path} exists; choose another name or pass --overwrite")
        self._partial = self._target.with_name(self._target.name + ".partial")
        try:
            self._file: BinaryIO = (
                sys.stdout.buffer
                if self.path == "-"
                else open(self._target if self._in_place else self._partial, "wb")  # noqa: SIM115
            )
        except OSError as error:
            raise self._trouble(error) from error

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
            try:
                self._flush()
            except BrokenPipeError:
                raise
            except OSError as error:
                raise self._salvage(error) from error

    def flush(self) -> None:
        """Put everything written so far on the disk."""
        try:
            if self._pending:
                self._flush()
            self._file.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise self._salvage(error) from error

    def close(self) -> None:
        """Finish the file and give it its final name."""
        try:
            if not self._in_place:
                self._file.truncate(self._end)  # drop a block whose writing was interrupted
                self._file.seek(self._end)
            if self._pending or self._end == 0:
                self._flush()
            if self.path == "-":
                return
            self._file.close()
            if not self._in_place:
                os.replace(self._partial, self._target)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise self._salvage(error) from error

    def discard(self) -> None:
        """Give up: remove what was written."""
        if self._in_place:
            return
        with contextlib.suppress(OSError):  # the rest of its buffer may not fit on the disk either
            self._file.close()
        self._partial.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None or issubclass(kind, KeyboardInterrupt):
            self.close()
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
        if self._in_place:
            self._file.flush()
        self._end, self._pending, self._pending_size = self._end + len(data), [], 0
        self._kept = self.count

    def _salvage(self, error: OSError) -> UserError:
        """After a failed write: what was written whole gets the final name; says how much."""
        trouble = self._trouble(error)
        if self._in_place or self._kept == 0:
            self.discard()
            return trouble
        try:
            self._file.truncate(self._end)
            self._file.close()
            os.replace(self._partial, self._target)
        except OSError:
            self.discard()
            return trouble
        return UserError(f"{trouble}; the first {self._kept} records are kept there")

    def _trouble(self, error: OSError) -> UserError:
        return UserError(f"cannot write {self.path}: {error.strerror or error}")


def read_records(path: str | os.PathLike[str]) -> Iterator[str]:
    """The text of every whole record of an SDF file, as it is; stops where the file breaks off.

    Raises `UserError` if the file cannot be opened.
    """
    try:
        with open(path, "rb") as raw:
            # By its content, not its name: an unfinished library is called `.sdf.gz.partial`.
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            file = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if zipped else raw
            lines: list[bytes] = []
            with contextlib.suppress(EOFError, zlib.error, gzip.BadGzipFile):
                for line in file:
                    lines.append(line)
                    if line.startswith(b"$$$$"):
                        yield b"".join(lines).decode(errors="replace")
                        lines = []
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def read_molecules(path: str | os.PathLike[str]) -> Iterator[Record]:
    """Stream the entries of a `.sdf`, `.smi` or `.csv` file, each perhaps with `.gz` after it.

    Hydrogens are kept as they are in the file. A `.smi` line is a SMILES and, after white space,
    a name; a `.csv` has a column `smiles` and perhaps `name`. A bad entry comes with `mol` None and
    its error; a file that breaks off gives a last entry that says so.

    Raises `UserError` if the file is missing or of another kind.
    """
    reader = {".sdf": _read_sdf, ".smi": _read_smi, ".csv": _read_csv}[_kind(path)]
    file = _open(path)
    return _guarded(file, reader(file), str(path))


def has_coordinates(path: str | os.PathLike[str]) -> bool:
    """Whether this kind of library holds geometries (SDF) or only graphs (SMILES, CSV).

    Raises `UserError` for a file of another kind.
    """
    return _kind(path) == ".sdf"


def count_records(path: str | os.PathLike[str]) -> int:
    """How many entries `read_molecules` will give, without parsing them; of a damaged file, fewer.

    A CSV whose cells hold line breaks counts those too. Raises `UserError` as `read_molecules`.
    """
    kind = _kind(path)
    count = rest = 0
    with _open(path) as file, contextlib.suppress(EOFError, zlib.error, gzip.BadGzipFile):
        for number, line in enumerate(file):
            if kind != ".sdf":
                count += bool(line.strip()) and not (number == 0 and b"smiles" in line.lower())
            elif line.startswith(b"$$$$"):
                count, rest = count + 1, 0
            else:
                rest = rest or bool(line.strip())
    return count + rest


def _kind(path: str | os.PathLike[str]) -> str:
    source = Path(path)
    kind = Path(source.stem if source.suffix == ".gz" else source.name).suffix.lower()
    if kind not in READABLE:
        raise UserError(f"{path}: cannot read this kind of file; use {', '.join(READABLE)} or .gz")
    return kind


def _open(path: str | os.PathLike[str]) -> BinaryIO:
    try:
        opener = gzip.open if Path(path).suffix == ".gz" else open
        return cast(BinaryIO, opener(path, "rb"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def _guarded(file: BinaryIO, records: Iterator[Record], path: str) -> Iterator[Record]:
    with file:
        try:
            yield from records
        except (EOFError, zlib.error, gzip.BadGzipFile, csv.Error) as error:
            yield Record("", None, {}, f"{path} is damaged or incomplete: {error}")


def _read_sdf(file: BinaryIO) -> Iterator[Record]:
    lines: list[bytes] = []
    for line in file:
        lines.append(line)
        if line.startswith(b"$$$$"):
            yield _parse_sdf(b"".join(lines))
            lines = []
    if any(line.strip() for line in lines):
        yield _parse_sdf(b"".join([*lines, b"\n$$$$\n"]))


def _parse_sdf(text: bytes) -> Record:
    text = text.decode(errors="replace").encode()  # RDKit hands texts over as UTF-8 or not at all
    with rdBase.BlockLogs():
        mol = _first(text, sanitize=True)
        raw = mol if mol is not None else _first(text, sanitize=False)
    if raw is None:
        name = text.split(b"\n", 1)[0].decode(errors="replace").strip()
        return Record(name, None, {}, "not a readable MOL block")
    name = raw.GetProp("_Name") if raw.HasProp("_Name") else ""
    tags = {tag: raw.GetProp(tag) for tag in raw.GetPropNames()}
    if mol is None:
        return Record(name, None, tags, _problems(raw))
    head, end, _ = text.decode().replace("\r\n", "\n").partition("\n")[2].partition("\nM  END")
    return Record(name, mol, tags, "", head + end if end else "")


def _first(text: bytes, sanitize: bool) -> Chem.Mol | None:
    supplier = Chem.ForwardSDMolSupplier(io.BytesIO(text), sanitize=sanitize, removeHs=False)
    return next(iter(supplier), None)


def _read_smi(file: BinaryIO) -> Iterator[Record]:
    for line in file:
        fields = line.decode(errors="replace").split(None, 1)
        if fields and fields[0].lower() != "smiles":
            yield _parse_smiles(fields[0], fields[1].strip() if len(fields) > 1 else "", {})


def _read_csv(file: BinaryIO) -> Iterator[Record]:
    with io.TextIOWrapper(file, encoding="utf-8-sig", errors="replace", newline="") as text:
        rows = csv.DictReader(text)
        columns: dict[str, str] = {}
        for column in rows.fieldnames or ():
            first = columns.setdefault(plain := column.strip().lower(), column)
            if first != column and plain in ("smiles", "name"):
                raise UserError(
                    f"{file.name} has two columns {plain!r}, {first!r} and {column!r}: rename one."
                )
        if "smiles" not in columns:
            raise UserError(f"{file.name} has no column 'smiles'; it has: {', '.join(columns)}")
        special = {columns["smiles"], columns.get("name")}
        for row in rows:
            tags = {
                tag: value for tag, value in row.items() if value and tag and tag not in special
            }
            name = row[columns["name"]] if "name" in columns else ""
            yield _parse_smiles(row[columns["smiles"]] or "", name or "", tags)


def _parse_smiles(smiles: str, name: str, tags: dict[str, str]) -> Record:
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles) if smiles.strip() else None
        if mol is not None:
            return Record(name, mol, tags, "")
        raw = Chem.MolFromSmiles(smiles, sanitize=False) if smiles.strip() else None
    return Record(name, None, tags, _problems(raw) if raw else f"not a SMILES: {smiles!r}")


def _problems(mol: Chem.Mol) -> str:
    with rdBase.BlockLogs():
        problems = [problem.Message() for problem in Chem.DetectChemistryProblems(mol)]
    return "; ".join(problems) or "RDKit cannot sanitise the molecule"
