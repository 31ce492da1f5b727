"""Rows of SMILES: `.smi`, with or without a header, CSV and Parquet.

The column of SMILES is `smiles`, else `isomeric_smiles`, `canonical_smiles`, `structure` or another
of `SMILES_NAMES`, that of names the first of `NAME_NAMES`; case, blanks and underscores do not
count.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO

from rdkit import Chem, rdBase

from molflowctl.errors import UserError
from molflowctl.io.escaping import cell_text
from molflowctl.io.opening import LONGEST, TooLong, decoded, whole_lines

__all__ = ["NAME_NAMES", "SMILES_NAMES", "Row", "choose_columns", "read_rows", "survey_rows"]

SMILES_NAMES = (
    "smiles", "isomericsmiles", "cxsmiles", "canonicalsmiles", "canonicalisomericsmiles", "smi",
    "structuresmiles", "smilesstructure", "molsmiles", "smilesstring", "rdkitsmiles",
    "standardizedsmiles", "structure",
)  # fmt: skip
NAME_NAMES = (
    "name", "title", "moleculename", "compoundname", "id", "compoundid", "moleculeid", "molid",
    "moleculechemblid", "chemblid", "zincid", "catalogid", "identifier", "cid",
)  # fmt: skip
_KEPT = ("name",)  # a column of names that is not also kept as a tag


@dataclass
class Row:
    """A row: the text of its SMILES, its name and the other cells; or what is wrong with it.

    line: where it begins, from 1 (of Parquet the row); number: its place among the rows, from 1.
    """

    line: int
    number: int
    smiles: str = ""
    name: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True)
class _Columns:
    """Which column is what; `names` are all of them, none twice."""

    names: list[str]
    smiles: int
    name: int | None
    read: Callable[[str], str] = str  # a cell's text as it was before it was written

    def row(self, cells: Sequence[str], line: int, number: int) -> Row:
        texts = [*cells, *[""] * (len(self.names) - len(cells))]
        special = {self.smiles}
        if self.name is not None and _plain(self.names[self.name]) in _KEPT:
            special.add(self.name)
        tags = {
            name: self.read(text)
            for k, (name, text) in enumerate(zip(self.names, texts, strict=False))
            if text and name and k not in special
        }
        name = self.read(texts[self.name]) if self.name is not None else ""
        return Row(line, number, texts[self.smiles].strip(), name, tags)


def read_rows(
    file: BinaryIO,
    kind: str,
    path: str,
    smiles_column: str | None = None,
    name_column: str | None = None,
) -> Iterator[Row]:
    """The rows of an open `.smi`, `.csv` or `.parquet`; `path` is for messages.

    Raises:
        UserError: no column of SMILES, two of one name, or text in UTF-16.
    """
    wanted = smiles_column, name_column
    if kind == ".parquet":
        return _parquet(file, path, *wanted)
    return (_csv if kind == ".csv" else _smi)(file, path, *wanted)


def survey_rows(
    file: BinaryIO, kind: str, path: str, smiles_column: str | None = None
) -> tuple[int, list[str], list[int]]:
    """Count, other columns and empty lines (of a `.smi`) without reading the molecules."""
    if kind == ".parquet":
        table = _table(file, path)
        columns = choose_columns(list(table.schema_arrow.names), path, smiles_column, None)
        return table.metadata.num_rows, _others(columns), []
    count, names, empty = 0, list[str](), list[int]()
    header = False
    for number, line in enumerate(whole_lines(file), start=1):
        if line is not None and not line.strip():
            empty.append(number)
            continue
        count += 1
        if count == 1 and line is not None:
            text = _first(line, path)
            if kind == ".csv":
                names, header = _others(_csv_columns(text, path, smiles_column, None)[0]), True
            elif found := _smi_columns(text, path, smiles_column, None):
                names, header = _others(found), True
    return count - header, names, empty if kind == ".smi" else []


def _others(columns: _Columns) -> list[str]:
    return [name for k, name in enumerate(columns.names) if k != columns.smiles]


def _plain(name: str) -> str:
    return "".join(sign for sign in name.lower() if sign.isalnum())


def _listed(names: list[str]) -> str:
    """Names for a message: the first ones, long ones cut."""
    shown = [name if len(name) <= 60 else f"{name[:57]}..." for name in names[:20]]
    more = f" and {len(names) - 20:,} more" if len(names) > 20 else ""
    return ", ".join("".join(c if c.isprintable() else " " for c in n) for n in shown) + more


def choose_columns(
    names: list[str], path: str, smiles_column: str | None, name_column: str | None
) -> _Columns:
    """Which columns hold SMILES and names.

    Raises:
        UserError: there is none, or there are several of that name.
    """
    found = [
        _one_of(names, SMILES_NAMES if smiles_column is None else smiles_column, path),
        _one_of(names, NAME_NAMES if name_column is None else name_column, path),
    ]
    if found[0] is None:
        raise UserError(
            f"{path} has no column {smiles_column or 'smiles'!r}; it has: {_listed(names)}. "
            "--smiles-column NAME says which one holds the SMILES."
        )
    if found[1] is None and name_column is not None:
        raise UserError(f"{path} has no column {name_column!r}; it has: {_listed(names)}.")
    if found[1] == found[0]:
        found[1] = None
    return _Columns(_once(names), found[0], found[1])


def _one_of(names: list[str], wanted: str | Sequence[str], path: str) -> int | None:
    if isinstance(wanted, str):
        exact = [k for k, name in enumerate(names) if name.strip() == wanted.strip()]
        if exact:
            return exact[0]
        wanted = (_plain(wanted),)
    plain = [_plain(name) for name in names]
    for choice in wanted:
        places = [k for k, name in enumerate(plain) if name == choice]
        if len(places) > 1 and choice in ("smiles", "name"):
            first, second = names[places[0]], names[places[1]]
            raise UserError(
                f"{path} has two columns {choice!r}, {first!r} and {second!r}: rename one, or say "
                f"which with --{choice}-column."
            )
        if places:
            return places[0]
    return None


def _once(names: list[str]) -> list[str]:
    """The names with a number after those that were there before: no column is lost."""
    found: dict[str, None] = {}
    for name in names:
        new, count = name.strip(), 1
        while new and new in found:
            count += 1
            new = f"{name.strip()}_{count}"
        found[new or f" {len(found)}"] = None
    return [name if not name.startswith(" ") else "" for name in found]


def _first(line: bytes, path: str) -> str:
    if line.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{path} is text in UTF-16: save it as UTF-8.")
    return decoded(line).removeprefix("\ufeff")


# SMILES files


def _smi(
    file: BinaryIO, path: str, smiles_column: str | None, name_column: str | None
) -> Iterator[Row]:
    columns: _Columns | None = None
    number, begun = 0, False
    for place, line in enumerate(whole_lines(file), start=1):
        if line is not None and not line.strip():
            continue
        if line is None:
            number, begun = number + 1, True
            yield Row(place, number, error=str(TooLong("the line")))
            continue
        text = decoded(line) if begun else _first(line, path)
        if not begun:
            begun = True
            columns = _smi_columns(text, path, smiles_column, name_column)
            if columns is not None:
                continue
        number += 1
        if columns is None or (
            columns.smiles == 0 and len(columns.names) <= 2 and "\t" not in text
        ):
            yield Row(place, number, text.strip())
        else:
            yield columns.row(text.split("\t" if "\t" in text else None), place, number)


def _smi_columns(
    text: str, path: str, smiles_column: str | None, name_column: str | None
) -> _Columns | None:
    """Of a header; None if the line is none."""
    fields = [part.strip() for part in text.split("\t" if "\t" in text else None)]
    if smiles_column is None and name_column is None:
        named = any(_plain(part) in SMILES_NAMES for part in fields)
        if not named or (_plain(fields[0]) not in SMILES_NAMES and _is_smiles(fields[0])):
            return None
    columns = choose_columns(fields, path, smiles_column, name_column)
    if columns.name is None and len(fields) > 1:
        columns = _Columns(columns.names, columns.smiles, 1 if columns.smiles == 0 else 0)
    return columns


def _is_smiles(text: str) -> bool:
    with rdBase.BlockLogs():
        return len(text) < 1000 and Chem.MolFromSmiles(text, sanitize=False) is not None


# CSV


class _Feed:
    """Lines for `csv.reader`, which asks for as many as a row has; each row is bounded."""

    def __init__(self, file: BinaryIO) -> None:
        self._lines = whole_lines(file)
        self.line = 0
        self.size = 0

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.line += 1
        self.size += 0 if line is None else len(line)
        if line is None or self.size > LONGEST:
            raise TooLong("the row (is there a quotation mark without its second?)")
        return decoded(line) + "\n"


def _csv(
    file: BinaryIO, path: str, smiles_column: str | None, name_column: str | None
) -> Iterator[Row]:
    csv.field_size_limit(LONGEST)
    feed = _Feed(file)
    text = ""
    while not text.strip() or text.startswith("sep="):
        try:
            text = next(feed)
        except StopIteration:
            return
        except TooLong as error:
            raise UserError(f"{path}: {error}") from None
        if feed.line == 1:
            text = _first(text.encode("utf-8", "surrogatepass"), path)
    columns, delimiter = _csv_columns(text, path, smiles_column, name_column)
    rows = csv.reader(feed, delimiter=delimiter)
    number = 0
    while True:
        place, feed.size = feed.line + 1, 0
        try:
            cells = next(rows)
        except StopIteration:
            return
        except (TooLong, csv.Error) as error:
            number += 1
            yield Row(place, number, error=str(error))
            continue
        if cells:
            number += 1
            yield columns.row(cells, place, number)


def _csv_columns(
    text: str, path: str, smiles_column: str | None, name_column: str | None
) -> tuple[_Columns, str]:
    """Of the header, with the sign between its cells: comma, semicolon or tabulator."""
    first: UserError | None = None
    for delimiter in ",;\t":
        names = [cell_text(name).strip() for name in next(csv.reader([text], delimiter=delimiter))]
        try:
            columns = choose_columns(names, path, smiles_column, name_column)
            return replace(columns, read=cell_text), delimiter
        except UserError as error:
            first = first or error
    assert first is not None
    raise first


# Parquet


def _table(file: BinaryIO, path: str) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path} is damaged or no Parquet file: {_line(error)}") from None


def _line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]


def _parquet(
    file: BinaryIO, path: str, smiles_column: str | None, name_column: str | None
) -> Iterator[Row]:
    import pyarrow

    table = _table(file, path)
    columns = choose_columns(list(table.schema_arrow.names), path, smiles_column, name_column)
    number = 0
    try:
        for batch in table.iter_batches(batch_size=1024):
            for cells in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                number += 1
                texts = [_text(value) for value in cells]
                if sum(map(len, texts)) > LONGEST:
                    yield Row(number, number, error=str(TooLong("the row")))
                else:
                    yield columns.row(texts, number, number)
    except (pyarrow.ArrowException, OSError) as error:
        yield Row(number + 1, number + 1, error=f"{path} is damaged: {_line(error)}")


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return decoded(value) if isinstance(value, bytes) else str(value)
