r"""What holds a mirror ascent: where `p_k` is known from, and where the tilt of a step starts.

- `FromPrior`: `p_k ~ p_0 exp(R_k)` is remembered by its reward, `R_{k+1} = R_k + g_k dG(p_k)`, and
  each tilt starts from the prior `p_0`. Log-densities in `dG` are those of the tilt, without
  estimates, and errors of the solver do not add up: mirror ascent in its dual variable.
- `FromPrevious`: each tilt starts from the flow of the last one, as published. Log-densities and
  scores are those of the flows themselves.
- `Annealed`: `R_k` is remembered too, but each tilt starts from the flow of the last one and asks
  for the part `R_{k+1} - R_k` that is missing, where `R_k` is what the samples of the flow show to
  have been walked (control/walk.py). Every population drawn on the way stays in use, so that a
  reward that is dear, an oracle for molecules, is asked once per sample; solvers by values need no
  more.

An anchor holds settings; `course` makes of it what one run remembers.

References:
    De Santi et al., Flow Density Control, 2025, arXiv 2511.22640, algorithm 1 (`FromPrevious`).
    Nesterov, Primal-dual subgradient methods, Math. Program. 120, 221 (2009) (the dual variable).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from molflowctl.control.bank import ReplayBuffer
from molflowctl.control.objectives.density import EPSILON, Density, Flowing, Tilted
from molflowctl.control.objectives.reward import Combination, Reward
from molflowctl.control.population import Population
from molflowctl.control.solvers.solver import Tilt
from molflowctl.control.walk import Annealing
from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow
from molflowctl.flows.state import dot

__all__ = ["Anchor", "Annealed", "Course", "FromPrevious", "FromPrior", "Start"]

FEW, FAR = 256, 30.0  # points that check a step, and how far out they may be, in the prior's radii
Running = Callable[[Any, Tensor], Any]


@dataclass(frozen=True)
class Start:
    """Where a run begins, and how it draws.

    Arguments:
        flow: the flow that the run starts from.
        prior: `p_0`, its density.
        at_prior: points of it.
        rewards: that the objective is made of.
        steps: of the run.
        seed: of the run.
        draw: `(flow, place, points)` to a population, with a seed that depends on the run's seed
            and the place alone; `points` of None are as many as a step draws.
    """

    flow: Flow
    prior: Density
    at_prior: Population
    rewards: list[Reward]
    steps: int
    seed: int
    draw: Callable[[Flow, int, int | None], Population]

    def tilted(self, reward: Reward) -> tuple[Tilted, float]:
        """`p_0 exp(reward) / Z`, and the effective size of the prior's points under its weights."""
        log_weights = reward.value(self.at_prior).double()
        log_z = float(log_weights.logsumexp(0)) - math.log(len(log_weights))
        effective = float(1 / log_weights.softmax(0).square().sum())
        return Tilted(self.prior, reward, log_z), effective

    def check_reach(self, x: Population, step: int) -> None:
        """Refuse a flow whose states have left the prior's surroundings, finite as they may be.

        Raises:
            UserError: which names the step.
        """
        here, there = (
            float(dot(y.states, y.states).double().mean().sqrt()) for y in (x, self.at_prior)
        )
        if not here <= FAR * there:
            raise UserError(
                f"the run diverged at step {step}: its states are {here:.2g} from the origin, the "
                f"prior's {there:.2g}. Make the step size or the learning rate smaller, or the "
                f"divergence to the prior heavier."
            )


class Course(ABC):
    """What a run remembers from step to step.

    Attributes:
        effective_size: of the prior's points under the weights `exp(R_k)`, after `here`; NaN where
            there are no such weights.
    """

    def __init__(self, start: Start) -> None:
        self.start, self.effective_size = start, math.nan

    @abstractmethod
    def here(self, step: int, flow: Flow) -> Population:
        """Weighted points of `p_k`, `k = step`, with their density; `flow` is the current one."""

    @abstractmethod
    def tilt(self, step: int, flow: Flow, goal: Reward, running: Running | None) -> Tilt:
        """What the solver is asked for, to get to the tilt of the last density by `goal`.

        Arguments:
            running: gradient of a running reward, `(x, t)` to a state; None for none.

        Raises:
            UserError: for a running reward that this course cannot ask for.
        """

    def arrived(self, step: int, flow: Flow) -> None:
        """Check the flow that a solver made of the tilt of a step.

        Raises:
            UserError: if its states are far out.
        """
        self.start.check_reach(self.start.draw(flow, step + 2, FEW), step + 1)


class Anchor(Protocol):
    """Makes the course of a run."""

    def course(self, start: Start) -> Course:
        """What a run from `start` remembers."""

    def identity(self) -> dict[str, Any]:
        """Its settings, by which a run on disk is known again."""


@dataclass(frozen=True)
class FromPrior:
    """Every tilt is of the prior, by the sum of all first variations; see the module."""

    def course(self, start: Start) -> Course:
        """See `Anchor`."""
        return _OfPrior(start)

    def identity(self) -> dict[str, Any]:
        """See `Anchor`."""
        return {"anchor": "prior", "epsilon": EPSILON}


class _OfPrior(Course):
    """Remembers `R_k`."""

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        self.reward: Reward = Combination([])

    def here(self, step: int, flow: Flow) -> Population:
        x = self.start.draw(flow, step + 1, None)
        density, self.effective_size = self.start.tilted(self.reward)
        return x.weighted(None, density)

    def tilt(self, step: int, flow: Flow, goal: Reward, running: Running | None) -> Tilt:
        _refuse(running)
        self.reward = goal
        return Tilt(self.start.flow, goal, flow, seed=self.start.seed + step)


@dataclass(frozen=True)
class FromPrevious:
    """Every tilt is of the last flow, by one first variation; see the module.

    Arguments:
        epsilon: of the scores of the flow itself, see `score_near_data`; a time, in (0, 1).

    Raises:
        UserError: for an epsilon outside of (0, 1).
    """

    epsilon: float = EPSILON

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < 1:
            raise UserError(f"epsilon={self.epsilon}: a time before the end, between 0 and 1.")

    def course(self, start: Start) -> Course:
        """See `Anchor`."""
        return _OfPrevious(start, self.epsilon)

    def identity(self) -> dict[str, Any]:
        """See `Anchor`."""
        return {"anchor": "previous", "epsilon": self.epsilon}


class _OfPrevious(Course):
    """Remembers nothing."""

    def __init__(self, start: Start, epsilon: float) -> None:
        super().__init__(start)
        self.epsilon = epsilon

    def here(self, step: int, flow: Flow) -> Population:
        x = self.start.draw(flow, step + 1, None)
        density = Tilted(Flowing(flow, epsilon=self.epsilon), Combination([]), 0.0)
        return x.weighted(None, density)

    def tilt(self, step: int, flow: Flow, goal: Reward, running: Running | None) -> Tilt:
        return Tilt(flow, goal, running=running, seed=self.start.seed + step)


@dataclass(frozen=True)
class Annealed:
    """Every tilt is of the last flow, by what its samples show to be missing; see the module.

    Arguments:
        anneal_fraction: share of the steps over which the way to the plan is shared out. Each of
            the others asks for all that is missing, and corrects what went astray: a tilt that
            rests on few points takes several of them.
        error_feedback: share of what a step was asked for and did not bring that the next one is
            asked for on top, in [0, 1).
        matched_moments: of the rewards, 1 or 2, that tell how far it came; see `Annealing`.

    Raises:
        UserError: for a setting out of range.
    """

    anneal_fraction: float = 0.5
    error_feedback: float = 0.0
    matched_moments: int = 2

    def __post_init__(self) -> None:
        if not 0 < self.anneal_fraction <= 1:
            said = f"anneal_fraction={self.anneal_fraction}"
            raise UserError(f"{said}: a share of the steps, above 0 and at most 1.")
        if not 0 <= self.error_feedback < 1:
            said = f"error_feedback={self.error_feedback}"
            raise UserError(f"{said}: a share of what did not come, below 1.")
        if self.matched_moments not in (1, 2):
            raise UserError(f"matched_moments={self.matched_moments}: 1 or 2 of every reward.")

    def course(self, start: Start) -> Course:
        """See `Anchor`."""
        return _OfWalk(start, self)

    def identity(self) -> dict[str, Any]:
        """See `Anchor`; what was added later is named where it is not what it was before."""
        return {
            "anchor": "walk",
            "arrive": self.anneal_fraction,
            **({"carry": self.error_feedback} if self.error_feedback else {}),
            **({"moments": self.matched_moments} if self.matched_moments != 2 else {}),
            "epsilon": EPSILON,
        }


class _OfWalk(Course):
    """Remembers the walk, and so every population."""

    def __init__(self, start: Start, anchor: Annealed) -> None:
        super().__init__(start)
        self.walk = Annealing(
            start.prior,
            start.at_prior,
            start.rewards,
            anchor.error_feedback,
            anchor.matched_moments,
        )
        # Rounded, since shares such as 0.6 are no exact numbers.
        self.planned = math.ceil(round(anchor.anneal_fraction * start.steps, 9))

    def here(self, step: int, flow: Flow) -> Population:
        if step:  # the prior's points are the first population
            x = self.start.draw(flow, step + 1, None)
            self.start.check_reach(x, step)
            self.walk.arrived(x)
        sample = self.walk.view()
        _, self.effective_size = self.start.tilted(self.walk.reward)
        return sample

    def tilt(self, step: int, flow: Flow, goal: Reward, running: Running | None) -> Tilt:
        _refuse(running)
        every, start = self.walk.sample(), self.start
        change = self.walk.ask(goal, self.planned - step)
        bank = ReplayBuffer.of(every.states, change.value(every), every.weights)
        behind, seed = step / start.steps, start.seed * 1000 + step
        return Tilt(flow, change, bank=bank, behind=behind, seed=seed)

    def arrived(self, step: int, flow: Flow) -> None:
        """The next step's population is checked, and none is drawn for it alone."""


def _refuse(running: Running | None) -> None:
    if running is not None:
        raise UserError("a running divergence needs anchor=FromPrevious().")
