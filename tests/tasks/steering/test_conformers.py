"""Steering and merging conformer flows from end to end, the energy being springs on the bonds."""

import csv
import itertools
import json
import shutil

import numpy as np
import pytest
import torch
from rdkit import Chem

from molflowctl.compute.parallel import SerialPool
from molflowctl.errors import UserError
from molflowctl.models.conformer import ConformerFlow
from molflowctl.models.ensembles import Ensembles
from molflowctl.properties.energies.energy import EnergyRewards
from molflowctl.tasks.steering import conformer_energy
from molflowctl.tasks.steering import conformers as control_conformers
from molflowctl.tasks.steering.conformers import finetune_conformers, merge_conformers
from molflowctl.tasks.steering.settings import ConformerFinetuneConfig, ConformerMergeConfig

STIFFNESS, LENGTH = 30.0, 1.3  # kcal/mol/angstrom^2, angstrom


def springs(mols, *_, **__) -> EnergyRewards:
    """`E = k/2 sum_bonds (d - l)^2`."""
    values, gradients = [], []
    for mol in mols:
        x = mol.GetConformer().GetPositions()
        value, slope = 0.0, np.zeros_like(x)
        for bond in mol.GetBonds():
            i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
            gap = x[i] - x[j]
            d = np.linalg.norm(gap)
            value -= STIFFNESS / 2 * (d - LENGTH) ** 2
            slope[i] -= STIFFNESS * (d - LENGTH) * gap / d
            slope[j] += STIFFNESS * (d - LENGTH) * gap / d
        values.append(value)
        gradients.append(slope)
    return EnergyRewards(np.array(values), gradients, [None] * len(mols))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(control_conformers, "WorkerPool", lambda jobs: SerialPool())
    monkeypatch.setattr(conformer_energy, "energy_rewards", springs)
    monkeypatch.setattr(
        control_conformers, "lowest_energies", lambda mols, *_: (np.zeros(len(mols)), {})
    )


@pytest.fixture
def settings(ensembles, tmp_path):
    return {
        "data": ensembles, "out": tmp_path / "out", "molecules": 6, "rounds": 2,
        "round_samples": 24, "evaluations": 6, "iterations": 6, "steps": 6, "passes": 3,
        "inner_steps": 10, "batch": 16, "lr": 3e-3,
    }  # fmt: skip


def table(folder, name):
    with (folder / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


def test_fine_tuning_lowers_the_energy_and_resumes(settings, untrained_conformers):
    config = ConformerFinetuneConfig(**settings, flow=str(untrained_conformers), kl=1.0)
    flow = finetune_conformers(config)
    rows = table(config.out, "finetune")
    assert [row["label"] for row in rows] == ["base", "steered", "steered"]
    medians = [float(row["median"]) for row in rows]
    assert medians[-1] < 0.8 * medians[0]
    assert float(rows[0]["reward"]) == pytest.approx(0, abs=1e-3)
    card = json.loads((config.out / "card.json").read_text())
    assert card["parents"][0]["name"] == str(untrained_conformers)
    assert card["finetune"]["oracle_calls"] > 0
    again = ConformerFlow.load(config.out)
    for mine, theirs in zip(flow.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)
    with pytest.raises(UserError, match="not empty"):
        finetune_conformers(config)
    shutil.rmtree(config.out / "rounds" / "step-002")
    resumed = finetune_conformers(config, resume=True)
    for mine, theirs in zip(flow.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)
    with pytest.raises(UserError, match="kl = 1"):
        finetune_conformers(config.model_copy(update={"kl": 2.0}), resume=True)


@pytest.mark.parametrize("solver", ["reinforce", "weighted"])
def test_solvers_by_values_run(settings, untrained_conformers, solver):
    config = ConformerFinetuneConfig(**settings, flow=str(untrained_conformers), solver=solver)
    assert isinstance(finetune_conformers(config), ConformerFlow)


@pytest.mark.parametrize(
    ("circuit", "intersection", "first"),
    [("a & b", "score-sum", "score sum"), ("a & b", "mirror", "a"), ("a | b", "mirror", "a")],
)
def test_merging_with_a_reward(settings, untrained_conformers, circuit, intersection, first):
    flows = {"a": str(untrained_conformers), "b": str(untrained_conformers)}
    fewer = {**settings, "rounds": 1, "iterations": 2, "round_samples": 12}
    config = ConformerMergeConfig(
        **fewer, circuit=circuit, flows=flows, strength=0.5, intersection=intersection
    )
    merged = merge_conformers(config)
    assert isinstance(merged, ConformerFlow)
    labels = [row["label"] for row in table(config.out, "merge")]
    assert labels[0] == first
    assert labels[-1] == "steered"
    card = json.loads((config.out / "card.json").read_text())
    assert card["objective"]["merge"] == circuit
    assert card["objective"]["beside"] == "0.5 mean"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"circuit": "a"}, "single flow"),
        ({"circuit": "a & b", "weights": (1.0,)}, "2 parts and 1 weights"),
        ({"circuit": "a & b", "flows": {}}, "no flow or folder 'a'"),
    ],
)
def test_merges_that_cannot_be(settings, untrained_conformers, change, words):
    flows = {"a": str(untrained_conformers), "b": str(untrained_conformers)}
    used = {k: v for k, v in flows.items() if k in change["circuit"].split()}
    values = {**settings, "flows": used, **change}
    with pytest.raises(UserError, match=words):
        merge_conformers(ConformerMergeConfig(**values))


def test_a_flow_of_heavy_atoms_has_no_energy(settings, tmp_path):
    torch.manual_seed(0)
    network = {"width": 16, "pair_width": 8, "heads": 2, "vectors": 4, "depth": 1, "radial": 8}
    flow = ConformerFlow([6, 7, 8, 9], {"9": 1}, "implicit", network=network)
    flow.save(tmp_path / "heavy")
    with pytest.raises(UserError, match="explicit hydrogens"):
        finetune_conformers(ConformerFinetuneConfig(**settings, flow=str(tmp_path / "heavy")))
    assert not settings["out"].exists()


def test_molecules_are_of_the_training_split(settings, untrained_conformers, ensembles):
    from molflowctl.data.conformer_data import ConformerDataset

    flow = ConformerFlow.load(untrained_conformers)
    config = ConformerFinetuneConfig(**settings, flow="x")
    found = {
        Chem.MolToSmiles(Chem.RemoveHs(mol))
        for mol in control_conformers.training_molecules(config, {"x": flow})
    }
    data = ConformerDataset.load(ensembles)
    train = {Chem.CanonSmiles(data.smiles[k]) for k in data.indices("train").tolist()}
    assert len(found) == 6
    assert found <= train


def test_averaged_scores_of_two_flows_become_one(settings, untrained_conformers, tmp_path):
    parent = ConformerFlow.load(untrained_conformers)
    other = ConformerFlow.load(untrained_conformers)
    with torch.no_grad():
        other.network.vector_out.mul_(0.6)
    other.save(tmp_path / "other", {"name": "other"})
    flows = {"a": str(untrained_conformers), "b": str(tmp_path / "other")}
    config = ConformerMergeConfig(
        **{**settings, "inner_steps": 60}, circuit="a & b", weights=(1.0, 3.0), flows=flows
    )
    merged = merge_conformers(config)
    mols = control_conformers.training_molecules(config, {"a": parent})
    states = [Ensembles(flow, mols) for flow in (parent, other, merged)]
    x = states[0].draw_states(24, seed=5, evaluations=6)
    apart, off = 0.0, 0.0
    for group, t in itertools.product(x.groups, (0.2, 0.5, 0.8)):
        time = torch.full((group.batch,), t)
        with torch.no_grad():
            a, b, child = (flow.endpoint(group, time)["positions"] for flow in states)
        apart += float((a - b).square().sum())
        off += float((child - 0.25 * a - 0.75 * b).square().sum())
    assert off < 0.01 * apart


def test_fine_tuning_keeps_the_weights_of_conformers_and_merging_moves_them():
    assert ConformerFinetuneConfig(out="x").earliest > 0.5
    assert ConformerMergeConfig(out="x", circuit="a & b").earliest == 0
