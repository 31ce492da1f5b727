"""Walks along tilts: where they are, what old samples are worth, and steps that make up for gains.

On a Gaussian `N(0, 1)` the tilt by `s x` is `N(s, 1)`, so that every mean is known.
"""

import math
from dataclasses import dataclass

import pytest
import torch

from molflowctl.control.anchors import Annealed
from molflowctl.control.bank import self_normalised
from molflowctl.control.mirror import Constant, FlowDensityControl
from molflowctl.control.objectives.density import Tabulated
from molflowctl.control.objectives.divergences import KL, ForwardKL
from molflowctl.control.objectives.reward import Reward
from molflowctl.control.objectives.utilities import CVaR, Mean, MeanVariance, SuperQuantile
from molflowctl.control.population import Population
from molflowctl.control.solvers.reinforce import ReinforceAdjointMatching
from molflowctl.control.solvers.solver import Tilt
from molflowctl.control.solvers.weighted import optimal_weights
from molflowctl.control.walk import Annealing, projection, walked_share
from molflowctl.errors import UserError
from molflowctl.flows.mixture import MixtureFlow
from molflowctl.flows.state import Ragged

NORMAL = MixtureFlow([1.0], [[0.0]], [1.0])


def place() -> Reward:
    return Reward(lambda x: x[:, 0], name="place")


def normals(n: int, seed: int = 0, mean: float = 0.0) -> torch.Tensor:
    return mean + torch.randn(n, 1, generator=torch.Generator().manual_seed(seed))


def quantiles(n: int) -> torch.Tensor:
    """Evenly spread points of `N(0, 1)`, `(n, 1)`."""
    return torch.special.ndtri((torch.arange(n).double() + 0.5) / n).float()[:, None]


def below(x: torch.Tensor, limit: float = 50.0) -> Population:
    """The points, those below a limit being valid."""
    return Population(x, valid=x[:, 0] < limit)


def density() -> Tabulated:
    return Tabulated(None, torch.zeros(0))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.7, 1.3])
def test_the_walked_share_inverts_the_tilted_mean(share) -> None:
    tilt = 3 + normals(5000)[:, 0].double()
    reached = self_normalised(tilt, tilt, share)[0]
    assert walked_share(tilt, reached) == pytest.approx(share, abs=1e-6)


def test_the_walked_share_stays_in_its_bounds() -> None:
    tilt = normals(100)[:, 0]
    assert walked_share(tilt, -10.0) == pytest.approx(0, abs=1e-9)
    assert walked_share(tilt, 10.0, limit=1.5) == pytest.approx(1.5, abs=1e-9)


def moments(x: torch.Tensor) -> torch.Tensor:
    return torch.stack([x, x**2], 1)


@pytest.mark.parametrize(("mean", "spread"), [(0.0, 1.0), (0.5, 1.0), (0.4, 0.8), (-0.3, 1.2)])
def test_a_projection_finds_the_tilt_between_two_gaussians(mean: float, spread: float) -> None:
    """`log N(m, s^2) / N(0, 1) = (m / s^2) x + (1 - 1/s^2) x^2 / 2 + const`."""
    x = quantiles(50_001)[:, 0].double()
    wanted = torch.tensor([mean / spread**2, 0.5 * (1 - 1 / spread**2)]).double()
    means = moments(mean + spread * x).mean(0)
    for start in (torch.zeros(2), torch.tensor([0.5, 0.1])):
        found = projection(moments(x), means, start.double())
        # The ridge holds it back by a hundredth, and fifty thousand points have no far tails.
        torch.testing.assert_close(found, wanted, rtol=0.02, atol=0.02)


def test_a_projection_stays_at_its_start_where_features_are_alike() -> None:
    x = normals(2000)[:, :1].double()
    features = torch.cat([x, 2 * x, torch.ones_like(x)], 1)
    means = self_normalised(x[:, 0], x[:, 0], 0.6)[0] * torch.tensor([1.0, 2, 0]).double()
    means[2] = 1.0
    found = projection(features, means, torch.tensor([0.6, 0.0, 0.3]).double())
    torch.testing.assert_close(found, torch.tensor([0.6, 0.0, 0.3]).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("mean", [-8.0, 8.0])
def test_means_that_no_tilt_of_the_points_has_give_a_finite_one(mean: float) -> None:
    x = normals(500)[:, 0].double()
    found = projection(moments(x), torch.tensor([mean, mean**2]).double(), torch.zeros(2).double())
    assert found.isfinite().all()


@pytest.mark.parametrize(("mean", "spread"), [(0.6, 1.0), (0.6, 0.7), (0.2, 1.2)])
def test_a_walk_that_went_astray_knows_where_it_is_and_asks_back(
    mean: float, spread: float
) -> None:
    """Asked for a super-quantile, the flow came to `N(m, s^2)`: what is next leads from there."""
    r = place()
    tail = Reward(lambda x: (x[:, 0] - 1).clamp_min(0), name="tail")
    x = quantiles(20_001)
    walk = Annealing(density(), x, rewards=[r])
    walk.ask(tail, 1)
    walk.arrived(mean + spread * x)
    at, log_ratio = torch.linspace(-1.5, 1.5, 7)[:, None], torch.distributions.Normal(mean, spread)
    expected = log_ratio.log_prob(at[:, 0]) - torch.distributions.Normal(0, 1).log_prob(at[:, 0])
    found = walk.reward.value(at)
    torch.testing.assert_close(found - found[3], expected - expected[3], rtol=0.05, atol=0.05)
    back = walk.ask(tail, 1).value(at)
    wanted = tail.value(at) - expected
    assert torch.corrcoef(torch.stack([back, wanted]))[0, 1] > 0.99


@pytest.mark.parametrize("spread", [0.7, 1.3])
def test_by_means_alone_a_density_of_another_width_is_where_its_mean_is(spread: float) -> None:
    """`N(m, s^2)` is read as `N(m, 1)`, the tilt by `m x`: nothing is asked back of its width."""
    x, r = quantiles(20_001), place()
    walk = Annealing(density(), x, rewards=[r], matched_moments=1)
    walk.ask(0.6 * r, 1)
    walk.arrived(0.6 + spread * x)
    at = torch.linspace(-1.5, 1.5, 7)[:, None]
    found = walk.reward.value(at)
    torch.testing.assert_close(found - found[3], 0.6 * at[:, 0], rtol=0.02, atol=0.02)
    assert walk.ask(0.6 * r, 1).value(at).abs().max() < 0.03


def test_a_reward_that_is_the_same_everywhere_tells_nothing() -> None:
    walk = Annealing(density(), quantiles(100), rewards=[Reward(lambda x: 0 * x[:, 0] + 3)])
    walk.ask(place(), 1)
    walk.arrived(quantiles(100) + 0.5)
    assert float(walk.reward.value(torch.ones(1, 1))) == pytest.approx(0.5, abs=0.02)


def test_squares_have_the_gradient_of_squares() -> None:
    walk = Annealing(density(), quantiles(1001), rewards=[place()])
    walk.ask(place(), 1)
    walk.arrived(0.3 + 0.8 * quantiles(1001))
    x, h = torch.tensor([[0.7]]), 1e-2
    up, down = (float(walk.reward.value(x + e)) for e in (h, -h))
    assert float(walk.reward.gradient(x)) == pytest.approx((up - down) / (2 * h), rel=1e-3)


@pytest.mark.parametrize("way", [0.3, 0.8, 1.1])
def test_failures_that_no_tilt_mends_are_not_read_as_a_way_not_walked(way) -> None:
    """A flow at `N(way, 1)`, one in twenty of whose states fails, as of the prior's, at a price."""

    def spoilt(x: torch.Tensor) -> torch.Tensor:
        x[::20] += 100
        return x

    price = Reward(lambda x: -5.0 * (x[:, 0] > 50), name="price")
    height = Reward(lambda x: x[:, 0] - 100 * (x[:, 0] > 50), name="height")
    shares = []
    for valid in (below, lambda x: x):
        walk = Annealing(density(), valid(spoilt(quantiles(20_000))))
        walk.ask(height + price, 1)
        walk.arrived(valid(spoilt(quantiles(20_000) + way)))
        shares.append(float(walk.reward.value(torch.tensor([[1.0]]))))
    assert shares[0] == pytest.approx(way, abs=0.01)
    assert shares[1] < way - 0.1


@pytest.mark.parametrize("every", [20, 10])
@pytest.mark.parametrize("way", [0.5, 1.0, 1.8])
def test_the_price_of_failing_is_asked_for_whatever_else_came(way: float, every: int) -> None:
    """Beyond its goal the flow is asked back, and not asked to fail; one that fails more often than
    the prior's one in twenty is asked for as much more."""

    def spoilt(x: torch.Tensor, every: int) -> torch.Tensor:
        x[
            torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[: len(x) // every]
        ] += 100
        return x

    price = Reward(lambda x: -3.0 * (x[:, 0] > 50), name="price")
    height = Reward(lambda x: x[:, 0] - 100 * (x[:, 0] > 50), name="height")
    walk = Annealing(density(), below(spoilt(quantiles(20_000), 20)), [height, price])
    walk.ask(height + price, 1)
    walk.arrived(below(spoilt(quantiles(20_000) + way, every)))
    change = walk.ask(height + price, 1).value(torch.tensor([[0.0], [1.0], [100.0]]))
    odds = math.log(19) - math.log(every - 1)
    assert float(change[1] - change[0]) == pytest.approx(1 - way, abs=0.05)
    assert float(change[2] - change[0]) == pytest.approx(-3 - odds, abs=0.1)


def test_a_flow_that_draws_nothing_valid_ends_the_walk() -> None:
    walk = Annealing(density(), below(quantiles(100)))
    walk.ask(place(), 1)
    with pytest.raises(UserError, match="none of 100 states"):
        walk.arrived(below(quantiles(100) + 100))


def test_populations_of_tilts_stand_together_for_the_tilt_asked_for() -> None:
    r = place()
    walk = Annealing(density(), normals(40_000))
    for k, mean in enumerate((0.4, 0.8), 1):
        walk.reward = mean * r
        walk.went(normals(40_000, k, mean))
    walk.reward = 0.6 * r
    sample = walk.sample()
    x = torch.cat([group[:, 0] for group in sample.states.groups])
    assert sample.mean(x) == pytest.approx(0.6, abs=0.02)
    assert sample.mean((x - 0.6).square()) == pytest.approx(1.0, abs=0.03)
    assert sample.mean(r.value(sample.states)) == pytest.approx(0.6, abs=0.02)
    parts = torch.tensor([part.sum() for part in sample.shares.split(40_000)])
    sizes = torch.tensor([math.exp(-((0.6 - s) ** 2)) for s in (0.0, 0.4, 0.8)])  # of normal tilts
    torch.testing.assert_close(parts.double(), (sizes / sizes.sum()).double(), rtol=0.05, atol=0)
    # log Z of exp(0.6 x) under N(0, 1)
    assert sample.density.log_normaliser == pytest.approx(0.18, abs=0.02)


@pytest.mark.parametrize(
    "utility", [Mean, lambda r: SuperQuantile(r, 0.8), lambda r: MeanVariance(r, 0.3)]
)
def test_an_oracle_is_asked_once_for_every_sample(utility) -> None:
    r = place()
    objective = utility(r) - KL(NORMAL) - ForwardKL(NORMAL)
    control = FlowDensityControl(
        objective, Partial(0.8), steps=4, anchor=Annealed(), points=300, draw=exact
    )
    control.run(NORMAL, prior=NORMAL)
    # Partial asks at two points of its own, a term of the tilt at a time.
    assert r.calls % 300 <= 200
    assert 1200 <= r.calls < 1500


@dataclass(frozen=True)
class Partial:
    """An inner solver that is exact for the reward `c x`, but for a factor."""

    factor: float

    def solve(self, tilt: Tilt) -> MixtureFlow:
        ends = torch.tensor([[-1.0], [1.0]])
        low, high = tilt.reward.value(ends)
        step = self.factor * float(high - low) / 2
        return MixtureFlow([1.0], (tilt.flow.means + step).tolist(), [1.0])


def exact(flow: MixtureFlow, n: int, seed: int, nfe: int) -> torch.Tensor:
    return quantiles(n) + flow.means


@pytest.mark.parametrize(("arrive", "planned"), [(0.4, 2), (0.5, 3), (0.8, 4), (1.0, 5)])
@pytest.mark.parametrize("factor", [0.1, 0.4, 0.6, 0.8, 1.0, 1.3])
@pytest.mark.parametrize("carry", [0.0, 0.7])
def test_a_solver_that_misses_closes_in_on_the_optimum(factor, carry, arrive, planned) -> None:
    """Equal shares of what is left are asked for, and all of it once the plan has run out, with a
    share of what was asked for before and did not come."""
    kl, steps = 2.0, 5
    seen: list[float] = []
    control = FlowDensityControl(
        Mean(place()) - kl * KL(NORMAL), Partial(factor), steps=steps, step_size=Constant(1 / kl),
        anchor=Annealed(arrive, carry), points=20_000, draw=exact,
        report=lambda step: seen.append(float(step.flow.means)),
    )  # fmt: skip
    control.run(NORMAL, prior=NORMAL)
    left, asked, means = 1.0, 0.0, []
    for k in range(steps):
        asked = left / max(1, planned - k) + carry * (1 - factor) * asked
        left -= factor * asked
        means.append((1 - left) / kl)
    assert seen == pytest.approx(means, abs=0.01)


@dataclass(frozen=True)
class Astray:
    """An inner solver that moves the mean as asked, and what it should leave alone besides."""

    widen: float

    def solve(self, tilt: Tilt) -> MixtureFlow:
        low, centre, high = tilt.reward.value(torch.tensor([[-1.0], [0.0], [1.0]]))
        variance = tilt.flow.variances
        # Of `N(m, v) exp(l x + q x^2)`.
        slope, bend = (high - low) / 2, (high + low - 2 * centre) / 2
        new = 1 / (1 / variance - 2 * bend)
        mean = new * (tilt.flow.means[0, 0] / variance + slope)
        return MixtureFlow([1.0], [[float(mean)]], [float(new.sqrt()) * self.widen])


@pytest.mark.parametrize("widen", [0.8, 1.2])
def test_what_a_solver_did_unasked_is_asked_back(widen: float) -> None:
    """`E[x] - KL` is best at `N(1, 1)`. With every step a factor of the spread comes in; the next
    one asks for its opposite, so that one factor is left, where five steps would have made five.
    """

    def draw(flow: MixtureFlow, n: int, seed: int, nfe: int) -> torch.Tensor:
        return flow.means + flow.variances.sqrt() * quantiles(n)

    control = FlowDensityControl(
        Mean(place()) - KL(NORMAL), Astray(widen), steps=5, anchor=Annealed(anneal_fraction=0.2),
        points=20_000, draw=draw,
    )  # fmt: skip
    flow = control.run(NORMAL, prior=NORMAL)
    assert float(flow.means) == pytest.approx(1.0, abs=0.05)
    assert float(flow.variances.sqrt()) == pytest.approx(widen, rel=0.05)


@pytest.mark.parametrize("utility", [Mean, lambda r: SuperQuantile(r, 0.8), lambda r: CVaR(r, 0.3)])
def test_values_alone_walk_to_the_optimum_of_a_utility(utility) -> None:
    """Against the best reweighting of many points of the prior, by the mean and the spread."""
    torch.manual_seed(0)
    r = place()
    objective = utility(r) - 4 * KL(NORMAL)
    x = quantiles(4001)
    best = optimal_weights(objective, x, NORMAL)
    mean = best.mean(x[:, 0])
    spread = best.mean((x[:, 0] - mean).square()) ** 0.5
    control = FlowDensityControl(
        objective, ReinforceAdjointMatching(steps=150, batch=256, lr=5e-3, latest=0.97, clip=10),
        steps=8, step_size=Constant(0.25), anchor=Annealed(), points=3000, nfe=60,
    )  # fmt: skip
    flow = control.run(NORMAL.trainable(32), prior=NORMAL)
    drawn = flow.draw_states(20_000, seed=5, nfe=60)
    assert float(drawn.mean()) == pytest.approx(mean, abs=0.05)
    assert float(drawn.std()) == pytest.approx(spread, abs=0.05)


def test_a_walk_that_leaves_the_prior_for_good_is_stopped() -> None:
    far = FlowDensityControl(
        Mean(place()) - 0.5 * KL(NORMAL),
        Partial(1e3),
        steps=3,
        anchor=Annealed(),
        points=200,
        draw=exact,
    )
    with pytest.raises(UserError, match="diverged at step 1"):
        far.run(NORMAL, prior=NORMAL)


def test_a_ragged_population_is_walked_as_one() -> None:
    groups = Ragged([normals(300), normals(200, 1)])
    walk = Annealing(density(), groups)
    change = walk.ask(place(), 1)
    assert change.value(walk.sample().states).shape == (500,)
