"""Conformers made of positions."""

import numpy as np
import pytest
from rdkit import Chem

from molflowctl.chem.geometry import COVALENT_RADII, add_conformer, with_positions


@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_positions_come_back_and_leave_the_others(kind):
    mol = Chem.MolFromSmiles("CCO")
    first, second = np.arange(18, dtype=kind).reshape(2, 3, 3)
    assert [add_conformer(mol, first), add_conformer(mol, second[:, ::-1])] == [0, 1]
    assert (mol.GetConformer(0).GetPositions() == first).all()
    assert (mol.GetConformer(1).GetPositions() == second[:, ::-1]).all()
    assert mol.GetConformer(1).Is3D()


def test_a_copy_has_one_conformer_and_the_molecule_what_it_had():
    mol = Chem.MolFromSmiles("CO")
    add_conformer(mol, np.zeros((2, 3)))
    placed = with_positions(mol, np.ones((2, 3)))
    assert placed.GetNumConformers() == mol.GetNumConformers() == 1
    assert (placed.GetConformer().GetPositions() == 1).all()
    assert (mol.GetConformer().GetPositions() == 0).all()


def test_radii_are_of_the_elements():
    """Cordero et al., Dalton Trans. 2008, 2832, in angstrom."""
    assert COVALENT_RADII[[1, 6, 7, 8, 17]] == pytest.approx([0.31, 0.76, 0.71, 0.66, 1.02])
