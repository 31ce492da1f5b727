r"""Adjoint matching for rewards that have no gradient: by that of a network that learned them.

A network learns `r(x_1)` from samples of the flow that were scored, and its gradient begins the
adjoints. It is smooth in types and bonds too, where a reward of whole molecules is not; how much of
it the adjoints carry back is another matter, since an endpoint's probabilities hardly answer to the
state once they are decided. No sample but those of the bank is scored.

References:
    Domingo-Enrich et al., Adjoint Matching, 2024, arXiv 2409.08861.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from molflowctl.control.objectives.reward import Reward
from molflowctl.control.solvers.adjoint import AdjointMatching
from molflowctl.control.solvers.solver import Tilt
from molflowctl.control.solvers.values import learn_value
from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow
from molflowctl.flows.state import batch_of

__all__ = ["LearnedAdjoint"]


@dataclass(frozen=True)
class LearnedAdjoint:
    """Tilts from a bank by adjoint matching.

    Arguments:
        adjoint: what steers by the gradient; its learning rate falls with the steps behind.
        steps, batch, lr: optimiser steps of the network that learns the reward.
        clip: rewards are clipped to this many standard deviations.
        earliest: it learns from samples noised to this time and later, since an endpoint that a
            chain leads to is no exact sample of the data.
    """

    adjoint: AdjointMatching
    steps: int = 300
    batch: int = 128
    lr: float = 2e-3
    clip: float = 10.0
    earliest: float = 0.9

    def solve(self, tilt: Tilt) -> Flow:
        """The flow of `base exp(reward) / Z`.

        Raises:
            UserError: for a tilt without a bank, a flow without a value network, or if a fit
                diverges.
        """
        if tilt.bank is None:
            raise UserError("a reward is learned from a bank: use FlowDensityControl's walk.")
        value = learn_value(
            tilt.base, tilt.bank, tilt.bank.advantages(self.clip),
            steps=self.steps, batch=self.batch, lr=self.lr, seed=tilt.seed, earliest=self.earliest,
        )  # fmt: skip

        def learned(x: Any) -> Tensor:
            end = torch.ones(batch_of(x), device=tilt.base.device)
            values: Tensor = value(x, end)
            return values

        reward = Reward(learned, name=f"learned {tilt.reward.name}")
        rate = 1 - 0.75 * tilt.behind
        adjoint = replace(self.adjoint, lr=self.adjoint.lr * rate)
        return adjoint.solve(replace(tilt, reward=reward, bank=None))
