r"""Adjoint matching: steer a flow by the gradient of a reward.

A generation is the Markov chain `x_{k+1} = A_k x_k + B_k x1_hat(x_k) + S_k^1/2 C^1/2 eps`. With the
lean adjoint

    a_K = -grad r(x_K),      a_k = A_k a_{k+1} + B_k (d x1_hat_base / dx)^T a_{k+1} - h_k grad rho_k

along trajectories of the current flow, `-E[a_k | x_k]` is the gradient of the log-ratio of the
tilted `p_t` to the base's: no gradient passes through the control. An endpoint is
`(x + b^2 C s) / a`, so the tilt changes it by
`d_k = x1_hat - x1_hat_base = -(b^2/a) C E[a_k | x_k]`, which is the fixed point of the loss

    sum_k B_k^2 / S_k | C^-1/2 d_k + (b_k^2 / a_k) C^1/2 a_k |^2,

whose weights are those of the KL between the two chains. In short steps it is the published
`h_k |(2/sigma) C^-1/2 (v - v_base) + sigma C^1/2 a|^2`. The optimal change of a chain of finite
steps, `B_k d_k = -S_k C E[a_{k+1} | x_k]`, is right for that chain and falls short for the flow, by
14 % with 30 steps on a Gaussian; it stands in at the first step, where `a = 0`. The last step
draws no noise and is left to the base.

The chain is the ancestral one, exact given the endpoint, or Euler-Maruyama's, the published form.

The control at a time does not depend on what was done before it: `E[e^r | x_t]` is the base's. So
the tilt can be asked for from a time on. What is decided by then, which basin a conformer lies in
for instance, stays as the base has it, and each such decision is tilted within itself:
`p(x_1) = E_{p_s}[ p_base(x_1 | x_s) e^r(x_1) / E[e^r | x_s] ]`.

References:
    Domingo-Enrich et al., Adjoint Matching, 2024, arXiv 2409.08861.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from molflowctl.control.solvers.fitting import Fitting
from molflowctl.control.solvers.solver import Tilt
from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow
from molflowctl.flows.noise import BatchNoise
from molflowctl.flows.path import expand_time
from molflowctl.flows.state import State, batch_of, concatenate, dot, only, pull_back, times

__all__ = ["AdjointMatching", "Chain"]

TINY = 1e-30


@dataclass(frozen=True)
class Chain:
    """Trajectories of one simulation, a list entry per step.

    Arguments:
        states: `x_k`; ends: the base's `x1_hat(x_k)`; adjoints: `a_k`, but `a_1` at the first step;
        times: `t_k`; weights: `B_k S_k^-1/2` and `b_k^2 / a_k`, but `S_0 / B_0` at the first step,
        `(K, 2)`.
    """

    states: list[Any]
    ends: list[Any]
    adjoints: list[Any]
    times: Tensor
    weights: Tensor


@dataclass(frozen=True)
class AdjointMatching:
    """For rewards that are smooth in the state.

    Arguments:
        iterations: of simulation and adjoints.
        batch: trajectories per iteration.
        steps: of the chain; 2 or more.
        passes: optimiser steps per iteration, each on other times: simulation and adjoints cost
            more than a step.
        times: share of the times before the last quarter in a pass; the last quarter always is.
        lr: learning rate of AdamW, falling along a cosine.
        average: decay of the average of the weights.
        clip: quantile of the losses above which one is scaled down to it; 1 for none. It runs along
            the iterations, so that one wild batch does not set its own bound.
        form: "chain" (ancestral steps) or "continuous" (Euler-Maruyama).
        earliest: time before which the flow is kept at the base.
        parts: of the state that are steered, the endpoints of the others staying what they are in
            the base; none named, all of them.
    """

    iterations: int = 150
    batch: int = 256
    steps: int = 40
    passes: int = 4
    times: float = 0.25
    lr: float = 1e-2
    average: float = 0.98
    clip: float = 1.0
    form: Literal["chain", "continuous"] = "chain"
    earliest: float = 0.0
    parts: tuple[str, ...] = ()

    def solve(self, tilt: Tilt) -> Flow:
        """The flow of `base exp(reward) / Z`.

        Raises:
            UserError: if the reward has no gradient or is not finite, the fit diverges, or no step
                is late enough to be steered.
        """
        if not tilt.reward.differentiable:
            raise UserError(
                f"adjoint matching needs the gradient of {tilt.reward.name}, which has none: use "
                f"ReinforceAdjointMatching or WeightedFlowMatching."
            )
        total = self.iterations * self.passes
        fitting = Fitting(tilt.flow, self.lr, total, cosine=True, average=self.average)
        noise = BatchNoise(tilt.seed, tilt.base.device)
        grid = tilt.base.grid(self.steps)
        bound = None
        for _ in range(self.iterations):
            chain = self.simulate(fitting.flow, tilt, grid, noise)
            for _ in range(self.passes):
                losses = self.losses(fitting.flow, chain, self._pick(noise))
                if self.clip < 1:
                    level = losses.detach().quantile(self.clip)
                    bound = level if bound is None else torch.lerp(bound, level, 0.05)
                    # A loss of zero, as before `earliest`, is beyond no bound.
                    losses = losses * (bound / losses.detach().clamp_min(TINY)).clamp(max=1)
                fitting.update(losses.mean())
        return fitting.result()

    @torch.no_grad()
    def simulate(self, flow: Flow, tilt: Tilt, grid: list[float], noise: BatchNoise) -> Chain:
        """Trajectories of `flow` and their lean adjoints under `tilt`.

        Raises:
            UserError: if a state or the reward's gradient is not finite, or no step is late enough
                to be steered.
        """
        x = flow.start(self.batch, noise)
        step = flow.path.ancestral if self.form == "chain" else flow.path.euler_maruyama
        coefficients = [step(t, s) for t, s in pairwise(grid)]
        # A step without noise is left to the base.
        steered = [t >= self.earliest and c[2] for t, c in zip(grid, coefficients, strict=False)]
        if not any(steered):
            raise UserError(
                f"none of {self.steps} steps begins at {self.earliest:g} or later, where there "
                f"would be something to steer: lower earliest, or take more steps."
            )
        states, ends = [x], []
        for t, (a, b, variance) in zip(grid, coefficients, strict=False):
            end = flow.endpoint(x, _at(t, x))
            x = times(a, x) + times(b, end)
            if variance:
                x = x + times(variance**0.5, flow.noise_like(x, noise))
            states.append(x)
        if not dot(x, x).isfinite().all():
            raise UserError(
                "the fit diverged (states that are not finite): lower the learning rate or the "
                "step size."
            )
        adjoint = times(-1.0, tilt.reward.gradient(x))
        adjoints: list[Any] = []
        for k in reversed(range(len(coefficients))):
            after = adjoint
            x, t, (a, b, _) = states[k], grid[k], coefficients[k]
            if t < self.earliest:
                ends.append(tilt.base.endpoint(x, _at(t, x)))
                adjoints.append(times(0.0, adjoint))
                continue
            moved, end = pull_back(partial(_endpoint, tilt.base, _at(t, x)), x, adjoint)
            ends.append(end)
            adjoint = times(a, adjoint) + times(b, moved)
            if tilt.running is not None and k:
                slope = tilt.running(x, _at(t, x))
                adjoint = adjoint - times(grid[k + 1] - t, slope)
            adjoints.append(adjoint if k else after)
        weights = torch.tensor(
            [
                self._weights(flow, t, b, variance, first=k == 0)
                for k, (t, (_, b, variance)) in enumerate(zip(grid, coefficients, strict=False))
            ],
            device=flow.device,
        )
        times_of = torch.tensor(grid, device=flow.device)
        return Chain(states, ends[::-1], adjoints[::-1], times_of, weights)

    def losses(self, flow: Flow, chain: Chain, picked: Tensor) -> Tensor:
        """The loss at every step picked, `(K,)` numbers, of every trajectory, `(K * B,)`."""
        x, base, adjoint = (
            concatenate([part[k] for k in picked.tolist()])
            for part in (chain.states, chain.ends, chain.adjoints)
        )
        batch = batch_of(chain.states[0])
        t = chain.times[picked].repeat_interleave(batch)
        weight, reach = chain.weights[picked].repeat_interleave(batch, 0).unbind(-1)
        change = flow.covariance.power(flow.endpoint(x, t) - base, -0.5)
        gap = change + times(reach, only(flow.covariance.power(adjoint, 0.5), self.parts))
        return weight.square() * dot(gap, gap)

    @staticmethod
    def _weights(
        flow: Flow, t: float, b: Any, variance: Any, *, first: bool
    ) -> tuple[float, float]:
        """Weight of a step in the loss and reach of its adjoint; the last step has no weight."""
        signal, noise, _, _ = flow.path.coefficients(t)
        reach = variance / b if first else noise**2 / signal
        return (float(b / variance**0.5) if variance else 0.0), float(reach)

    def _pick(self, noise: BatchNoise) -> Tensor:
        """Steps of a pass: the last quarter, and a random share of the rest."""
        count = self.steps - 1
        early = count - self.steps // 4
        rest = torch.randperm(early, generator=noise.generator, device=noise.generator.device)
        some = rest[: max(1, round(self.times * early))]
        return torch.cat([some, torch.arange(early, count, device=some.device)])


def _endpoint(flow: Flow, t: Tensor, x: Any) -> Any:
    return flow.endpoint(x, t)


def _at(t: float, x: Any) -> Tensor:
    """The time `t` for every element of `x`."""
    part = next(iter(x.values())) if isinstance(x, State) else x
    return expand_time(t, len(part), part)
