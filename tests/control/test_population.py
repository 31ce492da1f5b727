"""Populations: what is known of a state goes where the state goes."""

import copy

import pytest
import torch

from molflowctl.control.objectives.reward import Reward
from molflowctl.control.objectives.utilities import DiverseModes, InternalDiversity, Mean
from molflowctl.control.population import Column, Population, of_states, population_of, states_of
from molflowctl.errors import UserError
from molflowctl.flows.state import Ragged, State, batch_of

N = 6
SHAPES = {
    "tensor": torch.arange(12.0).view(N, 2),
    "state": State(torch.arange(N), a=torch.arange(12.0).view(N, 2), b=torch.arange(N).double()),
    "ragged": Ragged([torch.arange(4.0).view(2, 2), torch.arange(12.0).view(4, 3)]),
    "ragged states": Ragged([State(a=torch.ones(1, 3)), State(a=torch.arange(10.0).view(5, 2))]),
}
VALUES = torch.tensor([3.0, 1.0, 4.0, 1.5, 9.0, 2.0])


def population(x) -> Population:
    valid = torch.tensor([True, True, False, True, True, False])
    return Population(x, {"value": VALUES, "pair": VALUES[:, None] * torch.ones(2)}, valid, VALUES)


def elements(x) -> list[list[float]]:
    """What every element holds, its number of coordinates telling its shape."""
    groups = x.groups if isinstance(x, Ragged) else [x]
    rows = []
    for group in groups:
        parts = list(group.values()) if isinstance(group, State) else [group]
        for k in range(batch_of(group)):
            given = [float(group.given[k])] if getattr(group, "given", None) is not None else []
            rows.append([*given, *(float(v) for part in parts for v in part[k].flatten())])
    return rows


COPIES = {
    "copied": copy.copy,
    "deeply": copy.deepcopy,
    "moved": lambda p: p.to("cpu"),
    "cut and joined": lambda p: Population.joined([p.select(slice(0, 4)), p.select(slice(4, N))]),
    "one by one": lambda p: Population.joined([p.select(torch.tensor([k])) for k in range(N)]),
    "turned twice": lambda p: p.select(torch.arange(N).flip(0)).select(torch.arange(N).flip(0)),
    "masked": lambda p: p.select(torch.ones(N, dtype=torch.bool)),
}


@pytest.mark.parametrize("way", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("x", SHAPES.values(), ids=SHAPES)
def test_all_that_is_known_goes_with_the_states(x, way) -> None:
    first = population(x)
    again = way(first)
    assert elements(again.states) == elements(x)
    assert {name: column.tolist() for name, column in again.values.items()} == {
        name: column.tolist() for name, column in first.values.items()
    }
    assert again.mask().tolist() == first.mask().tolist()
    assert again.shares.tolist() == first.shares.tolist()
    reward = Reward(Column("value", "a value"), measured=True)
    assert reward.value(again).tolist() == VALUES.tolist()


@pytest.mark.parametrize("x", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("rows", [[5, 0, 3], [2, 2, 1], [4]])
def test_rows_come_in_the_order_that_was_asked_for(x, rows) -> None:
    some = population(x).select(torch.tensor(rows))
    assert elements(some.states) == [elements(x)[row] for row in rows]
    assert some.values["value"].tolist() == VALUES[rows].tolist()
    assert some.values["pair"][:, 1].tolist() == VALUES[rows].tolist()
    assert some.mask().tolist() == population(x).mask()[rows].tolist()
    shares = VALUES[rows].double() / VALUES[rows].double().sum()
    torch.testing.assert_close(some.shares, shares)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device")
@pytest.mark.parametrize("x", SHAPES.values(), ids=SHAPES)
def test_a_population_moves_as_a_whole(x) -> None:
    there = population(x).to("cuda")
    assert {c.device.type for c in (*there.values.values(), there.valid, there.weights)} == {"cuda"}
    assert elements(there.states) == elements(x)
    assert elements(there.to("cpu").states) == elements(x)


def test_columns_of_other_lengths_are_refused() -> None:
    x = SHAPES["tensor"]
    for wrong in (
        {"values": {"value": torch.zeros(5)}},
        {"valid": torch.ones(7, dtype=torch.bool)},
        {"weights": torch.ones(1)},
    ):
        with pytest.raises(ValueError, match=f"and there are {N}"):
            Population(x, **wrong)


def test_populations_that_know_different_things_are_not_joined() -> None:
    known, bare = population(SHAPES["tensor"]), Population(SHAPES["tensor"])
    with pytest.raises(ValueError, match="different values"):
        Population.joined([known, bare])
    with pytest.raises(ValueError, match="weights"):
        Population.joined([bare, bare.weighted(VALUES)])
    assert (
        Population.joined([bare, Population(bare.states, valid=torch.zeros(N).bool())])
        .mask()
        .tolist()
        == [True] * N + [False] * N
    )


def test_a_measured_reward_reads_the_population_and_nothing_else() -> None:
    p = population(SHAPES["tensor"])
    reward = Reward(Column("value", "a value", lambda v: 2 * v), measured=True, name="r")
    place = Reward(lambda x: x[:, 0], name="place")
    assert not reward.differentiable
    assert (reward + 3 * place).value(p).tolist() == (2 * VALUES + 3 * p.states[:, 0]).tolist()
    assert Mean(reward).value(p) == pytest.approx(float((VALUES**2).sum() * 2 / VALUES.sum()))
    for strange in (p.states, Population(p.states)):
        with pytest.raises(UserError, match="a value is known of molecules only"):
            reward.value(strange)
    with pytest.raises(UserError, match="no gradient"):
        (reward + place).gradient(p.states)


def test_other_values_of_the_same_states_are_other_rewards() -> None:
    """Rewards remember what they said of the states they were asked about last."""
    x = SHAPES["tensor"]
    twice = Reward(Column("value", "a value"), measured=True) * 2.0
    first, second = (Population(x, {"value": v}) for v in (VALUES, -VALUES))
    assert twice.value(first).tolist() == (2 * VALUES).tolist()
    assert twice.value(second).tolist() == (-2 * VALUES).tolist()
    assert twice.value(first).tolist() == (2 * VALUES).tolist()


def test_a_reward_of_states_is_asked_once_whatever_the_weights() -> None:
    asked = []
    reward = Reward(lambda x: asked.append(len(x)) or x[:, 0])
    p = Population(SHAPES["ragged"])
    reward.value(p)
    reward.value(p.weighted(VALUES))
    reward.value(Population.joined([p, p]))
    assert asked == [2, 4]
    assert reward.calls == N


@pytest.mark.parametrize("functional", [InternalDiversity, lambda f: DiverseModes(f, 1.5)])
def test_diversity_is_of_what_is_known_as_it_is_of_states(functional) -> None:
    x = torch.randn(N, 3, generator=torch.Generator().manual_seed(0))
    unit = x / x.norm(dim=1, keepdim=True)
    known = Population(torch.zeros(N, 5), {"f": unit}, weights=VALUES)
    shown = Population(unit, weights=VALUES)
    mine, other = functional(Column("f", "features")), functional(lambda y: y)
    assert mine.value(known) == pytest.approx(other.value(shown))
    torch.testing.assert_close(
        mine.first_variation(known).value(known), other.first_variation(shown).value(shown)
    )


def test_states_and_populations_are_told_apart() -> None:
    x = SHAPES["ragged"]
    p = population_of(x)
    assert population_of(p) is p
    assert states_of(p) is states_of(x) is x
    assert of_states(lambda group: group.sum(1), p).shape == (N,)
    assert of_states(Column("value", "a value"), population(x)) is VALUES
