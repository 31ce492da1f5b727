"""Molecules of a flow with what an oracle said of them: figures, a verdict, arrays to be kept.

The arrays hold a molecule as its graph, and its values to the last bit: 250 bytes of nine atoms,
750 of twenty-five, where the state that a flow moves takes eight times as much.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from molflowctl.chem.graphs import Graph3D

__all__ = ["ScoredMolecules", "cut", "joined", "unique_ratio", "verdict"]

_GONE = -1  # number of atoms of a molecule that has no graph
_OF = "property "  # before the name of a column
_REACHED = -2.0  # standard errors that the result may miss the exact target by


@dataclass(frozen=True)
class ScoredMolecules:
    """Fresh molecules of a flow with the oracle's values, NaN where it or the molecule failed."""

    graphs: list[Graph3D | None]  # None where a worker process died
    smiles: list[str]  # "" for the invalid
    values: np.ndarray  # (n,) in the unit of what the oracle measures
    features: np.ndarray  # (n, m), NaN alike, of what else was asked about them
    # (n,) each, NaN alike, of the properties that the oracle's values are made of, by column
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)

    noun: ClassVar[str] = "molecules"

    def __len__(self) -> int:
        return len(self.smiles)

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
    def unmeasured(self) -> int:
        """Valid molecules that lack a feature."""
        valid = np.array([bool(s) for s in self.smiles])
        return int((valid & ~np.isfinite(self.features).all(1)).sum())

    @property
    def found(self) -> np.ndarray:
        """The values that are not NaN."""
        return self.values[np.isfinite(self.values)]

    @property
    def mean(self) -> float:
        return float(self.found.mean()) if len(self.found) else math.nan

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        n = len(self.found)
        return float(self.found.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the mean, `mean +- 1.96 error`."""
        return self.mean - 1.96 * self.error, self.mean + 1.96 * self.error

    def best(self, n: int, *, smallest: bool = False) -> list[int]:
        """Places of the `n` best different molecules, the largest value first, or the smallest."""
        order = np.argsort(self.values if smallest else -self.values, kind="stable").tolist()
        first = {self.smiles[k]: k for k in reversed(order) if math.isfinite(self.values[k])}
        return [k for k in order if first.get(self.smiles[k]) == k][:n]

    def summary(self, scored: bool = True) -> dict[str, float]:
        """The figures, for a record; those of values only where an oracle was asked."""
        found = {"n": len(self.values), "valid": self.valid, "unique": self.unique}
        if scored:
            found |= {"mean": self.mean, "error": self.error, "unscored": self.unscored}
        return found

    def arrays(self) -> dict[str, np.ndarray]:
        """All that there is to know, one molecule after another; see `of_arrays`."""
        there = [graph for graph in self.graphs if graph is not None]
        rows = [np.triu_indices(len(graph.numbers), 1) for graph in there]
        return {
            "atoms": np.array(
                [_GONE if g is None else len(g.numbers) for g in self.graphs], np.int32
            ),
            "numbers": joined([g.numbers for g in there], np.int16),
            "charges": joined([g.charges for g in there], np.int16),
            "bonds": joined([g.bonds[row] for g, row in zip(there, rows, strict=True)], np.int8),
            "positions": joined([g.positions.ravel() for g in there]),
            "smiles": np.frombuffer("\n".join(self.smiles).encode(), np.uint8),
            "values": np.asarray(self.values, np.float64),
            "features": np.asarray(self.features, np.float64),
            **{_OF + name: np.asarray(column) for name, column in self.columns.items()},
        }

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> ScoredMolecules:
        """The same sample again: its graphs, SMILES and values are equal bit by bit.

        Raises:
            ValueError: if the arrays do not fit together.
            KeyError: if one is missing.
        """
        atoms = arrays["atoms"].tolist()
        smiles = arrays["smiles"].tobytes().decode().split("\n")
        values, features = arrays["values"], arrays["features"]
        columns = {k.removeprefix(_OF): v for k, v in arrays.items() if k.startswith(_OF)}
        told = [atoms, smiles, values, features, *columns.values()]
        if len({len(column) for column in told}) != 1 or features.ndim != 2:
            raise ValueError("arrays of unlike lengths")
        counts = [max(n, 0) for n in atoms]
        numbers, charges = (cut(arrays[name], counts) for name in ("numbers", "charges"))
        pairs = cut(arrays["bonds"], [n * (n - 1) // 2 for n in counts])
        positions = cut(arrays["positions"], [3 * n for n in counts])
        graphs: list[Graph3D | None] = []
        for row, n in enumerate(atoms):
            if n == _GONE:
                graphs.append(None)
                continue
            bonds = np.zeros((n, n), np.int8)
            bonds[np.triu_indices(n, 1)] = pairs[row]
            placed = positions[row].reshape(n, 3)
            graphs.append(
                Graph3D(numbers[row].astype(int), charges[row].astype(int), bonds + bonds.T, placed)
            )
        return cls(graphs, smiles, values, features, columns)


def verdict(
    prior: ScoredMolecules, target: tuple[float, float], result: ScoredMolecules, sign: float
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
    return {
        "way": (result.mean - prior.mean) / (target[0] - prior.mean),
        "z": gap / spread if spread else math.nan,
        "reached": gap >= _REACHED * spread,
        "outside": lower > high or upper < low,
        "valid_ratio": result.valid / prior.valid,
        "unique_ratio": unique_ratio(prior, result),
    }


def unique_ratio(prior: ScoredMolecules, result: ScoredMolecules) -> float:
    """Distinct molecules of the result over the prior's, among as many valid ones, the first."""
    named = [[s for s in sample.smiles if s] for sample in (prior, result)]
    n = min(map(len, named))
    first, last = (len(set(smiles[:n])) for smiles in named)
    return last / first if n else math.nan


def joined(parts: list[np.ndarray], dtype: type | None = None) -> np.ndarray:
    """Arrays one after another; refuses a type that cannot hold them."""
    whole = np.concatenate(parts) if parts else np.empty(0, dtype or np.float32)
    kept = whole if dtype is None else whole.astype(dtype)
    if not np.array_equal(kept, whole, equal_nan=dtype is None):
        raise ValueError(f"numbers beyond {np.dtype(dtype)}")
    return kept


def cut(whole: np.ndarray, counts: list[int]) -> list[np.ndarray]:
    """The parts of `joined`."""
    if whole.ndim != 1 or len(whole) != sum(counts):
        raise ValueError("arrays of unlike lengths")
    return np.split(whole, np.cumsum(counts)[:-1]) if counts else []
