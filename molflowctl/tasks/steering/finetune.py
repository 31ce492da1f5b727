"""Steer a de-novo flow towards an objective, the real oracle in the loop; `molflowctl finetune`.

The reward is what the oracle measures in standard deviations of the prior's molecules, so that one
weight suits QED and debye alike: `r = +-(value - mean) / std`; a failed molecule counts
`config.failed_reward`. The objective is a sum of utilities of `r` and of divergences to the prior
(`tasks/objectives.py`). What is reached is printed beside what can be reached: the best reweighting
of the prior's own molecules, with a standard error and an effective sample size.

With `config.data`, molecules that the flow has learned from stand for it: the objective is solved
on their weights and the flow learns them (`tasks/tilted_data.py`), in place of mirror steps.

A run is a folder: the steered flow (`card.json`, `weights.safetensors`), `finetune.csv`,
`config.yaml`, and `rounds/` with `step-K/`, a flow after every mirror step, and every sample that
was drawn and scored, a few megabytes. An interrupted run that is resumed with the same settings and
base takes both from there and goes on where it stopped: it asks the oracle for nothing twice, and
what it makes is what it would have made.
"""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import asdict, dataclass, replace

from molflowctl.compute.parallel import WorkerPool
from molflowctl.control.anchors import Annealed
from molflowctl.control.mirror import Constant, FlowDensityControl
from molflowctl.control.objectives.density import Density, as_density
from molflowctl.control.objectives.divergences import KL
from molflowctl.control.objectives.objective import Functional
from molflowctl.control.objectives.reward import Reward
from molflowctl.control.objectives.utilities import Mean
from molflowctl.control.population import Population
from molflowctl.control.solvers.solver import InnerSolver
from molflowctl.control.solvers.weighted import optimal_weights
from molflowctl.data.datasets import MoleculeDataset
from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow
from molflowctl.io.locks import one_writer
from molflowctl.models.guided import GuidedFlow
from molflowctl.models.molecule_flow import MoleculeFlow
from molflowctl.models.network import in_precision
from molflowctl.properties.cache import Cache
from molflowctl.properties.rewards import Objective, parse_reward
from molflowctl.tasks.evaluation.bootstrap import standard_error
from molflowctl.tasks.generate.flows import load_flow
from molflowctl.tasks.loop_surrogate import Learning, surrogate_samples
from molflowctl.tasks.oracle_calls import Purse, Spent, answers
from molflowctl.tasks.steering.objectives import (
    check_elements,
    divergences,
    needs_fingerprints,
    utility,
    weight_of,
)
from molflowctl.tasks.steering.population import PopulationSampler, density_of_given_sizes
from molflowctl.tasks.steering.reporting.filtering import advise
from molflowctl.tasks.steering.reporting.report import Report, Target
from molflowctl.tasks.steering.reporting.time_left import TimeLeft
from molflowctl.tasks.steering.reporting.words import as_written, in_words, way_in_words
from molflowctl.tasks.steering.run_folder import Hooks, RunFolder, Table, seed_of
from molflowctl.tasks.steering.sample_store import SampleStore
from molflowctl.tasks.steering.scored_molecules import ScoredMolecules, verdict
from molflowctl.tasks.steering.settings import FinetuneConfig
from molflowctl.tasks.steering.solvers import around_core, check_learnable, solver_of
from molflowctl.tasks.steering.tilted_data import chosen_rows, judged_rows, learn
from molflowctl.tasks.training.train import check_single
from molflowctl.viz.charts import Sample

__all__ = [
    "FinetuneRow",
    "Scale",
    "finetune",
]
FEW = 100  # effective molecules below which a target is a rough guess


@dataclass(frozen=True)
class FinetuneRow:
    """One line of the live table, before mirror step `step`; the last has the result.

    Values and utility are of fresh molecules by the oracle, the utility in standard deviations of
    the prior and with failed molecules; `kl` to the prior, in nats, is of the tilt that the samples
    show to be walked.
    """

    step: int
    mean: float
    error: float
    utility: float
    kl: float
    target: float
    target_error: float
    target_utility: float
    effective_size: float
    walked: float  # share of the way of the utility
    valid: float
    unique: float
    unscored: int
    oracle_calls: int  # so far, those before an interruption included
    minutes: float
    minutes_left: float  # NaN where nothing tells it


@dataclass(frozen=True)
class Scale:
    """From the oracle's unit to standard deviations of a prior."""

    sign: float
    mean: float
    std: float

    @staticmethod
    def of(sample: ScoredMolecules, oracle: Objective, minimise: bool) -> Scale:
        """Raises `UserError` where the oracle says too little to steer by."""
        found = sample.found
        if len(found) < 32 or found.std() == 0:
            raise UserError(
                f"{oracle} gave {len(found)} values on {len(sample.values)} molecules of the "
                f"prior, too few or all alike: there is nothing to steer by."
            )
        return Scale(-1.0 if minimise else 1.0, float(found.mean()), float(found.std()))

    def reward(self, assay: PopulationSampler, name: str, failed: float) -> Reward:
        """The reward of states."""
        return assay.reward(name, self.mean, self.sign * self.std, failed)


@one_writer(lambda config, *_, **__: config.out, folder=True)
def finetune(
    config: FinetuneConfig,
    *,
    flow: MoleculeFlow | None = None,
    resume: bool = False,
    overwrite: bool = False,
    hooks: Hooks | None = None,
) -> MoleculeFlow:
    """Steer `config.flow` and write the result to `config.out`.

    Arguments:
        flow: to steer, in the place of `config.flow`.

    Raises:
        UserError: for an unknown flow, property, utility or divergence, a reward on elements that
            the flow lacks, an output that exists or holds the base, a resume with other settings,
            or a prior whose molecules the oracle cannot score.
    """
    hooks = hooks or Hooks()
    oracle = parse_reward(config.reward)
    utility(config.utility, Reward(lambda x: x))  # before any work
    base = load_flow(config.flow, config.device) if flow is None else flow
    base = in_precision(base, config.precision)
    if config.solver != "guidance" or type(base) is not GuidedFlow:
        check_learnable({config.flow: base})
    base = around_core(base, config, hooks.say)
    check_elements(oracle, base.elements)
    solver = solver_of(config, base)
    data, rows = None, []
    if config.data:
        single = check_single(config.flow, base)
        data = MoleculeDataset.load(config.data)
        rows = chosen_rows(data, single, config.data_samples, config.seed)
    if config.kl_nats is None:
        divergences(config.penalties, as_density(base))
    folder = RunFolder(config, [config.flow], [base], resume=resume, overwrite=overwrite)
    began = time.monotonic()
    left = TimeLeft(config, 0 if data else config.mirror_steps, hooks.progress, hooks.say)
    extra = surrogate_samples(config, oracle)
    learning = Learning(oracle, config.seed, hooks.say) if extra else None
    with WorkerPool(config.jobs) as pool, answers(folder.rounds, oracle, bool(extra)) as cache:
        assay = PopulationSampler(
            learning or oracle, pool, timeout=config.timeout, progress=left.clock, cache=cache,
            similar=needs_fingerprints(config.utility),
            store=SampleStore(folder.rounds, hooks.say), say=hooks.say,
        )  # fmt: skip
        problem = _posed(config, base, data, rows, assay, oracle, hooks)
        filtered = advise(
            config, problem.wanted, problem.at_prior, problem.best, left.clock, hooks.say
        )
        page = Report(
            folder.out, f"{folder.final.name}: {config.flow}, steered", config,
            {config.flow: problem.prior}, folder.final.name, oracle, config.minimise,
            _shown_target(problem),
        )  # fmt: skip
        table = Table(folder.out / "finetune.csv", hooks.report)
        lines = _Lines(table, problem, assay, began, left, page)
        purse = Purse(config, left.clock, hooks.say)
        if data:
            lines.add(0, problem.prior, problem.at_prior, 0.0)
            steered: Flow = learn(
                config, data, problem.rows, problem.best.shares.numpy(), problem.objective.name,
                folder.out, hooks.say,
            )  # fmt: skip
        else:
            begin = folder.beginning(base)
            steered = _steered(config, folder, begin, solver, problem, assay, lines, purse, extra)
        assert isinstance(steered, MoleculeFlow)
        result, x = assay.sample(
            "result", steered, config.test_samples, seed_of(config.seed, 3), config.nfe
        )
        outcome = verdict(problem.prior, problem.target[:2], result, problem.scale.sign)
        reached_words = in_words(
            as_written(oracle), problem.prior, result, problem.target[0],
            exact=config.utility == ("mean",),
        )  # fmt: skip
        page.words = [f"{reached_words}.", way_in_words(outcome)]
        lines.add(0 if data else purse.step, result, x, math.nan)
    goal, reached = problem.utility(problem.best), problem.utility(x)
    hooks.say(way_in_words(outcome))
    if config.utility != ("mean",) and goal and reached:
        gap = (reached[0] - goal[0]) / math.hypot(reached[1], goal[1])
        hooks.say(
            f"utility {reached[0]:.3g} +- {reached[1]:.2g} of {goal[0]:.3g} +- {goal[1]:.2g} "
            f"standard deviations (z = {gap:.1f})"
        )
    target = dict(zip(("mean", "error", "effective_size"), problem.target, strict=True))
    summary = {
        "reward": str(oracle),
        "prior": problem.prior.summary(),
        "target": {**target, **_named("utility", goal)},
        "result": {**result.summary(), **_named("utility", reached)},
        "verdict": outcome,
        **({} if filtered is None else {"filter": asdict(filtered)}),
        "oracle_calls": assay.calls,
        **(purse.record() if not data else {}),
        **({"surrogate": learning.record()} if learning else {}),
        "minutes": (time.monotonic() - began) / 60,
    }
    sign, scale = "-" if config.minimise else "", problem.scale
    objective = {
        "maximise": problem.objective.name,
        "r": f"{sign}({oracle} - {scale.mean:.6g}) / {scale.std:.6g}",
    }
    folder.finish(steered, "finetune", objective, summary)
    hooks.say(reached_words)
    return steered


@dataclass(frozen=True)
class _Problem:
    """What is asked for, and the best that reweighting can do about it.

    Attributes:
        prior, at_prior: molecules of the base flow, judged, and as states.
        points: what stands for the prior: `at_prior`, or the rows `rows` of the data.
        wanted: the utility alone; `objective` has validity and divergences beside it.
        best: `points` with the weights that solve the objective.
        target: mean of the oracle's values under them, its standard error, effective sample size,
            of the molecules that have a value.
        goal: `wanted` under them.
        spread_out: whether the utility needs log-densities, which draws do not have.
    """

    prior: ScoredMolecules
    at_prior: Population
    rows: list[int]
    scale: Scale
    p0: Density
    wanted: Functional
    objective: Functional
    best: Population
    target: tuple[float, float, float]
    goal: float
    spread_out: bool

    def utility(self, x: Population) -> tuple[float, float] | None:
        """Of points, with its standard error; None where draws do not tell it."""
        if self.spread_out:
            return None
        return self.wanted.value(x), standard_error(self.wanted, x)


def _shown_target(problem: _Problem) -> Target:
    """The exact target, for the page."""
    values = Sample(problem.best.values["value"].numpy(), problem.best.shares.numpy())
    return Target(*problem.target[:2], values)


def _named(name: str, value: tuple[float, float] | None) -> dict[str, float]:
    """A figure and its error, for a record; nothing for none."""
    return dict(zip((name, f"{name}_error"), value or (), strict=False))


def _posed(
    config: FinetuneConfig,
    base: MoleculeFlow,
    data: MoleculeDataset | None,
    rows: list[int],
    assay: PopulationSampler,
    oracle: Objective,
    hooks: Hooks,
) -> _Problem:
    """Draw and judge the prior, and solve the objective on its molecules or on the data's."""
    prior, at_prior = assay.sample(
        "prior", base, config.base_samples, seed_of(config.seed, 1), config.nfe,
        news=f"drawing {config.base_samples:,} molecules of the prior",
    )  # fmt: skip
    p0: Density = as_density(base)
    spread_out = any(spec.startswith("entropy") for spec in config.utility)
    if spread_out:
        hooks.say("estimating the prior's log-densities")
        p0 = density_of_given_sizes(base, at_prior.states)
    scale = Scale.of(prior, oracle, config.minimise)
    reward = scale.reward(assay, str(oracle), config.failed_reward)
    points = at_prior
    if data:
        with contextlib.closing(Cache(None)) as cache:
            points, rows = judged_rows(config, base, data, rows, assay, cache, hooks.say)
    wanted = utility(config.utility, reward, assay.fingerprints())
    valued: Functional = wanted
    if config.invalid_penalty:
        valued = wanted + config.invalid_penalty * Mean(assay.validity())
    nats = config.kl_nats
    if nats is None:
        objective = valued + divergences(config.penalties, p0, points)
    else:
        weight = weight_of(nats, valued, points, p0)
        hooks.say(f"KL of {nats:g} nats at the optimum: its weight is {weight:.3g}")
        objective = valued - weight * KL(p0)
    best = optimal_weights(objective, points, p0, steps=100, tolerance=1e-5)
    target = _weighted(reward, best, scale)
    hooks.say(
        f"prior {prior.mean:.4g} +- {prior.error:.2g}; exact target {target[0]:.4g} +- "
        f"{target[1]:.2g}, effective sample size {target[2]:.0f} of {len(points)}"
    )
    if target[2] < FEW:
        hooks.say(
            "the effective sample size is small: the target is a rough guess; give the "
            "divergences more weight"
        )
    return _Problem(
        prior, at_prior, rows, scale, p0, wanted, objective, best, target, wanted.value(best),
        spread_out,
    )  # fmt: skip


class _Lines:
    """The live table of a run: what was drawn before every step, beside the problem's target."""

    def __init__(
        self,
        table: Table,
        problem: _Problem,
        assay: PopulationSampler,
        began: float,
        left: TimeLeft,
        page: Report,
    ) -> None:
        self.table, self.problem, self.assay, self.began = table, problem, assay, began
        self.left, self.page = left, page
        self.start = problem.wanted.value(replace(problem.at_prior, density=problem.p0))

    def add(self, step: int, drawn: ScoredMolecules, x: Population, kl: float) -> None:
        """One line: the sample `drawn` before `step`, as the population `x`."""
        asked = self.problem
        reached = math.nan if asked.spread_out else asked.wanted.value(x)
        way = asked.goal - self.start
        walked = (reached - self.start) / way if way > 0 else math.nan
        to_go = self.left.before_step(step) if math.isfinite(kl) else 0.0
        if not self.table.rows and (line := self.left.told_before(to_go)):
            self.left.say(line)
        self.table.add(
            FinetuneRow(
                step, drawn.mean, drawn.error, reached, kl, *asked.target[:2], asked.goal,
                asked.target[2], walked, drawn.valid, drawn.unique, drawn.unscored,
                self.assay.calls, (time.monotonic() - self.began) / 60, to_go,
            )
        )  # fmt: skip
        self.page.write(self.table.rows, drawn)


def _steered(
    config: FinetuneConfig,
    folder: RunFolder,
    begin: MoleculeFlow,
    solver: InnerSolver,
    problem: _Problem,
    assay: PopulationSampler,
    lines: _Lines,
    purse: Purse,
    extra: int,
) -> Flow:
    """Mirror steps on the flow's own draws, the first of which are the prior's.

    `extra` more of each step are judged by a surrogate, and say nothing of how good a flow is.
    """
    latest = problem.prior, problem.at_prior
    judged = begin  # the flow of `latest`

    def draw(flow: Flow, n: int, seed: int, nfe: int) -> Population:
        nonlocal latest, judged
        if flow is begin:
            return problem.at_prior
        assert isinstance(flow, MoleculeFlow)
        judged = flow
        label = f"round {len(lines.table.rows)}"
        latest = assay.sample(label, flow, n, seed, nfe)
        if not isinstance(assay.oracle, Learning):
            return latest[1]
        planned = config.base_samples + len(lines.table.rows) * n
        judge = assay.oracle.stand_in(spare=planned - assay.calls)
        if judge is None:
            return latest[1]
        own = seed_of(seed, 5)
        more = assay.more(f"{label} surrogate", flow, extra, own, nfe, judge)
        return Population.joined([latest[1], more])

    def watch(step: int, x: Population) -> None:
        lines.add(step, *latest, KL(problem.p0).value(x))
        by_oracle = x.select(x.values["judged"] > 0) if extra else x
        purse.pay(step, assay.calls, judged, lambda: problem.objective.value(by_oracle))

    control = FlowDensityControl(
        problem.objective,
        solver,
        steps=config.mirror_steps,
        step_size=Constant(1 / _pull(problem.objective)),
        anchor=Annealed(config.anneal_fraction, config.error_feedback, config.matched_moments),
        points=config.n_samples,
        nfe=config.mirror_nfe,
        draw=draw,
        folder=folder.rounds,
        watch=watch,
    )
    try:
        return control.run(begin, prior=problem.p0, seed=config.seed)
    except Spent:
        return purse.best()


def _weighted(reward: Reward, best: Population, scale: Scale) -> tuple[float, float, float]:
    """Mean, standard error and effective size of the oracle's values under the best weights.

    Of molecules that have one, as the mean of a result is; a utility counts the others.
    """
    there = best.mask()
    r, shares = reward.value(best).double()[there], best.shares[there]
    shares = shares / shares.sum()
    mean = float((shares * r).sum())
    error = float((shares.square() * (r - mean).square()).sum().sqrt())
    effective = float(1 / shares.square().sum())
    return scale.mean + scale.sign * scale.std * mean, scale.std * error, effective


def _pull(objective: Functional) -> float:
    """The weight of the terms that hold the density where it is; one without any."""
    return sum(-factor for factor, part in objective.terms() if isinstance(part, KL)) or 1.0
