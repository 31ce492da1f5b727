"""Solvers in turn, on parts that are independent, where the whole tilt is known."""

import pytest
import torch

from molflowctl.control.bank import ReplayBuffer
from molflowctl.control.objectives.reward import Reward
from molflowctl.control.solvers.adjoint import AdjointMatching
from molflowctl.control.solvers.in_turn import Alternating
from molflowctl.control.solvers.reinforce import ReinforceAdjointMatching
from molflowctl.control.solvers.solver import Tilt
from molflowctl.errors import UserError
from molflowctl.flows.state import State


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_each_solver_moves_its_parts_by_the_whole_tilt(order, pair):
    """`exp(0.5 a - b)` moves the means of two unit Gaussians by 0.5 and -1."""
    reward = Reward(lambda x: 0.5 * x["a"][:, 0] - x["b"][:, 0])
    values, gradients = order
    solver = Alternating(
        (
            ReinforceAdjointMatching(240, 512, 2e-2, parts=(values,)),
            AdjointMatching(60, 32, 20, lr=5e-2, average=0.9, parts=(gradients,)),
        )
    )
    g = torch.Generator().manual_seed(0)
    x = State(a=torch.randn(20_000, 1, generator=g), b=torch.randn(20_000, 1, generator=g))
    flow = pair()
    new = solver.solve(Tilt(flow, reward, bank=ReplayBuffer([x], [reward.value(x)])))
    assert float(new.means["a"].detach()) == pytest.approx(0.5, abs=0.04)
    assert float(new.means["b"].detach()) == pytest.approx(-1.0, abs=0.06)
    assert not any(float(m.detach()) for m in flow.means.values())


def test_a_tilt_that_is_begun_is_not_asked_for_again(pair):
    """Its base is what the KL is to, and where it starts is no new base."""
    reward = Reward(lambda x: 0.5 * x["a"][:, 0] - x["b"][:, 0])
    goal = pair()
    with torch.no_grad():
        goal.means["a"].fill_(0.5)
        goal.means["b"].fill_(-1.0)
    solver = Alternating((AdjointMatching(40, 32, 20, lr=2e-2, average=0.9),))
    new = solver.solve(Tilt(pair(), reward, start=goal))
    for name, mean in goal.means.items():
        assert float(new.means[name].detach()) == pytest.approx(float(mean.detach()), abs=0.03)


def test_none_is_no_solver():
    with pytest.raises(UserError, match="one solver"):
        Alternating(())
