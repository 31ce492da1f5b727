r"""A walk along tilts of one prior: where it is, by its samples, and what they are worth later.

A flow that was asked for `p_0 exp(R)` stands somewhere on the way there: a solver learns from a few
thousand samples only what they show. How far it came is read off: `p_0 exp(s R)` has the mean of
`R` that its samples show for one `s`, found on points of `p_0`. From there the walk goes on.

Every population that was drawn stays. A sample of `p_0 exp(R_j)` stands for `p_0 exp(R)` with the
weight `exp(R - R_j)`, normalised within its population; populations share by their effective
sample sizes, so that a distant one hardly counts.

References:
    Owen, Monte Carlo theory, methods and examples, 2013, chapter 9 (self-normalised weights).
    Veach, Guibas, SIGGRAPH 1995 (several proposals for one density).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from molflowctl.control.bank import self_normalised
from molflowctl.control.density import Density, Sample, Tilted
from molflowctl.control.reward import Combination, Reward
from molflowctl.errors import UserError
from molflowctl.flows.state import Ragged, by_group, concatenate, groups_of

__all__ = ["Walk", "walked_share"]

FARTHEST = 2.0  # of the tilt that was asked for: where the search for the walked share ends
LEAST_GAIN, MOST_SHARES = 0.2, 4.0
ENOUGH = 200.0  # effective points


def walked_share(tilt: Tensor, mean: float, limit: float = FARTHEST) -> float:
    """The `s` in `[0, limit]` at which `p_0 exp(s R)` has this mean of `R`, by bisection.

    Arguments:
        tilt: `R` at points of `p_0`, `(N,)`.
        mean: of `R` over what was drawn.
    """
    low, high = 0.0, limit
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if self_normalised(tilt, tilt, middle)[0] < mean else (low, middle)
        )
    return low


@dataclass
class Walk:
    """Where a walk is, and every population on the way.

    Arguments:
        prior: `p_0`.
        at_prior: points of `p_0`, the first population.
        sound: `(B,)` booleans of states that tell how far the walk came; None: all of them do. A
            flow fails now and then whatever it was asked for, and the price of failures must not be
            read as a way not walked.
        reward: `R`, the tilt at which the walk is.
        asked: how much tilt was asked for so far, in standard deviations over `at_prior`.
    """

    prior: Density
    at_prior: Any
    sound: Callable[[Any], Tensor] | None = None
    reward: Reward = field(default_factory=lambda: Combination([]))
    asked: float = 0.0

    def __post_init__(self) -> None:
        self.at_prior = Ragged(groups_of(self.at_prior))  # whose rewards are remembered
        self.populations: list[tuple[Ragged, Reward]] = [(self.at_prior, self.reward)]

    def arrived(self, x: Any) -> None:
        """Take note of a population of the flow that was asked for, and of how far it came.

        Raises:
            UserError: if none of it is sound.
        """
        x = Ragged(groups_of(x))
        mean = float(self._told(x).mean())
        self.reward = walked_share(self._told(self.at_prior), mean) * self.reward
        self.went(x)

    def went(self, x: Any) -> None:
        """Take note of a population, trusting that it is where it was to be."""
        self.populations.append((Ragged(groups_of(x)), self.reward))

    def sample(self) -> Sample:
        """All populations, weighted to stand for where the walk is."""
        weights = []
        for x, there in self.populations:
            shifts = self.reward.value(x).double() - there.value(x).double()
            shares = shifts.softmax(0)
            weights.append(shares / shares.square().sum())  # adds up to the effective sample size
        joined = torch.cat(weights)
        return Sample(
            concatenate([x for x, _ in self.populations]),
            self._density(),
            joined / joined.sum(),
        )

    def view(self) -> Sample:
        """What to plan the way on: the points of `p_0` alone, as long as enough of them count.

        A flow is never quite the tilt that it was asked for, and thresholds that are read off its
        samples would pass its errors on.
        """
        shares = self.reward.value(self.at_prior).double().softmax(0)
        sample = Sample(self.at_prior, self._density(), shares)
        return sample if sample.effective_size() >= ENOUGH else self.sample()

    def _density(self) -> Tilted:
        log_weights = self.reward.value(self.at_prior).double()
        log_z = float(log_weights.logsumexp(0)) - math.log(len(log_weights))
        return Tilted(self.prior, self.reward, log_z)

    def ask(self, goal: Reward, steps: int, total: int) -> Reward:
        """The tilt from here to be asked for next, with `steps` of `total` left to `p_0 exp(goal)`.

        What remains is shared out over the steps, and divided by the gain so far: the tilt walked
        for a tilt asked. A gain below one therefore buys the reward at a KL above the optimum's.
        """
        gain = self._spread(self.reward) / self.asked if self.asked else 1.0
        part = 1 / max(1, steps) / min(1.0, max(LEAST_GAIN, gain))
        rest = goal - self.reward
        # One noisy mean must not make a wild step, nor a gain that was low where few states felt
        # the tilt: spreads grow as a walk reaches the tails that a tilt is about.
        here = self.sample()
        longest = MOST_SHARES / max(1, total) * self._spread(goal)
        part = min(part, longest / max(_deviation(rest.value(here.x), here.shares), 1e-12))
        change = part * rest
        self.asked += self._spread(change)
        self.reward = self.reward + change
        return change

    def _told(self, x: Ragged) -> Tensor:
        """`R` at the states that tell how far the walk came."""
        values = self.reward.value(x).double()
        if self.sound is None:
            return values
        told = values[by_group(self.sound, x)]
        if not len(told):
            raise UserError(
                f"none of {len(values)} states that were drawn is sound: the steering broke the "
                f"flow. Lower the learning rate or give the divergences more weight."
            )
        return told

    def _spread(self, reward: Reward) -> float:
        values = reward.value(self.at_prior)
        return _deviation(values, torch.full_like(values, 1 / len(values)))


def _deviation(values: Tensor, shares: Tensor) -> float:
    """Standard deviation of weighted values."""
    values, shares = values.double(), shares.double()
    return float((shares * (values - (shares * values).sum()).square()).sum().sqrt())
