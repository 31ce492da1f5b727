r"""Several mirror steps planned on one bank of points, before a solver is asked for any.

A bank of points of `p_k` knows more than the direction at `p_k`: with weights `exp(R - R_k)` it
stands for the tilts around it, so that mirror steps can be taken on it, each checked by the
objective itself. Thresholds, matrices and critics then belong to the density that the tilt leads
to, not to the one it leaves. A plan ends where too few points keep a weight.

References:
    De Santi et al., Flow Density Control, 2025, arXiv 2511.22640, algorithm 1 (one step).
    Owen, Monte Carlo theory, methods and examples, 2013, chapter 9 (effective sample size).
"""

from __future__ import annotations

from molflowctl.control.objectives.density import Tilted
from molflowctl.control.objectives.objective import Functional
from molflowctl.control.objectives.reward import Combination, Reward
from molflowctl.control.population import Population
from molflowctl.control.solvers.weighted import effective_share

__all__ = ["planned"]

HALVINGS = 20
TOLERANCE = 1e-5  # gain of a planned step over the objective, where a plan ends
NEGLIGIBLE = 1e-3


def planned(
    objective: Functional, sample: Population, size: float, plan: int, trust: float, seed: int
) -> Reward:
    """The reward `R` of the tilt `p_0 exp(R)` to be asked for next.

    Arguments:
        sample: points of the current density, a `Tilted` one.
        size: of a mirror step; the largest of a plan.
        plan: steps; a single one is the published algorithm: of the given size, unchecked.
        trust: share of the points that the weights must keep effective, in (0, 1).
        seed: of what the objective learns on the way.
    """
    tilted = sample.density
    assert isinstance(tilted, Tilted)
    if plan == 1:
        return tilted.reward + size * objective.first_variation(sample)
    before, log_shares = tilted.reward.value(sample).double(), sample.shares.log()
    held = trust * effective_share(log_shares)
    value, reward, largest = objective.value(sample), tilted.reward, size
    for _ in range(plan):
        slope = objective.first_variation(sample)
        for _ in range(HALVINGS):
            new = reward + size * slope
            shifts = new.value(sample).double() - before + log_shares
            if effective_share(shifts) >= held:
                log_mean = float(shifts.logsumexp(0))
                density = Tilted(tilted.base, new, (tilted.log_normaliser or 0.0) + log_mean)
                ahead = sample.weighted(shifts.softmax(0), density)
                objective.fit(ahead, seed)
                if (reached := objective.value(ahead)) >= value:
                    break
            size /= 2
        else:
            break
        gained, value, sample, reward = reached - value, reached, ahead, new
        # Never beyond what was asked for: the bank checks steps where it has points, and far
        # from them only small steps keep the reward in bounds.
        size = min(1.5 * size, largest)
        if gained <= TOLERANCE * max(1.0, abs(value)):
            break
    return _pruned(reward)


def _pruned(reward: Reward) -> Reward:
    """Without the terms that early steps of a plan left behind and later ones have shrunk away."""
    if not isinstance(reward, Combination) or not reward.terms:
        return reward
    largest = max(abs(factor) for factor, _ in reward.terms)
    return Combination([t for t in reward.terms if abs(t[0]) > NEGLIGIBLE * largest])
