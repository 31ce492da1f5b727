"""Divergences of Gaussians, whose values are closed forms, and the laws of divergences.

Densities in one dimension are weighted grids, so that expectations are quadratures: no sampling
noise unless a test says so.
"""

import math

import pytest
import torch

from molflowctl.control.objectives.density import Exact, Tilted
from molflowctl.control.objectives.distances import MMD, Wasserstein1
from molflowctl.control.objectives.divergences import KL, ForwardKL, Renyi, TrajectoryKL
from molflowctl.control.objectives.potentials import Cloud, Critic, Sorted, Transport
from molflowctl.control.objectives.reward import Reward
from molflowctl.control.population import Population
from molflowctl.errors import UserError
from molflowctl.flows.mixture import MixtureFlow
from molflowctl.flows.state import State

GRID = torch.linspace(-12, 12, 3001, dtype=torch.float64)[:, None]
COARSE = GRID[::8]


def gaussian(mean, sd, d=1):
    return MixtureFlow([1.0], [[float(mean)] * d], [float(sd)])


def on_grid(flow, grid=GRID):
    density = Exact(flow)
    return Population(grid, weights=density.log_density(grid).exp(), density=density)


def kl(m1, s1, m2, s2):
    return math.log(s2 / s1) + (s1**2 + (m1 - m2) ** 2) / (2 * s2**2) - 0.5


def renyi(m1, s1, m2, s2, b):
    """van Erven and Harremoes, arXiv 1206.2459, equation 10."""
    s = (1 - b) * s1**2 + b * s2**2
    return b * (m1 - m2) ** 2 / (2 * s) + math.log(s**0.5 / (s1 ** (1 - b) * s2**b)) / (1 - b)


PAIRS = [
    (0.0, 1.0, 0.0, 1.25),
    (0.5, 1.0, -0.5, 1.0),
    (1.0, 0.75, 0.0, 1.5),
    (-0.25, 1.25, 0.5, 1.5),
]
ORDERS = [0.25, 0.5, 0.9, 1.25, 2.0, 3.0]
MIXTURES = [
    gaussian(0, 1),
    gaussian(0.5, 1.25),
    MixtureFlow([0.3, 0.7], [[-1.0], [1.5]], [0.75, 1.0]),
    MixtureFlow([0.5, 0.2, 0.3], [[-2.0], [0.0], [2.0]], [0.5, 1.0, 0.5]),
]


# Closed forms ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("m1", "s1", "m2", "s2"), PAIRS)
def test_kl_both_ways(m1, s1, m2, s2):
    p, q = gaussian(m1, s1), gaussian(m2, s2)
    assert KL(q).value(on_grid(p)) == pytest.approx(kl(m1, s1, m2, s2), abs=1e-6)
    forward = ForwardKL(q, bound=1e100).value(on_grid(p))
    assert forward == pytest.approx(kl(m2, s2, m1, s1), abs=1e-6)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("m1", "s1", "m2", "s2"), PAIRS)
def test_renyi(m1, s1, m2, s2, order):
    value = Renyi(gaussian(m2, s2), order).value(on_grid(gaussian(m1, s1)))
    assert value == pytest.approx(renyi(m1, s1, m2, s2, order), abs=1e-6)


@pytest.mark.parametrize("make", [KL, ForwardKL, lambda q: Renyi(q, 2.0)])
def test_unknown_normalisers_are_estimated(make):
    """A tilt by `c x` of N(0, 1) is N(c, 1), whether or not its normaliser is said."""
    q, tilt = gaussian(0, 1), Reward(lambda x: 0.5 * x[:, 0] + 2.0)
    exact = on_grid(gaussian(0.5, 1))
    said = Tilted(Exact(q), tilt, log_normaliser=2.125)
    expected = make(q).value(exact)
    assert expected > 0.1
    for density in (said, Tilted(Exact(q), tilt)):
        value = make(q).value(Population(GRID, weights=exact.weights, density=density))
        assert value == pytest.approx(expected, abs=1e-6)


POTENTIALS = {
    "sorted": (Sorted(), 1e-3),
    "transport": (Transport(), 1e-2),  # of 1,000 points each
    "critic": (Critic(), 2e-2),
}


@pytest.mark.parametrize("potential", POTENTIALS)
@pytest.mark.parametrize("shift", [1.0, -0.5])
def test_wasserstein_of_a_shift(potential, shift):
    solver, tolerance = POTENTIALS[potential]
    p, q = (on_grid(gaussian(m, 1), GRID[900:2101]) for m in (shift, 0))
    distance = Wasserstein1(q, solver)
    assert distance.value(p) == pytest.approx(abs(shift), rel=tolerance)
    slope = distance.first_variation(p).gradient(torch.linspace(-1, 1, 9).double()[:, None])
    torch.testing.assert_close(
        slope, torch.full_like(slope, math.copysign(1, shift)), rtol=0, atol=max(tolerance, 1e-6)
    )


@pytest.mark.parametrize("potential", POTENTIALS)
def test_wasserstein_of_a_spread(potential):
    """W1 of N(0, a) and N(0, b) is |a - b| E|z|: the potential has a corner at zero."""
    solver, tolerance = POTENTIALS[potential]
    p, q = (on_grid(gaussian(0, s), GRID[600:2401]) for s in (1.5, 1))
    expected = 0.5 * math.sqrt(2 / math.pi)
    value = Wasserstein1(q, solver).value(p)
    assert value == pytest.approx(expected, rel=2 * tolerance)


def test_transport_in_the_plane():
    """Of a shift by (3, 4) / 5 the distance is 1 and the potential's gradient the direction.

    The reference's points are the sample's, shifted, so that the plan is known.
    """
    x = gaussian(0, 1, d=2).exact_sample(300).double()
    shift = torch.tensor([0.6, 0.8], dtype=torch.float64)
    p = Population(x + shift)
    distance = Wasserstein1(Population(x), Transport())
    assert distance.value(p) == pytest.approx(1, abs=1e-9)
    phi = distance.first_variation(p)
    torch.testing.assert_close(phi.value(x + shift) - phi.value(x), x.new_ones(300))


@pytest.mark.parametrize("d", [1, 2])
@pytest.mark.parametrize(("m1", "s1", "m2", "s2"), PAIRS)
def test_mmd(m1, s1, m2, s2, d):
    bandwidths = [0.5, 1.5]

    def kernel_mean(gap, variance):
        return sum(
            (h**2 / (h**2 + variance)) ** (d / 2) * math.exp(-d * gap**2 / (2 * (h**2 + variance)))
            for h in bandwidths
        )

    line = torch.linspace(-6, 6, 1201 if d == 1 else 61, dtype=torch.float64)
    grid = torch.cartesian_prod(*[line] * d).reshape(-1, d)
    p, q = on_grid(gaussian(m1, s1, d), grid), on_grid(gaussian(m2, s2, d), grid)
    expected = kernel_mean(0, 2 * s1**2) + kernel_mean(0, 2 * s2**2)
    expected -= 2 * kernel_mean(m1 - m2, s1**2 + s2**2)
    assert MMD(q, bandwidths=bandwidths).value(p) == pytest.approx(expected, abs=1e-4)


# Laws -----------------------------------------------------------------------------------------

DIVERGENCES = {
    "KL": KL,
    "ForwardKL": ForwardKL,
    "ForwardKL bounded": lambda q: ForwardKL(q, bound=1.5),
    "Renyi 0.5": lambda q: Renyi(q, 0.5),
    "Renyi 2": lambda q: Renyi(q, 2),
    "W1": lambda q: Wasserstein1(on_grid(q, COARSE), Sorted()),
    "MMD": lambda q: MMD(on_grid(q, COARSE)),
}


@pytest.mark.parametrize("name", DIVERGENCES)
def test_positive_and_zero_only_for_equals(name):
    for p in MIXTURES[1:]:
        sample = on_grid(p, COARSE)
        assert DIVERGENCES[name](MIXTURES[0]).value(sample) > 1e-3
        assert DIVERGENCES[name](p).value(sample) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("p", MIXTURES[1:], ids=str)
def test_renyi_rises_with_its_order_through_kl(p):
    sample, q = on_grid(p), MIXTURES[0]
    values = [Renyi(q, b).value(sample) for b in (0.2, 0.5, 0.8, 0.999)]
    values += [KL(q).value(sample)]
    values += [Renyi(q, b).value(sample) for b in (1.001, 1.1, 1.25)]
    assert values == sorted(values)
    assert values[5] - values[3] < 0.02 * values[4]


def test_bounded_forward_kl_is_below_the_unbounded_and_near_it_where_ratios_are():
    p, q = on_grid(gaussian(1, 1)), gaussian(0, 1)
    values = [ForwardKL(q, bound=c).value(p) for c in (1.5, 5, 50, 1e100)]
    assert values == sorted(values)
    assert values[0] < 0.9 * values[-1]
    assert values[2] == pytest.approx(0.5, abs=0.01)


def test_far_tails_pull_but_do_not_blow_up():
    """Where `q/p` is e^312, the gradient is 100 times the difference of the scores, -25."""
    x, p, q = torch.tensor([[25.0]]), on_grid(gaussian(0, 1)), gaussian(25, 1)
    variation = ForwardKL(q).first_variation(p)
    assert float(variation.value(x)) == pytest.approx(-100 * (1 + 312.5 - math.log(100)))
    torch.testing.assert_close(variation.gradient(x), torch.tensor([[-2500.0]]))


@pytest.mark.parametrize("solver", [Sorted(), Transport()], ids=["sorted", "transport"])
def test_wasserstein_is_a_metric(solver):
    clouds = [Population(m.exact_sample(60, seed=k).double()) for k, m in enumerate(MIXTURES)]
    w = [[Wasserstein1(q, solver).value(p) for p in clouds] for q in clouds]
    for i in range(4):
        assert w[i][i] == pytest.approx(0, abs=1e-9)
        for j in range(4):
            assert w[i][j] == pytest.approx(w[j][i], abs=1e-9)
            assert all(w[i][j] <= w[i][k] + w[k][j] + 1e-9 for k in range(4))


@pytest.mark.parametrize("seed", range(2))
def test_potentials_agree_and_are_lipschitz(seed):
    p, q = (
        Cloud(m.exact_sample(80, seed).double(), torch.full((80,), 1 / 80, dtype=torch.float64))
        for m in MIXTURES[2:]
    )
    x = torch.linspace(-3, 3, 400, dtype=torch.float64)[:, None]
    exact = []
    for solver, bound in ((Sorted(), 1 + 1e-9), (Transport(), 1 + 1e-9), (Critic(), 1.15)):
        phi = solver.solve(p, q, seed)
        slopes = phi(x).diff() / x[:, 0].diff()
        assert slopes.abs().max() <= bound
        exact.append(p.mean(phi(p.points)) - q.mean(phi(q.points)))
    assert exact[0] == pytest.approx(exact[1], abs=1e-9)
    assert exact[2] == pytest.approx(exact[0], rel=0.02)


def test_large_clouds_are_thinned_by_weight():
    cloud = Cloud(GRID, on_grid(gaussian(1, 2)).shares)
    thin = cloud.thinned(500)
    assert thin.points.shape == (500, 1)
    assert float(thin.points.mean()) == pytest.approx(1, abs=0.03)
    assert float(thin.points.std()) == pytest.approx(2, abs=0.03)


# References -----------------------------------------------------------------------------------


@pytest.mark.parametrize("flow", [gaussian(1, 0.5), gaussian(1, 0.5).trainable(8)], ids=str)
def test_points_of_a_flow_are_drawn_once_and_kept(flow):
    distance = Wasserstein1(flow, Sorted(), points=1000, seed=3)
    first, second = (distance.value(on_grid(gaussian(0, 0.5))) for _ in range(2))
    assert first == second
    # The mean of 1,000 points is off by 0.016.
    assert first == pytest.approx(1, abs=0.06)
    assert distance.drawn.states.shape == (1000, 1)


def test_a_density_of_a_flow_has_its_points():
    assert len(MMD(Exact(gaussian(0, 1)), points=50).drawn) == 50


def test_critics_are_not_shared_and_first_variations_stay_as_they_were():
    critic = Critic(steps=30, later=30)
    samples = [on_grid(gaussian(m, 1), GRID[::10]) for m in (1, -1)]
    one = Wasserstein1(on_grid(gaussian(0, 1), GRID[::10]), critic)
    early = one.first_variation(samples[0])
    before = early.value(GRID)
    one.fit(samples[1])
    assert critic.network is None
    # Asked anew: the reward keeps what it answered for a tensor it has seen.
    assert torch.equal(early.value(GRID.clone()), before)
    assert not torch.equal(one.first_variation(samples[1]).value(GRID), before)


def test_states_with_parts_are_compared_by_features():
    def state(shift, n=200):
        x = gaussian(0, 1, d=3).exact_sample(n, seed=1)
        return State(positions=(x + shift)[:, None], types=x[:, :1])

    def centre(x):
        return x["positions"][:, 0]

    p, q = Population(state(1.0)), Population(state(0.0))
    distance = Wasserstein1(q, Transport(), features=centre)
    assert distance.value(p) == pytest.approx(math.sqrt(3), rel=1e-5)
    gradient = distance.first_variation(p).gradient(p.states)
    assert gradient["types"].abs().max() == 0
    torch.testing.assert_close(gradient["positions"].norm(dim=-1), torch.ones(200, 1))
    assert MMD(q, centre, [1.0]).value(p) > 0.1


# Errors ---------------------------------------------------------------------------------------

PLANE = gaussian(0, 1, d=2)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        *[
            (lambda b=b: Renyi(PLANE, b), f"order of {b} is out of range")
            for b in (0, 1, -1, math.nan, math.inf)
        ],
        (lambda: ForwardKL(PLANE, bound=1.0), r"forward KL: a bound of 1\.0"),
        (lambda: KL("qm9"), "the reference of KL is a str"),
        (lambda: Wasserstein1(3), "W1 needs points of its reference, and a int has none"),
        (
            lambda: MMD(Tilted(Exact(PLANE), Reward(lambda x: x.sum(-1)))),
            "MMD needs points of its reference, and a Tilted has none",
        ),
        (lambda: MMD(PLANE, bandwidths=[1.0, 0.0]), r"bandwidths \[1\.0, 0\.0\]"),
        (lambda: MMD(PLANE, bandwidths=[]), "bandwidths"),
        (lambda: Wasserstein1(PLANE, points=1), "1 points of the reference are too few"),
        (lambda: Critic(steps=0), "must be positive"),
    ],
)
def test_wrong_settings_are_named_when_built(build, message):
    with pytest.raises(UserError, match=message):
        build()


@pytest.mark.parametrize(
    "make",
    [KL, ForwardKL, lambda q: Renyi(q, 2.0), lambda q: Wasserstein1(q, points=10), MMD],
)
@pytest.mark.parametrize("ask", ["value", "first_variation"])
def test_a_reference_of_other_states_is_named(make, ask):
    sample = on_grid(gaussian(0, 1))
    with pytest.raises(UserError, match=r"(reference has states|states of two kinds)"):
        getattr(make(PLANE), ask)(sample)


@pytest.mark.parametrize("make", [KL, ForwardKL, lambda q: Renyi(q, 2.0)])
@pytest.mark.parametrize("ask", ["value", "first_variation"])
def test_a_sample_without_density_is_named(make, ask):
    with pytest.raises(UserError, match="needs a sample that knows its density"):
        getattr(make(PLANE), ask)(Population(torch.zeros(3, 2)))


def test_sorted_is_for_one_dimension():
    with pytest.raises(UserError, match="Sorted needs one dimension, not 2"):
        Wasserstein1(PLANE, Sorted(), points=10).value(Population(torch.zeros(3, 2)))


def test_states_with_parts_need_features():
    sample = Population(State(a=torch.zeros(3, 2)))
    with pytest.raises(UserError, match="W1 of states with several parts needs features"):
        Wasserstein1(sample).value(sample)
    with pytest.raises(UserError, match=r"the features of MMD have the shape \(3,\)"):
        MMD(sample, features=lambda x: x["a"][:, 0]).value(sample)


def test_coinciding_points_have_no_bandwidth():
    sample = Population(torch.zeros(3, 2))
    with pytest.raises(UserError, match="points coincide; give bandwidths"):
        MMD(sample).value(sample)


# Along the trajectory -------------------------------------------------------------------------


def log_density_at(flow, x, t):
    """`log p_t(x)` of a single Gaussian in the plane, from `x_t = a x_1 + b x_0`."""
    a, b, _, _ = flow.path.coefficients(t)
    eye = torch.eye(2, dtype=torch.float64)
    spread = a**2 * flow.variances.double() * eye + b**2 * flow.covariance.power(eye, 1.0)
    return torch.distributions.MultivariateNormal(a * flow.means[0].double(), spread).log_prob(x)


@pytest.mark.parametrize("path", ["linear", "cosine"])
@pytest.mark.parametrize(
    "covariance", [None, [[1.0, 0.6], [0.6, 1.2]]], ids=["white", "correlated"]
)
@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_the_running_variation_is_the_slope_of_the_log_ratio(t, covariance, path):
    """`lambda_t grad (log p_t - log q_t)`: no covariance of the noise is left in it."""
    p, q = (
        MixtureFlow([1.0], [mean], [sd], covariance=covariance, path=path)
        for mean, sd in (([0.5, -0.2], 0.7), ([-0.3, 0.4], 1.1))
    )
    x = torch.randn(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    leaf = x.clone().requires_grad_()
    ratio = log_density_at(p, leaf, t) - log_density_at(q, leaf, t)
    (slope,) = torch.autograd.grad(ratio.sum(), leaf)
    times = torch.full((20,), t, dtype=torch.float64)
    late = TrajectoryKL(q).running_variation(p)(x, times)
    torch.testing.assert_close(late, 12 * t**2 * (1 - t) * slope, rtol=1e-4, atol=1e-4)
    even = TrajectoryKL(q, weight=torch.ones_like).running_variation(p)(x, times)
    torch.testing.assert_close(even, slope, rtol=1e-4, atol=1e-4)


def test_the_weight_along_the_trajectory_has_the_integral_one():
    kl_along = TrajectoryKL(gaussian(0, 1))
    t = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    assert float(kl_along.weight(t).mean()) == pytest.approx(1, abs=1e-5)
    assert float(kl_along.weight(torch.ones(1))) == 0


def test_a_trajectory_kl_stands_in_for_a_kl():
    sample, q = on_grid(gaussian(0.5, 1)), gaussian(-0.5, 1.25)
    along = TrajectoryKL(q, name="along")
    assert along.value(sample) == pytest.approx(KL(q).value(sample))
    assert not along.first_variation(sample).value(sample.states).any()
    assert (0.5 * along).terms()[0][1].running_variation(q) is not None
    assert KL(q).running_variation(q) is None
