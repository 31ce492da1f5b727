"""Tails by Monte Carlo: how a density that was asked for its tail does there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from molflowctl.control.mirror import Constant, FlowDensityControl
from molflowctl.control.objectives.divergences import KL
from molflowctl.control.objectives.objective import Functional
from molflowctl.control.objectives.utilities import CVaR, Mean, SuperQuantile
from molflowctl.control.solvers.weighted import optimal_weights
from molflowctl.tasks.evaluation.analytic.judging import GRIDS
from molflowctl.tasks.evaluation.analytic.problems import PLANE, SHORT, slope

__all__ = ["RISKS"]


FRESH = 20000


# Risk: utilities against the expected reward ----------------------------------------------------


@dataclass(frozen=True)
class Risk:
    """A utility of a reward, and expected-reward fine-tuning of the same KL to the prior.

    Arguments:
        utility: reward to functional.
        weight: of the KL to the prior.
        measure: rewards of fresh samples to one number per bootstrap resample.
    """

    utility: Callable[[Any], Functional]
    weight: float
    tail: Callable[[np.ndarray], float]

    def run(self, seed: int) -> dict[str, Any]:
        """Both flows, each measured on fresh samples with a bootstrap interval."""
        grid, kl = GRIDS[2], KL(PLANE)
        base = grid.sample(PLANE.log_density(grid.x))
        assert base.density is not None

        def best(objective: Functional) -> float:
            """KL to the prior of the objective's optimum."""
            assert base.density is not None
            found = optimal_weights(
                objective, grid.x, base.density, base_weights=base.weights, steps=2000
            )
            shares = found.shares
            return float((shares * (shares / base.shares).clamp_min(1e-300).log()).sum())

        target = best(self.utility(slope()) - self.weight * kl)
        low, high = 0.05, 20.0  # the weight at which the mean's optimum is as far away
        for _ in range(40):
            middle = (low * high) ** 0.5
            low, high = (
                (middle, high) if best(Mean(slope()) - middle * kl) > target else (low, middle)
            )
        row: dict[str, Any] = {"kl_of_both_optima": target, "weight_of_mean": low}
        for label, make, weight in (
            ("fdc", self.utility, self.weight),
            ("expected_reward", Mean, low),
        ):
            reward = slope()
            control = FlowDensityControl(
                make(reward) - weight * kl, SHORT, steps=3, step_size=Constant(0.7 / weight)
            )
            flow = control.run(PLANE.trainable(), prior=PLANE, seed=seed)
            calls = reward.calls
            values = slope().value(flow.draw_states(FRESH, seed=seed + 10_000)).numpy()
            row |= {f"{label}_{k}": v for k, v in _interval(values, self.tail).items()}
            row[f"{label}_mean"] = float(values.mean())
            row[f"{label}_calls"] = calls
        return row


def _interval(values: np.ndarray, statistic: Callable[[np.ndarray], float]) -> dict[str, float]:
    """The statistic and its 95 % percentile bootstrap interval."""
    rng = np.random.default_rng(0)
    n = len(values)
    drawn = [statistic(values[rng.integers(0, n, n)]) for _ in range(400)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"value": statistic(values), "low": float(low), "high": float(high)}


def _lower_tail(values: np.ndarray) -> float:
    ordered = np.sort(values)
    return float(ordered[: max(1, round(0.3 * len(ordered)))].mean())


def _upper_tail(values: np.ndarray) -> float:
    ordered = np.sort(values)
    return float(ordered[-max(1, round(0.3 * len(ordered))) :].mean())


RISKS = {
    "CVaR 0.3": Risk(lambda r: CVaR(r, 0.3), 1.2, _lower_tail),
    "super-quantile 0.7": Risk(lambda r: SuperQuantile(r, 0.7), 0.8, _upper_tail),
}
