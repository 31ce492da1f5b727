"""Bootstrap intervals against their normal approximations, and how often they cover the truth."""

import math

import numpy as np
import pytest
import torch

from molflowctl.control.objectives.reward import Reward
from molflowctl.control.objectives.utilities import CVaR, Mean, SuperQuantile
from molflowctl.control.population import Population
from molflowctl.tasks.evaluation.bootstrap import bootstrap, standard_error


def test_intervals_have_the_widths_of_theory():
    x = np.random.default_rng(0).normal(2.0, 3.0, 4000)
    mean, median = bootstrap(x), bootstrap(x, "median")
    assert mean.value == pytest.approx(x.mean())
    assert median.value == np.median(x)
    assert mean.n == median.n == 4000
    error = 3 / 4000**0.5
    assert mean.high - mean.low == pytest.approx(2 * 1.96 * error, rel=0.1)
    # the standard error of a normal sample's median is sqrt(pi/2) times that of its mean
    assert median.high - median.low == pytest.approx(2 * 1.96 * error * (np.pi / 2) ** 0.5, rel=0.2)


def test_interval_of_a_rate_is_binomial():
    rate = bootstrap(np.arange(1000) < 900)
    assert rate.value == 0.9
    assert rate.high - rate.low == pytest.approx(2 * 1.96 * (0.9 * 0.1 / 1000) ** 0.5, rel=0.1)
    sure = bootstrap(np.ones(10, bool))
    assert (sure.value, sure.low, sure.high) == (1, 1, 1)


def test_covers_a_known_mean_in_about_95_of_100_samples():
    rng = np.random.default_rng(1)
    estimates = [bootstrap(rng.exponential(1.0, 200), seed=k) for k in range(100)]
    assert 87 <= sum(e.low <= 1 <= e.high for e in estimates) <= 100


def test_weights_give_a_ratio_of_sums():
    shares, atoms = np.array([1.0, 0.5]), np.array([10, 30])
    assert bootstrap(shares, weights=atoms).value == pytest.approx(25 / 40)


def test_failed_values_are_left_out_and_nothing_gives_nothing():
    assert bootstrap(np.array([1.0, np.nan, 3.0])).n == 2
    assert bootstrap(np.array([1.0, np.nan, 3.0])).value == 2
    assert np.isnan(bootstrap(np.array([])).value)
    assert np.isnan(bootstrap(np.array([np.nan]), "median").high)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_standard_error_of_a_mean_is_known(weighted) -> None:
    """Uniform: `s / sqrt(n)`; self-normalised weights: `sqrt(sum w^2 (v - mean)^2)`."""
    x = torch.randn(400, 1, generator=torch.Generator().manual_seed(0))
    weights = x[:, 0].exp() if weighted else torch.ones(400)
    points = Population(x, weights=weights)
    mean = points.mean(x[:, 0])
    expected = float((points.shares.square() * (x[:, 0] - mean).square()).sum().sqrt())
    found = standard_error(Mean(Reward(lambda x: x[:, 0])), points)
    assert found == pytest.approx(expected, rel=0.15)


def test_the_errors_of_tails_are_larger_than_that_of_the_mean() -> None:
    x = torch.randn(1000, 1, generator=torch.Generator().manual_seed(0))
    reward, points = Reward(lambda x: x[:, 0]), Population(x)
    tails = [SuperQuantile(reward, 0.8), CVaR(reward, 0.2)]
    mean, *others = (standard_error(u, points) for u in (Mean(reward), *tails))
    # Of the best fifth of a Gaussian: sqrt(0.2 (0.219 + 0.8 (1.400 - 0.842)^2)) / 0.2 / sqrt(n).
    assert others == pytest.approx([0.048, 0.048], rel=0.2)
    assert mean == pytest.approx(1 / math.sqrt(1000), rel=0.15)
