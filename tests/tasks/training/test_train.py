"""A training learns, and a resumed one takes the very steps of an uninterrupted one."""

import csv
import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rdkit import Chem
from rdkit.Chem import rdDistGeom
from safetensors.torch import load_file

from molflowctl.data.datasets import MoleculeDataset
from molflowctl.errors import UserError
from molflowctl.flows.noise import BatchNoise
from molflowctl.io.library import read_records
from molflowctl.io.library_writers import SDFWriter
from molflowctl.models.denovo import DeNovoFlow
from molflowctl.models.score_sum import ScoreSumFlow
from molflowctl.tasks.training.settings import TrainConfig
from molflowctl.tasks.training.train import Trainer, sample_validity


@pytest.fixture
def trainer(tiny_settings):
    def make(out, resume=False, report=lambda row: None, validity=None, **changes) -> Trainer:
        config = TrainConfig(**tiny_settings | {"train_steps": 6} | changes)
        return Trainer(config, out, resume=resume, device="cpu", report=report, validity=validity)

    return make


def stop_at(trainer: Trainer, step: int) -> None:
    """Run to a checkpoint at this step and no further, as when the process ends there."""
    take = trainer._train_step

    def train_step(n, rows):
        if trainer.step == step:
            trainer._save()
            raise KeyboardInterrupt
        return take(n, rows)

    trainer._train_step = train_step
    with pytest.raises(KeyboardInterrupt):
        trainer.run()


def tensors(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "checkpoint" / "tensors.safetensors")


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("optimiser", ["muon", "adamw"])
@pytest.mark.parametrize("at", [1, 4])
def test_resumed_training_equals_uninterrupted(trainer, tmp_path, optimiser, at):
    trainer(tmp_path / "whole", optimiser=optimiser).run()
    stop_at(trainer(tmp_path / "parts", optimiser=optimiser), at)
    resumed = trainer(tmp_path / "parts", optimiser=optimiser, resume=True)
    assert resumed.step == at
    resumed.run()
    whole, parts = tensors(tmp_path / "whole"), tensors(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert {key.split(".")[0] for key in whole} == {"raw", "ema", "optimiser"}
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    for name in ("raw", "ema"):
        weights = [tmp_path / run / name / "weights.safetensors" for run in ("whole", "parts")]
        assert weights[0].read_bytes() == weights[1].read_bytes()
    assert rows(tmp_path / "whole")[-1]["ema_loss"] == rows(tmp_path / "parts")[-1]["ema_loss"]


def test_bf16_is_for_the_network_alone(trainer, tmp_path):
    """Positions and times in bf16 would be wrong in their third digit before it is asked."""
    run, asked = trainer(tmp_path, precision="bf16"), []
    run.flow.register_forward_pre_hook(lambda flow, inputs: asked.extend(inputs))
    assert run._train_step(*next(run._steps())).isfinite()
    x, t = asked
    assert x["positions"].dtype == t.dtype == torch.float32


def test_resuming_with_more_steps_goes_on(trainer, tmp_path):
    trainer(tmp_path, train_steps=3).run()
    again = trainer(tmp_path, train_steps=5, resume=True)
    assert again.step == 3
    again.run()
    assert json.loads((tmp_path / "checkpoint" / "counters.json").read_text())["step"] == 5
    assert [row["step"] for row in rows(tmp_path)] == ["3", "5"]


def test_a_finished_run_resumed_changes_nothing(trainer, tmp_path):
    trainer(tmp_path, train_steps=3).run()
    before = tensors(tmp_path)
    trainer(tmp_path, train_steps=3, resume=True).run()
    after = tensors(tmp_path)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert [row["step"] for row in rows(tmp_path)] == ["3"]


def test_resume_without_a_checkpoint_starts(trainer, tmp_path):
    trainer(tmp_path / "a", train_steps=2).run()
    trainer(tmp_path / "b", train_steps=2, resume=True).run()
    a, b = tensors(tmp_path / "a"), tensors(tmp_path / "b")
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_training_lowers_the_loss(trainer, tmp_path):
    """From that of an untrained network, on molecules that are not trained on."""
    losses = []
    first = trainer(
        tmp_path / "a", train_steps=1, report=lambda row: losses.append(row["raw_loss"])
    )
    first.run()
    last = trainer(
        tmp_path / "b", train_steps=60, report=lambda row: losses.append(row["raw_loss"])
    )
    last.run()
    assert losses[1] < 0.7 * losses[0]


def test_the_average_lags_behind_the_weights(trainer, tmp_path):
    trainer(tmp_path, train_steps=3, ema=0.5).run()
    found = tensors(tmp_path)
    raw = [v for k, v in found.items() if k.startswith("raw.")]
    ema = [v for k, v in found.items() if k.startswith("ema.")]
    assert any(not torch.equal(a, b) for a, b in zip(raw, ema, strict=True))


def test_the_average_is_the_recursion_of_its_definition(trainer, tmp_path):
    """`m <- d m + (1 - d) w`, `d = min(ema, (1 + k)/(10 + k))` after step `k`."""
    run = trainer(tmp_path, train_steps=4, ema=0.3)
    name, parameter = next((n, p) for n, p in run.flow.named_parameters() if p.ndim == 2)
    expected = parameter.detach().clone()
    take = run._train_step

    def train_step(n, rows):
        loss = take(n, rows)
        decay = min(0.3, (1 + run.step) / (10 + run.step))
        expected.mul_(decay).add_((1 - decay) * parameter.detach())
        return loss

    run._train_step = train_step
    run.run()
    found = dict(run.average.named_parameters())[name]
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


def test_every_molecule_is_seen_once_in_an_epoch(trainer, tmp_path):
    run = trainer(tmp_path)
    seen: dict[int, list[int]] = {}
    for n, part in run._plan(0):
        seen.setdefault(n, []).extend(part.tolist())
    assert {n: sorted(r) for n, r in seen.items()} == {
        n: list(range(len(batch))) for n, batch in run.batches.items()
    }
    assert [r.tolist() for _, r in run._plan(0)] != [r.tolist() for _, r in run._plan(1)]


def conditional(settings) -> dict:
    return {"network": settings["network"] | {"conditional": True}, "known_share": 0.5}


def test_a_conditional_flow_learns_of_parts(trainer, tiny_settings, tmp_path):
    """And is resumed with the same parts; its two losses are told apart."""
    changes = conditional(tiny_settings)
    trainer(tmp_path / "whole", **changes).run()
    stop_at(trainer(tmp_path / "parts", **changes), 3)
    trainer(tmp_path / "parts", resume=True, **changes).run()
    whole, parts = tensors(tmp_path / "whole"), tensors(tmp_path / "parts")
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    assert all(whole[f"raw.network.told.{name}.weight"].any() for name in ("nodes", "pairs"))
    row = rows(tmp_path / "whole")[-1]
    for name in ("loss", "bonds", "atoms", "positions"):
        assert 0 < float(row[f"ema_given_{name}"]) != float(row[f"ema_{name}"])
    assert float(row["ema_given_atoms"]) < float(row["ema_atoms"])  # there are fewer to find


def test_a_trained_flow_is_told_of_parts(trainer, tiny_settings, tiny_flow, tmp_path):
    """It starts as what it was, and goes on with a share of its examples given."""
    first = trainer(tmp_path / "plain", init=str(tiny_flow))
    grown = trainer(tmp_path / "grown", init=str(tiny_flow), **conditional(tiny_settings))
    found = [run._validation_loss(run.flow.eval(), run._minibatch) for run in (first, grown)]
    assert found[1]["positions"] == pytest.approx(found[0]["positions"], abs=1e-5)
    grown.run()
    assert DeNovoFlow.load(tmp_path / "grown" / "ema").conditional


def test_parts_are_learned_and_whole_molecules_held(trainer, tiny_settings, tiny_flow, tmp_path):
    """Turn by turn; the sizes of what is drawn stay what they were."""
    changes = conditional(tiny_settings) | {"init": str(tiny_flow)}
    run = trainer(tmp_path / "run", parts_only=True, **changes)
    group, rows_of = next(iter(run.batches.values())), torch.arange(4)
    for run.step in range(4):
        *_, atoms, _, _, _ = run._minibatch(group, rows_of, BatchNoise(run.step))
        assert atoms.any(1).all() if run.step % 2 == 0 else not atoms.any()
    assert run.flow.sizes == DeNovoFlow.load(tiny_flow).sizes
    with pytest.raises(UserError, match="is not told of parts, which parts_only=true teaches"):
        trainer(tmp_path / "deaf", init=str(tiny_flow), parts_only=True)


def test_learning_rate_schedule(trainer, tmp_path):
    """Linear warm-up, constant, half the peak in the middle of the decay, 1 % at the end."""
    run = trainer(tmp_path, train_steps=100, warmup_steps=10, lr_decay_start=0.4, lr=0.01)
    rates = []
    for run.step in (0, 4, 9, 40, 70, 100):
        rates.append(run.learning_rate())
    assert rates == pytest.approx([0.001, 0.005, 0.01, 0.01, 0.005, 0.0001])


def test_a_run_folder_holds_flows_a_log_and_no_pickle(trainer, tmp_path, tiny_settings):
    out = tmp_path / "run"
    flow = trainer(out, validity=sample_validity, sample_every=1, samples=16, sample_nfe=4).run()
    assert flow == out / "ema"
    files = [p for p in out.rglob("*") if p.is_file() and "tensorboard" not in p.parts]
    assert {p.suffix for p in files} == {".yaml", ".csv", ".json", ".safetensors"}
    assert TrainConfig.read(out / "config.yaml").train_steps == 6
    row = rows(out)[-1]
    assert float(row["step"]) == 6
    assert 0 <= float(row["ema_valid"]) <= 1
    for name in ("ema", "raw"):
        card = DeNovoFlow.load(out / name).card
        assert card["name"] == "tiny"
        assert card["data"]["name"] == "tiny"
        assert card["training"]["config"]["network"]["width"] == 32
        assert card["training"]["step"] == 6
        assert card["training"]["last_validation"]["raw_loss"] > 0


def test_validity_counts_what_the_flow_makes(tiny_flow):
    found = sample_validity(DeNovoFlow.load(tiny_flow), 48, 10, seed=0)
    assert 0.1 < found["valid"] < 0.9
    assert 0.1 < found["unique"] <= 1


def test_init_starts_from_a_flow(trainer, tiny_flow, tmp_path):
    base = DeNovoFlow.load(tiny_flow)
    run = trainer(tmp_path, init=str(tiny_flow), train_steps=1, lr=1e-9)
    run.run()
    start, end = base.state_dict(), run.flow.state_dict()
    assert all(torch.allclose(start[key].float(), end[key], atol=1e-6) for key in start)
    parents = DeNovoFlow.load(tmp_path / "ema").card["parents"]
    assert parents == [
        {"name": str(tiny_flow), "weights_sha256": base.card["weights_sha256"]},
    ]


@pytest.fixture
def own(tiny_flow, tiny_library, tmp_path):
    """A copy of the tiny library with two molecules that the tiny flow cannot hold."""
    with SDFWriter(tmp_path / "my.sdf") as writer:
        for record in read_records(tiny_library):
            writer.write_record(record)
        for smiles in ("CCCCBr", "CCCCCCCCCC"):
            mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
            assert rdDistGeom.EmbedMolecule(mol, randomSeed=1) == 0
            writer.write(mol, {})
    return {"init": str(tiny_flow), "data": str(tmp_path / "my.sdf")}


def test_an_own_library_is_learned_from(trainer, tiny_flow, own, tmp_path):
    """The loss on its molecules falls below the parent's, and its sizes are drawn."""
    losses = []
    run = trainer(
        tmp_path / "run",
        **own,
        train_steps=40,
        lr=3e-3,
        report=lambda row: losses.append(row["raw_loss"]),
    )
    run.run()
    assert len(losses) == 2  # before and after
    assert losses[1] < losses[0]
    base, flow = DeNovoFlow.load(tiny_flow), DeNovoFlow.load(tmp_path / "run/ema")
    assert flow.sizes == MoleculeDataset.load(tmp_path / "run/library").sizes() != base.sizes
    assert flow.card["parents"][0]["weights_sha256"] == base.card["weights_sha256"]
    data = flow.card["data"]
    assert (data["read_from"], data["read"], data["kept"]) == ("my.sdf", 42, 40)
    assert data["left_out"] == {"element Br": 1, "more than 6 heavy atoms": 1}
    assert (data["source_sha256"], data["split_seed"]) == (
        hashlib.sha256((tmp_path / "my.sdf").read_bytes()).hexdigest(),
        0,
    )


def test_resuming_an_own_library_takes_the_kept_one(trainer, own, tmp_path):
    trainer(tmp_path / "whole", **own).run()
    stop_at(trainer(tmp_path / "parts", **own), 3)
    (tmp_path / "my.sdf").unlink()
    trainer(tmp_path / "parts", **own, resume=True).run()
    whole, parts = tensors(tmp_path / "whole"), tensors(tmp_path / "parts")
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_a_library_that_changed_is_not_resumed(trainer, own, tmp_path):
    stop_at(trainer(tmp_path / "run", **own), 1)
    text = (tmp_path / "my.sdf").read_text()
    (tmp_path / "my.sdf").write_text(text[: text.rindex("$$$$", 0, -5) + 5])
    with pytest.raises(UserError, match=r"another my\.sdf"):
        trainer(tmp_path / "run", **own, resume=True)
    with pytest.raises(UserError, match="--resume"):
        trainer(tmp_path / "run", **own)


def test_a_library_needs_a_flow_to_start_from(trainer, own, tmp_path):
    with pytest.raises(UserError, match="--init"):
        trainer(tmp_path / "run", data=own["data"])


def test_other_data_are_not_resumed(trainer, tiny_data, tmp_path):
    trainer(tmp_path / "run", train_steps=1).run()
    data = MoleculeDataset.load(tiny_data)
    data.select(torch.arange(len(data) - 1)).save(tmp_path / "data")
    with pytest.raises(UserError, match="began with other data"):
        trainer(tmp_path / "run", data=str(tmp_path / "data"), resume=True)


def test_a_length_in_epochs(trainer, tmp_path):
    """Each molecule as often as that; steps or minutes come first."""
    run = trainer(tmp_path / "a", train_steps=None, epochs=3)
    run.run()
    assert run.seen == 3 * sum(len(batch) for batch in run.batches.values())
    assert float(rows(tmp_path / "a")[-1]["epoch"]) == 3
    run = trainer(tmp_path / "b", train_steps=2, epochs=3)
    run.run()
    assert run.step == 2


def test_what_a_flow_recommends_is_inherited(trainer, tiny_flow, tmp_path):
    base = DeNovoFlow.load(tiny_flow)
    base.save(tmp_path / "noisy", {"sampling": {"churn": 8.0}})
    trainer(tmp_path / "run", init=str(tmp_path / "noisy"), train_steps=1).run()
    assert DeNovoFlow.load(tmp_path / "run/ema").card["sampling"] == {"churn": 8.0}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hydrogens": "explicit"}, "explicit hydrogens"),
        ({"elements": [1, 6, 7]}, r"elements \[8\]"),
    ],
)
def test_init_from_a_flow_that_does_not_fit(trainer, tiny_flow, tmp_path, changes, words):
    DeNovoFlow(**DeNovoFlow.load(tiny_flow).arguments | changes).save(tmp_path / "flow")
    with pytest.raises(UserError, match=words):
        trainer(tmp_path / "run", init=str(tmp_path / "flow"))


def test_an_existing_run_needs_resume(trainer, tmp_path):
    trainer(tmp_path, train_steps=1).run()
    with pytest.raises(UserError, match="--resume"):
        trainer(tmp_path, train_steps=2)


def test_a_run_killed_while_it_replaced_its_checkpoint(trainer, tmp_path):
    trainer(tmp_path, train_steps=2).run()
    (tmp_path / "checkpoint").rename(tmp_path / ".checkpoint.old")
    with pytest.raises(UserError, match="--resume"):
        trainer(tmp_path, train_steps=4)
    run = trainer(tmp_path, train_steps=4, resume=True)
    assert run.step == 2
    run.run()
    assert (tmp_path / "checkpoint").exists()
    assert not (tmp_path / ".checkpoint.old").exists()


@pytest.mark.parametrize("data", ["absent", "empty"])
def test_bad_data_folders(trainer, tmp_path, data):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="is not a data set"):
        trainer(tmp_path / "run", data=str(tmp_path / data))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("missing", [0, 1])
def test_a_split_without_molecules(trainer, tiny_data, tmp_path, missing):
    data = MoleculeDataset.load(tiny_data)
    data.smiles  # noqa: B018 read before the folder changes
    data.split = torch.full_like(data.split, 1 - missing)
    data.save(tmp_path / "data")
    with pytest.raises(UserError, match="to train on and to validate on"):
        trainer(tmp_path / "run", data=str(tmp_path / "data"))


def test_a_diverging_training_is_an_error_and_keeps_its_checkpoint(trainer, tmp_path):
    trainer(tmp_path, train_steps=2).run()
    before = tensors(tmp_path)
    run = trainer(tmp_path, train_steps=4, resume=True)
    with torch.no_grad():
        next(run.flow.parameters()).fill_(float("nan"))
    with pytest.raises(UserError, match="diverged"):
        run.run()
    after = tensors(tmp_path)
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_divergence_is_noticed_before_the_end(trainer, tmp_path):
    run = trainer(tmp_path, train_steps=10_000)
    with torch.no_grad():
        next(run.flow.parameters()).fill_(float("nan"))
    with pytest.raises(UserError, match="diverged by step 20"):
        run.run()


@pytest.mark.parametrize("damage", ["network", "tensors", "counters", "pickle"])
def test_a_checkpoint_that_does_not_fit(trainer, tmp_path, damage):
    trainer(tmp_path, train_steps=1).run()
    folder, changes = tmp_path / "checkpoint", {}
    if damage == "network":
        changes = {"network": {"width": 16, "pair_width": 8, "heads": 2, "vectors": 4, "depth": 2}}
    elif damage == "tensors":
        os.truncate(folder / "tensors.safetensors", 1000)
    elif damage == "counters":
        (folder / "counters.json").write_text("{}")
    else:
        torch.save({}, folder / "tensors.safetensors")
    words = "was begun with network" if damage == "network" else "does not fit this run"
    with pytest.raises(UserError, match=words):
        trainer(tmp_path, resume=True, **changes)


@pytest.mark.parametrize("device", ["warp", "cuda"])
def test_an_absent_device(tiny_settings, tmp_path, device):
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is one here")
    with pytest.raises(UserError, match=device):
        Trainer(TrainConfig(**tiny_settings), tmp_path, device=device)


@pytest.mark.parametrize("device", ["cpu:3", "auto:0", "cuda:"])
def test_a_device_without_a_number(tiny_settings, tmp_path, device):
    with pytest.raises(UserError, match=f"unknown device '{device}'"):
        Trainer(TrainConfig(**tiny_settings), tmp_path, device=device)


def test_one_device_is_not_shared_by_processes(tiny_settings, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="'cuda:1' is one for all processes"):
        Trainer(TrainConfig(**tiny_settings), tmp_path, device="cuda:1")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("optimiser", ["muon", "adamw"])
def test_resuming_on_a_gpu(tiny_settings, tmp_path, optimiser):
    """The optimisers' state comes back to where the parameters are."""
    for steps in (3, 6):
        config = TrainConfig(**tiny_settings | {"train_steps": steps, "optimiser": optimiser})
        run = Trainer(config, tmp_path, resume=True, device="cuda")
        assert {p.device.type for p in run.average.parameters()} == {"cuda"}
        run.run()
        assert run.step == steps
        for part in run.optimisers:
            for parameter, state in part.optimizer.state.items():
                assert parameter.device.type == "cuda"
                assert all(v.device == parameter.device for v in state.values() if v.ndim)


def test_a_full_disk_names_the_path_and_keeps_the_checkpoint(trainer, tmp_path, monkeypatch):
    write = Path.write_bytes

    def full(self, data):
        if self.name == "tensors.safetensors":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))
        return write(self, data)

    trainer(tmp_path, train_steps=1).run()
    before = tensors(tmp_path)
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match=r"Cannot write .*checkpoint: No space left"):
        trainer(tmp_path, train_steps=2, resume=True).run()
    after = tensors(tmp_path)  # the checkpoint before is still there
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.slow
def test_two_processes_resume_like_one_run(tiny_settings, tmp_path):
    """Data-parallel over gloo: both processes stop at the same step, and resume exactly."""
    TrainConfig(**tiny_settings | {"lr_decay_start": 1.0}).dump(tmp_path / "c.yaml")

    def torchrun(out: str, steps: int) -> None:
        command = "-m torch.distributed.run --standalone --nproc-per-node 2 -m molflowctl train"
        options = (
            f"--config c.yaml --set train_steps={steps} --device cpu --threads 1 --resume -o {out}"
        )
        done = subprocess.run(
            [sys.executable, *command.split(), *options.split()],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr

    torchrun("whole", 6)
    torchrun("parts", 3)
    torchrun("parts", 6)
    whole, parts = tensors(tmp_path / "whole"), tensors(tmp_path / "parts")
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    assert [row["step"] for row in rows(tmp_path / "parts")] == ["3", "6"]


def test_a_sum_of_flows_is_not_trained(trainer, tiny_flow, tmp_path):
    flow = DeNovoFlow.load(tiny_flow)
    ScoreSumFlow.of([flow, flow], [1, 1]).save(tmp_path / "sum")
    with pytest.raises(UserError, match="sum is made of several flows"):
        trainer(tmp_path / "run", init=str(tmp_path / "sum"))


@pytest.mark.parametrize("change", [{"seed": 1}, {"lr": 0.5}, {"optimiser": "adamw"}])
def test_a_run_is_resumed_as_it_was_begun(trainer, tmp_path, change):
    trainer(tmp_path, train_steps=1).run()
    with pytest.raises(UserError, match=rf"{next(iter(change))} = .*, not"):
        trainer(tmp_path, resume=True, train_steps=2, **change)
    # How long, and how it is looked at, are free.
    trainer(tmp_path, resume=True, train_steps=2, sample_every=3, name="other").run()


def test_a_flow_that_goes_on_keeps_its_network(trainer, tiny_settings, tiny_flow, tmp_path):
    """Whatever the settings leave open, and none that they ask for."""
    free = {k: v for k, v in tiny_settings.items() if k not in ("network", "train_steps")}
    config = TrainConfig(**free, init=str(tiny_flow), train_steps=1)
    Trainer(config, tmp_path / "run", device="cpu").run()
    own = DeNovoFlow.load(tiny_flow).arguments["network"]
    assert TrainConfig.read(tmp_path / "run" / "config.yaml").network.model_dump() == own
    with pytest.raises(UserError, match=r"category_scale is 0.9, and that of .* 0.5"):
        trainer(tmp_path / "x", init=str(tiny_flow), category_scale=0.9)


@pytest.mark.parametrize("name", ["card.json", "parents.json"])
def test_a_folder_of_something_else_is_left_alone(trainer, tmp_path, name):
    (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match=f"holds something else .{name}"):
        trainer(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
