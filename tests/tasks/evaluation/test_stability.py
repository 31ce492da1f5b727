"""Stability by EDM's table on molecules whose answer is known."""

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from molflowctl.chem.graphs import Graph3D, from_mol
from molflowctl.tasks.evaluation.stability import (
    distance_bonds,
    edm_smiles,
    has_valences,
    stable_atoms,
)


def graph(smiles: str) -> Graph3D:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=1) == 0
    rdForceFieldHelpers.MMFFOptimizeMolecule(mol)
    return from_mol(mol, hydrogens=True)


def test_neutral_closed_shells_are_stable():
    for smiles in ("C", "CCO", "C#N", "c1ccoc1", "FC(F)C=O", "NC(=O)C#C"):
        molecule = graph(smiles)
        assert stable_atoms(molecule.numbers, molecule.bonds).all(), smiles


@pytest.mark.parametrize(
    ("smiles", "unstable"),
    [
        ("[CH3]", 1),  # a valence short
        ("C[NH3+]", 1),  # the table ignores charges: nitrogen has four bonds
        ("CC(=O)[O-]", 1),
        ("C[NH2+]CC(=O)[O-]", 2),
    ],
)
def test_radicals_and_charged_atoms_are_not(smiles, unstable):
    molecule = graph(smiles)
    assert (~stable_atoms(molecule.numbers, molecule.bonds)).sum() == unstable


@pytest.mark.parametrize(
    ("a", "b", "limits"),
    [
        # standard lengths plus 10, 5 and 3 pm, of the triple bond first
        (6, 6, (1.23, 1.39, 1.64)),
        (6, 7, (1.19, 1.34, 1.57)),
        (6, 8, (1.16, 1.25, 1.53)),
        (7, 7, (1.13, 1.30, 1.55)),
        (7, 8, (0.0, 1.26, 1.50)),
        (1, 6, (0.0, 0.0, 1.19)),
        (1, 1, (0.0, 0.0, 0.84)),
        (9, 6, (0.0, 0.0, 1.45)),
    ],
)
def test_orders_change_at_the_published_distances(a, b, limits):
    for order, limit in zip((3, 2, 1), limits, strict=True):
        if limit:
            inside, outside = (
                distance_bonds(np.array([a, b]), np.array([[0, 0, 0], [0, 0, limit + step]]))
                for step in (-1e-3, 1e-3)
            )
            assert inside[0, 1] == inside[1, 0] == order
            assert outside[0, 1] < order
            assert inside[0, 0] == 0


def test_bonds_from_distances_agree_with_the_graph_where_lengths_are_plain():
    for smiles in ("C", "CCO", "C=C", "C#C", "CC(C)=O", "N#CC"):
        molecule = graph(smiles)
        found = distance_bonds(molecule.numbers, molecule.positions)
        np.testing.assert_array_equal(found, molecule.bonds, err_msg=smiles)


def test_published_validity_takes_the_largest_fragment_and_fills_valences():
    ethanol, methane = graph("CCO"), graph("C")
    assert Chem.CanonSmiles(edm_smiles(ethanol.numbers, ethanol.positions)) == "CCO"
    numbers = np.concatenate([ethanol.numbers, methane.numbers])
    positions = np.concatenate([ethanol.positions, methane.positions + 20])
    assert Chem.CanonSmiles(edm_smiles(numbers, positions)) == "CCO"
    # without a hydrogen it stays valid, although its carbon is not stable
    assert Chem.CanonSmiles(edm_smiles(ethanol.numbers[:-1], ethanol.positions[:-1])) == "CCO"
    # a fifth hydrogen on carbon is too many
    crowd = np.array([6, 1, 1, 1, 1, 1])
    around = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1]])
    assert edm_smiles(crowd, np.concatenate([[[0, 0, 0]], around])) is None


def test_elements_of_the_table():
    assert has_valences(np.array([1, 6, 7, 8, 9]))
    assert not has_valences(np.array([6, 16]))
