"""Merging flows of molecules: what a circuit stands for, what comes out, what is refused."""

import csv
import json
import math
import re

import pytest
import torch

from molflowctl.compute.parallel import WorkerPool
from molflowctl.control.composition import average
from molflowctl.control.operators import Contrast, Interpolation, Intersection, Union
from molflowctl.control.solvers import fitting
from molflowctl.control.solvers.weighted import WeightedFlowMatching
from molflowctl.errors import UserError
from molflowctl.flows.noise import BatchNoise
from molflowctl.flows.state import batch_of, groups_of
from molflowctl.models.denovo import DeNovoFlow
from molflowctl.models.gated import GatedFlow
from molflowctl.tasks.steering.circuit import operator_of, places
from molflowctl.tasks.steering.finetune import Hooks
from molflowctl.tasks.steering.merge import merge
from molflowctl.tasks.steering.population import draw_sample
from molflowctl.tasks.steering.run_folder import seed_of
from molflowctl.tasks.steering.settings import MergeConfig

SMALL = {
    "mirror_steps": 1,
    "n_samples": 48,
    "base_samples": 192,
    "test_samples": 48,
    "nfe": 12,
    "mirror_nfe": 12,
    "train_steps": 4,
    "matching_steps": 4,
    "ratio_times": 2,
    "batch": 32,
}


def config(circuit: str, out, **changes) -> MergeConfig:
    """Small settings for a circuit."""
    return MergeConfig(circuit=circuit, out=out, **{**SMALL, **changes})


@pytest.fixture(scope="module")
def flows(tiny_flow, tmp_path_factory):
    """A small flow and another one of the same states."""
    other = DeNovoFlow.load(tiny_flow)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for part in other.parameters():
            part.mul_(1 + 0.02 * torch.randn(part.shape, generator=generator))
    place = tmp_path_factory.mktemp("flows") / "b"
    other.save(place)
    return {"a": str(tiny_flow), "b": str(place)}


def loaded(config: MergeConfig) -> dict[str, DeNovoFlow]:
    return {name: DeNovoFlow.from_pretrained(p) for name, p in places(config).items()}


def test_names_are_looked_up_in_the_zoo_with_hyphens(tmp_path) -> None:
    circuit = config("(qm9 & qm9_dipole) | mine", tmp_path, flows={"mine": "some/folder"})
    assert places(circuit) == {"qm9": "qm9", "qm9_dipole": "qm9-dipole", "mine": "some/folder"}


@pytest.mark.parametrize(
    ("circuit", "changes", "kind", "weights"),
    [
        ("a & b", {}, Intersection, [1, 1]),
        ("a | b", {"weights": (1, 3)}, Union, [1, 3]),
        ("a - b", {"weights": (0.5,)}, Contrast, [1.5, 0.5]),
        ("a & b", {"interpolate": True, "weights": (1, 2)}, Interpolation, [1, 2]),
    ],
)
def test_circuits_stand_for_operators(flows, tmp_path, circuit, changes, kind, weights) -> None:
    settings = config(circuit, tmp_path, flows=flows, **changes)
    operator = operator_of(settings, loaded(settings))
    assert type(operator) is kind
    assert operator.weights == weights


@pytest.mark.parametrize(
    ("circuit", "changes", "message"),
    [
        ("a &", {}, "no circuit"),
        ("qm9", {"flows": {}}, "single flow"),
        ("qm9 & qm8", {"flows": {}}, "did you mean qm9"),
        ("a & b", {"weights": (1, 2, 3)}, "2 parts and 3 weights"),
        ("a & b", {"weights": (1, -2)}, "positive"),
        ("a | b", {"interpolate": True}, "joined by &"),
        ("a & b", {"interpolate": True}, "at its first part"),
        ("a & b", {"interpolate": True, "weights": (2, 1)}, "at its first part"),
        ("(a | b) & a", {"interpolate": True, "weights": (1, 2)}, "between flows"),
        ("a & b", {"features": ("qed",)}, "--interpolate"),
        ("a & b", {"interpolate": True, "weights": (1, 2), "features": ("qde",)}, "qed"),
        ("a - b", {"weights": (1, 2)}, "one weight"),
        ("qm9 & qm9_explicit", {"flows": {}}, "states"),
        ("a & b", {"reward": "qde"}, "qed"),
        ("a | b", {"solver": "score-sum"}, "joined by &"),
        ("(a | b) & a", {"solver": "score-sum"}, "joined by &"),
        ("a & b", {"solver": "score-sum", "reward": "logp"}, "without a reward"),
        ("a | b", {"solver": "feynman-kac"}, "joined by &"),
        ("a & b", {"solver": "feynman-kac", "distil": 60}, "of score-sum"),
        ("a & b", {"union": "gate"}, r"joined by \|"),
        ("(a & b) | a", {"union": "gate"}, r"joined by \|"),
        ("a | b", {"union": "gate", "reward": "logp"}, "without a reward"),
        ("a & b", {"utility": ("cvar:0.1",)}, "--reward"),
        ("a & b", {"minimise": True}, "minimise= is of a reward"),
        ("a & b", {"reward_weight": 2.0}, "reward_weight= is of a reward"),
        ("a & b", {"reward": "logp", "utility": ("entropy:0.1",)}, "entropy is of densities"),
        ("a & b", {"distil": 60}, "distil= is of score-sum"),
        ("a & a", {}, "is given a flow, but is not in"),
    ],
)
def test_what_cannot_be_merged_is_refused_before_any_work(
    flows, tmp_path, circuit, changes, message
) -> None:
    with pytest.raises(UserError, match=message):
        merge(config(circuit, tmp_path / "x", **{"flows": flows, **changes}))
    assert not (tmp_path / "x").exists()


def test_a_flow_merged_with_itself_is_itself(flows, tmp_path) -> None:
    """All log-ratios are zero, and so is every step."""
    settings = config(
        "a & b",
        tmp_path / "x",
        flows={"a": flows["a"], "b": flows["a"]},
        mirror_steps=2,
        invalid_penalty=0,
    )
    merged = merge(settings).state_dict()
    parent = DeNovoFlow.load(flows["a"]).state_dict()
    assert all(torch.equal(merged[name], parent[name]) for name in parent)


@pytest.mark.parametrize(
    ("circuit", "changes"),
    [
        ("a & b", {"reward": "logp"}),
        ("a | b", {"reward": "logp", "weights": (1, 3)}),
        ("a & b", {"interpolate": True, "weights": (1, 2)}),
        ("a & b", {"interpolate": True, "weights": (1, 3), "features": ("logp", "tpsa")}),
        ("(a & b) | a", {}),
        ("a | b", {"union": "gate", "weights": (1, 3)}),
    ],
)
def test_what_comes_out_is_a_flow_with_its_lineage(flows, tmp_path, circuit, changes) -> None:
    rows, said = [], []
    out = tmp_path / "x"
    merge(
        config(circuit, out, flows=flows, **changes),
        hooks=Hooks(report=rows.append, say=said.append),
    )
    merged = DeNovoFlow.from_pretrained(out)
    assert [p["name"] for p in merged.card["parents"]] == [flows["a"], flows["b"]]
    assert merged.card["merge"]["config"]["circuit"] == circuit
    assert set(merged.card["merge"]["parts"]) == {"a", "b"}
    assert json.loads((out / "merge.run.json").read_text())["result"]["n"] == 48
    with (out / "merge.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [float(row["valid"]) for row in table] == [row.valid for row in rows]
    assert math.isnan(rows[-1].mean) == ("reward" not in changes)
    assert re.match(r"merged: [\d.]+% valid, [\d.]+% unique", said[-1])
    parts = [DeNovoFlow.load(flows[name]) for name in ("a", "b")]
    if isinstance(merged, GatedFlow):  # whose parts stay as they are
        assert all(vote.out[-1].weight.any() for vote in merged.votes)  # from zero
        return
    learned = merged.network.state_dict()
    for start in (*parts, average(parts, [0.5, 0.5]), average(parts, [0.25, 0.75])):
        before = start.network.half().float().state_dict()
        assert any(not torch.equal(learned[name], before[name]) for name in before)


@pytest.mark.parametrize(("weights", "expected"), [((1, 1), (0.5, 0.25)), ((1, 3), (0.25, 0.375))])
def test_a_union_has_the_numbers_of_atoms_of_the_mixture(
    flows, tmp_path, weights, expected
) -> None:
    """One part has five atoms always, the other six and seven as often."""
    places = {}
    for name, sizes in (("a", {"5": 3}), ("b", {"6": 20, "7": 20})):
        flow = DeNovoFlow.load(flows[name])
        given = DeNovoFlow(**flow.arguments | {"sizes": sizes})
        given.load_state_dict(flow.state_dict())
        places[name] = str(given.save(tmp_path / name))
    merge(config("a | b", tmp_path / "x", flows=places, weights=weights, mirror_steps=1))
    sizes = DeNovoFlow.from_pretrained(tmp_path / "x").sizes
    total = sum(sizes.values())
    first, other = expected
    assert {n: count / total for n, count in sizes.items()} == {5: first, 6: other, 7: other}


def test_a_sum_of_scores_is_a_flow_with_its_lineage(flows, tmp_path) -> None:
    rows = []
    merge(
        config("a & b", tmp_path / "x", flows=flows, solver="score-sum", weights=(1, 3)),
        hooks=Hooks(report=rows.append),
    )
    summed = DeNovoFlow.from_pretrained(tmp_path / "x")
    assert summed.arguments["weights"] == [3, 1]  # the heaviest first
    assert [p["name"] for p in summed.card["parents"]] == [flows["a"], flows["b"]]
    assert len(rows) == 1  # nothing is learned, the result is judged


@pytest.mark.parametrize(
    ("circuit", "given", "weights"), [("a & b", (1, 3), [3, 1]), ("a - b", (0.5,), [1.5, -0.5])]
)
def test_a_product_by_swarms(flows, tmp_path, circuit, given, weights) -> None:
    settings = {"solver": "feynman-kac", "particles": 3, "ratio_latest": 0.7}
    merge(config(circuit, tmp_path / "x", flows=flows, weights=given, **settings))
    product = DeNovoFlow.from_pretrained(tmp_path / "x")
    with pytest.raises(UserError, match="merged by feynman-kac"):
        merge(config("x & a", tmp_path / "y", flows={"x": str(tmp_path / "x"), "a": flows["a"]}))
    assert "sampling" not in product.card
    expected = {"weights": weights, "particles": 3, "until": 0.7}
    assert {name: product.arguments[name] for name in expected} == expected


def test_a_contrast_takes_scores_away_and_one_network_learns_it(flows, tmp_path) -> None:
    settings = {"flows": flows, "solver": "score-sum", "weights": (0.5,)}
    merge(config("a - b", tmp_path / "sum", **settings))
    teacher = DeNovoFlow.from_pretrained(tmp_path / "sum")
    assert teacher.arguments["weights"] == [1.5, -0.5]
    merge(config("a - b", tmp_path / "one", **settings, distil=60, lr=3e-3))
    student = DeNovoFlow.from_pretrained(tmp_path / "one")
    assert type(student) is DeNovoFlow
    parent = DeNovoFlow.load(flows["a"])
    x1 = max(groups_of(teacher.draw_states(200, seed=7, nfe=12)), key=batch_of)
    t = torch.full((batch_of(x1),), 0.4)
    xt = parent.path.sample(parent.noise_like(x1, BatchNoise(8)), x1, t)
    with torch.no_grad():
        wanted = teacher.endpoint(xt, t)
        left, before = (
            float(f.endpoint_error(f.endpoint(xt, t), wanted, t).mean()) for f in (student, parent)
        )
    assert left < 0.7 * before


def test_an_intersection_from_averaged_scores_begins_near_them(flows, tmp_path) -> None:
    """And so does one inside a circuit, whose union then learns from it."""
    more = {"matching_steps": 120, "lr": 3e-3, "n_samples": 200}
    settings = {"flows": flows, "intersection": "score-sum", **more}
    merge(config("a & b", tmp_path / "sum", flows=flows, solver="score-sum"))
    teacher = DeNovoFlow.from_pretrained(tmp_path / "sum")
    x1 = max(groups_of(teacher.draw_states(200, seed=7, nfe=12)), key=batch_of)
    t = torch.full((batch_of(x1),), 0.4)
    xt = teacher.path.sample(teacher.noise_like(x1, BatchNoise(8)), x1, t)
    with torch.no_grad():
        wanted = teacher.endpoint(xt, t)

    def error(flow: DeNovoFlow) -> float:
        with torch.no_grad():
            return float(flow.endpoint_error(flow.endpoint(xt, t), wanted, t).mean())

    before = error(DeNovoFlow.load(flows["a"]))
    # Without a price on validity there is nothing to walk for.
    merge(config("a & b", tmp_path / "one", **settings, invalid_penalty=0))
    merge(config("(a & b) | (b & a)", tmp_path / "circuit", **settings))
    for name in ("one", "circuit"):
        merged = DeNovoFlow.from_pretrained(tmp_path / name)
        assert type(merged) is DeNovoFlow
        assert error(merged) < 0.7 * before


def test_a_merge_resumes_exactly(flows, tmp_path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    settings = {"flows": flows, "mirror_steps": 2, "reward": "logp"}
    merge(config("a & b", whole, **settings))

    def interrupt(row) -> None:
        if row.step == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge(config("a & b", broken, **settings), hooks=Hooks(report=interrupt))
    assert not (broken / "card.json").exists()
    merge(config("a & b", broken, **settings), resume=True)
    one, two = (DeNovoFlow.load(folder).state_dict() for folder in (whole, broken))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(("weights", "share"), [((1, 1), 0.5), ((1, 3), 0.25)])
def test_a_rewarded_union_learns_from_its_parts_by_their_weights(
    flows, tmp_path, monkeypatch, weights, share
) -> None:
    """However many molecules stand for each: one part has five atoms always, the other six."""
    places, learned = {}, []
    for name, sizes in (("a", {"5": 1}), ("b", {"6": 1})):
        flow = DeNovoFlow.load(flows[name])
        given = DeNovoFlow(**flow.arguments | {"sizes": sizes})
        given.load_state_dict(flow.state_dict())
        places[name] = str(given.save(tmp_path / name))

    def fit(self, flow, x, weights, seed, **run):
        learned.append((x, weights))
        return flow

    monkeypatch.setattr(WeightedFlowMatching, "fit", fit)
    settings = {"reward": "logp", "reward_weight": 1e-6, "invalid_penalty": 0, "base_samples": 256}
    merge(config("a | b", tmp_path / "x", flows=places, weights=weights, **settings))
    ((x, found),) = learned
    atoms = torch.cat([torch.full((batch_of(g),), g["atoms"].shape[1]) for g in groups_of(x)])
    assert float(found[atoms == 5].sum()) == pytest.approx(share, abs=1e-4)


def test_a_merged_flow_is_drawn_from_as_its_heaviest_part(flows, tmp_path) -> None:
    """Before it is judged, too: what stands in its record is what `generate` will draw."""
    places = {}
    for name, stochasticity in (("a", 0.5), ("b", 4.0)):
        flow = DeNovoFlow.load(flows[name])
        flow.card["sampling"] = {"churn": stochasticity}
        places[name] = str(flow.save(tmp_path / name))
    settings = {"flows": places, "weights": (1, 3), "solver": "score-sum"}
    merge(config("a & b", tmp_path / "x", **settings))
    merged = DeNovoFlow.from_pretrained(tmp_path / "x")
    assert merged.card["sampling"] == {"churn": 4.0}
    card = json.loads((tmp_path / "x" / "card.json").read_text())["merge"]
    with WorkerPool(1) as pool:
        drawn = draw_sample(merged, None, 48, seed_of(0, 3), nfe=12, pool=pool)
    assert card["result"]["valid"] == drawn.valid


def test_a_gate_is_resumed_from_what_it_has_learned(flows, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(fitting, "KEEP", 0.0)
    settings = {"flows": flows, "union": "gate", "base_samples": 96}

    def interrupt(label, done, total) -> None:
        if label == "learning" and done == 700:
            raise KeyboardInterrupt

    first: list[int] = []
    merge(config("a | b", tmp_path / "whole", **settings))
    with pytest.raises(KeyboardInterrupt):
        merge(config("a | b", tmp_path / "broken", **settings), hooks=Hooks(progress=interrupt))

    def note(label, done, total) -> None:
        if label == "learning":
            first.append(done)

    merge(config("a | b", tmp_path / "broken", **settings), resume=True, hooks=Hooks(progress=note))
    assert first[0] == 701
    kept = (tmp_path / "broken" / "rounds").glob("*.safetensors")  # samples, and no checkpoint
    assert all(file.name.startswith("sample-") for file in kept)
    one, two = (DeNovoFlow.load(tmp_path / run).state_dict() for run in ("whole", "broken"))
    assert all(torch.equal(one[name], two[name]) for name in one)
