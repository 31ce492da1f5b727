"""Steering a flow of molecules: it moves, it resumes exactly, and it says what it did."""

import csv
import json

import numpy as np
import pytest
import torch

from molflowctl.chem import Graph3D
from molflowctl.config import FinetuneConfig
from molflowctl.errors import UserError
from molflowctl.models.denovo import DeNovoFlow
from molflowctl.parallel import WorkerPool
from molflowctl.tasks.control import Sample, draw_sample, encode, finetune

SMALL = {
    "rounds": 2,
    "round_samples": 96,
    "base_samples": 192,
    "test_samples": 96,
    "evaluations": 12,
    "inner_steps": 8,
    "batch": 48,
}

# A small flow learns fast, and takes more molecules to judge: a third of its attempts are valid.
STRONG = {"rounds": 3, "lr": 3e-3, "inner_steps": 24, "kl": 0.5, "test_samples": 400}


def config(flow, out, **changes):
    settings = {"flow": str(flow), "out": out, "reward": "logp", **SMALL, **changes}
    return FinetuneConfig(**settings)


@pytest.fixture(scope="module")
def tuned(tiny_flow, tmp_path_factory):
    """A steered flow's folder and the lines of its live table."""
    out, rows = tmp_path_factory.mktemp("tuned") / "flow", []
    finetune(config(tiny_flow, out, **STRONG), report=rows.append)
    return out, rows


def test_moves_the_property_towards_the_exact_target(tuned):
    out, rows = tuned
    result = json.loads((out / "card.json").read_text())["finetune"]
    start, end = result["prior"], result["result"]
    assert end["mean"] > start["mean"] + 2 * np.hypot(start["error"], end["error"])
    assert result["target"]["mean"] > start["mean"]
    assert [row.step for row in rows] == [0, 1, 2, 3]
    assert rows[-1].walked > rows[0].walked


def test_minimise_goes_the_other_way(tiny_flow, tuned, tmp_path):
    finetune(config(tiny_flow, tmp_path / "low", minimise=True, **STRONG))
    result = json.loads((tmp_path / "low" / "card.json").read_text())["finetune"]
    assert result["target"]["mean"] < result["prior"]["mean"]
    high = json.loads((tuned[0] / "card.json").read_text())["finetune"]["result"]
    low = result["result"]
    assert low["mean"] < high["mean"] - 3 * np.hypot(low["error"], high["error"])


def test_result_is_a_flow_with_its_lineage(tuned, tiny_flow):
    out, rows = tuned
    flow, parent = DeNovoFlow.from_pretrained(out), DeNovoFlow.from_pretrained(tiny_flow)
    assert flow.card["parents"] == [
        {"name": str(tiny_flow), "weights_sha256": parent.card["weights_sha256"]}
    ]
    assert flow.card["finetune"]["oracle_calls"] > 3 * 96 * 0.1
    assert "KL" in flow.card["objective"]["maximise"]
    with (out / "finetune.csv").open() as file:
        assert [float(row["mean"]) for row in csv.DictReader(file)] == [r.mean for r in rows]


def test_resume_takes_the_same_steps(tiny_flow, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finetune(config(tiny_flow, whole))

    def interrupt(row):
        if row.step == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(config(tiny_flow, broken), report=interrupt)
    assert not (broken / "card.json").exists()
    finetune(config(tiny_flow, broken), resume=True)
    one, two = (DeNovoFlow.load(folder).state_dict() for folder in (whole, broken))
    assert all(torch.equal(one[name], two[name]) for name in one)
    rows = [list(csv.DictReader((f / "finetune.csv").open())) for f in (whole, broken)]
    assert [r["mean"] for r in rows[0]] == [r["mean"] for r in rows[1]]


def test_existing_output_is_kept(tuned, tiny_flow):
    with pytest.raises(UserError, match="--overwrite"):
        finetune(config(tiny_flow, tuned[0]))


def test_a_constant_property_is_refused(tiny_flow, tmp_path):
    with pytest.raises(UserError, match="nothing to steer by"):
        finetune(config(tiny_flow, tmp_path / "x", reward="formal_charge", base_samples=64))


def test_unknown_reward_is_refused_before_any_work(tiny_flow, tmp_path):
    with pytest.raises(UserError, match="qed"):
        finetune(config(tiny_flow, tmp_path / "x", reward="qde"))
    assert not (tmp_path / "x").exists()


def test_sample_counts_failures_as_nan(tiny_flow):
    flow = DeNovoFlow.from_pretrained(tiny_flow)
    with WorkerPool(1) as pool:
        sample = draw_sample(flow, "qed", 40, seed=3, evaluations=12, pool=pool)
    invalid = np.array([not smiles for smiles in sample.smiles])
    assert np.isnan(sample.values[invalid]).all()
    assert np.isfinite(sample.values[~invalid]).all()
    assert sample.valid == pytest.approx(1 - invalid.mean())
    assert sample.unscored == 0


def test_encode_keeps_molecules_and_rewards_together(tiny_flow):
    flow = DeNovoFlow.from_pretrained(tiny_flow)
    graphs = [
        Graph3D(
            np.array([6, 8, *[7] * (n - 2)]),
            np.zeros(n, int),
            np.zeros((n, n), np.int8),
            np.arange(3.0 * n).reshape(n, 3),
        )
        for n in (4, 5, 4)
    ]
    bank = encode(flow, Sample(graphs, ["C"] * 3, np.arange(3.0)), np.arange(3.0))
    assert [len(r) for r in bank.rewards] == [2, 1]
    assert bank.rewards[0].tolist() == [0.0, 2.0]
    back = flow.decode(bank.states[1])[0]
    assert back.numbers.tolist() == graphs[1].numbers.tolist()
    np.testing.assert_allclose(
        back.positions, graphs[1].positions - graphs[1].positions.mean(0), atol=1e-4
    )
