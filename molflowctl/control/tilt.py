r"""Expected reward under a KL bond to the prior, by mirror steps.

`max_p E_p[r] - beta KL(p || p_0)` has the optimum `p ~ p_0 exp(r / beta)`. The loop walks there
along `p_s ~ p_0 exp(s r)`, `s` from 0 to `1/beta`: each mirror step tilts the previous flow, which
is its reference, a little further.

How far the walk has come is read off the samples: the walked strength is the `s` at which the
self-normalised mean of the base's samples equals the mean reward just drawn. What remains is shared
out over the steps left, the last fifth of which are there for what is still missing, and divided by
the gain, the strength walked for a strength applied: a solver learns from a few thousand samples
only what they show, less than the whole tilt where the reward hangs on fine detail. A gain below
one therefore buys the mean reward at a KL above the optimum's.

What was drawn on the way is kept: a sample of an earlier flow stands for the current one with
weight `exp((s - s_k) r)`, so that each step learns from all the oracle calls so far.
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


MIN_GAIN, MAX_SHARES = 0.2, 4.0


@dataclass(frozen=True)
class TiltStep:
    """State of the walk after `step` mirror steps."""

    step: int
    flow: Flow
    reward: float  # mean over what was drawn from the flow before
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
    base: Bank,
    strength: float,
    *,
    inner: ReinforceAdjointMatching,
    steps: int,
    seed: int = 0,
    stored: Callable[[int], Flow | None] = lambda step: None,
) -> Iterator[TiltStep]:
    """Walk to `p_0 exp(strength * r)`, yielding after every mirror step.

    Arguments:
        flow: the base.
        draw: `(flow, step) -> Bank` of fresh samples of the flow after `step` steps, 1 or more.
        base: samples of the base with their rewards.
        strength: `1 / beta`, in units of one over reward.
        steps: mirror steps in all.
        stored: the flow after a step that an earlier run took, or None; such steps are not taken
            again, and not yielded.
    """
    base_rewards = torch.cat(base.rewards)
    reward, walked, banks = float(base_rewards.mean()), 0.0, [(base, 0.0)]
    applied = 0.0
    for step in range(steps):
        if step:
            bank = draw(flow, step)
            reward = float(torch.cat(bank.rewards).mean())
            walked = walked_strength(base_rewards, reward, strength)
            banks.append((bank, walked))
        # The plan arrives early, and what the solver fell short of is left to the last steps.
        planned = max(1, steps - steps // 5)
        gain = min(1.0, max(MIN_GAIN, walked / applied)) if applied else 1.0
        part = (strength - walked) / max(1, planned - step) / gain
        # One noisy mean must not make a wild step: four equal shares are the limit.
        part = min(part, MAX_SHARES * strength / planned)
        applied += part
        if (earlier := stored(step + 1)) is not None:
            flow = earlier
            continue
        if part > 1e-3 * strength:
            # Each step adds gradient noise to the last one's: the late ones tread more softly.
            rate = 1 - 0.75 * step / steps
            pool = Bank.pool(banks, walked)
            flow = inner.mirror_step(flow, pool, part, seed=seed * 1000 + step, rate=rate)
        yield TiltStep(step + 1, flow, reward, walked, part)
