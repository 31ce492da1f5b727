"""A subset holds the molecules of the training split within the range, all and only these."""

import json
import math

import numpy as np
import pytest
from rdkit import Chem

from molflowctl.chem.graphs import canonical_smiles
from molflowctl.compute.parallel import WorkerPool
from molflowctl.data.datasets import MoleculeDataset
from molflowctl.errors import UserError
from molflowctl.properties import PropertyError, get, register, registry
from molflowctl.tasks.preparation.subset import Rule, SubsetConfig, _completed, describe, subset
from molflowctl.tasks.training.settings import TrainConfig
from molflowctl.tasks.training.train import Trainer


@pytest.fixture
def run(tiny_data, tmp_path, monkeypatch):
    monkeypatch.setenv("MOLFLOWCTL_CACHE", str(tmp_path / "cache"))

    def make(name="mw", low=None, high=None, progress=lambda done, total: None, **settings):
        base = {"data": tiny_data, "out": tmp_path / "out", "timeout": None}
        rule = Rule(name, low, high)
        return subset(SubsetConfig.parse(base | {"rule": rule} | settings), progress)

    return make


def weights(data: MoleculeDataset, rows: list[int]) -> list[float]:
    return [get("mw")(Chem.AddHs(Chem.MolFromSmiles(data.smiles[row])))["mw"] for row in rows]


@pytest.mark.parametrize(("low", "high"), [(55.0, None), (None, 80.0), (55.0, 80.0)])
def test_all_and_only_the_range_of_the_training_split(run, tiny_data, tmp_path, low, high):
    data = MoleculeDataset.load(tiny_data)
    rows = data.indices("train").tolist()
    ends = (low or 0.0, high or 1e9)
    inside = [r for r, w in zip(rows, weights(data, rows), strict=True) if ends[0] <= w <= ends[1]]
    assert 0 < len(inside) < len(rows)
    seen = []
    kept = run(low=low, high=high, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(rows), len(rows))
    assert kept.source_index.tolist() == data.source_index[inside].tolist()
    for k, row in enumerate(inside):
        for name in ("numbers", "charges", "bonds", "positions"):
            found, there = getattr(kept.graph(k), name), getattr(data.graph(row), name)
            np.testing.assert_array_equal(found, there)
    card = json.loads((tmp_path / "out/card.json").read_text())
    assert (card["scored"], card["kept"], card["failed"]) == (len(rows), len(inside), {})
    assert card["mean"]["kept"] == pytest.approx(np.mean(weights(data, inside)))
    assert card["parent"]["sha256"] == data.card["sha256"]
    assert (
        card["rule"]
        == {
            (55.0, None): "55 <= mw",
            (None, 80.0): "mw <= 80",
            (55.0, 80.0): "55 <= mw <= 80",
        }[low, high]
    )
    assert ("rule", card["rule"]) in describe(card)
    assert card["split"]["validation"] > 0


def test_the_ends_belong_to_the_range(run, tiny_data):
    data = MoleculeDataset.load(tiny_data)
    counts = data.atom_ptr.diff()[data.indices("train")].tolist()
    kept = run("heavy_atoms", low=4, high=4)
    assert len(kept) == counts.count(4)
    assert set(kept.atom_ptr.diff().tolist()) == {4}


def test_a_subset_trains_a_flow(run, tiny_flow, tiny_settings, tmp_path):
    run(low=50)
    places = {"data": str(tmp_path / "out"), "init": str(tiny_flow)}
    settings = tiny_settings | places | {"train_steps": 1}
    Trainer(TrainConfig(**settings), tmp_path / "run", device="cpu").run()
    card = json.loads((tmp_path / "run/ema/card.json").read_text())
    assert card["data"]["rule"] == "50 <= mw"
    assert card["data"]["parent"]["name"] == "tiny"


def test_a_limit_is_drawn_by_the_seed_and_the_rest_comes_from_the_cache(run):
    once = run(low=50, limit=40)
    again = run(low=50, limit=40, overwrite=True, jobs=2, timeout=30)
    other = run(low=50, limit=40, seed=1, overwrite=True)
    assert once.card["scored"] == 40
    assert once.source_index.tolist() == again.source_index.tolist()
    assert once.source_index.tolist() != other.source_index.tolist()
    assert once.card["sha256"] == again.card["sha256"]


@pytest.mark.parametrize("geometry", [True, False])
def test_molecules_are_completed_at_the_data_sets_geometry(tiny_data, geometry):
    data, reasons = MoleculeDataset.load(tiny_data), []
    rows = data.indices("train").tolist()[:10]
    with WorkerPool(1) as pool:
        mols = list(_completed(data, rows, geometry, pool, None, reasons))
    assert reasons == [""] * 10
    for row, mol in zip(rows, mols, strict=True):
        graph = data.graph(row)
        heavy = mol.GetConformer().GetPositions()[: len(graph.numbers)]
        np.testing.assert_array_equal(heavy, graph.positions.astype(float))
        assert canonical_smiles(mol) == data.smiles[row]
        assert mol.GetNumAtoms() > len(graph.numbers)


def test_what_fails_is_counted_and_not_kept(run, monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))

    @register("some", unit="", version=1, description="d", engine="some")
    def some(mol):
        if any(bond.GetBondTypeAsDouble() == 3 for bond in mol.GetBonds()):
            raise PropertyError("triple bond")
        return 1.0

    kept = run("some", low=-5, limit=None)
    failed = kept.card["failed"]["triple bond"]
    assert failed > 0
    assert len(kept) == kept.card["scored"] - failed
    assert not any("#" in smiles for smiles in kept.smiles)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "dippole_debye", "low": 4}, "did you mean dipole_debye"),
        ({"name": "posebusters", "low": 1}, "several values"),
        ({"low": 1e6}, "only 0 of 47 .* nine in ten of them lie between"),
        ({"low": 70, "high": 71}, "too few to train on"),
        ({"low": 5, "high": 4}, "no value is in the range 5:4"),
        ({}, "needs a lower or an upper end"),
        ({"low": 5, "limit": 0}, "limit:"),
        ({"low": 5, "data": "absent"}, "absent is not a data set"),
    ],
)
def test_bad_subsets(run, tmp_path, settings, words):
    with pytest.raises(UserError, match=words):
        run(**settings)
    assert not (tmp_path / "out").exists()


def test_an_existing_folder_is_kept(run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="--overwrite"):
        run(low=5)
    with pytest.raises(UserError, match="not a data set"):
        run(low=5, overwrite=True)
    assert (tmp_path / "out/thesis.txt").read_text() == "precious"


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("4:", (4.0, None)),
        (":3.5", (None, 3.5)),
        ("-2:1e3", (-2.0, 1000.0)),
        (" 4 : 8 ", (4.0, 8.0)),
    ],
)
def test_ranges(text, ends):
    assert Rule.parse("mw", text) == Rule("mw", *ends)


@pytest.mark.parametrize("text", ["4", "", "4:8:9", "a:b", "nan:", ":inf", "4-8"])
def test_no_ranges(text):
    with pytest.raises(UserError, match="is no range"):
        Rule.parse("mw", text)


def test_a_rule_keeps_its_ends_and_never_a_failure():
    values = np.array([math.nan, -math.inf, 3.9, 4.0, 8.0, 8.1])
    assert Rule("mw", 4, 8).keeps(values).tolist() == [False, False, False, True, True, False]
    assert Rule("mw", 4, None).keeps(values).tolist() == [False] * 3 + [True] * 3
    assert not Rule("mw", None, 4).keeps(math.nan)
