r"""Paths of other people's flows: variance-preserving diffusion and Lipman's path.

Diffusion counts its time from data to noise. With `u = 1 - t` the noising process
`dx = -beta(u)/2 x du + beta(u)^1/2 dB` has, from data `x_1`, the marginal
`a_t x_1 + b_t x_0` with

    a_t = exp(-1/2 int_0^u beta),      b_t = (1 - a_t^2)^1/2 ,

a Gaussian path, whose velocity is that of its probability-flow ODE. As `a^2 + b^2 = 1`, an angle
says it all: `a = sin(theta)`, `b = cos(theta)`, `a' = theta' b`, `b' = -theta' a`, and the
Wronskian `a' b - a b'` is `theta'`. These paths begin at a small `a_0 > 0`, not at zero: a
generation starts from pure noise all the same, as in diffusion, at an error of the order of `a_0`.

References:
    Song et al., Score-based generative modeling through stochastic differential equations, 2020,
        arXiv 2011.13456 (VP SDE, probability-flow ODE).
    Ho, Jain, Abbeel, Denoising diffusion probabilistic models, 2020, arXiv 2006.11239.
    Salimans, Ho, Progressive distillation, 2022, arXiv 2202.00512 (the angle, v-prediction).
    Lipman et al., Flow matching for generative modeling, 2022, arXiv 2210.02747.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from molflowctl.errors import UserError
from molflowctl.flows.path import Path, Time

__all__ = ["SchedulePath", "TargetPath", "VariancePreservingPath"]


@dataclass(frozen=True)
class TargetPath(Path):
    """`x_t = t x_1 + (1 - (1 - s) t) x_0`: data keep noise of standard deviation `s`.

    Arguments:
        sigma_min: `s`, between 0 and 1; that of torchcfm's `TargetConditionalFlowMatcher`.

    A generation ends at the endpoint, `x_1` without that noise.
    """

    sigma_min: float

    def __post_init__(self) -> None:
        if not 0 <= self.sigma_min < 1:
            raise UserError(f"sigma_min is {self.sigma_min:g}: give a number from 0 up to 1.")

    def coefficients(self, t: Time) -> tuple[Time, Time, Time, Time]:
        fall = 1 - self.sigma_min
        return t, 1 - fall * t, 1.0, -fall


@dataclass(frozen=True)
class VariancePreservingPath(Path):
    """The VP diffusion of Song et al., `beta(u) = beta_min + u (beta_max - beta_min)`, `u = 1 - t`.

    Arguments:
        beta_min, beta_max: the ends of the noise schedule, positive.

    `b'` is infinite at `t = 1`, as it is for every diffusion whose noise ends at zero.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.beta_min <= self.beta_max:
            raise UserError(
                f"a noise schedule rises from a positive beta_min to beta_max, not from "
                f"{self.beta_min:g} to {self.beta_max:g}."
            )

    def coefficients(self, t: Time) -> tuple[Time, Time, Time, Time]:
        if not isinstance(t, Tensor):
            found = self.coefficients(torch.tensor(t, dtype=torch.float64))
            return tuple(float(part) for part in found)  # type: ignore[return-value]
        u = 1 - t
        beta = self.beta_min + u * (self.beta_max - self.beta_min)
        decay = 0.5 * u * self.beta_min + 0.25 * u * u * (self.beta_max - self.beta_min)
        a, b = (-decay).exp(), (-torch.expm1(-2 * decay)).sqrt()
        return a, b, 0.5 * beta * a, -0.5 * beta * a.square() / b


@dataclass(frozen=True, repr=False)
class SchedulePath(Path):
    """The path of a diffusion with `N` discrete timesteps, such as the schedulers of diffusers.

    Timestep `k` is the time `t_k = 1 - (k + 1) / N`, so that the noisiest is `t = 0` and the data
    are `t = 1`. There `a^2` is `alphas_cumprod[k]`; between, the angle is a monotone cubic.

    Arguments:
        alphas_cumprod: `N` numbers, falling, of the timesteps 0 (least noise) to `N - 1`.

    Raises:
        UserError: if they are no such numbers.
    """

    alphas_cumprod: tuple[float, ...]

    def __post_init__(self) -> None:
        values = tuple(float(value) for value in self.alphas_cumprod)
        falling = all(late < early for early, late in pairwise(values))
        if len(values) < 2 or not falling or not (values[0] < 1 and values[-1] >= 0):
            raise UserError(
                "alphas_cumprod must be two numbers or more that fall from below 1 to 0 or above; "
                "take scheduler.alphas_cumprod."
            )
        object.__setattr__(self, "alphas_cumprod", values)

    def __repr__(self) -> str:
        first, last = self.alphas_cumprod[0], self.alphas_cumprod[-1]
        return f"SchedulePath({self.steps} timesteps, alphas_cumprod {first:.6g} to {last:.6g})"

    @staticmethod
    def of(scheduler: Any) -> SchedulePath:
        """The path of a scheduler that has `alphas_cumprod`: DDPM, DDIM, PNDM, DPM-Solver, ...

        Raises:
            UserError: for a scheduler without them, whose path is another.
        """
        values: Iterable[float] | None = getattr(scheduler, "alphas_cumprod", None)
        if values is None:
            raise UserError(
                f"{type(scheduler).__name__} has no alphas_cumprod: it is no scheduler of a "
                f"variance-preserving diffusion. A flow-matching scheduler has a LinearPath."
            )
        return SchedulePath(tuple(float(value) for value in values))

    @property
    def steps(self) -> int:
        """`N`."""
        return len(self.alphas_cumprod)

    def level(self, t: Tensor) -> Tensor:
        """The nearest time that is a timestep's, of the shape of `t`."""
        return (1 - (self.timestep(t) + 1) / self.steps).to(t)

    def timestep(self, t: Tensor) -> Tensor:
        """The nearest timestep, int64, of the shape of `t`."""
        return ((1 - t.double()) * self.steps - 1).round().long().clamp(0, self.steps - 1)

    @cached_property
    def _knots(self) -> tuple[Tensor, Tensor]:
        """Angles at `t = 0, 1/N, ..., 1` and their slopes."""
        signal = np.array(self.alphas_cumprod[::-1])
        angles = np.append(np.arctan2(np.sqrt(signal), np.sqrt(1 - signal)), math.pi / 2)
        curve = PchipInterpolator(np.linspace(0, 1, self.steps + 1), angles)
        slopes = curve.derivative()(curve.x)
        return torch.from_numpy(angles), torch.from_numpy(slopes)

    def coefficients(self, t: Time) -> tuple[Time, Time, Time, Time]:
        time = torch.as_tensor(t, dtype=torch.float64)
        angles, slopes = (part.to(time.device) for part in self._knots)
        place = time * self.steps
        left = place.floor().long().clamp(0, self.steps - 1)
        u, h = place - left, 1 / self.steps
        y0, y1 = angles[left], angles[left + 1]
        m0, m1 = h * slopes[left], h * slopes[left + 1]
        rise = y1 - y0
        c2, c3 = 3 * rise - 2 * m0 - m1, m0 + m1 - 2 * rise
        angle = y0 + u * (m0 + u * (c2 + u * c3))
        speed = (m0 + u * (2 * c2 + 3 * u * c3)) / h
        a, b = angle.sin(), angle.cos().clamp_min(0)
        b = torch.where(time >= 1, torch.zeros_like(b), b)  # cos(pi/2) is 6e-17, not 0
        found = a, b, speed * b, -speed * a
        if isinstance(t, Tensor):
            return tuple(part.to(t) for part in found)  # type: ignore[return-value]
        return tuple(float(part) for part in found)  # type: ignore[return-value]
