"""Opening what molecules are read from: files, plain or gzipped, standard input and pipes.

No line and no record is held beyond `LONGEST` bytes, whatever a file claims. Lines may end in LF,
CR LF or CR. Text is UTF-8, with or without byte-order mark, or else what Windows and Latin-1 have.

A command may read its input several times, which a pipe does not allow: what comes from standard
input (`-`) or a pipe is copied to a temporary file once.
"""

from __future__ import annotations

import gzip
import os
import shutil
import stat
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from molflowctl.errors import UserError

__all__ = [
    "DAMAGED",
    "LONGEST",
    "READABLE",
    "TooLong",
    "decoded",
    "file_kind",
    "lines",
    "open_input",
    "whole_lines",
]

LONGEST = 10_000_000  # bytes of one record
READABLE = (".sdf", ".smi", ".csv", ".parquet")
# What is raised while the bytes of a broken-off or garbled file are read.
DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile)

_PIECE = 1 << 16
_copies: dict[Any, Any] = {}  # of standard input and pipes, for the life of this process


class TooLong(Exception):
    """A line or record of more than `LONGEST` bytes; the next one can be read."""

    def __init__(self, what: str = "the record") -> None:
        super().__init__(f"{what} has more than {LONGEST // 10**6} MB, the most that is read")


def open_input(path: str | os.PathLike[str]) -> BinaryIO:
    """The bytes of a file, of standard input (`-`) or of a pipe, unzipped; can be asked for again.

    Raises:
        UserError: what cannot be opened, a folder, or a device.
    """
    try:
        raw = _copied(sys.stdin.buffer, sys.stdin) if str(path) == "-" else _raw(path)
        # By its content: an unfinished library is called `.sdf.gz.partial`, a pipe has no name.
        zipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    return cast(BinaryIO, _Unzipped(raw)) if zipped else raw


class _Unzipped(gzip.GzipFile):
    """Which also closes what it reads from."""

    def __init__(self, raw: BinaryIO) -> None:
        super().__init__(fileobj=raw, mode="rb")
        self._raw = raw

    def close(self) -> None:
        super().close()
        self._raw.close()


def _raw(path: str | os.PathLike[str]) -> BinaryIO:
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise UserError(f"{path} is a folder; name a file in it")
    if stat.S_ISREG(mode):
        return open(path, "rb")
    if not stat.S_ISFIFO(mode) and not stat.S_ISSOCK(mode) and os.path.realpath(path) != os.devnull:
        raise UserError(f"{path} is a device, not a file of molecules")
    key = str(path), os.stat(path).st_ino
    if key in _copies:
        return _copied(None, key)
    with open(path, "rb") as pipe:
        return _copied(pipe, key)


def _copied(source: Any, key: Any) -> BinaryIO:
    """A new handle on the copy of a stream, which is made the first time."""
    if key not in _copies:
        copy = tempfile.NamedTemporaryFile(prefix="molflowctl-")  # noqa: SIM115 - kept open
        shutil.copyfileobj(source, copy)
        copy.flush()
        _copies[key] = copy
    return open(_copies[key].name, "rb")


def file_kind(path: str | os.PathLike[str]) -> str:
    """`.sdf`, `.smi`, `.csv` or `.parquet`: by the name, of what has none by the content.

    Raises:
        UserError: for a file of another kind.
    """
    source = Path(path)
    kind = Path(source.stem if source.suffix == ".gz" else source.name).suffix.lower()
    if kind in READABLE:
        return kind
    if str(path) != "-" and (source.is_file() or not source.exists()):
        raise UserError(f"{path}: cannot read this kind of file; use {', '.join(READABLE)} or .gz")
    with open_input(path) as file:
        try:
            head = file.read(_PIECE)
        except (*DAMAGED, OSError):
            head = b""
    if head.startswith(b"PAR1"):
        return ".parquet"
    if b"\n$$$$" in head or b"M  END" in head or b"V2000" in head or b"V3000" in head:
        return ".sdf"
    first = head.splitlines()[0] if head else b""
    return ".csv" if b"," in first and first.lower().count(b"smiles") else ".smi"


def lines(file: BinaryIO) -> Iterator[bytes]:
    """Each line with `\\n` at its end, whatever ended it; a long one in several pieces."""
    while piece := file.readline(_PIECE):
        if b"\r" not in piece:
            yield piece
            continue
        while piece.endswith(b"\r") and (more := file.readline(1)):
            piece += more  # is it a CR LF that was cut in two?
        for line in piece.splitlines(keepends=True):
            yield line.rstrip(b"\r\n") + b"\n" if line.endswith((b"\r", b"\n")) else line


def whole_lines(file: BinaryIO) -> Iterator[bytes | None]:
    """Each line without its end; None for one that is too long."""
    pieces: list[bytes] = []
    size = 0
    for piece in lines(file):
        size += len(piece)
        if size <= LONGEST:
            pieces.append(piece)
        if piece.endswith(b"\n"):
            yield b"".join(pieces)[:-1] if size <= LONGEST else None
            pieces, size = [], 0
    if size:
        yield b"".join(pieces) if size <= LONGEST else None


def decoded(text: bytes) -> str:
    """UTF-8 if it is, else Windows-1252, which is Latin-1 with more signs, or Latin-1 itself."""
    for encoding in ("utf-8", "cp1252"):
        try:
            return text.decode(encoding)
        except UnicodeDecodeError:
            continue
    return text.decode("latin-1")
