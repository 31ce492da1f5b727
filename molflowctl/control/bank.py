"""Samples of a flow with their rewards: what value-based solvers learn from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from molflowctl.flows.state import AnyState, State

__all__ = ["Bank", "self_normalised"]


@dataclass(frozen=True)
class Bank:
    """Data states in groups of one shape, and one reward each.

    Arguments:
        states: one state per group, `(B_g, ...)`.
        rewards: one tensor per group, `(B_g,)`, finite.
    """

    states: list[AnyState]
    rewards: list[Tensor]

    def __post_init__(self) -> None:
        if len(self.states) != len(self.rewards) or not self.states:
            raise ValueError(
                "a bank needs as many groups of rewards as of states, and one at least"
            )
        if not torch.isfinite(torch.cat(self.rewards)).all():
            raise ValueError("rewards must be finite: say what a failed one counts as")

    def __len__(self) -> int:
        return sum(map(len, self.rewards))

    def advantages(self, clip: float) -> list[Tensor]:
        """Rewards less their mean over the bank, clipped to `[-clip, clip]` standard deviations."""
        every = torch.cat(self.rewards)
        mean, spread = every.mean(), every.std().clamp_min(1e-12)
        return [((r - mean) / spread).clamp(-clip, clip) * spread for r in self.rewards]

    def minibatch(self, size: int, generator: torch.Generator) -> tuple[int, Tensor]:
        """A random group (by its size) and `size` random rows of it, with replacement."""
        counts = torch.tensor([len(r) for r in self.rewards], dtype=torch.float64)
        group = int(torch.multinomial(counts, 1, generator=generator))
        rows = torch.randint(len(self.rewards[group]), (size,), generator=generator)
        return group, rows


def select(x, rows: Tensor):
    """Rows of a state or plain tensor."""
    return x.select(rows) if isinstance(x, State) else x[rows]


def self_normalised(rewards: Tensor, values: Tensor, strength: float) -> tuple[float, float, float]:
    r"""Mean of `values` under `p exp(strength * r) / Z`, from samples of `p`.

    Returns the estimate `sum w v` with `w = softmax(strength * r)`, its standard error
    `sqrt(sum w^2 (v - estimate)^2)`, and the effective sample size `1 / sum w^2`. The estimate is
    exact as the sample grows, whatever solver is to reach it; below an effective size of about 100
    it says little.

    References: Owen, Monte Carlo theory, methods and examples, 2013, chapter 9.
    """
    weights = torch.softmax(strength * rewards.double(), 0)
    mean = (weights * values).sum()
    error = (weights.square() * (values - mean).square()).sum().sqrt()
    return float(mean), float(error), float(1 / weights.square().sum())
