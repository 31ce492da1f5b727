r"""Expected reward under a KL bond to the prior, by mirror steps.

`max_p E_p[r] - beta KL(p || p_0)` has the optimum `p ~ p_0 exp(r / beta)`. The loop walks there
along `p_s ~ p_0 exp(s r)`, `s` from 0 to `1/beta`: each mirror step tilts the previous flow, which
is its reference, a little further. The remaining strength is shared out anew before every step from
what the samples show: the walked strength is the `s` at which the self-normalised mean of the
base's samples equals the mean reward just drawn, so that a solver which under- or overshoots is
corrected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from molflowctl.control.bank import Bank, self_normalised
from molflowctl.control.reinforce import ReinforceAdjointMatching
from molflowctl.flows.flow import Flow

__all__ = ["TiltStep", "tilt", "walked_strength"]


@dataclass(frozen=True)
class TiltStep:
    """State of the walk after `step` mirror steps."""

    step: int
    flow: Flow
    reward: float  # mean over the bank that was drawn from the flow before
    strength: float  # walked, as the samples showed before this step
    applied: float  # strength of this step


def walked_strength(base: Tensor, reward: float, limit: float) -> float:
    """The `s` in `[0, limit]` at which the base's tilted mean reward is `reward`, by bisection."""
    low, high = 0.0, limit
    for _ in range(50):
        middle = (low + high) / 2
        if self_normalised(base, base, middle)[0] < reward:
            low = middle
        else:
            high = middle
    return low


def tilt(
    flow: Flow,
    draw: Callable[[Flow, int], Bank],
    base_rewards: Tensor,
    strength: float,
    *,
    inner: ReinforceAdjointMatching,
    steps: int,
    seed: int = 0,
    start: int = 0,
) -> Iterator[TiltStep]:
    """Walk to `p_0 exp(strength * r)`, yielding after every mirror step.

    Arguments:
        flow: the flow after `start` steps (the base for 0).
        draw: `(flow, step) -> Bank` of fresh samples of that flow.
        base_rewards: rewards of samples of the base, `(n,)`.
        strength: `1 / beta`, in units of one over reward.
        steps: mirror steps in all.
    """
    for step in range(start, steps):
        bank = draw(flow, step)
        reward = float(torch.cat(bank.rewards).mean())
        walked = walked_strength(base_rewards, reward, strength)
        # The plan arrives early, and what the solver fell short of is left to the last steps.
        planned = max(1, steps - steps // 5)
        part = (strength - walked) / max(1, planned - step)
        # One noisy mean must not double the step: the plan is an equal share, twice that the limit.
        part = min(part, 2 * strength / planned)
        if part > 1e-3 * strength:
            flow = inner.solve(flow, bank, part, seed=seed * 1000 + step)
        yield TiltStep(step + 1, flow, reward, walked, part)
