"""The gradient of an energy as a reward, by central differences of the reward itself."""

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from molflowctl.errors import UserError
from molflowctl.properties import get
from molflowctl.properties.energies.energy import energy_rewards

METHODS = ("GFN2-xTB", "GFN1-xTB", "MMFF94")


def distorted(smiles, seed):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert AllChem.EmbedMolecule(mol, randomSeed=seed) == 0
    return shifted(mol, np.random.default_rng(seed).normal(0, 0.04, (mol.GetNumAtoms(), 3)))


def shifted(mol, step):
    mol = Chem.Mol(mol)
    mol.GetConformer().SetPositions(mol.GetConformer().GetPositions() + step)
    return mol


MOLS = [distorted(smiles, 7) for smiles in ("CC(=O)[O-]", "OCC#N")]


@pytest.mark.parametrize("method", METHODS)
def test_gradient_is_that_of_the_value(method):
    gradients = energy_rewards(MOLS, method, timeout=None).gradients
    h = 2e-3  # angstrom; xTB's density is converged to less than this resolves
    for mol, gradient in zip(MOLS, gradients, strict=True):
        direction = np.random.default_rng(0).normal(size=gradient.shape)
        direction /= np.linalg.norm(direction)
        steps = [shifted(mol, k * h * direction) for k in (-2, -1, 1, 2)]
        a, b, c, d = energy_rewards(steps, method, timeout=None).values
        slope = (a - 8 * b + 8 * c - d) / (12 * h)
        assert slope == pytest.approx(
            (gradient * direction).sum(), abs=1e-4 * np.abs(gradient).max()
        )


@pytest.mark.parametrize("method", METHODS)
def test_a_step_along_the_gradient_is_worth_more(method):
    before = energy_rewards(MOLS, method, timeout=None)
    moved = [shifted(m, 1e-4 * g) for m, g in zip(MOLS, before.gradients, strict=True)]
    assert (energy_rewards(moved, method, timeout=None).values > before.values).all()


def test_values_are_the_properties_negated():
    xtb, mmff = (energy_rewards(MOLS, method).values for method in ("GFN2-xTB", "MMFF94"))
    for mol, by_xtb, by_mmff in zip(MOLS, xtb, mmff, strict=True):
        hartree = get("xtb_energy_hartree")(mol)["xtb_energy_hartree"]
        assert by_xtb == pytest.approx(-627.5094740631 * hartree, abs=1e-4)
        assert by_mmff == pytest.approx(
            -get("mmff_energy_kcal_mol")(mol)["mmff_energy_kcal_mol"], abs=1e-3
        )


@pytest.mark.parametrize("method", METHODS)
def test_one_that_fails_costs_itself_only(method):
    clash = Chem.Mol(MOLS[1])
    clash.GetConformer().SetPositions(0.1 * MOLS[1].GetConformer().GetPositions())
    found = energy_rewards([clash, MOLS[1]], method)
    assert found.errors == ["two atoms are closer than 0.4 angstrom", None]
    assert np.isnan(found.values[0])
    assert np.isnan(found.gradients[0]).all()
    assert np.isfinite(found.values[1])
    assert np.isfinite(found.gradients[1]).all()


def test_unknown_method():
    with pytest.raises(UserError, match="GFN1-xTB, MMFF94"):
        energy_rewards(MOLS, "PM3")
