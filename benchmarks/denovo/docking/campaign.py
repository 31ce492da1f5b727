"""A campaign by docking: `druglike` steered against a target, beside the best of its own.

    python benchmarks/denovo/docking/campaign.py --target PARP1 --data datasets/druglike

1. The receptor: a target of dockstring with its box, or a receptor's file of yours.
2. `druglike` is steered by the product of a docking score, QED, structural alerts and the largest
   ring, with a budget of docking calls, and a surrogate that learns from them: by rounds of its own
   draws, or with `--data` by known molecules. Fresh molecules of what came of it are docked.
3. `druglike` itself draws until as many molecules were docked as in 2 altogether, or `--base`.

Fresh molecules of either flow are drawn with `--where "largest_ring <= 6"`: a campaign would filter
them, and a better score is not to come of odd rings. How many pass is in the runs' own records.

Both sets of docked molecules are compared: fresh molecules by their means, and all that either flow
drew by the number of distinct scaffolds (Bemis and Murcko) that dock better than the best hundredth
of the molecules of `druglike`. The best fifty of the steered and the poses of all are written.

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
    """Docking below `goal` kcal/mol, QED above `qed`, no alert of Brenk's list, no large ring."""
    return (
        f"product(sigmoid({DOCKING}, {goal:g}, {-width:g}), sigmoid(qed, {qed:g}, 0.05), "
        'sigmoid(alerts("brenk"), 0.5, -0.2), sigmoid(largest_ring, 6.5, -0.2))'
    )


def scaffold(smiles: str) -> str:
    """Of Bemis and Murcko; empty for a molecule without rings."""
    with rdBase.BlockLogs():
        return MurckoScaffold.MurckoScaffoldSmiles(mol=Chem.MolFromSmiles(smiles))


def scaffolds_below(table: pandas.DataFrame, threshold: float) -> int:
    """Distinct scaffolds of molecules that dock at or below a threshold, kcal/mol."""
    good = table.smiles[table[DOCKING] <= threshold]
    return len({scaffold(smiles) for smiles in good} - {""})


def sile(table: pandas.DataFrame) -> pandas.Series:
    """Docking score over N^0.3, N heavy atoms, as `docking_sile` gives it without a new docking."""
    return table[DOCKING] / table.heavy_atoms**0.3


def figures(table: pandas.DataFrame) -> dict[str, float]:
    """Means of docked molecules, with the standard error and deviation of the score."""
    scores = table[DOCKING].dropna()
    return {
        "docked": len(scores),
        "mean": float(scores.mean()),
        "error": float(scores.std(ddof=1) / math.sqrt(len(scores))),
        "sd": float(scores.std(ddof=1)),
        "best": float(scores.min()),
        "sile": float(sile(table).mean()),
        "qed": float(table.qed.mean()),
        "alerts": float((table['alerts("brenk")'] > 0).mean()),
        "heavy_atoms": float(table.heavy_atoms.mean()),
        "large_rings": float((table.largest_ring > 6).mean()),
    }


def compared(
    base: pandas.DataFrame, fresh: pandas.DataFrame, seen: pandas.DataFrame, calls: int
) -> dict[str, Any]:
    """Base and steered: fresh molecules by their means, all that was drawn by its scaffolds.

    Args:
        base: docked molecules of the base flow.
        fresh: of the steered flow.
        seen: drawn and docked while it was steered.
        calls: of docking that steering and its judgement took.
    """
    threshold = float(base[DOCKING].quantile(BEST_SHARE))
    everything = pandas.concat([fresh, seen]).drop_duplicates("smiles")
    rows = {"base": figures(base), "steered": figures(fresh)}
    gap = rows["base"]["mean"] - rows["steered"]["mean"]
    return {
        "threshold_kcal_mol": threshold,
        "gain_in_sd_of_base": gap / rows["base"]["sd"],
        "sile_gain_in_sd_of_base": float(
            (sile(base).mean() - sile(fresh).mean()) / sile(base).std()
        ),
        "scaffolds_base": scaffolds_below(base, threshold),
        "scaffolds_steered": scaffolds_below(everything, threshold),
        "calls_base": int(base[DOCKING].notna().sum()),
        "calls_steered": calls,
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
        f"the base better; of the score over heavy atoms^0.3, "
        f"{found['sile_gain_in_sd_of_base']:.2f}.",
        "",
        "| flow | docked | kcal/mol | best | /N^0.3 | QED | alerts | heavy atoms | rings > 6 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in found["flows"].items():
        lines.append(
            f"| {name} | {row['docked']:,} | {row['mean']:.2f} +- {row['error']:.2f} | "
            f"{row['best']:.2f} | {row['sile']:.2f} | {row['qed']:.3f} | {row['alerts']:.1%} | "
            f"{row['heavy_atoms']:.1f} | {row['large_rings']:.1%} |"
        )
    return "\n".join(lines) + "\n"


def molecules_of(run: Path, sample: str) -> list[str]:
    """SMILES of what was drawn for a sample while a flow was steered, each once.

    With the stereo that their coordinates have, by which the answers are kept.

    Args:
        sample: prior, result or round.
    """
    found: dict[str, None] = {}
    for file in sorted((run / "rounds").glob(f"sample-{sample}*.safetensors")):
        if "surrogate" in file.name:
            continue  # which judged them
        kept = ScoredMolecules.of_arrays(load_file(file))
        for graph, smiles in zip(kept.graphs, kept.smiles, strict=True):
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
    max_evals: Annotated[
        int | None, typer.Option(help="Of the score in each search [default: Vina's own].")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="A data set of the flow, to steer by known molecules.")
    ] = None,
    data_samples: Annotated[int, typer.Option(min=64, help="Of the data.")] = 8000,
    epochs: Annotated[float, typer.Option(help="Passes over what is drawn of them.")] = 7.0,
    budget: Annotated[int, typer.Option(min=100, help="Docking calls of the steering.")] = 2000,
    fresh: Annotated[int, typer.Option(min=8, help="Molecules that judge the result.")] = 500,
    prior: Annotated[int, typer.Option(min=64, help="Of the flow, docked before.")] = 128,
    result: Annotated[int, typer.Option(min=2, help="Of what came of it, in the budget.")] = 72,
    base: Annotated[
        int | None, typer.Option(help="Of the flow, to compare with [default: as many calls].")
    ] = None,
    mirror_steps: Annotated[int, typer.Option(min=1, help="Of the steering.")] = 6,
    train_steps: Annotated[int, typer.Option(min=2, help="Per mirror step.")] = 128,
    goal: Annotated[float, typer.Option(help="Docking score wanted, kcal/mol.")] = -8.0,
    qed: Annotated[float, typer.Option(help="QED wanted.")] = 0.5,
    kl_nats: Annotated[float, typer.Option(help="How far from the flow to go.")] = 3.2,
    seed: Annotated[int, typer.Option(help="Same seed, same molecules.")] = 0,
    where: Annotated[
        str, typer.Option(help="Conditions on fresh molecules of either flow.")
    ] = "largest_ring <= 6",
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
        limit = ["--max-evals", str(max_evals)] if max_evals else []
        execute(
            work, "receptor.yaml", "docking", "prepare", source, *box, *limit,
            "--exhaustiveness", str(exhaustiveness), "--poses", "3", "-o", "receptor.yaml",
        )  # fmt: skip
    elif not (work / "receptor.yaml").exists():
        raise typer.BadParameter(f"copy {target} and its PDBQT to {work}/receptor.yaml")
    cores, drawn = ["-j", str(jobs)], ["--seed", str(seed + 1), "--relax", "none"]
    drawn += ["--where", where] if where else []
    how = ["--mirror-steps", str(mirror_steps), "--set", f"train_steps={train_steps}"]
    if data is not None:
        how = [
            "--data", str(data.resolve()), "--set", f"data_samples={data_samples}",
            "--set", f"epochs={epochs:g}",
        ]  # fmt: skip
    execute(
        work, "steered/finetune.run.json", "finetune", flow, "--reward", reward(goal, 0.7, qed),
        "--kl-nats", f"{kl_nats:g}", "--oracle-budget", str(budget), "--set",
        f"base_samples={prior}", "--set", f"test_samples={result}", *how, "--seed", str(seed),
        *cores, "--resume", "-o", "steered",
    )  # fmt: skip
    record = json.loads((work / "steered" / "finetune.run.json").read_text())
    store = ["--cache", f"steered/rounds/{ANSWERS}"]  # what was docked in the loop is known
    score = ["-p", SHOWN, *cores, *store]
    tables = {}
    for sample in ("prior", "result", "round"):
        known = molecules_of(work / "steered", sample)
        tables[sample] = pandas.DataFrame(columns=["smiles", *SHOWN.split(",")])
        if known:
            (work / f"{sample}.smi").write_text("\n".join(known) + "\n")
            execute(work, f"{sample}.csv", "score", f"{sample}.smi", *score, "-o", f"{sample}.csv")
            tables[sample] = pandas.read_csv(work / f"{sample}.csv")
    execute(
        work, "fresh.sdf.gz", "generate", "steered", "-n", str(fresh), *drawn, *cores,
        "-o", "fresh.sdf.gz",
    )  # fmt: skip
    execute(
        work, "fresh.csv", "score", "fresh.sdf.gz", *score, "--poses", "poses.sdf.gz",
        "-o", "fresh.csv",
    )  # fmt: skip
    if where:  # which what was drawn in the loop need not meet
        tables = {sample: table[:0] for sample, table in tables.items()}
    new = pandas.concat([pandas.read_csv(work / "fresh.csv"), tables["result"]])
    calls = record["oracle_calls"] + fresh
    more = max(8, calls - len(tables["prior"])) if base is None else base
    execute(
        work, "base.sdf.gz", "generate", flow, "-n", str(more), *drawn, *cores, "-o", "base.sdf.gz"
    )
    execute(work, "base.csv", "score", "base.sdf.gz", *score, "-o", "base.csv")
    execute(
        work, "best.csv", "rank", "fresh.csv", "--by", f"column('{DOCKING}')", "--minimise",
        "-n", "50", "-o", "best.csv",
    )  # fmt: skip
    execute(
        work, "diverse.csv", "rank", "fresh.csv", "--by", f"column('{DOCKING}')", "--minimise",
        "--diverse", "50", "-o", "diverse.csv",
    )  # fmt: skip
    own = pandas.concat([pandas.read_csv(work / "base.csv"), tables["prior"]])
    found = compared(own, new, tables["round"], calls)
    out.mkdir(parents=True, exist_ok=True)
    name = Path(target).stem
    write_json(
        out / f"{name}.json",
        {
            "target": name, "seed": seed, "budget": budget, "exhaustiveness": exhaustiveness,
            "max_evals": max_evals, "data": data and data.name,
            "data_samples": data_samples if data else None,
            "surrogate": record.get("surrogate"),
            "reward": reward(goal, 0.7, qed), "kl_nats": kl_nats, "where": where, **found,
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
