"""Every functional obeys one law: its first variation is its derivative along a perturbed density.

A density on finitely many points is its weights, and `log p` moves with them, so the derivative of
`G(w + e h)` at `e = 0`, by finite differences, has to be `sum h dG(x)` for every `h` of sum zero.
"""

import math

import pytest
import torch

from molflowctl.control.objectives.density import Exact, Tilted
from molflowctl.control.objectives.distances import MMD, Wasserstein1
from molflowctl.control.objectives.divergences import KL, ForwardKL, Renyi
from molflowctl.control.objectives.objective import Functional, Scaled, Sum
from molflowctl.control.objectives.potentials import Critic, Sorted, Transport
from molflowctl.control.objectives.reward import Reward
from molflowctl.control.objectives.utilities import (
    CVaR,
    DiverseModes,
    Entropy,
    LogBarrier,
    LogDet,
    LowestEigenvalue,
    Mean,
    MeanVariance,
    SuperQuantile,
    TraceInverse,
)
from molflowctl.control.population import Population
from molflowctl.errors import UserError
from molflowctl.flows.mixture import MixtureFlow

BUMPY = Reward(lambda x: (2 * x).sin().sum(-1) - 0.3 * x.square().sum(-1), name="bumpy")
SQUARE = Reward(lambda x: x.square().sum(-1), name="square")


def features(x):
    return torch.cat([x, x.square(), (1.5 * x).sin()], -1)


UTILITIES = [
    Mean(BUMPY),
    CVaR(BUMPY, 0.1),
    CVaR(BUMPY, 0.6),
    SuperQuantile(BUMPY, 0.9),
    MeanVariance(BUMPY, 0.7),
    Entropy(),
    LogDet(features, 0.1),
    TraceInverse(features, 0.1),
    LowestEigenvalue(features, 0.1),
    LogBarrier(BUMPY, SQUARE, 0.1, 0.5),
    DiverseModes(features, 0.8),
]
RELATIVE = {
    "KL": KL,
    "ForwardKL": lambda q: ForwardKL(q, bound=1e6),
    "ForwardKL bounded": lambda q: ForwardKL(q, bound=1.3),
    "Renyi 0.4": lambda q: Renyi(q, 0.4, bound=1e6),
    "Renyi 2": lambda q: Renyi(q, 2.0, bound=1e6),
}
POINTWISE = {
    "W1 sorted": lambda q: Wasserstein1(q, Sorted()),
    "W1 transport": lambda q: Wasserstein1(q, Transport(), points=50),
    "MMD": lambda q: MMD(q, bandwidths=[0.3, 1.0]),
    "MMD of features": lambda q: MMD(q, features),
}


class Tabulated:
    """A density on given points: `log p` is the log of a point's mass."""

    normalised = True

    def __init__(self, points, masses):
        self.points, self.masses = points, masses

    def log_density(self, x):
        return self.masses.log()[torch.cdist(x, self.points).argmin(1)]

    def score(self, x):
        raise NotImplementedError


class Unnormalised(Tabulated):
    """The same, known up to a factor."""

    normalised = False

    def log_density(self, x):
        return super().log_density(x) + 3.0


def masses(n, seed):
    generator = torch.Generator().manual_seed(seed)
    m = 0.2 + torch.rand(n, dtype=torch.float64, generator=generator)
    return m / m.sum()


POINTS = torch.linspace(-2, 2, 23, dtype=torch.float64)[:, None]
SHIFTED = POINTS[::2] + 0.11
WEIGHTS = masses(23, 1)
REFERENCE = Tabulated(POINTS, masses(23, 2))
REFERENCE_POINTS = Population(SHIFTED, weights=masses(12, 4))


def instances():
    for utility in UTILITIES:
        yield pytest.param(utility, id=utility.name)
    for name, make in RELATIVE.items():
        yield pytest.param(make(REFERENCE), id=name)
    for name, make in POINTWISE.items():
        yield pytest.param(make(REFERENCE_POINTS), id=name)
    yield pytest.param(
        CVaR(BUMPY, 0.2) + 0.05 * Entropy() - 0.2 * KL(REFERENCE) - MMD(REFERENCE_POINTS), id="sum"
    )


@pytest.mark.parametrize("functional", list(instances()))
def test_first_variation_is_the_derivative_along_weights(functional: Functional):
    def value(weights):
        return functional.value(
            Population(POINTS, weights=weights, density=Tabulated(POINTS, weights))
        )

    variation = functional.first_variation(
        Population(POINTS, weights=WEIGHTS, density=Tabulated(POINTS, WEIGHTS))
    ).value(POINTS)
    for seed in range(3):
        h = WEIGHTS * torch.randn(
            23, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
        )
        h -= WEIGHTS * h.sum()
        e = 1e-6
        measured = (value(WEIGHTS + e * h) - value(WEIGHTS - e * h)) / (2 * e)
        assert measured == pytest.approx(float((h * variation).sum()), rel=1e-5, abs=1e-8)


# Smooth densities in two dimensions, for gradients.
P = MixtureFlow([0.4, 0.6], [[-0.5, 0.2], [0.7, -0.3]], [0.6, 0.8])
Q = MixtureFlow([0.7, 0.3], [[0.1, 0.4], [-0.6, -0.5]], [0.9, 0.7])
DENSITIES = {
    "exact": Exact(P),
    "tilted": Tilted(Exact(Q), BUMPY, log_normaliser=0.3),
    "tilted, normaliser unknown": Tilted(Exact(Q), BUMPY),
}


def smooth_instances():
    for utility in UTILITIES:
        yield pytest.param(utility, "exact", id=utility.name)
    for name, make in RELATIVE.items():
        for density in DENSITIES:
            yield pytest.param(make(Q), density, id=f"{name}, {density}")
    for name, make in POINTWISE.items():
        if name != "W1 sorted":
            yield pytest.param(make(Q), "exact", id=name)
    yield pytest.param(Wasserstein1(Q, Critic(steps=50), points=200), "exact", id="W1 critic")


def sample_of(density, n=60, seed=5):
    x = MixtureFlow([1.0], [[0.0, 0.0]], [1.0]).exact_sample(n, seed).double()
    return Population(x, weights=masses(n, seed), density=DENSITIES[density])


@pytest.mark.parametrize(("functional", "density"), list(smooth_instances()))
def test_gradient_is_the_derivative_of_the_value(functional, density):
    variation = functional.first_variation(sample_of(density))
    x = sample_of(density, n=30, seed=8).states
    e = 1e-5
    slopes = []
    for axis in torch.eye(2, dtype=torch.float64):
        difference = variation.value(x + e * axis) - variation.value(x - e * axis)
        slopes.append(difference / (2 * e))
    torch.testing.assert_close(variation.gradient(x), torch.stack(slopes, 1), rtol=1e-5, atol=1e-6)


# Algebra --------------------------------------------------------------------------------------


def test_values_and_variations_are_linear():
    sample = sample_of("exact")
    a, b, c = CVaR(BUMPY, 0.3), Entropy(), KL(Q)
    whole = 2 * (a + b * 0.5) - (c - a)
    assert whole.value(sample) == pytest.approx(
        3 * a.value(sample) + b.value(sample) - c.value(sample)
    )
    variation = whole.first_variation(sample)
    parts = [(3, a), (1, b), (-1, c)]
    for quantity in ("value", "gradient"):
        expected = sum(
            f * getattr(g.first_variation(sample), quantity)(sample.states) for f, g in parts
        )
        torch.testing.assert_close(getattr(variation, quantity)(sample.states), expected)


@pytest.mark.parametrize(
    ("objective", "name"),
    [
        (Mean(BUMPY) + Entropy(), "E[bumpy] + H"),
        (Mean(BUMPY) + 0.05 * Entropy(), "E[bumpy] + 0.05 * H"),
        (2 * (Mean(BUMPY) - 0.5 * KL(Q, name="KL to q")), "2 * E[bumpy] + -1 * KL to q"),
        (-Entropy() + Mean(SQUARE), "-1 * H + E[square]"),
        (Entropy() + (Mean(BUMPY) + (KL(Q) + KL(Q))), "H + E[bumpy] + KL + KL"),
        (Sum([(2.0, Sum([(3.0, Entropy())])), (1.0, KL(Q))]), "6 * H + KL"),
    ],
)
def test_sums_are_flat_and_named(objective, name):
    flat = Sum(objective.terms())
    assert flat.name == name
    assert not any(isinstance(part, Sum | Scaled) for _, part in flat.terms())


@pytest.mark.parametrize(
    "build",
    [
        lambda: math.nan * Entropy(),
        lambda: Entropy() + math.inf * Mean(BUMPY),
        lambda: Sum([(math.nan, Entropy())]),
    ],
)
def test_factors_must_be_finite(build):
    with pytest.raises(UserError, match=r"factor of (H|E\[bumpy\]) is (nan|inf)"):
        build()


def test_nothing_is_no_objective():
    with pytest.raises(UserError, match="at least one term"):
        Sum([])


@pytest.mark.parametrize(
    "build", [lambda: Entropy() + 1, lambda: Entropy() - BUMPY, lambda: Entropy() * Entropy()]
)
def test_only_functionals_add_and_only_numbers_scale(build):
    with pytest.raises(TypeError):
        build()


def test_a_reset_objective_repeats_itself():
    critics = [Wasserstein1(q, Critic(steps=20, later=10), points=100) for q in (P, Q)]
    objective = Mean(BUMPY) - 0.5 * critics[0] - critics[1]
    first, second = sample_of("exact", seed=1), sample_of("exact", seed=2)

    def runs():
        for sample in (first, second):
            objective.fit(sample, seed=3)
        return objective.first_variation(second).value(second.states)

    once, warm = runs(), runs()
    objective.reset()
    assert not torch.equal(once, warm)
    assert torch.equal(once, runs())
