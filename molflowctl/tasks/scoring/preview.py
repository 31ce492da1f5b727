"""A reward on a few hundred molecules, before an hour is spent on it; `molflowctl preview`.

The parts of the reward are measured one by one: how they are distributed, what share is at the
upper or the lower end that a part can reach (where there is nothing left to steer by), how they go
together with the whole, and how long each program takes for a molecule.
"""

from __future__ import annotations

import math
import random
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem
from rdkit.Chem import Mol

from molflowctl.chem.graphs import EXACT, Failure
from molflowctl.compute.parallel import WorkerPool
from molflowctl.errors import UserError
from molflowctl.io.library import READABLE, read_molecules
from molflowctl.properties.evaluate import Scores, score
from molflowctl.properties.geometries.ready import ready
from molflowctl.properties.registry import Property
from molflowctl.properties.rewards import PropertyReward
from molflowctl.properties.rewards.nodes import Constant, Node
from molflowctl.properties.rewards.reward import NO_NUMBER
from molflowctl.tasks.scoring.settings import PreviewConfig
from molflowctl.viz.page import Shown
from molflowctl.viz.pictures import check_pictures
from molflowctl.viz.preview_page import write_preview

__all__ = ["Part", "Previewed", "best_and_worst", "describe", "parts_of", "preview", "remarks"]

SHOWN = 10  # best and worst molecules
_BARS = " ▁▂▃▄▅▆▇█"
_BINS = 8
_END = 1e-9  # of the range, within which a value is at its end


@dataclass(frozen=True)
class Part:
    """A part of a reward on the molecules.

    Attributes:
        text: as an expression.
        values: `(n,)`, NaN where it failed.
        low, high: between which it can lie, infinite where that is not known.
        correlation: Spearman's with the reward; NaN where either is the same for all.
    """

    text: str
    values: NDArray[np.float64]
    low: float
    high: float
    correlation: float

    @property
    def found(self) -> NDArray[np.float64]:
        """The values that are there."""
        return self.values[np.isfinite(self.values)]

    def share_at(self, end: float) -> float:
        """The share of values at an end; NaN for an end that is not known."""
        if not math.isfinite(end) or not len(self.found):
            return math.nan
        return float(np.mean(np.abs(self.found - end) <= _END * max(1.0, abs(end))))

    def bars(self) -> str:
        """A histogram in eight signs, from the smallest to the largest value."""
        if not len(self.found) or np.ptp(self.found) == 0:
            return ""
        counts, _ = np.histogram(self.found, _BINS)
        heights = np.ceil(counts / counts.max() * (len(_BARS) - 1)).astype(int)
        return "".join(_BARS[height] for height in heights)


@dataclass
class Previewed:
    """What was found.

    Attributes:
        reward: as it was read; parts: the whole first, then its parts.
        mols: the molecules; names: of them; invalid: attempts or records that gave none, by reason.
        seconds: by program, of one process for a molecule.
        failures: molecules without a part, by property and reason.
    """

    reward: PropertyReward
    parts: list[Part] = field(default_factory=list)
    mols: list[Mol] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    invalid: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)
    failures: dict[str, Counter[str]] = field(default_factory=dict)

    @property
    def order(self) -> list[int]:
        """Molecules that have a reward, the best first."""
        values = self.parts[0].values
        order = np.argsort(-values, kind="stable").tolist()
        return [k for k in order if np.isfinite(values[k])]

    def took(self, program: str, seconds: float, jobs: int) -> None:
        """Note the time that a program took for all the molecules."""
        n = len(self.mols)
        self.seconds[program] = seconds * min(jobs, n) / n

    def correlations(self) -> NDArray[np.float64]:
        """Spearman's, of every two parts, `(m, m)`."""
        every = [part.values for part in self.parts]
        return np.array([[_spearman(a, b) for b in every] for a in every])


def preview(config: PreviewConfig) -> Previewed:
    """Measure the reward of `config` on molecules of its source, and write the page.

    Raises:
        UserError: for a reward or a source that cannot be used, a page that exists, or a reward
            that no molecule has.
    """
    check_pictures(config.html, None, replace=config.overwrite)
    found = Previewed(PropertyReward(config.reward))
    with WorkerPool(config.jobs) as pool:
        _collect(config, found, pool)
        if not found.mols:
            raise UserError(f"{config.source} gave no molecule: {_told(found.invalid)}")
        values, errors = _measured(config, found, pool)
    found.failures = errors.failures()
    whole = found.reward.of(values)
    whole = np.broadcast_to(whole, len(found.mols))
    if count := sum(not row for row in errors.errors) - int(np.isfinite(whole).sum()):
        found.failures["reward"] = Counter({NO_NUMBER: count})
    if not np.isfinite(whole).any():
        reasons = "; ".join(f"{name}: {_told(why)}" for name, why in found.failures.items())
        raise UserError(f"no molecule has this reward: {reasons or 'it is no finite number'}")
    found.parts = parts_of(found.reward, values)
    if config.html is not None:
        _write_page(config, found)
    return found


def parts_of(reward: PropertyReward, columns: Mapping[str, NDArray[np.float64]]) -> list[Part]:
    """The reward and its parts on n molecules, from their properties, `(n,)` by column."""
    whole = reward.of(columns)
    parts = []
    for node in _nodes(reward.node):
        values = np.broadcast_to(node.of(columns), len(whole))
        low, high = node.bounds()
        parts.append(Part(_shown(str(node)), values, low, high, _spearman(values, whole)))
    return parts


def _shown(text: str) -> str:
    """An expression with whole numbers as people write them; what is in quotes stays."""
    pieces = re.split(r"""("[^"]*"|'[^']*')""", text)
    return "".join(
        piece if k % 2 else re.sub(r"(?<=\d)\.0\b", "", piece) for k, piece in enumerate(pieces)
    )


def _told(reasons: Counter[str]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common(3))


def _collect(config: PreviewConfig, found: Previewed, pool: WorkerPool) -> None:
    """Take molecules of a library at random, or draw them from a flow."""
    source = config.source
    if source.lower().removesuffix(".gz").endswith(READABLE) or Path(source).is_file():
        for name, mol in _sampled(config, found.invalid):
            found.names.append(name)
            found.mols.append(mol)
        return
    for index, binary, reason in _drawn(config, pool):
        if reason:
            found.invalid[reason] += 1
        else:
            found.names.append(f"attempt {index}")
            found.mols.append(Mol(binary))


def _sampled(config: PreviewConfig, invalid: Counter[str]) -> list[tuple[str, Mol]]:
    """`n` records of the library, each as likely as any other, in their order."""
    rng = random.Random(config.seed)
    kept: list[tuple[int, str, Mol]] = []
    for count, record in enumerate(read_molecules(config.source)):
        if record.mol is None:
            invalid[record.error] += 1
            continue
        if len(kept) < config.n:
            kept.append((count, record.name, record.mol))
        elif (place := rng.randrange(count + 1 - invalid.total())) < config.n:
            kept[place] = (count, record.name, record.mol)
    return [(name, mol) for _, name, mol in sorted(kept, key=lambda entry: entry[0])]


def _drawn(config: PreviewConfig, pool: WorkerPool) -> Iterator[tuple[int, bytes, str]]:
    """`n` attempts of the flow."""
    from molflowctl.models.generation import Sampling, draws
    from molflowctl.tasks.generate.flows import load_flow

    flow = load_flow(config.source, config.device)
    sampling = Sampling(nfe=config.nfe)
    yield from draws(flow, sampling, seed=config.seed, count=config.n, pool=pool, finish=_finish)


def _finish(drawn: object) -> tuple[int, bytes, str]:
    """What a worker sends back of an attempt."""
    result = drawn.result  # type: ignore[attr-defined]
    if isinstance(result, Failure):
        return drawn.index, b"", result.reason  # type: ignore[attr-defined]
    return drawn.index, result.mol.ToBinary(EXACT), ""  # type: ignore[attr-defined]


def _measured(
    config: PreviewConfig, found: Previewed, pool: WorkerPool
) -> tuple[dict[str, NDArray[np.float64]], Scores]:
    """The properties of the reward, program by program, each timed."""
    programs: dict[str, list[Property]] = {}
    for item in found.reward.items:
        programs.setdefault(item.engine, []).append(item)
    if any(item.geometry for item in found.reward.items):
        _add_conformers(config, found, pool)
    columns: dict[str, NDArray[np.float64]] = {}
    errors: list[dict[str, str]] = [{} for _ in found.mols]
    for engine, items in programs.items():
        score(found.mols[:1], items, timeout=config.timeout, pool=pool)  # the start is not timed
        began = time.perf_counter()
        scores = score(found.mols, items, timeout=config.timeout, pool=pool)
        found.took(engine, time.perf_counter() - began, config.jobs)
        columns |= scores.values
        for known, more in zip(errors, scores.errors, strict=True):
            known.update(more)
    if not columns:
        raise UserError(f"{found.reward} is a number, and the same for every molecule")
    return columns, Scores(columns, errors)


def _add_conformers(config: PreviewConfig, found: Previewed, pool: WorkerPool) -> None:
    """Give molecules without coordinates a conformer, of salts to the parent."""
    flat = [k for k, mol in enumerate(found.mols) if not mol.GetNumConformers()]
    began = time.perf_counter()
    outcomes = pool.map(
        _with_conformer, [found.mols[k].ToBinary(EXACT) for k in flat], timeout=config.timeout
    )
    for k, outcome in zip(flat, outcomes, strict=True):
        if isinstance(outcome.value, bytes):
            found.mols[k] = Mol(outcome.value)
    if flat:
        found.took("conformers", time.perf_counter() - began, config.jobs)


def _with_conformer(binary: bytes) -> bytes:
    made: bytes = ready(Mol(binary), "strip", "first").mol.ToBinary(EXACT)
    return made


def _nodes(root: Node) -> list[Node]:
    """The reward and its parts, each once, from the outside in; numbers are none."""
    found: dict[str, Node] = {}
    level: Sequence[Node] = [root]
    while level:
        for node in level:
            if not isinstance(node, Constant):
                found.setdefault(str(node), node)
        level = [part for node in level for part in node.parts]
    return list(found.values())


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 0, equal values at their mean rank."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    mean = np.cumsum(counts) - (counts + 1) / 2
    return mean[place]


def _spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Spearman's rank correlation over the molecules that have both."""
    both = np.isfinite(a) & np.isfinite(b)
    x, y = _ranks(a[both]), _ranks(b[both])
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return math.nan
    return float(np.corrcoef(x, y)[0, 1])


def _number(value: float, form: str) -> str:
    return "" if math.isnan(value) else f"{value:{form}}"


def describe(found: Previewed) -> list[tuple[str, ...]]:
    """The table of parts, headings first; the first row is the reward."""
    rows: list[tuple[str, ...]] = [
        ("part", "failed", "mean", "sd", "min", "max", "at top", "at floor", "rank r", "values")
    ]
    for part in found.parts:
        y = part.found
        figures = (y.mean(), y.std(), y.min(), y.max()) if len(y) else (math.nan,) * 4
        rows.append(
            (
                part.text, f"{len(part.values) - len(y):,}",
                *(_number(float(figure), ".4g") for figure in figures),
                _number(part.share_at(part.high), ".0%"), _number(part.share_at(part.low), ".0%"),
                _number(part.correlation, ".2f"), part.bars(),
            )
        )  # fmt: skip
    return rows


def best_and_worst(found: Previewed) -> list[str]:
    """The ten best and the ten worst molecules, a line each."""
    values, order = found.parts[0].values, found.order
    few = min(SHOWN, len(order))
    lines = []
    for title, places in (("best", order[:few]), ("worst", order[::-1][:few])):
        lines.append(f"the {few} {title}")
        lines += [f"  {values[k]:10.4g}  {_smiles(found.mols[k])}" for k in places]
    return lines


def _smiles(mol: Mol) -> str:
    """With stereo, without hydrogens."""
    return str(Chem.MolToSmiles(Chem.RemoveHs(mol)))


def remarks(found: Previewed) -> list[str]:
    """What is to be said beside the table: time, ends, failures, parts that go together."""
    lines = [
        f"{name}: {seconds:.3g} s for a molecule, {seconds * 1000 / 60:.3g} min for 1,000 on one "
        "process"
        for name, seconds in found.seconds.items()
    ]
    whole = found.parts[0]
    for end, word in ((whole.high, "the highest"), (whole.low, "the lowest")):
        if (share := whole.share_at(end)) >= 0.5:
            lines.append(f"{share:.0%} have {word} reward there is: little is left to steer by")
    if np.ptp(whole.found) == 0:
        lines.append("all molecules have the same reward: there is nothing to steer by")
    lines += [
        f"{count:,} x {name}: {reason}"
        for name, reasons in found.failures.items()
        for reason, count in reasons.most_common()
    ]
    if found.invalid:
        lines.append(f"left out: {_told(found.invalid)}")
    return lines


def _write_page(config: PreviewConfig, found: Previewed) -> None:
    values = found.parts[0].values
    few = min(SHOWN, len(found.order))

    def shown(places: Sequence[int]) -> list[Shown]:
        return [
            Shown(Chem.RemoveHs(found.mols[k]), f"{values[k]:.4g}", found.names[k]) for k in places
        ]

    assert config.html is not None
    write_preview(
        config.html,
        title=f"{found.reward.text} on {len(found.mols):,} molecules of {config.source}",
        table=describe(found),
        histograms=[part.found for part in found.parts],
        correlations=found.correlations(),
        remarks=remarks(found),
        best=shown(found.order[:few]),
        worst=shown(found.order[::-1][:few]),
    )
