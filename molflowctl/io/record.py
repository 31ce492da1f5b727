"""The run record `<out>.run.json` that lies beside every result: what made it, and how it went."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any

import molflowctl
from molflowctl.io import strict_json
from molflowctl.io.atomic import write_file

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
    """Write a file whole.

    Raises:
        UserError: if it cannot be written; what was there stays.
    """
    write_file(path, strict_json.dumps(content, default=str) + "\n")


def read_record(path: Path) -> dict[str, Any] | None:
    """The record, or None where there is none that can be read."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
