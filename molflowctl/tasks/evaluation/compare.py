"""Flows beside each other: what they draw, judged by the oracles; `molflowctl benchmark compare`.

As many fresh molecules of each, the same properties, one table and one figure: a steered flow
beside its prior, a merged one beside its parts. Tails are those that risk-seeking and risk-averse
objectives are about. The ten best molecules of every flow are drawn with their strain and what
PoseBusters says of them, since a reward that is hacked shows there first.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from rdkit import DataStructs
from rdkit.Chem import Mol, MolFromSmiles
from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator
from rdkit.Chem.Scaffolds.MurckoScaffold import MurckoScaffoldSmiles
from rich.progress import Progress, TaskID

from molflowctl import properties
from molflowctl.chem.graphs import EXACT, Molecule
from molflowctl.compute.parallel import WorkerPool
from molflowctl.compute.progress import progress_bars
from molflowctl.errors import UserError
from molflowctl.flows.flow import flow_names
from molflowctl.io.atomic import replacing_file, results_folder, write_file
from molflowctl.io.config import Config
from molflowctl.io.locks import one_writer
from molflowctl.io.record import record_path, versions, write_json
from molflowctl.models.generation import Drawn, Sampling, draws
from molflowctl.tasks.evaluation.bootstrap import Estimate, bootstrap
from molflowctl.tasks.evaluation.denovo_metrics import unlikeness
from molflowctl.tasks.generate.flows import load_flow
from molflowctl.tasks.shared_settings import Device, Jobs, Nfe, Seed, Timeout
from molflowctl.viz.pictures import draw_grid

__all__ = ["CompareConfig", "Compared", "compare", "vendi_score"]

COLOURS = ("#888888", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
PICTURED = 10
DIVERSE = 1000  # molecules of the Vendi score, whose matrix grows with their square


class CompareConfig(Config, command="benchmark compare", old_names={"evaluations": "nfe"}):
    """What `molflowctl benchmark compare` does."""

    flows: tuple[str, ...] = Field(
        min_length=1, description="shipped names or folders, the prior first"
    )
    properties: tuple[str, ...] = Field(
        min_length=1,
        description="to judge by, the first of them first (see `molflowctl properties`)",
    )
    n: int = Field(default=2000, ge=32, description="drawn of each flow [attempts]")
    tail: float = Field(
        default=0.1, gt=0, lt=1, description="of the best, and of the worst [share]"
    )
    minimise: bool = Field(default=False, description="small values of the first are the best")
    best_of: float | None = Field(
        default=None,
        gt=1,
        description=(
            "also the best one in so many of the first flow, by the first property: what "
            "choosing among them reaches without any steering [molecules]"
        ),
    )
    nfe: Nfe = 50
    timeout: Timeout = Field(default=30.0, description="per molecule and program [seconds]")
    seed: Seed = Field(default=2026, description="which no steering draws with [number]")
    jobs: Jobs = 1
    device: Device = "auto"

    def model_post_init(self, context: Any) -> None:
        if self.best_of and self.n / self.best_of < 2:
            raise UserError(
                f"the best one in {self.best_of:g} of {self.n} molecules are too few: raise -n."
            )


@dataclass(frozen=True)
class Compared:
    """One flow's molecules.

    Arguments:
        smiles: of each attempt, "" for the invalid; mols: of the valid.
        values: by column, `(valid,)`, NaN where the oracle failed.
    """

    name: str
    smiles: list[str]
    mols: list[Mol]
    values: dict[str, np.ndarray]

    @property
    def named(self) -> list[str]:
        """SMILES of the valid."""
        return [s for s in self.smiles if s]

    def estimates(self, tail: float, minimise: bool = False) -> dict[str, Estimate]:
        """Every figure of the table, by name; `minimise` is of the first property."""
        named = self.named
        places = {s: k for k, s in reversed(list(enumerate(named)))}
        first = [places[s] == k for k, s in enumerate(named)]
        rows = {
            "valid": bootstrap(np.array([bool(s) for s in self.smiles], float)),
            "unique": bootstrap(np.array(first, float)),
        }
        for k, (column, values) in enumerate(self.values.items()):
            small = minimise and k == 0
            rows[column] = bootstrap(values)
            rows[f"{column}, best"] = bootstrap(values, _tail(tail, upper=not small))
            rows[f"{column}, worst"] = bootstrap(values, _tail(tail, upper=small))
        rows["internal diversity"] = bootstrap(unlikeness(self.mols))
        return rows

    def best(self, one_in: float, minimise: bool) -> Compared:
        """The best one in so many attempts, by the first property, in the order they came in."""
        values = next(iter(self.values.values()))
        worth = np.where(np.isfinite(values), -values if minimise else values, -np.inf)
        count = min(round(len(self.smiles) / one_in), int(np.isfinite(values).sum()))
        kept = np.sort(np.argsort(-worth, kind="stable")[:count])
        return Compared(
            f"{self.name}, best 1 of {one_in:.3g}",
            [self.named[k] for k in kept],
            [self.mols[k] for k in kept],
            {column: of[kept] for column, of in self.values.items()},
        )

    def diversity(self) -> dict[str, float]:
        """Distinct scaffolds per valid molecule, and the Vendi score of the first thousand."""
        scaffolds = {MurckoScaffoldSmiles(s) for s in self.named}
        return {
            "scaffolds": len(scaffolds) / max(1, len(self.named)),
            "vendi": vendi_score(self.named[:DIVERSE]),
        }


def vendi_score(smiles: list[str]) -> float:
    """The effective number of different molecules: `exp` of the entropy of the eigenvalues of K/n.

    `K` are Tanimoto similarities of Morgan fingerprints (radius 2, 2,048 bits).

    References:
        Friedman, Dieng, The Vendi Score, TMLR 2023, arXiv 2210.02410.
    """
    generator = GetMorganGenerator(radius=2, fpSize=2048)
    prints = [generator.GetFingerprint(MolFromSmiles(s)) for s in smiles]
    if not prints:
        return 0.0
    kernel = np.array([DataStructs.BulkTanimotoSimilarity(p, prints) for p in prints])
    shares = np.linalg.eigvalsh(kernel / len(prints)).clip(1e-15)
    return float(np.exp(-(shares * np.log(shares)).sum()))


@one_writer(lambda config, out, *_, **__: out, folder=True)
def compare(
    config: CompareConfig, out: Path, *, overwrite: bool = False, quiet: bool = False
) -> list[Compared]:
    """Draw, judge, and write tables and figures to `out`.

    Raises:
        UserError: for unknown flows or properties, a flow named twice, or results that are there,
            before any work.
    """
    items = [properties.get(name) for name in config.properties]
    labels = _labels(config.flows)
    flows = [load_flow(name, config.device) for name in config.flows]
    results_folder(out, "table.csv", overwrite=overwrite)
    found = []
    with WorkerPool(config.jobs) as pool, progress_bars(quiet) as bars:
        for label, flow in zip(labels, flows, strict=True):
            stream = draws(
                flow, Sampling(nfe=config.nfe), seed=config.seed, count=config.n,
                pool=pool, finish=_finish,
            )  # fmt: skip
            rows = list(bars.track(stream, total=config.n, description=f"{label}: draw"))
            mols = [Mol(binary) for _, binary in rows if binary]
            scored = partial(_advance, bars, bars.add_task(f"{label}: oracle", total=len(mols)))
            scores = properties.score(
                mols, items, timeout=config.timeout, pool=pool,
                progress=scored,
            )  # fmt: skip
            values = {c: scores[c] for item in items for c in item.columns}
            found.append(Compared(label, [s for s, _ in rows], mols, values))
        _pictures(found, config, pool, out)
    if config.best_of:
        found.insert(1, found[0].best(config.best_of, config.minimise))
    _write(found, config, out, [flow.card.get("weights_sha256") for flow in flows])
    return found


def _labels(names: Sequence[str]) -> list[str]:
    """What the flows are called in tables: their folders, with as many above as tell them apart.

    Raises:
        UserError: for a flow that is named twice.
    """
    paths = [(n,) if n in flow_names() else Path(n).resolve().parts[1:] or (n,) for n in names]
    for depth in range(1, 1 + max(map(len, paths))):
        labels = ["-".join(parts[-depth:]) for parts in paths]
        if len(set(labels)) == len(labels):
            return labels
    again = next(n for k, n in enumerate(names) if paths[k] in paths[:k])
    raise UserError(f"{again} is named twice: a flow is compared with others.")


def _advance(bars: Progress, bar: TaskID, done: int) -> None:
    bars.update(bar, completed=done)


def _finish(drawn: Drawn) -> tuple[str, bytes]:
    if isinstance(drawn.result, Molecule):
        return drawn.result.smiles, drawn.result.mol.ToBinary(EXACT)
    return "", b""


def _tail(share: float, upper: bool) -> Callable[[np.ndarray], float]:
    """The mean of the largest or smallest share of the values."""

    def mean(values: np.ndarray) -> float:
        ordered = np.sort(values)
        count = max(1, round(share * len(ordered)))
        return float(ordered[-count:].mean() if upper else ordered[:count].mean())

    return mean


def _pictures(found: list[Compared], config: CompareConfig, pool: WorkerPool, out: Path) -> None:
    """The best molecules of each flow by the first property, with what a hacked reward shows in."""
    for flow in found:
        values = next(iter(flow.values.values()))
        distinct: dict[str, int] = {}
        for k in np.argsort(values if config.minimise else -values).tolist():
            if np.isfinite(values[k]):
                distinct.setdefault(flow.named[k], k)
        best = list(distinct.values())[:PICTURED]
        if not best:
            continue
        mols = [flow.mols[k] for k in best]
        checks = properties.score(
            mols, ["mmff_strain_kcal_mol", "posebusters_pass"], timeout=config.timeout, pool=pool
        )
        legends = [
            f"{values[k]:.3g}; strain {strain:.0f}; {_passed(passed)}"
            for k, strain, passed in zip(
                best, checks["mmff_strain_kcal_mol"], checks["posebusters_pass"], strict=True
            )
        ]
        draw_grid(mols, out / f"best-{flow.name}.png", legends, n=PICTURED, columns=5)


def _passed(value: float) -> str:
    return "no answer" if np.isnan(value) else "PB pass" if value else "PB fail"


def _write(
    found: list[Compared], config: CompareConfig, out: Path, weights: list[str | None]
) -> None:
    tables = {flow.name: flow.estimates(config.tail, config.minimise) for flow in found}
    diversity = {flow.name: flow.diversity() for flow in found}
    with replacing_file(out / "table.csv") as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["flow", "figure", "value", "low", "high", "n"])
        for name, rows in tables.items():
            for figure, e in rows.items():
                writer.writerow([name, figure, e.value, e.low, e.high, e.n])
            for figure, value in diversity[name].items():
                writer.writerow([name, figure, value, "", "", ""])
    write_file(out / "table.md", "\n".join(_markdown(tables, diversity, config)) + "\n")
    write_json(
        record_path(out),
        {
            "command": config.command,
            "config": config.model_dump(mode="json"),
            "weights_sha256": dict(zip(config.flows, weights, strict=True)),
            "results": {
                name: {**{k: asdict(e) for k, e in rows.items()}, **diversity[name]}
                for name, rows in tables.items()
            },
            "versions": versions(),
        },
    )
    _figure(found, out / "figure.png")


def _markdown(
    tables: dict[str, dict[str, Estimate]],
    diversity: dict[str, dict[str, float]],
    config: CompareConfig,
) -> Iterator[str]:
    names = list(tables)
    yield f"{config.n:,} attempts each; 95 % bootstrap intervals; tails of {config.tail:.0%}.\n"
    yield f"| | {' | '.join(names)} |"
    yield "|---" * (len(names) + 1) + "|"
    for figure in next(iter(tables.values())):
        rate = figure in ("valid", "unique")
        cells = [_cell(tables[name][figure], rate) for name in names]
        yield f"| {figure} | {' | '.join(cells)} |"
    scaffolds = " | ".join(f"{diversity[name]['scaffolds']:.1%}" for name in names)
    vendi = " | ".join(f"{diversity[name]['vendi']:.0f}" for name in names)
    yield f"| scaffolds per valid | {scaffolds} |"
    yield f"| Vendi score | {vendi} |"


def _cell(e: Estimate, rate: bool) -> str:
    form = ".1%" if rate else ".4g"
    return f"{e.value:{form}} ({e.low:{form}} to {e.high:{form}})"


def _figure(found: list[Compared], path: Path) -> None:
    """The distributions of every property, all flows in one panel."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = list(found[0].values)
    figure = Figure(figsize=(4.2 * len(columns), 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, column in zip(np.atleast_1d(figure.subplots(1, len(columns))), columns, strict=True):
        every = np.concatenate([f.values[column][np.isfinite(f.values[column])] for f in found])
        if not len(every):
            raise UserError(f"{column} failed for every molecule: there is nothing to draw.")
        whole = np.allclose(every, np.round(every))
        low, high = (
            (every.min() - 0.5, every.max() + 1.5) if whole else np.percentile(every, [0.2, 99.8])
        )
        bins = np.arange(low, high) if whole else np.linspace(low, high, 41)
        for k, flow in enumerate(found):
            values = flow.values[column]
            axes.hist(
                values[np.isfinite(values)], bins, density=True, histtype="step", linewidth=1.6,
                color=COLOURS[k % len(COLOURS)], label=flow.name,
            )  # fmt: skip
        axes.set_xlabel(column)
        axes.set_yticks([])
    figure.axes[0].set_ylabel("density")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    with replacing_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
