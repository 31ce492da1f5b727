"""Progress of the long tasks, on standard error: done, rate, time left; bars, in a log lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from datetime import timedelta
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

__all__ = ["LINE_SECONDS", "progress_bars"]

LINE_SECONDS = 60.0  # between two lines of a log
T = TypeVar("T")
SURE = 0.1  # of the whole, done before the speed is told


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.3g}/s" if speed else "")


class _Lines(Progress):
    """A line a minute, where nobody would see a bar move."""

    def __init__(self, console: Console) -> None:
        super().__init__(console=console, disable=True, speed_estimate_period=600)
        self._told = time.monotonic()

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self._tell(task_id)

    def update(self, task_id: TaskID, **changes: Any) -> None:
        super().update(task_id, **changes)
        self._tell(task_id)

    def track(  # type: ignore[override]
        self, sequence: Iterable[T], total: float | None = None, description: str = "working"
    ) -> Iterator[T]:
        """As that of bars, which counts only while they are shown."""
        if total is None and isinstance(sequence, Sized):
            total = len(sequence)
        task = self.add_task(description, total=total)
        for item in sequence:
            yield item
            self.advance(task)

    def _tell(self, task_id: TaskID) -> None:
        now = time.monotonic()
        if now - self._told < LINE_SECONDS or task_id not in self._tasks:
            return
        self._told = now
        task = self._tasks[task_id]
        words = [f"{task.description}: {task.completed:,.0f}"]
        if task.total:
            words[0] += f" of {task.total:,.0f}"
        # What comes in order comes late at first: a speed that is told too soon is far too low.
        if task.speed and task.completed >= SURE * (task.total or 0):
            words.append(f"{task.speed:.3g}/s")
            if (left := task.time_remaining) and not task.finished:
                words.append(f"about {timedelta(seconds=round(left))} left")
        print(", ".join(words), file=sys.stderr, flush=True)


def progress_bars(quiet: bool = False) -> Progress:
    """A context manager; `.track(items, total=, description=)` inside it is one bar.

    Where standard error is no terminal and no notebook, it is a line a minute instead.
    """
    console = Console(stderr=True)
    if not (quiet or console.is_terminal or console.is_jupyter):
        return _Lines(console)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
        console=console,
        disable=quiet,
    )
