"""Value guidance against closed forms: a Gaussian and a mixture, tilted."""

import math

import pytest
import torch

from molflowctl.control.bank import ReplayBuffer
from molflowctl.control.objectives.reward import Reward
from molflowctl.control.solvers.guidance import ValueGuidance
from molflowctl.control.solvers.solver import Tilt
from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow
from molflowctl.flows.guided import Guided
from molflowctl.flows.likelihood import log_likelihood
from molflowctl.flows.mixture import MixtureFlow


def solver(**settings) -> ValueGuidance:
    common = {"steps": 800, "batch": 256, "lr": 5e-3, "nfe": 100}
    return ValueGuidance(**{**common, **settings})


def drawn(flow: Flow, n: int = 20_000) -> torch.Tensor:
    return flow.draw_states(n, seed=7, nfe=100)


@pytest.mark.parametrize(("slope", "rounds"), [([-0.9, 0.0], 1), ([0.4, 0.5], 3)])
def test_a_linear_reward_moves_the_mean_of_a_gaussian_by_its_covariance(slope, rounds):
    """`N(m, v) exp(c . x)` is `N(m + v c, v)`, in one step or in several, whose values add up."""
    flow = MixtureFlow([1.0], [[0.5, 0.0]], [0.8])
    tilted = solver(rounds=rounds, points=4000).solve(
        Tilt(flow, Reward(lambda x: x @ torch.tensor(slope)))
    )
    found = drawn(tilted)
    wanted = torch.tensor([0.5, 0.0]) + 0.64 * torch.tensor(slope)
    assert torch.allclose(found.mean(0), wanted, atol=0.06)
    assert torch.allclose(found.var(0), torch.tensor([0.64, 0.64]), rtol=0.12)


@pytest.mark.parametrize("q", [-0.5, 0.2])
def test_one_large_step_is_exact(q):
    """`N(0, v) exp(q x^2)` has the variance `v / (1 - 2 q v)`."""
    flow = MixtureFlow([1.0], [[0.0]], [1.0])
    inner = solver(rounds=1, points=20_000, batch=1024)
    found = drawn(inner.solve(Tilt(flow, Reward(lambda x: q * x[:, 0].square()))))
    assert float(found.var()) == pytest.approx(1 / (1 - 2 * q), rel=0.07)


def test_a_hinge_on_a_mixture_moves_the_tail_alone():
    prior = MixtureFlow([0.7, 0.3], [[-1.0], [1.5]], [0.6, 0.5])
    tilt = lambda x: 1.5 * (x[:, 0] - 1.2).clamp(min=0)  # noqa: E731
    x = prior.exact_sample(400_000, seed=3)
    shares, above = tilt(x).softmax(0), x[:, 0] > 1.2
    before, wanted = float(above.float().mean()), float(shares[above].sum())
    found = drawn(solver(rounds=2, points=8000).solve(Tilt(prior, Reward(tilt))))[:, 0]
    way = (float((found > 1.2).float().mean()) - before) / (wanted - before)
    assert 0.85 < way < 1.1
    assert float(found[found <= 0].mean()) == pytest.approx(float(x[x[:, 0] <= 0].mean()), abs=0.05)


def test_a_step_goes_on_from_the_value_and_leaves_the_network():
    """From points of `N(0, 1) exp(c x)`, asked for nothing, it stays there; asked for the way back,
    it is where it began.
    """
    flow = MixtureFlow([1.0], [[0.0]], [1.0]).trainable(8, 1)
    x = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0))
    there = solver().mirror_step(flow, ReplayBuffer([x], [0.8 * x[:, 0]]), 1.0)
    for ask, mean in ((0.0, 0.8), (-0.8, 0.0)):
        after = solver().mirror_step(there, ReplayBuffer([x + 0.8], [ask * x[:, 0]]), 1.0, seed=1)
        assert float(drawn(after).mean()) == pytest.approx(mean, abs=0.06)
        for name, weight in flow.state_dict().items():
            assert torch.equal(after.state_dict()[name], weight)


@pytest.mark.parametrize("q", [-0.5, 0.2])
def test_what_is_guided_by_the_exact_value_has_the_density_of_the_tilt(q):
    """By its likelihood, which takes second derivatives of the value: of `N(0, 1) exp(q x^2)`."""

    class Exact(torch.nn.Module):
        def forward(self, x, t):
            """`log E[exp(q x_1^2) | x_t]` less `log Z`: `x_1` is `N(m, v)` given `x_t`."""
            variance = t.square() + (1 - t).square()
            v, m = (1 - t).square() / variance, t / variance * x[:, 0]
            return (
                q * m.square() / (1 - 2 * q * v)
                - 0.5 * (1 - 2 * q * v).log()
                + 0.5 * math.log(1 - 2 * q)
            )

    flow = MixtureFlow([1.0], [[0.0]], [1.0])
    guided = flow.guided()
    guided.value, guided.window = Exact(), (0.0, 1.0)
    x = torch.linspace(-2, 2, 9)[:, None]
    wanted = flow.log_density(x) + q * x[:, 0].square() + 0.5 * math.log(1 - 2 * q)
    assert torch.allclose(log_likelihood(guided, x, steps=60), wanted, atol=2e-3)


def test_a_seed_is_all_that_chance_takes_from():
    flow = MixtureFlow([1.0], [[0.0]], [1.0])
    bank = ReplayBuffer([torch.arange(4.0)[:, None]], [torch.arange(4.0)])
    one, two, three = (
        solver(steps=3).mirror_step(flow, bank, 1.0, seed=seed).state_dict() for seed in (5, 5, 6)
    )
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], three[name]) for name in one)


def test_what_it_cannot_serve():
    class Bare(Flow):
        pass

    class Valued(Flow):
        kind = ""

        def value_network(self):
            return torch.nn.Linear(1, 1)

    flow = MixtureFlow([1.0], [[0.0]], [1.0])
    bank = ReplayBuffer([torch.zeros(3, 1)], [torch.arange(3.0)])
    with pytest.raises(UserError, match="no use for a running reward"):
        solver().solve(Tilt(flow, Reward(lambda x: x[:, 0]), running=lambda x, t: x))
    with pytest.raises(UserError, match="no value network"):
        solver().mirror_step(Bare(), bank, 1.0)
    with pytest.raises(UserError, match="cannot be guided"):
        solver().mirror_step(Valued(), bank, 1.0)
    assert isinstance(flow.guided(), Guided)
