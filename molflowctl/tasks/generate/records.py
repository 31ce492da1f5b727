"""Which attempts the records of a drawn library are of, and which of them are delivered."""

from __future__ import annotations

import sys
from pathlib import Path

from molflowctl.io.library import read_records

__all__ = ["count_delivered", "index_of", "is_delivered"]


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
