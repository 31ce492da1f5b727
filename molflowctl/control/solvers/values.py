r"""Value matching: steer a flow by the gradient of a value that a network learns.

The tilt `p_1 exp(s r) / Z = p_1 W` has at the time `t` the density `p_t E[W | x_t]`. Its score is
larger by the gradient of the value

    V_t(x) = log E[W | x_t = x],

and its endpoint `(x + b^2 C grad log p_t) / a` by

    d_t(x) = (b^2 / a) C grad V_t(x) .

The value is a regression on samples of the flow that were scored and noised again, whose loss

    E  exp(V_t(x_t)) - W V_t(x_t)

is least at the logarithm of the mean; it needs no gradient of the reward. The flow then learns
`x1_hat + d`, a target without noise. A step is exact for any `s`, as far as its points show the
tilt; take several, each with the previous flow as its reference (`FlowDensityControl` with the
anchor "walk").

Reinforce adjoint matching learns the same `d` from `(W - 1) (x_1 - x1_hat)`, a noise in every
coordinate that is larger than what it tells. A value is one number per state, and a smooth function
of it even where the reward is not: the gradient of a reward in types and bonds is none, or rare
spikes. What it learns is short of the whole, since a network smooths, but it is clean.

References:
    Dhariwal, Nichol, 2021, arXiv 2105.05233 (guidance by the gradient of a network of noisy
    states). Uehara et al., 2024, arXiv 2402.15194 (the optimal drift is the gradient of the soft
    value). Banerjee et al., J. Mach. Learn. Res. 6, 1705 (2005) (the loss: a Bregman divergence,
    that of the exponential, is least at the mean). Domingo-Enrich et al., 2024, arXiv 2409.08861
    (fine-tuning as matching).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from molflowctl.control.bank import ReplayBuffer
from molflowctl.control.solvers.fitting import Fitting
from molflowctl.control.solvers.stepping import Stepping, noised
from molflowctl.flows.flow import Flow
from molflowctl.flows.guided import guidance
from molflowctl.flows.state import only

__all__ = ["ValueInUnits", "ValueMatching", "learn_value"]


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
    nfe: int = 40
    parts: tuple[str, ...] = ()

    def mirror_step(
        self, flow: Flow, bank: ReplayBuffer, strength: float, seed: int = 0, rate: float = 1.0
    ) -> Flow:
        """See `Stepping`."""
        value = self.value(flow, bank, strength, seed)
        fitting = Fitting(flow, self.lr * rate, self.steps)
        reference = copy.deepcopy(flow).requires_grad_(False).eval()
        for batch in noised(bank, flow, flow.draw_times, self.steps, self.batch, seed):
            xt, t = batch.xt, batch.t
            with torch.no_grad():
                change = only(self.change(flow, value, xt, t), self.parts)
                target = reference.endpoint(xt, t) + change
            fitting.update(flow.endpoint_error(fitting.flow.endpoint(xt, t), target, t).mean())
        return fitting.result()

    def change(self, flow: Flow, value: nn.Module, x: Any, t: Tensor) -> Any:
        """`d_t(x)`, of the shape of `x`; zero before `earliest`.

        Arguments:
            flow: whose path and noise covariance count.
            value: `V`, a network `(x, t) -> (B,)`.
            x: states; t: their times, `(B,)`.
        """
        return guidance(flow, value, x, t, (self.earliest, 1.0))

    def value(self, flow: Flow, bank: ReplayBuffer, strength: float, seed: int = 0) -> nn.Module:
        """`V`, a network `(x, t) -> (B,)`, in nats.

        Raises:
            UserError: for a flow without a value network, or if the fit diverges.
        """
        ratios = bank.ratios(strength, self.clip)
        spread = strength * float(torch.cat(bank.advantages(self.clip)).std(unbiased=False))
        return _learn(
            flow, bank, ratios, lambda value, ratio: value.exp() - ratio * value, spread,
            steps=self.value_steps, batch=self.batch, lr=self.value_lr, seed=seed,
        )  # fmt: skip


def learn_value(flow: Flow, bank: ReplayBuffer, rewards: list[Tensor], **run: Any) -> nn.Module:
    """`E[r | x_t]`, a network `(x, t) -> (B,)`, by least squares on noised points of a bank.

    Arguments:
        flow: whose value network, path and noise count.
        rewards: `r`, one tensor for each group of the bank.
        run: `steps`, `batch` and `lr` of AdamW, whose rate falls along a cosine; `seed`;
            `earliest` of the times at which it learns, the flow's own being scaled to what is left.

    Raises:
        UserError: for a flow without a value network, or if the fit diverges.
    """
    spread = float(torch.cat(rewards).std(unbiased=False)) or 1.0
    squares = lambda value, r: ((r - value) / spread).square()  # noqa: E731
    return _learn(flow, bank, rewards, squares, spread, **run)


def _learn(
    flow: Flow,
    bank: ReplayBuffer,
    told: list[Tensor],
    loss: Callable[[Tensor, Tensor], Tensor],
    spread: float,
    *,
    steps: int,
    batch: int,
    lr: float,
    seed: int = 0,
    earliest: float = 0.0,
) -> nn.Module:
    """The network `(x, t) -> (B,)` of least `loss` to what is told of noised points of a bank."""
    torch.manual_seed(seed)
    fitting = Fitting(ValueInUnits(flow, spread or 1.0), lr, steps, cosine=True)
    late = lambda u: earliest + (1 - earliest) * flow.draw_times(u)  # noqa: E731
    for points in noised(bank, flow, late, steps, batch, seed + 1):
        fitting.update(loss(fitting.flow(points.xt, points.t), points.of(told)).mean())
    return fitting.result().requires_grad_(False)


class ValueInUnits(nn.Module):
    """A flow's value network, in units of the spread of what it is of."""

    def __init__(self, flow: Flow, spread: float) -> None:
        super().__init__()
        self.spread = spread
        self.network = flow.value_network()

    def forward(self, x: Any, t: Tensor) -> Tensor:
        """Values at states and their times, `(B,)`."""
        value: Tensor = self.network(x, t)
        return self.spread * value
