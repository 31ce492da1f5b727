"""The benchmark of utilities: what its table of targets says."""

import json
from pathlib import Path

import pytest
import typer
import yaml

FILE = Path(__file__).parents[2] / "benchmarks" / "denovo" / "density_control.py"


def test_the_distance_from_a_target_counts_the_errors_of_both(script, tmp_path):
    """3-4-5: errors of 0.3 and 0.4 make 0.5; the mean is one unit short, the utility two beyond."""
    sample = {"mean": 1.0, "error": 0.3, "utility": 3.0, "utility_error": 0.4}
    target = {"mean": 2.0, "error": 0.4, "utility": 1.0, "utility_error": 0.3}
    record = {"target": {**target, "effective_size": 1234.4}, "result": sample}
    run = tmp_path / "cvar"
    run.mkdir()
    (run / "finetune.run.json").write_text(json.dumps(record))
    row = script.agreement(run)
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        *["cvar", "1,234", "1 +- 0.3", "2 +- 0.4", "-2.0", "3 +- 0.4", "1 +- 0.3", "4.0"]
    ]
    assert row.count("|") == script.HEAD[-1].count("|") == script.HEAD[-2].count("|")


@pytest.mark.parametrize(
    "change", [{"mirror_steps": 9}, {"test_samples": 5}, {"error_feedback": 0.5}]
)
def test_a_finished_run_with_other_settings_is_no_result(script, tmp_path, change):
    made = {"mirror_steps": 8, "test_samples": 50}  # from before there was something to carry
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(made))
    script.check(tmp_path, **made, error_feedback=0.0)
    with pytest.raises(typer.BadParameter, match=next(iter(change))):
        script.check(tmp_path, **{**made, "error_feedback": 0.0, **change})


def test_only_the_very_flows_that_were_compared_are_not_compared_again(script, tmp_path):
    (tmp_path / "mean").mkdir()
    card, record = tmp_path / "mean" / "card.json", tmp_path / "compare.run.json"
    card.write_text(json.dumps({"weights_sha256": "b"}))
    flows = ["qm9", "mean"]
    assert not script.judged(record, tmp_path, flows, 50)
    known = {
        "config": {"flows": flows, "n": 50},
        "weights_sha256": {"qm9": "a", "mean": "b"},
    }
    record.write_text(json.dumps(known))
    assert script.judged(record, tmp_path, flows, 50)
    assert not script.judged(record, tmp_path, flows, 60)
    assert not script.judged(record, tmp_path, [*flows, "cvar"], 50)
    card.write_text(json.dumps({"weights_sha256": "c"}))
    assert not script.judged(record, tmp_path, flows, 50)
