"""Random numbers: one stream per element of a batch, or one for the whole batch.

`IndexedNoise` makes element `i` of a batch a function of `(seed, index_i)` alone. A molecule then
comes out the same whatever batch, worker or resumed run it is drawn in. It hashes a counter instead
of carrying a state, so that a whole batch is drawn at once.

References:
    Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011 (counter-based generators).
    Steele, Lea, Flood, Fast splittable pseudorandom number generators, OOPSLA 2014 (the mixer).
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["BatchNoise", "IndexedNoise", "Noise"]


class Noise(Protocol):
    """A source of independent standard normals; every call draws new ones."""

    def normal(self, *shape: int) -> Tensor:
        """Independent standard normal numbers of a shape, `(B, ...)`."""


class BatchNoise:
    """Normals from one generator: reproducible only for the same batches in the same order."""

    def __init__(self, seed: int, device: torch.device | str = "cpu") -> None:
        self.generator = torch.Generator(device).manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        """Independent standard normal numbers of a shape, `(B, ...)`."""
        return torch.randn(*shape, generator=self.generator, device=self.generator.device)

    def uniform(self, *shape: int) -> Tensor:
        """Independent numbers in [0, 1), `(B,)`."""
        return torch.rand(*shape, generator=self.generator, device=self.generator.device)


def _signed(value: int) -> int:
    """The int64 with the bits of an unsigned 64-bit number (torch has no unsigned arithmetic)."""
    value %= 1 << 64
    return value - (1 << 64) if value >> 63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MIX = (_signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB))


def _shift(z: Tensor, bits: int) -> Tensor:
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _mix(z: Tensor) -> Tensor:
    """The finaliser of splitmix64, elementwise on int64 (products wrap around)."""
    z = (z ^ _shift(z, 30)) * _MIX[0]
    z = (z ^ _shift(z, 27)) * _MIX[1]
    return z ^ _shift(z, 31)


class IndexedNoise:
    """Normals for element `i` that depend on `(seed, index[i])` and the number of calls before.

    Arguments:
        seed: seed of the whole run.
        index: `(B,)` int64, the number of each element in the run.
    """

    def __init__(self, seed: int, index: Tensor) -> None:
        start = torch.tensor(_signed(seed), device=index.device)
        self.key = _mix(_mix(start) + _mix(index.to(torch.int64) * _GOLDEN))
        self.calls = 0

    def _bits(self, count: int) -> Tensor:
        """`(B, count)` fresh random 64-bit words."""
        self.calls += 1
        stream = _mix(self.key + _signed(self.calls * _GOLDEN))
        counter = torch.arange(count, device=stream.device) * _GOLDEN
        return _mix(stream[:, None] + counter)

    def uniform(self) -> Tensor:
        """One uniform number in [0, 1) per element, `(B,)` float64."""
        return _shift(self._bits(1)[:, 0], 11).double() * 2.0**-53

    def normal(self, *shape: int) -> Tensor:
        """Standard normals of `shape = (B, ...)`, float32, by the Box-Muller transform."""
        batch, count = shape[0], math.prod(shape[1:])
        bits = self._bits((count + 1) // 2)
        # The upper half in (0, 1] gives the radius, the lower half in [0, 1) the angle.
        upper = ((_shift(bits, 32) + 1).double() * 2.0**-32).log_().mul_(-2).sqrt_()
        angle = (bits & 0xFFFFFFFF).double() * (2 * math.pi * 2.0**-32)
        pair = torch.cat([upper * angle.cos(), upper * angle.sin()], 1)
        return pair[:, :count].float().reshape(batch, *shape[1:])
