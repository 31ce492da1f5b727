"""A surrogate in the loop predicts inside its range, never judges, and spends no call twice."""

import contextlib
import json
import sqlite3
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import Crippen, rdDistGeom
from safetensors.numpy import load_file

from molflowctl.chem.graphs import canonical_smiles, from_mol
from molflowctl.compute.parallel import WorkerPool
from molflowctl.errors import UserError
from molflowctl.models.denovo import DeNovoFlow
from molflowctl.properties import PropertyError, register, registry
from molflowctl.properties.cache import Cache
from molflowctl.properties.rewards import parse_reward
from molflowctl.tasks import loop_surrogate
from molflowctl.tasks.loop_surrogate import Learning, surrogate_samples
from molflowctl.tasks.preparation.qm9 import Matched, collate
from molflowctl.tasks.steering.finetune import finetune
from molflowctl.tasks.steering.population import PopulationSampler
from molflowctl.tasks.steering.run_folder import Hooks
from molflowctl.tasks.steering.scored_molecules import ScoredMolecules
from molflowctl.tasks.steering.settings import FinetuneConfig
from molflowctl.tasks.steering.tilted_data import judged_rows
from molflowctl.tasks.training import surrogate as training
from molflowctl.tasks.training.surrogate import fit_surrogate

GROUPS = "C CC C(C)C OC N NC F C#N C=O C(N)=O CO CN C#C".split()  # noqa: SIM905
CORES = ["C({})CO{}", "C1({})CC(O1){}", "c1({})ccc(o1){}", "C({})(C)N{}", "C({})=C{}"]
FAR = ["C" * 40, "FC(F)(F)C(F)(F)C(F)(F)C(F)(F)Br", "[Si](Cl)(Cl)(Cl)Cl"]


class Asked:
    """A slow oracle that notes in a file what it was asked about."""

    def __init__(self, value):
        self.value, self.file = value, Path()

    def __call__(self, mol):
        with self.file.open("a") as file:
            file.write(Chem.MolToSmiles(mol) + "\n")
        return self.value(mol)

    @property
    def calls(self):
        return self.file.read_text().split() if self.file.exists() else []


def noise(mol):
    return float(np.random.default_rng(list(Chem.MolToSmiles(mol).encode())).standard_normal())


def failing(mol):
    if mol.GetNumAtoms() > 30:
        raise PropertyError("too large for this oracle")
    return Crippen.MolLogP(mol)


SLOW = {
    "slow_logp": Asked(Crippen.MolLogP),
    "slow_noise": Asked(noise),
    "slow_fails": Asked(failing),
}
HERE = {"timeout": None}  # in this process
SMALL = {"members": 2, "width": 48, "epochs": 12, "dropout": 0.1}


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    for name, oracle in SLOW.items():
        oracle.file = tmp_path / f"{name}.asked"
        register(
            name, unit="", version=1, description="slow", engine="slow", geometry=False,
        )(oracle)  # fmt: skip


@pytest.fixture(scope="module")
def mols():
    texts = {core.format(a, b) for core in CORES for a in GROUPS for b in GROUPS}
    ordered = sorted({Chem.CanonSmiles(text) for text in texts})
    return [
        Chem.MolFromSmiles(ordered[k]) for k in np.random.default_rng(0).permutation(len(ordered))
    ]


def learned(reward, mols):
    said = []
    oracle = Learning(parse_reward(reward), say=said.append, **SMALL)
    oracle.value(mols, **HERE)
    return oracle, said


def test_it_predicts_what_it_was_not_told_and_asks_nothing(mols):
    oracle, said = learned("slow_logp", mols[:300])
    judge = oracle.stand_in()
    asked = len(SLOW["slow_logp"].calls)
    values = judge.value(mols[300:], **HERE)
    assert len(SLOW["slow_logp"].calls) == asked == 300
    true = np.array([Crippen.MolLogP(mol) for mol in mols[300:]])
    inside = np.isfinite(values)
    assert inside.mean() > 0.9
    assert judge.predicted == inside.sum()
    assert np.abs(values - true)[inside].mean() < 0.5 * np.abs(true - true.mean()).mean()
    assert np.corrcoef(values[inside], true[inside])[0, 1] > 0.85
    assert "surrogate of slow_logp" in said[0]


def test_quick_properties_are_computed_and_slow_ones_predicted(mols):
    oracle, _ = learned("slow_logp + 100 * heavy_atoms", mols[:250])
    assert [item.name for item in oracle.learned] == ["slow_logp"]
    both = oracle.stand_in().value(mols[250:300], **HERE)
    assert np.isfinite(both).sum() > 40
    assert np.nanmax(np.abs(both - 100 * np.array([m.GetNumAtoms() for m in mols[250:300]]))) < 10
    alone, _ = learned("logp + tpsa", mols[:10])
    assert [item.name for item in alone.learned] == ["logp", "tpsa"]


def test_outside_its_range_the_oracle_is_asked_while_calls_are_to_spare(mols):
    oracle, _ = learned("slow_logp", mols[:250])
    far = [Chem.MolFromSmiles(text) for text in FAR]
    assert np.isnan(oracle.stand_in().value(far, **HERE)).all()
    asked = len(SLOW["slow_logp"].calls)
    judge = oracle.stand_in(spare=2)
    values = judge.value([mols[300], *far], **HERE)
    assert values[1:3] == pytest.approx([Crippen.MolLogP(mol) for mol in far[:2]])
    assert np.isnan(values[3])
    assert (judge.calls, judge.predicted, judge.refused) == (2, 1, 1)
    assert len(SLOW["slow_logp"].calls) == asked + 2
    assert np.isnan(judge.value(far, **HERE)).all()  # nothing is left to spare
    assert oracle.size == 252  # and what was asked is learned from


def test_a_surrogate_that_knows_nothing_is_not_asked(mols):
    few, said = learned("slow_logp", mols[:150])
    assert few.stand_in() is None
    assert "200 is the least" in said[0]
    chance, said = learned("slow_noise", mols[:300])
    assert chance.stand_in() is None
    assert "it is not asked" in said[0]


def test_failed_calls_teach_nothing(mols):
    oracle, _ = learned("slow_fails", [*mols[:20], Chem.MolFromSmiles("C" * 31), None])
    assert oracle.size == 20


def test_how_many_it_judges(tmp_path):
    given = {"flow": "qm9", "out": tmp_path}

    def many(reward, **settings):
        config = FinetuneConfig(**given, reward=reward, **settings)
        return surrogate_samples(config, parse_reward(reward))

    assert many("slow_logp", oracle_budget=1000, n_samples=100) == 200
    assert many("qed", oracle_budget=1000) == many("slow_logp") == 0
    assert many("qed", oracle_budget=1000, surrogate_samples=50) == 50
    assert many("qed", oracle_budget=1000, data="x", data_samples=4000) == 4000
    with pytest.raises(UserError, match="goes with --oracle-budget"):
        many("qed", surrogate_samples=50)


RUN = {
    "mirror_steps": 2, "base_samples": 800, "n_samples": 96, "test_samples": 48, "nfe": 8,
    "mirror_nfe": 8, "train_steps": 4, "batch": 48, "reward": "logp", "surrogate_samples": 120,
    "oracle_budget": 1040,
}  # fmt: skip


def answers(out):
    """How many molecules the oracle has answered about, each once."""
    with contextlib.closing(sqlite3.connect(out / "rounds" / "oracle.sqlite")) as base:
        return base.execute("select count(*) from results").fetchone()[0]


def samples(out, glob):
    files = sorted((out / "rounds").glob(glob))
    return [ScoredMolecules.of_arrays(load_file(file)) for file in files]


@pytest.mark.slow
def test_a_run_stays_in_its_budget_and_is_judged_by_the_oracle(tiny_flow, tmp_path, monkeypatch):
    monkeypatch.setattr(loop_surrogate, "fit_surrogate", partial(fit_surrogate, **SMALL))
    monkeypatch.setattr(training, "LEAST", 80)  # the small flow draws few molecules that differ
    rows, said = [], []

    def run(out, report=rows.append, **more):
        config = FinetuneConfig(**RUN, flow=str(tiny_flow), out=out)
        finetune(config, hooks=Hooks(report, say=said.append), **more)
        return json.loads((out / "finetune.run.json").read_text())

    whole = run(tmp_path / "whole")
    assert whole["surrogate"]["learned_from"] <= whole["oracle_calls"] <= RUN["oracle_budget"]
    assert any(line.startswith("surrogate of logp: wrong by") for line in said)
    found = samples(tmp_path / "whole", "sample-round*.safetensors")
    assert sorted(map(len, found)) == [96, 120]
    # What the table says of a step is of molecules that the oracle judged, and of no others.
    of_logp = [sample for sample in found if len(sample) == 96]
    for sample in of_logp:
        for name, value in zip(sample.smiles, sample.values, strict=True):
            assert not name or value == pytest.approx(Crippen.MolLogP(Chem.MolFromSmiles(name)))
    assert {row.mean for row in rows[1:-1]} == {sample.mean for sample in of_logp}
    (predicted,) = (s.values for s in found if len(s) == 120)
    assert np.isfinite(predicted).any()

    def stop(row):
        if row.step == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", stop)
    before = answers(tmp_path / "cut")
    again = run(tmp_path / "cut", resume=True)
    for key in ("oracle_calls", "result", "surrogate"):
        assert again[key] == whole[key]
    assert answers(tmp_path / "cut") == answers(tmp_path / "whole") >= before


@pytest.mark.slow
def test_a_tilt_by_some_of_the_calls_is_nearly_that_by_all(tiny_flow, mols, tmp_path):
    """Judged by the oracle: what is learned from few calls weighs the data as all calls would."""
    known = DeNovoFlow.load(tiny_flow)
    graphs = []
    for mol in mols:
        built = Chem.AddHs(mol)
        if rdDistGeom.EmbedMolecule(built, randomSeed=1) == 0:
            graph = from_mol(built, hydrogens=False)
            if set(graph.numbers.tolist()) <= set(known.elements):
                graphs.append(Matched.of(graph, len(graphs), canonical_smiles(built)))
    data = collate(graphs, np.zeros(len(graphs), np.uint8))
    data.card = {"hydrogens": "implicit"}
    rows = list(range(len(data)))
    told = SimpleNamespace(data="d", oracle_budget=260, base_samples=40, test_samples=20, seed=0)
    oracle = Learning(parse_reward("slow_logp"), **SMALL)
    with WorkerPool(1) as pool, contextlib.closing(Cache(tmp_path / "cache.sqlite")) as cache:
        assay = PopulationSampler(oracle, pool, timeout=None)
        assay.calls = 40  # of the prior
        points, used = judged_rows(told, known, data, rows, assay, cache, lambda line: None)
    assert len(SLOW["slow_logp"].calls) == 200
    assert assay.calls == 240
    assert len(set(used)) == len(used) > 0.9 * len(rows)
    assert points.values["judged"].sum() == 200
    true = np.array([Crippen.MolLogP(Chem.MolFromSmiles(data.smiles[row])) for row in used])

    def reached(values):
        weights = np.exp((values - values.mean()) / values.std())
        return (weights @ true / weights.sum() - true.mean()) / true.std()

    by_all, by_few = reached(true), reached(points.values["value"].numpy())
    assert by_all > 0.8
    assert by_few > 0.8 * by_all
