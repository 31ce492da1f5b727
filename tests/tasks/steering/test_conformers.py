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
from molflowctl.tasks.steering.run_folder import Hooks
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
        "data": ensembles, "out": tmp_path / "out", "molecules": 6, "mirror_steps": 2,
        "n_samples": 24, "nfe": 6, "iterations": 6, "trajectory_steps": 6, "passes": 3,
        "train_steps": 10, "batch": 16, "lr": 3e-3,
    }  # fmt: skip


def table(folder, name):
    with (folder / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


def test_fine_tuning_lowers_the_energy_and_resumes(settings, untrained_conformers):
    config = ConformerFinetuneConfig(**settings, flow=str(untrained_conformers), kl_weight=1.0)
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
    with pytest.raises(UserError, match="kl_weight = 1"):
        finetune_conformers(config.model_copy(update={"kl_weight": 2.0}), resume=True)


class Counter:
    """Draws and energies of a run; Ctrl-C in place of a draw, where one is given."""

    def __init__(self, monkeypatch, stop=None):
        self.draws, self.energies, self.relaxed, self.stop = [], 0, 0, stop
        self._draw = Ensembles.draw_states
        monkeypatch.setattr(Ensembles, "draw_states", lambda *a, **k: self.draw(*a, **k))
        monkeypatch.setattr(conformer_energy, "energy_rewards", self.energy)
        monkeypatch.setattr(control_conformers, "lowest_energies", self.lowest)

    def draw(self, flow, n, **options):
        if len(self.draws) + 1 == self.stop:
            raise KeyboardInterrupt
        self.draws.append((n, options["seed"]))
        return self._draw(flow, n, **options)

    def energy(self, mols, *_, **__):
        self.energies += len(mols)
        return springs(mols)

    def lowest(self, mols, *_):
        self.relaxed += len(mols)
        return np.linspace(0, 1, len(mols)), {}


def counted(monkeypatch, run, config, stop=None, **options):
    with monkeypatch.context() as patch:
        counter = Counter(patch, stop)
        if stop is None:
            run(config, **options)
        else:
            with pytest.raises(KeyboardInterrupt):
                run(config, **options)
    return counter


def told(folder, kind):
    rows = [{k: v for k, v in row.items() if k != "minutes"} for row in table(folder, kind)]
    card = json.loads((folder / "card.json").read_text())
    record = json.loads((folder / f"{kind}.run.json").read_text())
    keys = ("molecules", "oracle_calls", "oracle_failed")
    return rows, card["weights_sha256"], {key: record[key] for key in keys}


# Which run, with which settings, and at which of how many draws it is stopped.
RESUMED = {
    "finetune": (None, {}, 3, 3),
    "by values": (None, {"solver": "reinforce"}, 3, 2),
    "scores": ("a & b", {"mirror_steps": 2, "reward_weight": 0.5}, 4, 3),
    "scores alone": ("a & b", {}, 2, 2),
    "ascent": ("a & b", {"intersection": "mirror", "mirror_steps": 2}, 3, 3),
    "mixture": ("a | b", {"reward_weight": 0.5}, 3, 3),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in ("ascent", "scores") else n
             for n in RESUMED]
)  # fmt: skip
def test_a_resumed_run_draws_and_relaxes_what_is_missing(
    settings, untrained_conformers, tmp_path, monkeypatch, name
):
    circuit, changes, total, stop = RESUMED[name]
    fewer = {"iterations": 2, "n_samples": 12, "train_steps": 4, "trajectory_steps": 4, "nfe": 4}
    values = {**settings, **fewer, **changes}
    if circuit:
        other = ConformerFlow.load(untrained_conformers)
        with torch.no_grad():
            other.network.vector_out.mul_(0.6)
        other.save(tmp_path / "other")
        flows = {"a": str(untrained_conformers), "b": str(tmp_path / "other")}
        make, kind, run = ConformerMergeConfig, "merge", merge_conformers
        values |= {"circuit": circuit, "flows": flows}
    else:
        make, kind, run = ConformerFinetuneConfig, "finetune", finetune_conformers
        values |= {"flow": str(untrained_conformers)}
    whole, broken = (make(**{**values, "out": tmp_path / k}) for k in ("whole", "broken"))
    every = counted(monkeypatch, run, whole)
    assert len(every.draws) == total
    begun = counted(monkeypatch, run, broken, stop)
    assert not (broken.out / "card.json").exists()
    said = []
    rest = counted(monkeypatch, run, broken, resume=True, hooks=Hooks(say=said.append))
    assert begun.draws + rest.draws == every.draws
    assert (begun.relaxed, rest.relaxed) == (every.relaxed, 0)
    # A mirror step that is not done is begun again: what its solver asks for comes twice.
    assert begun.energies + rest.energies >= every.energies
    assert sum("taken from" in text for text in said) == 1 + len(begun.draws)
    assert told(whole.out, kind) == told(broken.out, kind)
    again = counted(monkeypatch, run, broken, resume=True)
    assert (again.draws, again.relaxed, again.energies) == ([], 0, 0)
    assert told(whole.out, kind) == told(broken.out, kind)


@pytest.mark.parametrize("what", ["lowest-energies", "round-0"])
def test_damaged_conformers_are_told_in_a_line_and_drawn_again(
    settings, untrained_conformers, monkeypatch, what
):
    config = ConformerFinetuneConfig(**settings, flow=str(untrained_conformers))
    first = counted(monkeypatch, finetune_conformers, config)
    before = told(config.out, "finetune")
    (path,) = (config.out / "rounds").glob(f"sample-{what}-*.safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    said = []
    again = counted(
        monkeypatch, finetune_conformers, config, resume=True, hooks=Hooks(say=said.append)
    )
    (line,) = [text for text in said if "drawn and judged again" in text]
    assert path.name in line
    assert again.relaxed == (first.relaxed if what == "lowest-energies" else 0)
    assert again.draws == (first.draws[:1] if what == "round-0" else [])
    assert told(config.out, "finetune")[:2] == before[:2]


def test_a_failed_energy_is_kept_as_failed(settings, untrained_conformers, monkeypatch):
    config = ConformerFinetuneConfig(**settings, flow=str(untrained_conformers))

    def failing(mols, *_, **__):
        found = springs(mols)
        found.values[0], found.gradients[0][:] = np.nan, np.nan
        return found

    monkeypatch.setattr(conformer_energy, "energy_rewards", failing)
    finetune_conformers(config)
    before = told(config.out, "finetune")
    assert before[2]["oracle_failed"] > 0
    assert int(before[0][0]["failed"]) > 0
    finetune_conformers(config, resume=True)
    assert told(config.out, "finetune") == before


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
    fewer = {**settings, "mirror_steps": 1, "iterations": 2, "n_samples": 12}
    config = ConformerMergeConfig(
        **fewer, circuit=circuit, flows=flows, reward_weight=0.5, intersection=intersection
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
        **{**settings, "train_steps": 60}, circuit="a & b", weights=(1.0, 3.0), flows=flows
    )
    merged = merge_conformers(config)
    mols = control_conformers.training_molecules(config, {"a": parent})
    states = [Ensembles(flow, mols) for flow in (parent, other, merged)]
    x = states[0].draw_states(24, seed=5, nfe=6)
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
