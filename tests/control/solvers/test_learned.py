"""Adjoint matching by learned rewards against closed forms: a Gaussian and a mixture, tilted."""

import pytest
import torch

from molflowctl.control.bank import ReplayBuffer
from molflowctl.control.objectives.reward import Reward
from molflowctl.control.solvers.adjoint import AdjointMatching
from molflowctl.control.solvers.learned import LearnedAdjoint
from molflowctl.control.solvers.solver import Tilt
from molflowctl.errors import UserError
from molflowctl.flows.mixture import MixtureFlow


def solver(**settings) -> LearnedAdjoint:
    adjoint = AdjointMatching(iterations=60, batch=128, steps=30, average=0.9, **settings)
    return LearnedAdjoint(adjoint, steps=600, batch=256, lr=5e-3)


def known(function):
    """A reward without a gradient."""
    return Reward(function, differentiable=False)


def drawn(flow, n: int = 20_000) -> torch.Tensor:
    return flow.draw_states(n, seed=7, sampler="heun", nfe=60)


@pytest.mark.parametrize("slope", [[-0.9, 0.0], [0.4, 0.5]])
def test_a_linear_reward_moves_the_mean_of_a_gaussian_by_its_covariance(slope):
    torch.manual_seed(0)
    flow = MixtureFlow([1.0], [[0.5, 0.0]], [0.8]).trainable(32)
    reward = known(lambda x: 7 + x @ torch.tensor(slope))  # a constant changes nothing
    x = drawn(flow)
    tilt = Tilt(flow, reward, bank=ReplayBuffer([x], [reward.value(x)]))
    found = drawn(solver().solve(tilt))
    wanted = torch.tensor([0.5, 0.0]) + 0.64 * torch.tensor(slope)
    torch.testing.assert_close(found.mean(0), wanted, rtol=0, atol=0.06)
    torch.testing.assert_close(found.var(0), torch.tensor([0.64, 0.64]), rtol=0.12, atol=0)
    assert reward.calls == len(x)  # nothing else was scored


def test_the_weights_of_a_bank_count():
    """Points of `N(0, 1)`, weighted to be even in `x`, show no slope of `x`; unweighted they do."""
    torch.manual_seed(0)
    flow = MixtureFlow([1.0], [[0.0]], [1.0]).trainable(16)
    x = torch.cat([torch.rand(8000, 1), -torch.rand(2000, 1)])
    r = torch.where(x[:, 0] > 0, 1.0, -1.0) * x[:, 0].abs()
    doubled = torch.cat([x, x]), torch.cat([r, -r])
    even = torch.cat([torch.ones(10_000), torch.ones(10_000)])
    first = torch.cat([torch.ones(10_000), torch.zeros(10_000)])
    means = [
        float(drawn(solver().solve(Tilt(flow, known(lambda x: x[:, 0]), bank=bank))).mean())
        for bank in (ReplayBuffer([doubled[0]], [doubled[1]], [w]) for w in (even, first))
    ]
    assert abs(means[0]) < 0.15
    assert means[1] > 0.5


def test_a_tilt_without_a_bank_is_refused():
    flow = MixtureFlow([1.0], [[0.0]], [1.0]).trainable(8, 1)
    with pytest.raises(UserError, match="from a bank"):
        solver().solve(Tilt(flow, known(lambda x: x[:, 0])))
