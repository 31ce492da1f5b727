"""Flows beside each other: tails, diversity in closed form, and the files that come out."""

import csv
import json

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import MolFromSmiles
from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator
from rdkit.DataStructs import TanimotoSimilarity

from molflowctl.errors import UserError
from molflowctl.tasks.evaluation.compare import (
    CompareConfig,
    Compared,
    _labels,
    compare,
    vendi_score,
)

DISTINCT = ["CCO", "c1ccccc1", "C#N", "O=C=O", "FC(F)F"]


def sample(values: list[float], smiles: list[str]) -> Compared:
    mols = [MolFromSmiles(s) for s in smiles if s]
    return Compared("x", smiles, mols, {"y": np.array(values)})


def test_tails_are_means_of_the_best_and_the_worst() -> None:
    rows = sample(list(range(20)), ["C"] * 20).estimates(0.1)
    assert rows["y"].value == pytest.approx(9.5)
    assert rows["y, best"].value == pytest.approx(18.5)
    assert rows["y, worst"].value == pytest.approx(0.5)
    assert rows["y, worst"].low <= 0.5 <= rows["y, worst"].high < rows["y"].low


def test_the_best_are_the_smallest_of_what_is_to_be_small() -> None:
    """Of the first property, not of those shown beside it."""
    both = sample(list(range(20)), ["C"] * 20)
    both.values["z"] = np.arange(20.0)
    rows = both.estimates(0.1, minimise=True)
    assert rows["y, best"].value == rows["z, worst"].value == pytest.approx(0.5)
    assert rows["y, worst"].value == rows["z, best"].value == pytest.approx(18.5)


def test_rates_count_the_invalid_and_the_repeated() -> None:
    rows = sample([1.0, np.nan, 3.0], ["C", "", "C", "CC"]).estimates(0.1)
    assert rows["valid"].value == pytest.approx(3 / 4)
    assert rows["unique"].value == pytest.approx(2 / 3)
    assert rows["y"].n == 2  # what failed is left out


@pytest.mark.parametrize("copies", [1, 4])
def test_equal_molecules_count_once_in_the_vendi_score(copies) -> None:
    assert vendi_score(["CCO"] * 7) == pytest.approx(1)
    once = vendi_score(DISTINCT)
    assert vendi_score(copies * DISTINCT) == pytest.approx(once)
    assert once == pytest.approx(len(DISTINCT))  # not a bit of their fingerprints in common
    assert vendi_score([]) == 0


def test_two_similar_molecules_are_between_one_and_two() -> None:
    """`K/n` of two has the eigenvalues `(1 +- s) / 2`."""
    pair = ["CCO", "CCCO"]
    prints = [GetMorganGenerator(radius=2).GetFingerprint(MolFromSmiles(s)) for s in pair]
    s = TanimotoSimilarity(*prints)
    shares = np.array([(1 + s) / 2, (1 - s) / 2])
    assert 0.2 < s < 0.8
    assert vendi_score(pair) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-6)


def test_scaffolds_are_counted_per_valid_molecule() -> None:
    found = sample([0, 0, 0], ["Cc1ccccc1", "", "CCc1ccccc1", "C1CC1"])
    assert found.diversity()["scaffolds"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(("minimise", "best"), [(False, ["C#N", "CCO"]), (True, ["O=C=O", "CCC"])])
def test_the_best_of_so_many_attempts(minimise, best) -> None:
    smiles = ["C#N", "", "CCC", "CC", "CCO", "O=C=O", "", "N"]
    chosen = sample([4.0, 1.0, 2.0, 3.0, 0.0, np.nan], smiles).best(4, minimise)
    assert sorted(chosen.named) == sorted(best)  # two of eight attempts
    assert [Chem.CanonSmiles(s) for s in chosen.named] == [Chem.MolToSmiles(m) for m in chosen.mols]
    assert chosen.estimates(0.5)["y"].value == pytest.approx(0.5 if minimise else 3.5)
    assert len(sample([np.nan, 1.0], ["C", "CC"]).best(1.0, minimise).mols) == 1  # NaN is no best


def test_internal_diversity_is_one_less_the_similarity_of_pairs() -> None:
    assert sample([0] * 4, ["CCO", "c1ccccc1"] * 2).estimates(0.5)["internal diversity"].value == 0
    unlike = sample([0] * 4, ["CCO", "C#N", "c1ccccc1", "O=C=O"]).estimates(0.5)
    assert unlike["internal diversity"].value == 1


def test_files_have_every_flow(tiny_flow, tmp_path) -> None:
    out = tmp_path / "out"
    config = CompareConfig(
        flows=(str(tiny_flow),), properties=("logp", "heavy_atoms"), n=60, nfe=12
    )
    found, best = compare(config.model_copy(update={"best_of": 4.0}), out, quiet=True)
    assert len(best.mols) == 15
    assert len(found.smiles) == 60
    assert len(found.mols) == len(found.named) == len(found.values["logp"]) > 0
    assert {"table.md", "table.csv", "figure.png", f"best-{found.name}.png"} <= {
        path.name for path in out.iterdir()
    }
    with (out / "table.csv").open() as file:
        rows = {
            row["figure"]: float(row["value"])
            for row in csv.DictReader(file)
            if row["flow"] == found.name
        }
    assert rows["heavy_atoms"] == pytest.approx(np.mean([m.GetNumHeavyAtoms() for m in found.mols]))
    record = json.loads((tmp_path / "out.run.json").read_text())
    assert record["results"][found.name]["valid"]["value"] == rows["valid"]
    with pytest.raises(UserError, match="holds results"):
        compare(config, out, quiet=True)
    card = json.loads((tiny_flow / "card.json").read_text())
    assert record["weights_sha256"] == {str(tiny_flow): card["weights_sha256"]}


def test_unknown_names_are_refused_before_any_work(tiny_flow, tmp_path) -> None:
    for change in ({"flows": ("qm8",)}, {"properties": ("qde",)}):
        settings = {"flows": (str(tiny_flow),), "properties": ("qed",)} | change
        with pytest.raises(UserError, match=r"qed|qm9"):
            compare(CompareConfig(**settings), tmp_path / "x", quiet=True)
        assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (("qm9", "runs/mean"), ["qm9", "mean"]),
        (("a/cvar", "b/cvar", "qm9"), ["a-cvar", "b-cvar", "qm9"]),
        (("qm9", "x/qm9"), ["qm9", "x-qm9"]),
        (("x/a/flow", "y/a/flow"), ["x-a-flow", "y-a-flow"]),
        ((".",), ["here"]),
    ],
)
def test_flows_are_called_what_tells_them_apart(names, labels, tmp_path, monkeypatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert _labels(names) == labels


def test_a_flow_is_not_compared_with_itself(tiny_flow, tmp_path) -> None:
    config = CompareConfig(flows=(str(tiny_flow), f"{tiny_flow}/"), properties=("logp",))
    with pytest.raises(UserError, match="named twice"):
        compare(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()
