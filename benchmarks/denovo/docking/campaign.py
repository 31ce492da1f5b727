"""A campaign by docking: `druglike` steered against a target, beside the best of its own molecules.

    python benchmarks/denovo/docking/campaign.py --target CA2 --budget 2000 --fresh 500 -j 8

1. The receptor: a target of dockstring with its box, or a receptor's file of yours.
2. `druglike` is steered by the product of a docking score, QED and structural alerts, with a budget
   of docking calls; fresh molecules of what came of it are docked.
3. `druglike` itself draws until as many molecules were docked as in 2 altogether.

Both sets of docked molecules are compared: fresh molecules by their means, everything by the
number of distinct scaffolds (Bemis and Murcko) that dock better than the best hundredth of the
molecules of `druglike`. The best fifty of the steered are written, and poses of all.

The commands are printed as they are run; what is finished is not run again, what was interrupted
goes on, and no molecule is docked twice. Needs `pip install 'molflowctl[docking,dev]'`.

References:
    Garcia-Ortegon et al., DOCKSTRING, J. Chem. Inf. Model. 62, 3486 (2022),
    doi:10.1021/acs.jcim.1c01334; Bemis, Murcko, J. Med. Chem. 39, 2887 (1996),
    doi:10.1021/jm9602928.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas
import typer
from rdkit import Chem, rdBase
from rdkit.Chem.Scaffolds import MurckoScaffold
from safetensors.numpy import load_file

from molflowctl.chem.graphs import Molecule, assemble
from molflowctl.chem.identity import identity
from molflowctl.compute.parallel import KEEP_MEMORY
from molflowctl.io.record import versions, write_json
from molflowctl.tasks.oracle_calls import FILE as ANSWERS
from molflowctl.tasks.steering.scored_molecules import ScoredMolecules

DOCKING = 'docking("receptor.yaml")'
SHOWN = f'{DOCKING},qed,alerts("brenk"),heavy_atoms,largest_ring'
BEST_SHARE = 0.01  # of the base's molecules, beyond which a scaffold counts
DONE, FEWER = 0, 3  # exit statuses of a command that wrote what it could


def reward(goal: float, width: float, qed: float) -> str:
    """Docking below `goal` kcal/mol, QED above `qed`, no structural alert of Brenk's list."""
    return (
        f"product(sigmoid({DOCKING}, {goal:g}, {-width:g}), sigmoid(qed, {qed:g}, 0.05), "
        'sigmoid(alerts("brenk"), 0.5, -0.2))'
    )


def scaffold(smiles: str) -> str:
    """Of Bemis and Murcko; empty for a molecule without rings."""
    with rdBase.BlockLogs():
        return MurckoScaffold.MurckoScaffoldSmiles(mol=Chem.MolFromSmiles(smiles))


def scaffolds_below(table: pandas.DataFrame, threshold: float) -> int:
    """Distinct scaffolds of molecules that dock at or below a threshold, kcal/mol."""
    good = table.smiles[table[DOCKING] <= threshold]
    return len({scaffold(smiles) for smiles in good} - {""})


def figures(table: pandas.DataFrame) -> dict[str, float]:
    """Means of docked molecules, with the standard error and deviation of the score."""
    scores = table[DOCKING].dropna()
    return {
        "docked": len(scores),
        "mean": float(scores.mean()),
        "error": float(scores.std(ddof=1) / math.sqrt(len(scores))),
        "sd": float(scores.std(ddof=1)),
        "best": float(scores.min()),
        "qed": float(table.qed.mean()),
        "alerts": float((table['alerts("brenk")'] > 0).mean()),
        "heavy_atoms": float(table.heavy_atoms.mean()),
        "large_rings": float((table.largest_ring > 6).mean()),
    }


def compared(
    base: pandas.DataFrame, fresh: pandas.DataFrame, seen: pandas.DataFrame
) -> dict[str, Any]:
    """Base and steered: fresh molecules by their means, all that was docked by its scaffolds.

    Args:
        base: docked molecules of the base flow.
        fresh: of the steered flow.
        seen: docked while it was steered.
    """
    threshold = float(base[DOCKING].quantile(BEST_SHARE))
    everything = pandas.concat([fresh, seen]).drop_duplicates("smiles")
    rows = {"base": figures(base), "steered": figures(fresh)}
    gap = rows["base"]["mean"] - rows["steered"]["mean"]
    return {
        "threshold_kcal_mol": threshold,
        "gain_in_sd_of_base": gap / rows["base"]["sd"],
        "scaffolds_base": scaffolds_below(base, threshold),
        "scaffolds_steered": scaffolds_below(everything, threshold),
        "calls_base": int(base[DOCKING].notna().sum()),
        "calls_steered": len(fresh) + len(seen),
        "flows": rows,
    }


def markdown(found: dict[str, Any], target: str) -> str:
    """The comparison as a table."""
    lines = [
        f"# Docking against {target}",
        "",
        f"Scaffolds below {found['threshold_kcal_mol']:.2f} kcal/mol, the best hundredth of the "
        f"base's molecules: {found['scaffolds_base']} of {found['calls_base']:,} docked molecules "
        f"of the base, {found['scaffolds_steered']} of {found['calls_steered']:,} of the steered "
        f"run. Mean of fresh molecules: {found['gain_in_sd_of_base']:.2f} standard deviations of "
        "the base better.",
        "",
        "| flow | docked | kcal/mol | best | QED | with alerts | heavy atoms | rings over 6 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in found["flows"].items():
        lines.append(
            f"| {name} | {row['docked']:,} | {row['mean']:.2f} +- {row['error']:.2f} | "
            f"{row['best']:.2f} | {row['qed']:.3f} | {row['alerts']:.1%} | "
            f"{row['heavy_atoms']:.1f} | {row['large_rings']:.1%} |"
        )
    return "\n".join(lines) + "\n"


def molecules_of(run: Path) -> list[str]:
    """SMILES of all that the oracle was asked about while a flow was steered, each once.

    With the stereo that their coordinates have, by which the answers are kept.
    """
    found: dict[str, None] = {}
    for file in sorted((run / "rounds").glob("sample-*.safetensors")):
        sample = ScoredMolecules.of_arrays(load_file(file))
        for graph, smiles in zip(sample.graphs, sample.smiles, strict=True):
            made = assemble(graph) if graph is not None and smiles else None
            if isinstance(made, Molecule):
                found[identity(made.mol)] = None
    return list(found)


def execute(work: Path, result: str, *command: str) -> None:
    """Run a command of molflowctl in `work` unless its result is there."""
    if (work / result).exists():
        return
    print(f"$ {shlex.join(['molflowctl', *command])}", file=sys.stderr, flush=True)
    done = subprocess.run([sys.executable, "-m", "molflowctl", *command], cwd=work)
    if done.returncode not in (DONE, FEWER):
        raise SystemExit(done.returncode)


def main(
    target: Annotated[str, typer.Option(help="Of dockstring, or a receptor's file.")] = "CA2",
    flow: Annotated[str, typer.Option(help="To steer.")] = "druglike",
    size: Annotated[str | None, typer.Option(help="Of the box, x,y,z [default: its own].")] = None,
    exhaustiveness: Annotated[int, typer.Option(min=1, help="Of the search.")] = 4,
    budget: Annotated[int, typer.Option(min=100, help="Docking calls of the steering.")] = 2000,
    fresh: Annotated[int, typer.Option(min=8, help="Molecules that judge the result.")] = 500,
    mirror_steps: Annotated[int, typer.Option(min=1, help="Of the steering.")] = 6,
    train_steps: Annotated[int, typer.Option(min=2, help="Per mirror step.")] = 128,
    goal: Annotated[float, typer.Option(help="Docking score wanted, kcal/mol.")] = -8.0,
    qed: Annotated[float, typer.Option(help="QED wanted.")] = 0.5,
    kl_nats: Annotated[float, typer.Option(help="How far from the flow to go.")] = 2.0,
    seed: Annotated[int, typer.Option(help="Same seed, same molecules.")] = 0,
    work: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs/docking"),
    out: Annotated[Path, typer.Option("-o", help="Folder of the tables.")] = Path(__file__).parent,
    jobs: Annotated[int, typer.Option("-j", min=1, help="Worker processes.")] = 2,
) -> None:
    """Steer by docking, and compare with the best of as many molecules of the flow itself."""
    os.environ |= KEEP_MEMORY  # for the processes that are started from here
    work.mkdir(parents=True, exist_ok=True)
    source = str(Path(target).resolve()) if target.endswith(".yaml") else f"dockstring:{target}"
    if source.startswith("dockstring:"):
        box = ["--size", size] if size else []
        execute(
            work, "receptor.yaml", "docking", "prepare", source, *box,
            "--exhaustiveness", str(exhaustiveness), "--poses", "3", "-o", "receptor.yaml",
        )  # fmt: skip
    elif not (work / "receptor.yaml").exists():
        raise typer.BadParameter(f"copy {target} and its PDBQT to {work}/receptor.yaml")
    cores, drawn = ["-j", str(jobs)], ["--seed", str(seed + 1)]
    execute(
        work, "steered/finetune.run.json", "finetune", flow, "--reward", reward(goal, 0.7, qed),
        "--kl-nats", f"{kl_nats:g}", "--oracle-budget", str(budget), "--mirror-steps",
        str(mirror_steps), "--set", f"train_steps={train_steps}", "--seed", str(seed), *cores,
        "--resume", "-o", "steered",
    )  # fmt: skip
    store = ["--cache", f"steered/rounds/{ANSWERS}"]  # what was docked in the loop is known
    (work / "seen.smi").write_text("\n".join(molecules_of(work / "steered")) + "\n")
    score = ["-p", SHOWN, *cores, *store]
    execute(work, "seen.csv", "score", "seen.smi", *score, "-o", "seen.csv")
    execute(
        work, "fresh.sdf.gz", "generate", "steered", "-n", str(fresh), *drawn, *cores,
        "-o", "fresh.sdf.gz",
    )  # fmt: skip
    execute(
        work, "fresh.csv", "score", "fresh.sdf.gz", *score, "--poses", "poses.sdf.gz",
        "-o", "fresh.csv",
    )  # fmt: skip
    seen, new = (pandas.read_csv(work / f"{name}.csv") for name in ("seen", "fresh"))
    calls = str(len(seen) + len(new))
    execute(work, "base.sdf.gz", "generate", flow, "-n", calls, *drawn, *cores, "-o", "base.sdf.gz")
    execute(work, "base.csv", "score", "base.sdf.gz", *score, "-o", "base.csv")
    execute(
        work, "best.csv", "rank", "fresh.csv", "--by", f"column('{DOCKING}')", "--minimise",
        "-n", "50", "-o", "best.csv",
    )  # fmt: skip
    found = compared(pandas.read_csv(work / "base.csv"), new, seen)
    record = json.loads((work / "steered" / "finetune.run.json").read_text())
    out.mkdir(parents=True, exist_ok=True)
    name = Path(target).stem
    write_json(
        out / f"{name}.json",
        {
            "target": name, "seed": seed, "budget": budget, "exhaustiveness": exhaustiveness,
            "reward": reward(goal, 0.7, qed), "kl_nats": kl_nats, **found,
            "valid": {"prior": record["prior"]["valid"], "result": record["result"]["valid"]},
            "minutes_of_steering": record["minutes"], "versions": versions(),
            "hardware": f"{os.cpu_count()} cores, {jobs} processes",
        },
    )  # fmt: skip
    (out / f"{name}.md").write_text(markdown(found, name))
    print((out / f"{name}.md").read_text())
    if not np.isfinite(found["gain_in_sd_of_base"]):
        raise SystemExit("too few molecules were docked to compare")


if __name__ == "__main__":
    typer.run(main)
