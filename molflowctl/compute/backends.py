"""The map of `molflowctl.compute.parallel` on joblib's workers and on a Ray cluster.

Neither can end one running item, and both lose more than the item that takes a worker down. So a
task here is a chunk of items that its worker hands to a `WorkerPool` of one process of its own:
that process is what a time limit or a crash ends. Ray runs a chunk again when its node dies.
"""

import contextlib
import logging
import os
import secrets
import socket
import sys
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

from molflowctl.compute.plugins import Plugin, receive, shipped
from molflowctl.compute.pool import Pool, checked_jobs, dumps
from molflowctl.compute.serving import Outcome
from molflowctl.compute.workers import LOOKAHEAD, WorkerPool
from molflowctl.errors import UserError

__all__ = ["JoblibPool", "RayPool"]

T = TypeVar("T")
R = TypeVar("R")

_RETRIES = 5  # nodes that a chunk may see die
_INSTALL = "is not installed: pip install 'molflowctl[cluster]'"

_child: WorkerPool | None = None  # of this joblib or Ray worker, kept between chunks


def _run(
    plugins: tuple[Plugin, ...], payload: bytes, timeout: float | None, items: list[Any]
) -> list[Outcome[Any]]:
    """One chunk, in a joblib or Ray worker."""
    global _child
    receive(plugins)
    if _child is None:
        _child = WorkerPool(1, isolate=True)
    return list(_child.map_pickled(payload, items, timeout, len(items)))


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    source = iter(items)
    while chunk := list(islice(source, size)):
        yield chunk


class _ChunkPool(Pool):
    """A `Pool` whose workers are given the function pickled, and chunks of items."""

    def outcomes(
        self, function: Callable[[T], R], items: Iterable[T], timeout: float | None, chunk: int
    ) -> Iterator[Outcome[R]]:
        return self._sent(dumps(function), items, timeout, chunk)  # pickled now, not when drawn

    @abstractmethod
    def _sent(
        self, payload: bytes, items: Iterable[Any], timeout: float | None, chunk: int
    ) -> Iterator[Outcome[Any]]:
        """The outcomes of the pickled function."""


class JoblibPool(_ChunkPool):
    """A `Pool` of joblib's workers (loky, unless `joblib.parallel_config` names another backend).

    Joblib draws the items from a thread.

    Raises:
        UserError: joblib is not installed; fewer than one job.
    """

    def __init__(self, jobs: int) -> None:
        try:
            import joblib  # noqa: F401  (here to fail before any work)
        except ImportError:
            raise UserError(f"joblib {_INSTALL}") from None
        self.jobs = checked_jobs(jobs)

    def _sent(
        self, payload: bytes, items: Iterable[Any], timeout: float | None, chunk: int
    ) -> Iterator[Outcome[Any]]:
        from joblib import Parallel, delayed

        parallel = Parallel(
            n_jobs=self.jobs,
            return_as="generator",
            batch_size=1,
            pre_dispatch=4 * self.jobs,
        )
        tasks = (delayed(_run)(shipped(), payload, timeout, part) for part in _chunks(items, chunk))
        for outcomes in parallel(tasks):
            yield from outcomes

    def close(self) -> None:
        """End the calculation of this process; joblib ends its idle workers by itself."""
        if _child is not None:
            _child.close()


class RayPool(_ChunkPool):
    """A `Pool` on a Ray cluster: each item at a CPU of a node, retried if the node dies.

    The items of a chunk whose nodes died too often fail.

    A connection that was there already is used and left open. A cluster that is started here
    listens on this machine alone and asks for a token; another one listens where its owner says.

    Args:
        jobs: chunks that run at once; default the cluster's CPUs.
        address: `host:port`, or `auto`: `RAY_ADDRESS`, else a running one of this machine; default
            `RAY_ADDRESS`, else a new cluster of this machine.

    Raises:
        UserError: Ray is not installed, there is no such cluster, an address although connected,
            fewer than one job.
    """

    def __init__(self, jobs: int | None = None, address: str | None = None) -> None:
        named = address
        if address in (None, "auto"):  # Ray lets the variable win over "auto" too
            named = os.environ.get("RAY_ADDRESS") or address
        local = named is None
        if local and "ray" not in sys.modules:  # it reads these once, when it is imported
            os.environ.setdefault("RAY_AUTH_MODE", "token")
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        try:
            import ray
        except ImportError:
            raise UserError(f"ray {_INSTALL}") from None
        if jobs is not None:
            checked_jobs(jobs)
        self._private = contextlib.ExitStack()
        self._connected_here = not ray.is_initialized()
        if address is not None and not self._connected_here:
            raise UserError(f"Ray is connected already: leave the address {address} out")
        if self._connected_here:
            if named is not None:
                _check_reachable(named)
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
            if local:
                self._private.enter_context(_private_cluster())
            try:
                ray.init(
                    "local" if local else address,  # not one that happens to run on this machine
                    num_cpus=jobs if local else None,  # a running cluster knows its own
                    include_dashboard=False if local else None,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
            except (ConnectionError, ValueError, RuntimeError) as error:
                self._private.close()
                reason = str(error).splitlines()[0]
                raise UserError(f"no Ray cluster at {named or 'this machine'}: {reason}") from None
        self.jobs = jobs or max(1, int(ray.cluster_resources().get("CPU", 1)))

    def _sent(
        self, payload: bytes, items: Iterable[Any], timeout: float | None, chunk: int
    ) -> Iterator[Outcome[Any]]:
        import ray

        task = ray.remote(num_cpus=1, max_retries=_RETRIES)(_run)
        function, plugins = ray.put(payload), shipped()
        chunks = enumerate(_chunks(items, chunk))
        flying: dict[ray.ObjectRef, tuple[int, int]] = {}  # chunk number and its size
        landed: dict[int, list[Outcome[Any]]] = {}
        drawn = due = 0
        try:
            while True:
                room = min(self.jobs - len(flying), due + LOOKAHEAD * self.jobs - drawn)
                for number, part in islice(chunks, max(0, room)):
                    flying[task.remote(plugins, function, timeout, part)] = number, len(part)
                    drawn = number + 1
                if not flying:
                    return
                (reference, *_), _ = ray.wait(list(flying), num_returns=1)
                number, size = flying.pop(reference)
                landed[number] = _fetch(reference, size)
                while due in landed:
                    yield from landed.pop(due)
                    due += 1
        finally:
            for reference in flying:  # an error, Ctrl-C or a consumer that left early
                ray.cancel(reference, force=True)

    def close(self) -> None:
        """Leave the cluster, or end it if it was started here."""
        if self._connected_here:
            import ray

            ray.shutdown()
            self._private.close()


@contextlib.contextmanager
def _private_cluster() -> Iterator[None]:
    """Ray started in this block listens on this machine alone.

    On Linux Ray binds to every interface, whatever address it is given, unless this variable says
    that there is no cluster of several machines. Its processes read the variable, this one has read
    it already.
    """
    from ray._private import ray_constants

    name = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
    earlier, several = os.environ.get(name), getattr(ray_constants, "ENABLE_RAY_CLUSTER", True)
    os.environ[name], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = several
        os.environ.pop(name)
        if earlier is not None:
            os.environ[name] = earlier


def _check_reachable(address: str) -> None:
    """Ray itself tries for minutes before it says that nobody is there."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon or not port.isdecimal():
        return  # "auto" and "local", which it answers at once
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"no Ray cluster at {address}: {error}") from None


def _fetch(reference: Any, size: int) -> list[Outcome[Any]]:
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        return ray.get(reference)
    except RayTaskError as error:  # not an item's failure, which is an outcome
        raise RuntimeError(f"a Ray worker cannot compute: {error.cause or error}") from error
    except RayError as error:
        lost: Outcome[Any] = Outcome(error=f"lost by the cluster: {type(error).__name__}")
        return [lost] * size
