"""What a call in Python shows while it runs, and says of what is missing when it ends."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence

from molflowctl.compute.progress import progress_bars
from molflowctl.errors import FewerResults

__all__ = ["bar", "say_fewer"]

SAID = 5  # reasons


@contextlib.contextmanager
def bar(progress: bool, label: str) -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar on standard error, if one is wanted: called with how many of how many."""
    with progress_bars(not progress) as bars:
        task = bars.add_task(label, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def say_fewer(what: str, reasons: Sequence[str]) -> None:
    """Warn, at the line of the user who called the public function, of what is missing and why."""
    shown = [*reasons[:SAID], *([f"and {len(reasons) - SAID} more"] if reasons[SAID:] else [])]
    warnings.warn("; ".join([what, *shown]), FewerResults, stacklevel=3)
