"""Energies of conformers as rewards: gradients in the flow's units, references of molecules."""

import numpy as np
import pytest
import torch
from rdkit import Chem

from molflowctl.chem.ensemble import embed, force_field
from molflowctl.compute.parallel import SerialPool
from molflowctl.flows.state import Ragged, State
from molflowctl.properties.energies.energy import EnergyRewards
from molflowctl.tasks.steering import conformer_energy as task
from molflowctl.tasks.steering.conformer_energy import ConformerEnergies, lowest_energies

SCALE = 1.2


@pytest.fixture(scope="module")
def mols():
    """Methanol and ethanimine, the lowest conformer first."""
    pytest.importorskip("tblite")
    found = [Chem.AddHs(Chem.MolFromSmiles(s)) for s in ("CO", "CC=N")]
    for mol in found:
        assert embed(mol, 1, 0)
        force_field(mol)
    return found


@pytest.fixture(scope="module")
def energies(mols):
    pool = SerialPool()
    return ConformerEnergies(
        mols,
        lowest_energies(mols, "GFN2-xTB", pool, timeout=None)[0],
        SCALE,
        pool,
        softness=20.0,
        timeout=None,
    )


def distorted(mol: Chem.Mol, number: int, size: float, copies: int = 1) -> State:
    """Conformers off the minimum by `size` angstrom."""
    noise = np.random.default_rng(number).normal(size=(copies, mol.GetNumAtoms(), 3))
    positions = (mol.GetConformer().GetPositions() + size * noise) / SCALE
    return State(torch.full((copies,), number), positions=torch.from_numpy(positions))


@pytest.mark.parametrize("size", [0.02, 0.15], ids=["near the minimum", "beyond the softness"])
@pytest.mark.parametrize("number", [0, 1])
def test_gradient_by_finite_differences(energies, mols, number, size):
    x = distorted(mols[number], number, size)
    reward, h = energies.reward(), 1e-3
    above = energies.above(x)[0]
    assert (above > 20) == (size > 0.1)
    assert float(reward.value(x)) == pytest.approx(-20 * np.log1p(above / 20), rel=1e-5)
    gradient = reward.gradient(x)["positions"][0]
    for atom, axis in ((0, 0), (2, 1), (4, 2)):
        step = torch.zeros_like(x["positions"])
        step[0, atom, axis] = h
        ahead, behind = (
            -20 * np.log1p(energies.above(State(x.given, positions=x["positions"] + d))[0] / 20)
            for d in (step, -step)
        )
        assert float(gradient[atom, axis]) == pytest.approx((ahead - behind) / (2 * h), rel=5e-3)


def test_references_are_minima(energies, mols):
    for number, mol in enumerate(mols):
        above = energies.above(distorted(mol, number, 0.0))[0]
        assert 0 <= above < 5  # MMFF94's minimum, near that of GFN2-xTB
        assert energies.above(distorted(mol, number, 0.05))[0] > above


def test_rewards_count_from_the_molecules_own_means(mols, energies):
    mine = ConformerEnergies(mols, energies.lowest, SCALE, SerialPool(), timeout=None)
    x = Ragged([distorted(mols[0], 0, 0.05, 3), distorted(mols[1], 1, 0.1, 2)])
    before = mine.reward().value(x)
    mine.count_from(x)
    after = mine.reward().value(x)
    assert after[:3].mean() == pytest.approx(0, abs=1e-4)
    assert after[3:].mean() == pytest.approx(0, abs=1e-4)
    for part in (slice(0, 3), slice(3, 5)):
        torch.testing.assert_close(
            after[part] - before[part],
            (-before[part].mean()).expand_as(after[part]),
            rtol=1e-4,
            atol=1e-4,
        )
    assert mine.calls == 5  # each was asked about once


def test_a_failed_energy_is_the_worst_and_has_no_gradient(mols, monkeypatch):
    def failing(conformers, *_, **__):
        atoms = conformers[0].GetNumAtoms()
        gradients = [np.full((atoms, 3), np.nan), np.ones((atoms, 3))]
        return EnergyRewards(np.array([np.nan, -7.0]), gradients, ["no convergence", None])

    monkeypatch.setattr(task, "energy_rewards", failing)
    mine = ConformerEnergies(mols, np.array([2.0, 0.0]), SCALE, SerialPool(), softness=10.0)
    x = distorted(mols[0], 0, 0.0, 2)
    value, gradient = mine.reward().value(x), mine.reward().gradient(x)["positions"]
    assert value.tolist() == pytest.approx([-10 * np.log1p(100), -10 * np.log1p(0.5)], rel=1e-5)
    assert (gradient[0] == 0).all()
    torch.testing.assert_close(gradient[1], torch.full_like(gradient[1], SCALE / 1.5))
    assert np.isnan(mine.above(x)[0])
    assert (mine.calls, mine.failed) == (2, 1)
