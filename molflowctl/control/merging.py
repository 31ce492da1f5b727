r"""Reward-guided flow merging: operators and circuits, with a utility or without, run as control.

    maximise  F(p) - sum_i w_i D(p, p_i)

is flow density control with the operator's objective; it starts from the heaviest part, whose
density anchors the ascent. A union has a route of its own: since
`sum w_i KL(p_i || p) = W KL(mixture || p) + const`, samples of the mixture, weighted by the best
reweighting for `F`, are all that is needed, and flow matching on them minimises the forward KL;
without a utility the parts' own endpoints at those samples take the place of the samples.
An intersection can have one, too: `sum w_i KL(p || p_i) = W KL(p || prod p_i^(w_i/W)) + const`, so
the ascent may start from the flow whose scores are the parts' scores, averaged, which is near that
product and, where the parts are Gaussian with one covariance, is it. At that flow the gradient of
the objective, made of the same scores, is zero; what is left is the utility.
Parts of a circuit that are operators are merged first.

References:
    De Santi et al., Reward-Guided Flow Merging, 2026, arXiv 2602.08012.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from molflowctl.control.anchors import Anchor, FromPrior
from molflowctl.control.composition import Gate, ScoreSum, average, distil
from molflowctl.control.mirror import Constant, Draw, FlowDensityControl, StepSize
from molflowctl.control.objectives.density import Density, as_density
from molflowctl.control.objectives.divergences import KL, ForwardKL
from molflowctl.control.objectives.objective import Functional
from molflowctl.control.operators import Contrast, Interpolation, Intersection, Operator, Union
from molflowctl.control.population import Population, cpu_population
from molflowctl.control.solvers.solver import InnerSolver
from molflowctl.control.solvers.weighted import WeightedFlowMatching, optimal_weights
from molflowctl.control.store import MirrorStep, Store, digest
from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow

__all__ = ["RewardGuidedMerging"]


@dataclass(frozen=True)
class RewardGuidedMerging:
    """Merge the parts of an operator.

    Arguments:
        operator: for instance `a & b`, or `Union(a, b, weights=[1, 3])`, or a circuit.
        inner: solves the tilts.
        utility: `F`, to be maximised beside; None for none. In a circuit it is the outermost
            operator's.
        base: number of the part to start from, counted from 1; None for the heaviest.
        steps, step_size, plan, points, evaluations: of the mirror ascent. A `step_size` of None is
            one over the sum of the operator's KL weights, a fixed-point iteration, and one for
            other operators.
        union: "regression" on samples of the mixture, "gate" (parts stay as they are, a learned
            posterior chooses among them; no utility) or "mirror" (ascent on the forward KL).
        gate: makes the flow of such a posterior, `(parts, weights, seed)` to a flow; None for
            `Gate`, which is for states that are plain vectors.
        intersection: "mirror" (ascent from the heaviest part) or "score-sum" (the parts' scores
            averaged and distilled into one flow, and ascent from there for a utility).
        score_sum: makes the flow of averaged scores.
        matching: fits the regression of a union; its steps, batch and learning rate also distil.
        anchor, draw, watch: of the mirror ascent, see `FlowDensityControl`. `draw` is also
            how the points of a union's parts come about.
        density: what is known of the density of a part.
        folder: where every step of every operator is kept; None to keep nothing.
        report: called after every mirror step.
        learning: called while endpoints of the parts are learned, with how many steps of the
            optimiser are done, and of how many.

    Raises:
        UserError: for a utility that the route cannot serve.
    """

    operator: Operator
    inner: InnerSolver
    utility: Functional | None = None
    base: int | None = None
    steps: int = 1
    step_size: StepSize | None = None
    plan: int = 30
    points: int = 4096
    nfe: int = 40
    union: Literal["regression", "gate", "mirror"] = "regression"
    gate: Callable[[Sequence[Flow], Sequence[float], int], Flow] | None = None
    intersection: Literal["mirror", "score-sum"] = "mirror"
    score_sum: Callable[[Sequence[Flow], Sequence[float]], Flow] = ScoreSum
    matching: WeightedFlowMatching = field(default_factory=WeightedFlowMatching)
    anchor: Anchor = field(default_factory=FromPrior)
    draw: Draw | None = None
    watch: Callable[[int, Population], object] = lambda step, sample: None
    density: Callable[[Flow], Density] = as_density
    folder: str | Path | None = None
    report: Callable[[MirrorStep], None] = lambda step: None
    learning: Callable[[int, int], object] = lambda done, total: None

    def __post_init__(self) -> None:
        if self.union == "gate" and self.utility is not None and isinstance(self.operator, Union):
            raise UserError("a gate leaves the parts as they are and takes no utility: regression.")

        if self.base is not None and not 1 <= self.base <= len(self.operator.parts):
            raise UserError(f"part {self.base} is not among the {len(self.operator.parts)} parts.")

    def run(self, *, seed: int = 0) -> Flow:
        """The merged flow.

        Raises:
            UserError: if a folder holds another run, or a tilt fails; earlier steps are kept.
        """
        folder = None if self.folder is None else Path(self.folder)
        return self._merge(self.operator, self.utility, folder, seed)

    def _merge(
        self, operator: Operator, utility: Functional | None, folder: Path | None, seed: int
    ) -> Flow:
        parts: list[Flow] = []
        for k, part in enumerate(operator.parts, 1):
            if isinstance(part, Operator):
                place = None if folder is None else folder / f"part-{k}"
                part = self._merge(part, None, place, seed + 100 * k)
            parts.append(part)
        if isinstance(operator, Union) and self.union == "gate":
            if self.gate is not None:
                return self.gate(parts, operator.weights, seed)
            return Gate(parts, operator.weights).fit(points=self.points, nfe=self.nfe, seed=seed)
        if isinstance(operator, Union) and self.union == "regression":
            return self._regress(operator, parts, utility, folder, seed)
        base = parts[self._base(operator)]
        if isinstance(base, Gate):
            raise UserError(
                "a gate has no flow of its own that could be steered: merge the union by "
                "regression, or start from another part with base=."
            )
        objective: Functional
        if isinstance(operator, Intersection) and self.intersection == "score-sum":
            base = self._distilled(operator, parts, folder, seed)
            if utility is None:
                return base
            prior = self.density(base)
            objective = utility - sum(operator.weights) * KL(prior, name="KL to the score sum")
        else:
            prior = self.density(base)
            objective = operator.objective([self.density(part) for part in parts])
            if utility is not None:
                objective = utility + objective
        control = FlowDensityControl(
            objective,
            self.inner,
            steps=self.steps,
            plan=self.plan,
            step_size=self.step_size or Constant(_default_step(operator)),
            points=self.points,
            nfe=self.nfe,
            anchor=self.anchor,
            draw=self.draw,
            watch=self.watch,
            folder=folder,
            report=self.report,
        )
        return control.run(base.trainable(), prior=prior, seed=seed)

    def _distilled(
        self, operator: Operator, parts: list[Flow], folder: Path | None, seed: int
    ) -> Flow:
        """One flow with the averaged scores of the parts; kept in `scores/` of the folder."""
        teacher = self.score_sum(parts, operator.weights)
        start = parts[self._base(operator)].trainable()

        def drawn() -> list[Population]:
            return [self._drawn(teacher, self.points, seed)]

        def learn(drawn: list[Population], file: Path | None) -> Flow:
            states = [x.states for x in drawn]
            return self._distil([start], [teacher], states, [1.0], file, seed)

        place = None if folder is None else folder / "scores"
        return self._learned(operator, parts, start, drawn, learn, place, seed)

    def _learned(
        self,
        operator: Operator,
        parts: list[Flow],
        start: Flow,
        drawn: Callable[[], list[Population]],
        learn: Callable[[list[Population], Path | None], Flow],
        folder: Path | None,
        seed: int,
        **beside: Any,
    ) -> Flow:
        """What `learn` makes of draws; kept in the folder, and in a file while it is learned.

        Whoever draws for this run sees all its draws, in one order, also those for what is learned
        already: tables have the same rows, and rewards count from the same population, when a run
        is resumed.

        Arguments:
            start: of the kind of the result.
            beside: what else makes the result what it is.
        """
        identity = {
            "parts": [digest(part) for part in parts],
            "weights": list(operator.weights),
            "matching": repr(self.matching),
            "points": self.points,
            "evaluations": self.nfe,
            "seed": seed,
            **beside,
        }
        store = Store(folder, identity)
        known = store.load(1, start)
        x = drawn() if known is None or self.draw is not None else []
        if known is not None:
            return known
        file = None if folder is None else folder / "learning.safetensors"
        flow = learn(x, file)
        store.keep(1, flow)
        if file is not None:
            file.unlink(missing_ok=True)
        return flow

    def _distil(
        self,
        starts: list[Flow],
        teachers: list[Flow],
        drawn: list[Any],
        shares: list[float],
        file: Path | None,
        seed: int,
    ) -> Flow:
        m = self.matching
        return distil(
            starts, teachers, drawn, shares,
            steps=m.steps, batch=m.batch, lr=m.lr, seed=seed, watch=self.learning, file=file,
        )  # fmt: skip

    def _regress(
        self,
        union: Union,
        parts: list[Flow],
        utility: Functional | None,
        folder: Path | None,
        seed: int,
    ) -> Flow:
        """The mixture of the parts, or what a utility makes of it; `mixture/` of the folder."""
        total = sum(union.weights)
        shares = [weight / total for weight in union.weights]
        starts = [flow.start_as(parts, shares) for flow in self._starts(union, parts, shares)]

        def drawn() -> list[Population]:
            counts = [max(1, round(self.points * share)) for share in shares]
            return [
                self._drawn(flow, count, seed * 1000 + k)
                for k, (flow, count) in enumerate(zip(parts, counts, strict=True))
            ]

        def learn(every: list[Population], file: Path | None) -> Flow:
            if utility is None:
                states = [x.states for x in every]
                return self._distil(starts, parts, states, shares, file, seed)
            mixture = _Unknown()
            counts = [len(x) for x in every]  # which need not be those that were asked for
            weights = [torch.full((n,), a / n) for n, a in zip(counts, shares, strict=True)]
            x = Population.joined(every)
            objective = utility - total * ForwardKL(mixture, name="KL from mixture")
            best = optimal_weights(objective, x, mixture, base_weights=torch.cat(weights))
            return self.matching.fit(
                starts[0], x.states, best.shares, seed, watch=self.learning, file=file
            )

        place = None if folder is None else folder / "mixture"
        beside = None if utility is None else utility.name
        return self._learned(union, parts, starts[0], drawn, learn, place, seed, utility=beside)

    def _drawn(self, flow: Flow, points: int, seed: int) -> Population:
        """Points of a flow, on the CPU."""
        if self.draw is not None:
            return cpu_population(self.draw(flow, points, seed, self.nfe))
        x = flow.draw_states(points, seed=seed, nfe=self.nfe)
        return cpu_population(x)

    def _starts(self, union: Union, parts: list[Flow], shares: list[float]) -> list[Flow]:
        """The part to start from, and the average of all if they are of one architecture."""
        mean = average(parts, shares) if self.base is None else None
        return [parts[self._base(union)].trainable(), *([] if mean is None else [mean.trainable()])]

    def _base(self, operator: Operator) -> int:
        if operator is self.operator and self.base is not None:
            return self.base - 1
        return max(range(len(operator.parts)), key=lambda k: operator.weights[k])


@dataclass(frozen=True)
class _Unknown:
    """A density of which samples are all that is known; reweighting them needs no more."""

    normalised = True

    def log_density(self, x: Any) -> Tensor:
        raise UserError("the log-density of a mixture of flows is not known here.")

    def score(self, x: Any) -> Any:
        raise UserError("the score of a mixture of flows is not known here.")


def _default_step(operator: Operator) -> float:
    if isinstance(operator, Interpolation | Union):
        return 1.0
    if isinstance(operator, Contrast):
        return 1 / (operator.weights[0] - operator.weights[1])
    return 1 / sum(operator.weights)
