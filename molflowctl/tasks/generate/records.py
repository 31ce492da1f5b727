"""Records of a drawn library: of which attempt, whether delivered; and the lines of a summary."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from molflowctl.chem.graphs import FAILURE_REASONS
from molflowctl.io.library import read_records

if TYPE_CHECKING:  # which is built on this module
    from molflowctl.tasks.generate.denovo import Generated

__all__ = ["count_delivered", "describe", "index_of", "is_delivered"]


def index_of(record: str) -> int:
    """The attempt of an SDF record, from its title; beyond all of them for a foreign record."""
    number = record.split("\n", 1)[0].removeprefix("mfc-")
    return int(number) if number.isdecimal() else sys.maxsize


def is_delivered(record: str) -> bool:
    """Whether the record is of a molecule, and not of an attempt that failed."""
    return "<invalid_reason>" not in record


def count_delivered(library: Path, attempts: int) -> int:
    """Delivered molecules among the first `attempts` ones."""
    return sum(index_of(r) < attempts and is_delivered(r) for r in read_records(library))


def describe(state: Generated) -> list[tuple[str, str]]:
    """The lines of a summary: label and figure."""

    def share(part: int, whole: int) -> str:
        return f"{part:,} ({part / whole:.1%})" if whole else "0"

    lines = [
        ("attempts", f"{state.attempts:,}"),
        ("valid, delivered", share(state.valid, state.attempts)),
        ("unique", share(state.unique, state.valid)),
    ]
    if state.novel is not None:
        lines.append(("novel", share(state.novel, state.unique)))
    lines += [
        (f"failed: {reason}", f"{share(n, state.attempts)}  {FAILURE_REASONS.get(reason, '')}")
        for reason, n in state.failures.items()
    ]
    lines += state.rejections.described(state.valid)
    rate = state.attempts / state.seconds if state.seconds else math.nan
    lines.append(("time", f"{state.seconds:.0f} s, {rate:.1f} molecules/s"))
    return lines
