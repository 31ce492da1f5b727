"""Where a training runs: in one process or several, on a CPU or on GPUs, in float32 or bf16."""

from __future__ import annotations

import os
from typing import Any

from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from lightning_fabric.utilities.exceptions import MisconfigurationException

from molflowctl.compute.precision import wants_bf16
from molflowctl.errors import UserError

__all__ = ["launched"]


class _Bf16(MixedPrecision):
    """bf16 for products alone: Fabric's own rounds a module's inputs too, positions and times."""

    def convert_input(self, data: Any) -> Any:
        return data


def launched(device: str, precision: str) -> Fabric:
    """Fabric on a device, launched: one process of as many as `torchrun` says.

    Arguments:
        device: auto, cpu, cuda or cuda:1.
        precision: "bf16"; "auto" for bf16 where the device has units for it; else float32.

    Raises:
        UserError: for a device of another name, or that is not there.
    """
    kind, colon, index = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (
        colon and not (kind == "cuda" and index.isdecimal())
    ):
        raise UserError(f"unknown device {device!r}: auto, cpu, cuda or cuda:1.")
    if index and int(os.getenv("WORLD_SIZE", 1)) > 1:
        raise UserError(f"device {device!r} is one for all processes; say cuda: each its own.")
    local = int(os.getenv("LOCAL_WORLD_SIZE", 1))
    devices = [int(index)] if index else local
    nodes = int(os.getenv("GROUP_WORLD_SIZE", 1))
    try:
        fabric = Fabric(accelerator=kind, devices=devices, num_nodes=nodes)
    except (RuntimeError, MisconfigurationException) as error:
        raise UserError(f"device {device!r} cannot be used: {error}") from None
    bf16 = wants_bf16(precision, fabric.device)
    plugin = _Bf16("bf16-mixed", fabric.device.type) if bf16 else None
    fabric = Fabric(accelerator=kind, devices=devices, num_nodes=nodes, plugins=plugin)
    fabric.launch()
    return fabric
