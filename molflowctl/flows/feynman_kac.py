r"""Feynman-Kac correctors: samples of `prod p_i^w_i` from its parts, by weights along the way.

Adding scores walks towards no density: noising and multiplying do not commute. Sequential Monte
Carlo mends that. Its targets are `prod q_{i,t}^w_i`, of the parts' own noised densities, and for
`sum w_i = 1` one memoryless step from `t` to `s`, of the averaged endpoint `e = sum w_i e_i`, has
the weight

    prod p_i(x_s | x_t)^w_i / p(x_s | x_t) = exp(-B^2 / (2 S) sum w_i |e_i - e|^2_(C^-1)),

since the noising kernel, common to the parts, cancels. It grows where the parts agree. Every sample
has a swarm of its own, which is drawn anew from itself whenever its weights have become uneven: a
sample depends on its own noise alone, and on no other's, as those of any sampler do.

References:
    Skreta et al., Feynman-Kac Correctors in Diffusion, 2025, arXiv 2503.02819 (their geometric
        average, in continuous time).
    Du et al., Reduce, Reuse, Recycle, 2023, arXiv 2302.11552 (why a sum of scores is biased).
    Owen, Monte Carlo theory, methods and examples, 2013, chapter 17 (systematic resampling).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from molflowctl.flows.flow import Flow
from molflowctl.flows.noise import Noise
from molflowctl.flows.path import expand_time
from molflowctl.flows.state import AnyState, State, batch_of, dot, times

__all__ = ["draw_product"]

Endpoints = Callable[[Any, Tensor], Sequence[Any]]


@torch.no_grad()
def draw_product(
    flow: Flow,
    endpoints: Endpoints,
    weights: Sequence[float],
    x: AnyState,
    grid: Sequence[float],
    noise: Noise,
    *,
    particles: int,
    least: float = 0.5,
) -> AnyState:
    """One state of `prod q_{i,t}^w_i` at the last time of `grid` for each of `x`.

    Arguments:
        flow: whose path and noise the parts have.
        endpoints: `E_i[x_1 | x_t]` of every part.
        weights: one per part, adding up to one; a negative one takes away.
        x: states of the shapes to draw, `B` of them.
        grid: times from 0 to one before 1.
        particles: `K` in the swarm of each state. What is drawn is exact as `K` and the number of
            steps grow: over a long step `p_i(x_s | x_t)` is no Gaussian of its mean.
        least: effective share of a swarm below which it is drawn anew.

    Raises:
        ValueError: if the weights do not add up to one, or the grid leads to 1.
    """
    if abs(sum(weights) - 1) > 1e-6 or not grid[-1] < 1:
        raise ValueError(f"weights {list(weights)} that add up to one, and times before 1")
    batch = batch_of(x)
    swarms = _Swarms(noise, particles)
    device = _first(x).device
    members = torch.arange(particles, device=device)
    begins = particles * torch.arange(batch, device=device)[:, None]  # of the swarms
    x = _select(x, torch.arange(batch, device=device).repeat_interleave(particles))
    x = flow.noise_like(x, swarms)
    log_weights = torch.zeros(batch, particles, dtype=torch.float64, device=device)
    for t, s in pairwise(grid):
        ends = endpoints(x, expand_time(t, batch * particles, _first(x)))
        mean = _average(weights, ends)
        a, b, variance = flow.path.ancestral(t, s)
        gaps = [flow.covariance.power(end - mean, -0.5) for end in ends]
        apart = sum((w * dot(g, g) for w, g in zip(weights, gaps, strict=True)), torch.zeros(()))
        log_weights -= b**2 / (2 * variance) * apart.double().reshape(batch, particles)
        x = times(a, x) + times(b, mean) + times(variance**0.5, flow.noise_like(x, swarms))
        shares = log_weights.softmax(1)
        uneven = 1 / shares.square().sum(1) < least * particles
        offset = _uniform(noise, batch)  # drawn whoever needs it: streams of samples stay apart
        if uneven.any():
            anew = _at(shares, (members + offset) / particles)
            anew = torch.where(uneven[:, None], anew, members)
            log_weights[uneven] = 0
            x = _select(x, (begins + anew).flatten())
    one = _at(log_weights.softmax(1), _uniform(noise, batch))
    return _select(x, (begins + one).flatten())


class _Swarms:
    """The noise of every state, dealt out to its swarm."""

    def __init__(self, noise: Noise, particles: int) -> None:
        self.noise, self.particles = noise, particles

    def normal(self, *shape: int) -> Tensor:
        batch = shape[0] // self.particles
        return self.noise.normal(batch, self.particles, *shape[1:]).reshape(*shape)


def _uniform(noise: Noise, batch: int) -> Tensor:
    """`(B, 1)` in [0, 1]."""
    place: Tensor = torch.special.ndtr(noise.normal(batch, 1).double())
    return place


def _at(shares: Tensor, place: Tensor) -> Tensor:
    """Indices at `place` in [0, 1] of the cumulative `shares`, row by row."""
    found = torch.searchsorted(shares.cumsum(1), place.contiguous())
    return found.clamp(max=shares.shape[1] - 1)


def _average(weights: Sequence[float], states: Sequence[Any]) -> Any:
    total = times(weights[0], states[0])
    for weight, state in zip(weights[1:], states[1:], strict=True):
        total = total + times(weight, state)
    return total


def _first(x: AnyState) -> Tensor:
    return next(iter(x.values())) if isinstance(x, State) else x


def _select(x: AnyState, rows: Tensor) -> AnyState:
    return x.select(rows) if isinstance(x, State) else x[rows]
