"""`report.html` of a run: written anew with every line of its table, to be looked at while it runs.

How the reward and the validity went beside the exact target, the reward before and after, what its
parts did, the ten best and ten molecules at random, settings and seconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rdkit import Chem

from molflowctl.chem.graphs import Molecule, assemble
from molflowctl.io.config import Config
from molflowctl.properties.rewards import Objective, PropertyReward
from molflowctl.tasks.scoring.preview import parts_of
from molflowctl.tasks.steering.reporting.words import as_written
from molflowctl.tasks.steering.run_folder import REPORT
from molflowctl.tasks.steering.scored_molecules import ScoredMolecules
from molflowctl.viz.charts import Level, Line, Sample
from molflowctl.viz.page import Shown
from molflowctl.viz.pictures import with_interval
from molflowctl.viz.report_page import Chart, Molecules, PartRow, write_report

__all__ = ["Report", "Target"]

SHOWN = 10
_ALIKE = {"target", "target_error", "target_utility", "effective_size"}
_SHARES = {"walked", "valid", "unique"}
_HEADINGS = {"error": "standard error", "kl": "KL, nats", "walked": "of the way",
             "unscored": "without a value"}  # fmt: skip
_SHORT = 48  # letters of a reward that are written out where a word would do


@dataclass(frozen=True)
class Target:
    """The exact target: its mean with the standard error, and weighted values that show it."""

    mean: float
    error: float
    sample: Sample


@dataclass
class Report:
    """The page of a run.

    Arguments:
        folder: of the run.
        title: of the page.
        settings: of the run.
        parents: by name, their molecules.
        child: name of what comes of them.
        oracle: what was asked for; None where nothing was.
        minimise: whether its values are to be small.
        target: None where none is known.
        words: what there is to say while it runs; at the end, what was reached.
    """

    folder: Path
    title: str
    settings: Config
    parents: Mapping[str, ScoredMolecules]
    child: str
    oracle: Objective | None = None
    minimise: bool = False
    target: Target | None = None
    words: list[str] = field(default_factory=list)

    def write(self, rows: Sequence[Any], drawn: ScoredMolecules) -> None:
        """Write the page.

        Arguments:
            rows: of the live table, so far.
            drawn: the latest molecules of the child; a parent's own before the first step.

        Raises:
            UserError: if it cannot be written.
        """
        flows = dict(self.parents)
        if not any(drawn is parent for parent in flows.values()):
            flows[self.child] = drawn
        samples = {name: Sample(sample.values) for name, sample in flows.items()}
        if self.target is not None:
            samples["exact target"] = self.target.sample
        scored = self.oracle is not None
        write_report(
            self.folder / REPORT,
            title=self.title,
            words=[*(self.words or [_so_far(rows)]), *self._asked()],
            steps=range(len(rows)),
            charts=list(self._charts(rows)),
            samples=samples if scored else {},
            reward=self._reward,
            parts=self._parts(flows),
            flows=[*_flows(flows, self._reward, scored), *self._target_row()],
            molecules=list(self._molecules(flows)),
            table=_table(rows),
            settings=_settings(self.settings),
        )

    def _asked(self) -> list[str]:
        """What was asked for."""
        if self.oracle is None:
            return []
        sign = "small" if self.minimise else "large"
        return [f"Reward, to be {sign}: {as_written(self.oracle)}"]

    @property
    def _reward(self) -> str:
        text = as_written(self.oracle)
        return text if len(text) <= _SHORT else "the reward"

    def _target_row(self) -> Iterator[list[str]]:
        """The exact target among the flows."""
        if self.target is not None and self.target.sample.weights is not None:
            known = self.target.sample.weights[np.isfinite(self.target.sample.values)]
            shares = known / known.sum()
            told = with_interval(self.target.mean, 1.96 * self.target.error)
            effective = f"{1 / np.square(shares).sum():,.0f} effective"
            yield ["exact target", effective, "", "", told, ""]

    def _charts(self, rows: Sequence[Any]) -> Iterator[Chart]:
        """The course of the reward, beside its target, and of validity and uniqueness."""
        if self.oracle is not None:
            means = Line("mean", [row.mean for row in rows], [row.error for row in rows])
            levels = []
            if self.target is not None:
                levels = [Level("exact target", self.target.mean, self.target.error)]
            caption = f"{self._reward}, mean of fresh molecules with its 95 % interval"
            yield Chart(caption, [means], levels)
        shares = [
            Line(name, [100 * getattr(row, name) for row in rows]) for name in ("valid", "unique")
        ]
        yield Chart("valid molecules, and different ones of these, %", shares)

    def _parts(
        self, flows: Mapping[str, ScoredMolecules]
    ) -> tuple[Sequence[str], Sequence[PartRow]]:
        """What the reward is made of, in the molecules of every flow."""
        known = {name: sample for name, sample in flows.items() if sample.columns}
        if not isinstance(self.oracle, PropertyReward) or not known:
            return [], []
        every = {name: parts_of(self.oracle, s.columns) for name, s in known.items()}
        rows = [
            PartRow(
                parts[0].text,
                [_with_interval(part.found) for part in parts],
                {name: Sample(part.values) for name, part in zip(every, parts, strict=True)},
            )
            for parts in zip(*every.values(), strict=True)
        ]
        return ["part", *every], rows

    def _molecules(self, flows: Mapping[str, ScoredMolecules]) -> Iterator[Molecules]:
        """The best of the child, and some of every flow at random, the child's first."""
        *_, latest = flows
        if self.oracle is not None:
            best = flows[latest].best(SHOWN, smallest=self.minimise)
            yield Molecules(f"Ten best of {latest}", _shown(flows[latest], best))
        for name in reversed(list(flows)):
            some = np.random.default_rng(0).permutation(len(flows[name])).tolist()
            yield Molecules(f"Ten at random of {name}", _shown(flows[name], some))


def _shown(sample: ScoredMolecules, places: Sequence[int]) -> list[Shown]:
    """The first ten molecules of `places` that can be drawn, with the stereo of their geometry."""
    found: list[Shown] = []
    for place in places:
        graph = sample.graphs[place]
        if len(found) == SHOWN or graph is None or not sample.smiles[place]:
            continue
        made = assemble(graph, relax="none")
        if isinstance(made, Molecule):
            mol = Chem.RemoveHs(made.mol)
            value = float(sample.values[place])
            text = f"{value:.4g}" if math.isfinite(value) else ""
            found.append(Shown(mol, text, Chem.MolToSmiles(mol)))
    return found


def _flows(flows: Mapping[str, ScoredMolecules], reward: str, scored: bool) -> list[list[str]]:
    """A row of figures for every flow."""
    table = [["flow", "molecules", "valid", "unique", *([reward, "failed"] if scored else [])]]
    for name, sample in flows.items():
        row = [name, f"{len(sample):,}", f"{sample.valid:.1%}", f"{sample.unique:.1%}"]
        if scored:
            row += [_with_interval(sample.found), f"{sample.unscored:,}"]
        table.append(row)
    return table


def _with_interval(values: np.ndarray) -> str:
    """Mean and 95 % interval, `mean +- 1.96 s / sqrt(n)`."""
    n = len(values)
    if n < 2:
        return "none"
    return with_interval(float(values.mean()), 1.96 * float(values.std(ddof=1)) / math.sqrt(n))


def _so_far(rows: Sequence[Any]) -> str:
    row = rows[-1]
    left = f", about {row.minutes_left:.0f} left" if math.isfinite(row.minutes_left) else ""
    place = f"after mirror step {row.step}" if row.step else "before the first mirror step"
    return f"Running, {place}: {row.minutes:.1f} minutes{left}, {row.oracle_calls:,} oracle calls."


def _table(rows: Sequence[Any]) -> list[list[str]]:
    """The live table, without what is the same in every row of it."""
    told = [
        {name: value for name, value in asdict(row).items() if name not in _ALIKE} for row in rows
    ]
    headings = [_HEADINGS.get(name, name.replace("_", " ")) for name in told[0]]
    return [headings, *([_cell(*entry) for entry in row.items()] for row in told)]


def _cell(name: str, value: Any) -> str:
    if isinstance(value, float) and name in _SHARES:
        return f"{value:.1%}" if math.isfinite(value) else ""
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else ""
    return f"{value:,}"


def _settings(config: Config) -> list[tuple[str, str, bool]]:
    told = config.model_dump(mode="json")
    fields = type(config).model_fields
    return [
        (name, "" if value is None else str(value), getattr(config, name) != fields[name].default)
        for name, value in told.items()
    ]
