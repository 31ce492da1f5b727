"""Bootstrap intervals against their normal approximations, and how often they cover the truth."""

import numpy as np
import pytest

from molflowctl.tasks.bootstrap import bootstrap


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
