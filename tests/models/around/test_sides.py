"""What is drawn at the stereo of a core comes on its side, and nothing else is moved."""

import numpy as np
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from molflowctl.chem.graphs import Graph3D, from_mol
from molflowctl.models.around.core import Core
from molflowctl.models.around.sides import on_their_sides

CASES = [
    ("[*:1][C@H](C)C(N)=O", "FCCO[C@H](C)C(N)=O", "FCCO[C@@H](C)C(N)=O"),
    ("[*:1][C@](C)(F)C(N)=O", "FCCO[C@](C)(F)C(N)=O", "FCCO[C@@](C)(F)C(N)=O"),
    ("[*:1]/C=C/C(N)=O", "CCC/C=C/C(N)=O", r"CCC/C=C\C(N)=O"),
    ("C/C=C(/[*:1])C#N", "C/C=C(/CCC)C#N", r"C/C=C(\CCC)C#N"),
]


def drawn(core: str, smiles: str, seed: int) -> Graph3D:
    query = Chem.MolFromSmiles(core)
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=seed) == 0
    mol = Chem.RemoveHs(mol)
    match = mol.GetSubstructMatch(Chem.AdjustQueryProperties(query), useChirality=False)
    own = [match[a.GetIdx()] for a in query.GetAtoms() if a.GetAtomicNum()]
    rest = [i for i in range(mol.GetNumAtoms()) if i not in own]
    return from_mol(Chem.RenumberAtoms(mol, [*own, *rest]), False)


def placed(graph: Graph3D, core: Core, turn: np.ndarray | None = None) -> np.ndarray:
    n = len(graph.numbers)
    orders = torch.tensor(graph.bonds[np.triu_indices(n, 1)]).long()
    bonds = torch.nn.functional.one_hot(orders, 4)[None].double() * 0.5
    x = torch.tensor(graph.positions if turn is None else graph.positions @ turn.T)[None]
    return on_their_sides(x, bonds, core.hands, len(core))[0].numpy()


def moved(graph: Graph3D, positions: np.ndarray) -> Graph3D:
    return Graph3D(graph.numbers, graph.charges, graph.bonds, positions)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("core", "right", "wrong"), CASES)
def test_the_rest_comes_on_the_side_that_is_said(core, right, wrong, seed) -> None:
    read = Core.from_smiles(core)
    k = len(read)
    there = drawn(core, right, seed)
    np.testing.assert_array_equal(placed(there, read), there.positions)
    other = drawn(core, wrong, seed)
    # With the core's own three neighbours of the right hand, as a rigid body has them.
    if "F)C" in core:
        other = moved(other, other.positions * np.array([1, 1, -1.0]))
        a, b, c = (other.positions[i] for i in np.flatnonzero(other.bonds[0, :k]))
        normal = np.cross(b - a, c - a)
        normal /= np.linalg.norm(normal)
        x = other.positions.copy()
        x[k:] -= 2 * ((x[k:] - a) @ normal)[:, None] * normal
        other = moved(other, x)
    assert read.flaw(other)
    found = moved(other, placed(other, read))
    assert read.flaw(found) == ""
    np.testing.assert_array_equal(found.positions[:k], other.positions[:k])
    inside = [np.linalg.norm(x[k:, None] - x[None, k:], axis=-1)
              for x in (found.positions, other.positions)]  # fmt: skip
    np.testing.assert_allclose(*inside, atol=1e-9)


@pytest.mark.parametrize(("core", "right", "wrong"), CASES)
def test_it_turns_with_the_molecule(core, right, wrong) -> None:
    read = Core.from_smiles(core)
    turn, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    turn *= np.linalg.det(turn)
    graph = drawn(core, wrong, 2)
    np.testing.assert_allclose(placed(graph, read, turn), placed(graph, read) @ turn.T, atol=1e-9)


def test_a_centre_that_has_no_bond_to_the_rest_leaves_all_as_it_is() -> None:
    text, smiles = "C[S@](=O)c1ccc([*:1])cc1", "C[S@](=O)c1ccc(CCF)cc1"
    core = Core.from_smiles(text)
    graph = drawn(text, smiles, 1)
    for sign in (1, -1):
        there = moved(graph, graph.positions * np.array([1, 1, sign]))
        np.testing.assert_array_equal(placed(there, core), there.positions)


def test_a_core_without_stereo_leaves_all_as_it_is() -> None:
    core = Core.from_smiles("[*:1]c1ccccc1")
    graph = drawn("[*:1]c1ccccc1", "CCOc1ccccc1", 1)
    np.testing.assert_array_equal(placed(graph, core), graph.positions)
