"""Ensembles of one molecule: stereo that holds, symmetry, pruning, weights."""

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdMolTransforms

from molflowctl.ensemble import (
    boltzmann_weights,
    bonds_kept,
    embed,
    force_field,
    keep_conformers,
    prune,
    rmsd_matrix,
    stereo_kept,
    stereoisomers,
    symmetric_rmsd,
    unspecified_stereo,
)
from molflowctl.models.conformer_graph import stereocentres

STEREO = [
    "C[C@H](O)F",
    "C[C@@H](O)[C@H](N)F",
    "O[C@H]1C[C@@H]1C#N",
    "C/C=C/C",
    "C/C(F)=C(/Cl)CC",
    "[H]/N=C(/C)N",
    "C[S@](=O)CC",
    "C[C@H]1CC[C@@H](O)CC1",
]


def made(smiles: str, n: int = 3, seed: int = 0) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert embed(mol, n, seed) == n
    return mol


def edited(mol: Chem.Mol, change) -> Chem.Mol:
    mol = Chem.Mol(mol)
    for conformer in mol.GetConformers():
        conformer.SetPositions(np.ascontiguousarray(change(conformer.GetPositions())))
    return mol


@pytest.mark.parametrize("hydrogens", [True, False], ids=["all atoms", "heavy atoms"])
@pytest.mark.parametrize("smiles", STEREO)
def test_stereo_is_seen_in_coordinates(smiles, hydrogens):
    mol = made(smiles)
    mol = mol if hydrogens else Chem.RemoveHs(mol)
    assert all(stereo_kept(mol, c.GetId()) for c in mol.GetConformers())
    mirrored = edited(mol, lambda x: x * [1, 1, -1])
    chiral = bool(stereocentres(mol))
    assert stereo_kept(mirrored, 0) is not chiral


@pytest.mark.parametrize("angle", [0, 70, 90, 110, 180])
def test_a_double_bond_that_is_turned(angle):
    mol = made("C/C=C/C")  # trans, 180 degrees
    a, b, c, d = 0, 1, 2, 3
    rdMolTransforms.SetDihedralDeg(mol.GetConformer(0), a, b, c, d, angle)
    assert stereo_kept(mol, 0) == (angle == 180)


def test_one_wrong_centre_of_three_is_found():
    right, wrong = "C[C@H](O)[C@H](F)[C@@H](N)Cl", "C[C@H](O)[C@@H](F)[C@@H](N)Cl"
    mol, other = made(right, 1), made(wrong, 1)
    mol.GetConformer().SetPositions(other.GetConformer().GetPositions())
    assert not stereo_kept(mol)


@pytest.mark.parametrize(
    ("smiles", "open_", "isomers"),
    [("CC(O)F", 1, 2), ("C[C@H](O)F", 0, 1), ("CC=CC(O)F", 2, 4), ("CC(O)C(C)O", 2, 3)],
)
def test_stereoisomers(smiles, open_, isomers):
    mol = Chem.MolFromSmiles(smiles)
    assert unspecified_stereo(mol) == open_
    found = {Chem.MolToSmiles(m) for m in stereoisomers(mol, 16)}
    assert len(found) == isomers
    assert len(stereoisomers(mol, 1)) == 1


def test_only_stereoisomers_that_can_be_built():
    found = [Chem.MolToSmiles(m) for m in stereoisomers(Chem.MolFromSmiles("CC12CC(F)(C1)C2"), 8)]
    assert len(found) <= 1  # a bridge holds its ends


def test_relaxation_lowers_the_energy_and_keeps_the_rest():
    mol = made("CCC(=O)NC")
    before, name = force_field(Chem.Mol(mol), "none")
    held, hydrogens = Chem.Mol(mol), None
    hydrogens, _ = force_field(held, "hydrogens")
    after, _ = force_field(mol, "all")
    assert name == "MMFF94"
    assert (after < hydrogens).all()
    assert (hydrogens < before).all()
    heavy = [a.GetIdx() for a in held.GetAtoms() if a.GetAtomicNum() > 1]
    start = made("CCC(=O)NC")
    for k in range(3):
        x, y = (m.GetConformer(k).GetPositions()[heavy] for m in (held, start))
        np.testing.assert_allclose(x, y, atol=1e-9)
    assert all(bonds_kept(mol, k) for k in range(3))


def test_molecules_that_no_field_knows():
    energies, name = force_field(made("C[Se]C"), "all")
    assert name in ("", "UFF")
    assert np.isnan(energies).all() == (name == "")


def test_broken_bonds_are_seen():
    mol = made("CCO", 1)
    assert bonds_kept(mol)
    assert not bonds_kept(edited(mol, lambda x: 1.5 * x))
    assert not bonds_kept(edited(mol, lambda x: 0.5 * x))
    assert not bonds_kept(edited(mol, lambda x: np.nan * x))


def test_rmsd_is_symmetric_and_blind_to_rotations():
    mol = Chem.RemoveHs(made("CC(C)CC(C)C", 2))
    turned = edited(mol, lambda x: x @ np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]) + 3)
    assert symmetric_rmsd(Chem.Mol(mol), 0, turned, 0) < 1e-4
    there, back = (symmetric_rmsd(Chem.Mol(mol), i, mol, 1 - i) for i in (0, 1))
    assert there == pytest.approx(back, abs=1e-5)
    # the two methyls of an isopropyl group are one and the same
    order = [2 if k == 0 else 0 if k == 2 else k for k in range(mol.GetNumAtoms())]
    swapped = edited(mol, lambda x: x[order])
    assert symmetric_rmsd(swapped, 0, Chem.Mol(mol), 0) < 1e-4
    table = rmsd_matrix(mol, turned)
    assert table.shape == (2, 2)
    assert np.diag(table).max() < 1e-4
    assert table[0, 1] == pytest.approx(there, abs=1e-5)


def test_pruning():
    mol = made("CCCCCO", 12)
    energies, _ = force_field(mol)
    kept = prune(mol, energies, 0.3, 3.0)
    assert 1 < len(kept) < 12
    assert (np.diff(energies[kept]) >= 0).all()
    assert kept[0] == energies.argmin()
    assert energies[kept].max() <= energies.min() + 3.0
    table = rmsd_matrix(mol, mol)
    pairs = [table[i, j] for i in kept for j in kept if i < j]
    assert min(pairs) >= 0.3 - 1e-3
    for k in set(range(12)) - set(kept):  # nothing was dropped without a reason
        low = [j for j in kept if energies[j] <= energies[k]]
        assert energies[k] > energies.min() + 3.0 or table[k, low].min() < 0.3 + 1e-3
    assert len(prune(mol, energies, 0.0, np.inf)) == 12


def test_failed_energies_are_dropped():
    mol = made("CCCCO", 3)
    assert prune(mol, [2.0, np.nan, 1.0], 0.0, 6.0) == [2, 0]
    assert prune(mol, [np.nan] * 3, 0.1, 6.0) == []


def test_keeping_conformers():
    mol = made("CCCO", 3)
    kept = keep_conformers(mol, [2, 0])
    assert [c.GetId() for c in kept.GetConformers()] == [0, 1]
    for place, k in enumerate([2, 0]):
        x, y = kept.GetConformer(place).GetPositions(), mol.GetConformer(k).GetPositions()
        assert np.array_equal(x, y)


def test_boltzmann_weights():
    """One RT is 0.5922 kcal/mol at 298 K."""
    weights = boltzmann_weights([5.0, 5.0 + 0.592187, 5.0 + 2 * 0.592187], 298.0)
    assert weights.sum() == pytest.approx(1)
    np.testing.assert_allclose(weights[:-1] / weights[1:], np.e, rtol=1e-5)


def test_equal_seeds_give_equal_conformers():
    first, second = made("CCCO", 2, seed=5), made("CCCO", 2, seed=5)
    for k in range(2):
        x, y = (m.GetConformer(k).GetPositions() for m in (first, second))
        assert np.array_equal(x, y)
