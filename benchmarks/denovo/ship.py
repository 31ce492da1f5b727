"""Put a trained flow on the package's shelf, with the figures the benchmark measured in its card.

    python benchmarks/denovo/ship.py runs/qm9/ema qm9 benchmarks/denovo/qm9/results.json

The weights are copied as they are; the card gains name, description, licence, how to retrain, and
metrics, with the commands that lead there, and recommends the noise of the sampler that the
benchmark was told to use. A flow that `finetune` made needs no results: its card holds its own.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from molflowctl.config import TrainConfig
from molflowctl.flows.flow import CARD, WEIGHTS
from molflowctl.models.zoo import DeNovoFlow
from molflowctl.tasks.record import record_path

SHELF = Path(__file__).parents[2] / "molflowctl" / "models" / "weights"
DESCRIPTIONS = {
    "qm9": "small organic molecules (C N O F, up to 9 heavy atoms), implicit hydrogens",
    "qm9-explicit": "the same with explicit hydrogens, for the published QM9 tables",
    "qm9-dipole": "qm9 steered towards a large dipole moment (GFN2-xTB)",
    "qm9-qed": "qm9 steered towards drug-likeness (QED)",
}


def changes(config: dict[str, Any], packaged: dict[str, Any], prefix: str = "") -> list[str]:
    """The `--set` options that make `config` of the packaged configuration."""
    options = []
    for key, value in config.items():
        if isinstance(value, dict) and isinstance(packaged[key], dict):
            options += changes(value, packaged[key], f"{prefix}{key}.")
        elif value != packaged[key]:
            options.append(f"--set {prefix}{key}={json.dumps(value)}")
    return options


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
        config = card["training"]["config"]
        config["data"] = f"datasets/qm9-{card['arguments']['hydrogens']}"
        changed = changes(config, TrainConfig.read(f"{name}.yaml").model_dump(mode="json"))
        train = f"molflowctl train --config {name}.yaml"
        card["retrain"] = [
            f"molflowctl data prepare qm9 --hydrogens {card['arguments']['hydrogens']}",
            " ".join([train, *changed, f"-o runs/{name}"]),
        ]
        if config["init"] == name:  # it went on from what stood on the shelf before
            card["retrain"].insert(1, f"{train} -o runs/{name}-before")
            before = f"init=runs/{name}-before/ema"
            card["retrain"][2] = card["retrain"][2].replace(f'init="{name}"', before)
    if "finetune" in card:
        card["finetune"]["config"]["out"] = name
    if results:
        measured = json.loads(Path(results).read_text())
        record = json.loads(record_path(Path(results).parent).read_text())
        if not measured.get("complete", True):
            raise SystemExit(f"{results} is of a benchmark that was interrupted")
        if record["flow"]["weights_sha256"] != card["weights_sha256"]:
            raise SystemExit(f"{results} is of other weights than {folder}")
        settings = record["config"]
        churn = settings.get("churn")
        if churn is not None:  # measured with it, so drawn with it unless the user says otherwise
            card["sampling"] = {"churn": churn}
        card["metrics"] = {
            "attempts": measured["attempts"],
            "command": f"molflowctl benchmark denovo {name} -n {measured['attempts']} "
            f"--evaluations {settings['evaluations']} --seed {settings['seed']}"
            + ("" if churn is None else f" --set churn={churn:g}"),
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
