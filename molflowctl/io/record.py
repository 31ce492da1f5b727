"""The run record `<out>.run.json` that lies beside every result: what made it, and how it went."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import molflowctl
from molflowctl.io import strict_json
from molflowctl.io.atomic import write_file

__all__ = [
    "OURS",
    "names_beside",
    "own_columns",
    "read_record",
    "record_path",
    "renamed_note",
    "versions",
    "write_json",
]

OURS = "own_columns"  # of a run record: the columns that this program wrote
PACKAGES = ("torch", "numpy", "rdkit", "tblite", "xtb", "openmm", "posebusters")


def record_path(out: str | Path) -> Path:
    """Where the record of `out` lies."""
    return Path(f"{out}.run.json")


def versions() -> dict[str, str]:
    """Of this package and of those that decide numbers."""
    found = {"molflowctl": molflowctl.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a file whole.

    Raises:
        UserError: if it cannot be written; what was there stays.
    """
    write_file(path, strict_json.dumps(content, default=str) + "\n")


def read_record(path: Path) -> dict[str, Any] | None:
    """The record, or None where there is none that can be read."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


# Columns of a result beside those of its input. A user's own are never overwritten by ours: what an
# earlier run of this program wrote, as its record says, is replaced by a new value; a column of
# that name from elsewhere stays, and ours goes by its name with `_computed`.


def own_columns(library: str | Path) -> set[str]:
    """Columns of a library that its run record says are computed here."""
    record = read_record(record_path(library)) or {}
    columns = record.get(OURS, record.get("columns", ()))
    return {str(name) for name in columns} if isinstance(columns, (list, dict)) else set()


def names_beside(columns: Iterable[str], tags: Iterable[str], ours: set[str]) -> dict[str, str]:
    """The name under which each column is written beside the input's `tags`."""
    theirs = set(tags) - ours
    names = {}
    for column in columns:
        name, count = column, 1
        while name in theirs:
            name = f"{column}_computed" + (f"_{count}" if count > 1 else "")
            count += 1
        names[column] = name
    return names


def renamed_note(library: str, names: dict[str, str]) -> str:
    """What to say, once, of columns that go by another name; empty if none does."""
    changed = ", ".join(f"{new} beside its {old}" for old, new in names.items() if new != old)
    return f"{library} has columns of these names, which stay: {changed}" if changed else ""
