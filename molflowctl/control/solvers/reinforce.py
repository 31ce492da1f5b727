r"""Reinforce adjoint matching: steer a flow by reward values alone.

Under a tilt `p_s = p exp(s r) / Z` a point `x_1` counts `W = exp(s r) / Z` times, and the flow's
posterior mean moves from `x1_hat(x_t) = E[x_1 | x_t]` to `E[W x_1 | x_t] / E[W | x_t]`. That is
what minimises

    E  W | x1_hat_new(x_t) - x1_hat(x_t) - (1 - 1/W) (x_1 - x1_hat(x_t)) |^2 ,

a regression on points that are drawn from the flow, scored, and noised to `x_t`: its gradient has
the mean of that of the weighted pre-training loss, `W |x1_hat_new - x_1|^2`, and of its noise only
what the tilt changes, `(W - 1) (x_1 - x1_hat)`. There is no gradient of the reward, no roll-out of
the SDE and no adjoint; types and bonds are steered as positions are.

A step is exact for any `s`, so far as its points show the tilt: a large one rests on few. Take
several, each with the previous flow as its reference (`FlowDensityControl` with the anchor "walk").
To first order in `s` the weights can be left out, `x1_hat + s (r - mean r) (x_1 - x1_hat)` for a
target, as published; but then a tilt that is steep where points are bad pushes away from them by
more than all of their mass, and one that is steep where they are good falls short.

References:
    Reinforce Adjoint Matching, arXiv 2605.10759 (the value-based estimator, to first order).
    Domingo-Enrich et al., Adjoint Matching, 2024, arXiv 2409.08861 (the control problem it solves).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch

from molflowctl.control.bank import ReplayBuffer
from molflowctl.control.solvers.fitting import Fitting
from molflowctl.control.solvers.stepping import Stepping, noised
from molflowctl.flows.flow import Flow
from molflowctl.flows.state import only, times

__all__ = ["ReinforceAdjointMatching"]

LEAST = 1e-3  # of the weights, which the targets are divided by; it changes a tilt by no more


@dataclass(frozen=True)
class ReinforceAdjointMatching(Stepping):
    """Tilts of a flow by the rewards of its own samples.

    Arguments:
        steps: optimiser steps per mirror step.
        batch: states per step.
        lr: learning rate of AdamW.
        clip: rewards are clipped to this many standard deviations; a bound that bites biases the
            tilt where rewards have a long tail, as those of a super-quantile have.
        latest: the flow's times are scaled to `[0, latest]`: near 1 the reward is decided, the
            correction vanishes as `(1-t)^2`, and what is left of the product is noise.
        rounds: mirror steps of a whole tilt.
        points: drawn from the current flow per round.
        nfe: of the network per point.
        parts: of the state that are steered, the endpoints of the others staying what they are;
            none named, all of them.
    """

    title: ClassVar[str] = "reinforce adjoint matching"

    steps: int = 128
    batch: int = 128
    lr: float = 5e-4
    clip: float = 10.0
    latest: float = 0.9
    rounds: int = 10
    points: int = 2048
    nfe: int = 40
    parts: tuple[str, ...] = ()

    def mirror_step(
        self, flow: Flow, bank: ReplayBuffer, strength: float, seed: int = 0, rate: float = 1.0
    ) -> Flow:
        """See `Stepping`."""
        fitting = Fitting(flow, self.lr * rate, self.steps)
        ratios = [w.clamp_min(LEAST) for w in bank.ratios(strength, self.clip)]
        bank, factors = bank.focused([w - 1 for w in ratios])
        reference = copy.deepcopy(flow).requires_grad_(False).eval()
        early = lambda u: self.latest * flow.draw_times(u)  # noqa: E731
        for batch in noised(bank, flow, early, self.steps, self.batch, seed):
            x1, xt, t, ratio = batch.x1, batch.xt, batch.t, batch.of(ratios)
            with torch.no_grad():
                old = reference.endpoint(xt, t)
                target = old + only(times(1 - 1 / ratio, x1 - old), self.parts)
            errors = flow.endpoint_error(fitting.flow.endpoint(xt, t), target, t)
            fitting.update((batch.of(factors) * ratio * errors).mean())
        return fitting.result()
