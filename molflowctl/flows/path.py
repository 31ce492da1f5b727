r"""The probability path between noise and data, and everything that follows from it being Gaussian.

Time runs from `t=0` (noise) to `t=1` (data): `x_t = a_t x_1 + b_t x_0` with `x_0 ~ N(0, C)`. With
noise and data drawn independently, `p(x_t | x_1)` is Gaussian, so a velocity, a score and an
endpoint `E[x_1 | x_t]` are one and the same knowledge in three units. With the Wronskian
`W = a' b - a b'`, a constant for both paths here,

    v   = (W E[x_1|x_t] + b' x) / b
    C s = (a v - a' x) / (b W) = (a E[x_1|x_t] - x) / b^2

References:
    Lipman et al., Flow Matching for Generative Modeling, 2022, arXiv 2210.02747.
    Albergo, Boffi, Vanden-Eijnden, Stochastic Interpolants, 2023, arXiv 2303.08797.
    Domingo-Enrich et al., Adjoint Matching, 2024, arXiv 2409.08861 (memoryless noise).
    Song, Meng, Ermon, Denoising Diffusion Implicit Models, 2020, arXiv 2010.02502 (its steps are
        `ancestral` with a churn between 0 and 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from molflowctl.flows.state import times

__all__ = ["CosinePath", "LinearPath", "Path", "expand_time"]

Time = float | Tensor


class Path:
    """`x_t = a_t x_1 + b_t x_0`, `a` from 0 to 1 and `b` from 1 to 0.

    Times are numbers or tensors of shape `(B,)`. A subclass gives `coefficients`.
    """

    def coefficients(self, t: Time) -> tuple[Time, Time, Time, Time]:
        """`(a, b, a', b')` at `t`."""
        raise NotImplementedError

    def sample(self, x0: Any, x1: Any, t: Time) -> Any:
        """The point of the path between noise `x0` and data `x1`."""
        a, b, _, _ = self.coefficients(t)
        return times(a, x1) + times(b, x0)

    def velocity(self, endpoint: Any, x: Any, t: Time) -> Any:
        """`v = (W E[x_1|x_t] + b' x) / b`; undefined at `t = 1`."""
        a, b, da, db = self.coefficients(t)
        return times((da * b - a * db) / b, endpoint) + times(db / b, x)

    def endpoint(self, velocity: Any, x: Any, t: Time) -> Any:
        """`E[x_1|x_t] = (b v - b' x) / W`, the inverse of `velocity`."""
        a, b, da, db = self.coefficients(t)
        w = da * b - a * db
        return times(b / w, velocity) - times(db / w, x)

    def score(self, velocity: Any, x: Any, t: Time) -> Any:
        """`C grad log p_t = (a v - a' x) / (b W)`: the score for unit noise, else `C` times it."""
        a, b, da, db = self.coefficients(t)
        w = (da * b - a * db) * b
        return times(a / w, velocity) - times(da / w, x)

    def memoryless_sigma(self, t: Time) -> Time:
        """Noise of the SDE whose endpoint forgets its start: `sigma^2 = 2 b W / a`."""
        a, b, da, db = self.coefficients(t)
        return (2 * b * (da * b - a * db) / a) ** 0.5

    def signal_to_noise(self, t: Time) -> Time:
        """`(a/b)^2`."""
        a, b, _, _ = self.coefficients(t)
        return (a / b) ** 2

    def ancestral(self, t: Time, s: Time, stochasticity: float = 1.0) -> tuple[Time, Time, Time]:
        """Coefficients `(A, B, S)` of a step from `t` to `s > t` given the endpoint.

        The step keeps the fraction `rho^churn`, `rho = a_t b_s / (a_s b_t)`, of the noise in `x_t`
        and draws the rest anew, so `x_s ~ N(A x_t + B x_1, S C)` with `A = b_s/b_t rho^churn`,
        `B = a_s - a_t A`, `S = b_s^2 (1 - rho^(2 churn))`. With `churn` 1 that is the exact
        memoryless step, with 0 a step of the ODE; short steps follow the SDE whose `sigma^2` is
        `churn` times the memoryless one, and all of them share the marginals.
        """
        a_t, b_t, _, _ = self.coefficients(t)
        a_s, b_s, _, _ = self.coefficients(s)
        keep = (a_t * b_s / (a_s * b_t)) ** stochasticity
        a = b_s / b_t * keep
        return a, a_s - a_t * a, b_s**2 * (1 - keep**2)

    def euler_maruyama(self, t: Time, s: Time) -> tuple[Time, Time, Time]:
        """`(A, B, S)` as in `ancestral`, of an Euler-Maruyama step on the memoryless SDE.

        `dX = [v + sigma^2/2 C s] dt + sigma C^1/2 dB`, with `a_s` in place of `a_t` in `sigma^2`,
        which is infinite at `t = 0`. At `s = 1` it lands on the endpoint.
        """
        if not isinstance(s, Tensor) and s == 1:
            return 0.0, 1.0, 0.0
        a, b, da, db = self.coefficients(t)
        later = self.coefficients(s)[0]
        w, h = da * b - a * db, s - t
        half = b * w / later  # sigma^2 / 2, times the score (a x_1 - x) / b^2
        late = self.memoryless_sigma(s)
        return 1 + h * (db / b - half / b**2), h * (w / b + half * a / b**2), late**2 * h


@dataclass(frozen=True)
class LinearPath(Path):
    """`x_t = t x_1 + (1 - t) x_0`."""

    def coefficients(self, t: Time) -> tuple[Time, Time, Time, Time]:
        return t, 1 - t, 1.0, -1.0


@dataclass(frozen=True)
class CosinePath(Path):
    """`x_t = sin(pi t / 2) x_1 + cos(pi t / 2) x_0`: the variance is kept for unit data."""

    def coefficients(self, t: Time) -> tuple[Time, Time, Time, Time]:
        angle = t * (math.pi / 2)
        a: Time
        b: Time
        if isinstance(angle, Tensor):
            a, b = angle.sin(), angle.cos()
        else:
            # cos(pi/2) is 6e-17, not 0: the end of the path is the data itself.
            a, b = math.sin(angle), 0.0 if t == 1 else math.cos(angle)
        return a, b, b * (math.pi / 2), a * (-math.pi / 2)


def expand_time(t: Time, batch: int, like: Tensor) -> Tensor:
    """A time as a tensor of shape `(B,)` on the device and in the precision of `like`."""
    if isinstance(t, Tensor) and t.ndim == 1:
        return t
    return torch.full((batch,), float(t), device=like.device, dtype=like.dtype)
