"""Reading molecules: SDF, SMILES, CSV and Parquet, plain or gzipped, from files, pipes or `-`.

The only reader of the package. It streams, and nothing in a file costs more than its own record: a
record that is too long, no molecule, or of a kind that ends RDKit's process comes with its reason
and the place where it stands, and the next one follows.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from rdkit import Chem

from molflowctl.chem.open_stereo import stereo_group_isomers
from molflowctl.chem.spin import HIGH_SPIN, SpinError, declare, said_by_record
from molflowctl.errors import UserError
from molflowctl.io.escaping import unescaped
from molflowctl.io.opening import (
    DAMAGED,
    LONGEST,
    READABLE,
    TooLong,
    decoded,
    file_kind,
    lines,
    open_input,
)
from molflowctl.io.parsing import (
    LARGE_BLOCK,
    LARGE_SMILES,
    LONGEST_SMILES,
    Parsed,
    parse_block,
    parse_smiles,
    split_smiles,
)
from molflowctl.io.tables import read_rows, survey_rows

if TYPE_CHECKING:
    from molflowctl.compute.parallel import WorkerPool

__all__ = [
    "READABLE",
    "Given",
    "Record",
    "Source",
    "Survey",
    "count_records",
    "has_coordinates",
    "isomers_of_groups",
    "read_molecules",
    "read_records",
    "survey",
]

_TAG = re.compile(r">[^<]*<([^<>]*)>")
_TAG_LIKE = re.compile(r">.*?<(.*)>")
_LIMIT_S = 30.0  # for a text that is parsed in a process of its own
_away: list[WorkerPool] = []  # that process, once it was needed
_WORDS = {".sdf": "record", ".csv": "row", ".parquet": "row"}
_SHOWN = 1000  # empty lines that are remembered


class Record(NamedTuple):
    """One entry of a library.

    name: title or name column, may be empty. mol: None if the entry is bad; SMILES give a molecule
    without conformer. tags: the text of each tag or column. error: what is wrong, else empty.
    block: of a good SDF record, its MOL block as it stands there, after the title. source, line,
    number: file, line where it begins (of Parquet the row) and place among the entries, from 1.
    note: what is to be said of a good one. place: for messages, `line 3`, `row 3` or `record 3`.
    """

    name: str
    mol: Chem.Mol | None
    tags: dict[str, str]
    error: str
    block: str = ""
    source: str = ""
    line: int = 0
    number: int = 0
    note: str = ""
    place: str = ""

    @property
    def title(self) -> str:
        """The name on one line, or where there is none `FILE:LINE`."""
        return " ".join(self.name.split()) or f"{self.file}:{self.line}"

    @property
    def file(self) -> str:
        """Name of the file it is from."""
        return "stdin" if self.source == "-" else Path(self.source).name


@dataclass
class Survey:
    """What a library holds, by its text alone.

    Arguments:
        count: entries; of a damaged file, those before the damage.
        tags: names of tags or columns. empty: the first empty lines of a SMILES file.
    """

    count: int = 0
    tags: dict[str, None] = field(default_factory=dict)
    empty: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Given:
    """Molecules in memory, which every task takes in the place of a file."""

    records: tuple[Record, ...]

    @classmethod
    def of(cls, molecules: Iterable[tuple[Chem.Mol | str | None, str, dict[str, str]]]) -> Given:
        """Molecules or SMILES, each with a name and tags, as the records of a library.

        A conformer that is flat is no geometry, and is left out. None is a molecule that could not
        be read.

        Raises:
            UserError: there is none.
        """
        made = []
        for number, (mol, name, tags) in enumerate(molecules, start=1):
            error = "" if mol is not None else "no molecule"
            if isinstance(mol, str):
                parsed, rest = _parsed_smiles(mol)
                mol, error, name = parsed.mol, parsed.error, rest or name
            elif mol is not None:
                mol = Chem.Mol(mol)
                if not _is_spatial(mol):
                    mol.RemoveAllConformers()
            record = Record(
                name, mol, tags, error, "", "given", number, number, place=f"molecule {number}"
            )
            made.append(_with_declared_spin(record))
        if not made:
            raise UserError("there are no molecules: the list that was given is empty.")
        return cls(tuple(made))

    def __str__(self) -> str:
        return "what was given"


Source = str | os.PathLike[str] | Given  # of a library: its file, or its molecules


def _is_spatial(mol: Chem.Mol) -> bool:
    return mol.GetNumConformers() > 0 and mol.GetConformer().Is3D()


def read_molecules(
    path: Source,
    *,
    smiles_column: str | None = None,
    name_column: str | None = None,
) -> Iterator[Record]:
    """Stream the entries of a `.sdf`, `.smi`, `.csv` or `.parquet`, perhaps with `.gz` after it.

    Hydrogens are kept as they are in the file. A `.smi` line is a SMILES, perhaps its CXSMILES
    extension, and a name; it may have a header. A bad entry comes with `mol` None and its error; a
    file that breaks off gives a last entry that says so.

    Arguments:
        path: of a file or pipe, or `-` for standard input; or molecules that are given.
        smiles_column, name_column: of a table; by default found by their names, see `tables`.

    Raises:
        UserError: a file that is missing, of another kind, or without any entry.
    """
    if isinstance(path, Given):
        return iter(path.records)
    kind = file_kind(path)
    file = open_input(path)
    records = (
        _sdf(file) if kind == ".sdf" else _rows(file, kind, str(path), smiles_column, name_column)
    )
    return _guarded(file, records, str(path), kind)


def has_coordinates(path: Source) -> bool:
    """Whether this kind of library holds geometries (SDF) or only graphs (all others).

    Of molecules that are given, whether all do. Raises `UserError` for a file of another kind.
    """
    if isinstance(path, Given):
        return all(record.mol is None or _is_spatial(record.mol) for record in path.records)
    return file_kind(path) == ".sdf"


def count_records(path: Source) -> int:
    """How many entries `read_molecules` will give, without parsing them; of a damaged file, fewer.

    A CSV whose cells hold line breaks counts those too. Raises `UserError` as `read_molecules`.
    """
    return survey(path).count


def survey(path: Source, smiles_column: str | None = None) -> Survey:
    """Count the entries and collect the names of their tags, without parsing molecules.

    Raises `UserError` as `read_molecules`, save for a file without entries.
    """
    if isinstance(path, Given):
        return Survey(len(path.records), dict.fromkeys(n for r in path.records for n in r.tags))
    kind = file_kind(path)
    found = Survey()
    with open_input(path) as file, suppress(*DAMAGED, csv.Error):
        if kind == ".sdf":
            _survey_sdf(file, found)
        else:
            found.count, columns, empty = survey_rows(file, kind, str(path), smiles_column)
            found.tags = dict.fromkeys(columns)
            found.empty = empty[:_SHOWN]
    return found


def _survey_sdf(file: BinaryIO, found: Survey) -> None:
    rest = False
    whole = True  # the last piece ended its line
    for piece in lines(file):
        if whole and piece.startswith(b"$$$$"):
            found.count, rest = found.count + 1, False
        elif whole and piece.startswith(b">") and b"<" in piece and len(found.tags) < 10_000:
            if name := _tag_name(decoded(piece).rstrip("\n")):
                found.tags[name] = None
        else:
            rest = rest or bool(piece.strip())
        whole = piece.endswith(b"\n")
    found.count += rest


def read_records(path: str | os.PathLike[str]) -> Iterator[str]:
    """The text of every whole record of an SDF file, as it is; stops where the file breaks off.

    Raises `UserError` if the file cannot be opened.
    """
    try:
        with open_input(path) as file:
            kept: list[bytes] = []
            with suppress(*DAMAGED):
                for line in lines(file):
                    kept.append(line)
                    if line.startswith(b"$$$$"):
                        yield b"".join(kept).decode(errors="replace")
                        kept = []
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def isomers_of_groups(record: Record, limit: int = 8) -> Iterator[Record]:
    """The record as it is, or if it has enhanced stereo the isomers that this stands for.

    Of several, each has its number at the end of its name, `-iso1`; what there is to say comes in
    the note of the first and in the tag `enhanced_stereo` of each.
    """
    if record.mol is None or not len(record.mol.GetStereoGroups()):
        yield record
        return
    mols, note = stereo_group_isomers(record.mol, limit)
    for k, mol in enumerate(mols, start=1):
        suffix = f"-iso{k}" if len(mols) > 1 else ""
        says = "; ".join(part for part in (record.note, note) if part) if k == 1 else ""
        own = {**record.tags, "enhanced_stereo": note} if note else record.tags
        block = record.block if len(mols) == 1 else ""
        yield record._replace(name=record.title + suffix, mol=mol, tags=own, note=says, block=block)


def _guarded(file: BinaryIO, records: Iterator[Record], path: str, kind: str) -> Iterator[Record]:
    number = line = 0
    with file:
        try:
            for record in records:
                number, line = record.number, record.line
                place = f"line {line}" if kind == ".smi" else f"{_WORDS[kind]} {number}"
                yield _with_declared_spin(record._replace(source=path, place=place))
        except (*DAMAGED, csv.Error) as error:
            number += 1
            reason = f"{path} is damaged or incomplete: {error}"
            yield Record(
                "", None, {}, reason, "", path, line + 1, number, place="the end of the file"
            )
    if number == 0:
        raise UserError(f"no molecules in {path}")


def _with_declared_spin(record: Record) -> Record:
    """The record, its molecule with the multiplicity that its tag or MOL block says, if one does.

    A high spin that the MOL block alone says is noted.
    """
    if record.mol is None:
        return record
    try:
        said = said_by_record(record.block, record.tags)
    except SpinError as error:
        return record._replace(mol=None, error=str(error), block="")
    if said is None:  # the parser knows what CXSMILES say
        return record
    declare(record.mol, said)
    if said > 2 and said_by_record("", record.tags) is None:
        return record._replace(note="; ".join(filter(None, [record.note, HIGH_SPIN])))
    return record


def _sdf(file: BinaryIO) -> Iterator[Record]:
    kept: list[bytes] = []
    size = number = line = 0  # line: of those that have ended
    begin = 1
    whole, ending = True, False
    for piece in lines(file):
        if whole and piece.startswith(b"$$$$"):
            number += 1
            yield _sdf_record(kept, size, begin, number)
            kept, size, ending = [], 0, True
        elif whole or not ending:  # what follows `$$$$` on its line is nothing
            ending = False
            size += len(piece)
            if size <= LONGEST:
                kept.append(piece)
            else:
                del kept[1:]
        whole = piece.endswith(b"\n")
        line += whole
        if ending and whole:
            begin = line + 1
    if size > LONGEST or any(part.strip() for part in kept):
        yield _sdf_record(kept, size, begin, number + 1)


def _sdf_record(kept: list[bytes], size: int, line: int, number: int) -> Record:
    text = decoded(b"".join(kept)).removeprefix("\ufeff")
    first, _, rest = text.partition("\n")
    name = unescaped(first.strip())
    if size > LONGEST:
        return Record(name[:200], None, {}, str(TooLong()), line=line, number=number)
    head, end, after = rest.partition("\nM  END")
    tags = _tags(after.partition("\n")[2])
    block = f"{first}\n{head}{end}".encode()
    on_atoms = after.partition("\n")[2].encode() if "<atom." in after else b""
    parsed = (
        _parse_away(parse_block, block, on_atoms)
        if len(block) > LARGE_BLOCK
        else parse_block(block, on_atoms)
    )
    own = head + end if parsed.mol is not None and end and not parsed.note else ""
    return Record(
        name, parsed.mol, tags, parsed.error, own, line=line, number=number, note=parsed.note
    )


def _tag_name(line: str) -> str:
    found = _TAG.match(line) or _TAG_LIKE.match(line)
    return unescaped(found[1].strip()) if found else ""


def _tags(text: str) -> dict[str, str]:
    """The data items after a MOL block. A value goes on to the next header after an empty line."""
    found: dict[str, list[str]] = {}
    values: list[str] = []
    empty = True
    for line in text.split("\n"):
        if empty and line.startswith(">") and (name := _tag_name(line)):
            again, count = name, 1
            while again in found:  # of two tags of one name both are kept
                count += 1
                again = f"{name}_{count}"
            found[again] = values = []
        else:
            values.append(line)
        empty = not line
    return {name: unescaped("\n".join(value).rstrip("\n")) for name, value in found.items()}


def _rows(
    file: BinaryIO, kind: str, path: str, smiles_column: str | None, name_column: str | None
) -> Iterator[Record]:
    for row in read_rows(file, kind, path, smiles_column, name_column):
        if row.error:
            yield Record(row.name, None, {}, row.error, line=row.line, number=row.number)
            continue
        parsed, rest = _parsed_smiles(row.smiles)
        yield Record(
            row.name or rest,
            parsed.mol,
            row.tags,
            parsed.error,
            line=row.line,
            number=row.number,
        )


def _parsed_smiles(text: str) -> tuple[Parsed, str]:
    """What a SMILES line says: the molecule, and the name after it."""
    smiles, extension, rest = split_smiles(text)
    parsed = (
        _parse_away(parse_smiles, smiles, extension)
        if LARGE_SMILES < len(smiles) <= LONGEST_SMILES
        else parse_smiles(smiles, extension)
    )
    return parsed, " ".join(rest.split("\t"))


def _parse_away(parse: Callable[..., Parsed], *texts: Any) -> Parsed:
    """Parse in another process, whose end is a reason and not that of this one."""
    # Here alone: what parses is below what computes, and few files need it.
    from molflowctl.compute.parallel import WorkerPool

    if not _away:
        _away.append(WorkerPool(1, isolate=True))
    (outcome,) = _away[0].map(_parse_and_write, [(parse, texts)], timeout=_LIMIT_S)
    if outcome.value is None:
        return Parsed(None, f"too large for RDKit: {outcome.error}")
    binary, error, note = outcome.value
    return Parsed(Chem.Mol(binary) if binary else None, error, note)


def _parse_and_write(task: tuple[Callable[..., Parsed], tuple[Any, ...]]) -> tuple[bytes, str, str]:
    from molflowctl.chem.graphs import EXACT

    parse, texts = task
    parsed = parse(*texts)
    if parsed.mol is None:
        return b"", parsed.error, parsed.note
    Chem.MolToSmiles(Chem.RemoveHs(parsed.mol))  # what every command asks of it sooner or later
    return parsed.mol.ToBinary(EXACT), parsed.error, parsed.note
