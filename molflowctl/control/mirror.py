r"""Mirror ascent on densities: any objective, by a sequence of tilts.

At the current density `p_k` the objective is replaced by its first variation, and the tilt

    p_{k+1} = argmax_p  <dG(p_k), p> - KL(p || p_k) / g_k        p_{k+1} ~ p_k exp(g_k dG(p_k))

is left to an inner solver. There are three ways to hold on to `p_k`:

- "prior": `p_k ~ p_0 exp(R_k)` is remembered by its reward, `R_{k+1} = R_k + g_k dG(p_k)`, and
  each tilt starts from the prior `p_0`. Log-densities in `dG` are those of the tilt, without
  estimates, and errors of the solver do not add up: mirror ascent in its dual variable.
- "previous": each tilt starts from the flow of the last one, as published. Log-densities and scores
  are those of the flows themselves.
- "walk": `R_k` is remembered too, but each tilt starts from the flow of the last one and asks for
  the part `R_{k+1} - R_k` that is missing, where `R_k` is what the samples of the flow show to have
  been walked (control/walk.py). Every population drawn on the way stays in use, so that a reward
  that is dear, an oracle for molecules, is asked once per sample; solvers by values need no more.

A bank of points of `p_k` knows more than the direction at `p_k`: with weights `exp(R - R_k)` it
stands for the tilts around it, so that several mirror steps can be planned on it, each checked by
the objective itself, before a solver is asked for the tilt that they add up to. Thresholds,
matrices and critics then belong to the density that the tilt leads to, not to the one it leaves.

With each of them, a step where the KL to `p_0` has the factor `-a` in the objective forgets the
share `g_k a` of what was walked before: `g_k a = 1` is a fixed-point iteration, less is damped.

References:
    De Santi et al., Flow Density Control, 2025, arXiv 2511.22640, algorithm 1.
    De Santi et al., Reward-Guided Flow Merging, 2026, arXiv 2602.08012.
    Nesterov, Primal-dual subgradient methods, Math. Program. 120, 221 (2009) (the dual variable).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from molflowctl.control.bank import Bank
from molflowctl.control.objectives.density import (
    EPSILON,
    Density,
    Flowing,
    Sample,
    Tilted,
    as_density,
)
from molflowctl.control.objectives.objective import Functional
from molflowctl.control.objectives.reward import Combination, Reward
from molflowctl.control.solvers.solver import InnerSolver, Tilt
from molflowctl.control.solvers.weighted import effective_share
from molflowctl.control.store import MirrorStep, Store, digest
from molflowctl.control.walk import Walk
from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow
from molflowctl.flows.state import dot, on_cpu, times

__all__ = ["Constant", "Draw", "FlowDensityControl", "RobbinsMonro", "StepSize"]

StepSize = Callable[[int], float]
Draw = Callable[[Flow, int, int, int], Any]

HALVINGS = 20
TOLERANCE = 1e-5  # gain of a planned step over the objective, where a plan ends
NEGLIGIBLE = 1e-3
FEW, FAR = 256, 30.0  # points that check a step, and how far out they may be, in the prior's radii


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
        return self.size / (1 + step) ** self.power


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
        arrive: for the anchor "walk", share of the steps over which the way to the plan is shared
            out. Each of the others asks for all that is missing, and for what went astray back: a
            tilt that rests on few points takes several of them.
        carry: for the anchor "walk", share of what a step was asked for and did not bring that the
            next one is asked for on top, in [0, 1).
        moments: for the anchor "walk", of the rewards, 1 or 2, that tell how far it came; see
            `Walk`.
        anchor: "prior", "previous" or "walk", see the module.
        points: drawn from the current flow per step, for thresholds, critics and values.
        first_points: drawn from the flow that the run starts from; None for `points`.
        evaluations: of the network per point.
        epsilon: of the scores of the flow itself, for the anchor "previous"; see
            `score_near_data`.
        draw: `(flow, points, seed, evaluations)` to states; None for `flow.draw_states`.
        sound: for the anchor "walk", which states tell how far it came, `(B,)` booleans; None for
            all, see `Walk`.
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
    arrive: float = 0.5
    carry: float = 0.0
    moments: int = 2
    anchor: Literal["prior", "previous", "walk"] = "prior"
    points: int = 4096
    first_points: int | None = None
    evaluations: int = 40
    epsilon: float = EPSILON
    draw: Draw | None = None
    sound: Callable[[Any], Tensor] | None = None
    folder: str | Path | None = None
    watch: Callable[[int, Sample], object] = lambda step, sample: None
    report: Callable[[MirrorStep], None] = lambda step: None

    def __post_init__(self) -> None:
        if self.anchor not in ("prior", "previous", "walk"):
            raise UserError(f"unknown anchor {self.anchor!r}: prior, previous or walk.")
        if self.steps < 1 or self.points < 2 or self.plan < 1:
            raise UserError("mirror ascent needs at least 1 step, 2 points and a plan of 1.")
        if not 0 < self.trust < 1:
            raise UserError(f"a trust of {self.trust}: it must lie between 0 and 1.")
        if not 0 < self.arrive <= 1:
            raise UserError(f"arrive={self.arrive}: a share of the steps, above 0 and at most 1.")
        if not 0 <= self.carry < 1:
            raise UserError(f"carry={self.carry}: a share of what did not come, below 1.")
        if self.moments not in (1, 2):
            raise UserError(f"moments={self.moments}: 1 or 2 of every reward.")

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
        base, p0 = flow, as_density(flow if prior is None else prior)
        store = Store(self.folder, self._identity(flow, seed))
        reward: Reward = Combination([])
        at_prior = self._draw(flow, seed, 0, self.first_points)
        told = self.objective.rewards()
        walk = None
        if self.anchor == "walk":
            walk = Walk(p0, at_prior, self.sound, told, self.carry, self.moments)
        for k in range(self.steps):
            if walk is None:
                x = self._draw(flow, seed, k + 1)
                density, effective = self._density(flow, p0, reward, at_prior)
                sample = Sample(x, density)
            else:
                if k:
                    x = self._draw(flow, seed, k + 1)
                    self._check_reach(x, at_prior, k)
                    walk.arrived(x)
                sample, reward = walk.view(), walk.reward
                _, effective = self._density(flow, p0, reward, at_prior)
            self.objective.fit(sample, seed + k)
            self.watch(k, sample)
            terms = [(p.name, f, p.value(sample)) for f, p in self.objective.terms()]
            size = self.step_size(k)
            running = _running(self.objective, flow, size)
            if running is not None and self.anchor != "previous":
                raise UserError("a running divergence needs anchor='previous'.")
            planned = self._planned(sample, size, seed + k)
            if walk is not None:
                every = walk.sample()
                total = math.ceil(round(self.arrive * self.steps, 9))
                change = walk.ask(planned, total - k)
                bank = Bank.of(every.x, change.value(every.x), every.weights)
                tilt = Tilt(flow, change, bank=bank, behind=k / self.steps, seed=seed * 1000 + k)
            elif self.anchor == "prior":
                reward = planned
                tilt = Tilt(base, reward, flow, seed=seed + k)
            else:
                tilt = Tilt(flow, planned, running=running, seed=seed + k)
            stored = store.load(k + 1, flow)
            flow = self.inner.solve(tilt) if stored is None else stored
            if walk is None:
                self._check_reach(self._draw(flow, seed, k + 2, FEW), at_prior, k + 1)
            step = MirrorStep(
                step=k + 1,
                flow=flow,
                step_size=size,
                objective=sum(factor * value for _, factor, value in terms),
                terms=terms,
                effective_size=effective,
                reward_calls=self._reward_calls() - calls,
                seconds=time.monotonic() - began,
            )
            if stored is None:
                store.save(step)
                self.report(step)
        return flow

    def _draw(self, flow: Flow, seed: int, place: int, points: int | None = None) -> Any:
        """Points of a flow, drawn with the seed at a place that no later steps can move.

        They are on the CPU, as all populations are: what is asked of them are numbers, and solvers
        take minibatches to the flow.
        """
        seeds = torch.Generator().manual_seed(seed)
        own = int(torch.randint(2**31, (place + 1,), generator=seeds)[-1])
        count = points or self.points
        if self.draw is not None:
            return on_cpu(self.draw(flow, count, own, self.evaluations))
        return on_cpu(flow.draw_states(count, seed=own, evaluations=self.evaluations))

    @staticmethod
    def _check_reach(x: Any, at_prior: Any, step: int) -> None:
        """Refuse a flow whose states have left the prior's surroundings, finite as they may be."""
        here, there = (float(dot(y, y).double().mean().sqrt()) for y in (x, at_prior))
        if not here <= FAR * there:
            raise UserError(
                f"the run diverged at step {step}: its states are {here:.2g} from the origin, the "
                f"prior's {there:.2g}. Make the step size or the learning rate smaller, or the "
                f"divergence to the prior heavier."
            )

    def _planned(self, sample: Sample, size: float, seed: int) -> Reward:
        """The reward of the next tilt, from points of the current density."""
        tilted = sample.density
        assert isinstance(tilted, Tilted)
        first = size * self.objective.first_variation(sample)
        if self.plan == 1:
            return tilted.reward + first
        before, log_shares = tilted.reward.value(sample.x).double(), sample.shares.log()
        held = self.trust * effective_share(log_shares)
        value, reward, largest = self.objective.value(sample), tilted.reward, size
        for _ in range(self.plan):
            slope = self.objective.first_variation(sample)
            for _ in range(HALVINGS):
                new = reward + size * slope
                shifts = new.value(sample.x).double() - before + log_shares
                if effective_share(shifts) >= held:
                    log_mean = float(shifts.logsumexp(0))
                    density = Tilted(tilted.base, new, (tilted.log_normaliser or 0.0) + log_mean)
                    ahead = Sample(sample.x, density, shifts.softmax(0))
                    self.objective.fit(ahead, seed)
                    if (reached := self.objective.value(ahead)) >= value:
                        break
                size /= 2
            else:
                break
            gained, value, sample, reward = reached - value, reached, ahead, new
            # Never beyond what was asked for: the bank checks steps where it has points, and far
            # from them only small steps keep the reward in bounds.
            size = min(1.5 * size, largest)
            if gained <= TOLERANCE * max(1.0, abs(value)):
                break
        return _pruned(reward)

    def _density(
        self, flow: Flow, p0: Density, reward: Reward, at_prior: Any
    ) -> tuple[Tilted, float]:
        """What the current flow stands for, and the effective size of the prior's points."""
        if self.anchor == "previous":
            return Tilted(Flowing(flow, epsilon=self.epsilon), Combination([]), 0.0), math.nan
        log_weights = reward.value(at_prior).double()
        log_z = float(log_weights.logsumexp(0)) - math.log(len(log_weights))
        effective = float(1 / torch.softmax(log_weights, 0).square().sum())
        return Tilted(p0, reward, log_z), effective

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
            **({"arrive": self.arrive} if self.anchor == "walk" else {}),
            **({"carry": self.carry} if self.carry else {}),
            **({"moments": self.moments} if self.moments != 2 else {}),
            "anchor": self.anchor,
            "points": self.points,
            "first_points": self.first_points,
            "evaluations": self.evaluations,
            "epsilon": self.epsilon,
            "seed": seed,
            "start": digest(flow),
            "references": [digest(other) for other in self._references()],
        }


def _pruned(reward: Reward) -> Reward:
    """Without the terms that early steps of a plan left behind and later ones have shrunk away."""
    if not isinstance(reward, Combination) or not reward.terms:
        return reward
    largest = max(abs(factor) for factor, _ in reward.terms)
    return Combination([t for t in reward.terms if abs(t[0]) > NEGLIGIBLE * largest])


def _running(objective: Functional, flow: Flow, size: float):
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
