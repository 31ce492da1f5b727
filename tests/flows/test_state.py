"""States form a vector space, part by part and element by element."""

import pytest
import torch

from molflowctl.errors import UserError
from molflowctl.flows.state import (
    Ragged,
    State,
    batch_of,
    concatenate,
    dot,
    on_cpu,
    only,
    pull_back,
    times,
)


def plain(seed: int) -> torch.Tensor:
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def state(seed: int) -> State:
    generator = torch.Generator().manual_seed(seed)

    def part(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return State(positions=part(3, 5, 3), bonds=part(3, 10, 4))


def flat(x) -> torch.Tensor:
    """A state as a plain matrix, `(B, D)`."""
    if isinstance(x, State):
        return torch.cat([part.reshape(len(part), -1) for part in x.values()], 1)
    return x.flatten(1)


def close(a, b) -> None:
    torch.testing.assert_close(flat(a), flat(b), rtol=0, atol=1e-12)


WEIGHTS = [2.0, torch.tensor(-0.5), torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)]


@pytest.mark.parametrize("make", [plain, state])
@pytest.mark.parametrize("weight", WEIGHTS, ids=["number", "scalar", "per-element"])
def test_a_vector_space(make, weight) -> None:
    x, y, z = make(0), make(1), make(2)
    close(x + y, y + x)
    close((x + y) + z, x + (y + z))
    close(x - y, x + (-y))
    close(x - x, times(0.0, x))
    close(times(weight, x + y), times(weight, x) + times(weight, y))
    close(times(2.0, times(weight, x)), times(2.0 * weight, x))
    column = weight[:, None] if isinstance(weight, torch.Tensor) and weight.ndim else weight
    close(times(weight, x), column * flat(x))


@pytest.mark.parametrize("make", [plain, state])
def test_dot_is_the_inner_product_of_each_element(make) -> None:
    x, y = make(0), make(1)
    assert dot(x, y).shape == (3,)
    torch.testing.assert_close(dot(x, y), (flat(x) * flat(y)).sum(1))
    torch.testing.assert_close(dot(x, y), dot(y, x))


def test_concatenate_undoes_select() -> None:
    x = state(0)
    close(concatenate([x.select(slice(0, 1)), x.select(torch.tensor([1, 2]))]), x)
    assert x.select(slice(0, 2)).batch == 2


def test_parts_keep_their_names_and_shapes() -> None:
    x = state(0)
    assert list(x) == ["positions", "bonds"]
    assert len(x) == 2
    assert repr(x) == "State(positions: (3, 5, 3), bonds: (3, 10, 4))"
    assert {p.dtype for p in x.to(torch.float32).values()} == {torch.float32}
    grown = x.map(lambda part: part.requires_grad_())
    assert not any(part.requires_grad for part in grown.detach().values())


def test_unlike_states_do_not_combine() -> None:
    with pytest.raises(ValueError, match="differ in their parts"):
        State(a=torch.zeros(2)) + State(b=torch.zeros(2))
    with pytest.raises(ValueError, match=r"one common batch size.*'a': 2.*'b': 3"):
        State(a=torch.zeros(2), b=torch.zeros(3))
    with pytest.raises(ValueError, match="one common batch size"):
        State()


@pytest.mark.parametrize("make", [plain, state])
def test_concatenate_and_batch_of(make) -> None:
    x, y = make(0), make(1)
    joined = concatenate([x, y, x])
    assert (batch_of(x), batch_of(joined)) == (3, 9)
    assert type(joined) is type(x)
    torch.testing.assert_close(flat(joined), torch.cat([flat(x), flat(y), flat(x)]))


def mixed(x):
    """A map in which every part depends on every other."""
    if not isinstance(x, State):
        return x.sin() * x.sum(1, keepdim=True)
    total = x["positions"].square().sum((1, 2)) + x["bonds"].sin().sum((1, 2))
    return State(positions=times(total, x["positions"]), bonds=times(total.cos(), x["bonds"]))


@pytest.mark.parametrize("make", [plain, state])
def test_pull_back_is_the_transpose_of_the_derivative(make) -> None:
    """`<J^T a, h> = <a, J h>`, with `J h` by finite differences."""
    x, a, h, e = make(0), make(1), make(2), 1e-6
    pulled, value = pull_back(mixed, x, a)
    close(value, mixed(x))
    pushed = times(1 / (2 * e), mixed(x + times(e, h)) - mixed(x - times(e, h)))
    torch.testing.assert_close(dot(pulled, h), dot(a, pushed), rtol=1e-6, atol=1e-6)
    assert not flat(pulled).requires_grad
    assert not flat(value).requires_grad
    assert not flat(x).requires_grad


def test_pull_back_is_zero_for_a_part_that_is_ignored() -> None:
    x, a = state(0), state(1)
    pulled, _ = pull_back(lambda s: s.map(lambda p: p * s["bonds"].sum()), x, a)
    assert flat(pulled).abs().min() > 0

    def still(s):
        return State(positions=times(2.0, s["positions"]), bonds=torch.ones_like(s["bonds"]))

    pulled, _ = pull_back(still, x, a)
    torch.testing.assert_close(pulled["positions"], 2 * a["positions"])
    assert torch.equal(pulled["bonds"], torch.zeros_like(x["bonds"]))


def test_pull_back_works_where_gradients_are_off() -> None:
    with torch.no_grad():
        pulled, value = pull_back(torch.sin, plain(0), plain(1))
    close(pulled, plain(0).cos() * plain(1))
    close(value, plain(0).sin())


def conditioned(seed: int, given: list[int]) -> State:
    x = state(seed)
    return State(torch.tensor(given), **dict(x))


def test_algebra_leaves_alone_what_is_given() -> None:
    x, y = conditioned(0, [4, 7, 7]), conditioned(1, [4, 7, 7])
    weights = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    for z in (x + y, x - y, -x, times(2.0, x), times(weights, x), x.detach(), x.to(torch.float32)):
        assert z.given.tolist() == [4, 7, 7]
        assert z.given.dtype == torch.int64
    assert x.select(torch.tensor([2, 0])).given.tolist() == [7, 4]
    assert concatenate([x, y.select(slice(0, 1))]).given.tolist() == [4, 7, 7, 4]
    pulled, value = pull_back(lambda z: times(3.0, z), x, y)
    close(pulled, times(3.0, y))
    assert pulled.given.tolist() == value.given.tolist() == [4, 7, 7]


def test_states_of_other_conditions_do_not_combine() -> None:
    x = conditioned(0, [4, 7, 7])
    for other in (conditioned(1, [4, 7, 8]), state(1)):
        with pytest.raises(ValueError, match="conditioned"):
            x + other
    with pytest.raises(ValueError, match="one common batch size"):
        State(torch.tensor([1]), a=torch.zeros(2))


def test_only_some_parts_of_a_state() -> None:
    given = torch.arange(3)
    x = State(given, a=torch.ones(3, 2), b=torch.ones(3, 1, 4))
    kept = only(x, ("b",))
    assert list(kept) == ["a", "b"]
    assert kept.given is given
    assert float(kept["a"].sum()) == 0
    assert torch.equal(kept["b"], x["b"])
    assert only(x, ()) is x
    with pytest.raises(UserError, match=r"no part colour; there are a, b\."):
        only(x, ("b", "colour"))
    with pytest.raises(UserError, match="it is one tensor"):
        only(torch.ones(3, 2), ("a",))


@pytest.mark.parametrize("make", [plain, state, lambda seed: Ragged([state(seed), state(seed)])])
def test_a_population_on_the_cpu_stays_the_very_one(make) -> None:
    """Rewards remember what they said of it."""
    x = make(0)
    assert on_cpu(x) is x


@pytest.mark.parametrize("make", [plain, state, lambda seed: Ragged([state(seed), plain(seed)])])
def test_a_population_elsewhere_is_moved(make) -> None:
    """Off the device that has no data it cannot be."""
    x = make(0)
    there = Ragged([g.to("meta") for g in x.groups]) if isinstance(x, Ragged) else x.to("meta")
    with pytest.raises(NotImplementedError, match="meta"):
        on_cpu(there)
