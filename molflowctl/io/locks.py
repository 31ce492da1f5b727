"""One run at a time writes an output.

The lock of an output is `.<name>.lock` beside it, held by the system for as long as its process
lives (`flock`): that of a dead process is free, whoever has its number now.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, Self, TypeVar

from molflowctl.errors import UserError
from molflowctl.io.atomic import cannot_write, tidy
from molflowctl.io.plain_files import quoted

__all__ = ["OutputLock", "one_writer"]

_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}
P = ParamSpec("P")
R = TypeVar("R")


class _Held:
    """A lock that this process holds."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor, self.thread, self.depth = descriptor, threading.get_ident(), 0


_held: dict[Path, _Held] = {}


def one_writer(
    out: Callable[P, str | os.PathLike[str]], *, folder: bool = False
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A function that writes the output `out(arguments)` holds its lock for as long as it runs."""

    def locked(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> R:
            with OutputLock(out(*args, **kwargs), folder=folder):
                return function(*args, **kwargs)

        return run

    return locked


class OutputLock:
    """The right to write one output, a file or a folder, for as long as the `with` block lasts.

    Blocks of one thread may be nested. Streams need no lock, and are not given one.

    Arguments:
        folder: it is one, and is made with the folders above it, if need be.

    Raises:
        UserError: another run writes it; its process and start time are said.
    """

    def __init__(self, out: str | os.PathLike[str], *, folder: bool = False) -> None:
        self.out, self._folder = Path(out), folder
        self._file: Path | None = None
        if "\0" in os.fspath(out):
            raise UserError(f"cannot write {quoted(str(out))}: no name holds a zero byte.")

    def acquire(self) -> Self:
        """As entering the block does; to be released once."""
        if self._file is not None:
            raise RuntimeError(f"the lock of {self.out} is held by this very object")
        if str(self.out) == "-" or (self.out.exists() and not self._is_plain()):
            return self
        file = self._place()
        mine = _held.get(file)
        if mine is None or mine.thread != threading.get_ident():
            try:
                descriptor = self._lock(file)
            except OSError as error:
                raise cannot_write(self.out, error) from error
            mine = _held[file] = _Held(descriptor)
        mine.depth += 1
        self._file = file
        return self

    def release(self) -> None:
        """As leaving the block does; a second time does nothing."""
        file, self._file = self._file, None
        if file is None or (mine := _held.get(file)) is None:
            return
        mine.depth -= 1
        if mine.depth == 0:
            del _held[file]
            with contextlib.suppress(OSError):
                file.unlink()  # while it is held, so that it is this one
            os.close(mine.descriptor)

    def __enter__(self) -> Self:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def __del__(self) -> None:
        self.release()

    def _is_plain(self) -> bool:
        return self.out.is_file() or self.out.is_dir()

    def _place(self) -> Path:
        out = self.out.resolve() if self.out.is_dir() else self.out.parent.resolve() / self.out.name
        if out.parent.exists() and not out.parent.is_dir():
            raise UserError(f"cannot write {self.out}: {self.out.parent} is a file, not a folder")
        if not out.parent.exists() and not self._folder:
            raise UserError(f"cannot write {self.out}: there is no folder {self.out.parent}")
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            why = error.strerror or error
            raise UserError(f"Cannot write {self.out}: {why}. Choose another place.") from error
        if out.is_dir() and not os.access(out.parent, os.W_OK):
            return out / ".lock"  # the mount point of a container, for instance
        return out.parent / f".{out.name}.lock"

    def _lock(self, file: Path) -> int:
        while True:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(file, flags, 0o666)
            try:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    owner = _owner(descriptor, wait=False)
                except BlockingIOError:
                    raise self._taken(_owner(descriptor, wait=True)) from None
                except OSError as error:
                    if error.errno not in _NO_LOCKS:
                        raise
                    owner = _owner(descriptor, wait=False)
                    if _may_live(owner):  # no locks on this disk: what was written counts
                        raise self._taken(owner) from None
                with contextlib.suppress(OSError):
                    if os.path.samestat(os.fstat(descriptor), os.stat(file)):
                        _sign(descriptor)
                        if owner:
                            tidy(file.parent, self.out)
                        return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # its owner has just removed it: once more

    def _taken(self, owner: dict[str, Any]) -> UserError:
        who = f"process {owner['pid']}" if owner else "another process"
        if owner and owner.get("host") != socket.gethostname():
            who += f" on {owner.get('host')}"
        since = f", started {owner['started']}" if owner else ""
        return UserError(
            f"{self.out} is being written by another run ({who}{since}): wait for its end, or "
            "choose another output."
        )


def _sign(descriptor: int) -> None:
    """Write who holds a lock."""
    content = {
        "pid": os.getpid(),
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
        "host": socket.gethostname(),
        "process_start": _process_start(os.getpid()),
    }
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(content).encode(), 0)


def _owner(descriptor: int, *, wait: bool) -> dict[str, Any]:
    """Who signed a lock, empty if nobody has; `wait` for one who has it but is about to sign."""
    for _ in range(50 if wait else 1):
        with contextlib.suppress(ValueError):
            content = json.loads(os.pread(descriptor, 4096, 0))
            if isinstance(content, dict) and {"pid", "started"} <= content.keys():
                return content
        if wait:
            time.sleep(0.01)
    return {}


def _may_live(owner: dict[str, Any]) -> bool:
    """Whether the process that signed may still run; one of another machine may."""
    if not owner:
        return False
    if owner.get("host") != socket.gethostname():
        return True
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    # Another process may have its number now; that one began at another time.
    return bool(_process_start(owner["pid"]) == owner.get("process_start"))


def _process_start(pid: int) -> str:
    """When a process began, in clock ticks since the machine did; empty where nobody says."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
