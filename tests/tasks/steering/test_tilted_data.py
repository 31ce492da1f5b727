"""A flow learns the optimum of an objective on known molecules: weights, copies, and the flow."""

import json

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import Crippen

from molflowctl.data.datasets import MoleculeDataset
from molflowctl.errors import UserError
from molflowctl.models.denovo import DeNovoFlow
from molflowctl.models.score_sum import ScoreSumFlow
from molflowctl.tasks.steering.finetune import finetune
from molflowctl.tasks.steering.run_folder import Hooks
from molflowctl.tasks.steering.settings import FinetuneConfig
from molflowctl.tasks.steering.tilted_data import chosen_rows, redraw


@pytest.mark.parametrize("seed", range(5))
def test_a_share_comes_as_often_as_it_says(tiny_data, seed):
    """`floor(n p)` or `ceil(n p)` times, for every molecule."""
    data = MoleculeDataset.load(tiny_data)
    rows = data.indices("train").tolist()
    shares = np.random.default_rng(seed).exponential(size=len(rows)) ** 3
    shares /= shares.sum()
    drawn = redraw(data, rows, shares, seed)
    assert len(drawn) == len(rows)
    there = data.source_index.tolist()
    counts = np.array([drawn.source_index.tolist().count(there[row]) for row in rows])
    assert (np.abs(counts - len(rows) * shares) < 1).all()
    assert drawn.card["distinct"] == len(set(drawn.smiles))
    train = {drawn.smiles[k] for k in drawn.indices("train").tolist()}
    assert not train & {drawn.smiles[k] for k in drawn.indices("validation").tolist()}


def test_data_that_do_not_go_with_the_flow(tiny_data, tiny_flow):
    data, flow = MoleculeDataset.load(tiny_data), DeNovoFlow.load(tiny_flow)
    assert chosen_rows(data, flow, 10**9, 0) == data.indices("train").tolist()
    some = chosen_rows(data, flow, 10, 0)
    assert len(set(some)) == 10
    assert set(some) <= set(data.indices("train").tolist())
    data.card["hydrogens"] = "explicit"
    with pytest.raises(UserError, match="implicit hydrogens, the data explicit"):
        chosen_rows(data, flow, 10, 0)
    data.numbers[0] = 92
    with pytest.raises(UserError, match=r"elements \[92\]"):
        chosen_rows(data, flow, 10, 0)


def settings(flow, data, out, **changes):
    return FinetuneConfig(
        flow=str(flow),
        out=out,
        data=data,
        reward="logp",
        **{
            "kl_nats": 0.5,
            "base_samples": 300,
            "test_samples": 300,
            "nfe": 12,
            "epochs": 15,
            **changes,
        },
    )


@pytest.mark.parametrize(("minimise", "sign"), [(False, 1), (True, -1)])
def test_the_flow_moves_to_the_optimum_on_the_data(tiny_flow, tiny_data, tmp_path, minimise, sign):
    said: list[str] = []
    out = tmp_path / "out"
    config = settings(tiny_flow, tiny_data, out, minimise=minimise)
    finetune(config, hooks=Hooks(say=said.append))
    data = MoleculeDataset.load(tiny_data)
    known = [logp(data.smiles[k]) for k in data.indices("train").tolist()]
    tilted = MoleculeDataset.load(out / "data")
    again = [logp(s) for s in tilted.smiles]
    # An exponential tilt of a Gaussian by half a nat moves its mean by one standard deviation.
    assert 0.6 < sign * (np.mean(again) - np.mean(known)) / np.std(known) < 1.3
    card = json.loads((out / "card.json").read_text())
    run = card["finetune"]
    assert run["target"]["mean"] == pytest.approx(np.mean(again), abs=0.1 * np.std(known))
    error = np.hypot(run["prior"]["error"], run["result"]["error"])
    assert sign * (run["result"]["mean"] - run["prior"]["mean"]) > 3 * error
    assert run["oracle_calls"] > len(data.indices("train"))
    assert card["parents"][0]["name"] == str(tiny_flow)
    assert "KL" in card["objective"]["maximise"]
    assert any("learning" in line for line in said)
    assert DeNovoFlow.load(out).sizes == tilted.sizes("train")


def test_an_interrupted_run_goes_on(tiny_flow, tiny_data, tmp_path, monkeypatch):
    from molflowctl.tasks.steering import finetune as control

    config = settings(tiny_flow, tiny_data, tmp_path / "whole", epochs=2)
    whole = finetune(config)
    monkeypatch.setattr(control, "learn", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    config = settings(tiny_flow, tiny_data, tmp_path / "cut", epochs=2)
    with pytest.raises(KeyboardInterrupt):
        finetune(config)
    monkeypatch.undo()
    again = finetune(config, resume=True)
    for name, value in whole.state_dict().items():
        assert (value == again.state_dict()[name]).all()


def logp(smiles: str) -> float:
    return Crippen.MolLogP(Chem.AddHs(Chem.MolFromSmiles(smiles)))


def test_a_sum_of_flows_does_not_learn_from_data(tiny_flow, tiny_data, tmp_path):
    flow = DeNovoFlow.load(tiny_flow)
    ScoreSumFlow.of([flow, flow], [1, 1]).save(tmp_path / "sum")
    with pytest.raises(UserError, match="sum is made of several flows"):
        finetune(settings(tmp_path / "sum", tiny_data, tmp_path / "run"))
    assert not (tmp_path / "run").exists()
