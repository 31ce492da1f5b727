"""`finetune`, `merge` and `train` in Python: flows in and out, no files unless asked for.

That they give what the commands' tasks have always given is in test_same_molecules.py.
"""

import json
from pathlib import Path

import pytest
import torch
from rdkit import Chem
from typer.testing import CliRunner

from molflowctl import Flow, UserError, finetune, merge, train
from molflowctl.cli import app
from molflowctl.io.library_writers import SDFWriter
from molflowctl.models import DeNovoFlow
from molflowctl.tasks.steering import finetune as task

SMALL = {"width": 16, "pair_width": 8, "heads": 2, "vectors": 4, "depth": 1, "radial": 8}
SHORT = {
    "train_steps": 2,
    "batch_atoms": 64,
    "progress": False,
    "device": "cpu",
    "precision": "float32",
}
# Forty molecules of C, N and O with 3 to 8 heavy atoms.
SMILES = [
    f"{'C' * k}{end}" for k in range(2, 7) for end in ("O", "N", "C=O", "C#N", "(C)C", "OC", "CO")
] + ["C1CCC1", "C1CCCC1", "C1CCNCC1", "C1CCOCC1", "CC(N)=O"]


def small() -> DeNovoFlow:
    torch.manual_seed(0)
    return DeNovoFlow([6, 7, 8], [-1, 0, 1], {str(n): 1 for n in range(3, 10)}, network=SMALL)


@pytest.fixture(scope="module")
def molecules() -> list[Chem.Mol]:
    mols = [Chem.AddHs(Chem.MolFromSmiles(s)) for s in SMILES]
    settings = Chem.rdDistGeom.ETKDGv3()
    settings.randomSeed, settings.useRandomCoords = 3, True
    assert all(Chem.rdDistGeom.EmbedMolecule(mol, settings) == 0 for mol in mols)
    return mols


def test_train_learns_what_the_command_learns(molecules, tmp_path):
    flow, seen = small(), []
    before = {name: tensor.clone() for name, tensor in flow.state_dict().items()}
    learnt = train(molecules, init=flow, watch=seen.append, **SHORT)
    assert all((before[name] == tensor).all() for name, tensor in flow.state_dict().items())
    with SDFWriter(tmp_path / "mine.sdf") as writer:
        for mol in molecules:
            writer.write(mol, {})
    flow.save(tmp_path / "small", half=False)
    settings = ["train_steps=2", "batch_atoms=64", "precision=float32"]
    done = CliRunner().invoke(
        app,
        ["train", "--init", str(tmp_path / "small"), "--data", str(tmp_path / "mine.sdf"), "-q",
         "--device", "cpu", "--threads", str(torch.get_num_threads()), "-o", str(tmp_path / "run"),
         *(word for setting in settings for word in ("--set", setting))],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    told = DeNovoFlow.load(tmp_path / "run" / "ema")
    assert told.sizes == learnt.sizes
    for name, tensor in told.state_dict().items():
        assert torch.allclose(tensor, learnt.state_dict()[name], rtol=1e-3, atol=1e-5)
    assert any((before[k] != tensor).any() for k, tensor in learnt.state_dict().items())
    assert learnt.card["data"]["kept"] == len(molecules)
    assert {"ema_loss", "progress"} <= seen[-1].keys()


def test_nothing_of_a_folder_that_is_gone_is_left(molecules, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    learnt = train(molecules, init=small(), **SHORT)
    assert list(tmp_path.iterdir()) == []
    assert str(tmp_path) not in json.dumps(learnt.card)


def test_train_makes_geometries_of_smiles_and_says_what_is_too_few():
    with pytest.raises(UserError, match=r"^what was given has 3 records of 3 molecules"):
        train(SMILES[:3], init=small(), **SHORT)


def test_a_run_is_kept_where_it_was_asked_for(molecules, tmp_path):
    learnt = train(molecules, init="qm9", out=tmp_path / "run", **SHORT)
    assert Flow.load(tmp_path / "run" / "ema").card == learnt.card
    with pytest.raises(UserError, match="run"):
        train(molecules, init="qm9", out=tmp_path / "run", **SHORT)
    again = train(molecules, init="qm9", out=tmp_path / "run", resume=True, **SHORT)
    assert again.card["weights_sha256"] == learnt.card["weights_sha256"]


class Stop(Exception):
    """The run would begin here."""


def test_finetune_takes_settings_as_the_command_does(monkeypatch):
    def begin(config, **given):
        raise Stop(config, given)

    monkeypatch.setattr(task, "finetune", begin)
    flow = DeNovoFlow.from_pretrained("qm9")
    with pytest.raises(Stop) as stopped:
        finetune(flow, "qed", utility="cvar:0.2", divergence="mmd:2", jobs=3, seed=5)
    config, given = stopped.value.args
    assert (config.flow, config.reward, config.jobs, config.seed) == ("qm9", "qed", 3, 5)
    assert (config.utility, config.divergence) == (("cvar:0.2",), ("mmd:2",))
    assert given["flow"] is flow
    assert not Path(config.out).exists()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: finetune("qm9", "qedd"), "did you mean qed"),
        (lambda: finetune("qmm9", "qed"), "did you mean qm9"),
        (
            lambda: finetune("qm9", "qed", mirror_step=3),
            r"finetune\(\): mirror_step: .*mirror_steps",
        ),
        (lambda: finetune("qm9", "qed", divergence="kl"), "kl"),
        (lambda: finetune(Flow.from_pretrained("druglike-conformers"), "qed"), "draws no mol"),
        (lambda: merge("qm9 &"), "qm9 &"),
        (lambda: merge("a & b", {"a": "qm9", "c": "qm9"}), "c is given a flow, but is not in"),
        (lambda: merge("a & b", {"a": "qm9"}), "no flow or folder 'b'"),
        (lambda: merge("qm9 & qm9_polar", reward="qedd"), "did you mean qed"),
        (lambda: train(["CCO"], init="qmm9", progress=False), "did you mean qm9"),
        (lambda: train(["CCO"], init="qm9", train_step=3), r"train\(\): train_step: .*train_steps"),
    ],
)
def test_bad_input_is_one_clear_line_before_any_work(call, says):
    with pytest.raises(UserError, match=says):
        call()


def test_a_reward_is_given_as_it_is_built():
    """`Reward("...")` and its text ask for the same, and it scores molecules."""
    from rdkit.Chem import QED, Descriptors

    from molflowctl import Reward
    from molflowctl.face.values import property_name

    goal = Reward("product(qed, range(logp, -2, 1, 0.5))")
    assert property_name(goal) == "product(qed, range(logp, -2, 1, 0.5))"
    mols = [Chem.MolFromSmiles(s) for s in ("CCO", "OCC(O)CO", "CC(=O)N")]
    inside = [-2 <= Descriptors.MolLogP(m) <= 1 for m in mols]
    assert all(inside)
    assert goal.value(mols) == pytest.approx([QED.qed(m) for m in mols])
    with pytest.raises(UserError, match="qedd"):
        Reward("qedd")
