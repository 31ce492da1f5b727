"""Flow density control of `druglike`: one objective after another, each beside its exact target.

    python benchmarks/denovo/druglike_control.py qed -j 2         # one objective
    python benchmarks/denovo/druglike_control.py -j 2             # all of them

Each is a `molflowctl finetune`, printed as it is run, with one nat to the prior at its optimum
(diversity: with what its weight costs). What is finished is not run again; a run that was stopped
goes on. Fresh molecules of the result, which it learned nothing from, are judged by the property's
own program. How far a run came is the share of the way from the prior's utility to that of the
exact target, which is the prior reweighted; the tails beside the mean show whether what was asked
for is what moved. A row of `table.json` has

    utility, its target, share of the way, and how many standard errors the two are apart
    mean, the worst and best fifth of the reward, of prior and result
    valid, unique, internal diversity, rings of seven and more, unseen ring systems
    minutes, oracle calls, peak memory of all processes, commit, hardware
"""

from __future__ import annotations

import json
import math
import platform
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from flow_merging import execute
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator
from safetensors.numpy import load_file

from molflowctl.io.record import write_json
from molflowctl.properties.rings import largest_ring, unseen_ring_systems
from molflowctl.tasks.evaluation.bootstrap import bootstrap
from molflowctl.tasks.steering.scored_molecules import ScoredMolecules

CELECOXIB = "Cc1ccc(cc1)-c1cc(nn1-c1ccc(cc1)S(N)(=O)=O)C(F)(F)F"
TAIL = 0.2
COMMON = "base_samples=1024 n_samples=768 test_samples=768 mirror_nfe=60 nfe=60"
COMMON += " mirror_steps=10 precision=bf16 anneal_fraction=0.3 train_steps=128 lr=1e-3"


@dataclass(frozen=True)
class Objective:
    """What is to become large, of which utility, and settings of its own."""

    reward: str
    utility: tuple[str, ...] = ("mean",)
    settings: tuple[str, ...] = ()
    nats: float | None = 1.0


OBJECTIVES = {
    "qed": Objective("qed"),
    "qed-best": Objective("qed", (f"upper-cvar:{TAIL}",)),
    "qed-worst": Objective("qed", (f"cvar:{TAIL}",)),
    "logp-window": Objective("range(logp, 1, 2, 0.5)"),
    "sa": Objective("-sa_score"),
    "celecoxib": Objective(f'similarity("{CELECOXIB}")'),
    "product": Objective(
        'product(qed, range(logp, 1, 3, 0.5), ramp(tpsa, 40, 80), alerts("brenk") == 0)'
    ),
    "gap": Objective("homo_lumo_gap_eV"),
    "diversity": Objective("sigmoid(qed, 0.7, 0.05)", ("mean", "diversity:2"), (), None),
}


def tails(values: np.ndarray) -> dict[str, Any]:
    """Mean, worst and best fifth of rewards, NaN left out, with their 95 % intervals."""
    there = values[np.isfinite(values)]

    def worst(v: np.ndarray) -> float:
        return float(np.sort(v)[: max(1, round(TAIL * len(v)))].mean())

    rng, found = np.random.default_rng(0), {}
    for name, of in (
        ("mean", lambda v: float(v.mean())), ("worst", worst), ("best", lambda v: -worst(-v)),
    ):  # fmt: skip
        draws = [of(rng.choice(there, len(there))) for _ in range(400)]
        low, high = np.quantile(draws, [0.025, 0.975])
        found[name] = {"value": of(there), "low": float(low), "high": float(high)}
    return found


def judged(sample: ScoredMolecules) -> dict[str, Any]:
    """What is drawn, whatever was asked for."""
    mols = [Chem.MolFromSmiles(smiles) for smiles in sample.smiles if smiles]
    make = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=1024)
    prints = [make.GetFingerprint(mol) for mol in mols]
    alike = [np.mean(DataStructs.BulkTanimotoSimilarity(p, prints)) for p in prints]
    large = np.array([largest_ring(mol) > 6 for mol in mols])
    unseen = np.array([unseen_ring_systems(mol) > 0 for mol in mols])
    return {
        "attempts": len(sample),
        "valid": asdict(bootstrap(np.array([bool(smiles) for smiles in sample.smiles]))),
        "unique": sample.unique,
        "diversity": 1 - float(np.mean(alike)),
        "large_ring": asdict(bootstrap(large)),
        "unseen_ring": asdict(bootstrap(unseen)),
        **tails(sample.values),
    }


def read(run: Path, label: str) -> ScoredMolecules:
    """The molecules of a step of a run, as it stored them."""
    (file,) = (run / "rounds").glob(f"sample-{label}-*.safetensors")
    return ScoredMolecules.of_arrays(load_file(file))


def row(run: Path, megabytes: int | None) -> dict[str, Any]:
    """What a finished run says, and what its molecules say."""
    record = json.loads((run / "finetune.run.json").read_text())
    target, result, verdict = record["target"], record["result"], record["verdict"]
    gap = result["utility"] - target["utility"]
    return {
        "reward": record["reward"],
        "utility": record["config"]["utility"],
        "way": verdict["way"],
        "z": gap / math.hypot(result["utility_error"], target["utility_error"]),
        "target": {"mean": target["mean"], "error": target["error"],
                   "effective_size": target["effective_size"]},
        "prior": judged(read(run, "prior")),
        "result": judged(read(run, "result")),
        "minutes": record["minutes"],
        "oracle_calls": record["oracle_calls"],
        "peak_mb": megabytes,
        "seed": record["config"]["seed"],
        "commit": record["versions"]["commit"],
        "hardware": platform.processor() or platform.machine(),
    }  # fmt: skip


def main(
    names: Annotated[list[str] | None, typer.Argument(help=f"Of {', '.join(OBJECTIVES)}.")] = None,
    flow: Annotated[str, typer.Option(help="To steer.")] = "druglike",
    work: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs/druglike-control"),
    seed: Annotated[int, typer.Option()] = 3101,
    jobs: Annotated[int, typer.Option("-j", min=1, help="Worker processes.")] = 1,
    out: Annotated[Path, typer.Option("-o", help="Folder of the results.")] = Path(__file__).parent
    / "druglike-control",
) -> None:
    """Run the objectives that are asked for, and write `table.json` with all that are finished."""
    work.mkdir(parents=True, exist_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    for name in names or OBJECTIVES:
        if name not in OBJECTIVES:
            raise typer.BadParameter(f"{name}: one of {', '.join(OBJECTIVES)}.")
        objective = OBJECTIVES[name]
        if not (work / name / "finetune.run.json").exists():
            command = ["finetune", flow, "--reward", objective.reward]
            command += [p for u in objective.utility for p in ("--utility", u)]
            if objective.nats is not None:
                command += ["--kl-nats", f"{objective.nats:g}"]
            for setting in (*COMMON.split(), *objective.settings):
                command += ["--set", setting]
            command += ["--seed", str(seed), "-j", str(jobs), "-o", name]
            if (work / name).exists():
                command += ["--resume"]
            megabytes = execute(command, cwd=work)
            (work / name / "peak_mb").write_text(str(megabytes))
        table = out / "table.json"
        known = json.loads(table.read_text()) if table.exists() else {}
        peak = work / name / "peak_mb"
        known[name] = row(work / name, int(peak.read_text()) if peak.exists() else None)
        write_json(table, known)
        shutil.copy(work / name / "finetune.run.json", out / f"{name}.run.json")


if __name__ == "__main__":
    typer.run(main)
