"""Properties of ensembles against sums done by hand, with energies that are given."""

import math

import numpy as np
import pytest
from rdkit import Chem

from molflowctl.chem.units import GAS_CONSTANT_KCAL_MOL_K, HARTREE_TO_KCAL_MOL
from molflowctl.properties.energies import xtb
from molflowctl.properties.energies.xtb import SinglePoint
from molflowctl.tasks.evaluation.ensemble_properties import ERRORS, EnsembleProperties, draw_errors


def ensemble(*positions: float) -> Chem.Mol:
    """Hydrogen molecules stretched along x."""
    mol = Chem.AddHs(Chem.MolFromSmiles("[H][H]"))
    for x in positions:
        conformer = Chem.Conformer(2)
        conformer.SetAtomPosition(1, (x, 0.0, 0.0))
        mol.AddConformer(conformer, assignId=True)
    return mol


@pytest.fixture(autouse=True)
def given(monkeypatch):
    """The energy is x kcal/mol, the dipole (0, 3x, 4x), the gap 2x; nothing above 9."""

    def single_point(mol):
        x = mol.GetConformer().GetPositions()[1, 0]
        error = "no convergence" if x > 9 else None
        x = math.nan if error else x
        nothing = np.zeros((2, 3))
        energy = x / HARTREE_TO_KCAL_MOL
        return SinglePoint(
            energy, 2 * x, x * np.array([0, 3.0, 4.0]), nothing, nothing[:, 0], error
        )

    monkeypatch.setattr(xtb, "single_point", single_point)


def test_boltzmann_weights_of_their_own_energies():
    found = EnsembleProperties.of(ensemble(2.0, 1.0, 10.0), temperature=300.0)
    factor = math.exp(-1 / (GAS_CONSTANT_KCAL_MOL_K * 300.0))
    mean = (1 + 2 * factor) / (1 + factor)
    assert found.energy == pytest.approx(mean)
    assert found.dipole == pytest.approx(5 * mean)
    assert found.gap == pytest.approx(2 * mean)
    assert found.minimum == pytest.approx(1.0)
    assert found.energies.tolist() == pytest.approx([2.0, 1.0])


def test_only_the_first_ones_are_asked():
    assert EnsembleProperties.of(ensemble(2.0, 1.0), most=1).minimum == pytest.approx(2.0)


def test_errors_are_absolute_differences():
    one, other = (EnsembleProperties.of(ensemble(x)) for x in (2.0, 5.0))
    for a, b in ((one, other), (other, one)):
        assert a.errors(b) == pytest.approx(
            {"error_energy": 3, "error_dipole": 15, "error_gap": 6, "error_minimum": 3}
        )


def test_without_an_energy_there_is_no_error():
    failed = EnsembleProperties.of(ensemble(10.0))
    assert len(failed.energies) == 0
    assert all(math.isnan(e) for e in failed.errors(EnsembleProperties.of(ensemble(1.0))).values())


def test_a_figure_of_several_models(tmp_path):
    rows = {
        model: [dict.fromkeys(ERRORS, float(k + place)) for k in range(4)]
        for place, model in enumerate(("flows/parent", "child"))
    }
    rows["child"][0] = {}  # a molecule whose energies failed
    draw_errors(rows, tmp_path / "errors.png")
    assert (tmp_path / "errors.png").read_bytes()[1:4] == b"PNG"
