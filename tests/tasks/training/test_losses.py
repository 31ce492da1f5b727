"""Training times from a start on: the flow's own density, cut and scaled."""

import copy

import numpy as np
import pytest
import torch

from molflowctl.errors import UserError
from molflowctl.flows.noise import BatchNoise
from molflowctl.models.around.part import Part
from molflowctl.models.conformer import ConformerFlow
from molflowctl.models.denovo import DeNovoFlow
from molflowctl.tasks.training.losses import Losses, times_after, times_before
from molflowctl.tasks.training.settings import TrainConfig
from molflowctl.tasks.training.train import Trainer

FLOWS = [DeNovoFlow, ConformerFlow]


class Timed:
    """The times of a kind of flow, without its network."""

    def __init__(self, kind) -> None:
        self.draw_times = lambda uniform: kind.draw_times(self, uniform)


@pytest.mark.parametrize("kind", FLOWS)
def test_from_zero_they_are_the_flows_own(kind) -> None:
    uniform, flow = torch.rand(100), Timed(kind)
    assert torch.equal(times_after(flow, uniform, 0.0), flow.draw_times(uniform))


@pytest.mark.parametrize("kind", FLOWS)
@pytest.mark.parametrize("start", [0.3, 0.8, 0.95])
def test_they_are_the_later_ones_of_all(kind, start) -> None:
    uniform, flow = torch.linspace(0, 1, 20_001)[:-1], Timed(kind)
    late = times_after(flow, uniform, start)
    every = flow.draw_times(uniform)
    assert late.min() >= start
    assert late.max() < 1
    levels = np.linspace(0.01, 0.99, 50)
    wanted = np.quantile(every[every >= start], levels)
    np.testing.assert_allclose(np.quantile(late, levels), wanted, atol=2e-3)


@pytest.mark.parametrize("kind", FLOWS)
@pytest.mark.parametrize("start", [0.3, 0.8])
def test_before_it_they_are_the_earlier_ones(kind, start) -> None:
    uniform, flow = torch.linspace(0, 1, 20_001)[:-1], Timed(kind)
    early, every = times_before(flow, uniform, start), flow.draw_times(uniform)
    assert early.max() <= start
    levels = np.linspace(0.01, 0.99, 50)
    wanted = np.quantile(every[every < start], levels)
    np.testing.assert_allclose(np.quantile(early, levels), wanted, atol=2e-3)


@pytest.mark.parametrize("start", [0.8, 0.0])
@pytest.mark.parametrize("given", [False, True])
def test_before_the_start_a_flow_is_held_to_what_it_was(given, start) -> None:
    """No loss while it is the same, and one that leads back once it is another."""
    size = {"width": 32, "pair_width": 8, "heads": 2, "vectors": 4, "depth": 2}
    torch.manual_seed(0)
    flow = DeNovoFlow([6, 8], [0], {"5": 1}, hydrogens="implicit",
                      network={**size, "conditional": given})  # fmt: skip
    numbers = torch.tensor([[6, 6, 8, 6, 6]]).expand(4, 5)
    bonds = torch.tensor([1, 0, 0, 0, 1, 0, 0, 1, 0, 1]).expand(4, 10)  # a chain
    molecules = (numbers, torch.zeros_like(numbers), bonds, torch.randn(4, 5, 3))
    part = tuple(Part.nothing(4, 5)) if given else ()
    began = copy.deepcopy(flow)
    losses = Losses(flow, Trainer._encode, start, began)
    batch, uniform = (*molecules, *part), torch.rand(4)
    assert losses(batch, uniform, BatchNoise(0), hold=True).max() == 0
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    moved = losses(batch, uniform, BatchNoise(0), hold=True).mean()
    assert moved > 0
    moved.backward()
    assert all(p.grad is None for p in began.parameters())
    with torch.no_grad():
        for parameter in flow.parameters():
            if parameter.grad is not None:
                parameter -= 1e-4 * parameter.grad / (1e-6 + parameter.grad.norm())
    assert losses(batch, uniform, BatchNoise(0), hold=True).mean() < moved


def test_a_new_flow_cannot_begin_late() -> None:
    """It would know nothing of earlier times, and what it draws would be noise."""
    with pytest.raises(UserError, match=r"times_from=0\.9 teaches nothing of earlier times"):
        TrainConfig(times_from=0.9, train_steps=10)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "parts_only=true holds a flow to start from"),
        ({"init": "druglike", "times_from": 0.9}, "parts_only=true holds a flow to start from"),
    ],
)
def test_parts_alone_are_learned_by_a_flow_that_knows_the_rest(settings, told) -> None:
    with pytest.raises(UserError, match=told):
        TrainConfig(parts_only=True, train_steps=10, **settings)
