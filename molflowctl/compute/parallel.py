"""One ordered map over processes that can be killed, here or on a cluster.

`open_pool` gives a `Pool` by the name of its backend:

    processes   `WorkerPool`, worker processes of this machine; the default
    serial      one item after another in this process, without a time limit, for debugging
    joblib      joblib's workers, or whatever `joblib.parallel_config` names
    ray         the nodes of a Ray cluster

All yield the same outcomes: joblib's and Ray's workers hand each item to a `WorkerPool` of one
worker of their own (`molflowctl.compute.backends`), so the time limit and the reasons are those
below.

`pmap` and `Pool.map` yield one `Outcome` per item, in the order of the items, whatever the
number of workers. An item that raises, runs past its time limit or takes its process down costs
itself only: its outcome carries the reason and the others go on. Items are drawn lazily, so an
endless iterator is fine and memory stays flat.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from molflowctl.compute.pool import Pool
from molflowctl.compute.workers import KEEP_MEMORY, Outcome, WorkerPool, cores
from molflowctl.errors import UserError

__all__ = [
    "BACKENDS",
    "KEEP_MEMORY",
    "Outcome",
    "Pool",
    "WorkerPool",
    "cores",
    "open_pool",
    "pmap",
]

T = TypeVar("T")
R = TypeVar("R")

BACKENDS = ("processes", "serial", "joblib", "ray")


def open_pool(
    jobs: int | None = None, backend: str = "processes", address: str | None = None
) -> Pool:
    """The pool of a backend, one of `BACKENDS`. Outcomes do not depend on the choice.

    Args:
        jobs: items computed at once; default one per core of this machine, with Ray per core of
            the cluster. Always one with `serial`.
        backend: `processes`, `serial`, `joblib` or `ray`.
        address: of a running Ray cluster (`host:port`, or `auto`); default what `RAY_ADDRESS`
            names, else a cluster of this machine alone. Ray's nodes need molflowctl installed.

    Raises:
        UserError: unknown backend, package not installed, cluster not found, fewer than one job.
    """
    if address is not None and backend != "ray":
        raise UserError(
            f"the address {address} is of a Ray cluster: choose the backend ray with it"
        )
    if backend == "processes":
        return WorkerPool(cores() if jobs is None else jobs)
    if backend == "serial":
        return SerialPool()
    if backend == "joblib":
        from molflowctl.compute.backends import JoblibPool

        return JoblibPool(cores() if jobs is None else jobs)
    if backend == "ray":
        from molflowctl.compute.backends import RayPool

        return RayPool(jobs, address)
    raise UserError(f"unknown backend {backend!r}: there are {', '.join(BACKENDS)}")


def pmap(
    function: Callable[[T], R],
    items: Iterable[T],
    jobs: int = 1,
    *,
    timeout: float | None = None,
    initializer: Callable[..., object] | None = None,
    initargs: Sequence[Any] = (),
    chunk: int = 8,
    progress: Callable[[int], object] | None = None,
) -> Iterator[Outcome[R]]:
    """Map with a `WorkerPool` of its own, closed at the end; arguments as there."""
    pool = WorkerPool(jobs, initializer=initializer, initargs=initargs)
    outcomes = pool.map(function, items, timeout=timeout, chunk=chunk, progress=progress)

    def closing() -> Iterator[Outcome[R]]:
        with pool:
            yield from outcomes

    return closing()


class SerialPool(Pool):
    """One item after another in this process, where a debugger and a profiler can look."""

    jobs = 1

    def outcomes(
        self, function: Callable[[T], R], items: Iterable[T], timeout: float | None, chunk: int
    ) -> Iterator[Outcome[R]]:
        """See `Pool`.

        Raises:
            UserError: a time limit, which nobody could enforce here.
        """
        if timeout is not None:
            raise UserError("the backend serial has no time limit: leave it out, or use processes")
        return WorkerPool(1).outcomes(function, items, timeout, chunk)

    def close(self) -> None:
        """Nothing to end."""
