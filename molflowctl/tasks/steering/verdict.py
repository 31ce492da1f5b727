"""Whether a steered flow came as near to its target as was asked for, and how varied it is."""

from __future__ import annotations

import math

from molflowctl.tasks.steering.scored_molecules import ScoredMolecules

__all__ = [
    "verdict",
]


_REACHED = -2.0  # standard errors that the result may miss the exact target by


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
