"""Reward-guided flow merging at drug-like size: two specialised flows and what they are merged to.

    python benchmarks/denovo/druglike_merging.py rewarded -j 2     # some merges, and their parents
    python benchmarks/denovo/druglike_merging.py -j 2              # all of them

The parents are steered here from `druglike`: `soluble` towards a logP of at most 2, `saturated`
towards carbon of which at least half is sp3. Each step is a command of molflowctl, printed as it is
run; what is finished is not run again. Then parents and children draw fresh molecules with one
seed, and RDKit judges them. A row of `table.json` has

    both       share of the molecules that lie where both parents have mass: inside the central
               90 % (5th to 95th percentile) of either parent, in logP and in sp3 carbon
    specified  share with a logP of at most 2, of sp3 carbon of at least a half, and of both
    qed, logp, fraction_sp3, valid, unique, internal diversity, large and unseen rings
    minutes, oracle calls, peak memory of all processes, commit, seed, hardware
"""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from flow_merging import execute

from molflowctl.compute.parallel import KEEP_MEMORY
from molflowctl.io.record import read_record, write_json
from molflowctl.properties.rings import largest_ring, unseen_ring_systems
from molflowctl.tasks.evaluation.bootstrap import bootstrap
from molflowctl.tasks.evaluation.compare import CompareConfig, Compared, compare

LOGP, SP3 = 2.0, 0.5  # what the parents are specialised on: at most, at least
PARENTS = {
    "soluble": f"sigmoid(-logp, {-LOGP:g}, 0.3)",
    "saturated": f"sigmoid(fraction_sp3, {SP3:g}, 0.08)",
}
QUICK = "precision=bf16 mirror_nfe=60 nfe=60 base_samples=768 n_samples=768 test_samples=256"
STEER = f"{QUICK} mirror_steps=4 train_steps=256 lr=7e-4 anneal_fraction=0.35"
MERGE = f"{QUICK} mirror_steps=4 train_steps=256 lr=7e-4 invalid_penalty=6"
BOTH = "soluble & saturated"
MERGES = {
    "rewarded": [BOTH, "--reward", "qed"],
    "balanced": [BOTH],
    "unbalanced": [BOTH, "--weights", "1,3"],
    "union": ["soluble | saturated"],
    "contrast": ["soluble - saturated", "--weights", "0.5"],
}


def settings(text: str) -> list[str]:
    """`--set` for each."""
    return [part for setting in text.split() for part in ("--set", setting)]


def inside(flow: Compared, parents: list[Compared]) -> np.ndarray:
    """Which molecules lie where all the parents have mass."""
    here = np.ones(len(flow.mols), bool)
    for parent in parents:
        for column in ("logp", "fraction_sp3"):
            low, high = np.nanpercentile(parent.values[column], [5, 95])
            here &= (low <= flow.values[column]) & (flow.values[column] <= high)
    return here


def row(flow: Compared, parents: list[Compared]) -> dict[str, Any]:
    """The figures of a flow, each with its 95 % interval."""
    soluble, saturated = flow.values["logp"] <= LOGP, flow.values["fraction_sp3"] >= SP3
    shares = {
        "both": inside(flow, parents),
        "logp <= 2": soluble,
        "fraction_sp3 >= 0.5": saturated,
        "as both are specified": soluble & saturated,
        "large_ring": np.array([largest_ring(mol) > 6 for mol in flow.mols]),
        "unseen_ring": np.array([unseen_ring_systems(mol) > 0 for mol in flow.mols]),
    }
    found = flow.estimates(0.2) | {name: bootstrap(share) for name, share in shares.items()}
    return {name: asdict(estimate) for name, estimate in found.items()}


def main(
    names: Annotated[list[str] | None, typer.Argument(help=f"Of {', '.join(MERGES)}.")] = None,
    n: Annotated[int, typer.Option("-n", min=32, help="Fresh attempts of each flow.")] = 1000,
    work: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs/druglike-merging"),
    seed: Annotated[int, typer.Option(help="Of the steering.")] = 3151,
    jobs: Annotated[int, typer.Option("-j", min=1, help="Worker processes.")] = 1,
    out: Annotated[Path, typer.Option("-o", help="Folder of the results.")] = Path(__file__).parent
    / "druglike-merging",
) -> None:
    """Steer the parents, merge them as asked for, and write `table.json` with all of them."""
    if absent := sorted(set(names or []) - set(MERGES)):
        raise typer.BadParameter(f"no merge {absent[0]}; there are {', '.join(MERGES)}.")
    os.environ |= KEEP_MEMORY  # for the processes that are started from here
    work.mkdir(parents=True, exist_ok=True)
    commands = {
        name: ["finetune", "druglike", "--reward", reward, "--kl-nats", "1", *settings(STEER)]
        for name, reward in PARENTS.items()
    } | {
        name: ["merge", *MERGES[name], *settings(MERGE)]
        + [part for parent in PARENTS for part in ("--let", f"{parent}={parent}")]
        for name in names or MERGES
    }
    for name, command in commands.items():
        if not (work / name / "card.json").exists():
            end = ["--seed", str(seed), "-j", str(jobs), "--resume", "-o", name]
            peak = execute([*command, *end], cwd=work)
            (work / f"{name}-peak_mb").write_text(str(peak))
    done = [*PARENTS, *(name for name in MERGES if (work / name / "card.json").exists())]
    judged = CompareConfig(
        flows=("druglike", *(str(work / name) for name in done)),
        properties=("qed", "logp", "fraction_sp3"),
        tail=0.2, n=n, nfe=60, jobs=jobs,
    )  # fmt: skip
    found = compare(judged, out, overwrite=True)
    parents = [flow for flow in found if flow.name in PARENTS]
    rows: dict[str, Any] = {}
    for flow in found:
        rows[flow.name] = row(flow, parents)
        if flow.name in done:
            command = "finetune" if flow.name in PARENTS else "merge"
            record = read_record(work / flow.name / f"{command}.run.json") or {}
            peak = work / f"{flow.name}-peak_mb"
            rows[flow.name] |= {
                "minutes": record["minutes"],
                "oracle_calls": record["oracle_calls"],
                "peak_mb": int(peak.read_text()) if peak.exists() else None,
                "seed": record["config"]["seed"],
                "commit": record["versions"]["commit"],
            }
    write_json(
        out / "table.json",
        {"n": n, "hardware": f"{platform.machine()}, {jobs} jobs", "rows": rows},
    )
    print(json.dumps({name: {k: v for k, v in r.items()} for name, r in rows.items()}, indent=1))


if __name__ == "__main__":
    typer.run(main)
