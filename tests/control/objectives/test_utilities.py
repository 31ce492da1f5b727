"""Utilities of Gaussians, whose values are closed forms, by quadrature on weighted grids.

That first variations are the derivatives of these values is tested in `test_objective.py`.
"""

import math
from statistics import NormalDist

import pytest
import torch

from molflowctl.control.objectives.density import Exact, Tilted
from molflowctl.control.objectives.divergences import KL
from molflowctl.control.objectives.reward import Reward
from molflowctl.control.objectives.utilities import (
    CVaR,
    DiverseModes,
    Entropy,
    InternalDiversity,
    LogBarrier,
    LogDet,
    LowestEigenvalue,
    Mean,
    MeanVariance,
    SuperQuantile,
    TraceInverse,
    weighted_quantile,
)
from molflowctl.control.population import Population
from molflowctl.control.solvers.weighted import optimal_weights
from molflowctl.errors import UserError
from molflowctl.flows.mixture import MixtureFlow

GAUSSIANS = [(0.0, 1.0), (1.5, 0.5), (-0.75, 1.25)]
LINE = torch.linspace(-12, 12, 6001, dtype=torch.float64)[:, None]
PLANE = torch.cartesian_prod(*[torch.linspace(-8, 8, 161, dtype=torch.float64)] * 2)
X = Reward(lambda x: x[:, 0], name="x")


def gaussian(mean, sd):
    """In one dimension, or more where the mean is a list."""
    return MixtureFlow([1.0], [mean if isinstance(mean, list) else [mean]], [sd])


def on_grid(flow, grid=LINE):
    density = Exact(flow)
    return Population(grid, weights=density.log_density(grid).exp(), density=density)


@pytest.mark.parametrize(("m", "s"), GAUSSIANS)
@pytest.mark.parametrize("level", [0.05, 0.3, 0.5, 0.9])
def test_tail_means_of_a_normal(m, s, level):
    """m - s phi(z)/b below the b quantile, m + s phi(z)/(1 - b) above it."""
    sample, normal = on_grid(gaussian(m, s)), NormalDist()
    height = normal.pdf(normal.inv_cdf(level))
    assert CVaR(X, level).value(sample) == pytest.approx(m - s * height / level, abs=1e-4)
    above = m + s * height / (1 - level)
    assert SuperQuantile(X, level).value(sample) == pytest.approx(above, abs=1e-4)
    quantile = NormalDist(m, s).inv_cdf(level)
    assert weighted_quantile(LINE[:, 0], sample.shares, level) == pytest.approx(quantile, abs=5e-3)


def test_tails_are_shared_out_within_a_point():
    """Of values 1, 2, 3 with weights 1/2, 1/4, 1/4, the worst 0.6 hold 0.5 of 1 and 0.1 of 2."""
    sample = Population(torch.tensor([[3.0], [1.0], [2.0]]), weights=torch.tensor([1.0, 2.0, 1.0]))
    assert CVaR(X, 0.6).value(sample) == pytest.approx((0.5 * 1 + 0.1 * 2) / 0.6)
    assert SuperQuantile(X, 0.6).value(sample) == pytest.approx((0.15 * 2 + 0.25 * 3) / 0.4)


@pytest.mark.parametrize("level", [0.1, 0.5, 0.8])
def test_tails_make_up_the_mean(level):
    x = torch.randn(501, 1, generator=torch.Generator().manual_seed(0)).double()
    sample = Population(x, weights=torch.rand(501, generator=torch.Generator().manual_seed(1)))
    whole = level * CVaR(X, level).value(sample) + (1 - level) * SuperQuantile(X, level).value(
        sample
    )
    assert whole == pytest.approx(Mean(X).value(sample), abs=1e-12)


@pytest.mark.parametrize(("m", "s"), GAUSSIANS)
def test_mean_variance_and_barrier(m, s):
    sample = on_grid(gaussian(m, s))
    square = Reward(lambda x: x.square().sum(-1))
    mean, variance = m**2 + s**2, 2 * s**4 + 4 * m**2 * s**2
    assert Mean(square).value(sample) == pytest.approx(mean, abs=1e-6)
    assert MeanVariance(X, 0.7).value(sample) == pytest.approx(m - 0.7 * s**2, abs=1e-6)
    assert MeanVariance(square, 0.3).value(sample) == pytest.approx(mean - 0.3 * variance, abs=1e-5)
    barrier = LogBarrier(X, square, 0.2, 0.5)
    assert barrier.value(sample) == pytest.approx(m + 0.5 * math.log(mean - 0.2), abs=1e-6)


@pytest.mark.parametrize(("m", "s"), GAUSSIANS)
def test_entropy_of_a_normal(m, s):
    expected = 0.5 * math.log(2 * math.pi * math.e * s**2)
    assert Entropy().value(on_grid(gaussian(m, s))) == pytest.approx(expected, abs=1e-6)


def test_entropy_needs_a_normalised_density():
    tilted = Tilted(Exact(gaussian(0.0, 1.0)), X)
    with pytest.raises(UserError, match="entropy needs a normalised"):
        Entropy().value(Population(LINE, density=tilted))
    with pytest.raises(UserError, match="H needs a sample that knows its density"):
        Entropy().first_variation(Population(LINE))


@pytest.mark.parametrize("mean", [[0.0, 0.0], [1.0, -0.5]])
@pytest.mark.parametrize("sd", [0.75, 1.0])
def test_designs_of_a_gaussian(mean, sd):
    """`E[x x'] = s^2 I + m m'` has the eigenvalues `s^2` and `s^2 + |m|^2`."""
    sample, ridge = on_grid(gaussian(mean, sd), PLANE), 0.1
    low = sd**2 + ridge
    high = low + sum(m**2 for m in mean)

    def features(x):
        return x

    cases = {
        LogDet: math.log(low * high),
        TraceInverse: -1 / low - 1 / high,
        LowestEigenvalue: low,
    }
    for utility, expected in cases.items():
        assert utility(features, ridge).value(sample) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("m", "s"), GAUSSIANS)
def test_diverse_modes_of_a_normal(m, s):
    """`x - x'` is N(0, 2 s^2)."""
    sample = on_grid(gaussian(m, s), LINE[::6])
    expected = -0.5 * 0.8 / math.sqrt(0.8**2 + 2 * s**2)
    value = DiverseModes(lambda x: x, 0.8).value(sample)
    assert value == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("m", "s"), GAUSSIANS)
def test_the_internal_diversity_of_directions_that_a_gaussian_points_in(m, s):
    """`|E exp(ix)|^2 = exp(-s^2)` for x of N(m, s^2)."""
    diversity = InternalDiversity(lambda x: torch.cat([x.cos(), x.sin()], -1))
    value = diversity.value(on_grid(gaussian(m, s)))
    assert value == pytest.approx(-0.5 * math.exp(-(s**2)), abs=1e-6)


# A step along the first variation raises the utility ------------------------------------------


@pytest.mark.parametrize(
    "utility",
    [
        Mean(X),
        CVaR(X, 0.2),
        SuperQuantile(X, 0.8),
        MeanVariance(X, 0.5),
        Entropy(),
        LogDet(lambda x: torch.cat([x.sin(), x.cos()], -1)),
        TraceInverse(lambda x: torch.cat([x.sin(), x.cos()], -1)),
        LowestEigenvalue(lambda x: torch.cat([x.sin(), x.cos()], -1)),
        LogBarrier(X, Reward(lambda x: -x.square().sum(-1)), -3.0, 0.5),
        DiverseModes(lambda x: x, 1.0),
        InternalDiversity(lambda x: torch.cat([x.sin(), x.cos()], -1)),
    ],
    ids=lambda utility: utility.name,
)
def test_tilting_by_the_first_variation_raises_the_utility(utility):
    grid = LINE[::20]
    sample = on_grid(MixtureFlow([0.4, 0.6], [[-1.0], [0.5]], [0.5, 0.75]), grid)
    variation = utility.first_variation(sample)
    before = utility.value(sample)
    strength = 0.05
    tilt = Tilted(sample.density, strength * variation)
    weights = sample.shares * (strength * variation.value(grid)).exp()
    normaliser = float(weights.sum().log())
    tilted = Population(grid, weights=weights, density=Tilted(tilt.base, tilt.reward, normaliser))
    slope = sample.mean(variation.value(grid).square()) - sample.mean(variation.value(grid)) ** 2
    gain = utility.value(tilted) - before
    assert gain == pytest.approx(strength * slope, rel=0.35)


# Errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1, 1.5, math.nan])
@pytest.mark.parametrize("utility", [CVaR, SuperQuantile])
def test_levels_lie_between_zero_and_one(utility, level):
    with pytest.raises(UserError, match=f"a level of {level}: it must lie between 0 and 1"):
        utility(X, level)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LogBarrier(X, X, 0.0, 0.0), r"barrier of weight 0\.0"),
        (lambda: LogBarrier(X, X, 0.0, math.nan), "barrier of weight nan"),
        (lambda: LogBarrier(X, X, math.nan, 1.0), "barrier at the bound nan"),
        (lambda: MeanVariance(X, math.nan), "mean-variance weight of nan"),
        (lambda: LogDet(lambda x: x, -1.0), r"ridge of -1\.0"),
        (lambda: LogDet(lambda x: x, math.nan), "ridge of nan"),
        (lambda: DiverseModes(lambda x: x, 0.0), r"bandwidth of 0\.0"),
        (lambda: DiverseModes(lambda x: x, math.nan), "bandwidth of nan"),
    ],
)
def test_wrong_settings_are_named_when_built(build, message):
    with pytest.raises(UserError, match=message):
        build()


def test_a_barrier_must_be_met_from_the_start():
    barrier = LogBarrier(X, Reward(lambda x: x[:, 0], name="polarity"), 0.5, 1.0)
    message = r"mean of polarity is 0\.25, not above the bound 0\.5"
    with pytest.raises(UserError, match=message):
        barrier.first_variation(Population(torch.tensor([[0.0], [0.5]])))
    assert barrier.value(Population(torch.tensor([[0.0], [0.5]]))) == -math.inf


def test_a_barrier_is_kept_by_smaller_steps():
    """Tilts of a normal by `c x` have the mean `c`: `-c + b log(c - C) - a c^2 / 2` is largest."""
    flow, a, b, bound = MixtureFlow([1.0], [[0.0]], [1.0]), 0.2, 0.05, -0.5
    x = torch.linspace(-6, 6, 2001)[:, None]
    fall = Reward(lambda x: -x[:, 0], name="fall")
    objective = LogBarrier(fall, X, bound, b) - a * KL(flow)
    best = optimal_weights(objective, x, flow, base_weights=flow.log_density(x).exp())
    c = torch.linspace(bound + 1e-4, 1, 200_001, dtype=torch.float64)
    expected = c[(-c + b * (c - bound).log() - a * c.square() / 2).argmax()]
    assert best.mean(x[:, 0]) == pytest.approx(float(expected), abs=2e-3)
