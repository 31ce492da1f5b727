"""The page of a run: what it says is what the run found, after every round and at its end."""

import json
import re
from html import unescape

import numpy as np
import pytest

from molflowctl.properties.rewards import parse_reward
from molflowctl.tasks.steering.finetune import finetune
from molflowctl.tasks.steering.merge import merge
from molflowctl.tasks.steering.reporting.words import (
    as_written,
    decimals_for,
    in_words,
    way_in_words,
)
from molflowctl.tasks.steering.run_folder import Hooks
from molflowctl.tasks.steering.scored_molecules import ScoredMolecules
from molflowctl.tasks.steering.settings import FinetuneConfig, MergeConfig

SMALL = {
    "mirror_steps": 2, "n_samples": 96, "base_samples": 192, "test_samples": 96, "nfe": 12,
    "train_steps": 4, "batch": 48, "invalid_penalty": 0.0,
}  # fmt: skip
REWARD = "sigmoid(logp, 0.5, 0.5) + (qed > 0.4)"


def texts(page):
    """Cells of all tables, in their order."""
    return [unescape(re.sub("<.*?>", "", cell)) for cell in re.findall("<td.*?</td>", page, re.S)]


@pytest.fixture(scope="module")
def steered(tiny_flow, tmp_path_factory):
    """A run's folder, what it said, and its page before every mirror step."""
    out, said, pages = tmp_path_factory.mktemp("steered") / "<i>flow", [], []
    config = FinetuneConfig(flow=str(tiny_flow), out=out, reward=REWARD, **SMALL)
    look = lambda row: pages.append((out / "report.html").exists())  # noqa: E731
    finetune(config, hooks=Hooks(report=look, say=said.append))
    return out, said, pages


def test_the_page_of_a_steering(steered):
    out, said, there = steered
    record = json.loads((out / "finetune.run.json").read_text())
    page = (out / "report.html").read_text(encoding="utf-8")
    assert there == [False, True, True]  # written after each line of the table
    words = said[-1]
    assert f"{words}." in unescape(page)
    prior, result, target = record["prior"], record["result"], record["target"]
    error = max(prior["error"], result["error"])
    for value in (prior["mean"], result["mean"], target["mean"]):
        assert decimals_for(value, error) in words
    assert f"{target['effective_size']:,.0f} effective" in texts(page)
    assert "<i>" not in page
    assert "&lt;i&gt;flow" in page
    assert REWARD in unescape(page)
    headings = [unescape(h) for h in re.findall("<h2>(.*?)</h2>", page)]
    assert [h for h in headings if h.startswith("Ten")] == [
        "Ten best of <i>flow", "Ten at random of <i>flow",
        f"Ten at random of {record['config']['flow']}",
    ]  # fmt: skip
    assert page.count("<figure><svg") == 3 + 30


def test_parts_of_the_reward_are_their_means(steered):
    out, _, _ = steered
    page = (out / "report.html").read_text(encoding="utf-8")
    cells = texts(page)
    record = json.loads((out / "finetune.run.json").read_text())
    figures = [float(cells[cells.index(REWARD) + k].split(" ")[0]) for k in (1, 2)]
    for shown, known in zip(figures, (record["prior"], record["result"]), strict=True):
        assert shown == pytest.approx(known["mean"], abs=2 * known["error"] / 10)
    parts = ("sigmoid(logp, 0.5, 0.5)", "qed > 0.4")
    whole = [sum(float(cells[cells.index(p) + k].split(" ")[0]) for p in parts) for k in (1, 2)]
    np.testing.assert_allclose(whole, figures, atol=0.02)


def test_parents_and_child_beside_each_other(tiny_flow, tmp_path):
    said = []
    config = MergeConfig(
        circuit="a & b", flows={"a": str(tiny_flow), "b": str(tiny_flow)}, out=tmp_path / "both",
        reward="logp", **SMALL | {"mirror_steps": 1},
    )  # fmt: skip
    merge(config, hooks=Hooks(say=said.append))
    page = (tmp_path / "both" / "report.html").read_text(encoding="utf-8")
    cells = texts(page)
    record = json.loads((tmp_path / "both" / "merge.run.json").read_text())
    for name, known in [*record["parts"].items(), ("both", record["result"])]:
        row = cells[cells.index(name) :]
        assert row[2] == f"{known['valid']:.1%}"
        assert float(row[4].split(" ")[0]) == pytest.approx(known["mean"], abs=known["error"] / 2)
    for name in ("a", "b", "both"):
        assert f"<h2>Ten at random of {name}</h2>" in page
    assert [line.split(":")[0] for line in said[-3:]] == ["a", "b", "merged"]


def sample(values, valid):
    n = len(values)
    return ScoredMolecules([None] * n, ["C"] * valid + [""] * (n - valid), values, np.empty((n, 0)))


def test_words_in_closed_form():
    steps = np.array([-0.05, 0.05] * 50)  # a standard error of 0.005
    before, after = sample(0.7849 + steps, 93), sample(0.8381 + steps, 97)
    assert in_words("qed", before, after, 0.8941) == (
        "qed 0.785 -> 0.838 of a possible 0.894; validity kept (93 -> 97 %)"
    )
    tail = in_words("x" * 60, before, sample(0.8381 + steps, 80), 0.8941, exact=False)
    assert tail == ("reward 0.785 -> 0.838 (0.894 at the exact target); validity fell (93 -> 80 %)")
    beyond = in_words("qed", before, after, 0.8)
    assert beyond.startswith("qed 0.785 -> 0.838 (0.800 at the exact target)")
    assert decimals_for(-1234.56, 7.0) == "-1235"
    assert decimals_for(float("nan"), 1.0) == "unknown"


def test_the_best_are_different_molecules():
    values = np.array([1.0, 3.0, np.nan, 3.0, 2.0, -1.0])
    some = ScoredMolecules([None] * 6, ["C", "CC", "N", "CC", "O", "F"], values, np.empty((6, 0)))
    assert some.best(10) == [1, 4, 0, 5]
    assert some.best(2) == [1, 4]
    assert some.best(2, smallest=True) == [5, 0]


def test_columns_are_kept_with_a_sample():
    some = sample(np.array([1.0, 2.0]), 2)
    again = ScoredMolecules(
        some.graphs, some.smiles, some.values, some.features, {"qed": np.array([0.5, np.nan])}
    )
    found = ScoredMolecules.of_arrays(again.arrays())
    np.testing.assert_array_equal(found.columns["qed"], [0.5, np.nan])
    assert ScoredMolecules.of_arrays(some.arrays()).columns == {}
    with pytest.raises(ValueError, match="unlike"):
        ScoredMolecules.of_arrays(again.arrays() | {"property qed": np.zeros(3)})


def test_how_far_a_run_came_is_told_in_words():
    outcome = {
        "way": 0.371, "z": -3.44, "reached": False, "outside": False, "valid_ratio": 0.926,
        "unique_ratio": 1.0,
    }  # fmt: skip
    assert way_in_words(outcome) == (
        "stopped at 37 % of the way to the exact target, 3.4 standard errors from it; validity is "
        "0.93 and uniqueness 1.00 of the prior's; the change is within the prior's 95 % interval"
    )
    assert way_in_words(outcome | {"outside": True}).endswith("of the prior's")


def test_a_reward_is_named_as_it_was_written():
    written = "product(qed, range(logp, 0, 2, 0.5))"
    assert as_written(parse_reward(written)) == written
    assert as_written("qed") == "qed"
