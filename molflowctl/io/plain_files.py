"""Small files that others may have written: opened only if they are files, and of a sane size.

A pipe, a device or a socket in place of a file would hang or never end, and a file that is far too
large would fill the memory: both are refused by name before a byte is read. JSON is read, and
written, as the standard has it: NaN and infinities are no numbers there.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import os
import reprlib
import stat
import zlib
from pathlib import Path
from typing import Any

from molflowctl.errors import UserError

__all__ = [
    "check_regular",
    "depth_of",
    "json_text",
    "quoted",
    "read_json",
    "read_lines_gz",
    "read_plain",
    "sha256_of",
]

JSON_LIMIT = 20_000_000  # bytes of a card
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlong = 2, 40
DEPTH = 50  # of lists and mappings inside one another


def quoted(text: object, length: int = 60) -> str:
    """What a message can show of anything: on one line, a text in quotes, cut where it is long."""
    if not isinstance(text, str):
        shown = _SHORT.repr(text)  # never all of it: a mapping may hold itself
        return shown if len(shown) <= length else shown[: length - 3] + "..."
    shown = text
    return repr(shown if len(shown) <= length else shown[: length - 3] + "...")


def check_regular(path: str | Path) -> int:
    """The size of a regular file, in bytes.

    Raises:
        UserError: for a folder, a pipe, a device or a socket.
        FileNotFoundError: there is nothing of this name.
    """
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe, a device or a socket"
        raise UserError(f"{path} cannot be read: it is {kind}, not a file.")
    return found.st_size


def sha256_of(path: str | Path) -> str:
    """The SHA-256 of a regular file, in hexadecimal digits.

    Raises:
        UserError: for what is no file, is not there, or cannot be read.
    """
    try:
        check_regular(path)
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}.") from error


def read_plain(path: str | Path, limit: int = JSON_LIMIT) -> bytes:
    """The bytes of a regular file of at most `limit` bytes.

    Raises:
        UserError: for what is no file, or larger.
        OSError: it is not there, or cannot be opened.
    """
    check_regular(path)
    # Without waiting: what is no pipe now might be one when it is opened.
    with os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise UserError(f"{path} is larger than {limit:,} bytes, which no such file is.")
    return content


def read_json(path: str | Path, limit: int = JSON_LIMIT) -> dict[str, Any]:
    """The mapping that a JSON file holds, at most `DEPTH` levels deep.

    Raises:
        UserError: for what is no file, too large, no JSON, nested too deeply, or no mapping.
        OSError: it is not there, or cannot be opened.
    """
    content = read_plain(path, limit)
    try:
        value = json.loads(content.decode("utf-8"), parse_constant=_no_number)
    except RecursionError:
        raise UserError(f"{path} is nested too deeply for a card.") from None
    except ValueError as error:  # no UTF-8, no JSON, or a number of thousands of digits
        raise UserError(f"{path} is not JSON: {error}.") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold a mapping, not {type(value).__name__}.")
    if depth_of(value) > DEPTH:
        raise UserError(f"{path} is nested too deeply: more than {DEPTH} levels.")
    return value


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number in JSON")


def json_text(content: Any, **settings: Any) -> str:
    """`json.dumps` with two spaces, where NaN and infinities, at any depth, become null."""
    return json.dumps(_finite(content), indent=2, allow_nan=False, **settings)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def depth_of(value: object) -> int:
    """How deeply lists and mappings lie inside one another, 0 for a plain value."""
    level, depth = [value], 0
    while inner := [v for v in level if isinstance(v, dict | list)]:
        depth += 1
        level = [item for v in inner for item in (v.values() if isinstance(v, dict) else v)]
    return depth


def read_lines_gz(path: str | Path, lines: int, width: int) -> list[str]:
    """The lines of a gzipped UTF-8 text that is to have `lines` of at most `width` bytes.

    A few bytes of gzip can hold gigabytes: no more is unpacked than those lines could need.

    Raises:
        UserError: for what is no file or no gzip, cut off, no UTF-8, longer, or of other lines.
        OSError: it is not there, or cannot be opened.
    """
    check_regular(path)
    # A line takes a few dozen bytes: the bound grows with what is read, not with the worst case.
    limit = lines * 2000 + width
    try:
        with gzip.open(path, "rb") as file:
            content = file.read(limit + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is damaged: {error}. Prepare the data again.") from None
    if len(content) > limit:
        raise UserError(f"{path} holds far more than {lines:,} lines. Prepare the data again.")
    try:
        found = content.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is damaged: {error}. Prepare the data again.") from None
    if len(found) != lines:
        raise UserError(
            f"{path} has {len(found)} lines for {lines} molecules. Prepare the data again."
        )
    return found
