"""One writer for every result: whole or not at all, and one run at a time.

What is written goes to a temporary name beside its own, opened exclusively (a link or a file that
is there already is never followed or taken), is put on the disk, and then takes the name in one
step. A kill or a full disk therefore leaves what was there before. A folder is replaced as one: two
folders change their names in a single step where the system can do that.

Names: `.<name>.<token>.tmp` for what is written at once, `<name>.<token>.partial` for what grows
for as long as a run lasts and can be resumed. `<name>` is the output's, `<token>` is random.

The lock of an output is `.<name>.lock` beside it, held by the system for as long as its process
lives (`flock`): that of a dead process is free, whoever has its number now.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import json
import os
import re
import secrets
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, ParamSpec, Self, TypeVar, cast

from molflowctl.errors import UserError

__all__ = [
    "OutputLock",
    "cannot_write",
    "leftovers",
    "one_writer",
    "open_new",
    "partial_name",
    "publish",
    "replace_folder",
    "replacing_file",
    "replacing_folder",
    "write_file",
    "write_files",
]

_TOKEN = "[0-9a-f]{12}"
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}
_EXCHANGE = 2  # RENAME_EXCHANGE of renameat2
_AT_FDCWD = -100
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
P = ParamSpec("P")
R = TypeVar("R")


def cannot_write(path: str | os.PathLike[str], error: OSError) -> UserError:
    """What to tell the user of a failed write: the output's name, not a temporary one."""
    return UserError(f"cannot write {path}: {error.strerror or error}")


# Files --------------------------------------------------------------------------------------------


def open_new(path: Path) -> BinaryIO:
    """Open a file that must not exist yet; a link of that name is not followed.

    Raises:
        OSError: it exists, or cannot be made.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    # Unbuffered: what a full disk refuses stays nowhere to be refused again.
    return cast(BinaryIO, os.fdopen(os.open(path, flags, 0o666), "w+b", buffering=0))


def partial_name(path: Path) -> Path:
    """A new name for what grows into `path`: `<name>.<token>.partial`."""
    return path.with_name(f"{path.name}.{secrets.token_hex(6)}.partial")


def leftovers(path: Path, end: str = "") -> list[Path]:
    """What killed or interrupted runs left of `path`, oldest first; no links.

    Arguments:
        end: of the names of other files that belong to them.
    """
    own = re.compile(rf"{re.escape(path.name)}\.{_TOKEN}\.partial{re.escape(end)}")
    try:
        found = [p for p in path.parent.iterdir() if own.fullmatch(p.name) and not p.is_symlink()]
        return sorted(found, key=lambda p: (p.stat().st_mtime_ns, p.name))
    except OSError:  # no such folder, or one of them went just now
        return []


def write_file(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Write a file whole.

    Raises:
        UserError: if it cannot be written; what was there stays.
    """
    write_files({Path(path): content})


def write_files(contents: Mapping[Path, bytes | str]) -> None:
    """Write files that belong together: each whole, then all their names one after another.

    Raises:
        UserError: if one cannot be written; what was there stays.
    """
    pairs: list[tuple[Path, Path]] = []
    target = Path()
    try:
        for target, content in contents.items():
            pairs.append((_temporary(target), target))
            with open_new(pairs[-1][0]) as file:
                rest = memoryview(content.encode() if isinstance(content, str) else content)
                while rest:  # an unbuffered file may take a part
                    rest = rest[file.write(rest) :]
        publish(pairs)
    except OSError as error:
        raise cannot_write(target, error) from error
    finally:
        for temporary, _ in pairs:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary file, empty, that takes the name `path` when the block ends well.

    Raises:
        UserError: if it cannot be written; what was there stays.
    """
    target = Path(path)
    temporary = _temporary(target)
    try:
        open_new(temporary).close()
        try:
            yield temporary
            publish([(temporary, target)])
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error


def publish(pairs: list[tuple[Path, Path]]) -> None:
    """Put files on the disk, then give them their names, one right after the other.

    Nothing but a kill or a loss of power can come between two of them.

    Raises:
        OSError: if it cannot be done.
    """
    for source, _ in pairs:
        _sync(source)
    masked = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
    try:
        for source, target in pairs:
            os.replace(source, target)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, masked)
    for folder in {target.parent for _, target in pairs}:
        _sync(folder)


# Folders ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder` that takes its name when the block ends well.

    Raises:
        UserError: if it cannot be written; what was there stays.
    """
    target = folder.resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary(target)
        temporary.mkdir()
        try:
            yield temporary
            replace_folder(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        why = error.strerror or error
        raise UserError(f"Cannot write {folder}: {why}. Choose another place.") from error


def replace_folder(fresh: Path, folder: Path) -> None:
    """Give `fresh`, beside it, the name of `folder`, in one step where the system can.

    Where it cannot, `folder` is away for an instant. What it held is removed.

    Raises:
        OSError: if it cannot be done; `folder` is then as it was.
    """
    for place, _, names in os.walk(fresh):
        for name in names:
            _sync(Path(place, name))
        _sync(Path(place))
    if not os.path.lexists(folder):
        os.rename(fresh, folder)
    elif not _exchanged(fresh, folder):
        old = _temporary(folder).with_suffix(".old")
        masked = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
        try:
            os.rename(folder, old)
            try:
                os.rename(fresh, folder)
            except OSError:
                os.rename(old, folder)
                raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, masked)
        os.rename(old, fresh)
    _sync(folder.parent)
    shutil.rmtree(fresh, ignore_errors=True)


def _exchanged(first: Path, second: Path) -> bool:
    """Swap two names in one step; False where the system or the disk cannot."""
    rename = _renameat2()
    if rename is None:
        return False
    done = rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _EXCHANGE)
    return bool(done == 0)


@functools.cache
def _renameat2() -> Any:
    with contextlib.suppress(OSError, AttributeError):
        return ctypes.CDLL(None, use_errno=True).renameat2
    return None


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")


def _sync(path: Path) -> None:
    """Put a file, or the names in a folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network folders cannot
            raise
    finally:
        os.close(descriptor)


# Locks --------------------------------------------------------------------------------------------


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
                            _tidy(file, self.out)
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


def _tidy(lock: Path, out: Path) -> None:
    """Remove the temporary files and folders of a killed run.

    A folder that it had put away, to give another its name, gets the name back if nothing has it.
    """
    own = re.compile(rf"\.({re.escape(out.name)}(?:\..+)?)\.{_TOKEN}\.(?:tmp|old)")
    inside = re.compile(rf"\.(.+)\.{_TOKEN}\.(?:tmp|old)")
    found = [(p, own.fullmatch(p.name)) for p in lock.parent.iterdir()]
    if out.is_dir():
        found += [(p, inside.fullmatch(p.name)) for p in out.rglob(".*")]
    for place, match in found:
        if match is None:
            continue
        if place.suffix == ".old" and not os.path.lexists(place.with_name(match[1])):
            place.rename(place.with_name(match[1]))
        elif place.is_dir() and not place.is_symlink():
            shutil.rmtree(place, ignore_errors=True)
        else:
            place.unlink(missing_ok=True)
