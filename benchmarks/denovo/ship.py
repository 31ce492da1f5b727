"""Put a trained flow on the package's shelf, with the figures the benchmark measured in its card.

    python benchmarks/denovo/ship.py runs/qm9/ema qm9 benchmarks/denovo/qm9/results.json

The weights are copied as they are; the card gains name, description, licence, how to retrain, and
metrics. A flow that `finetune` made needs no results: its card holds its own.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from molflowctl.flows.flow import CARD, WEIGHTS
from molflowctl.models.zoo import DeNovoFlow

SHELF = Path(__file__).parents[2] / "molflowctl" / "models" / "weights"
DESCRIPTIONS = {
    "qm9": "small organic molecules (C N O F, up to 9 heavy atoms), implicit hydrogens",
    "qm9-explicit": "the same with explicit hydrogens, for the published QM9 tables",
    "qm9-dipole": "qm9 steered towards a large dipole moment (GFN2-xTB)",
    "qm9-qed": "qm9 steered towards drug-likeness (QED)",
}


def main(folder: str, name: str, results: str | None = None) -> None:
    """Copy the flow in `folder` to the shelf as `name`."""
    source, target = Path(folder), SHELF / name
    DeNovoFlow.load(source)  # what cannot be read does not ship
    card = json.loads((source / CARD).read_text())
    card |= {
        "name": name,
        "description": DESCRIPTIONS[name],
        "licence": "MIT (weights); CC0-1.0 (data)",
    }
    if "training" in card:
        card["retrain"] = [
            f"molflowctl data prepare qm9 --hydrogens {card['arguments']['hydrogens']}",
            f"molflowctl train --config {name}.yaml -o runs/{name}",
        ]
        card["training"]["config"]["data"] = f"datasets/qm9-{card['arguments']['hydrogens']}"
    if "finetune" in card:
        card["finetune"]["config"]["out"] = name
    if results:
        measured = json.loads(Path(results).read_text())
        card["metrics"] = {
            "attempts": measured["attempts"],
            "command": f"molflowctl benchmark denovo {name} -n {measured['attempts']}",
            **{key: round(rate["value"], 4) for key, rate in measured["rates"].items()},
            "posebusters_all_but_energy": round(
                measured["posebusters"]["all_but_energy"]["value"], 4
            ),
        }
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / WEIGHTS, target / WEIGHTS)
    (target / CARD).write_text(json.dumps(card, indent=2) + "\n")
    print(f"{target}: {(target / WEIGHTS).stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(*sys.argv[1:])
