"""Worker processes that can be killed, and the ordered map over them.

A worker is a fresh Python process (nothing is forked from a parent that holds threads or a GPU,
and the parent's script is not imported again) with one numerical thread. The kernel's own timer
enforces the limit inside the worker: `SIGALRM`, left at its default action, ends the process
whatever native code is running, also while the parent is busy elsewhere. POSIX only.

Why not an existing pool: `concurrent.futures` and loky lose every pending item with one crashed
worker and cannot end a running one; pebble can, but waits for ever for a worker that exits with
status 0, as a Fortran `stop` does.
"""

import json
import os
import pickle
import select
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from multiprocessing.connection import Pipe
from typing import Any, TypeVar

from molflowctl.compute.plugins import shipped
from molflowctl.compute.pool import Pool, checked_jobs, dumps
from molflowctl.compute.serving import Outcome, attempt

__all__ = ["KEEP_MEMORY", "Outcome", "WorkerPool", "cores"]

T = TypeVar("T")
R = TypeVar("R")

LOOKAHEAD = 32  # chunks per worker that may be drawn ahead of the outcome due next
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
# glibc hands freed memory back to the kernel and faults it in again: kept, an eager network on a
# CPU takes a third of the time. Read once, when a process starts; other C libraries ignore it.
KEEP_MEMORY = {
    "MALLOC_TRIM_THRESHOLD_": "20000000000",
    "MALLOC_MMAP_THRESHOLD_": "20000000000",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TOP_PAD_": "500000000",
}
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from molflowctl.compute.serving import serve; serve(int(sys.argv[2]), int(sys.argv[3]))"
)


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class WorkerPool(Pool):
    """Long-lived worker processes, started when first needed and reused by every `map`.

    Args:
        jobs: number of workers. One job without a time limit runs in this process.
        initializer: called with `initargs` once in each worker, before any time limit runs.
        isolate: use a worker even for one job without a time limit, so that a crash is its own.

    Raises:
        UserError: fewer than one job.
    """

    def __init__(
        self,
        jobs: int = 1,
        *,
        initializer: Callable[..., object] | None = None,
        initargs: Sequence[Any] = (),
        isolate: bool = False,
    ) -> None:
        self.jobs = checked_jobs(jobs)
        self._isolate = isolate
        self._initializer = initializer
        self._initargs = tuple(initargs)
        self._initialized_here = False
        self._workers: list[_Worker] = []
        self._mapping = False

    def close(self) -> None:
        """Kill the workers at once. Another `map` would start new ones."""
        while self._workers:
            self._workers.pop().kill()

    def outcomes(
        self, function: Callable[[T], R], items: Iterable[T], timeout: float | None, chunk: int
    ) -> Iterator[Outcome[R]]:
        """See `Pool`."""
        if self.jobs == 1 and timeout is None and not self._isolate:
            return self._serial(function, items)
        return self.map_pickled(dumps(function), items, timeout, chunk)

    def _serial(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[Outcome[R]]:
        if self._initializer is not None and not self._initialized_here:
            self._initializer(*self._initargs)
            self._initialized_here = True
        for item in items:
            yield attempt(function, item)

    def map_pickled(
        self, payload: bytes, items: Iterable[T], timeout: float | None, chunk: int
    ) -> Iterator[Outcome[Any]]:
        """`map` of a function that is pickled already; always in worker processes."""
        if self._mapping:
            raise RuntimeError("this pool is in the middle of another map: use a second pool")
        source = enumerate(items)
        source_ended = False
        left_behind: deque[tuple[int, T]] = deque()  # by a dead worker, not yet begun
        finished: dict[int, Outcome[Any]] = {}  # waiting for their turn
        drawn = due = 0

        def next_batch() -> list[tuple[int, T]]:
            nonlocal drawn, source_ended
            if left_behind:
                return [left_behind.popleft() for _ in range(min(chunk, len(left_behind)))]
            room = max(0, min(chunk, due + LOOKAHEAD * self.jobs * chunk - drawn))
            batch = list(islice(source, room))
            drawn += len(batch)
            source_ended = len(batch) < room
            return batch

        self._mapping = True
        try:
            while True:
                while len(self._busy()) < self.jobs and (batch := next_batch()):
                    self._idle_worker().give(payload, timeout, batch)
                while due in finished:
                    yield finished.pop(due)
                    due += 1
                busy = {worker.connection.fileno(): worker for worker in self._busy()}
                if not busy:
                    if source_ended:
                        return
                    continue  # the look-ahead was used up; now there is room
                waiting = select.poll()  # `connection.wait` takes ten times as long
                for descriptor in busy:
                    waiting.register(descriptor, select.POLLIN)
                for descriptor, _ in waiting.poll():
                    worker = busy[descriptor]
                    try:
                        message = pickle.loads(worker.connection.recv_bytes())
                    except (EOFError, OSError):
                        self._workers.remove(worker)
                        index = worker.batch.popleft()[0]
                        left_behind.extend(worker.batch)
                        finished[index] = Outcome(error=worker.cause_of_death(timeout))
                        continue
                    if isinstance(message, tuple):
                        finished[worker.batch.popleft()[0]] = Outcome(*message)
                    elif message is None:
                        worker.ready = True
                    else:
                        raise RuntimeError(f"a worker process cannot begin: {message}")
        finally:
            # Workers are busy here only after an error, Ctrl-C or a consumer that left early.
            for worker in self._busy():
                self._workers.remove(worker)
                worker.kill()
            self._mapping = False

    def _busy(self) -> "list[_Worker]":
        return [worker for worker in self._workers if worker.batch]

    def _idle_worker(self) -> "_Worker":
        for worker in [worker for worker in self._workers if not worker.batch]:
            if worker.process.poll() is None and worker.plugins == shipped():
                return worker
            self._workers.remove(worker)  # died between two maps, or lacks a plug-in
            worker.kill()
        self._workers.append(_Worker(self._initializer, self._initargs))
        return self._workers[-1]


class _Worker:
    """The parent's end of one worker process.

    The worker sends `None` once it is ready, value and error of each item in order, or a string
    that says why it gives up (initializer failed, function cannot be loaded).
    """

    def __init__(
        self, initializer: Callable[..., object] | None, initargs: tuple[Any, ...]
    ) -> None:
        self.connection, theirs = Pipe()
        path = json.dumps([entry or os.getcwd() for entry in sys.path])
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", _BOOT, path, str(theirs.fileno()), str(os.getpid())],
                env={**os.environ, **_ONE_THREAD, **KEEP_MEMORY},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=2,  # native code may print; the parent's stdout may be data
                process_group=0,  # Ctrl-C reaches the parent alone, which kills the workers
            )
        self.batch: deque[tuple[int, Any]] = deque()  # given, outcome not yet received
        self.ready = False
        self._payload: bytes | None = None
        self.plugins = shipped()
        self._send(pickle.dumps(self.plugins))
        self._send(dumps((initializer, initargs)))

    def give(self, payload: bytes, timeout: float | None, batch: list[tuple[int, Any]]) -> None:
        """Queue a batch on an idle worker, which is reading, so that this cannot deadlock."""
        self.batch.extend(batch)
        known = payload is self._payload
        self._payload = payload
        items = [item for _, item in batch]
        self._send(pickle.dumps((None if known else payload, timeout, items)))

    def _send(self, message: bytes) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # reading will tell of its death
            self.connection.send_bytes(message)

    def cause_of_death(self, timeout: float | None) -> str:
        self.kill()
        status = self.process.returncode
        if not self.ready:
            raise RuntimeError(
                f"a worker process ended with status {status} while starting; see its message above"
            )
        if status == -signal.SIGALRM and timeout is not None:
            return f"timed out after {timeout:g} s"
        if status < 0:
            return f"its process was killed by {signal.Signals(-status).name}"
        return f"its process exited with status {status}"

    def kill(self) -> None:
        """End the process and whatever it started; a status it already has is kept."""
        if self.process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.connection.close()
