r"""Run the analytic problems and write their tables and figures; `molflowctl benchmark analytic`.

Three tables: every problem against its optimum; risk-averse and risk-seeking control against
expected-reward fine-tuning at equal KL to the prior and equal reward calls; the inner solvers on
the same problems at equal time and at equal reward calls. Rows are kept as they come, in
`rows.json`, and an interrupted benchmark goes on from them.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field

from molflowctl.compute.parallel import WorkerPool
from molflowctl.compute.progress import progress_bars
from molflowctl.control.composition import ScoreSum
from molflowctl.control.merging import RewardGuidedMerging
from molflowctl.control.mirror import Constant, FlowDensityControl
from molflowctl.control.objectives.divergences import KL
from molflowctl.control.objectives.utilities import CVaR, Mean
from molflowctl.control.solvers.adjoint import AdjointMatching
from molflowctl.control.solvers.reinforce import ReinforceAdjointMatching
from molflowctl.control.solvers.solver import InnerSolver
from molflowctl.control.solvers.weighted import WeightedFlowMatching
from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow
from molflowctl.io.atomic import replacing_file, write_file
from molflowctl.io.config import Config
from molflowctl.io.locks import one_writer
from molflowctl.io.record import record_path, versions, write_json
from molflowctl.tasks.evaluation.analytic.figure import draw_figures, slug
from molflowctl.tasks.evaluation.analytic.judging import Problem, judge
from molflowctl.tasks.evaluation.analytic.problems import LONG, PLANE, SHORT, A, B, problems, slope
from molflowctl.tasks.evaluation.analytic.risks import RISKS
from molflowctl.tasks.shared_settings import Seed

__all__ = ["AnalyticConfig", "benchmark_analytic"]
CALLS = 65536
COLUMNS = (
    "problem",
    "group",
    "base",
    "reached",
    "optimum",
    "relative_gap",
    "kl_to_optimum",
    "seconds",
    "reward_calls",
)


class AnalyticConfig(Config, command="benchmark analytic"):
    """What `molflowctl benchmark analytic` does."""

    seed: Seed = Field(default=0, description="of every problem [number]")
    jobs: int = Field(default=2, ge=1, description="solved at once, one thread each [problems]")
    only: list[str] = Field(
        default=[], description="parts of problems' names to run; none: everything"
    )
    seconds: float = Field(
        default=20.0, gt=0, description="per run of the solvers' table at equal time [seconds]"
    )


@one_writer(lambda config, out, *_, **__: out, folder=True)
def benchmark_analytic(
    config: AnalyticConfig, out: str | Path, *, overwrite: bool = False, quiet: bool = False
) -> dict[str, list[dict[str, Any]]]:
    """Run what `out` does not hold yet and write its tables and figures.

    Raises:
        UserError: if no problem has such a name, `out` holds rows of another seed and `overwrite`
            is off, or a problem failed; rows of the others are kept.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    kept = out / "rows.json"
    rows: dict[str, Any] = {}
    if kept.exists() and not overwrite:
        stored = json.loads(kept.read_text())
        if stored["seed"] != config.seed:
            raise UserError(f"{out} holds a benchmark of seed {stored['seed']}: say --overwrite.")
        rows = stored["rows"]
    tasks = [t for t in _tasks(config) if t not in rows]
    failures = {}
    with WorkerPool(config.jobs) as pool, progress_bars(quiet) as bars:
        bar = bars.add_task("analytic problems", total=len(tasks))
        run = partial(_run, seed=config.seed, seconds=config.seconds)
        for task, outcome in zip(tasks, pool.map(run, tasks, chunk=1), strict=True):
            bars.update(bar, advance=1)
            if outcome.value is None:
                failures[task] = outcome.error
                continue
            figures = outcome.value.pop("densities", None)
            if figures is not None:
                _store(out / "densities" / f"{slug(task.partition('/')[2])}.npz", figures)
            rows[task] = outcome.value
            write_json(kept, {"seed": config.seed, "rows": rows})
    tables = _tables(rows)
    _write(out, config, tables)
    if failures:
        task, error = next(iter(failures.items()))
        raise UserError(
            f"{len(failures)} of {len(tasks)} runs failed, for instance {task}: {error}"
        )
    return tables


# Tasks: one run each, by name, so that worker processes can rebuild them ------------------------


def _tasks(config: AnalyticConfig) -> list[str]:
    names = [p.name for p in problems()]
    if config.only:
        names = [name for name in names if any(part in name for part in config.only)]
        if not names:
            known = ", ".join(p.name for p in problems())
            raise UserError(
                f"no problem is named like {', '.join(config.only)}; there are: {known}"
            )
        return [f"problem/{name}" for name in names]
    solvers = [
        f"solver/{budget}/{problem}/{solver}"
        for budget in ("time", "calls")
        for problem in SOLVED
        for solver in SOLVERS
    ]
    naive = ["solver/none/intersection/score sum"]
    return [*(f"problem/{n}" for n in names), *(f"risk/{n}" for n in RISKS), *solvers, *naive]


def _run(task: str, seed: int, seconds: float) -> dict[str, Any]:
    torch.set_num_threads(1)
    torch.manual_seed(seed)  # of the networks' first layers
    kind, _, name = task.partition("/")
    if kind == "problem":
        return _solve(_named(name), seed)
    if kind == "risk":
        return RISKS[name].run(seed)
    budget, problem, solver = name.split("/")
    return _compare(problem, solver, budget, seed, seconds)


def _named(name: str) -> Problem:
    return next(p for p in problems() if p.name == name)


def _solve(problem: Problem, seed: int) -> dict[str, Any]:
    before, start = _calls(problem), time.perf_counter()
    flow = problem.solve(seed)
    seconds = time.perf_counter() - start
    judged, reached = judge(problem, flow)
    return {
        "problem": problem.name,
        "group": problem.group,
        "base": judged.base,
        "reached": judged.reached,
        "optimum": judged.optimum,
        "relative_gap": judged.gap,
        "kl_to_optimum": judged.kl,
        "mass_on_grid": judged.mass,
        "seconds": seconds,
        "reward_calls": _calls(problem) - before,
        "densities": {
            "dimension": problem.prior.dimension,
            "base": problem.base.shares.float().numpy(),
            "reached": reached.shares.float().numpy(),
            "optimum": problem.optimum.shares.float().numpy(),
        },
    }


def _calls(problem: Problem) -> int:
    return sum(reward.calls for reward in problem.rewards)


# Solvers at equal cost --------------------------------------------------------------------------

SOLVED = ("mean", "CVaR 0.3", "intersection")
SOLVERS: dict[str, tuple[InnerSolver, InnerSolver]] = {
    # one tilt; one of the three tilts of a utility
    "adjoint matching": (LONG, SHORT),
    "adjoint matching, continuous": (
        replace(LONG, form="continuous"),
        replace(SHORT, form="continuous"),
    ),
    "reinforce adjoint matching": (
        ReinforceAdjointMatching(lr=5e-3, batch=1024, steps=200, latest=0.97),
        ReinforceAdjointMatching(lr=5e-3, batch=1024, steps=65, latest=0.97),
    ),
    "weighted flow matching": (
        WeightedFlowMatching(lr=1e-2, batch=1024, steps=2000),
        WeightedFlowMatching(lr=1e-2, batch=1024, steps=800),
    ),
}


def _compare(problem: str, solver: str, budget: str, seed: int, seconds: float) -> dict[str, Any]:
    """One solver on one problem, scaled to a budget."""
    known = _named(problem)
    if budget == "none":
        judged, _ = judge(known, ScoreSum([A, B], [1, 1]))
        return {
            "relative_gap": judged.gap,
            "kl_to_optimum": judged.kl,
            "seconds": 0.0,
            "reward_calls": 0,
        }
    inner = SOLVERS[solver][0 if problem in ("mean", "intersection") else 1]
    tilts = 1 if problem in ("mean", "intersection") else 3
    if budget == "calls":
        inner = _with_calls(inner, CALLS // tilts)
    else:
        # Two short runs tell what does not scale, drawing points for instance, from what does; one
        # before them takes what only a process's first run takes, and would make them look alike.
        _, short, longer = (
            _timed(problem, _scaled(inner, factor), seed) for factor in (0.1, 0.1, 0.3)
        )
        per_unit = max((longer - short) / 0.2, 0.3 * longer)
        inner = _scaled(inner, max(0.1, (seconds - short) / per_unit + 0.1))
    start = time.perf_counter()
    flow, calls = _attack(problem, inner, seed)
    spent = time.perf_counter() - start
    judged, _ = judge(known, flow)
    return {
        "relative_gap": judged.gap,
        "kl_to_optimum": judged.kl,
        "seconds": spent,
        "reward_calls": calls,
    }


def _timed(problem: str, inner: InnerSolver, seed: int) -> float:
    start = time.perf_counter()
    _attack(problem, inner, seed)
    return time.perf_counter() - start


def _attack(problem: str, inner: InnerSolver, seed: int) -> tuple[Flow, int]:
    if problem == "intersection":
        # The reward of a merging is a log-ratio of its parts: every state asked about is a call.
        return RewardGuidedMerging(A & B, inner).run(seed=seed), 0
    reward, kl = slope(), KL(PLANE)
    if problem == "mean":
        objective, steps, size = Mean(reward) - 0.8 * kl, 1, 1 / 0.8
    else:
        objective, steps, size = CVaR(reward, 0.3) - 1.2 * kl, 3, 0.6
    control = FlowDensityControl(objective, inner, steps=steps, step_size=Constant(size))
    return control.run(PLANE.trainable(), prior=PLANE, seed=seed), reward.calls


def _scaled(inner: InnerSolver, factor: float) -> InnerSolver:
    """A solver with `factor` times the optimiser's work."""
    if isinstance(inner, AdjointMatching):
        return replace(inner, iterations=max(5, round(factor * inner.iterations)))
    assert isinstance(inner, ReinforceAdjointMatching | WeightedFlowMatching)
    return replace(inner, steps=max(5, round(factor * inner.steps)))


def _with_calls(inner: InnerSolver, calls: int) -> InnerSolver:
    """A solver that asks for about `calls` rewards."""
    if isinstance(inner, AdjointMatching):
        return replace(inner, iterations=max(1, calls // inner.batch))
    if isinstance(inner, ReinforceAdjointMatching):
        return replace(inner, points=calls // inner.rounds)
    assert isinstance(inner, WeightedFlowMatching)
    return replace(inner, points=calls)


# Tables -----------------------------------------------------------------------------------------


def _tables(rows: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The tables of all rows that are kept, whichever of them this call was asked for."""
    order = _tasks(AnalyticConfig())
    found = [(task, rows[task]) for task in order if task in rows]
    tables: dict[str, list[dict[str, Any]]] = {"problems": [], "risk": [], "solvers": []}
    for task, row in found:
        kind, _, name = task.partition("/")
        if kind == "problem":
            tables["problems"].append(row)
        elif kind == "risk":
            tables["risk"].append({"utility": name, **row})
        else:
            budget, problem, solver = name.split("/")
            tables["solvers"].append(
                {"budget": budget, "problem": problem, "solver": solver, **row}
            )
    return tables


def _write(out: Path, config: AnalyticConfig, tables: dict[str, list[dict[str, Any]]]) -> None:
    for name, rows in tables.items():
        if rows:
            with (
                replacing_file(out / f"{name}.csv") as temporary,
                temporary.open("w", newline="") as file,
            ):
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
    write_file(out / "table.md", "\n".join(_markdown(tables)) + "\n")
    record = {
        "command": config.command,
        "config": config.model_dump(mode="json"),
        "versions": versions(),
    }
    write_json(record_path(out), record)
    draw_figures(out / "densities", out)


def _markdown(tables: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    if tables["problems"]:
        yield "# Every problem against its optimum\n"
        yield "| problem | base | reached | optimum | relative gap | KL(p*, p) | s | reward calls |"
        yield "|---|---|---|---|---|---|---|---|"
        for r in tables["problems"]:
            yield (
                f"| {_cell(r['problem'])} | {r['base']:.4f} | {r['reached']:.4f} | "
                f"{r['optimum']:.4f} | "
                f"{100 * r['relative_gap']:.1f} % | {r['kl_to_optimum']:.4f} | "
                f"{r['seconds']:.0f} | {_count(r['reward_calls'])} |"
            )
        total = sum(r["seconds"] for r in tables["problems"])
        yield f"\nAll problems: {total / 60:.1f} minutes of one thread.\n"
    if tables["risk"]:
        yield "# Control of the tails against expected-reward fine-tuning\n"
        yield "Equal KL of both optima to the prior; 95 % bootstrap intervals, 20,000 samples.\n"
        yield "| measure | by its own utility | by the expected reward | means | reward calls |"
        yield "|---|---|---|---|---|"
        for r in tables["risk"]:
            own, other = (
                f"{r[f'{k}_value']:.3f} ({r[f'{k}_low']:.3f} to {r[f'{k}_high']:.3f})"
                for k in ("fdc", "expected_reward")
            )
            yield (
                f"| {r['utility']} | {own} | {other} | {r['fdc_mean']:.3f}, "
                f"{r['expected_reward_mean']:.3f} | {r['fdc_calls']:,}, "
                f"{r['expected_reward_calls']:,} |"
            )
        yield ""
    if tables["solvers"]:
        yield "# Inner solvers on the same problems\n"
        yield "| budget | problem | solver | relative gap | KL(p*, p) | s | reward calls |"
        yield "|---|---|---|---|---|---|---|"
        for r in tables["solvers"]:
            yield (
                f"| {r['budget']} | {r['problem']} | {r['solver']} | "
                f"{100 * r['relative_gap']:.1f} % | {r['kl_to_optimum']:.4f} | "
                f"{r['seconds']:.0f} | {_count(r['reward_calls'])} |"
            )


def _cell(name: str) -> str:
    """A name as a cell of a table, whose bars would end it."""
    return name.replace("|", "\\|")


def _count(calls: int) -> str:
    """Reward calls, where there is a reward that can be called."""
    return f"{calls:,}" if calls else "-"


def _store(path: Path, arrays: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)
