"""The folder in which a long preparation keeps what is done, `<out>.partial`, until it is whole.

What is done are shards, `00000.safetensors` and on: tensors, and a note of plain JSON as one more.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from molflowctl.errors import UserError
from molflowctl.io.atomic import write_file

__all__ = ["check_workshop", "open_workshop", "read_shard", "write_shard"]

_NOTE = "settings.json"


def check_workshop(
    out: Path, settings: dict[str, Any], *, resume: bool = False, overwrite: bool = False
) -> Path:
    """The folder that `open_workshop` will open, before work that comes before it.

    Raises:
        UserError: an earlier run is there and neither of the options says what to do with it, or it
            had other settings.
    """
    folder = out.with_name(f"{out.name}.partial")
    note = folder / _NOTE
    if folder.is_symlink():
        raise UserError(f"{folder} is a link, not an unfinished run: remove it.")
    if not folder.exists():
        return folder
    if resume:
        try:
            before = json.loads(note.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            before = None
        if before != settings:
            raise UserError(
                f"{folder} was made with other settings or another source: it cannot be resumed; "
                "remove it, or choose another -o."
            )
        return folder
    if not overwrite:
        raise UserError(f"{folder} is an unfinished run: --resume continues it.")
    if not note.exists():
        raise UserError(f"{folder} is not an unfinished run of this command: remove it.")
    return folder


def open_workshop(
    out: Path, settings: dict[str, Any], *, resume: bool = False, overwrite: bool = False
) -> Path:
    """The folder beside `out`: new, or that of an earlier run with the same settings.

    Args:
        settings: whatever decides the content of a shard; plain JSON.

    Raises:
        UserError: as `check_workshop`, or if the folder cannot be made.
    """
    folder = check_workshop(out, settings, resume=resume, overwrite=overwrite)
    if folder.exists() and resume:
        return folder
    try:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        write_file(folder / _NOTE, json.dumps(settings, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"Cannot write {folder}: {error}. Choose another place.") from error
    return folder


def write_shard(path: Path, tensors: Mapping[str, Tensor], note: dict[str, Any]) -> None:
    """Write a shard whole.

    Raises:
        UserError: it cannot be written.
    """
    text = torch.frombuffer(bytearray(json.dumps(note).encode()), dtype=torch.uint8)
    write_file(path, save({name: t.contiguous() for name, t in tensors.items()} | {"text": text}))


def read_shard(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tensors of a shard, by name, and its note.

    Raises:
        UserError: it is damaged.
    """
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path} is damaged ({error}): remove it and --resume.") from None
    return tensors, json.loads(bytes(tensors.pop("text").tolist()))
