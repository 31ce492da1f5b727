"""`molflowctl benchmark denovo`: measure a de-novo flow, or any SDF library, and write the tables.

A flow is judged as it draws: with implicit hydrogens these are added and relaxed (heavy atoms
held), with explicit ones not an atom is moved. What is slow (PoseBusters, relaxations) runs in
worker processes with a time limit for each molecule, on the first molecules that are valid;
attempts are independent, so these are a fair sample.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from pydantic import Field
from rdkit import Chem
from rich.progress import Progress

from molflowctl.chem.graphs import Failure, Graph3D, Molecule, assemble, from_mol
from molflowctl.compute.parallel import Outcome, WorkerPool
from molflowctl.compute.progress import progress_bars
from molflowctl.data.datasets import MoleculeDataset
from molflowctl.data.known import load_hashes
from molflowctl.errors import UserError
from molflowctl.io.atomic import results_folder
from molflowctl.io.config import Config
from molflowctl.io.library import Record, read_molecules
from molflowctl.io.locks import one_writer
from molflowctl.models.generation import Sampling, draws
from molflowctl.models.molecule_flow import MoleculeFlow
from molflowctl.tasks.evaluation.bootstrap import Estimate, bootstrap
from molflowctl.tasks.evaluation.denovo_metrics import (
    Attempts,
    alerts,
    chemistry,
    distances,
    posebusters_rates,
    relaxation_estimates,
    sample_rates,
)
from molflowctl.tasks.evaluation.denovo_report import Cost, Report
from molflowctl.tasks.evaluation.likeness import likeness, load_known, with_known
from molflowctl.tasks.evaluation.physical_checks import (
    FAILED,
    CheckSet,
    gfn2_change,
    mmff_change,
    posebusters_checks,
)
from molflowctl.tasks.evaluation.reference import load_reference
from molflowctl.tasks.evaluation.score_identity import score_identity
from molflowctl.tasks.generate.flows import load_flow, training_hashes
from molflowctl.tasks.shared_settings import (
    Device,
    Focus,
    Jobs,
    MoleculeSampler,
    MoleculeSeed,
    Nfe,
    ProductPrecision,
    Stochasticity,
    Timeout,
)

__all__ = [
    "BenchmarkConfig",
    "benchmark_denovo",
    "cost_against_n",
    "draw_sample",
    "quality_against_evaluations",
    "random_molecules",
    "read_sample",
]

PICTURED = 30  # molecules, drawn at random

T = TypeVar("T")
R = TypeVar("R")


class BenchmarkConfig(Config, command="benchmark denovo", old_names={
    "evaluations": "nfe", "churn": "stochasticity", "limit_seconds": "timeout",
}):  # fmt: skip
    """What `molflowctl benchmark denovo` does."""

    source: str = Field(description="a flow (name or folder) or an SDF file")
    n: int | None = Field(
        default=None,
        ge=1,
        description="to draw, or of a file to read; null: 1000, or all of a file [attempts]",
    )
    seed: MoleculeSeed = 0
    sampler: MoleculeSampler = "ancestral"
    nfe: Nfe = 50
    stochasticity: Stochasticity = None
    focus: Focus = None
    relax: Literal["mmff"] | None = Field(
        default=None, description="what a flow draws, as generate does; null: added hydrogens alone"
    )
    device: Device = "auto"
    precision: ProductPrecision = "float32"
    jobs: Jobs = 2
    data: str | None = Field(
        default=None,
        description=(
            "whose test split and training molecules to compare with; null: those of the "
            "flow's own data set if they ship, else of qm9"
        ),
    )
    posebusters_n: int | None = Field(
        default=None, ge=0, description="valid ones that PoseBusters checks; null: all [molecules]"
    )
    energy_n: int | None = Field(
        default=500,
        ge=0,
        description="of these, for PoseBusters' energy check; null: all [molecules]",
    )
    mmff_n: int | None = Field(
        default=None, ge=0, description="valid ones that MMFF94 relaxes; null: all [molecules]"
    )
    xtb_n: int | None = Field(
        default=500, ge=0, description="valid ones that GFN2-xTB relaxes; null: all [molecules]"
    )
    timeout: Timeout = Field(default=10.0, description="for one check of one molecule [seconds]")
    quality: list[int] = Field(
        default=[], description="numbers to compare the quality of [network evaluations]"
    )
    quality_n: int = Field(default=1000, ge=1, description="drawn for each of these [attempts]")
    identity_n: int = Field(
        default=1024, ge=0, description="for a flow's score identity; 0 for none [states]"
    )
    dataset: Path | None = Field(
        default=None,
        description="prepared data for the score identity; null: the flow's own samples",
    )
    cost: list[int] = Field(default=[], description="numbers whose time is taken [attempts]")


@one_writer(lambda config, out, *_, **__: out, folder=True)
def benchmark_denovo(
    config: BenchmarkConfig, out: str | Path, *, overwrite: bool = False, quiet: bool = False
) -> Report:
    """Run the benchmark and write the files of `Report.write`.

    If it is interrupted or fails, what was measured by then is written and called incomplete.

    Raises:
        UserError: the source cannot be read or drawn from; `out` cannot be written, or holds
            results and `overwrite` is off.
    """
    results_folder(Path(out), "results.json", overwrite=overwrite)
    if _is_file(config.source) and (
        config.quality or config.cost or config.dataset or config.relax
    ):
        raise UserError(
            f"{config.source} is a file, judged as it is: it has no evaluations, cost or score, "
            f"and is not relaxed."
        )
    flow = (
        None
        if _is_file(config.source)
        else load_flow(config.source, config.device, config.precision)
    )
    trained_on = training_hashes(flow) if flow else None
    data = config.data or (trained_on[0] if trained_on else "qm9")
    config = config.model_copy(update={"data": data})
    hashes, reference = load_hashes(data), load_reference(data)
    report = Report(source=config.source, config=config.model_dump(mode="json"))
    try:
        _fill(report, config, flow, hashes, reference, quiet)
        report.complete = True
    finally:
        if report.rates:  # what was measured before an error or an interrupt is kept
            report.write(Path(out), reference)
    return report


def _fill(
    report: Report,
    config: BenchmarkConfig,
    flow: MoleculeFlow | None,
    hashes: np.ndarray,
    reference: Any,
    quiet: bool,
) -> None:
    """Measure, section after section; each is in the report once it is done."""
    with WorkerPool(config.jobs) as pool, progress_bars(quiet) as bars:
        if flow is None:
            sample = read_sample(config.source, config.n)
        else:
            report.flow_card = flow.card
            sampling = _sampling(flow, config, config.nfe)
            _warm_up(flow, sampling, pool)
            sample, seconds = draw_sample(flow, sampling, config.n or 1000, config.seed, pool, bars)
            report.seconds_per_1000 = 1000 * seconds / len(sample.results)
        report.explicit = sample.explicit
        report.failures = sample.failures()
        report.rates = sample_rates(sample, hashes)
        report.posebusters = _posebusters(sample.mols, config, pool, bars)
        for name, function, count in (
            ("mmff", mmff_change, config.mmff_n),
            ("gfn2", gfn2_change, config.xtb_n),
        ):
            mols = sample.mols[:count]
            if mols:
                outcomes = _each(pool, bars, name, function, mols, config.timeout)
                changes = [FAILED if o.value is None else o.value for o in outcomes]
                report.relaxations |= relaxation_estimates(name, changes)
        if sample.mols:
            found = _each(pool, bars, "alerts", alerts, sample.mols, config.timeout)
            report.chemistry = chemistry(sample.mols, [o.value for o in found])
        if config.data in with_known():
            task = bars.add_task("rings and fragments", total=None)
            known, equal_draw = load_known(config.data)
            report.likeness = likeness(sample.mols, known)
            report.likeness_floor = likeness(equal_draw, known)
            bars.update(task, total=1, completed=1)
        report.random = random_molecules(sample.mols, config.seed)
        task = bars.add_task("distances to the test split", total=None)
        report.distances, report.values = distances(sample.mols, reference)
        bars.update(task, total=1, completed=1)
        if flow is None:
            return
        if config.quality:
            report.quality = quality_against_evaluations(flow, config, hashes, pool, bars)
        if config.cost:
            report.cost = cost_against_n(flow, sampling, config.cost, config.seed, pool, bars)
        if config.identity_n:
            task = bars.add_task("score identity", total=None)
            data = None if config.dataset is None else MoleculeDataset.load(config.dataset)
            report.identity = score_identity(flow, data, config.identity_n, seed=config.seed)
            bars.update(task, total=1, completed=1)


def random_molecules(mols: Sequence[Chem.Mol], seed: int, n: int = PICTURED) -> list[Chem.Mol]:
    """`n` of the molecules, drawn at random: the best of a sample do not show how it is."""
    chosen = np.random.default_rng(seed).permutation(len(mols))[:n]
    return [mols[k] for k in chosen]


def draw_sample(
    flow: MoleculeFlow,
    sampling: Sampling,
    n: int,
    seed: int,
    pool: WorkerPool,
    bars: Progress,
) -> tuple[Attempts, float]:
    """`n` attempts, and the seconds they took, hydrogens and checks of validity included."""
    begin = time.perf_counter()
    stream = draws(flow, sampling, seed=seed, count=n, pool=pool)
    label = f"draw, {sampling.nfe} evaluations"
    drawn = list(bars.track(stream, total=n, description=label))
    seconds = time.perf_counter() - begin
    sample = Attempts(
        [attempt.graph for attempt in drawn],
        [attempt.result for attempt in drawn],
        flow.hydrogens == "explicit",
    )
    return sample, seconds


def read_sample(path: str | Path, n: int | None = None) -> Attempts:
    """The first `n` records of an SDF file, all by default.

    Hydrogens count as explicit if most records show all of theirs; one that does not then has
    radicals.

    Raises:
        UserError: no records, or records without three-dimensional coordinates.
    """
    records = list(islice(read_molecules(path), n))
    if not records:
        raise UserError(f"{path} has no molecules")
    mols = [record.mol for record in records if record.mol is not None]
    if any(mol.GetNumConformers() == 0 or not mol.GetConformer().Is3D() for mol in mols):
        raise UserError(f"{path} has molecules without three-dimensional coordinates")
    complete = [all(atom.GetTotalNumHs() == 0 for atom in mol.GetAtoms()) for mol in mols]
    explicit = 2 * sum(complete) > len(complete)
    graphs: list[Graph3D | None] = []
    results: list[Molecule | Failure] = []
    for record in records:
        graph = _graph(record, explicit)
        if isinstance(graph, Failure):
            graphs.append(None)
            results.append(graph)
        else:
            graphs.append(graph)
            results.append(assemble(graph, "none" if explicit else "hydrogens", explicit))
    return Attempts(graphs, results, explicit)


def quality_against_evaluations(
    flow: MoleculeFlow,
    config: BenchmarkConfig,
    hashes: np.ndarray,
    pool: WorkerPool,
    bars: Progress,
) -> list[dict[str, Estimate | float]]:
    """Rates, MMFF94 relaxation and seconds per 1,000 attempts for each number of evaluations."""
    n = config.quality_n
    rows: list[dict[str, Estimate | float]] = []
    samplings = [_sampling(flow, config, count) for count in config.quality]
    _warm_up(flow, samplings[0], pool)
    for sampling in samplings:
        sample, seconds = draw_sample(flow, sampling, n, config.seed, pool, bars)
        outcomes = _each(pool, bars, "mmff", mmff_change, sample.mols, config.timeout)
        drops = np.array([math.nan if o.value is None else o.value.drop for o in outcomes])
        row: dict[str, Estimate | float] = {"evaluations": sampling.nfe}
        row |= sample_rates(sample, hashes)
        row["mmff_drop_kcal_mol"] = bootstrap(drops, "median")
        row["seconds_per_1000"] = 1000 * seconds / n
        rows.append(row)
    return rows


def cost_against_n(
    flow: MoleculeFlow,
    sampling: Sampling,
    sizes: Iterable[int],
    seed: int,
    pool: WorkerPool,
    bars: Progress,
) -> Cost:
    """Seconds for each number of attempts, in a pool that is already warm."""
    _warm_up(flow, sampling, pool)
    timed = [(n, draw_sample(flow, sampling, n, seed, pool, bars)[1]) for n in sorted(sizes)]
    return Cost([n for n, _ in timed], [seconds for _, seconds in timed])


def _is_file(source: str) -> bool:
    return Path(source.removesuffix(".gz")).suffix.lower() in (".sdf", ".smi", ".csv")


def _sampling(flow: MoleculeFlow, config: BenchmarkConfig, nfe: int) -> Sampling:
    sampling = Sampling(
        sampler=config.sampler,
        nfe=nfe,
        stochasticity=config.stochasticity,
        focus=config.focus,
        relax=config.relax or ("hydrogens" if flow.hydrogens == "implicit" else "none"),
    )
    sampling.check(flow)
    return sampling


def _warm_up(flow: MoleculeFlow, sampling: Sampling, pool: WorkerPool) -> None:
    """Let every worker start and load what it needs, which is no cost of a molecule."""
    for _ in draws(flow, sampling, count=64 * pool.jobs, seed=2**31, pool=pool):
        pass


def _graph(record: Record, explicit: bool) -> Graph3D | Failure:
    if record.mol is None:
        return Failure("unreadable", record.error)
    mol = Chem.Mol(record.mol)
    if explicit:  # as in the file: a hydrogen that is missing stays missing
        for atom in mol.GetAtoms():
            atom.SetNoImplicit(True)
            atom.SetNumExplicitHs(0)
        mol.UpdatePropertyCache(strict=False)
    try:
        return from_mol(mol, hydrogens=explicit)
    except ValueError as error:  # a bond without an order, or no Kekule structure
        return Failure("sanitise", str(error))


def _posebusters(
    mols: Sequence[Chem.Mol], config: BenchmarkConfig, pool: WorkerPool, bars: Progress
) -> dict[str, Estimate]:
    def checked(checks: CheckSet, subset: Sequence[Chem.Mol]) -> list[dict[str, bool | None]]:
        function = partial(posebusters_checks, checks=checks)
        label = f"PoseBusters, {checks}"
        outcomes = _each(pool, bars, label, function, subset, config.timeout)
        names = next((list(o.value) for o in outcomes if o.value is not None), [checks])
        return [dict.fromkeys(names) if o.value is None else o.value for o in outcomes]

    fast = checked("graph and geometry", mols[: config.posebusters_n])
    return posebusters_rates(fast, checked("energy", mols[: len(fast)][: config.energy_n]))


def _each(
    pool: WorkerPool,
    bars: Progress,
    label: str,
    function: Callable[[T], R],
    items: Sequence[T],
    limit_seconds: float,
) -> list[Outcome[R]]:
    outcomes: Any = pool.map(function, items, timeout=limit_seconds)
    return list(bars.track(outcomes, total=len(items), description=label))
