"""The campaign by docking: what is compared is counted right."""

from pathlib import Path

import numpy as np
import pandas
import pytest

from molflowctl.properties.rewards import PropertyReward

FILE = Path(__file__).parents[2] / "benchmarks" / "denovo" / "docking" / "campaign.py"


def table(script, smiles, scores):
    return pandas.DataFrame(
        {
            "smiles": smiles, script.DOCKING: scores, "qed": 0.5, 'alerts("brenk")': [1, 0] * 50,
            "heavy_atoms": 10, "largest_ring": 6,
        }
    )  # fmt: skip


def test_a_scaffold_counts_once_and_chains_not_at_all(script):
    smiles = ["Cc1ccccc1", "Oc1ccccc1", "CCCC", "C1CCCCC1C", "c1ccc2ccccc2c1"] * 20
    found = table(script, smiles, [-9.0, -9.0, -9.0, -5.0, -9.0] * 20)
    assert script.scaffolds_below(found, -8.0) == 2  # benzene, naphthalene


def test_both_sides_are_compared_at_the_base_s_best_hundredth(script):
    random = np.random.default_rng(0)
    rings = [f"C1{'C' * (k + 1)}C1" for k in range(100)]
    base = table(script, rings, random.normal(-6.0, 0.5, 100))
    fresh = table(script, rings, random.normal(-7.0, 0.5, 100))
    found = script.compared(base, fresh, base, calls=200)
    threshold = np.quantile(base[script.DOCKING], 0.01)
    assert found["threshold_kcal_mol"] == pytest.approx(threshold)
    assert found["scaffolds_base"] == 1
    assert found["scaffolds_steered"] == (fresh[script.DOCKING] <= threshold).sum()
    assert found["gain_in_sd_of_base"] == pytest.approx(2.0, abs=0.4)
    # All are of ten heavy atoms: the score over their power gains the same.
    assert found["sile_gain_in_sd_of_base"] == pytest.approx(found["gain_in_sd_of_base"])
    per_size = found["flows"]["base"]["sile"] * 10**0.3
    assert per_size == pytest.approx(found["flows"]["base"]["mean"])
    assert (found["calls_base"], found["calls_steered"]) == (100, 200)
    assert found["flows"]["base"]["alerts"] == 0.5
    text = script.markdown(found, "CA2")
    assert text.count("\n|") == 4
    assert "of 200 of the steered" in text


def test_the_reward_falls_with_the_docking_score_and_with_large_rings(script):
    text = script.reward(-8.0, 0.7, 0.5).replace(script.DOCKING, "logp")
    reward = PropertyReward(text)
    columns = {
        "logp": [-9.0, -7.0, -9.0], "qed": [0.8] * 3, 'alerts("brenk")': [0.0] * 3,
        "largest_ring": [6.0, 6.0, 7.0],
    }  # fmt: skip
    better, worse, large = reward.of({k: np.array(v) for k, v in columns.items()})
    assert better > 0.6
    assert worse < 0.2
    assert large < 0.2
