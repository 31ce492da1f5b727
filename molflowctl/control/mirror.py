r"""Mirror ascent on densities: any objective, by a sequence of tilts.

At the current density `p_k` the objective is replaced by its first variation, and the tilt

    p_{k+1} = argmax_p  <dG(p_k), p> - KL(p || p_k) / g_k        p_{k+1} ~ p_k exp(g_k dG(p_k))

is left to an inner solver. How `p_k` is known, and where the tilt starts, is what an anchor says
(control/anchors.py); several steps may be planned before a solver is asked for the tilt that they
add up to (control/planning.py).

With every anchor, a step where the KL to `p_0` has the factor `-a` in the objective forgets the
share `g_k a` of what was walked before: `g_k a = 1` is a fixed-point iteration, less is damped.

References:
    De Santi et al., Flow Density Control, 2025, arXiv 2511.22640, algorithm 1.
    De Santi et al., Reward-Guided Flow Merging, 2026, arXiv 2602.08012.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from molflowctl.control.anchors import Anchor, FromPrior, Running, Start
from molflowctl.control.objectives.density import Density, as_density
from molflowctl.control.objectives.objective import Functional
from molflowctl.control.planning import planned
from molflowctl.control.population import Population, cpu_population
from molflowctl.control.solvers.solver import InnerSolver
from molflowctl.control.store import MirrorStep, Store, digest
from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow
from molflowctl.flows.state import times

__all__ = ["Constant", "Draw", "FlowDensityControl", "RobbinsMonro", "StepSize"]

StepSize = Callable[[int], float]
Draw = Callable[[Flow, int, int, int], Any]


def _check_size(size: float) -> None:
    if not (math.isfinite(size) and size > 0):
        raise UserError(f"a step size of {size}: it must be positive and finite.")


@dataclass(frozen=True)
class Constant:
    """`g_k = size`."""

    size: float

    def __post_init__(self) -> None:
        _check_size(self.size)

    def __call__(self, step: int) -> float:
        return self.size


@dataclass(frozen=True)
class RobbinsMonro:
    """`g_k = size / (1 + k)^power`; sums diverge and squares converge for powers in (1/2, 1]."""

    size: float
    power: float = 0.75

    def __post_init__(self) -> None:
        _check_size(self.size)
        if not 0.5 < self.power <= 1:
            raise UserError(f"a power of {self.power}: Robbins-Monro steps need 0.5 < power <= 1.")

    def __call__(self, step: int) -> float:
        return self.size / math.pow(1 + step, self.power)


@dataclass(frozen=True)
class FlowDensityControl:
    """Maximise an objective over the densities that a flow can produce.

    Arguments:
        objective: `G`, for instance `CVaR(reward, 0.1) - 0.2 * KL(prior)`.
        inner: solves the tilts.
        steps: tilts that the inner solver is asked for.
        step_size: `g_k`; in a plan, the largest.
        plan: mirror steps planned per tilt, with steps halved where the objective falls. 1 is the
            published algorithm: one step of the given size, unchecked.
        trust: share of the bank that its weights must keep effective; a plan ends there.
        anchor: where each tilt starts: `FromPrior()`, `FromPrevious()` or `Annealed()`.
        points: drawn from the current flow per step, for thresholds, critics and values.
        first_points: drawn from the flow that the run starts from; None for `points`.
        nfe: of the network per point.
        draw: `(flow, points, seed, evaluations)` to states, or to a `Population` that knows what
            they are worth; None for `flow.draw_states`.
        folder: where every step is kept and from where a run resumes; None to keep nothing.
        watch: called before every step, those of an earlier run included, with how many steps lie
            behind and the weighted points of the current density.
        report: called after every step.

    Raises:
        UserError: for settings that make no run.
    """

    objective: Functional
    inner: InnerSolver
    steps: int = 4
    step_size: StepSize = Constant(1.0)
    plan: int = 30
    trust: float = 0.2
    anchor: Anchor = field(default_factory=FromPrior)
    points: int = 4096
    first_points: int | None = None
    nfe: int = 40
    draw: Draw | None = None
    folder: str | Path | None = None
    watch: Callable[[int, Population], object] = lambda step, sample: None
    report: Callable[[MirrorStep], None] = lambda step: None

    def __post_init__(self) -> None:
        if not hasattr(self.anchor, "course"):
            raise UserError(
                f"unknown anchor {self.anchor!r}: FromPrior(), FromPrevious() or Annealed()."
            )
        if self.steps < 1 or self.points < 2 or self.plan < 1:
            raise UserError("mirror ascent needs at least 1 step, 2 points and a plan of 1.")
        if not 0 < self.trust < 1:
            raise UserError(f"a trust of {self.trust}: it must lie between 0 and 1.")

    def run(self, flow: Flow, *, prior: Flow | Density | None = None, seed: int = 0) -> Flow:
        """The flow that the ascent reaches.

        Arguments:
            flow: where to start; a copy of it is trained.
            prior: what `flow` generates at the start, where that is known better than from the
                flow itself: a mixture without its correction. Pass the same object to the
                objective's divergences, so that the two are recognised as one density.

        Raises:
            UserError: if the folder holds another run, or a tilt fails; the steps done before it
                are kept in the folder.
        """
        self.objective.reset()
        began, calls = time.monotonic(), self._reward_calls()
        p0 = as_density(flow if prior is None else prior)
        store = Store(self.folder, self._identity(flow, seed))
        course = self.anchor.course(
            Start(
                flow=flow,
                prior=p0,
                at_prior=self._draw(flow, seed, 0, self.first_points),
                rewards=self.objective.rewards(),
                steps=self.steps,
                seed=seed,
                draw=lambda current, place, points: self._draw(current, seed, place, points),
            )
        )
        for k in range(self.steps):
            sample = course.here(k, flow)
            self.objective.fit(sample, seed + k)
            self.watch(k, sample)
            terms = [(p.name, f, p.value(sample)) for f, p in self.objective.terms()]
            size = self.step_size(k)
            running = _running(self.objective, flow, size)
            goal = planned(self.objective, sample, size, self.plan, self.trust, seed + k)
            tilt = course.tilt(k, flow, goal, running)
            stored = store.load(k + 1, flow)
            flow = self.inner.solve(tilt) if stored is None else stored
            course.arrived(k, flow)
            step = MirrorStep(
                step=k + 1,
                flow=flow,
                step_size=size,
                objective=sum(factor * value for _, factor, value in terms),
                terms=terms,
                effective_size=course.effective_size,
                reward_calls=self._reward_calls() - calls,
                seconds=time.monotonic() - began,
            )
            if stored is None:
                store.save(step)
                self.report(step)
        return flow

    def _draw(self, flow: Flow, seed: int, place: int, points: int | None) -> Population:
        """Points of a flow, drawn with the seed at a place that no later steps can move.

        They are on the CPU, as all populations are: what is asked of them are numbers, and solvers
        take minibatches to the flow.
        """
        seeds = torch.Generator().manual_seed(seed)
        own = int(torch.randint(2**31, (place + 1,), generator=seeds)[-1])
        count = points or self.points
        if self.draw is not None:
            return cpu_population(self.draw(flow, count, own, self.nfe))
        return cpu_population(flow.draw_states(count, seed=own, nfe=self.nfe))

    def _reward_calls(self) -> int:
        return sum(reward.calls for reward in self.objective.rewards())

    def _references(self) -> list[Flow]:
        """The flows that the objective compares with."""
        held = [value for _, part in self.objective.terms() for value in vars(part).values()]
        flows = [getattr(value, "flow", value) for value in held]
        return [flow for flow in flows if isinstance(flow, Flow)]

    def _identity(self, flow: Flow, seed: int) -> dict[str, Any]:
        """What makes a run this run: a resumed one must have the same. Steps may be added."""
        return {
            "objective": self.objective.name,
            "inner": repr(self.inner),
            "step_size": repr(self.step_size),
            "plan": self.plan,
            "trust": self.trust,
            **self.anchor.identity(),
            "points": self.points,
            "first_points": self.first_points,
            "evaluations": self.nfe,
            "seed": seed,
            "start": digest(flow),
            "references": [digest(other) for other in self._references()],
        }


def _running(objective: Functional, flow: Flow, size: float) -> Running | None:
    """The gradient of the objective's running first variation, times the step size, or None."""
    found = [(factor, part.running_variation(flow)) for factor, part in objective.terms()]
    parts = [(factor, slope) for factor, slope in found if slope is not None]
    if not parts:
        return None

    def gradient(x: Any, t: Tensor) -> Any:
        first, *rest = (times(size * factor, slope(x, t)) for factor, slope in parts)
        for slope in rest:
            first = first + slope
        return first

    return gradient
