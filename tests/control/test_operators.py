"""Operators: how they nest, what they refuse, and that their objectives have the known optima."""

import math

import pytest
import torch

from molflowctl.control.objectives.divergences import KL
from molflowctl.control.objectives.potentials import Sorted
from molflowctl.control.operators import (
    Contrast,
    Interpolation,
    Intersection,
    Operator,
    Union,
    parse,
)
from molflowctl.control.population import Population
from molflowctl.control.solvers.weighted import optimal_weights
from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow
from molflowctl.flows.mixture import MixtureFlow

A = MixtureFlow([0.5, 0.5], [[-1.0], [0.6]], [0.6, 0.5])
B = MixtureFlow([0.3, 0.7], [[0.0], [1.0]], [0.7, 0.6])
C = MixtureFlow([1.0], [[-0.4]], [0.9])
NAMES = {"a": A, "b": B, "c": C}
KINDS = [Intersection, Union, Interpolation]


def shape(node):
    """A circuit as nested tuples."""
    if isinstance(node, Flow):
        return next(name for name, flow in NAMES.items() if flow is node)
    return (type(node).__name__, tuple(node.weights), *map(shape, node.parts))


# Nesting --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("circuit", "expected"),
    [
        (A & B, ("Intersection", (1, 1), "a", "b")),
        (A & B & C, ("Intersection", (1, 1, 1), "a", "b", "c")),
        (A & (B & C), ("Intersection", (1, 1, 1), "a", "b", "c")),
        ((A & B) & (C & A), ("Intersection", (1, 1, 1, 1), "a", "b", "c", "a")),
        (A | B | C, ("Union", (1, 1, 1), "a", "b", "c")),
        (A - B, ("Contrast", (2, 1), "a", "b")),
        (A - B - C, ("Contrast", (2, 1), ("Contrast", (2, 1), "a", "b"), "c")),
        (A & B | C, ("Union", (1, 1), ("Intersection", (1, 1), "a", "b"), "c")),
        (A | B & C, ("Union", (1, 1), "a", ("Intersection", (1, 1), "b", "c"))),
        (A - B & C, ("Intersection", (1, 1), ("Contrast", (2, 1), "a", "b"), "c")),
        ((A | B) & C, ("Intersection", (1, 1), ("Union", (1, 1), "a", "b"), "c")),
        (
            Intersection(A, B, weights=[2, 1]) & C,
            ("Intersection", (1, 1), ("Intersection", (2, 1), "a", "b"), "c"),
        ),
        (
            C | Union(A, B, weights=[1, 1]),
            ("Union", (1, 1), "c", ("Union", (1, 1), "a", "b")),
        ),
        (Contrast(A, B, 0.5), ("Contrast", (1.5, 0.5), "a", "b")),
    ],
)
def test_circuits_nest_as_they_are_written(circuit, expected):
    assert shape(circuit) == expected


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a & b", A & B),
        ("a&b&c", A & B & C),
        ("a & (b & c)", A & (B & C)),
        (" (a | b) - c ", (A | B) - C),
        ("a | b & c", A | B & C),
        ("a - b & c", A - B & C),
        ("a - b - c", A - B - C),
        ("a - (b - c)", A - (B - C)),
        ("((a))|b", A | B),
        ("(a & b) | (c & a) | b", (A & B) | (C & A) | B),
    ],
)
def test_a_string_is_what_python_makes_of_it(text, written):
    assert shape(parse(text, NAMES)) == shape(written)


def test_a_name_alone_is_its_flow():
    assert parse("b", NAMES) is B


def test_leaves_and_text():
    circuit = (A & B) | C
    assert circuit.flows() == [A, B, C]
    assert repr(circuit) == "(mixture & mixture) | mixture"
    weighed = Intersection(A, B, weights=[2, 1])
    assert repr(weighed) == "Intersection(mixture & mixture; weights [2.0, 1.0])"


@pytest.mark.parametrize(
    ("text", "culprit"),
    [
        ("a.net", "a.net"),
        ("a & b.__class__", "b.__class__"),
        ("print(a)", "print(a)"),
        ("a & 1", "1"),
        ("'a' | b", "'a'"),
        ("-a", "-a"),
        ("a + b", "a + b"),
        ("a and b", "a and b"),
        ("a[0] & b", "a[0]"),
        ("(a, b)", "(a, b)"),
        ("[x for x in a]", "[x for x in a]"),
        ("lambda: a", "lambda: a"),
        ("(a := b)", "a := b"),
        ("a < b", "a < b"),
    ],
)
def test_nothing_but_names_and_symbols_is_read(text, culprit):
    with pytest.raises(UserError) as caught:
        parse(text, NAMES)
    assert str(caught.value).startswith(repr(culprit))
    assert "only names, & | - and ( )" in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "  ", "a &", "(a", "a b", "a; b", "import os", "a\0", "a $ b"]
)
def test_what_is_no_expression_is_said(text):
    with pytest.raises(UserError, match="is no circuit: combine names"):
        parse(text, NAMES)


def test_unknown_names_are_answered_with_the_known():
    with pytest.raises(UserError, match="no flow named 'd' for the circuit; there are: a, b, c"):
        parse("a & (b | d)", NAMES)


# Weights and parts ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], "has 2 parts and 1 weights"),
        ([1.0, 2.0, 3.0], "has 2 parts and 3 weights"),
        ([1.0, 0.0], "weight 2 of {} is 0"),
        ([-1.0, 1.0], "weight 1 of {} is -1"),
        ([1.0, math.nan], "weight 2 of {} is nan"),
        ([math.inf, 1.0], "weight 1 of {} is inf"),
    ],
)
def test_weights_outside_their_meaning_are_named(kind, weights, message):
    with pytest.raises(UserError, match=message.format(kind.__name__)):
        kind(A, B, weights=weights)


@pytest.mark.parametrize("weight", [0.0, -0.5, -1.0, math.nan, math.inf])
def test_a_contrast_has_a_positive_weight(weight):
    with pytest.raises(UserError, match="Contrast"):
        Contrast(A, B, weight)


OTHERS = {
    "states": MixtureFlow([1.0], [[0.0, 0.0]], [1.0]),
    "path": MixtureFlow([1.0], [[0.0]], [1.0], path="cosine"),
    "noise covariance": MixtureFlow([1.0], [[0.0]], [1.0], covariance=[[2.0]]),
}


@pytest.mark.parametrize("difference", OTHERS)
@pytest.mark.parametrize(
    "build",
    [lambda o: A & o, lambda o: A | o, lambda o: A - o, lambda o: Interpolation(A, o),
     lambda o: (A & B) | (C & o)],
)  # fmt: skip
def test_parts_that_do_not_go_together_are_refused_when_built(build, difference):
    with pytest.raises(UserError, match=f"differ in their {difference}"):
        build(OTHERS[difference])


@pytest.mark.parametrize("kind", KINDS)
def test_parts_are_flows_and_two_at_least(kind):
    with pytest.raises(UserError, match=f"{kind.__name__} merges flows and operators, not str"):
        kind(A, "b")
    with pytest.raises(UserError, match=f"{kind.__name__} needs two parts or more, got 1"):
        kind(A)


# Optima ---------------------------------------------------------------------------------------

GRID = torch.arange(-4.5, 4.5, 0.05, dtype=torch.float64)[:, None]


def on_grid(flow: MixtureFlow) -> torch.Tensor:
    return flow.log_density(GRID).softmax(0)


def best(objective) -> torch.Tensor:
    """The optimum among all densities on the grid, as shares."""
    prior = A
    found = optimal_weights(
        objective, GRID, prior, base_weights=on_grid(prior), steps=2000, tolerance=1e-13
    )
    return found.shares


def geometric(powers: dict) -> torch.Tensor:
    return sum(w * flow.log_density(GRID) for flow, w in powers.items()).softmax(0)


@pytest.mark.parametrize(
    ("operator", "expected"),
    [
        (A & B, geometric({A: 1 / 2, B: 1 / 2})),
        (A & B & C, geometric({A: 1 / 3, B: 1 / 3, C: 1 / 3})),
        (Intersection(A, B, weights=[1, 3]), geometric({A: 1 / 4, B: 3 / 4})),
        (A | B, (on_grid(A) + on_grid(B)) / 2),
        (Union(A, B, weights=[1, 3]), (on_grid(A) + 3 * on_grid(B)) / 4),
        (Contrast(A, C, 0.5), geometric({A: 1.5, C: -0.5})),
        (A - C, geometric({A: 2.0, C: -1.0})),
    ],
    ids=["a & b", "a & b & c", "1:3", "a | b", "1:3 union", "contrast 0.5", "a - c"],
)
def test_objectives_have_the_optima_of_the_table(operator, expected):
    """Every wrong sign or weight moves the optimum by more than 0.03 in total variation."""
    found = best(operator.objective(operator.parts))
    assert float((found - expected).abs().sum() / 2) < 5e-3
    for flow in operator.flows():
        assert float((on_grid(flow) - expected).abs().sum() / 2) > 0.03


@pytest.mark.parametrize(("a", "b"), [(-2.0, 1.0), (0.5, 1.5), (1.0, -1.0)])
def test_an_interpolation_is_a_weighted_median(a, b):
    """`-3 W1(p, a) - W1(p, b)` is linear between the parts: it is best at the heavier."""
    left, right = (MixtureFlow([1.0], [[m]], [0.5]) for m in (a, b))
    operator = Interpolation(left, right, weights=[3, 1], potential=Sorted())
    objective = operator.objective(operator.parts)
    grid = torch.linspace(-6, 6, 601, dtype=torch.float64)[:, None]
    values = {
        m: objective.value(
            Population(grid, weights=MixtureFlow([1.0], [[m]], [0.5]).log_density(grid).exp())
        )
        for m in (a, (a + b) / 2, b)
    }
    # Points of the reference are drawn: W1 to them is not exactly the distance of the means.
    for m, value in values.items():
        assert value == pytest.approx(-3 * abs(m - a) - abs(m - b), abs=0.15)
    assert max(values, key=values.get) == a


def test_a_held_interpolation_leaves_its_first_part_where_others_weigh_more() -> None:
    """With a KL to the first part beside, and the farther the more the other weighs."""
    grid = torch.linspace(-6, 6, 601, dtype=torch.float64)[:, None]
    left, right = (MixtureFlow([1.0], [[m]], [0.5]) for m in (-1.5, 1.5))
    shares = [flow.log_density(grid).exp() for flow in (left, right)]
    samples = [Population(grid, weights=weights) for weights in shares]
    means = []
    for weight in (0.5, 0.9, 1.25, 1.5, 2.0):
        operator = Interpolation(
            left, right, weights=[1, weight], potential=Sorted(), samples=samples
        )
        objective = operator.objective(operator.parts) - 0.5 * KL(left)
        found = optimal_weights(objective, grid, left, base_weights=shares[0])
        means.append(float((found.shares * grid[:, 0]).sum()))
    assert means[:2] == pytest.approx([-1.5, -1.5], abs=1e-2)
    assert -1.5 < means[2] < means[3] < means[4] <= 1.5
    # A tilt of 2 (w - 1) along x moves a Gaussian of variance 1/4 by that share of it.
    assert means[2] == pytest.approx(-1.5 + 0.5 * 0.25, abs=0.03)


@pytest.mark.parametrize("kind", KINDS)
def test_terms_carry_the_weights(kind):
    operator = kind(A, B, weights=[2, 0.5])
    assert [factor for factor, _ in operator.objective([A, B]).terms()] == [-2, -0.5]


def test_an_operator_says_nothing_of_its_own():
    with pytest.raises(NotImplementedError):
        Operator(A, B).objective([A, B])
    assert isinstance((A & B).objective([A, B]).terms()[0][1], KL)
