"""Graphs and their stereo, and the symmetries of the network in double precision."""

import numpy as np
import pytest
import torch
from e3nn.o3 import rand_matrix
from rdkit import Chem

from molflowctl.models.conformer_graph import Graphs
from molflowctl.models.conformer_network import ConformerNetwork

TOLERANCE = {"rtol": 0, "atol": 1e-6}


def test_the_graph_of_acetonitrile():
    graph = Graphs.of(Chem.AddHs(Chem.MolFromSmiles("CC#N")))
    assert graph.atoms[0, :, 0].tolist() == [6, 6, 7, 1, 1, 1]
    square = torch.zeros(6, 6, dtype=torch.uint8)
    square[tuple(torch.triu_indices(6, 6, 1))] = graph.pairs[0, :, 0]
    assert square[0].tolist() == [0, 1, 0, 1, 1, 1]
    assert square[1].tolist() == [0, 0, 3, 0, 0, 0]
    laplacian = graph.laplacians()[0]
    assert laplacian.diagonal().tolist() == [4, 2, 1, 1, 1, 1]
    assert laplacian.sum().item() == 0
    separation = torch.zeros(6, 6, dtype=torch.uint8)
    separation[tuple(torch.triu_indices(6, 6, 1))] = graph.pairs[0, :, 1]
    assert separation[2].tolist()[3:] == [2, 2, 2]  # three bonds from N to H


def test_stacking_and_selecting():
    parts = [Graphs.of(Chem.AddHs(Chem.MolFromSmiles(s))) for s in ("C[C@H](O)F", "CC#CN", "CCC")]
    assert [p.centres.shape[1] for p in parts[:2]] == [1, 0]
    same = [Graphs.of(Chem.MolFromSmiles(s)) for s in ("C[C@H](O)F", "CC#N", "CC(C)C")]
    same = [g for g in same if g.size == 4]
    whole = Graphs.stack(same)
    assert whole.real.tolist() == [[True], [False]]
    assert torch.equal(whole.select(torch.tensor([1])).pairs, same[1].pairs)
    assert torch.equal(whole.repeat(2).atoms[2:], whole.atoms)


# The network --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network() -> ConformerNetwork:
    torch.manual_seed(0)
    net = ConformerNetwork(
        [1, 6, 7, 8, 9, 15, 16], width=32, pair_width=8, heads=2, vectors=4, depth=2
    )
    for p in net.parameters():  # away from the structure of the initial weights
        p.data += 0.1 * torch.randn_like(p)
    return net.double().eval()


def graph_of(*smiles: str) -> Graphs:
    return Graphs.stack([Graphs.of(Chem.AddHs(Chem.MolFromSmiles(s))) for s in smiles])


def velocity(network, graphs: Graphs, x: torch.Tensor) -> torch.Tensor:
    t = torch.linspace(0.1, 0.9, len(x), dtype=x.dtype)
    return network(t, x, *network.features(graphs), graphs)


def positions(graphs: Graphs, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(graphs), graphs.size, 3, generator=generator, dtype=torch.float64)
    return x - x.mean(1, keepdim=True)


SETS = [("C[C@H](O)F", "C[C@@H](O)F"), ("C/C=C/C",), ("O[C@H]1C[C@@H]1C#N",)]


@pytest.mark.parametrize("smiles", SETS)
def test_rotations(network, smiles):
    graphs = graph_of(*smiles)
    x = positions(graphs)
    turn = rand_matrix(dtype=torch.float64)
    v = velocity(network, graphs, x)
    assert v.abs().max() > 1e-2
    torch.testing.assert_close(velocity(network, graphs, x @ turn.T), v @ turn.T, **TOLERANCE)
    zero = torch.zeros(len(x), 3, dtype=x.dtype)
    torch.testing.assert_close(v.mean(1), zero, **TOLERANCE)


@pytest.mark.parametrize("smiles", SETS)
def test_permutations(network, smiles):
    mols = [Chem.AddHs(Chem.MolFromSmiles(s)) for s in smiles]
    order = np.random.default_rng(1).permutation(mols[0].GetNumAtoms()).tolist()
    moved = Graphs.stack([Graphs.of(Chem.RenumberAtoms(m, order)) for m in mols])
    graphs = graph_of(*smiles)
    x = positions(graphs)
    v = velocity(network, graphs, x)
    torch.testing.assert_close(velocity(network, moved, x[:, order]), v[:, order], **TOLERANCE)


MIRROR = torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)


@pytest.mark.parametrize("smiles", ["C[C@H](O)F", "O[C@H]1C[C@@H]1C#N"])
def test_a_chiral_molecule_is_not_its_mirror_image(network, smiles):
    graphs = graph_of(smiles)
    x = positions(graphs)
    gap = velocity(network, graphs, x * MIRROR) - velocity(network, graphs, x) * MIRROR
    assert gap.abs().max() > 1e-3


@pytest.mark.parametrize(
    ("smiles", "mirrored"),
    [
        ("C[C@H](O)F", "C[C@@H](O)F"),
        ("O[C@H]1C[C@@H]1C#N", "O[C@@H]1C[C@H]1C#N"),
        ("C/C=C/C", "C/C=C/C"),
        ("CCO", "CCO"),
    ],
)
def test_the_mirrored_molecule_moves_as_the_mirror_image(network, smiles, mirrored):
    graphs, others = graph_of(smiles), graph_of(mirrored)
    x = positions(graphs)
    found = velocity(network, others, x * MIRROR)
    torch.testing.assert_close(found, velocity(network, graphs, x) * MIRROR, **TOLERANCE)


def test_stereo_has_an_effect(network):
    for first, second in (("C[C@H](O)F", "C[C@@H](O)F"), ("C/C=C/C", "C/C=C\\C")):
        one, two = graph_of(first), graph_of(second)
        x = positions(one)
        assert (velocity(network, one, x) - velocity(network, two, x)).abs().max() > 1e-3


def test_elements_of_a_batch_do_not_see_each_other(network):
    """Nor does the filling up of stereocentres show."""
    smiles = ["C[C@H](O)F", "C[C@@H](O)F", "CC(O)F", "CCOF"]
    graphs = graph_of(*smiles)
    x = positions(graphs)
    t = torch.full((4,), 0.4, dtype=x.dtype)
    whole = network(t, x, *network.features(graphs), graphs)
    for k, text in enumerate(smiles):
        single = graph_of(text)
        alone = network(t[:1], x[k : k + 1], *network.features(single), single)
        torch.testing.assert_close(alone[0], whole[k], **TOLERANCE)


def test_every_parameter_is_used(network):
    graphs = graph_of("C[C@H](O)F", "C[C@@H](O)F")
    network.zero_grad()
    velocity(network, graphs, positions(graphs)).square().sum().backward()
    dead = [name for name, p in network.named_parameters() if not p.grad.abs().sum() > 0]
    assert dead == []


def test_atoms_at_one_place_have_finite_gradients(network):
    graphs = graph_of("C[C@H](O)F")
    x = torch.zeros(1, graphs.size, 3, dtype=torch.float64, requires_grad=True)
    velocity(network, graphs, x).square().sum().backward()
    assert torch.isfinite(x.grad).all()
