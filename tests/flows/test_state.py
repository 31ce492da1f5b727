"""States form a vector space, part by part and element by element."""

import pytest
import torch

from molflowctl.flows.state import State, concatenate, dot, times


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
