"""Steer a de-novo flow towards a property, the real oracle in the loop; `molflowctl finetune`.

The reward is the property in standard deviations of the prior's molecules, so that one KL weight
suits QED and debye alike: `r = +-(value - mean) / std`; a failed molecule counts `config.invalid`.
What is reached is printed beside what can be reached: the exact optimum `p_0 exp(r / kl)` has a
mean that the prior's own samples tell, with a standard error and an effective sample size.

A run is a folder: the steered flow (`card.json`, `weights.safetensors`), `finetune.csv`,
`config.yaml`, and `rounds/K/`, a flow after every mirror step. An interrupted run that is resumed
with the same settings and base draws and scores the samples of the steps it took again (the same
ones), which count as oracle calls as they are, and takes up learning where it stopped.
"""

from __future__ import annotations

import csv
import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rdkit.Chem import Mol
from torch import Tensor

from molflowctl import properties
from molflowctl.chem import EXACT, Graph3D, Molecule
from molflowctl.config import FinetuneConfig
from molflowctl.control.bank import Bank, self_normalised
from molflowctl.control.reinforce import ReinforceAdjointMatching
from molflowctl.control.tilt import tilt
from molflowctl.errors import UserError
from molflowctl.flows.flow import flow_names
from molflowctl.models.denovo import DeNovoFlow
from molflowctl.models.generation import Drawn, Sampling, draws
from molflowctl.parallel import WorkerPool
from molflowctl.tasks.denovo import load_flow
from molflowctl.tasks.record import versions, write_json

__all__ = ["Round", "Sample", "draw_sample", "finetune", "verdict"]

# What a resume may change: where and how fast it runs, and how the result is judged.
_FREE = {"out", "jobs", "device", "timeout", "test_samples"}
_REACHED = -2.0  # standard errors that the result may miss the exact target by


@dataclass(frozen=True)
class Sample:
    """Fresh molecules of a flow with the oracle's values, NaN where it or the molecule failed."""

    graphs: list[Graph3D | None]  # None where a worker process died
    smiles: list[str]  # "" for the invalid
    values: np.ndarray  # (n,) in the property's unit

    @property
    def valid(self) -> float:
        """Share of valid molecules."""
        return sum(map(bool, self.smiles)) / len(self.smiles)

    @property
    def unique(self) -> float:
        """Share of the valid that differ."""
        named = [s for s in self.smiles if s]
        return len(set(named)) / len(named) if named else math.nan

    @property
    def unscored(self) -> int:
        """Valid molecules that the oracle failed on."""
        return sum(map(bool, self.smiles)) - int(np.isfinite(self.values).sum())

    @property
    def mean(self) -> float:
        return float(np.nanmean(self.values)) if np.isfinite(self.values).any() else math.nan

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        found = self.values[np.isfinite(self.values)]
        return float(found.std(ddof=1) / math.sqrt(len(found))) if len(found) > 1 else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the mean, `mean +- 1.96 error`."""
        return self.mean - 1.96 * self.error, self.mean + 1.96 * self.error


@dataclass(frozen=True)
class Round:
    """One line of the live table, before mirror step `step`; the last has the result."""

    step: int
    mean: float
    error: float
    target: float
    target_error: float
    effective_size: float
    walked: float  # share of the way, by the samples
    valid: float
    unique: float
    unscored: int
    oracle_calls: int  # so far in this process: a resume scores earlier samples again
    minutes: float


def _finish(drawn: Drawn) -> tuple[Graph3D | None, str, bytes]:
    if isinstance(drawn.result, Molecule):
        return drawn.graph, drawn.result.smiles, drawn.result.mol.ToBinary(EXACT)
    return drawn.graph, "", b""


def draw_sample(
    flow: DeNovoFlow,
    name: str,
    n: int,
    seed: int,
    *,
    evaluations: int,
    pool: WorkerPool,
    timeout: float = 30.0,
    progress: Callable[[str, int, int], object] | None = None,
) -> Sample:
    """`n` attempts of a flow, scored by the property `name`.

    `progress` is called with "draw" or "oracle", how many are done, and of how many.
    """
    rows = []
    stream = draws(
        flow, Sampling(evaluations=evaluations), seed=seed, count=n, pool=pool, finish=_finish
    )
    for row in stream:
        rows.append(row)
        if progress:
            progress("draw", len(rows), n)
    mols = [Mol(binary) if binary else None for _, _, binary in rows]
    there = [m for m in mols if m is not None]
    scored = (lambda done: progress("oracle", done, len(there))) if progress else None
    scores = properties.score(there, [name], timeout=timeout, pool=pool, progress=scored)
    values = np.full(n, math.nan)
    values[[m is not None for m in mols]] = scores[properties.get(name).columns[0]]
    return Sample([g for g, _, _ in rows], [s for _, s, _ in rows], values)


def encode(flow: DeNovoFlow, sample: Sample, rewards: np.ndarray) -> Bank:
    """A bank of the sample's data states, grouped by size."""
    groups: dict[int, list[int]] = {}
    for i, graph in enumerate(sample.graphs):
        if graph is not None:
            groups.setdefault(len(graph.numbers), []).append(i)
    states: list[Any] = []
    values: list[Tensor] = []
    for n, rows in groups.items():
        first, second = np.triu_indices(n, 1)
        graphs = [graph for i in rows if (graph := sample.graphs[i]) is not None]
        states.append(
            flow.encode(
                torch.from_numpy(np.stack([g.numbers for g in graphs])).long(),
                torch.from_numpy(np.stack([g.charges for g in graphs])).long(),
                torch.from_numpy(np.stack([g.bonds[first, second] for g in graphs])).long(),
                torch.from_numpy(np.stack([g.positions for g in graphs])).float(),
            )
        )
        values.append(torch.from_numpy(rewards[rows]).float())
    return Bank(states, values)


def verdict(
    prior: Sample, target: tuple[float, float], result: Sample, sign: float
) -> dict[str, float | bool]:
    """Did the steering do what it was asked to? `target` is the exact mean with its error.

    Arguments:
        sign: 1 if the property was to grow, -1 if it was to shrink.

    Returns:
        `way`, the share of the way from the prior's mean to the target's; `z`, how far the result
        lies beyond the target in standard errors of their difference; `reached`, if that is not
        below -2; `outside`, if the 95 % intervals of prior and result do not meet; `valid_ratio`
        and `unique_ratio` to the prior. Uniqueness falls with n, so that as many valid molecules of
        each, the first, are compared.
    """
    gap = sign * (result.mean - target[0])
    spread = math.hypot(result.error, target[1])
    (low, high), (lower, upper) = prior.interval, result.interval
    named = [[s for s in sample.smiles if s] for sample in (prior, result)]
    n = min(map(len, named))
    first, last = (len(set(smiles[:n])) for smiles in named)
    return {
        "way": (result.mean - prior.mean) / (target[0] - prior.mean),
        "z": gap / spread if spread else math.nan,
        "reached": gap >= _REACHED * spread,
        "outside": lower > high or upper < low,
        "valid_ratio": result.valid / prior.valid,
        "unique_ratio": last / first if n else math.nan,
    }


def finetune(
    config: FinetuneConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    report: Callable[[Round], None] = lambda line: None,
    say: Callable[[str], None] = lambda text: None,
    progress: Callable[[str, int, int], object] = lambda label, done, total: None,
) -> DeNovoFlow:
    """Steer `config.flow` and write the result to `config.out`.

    Arguments:
        report: called with each line of the live table.
        say: called with each remark.
        progress: called with what is being drawn or scored, how many are done, and of how many.

    Raises:
        UserError: for an unknown flow or property, an output that exists or holds the base, a
            resume with other settings, or a prior whose molecules the oracle cannot score.
    """
    item = properties.get(config.reward)
    base = load_flow(config.flow, config.device)
    out = Path(config.out)
    rounds = out / "rounds"
    if out.resolve() == flow_names().get(config.flow, Path(config.flow)).resolve():
        raise UserError(f"{out} holds the flow that is to be steered; choose another folder.")
    if out.exists() and any(out.iterdir()) and not (resume or overwrite):
        raise UserError(f"{out} is not empty; choose another folder, --resume or --overwrite.")
    done = _rounds_done(rounds) if resume else 0
    if done:
        _check_resume(config, base, rounds / str(done))
    out.mkdir(parents=True, exist_ok=True)
    if not done:
        shutil.rmtree(rounds, ignore_errors=True)
    (out / "card.json").unlink(missing_ok=True)  # no flow until the run is over
    config.dump(out / "config.yaml")
    rows: list[Round] = []
    began, calls = time.monotonic(), 0
    sign = -1.0 if config.minimise else 1.0

    with WorkerPool(config.jobs) as pool:

        def sample(
            label: str, flow: DeNovoFlow, n: int, seed: int, evaluations: int = config.evaluations
        ) -> Sample:
            nonlocal calls
            drawn = draw_sample(
                flow,
                config.reward,
                n,
                seed,
                evaluations=evaluations,
                pool=pool,
                timeout=config.timeout,
                progress=lambda what, now, of: progress(f"{label}: {what}", now, of),
            )
            calls += sum(map(bool, drawn.smiles))
            return drawn

        say(f"drawing {config.base_samples:,} molecules of the prior")
        prior = sample("prior", base, config.base_samples, _seed(config.seed, 1))
        found = prior.values[np.isfinite(prior.values)]
        if len(found) < 32 or found.std() == 0:
            raise UserError(
                f"{config.reward} gave {len(found)} values on {config.base_samples} molecules of "
                f"{config.flow}, too few or all alike: there is nothing to steer by."
            )
        mean, std = float(found.mean()), float(found.std())

        def reward(values: np.ndarray) -> np.ndarray:
            return np.nan_to_num(sign * (values - mean) / std, nan=config.invalid)

        strength = 1 / config.kl
        valid_rewards = torch.from_numpy(sign * (found - mean) / std)
        target = self_normalised(valid_rewards, torch.from_numpy(found), strength)
        say(
            f"prior {mean:.4g} +- {prior.error:.2g} {item.unit}; exact target {target[0]:.4g} +- "
            f"{target[1]:.2g}, effective sample size {target[2]:.0f} of {len(found)}"
        )
        if target[2] < 100:
            say("the effective sample size is small: the target is a rough guess; raise --kl")

        def line(step: int, drawn: Sample) -> Round:
            walked = (drawn.mean - mean) / (target[0] - mean)
            return Round(
                step, drawn.mean, drawn.error, *target, walked, drawn.valid, drawn.unique,
                drawn.unscored, calls, (time.monotonic() - began) / 60,
            )  # fmt: skip

        def tell(row: Round) -> None:
            rows.append(row)
            _write_table(out / "finetune.csv", rows)
            report(row)

        def bank(flow: Any, step: int) -> Bank:
            seed = _seed(config.seed, 2, step)
            drawn = sample(
                f"round {step}", flow, config.round_samples, seed, config.round_evaluations
            )
            tell(line(step, drawn))
            return encode(flow, drawn, reward(drawn.values))

        def stored(step: int) -> DeNovoFlow | None:
            return DeNovoFlow.load(rounds / str(step)).to(base.device) if step <= done else None

        tell(line(0, prior))
        flow: Any = stored(done) if done else base
        walk = tilt(
            base,
            bank,
            encode(base, prior, reward(prior.values)),
            strength,
            inner=ReinforceAdjointMatching(config.inner_steps, config.batch, config.lr),
            steps=config.rounds,
            seed=config.seed,
            stored=stored,
        )
        parent = {"name": config.flow, "weights_sha256": base.card.get("weights_sha256")}
        for step in walk:
            flow = step.flow
            flow.card = {k: v for k, v in base.card.items() if k in ("data", "licence", "retrain")}
            flow.card["parents"] = [parent]
            flow.save(rounds / str(step.step), half=False)
        result = sample("result", flow, config.test_samples, _seed(config.seed, 3))
        tell(line(config.rounds, result))
    outcome = verdict(prior, target[:2], result, sign)
    say(
        f"{'reached' if outcome['reached'] else 'stopped at'} {100 * outcome['way']:.0f} % of "
        f"the way to the exact target (z = {outcome['z']:.1f}), "
        f"valid x{outcome['valid_ratio']:.2f}, unique x{outcome['unique_ratio']:.2f} of the "
        f"prior{'' if outcome['outside'] else '; within the 95 % interval of the prior'}"
    )
    summary = {
        "reward": config.reward,
        "unit": item.unit,
        "prior": _summary(prior),
        "target": dict(zip(("mean", "error", "effective_size"), target, strict=True)),
        "result": _summary(result),
        "verdict": outcome,
        "oracle_calls": calls,
        "minutes": (time.monotonic() - began) / 60,
    }
    flow.save(
        out,
        {
            "name": out.name,
            "objective": {
                "maximise": f"E[r] - {config.kl} KL(p || {config.flow})",
                "r": f"{'-' if config.minimise else ''}({config.reward} - {mean:.6g}) / {std:.6g}",
            },
            "finetune": {"config": config.model_dump(mode="json"), **summary},
        },
    )
    write_json(out / "finetune.run.json", {**summary, "versions": versions()})
    return flow


def _seed(seed: int, *purpose: int) -> int:
    """Independent seeds for the parts of a run."""
    return int(np.random.SeedSequence([seed, *purpose]).generate_state(1)[0])


def _check_resume(config: FinetuneConfig, base: DeNovoFlow, last: Path) -> None:
    """Raise `UserError` unless the round stored in `last` is one of this very run."""
    out = last.parents[1]
    earlier = FinetuneConfig.read(out / "config.yaml").model_dump()
    now = config.model_dump()
    differ = [
        f"{key} = {earlier[key]}, not {now[key]}"
        for key in now
        if key not in _FREE and earlier[key] != now[key]
    ]
    parents = [p.get("weights_sha256") for p in DeNovoFlow.load(last).card.get("parents", [])]
    if parents != [base.card.get("weights_sha256")]:
        differ.append(f"other weights of {config.flow}")
    if differ:
        raise UserError(
            f"{out} was begun with {'; '.join(differ)}: resume it as it was begun, or start again "
            f"with --overwrite."
        )


def _summary(sample: Sample) -> dict[str, float]:
    return {
        "n": len(sample.values),
        "mean": sample.mean,
        "error": sample.error,
        "valid": sample.valid,
        "unique": sample.unique,
        "unscored": sample.unscored,
    }


def _rounds_done(folder: Path) -> int:
    done = [int(p.parent.name) for p in folder.glob("*/card.json") if p.parent.name.isdigit()]
    return max(done, default=0)


def _write_table(path: Path, rows: list[Round]) -> None:
    """The live table on disk, whole at every moment."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(rows[0])))
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    os.replace(temporary, path)
