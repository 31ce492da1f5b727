"""Steering a flow of molecules: it moves, it resumes exactly, and it says what it did."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from molflowctl.chem.graphs import Graph3D
from molflowctl.compute.parallel import WorkerPool
from molflowctl.control.objectives.reward import Reward
from molflowctl.control.population import Population
from molflowctl.errors import UserError
from molflowctl.models.denovo import DeNovoFlow
from molflowctl.models.guided import GuidedFlow
from molflowctl.properties.rewards import parse_reward
from molflowctl.tasks.steering.finetune import Scale, _weighted, finetune
from molflowctl.tasks.steering.population import (
    PopulationSampler,
    ScoredMolecules,
    density_of_given_sizes,
    draw_sample,
    encode,
)
from molflowctl.tasks.steering.run_folder import Hooks
from molflowctl.tasks.steering.scored_molecules import verdict
from molflowctl.tasks.steering.settings import FinetuneConfig

SMALL = {
    "mirror_steps": 2,
    "n_samples": 96,
    "base_samples": 192,
    "test_samples": 96,
    "nfe": 12,
    "train_steps": 8,
    "batch": 48,
    "invalid_penalty": 0.0,  # of invalid molecules, two thirds of the small flow's: it would lead
}

# A small flow learns fast, and takes more molecules to judge: a third of its attempts are valid.
STRONG = {
    "mirror_steps": 3,
    "lr": 2e-3,
    "train_steps": 24,
    "test_samples": 1200,
    "base_samples": 1200,
}


def config(flow, out, **changes):
    settings = {"flow": str(flow), "out": out, "reward": "logp", **SMALL, **changes}
    return FinetuneConfig(**settings)


@pytest.fixture(scope="module")
def tuned(tiny_flow, tmp_path_factory):
    """A steered flow's folder and the lines of its live table."""
    out, rows = tmp_path_factory.mktemp("tuned") / "flow", []
    finetune(config(tiny_flow, out, **STRONG), hooks=Hooks(report=rows.append))
    return out, rows


def test_moves_the_property_towards_the_exact_target(tuned):
    out, rows = tuned
    result = json.loads((out / "card.json").read_text())["finetune"]
    start, end = result["prior"], result["result"]
    assert end["mean"] > start["mean"] + 3 * np.hypot(start["error"], end["error"])
    assert result["target"]["mean"] > start["mean"]
    assert [row.step for row in rows] == [0, 1, 2, 3]
    assert rows[-1].walked > rows[0].walked


@pytest.mark.parametrize(
    ("solver", "name", "set_as"),
    [
        ("reinforce", "Reinforce", "steps=8"),
        ("values", "ValueMatching(value_steps=9", "steps=8"),
        ("guidance", "ValueGuidance", "steps=9"),
        ("weighted", "Weighted", "steps=8"),
        ("adjoint", "LearnedAdjoint(adjoint=AdjointMatching(iterations=2, batch=48", "steps=9"),
        (
            "combined",
            "Alternating(solvers=(Reinforce",
            "parts=('atoms', 'charges', 'bonds')), Learned",
        ),
    ],
)
def test_the_solver_that_was_asked_for(tiny_flow, tmp_path, solver, name, set_as):
    """How far each gets is tested on exact densities, tests/control."""
    finetune(config(tiny_flow, tmp_path / "run", solver=solver, value_steps=9, mirror_steps=1))
    run = json.loads((tmp_path / "run" / "rounds" / "run.json").read_text())
    assert run["inner"].startswith(name)
    assert set_as in run["inner"]


def test_guidance_stays_beside_the_flow_and_goes_on_from_a_guided_one(tiny_flow, tmp_path):
    by_value = {"solver": "guidance", "value_steps": 30, "mirror_steps": 1}
    once = finetune(config(tiny_flow, tmp_path / "once", **by_value))
    assert isinstance(once, GuidedFlow)
    stored = DeNovoFlow.load(tmp_path / "once")
    assert isinstance(stored, GuidedFlow)
    assert len(stored.sample(3, seed=1, nfe=12)) == 3
    twice = finetune(config(tmp_path / "once", tmp_path / "twice", **by_value))
    base = DeNovoFlow.load(tiny_flow).network.state_dict()
    for name, weight in twice.network.state_dict().items():
        torch.testing.assert_close(weight, base[name])
    with pytest.raises(UserError, match="is guided by a value"):
        finetune(config(tmp_path / "once", tmp_path / "thrice", mirror_steps=1))


def test_a_price_on_invalid_molecules_makes_more_of_them_valid(tiny_flow, tmp_path):
    finetune(config(tiny_flow, tmp_path / "sound", **STRONG | {"invalid_penalty": 4.0}))
    result = json.loads((tmp_path / "sound" / "card.json").read_text())["finetune"]
    # A tilt by 4 of a third valid would make 97 % so; the small flow is a short way there.
    start, end = result["prior"]["valid"], result["result"]["valid"]
    assert end > start + 3 * np.sqrt((start * (1 - start) + end * (1 - end)) / 1200)


def test_nats_in_place_of_a_weight(tiny_flow, tmp_path):
    said = []
    finetune(config(tiny_flow, tmp_path / "nats", kl_nats=0.2), hooks=Hooks(say=said.append))
    (weight,) = (float(line.rsplit(" ", 1)[-1]) for line in said if line.startswith("KL of 0.2"))
    objective = json.loads((tmp_path / "nats" / "card.json").read_text())["objective"]["maximise"]
    assert float(objective.split(" * ")[0].split("-")[1]) == pytest.approx(weight, rel=0.01)


def test_entropy_spreads_molecules_of_given_sizes(tiny_flow, tmp_path):
    """Its pull is that of the density's inverse: from likely molecules to unlikely ones."""
    settings = SMALL | {"utility": ("entropy:0.3",), "kl_nats": 0.1, "mirror_steps": 1}
    finetune(config(tiny_flow, tmp_path / "wide", **settings))
    card = json.loads((tmp_path / "wide" / "card.json").read_text())
    assert card["objective"]["maximise"].startswith("0.3 * H")
    flow = DeNovoFlow.load(tiny_flow)
    with WorkerPool(1) as pool:
        _, x = PopulationSampler(None, pool).sample("prior", flow, 60, 5, 12)
    density = density_of_given_sizes(flow, x.states)
    sizes = torch.cat(
        [torch.full((len(g["atoms"]),), g["atoms"].shape[1]) for g in x.states.groups]
    )
    values = torch.cat([density.log_density(group) for group in x.states.groups])
    for n in sizes.unique():
        assert float(values[sizes == n].mean()) == pytest.approx(0, abs=1e-3)
    assert float(values.std()) > 0.5


def test_minimise_goes_the_other_way(tiny_flow, tuned, tmp_path):
    said, bars = [], {}
    finetune(
        config(tiny_flow, tmp_path / "low", minimise=True, **STRONG),
        hooks=Hooks(
            say=said.append,
            progress=lambda label, done, total: bars.setdefault(label, []).append((done, total)),
        ),
    )
    result = json.loads((tmp_path / "low" / "card.json").read_text())["finetune"]
    assert result["target"]["mean"] < result["prior"]["mean"]
    high = json.loads((tuned[0] / "card.json").read_text())["finetune"]["result"]
    low = result["result"]
    assert low["mean"] < high["mean"] - 3 * np.hypot(low["error"], high["error"])
    judged = result["verdict"]
    way = (low["mean"] - result["prior"]["mean"]) / (
        result["target"]["mean"] - result["prior"]["mean"]
    )
    assert judged["way"] == pytest.approx(way)
    assert f"{100 * way:.0f} % of the way" in said[-2]
    names = ("prior", "round 1", "round 2", "result")
    assert list(bars) == [f"{name}: {what}" for name in names for what in ("draw", "oracle")]
    assert all(calls[-1][0] == calls[-1][1] for calls in bars.values())
    assert bars["result: draw"] == [(i, 1200) for i in range(1201)]


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
        finetune(config(tiny_flow, broken), hooks=Hooks(report=interrupt))
    assert not (broken / "card.json").exists()
    finetune(config(tiny_flow, broken), resume=True)
    one, two = (DeNovoFlow.load(folder).state_dict() for folder in (whole, broken))
    assert all(torch.equal(one[name], two[name]) for name in one)
    rows = [list(csv.DictReader((f / "finetune.csv").open())) for f in (whole, broken)]
    assert [r["mean"] for r in rows[0]] == [r["mean"] for r in rows[1]]


def test_resume_with_other_settings_is_refused(tuned, tiny_flow, tmp_path):
    copy = shutil.copytree(tuned[0], tmp_path / "copy")
    before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    changed = {**STRONG, "kl_weight": 0.7, "seed": 3}
    with pytest.raises(UserError, match=r"seed = 0, not 3; kl_weight = None, not 0.7"):
        finetune(config(tiny_flow, copy, **changed), resume=True)
    assert {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()} == before
    (copy / "parents.json").write_text("[]")
    with pytest.raises(UserError, match="other weights"):
        finetune(config(tiny_flow, copy, **STRONG, jobs=2), resume=True)


def test_the_base_is_not_steered_over(tiny_flow, tmp_path):
    base = shutil.copytree(tiny_flow, tmp_path / "base")
    with pytest.raises(UserError, match="choose another folder"):
        finetune(config(base, tmp_path / "x" / ".." / "base"), overwrite=True)
    assert (base / "card.json").exists()


def of_values(values, smiles):
    return ScoredMolecules(
        [None] * len(smiles), smiles, np.array(values), np.empty((len(smiles), 0))
    )


def test_verdict_in_closed_form():
    prior = of_values([-1.0, 1.0, np.nan, np.nan], ["C", "CC", "", ""])
    result = of_values([7.0, 9.0, 8.0, np.nan], ["C", "C", "CCC", ""])
    error = 1 / np.sqrt(3)  # of the mean of 7, 9, 8
    judged = verdict(prior, (10.0, 0.5), result, 1.0)
    assert judged == {
        "way": pytest.approx(0.8),
        "z": pytest.approx(-2 / np.hypot(error, 0.5)),
        "reached": False,
        "outside": True,
        "valid_ratio": pytest.approx(1.5),
        "unique_ratio": pytest.approx(0.5),  # C, C of the result beside C, CC of the prior
    }
    assert verdict(prior, (10.0, 0.9), result, 1.0)["reached"]  # within two standard errors
    nothing = verdict(prior, (10.0, 0.5), of_values([np.nan, np.nan], ["", ""]), 1.0)
    assert not nothing["reached"]
    assert not nothing["outside"]
    assert nothing["valid_ratio"] == 0


def test_verdict_knows_its_direction():
    prior = of_values([-1.0, 1.0], ["C", "CC"])
    for sign in (1.0, -1.0):
        beyond = of_values([sign * 11.0, sign * 13.0], ["C", "CC"])
        short = of_values([sign * 1.0, sign * 3.0], ["C", "CC"])
        assert verdict(prior, (sign * 10.0, 0.0), beyond, sign)["z"] == pytest.approx(2)
        assert verdict(prior, (sign * 10.0, 0.0), beyond, sign)["outside"]
        assert verdict(prior, (sign * 10.0, 0.0), short, sign)["z"] == pytest.approx(-8)
        assert not verdict(prior, (sign * 10.0, 0.0), short, sign)["outside"]


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
    calls = []
    with WorkerPool(1) as pool:
        sample = draw_sample(
            flow, parse_reward("qed"), 40, seed=3, nfe=12, pool=pool,
            progress=lambda *call: calls.append(call),
        )  # fmt: skip
    invalid = np.array([not smiles for smiles in sample.smiles])
    assert np.isnan(sample.values[invalid]).all()
    assert np.isfinite(sample.values[~invalid]).all()
    assert sample.valid == pytest.approx(1 - invalid.mean())
    assert sample.unscored == 0
    scored = int((~invalid).sum())
    assert calls == [("draw", i, 40) for i in range(41)] + [
        ("oracle", i + 1, scored) for i in range(scored)
    ]


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
    x, rows = encode(flow, [graphs[0], None, *graphs[1:]])
    assert rows == [0, 3, 2]
    assert [len(group["positions"]) for group in x.groups] == [2, 1]
    back = flow.decode(x.groups[1])[0]
    assert back.numbers.tolist() == graphs[1].numbers.tolist()
    np.testing.assert_allclose(
        back.positions, graphs[1].positions - graphs[1].positions.mean(0), atol=1e-4
    )


def test_a_tail_is_steered_by_its_own_utility(tiny_flow, tmp_path):
    """Beyond the prior in its utility, which the table tells of fresh molecules."""
    rows = []
    settings = {**STRONG, "utility": ("upper-cvar:0.3",), "kl_weight": 2}
    finetune(config(tiny_flow, tmp_path / "x", **settings), hooks=Hooks(report=rows.append))
    # The best 30 %: every valid molecule, whose rewards have the mean zero, and failed ones at -2.
    assert rows[0].valid < 0.3
    assert rows[0].utility == pytest.approx(-2 * (1 - rows[0].valid / 0.3), abs=0.02)
    assert rows[-1].utility > rows[0].utility
    assert rows[0].kl == pytest.approx(0, abs=1e-6)
    assert rows[-2].kl > 0
    assert rows[0].target_utility > rows[0].utility
    card = json.loads((tmp_path / "x" / "card.json").read_text())
    assert card["objective"]["maximise"] == "SQ_0.7[logp] + -2 * KL"
    for step in (1, 2, 3):  # every outer step can be drawn from
        DeNovoFlow.load(tmp_path / "x" / "rounds" / f"step-{step:03d}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"utility": ("uper-cvar:0.9",)}, "did you mean upper-cvar"),
        ({"utility": ("cvar",)}, "needs a number"),
        ({"utility": ("cvar:1.5",)}, "between 0 and 1"),
        ({"divergence": ("lk:1",)}, "unknown divergence 'lk'"),
        ({"divergence": ("mmd:-1",)}, "must be positive"),
        ({"reward": "sigmoid(qed)"}, "sigmoid"),
        ({"flow": "qm8"}, "qm9"),
        ({"modalities": ("colour",)}, "no part colour; there are positions, atoms, charges, bonds"),
        ({"modalities": ("positions",), "solver": "weighted"}, "moves all parts"),
        ({"modalities": ("positions",), "solver": "combined"}, "moves all parts"),
        ({"modalities": ("positions",), "solver": "guidance"}, "moves all parts"),
        ({"modalities": ("positions",), "data": Path("data")}, "learns the whole state"),
        ({"solver": "guidance", "data": Path("data")}, "takes no mirror steps"),
    ],
)
def test_a_wrong_objective_is_refused_before_any_work(tiny_flow, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        finetune(config(**{"flow": tiny_flow, "out": tmp_path / "x"} | change))
    assert not (tmp_path / "x").exists()


def test_a_tail_says_how_near_its_utility_came(tiny_flow, tmp_path) -> None:
    said = []
    settings = {**SMALL, "utility": ("upper-cvar:0.3",), "mirror_steps": 1}
    finetune(config(tiny_flow, tmp_path / "x", **settings), hooks=Hooks(say=said.append))
    assert any(line.startswith("utility ") and "standard deviations (z = " in line for line in said)
    record = json.loads((tmp_path / "x" / "finetune.run.json").read_text())
    assert FinetuneConfig.parse(record["config"]).mirror_steps == 1
    assert (record["command"], record["parents"][0]["name"]) == ("finetune", str(tiny_flow))
    assert record["versions"]["commit"]
    for part in ("target", "result"):
        assert record[part]["utility_error"] > 0


def test_the_exact_target_is_of_molecules_that_have_a_value() -> None:
    """As the mean that is compared with it; under a tilt that the failed ones have no part in."""
    x = torch.arange(4.0)[:, None]
    reward = Reward(lambda x: torch.tensor([1.0, -2.0, 3.0, -2.0]), name="r")
    there = torch.tensor([True, False, True, False])
    best = Population(x, valid=there, weights=torch.tensor([0.1, 0.5, 0.3, 0.1]))
    mean, error, effective = _weighted(reward, best, Scale(-1.0, 10.0, 2.0))
    assert mean == pytest.approx(10 - 2 * 2.5)  # 1 and 3, a quarter and three
    assert error == pytest.approx(2 * np.hypot(0.25 * 1.5, 0.75 * 0.5))
    assert effective == pytest.approx(1 / (0.25**2 + 0.75**2))
