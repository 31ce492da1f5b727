"""QED raised around a benzenesulfonamide by steering, the core kept.

    python benchmarks/denovo/around_steered.py

runs `molflowctl finetune druglike --core ... --reward qed` with few and small mirror steps, which
take minutes, and judges what it drew before and after: fresh molecules, none of which it learned
from. Whether the core is there is asked of RDKit, of their SMILES. A run that was stopped goes on.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from density_control import execute
from rdkit import Chem
from safetensors.numpy import load_file

from molflowctl.io.record import write_json
from molflowctl.tasks.evaluation.bootstrap import bootstrap
from molflowctl.tasks.steering.scored_molecules import ScoredMolecules

CORE = "[*:1]c1ccc(cc1)S(N)(=O)=O"
PATTERN = "[!#1]-[c]1[cH][cH]c([cH][cH]1)S([NH2])(=O)=O"  # the same, closed but at its place
STEER = "base_samples=256 n_samples=192 test_samples=256 train_steps=48 batch=64"


def judged(sample: ScoredMolecules) -> dict[str, object]:
    """Means with their 95 % intervals, and how many of the valid have the core."""
    query = Chem.MolFromSmarts(PATTERN)
    valid = [Chem.MolFromSmiles(smiles) for smiles in sample.smiles if smiles]
    return {
        "attempts": len(sample),
        "valid": asdict(bootstrap(np.array([bool(smiles) for smiles in sample.smiles]))),
        "unique": sample.unique,
        "qed": asdict(bootstrap(sample.values)),
        "molecules": len(valid),
        "with the core": sum(mol.HasSubstructMatch(query) for mol in valid),
    }


def main(
    work: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/around-qed"),
    steps: Annotated[int, typer.Option(min=1, help="Mirror steps.")] = 3,
    seed: Annotated[int, typer.Option()] = 2902,
    jobs: Annotated[int, typer.Option("-j", min=1, help="Worker processes.")] = 1,
    out: Annotated[Path, typer.Option("-o", help="Folder of the results.")] = Path(__file__).parent
    / "around",
) -> None:
    """Steer, and write `steered.json` with the table of the run beside it."""
    work.parent.mkdir(parents=True, exist_ok=True)
    if not (work / "finetune.run.json").exists():
        settings = [part for pair in STEER.split() for part in ("--set", pair)]
        resume = ["--resume"] if work.exists() else []
        execute(
            *["finetune", "druglike", "--core", CORE, "--reward", "qed", "--kl-nats", "1"],
            *["--mirror-steps", str(steps), *settings, "--seed", str(seed), "-j", str(jobs)],
            *[*resume, "-o", work.name],
            cwd=work.parent,
        )
    record = json.loads((work / "finetune.run.json").read_text())
    found = {}
    for label in ("prior", "result"):
        (file,) = (work / "rounds").glob(f"sample-{label}-*.safetensors")
        found[label] = judged(ScoredMolecules.of_arrays(load_file(file)))
    out.mkdir(parents=True, exist_ok=True)
    record["config"]["out"] = work.name
    kept = {name: record[name] for name in ("config", "target", "verdict", "versions")}
    write_json(out / "steered.json", {**kept, **found})
    shutil.copyfile(work / "finetune.csv", out / "steered.csv")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    typer.run(main)
