"""One writer for every result: whole or not at all.

What is written goes to a temporary name beside its own, opened exclusively (a link or a file that
is there already is never followed or taken), is put on the disk, and then takes the name in one
step. A kill or a full disk therefore leaves what was there before. A folder is replaced as one: two
folders change their names in a single step where the system can do that.

Names: `.<name>.<token>.tmp` for what is written at once, `<name>.<token>.partial` for what grows
for as long as a run lasts and can be resumed. `<name>` is the output's, `<token>` is random. That
one run at a time writes an output is `locks.py`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import re
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

from molflowctl.errors import UserError

__all__ = [
    "cannot_write",
    "check_free",
    "leftovers",
    "open_new",
    "partial_name",
    "publish",
    "replace_folder",
    "replacing_file",
    "replacing_folder",
    "results_folder",
    "tidy",
    "write_file",
    "write_files",
]

_TOKEN = "[0-9a-f]{12}"
_EXCHANGE = 2  # RENAME_EXCHANGE of renameat2
_AT_FDCWD = -100
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def cannot_write(path: str | os.PathLike[str], error: OSError) -> UserError:
    """What to tell the user of a failed write: the output's name, not a temporary one."""
    return UserError(f"cannot write {path}: {error.strerror or error}")


def check_free(path: str | os.PathLike[str], *, overwrite: bool) -> None:
    """Check, before the work, that an output may be written.

    Raises:
        UserError: it is there already, and `overwrite` is off.
    """
    if not overwrite and Path(path).exists():
        raise UserError(f"{path} exists. Choose another name or pass --overwrite.")


def results_folder(out: Path, holds: str, *, overwrite: bool) -> None:
    """Make, before the work, the folder of results, among them the file called `holds`.

    Raises:
        UserError: it holds results and `overwrite` is off, or it cannot be written.
    """
    if (out / holds).exists() and not overwrite:
        raise UserError(f"{out} holds results. Choose another folder or pass --overwrite.")
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise cannot_write(out, error) from error


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


# What killed runs left ----------------------------------------------------------------------------


def tidy(place: Path, out: Path) -> None:
    """Remove the temporary files and folders of a killed run.

    A folder that it had put away, to give another its name, gets the name back if nothing has it.

    Arguments:
        place: the folder in which the output `out` was written.
    """
    own = re.compile(rf"\.({re.escape(out.name)}(?:\..+)?)\.{_TOKEN}\.(?:tmp|old)")
    inside = re.compile(rf"\.(.+)\.{_TOKEN}\.(?:tmp|old)")
    found = [(p, own.fullmatch(p.name)) for p in place.iterdir()]
    if out.is_dir():
        found += [(p, inside.fullmatch(p.name)) for p in out.rglob(".*")]
    for rest, match in found:
        if match is None:
            continue
        if rest.suffix == ".old" and not os.path.lexists(rest.with_name(match[1])):
            rest.rename(rest.with_name(match[1]))
        elif rest.is_dir() and not rest.is_symlink():
            shutil.rmtree(rest, ignore_errors=True)
        else:
            rest.unlink(missing_ok=True)
