"""Products of a network in bf16, where the machine has units for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # settings name a precision, and are read before anything heavy
    import torch

__all__ = ["Precision", "has_fast_bf16", "wants_bf16"]

Precision = Literal["auto", "float32", "bf16"]


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bf16 has units of its own there; emulated, it is three times slower than float32."""
    if device.type == "cuda":
        import torch

        return torch.cuda.is_bf16_supported(including_emulation=False)
    flags = Path("/proc/cpuinfo")
    words = flags.read_text().split() if flags.exists() else []
    return "avx512_bf16" in words or "amx_bf16" in words


def wants_bf16(precision: str, device: torch.device) -> bool:
    """Whether a `Precision` stands for bf16 on a device: auto does where that is fast."""
    return precision == "bf16" or (precision == "auto" and has_fast_bf16(device))
