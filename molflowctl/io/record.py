"""The run record `<out>.run.json` that lies beside every result: what made it, and how it went."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import molflowctl
from molflowctl.errors import UserError
from molflowctl.io.atomic import leftovers, write_file
from molflowctl.io.plain_files import json_text, sha256_of

__all__ = [
    "OURS",
    "commit",
    "names_beside",
    "own_columns",
    "read_record",
    "record_of",
    "record_path",
    "renamed_note",
    "say_library",
    "versions",
    "write_json",
]

OURS = "own_columns"  # of a run record: the columns that this program wrote
LIBRARY = "library_sha256"  # of a run record: the library that it is of
PACKAGES = ("torch", "numpy", "rdkit", "tblite", "xtb", "openmm", "posebusters")


def record_path(out: str | Path) -> Path:
    """Where the record of `out` lies."""
    return Path(f"{out}.run.json")


def versions() -> dict[str, str]:
    """Of this package, with its commit, and of those that decide numbers."""
    found = {
        "molflowctl": molflowctl.__version__,
        "commit": commit(),
        "python": platform.python_version(),
    }
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


@functools.cache
def commit() -> str:
    """The commit of the repository that this package is run from, or how it was installed."""
    root = Path(molflowctl.__file__).resolve().parents[1]
    installed = f"installed from wheel, version {molflowctl.__version__}"
    if not (
        root / ".git"
    ).exists():  # which a repository around a virtual environment has elsewhere
        return installed
    try:
        said = [
            subprocess.run(
                ["git", "-C", str(root), *arguments],
                capture_output=True, text=True, check=True, timeout=10,
            ).stdout.strip()
            for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain", "-uno"])
        ]  # fmt: skip
    except (OSError, subprocess.SubprocessError):  # no git, or a repository of someone else
        return f"a checkout of version {molflowctl.__version__}, which git does not tell"
    return said[0] + (" with changes" if said[1] else "")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a file whole.

    Raises:
        UserError: if it cannot be written; what was there stays.
    """
    write_file(path, json_text(content, default=str) + "\n")


def read_record(path: Path) -> dict[str, Any] | None:
    """The record, or None where there is none that can be read."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


# A library and its record get their names one after the other: a kill between the two, or a user
# who changes the library, leaves a record beside it that is of another one.


def say_library(record: Path, library: Path) -> None:
    """Write into a record which library it is of; where that cannot be written it stays unsaid."""
    content = read_record(record)
    if content is not None:
        with contextlib.suppress(UserError, OSError):
            write_json(record, content | {LIBRARY: sha256_of(library)})


def record_of(library: str | Path) -> tuple[dict[str, Any] | None, str]:
    """The record that is of this very library, if there is one, and what is to be said of it.

    One that does not say of which library it is counts as this one's. That of a run that was killed
    before its record had its name is found under the name that it has.
    """
    path = Path(library)
    record, waiting = read_record(record_path(path)), leftovers(path, ".run.json")
    if not path.is_file() or (not waiting and (record is None or LIBRARY not in record)):
        return record, ""
    digest = sha256_of(path)
    if record is not None and record.get(LIBRARY) == digest:
        return record, ""
    for other in map(read_record, waiting):
        if other is not None and other.get(LIBRARY) == digest:
            return other, ""
    if record is None or LIBRARY not in record:
        return record, ""
    return None, (
        f"{path} is not the library that {record_path(path)} is of (it was changed, or a run was "
        "killed): the record is left aside"
    )


# Columns of a result beside those of its input. A user's own are never overwritten by ours: what an
# earlier run of this program wrote, as its record says, is replaced by a new value; a column of
# that name from elsewhere stays, and ours goes by its name with `_computed`.


def own_columns(library: str | Path) -> tuple[set[str], str]:
    """Columns of a library that its run record says are computed here, and what is to be said."""
    record, note = record_of(library)
    columns = (record or {}).get(OURS, (record or {}).get("columns", ()))
    known = {str(name) for name in columns} if isinstance(columns, (list, dict)) else set()
    return known, f"{note}, and all its columns count as your own" if note else ""


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
