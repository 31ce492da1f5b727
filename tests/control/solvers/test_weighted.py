"""Weights: their effective size, tilts in parts, fits to weighted points, optima on a grid."""

import math

import pytest
import torch

from molflowctl.control.bank import ReplayBuffer
from molflowctl.control.objectives.density import Exact, Tilted
from molflowctl.control.objectives.divergences import KL, ForwardKL
from molflowctl.control.objectives.reward import Reward
from molflowctl.control.objectives.utilities import CVaR, Entropy, Mean
from molflowctl.control.solvers.solver import Tilt
from molflowctl.control.solvers.weighted import (
    WeightedFlowMatching,
    effective_share,
    optimal_weights,
    stratified,
)
from molflowctl.errors import UserError
from molflowctl.flows.mixture import MixtureFlow
from molflowctl.flows.noise import BatchNoise
from molflowctl.flows.state import Ragged


@pytest.fixture(autouse=True)
def seeded():
    """The first layers of networks are random."""
    torch.manual_seed(0)


# Effective size -------------------------------------------------------------------------------


def test_equal_weights_are_all_effective_and_one_point_is_one():
    assert effective_share(torch.full((50,), -3.0)) == pytest.approx(1)
    alone = torch.full((50,), -1000.0)
    alone[3] = 0
    assert effective_share(alone) == pytest.approx(1 / 50)
    some = torch.full((50,), -1000.0)
    some[:10] = 7
    assert effective_share(some) == pytest.approx(10 / 50)


@pytest.mark.parametrize("shift", [-1e4, 0.0, 1e4])
def test_a_tilt_of_a_gaussian_leaves_the_share_of_the_closed_form(shift):
    """`E[w]^2 / E[w^2] = exp(-s^2)` for `w = exp(s z)`, whatever the normaliser."""
    uniform = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    z = torch.special.ndtri(uniform)
    for s in (0.3, 1.0):
        assert effective_share(s * z + shift) == pytest.approx(math.exp(-(s**2)), rel=2e-3)


# Tilts in parts -------------------------------------------------------------------------------


class Recording(WeightedFlowMatching):
    """Fits without error: the tilt by `exp(s x)` of `N(m, 1)` is `N(m + s, 1)`."""

    def fit(self, flow, x, weights, seed=0):
        log_w = weights.log()
        far, near = x[:, 0].argmax(), x[:, 0].argmin()
        share = float((log_w[far] - log_w[near]) / (x[far, 0] - x[near, 0]).double())
        shares.append(share)
        effective.append(effective_share(log_w))
        return MixtureFlow([1.0], [[sum(shares)]], [1.0])


shares: list[float] = []
effective: list[float] = []


@pytest.mark.parametrize(("strength", "least"), [(0.5, 1), (2.0, 2), (-3.0, 3)])
def test_parts_of_a_tilt_add_up_to_it(strength, least):
    shares.clear()
    effective.clear()
    solver = Recording(points=2000, nfe=20, refresh=0.3)
    tilt = Tilt(MixtureFlow([1.0], [[0.0]], [1.0]), Reward(lambda x: strength * x[:, 0]))
    reached = solver.solve(tilt)
    assert least <= len(shares) <= least + 1
    assert sum(shares) == pytest.approx(strength)
    assert float(reached.means) == pytest.approx(strength)
    assert min(effective) > 0.3 - 1e-6
    # All parts but the last use the bank up.
    assert effective[:-1] == pytest.approx([0.3] * (len(shares) - 1), abs=1e-3)


def test_the_last_part_takes_what_is_left():
    shares.clear()
    effective.clear()
    solver = Recording(points=500, nfe=10, refresh=0.5, parts=2)
    solver.solve(Tilt(MixtureFlow([1.0], [[0.0]], [1.0]), Reward(lambda x: 3 * x[:, 0])))
    assert len(shares) == 2
    assert sum(shares) == pytest.approx(3)
    assert effective[1] < 0.3 < 0.5 == pytest.approx(effective[0], abs=1e-3)


def test_rewards_are_asked_once_per_point():
    reward = Reward(lambda x: x[:, 0], differentiable=False)
    solver = WeightedFlowMatching(points=100, nfe=5, steps=3, batch=8)
    solver.solve(Tilt(MixtureFlow([1.0], [[0.0]], [1.0]).trainable(4, 1), reward))
    assert reward.calls == 100


# Fits -----------------------------------------------------------------------------------------


def test_a_fit_has_the_moments_of_the_weighted_points():
    x = MixtureFlow([1.0], [[0.0]], [1.0]).exact_sample(4000, 1)
    weights = (1.2 * x[:, 0]).exp().double()
    start = MixtureFlow([1.0], [[0.0]], [1.0]).trainable(32)
    new = WeightedFlowMatching(steps=400, batch=256, lr=1e-2).fit(start, x, 5 * weights, seed=2)
    drawn = new.draw_states(8000, seed=3, sampler="heun", nfe=40)
    share = weights / weights.sum()
    mean = float((share * x[:, 0]).sum())
    sd = float((share * (x[:, 0] - mean).square()).sum().sqrt())
    assert mean > 1
    # The effective size is 950: the shift is known to 0.03 by any fit.
    assert float(drawn.mean()) == pytest.approx(mean, abs=0.08)
    assert float(drawn.std()) == pytest.approx(sd, abs=0.08)


@pytest.mark.parametrize("strength", [0.8, -2.0])
def test_a_solve_moves_the_mean_by_the_variance(strength):
    base = MixtureFlow([1.0], [[0.4]], [0.8])
    tilt = Tilt(base, Reward(lambda x: strength * x[:, 0]), base.trainable(32), seed=1)
    solver = WeightedFlowMatching(points=3000, nfe=100, steps=250, batch=256, lr=1e-2)
    drawn = solver.solve(tilt).draw_states(8000, seed=3, sampler="heun", nfe=40)
    assert float(drawn.mean()) == pytest.approx(0.4 + 0.64 * strength, abs=0.12)


def test_what_cannot_be_served_is_said():
    tilt = Tilt(
        MixtureFlow([1.0], [[0.0]], [1.0]).trainable(4, 1),
        Reward(lambda x: x[:, 0]),
        running=lambda x, t: x,
    )
    with pytest.raises(UserError, match="no use for a running reward"):
        WeightedFlowMatching().solve(tilt)
    broken = Reward(lambda x: x[:, 0] * math.nan, name="broken")
    with pytest.raises(UserError, match="broken is not finite for 50 of 50"):
        WeightedFlowMatching(points=50, nfe=4).solve(Tilt(tilt.base, broken))


# Optima ---------------------------------------------------------------------------------------

A = MixtureFlow([0.5, 0.5], [[-1.0], [0.6]], [0.6, 0.5])
B = MixtureFlow([0.3, 0.7], [[0.0], [1.0]], [0.7, 0.6])
GRID = torch.arange(-4.5, 4.5, 0.05, dtype=torch.float64)[:, None]
PRIOR = A.log_density(GRID).softmax(0)
WAVE = Reward(lambda x: (2 * x[:, 0]).sin(), name="wave")
LOG_A, LOG_B, F = A.log_density(GRID), B.log_density(GRID), WAVE.value(GRID)


def union_with_reward(strength: float) -> torch.Tensor:
    """`sum p_i / (m - f)`, `m` such that it is a density."""
    parts, f = LOG_A.softmax(0) + LOG_B.softmax(0), strength * F
    low, high = float(f.max()) + 1e-9, float(f.max()) + 10
    for _ in range(200):
        m = (low + high) / 2
        low, high = (m, high) if float((parts / (m - f)).sum()) > 1 else (low, m)
    return parts / (m - f)


OPTIMA = {
    "mean and KL": (Mean(WAVE) - 0.5 * KL(A), (LOG_A + F / 0.5).softmax(0)),
    "intersection": (-KL(A) - KL(B), ((LOG_A + LOG_B) / 2).softmax(0)),
    "intersection, reward": (
        Mean(WAVE) - KL(A) - 3 * KL(B),
        ((LOG_A + 3 * LOG_B + F) / 4).softmax(0),
    ),
    "entropy and KL": (
        Mean(WAVE) + 0.3 * Entropy() - 0.7 * KL(B),
        ((0.7 * LOG_B + F) / 1.0).softmax(0),
    ),
    "forward KL": (-1.0 * ForwardKL(B), LOG_B.softmax(0)),
    "union, reward": (
        0.8 * Mean(WAVE) - ForwardKL(A, bound=1e6) - ForwardKL(B, bound=1e6),
        union_with_reward(0.8),
    ),
}


@pytest.mark.parametrize("name", OPTIMA)
@pytest.mark.parametrize("step_size", [0.05, 20.0])
def test_the_best_weights_are_the_closed_form(name, step_size):
    objective, expected = OPTIMA[name]
    found = optimal_weights(
        objective, GRID, A, base_weights=7 * PRIOR,
        step_size=step_size, steps=4000, tolerance=1e-14,
    )  # fmt: skip
    assert float(found.shares.sum()) == pytest.approx(1)
    assert float((found.shares - expected).abs().sum() / 2) < 5e-3
    assert float((PRIOR - expected).abs().sum() / 2) > 0.05
    # The density that comes with the weights is theirs.
    density = found.density
    assert isinstance(density, Tilted)
    assert density.base == Exact(A)
    exact = (found.shares / 0.05).log()
    inside = expected > 1e-6
    torch.testing.assert_close(density.log_density(GRID)[inside], exact[inside], rtol=0, atol=1e-3)


def test_the_best_weights_of_samples():
    """Without base weights the points count as drawn from the prior."""
    x = A.exact_sample(6000, 5)
    found = optimal_weights(Mean(WAVE) - 0.5 * KL(A), x, A)
    assert isinstance(found.density, Tilted)
    weights = torch.softmax(WAVE.value(x).double() / 0.5, 0)
    torch.testing.assert_close(found.shares, weights, rtol=2e-2, atol=1e-6)


@pytest.mark.parametrize("level", [0.1, 0.5])
def test_the_objective_never_falls(level):
    objective = CVaR(WAVE, level) - 0.3 * KL(A)
    values = [
        objective.value(optimal_weights(objective, GRID, A, base_weights=PRIOR, steps=n))
        for n in (1, 2, 5, 20, 100)
    ]
    assert values == sorted(values)
    assert values[-1] > values[0] + 0.01


def test_there_is_one_time_in_every_stratum() -> None:
    times = stratified(64, BatchNoise(0))
    assert sorted((times * 64).long().tolist()) == list(range(64))
    assert times.argsort().tolist() != list(range(64))


def test_a_time_is_never_one() -> None:
    class Last:
        def uniform(self, n: int) -> torch.Tensor:
            return torch.full((n,), 1 - 2**-24)

    assert (1023 + Last().uniform(1)) / 1024 == 1  # what rounding does
    assert float(stratified(1024, Last()).max()) < 1  # type: ignore[arg-type]


def test_a_bank_stands_for_points_that_would_be_drawn() -> None:
    torch.manual_seed(0)
    flow = MixtureFlow([1.0], [[0.5]], [0.8]).trainable(32)
    x = flow.draw_states(8000, seed=3, nfe=60)
    reward = Reward(lambda x: 0.9 * x[:, 0])
    bank = ReplayBuffer.of(x, reward.value(x))
    new = WeightedFlowMatching(steps=400, batch=256).solve(Tilt(flow, reward, bank=bank))
    drawn = new.draw_states(20_000, seed=7, nfe=60)
    assert float(drawn.mean()) == pytest.approx(0.5 + 0.64 * 0.9, abs=0.06)
    assert float(drawn.std()) == pytest.approx(0.8, rel=0.08)


def test_the_best_weights_do_not_depend_on_how_points_are_grouped() -> None:
    prior = MixtureFlow([1.0], [[0.0]], [1.0])
    x = prior.exact_sample(500, 0)
    reward = Reward(lambda x: x[:, 0])
    objective = CVaR(reward, 0.3) - 0.8 * KL(prior)
    whole = optimal_weights(objective, x, prior)
    parts = optimal_weights(objective, Ragged([x[:200], x[200:]]), prior)
    torch.testing.assert_close(whole.shares, parts.shares, rtol=1e-6, atol=1e-9)
