"""Molecules as users give them, and the library of molecules that they get."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard, overload

import numpy as np
from rdkit import Chem

from molflowctl.errors import UserError
from molflowctl.io.library import is_file, read_molecules
from molflowctl.io.library_writers import FLAT, open_writer
from molflowctl.io.reading import Given
from molflowctl.io.record import versions, write_json
from molflowctl.io.tables import choose_columns
from molflowctl.tasks.memory import Entry

if TYPE_CHECKING:
    import pandas

__all__ = ["Library", "Molecules", "given", "is_frame", "numbers"]

if TYPE_CHECKING:
    # Molecules or SMILES (None where one could not be read), a table with a column of one of them,
    # a single one, or the name of a file.
    Molecules: TypeAlias = (
        str | os.PathLike[str] | Chem.Mol | Iterable[Chem.Mol | str | None] | pandas.DataFrame
    )
else:
    Molecules = Any


class Library(Sequence[Chem.Mol]):
    """Molecules, and what is known of each: a sequence of RDKit molecules with a table beside it.

    Examples:
        >>> library = generate("qm9", n=100)
        >>> library[0], library[:10], len(library)
        >>> library.frame()
        >>> library.write("library.sdf.gz")

    Attributes:
        names: titles of the molecules.
        values: of each molecule, its values by name, as `frame` and the tags of an SDF show them.
        notes: what there is to say of how it was made, such as what failed.
        made: the command and the settings that make it again; empty if it was not made here.
    """

    def __init__(
        self,
        entries: Iterable[Entry],
        notes: Sequence[str] = (),
        made: Mapping[str, Any] | None = None,
    ) -> None:
        found = list(entries)
        self._mols = [entry.mol for entry in found]
        self.names = [entry.title for entry in found]
        self.values: list[dict[str, Any]] = [dict(entry.tags) for entry in found]
        self.notes = tuple(notes)
        self.made: dict[str, Any] = dict(made or {})
        for mol, name in zip(self._mols, self.names, strict=True):
            mol.SetProp("_Name", name)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Library:
        """The molecules of an SDF, SMILES, CSV or Parquet file; what cannot be read is in `notes`.

        Raises:
            UserError: a file that is missing, of another kind, or without any molecule.
        """
        entries, notes = [], []
        for record in read_molecules(path):
            if record.mol is None:
                notes.append(f"{record.place}: {record.error}")
            else:
                entries.append(Entry(record.mol, record.name, numbers(record.tags)))
        return cls(entries, notes)

    def __len__(self) -> int:
        return len(self._mols)

    @overload
    def __getitem__(self, index: int) -> Chem.Mol: ...

    @overload
    def __getitem__(self, index: slice) -> Library: ...

    def __getitem__(self, index: int | slice) -> Chem.Mol | Library:
        if not isinstance(index, slice):
            return self._mols[index]
        return Library(self.entries()[index], self.notes, self.made)

    def __iter__(self) -> Iterator[Chem.Mol]:
        return iter(self._mols)

    def entries(self) -> list[Entry]:
        """Each molecule with its name and its values."""
        return [
            Entry(*row) for row in zip(self._mols, self.names, self.values, strict=True)
        ]  # fmt: skip

    def frame(self) -> pandas.DataFrame:
        """One row per molecule: `name`, `smiles`, and a column per value."""
        import pandas

        smiles = [Chem.MolToSmiles(Chem.RemoveHs(mol)) for mol in self._mols]
        frame = pandas.DataFrame({"name": self.names, "smiles": smiles})
        values = pandas.DataFrame(self.values, index=frame.index)
        return frame.join(values[[c for c in values.columns if c not in frame.columns]])

    def write(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write an SDF (`.sdf`, `.sdf.gz`), a table (`.csv`, `.parquet`), `.smi`, `.xyz` or `.pdb`.

        Beside it lies the record of how the library was made.

        Raises:
            UserError: another kind of file, one that is there already, or one that cannot be
                written; for an SDF, a molecule without a conformer.
        """
        flat = [n for m, n in zip(self._mols, self.names, strict=True) if not m.GetNumConformers()]
        if flat and not str(path).endswith(FLAT):
            raise UserError(
                f"{len(flat):,} of {len(self):,} molecules ({flat[0] or 'without a name'}) have no "
                "geometry for an SDF: write a .csv, or make conformers of them first."
            )
        with open_writer(path, overwrite) as writer:
            for mol, title, tags in self.entries():
                # As in every SDF of this package; readers take a tag `ID` for the title.
                writer.write(mol, {("input_ID" if k == "ID" else k): v for k, v in tags.items()},
                             title)  # fmt: skip
            if writer.record is not None and self.made:
                write_json(writer.record, {**self.made, "versions": versions()})
        return Path(path)

    def __repr__(self) -> str:
        columns = list(dict.fromkeys(name for row in self.values for name in row))
        said = f"; {', '.join(columns[:8])}{', ...' if len(columns) > 8 else ''}" if columns else ""
        return f"<Library of {len(self):,} molecules{said}>"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return str(self.frame().to_html(max_rows=10))


def given(
    molecules: Molecules, *, smiles_column: str | None = None, name_column: str | None = None
) -> Given | str:
    """What users give, as a task takes it: records in memory, or the name of a file.

    Raises:
        UserError: what holds no molecules.
    """
    if isinstance(molecules, os.PathLike):
        return os.fspath(molecules)
    if isinstance(molecules, str):
        return molecules if is_file(molecules) else Given.of([(molecules, molecules.strip(), {})])
    if isinstance(molecules, Given):
        return molecules
    if isinstance(molecules, Chem.Mol):
        return Given.of([_named(molecules)])
    if isinstance(molecules, Library):
        return Given.of(
            (mol, name, {key: _text(value) for key, value in tags.items()})
            for mol, name, tags in molecules.entries()
        )
    if is_frame(molecules):
        return Given.of(_rows(molecules, smiles_column, name_column))
    if not isinstance(molecules, Iterable):
        raise UserError(
            f"molecules are RDKit molecules, SMILES, a DataFrame with a column of one of them, or "
            f"a file, not {type(molecules).__name__}."
        )
    return Given.of(map(_named, molecules))


def is_frame(molecules: object) -> TypeGuard[pandas.DataFrame]:
    """Whether this is a DataFrame; without loading pandas where none can be."""
    import sys

    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(molecules, pandas.DataFrame)


def _named(mol: Any) -> tuple[Chem.Mol | str | None, str, dict[str, str]]:
    """A molecule or SMILES with its name, and the tags that it has from an SDF."""
    if mol is None or isinstance(mol, str):
        return mol, "", {}
    if not isinstance(mol, Chem.Mol):
        raise UserError(f"{mol!r} is neither an RDKit molecule nor a SMILES.")
    tags = mol.GetPropsAsDict(includePrivate=False, includeComputed=False)
    name = mol.GetProp("_Name") if mol.HasProp("_Name") else ""
    return mol, name, {key: _text(value) for key, value in tags.items()}


def _rows(
    frame: pandas.DataFrame, smiles_column: str | None, name_column: str | None
) -> Iterator[tuple[Chem.Mol | str | None, str, dict[str, str]]]:
    """The rows of a table; a column of RDKit molecules comes before one of SMILES."""
    names = [str(name) for name in frame.columns]
    drawn = [
        k for k in range(len(names)) if any(isinstance(v, Chem.Mol) for v in frame.iloc[:, k])
    ]  # fmt: skip
    where = "the DataFrame"
    if drawn and smiles_column is None:
        columns = choose_columns(["smiles", *_but(names, drawn)], where, "smiles", name_column)
    else:
        columns = choose_columns(_but(names, drawn), where, smiles_column, name_column)
    kept = [k for k in range(len(names)) if k not in drawn]
    for number in range(len(frame)):
        cells = [_text(frame.iat[number, k]) for k in kept]
        if drawn and smiles_column is None:
            row = columns.row(["", *cells], number, number)
            mol = frame.iat[number, drawn[0]]
            yield mol if isinstance(mol, Chem.Mol) else None, row.name, row.tags
        else:
            row = columns.row(cells, number, number)
            yield row.smiles, row.name, row.tags


def _but(names: list[str], places: list[int]) -> list[str]:
    return [name for k, name in enumerate(names) if k not in places]


def _text(value: Any) -> str:
    """A value as a tag says it; empty where it is missing."""
    if value is None or (isinstance(value, float | np.floating) and not math.isfinite(value)):
        return ""
    return repr(float(value)) if isinstance(value, float | np.floating) else str(value)


def numbers(tags: Mapping[str, object]) -> dict[str, Any]:
    """Tags, those that say a number as a number."""
    return {k: _number(value) if isinstance(value, str) else value for k, value in tags.items()}


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        return value if text.isascii() and "_" not in text else text
    return text
