"""Samplers: how a flow is integrated from noise to data, and where its evaluations are spent.

A sampler is one `step(flow, x, t, s, noise)`. `integrate` walks a time grid with it. Two are
stochastic (`Ancestral`, `EulerMaruyama`: the memoryless SDE, on the linear path
`dX = [2 v - x/t] dt + sqrt(2 (1-t)/t) C^1/2 dB`), two deterministic (`Euler`, `Heun`: the ODE
`dX = v dt`). All share the marginals `p_t` of a perfect flow.

References:
    Domingo-Enrich et al., Adjoint Matching, 2024, arXiv 2409.08861 (the memoryless SDE).
    Ho, Jain, Abbeel, Denoising Diffusion Probabilistic Models, 2020, arXiv 2006.11239 (ancestral).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from molflowctl.flows.noise import Noise
from molflowctl.flows.path import expand_time
from molflowctl.flows.state import AnyState, State, times

if TYPE_CHECKING:
    from molflowctl.flows.flow import Flow

__all__ = [
    "SAMPLERS",
    "Ancestral",
    "Euler",
    "EulerMaruyama",
    "Heun",
    "Sampler",
    "Trajectory",
    "draw",
    "focused_grid",
    "integrate",
    "uniform_grid",
    "window_grid",
]


class Sampler(Protocol):
    """One step of the generative process."""

    @property
    def nfe(self) -> int:
        """Of the network, per step."""

    def step(self, flow: Flow, x: AnyState, t: float, s: float, noise: Noise) -> AnyState:
        """The states at `s` from those at `t < s`, `x`, of the shape of `x`."""


def _time(t: float, x: AnyState) -> Tensor:
    part = next(iter(x.values())) if isinstance(x, State) else x
    return expand_time(t, len(part), part)


@dataclass(frozen=True)
class Ancestral:
    """Exact Gaussian step given the predicted endpoint: `x_s = A x_t + B x1_hat + S^1/2 eps`.

    Arguments:
        stochasticity: noise in units of the memoryless SDE's, see `Path.ancestral`. An imperfect
            flow gains from more than 1: what is drawn anew gets another chance to be right.
    """

    stochasticity: float = 1.0
    nfe: int = 1

    def step(self, flow: Flow, x: Any, t: float, s: float, noise: Noise) -> Any:
        """See `Sampler`."""
        a, b, variance = flow.path.ancestral(t, s, self.stochasticity)
        return _gaussian_step(flow, x, t, a, b, variance, noise)


@dataclass(frozen=True)
class Euler:
    """`x_s = x_t + (s - t) v`; the last step lands on the predicted endpoint."""

    nfe: int = 1

    def step(self, flow: Flow, x: Any, t: float, s: float, noise: Noise) -> Any:
        """See `Sampler`; no noise is drawn."""
        endpoint = flow.endpoint(x, _time(t, x))
        if s == 1:
            return endpoint
        return x + times(s - t, flow.path.velocity(endpoint, x, t))


@dataclass(frozen=True)
class Heun:
    """The second-order trapezoidal rule; its last step is Euler's, where `v` has no limit."""

    nfe: int = 2

    def step(self, flow: Flow, x: Any, t: float, s: float, noise: Noise) -> Any:
        """See `Sampler`; no noise is drawn."""
        euler = Euler().step(flow, x, t, s, noise)
        if s == 1:
            return euler
        late = flow.path.velocity(flow.endpoint(euler, _time(s, x)), euler, s)
        return times(0.5, euler + x + times(s - t, late))


@dataclass(frozen=True)
class EulerMaruyama:
    """Euler-Maruyama on the memoryless SDE, `t + h` in place of `t` where `1/a_t` would blow up."""

    nfe: int = 1

    def step(self, flow: Flow, x: Any, t: float, s: float, noise: Noise) -> Any:
        """See `Sampler`."""
        a, b, variance = flow.path.euler_maruyama(t, s)
        return _gaussian_step(flow, x, t, a, b, variance, noise)


def _gaussian_step(
    flow: Flow, x: Any, t: float, a: Any, b: Any, variance: Any, noise: Noise
) -> Any:
    """`A x + B x1_hat + S^1/2 C^1/2 eps`; no noise is drawn where there is none."""
    mean = times(a, x) + times(b, flow.endpoint(x, _time(t, x)))
    return mean + times(variance**0.5, flow.noise_like(x, noise)) if variance else mean


SAMPLERS: dict[str, Sampler] = {
    "ancestral": Ancestral(),
    "euler-maruyama": EulerMaruyama(),
    "euler": Euler(),
    "heun": Heun(),
}


def uniform_grid(steps: int) -> list[float]:
    """`steps + 1` equidistant times from 0 to 1."""
    return [k / steps for k in range(steps + 1)]


def focused_grid(steps: int) -> list[float]:
    """`steps + 1` times, densest at t = 2/3, where the discrete choices of a molecule fall.

    The density of times is `0.3 + 0.7 beta(t)` with `beta` the Beta(4, 2.5) density: below t = 0.4
    little is decided, types and bonds at 0.5 to 0.8, only geometry above 0.85.
    """
    z = np.linspace(0, 1, 4001)
    density = z**3 * (1 - z) ** 1.5
    density = 0.3 + 0.7 * density / np.trapezoid(density, z)
    mass = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
    grid = np.interp(np.linspace(0, 1, steps + 1), mass / mass[-1], z)
    return [0.0, *grid[1:-1].tolist(), 1.0]


def window_grid(steps: int, start: float, stop: float) -> list[float]:
    """`steps + 1` times: a tenth of the steps before `start`, a tenth after `stop`, most between.

    For a flow that is drawn with much noise. There each step is another chance to mend what went
    wrong, and it is best given where rings close and bonds settle.
    """
    share = np.linspace(0, 1, steps + 1)
    return [float(t) for t in np.interp(share, [0, 0.1, 0.9, 1], [0, start, stop, 1])]


@dataclass(frozen=True)
class Trajectory:
    """States `x[k]` at `times[k]`, from noise to data."""

    states: list[AnyState]
    times: list[float]


@torch.no_grad()
def integrate(
    flow: Flow, sampler: Sampler, x: AnyState, grid: list[float], noise: Noise
) -> Trajectory:
    """Annealing `grid` from its first to its last time, keeping every state."""
    states = [x]
    for t, s in pairwise(grid):
        states.append(sampler.step(flow, states[-1], t, s, noise))
    return Trajectory(states, list(grid))


@torch.no_grad()
def draw(flow: Flow, sampler: Sampler, x: AnyState, grid: list[float], noise: Noise) -> AnyState:
    """Annealing `grid` and return the last state only."""
    for t, s in pairwise(grid):
        x = sampler.step(flow, x, t, s, noise)
    return x
