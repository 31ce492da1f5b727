"""The specialised flows: what is measured of a sample, and the way from rule to shelf."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from molflowctl.data.known import hash_molecules
from molflowctl.models.denovo import DeNovoFlow
from molflowctl.tasks.preparation.subset import Rule

FILE = Path(__file__).parents[2] / "benchmarks" / "denovo" / "specialise.py"


def test_recipes_are_of_known_properties_and_ranges(script):
    for recipe in script.RECIPES.values():
        assert isinstance(recipe.rule, Rule)


def test_a_summary_counts_what_it_says(script):
    """Failed values are no zeros: of five attempts four are valid, and one of these unscored."""
    sample = ["C", "", "C", "N", "O"], np.array([1, 3, math.nan, 8])
    found = script.summary(*sample, Rule("mw", 2.0, None), hash_molecules(["C"]))
    assert found["mean"]["value"] == pytest.approx(4.0)
    assert found["mean"]["n"] == 3
    assert found["within"]["value"] == pytest.approx(2 / 3, abs=1e-5)
    assert found["valid"]["value"] == pytest.approx(0.8)
    assert found["unique"]["value"] == pytest.approx(0.75)
    assert found["novel"]["value"] == pytest.approx(2 / 3, abs=1e-5)
    assert found["unscored"] == 1
    below = script.summary(*sample, Rule("mw", None, 3.0), hash_molecules(["C"]))
    assert below["within"]["value"] == pytest.approx(2 / 3, abs=1e-5)


def estimates(mean, valid):
    row = {"value": 0.9, "low": 0.9, "high": 0.9, "n": 9}
    rates = {"valid": row | {"value": valid}, "within": row, "unique": row, "novel": row}
    return rates | {"mean": {"value": mean, "low": mean - 1, "high": mean + 1, "n": 9}}


@pytest.mark.slow
def test_from_rule_to_shelf(script, tiny_data, tiny_flow, tmp_path, monkeypatch):
    monkeypatch.setenv("MOLFLOWCTL_CACHE", str(tmp_path / "cache"))
    recipe = script.Recipe("mw", "55:", "d", limit=None, epochs=2, init=str(tiny_flow))
    places = {"data": tiny_data, "work": tmp_path / "work", "shelf": tmp_path / "shelf"}

    def run(**changes):
        return script.specialise("tiny-heavy", recipe, **places | {"n": 32, "jobs": 1} | changes)

    with pytest.raises(SystemExit, match="not clear of the base's"):
        run()
    assert {p.name for p in (tmp_path / "work").glob("*.json")} == {
        "tiny-heavy-base.json",
        "tiny-heavy-child.json",
    }
    measured = {str(tiny_flow): estimates(60.0, 0.5)}
    monkeypatch.setattr(
        script, "measured", lambda flow, *_: measured.get(flow, estimates(70.0, 0.4))
    )
    with pytest.raises(SystemExit, match="too few molecules are valid"):
        run()
    assert not (tmp_path / "shelf").exists()
    monkeypatch.setattr(
        script, "measured", lambda flow, *_: measured.get(flow, estimates(70.0, 0.5))
    )
    run()
    card = DeNovoFlow.load(tmp_path / "shelf/tiny-heavy").card
    assert card["specialised"]["rule"] == "55 <= mw"
    assert card["specialised"]["child"]["mean"]["value"] == 70
    assert card["data"]["parent"]["name"] == "tiny"
    assert card["retrain"][1].startswith("molflowctl data subset datasets/qm9-implicit -p mw")
    assert json.loads((tmp_path / "work/tiny-heavy-data/card.json").read_text())["limit"] is None
    other = script.Recipe("mw", "50:", "d", limit=None, epochs=2, init=str(tiny_flow))
    with pytest.raises(SystemExit, match="another recipe"):
        script.specialise("tiny-heavy", other, **places, n=32, jobs=1)
