"""The benchmark of utilities: what its table of targets says."""

import json
from pathlib import Path

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
