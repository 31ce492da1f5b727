"""A conformer flow learns, and a resumed training takes the very steps of an uninterrupted one."""

import pytest
import torch
from safetensors.torch import load_file

from molflowctl.data.conformer_data import ConformerDataset
from molflowctl.errors import UserError
from molflowctl.models.conformer import ConformerFlow
from molflowctl.tasks.training.settings import ConformerTrainConfig
from molflowctl.tasks.training.train_conformers import ConformerTrainer, _Graphs, compare, featurise


@pytest.fixture
def trainer(ensembles):
    def make(out, resume=False, report=lambda row: None, **changes) -> ConformerTrainer:
        settings = {
            "data": str(ensembles),
            "network": {
                "width": 32,
                "pair_width": 8,
                "heads": 2,
                "vectors": 4,
                "depth": 2,
                "radial": 8,
            },
            "train_steps": 6,
            "batch_atoms": 64,
            "warmup_steps": 5,
            "lr": 0.01,
            "ema": 0.9,
            "precision": "float32",
            "sample_every": 0,
            "samples": 3,
            "draws": 2,
            "sample_nfe": 3,
        }
        config = ConformerTrainConfig(**settings | changes)
        return ConformerTrainer(config, out, resume=resume, device="cpu", report=report)

    return make


@pytest.mark.parametrize("hydrogens", ["explicit", "implicit"])
def test_resumed_training_equals_uninterrupted(trainer, tmp_path, hydrogens):
    trainer(tmp_path / "whole", hydrogens=hydrogens).run()
    parts = trainer(tmp_path / "parts", hydrogens=hydrogens)
    take = parts._train_step

    def train_step(n, rows):
        if parts.step == 3:
            parts._save()
            raise KeyboardInterrupt
        return take(n, rows)

    parts._train_step = train_step
    with pytest.raises(KeyboardInterrupt):
        parts.run()
    with pytest.raises(UserError, match="--resume"):
        trainer(tmp_path / "parts", hydrogens=hydrogens)
    resumed = trainer(tmp_path / "parts", resume=True, hydrogens=hydrogens)
    assert resumed.step == 3
    resumed.run()
    files = [tmp_path / run / "checkpoint" / "tensors.safetensors" for run in ("whole", "parts")]
    whole, other = map(load_file, files)
    assert whole.keys() == other.keys()
    assert all(torch.equal(whole[key], other[key]) for key in whole)
    flow = ConformerFlow.load(tmp_path / "whole" / "ema")
    assert flow.hydrogens == hydrogens
    assert (1 in flow.elements) == (hydrogens == "explicit")


def test_training_lowers_the_loss(trainer, tmp_path):
    losses = []
    for steps in (1, 150):
        run = trainer(
            tmp_path / str(steps),
            train_steps=steps,
            report=lambda row: losses.append(row["raw_loss"]),
        )
        run.run()
    assert losses[1] < 0.7 * losses[0]


@pytest.mark.parametrize("hydrogens", ["explicit", "implicit"])
def test_a_step_in_bf16_has_the_loss_of_float32(trainer, tmp_path, hydrogens):
    losses = {}
    for precision in ("float32", "bf16"):
        run = trainer(tmp_path / precision, precision=precision, hydrogens=hydrogens)
        losses[precision] = float(run._train_step(*next(run._steps())))
    assert losses["bf16"] == pytest.approx(losses["float32"], rel=0.05)
    assert losses["bf16"] != losses["float32"]


def test_a_validation_compares_conformers(trainer, tmp_path):
    rows = []
    trainer(tmp_path, train_steps=2, sample_every=1, report=rows.append).run()
    found = rows[-1]
    assert 0 < found["recall"] < 5
    assert 0 < found["precision"] < 5
    assert 0 <= found["stereo"] <= 1
    assert {"raw_loss", "ema_loss", "ema_positions", "ema_bonds"} <= found.keys()


def test_the_ensemble_itself_compares_well(ensembles, trainer, tmp_path, monkeypatch):
    """Their lowest conformers in place of drawn ones: precision and stereo are exact."""
    data, run = ConformerDataset.load(ensembles), trainer(tmp_path, train_steps=1)
    groups = featurise(data, "train", "explicit")

    def key(graph) -> tuple:
        return tuple(map(str, (graph.atoms.tolist(), graph.pairs.tolist(), graph.centres.tolist())))

    def lowest(flow, graphs, index, **_):
        group = groups[graphs.size]
        rows = {
            key(group.graphs.select(torch.tensor([k]))): row
            for k, row in enumerate(group.rows.tolist())
        }
        asked = [rows[key(graphs.select(torch.tensor([k])))] for k in range(len(graphs))]
        return torch.stack([data.conformers(asked[j % len(asked)])[0] for j in index])

    monkeypatch.setattr("molflowctl.tasks.training.train_conformers.draw_positions", lowest)
    found = compare(run.flow, data, groups, run.config)
    assert found["precision"] < 1e-3
    assert found["stereo"] == 1


def test_data_without_a_validation_split_hold_some_out(ensembles, trainer, tmp_path):
    data = ConformerDataset.load(ensembles)
    data.split[:] = 0
    data.save(tmp_path / "whole")
    run = trainer(tmp_path / "run", data=str(tmp_path / "whole"))
    held, kept = (set(run.data.indices(name).tolist()) for name in ("validation", "train"))
    assert len(held) == max(1, round(0.05 * len(data)))
    assert held | kept == set(range(len(data)))
    assert not held & kept
    assert run.data.holding_out(0.5).indices("train").tolist() != sorted(kept)
    assert torch.equal(data.split, torch.zeros_like(data.split))


def test_a_flow_that_goes_on_knows_all_sizes_it_has_learnt_from(trainer, tmp_path):
    first = trainer(tmp_path / "first")
    first.run()
    again = trainer(tmp_path / "again", init=str(tmp_path / "first" / "ema"))
    twice = {n: 2 * count for n, count in first.flow.sizes.items()}
    assert again.flow.sizes == twice
    again.run()
    assert ConformerFlow.load(tmp_path / "again" / "ema").sizes == twice


def test_a_flow_goes_on_in_a_larger_network(trainer, tmp_path):
    """What it makes of the data before it learns is what the smaller one makes of them."""
    losses = []
    trainer(tmp_path / "first").run()
    for name, network in (("same", {}), ("larger", {"triangles": 4})):
        run = trainer(
            tmp_path / name,
            init=str(tmp_path / "first" / "ema"),
            network=network,
            report=losses.append,
        )
        run.run()
    flow = ConformerFlow.load(tmp_path / "larger" / "ema")
    assert flow.arguments["network"]["triangles"] == 4
    assert flow.arguments["network"]["width"] == 32
    first = [row["raw_loss"] for row in losses if row["step"] == 0]
    assert first[0] == pytest.approx(first[1], abs=1e-5)


def test_data_that_do_not_fit(trainer, tmp_path):
    with pytest.raises(
        UserError,
        match=r"not a data set: card\.json is missing\. .*prepare-conformers",
    ):
        trainer(tmp_path, data=str(tmp_path))
    trainer(tmp_path / "heavy", hydrogens="implicit").run()
    with pytest.raises(UserError, match="elements"):
        trainer(tmp_path / "more", init=str(tmp_path / "heavy" / "ema"))


def test_a_hydrogen_that_stereo_needs_is_for_flows_of_all_atoms():
    chunk = [(0, "[H]/N=C(/C)CC"), (1, "CCCCO"), (2, "C/C=C/CO")]
    heavy = _Graphs("implicit")(chunk)
    assert {n: group.rows.tolist() for n, group in heavy.items()} == {5: [1, 2]}
    whole = _Graphs("explicit")(chunk)
    assert sorted(row for group in whole.values() for row in group.rows.tolist()) == [0, 1, 2]


def test_what_a_flow_recommends_is_inherited(trainer, tmp_path):
    trainer(tmp_path / "first", train_steps=1).run()
    ConformerFlow.load(tmp_path / "first" / "ema").save(
        tmp_path / "calm", {"sampling": {"noise": 0.8}}
    )
    trainer(tmp_path / "run", init=str(tmp_path / "calm"), train_steps=1).run()
    assert ConformerFlow.load(tmp_path / "run" / "ema").card["sampling"] == {"noise": 0.8}


def test_a_molecule_that_no_network_knows_is_named(ensembles, trainer, tmp_path):
    data = ConformerDataset.load(ensembles)
    row = data.indices("train").tolist()[3]
    data.smiles[row] = "C(C"
    data.save(tmp_path / "broken")
    with pytest.raises(UserError, match=rf"molecule {row + 1}, C\(C, cannot be read"):
        trainer(tmp_path / "run", data=str(tmp_path / "broken"))
