"""Reward-guided flow merging on molecules: every operator on two specialised flows, in one table.

    python benchmarks/denovo/flow_merging.py -j 2
    python benchmarks/denovo/flow_merging.py intersection union -j 2      # some of them

The parents are `qm9-polar` (dipole moments of 4 debye and more) and `qm9-rings` (three rings and
more), in the circuit also `qm9-lowgap` (HOMO-LUMO gaps up to 3.3 eV); what the circuit's inner
operators made, `circuit-1` and `circuit-2`, is judged beside it. Each merge is a command of
molflowctl, printed as it is run; what is finished is not run again. Then parents and children draw
fresh molecules with one seed, and the oracles judge them:

    both       share of the molecules that lie where both parents have mass: inside the central
               90 % (5th to 95th percentile) of either parent, in dipole moment and in rings
    markers    shares of what the parents are specialised on; a union must have the mixture's
    minutes, oracle calls, peak memory of all processes

Where both were made, rewarded intersections are also put beside the best of `score-sum`, one in as
many as they asked the oracle about for each molecule that is judged: merged without training, then
chosen from.

Tables, the figure, the best molecules and the configurations land in `benchmarks/denovo/merging`,
or in a folder named as the merges that are asked for.
"""

from __future__ import annotations

import csv
import json
import math
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from molflowctl.compute.parallel import KEEP_MEMORY
from molflowctl.tasks.evaluation.bootstrap import Estimate, bootstrap
from molflowctl.tasks.evaluation.compare import CompareConfig, Compared, compare

PARENTS = ("qm9-polar", "qm9-rings")
DIPOLE, RINGS = "dipole_debye", "rings"
LOWGAP, GAP = "qm9-lowgap", "homo_lumo_gap_eV"
MARKERS = {DIPOLE: (4.0, math.inf), RINGS: (3.0, math.inf), GAP: (-math.inf, 3.3)}  # within which
WALK = ["--mirror-steps", "6", "--set", "n_samples=768", "--set", "base_samples=1536"]
WALK += ["--set", "invalid_penalty=6", "--set", "test_samples=256"]
SHORT = ["--mirror-steps", "4", "--set", "n_samples=768", "--set", "base_samples=1024"]
SHORT += ["--set", "invalid_penalty=6", "--set", "test_samples=256"]
SUMS = ["--set", "intersection=score-sum"]  # where intersections begin
UNION = ["--set", "base_samples=4096", "--set", "matching_steps=4000", "--set", "lr=1e-3"]
UNION += ["--set", "test_samples=256"]
GATE = ["--set", "union=gate", "--set", "base_samples=2048", "--set", "test_samples=256"]
BETWEEN = ["--interpolate", "--set", f"features=[{RINGS},{DIPOLE}]", "--mirror-steps", "4"]
BETWEEN += ["--set", "n_samples=768", "--set", "base_samples=768"]
BETWEEN += ["--set", "invalid_penalty=6", "--set", "test_samples=256"]
BOTH = "qm9_polar & qm9_rings"
RUNS = {
    "intersection": [BOTH, *WALK],
    "score-sum": [BOTH, *WALK, "--set", "solver=score-sum"],  # the baselines, without training
    "feynman-kac": [BOTH, *WALK, "--set", "solver=feynman-kac"],
    "unbalanced": [BOTH, "--weights", "1,3", *SHORT],
    "rewarded": [BOTH, "--reward", "qed", *WALK],
    "rewarded-sums": [BOTH, "--reward", "qed", *SHORT, *SUMS],
    "union": ["qm9_polar | qm9_rings", *UNION],
    "union-gate": ["qm9_polar | qm9_rings", *GATE],
    "between-1.25": [BOTH, "--weights", "1,1.25", *BETWEEN],
    "between-1.5": [BOTH, "--weights", "1,1.5", *BETWEEN],
    "between-2": [BOTH, "--weights", "1,2", *BETWEEN],
    "contrast": ["qm9_rings - qm9_polar", "--weights", "0.5", *SHORT],
    "circuit": ["(qm9_polar & qm9_rings) | (qm9_lowgap & qm9_rings)", *SHORT, *SUMS],
}


def execute(command: list[str], cwd: Path) -> int:
    """Run a command of molflowctl; returns the peak memory of it and its workers in MB."""
    import psutil

    print(f"$ {shlex.join(['molflowctl', *command])}", file=sys.stderr, flush=True)
    process = psutil.Popen([sys.executable, "-m", "molflowctl", *command], cwd=cwd)
    peak = 0
    while True:
        try:
            family = [process, *process.children(recursive=True)]
            peak = max(peak, sum(p.memory_info().rss for p in family))
        except psutil.Error:
            pass  # one of them ended meanwhile
        try:
            code = process.wait(1.0)
        except psutil.TimeoutExpired:
            continue
        if code:
            raise SystemExit(code)
        return round(peak / 1e6)


def ranges(parent: Compared) -> dict[str, tuple[float, float]]:
    """Central 90 % of a parent's molecules, by property."""
    return {c: tuple(np.nanpercentile(parent.values[c], [5, 95])) for c in (DIPOLE, RINGS)}


def inside(flow: Compared, parents: list[Compared]) -> np.ndarray:
    """Which molecules lie where all the parents have mass: 1 or 0, NaN where a value is."""
    here = np.ones(len(flow.mols))
    for parent in parents:
        for column, (low, high) in ranges(parent).items():
            here[(flow.values[column] < low) | (flow.values[column] > high)] = 0
    known = np.isfinite([flow.values[column] for column in (DIPOLE, RINGS)]).all(0)
    return np.where(known, here, np.nan)


def statistics(flow: Compared, parents: list[Compared]) -> dict[str, Estimate]:
    """What the table says of a flow beside its means."""
    found = {"both": bootstrap(inside(flow, parents))}
    for column in [c for c in MARKERS if c in flow.values]:
        low, high = MARKERS[column]
        values = flow.values[column][np.isfinite(flow.values[column])]
        name = f"{column} >= {low:g}" if math.isinf(high) else f"{column} <= {high:g}"
        found[name] = bootstrap((low <= values) & (values <= high))
    return found


def mixture(parents: list[Compared]) -> Compared:
    """What a union is to have: the molecules of as many attempts of each parent."""
    return Compared(
        "mixture",
        [s for parent in parents for s in parent.smiles],
        [mol for parent in parents for mol in parent.mols],
        {c: np.concatenate([p.values[c] for p in parents]) for c in parents[0].values},
    )


def inner(circuit: Path) -> list[str]:
    """Flows after the last steps of a circuit's inner operators, under names of their own."""
    found = []
    numbers = [int(part.name.removeprefix("part-")) for part in (circuit / "rounds").glob("part-*")]
    for k in sorted(numbers):
        part = circuit / "rounds" / f"part-{k}"
        last = max(part.glob("step-*"), default=part / "scores" / "step-001")
        found.append(f"{circuit}-{k}")
        shutil.copytree(last, found[-1], dirs_exist_ok=True)
    return found


def main(
    names: Annotated[
        list[str] | None, typer.Argument(help=f"Some of {', '.join(RUNS)}; without, all.")
    ] = None,
    n: Annotated[int, typer.Option("-n", min=32, help="Fresh molecules of each flow.")] = 2000,
    work: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs/merging"),
    out: Annotated[
        Path | None,
        typer.Option("-o", help="Folder of the tables, replaced; by default named as the merges."),
    ] = None,
    jobs: Annotated[int, typer.Option("-j", min=1, help="Worker processes.")] = 2,
) -> None:
    """Merge two specialised flows by every operator."""
    if absent := sorted(set(names or []) - set(RUNS)):
        raise typer.BadParameter(f"no merge {absent[0]}; there are {', '.join(RUNS)}.")
    out = out or Path(__file__).parent / ("-".join(names) if names else "merging")
    os.environ |= KEEP_MEMORY  # for the processes that are started from here
    work.mkdir(parents=True, exist_ok=True)
    for name in names or RUNS:
        if not (work / name / "card.json").exists():
            if (work / name / "rounds").exists():
                print(f"{name} is resumed: its time is of what is left.", file=sys.stderr)
            peak = execute(
                ["merge", *RUNS[name], "-j", str(jobs), "--resume", "-o", name], cwd=work
            )
            (work / f"{name}-memory.json").write_text(json.dumps({"peak_mb": peak}) + "\n")
    done = [name for name in RUNS if name in (names or RUNS)]
    flows, columns = [*PARENTS, *(str(work / name) for name in done)], [DIPOLE, RINGS, "qed"]
    if "circuit" in done:
        flows, columns = [LOWGAP, *inner(work / "circuit"), *flows], [*columns, GAP]
    found = compare(
        CompareConfig(flows=tuple(flows), properties=tuple(columns), n=n, jobs=jobs),
        out,
        overwrite=True,
    )
    parents = [flow for flow in found if flow.name in PARENTS]
    rewarded = [name for name in done if name.startswith("rewarded")]
    if rewarded and "score-sum" in done:
        records = [json.loads((work / name / "merge.run.json").read_text()) for name in rewarded]
        most = max(record["oracle_calls"] for record in records)
        beside = CompareConfig(
            flows=tuple(str(work / name) for name in ("score-sum", *rewarded)),
            properties=("qed", DIPOLE, RINGS),
            n=n,
            jobs=jobs,
            tail=0.2,
            best_of=(most + n) / n,
        )
        compare(beside, out / "chosen", overwrite=True)
    with (out / "merging.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["flow", "figure", "value", "low", "high"])
        unions = any(name.startswith("union") for name in done)
        for flow in [*found, *([mixture(parents)] if unions else [])]:
            rows = statistics(flow, parents)
            for figure, e in rows.items():
                writer.writerow([flow.name, figure, e.value, e.low, e.high])
            shown = ", ".join(
                f"{k} {e.value:.1%} ({e.low:.1%}-{e.high:.1%})" for k, e in rows.items()
            )
            cost = ""
            if flow.name in done:
                card = json.loads((work / flow.name / "merge.run.json").read_text())
                memory = work / f"{flow.name}-memory.json"  # not there if this was killed just then
                known = json.loads(memory.read_text()) if memory.exists() else {}
                peak = known.get("peak_mb", math.nan)
                cost = f"; {card['minutes']:.1f} min, {card['oracle_calls']:,} calls, {peak:,} MB"
                writer.writerow([flow.name, "minutes", card["minutes"], "", ""])
                writer.writerow([flow.name, "oracle calls", card["oracle_calls"], "", ""])
                writer.writerow([flow.name, "peak MB", peak, "", ""])
            print(f"{flow.name}: {shown}{cost}")
    for name in done:
        for file in ("config.yaml", "merge.csv"):
            shutil.copyfile(work / name / file, out / f"{name}-{file}")


if __name__ == "__main__":
    typer.run(main)
