"""Samples of a flow with their rewards: what value-based solvers learn from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from molflowctl.flows.state import AnyState, State, batch_of, concatenate, groups_of

__all__ = ["ReplayBuffer", "self_normalised"]


@dataclass(frozen=True)
class ReplayBuffer:
    """Data states in groups of one shape, and one reward each.

    Arguments:
        states: one state per group, `(B_g, ...)`.
        rewards: one tensor per group, `(B_g,)`, finite.
        weights: one tensor per group, `(B_g,)`, of samples that stand for another density than
            they were drawn from; None where all count the same.
    """

    states: list[AnyState]
    rewards: list[Tensor]
    weights: list[Tensor] | None = None

    def __post_init__(self) -> None:
        if len(self.states) != len(self.rewards) or not self.states:
            raise ValueError(
                "a bank needs as many groups of rewards as of states, and one at least"
            )
        if not torch.isfinite(torch.cat(self.rewards)).all():
            raise ValueError("rewards must be finite: say what a failed one counts as")

    @staticmethod
    def of(x: Any, rewards: Tensor, weights: Tensor | None = None) -> ReplayBuffer:
        """A bank of states of one shape or several, `(N, ...)`, with `(N,)` rewards and weights.

        Groups of one shape are joined.
        """
        groups = groups_of(x)
        sizes = [batch_of(group) for group in groups]
        shares = torch.ones_like(rewards) if weights is None else weights
        alike: dict[Any, tuple[list[Any], list[Tensor], list[Tensor]]] = {}
        for group, r, w in zip(groups, rewards.split(sizes), shares.split(sizes), strict=True):
            joined = alike.setdefault(_shape(group), ([], [], []))
            for place, part in zip(joined, (group, r, w), strict=True):
                place.append(part)
        return ReplayBuffer(
            [concatenate(states) for states, _, _ in alike.values()],
            [torch.cat(every).float() for _, every, _ in alike.values()],
            [torch.cat(every).float() for _, _, every in alike.values()],
        )

    def __len__(self) -> int:
        return sum(map(len, self.rewards))

    def advantages(self, clip: float) -> list[Tensor]:
        """Rewards less their mean over the bank, clipped to `[-clip, clip]` standard deviations.

        One tensor per group, `(B_g,)`.
        """
        every, share = torch.cat(self.rewards), torch.cat(self._shares())
        mean = (share * every).sum()
        spread = (share * (every - mean).square()).sum().sqrt().clamp_min(1e-12)
        return [((r - mean) / spread).clamp(-clip, clip) * spread for r in self.rewards]

    def ratios(self, strength: float, clip: float) -> list[Tensor]:
        """The tilt's density by `exp(strength * r)` over that of the points, of mean 1.

        Arguments:
            clip: rewards count up to so many standard deviations from their mean, see `advantages`.

        Returns:
            one tensor per group, `(B_g,)`.
        """
        shifts = [strength * a for a in self.advantages(clip)]
        logs = torch.cat([w.log() + s for w, s in zip(self._shares(), shifts, strict=True)])
        return [(s - logs.logsumexp(0)).exp() for s in shifts]

    def tilted(self) -> ReplayBuffer:
        """The same points, weighted to stand for the tilt by `exp(r)` of what they stand for."""
        highest = torch.cat(self.rewards).max()
        shares = zip(self._shares(), self.rewards, strict=True)
        return ReplayBuffer(self.states, self.rewards, [w * (r - highest).exp() for w, r in shares])

    def focused(self, telling: list[Tensor]) -> tuple[ReplayBuffer, list[Tensor]]:
        """The same points, half of them drawn by weight and half by what they have to tell.

        Arguments:
            telling: how much that is, of either sign, one tensor per group, `(B_g,)`.

        Returns:
            A bank that gives out a point of weight `w` that tells `a` in proportion to
            `w (1 + |a| / E|a|) / 2`, and the factors, one tensor per group, in (0, 2], by which to
            multiply its loss, so that every expectation stays what it was. Where few points have
            most of the reward, as under a super-quantile, they are in every batch.
        """
        sizes = [a.abs() for a in telling]
        mean = sum(float((w * a).sum()) for w, a in zip(self._shares(), sizes, strict=True))
        more = [(1 + a / mean) / 2 if mean > 0 else torch.ones_like(a) for a in sizes]
        weights = [w * m for w, m in zip(self._shares(), more, strict=True)]
        return ReplayBuffer(self.states, self.rewards, weights), [1 / m for m in more]

    def minibatch(self, size: int, generator: torch.Generator) -> tuple[int, Tensor]:
        """A random group and `size` random rows of it, `(size,)`, by weight, with replacement."""
        shares = self._shares()
        totals = torch.stack([share.sum() for share in shares])
        group = int(torch.multinomial(totals, 1, generator=generator))
        return group, torch.multinomial(shares[group], size, True, generator=generator)

    def _shares(self) -> list[Tensor]:
        weights = self.weights or [torch.ones_like(r) for r in self.rewards]
        total = torch.cat(weights).sum()
        return [w / total for w in weights]


def _shape(x: Any) -> Any:
    """The shape of one element of a state."""
    return tuple((k, v.shape[1:]) for k, v in x.items()) if isinstance(x, State) else x.shape[1:]


def self_normalised(rewards: Tensor, values: Tensor, strength: float) -> tuple[float, float, float]:
    r"""Mean of `values`, `(N,)`, under `p exp(strength * r) / Z`, from `N` samples of `p`.

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
