"""Ensembles of one molecule: stereo that holds, symmetry, pruning, weights."""

import numpy as np
import pytest
from rdkit import Chem

from molflowctl.chem.ensemble import (
    boltzmann_weights,
    embed,
    force_field,
    keep_conformers,
    prune,
    rmsd_matrix,
    symmetric_rmsd,
)
from molflowctl.chem.relaxation import bonds_kept


def made(smiles: str, n: int = 3, seed: int = 0) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert embed(mol, n, seed) == n
    return mol


def edited(mol: Chem.Mol, change) -> Chem.Mol:
    mol = Chem.Mol(mol)
    for conformer in mol.GetConformers():
        conformer.SetPositions(np.ascontiguousarray(change(conformer.GetPositions())))
    return mol


def test_relaxation_lowers_the_energy_and_keeps_the_rest():
    mol = made("CCC(=O)NC")
    before, name, _ = force_field(Chem.Mol(mol), "none")
    held, hydrogens = Chem.Mol(mol), None
    hydrogens, *_ = force_field(held, "hydrogens")
    after, *_ = force_field(mol, "all")
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
    energies, name, _ = force_field(made("C[Se]C"), "all")
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
    energies, *_ = force_field(mol)
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
