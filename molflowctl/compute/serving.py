"""The life of a worker process: it answers batches until its parent closes the pipe."""

import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

from molflowctl.compute.plugins import receive

__all__ = ["Outcome", "attempt", "own_limit", "serve"]

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Outcome(Generic[R]):
    """What became of one item: its `value`, or in `error` the reason why there is none."""

    value: R | None = None
    error: str | None = None


def serve(descriptor: int, parent: int) -> None:
    """A worker's life: initialise, then answer batches until the parent closes the pipe."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    threading.Thread(target=_follow_to_the_grave, args=(parent,), daemon=True).start()
    os.set_inheritable(descriptor, False)
    connection = Connection(descriptor)

    def answer(message: Any) -> None:
        # Not `connection.send`: with it PyTorch hands over memory by a server of this process,
        # which asks for a secret that the parent does not have.
        connection.send_bytes(pickle.dumps(message))

    function: Callable[[Any], Any] = _unset
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent is gone
        files, message = connection.recv_bytes(), connection.recv_bytes()
        try:
            # Before anything else is unpickled: it may be made of what a plug-in defines.
            receive(pickle.loads(files))
            initializer, initargs = pickle.loads(message)
            if initializer is not None:
                initializer(*initargs)
        except Exception as error:
            answer(_describe(error))
            return
        answer(None)
        while True:
            message = connection.recv_bytes()
            try:
                payload, timeout, items = pickle.loads(message)
                if payload is not None:
                    function = pickle.loads(payload)
            except Exception as error:
                answer(_describe(error))
                return
            for item in items:
                signal.setitimer(signal.ITIMER_REAL, timeout or 0.0)
                outcome = attempt(function, item)
                signal.setitimer(signal.ITIMER_REAL, 0.0)
                try:
                    answer((outcome.value, outcome.error))
                except (pickle.PicklingError, TypeError, AttributeError) as error:
                    answer((None, f"its result cannot be sent: {error}"))


@contextmanager
def own_limit() -> Iterator[None]:
    """Stop the clock of the item under way: what runs inside has a time limit of its own."""
    left, _ = signal.setitimer(signal.ITIMER_REAL, 0.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, left)


def _unset(item: Any) -> Any:
    raise RuntimeError("no function was given")


def _follow_to_the_grave(parent: int) -> None:
    """End a calculation whose parent was killed and can no longer end it."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os.killpg(0, signal.SIGKILL)


def attempt(function: Callable[[T], R], item: T) -> Outcome[R]:
    """The outcome of one item: its failure is one too."""
    try:
        return Outcome(function(item))
    except (Exception, SystemExit) as error:  # the contract: an item's failure is its outcome
        return Outcome(error=_describe(error))


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
