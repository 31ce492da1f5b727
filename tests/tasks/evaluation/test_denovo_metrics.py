"""Rates and distances of samples whose answers are known."""

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from molflowctl.chem.graphs import Failure, assemble, from_mol
from molflowctl.data.known import hash_molecules
from molflowctl.tasks.evaluation.denovo_metrics import (
    Attempts,
    alerts,
    chemistry,
    distances,
    posebusters_rates,
    relaxation_estimates,
    sample_rates,
    sampling_floor,
)
from molflowctl.tasks.evaluation.physical_checks import FAILED, RelaxationChange
from molflowctl.tasks.evaluation.reference import bond_angles, bond_lengths, descriptors, quantiles


def mol(smiles: str, seed: int = 1) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=seed) == 0
    rdForceFieldHelpers.MMFFOptimizeMolecule(mol)
    return mol


def sample_of(*smiles: str, unreadable: int = 0) -> Attempts:
    graphs = [from_mol(mol(s), hydrogens=True) for s in smiles]
    results = [assemble(graph, "none", explicit=True) for graph in graphs]
    failures = [Failure("unreadable")] * unreadable
    return Attempts(graphs + [None] * unreadable, results + failures, explicit=True)


def test_rates_of_a_hand_made_sample():
    # ethanol twice, a known and a new molecule, an ion, a radical, and one that cannot be read
    sample = sample_of("CCO", "CCO", "C", "CCC", "C[NH3+]", "[CH3]", unreadable=1)
    rates = sample_rates(sample, hash_molecules(["C"]))
    value = {name: estimate.value for name, estimate in rates.items()}
    assert sample.failures() == {"radical": 1, "unreadable": 1}
    assert value["valid"] == pytest.approx(5 / 7)
    assert value["unique"] == pytest.approx(4 / 5)
    assert value["novel"] == pytest.approx(3 / 4)
    assert value["valid_and_unique"] == pytest.approx(4 / 7)
    assert value["molecule_stability"] == pytest.approx(4 / 7)
    atoms = 9 + 9 + 5 + 11 + 8 + 4
    assert value["atom_stability"] == pytest.approx((atoms - 2) / atoms)
    assert value["edm_valid"] == pytest.approx(5 / 7)  # uncharged, nitrogen with four bonds is none
    assert value["edm_molecule_stability"] == pytest.approx(4 / 7)


@pytest.mark.parametrize(
    ("smiles", "pains", "brenk"),
    [
        ("CCO", False, False),
        ("c1ccccc1-c1ccccc1", False, False),
        ("O=C1C=CC(=O)C=C1", True, True),  # a quinone
        ("CC=O", False, True),  # an aldehyde
    ],
)
def test_alerts_are_found(smiles, pains, brenk):
    assert tuple(count > 0 for count in alerts(mol(smiles))) == (pains, brenk)


def test_internal_diversity_and_alerts_of_a_hand_made_sample():
    same, unlike = [mol("CCO")] * 4, [mol(s) for s in ("CCO", "CCO", "CCO", "c1ccccc1")]
    assert chemistry(same, [(0.0, 1.0)] * 4)["internal_diversity"].value == 0
    found = chemistry(unlike, [(0.0, 1.0), (0.0, 3.0), None, (3.0, 0.0)])
    # pairs (first, third), (second, fourth); ethanol and benzene share no fragment
    assert found["internal_diversity"].value == pytest.approx(0.5)
    assert found["pains_alerts"].value == pytest.approx(1)
    assert found["brenk_alerts"].value == pytest.approx(4 / 3)
    assert found["brenk_alerts"].n == 3
    assert chemistry(same[:1], [(0.0, 0.0)]) == {}


def test_stability_needs_hydrogens_and_elements_of_the_table():
    graphs = [from_mol(mol("CCO"), hydrogens=False)]
    implicit = Attempts(graphs, [assemble(g) for g in graphs], explicit=False)
    assert "molecule_stability" not in sample_rates(implicit, hash_molecules([]))
    sulphur = sample_rates(sample_of("CS"), hash_molecules([]))
    assert "molecule_stability" not in sulphur
    assert sulphur["valid"].value == 1


def test_a_check_without_an_answer_is_never_a_pass():
    fast = [{"bonds": True}, {"bonds": True}, {"bonds": False}, {"bonds": True}]
    energy = [{"energy": True}, {"energy": None}, {"energy": None}]
    rates = {name: estimate.value for name, estimate in posebusters_rates(fast, energy).items()}
    assert rates["all_but_energy"] == pytest.approx(3 / 4)
    assert rates["all"] == pytest.approx(1 / 3)
    assert rates["no_answer"] == pytest.approx(1 / 3)  # the second alone: the third has failed
    assert rates["none_failed"] == pytest.approx(2 / 3)
    assert rates["all_answered"] == pytest.approx(1 / 2)
    assert rates["bonds"] == pytest.approx(3 / 4)
    assert rates["energy"] == pytest.approx(1 / 3)
    assert posebusters_rates([], []) == {}


def test_failed_relaxations_are_counted_and_kept_out_of_the_median():
    changes = [RelaxationChange(1.0, 0.1), FAILED, RelaxationChange(3.0, 0.3), FAILED]
    estimates = relaxation_estimates("mmff", changes)
    assert estimates["mmff_drop_kcal_mol"].value == 2.0
    assert estimates["mmff_rmsd_angstrom"].value == pytest.approx(0.2)
    assert estimates["mmff_drop_kcal_mol"].n == 2
    assert estimates["mmff_failed"].value == 0.5


def reference_of(mols: list[Chem.Mol], longer: float = 0.0) -> dict:
    return {
        "descriptors": descriptors(mols),
        "bonds": {k: quantiles(v + longer) for k, v in bond_lengths(mols).items()},
        "angles": {k: quantiles(v) for k, v in bond_angles(mols).items()},
    }


def test_a_perfect_sample_has_no_distance_and_a_shifted_one_its_shift():
    mols = [mol(s, seed) for s in ("CCO", "CC(=O)N", "c1ccoc1", "CC#N") for seed in range(1, 7)]
    found, values = distances(mols, reference_of(mols))
    assert {d.group for d in found} == {"property", "bond length", "angle"}
    assert max(d.wasserstein for d in found) < 1e-9
    assert len(values["descriptors"]["qed"]) == 24
    shifted, _ = distances(mols, reference_of(mols, longer=0.05))
    bonds = [d for d in shifted if d.group == "bond length"]
    assert bonds
    assert [d.wasserstein for d in bonds] == pytest.approx([0.05] * len(bonds))
    # kinds with few values are left out: four acetonitriles would give 4 triple bonds
    few, _ = distances(mols[:3], reference_of(mols))
    assert not [d for d in few if d.name in ("C=C", "qed")]


def test_sampling_floor_falls_as_one_over_root_n():
    normal = quantiles(np.random.default_rng(0).normal(size=100_000))
    floors = [sampling_floor(normal, n, repeats=200) for n in (100, 400, 1600)]
    np.testing.assert_allclose(np.divide(floors[:-1], floors[1:]), 2, rtol=0.15)
