"""Libraries of molecules: the text of an SDF record; `reading` reads, `library_writers` writes."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from rdkit import Chem

from molflowctl.chem.spin import with_spin
from molflowctl.io import escaping
from molflowctl.io.reading import (
    READABLE,
    Record,
    count_records,
    has_coordinates,
    read_molecules,
    read_records,
)

__all__ = [
    "READABLE",
    "Record",
    "count_records",
    "has_coordinates",
    "is_file",
    "is_stream",
    "numbered_title",
    "read_molecules",
    "read_records",
    "sdf_record",
]


def numbered_title(index: int) -> str:
    """The title of the molecule with this index, from 0: `mfc-000000`."""
    return f"mfc-{index:06d}"


def is_stream(path: str | os.PathLike[str]) -> bool:
    """Whether this is `-`, a device or a pipe: nothing is renamed, and nothing can be resumed."""
    target = Path(path)
    return str(path) == "-" or (target.exists() and not target.is_file() and not target.is_dir())


def is_file(source: str) -> bool:
    """Whether a text names a file or a pipe, and is no SMILES."""
    # Not Path.is_file, which raises for a SMILES that is longer than a file name may be.
    known = source.removesuffix(".gz").lower().endswith(READABLE)
    return known or source == "-" or os.path.isfile(source) or _is_pipe(source)


def _is_pipe(source: str) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(source).st_mode)
    except (OSError, ValueError):
        return False


def sdf_record(mol: Chem.Mol, title: str, tags: Mapping[str, object], block: str = "") -> str:
    """One molecule as the text of an SDF record, `$$$$` line included.

    block: of the `Record` that the molecule was read from, if nothing changed it: written again as
        it was, which is exact and takes no time.
    tags: written in their order, names as given (numbers carry their unit there:
        `dipole_debye`). None, NaN, infinities and empty texts mean failed and are left out.

    What would mean something else in an SDF is escaped (`escaping`), and `read_molecules` gives it
    back as it was. Raises `ValueError` for a tag without name, and for the name `ID`, which readers
    take for the title.
    """
    block = block or with_spin(mol, Chem.MolToMolBlock(mol)).split("\n", 1)[1]
    lines = [escaping.title(title), block.rstrip("\n")]
    for name, value in tags.items():
        if name == "ID" or not name:
            raise ValueError(f"not a name for an SDF tag: {name!r}")
        if text := _tag_text(value):
            lines += [f">  <{escaping.tag_name(name)}>", escaping.tag_value(text), ""]
    return "\n".join([*lines, "$$$$", ""])


def _tag_text(value: object) -> str:
    """The text of a tag's value, empty if it is missing."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value if value.strip() else ""
    number = float(value)  # type: ignore[arg-type]
    if not math.isfinite(number):
        return ""
    return f"{number:.0f}" if number.is_integer() and abs(number) < 1e15 else f"{number:.10g}"
