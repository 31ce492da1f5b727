"""A steering that is resumed draws and asks for what is missing, and ends as if never stopped."""

import csv
import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

from molflowctl.chem.graphs import Graph3D
from molflowctl.models.denovo import DeNovoFlow
from molflowctl.properties.rewards import Objective
from molflowctl.tasks.steering import population
from molflowctl.tasks.steering.finetune import finetune
from molflowctl.tasks.steering.merge import merge
from molflowctl.tasks.steering.run_folder import Hooks
from molflowctl.tasks.steering.sample_store import SampleStore
from molflowctl.tasks.steering.scored_molecules import ScoredMolecules
from molflowctl.tasks.steering.settings import FinetuneConfig, MergeConfig

SMALL = {
    "mirror_steps": 3,
    "n_samples": 32,
    "base_samples": 160,
    "test_samples": 16,
    "nfe": 8,
    "mirror_nfe": 8,
    "train_steps": 4,
    "value_steps": 4,
    "batch": 32,
}
FEW = {"matching_steps": 4, "ratio_times": 2}


@pytest.fixture(scope="module")
def parts(tiny_flow, tmp_path_factory):
    """A small flow and another one of the same states."""
    other = DeNovoFlow.load(tiny_flow)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for part in other.parameters():
            part.mul_(1 + 0.02 * torch.randn(part.shape, generator=generator))
    place = other.save(tmp_path_factory.mktemp("flows") / "b")
    return {"a": str(tiny_flow), "b": str(place)}


class Counter:
    """Draws and molecules that the oracle was asked about; Ctrl-C at a draw, where one is given."""

    def __init__(self, monkeypatch, stop=None):
        self.draws, self.asked, self.stop = [], 0, stop
        self._draw, self._value = population.draw_sample, Objective.value
        monkeypatch.setattr(population, "draw_sample", self.draw)
        monkeypatch.setattr(Objective, "value", lambda *a, **k: self.value(*a, **k))

    def draw(self, flow, oracle, n, seed, **more):
        if len(self.draws) + 1 == self.stop:
            raise KeyboardInterrupt
        self.draws.append((n, seed))
        return self._draw(flow, oracle, n, seed, **more)

    def value(self, oracle, mols, **options):
        mols = list(mols)
        self.asked += len(mols)
        return self._value(oracle, mols, **options)


def counted(monkeypatch, run, stop=None, **options) -> Counter:
    with monkeypatch.context() as patch:
        counter = Counter(patch, stop)
        if stop is None:
            run(**options)
        else:
            with pytest.raises(KeyboardInterrupt):
                run(**options)
    return counter


def same_weights(one, two) -> bool:
    one, two = (DeNovoFlow.load(folder).state_dict() for folder in (one, two))
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def table(folder) -> list[dict[str, str]]:
    (path,) = folder.glob("*.csv")
    rows = list(csv.DictReader(path.open()))
    return [{k: v for k, v in row.items() if not k.startswith("minutes")} for row in rows]


def steered(parts, out, **changes):
    config = FinetuneConfig(
        flow=parts["a"], reward="logp", out=out, **{**SMALL, "invalid_penalty": 0.0, **changes}
    )
    return lambda **options: finetune(config, **options)


def merged(parts, out, circuit, **changes):
    config = MergeConfig(circuit=circuit, out=out, flows=parts, **{**SMALL, **FEW, **changes})
    return lambda **options: merge(config, **options)


# What is run, how many samples it draws, and at which of them it is stopped: of three mirror steps
# one is done, and the sample before the next one is kept.
BRIEF = {"mirror_steps": 2, "base_samples": 64, "n_samples": 16}
RUNS = {
    "finetune": (steered, {}, 4, 3),
    "merge": (merged, {"circuit": "a & b", "reward": "logp"}, 5, 4),
    "finetune in bf16": (steered, {"precision": "bf16"}, 4, 3),
    "merge in bf16": (merged, {"circuit": "a & b", "reward": "logp", "precision": "bf16"}, 5, 4),
    "by a value": (steered, {"solver": "guidance", "mirror_steps": 2}, 3, 3),
    "contrast": (merged, {"circuit": "a - b", **BRIEF}, 4, 4),
    "circuit": (merged, {"circuit": "(a & b) - a", **BRIEF}, 6, 5),
    "scores": (
        merged,
        {
            "circuit": "a & b", "intersection": "score-sum", "reward": "logp", "mirror_steps": 2,
        }, 6, 6,
    ),
    "swarm": (merged, {"circuit": "a & b", "solver": "feynman-kac", **BRIEF}, 3, 3),
    "gate": (merged, {"circuit": "a | b", "union": "gate", **BRIEF}, 3, 3),
}  # fmt: skip
LONG = ("circuit", "scores", "gate", "contrast")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in LONG else n for n in RUNS]
)
def test_a_resumed_run_draws_what_is_missing(parts, tmp_path, monkeypatch, name):
    make, changes, total, stop = RUNS[name]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    all_of_it = counted(monkeypatch, make(parts, whole, **changes))
    assert len(all_of_it.draws) == total
    begun = counted(monkeypatch, make(parts, broken, **changes), stop)
    assert not (broken / "card.json").exists()
    rest = counted(monkeypatch, make(parts, broken, **changes), resume=True)
    assert begun.draws + rest.draws == all_of_it.draws
    assert begun.asked + rest.asked == all_of_it.asked
    assert same_weights(whole, broken)
    assert table(whole) == table(broken)
    calls = [json.loads(next(f.glob("*.run.json")).read_text())["oracle_calls"]
             for f in (whole, broken)]  # fmt: skip
    assert calls[0] == calls[1]


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def unlike(path):
    """Whole by its hash, but of no use."""
    import hashlib

    arrays = load(path.read_bytes())
    path.write_bytes(save({**arrays, "bonds": arrays["bonds"][1:]}))
    card = path.with_suffix(".json")
    told = json.loads(card.read_text())
    told["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    card.write_text(json.dumps(told))


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        unlike,
        lambda path: path.write_bytes(path.read_bytes()[:100]),
        lambda path: path.unlink(),
        lambda path: path.with_suffix(".json").write_text("{"),
        lambda path: path.with_suffix(".json").write_text('{"sha256": 1}'),
    ],
    ids=["flipped", "unlike", "cut", "gone", "card cut", "card empty"],
)
def test_a_damaged_sample_is_told_in_a_line_and_drawn_again(parts, tmp_path, monkeypatch, damage):
    run = steered(parts, tmp_path / "run", mirror_steps=1)
    first = counted(monkeypatch, run)
    weights = DeNovoFlow.load(tmp_path / "run").state_dict()
    (path,) = (tmp_path / "run" / "rounds").glob("sample-prior-*.safetensors")
    before = load(path.read_bytes())
    damage(path)
    said = []
    again = counted(monkeypatch, run, resume=True, hooks=Hooks(say=said.append))
    assert again.draws == first.draws[:1]
    (line,) = [text for text in said if "drawn and judged again" in text]
    assert line.startswith("prior: ")
    assert path.name in line
    assert "\n" not in line
    found = DeNovoFlow.load(tmp_path / "run").state_dict()
    assert all(torch.equal(weights[k], found[k]) for k in weights)
    after = load(path.read_bytes())  # kept anew, the same
    assert all(np.array_equal(before[k], after[k], equal_nan=before[k].dtype.kind == "f")
               for k in before)  # fmt: skip


def test_values_of_other_programs_are_asked_for_again(parts, tmp_path, monkeypatch):
    run = steered(parts, tmp_path / "run", mirror_steps=1)
    run()
    said = []
    monkeypatch.setattr(population, "program_versions", lambda engine: "rdkit 1913.1")
    again = counted(monkeypatch, run, resume=True, hooks=Hooks(say=said.append))
    assert len(again.draws) == 2
    assert sum("since properties or programs changed" in text for text in said) == 2


def test_a_sample_is_kept_to_the_last_bit(tmp_path):
    rng = np.random.default_rng(0)

    def graph(n):
        bonds = np.triu(rng.integers(0, 4, (n, n)), 1).astype(np.int8)
        positions = rng.normal(size=(n, 3)).astype(np.float32)
        return Graph3D(rng.integers(1, 54, n), rng.integers(-1, 2, n), bonds + bonds.T, positions)

    for graphs in ([graph(3), None, graph(1), graph(7)], [None], [graph(2)]):
        n = len(graphs)
        smiles = ["C#N", "", "[13CH4]", "c1ccncc1"][:n]
        values = np.array([1 / 3, np.nan, -0.0, 1e-300])[:n]
        sample = ScoredMolecules(graphs, smiles, values, rng.normal(size=(n, 2)))
        store = SampleStore(tmp_path / str(n))
        store.save("A sample", {"seed": n}, {}, sample, 7)
        found, calls = store.load("A sample", {"seed": n}, {})
        assert calls == 7
        assert found.smiles == smiles
        assert found.values.tobytes() == values.tobytes()
        assert found.features.tobytes() == sample.features.tobytes()
        for one, two in zip(graphs, found.graphs, strict=True):
            assert (one is None) == (two is None)
            for name in ("numbers", "charges", "bonds", "positions") if one else ():
                assert np.array_equal(getattr(one, name), getattr(two, name))
                assert getattr(one, name).dtype == getattr(two, name).dtype
        assert store.load("A sample", {"seed": n + 1}, {}) is None
        assert store.load("A sample", {"seed": n}, {"reward": "qed"}) is None
