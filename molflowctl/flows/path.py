r"""The probability path between noise and data, and everything that follows from it being Gaussian.

Time runs from `t=0` (noise) to `t=1` (data): `x_t = a_t x_1 + b_t x_0` with `x_0 ~ N(0, C)`. With
noise and data drawn independently, `p(x_t | x_1)` is Gaussian, so a velocity, a score and an
endpoint `E[x_1 | x_t]` are one and the same knowledge in three units:

    v   = a' E[x_1|x_t] + b' E[x_0|x_t]
    C s = (a v - a' x) / (b (a' b - a b'))

References:
    Lipman et al., Flow Matching for Generative Modeling, 2022, arXiv 2210.02747.
    Albergo, Boffi, Vanden-Eijnden, Stochastic Interpolants, 2023, arXiv 2303.08797.
    Domingo-Enrich et al., Adjoint Matching, 2024, arXiv 2409.08861 (memoryless noise).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from molflowctl.flows.state import times

__all__ = ["LinearPath"]

Time = float | Tensor


@dataclass(frozen=True)
class LinearPath:
    """`x_t = t x_1 + (1 - t) x_0`. Times are numbers or tensors of shape `(B,)`."""

    def sample(self, x0, x1, t: Time):
        """The point of the path between noise `x0` and data `x1`."""
        return times(t, x1) + times(1 - t, x0)

    def velocity(self, endpoint, x, t: Time):
        """`v = (E[x_1|x_t] - x) / (1 - t)`; undefined at `t = 1`."""
        return times(1 / (1 - t), endpoint - x)

    def endpoint(self, velocity, x, t: Time):
        """`E[x_1|x_t] = x + (1 - t) v`, the inverse of `velocity`."""
        return x + times(1 - t, velocity)

    def score(self, velocity, x, t: Time):
        """`C grad log p_t = (t v - x) / (1 - t)`: the score for unit noise, else `C` times it."""
        return times(1 / (1 - t), times(t, velocity) - x)

    def memoryless_sigma(self, t: Time) -> Time:
        """Noise of the SDE whose endpoint forgets its start: `sigma^2 = 2 (1 - t) / t`."""
        return (2 * (1 - t) / t) ** 0.5

    def ancestral(self, t: Time, s: Time) -> tuple[Time, Time, Time]:
        """Coefficients `(A, B, S)` of the exact memoryless step from `t` to `s > t`.

        `x_s | x_t, x_1 ~ N(A x_t + B x_1, S C)` with `q = t/s`, `w = (1-t)^2 - q^2 (1-s)^2`,
        `r = (1-s)^2/(1-t)^2`, `A = q r`, `B = s w/(1-t)^2`, `S = w r`. At `t = 0` it is
        `s x_1 + (1-s) eps`; at `s = 1` it is `x_1` itself.
        """
        q = t / s
        w = (1 - t) ** 2 - q**2 * (1 - s) ** 2
        r = (1 - s) ** 2 / (1 - t) ** 2
        return q * r, s * w / (1 - t) ** 2, w * r


def expand_time(t: Time, batch: int, like: Tensor) -> Tensor:
    """A time as a tensor of shape `(B,)` on the device and in the precision of `like`."""
    if isinstance(t, Tensor) and t.ndim == 1:
        return t
    return torch.full((batch,), float(t), device=like.device, dtype=like.dtype)
