"""Value matching against closed forms: a Gaussian and a mixture, tilted."""

import math

import pytest
import torch

from molflowctl.control.bank import ReplayBuffer
from molflowctl.control.objectives.reward import Reward
from molflowctl.control.solvers.solver import Tilt
from molflowctl.control.solvers.values import ValueMatching
from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow
from molflowctl.flows.mixture import MixtureFlow


def solver(**settings) -> ValueMatching:
    common = {"value_steps": 400, "value_lr": 5e-3, "steps": 400, "batch": 256, "lr": 5e-3}
    return ValueMatching(**{**common, "earliest": 0.05, "nfe": 100, **settings})


def drawn(flow: Flow, n: int = 20_000) -> torch.Tensor:
    return flow.draw_states(n, seed=7, sampler="heun", nfe=60)


@pytest.mark.parametrize("slope", [0.9, -0.7])
@pytest.mark.parametrize("reward_scale", [1.0, 0.3])
def test_the_value_of_a_gaussian(slope, reward_scale):
    """Of `N(0, 1)` and `r = c x`: `V_t(x) = c k x` with `k = t / (t^2 + (1-t)^2)`."""
    torch.manual_seed(0)
    flow = MixtureFlow([1.0], [[0.0]], [1.0]).trainable(8, 1)
    x = flow.exact_sample(20_000, seed=1) if flow.net is None else torch.randn(20_000, 1)
    bank = ReplayBuffer([x], [slope * x[:, 0] / reward_scale])
    value = solver(value_steps=800).value(flow, bank, reward_scale)
    for time in (0.3, 0.6, 0.9):
        t = torch.full((2,), time)
        low, high = value(torch.tensor([[-1.0], [1.0]]), t)
        k = time / (time**2 + (1 - time) ** 2)
        assert float(high - low) / 2 == pytest.approx(slope * k, abs=0.08)


def test_the_change_is_the_gradient_times_the_reach_along_the_noise():
    """`d = (b^2 / a) C grad V`, here of a value that is known, and zero before `earliest`."""
    c = [[2.0, 0.6], [0.6, 1.0]]
    flow = MixtureFlow([1.0], [[0.0, 0.0]], [1.0], covariance=c)

    class Known(torch.nn.Module):
        def forward(self, x, t):
            return 0.5 * x[:, 0].square() + 3 * t * x[:, 1]

    x, t = torch.randn(3, 2), torch.tensor([0.2, 0.5, 0.8])
    found = solver(earliest=0.3).change(flow, Known(), x, t)
    slope = torch.stack([x[:, 0], 3 * t], 1)
    wanted = ((1 - t).square() / t)[:, None] * slope @ torch.tensor(c)
    assert torch.allclose(found[1:], wanted[1:], atol=1e-5)
    assert found[0].abs().max() == 0


@pytest.mark.parametrize(("slope", "rounds"), [([-0.9, 0.0], 1), ([0.4, 0.5], 2)])
def test_a_linear_reward_moves_the_mean_of_a_gaussian_by_its_covariance(slope, rounds):
    torch.manual_seed(0)
    flow = MixtureFlow([1.0], [[0.5, 0.0]], [0.8]).trainable(32)
    inner = solver(rounds=rounds, points=4000)
    found = drawn(inner.solve(Tilt(flow, Reward(lambda x: x @ torch.tensor(slope)))))
    wanted = torch.tensor([0.5, 0.0]) + 0.64 * torch.tensor(slope)
    assert torch.allclose(found.mean(0), wanted, atol=0.07)
    assert torch.allclose(found.var(0), torch.tensor([0.64, 0.64]), rtol=0.12)


@pytest.mark.parametrize("q", [-0.5, pytest.param(0.2, marks=pytest.mark.slow)])
def test_one_large_step_is_exact(q):
    """`N(0, v) exp(q x^2)` has the variance `v / (1 - 2 q v)`; a step that is exact to first order
    only makes it `v exp(2 q v)` (tests/control/solvers/test_reinforce.py derives it).
    """
    assert abs(math.exp(2 * q) * (1 - 2 * q) - 1) > 0.1
    torch.manual_seed(0)
    flow = MixtureFlow([1.0], [[0.0]], [1.0]).trainable(32)
    inner = solver(rounds=1, points=20_000, value_steps=800, steps=800)
    found = drawn(inner.solve(Tilt(flow, Reward(lambda x: q * x[:, 0].square()))))
    assert float(found.var()) == pytest.approx(1 / (1 - 2 * q), rel=0.07)


def test_a_hinge_on_a_mixture_moves_the_tail_alone():
    """The mass above the threshold goes most of its way, which exact weights tell (a network
    smooths the kink, and a walk asks again); below the threshold nothing is asked for.
    """
    torch.manual_seed(0)
    prior = MixtureFlow([0.7, 0.3], [[-1.0], [1.5]], [0.6, 0.5])
    tilt = lambda x: 1.5 * (x[:, 0] - 1.2).clamp(min=0)  # noqa: E731
    x = prior.exact_sample(400_000, seed=3)
    shares, above = tilt(x).softmax(0), x[:, 0] > 1.2
    before, wanted = float(above.float().mean()), float(shares[above].sum())
    inner = solver(rounds=3, points=4000)
    found = drawn(inner.solve(Tilt(prior.trainable(48), Reward(tilt))), 10_000)[:, 0]
    way = (float((found > 1.2).float().mean()) - before) / (wanted - before)
    assert 0.65 < way < 1.1
    assert float(found[found <= 0].mean()) == pytest.approx(float(x[x[:, 0] <= 0].mean()), abs=0.05)


def test_what_it_cannot_serve():
    class Bare(Flow):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

    flow = MixtureFlow([1.0], [[0.0]], [1.0]).trainable(4, 1)
    inner = solver(steps=2, value_steps=2, rounds=1, points=50, nfe=4)
    with pytest.raises(UserError, match="no use for a running reward"):
        inner.solve(Tilt(flow, Reward(lambda x: x[:, 0]), running=lambda x, t: x))
    with pytest.raises(UserError, match="no value network"):
        inner.value(Bare(), ReplayBuffer([torch.zeros(3, 1)], [torch.arange(3.0)]), 1.0)
