r"""Weighted flow matching: steer a flow by weighing what it has drawn already.

A tilt `p ~ p_0 exp(r)` of a bank of samples of `p_0` has weights `softmax(r)`; the pre-training
loss under these weights has the tilted flow as its optimum. It asks for values of the reward only,
once per sample, and needs no mirror steps; but it knows only what the bank holds. Where the
effective sample size falls below a share of the bank, the tilt is taken in parts, with a fresh bank
for each.

The weights may also be the solution of the whole outer problem on the bank: `optimal_weights` is
mirror ascent on the simplex, for any objective.

References:
    Owen, Monte Carlo theory, methods and examples, 2013, chapter 9 (effective sample size).
    Del Moral, Doucet, Jasra, Sequential Monte Carlo samplers, 2006 (tempering by effective size).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from molflowctl.control.bank import ReplayBuffer
from molflowctl.control.objectives.density import Density, Tabulated, Tilted, as_density
from molflowctl.control.objectives.objective import Functional
from molflowctl.control.objectives.reward import Reward
from molflowctl.control.population import Population, population_of
from molflowctl.control.solvers.fitting import Fitting
from molflowctl.control.solvers.solver import Tilt
from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow
from molflowctl.flows.noise import BatchNoise
from molflowctl.flows.state import on_cpu, select

__all__ = ["WeightedFlowMatching", "effective_share", "optimal_weights", "stratified"]


def stratified(batch: int, noise: BatchNoise) -> Tensor:
    """One number in each of `batch` equal parts of [0, 1), in random order, `(batch,)`."""
    place = noise.uniform(batch).argsort() + noise.uniform(batch)
    # Rounding could make the last one 1, a time at which a velocity has no value.
    return (place / batch).clamp(max=1 - 1e-5)


def effective_share(log_weights: Tensor) -> float:
    """Effective sample size of `exp(log_weights)`, `(N,)`, over `N`, above 0 and at most 1."""
    return float(1 / torch.softmax(log_weights.double(), 0).square().sum() / len(log_weights))


@dataclass(frozen=True)
class WeightedFlowMatching:
    """For any reward with values, and the baseline of the other solvers.

    Arguments:
        points: in the bank.
        nfe: of the network per point drawn.
        steps: of the optimiser per part of the tilt.
        batch: states per step.
        lr: learning rate of AdamW, falling along a cosine.
        refresh: effective share of the bank below which the tilt is taken in parts.
        parts: at most so many; beyond them the last part takes what is left.
    """

    points: int = 4096
    nfe: int = 40
    steps: int = 500
    batch: int = 512
    lr: float = 3e-3
    refresh: float = 0.2
    parts: int = 8

    def solve(self, tilt: Tilt) -> Flow:
        """The flow of `base exp(reward) / Z`.

        Raises:
            UserError: for a running reward, which has no values here, or if the fit diverges.
        """
        if tilt.running is not None:
            raise UserError("weighted flow matching has no use for a running reward.")
        if tilt.bank is not None:
            return self._fit(tilt.flow, tilt.bank.tilted(), tilt.seed)
        flow, left = tilt.flow, 1.0
        source = tilt.base
        for part in range(self.parts):
            seed = tilt.seed * 1000 + part
            x = on_cpu(source.draw_states(self.points, seed=seed, nfe=self.nfe))
            values = tilt.reward.value(x).double()
            share = self._share(values, left) if part < self.parts - 1 else left
            flow = self.fit(flow, x, torch.softmax(share * values, 0), seed)
            left -= share
            if left <= 1e-9:
                break
            source = flow
        return flow

    def fit(self, flow: Flow, x: Any, weights: Tensor, seed: int = 0, **run: Any) -> Flow:
        """The flow of `N` weighted points: the pre-training loss on points drawn by weight, `(N,)`.

        `run` is `watch` and `file` of `Fitting.run`.
        """
        return self._fit(
            flow, ReplayBuffer.of(x, torch.zeros(len(weights)), weights.cpu()), seed, **run
        )

    def _fit(self, flow: Flow, bank: ReplayBuffer, seed: int, **run: Any) -> Flow:
        fitting = Fitting(flow, self.lr, self.steps, cosine=True)
        noise = BatchNoise(seed, flow.device)
        rows_of = torch.Generator().manual_seed(seed)

        def loss(learner: Flow) -> Tensor:
            group, rows = bank.minibatch(self.batch, rows_of)
            x1 = select(bank.states[group], rows).to(flow.device)
            t = flow.draw_times(stratified(self.batch, noise))
            return learner.loss(x1, t, noise).mean()

        return fitting.run(loss, [noise.generator, rows_of], **run)

    def _share(self, values: Tensor, left: float) -> float:
        """The largest part of the tilt whose effective share is `refresh`, by bisection."""
        if effective_share(left * values) >= self.refresh:
            return left
        low, high = 0.0, left
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (
                (middle, high)
                if effective_share(middle * values) >= self.refresh
                else (low, middle)
            )
        return max(low, left / 100)


class _Known(Reward):
    """Values at given points, of one shape or several, and nowhere else."""

    def __init__(self, x: Any, values: Tensor) -> None:
        super().__init__(Tabulated(x, values).log_density, name="log weight")

    def value(self, x: Any) -> Tensor:
        return self.function(x)


def optimal_weights(
    objective: Functional,
    x: Any,
    prior: Flow | Density,
    *,
    base_weights: Tensor | None = None,
    step_size: float = 1.0,
    steps: int = 200,
    tolerance: float = 1e-7,
    seed: int = 0,
) -> Population:
    """The best reweighting of points of `prior`: mirror ascent on the simplex.

    Steps that lower the objective are halved, steps that raise it grow, so `step_size` is only a
    first guess. On a grid with `base_weights` in place of samples this is the optimum itself.

    Arguments:
        x: points, a population or `N` states, drawn from `prior` unless `base_weights` says
            otherwise.
        base_weights: `(N,)`, the prior's share of each point.
        tolerance: of the objective, relative, over ten steps.

    Returns:
        the points with their weights; the density is the prior's, tilted.
    """
    points = population_of(x)
    count = len(points)
    log_base = (
        torch.full((count,), -math.log(count), dtype=torch.float64)
        if base_weights is None
        else (base_weights.double() / base_weights.double().sum()).clamp_min(1e-300).log()
    )
    p0 = as_density(prior)
    log_tilt = torch.zeros(count, dtype=torch.float64)

    def sample_of(log_tilt: Tensor) -> Population:
        log_weights = log_base + log_tilt
        log_z = float(log_weights.logsumexp(0))
        tilted = Tilted(p0, _Known(points.states, log_tilt), log_z)
        return points.weighted((log_weights - log_z).exp(), tilted)

    sample = sample_of(log_tilt)
    objective.fit(sample, seed)
    value, history, size = objective.value(sample), [], step_size
    for step in range(steps):
        slope = objective.first_variation(sample).value(sample).double()
        for _ in range(30):
            new = sample_of(log_tilt + size * slope)
            reached = objective.value(new)
            if reached >= value:
                break
            size /= 2
        else:
            break
        log_tilt, sample, value, size = log_tilt + size * slope, new, reached, size * 1.5
        log_tilt = log_tilt - log_tilt.max()
        objective.fit(sample, seed + step)
        history.append(value)
        if step > 10 and abs(value - history[-10]) <= tolerance * max(1.0, abs(value)):
            break
    return sample
