"""Estimates with bootstrap intervals.

The percentile bootstrap: the statistic of 1,000 resamples of the molecules, drawn with replacement;
the interval holds the middle 95 % of them. Where every value is equal, as with 100 % valid, it has
no width.

References:
    Efron, Bootstrap methods: another look at the jackknife, Ann. Statist. 7, 1 (1979).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from molflowctl.control.objectives.objective import Functional
from molflowctl.control.population import Population

__all__ = ["Estimate", "bootstrap", "standard_error"]

RESAMPLES = 1000
FEWER = 200  # resamples know a standard error to 5 %
_LEVELS = (2.5, 97.5)


@dataclass(frozen=True)
class Estimate:
    """A statistic of `n` values and its 95 % interval; NaN where there are no values."""

    value: float
    low: float
    high: float
    n: int


def bootstrap(
    values: np.ndarray,
    statistic: Literal["mean", "median"] | Callable[[np.ndarray], float] = "mean",
    weights: np.ndarray | None = None,
    seed: int = 0,
) -> Estimate:
    """Estimate a mean, rate (the mean of booleans), median, or any statistic of the values.

    Arguments:
        values: `(n,)`, one per molecule; NaN (failed) is left out.
        weights: `(n,)` for a ratio of sums `sum(w v) / sum(w)`, such as the share of stable atoms,
        where
            molecules and not atoms are resampled. Only for the mean.
    """
    values = np.asarray(values, float)
    kept = np.isfinite(values)
    values = values[kept]
    weights = np.ones(len(values)) if weights is None else np.asarray(weights, float)[kept]
    n = len(values)
    if n == 0 or weights.sum() == 0:
        return Estimate(math.nan, math.nan, math.nan, n)
    rng = np.random.default_rng(seed)

    def of(rows: np.ndarray) -> float:
        if callable(statistic):
            return float(statistic(values[rows]))
        if statistic == "median":
            return float(np.median(values[rows]))
        return float(np.average(values[rows], weights=weights[rows]))

    resampled = [of(rng.integers(0, n, n)) for _ in range(RESAMPLES)]
    low, high = np.percentile(resampled, _LEVELS)
    return Estimate(of(np.arange(n)), float(low), float(high), n)


def standard_error(functional: Functional, points: Population, seed: int = 0) -> float:
    """Of a functional, in its own unit: its spread over resamples of the weighted points.

    Arguments:
        points: `(N, ...)` with their weights; a point that comes twice counts twice as much.
    """
    generator, n = torch.Generator().manual_seed(seed), len(points)
    values = []
    for _ in range(FEWER):
        counts = torch.randint(n, (n,), generator=generator).bincount(minlength=n)
        again = points.weighted(points.shares * counts, points.density)
        values.append(functional.value(again))
    return float(np.std(values, ddof=1))
