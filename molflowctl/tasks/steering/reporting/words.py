"""What a steering reached, in plain words."""

from __future__ import annotations

import math

from molflowctl.tasks.steering.scored_molecules import ScoredMolecules

__all__ = ["as_written", "in_words", "validity_in_words", "way_in_words"]

KEPT = 0.97  # of the prior's validity, from which on it counts as kept
_SHORT = 48  # letters of a reward that are written out


def as_written(oracle: object) -> str:
    """A reward in the words in which it was asked for, where they are known."""
    return " ".join(str(getattr(oracle, "text", "") or oracle).split())


def in_words(
    name: str, prior: ScoredMolecules, result: ScoredMolecules, target: float, *, exact: bool = True
) -> str:
    """`qed 0.785 -> 0.838 of a possible 0.894; validity kept (93 -> 97 %)`.

    Arguments:
        name: of the reward.
        target: mean of the exact target.
        exact: whether the mean itself was asked for, so that more than the target's is not to be
            had at this divergence; where the result went beyond it, it went further than asked for.
    """
    error = max(e for e in (prior.error, result.error, 0.0) if not math.isnan(e))
    shown = name if len(name) <= _SHORT else "reward"
    before, after, goal = (decimals_for(v, error) for v in (prior.mean, result.mean, target))
    beyond = (result.mean - target) * (target - prior.mean) > 0
    of = f"of a possible {goal}" if exact and not beyond else f"({goal} at the exact target)"
    return f"{shown} {before} -> {after} {of}; {validity_in_words(prior.valid, result.valid)}"


def way_in_words(outcome: dict[str, float | bool]) -> str:
    """How far the steering came, in figures."""
    unclear = "" if outcome["outside"] else "; the change is within the prior's 95 % interval"
    return (
        f"{'reached' if outcome['reached'] else 'stopped at'} {100 * outcome['way']:.0f} % of "
        f"the way to the exact target, {abs(outcome['z']):.1f} standard errors from it; "
        f"validity is {outcome['valid_ratio']:.2f} and uniqueness "
        f"{outcome['unique_ratio']:.2f} of the prior's{unclear}"
    )


def validity_in_words(before: float, after: float) -> str:
    """`validity kept (95 -> 95 %)`."""
    kept = "kept" if after >= KEPT * before else "fell"
    return f"validity {kept} ({100 * before:.0f} -> {100 * after:.0f} %)"


def decimals_for(value: float, error: float) -> str:
    """A figure to the first digit of its standard error."""
    if not math.isfinite(value):
        return "unknown"
    if not error > 0:
        return f"{value:.4g}"
    return f"{value:.{min(max(0, -math.floor(math.log10(error))), 6)}f}"
