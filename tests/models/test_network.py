"""Symmetries of the network in double precision, and no input without effect."""

import copy

import pytest
import torch
from e3nn.o3 import rand_matrix

from molflowctl.models.around.told import Known
from molflowctl.models.network import EquivariantNetwork, ValueNetwork, pairs

NODE, PAIR = 6, 4
TOLERANCE = {"rtol": 0, "atol": 1e-6}


def network_of(triangles: int, conditional: bool = False) -> EquivariantNetwork:
    torch.manual_seed(0)
    sizes = {"width": 32, "pair_width": 8, "heads": 2, "vectors": 4, "depth": 2}
    net = EquivariantNetwork(NODE, PAIR, **sizes, triangles=triangles, conditional=conditional)
    for p in net.parameters():  # away from the structure of the initial weights
        p.data += 0.1 * torch.randn_like(p)
    return net.double().eval()


@pytest.fixture(scope="module", params=[0, 4], ids=["plain", "triangles"])
def network(request) -> EquivariantNetwork:
    return network_of(request.param)


HEXAGON = [(k, (k + 1) % 6) for k in range(6)]
TWO_TRIANGLES = [(0, 1), (1, 2), (0, 2), (3, 4), (4, 5), (3, 5)]


@pytest.mark.parametrize(("triangles", "told_apart"), [(0, False), (4, True)])
def test_triangles_tell_rings_apart(triangles, told_apart) -> None:
    """Six alike atoms in one place with two bonds each: only the sizes of the rings differ."""
    network = network_of(triangles)
    bonded = []
    for bonds in (HEXAGON, TWO_TRIANGLES):
        square = torch.zeros(6, 6, dtype=torch.bool)
        for i, j in bonds:
            square[i, j] = square[j, i] = True
        present = square[*torch.triu_indices(6, 6, 1)]
        edges = torch.zeros(1, 15, PAIR, dtype=torch.float64)
        edges[0, :, 0], edges[0, :, 1] = (~present).double(), present.double()
        nodes, x = torch.ones(1, 6, NODE).double(), torch.zeros(1, 6, 3).double()
        _, e, _ = network(torch.full((1,), 0.7).double(), nodes, edges, x)
        bonded.append(e[0, present])
    spread = max(e.std(0).max().item() for e in bonded)
    assert spread < 1e-9  # every bond of a ring is like every other
    gap = (bonded[0] - bonded[1]).abs().max().item()
    assert (gap > 1e-3) if told_apart else (gap < 1e-9)


def inputs(n: int, seed: int = 0):
    """Time, nodes, edges and centred positions of a batch of three."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(3, *shape, generator=g, dtype=torch.float64)

    positions = normal(n, 3)
    t = torch.tensor([0.0, 0.4, 0.97], dtype=torch.float64)
    edges = normal(n * (n - 1) // 2, PAIR)
    return t, normal(n, NODE), edges, positions - positions.mean(1, keepdim=True)


def assert_close(found, expected) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, **TOLERANCE)


SIZES = [1, 2, 3, 7]


@pytest.mark.parametrize("n", SIZES)
def test_shapes_and_centroid(network, n) -> None:
    t, nodes, edges, x = inputs(n)
    h, e, v = network(t, nodes, edges, x)
    assert (h.shape, e.shape, v.shape) == (nodes.shape, edges.shape, x.shape)
    torch.testing.assert_close(v.mean(1), torch.zeros(3, 3, dtype=v.dtype), **TOLERANCE)
    assert all(torch.isfinite(part).all() for part in (h, e, v))


@pytest.mark.parametrize("n", SIZES[1:])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sign", [1, -1], ids=["rotation", "improper"])
def test_rotations_and_reflections(network, n, seed, sign) -> None:
    torch.manual_seed(seed)
    rotation = sign * rand_matrix(dtype=torch.float64)
    t, nodes, edges, x = inputs(n, seed)
    h, e, v = network(t, nodes, edges, x)
    assert v.abs().max() > 1e-2
    assert_close(network(t, nodes, edges, x @ rotation.T), (h, e, v @ rotation.T))


@pytest.mark.parametrize("n", SIZES[1:])
@pytest.mark.parametrize("seed", range(3))
def test_permutations(network, n, seed) -> None:
    t, nodes, edges, x = inputs(n, seed)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed + 1))
    first, second = torch.triu_indices(n, n, 1)
    place = torch.zeros(n, n, dtype=torch.long)
    place[first, second] = place[second, first] = torch.arange(len(first))
    pair_order = place[order[first], order[second]]
    h, e, v = network(t, nodes, edges, x)
    moved = network(t, nodes[:, order], edges[:, pair_order], x[:, order])
    assert_close(moved, (h[:, order], e[:, pair_order], v[:, order]))


def test_elements_of_a_batch_do_not_see_each_other(network) -> None:
    t, nodes, edges, x = inputs(5)
    whole = network(t, nodes, edges, x)
    single = network(t[1:2], nodes[1:2], edges[1:2], x[1:2])
    assert_close([part[1:2] for part in whole], single)


def outputs_depend_on(network, name: str) -> list[torch.Tensor]:
    """Norms of the gradients of the three outputs with respect to each number of an input."""
    t, nodes, edges, x = inputs(5)
    arguments = {"t": t + 0.1, "nodes": nodes, "edges": edges, "positions": x}
    arguments[name] = arguments[name].clone().requires_grad_()
    g = torch.Generator().manual_seed(3)
    gradients = []
    for part in network(*arguments.values()):
        weight = torch.randn(part.shape, generator=g, dtype=part.dtype)
        (gradient,) = torch.autograd.grad((part * weight).sum(), arguments[name], retain_graph=True)
        gradients.append(gradient)
    return gradients


@pytest.mark.parametrize("name", ["t", "nodes", "edges", "positions"])
def test_every_number_of_every_input_reaches_every_output(network, name) -> None:
    for gradient in outputs_depend_on(network, name):
        assert gradient.abs().min() > 1e-8


def test_every_parameter_is_used(network) -> None:
    network.zero_grad()
    sum(part.square().sum() for part in network(*inputs(5))).backward()
    dead = [name for name, p in network.named_parameters() if not p.grad.abs().sum() > 0]
    # Features that only later layers or heads would read have none after the last one.
    assert dead == []


def test_one_atom_has_nowhere_to_go(network) -> None:
    _, e, v = network(*inputs(1))
    assert e.shape == (3, 0, PAIR)
    assert torch.equal(v, torch.zeros_like(v))


def test_atoms_at_one_place_have_finite_gradients(network) -> None:
    t, nodes, edges, x = inputs(4)
    x = torch.zeros_like(x).requires_grad_()
    sum(part.square().sum() for part in network(t, nodes, edges, x)).backward()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("n", SIZES)
def test_pair_constants(n) -> None:
    graph = pairs(n, torch.device("cpu"), torch.float64)
    x = torch.randn(n, 3, dtype=torch.float64)
    first, second = torch.triu_indices(n, n, 1)
    torch.testing.assert_close(graph.both @ x, x[first] + x[second])
    torch.testing.assert_close(graph.difference @ x, x[first] - x[second])
    square = graph.square.view(n, n)
    assert torch.equal(square, square.T)
    assert torch.equal(square[first, second], torch.arange(len(first)))
    assert (square.diagonal() == len(first)).all()


def test_the_size_of_a_molecule_matters(network) -> None:
    """Two far fragments are not two molecules: the clock knows how many atoms there are."""
    t, nodes, edges, x = inputs(1)
    alone = network(t, nodes, edges, x)[0]
    t, *_ = inputs(2)
    apart = torch.tensor([[1e3, 0, 0], [-1e3, 0, 0]], dtype=torch.float64).expand(3, 2, 3)
    pair = network(t, nodes.expand(3, 2, NODE), inputs(2)[2], apart)[0]
    assert (pair - alone).abs().max() > 1e-2


@pytest.fixture(scope="module")
def value(network) -> ValueNetwork:
    torch.manual_seed(1)
    return ValueNetwork(network).double()


@pytest.mark.parametrize("n", SIZES)
def test_a_value_is_zero_at_first_and_the_trunk_stays(network, value, n) -> None:
    assert torch.equal(value(*inputs(n)), torch.zeros(3, dtype=torch.float64))
    assert not any(p.requires_grad for p in value.trunk.parameters())
    assert all(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize("n", SIZES)
def test_symmetries_of_a_value(value, n) -> None:
    """It is the same after any movement and in any order, so that its slope has no centroid."""
    torch.manual_seed(2)
    value = copy.deepcopy(value)
    torch.nn.init.normal_(value.reader.out[-1].weight)
    t, nodes, edges, x = inputs(n, 4)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(3))
    first, second = torch.triu_indices(n, n, 1)
    place = torch.zeros(n, n, dtype=torch.long)
    place[first, second] = place[second, first] = torch.arange(len(first))
    edges_moved = edges[:, place[order[first], order[second]]]
    moved = (x @ rand_matrix(dtype=torch.float64).T + 2.5)[:, order]
    x.requires_grad_()
    found = value(t, nodes, edges, x)
    assert found.std() > 1e-3
    torch.testing.assert_close(value(t, nodes[:, order], edges_moved, moved), found, **TOLERANCE)
    (slope,) = torch.autograd.grad(found.sum(), x)
    torch.testing.assert_close(slope.mean(1), torch.zeros(3, 3, dtype=x.dtype), **TOLERANCE)
    assert n == 1 or slope.abs().max() > 1e-4


# Told what is given ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def conditional() -> EquivariantNetwork:
    return network_of(4, conditional=True)


def known(n: int, seed: int = 5) -> Known:
    """Random facts of a batch of three molecules, of two thirds of their pairs a distance."""
    g = torch.Generator().manual_seed(seed)
    m = n * (n - 1) // 2

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(3, *shape, generator=g, dtype=torch.float64)

    distances = 1 + normal(m).abs()
    rigid = torch.rand(3, m, generator=g, dtype=torch.float64) < 0.67
    return Known(normal(n, NODE + 3), normal(m, PAIR + 3), distances, rigid)


def nothing(n: int) -> Known:
    """No atom is given; distances are whatever they are, none of them is to be read."""
    facts = known(n)
    zeros = [torch.zeros_like(part) for part in facts]
    return facts._replace(atoms=zeros[0], pairs=zeros[1], rigid=zeros[3])


@pytest.mark.parametrize("n", SIZES)
def test_nothing_given_is_nothing_told(conditional, n) -> None:
    torch.testing.assert_close(
        conditional(*inputs(n), nothing(n)), conditional(*inputs(n)), rtol=0, atol=0
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sign", [1, -1], ids=["rotation", "improper"])
def test_what_is_given_does_not_turn(conditional, seed, sign) -> None:
    torch.manual_seed(seed)
    rotation = sign * rand_matrix(dtype=torch.float64)
    t, nodes, edges, x = inputs(6, seed)
    h, e, v = conditional(t, nodes, edges, x, known(6))
    turned = conditional(t, nodes, edges, x @ rotation.T, known(6))
    assert_close(turned, (h, e, v @ rotation.T))


@pytest.mark.parametrize("n", SIZES[1:])
def test_what_is_given_is_permuted_with_the_atoms(conditional, n) -> None:
    t, nodes, edges, x = inputs(n)
    facts = known(n)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(1))
    graph = pairs(n, x.device, x.dtype)
    place = graph.square.view(n, n)[order[graph.first], order[graph.second]]
    h, e, v = conditional(t, nodes, edges, x, facts)
    moved = Known(facts.atoms[:, order], *(part[:, place] for part in facts[1:]))
    found = conditional(t, nodes[:, order], edges[:, place], x[:, order], moved)
    assert_close(found, (h[:, order], e[:, place], v[:, order]))


@pytest.mark.parametrize("name", ["atoms", "pairs", "distances"])
def test_every_fact_reaches_every_output(conditional, name) -> None:
    facts = known(5)
    leaf = getattr(facts, name).clone().requires_grad_()
    read = torch.ones_like(leaf, dtype=torch.bool) if name != "distances" else facts.rigid
    for part in conditional(*inputs(5), facts._replace(**{name: leaf})):
        weight = torch.randn(part.shape, dtype=part.dtype)
        (slope,) = torch.autograd.grad((part * weight).sum(), leaf, retain_graph=True)
        assert slope[read].abs().min() > 1e-9
        assert not slope[~read].any()
