"""What came of scoring a library: counts by column, and how they are told."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from molflowctl.io.library import Record
from molflowctl.tasks.failures import Failures
from molflowctl.tasks.scoring.geometries import (
    Decisions,
)

__all__ = [
    "NOTES",
    "Column",
    "Scored",
    "describe",
    "reasons",
]

NOTES = 1000  # of single records, that are kept


@dataclass
class Column:
    """The values of one column so far."""

    name: str
    unit: str
    values: array[float] = field(default_factory=lambda: array("d"))

    def statistics(self) -> dict[str, float]:
        """n, failed, and of the n: mean, sd (n - 1), min, median, max; NaN where undefined."""
        numbers = np.array(self.values)
        good = numbers[np.isfinite(numbers)]
        n = len(good)
        return {
            "n": n,
            "failed": len(numbers) - n,
            "mean": float(good.mean()) if n else math.nan,
            "sd": float(good.std(ddof=1)) if n > 1 else math.nan,
            "min": float(good.min()) if n else math.nan,
            "median": float(np.median(good)) if n else math.nan,
            "max": float(good.max()) if n else math.nan,
        }


@dataclass
class Scored:
    """How a scoring went.

    Attributes:
        columns: values by column, of every molecule that was written.
        read: records of the library so far.
        written: molecules in the output.
        unreadable: records without a molecule, by reason.
        unreadable_reference: the same of the reference.
        decisions: about salts, open stereo and first geometries; molecules that got none.
        failed: by property, molecules without its value, by reason.
        cached: values and conformers that were known before.
        damaged: results of the cache that were damaged, and were computed again.
        seconds: wall time.
        complete: the library was read to its end.
        notes: what is to be said of the input, the first of it; failures: what failed, by record.
        own_columns: names of the columns computed here, or by an earlier run that the input is of.
    """

    columns: dict[str, Column]
    read: int = 0
    written: int = 0
    unreadable: Counter[str] = field(default_factory=Counter)
    unreadable_reference: Counter[str] = field(default_factory=Counter)
    decisions: Decisions = field(default_factory=Decisions)
    failed: dict[str, Counter[str]] = field(default_factory=dict)
    cached: int = 0
    damaged: int = 0
    seconds: float = 0.0
    complete: bool = False
    notes: list[str] = field(default_factory=list)
    failures: Failures | None = None
    own_columns: list[str] = field(default_factory=list)

    @property
    def fewer(self) -> bool:
        """Whether there are fewer results than were asked for."""
        return bool(self.unreadable or self.decisions.without or self.failed)

    def fail(self, record: Record, reason: str) -> None:
        """Note what failed of a record."""
        if self.failures is not None:
            self.failures.add(record, reason)


def describe(state: Scored) -> list[tuple[str, ...]]:
    """The summary table: a row of texts for each column, headings first."""
    headings: tuple[str, ...] = (
        "property",
        "n",
        "failed",
        "mean",
        "sd",
        "min",
        "median",
        "max",
        "unit",
    )
    rows = [headings]
    for column in state.columns.values():
        figures = column.statistics()
        counts = [f"{int(figures.pop(name)):,}" for name in ("n", "failed")]
        numbers = ["" if math.isnan(v) else f"{v:.5g}" for v in figures.values()]
        rows.append((column.name, *counts, *numbers, column.unit))
    return rows


def reasons(state: Scored) -> list[str]:
    """One line for each reason why a result is missing, the most frequent first."""
    counts = [
        ("left out", state.unreadable),
        ("unreadable in the reference", state.unreadable_reference),
        ("no geometry", state.decisions.without),
    ]
    return [
        f"{count:,} x {what}: {reason}"
        for what, counter in [*counts, *state.failed.items()]
        for reason, count in counter.most_common()
    ]
