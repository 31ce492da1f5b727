"""Merge de-novo flows by a circuit of operators, with a reward or without; `molflowctl merge`.

    (a & b) | c        what both a and b find likely, or c does

An intersection or contrast is a walk by log-ratios of the parts, from differences of their
denoising losses; with `intersection: score-sum` an intersection begins at the averaged scores of
its parts instead, learned by one network, and walks for validity and a reward alone. A union learns
the parts' endpoints at their samples, or, with `union: gate`, a posterior that chooses among them;
an interpolation leads from the first part towards the others by Wasserstein potentials on features
of the molecules, held by a KL to the first part: a sum of distances alone is best at the heavier
part, or anywhere between two of one weight.

`solver: score-sum` is the baseline that trains nothing (`models/score_sum.py`), or, with `distil`,
only what it takes to have one network; `solver: feynman-kac` corrects it as it draws
(`models/feynman_kac.py`). A reward is in standard deviations of the molecules of the heaviest part,
judged by the real oracle. What comes out is judged on fresh molecules beside the parts.

A run is a folder: the merged flow (`card.json`, `weights.safetensors`), `merge.csv` with a row per
mirror step, `config.yaml`, and `rounds/`, a flow after every step of every operator and all samples
that were drawn and scored. A run that is resumed takes them from there, and draws none again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from molflowctl import properties
from molflowctl.compute.parallel import WorkerPool
from molflowctl.control.anchors import Annealed
from molflowctl.control.composition import distil
from molflowctl.control.merging import RewardGuidedMerging
from molflowctl.control.objectives.density import Density, Flowing, Tilted, as_density
from molflowctl.control.objectives.divergences import KL
from molflowctl.control.objectives.objective import Functional, Sum
from molflowctl.control.objectives.ratios import DenoisingDifference
from molflowctl.control.objectives.reward import Reward
from molflowctl.control.objectives.utilities import Mean
from molflowctl.control.operators import Interpolation, Intersection, Operator, Union
from molflowctl.control.population import Population
from molflowctl.control.solvers.solver import InnerSolver
from molflowctl.control.solvers.weighted import WeightedFlowMatching
from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow
from molflowctl.io.locks import one_writer
from molflowctl.models.feynman_kac import FeynmanKacFlow
from molflowctl.models.gated import GatedFlow
from molflowctl.models.molecule_flow import MoleculeFlow
from molflowctl.models.network import in_precision
from molflowctl.models.score_sum import ScoreSumFlow
from molflowctl.properties.rewards import Objective, parse_reward
from molflowctl.tasks.generate.flows import load_flow
from molflowctl.tasks.steering.circuit import (
    UNTRAINED,
    check_gate,
    check_networks,
    heaviest,
    operator_of,
    places,
    score_sum_of,
)
from molflowctl.tasks.steering.finetune import Scale
from molflowctl.tasks.steering.objectives import check_elements, needs_fingerprints, utility
from molflowctl.tasks.steering.population import PopulationSampler
from molflowctl.tasks.steering.reporting.report import Report
from molflowctl.tasks.steering.reporting.time_left import TimeLeft
from molflowctl.tasks.steering.reporting.words import as_written
from molflowctl.tasks.steering.run_folder import Hooks, RunFolder, Table, seed_of
from molflowctl.tasks.steering.sample_store import SampleStore
from molflowctl.tasks.steering.scored_molecules import ScoredMolecules
from molflowctl.tasks.steering.settings import MergeConfig
from molflowctl.tasks.steering.solvers import around_core, check_learnable, solver_of

__all__ = ["MergeRow", "merge"]

LEARNING = "learning.safetensors"  # of `rounds/`: what is being learned


@dataclass(frozen=True)
class MergeRow:
    """One line of the live table, before a mirror step; the last has the result.

    Mean and utility are of fresh molecules by the oracle, NaN without one; `kl` to the part that
    the walk began at, in nats, is of the tilt that the samples show to be walked.
    """

    step: int
    mean: float
    error: float
    utility: float
    kl: float
    valid: float
    unique: float
    unscored: int
    oracle_calls: int
    minutes: float
    minutes_left: float  # NaN where nothing tells it


@one_writer(lambda config, *_, **__: config.out, folder=True)
def merge(
    config: MergeConfig,
    *,
    given: Mapping[str, MoleculeFlow] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    hooks: Hooks | None = None,
) -> MoleculeFlow:
    """Merge the flows of `config.circuit` and write the result to `config.out`.

    Arguments:
        given: flows by their names in the circuit, in the place of those that `config` says.

    Raises:
        UserError: for a circuit that cannot be read, unknown flows or properties, parts with other
            states, weights outside their meaning, an output that is not to be replaced.
    """
    hooks = hooks or Hooks()
    asked = _asked(config, given or {}, hooks.say)
    flows = list(asked.flows.values())
    names = list(places(config).values())
    folder = RunFolder(config, names, flows, resume=resume, overwrite=overwrite)
    began = time.monotonic()
    steps = config.mirror_steps * _walks(config, asked.operator)
    left = TimeLeft(config, steps, hooks.progress, hooks.say)
    with WorkerPool(config.jobs) as pool:
        assay = PopulationSampler(
            asked.oracle, pool, timeout=config.timeout, progress=left.clock,
            features=config.features, similar=needs_fingerprints(config.utility),
            store=SampleStore(folder.rounds, hooks.say), say=hooks.say,
        )  # fmt: skip
        parts = _parts(config, asked, assay)
        goal = _goal(config, asked, parts, assay)
        table = Table(folder.out / "merge.csv", hooks.report)
        page = Report(
            folder.out, f"{folder.final.name}: {config.circuit}", config, parts.samples,
            folder.final.name, asked.oracle, config.minimise,
        )  # fmt: skip
        lines = _Lines(table, parts, goal, assay, began, left, page)
        merged = _merged(config, asked, goal, lines, folder, hooks)
        assert isinstance(merged, MoleculeFlow)
        merged.card = folder.beginning(asked.flows[parts.heaviest]).card
        if isinstance(merged, FeynmanKacFlow):
            merged.card.pop("sampling", None)  # a churn that it cannot be drawn with
        result, x = assay.sample(
            "result", merged, config.test_samples, seed_of(config.seed, 3), config.nfe
        )
        page.words = _in_words(parts.samples, result, asked.oracle)
        lines.add(result, x, math.nan)
        (folder.rounds / LEARNING).unlink(missing_ok=True)
    scored = asked.oracle is not None
    summary = {
        "circuit": repr(asked.operator),
        "parts": {name: s.summary(scored) for name, s in parts.samples.items()},
        "result": result.summary(scored),
        "oracle_calls": assay.calls,
        "minutes": (time.monotonic() - began) / 60,
    }
    folder.finish(merged, "merge", goal.told(config, asked), summary)
    for line in page.words:
        hooks.say(line)
    return merged


def _in_words(
    parts: Mapping[str, ScoredMolecules], result: ScoredMolecules, oracle: Objective | None
) -> list[str]:
    """The figures of the merged flow, and of its parts, a line each."""
    lines = []
    for name, sample in [*parts.items(), ("merged", result)]:
        told = f"{name}: {sample.valid:.1%} valid, {sample.unique:.1%} unique"
        if oracle is not None:
            told += f", {as_written(oracle)} {sample.mean:.4g} +- {sample.error:.2g}"
        lines.append(told)
    return lines


def _walks(config: MergeConfig, operator: Operator, outermost: bool = True) -> int:
    """Operators of a circuit that are reached by mirror steps, rather than learned at once."""
    if config.solver in UNTRAINED:
        return 0
    inner = sum(_walks(config, p, False) for p in operator.parts if isinstance(p, Operator))
    at_once = isinstance(operator, Union) or (
        isinstance(operator, Intersection)
        and config.intersection == "score-sum"
        and not (outermost and config.reward)
    )
    return inner + (not at_once)


@dataclass(frozen=True)
class _Asked:
    """What the settings name, found and fitting together.

    Attributes:
        flows: by their names in the circuit.
        summed: the merge without training, where the solver is one that trains nothing.
    """

    oracle: Objective | None
    flows: dict[str, MoleculeFlow]
    operator: Operator
    solver: InnerSolver
    summed: ScoreSumFlow | None


def _asked(
    config: MergeConfig, given: Mapping[str, MoleculeFlow], say: Callable[[str], None]
) -> _Asked:
    """Load what the settings name, and refuse what does not go together; draws nothing."""
    oracle = None if config.reward is None else parse_reward(config.reward)
    if oracle is not None:
        utility(config.utility, Reward(lambda x: x))  # before any work
        if any(spec.startswith("entropy") for spec in config.utility):
            raise UserError(
                "the entropy is of densities that a merge does not know: finetune what it makes."
            )
    else:
        why = "of a reward: name one with --reward"
        _check_idle(config, "utility", "minimise", "reward_weight", why=why)
    if config.solver != "score-sum":
        why = "of score-sum: feynman-kac has no endpoints to learn, other solvers make one network"
        _check_idle(config, "distil", why=why)
    flows = {
        name: in_precision(given.get(name) or load_flow(place, config.device), config.precision)
        for name, place in places(config).items()
    }
    check_learnable(flows)
    notes: list[str] = []
    flows = {name: around_core(flow, config, notes.append) for name, flow in flows.items()}
    for note in dict.fromkeys(notes):  # of each flow the same
        say(note)
    operator = operator_of(config, flows)
    first = next(iter(flows.values()))
    if oracle is not None:
        check_elements(oracle, first.elements)
    for name in config.features:
        properties.get(name)
    solver = solver_of(config, first)
    check_networks(config, flows)
    summed = score_sum_of(config, operator) if config.solver in UNTRAINED else None
    if config.union == "gate":
        check_gate(config, operator)
    return _Asked(oracle, flows, operator, solver, summed)


@dataclass(frozen=True)
class _Parts:
    """Molecules of the parts, judged.

    Attributes:
        samples: by the name of the part.
        heaviest: name of the part that a walk starts from.
        drawn: the parts with their samples and these as states.
    """

    samples: dict[str, ScoredMolecules]
    heaviest: str
    drawn: list[tuple[Flow, ScoredMolecules, Population]]

    def of(self, flow: Flow) -> tuple[ScoredMolecules, Population] | None:
        """What was drawn of a part; None for another flow."""
        return next(((s, x) for part, s, x in self.drawn if part is flow), None)

    def population(self, flow: Flow) -> Population:
        """The molecules of a part, as states."""
        found = self.of(flow)
        assert found is not None
        return found[1]


def _parts(config: MergeConfig, asked: _Asked, assay: PopulationSampler) -> _Parts:
    """Draw and judge molecules of every part."""
    drawn: list[tuple[Flow, ScoredMolecules, Population]] = []
    for k, (name, flow) in enumerate(asked.flows.items()):
        sample, x = assay.sample(
            name, flow, config.base_samples, seed_of(config.seed, 1, k), config.nfe,
            news=f"drawing {config.base_samples:,} molecules of {name}",
        )  # fmt: skip
        drawn.append((flow, sample, x))
    samples = {name: sample for name, (_, sample, _) in zip(asked.flows, drawn, strict=True)}
    return _Parts(samples, heaviest(asked.operator, asked.flows), drawn)


@dataclass(frozen=True)
class _Goal:
    """What a merge maximises beside the operator's divergences.

    Attributes:
        scale: of the reward, in standard deviations of the heaviest part.
        aim: the utility of the reward; None without a reward.
        wanted: that and validity, with their weights; None for the operator alone.
    """

    scale: Scale
    aim: Functional | None
    wanted: Functional | None

    def told(self, config: MergeConfig, asked: _Asked) -> dict[str, str]:
        """The objective in words, for the card."""
        words = {"merge": repr(asked.operator)}
        if self.wanted is not None:
            words["beside"] = self.wanted.name
        if asked.oracle is not None:
            sign, scale = "-" if config.minimise else "", self.scale
            words["r"] = f"{sign}({asked.oracle} - {scale.mean:.6g}) / {scale.std:.6g}"
        return words


def _goal(config: MergeConfig, asked: _Asked, parts: _Parts, assay: PopulationSampler) -> _Goal:
    """The utility, in units of the heaviest part; an interpolation gets its parts' molecules."""
    operator, aim, scale = asked.operator, None, Scale(1.0, 0.0, 1.0)
    terms: list[tuple[float, Functional]] = []
    if asked.oracle is not None:
        scale = Scale.of(parts.samples[parts.heaviest], asked.oracle, config.minimise)
        reward = scale.reward(assay, str(asked.oracle), config.failed_reward)
        aim = utility(config.utility, reward, assay.fingerprints())
        terms.append((config.reward_weight, aim))
    # A mixture is as valid as its parts, and learns from them rather than from samples.
    if config.invalid_penalty and (aim is not None or not isinstance(operator, Union)):
        terms.append((config.invalid_penalty, Mean(assay.validity())))
    if isinstance(operator, Interpolation):
        first = _density(config, operator.flows()[0])
        terms.append((-config.kl_weight, KL(first, name="KL to part 1")))
        operator.samples = [parts.population(flow) for flow in operator.flows()]
        if config.features:
            operator.features = assay.measured(list(parts.samples.values()))
    return _Goal(scale, aim, Sum(terms) if terms else None)


class _Lines:
    """The live table, and the draws that it tells of: those of the parts are known already."""

    def __init__(
        self,
        table: Table,
        parts: _Parts,
        goal: _Goal,
        assay: PopulationSampler,
        began: float,
        left: TimeLeft,
        page: Report,
    ) -> None:
        self.table, self.parts, self.goal = table, parts, goal
        self.assay, self.began, self.left, self.page = assay, began, left, page
        self.latest = next((s, x) for _, s, x in parts.drawn if s is parts.samples[parts.heaviest])

    def draw(self, flow: Flow, n: int, seed: int, nfe: int) -> Population:
        """Molecules of a flow, judged: of a part the ones that are there."""
        assert isinstance(flow, MoleculeFlow)
        label = f"round {len(self.table.rows)}"
        self.latest = self.parts.of(flow) or self.assay.sample(label, flow, n, seed, nfe)
        return self.latest[1]

    def watch(self, step: int, points: Population) -> None:
        """A line before a mirror step, whose density `points` stand for."""
        assert isinstance(points.density, Tilted)
        self.add(*self.latest, KL(points.density.base).value(points))

    def add(self, drawn: ScoredMolecules, x: Population, kl: float) -> None:
        """One line: molecules, the same as states, and nats from where the walk began."""
        aim = self.goal.aim
        scored = drawn.unscored if self.assay.oracle else 0
        step = len(self.table.rows)
        to_go = self.left.before_step(step) if math.isfinite(kl) else 0.0
        if not step and (line := self.left.told_before(to_go)):
            self.left.say(line)
        self.table.add(
            MergeRow(
                step, drawn.mean, drawn.error,
                math.nan if aim is None else aim.value(x), kl, drawn.valid, drawn.unique,
                drawn.unmeasured + scored, self.assay.calls,
                (time.monotonic() - self.began) / 60, to_go,
            )
        )  # fmt: skip
        self.page.write(self.table.rows, drawn)


def _merged(
    config: MergeConfig, asked: _Asked, goal: _Goal, lines: _Lines, folder: RunFolder, hooks: Hooks
) -> Flow:
    """The merged flow: a sum of scores, that sum in one network, or what the operator reaches."""
    learning = partial(hooks.progress, "learning")
    file = folder.rounds / LEARNING
    if asked.summed is None:
        return _merging(config, asked, goal, lines, folder, learning).run(seed=config.seed)
    if not config.distil:
        return asked.summed
    hooks.say("learning the sum of scores in one network")
    seed = seed_of(config.seed, 2)
    x = lines.draw(asked.summed, config.n_samples, seed, config.nfe)
    return distil(
        [asked.flows[lines.parts.heaviest]], [asked.summed], [x.states],
        steps=config.distil, batch=config.batch, lr=config.lr, seed=config.seed,
        watch=learning, file=file,
    )  # fmt: skip


def _merging(
    config: MergeConfig, asked: _Asked, goal: _Goal, lines: _Lines, folder: RunFolder, learning: Any
) -> RewardGuidedMerging:
    """The settings as those of a merge of flows."""
    file = folder.rounds / LEARNING

    def gate(parts: Sequence[Any], weights: Sequence[float], seed: int) -> Flow:
        drawn = [lines.parts.population(flow).states for flow in parts]
        return GatedFlow.learned(parts, weights, drawn, seed=seed, watch=learning, file=file)

    return RewardGuidedMerging(
        asked.operator,
        asked.solver,
        utility=goal.wanted,
        base=1 if isinstance(asked.operator, Interpolation) else None,
        steps=config.mirror_steps,
        plan=6 if config.interpolate else 30,  # every planned step trains the critics anew
        points=config.n_samples,
        nfe=config.mirror_nfe,
        union=config.union,
        gate=gate,
        intersection=config.intersection,
        score_sum=ScoreSumFlow.of,  # type: ignore[arg-type]
        matching=WeightedFlowMatching(
            steps=config.matching_steps, batch=config.batch, lr=config.lr
        ),
        anchor=Annealed(),
        draw=lines.draw,
        watch=lines.watch,
        density=partial(_density, config),
        folder=folder.rounds,
        learning=learning,
    )


def _check_idle(config: MergeConfig, *names: str, why: str) -> None:
    """Raise `UserError` for a setting that was made and that nothing would come of."""
    for name in names:
        if getattr(config, name) != MergeConfig.model_fields[name].default:
            raise UserError(f"{name}= is {why}.")


def _density(config: MergeConfig, flow: Flow) -> Density:
    """The density of a flow, with log-ratios by differences of denoising losses."""
    known = as_density(flow)
    ratio = DenoisingDifference(times=config.ratio_times, latest=config.ratio_latest)
    return replace(known, ratio_of=ratio) if isinstance(known, Flowing) else known
