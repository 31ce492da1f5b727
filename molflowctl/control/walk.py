r"""A walk along tilts of one prior: where it is, by its samples, and what they are worth later.

A flow that was asked for `p_0 exp(R)` stands somewhere on the way there, or beside it: a solver
learns from a few thousand samples what they show, and a network moves more than it is asked to.
Where it came is read off its samples, as the tilt of `p_0` that has their means of `R`, and of the
objective's rewards and their squares. Among all densities of these means it is the nearest to
`p_0`. From there the walk goes on, and what went astray is asked back.

Every population that was drawn stays. A sample of `p_0 exp(R_j)` stands for `p_0 exp(R)` with the
weight `exp(R - R_j)`, normalised within its population; populations share by their effective
sample sizes, so that a distant one hardly counts.

References:
    Csiszar, I-divergence geometry, Ann. Probab. 3, 146 (1975) (projections are exponential tilts).
    Owen, Monte Carlo theory, methods and examples, 2013, chapter 9 (self-normalised weights).
    Veach, Guibas, SIGGRAPH 1995 (several proposals for one density).
    Karimireddy et al., Error feedback fixes SignSGD, 2019, arXiv 1901.09847 (what an answer lacks
    is added to what is asked for next).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from molflowctl.control.bank import self_normalised
from molflowctl.control.objectives.density import Density, Tilted
from molflowctl.control.objectives.reward import Combination, Reward
from molflowctl.control.population import Population, population_of
from molflowctl.errors import UserError
from molflowctl.flows.state import Ragged, groups_of, times

__all__ = ["Annealing", "projection", "walked_share"]

FARTHEST = 2.0  # of the tilt that was asked for: where the search for the walked share ends
ENOUGH = 200.0  # effective points
RIDGE = 0.003  # of a projection, whose curvature is about one; it is worth 300 samples


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


def projection(features: Tensor, means: Tensor, start: Tensor) -> Tensor:
    """The `c` whose tilt `p_0 exp(c . f)` has these means of `f`, by Newton's method.

    A ridge, in standard deviations of the features, holds it near `start` where points and means
    say little, as for features that are nearly alike.

    Arguments:
        features: `f` at points of `p_0`, `(N, m)`.
        means: of `f` over what was drawn, `(m,)`.
        start: `(m,)`.
    """
    spread = features.std(0)
    # What is the same at all points tells nothing.
    spread[spread <= 1e-9 * (1 + features.mean(0).abs())] = math.inf
    f, wanted = features / spread, means / spread
    first = c = start * spread.nan_to_num(posinf=0.0)

    def loss(c: Tensor) -> Tensor:
        """Convex; its gradient is what the tilted means have too much."""
        return (f @ c).logsumexp(0) - wanted @ c + 0.5 * RIDGE * (c - first).square().sum()

    for _ in range(50):
        shares = (f @ c).softmax(0)
        mean = shares @ f
        slope = mean - wanted + RIDGE * (c - first)
        centred = f - mean
        bend = centred.T @ (shares[:, None] * centred) + RIDGE * torch.eye(len(c)).to(f)
        step = torch.linalg.solve(bend, slope)
        size, now = 1.0, loss(c)
        while loss(c - size * step) > now and size > 1e-6:
            size /= 2
        c = c - size * step
        if float(step.abs().max()) < 1e-9:
            break
    return torch.where(spread.isinf(), start, c / spread)


@dataclass
class Annealing:
    """Where a walk is, and every population on the way.

    Arguments:
        prior: `p_0`.
        at_prior: the first population, of `p_0`; states of it will do. Those of a population that
            are valid tell how far the walk came: a flow fails now and then whatever it was asked
            for, and the price of failures must not be read as a way not walked.
        rewards: whose moments tell, beside the mean of the tilt, where the walk is; those of
            failures among them, if failing has a price.
        error_feedback: share of what was asked for and did not come that is asked for again, on
            top of what is missing. Directions in which a flow answers to a tenth of what it is
            asked for then grow, up to `1 / (1 - error_feedback)` times as strong; where it answers
            in full, nothing does.
        matched_moments: 2 for their means and mean squares, 1 for their means. A flow that cannot
            cut off a tail as sharply as the tilt does can have the tilt's mean of it by a narrower
            density, which mean squares ask to be widened again.
        reward: `R`, the tilt at which the walk is.
    """

    prior: Density
    at_prior: Any
    rewards: Sequence[Reward] = ()
    error_feedback: float = 0.0
    matched_moments: int = 2
    reward: Reward = field(default_factory=lambda: Combination([]))

    def __post_init__(self) -> None:
        self.at_prior = _remembered(self.at_prior)
        self.populations: list[tuple[Population, Reward]] = [(self.at_prior, self.reward)]
        self._powers: list[Reward] = []
        for reward in self.rewards:
            mean = float(reward.value(self.at_prior).double().mean())
            self._powers += [reward, _square(reward, mean)][: self.matched_moments]
        self._unmet: Reward = Combination([])

    def arrived(self, x: Any) -> None:
        """Take note of a population of the flow that was asked for, and of how far it came.

        Raises:
            UserError: if none of it is valid.
        """
        x = _remembered(x)
        told = [self.reward, *self._powers]
        at_prior, here = (
            torch.stack([reward.value(y).double() for reward in told], 1)
            for y in (self.at_prior, x)
        )
        start = torch.zeros(len(told), dtype=torch.float64)
        reached = float(self._of_valid(x).mean())
        start[0] = walked_share(self._of_valid(self.at_prior), reached)
        shares = projection(at_prior, here.mean(0), start) if self._powers else start
        asked = self.reward
        self.reward = sum(
            (share * reward for share, reward in zip(shares.tolist(), told, strict=True)),
            start=Combination([]),
        )
        self._unmet = asked - self.reward
        self.went(x)

    def went(self, x: Any) -> None:
        """Take note of a population, trusting that it is where it was to be."""
        self.populations.append((_remembered(x), self.reward))

    def sample(self) -> Population:
        """All populations, weighted to stand for where the walk is."""
        weights = []
        for x, there in self.populations:
            shifts = self.reward.value(x).double() - there.value(x).double()
            shares = shifts.softmax(0)
            weights.append(shares / shares.square().sum())  # adds up to the effective sample size
        joined = torch.cat(weights)
        every = Population.joined([x for x, _ in self.populations])
        return every.weighted(joined / joined.sum(), self._density())

    def view(self) -> Population:
        """What to plan the way on: the points of `p_0` alone, as long as enough of them count.

        A flow is never quite the tilt that it was asked for, and thresholds that are read off its
        samples would pass its errors on.
        """
        shares = self.reward.value(self.at_prior).double().softmax(0)
        sample = self.at_prior.weighted(shares, self._density())
        return sample if sample.effective_size() >= ENOUGH else self.sample()

    def _density(self) -> Tilted:
        log_weights = self.reward.value(self.at_prior).double()
        log_z = float(log_weights.logsumexp(0)) - math.log(len(log_weights))
        return Tilted(self.prior, self.reward, log_z)

    def ask(self, goal: Reward, steps: int) -> Reward:
        """The tilt from here to be asked for next, with `steps` left to `p_0 exp(goal)`.

        What remains is shared out over the steps, and asked for as it is, with what is carried
        over: where a flow answers with less than it was asked for, as in tails that few states
        reach, more steps close in on the goal, and none is led beyond it where the flow answers in
        full.
        """
        change = 1 / max(1, steps) * (goal - self.reward)
        if self.error_feedback:
            change = change + self.error_feedback * self._unmet
        self.reward = self.reward + change
        return change

    def _of_valid(self, x: Population) -> Tensor:
        """`R` at the states that tell how far the walk came."""
        told = self.reward.value(x).double()[x.mask()]
        if not len(told):
            raise UserError(
                f"none of {len(x)} states that were drawn is valid: the steering broke the flow. "
                f"Lower the learning rate or give the divergences more weight."
            )
        return told


def _remembered(x: Any) -> Population:
    """A population whose rewards are asked for once, group by group."""
    population = population_of(x)
    return replace(population, states=Ragged(groups_of(population.states)))


def _square(reward: Reward, mean: float) -> Reward:
    """`(r - mean)^2`."""
    return Reward(
        lambda x: (reward.value(x) - mean).square(),
        gradient=lambda x: times(2 * (reward.value(x) - mean), reward.gradient(x)),
        differentiable=reward.differentiable,
        derived=True,
        name=f"({reward.name} - {mean:.3g})^2",
    )
