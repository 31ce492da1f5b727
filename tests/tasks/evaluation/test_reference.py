"""Reference distributions: closed forms of the parts, textbook values for the shipped one."""

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from molflowctl.errors import UserError
from molflowctl.tasks.evaluation.reference import (
    DESCRIPTORS,
    LEVELS,
    bond_angles,
    bond_lengths,
    descriptors,
    load_reference,
    quantiles,
    wasserstein,
)


def embedded(smiles: str) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=1) == 0
    rdForceFieldHelpers.MMFFOptimizeMolecule(mol)
    return mol


def test_quantiles_give_wasserstein_distances():
    x = np.random.default_rng(0).normal(size=5000)
    assert wasserstein(x, quantiles(x)) == 0
    assert wasserstein(x + 0.25, quantiles(x)) == pytest.approx(0.25)
    # W1 between N(0, 1) and N(0, s^2) is |s - 1| sqrt(2/pi)
    assert wasserstein(1.5 * x, quantiles(x)) == pytest.approx(0.5 * (2 / np.pi) ** 0.5, rel=0.03)
    uniform = (np.arange(200) + 0.5) / 200
    np.testing.assert_allclose(quantiles(np.linspace(0, 1, 1001)), uniform)
    np.testing.assert_allclose(LEVELS, uniform)


def test_angles_of_regular_geometries():
    methane, benzene, ethyne = map(embedded, ("C", "c1ccccc1", "C#C"))
    tetrahedral = np.degrees(np.arccos(-1 / 3))
    np.testing.assert_allclose(bond_angles([methane])["C"], [tetrahedral] * 6, atol=0.1)
    np.testing.assert_allclose(bond_angles([benzene])["C"], [120] * 18, atol=0.5)
    np.testing.assert_allclose(bond_angles([ethyne])["C"], [180] * 2, atol=0.5)
    assert "H" not in bond_angles([methane, benzene])


def test_bonds_are_sorted_and_kekulised():
    lengths = bond_lengths([embedded("c1ccccc1"), embedded("N#CO")])
    assert {k: len(v) for k, v in lengths.items()} == {
        "C#N": 1,
        "C-C": 3,
        "C-H": 6,
        "C-O": 1,
        "C=C": 3,
        "H-O": 1,
    }
    assert lengths["C-H"].mean() == pytest.approx(1.09, abs=0.02)


def test_descriptors_of_ethanol():
    values = descriptors([embedded("CCO")])
    assert set(values) == set(DESCRIPTORS)
    assert values["mw"][0] == pytest.approx(46.069, abs=1e-3)
    assert values["tpsa"][0] == pytest.approx(20.23)  # one hydroxyl, Ertl 2000
    assert values["logp"][0] == pytest.approx(-0.0014, abs=1e-4)  # Crippen's contributions
    assert (values["rings"][0], values["rotatable_bonds"][0]) == (0, 0)


def test_shipped_reference():
    reference = load_reference("qm9")
    assert set(reference["descriptors"]) == set(DESCRIPTORS)
    assert {len(v) for v in reference["descriptors"].values()} == {5000}
    for part in ("bonds", "angles"):
        for row in reference[part].values():
            assert row.shape == LEVELS.shape
            assert (np.diff(row) >= 0).all()
    medians = {k: np.median(v) for k, v in reference["bonds"].items()}
    # CRC Handbook: C-H, C-C, C=C, C#C, C#N, C=O, O-H, C-F
    textbook = {"C-H": 1.09, "C-C": 1.53, "C=C": 1.34, "C#C": 1.20, "C#N": 1.15, "C=O": 1.21}
    for kind, length in (textbook | {"H-O": 0.96, "C-F": 1.35}).items():
        assert medians[kind] == pytest.approx(length, abs=0.025)
    assert np.median(reference["angles"]["C"]) == pytest.approx(109.5, abs=2)
    with pytest.raises(UserError, match="qm99"):
        load_reference("qm99")
