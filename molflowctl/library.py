"""Reading libraries of molecules: SDF, SMILES and CSV files, plain or gzipped.

The only reader of the package, and the text of the records that `library_writers` writes. Both
stream: neither holds a library in memory.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import math
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from rdkit import Chem, rdBase

from molflowctl.errors import UserError

__all__ = [
    "READABLE",
    "Record",
    "count_records",
    "has_coordinates",
    "is_stream",
    "numbered_title",
    "read_molecules",
    "read_records",
    "sdf_record",
]

READABLE = (".sdf", ".smi", ".csv")


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
