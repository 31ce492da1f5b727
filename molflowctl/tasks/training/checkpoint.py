"""The checkpoint of a training: a folder of `tensors.safetensors` and `counters.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from molflowctl.errors import UserError
from molflowctl.io.atomic import replacing_folder

__all__ = ["read_checkpoint", "write_checkpoint"]

COUNTERS = ("step", "elapsed", "seen")  # which every checkpoint has


def write_checkpoint(
    folder: Path,
    modules: Mapping[str, nn.Module],
    optimisers: Sequence[torch.optim.Optimizer],
    counters: Mapping[str, Any],
) -> None:
    """Write a checkpoint whole.

    Raises:
        UserError: it cannot be written; the one that was there stays.
    """
    tensors = {f"{name}.{k}": v for name, m in modules.items() for k, v in m.state_dict().items()}
    for i, optimiser in enumerate(optimisers):
        for j, values in optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{i}.{j}.{k}": torch.as_tensor(v) for k, v in values.items()}
    whole = save({k: v.contiguous() for k, v in tensors.items()})
    with replacing_folder(folder) as fresh:
        (fresh / "tensors.safetensors").write_bytes(whole)
        (fresh / "counters.json").write_text(json.dumps(dict(counters)))


def read_checkpoint(
    folder: Path, modules: Mapping[str, nn.Module], optimisers: Sequence[torch.optim.Optimizer]
) -> dict[str, Any]:
    """Load a checkpoint into modules and optimisers; its counters.

    Raises:
        UserError: it cannot be read, or is of other modules or optimisers.
    """
    try:
        tensors = load_file(folder / "tensors.safetensors")
        counters = json.loads((folder / "counters.json").read_text())
        parts: dict[str, dict[str, Tensor]] = {name: {} for name in (*modules, "optimiser")}
        for key, tensor in tensors.items():
            part, _, rest = key.partition(".")
            parts[part][rest] = tensor
        for name, module in modules.items():
            module.load_state_dict(parts[name])
        for i, optimiser in enumerate(optimisers):
            state: dict[int, dict[str, Tensor]] = {}
            for key, tensor in parts["optimiser"].items():
                owner, index, name = key.split(".", 2)
                if int(owner) == i:
                    state.setdefault(int(index), {})[name] = tensor
            optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
        return {name: counters[name] for name in COUNTERS} | counters
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise UserError(f"the checkpoint in {folder} does not fit this run: {error}") from None
