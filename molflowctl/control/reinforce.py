r"""Reinforce adjoint matching: steer a flow by reward values alone.

Tilting a density, `p_s ~ p exp(s r)`, moves the flow's posterior mean along

    d E_s[x_1 | x_t] / ds = Cov_s(r, x_1 | x_t),

so one small step of strength `s` is a regression: draw `x_1` from the flow, score it, noise it to
`x_t`, and fit

    x1_hat_new(x_t)  to  x1_hat(x_t) + s (r - mean r) (x_1 - x1_hat(x_t)),

whose mean given `x_t` is `x1_hat + s Cov(r, x_1 | x_t)`. There is no gradient of the reward, no
roll-out of the SDE and no adjoint; types and bonds are steered as positions are. A step is exact to
first order in `s`: take several small ones, each with the previous flow as its reference
(`control/tilt.py`).

References:
    Reinforce Adjoint Matching, arXiv 2605.10759 (the value-based estimator).
    Domingo-Enrich et al., Adjoint Matching, 2024, arXiv 2409.08861 (the control problem it solves).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch

from molflowctl.control.bank import Bank, select
from molflowctl.flows.flow import Flow
from molflowctl.flows.noise import BatchNoise
from molflowctl.flows.state import times

__all__ = ["ReinforceAdjointMatching"]


@dataclass(frozen=True)
class ReinforceAdjointMatching:
    """One tilt of a flow by the rewards of its own samples.

    Arguments:
        steps: optimiser steps per tilt.
        batch: states per step.
        lr: learning rate of AdamW.
        clip: advantages are clipped to this many standard deviations.
        latest: the flow's times are scaled to `[0, latest]`: near 1 the reward is decided, the
            correction vanishes as `(1-t)^2`, and what is left of the product is noise.
    """

    steps: int = 128
    batch: int = 128
    lr: float = 5e-4
    clip: float = 3.0
    latest: float = 0.9

    def solve(
        self, flow: Flow, bank: Bank, strength: float, seed: int = 0, rate: float = 1.0
    ) -> Flow:
        """The flow of `p exp(strength * r) / Z`, for `p` the flow that the bank was drawn from.

        Arguments:
            flow: the current flow; it stays as it is.
            bank: its samples with their rewards.
            strength: of the tilt, in units of one over reward.
            rate: factor of the learning rate.
        """
        device = flow.device
        noise = BatchNoise(seed, device)
        rows_of = torch.Generator().manual_seed(seed)
        advantages = [a.to(device) for a in bank.advantages(self.clip)]
        reference = copy.deepcopy(flow).requires_grad_(False).eval()
        new = copy.deepcopy(flow).train()
        average = [p.detach().clone() for p in new.parameters()]
        optimiser = torch.optim.AdamW(
            new.parameters(), lr=self.lr, betas=(0.9, 0.95), weight_decay=0
        )
        for step in range(self.steps):
            warm = min(1.0, (step + 1) / 5)
            for group in optimiser.param_groups:
                group["lr"] = self.lr * rate * warm
            index, rows = bank.minibatch(self.batch, rows_of)
            x1 = select(bank.states[index], rows).to(device)
            t = self.latest * flow.draw_times(noise.uniform(len(rows)))
            xt = flow.path.sample(flow.noise_like(x1, noise), x1, t)
            with torch.no_grad():
                old = reference.endpoint(xt, t)
                target = old + times(strength * advantages[index][rows.to(device)], x1 - old)
            loss = new.endpoint_error(new.endpoint(xt, t), target, t).mean()
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(new.parameters(), 1.0)
            optimiser.step()
            # The average of the last half of the steps: the gradient noise of a constant rate
            # averages out, and the first steps, which still move, do not count.
            late = step - self.steps // 2
            if late >= 0:
                parameters = [p.detach() for p in new.parameters()]
                torch._foreach_lerp_(average, parameters, 1 / (late + 1))
        for parameter, mean in zip(new.parameters(), average, strict=True):
            parameter.data.copy_(mean)
        return new.eval()
