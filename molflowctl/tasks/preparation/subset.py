"""The molecules of a data set whose property lies in a range; `molflowctl data subset`.

Every molecule of the training split (or `limit` of them, at random) is completed with hydrogens at
the data set's geometry, as a generated one would be, and scored by the registered property in
worker processes. Values come from and go to the cache of `molflowctl score`, so an interrupted run
goes on where it was. What is kept is split anew, nine to train on for each that validates; none is
from the source's validation or test split.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from rdkit.Chem import Mol

from molflowctl import properties
from molflowctl.chem.graphs import EXACT, Failure, Graph3D, assemble
from molflowctl.compute.parallel import WorkerPool
from molflowctl.data.datasets import MoleculeDataset, split_by_molecule
from molflowctl.errors import UserError
from molflowctl.io.atomic import check_free
from molflowctl.io.config import Config
from molflowctl.io.expressions import number_of
from molflowctl.io.locks import one_writer
from molflowctl.properties.cache import Cache
from molflowctl.properties.evaluate import block_size, score_each
from molflowctl.tasks.preparation.own_library import FEWEST, VALIDATION
from molflowctl.tasks.shared_settings import Jobs, Limit, Overwrite, Seed

__all__ = ["Rule", "SubsetConfig", "complete_graph", "describe", "subset"]

_PROVENANCE = ("source", "doi", "citation", "licence", "hydrogens", "position_unit")


@dataclass(frozen=True)
class Rule:
    """A property of one value and the range it has to lie in, ends included; None for an open end.

    Raises:
        UserError: an unknown property or one with several values; no end, or no value between them.
    """

    property: str
    low: float | None
    high: float | None

    def __post_init__(self) -> None:
        if len(properties.get(self.property).columns) > 1:
            raise UserError(f"{self.property} has several values: choose a property with one.")
        if self.low is None and self.high is None:
            raise UserError("a range needs a lower or an upper end: 4: or :3 or 4:8.")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise UserError(f"no value is in the range {self.low:g}:{self.high:g}.")

    @staticmethod
    def parse(name: str, text: str) -> Rule:
        """From the name of a property and a range: `4:8`, or with an open end `4:` or `:8`.

        Raises:
            UserError: no such range, or as above.
        """
        low, colon, high = text.partition(":")
        ends = [number_of(end) if end.strip() else None for end in (low, high)]
        if not colon or any(e is not None and not math.isfinite(e) for e in ends):
            raise UserError(f"{text!r} is no range: write 4:8, or with an open end 4: or :8.")
        return Rule(name, *ends)

    def __str__(self) -> str:
        """As a formula: `4 <= dipole_debye <= 8`."""
        if self.low is None:
            return f"{self.property} <= {self.high:g}"
        upper = "" if self.high is None else f" <= {self.high:g}"
        return f"{self.low:g} <= {self.property}{upper}"

    def keeps(self, values: np.ndarray | float) -> np.ndarray:
        """Which values lie in the range, as many bools; NaN does not."""
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        return (np.asarray(values) >= low) & (np.asarray(values) <= high)


class SubsetConfig(Config, command="data subset"):
    """What `molflowctl data subset` does."""

    data: Path = Field(description="a prepared data set")
    out: Path = Field(description="folder of the new data set")
    rule: Rule = Field(description="a property and the range to keep")
    limit: Limit = Field(
        default=None, description="to score, drawn at random; null for all [molecules]"
    )
    timeout: float | None = Field(
        default=30.0,
        gt=0,
        allow_inf_nan=False,
        description="per molecule; null for no limit [seconds]",
    )
    cache: str | None = Field(default=None, description="a file; null for the default one")
    seed: Seed = Field(default=0, description="of the draw and the split [number]")
    jobs: Jobs = 1
    overwrite: Overwrite = False


@one_writer(lambda config, *_, **__: config.out, folder=True)
def subset(
    config: SubsetConfig, progress: Callable[[int, int], object] = lambda done, total: None
) -> MoleculeDataset:
    """Write the molecules of `config.data` within the range to `config.out`, and return them.

    Args:
        progress: called with the molecules scored so far, and of how many.

    Raises:
        UserError: no data set, an output that exists, or fewer than 32 molecules in the range.
    """
    rule = config.rule
    item = properties.get(rule.property)
    check_free(config.out, overwrite=config.overwrite)
    data = MoleculeDataset.load(config.data)
    rows = data.indices("train").numpy()
    if config.limit is not None and config.limit < len(rows):
        rng = np.random.default_rng(config.seed)
        rows = np.sort(rng.choice(rows, config.limit, replace=False))

    values = np.full(len(rows), math.nan)
    failed: Counter[str] = Counter()
    cache = Cache(config.cache)
    try:
        with WorkerPool(config.jobs) as pool:
            reasons: list[str] = []
            mols = _completed(data, rows.tolist(), item.geometry, pool, config.timeout, reasons)
            for k, row in enumerate(score_each(mols, [item], pool, config.timeout, cache)):
                values[k] = row.values[item.columns[0]]
                if reason := reasons[k] or row.errors.get(item.name):
                    failed[reason] += 1
                progress(k + 1, len(rows))
    finally:
        cache.close()

    kept = rows[rule.keeps(values)]
    result = data.select(torch.from_numpy(kept))
    if len(kept) < FEWEST or len(set(result.smiles)) < 2:
        raise UserError(
            f"only {len(kept)} of {len(rows):,} molecules have {rule}, too few to train on "
            f"(at least {FEWEST}): {_spread(values)}. Widen the range, or raise --limit."
        )
    result.split = split_by_molecule(result.smiles, VALIDATION, config.seed)
    found = values[np.isfinite(values)]
    result.card = {key: data.card[key] for key in _PROVENANCE if key in data.card} | {
        "name": config.out.resolve().name,
        "title": f"molecules of {data.card.get('name', config.data.name)} with {rule}",
        "parent": {key: data.card.get(key) for key in ("name", "molecules", "sha256")},
        "rule": str(rule),
        "property": {"name": item.name, "unit": item.unit, "version": item.version},
        "scored": len(rows),
        "kept": len(kept),
        "failed": dict(failed.most_common()),
        "mean": {"scored": float(found.mean()), "kept": float(values[np.isin(rows, kept)].mean())},
        "limit": config.limit,
        "seed": config.seed,
    }
    result.save(config.out, overwrite=config.overwrite)
    return result


def describe(card: dict[str, Any]) -> list[tuple[str, str]]:
    """What was kept and what failed, for a table."""
    return [
        ("rule", card["rule"]),
        ("scored", f"{card['scored']:,}, mean {card['mean']['scored']:.4g}"),
        ("kept", f"{card['kept']:,}, mean {card['mean']['kept']:.4g}"),
        *((f"failed: {reason}", f"{count:,}") for reason, count in card["failed"].items()),
    ]


def _completed(
    data: MoleculeDataset,
    rows: list[int],
    geometry: bool,
    pool: WorkerPool,
    timeout: float | None,
    reasons: list[str],
) -> Iterator[Mol | None]:
    """Molecules with hydrogens, a block at a time; why there is none, or "", goes to `reasons`.

    Hydrogens that are added are relaxed where the property looks at the geometry, or where they
    clash: for a property of the graph most of the time went there.
    """
    complete = partial(complete_graph, data.card.get("hydrogens") == "explicit", geometry)
    size = block_size(pool)
    for start in range(0, len(rows), size):
        graphs = [data.graph(row) for row in rows[start : start + size]]
        # To its end before the first is used: the scoring needs the same workers.
        for outcome in list(pool.map(complete, graphs, timeout=timeout)):
            binary = outcome.value if isinstance(outcome.value, bytes) else None
            reasons.append("" if binary else str(outcome.value or outcome.error))
            yield Mol(binary) if binary else None


def complete_graph(explicit: bool, geometry: bool, graph: Graph3D) -> bytes | str:
    """A molecule with its hydrogens, pickled by RDKit, or why there is none.

    Args:
        explicit: whether the graph holds them already.
        geometry: whether where they are matters, so that they are relaxed.
    """
    found = assemble(graph, "none", explicit) if explicit or not geometry else None
    if found is None or (isinstance(found, Failure) and not explicit):
        found = assemble(graph, "hydrogens", explicit)
    return found.reason if isinstance(found, Failure) else found.mol.ToBinary(EXACT)


def _spread(values: np.ndarray) -> str:
    found = values[np.isfinite(values)]
    if not len(found):
        return "the property failed for all of them"
    low, high = np.quantile(found, [0.05, 0.95])
    return f"nine in ten of them lie between {low:.4g} and {high:.4g}"
