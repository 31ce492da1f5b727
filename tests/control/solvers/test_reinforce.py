"""Steering exact flows whose tilted densities are known.

The flows below are exact and their parameters are those of the density itself, so the result of a
tilt is read off them. Banks hold samples whose moments are exactly the density's; what is left is
the noise of the optimiser, whose measured spread over seeds is said with each tolerance.
"""

import math

import pytest
import torch

from molflowctl.control.bank import ReplayBuffer
from molflowctl.control.objectives.reward import Reward
from molflowctl.control.solvers.reinforce import ReinforceAdjointMatching
from molflowctl.control.solvers.solver import Tilt
from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow
from molflowctl.flows.mixture import MixtureFlow
from molflowctl.flows.state import State

MEAN = torch.tensor([1.0, -0.5])
COVARIANCE = torch.tensor([[0.5, 0.2], [0.2, 0.3]])


class GaussianFlow(Flow):
    """The exact flow of `N(m, L L^T)`."""

    def __init__(self, mean: torch.Tensor, covariance: torch.Tensor) -> None:
        super().__init__()
        self.mean = torch.nn.Parameter(mean.clone())
        self.factor = torch.nn.Parameter(torch.linalg.cholesky(covariance))

    @property
    def covariance(self) -> torch.Tensor:
        return self.factor @ self.factor.T

    def noise_like(self, x, noise):
        return noise.normal(*x.shape)

    def endpoint(self, x, t):
        t = t[:, None]
        spread = (t**2)[..., None] * self.covariance + ((1 - t) ** 2)[..., None] * torch.eye(
            len(self.mean)
        )
        gap = torch.linalg.solve(spread, x - t * self.mean)
        return self.mean + t * gap @ self.covariance

    @torch.no_grad()
    def draw(self, n: int, seed: int) -> torch.Tensor:
        """Samples whose mean and covariance are exactly the density's."""
        z = torch.randn(n, len(self.mean), generator=torch.Generator().manual_seed(seed))
        z = z - z.mean(0)
        z = z @ torch.linalg.inv(torch.linalg.cholesky(z.T @ z / n)).T
        return self.mean + z @ self.factor.T


def solver(**settings) -> ReinforceAdjointMatching:
    return ReinforceAdjointMatching(
        **{"steps": 120, "batch": 512, "lr": 5e-3, "clip": 10} | settings
    )


@pytest.mark.parametrize("c", [(1.0, -1.0), (0.0, 2.0), (-1.0, 0.5)])
@pytest.mark.parametrize("strength", [0.5, -0.3])
def test_a_linear_reward_moves_the_mean_by_the_covariance(c, strength) -> None:
    """`N(m, C) exp(s c.x)` is `N(m + s C c, C)`: a single step is exact."""
    c = torch.tensor(c)
    flow = GaussianFlow(MEAN, COVARIANCE)
    x = flow.draw(20_000, seed=1)
    new = solver().mirror_step(flow, ReplayBuffer([x], [x @ c]), strength)
    # Over seeds the mean spreads by 0.003, the covariance by 0.009.
    expected = MEAN + strength * COVARIANCE @ c
    torch.testing.assert_close(new.mean.data, expected, rtol=0, atol=0.015)
    torch.testing.assert_close(new.covariance.data, COVARIANCE, rtol=0, atol=0.03)


def test_a_constant_offset_of_the_reward_changes_nothing() -> None:
    flow = GaussianFlow(MEAN, COVARIANCE)
    x = flow.draw(1000, seed=1)
    a, b = (
        solver(steps=10).mirror_step(flow, ReplayBuffer([x], [x[:, 0] + o]), 0.5)
        for o in (0.0, 64.0)
    )
    torch.testing.assert_close(a.mean, b.mean, rtol=0, atol=1e-4)


def test_no_strength_no_change_and_the_old_flow_stays() -> None:
    flow = GaussianFlow(MEAN, COVARIANCE)
    x = flow.draw(100, seed=1)
    bank = ReplayBuffer([x], [x[:, 0]])
    for strength in (0.0, 1.0):
        new = solver(steps=5).mirror_step(flow, bank, strength)
        assert torch.equal(flow.mean, MEAN)
        assert torch.equal(new.mean, MEAN) == (strength == 0)
        assert flow.mean.requires_grad


def test_equal_seeds_give_equal_flows() -> None:
    flow = GaussianFlow(MEAN, COVARIANCE)
    x = flow.draw(100, seed=1)
    one, two, other = (
        solver(steps=5).mirror_step(flow, ReplayBuffer([x], [x[:, 0]]), 1.0, seed=seed).mean
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


class PairFlow(Flow):
    """Two independent unit Gaussians as parts of one state."""

    def __init__(self) -> None:
        super().__init__()
        self.means = torch.nn.ParameterDict({"a": torch.zeros(2), "b": torch.zeros(1, 3)})

    def noise_like(self, x, noise):
        return x.map(lambda part: noise.normal(*part.shape))

    def endpoint(self, x, t):
        def part(name):
            u = t.view(-1, *[1] * (x[name].ndim - 1))
            gap = x[name] - u * self.means[name]
            return self.means[name] + u / (u**2 + (1 - u) ** 2) * gap

        return State(a=part("a"), b=part("b"))


@pytest.mark.parametrize("parts", [(), ("a",), ("b",), ("a", "b")])
def test_a_reward_moves_the_parts_it_depends_on_of_those_that_are_steered(parts) -> None:
    g = torch.Generator().manual_seed(0)
    groups = [
        State(a=torch.randn(n, 2, generator=g), b=torch.randn(n, 1, 3, generator=g))
        for n in (6000, 14_000)
    ]
    bank = ReplayBuffer(groups, [x["a"][:, 0] - 2 * x["b"][:, 0, 2] for x in groups])
    new = solver(lr=2e-2, parts=parts).mirror_step(PairFlow(), bank, 0.2)
    # The bank is random: the standard error of a covariance is sqrt(5 + 1) / sqrt(20 000), times
    # 0.2; with the optimiser's noise the spread over seeds is 0.008.
    expected = {"a": torch.tensor([0.2, 0.0]), "b": torch.tensor([[0.0, 0.0, -0.4]])}
    for name, mean in expected.items():
        moved = mean if not parts or name in parts else torch.zeros_like(mean)
        torch.testing.assert_close(new.means[name].data, moved, rtol=0, atol=0.03)


class TwoPeaks(Flow):
    """The exact flow of two narrow Gaussians on a line; it learns their log-odds alone."""

    centres = torch.tensor([-1.0, 1.0])
    variance = 0.04

    def __init__(self, share: float) -> None:
        super().__init__()
        self.log_odds = torch.nn.Parameter(torch.tensor(share).logit())

    def noise_like(self, x, noise):
        return noise.normal(*x.shape)

    def endpoint(self, x, t):
        t = t[:, None]
        spread = t**2 * self.variance + (1 - t) ** 2
        gap = x - t * self.centres  # (B, 2)
        prior = torch.stack([torch.zeros(()), self.log_odds])
        means = self.centres + t * self.variance / spread * gap
        return ((prior - 0.5 * gap**2 / spread).softmax(1) * means).sum(1, keepdim=True)

    @torch.no_grad()
    def draw(self, n: int, seed: int) -> torch.Tensor:
        right = torch.arange(n) < round(n * self.log_odds.sigmoid().item())
        z = torch.randn(n, generator=torch.Generator().manual_seed(seed))
        return (self.centres[right.long()] + self.variance**0.5 * z)[:, None]


@pytest.mark.parametrize("steps", [1, 8])
@pytest.mark.parametrize(("share", "strength"), [(0.5, 1.0), (0.2, 2.0), (0.7, -1.5), (0.5, -3.0)])
def test_weights_of_a_mixture_follow_the_exponential(share, strength, steps) -> None:
    """A reward of 1 on the right alone: the log-odds grow by `s`, in one step as in several.

    To first order one step would make 1.1 of the first, and the last could have no share at all.
    """
    flow = start = TwoPeaks(share)
    for step in range(steps):
        x = flow.draw(2000, seed=step)
        bank = ReplayBuffer([x], [(x[:, 0] > 0).float()])
        inner = solver(steps=480 if steps == 1 else 160, lr=2e-2)
        flow = inner.mirror_step(flow, bank, strength / steps, seed=step)
    # Over seeds the spread is 0.03; short fits of a small share overshoot, by 7 % in 60 steps.
    moved = (flow.log_odds - start.log_odds).item()
    assert moved == pytest.approx(strength, abs=0.03 * abs(strength) + 0.03)


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("q", [-2.0, -0.5, 0.2])
def test_a_step_is_exact_at_any_strength(q, steps) -> None:
    """`N(0, v) exp(s q x^2)` has the variance `1 / (1/v - 2 s q)`.

    To first order one step would make it 0.02, 0.37 and 1.49; the tilts are 0.2, 0.5 and 1.67.
    """
    flow = GaussianFlow(torch.zeros(1), torch.eye(1))
    for step in range(steps):
        x = flow.draw(20_000, seed=step)
        bank = ReplayBuffer([x], [q * x[:, 0].square()])
        flow = solver(steps=400 // steps, lr=1e-2).mirror_step(flow, bank, 1 / steps, seed=step)
    assert flow.covariance.item() == pytest.approx(1 / (1 - 2 * q), rel=0.04)


def test_what_a_step_learns_does_not_depend_on_which_points_it_draws_more_often() -> None:
    """A bank of two densities, of which weights leave one: its tilt is that one's."""
    flow = GaussianFlow(MEAN, COVARIANCE)
    x = flow.draw(5000, seed=1)
    other = x.flip(1) + 2
    weights = torch.cat([torch.ones(5000), torch.zeros(5000)])
    both = torch.cat([x, other])
    new = solver(steps=200).mirror_step(flow, ReplayBuffer.of(both, both[:, 0], weights), 0.5)
    expected = MEAN + 0.5 * COVARIANCE[0]
    torch.testing.assert_close(new.mean.data, expected, rtol=0, atol=0.02)


# The solver of a whole tilt ---------------------------------------------------------------------


def drawn_variance(q: float, rounds: int) -> float:
    """Of the solver's flow; 20,000 points know it to 1 %, what it learns from to 3 %."""
    torch.manual_seed(0)
    flow = MixtureFlow([1.0], [[0.0]], [1.0]).trainable(32)
    inner = ReinforceAdjointMatching(
        steps=1000 // rounds, batch=256, lr=5e-3, rounds=rounds, clip=10, points=4000,
        nfe=100, latest=0.95,
    )  # fmt: skip
    reward = Reward(lambda x: q * x[:, 0].square(), differentiable=False)
    new = inner.solve(Tilt(flow, reward))
    assert reward.calls == 4000 * rounds
    return float(new.draw_states(20_000, seed=7, sampler="heun", nfe=60).var())


@pytest.mark.parametrize("rounds", [1, pytest.param(10, marks=pytest.mark.slow)])
@pytest.mark.parametrize("q", [-0.5, -1.0])
def test_a_large_tilt_is_exact_in_any_number_of_rounds(q, rounds):
    """`N(0, 1) exp(q x^2)` has the variance `1 / (1 - 2 q)`, 0.5 and 0.33.

    To first order, without weights, one step would make it `exp(2 q)`, 0.37 and 0.14: there the
    endpoint `k x_t`, `k = t / (t^2 + (1-t)^2)`, becomes `k x_t (1 + 2 q u)` with the posterior's
    variance `u = (1-t)^2 / (t^2 + (1-t)^2)`, where the tilt's is `k x_t / (1 - 2 q u)`.
    """
    assert drawn_variance(q, rounds) == pytest.approx(1 / (1 - 2 * q), rel=0.06)


@pytest.mark.parametrize("rounds", [1, 5])
def test_a_solve_of_a_linear_reward_is_exact_in_any_number_of_rounds(rounds):
    torch.manual_seed(0)
    flow = MixtureFlow([1.0], [[0.5]], [0.8]).trainable(32)
    inner = ReinforceAdjointMatching(
        steps=500 // rounds, batch=256, lr=5e-3, rounds=rounds, points=4000, nfe=100
    )
    new = inner.solve(Tilt(flow, Reward(lambda x: -0.9 * x[:, 0])))
    drawn = new.draw_states(20_000, seed=7, sampler="heun", nfe=60)
    assert float(drawn.mean()) == pytest.approx(0.5 - 0.64 * 0.9, abs=0.06)
    assert float(drawn.var()) == pytest.approx(0.64, rel=0.1)


def test_a_solve_says_what_it_cannot_serve():
    flow = MixtureFlow([1.0], [[0.0]], [1.0]).trainable(4, 1)
    inner = ReinforceAdjointMatching(steps=2, batch=8, rounds=2, points=50, nfe=4)
    with pytest.raises(UserError, match="no use for a running reward"):
        inner.solve(Tilt(flow, Reward(lambda x: x[:, 0]), running=lambda x, t: x))
    with pytest.raises(UserError, match="broken is not finite for 50 of 50"):
        inner.solve(Tilt(flow, Reward(lambda x: x[:, 0] * math.inf, name="broken")))
