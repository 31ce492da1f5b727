r"""Value matching: steer a flow by the gradient of a value that a network learns.

The tilt `p_1 exp(s r) / Z` has at the time `t` the density `p_t E[exp(s r) | x_t] / Z`. To first
order in `s` its score is larger by `s grad V_t`, with the value

    V_t(x) = E[r | x_t = x],

and its endpoint `(x + b^2 C grad log p_t) / a` by

    d_t(x) = s (b^2 / a) C grad V_t(x) = s Cov(r, x_1 | x_t = x).

The value is a regression on samples of the flow that were scored and noised again; it needs no
gradient of the reward. The flow then learns `x1_hat + d`, a target without noise. A step is exact
to first order in `s`: take several, each with the previous flow as its reference
(`FlowDensityControl` with the anchor "walk").

Reinforce adjoint matching learns the same `d` from `r (x_1 - x1_hat)`, a noise in every coordinate
that is larger than what it tells. A value is one number per state, and a smooth function of it
even where the reward is not: the gradient of a reward in types and bonds is none, or rare spikes.
What it learns is short of the whole (a network smooths) but clean, so that steps may be longer
before they do harm.

References:
    Dhariwal, Nichol, 2021, arXiv 2105.05233 (guidance by the gradient of a network of noisy
    states). Uehara et al., 2024, arXiv 2402.15194 (the optimal drift is the gradient of the soft
    value). Domingo-Enrich et al., 2024, arXiv 2409.08861 (fine-tuning as matching).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from molflowctl.control.bank import Bank, select
from molflowctl.control.fitting import Fitting
from molflowctl.control.stepping import Stepping
from molflowctl.flows.flow import Flow
from molflowctl.flows.noise import BatchNoise
from molflowctl.flows.state import only, pull_back, times

__all__ = ["ValueMatching", "learn_value"]


@dataclass(frozen=True)
class ValueMatching(Stepping):
    """Tilts of a flow by learned values of its noisy states.

    Arguments:
        value_steps: optimiser steps of the value, per mirror step.
        value_lr: its learning rate, which falls along a cosine.
        steps: optimiser steps of the flow, per mirror step.
        batch: states per step of either.
        lr: learning rate of the flow.
        clip: rewards are clipped to this many standard deviations.
        earliest: time before which the flow stays what it is: hardly anything of an outcome is
            known there, and `b^2 / a` multiplies the error of what is learned.
        rounds, points, evaluations, parts: as in `ReinforceAdjointMatching`.
    """

    title: ClassVar[str] = "value matching"

    value_steps: int = 300
    value_lr: float = 2e-3
    steps: int = 128
    batch: int = 128
    lr: float = 5e-4
    clip: float = 10.0
    earliest: float = 0.3
    rounds: int = 4
    points: int = 2048
    evaluations: int = 40
    parts: tuple[str, ...] = ()

    def mirror_step(
        self, flow: Flow, bank: Bank, strength: float, seed: int = 0, rate: float = 1.0
    ) -> Flow:
        """See `Stepping`."""
        value = self.value(flow, bank, strength, seed)
        fitting = Fitting(flow, self.lr * rate, self.steps)
        noise = BatchNoise(seed, flow.device)
        rows_of = torch.Generator().manual_seed(seed)
        reference = copy.deepcopy(flow).requires_grad_(False).eval()
        for _ in range(self.steps):
            index, rows = bank.minibatch(self.batch, rows_of)
            x1 = select(bank.states[index], rows).to(flow.device)
            t = flow.draw_times(noise.uniform(len(rows)))
            xt = flow.path.sample(flow.noise_like(x1, noise), x1, t)
            with torch.no_grad():
                change = only(self.change(flow, value, xt, t), self.parts)
                target = reference.endpoint(xt, t) + change
            fitting.update(flow.endpoint_error(fitting.flow.endpoint(xt, t), target, t).mean())
        return fitting.result()

    def change(self, flow: Flow, value: nn.Module, x, t: Tensor):
        """`d_t(x)`, of the shape of `x`; zero before `earliest`.

        Arguments:
            flow: whose path and noise covariance count.
            value: `s V`, a network `(x, t) -> (B,)`.
            x: states; t: their times, `(B,)`.
        """
        slope, _ = pull_back(lambda y: value(y, t)[:, None], x, torch.ones_like(t)[:, None])
        a, b, _, _ = map(torch.as_tensor, flow.path.coefficients(t))
        reach = torch.where(t < self.earliest, 0.0, b.square() / a.clamp_min(1e-3))
        return flow.covariance.power(times(reach, slope), 1.0)

    def value(self, flow: Flow, bank: Bank, strength: float, seed: int = 0) -> nn.Module:
        """`s V`, a network `(x, t) -> (B,)`, in nats, centred over the bank it is learned from.

        Raises:
            UserError: for a flow without a value network, or if the fit diverges.
        """
        rewards = [strength * r for r in bank.advantages(self.clip)]
        return learn_value(
            flow, bank, rewards,
            steps=self.value_steps, batch=self.batch, lr=self.value_lr, seed=seed,
        )  # fmt: skip


def learn_value(
    flow: Flow,
    bank: Bank,
    rewards: list[Tensor],
    *,
    steps: int,
    batch: int,
    lr: float,
    seed: int = 0,
    earliest: float = 0.0,
) -> nn.Module:
    """`E[r | x_t]`, a network `(x, t) -> (B,)`, by least squares on noised points of a bank.

    Arguments:
        flow: whose value network, path and noise count.
        rewards: `r`, one tensor for each group of the bank.
        steps, batch, lr: of AdamW; the rate falls along a cosine.
        earliest: of the times at which it learns; the flow's own are scaled to what is left.

    Raises:
        UserError: for a flow without a value network, or if the fit diverges.
    """
    device = flow.device
    spread = float(torch.cat(rewards).std(unbiased=False)) or 1.0
    torch.manual_seed(seed)
    fitting = Fitting(Scaled(flow, spread), lr, steps, cosine=True)
    noise = BatchNoise(seed + 1, device)
    rows_of = torch.Generator().manual_seed(seed + 1)
    for _ in range(steps):
        index, rows = bank.minibatch(batch, rows_of)
        x1 = select(bank.states[index], rows).to(device)
        t = earliest + (1 - earliest) * flow.draw_times(noise.uniform(len(rows)))
        xt = flow.path.sample(flow.noise_like(x1, noise), x1, t)
        gap = rewards[index][rows].to(device) - fitting.flow(xt, t)
        fitting.update((gap / spread).square().mean())
    return fitting.result().requires_grad_(False)


class Scaled(nn.Module):
    """A flow's value network, in units of the rewards' spread."""

    def __init__(self, flow: Flow, spread: float) -> None:
        super().__init__()
        self.spread = spread
        self.network = flow.value_network()

    def forward(self, x, t: Tensor) -> Tensor:
        return self.spread * self.network(x, t)
