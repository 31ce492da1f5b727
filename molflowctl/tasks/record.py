"""The run record `<out>.run.json` that lies beside every result: what made it, and how it went."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

import molflowctl
from molflowctl import strict_json
from molflowctl.errors import UserError

__all__ = ["read_record", "record_path", "versions", "write_json"]

PACKAGES = ("torch", "numpy", "rdkit", "tblite", "xtb", "openmm", "posebusters")


def record_path(out: str | Path) -> Path:
    """Where the record of `out` lies."""
    return Path(f"{out}.run.json")


def versions() -> dict[str, str]:
    """Of this package and of those that decide numbers."""
    found = {"molflowctl": molflowctl.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write under a temporary name, then rename.

    Raises:
        UserError: if it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(strict_json.dumps(content, default=str) + "\n")
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def read_record(path: Path) -> dict[str, Any] | None:
    """The record, or None where there is none that can be read."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
