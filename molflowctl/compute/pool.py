"""What every pool of workers has in common: an ordered map whose items fail one by one."""

from __future__ import annotations

import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any, Self, TypeVar

from molflowctl.compute.serving import Outcome
from molflowctl.errors import UserError

__all__ = ["Pool", "Unsendable", "checked_jobs", "dumps"]

T = TypeVar("T")
R = TypeVar("R")


class Pool(ABC):
    """What runs a map: long-lived, closed at the end of its `with` block.

    Attributes:
        jobs: items computed at once.
    """

    jobs: int

    def map(
        self,
        function: Callable[[T], R],
        items: Iterable[T],
        *,
        timeout: float | None = None,
        chunk: int = 8,
        progress: Callable[[int], object] | None = None,
    ) -> Iterator[Outcome[R]]:
        """Yield the `Outcome` of `function(item)` for every item, in order.

        Args:
            function: any callable, lambdas and functions of a notebook included.
            items: anything that pickles; may be endless.
            timeout: seconds that one item may take; then its worker is killed and replaced.
            chunk: items handed to a worker at a time (fewer where the items are few).
            progress: called with the number of outcomes so far, before each is yielded.

        Raises:
            UserError: a time limit or chunk that is not positive.
            RuntimeError: while iterating, if a worker cannot start or cannot load the function.
        """
        chunk = _checked_chunk(chunk, items, timeout, self.jobs)
        outcomes = self.outcomes(function, items, timeout, chunk)
        return outcomes if progress is None else _reporting(outcomes, progress)

    @abstractmethod
    def outcomes(
        self, function: Callable[[T], R], items: Iterable[T], timeout: float | None, chunk: int
    ) -> Iterator[Outcome[R]]:
        """What `map` yields; `chunk` items go to a worker at a time."""

    @abstractmethod
    def close(self) -> None:
        """End what runs. Another `map` would start it again."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def checked_jobs(jobs: int) -> int:
    """The number of jobs, or `UserError`."""
    if jobs < 1:
        raise UserError(f"the number of jobs is {jobs}; give 1 or more")
    return jobs


def _checked_chunk(chunk: int, items: Iterable[Any], timeout: float | None, jobs: int) -> int:
    """The chunk size, smaller where the items are few; `UserError` for a bad one or time limit."""
    if timeout is not None and not timeout > 0:
        raise UserError(f"the time limit is {timeout:g} s; give a positive number")
    if chunk < 1:
        raise UserError(f"the chunk size is {chunk}; give 1 or more")
    if isinstance(items, Sized):
        chunk = max(1, min(chunk, len(items) // (4 * jobs)))
    return chunk


def dumps(value: Any) -> bytes:
    """Pickle by value what a worker could not import: the functions of a script or notebook.

    Raises:
        Unsendable: it holds what only this process has, such as an open file or a lock.
    """
    import cloudpickle

    try:
        return cloudpickle.dumps(value)
    except (pickle.PicklingError, TypeError, AttributeError, RecursionError, OSError) as error:
        raise Unsendable(
            f"it cannot be sent to worker processes: {error}. Open files, locks and connections "
            "inside the function, or work in this process alone (one job and no time limit)."
        ) from None


class Unsendable(UserError):
    """What only this process has, so that no worker process can be given it."""


def _reporting(
    outcomes: Iterator[Outcome[R]], progress: Callable[[int], object]
) -> Iterator[Outcome[R]]:
    """The outcomes, counted to `progress` before each is yielded."""
    for count, outcome in enumerate(outcomes, start=1):
        progress(count)
        yield outcome
