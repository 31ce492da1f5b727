"""Make `druglike-qed`: steer `druglike` towards a high QED, then learn the best of all rounds.

    python benchmarks/denovo/high_qed.py -j 2

The reward is QED, less 0.3 for a ring of seven atoms or more and for a ring system that MOSES does
not have: without that, steering brings such rings back. The steering is taken after its seventh
round, where the mean stood still, and goes on learning from the molecules of all its rounds with a
reward of 0.88 or more, each once (`best_of_rounds.py`). The flow that ships began with `druglike`
before it learned to complete parts, and was stopped in its eighth round.

Each step is a command, printed as it is run; what is finished is not run again. Then both flows
draw fresh molecules with one seed, which no step drew with, and RDKit judges them: `results.json`.
Its `best` are the best of the molecules of `druglike`, one in so many that their mean QED is that
of the result.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from flow_merging import execute
from rdkit.Chem import QED

from molflowctl.compute.parallel import KEEP_MEMORY
from molflowctl.io.record import read_record, versions, write_json
from molflowctl.properties.rings import largest_ring, unseen_ring_systems
from molflowctl.tasks.evaluation.bootstrap import bootstrap
from molflowctl.tasks.evaluation.compare import CompareConfig, Compared, compare

REWARD = "qed + where(largest_ring > 6, -0.3, 0) + where(unseen_ring_systems > 0, -0.3, 0)"
STEER = "mirror_steps=8 n_samples=1536 base_samples=2048 test_samples=1024 mirror_nfe=60 nfe=60"
STEER += " precision=bf16 anneal_fraction=0.35 train_steps=160 lr=7e-4"
LEARN = "minutes=15 lr=1e-3 batch_atoms=1152 precision=bf16 validate_minutes=3 seed=9"
ROUND, LEAST = 7, 0.88


def settings(text: str) -> list[str]:
    """`a=1 b=2` as options of a command."""
    return [part for pair in text.split() for part in ("--set", pair)]


def row(flow: Compared) -> dict[str, Any]:
    """The figures of a flow, each with its 95 % interval."""
    rings = {
        "large_ring": np.array([largest_ring(mol) > 6 for mol in flow.mols]),
        "unseen_ring": np.array([unseen_ring_systems(mol) > 0 for mol in flow.mols]),
    }
    found = flow.estimates(0.2) | {name: bootstrap(share) for name, share in rings.items()}
    return {name: asdict(estimate) for name, estimate in found.items()} | flow.diversity()


def best(flow: Compared, wanted: float) -> dict[str, Any]:
    """Of the best molecules of a flow, as many as have a mean QED of `wanted`."""
    values = np.sort([QED.qed(mol) for mol in flow.mols])[::-1]
    means = np.cumsum(values) / np.arange(1, len(values) + 1)
    count = max(1, int((means >= wanted).sum()))
    return {"share": count / len(flow.smiles), "qed": float(means[count - 1])}


def main(
    n: Annotated[int, typer.Option("-n", min=200, help="Fresh attempts of each flow.")] = 1000,
    work: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs/high-qed"),
    out: Annotated[Path, typer.Option("-o", help="Folder of the results.")] = Path(__file__).parent
    / "high-qed",
    jobs: Annotated[int, typer.Option("-j", min=1, help="Worker processes.")] = 1,
) -> None:
    """Raise the QED of `druglike` and judge what came of it."""
    os.environ |= KEEP_MEMORY  # for the processes that are started from here
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "steered" / "rounds" / f"step-{ROUND:03d}").exists():
        command = ["finetune", "druglike", "--reward", REWARD, "--kl-nats", "1", *settings(STEER)]
        command += ["--seed", "3201", "-j", str(jobs), "--resume", "-o", "steered"]
        execute(command, cwd=work)
    if not (work / "best.sdf.gz").exists():
        script = Path(__file__).with_name("best_of_rounds.py")
        told = [work / "steered", "--least", str(LEAST), "-o", work / "best.sdf.gz"]
        subprocess.run([sys.executable, str(script), *map(str, told)], check=True)
    if not (work / "learned" / "ema" / "card.json").exists():
        command = ["train", "--init", f"steered/rounds/step-{ROUND:03d}", "--data", "best.sdf.gz"]
        execute([*command, *settings(LEARN), "--threads", "1", "-o", "learned"], cwd=work)
    flow = work / "druglike-qed"
    shutil.copytree(work / "learned" / "ema", flow, dirs_exist_ok=True)
    config = CompareConfig(
        flows=("druglike", str(flow)), properties=("qed", "sa_score", "brenk_alerts"),
        n=n, tail=0.2, nfe=60, jobs=jobs,
    )  # fmt: skip
    base, steered = compare(config, work / "compared", overwrite=True)
    rows = {"druglike": row(base), "druglike-qed": row(steered)}
    out.mkdir(parents=True, exist_ok=True)
    card = read_record(flow / "card.json") or {}
    write_json(
        out / "results.json",
        {
            "attempts": n, "nfe": 60, "seed": config.seed, "rows": rows,
            "deviation": float(np.std([QED.qed(mol) for mol in base.mols])),
            "best": best(base, rows["druglike-qed"]["qed"]["value"]),
            "weights_sha256": card["weights_sha256"], "versions": versions(),
            "hardware": f"{platform.machine()}, {jobs} jobs",
        },
    )  # fmt: skip
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    typer.run(main)
