"""Train a surrogate of a property on a scored library; `molflowctl surrogate`.

Molecules are split by the skeleton of their InChIKey, so that stereoisomers, tautomers of one
skeleton and conformers stay together: 80 % train the network, 10 % calibrate its intervals, and
10 % are touched once, for the figures of the card. Records of one InChIKey count as one molecule
with their mean value: the network sees the graph alone. It takes 10 kB of memory a molecule.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem

from molflowctl.chem.graphs import EXACT, inchikey
from molflowctl.chem.identity import identity
from molflowctl.compute.parallel import WorkerPool
from molflowctl.errors import UserError
from molflowctl.io.atomic import check_free, replacing_folder
from molflowctl.io.expressions import number_of
from molflowctl.io.library import Record, read_molecules
from molflowctl.io.locks import one_writer
from molflowctl.io.record import read_record, versions
from molflowctl.models.surrogate import predict, train
from molflowctl.properties import PropertyError, get
from molflowctl.properties.surrogate import (
    KIND,
    LEVELS,
    NEIGHBOURS,
    Counts,
    Surrogate,
    conformal_multiplier,
    descriptor_names,
    features,
    network_inputs,
)
from molflowctl.tasks.failures import Failures
from molflowctl.tasks.training.settings import SurrogateConfig

__all__ = ["LEAST", "SurrogateTable", "describe", "fit_surrogate", "row_of", "train_surrogate"]

LEAST = 200  # molecules; a tenth of them calibrates, and a tenth tests
_REFERENCE = 10_000  # training molecules that distances are taken to
_JUDGED = 2_000  # training molecules whose distances set the threshold
_TYPICAL = 0.99  # of them are near
LOOKED_AT = 1000  # records for the names of columns

Array = NDArray[np.float64]


Key = tuple[str, str]  # InChIKey and identity of a molecule
Inputs = tuple[NDArray[np.uint8], Array]  # counts and descriptors of it


@dataclass
class SurrogateTable:
    """What a surrogate learns from, one molecule a row.

    Attributes:
        counts, descriptors: see `molflowctl.properties.surrogate.features`.
        values: (n,) of the property.
        parts: train, calibrate or test.
        skipped: records that are not in it, by what they lacked.
    """

    counts: NDArray[np.uint8]
    descriptors: Array
    values: Array
    parts: NDArray[np.str_]
    skipped: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, rows: Mapping[Key, Inputs], values: Mapping[Key, list[float]], seed: int) -> Self:
        """Of molecules with what was measured of each, once or several times."""
        keys = sorted(rows)
        return cls(
            np.array([rows[key][0] for key in keys]),
            np.array([rows[key][1] for key in keys]),
            np.array([np.mean(values[key]) for key in keys]),
            np.array([_part(key, seed) for key, _ in keys]),
        )


@one_writer(lambda config, *_, **__: config.out, folder=True)
def train_surrogate(
    config: SurrogateConfig,
    progress: Callable[[str, int, int], object] = lambda *_: None,
    failed: Callable[[Failures], object] = lambda _: None,
) -> Surrogate:
    """Train, calibrate, test and save; the card states how well it did.

    Args:
        progress: called with what is going on, the steps done and their number (0: unknown).
        failed: called at the end with the records that were not learned from.

    Raises:
        UserError: the library lacks the column or has too few molecules, a file trouble.
    """
    check_free(config.out, overwrite=config.overwrite)
    there = config.out.exists()
    if there and (read_record(config.out / "card.json") or {}).get("kind") != KIND:
        raise UserError(f"{config.out} is no surrogate, so it is not overwritten.")
    with Failures(config.out) as failures:
        surrogate = _trained(config, progress, failures)
        with replacing_folder(config.out) as folder:
            surrogate.save(folder)
    failed(failures)
    return surrogate


def _trained(
    config: SurrogateConfig, progress: Callable[[str, int, int], object], failures: Failures
) -> Surrogate:
    column, unit = _column(config)
    table = _read(config, column, progress, failures)
    surrogate = fit_surrogate(
        table, column, unit, str(config.library), members=config.members, width=config.width,
        epochs=config.epochs, dropout=config.dropout, seed=config.seed,
        progress=lambda done, total: progress("training", done, total),
    )  # fmt: skip
    surrogate.card["config"] = config.model_dump(mode="json")
    surrogate.card["digest"] = surrogate.digest
    return surrogate


def fit_surrogate(
    table: SurrogateTable,
    column: str,
    unit: str,
    source: str,
    *,
    members: int = 4,
    width: int = 256,
    epochs: int = 25,
    dropout: float = 0.3,
    seed: int = 0,
    progress: Callable[[int, int], object] = lambda *_: None,
) -> Surrogate:
    """Train, calibrate and test; the card states how well it did.

    Args:
        column, unit: of the property.
        source: of the molecules: a file, or in words.
        members, width, epochs, dropout, seed: see `molflowctl.models.surrogate.train`; the seed is
            that of the split, too.
        progress: called with the passes done and their number.

    Raises:
        UserError: too few molecules, all of one value, or too unlike each other.
    """
    training, held_out, test = (table.parts == part for part in ("train", "calibrate", "test"))
    if len(table.values) < LEAST or held_out.sum() < LEAST // 20 or test.sum() < LEAST // 20:
        raise UserError(
            f"{source} has {len(table.values)} molecules with a value of {column}: "
            f"{LEAST} is the least that can be learned from."
        )
    values = table.values
    if np.ptp(values[training]) == 0:
        raise UserError(f"{column} is {values[0]:g} for every molecule: there is nothing to learn.")

    centre = table.descriptors[training].mean(0)
    spread = table.descriptors[training].std(0)
    scale = np.where(spread > 0, spread, 1.0)
    x = network_inputs(table.counts, table.descriptors, centre, scale)
    weights = train(
        x[training], values[training], members=members, width=width, epochs=epochs,
        dropout=dropout, seed=seed, progress=progress,
    )  # fmt: skip

    rng = np.random.default_rng(seed)
    chosen = rng.permutation(np.nonzero(training)[0])[:_REFERENCE]
    near = Counts.of(table.counts[chosen])
    own = [near.distance(table.counts[row], skip=i) for i, row in enumerate(chosen[:_JUDGED])]
    threshold = float(np.quantile(own, _TYPICAL))
    means, deviations = np.full((2, len(values)), np.nan)
    inside = np.zeros(len(values), dtype=bool)
    rest = np.nonzero(~training)[0]
    means[rest], deviations[rest] = predict(weights, x[rest])
    inside[rest] = [near.distance(table.counts[row]) <= threshold for row in rest]

    judged = held_out & inside
    if judged.sum() < 2 or (test & inside).sum() < 2:
        raise UserError(f"the molecules of {source} are too unlike each other to learn from.")
    ratios = np.abs(values - means)[judged] / deviations[judged]
    conformal = {str(level): conformal_multiplier(ratios, level) for level in LEVELS}
    card = {
        "kind": KIND,
        "property": column,
        "unit": unit,
        "library": Path(source).name,
        "molecules": {
            "train": int(training.sum()),
            "calibrate": int(held_out.sum()),
            "test": int(test.sum()),
            "skipped": dict(table.skipped.most_common()),
        },
        "test": _figures(values, means, deviations, conformal, test, inside, training),
        "conformal": conformal,
        "threshold": threshold,
        "neighbours": NEIGHBOURS,
        "descriptors": descriptor_names(),
        "versions": versions(),
    }
    arrays = {
        **weights,
        "centre": centre,
        "scale": scale,
        "starts": near.starts,
        "bits": near.bits,
        "values": near.values,
    }
    return Surrogate(card, arrays)


def _column(config: SurrogateConfig) -> tuple[str, str]:
    """Name of the column and its unit; any column of numbers will do, registered or not."""
    name = config.property
    try:
        item = get(name)
    except UserError:
        return name, ""
    if name in item.columns:
        return name, item.unit
    # A column of that very name comes before the property that goes by it.
    if any(name in record.tags for record in islice(_entries(config), LOOKED_AT)):
        return name, ""
    return item.columns[0], item.unit


def _entries(config: SurrogateConfig) -> Iterator[Record]:
    return read_molecules(config.library, smiles_column=config.smiles_column)


def _read(
    config: SurrogateConfig,
    column: str,
    progress: Callable[[str, int, int], object],
    failures: Failures,
) -> SurrogateTable:
    skipped: Counter[str] = Counter()
    seen: set[str] = set()  # columns, for the message
    under_way: deque[tuple[Record, float]] = deque()
    given = 0

    def skip(record: Record, what: str, reason: str = "") -> None:
        skipped[what] += 1
        failures.add(record, reason or what)

    def binaries() -> Iterator[bytes]:
        nonlocal given
        for record in _entries(config):
            if record.mol is None:
                skip(record, "unreadable", record.error)
                continue
            seen.update(record.tags)
            value = number_of(record.tags.get(column))
            if not math.isfinite(value):
                skip(record, f"no {column}")
                continue
            given += 1
            under_way.append((record._replace(mol=None, tags={}, block=""), value))
            yield record.mol.ToBinary(EXACT)

    rows: dict[Key, Inputs] = {}
    values: dict[Key, list[float]] = {}
    with WorkerPool(config.jobs) as pool:
        for index, outcome in enumerate(pool.map(row_of, binaries(), chunk=64)):
            record, value = under_way.popleft()
            if isinstance(outcome.value, tuple):
                key, counts, descriptors = outcome.value
                rows[key] = counts, descriptors
                values.setdefault(key, []).append(value)
            else:
                skip(record, outcome.value or outcome.error or "failed")
            progress("reading", index + 1, 0)
    if not given:
        columns = ", ".join(sorted(seen)) or "none"
        raise UserError(f"{config.library} has no numbers in a column {column}; it has: {columns}.")
    table = SurrogateTable.of(rows, values, config.seed)
    table.skipped = skipped
    return table


def row_of(binary: bytes) -> tuple[Key, NDArray[np.uint8], Array] | str:
    """A molecule's InChIKey and identity, and what the network sees of it; or why it is left out.

    Records of one identity are one molecule. The key groups tautomers, so that no molecule is held
    out whose tautomer is trained on.
    """
    mol = Chem.Mol(binary)
    if mol.GetNumHeavyAtoms() == 0:
        return "no heavy atoms"
    try:
        name = identity(mol)
        return ((inchikey(mol) or name, name), *features(mol))
    except PropertyError as error:
        return str(error)


def _part(key: str, seed: int) -> str:
    """Decided by the skeleton alone, so the same molecules are held out of every library."""
    skeleton = key[:14] if len(key) == 27 else key
    digest = hashlib.blake2b(f"{seed} {skeleton}".encode(), digest_size=8).digest()
    share = int.from_bytes(digest, "little") / 2**64
    return "train" if share < 0.8 else "calibrate" if share < 0.9 else "test"


def _figures(
    values: Array,
    means: Array,
    deviations: Array,
    conformal: dict[str, float],
    test: NDArray[np.bool_],
    inside: NDArray[np.bool_],
    training: NDArray[np.bool_],
) -> dict[str, Any]:
    """Of the test molecules that are not refused."""
    judged = test & inside
    y, errors = values[judged], np.abs(values - means)[judged]
    return {
        "n": int(judged.sum()),
        "refused": int((test & ~inside).sum()),
        "mae": float(errors.mean()),
        "rmse": float(np.sqrt((errors**2).mean())),
        "r2": float(1 - (errors**2).sum() / ((y - y.mean()) ** 2).sum()),
        "mae_of_the_mean": float(np.abs(y - values[training].mean()).mean()),
        "coverage": {
            level: float((errors <= factor * deviations[judged]).mean())
            for level, factor in conformal.items()
        },
        "half_width": {
            level: float((factor * deviations[judged]).mean())
            for level, factor in conformal.items()
        },
    }


def describe(surrogate: Surrogate) -> list[tuple[str, str]]:
    """What to tell the user: a label and a text each."""
    card, test = surrogate.card, surrogate.card["test"]
    molecules, unit = card["molecules"], f" {card['unit']}".rstrip()
    lines = [
        ("molecules", f"{molecules['train']:,} to train on, {molecules['calibrate']:,} to "
                      f"calibrate, {molecules['test']:,} to test"),
        ("test MAE", f"{test['mae']:.4g}{unit} (always the mean: {test['mae_of_the_mean']:.4g})"),
        ("test RMSE, R^2", f"{test['rmse']:.4g}{unit}, {test['r2']:.3f}"),
    ]  # fmt: skip
    for level in map(str, LEVELS):
        lines.append(
            (f"{float(level):.0%} interval", f"holds {test['coverage'][level]:.1%} of {test['n']:,}"
             f", +- {test['half_width'][level]:.4g}{unit} on average")
        )  # fmt: skip
    refused = f"{test['refused']:,} of {test['n'] + test['refused']:,} test molecules"
    lines.append(("refused", f"{refused}, farther than {card['threshold']:.2f} from the training"))
    for reason, count in molecules["skipped"].items():
        lines.append(("skipped", f"{count:,} x {reason}"))
    return lines
