"""Rewards: values, gradients, their algebra, and what is said when they are wrong."""

import math

import pytest
import torch

from molflowctl.control.objectives.reward import Combination, Reward
from molflowctl.errors import UserError
from molflowctl.flows.state import State

X = torch.linspace(-1.5, 2, 21, dtype=torch.float64).reshape(7, 3)

# name -> (function, gradient)
FUNCTIONS = {
    "linear": (lambda x: x @ X[0], lambda x: X[0].expand_as(x)),
    "square": (lambda x: x.square().sum(-1), lambda x: 2 * x),
    "sine": (lambda x: x.sin().sum(-1), lambda x: x.cos()),
    "product": (
        lambda x: x.prod(-1),
        lambda x: torch.stack([x[:, 1] * x[:, 2], x[:, 0] * x[:, 2], x[:, 0] * x[:, 1]], 1),
    ),
}


def state(n=5):
    generator = torch.Generator().manual_seed(0)
    return State(
        positions=torch.randn(n, 4, 3, generator=generator),
        types=torch.randn(n, 4, 2, generator=generator),
    )


def spread(x):
    return x["positions"].square().sum((1, 2))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_autograd_agrees_with_the_explicit_gradient(name):
    function, gradient = FUNCTIONS[name]
    automatic, explicit = Reward(function), Reward(function, gradient=gradient)
    assert torch.equal(automatic.value(X), function(X))
    torch.testing.assert_close(automatic.gradient(X), gradient(X))
    torch.testing.assert_close(explicit.gradient(X), gradient(X))
    assert not automatic.gradient(X).requires_grad


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("explicit", [True, False])
def test_algebra_is_linear(name, explicit):
    def reward(key):
        function, gradient = FUNCTIONS[key]
        return Reward(function, gradient=gradient if explicit else None, name=key)

    (f, df), (g, dg) = FUNCTIONS[name], FUNCTIONS["sine"]
    a, b = reward(name), reward("sine")
    for combined, p, q in (
        (a + b, 1, 1),
        (a - b, 1, -1),
        (-a, -1, 0),
        (2 * a, 2, 0),
        (a * 2 - 0.5 * (b - a), 2.5, -0.5),
        (3 * (a + b) - 3 * b, 3, 0),
    ):
        torch.testing.assert_close(combined.value(X), p * f(X) + q * g(X))
        torch.testing.assert_close(combined.gradient(X), p * df(X) + q * dg(X))


def test_equal_rewards_merge_and_none_is_zero():
    a, b = Reward(FUNCTIONS["sine"][0], name="a"), Reward(FUNCTIONS["square"][0], name="b")
    merged = (a + 0.5 * b) + (a - 0.5 * b)
    assert [(factor, part.name) for factor, part in merged.terms] == [(2.0, "a")]
    assert merged.name == "2 * a"
    assert (a + b).name == "a + b"
    zero = a - a
    assert torch.equal(zero.value(X), torch.zeros(7, dtype=torch.float64))
    assert torch.equal(zero.gradient(X), torch.zeros_like(X))
    assert zero.name == "0"


def test_states_with_parts():
    """A part that a reward ignores has the gradient zero."""
    reward, x = Reward(spread), state()
    torch.testing.assert_close(reward.value(x), spread(x))
    doubled = (2 * reward).gradient(x)
    torch.testing.assert_close(doubled["positions"], 4 * x["positions"])
    assert torch.equal(doubled["types"], torch.zeros_like(x["types"]))
    total = reward + Reward(lambda x: x["types"].sum((1, 2)))
    assert torch.equal(total.gradient(x)["types"], torch.ones_like(x["types"]))
    torch.testing.assert_close(total.gradient(x)["positions"], 2 * x["positions"])


def test_calls_count_states_once():
    reward = Reward(FUNCTIONS["square"][0])
    for _ in range(3):
        reward.value(X)
        reward.gradient(X)
    assert reward.calls == 7
    reward.value(X[:2])
    assert reward.calls == 9


@pytest.mark.parametrize("make", [lambda: X.clone(), state], ids=["tensor", "state"])
def test_states_written_to_in_place_are_judged_anew(make):
    x = make()
    reward = Reward(spread if isinstance(x, State) else FUNCTIONS["square"][0])
    before = reward.value(x)
    (x["positions"] if isinstance(x, State) else x).mul_(2)
    torch.testing.assert_close(reward.value(x), 4 * before)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: x.sum(-1) / 0 * 0, r"oracle is not finite for 7 of 7 states"),
        (lambda x: (x[:, 0] + 1.5).reciprocal(), r"oracle is not finite for 1 of 7 states"),
        (lambda x: x.sum(-1, keepdim=True), r"oracle returned the shape \(7, 1\) for 7 states"),
        (lambda x: x.sum(), r"oracle returned the shape \(\) for 7 states"),
        (lambda x: x.sum(-1).numpy(), r"oracle returned a ndarray: a tensor of the shape \(7,\)"),
        (lambda x: [1.0] * 7, r"oracle returned a list"),
    ],
)
@pytest.mark.parametrize("scale", [None, 2.0])
def test_wrong_values_name_the_reward(function, message, scale):
    reward = Reward(function, name="oracle")
    with pytest.raises(UserError, match=message):
        (reward if scale is None else scale * reward + Reward(lambda x: x[:, 0])).value(X)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"differentiable": False}, "oracle has no gradient: use a solver by values"),
        (
            {"function": lambda x: torch.ones(len(x))},
            "oracle does not depend on the state through torch operations",
        ),
        (
            # A network that is fed a detached state: the values need gradients, not of the state.
            {"function": lambda x: (torch.ones(3, requires_grad=True) * x.detach()).sum(-1)},
            "oracle does not depend on the state through torch operations",
        ),
        ({"function": lambda x: x[:, 0].abs().sqrt() * 0 + x[:, :1].sum()}, "not finite"),
        ({"function": lambda x: x}, r"oracle returned the shape \(7, 3\)"),
        ({"gradient": lambda x: x * math.nan}, "gradient of oracle is not finite"),
        (
            {"gradient": lambda x: x[:, 0]},
            r"gradient of oracle has the shape \(7,\), its states have \(7, 3\)",
        ),
    ],
)
def test_wrong_gradients_name_the_reward(settings, message):
    x = X.clone()
    x[0] = 0
    reward = Reward(**{"function": lambda x: x.sum(-1), "name": "oracle", **settings})
    with pytest.raises(UserError, match=message):
        reward.gradient(x)


def test_a_gradient_of_other_parts_is_named():
    reward = Reward(spread, gradient=lambda x: x["positions"], name="oracle")
    with pytest.raises(UserError, match="gradient of oracle has the shape"):
        reward.gradient(state())


def test_one_part_without_gradient_leaves_the_sum_without():
    total = Reward(lambda x: x[:, 0]) + Reward(
        lambda x: x[:, 0].round(), differentiable=False, name="count"
    )
    assert not total.differentiable
    with pytest.raises(UserError, match="count has no gradient"):
        total.gradient(X)


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_factors_must_be_finite(factor):
    with pytest.raises(UserError, match="the factor of oracle is"):
        factor * Reward(lambda x: x[:, 0], name="oracle")


def test_the_empty_sum_of_states_with_parts_is_zero():
    assert torch.equal(Combination([]).value(state()), torch.zeros(5))
    assert all(not part.any() for part in Combination([]).gradient(state()).values())
