r"""Value guidance: tilt a flow by a learned value alone, and leave its network as it is.

A bank stands for the density `p_k` of a flow that a value `V_k` guides. Its tilt `p_k W` is guided
by `V = V_k + log E_k[W | x_t]`, whatever `V_k` is, and

    E_k  exp(V - V_k) - W (V - V_k)

is least there, for points of the bank that are noised to `x_t`. The network goes on from `V_k`, so
that what it has learned of a reward in one step serves in the next, and every step asks for what
the last ones left. Solvers that move the flow itself (`ValueMatching`, `ReinforceAdjointMatching`)
learn again each time what a reward depends on, from one bank; where that is intricate, as a dipole
moment is, they stop half way. Draws are slower for it, since the gradient is taken at each of their
steps.

References:
    Dhariwal, Nichol, 2021, arXiv 2105.05233 (guidance). Banerjee et al., J. Mach. Learn. Res. 6,
    1705 (2005) (the loss: a Bregman divergence, that of the exponential, is least at the mean).
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
from molflowctl.flows.guided import Guided

__all__ = ["ValueGuidance"]


@dataclass(frozen=True)
class ValueGuidance(Stepping):
    """Tilts of a flow by a value that guides it.

    Arguments:
        steps: optimiser steps of the value, per mirror step.
        batch: states per step.
        lr: learning rate of AdamW, which falls along a cosine.
        clip: rewards are clipped to this many standard deviations.
        rounds, points, evaluations: as in `ReinforceAdjointMatching`.
    """

    title: ClassVar[str] = "value guidance"

    steps: int = 400
    batch: int = 128
    lr: float = 2e-3
    clip: float = 10.0
    rounds: int = 4
    points: int = 2048
    nfe: int = 40

    def mirror_step(
        self, flow: Flow, bank: ReplayBuffer, strength: float, seed: int = 0, rate: float = 1.0
    ) -> Flow:
        """See `Stepping`.

        Raises:
            UserError: for a flow that cannot be guided, or if the fit diverges.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # of a new network
            guided = flow.guided()
        assert isinstance(guided, Guided)
        before = copy.deepcopy(guided.value).requires_grad_(False).eval()
        fitting = Fitting(guided.value, self.lr * rate, self.steps, cosine=True)
        ratios = bank.ratios(strength, self.clip)
        for batch in noised(bank, flow, guided.draw_times, self.steps, self.batch, seed):
            with torch.no_grad():
                seen = guided.see(batch.xt, batch.t)
            change = fitting.flow(seen, batch.t) - before(seen, batch.t)
            fitting.update((change.exp() - batch.of(ratios) * change).mean())
        guided.value = fitting.result()
        return guided
