"""Advice that is true: what a message tells to do does what it says."""

import threading

import pytest
from rdkit import Chem
from typer.testing import CliRunner

from molflowctl.cli import app
from molflowctl.cli.steering import settings_of
from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow
from molflowctl.models.denovo import DeNovoFlow
from molflowctl.properties.evaluate import score
from molflowctl.properties.registry import Property
from molflowctl.tasks.conformers.jobs import _isomers
from molflowctl.tasks.conformers.settings import ConformersConfig
from molflowctl.tasks.steering.settings import FinetuneConfig, MergeConfig

SMALL = {"width": 16, "pair_width": 8, "heads": 2, "vectors": 4, "depth": 1, "radial": 4}


def tiny() -> DeNovoFlow:
    return DeNovoFlow([6, 8], [0], {"3": 1}, network=SMALL)


@pytest.mark.parametrize(
    ("smiles", "isomers", "raises"),
    [
        ("C(F)(Cl)C(F)Cl", 8, False),
        ("FC(Cl)C(F)C(Br)C(O)Cl", 4, True),
        ("FC(Cl)C(F)C(Br)C(O)Cl", 16, False),
        ("C1CC2CCC1C2O", 8, False),  # a cage: of the centres that are counted few can be built
        ("OC1CC2CC1C2", 4, False),
    ],
)
def test_isomers_raises_the_limit_only_where_it_does(smiles, isomers, raises):
    mol = Chem.MolFromSmiles(smiles)
    config = ConformersConfig(source=smiles, out="-", isomers=isomers)
    found, note = _isomers(mol, config)
    assert ("--isomers raises the limit" in note) == raises
    higher, _ = _isomers(mol, config.model_copy(update={"isomers": 64}))
    assert (len(higher) > len(found)) == raises


def test_a_training_run_in_place_of_a_flow_is_told_where_its_flow_is(tmp_path):
    tiny().save(tmp_path / "mine" / "ema")
    (tmp_path / "mine" / "config.yaml").write_text("train_steps: 1\n")
    with pytest.raises(UserError, match=f"a training run, whose flow is {tmp_path}/mine/ema"):
        Flow.from_pretrained(tmp_path / "mine")
    result = CliRunner().invoke(
        app, ["merge", "mine & qm9", "--let", f"mine={tmp_path}/mine", "-o", str(tmp_path / "out")]
    )
    assert result.exit_code == 1
    assert f"{tmp_path}/mine/ema" in result.stderr


def test_a_run_that_has_not_ended_is_told(tmp_path):
    (tmp_path / "config.yaml").write_text("mirror_steps: 1\n")
    with pytest.raises(UserError, match="has not ended: go on with it by --resume"):
        Flow.load(tmp_path)


@pytest.mark.parametrize(
    ("kind", "begun"),
    [
        (FinetuneConfig, {"flow": "qm9", "reward": "qed", "mirror_steps": 3, "lr": 1e-4}),
        (MergeConfig, {"circuit": "a & b", "flows": {"a": "x"}, "reward_weight": 2.0}),
    ],
)
def test_resume_takes_the_settings_of_the_folder(kind, begun, tmp_path):
    first = kind(out=tmp_path, **begun)
    first.dump(tmp_path / "config.yaml")
    empty = dict.fromkeys(begun)
    again = settings_of(kind, None, {**empty, "out": tmp_path}, None, resume=True)
    assert again == first
    more = settings_of(kind, None, {**empty, "out": tmp_path}, ["test_samples=500"], resume=True)
    assert (more.test_samples, more.model_copy(update={"test_samples": 1000})) == (500, first)
    with pytest.raises(UserError, match="is missing"):
        settings_of(kind, None, {**empty, "out": tmp_path}, None)


@pytest.mark.parametrize("relax", ["uff", "", None, "MMFF"])
def test_sample_refuses_what_the_command_refuses(relax):
    with pytest.raises(UserError, match=r"relax is .*'mmff'"):
        tiny().sample(1, relax=relax)


def test_a_property_that_cannot_be_sent_to_a_worker_is_named():
    lock = threading.Lock()

    def locked(mol):
        with lock:
            return 1.0

    good = Property("good", "", 1, "one", lambda mol: 1.0)
    bad = Property("locked", "", 1, "one", locked)
    mols = [Chem.MolFromSmiles("CCO")]
    with pytest.raises(UserError, match=r"property locked cannot be computed.*worker processes"):
        score(mols, [good, bad], timeout=30)
    # In this process alone it can be.
    from molflowctl.compute.parallel import WorkerPool

    with WorkerPool(1) as pool:
        assert score(mols, [good, bad], timeout=None, pool=pool)["locked"].tolist() == [1.0]
