"""A fit: its schedule, its average, and what it says when nothing can come of it."""

import math

import pytest
import torch

from molflowctl.control.solvers.fitting import Fitting, fit
from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow
from molflowctl.flows.mixture import MixtureFlow


class Point(Flow):
    """One number to train, and one that is held."""

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.value = torch.nn.Parameter(torch.tensor(value))
        self.held = torch.nn.Parameter(torch.tensor(7.0), requires_grad=False)


def rates(steps: int, **settings) -> list[float]:
    fitting = Fitting(Point(), 0.1, steps, **settings)
    found = []
    for _ in range(steps):
        found.append(fitting.rate())
        fitting.update(fitting.flow.value.square())
    return found


def test_a_constant_rate_warms_up_in_five_steps():
    assert rates(8) == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1, 0.1, 0.1, 0.1])


def test_a_cosine_falls_to_two_percent():
    found = rates(200, cosine=True)
    assert found[:2] == pytest.approx([0.02, 0.04], rel=1e-3)
    assert found[100] == pytest.approx(0.05)
    assert found[50] == pytest.approx(0.05 * (1 + math.sqrt(0.5)))
    assert found[-1] == pytest.approx(0.002)
    assert found[4:] == sorted(found[4:], reverse=True)


def walk(**settings) -> tuple[list[float], float]:
    """The number after each of ten steps, and what comes out."""
    fitting = Fitting(Point(1.0), 0.1, 10, **settings)
    values = []
    for step in range(10):
        fitting.update((fitting.flow.value - (-1) ** step).square())
        values.append(fitting.flow.value.item())
    return values, fitting.result().value.item()


def test_the_mean_is_that_of_the_last_half():
    values, result = walk()
    assert result == pytest.approx(sum(values[5:]) / 5)
    assert result != pytest.approx(sum(values) / 10, abs=1e-3)


@pytest.mark.parametrize("decay", [0.5, 0.9])
def test_the_exponential_average(decay):
    values, result = walk(average=decay)
    average = 1.0
    for value in values:
        average = decay * average + (1 - decay) * value
    assert result == pytest.approx(average)


def test_a_quadratic_is_solved_and_the_source_untouched():
    source = Point(2.0)
    found = fit(source, lambda flow, step: (flow.value - 3).square(), 400, 0.1, cosine=True)
    assert found.value.item() == pytest.approx(3, abs=1e-3)
    assert (source.value.item(), found.held.item()) == (2.0, 7.0)
    assert not found.training


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_stops_at_the_last_good_weights(value):
    fitting = Fitting(Point(1.0), 0.1, 10)
    for _ in range(3):
        fitting.update(fitting.flow.value.square())
    good = fitting.flow.value.item()
    with pytest.raises(UserError, match=r"diverged at step 3 \(loss -?(nan|inf)\): lower"):
        fitting.update(fitting.flow.value * value)
    assert fitting.flow.value.item() == good


def test_a_flow_without_parameters_is_named():
    with pytest.raises(UserError, match=r"'mixture' has nothing to train.*trainable"):
        Fitting(MixtureFlow([1.0], [[0.0]], [1.0]), 0.1, 10)


class Idle(Point):
    """Beside the number one that no loss reaches."""

    def __init__(self, value: float = 0.0) -> None:
        super().__init__(value)
        self.idle = torch.nn.Parameter(torch.tensor([3.0]))


@pytest.mark.parametrize("average", [None, 0.9])
@pytest.mark.parametrize("kept", [0, 1, 6])
def test_a_fit_goes_on_from_what_was_kept(kept, average, tmp_path):
    def learn(fitting: Fitting, steps: int) -> Fitting:
        for _ in range(steps):
            fitting.update((fitting.flow.value - fitting.step).square())
        return fitting

    whole, first, second = (
        Fitting(Idle(value), 0.1, 10, cosine=True, average=average) for value in (1.0, 1.0, -5.0)
    )
    learn(whole, 10)
    learn(first, kept).keep(tmp_path / "fit", {"beside": torch.tensor([4])})
    assert second.resume(tmp_path / "fit") == {"beside": torch.tensor([4])}
    learn(second, 10 - kept)
    expected, found = whole.result(), second.result()
    assert torch.equal(found.value, expected.value)
    assert found.idle == 3


def test_a_fit_is_not_resumed_with_random_numbers_of_another_device(tmp_path):
    Fitting(Idle(), 0.1, 10).keep(tmp_path / "fit", {"generator 0": torch.zeros(16).byte()})
    with pytest.raises(UserError, match=r"fit is not what .* another device"):
        Fitting(Idle(), 0.1, 10).run(
            lambda flow: flow.value, [torch.Generator()], file=tmp_path / "fit"
        )
