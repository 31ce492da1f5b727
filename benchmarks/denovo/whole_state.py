"""Whole-state against coordinates-only control: what each reaches for the same oracle calls.

    python benchmarks/denovo/whole_state.py -j 2

`qm9` is steered for the dipole moment, which geometry has a say in, and for QED, which is a
function of the graph: once in its whole state and once in positions alone, types, charges and bonds
keeping the endpoint they have in the base flow (`finetune --set modalities=[positions]`). The same
mirror steps on as many draws, at a KL to the prior of as many nats at the optimum; each result is
judged by the oracle on fresh molecules. Adjoint matching asks for the gradient of the reward, which
neither oracle has: in every step a network learns the reward from the molecules that were scored,
and its gradient is followed (`solver=adjoint`), or followed for the positions while types, charges
and bonds are steered by reinforce adjoint matching (`combined`).

The steps are commands of molflowctl, printed as they are run; what is finished is not run again.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from density_control import execute

from molflowctl.compute.parallel import KEEP_MEMORY

REWARDS = {"dipole": "dipole_debye", "qed": "qed"}
# Adjoints cost some thirty evaluations where the others cost one: fewer of them, in like time.
SOLVERS = {
    "reinforce": [],
    "values": [],
    "adjoint": ["--set", "train_steps=48", "--set", "batch=48"],
    "combined": ["--set", "train_steps=48", "--set", "batch=48"],
}
WHOLE = ("combined",)  # solvers that steer everything or nothing
PARTS = {"everything": "[]", "positions": "[positions]"}
KEY = ["reward", "solver", "steered"]  # of a row
STEPS = ["--mirror-steps", "3", "--set", "n_samples=1024", "--set", "base_samples=1024"]


def row(folder: Path, reward: str, solver: str, parts: str) -> dict[str, str]:
    """A line of the table, from the card of a finished run."""
    told = json.loads((folder / "card.json").read_text())["finetune"]
    prior, result, verdict = told["prior"], told["result"], told["verdict"]
    spread = prior["error"] * (prior["valid"] * prior["n"]) ** 0.5
    gain = (result["mean"] - prior["mean"]) / spread
    return {
        "reward": reward,
        "solver": solver,
        "steered": parts,
        "mean before": f"{prior['mean']:.4g} +- {prior['error']:.2g}",
        "after": f"{result['mean']:.4g} +- {result['error']:.2g}",
        "standard deviations": f"{gain:+.2f}",
        "of the way to the exact target": f"{verdict['way']:.0%}",
        "valid": f"{result['valid']:.1%}",
        "unique, of the base's": f"{verdict['unique_ratio']:.2f}",
        "oracle calls": f"{told['oracle_calls']:,}",
        "minutes": f"{told['minutes']:.1f}",
    }


def main(
    solver: Annotated[
        list[str] | None, typer.Option(help=f"Of {', '.join(SOLVERS)}; all, if none is named.")
    ] = None,
    reward: Annotated[
        list[str] | None, typer.Option(help=f"Of {', '.join(REWARDS)}; all, if none is named.")
    ] = None,
    nats: Annotated[float, typer.Option(help="KL to the prior at the optimum.")] = 0.4,
    n: Annotated[int, typer.Option("-n", min=32, help="Fresh molecules of each flow.")] = 2000,
    work: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs/whole-state"),
    out: Annotated[Path, typer.Option("-o", help="Folder of the table.")] = Path(__file__).parent
    / "whole-state",
    jobs: Annotated[int, typer.Option("-j", min=1, help="Worker processes.")] = 2,
) -> None:
    """Steer everything, and positions alone."""
    if absent := sorted(set(solver or []) - set(SOLVERS)):
        raise typer.BadParameter(f"no solver {absent[0]}; there are {', '.join(SOLVERS)}.")
    if absent := sorted(set(reward or []) - set(REWARDS)):
        raise typer.BadParameter(f"no reward {absent[0]}; there are {', '.join(REWARDS)}.")
    os.environ |= KEEP_MEMORY  # for the processes that are started from here
    out.mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True, exist_ok=True)
    rows = []
    for way in solver or SOLVERS:
        for what in reward or REWARDS:
            for parts, told in PARTS.items():
                if way in WHOLE and parts != "everything":
                    continue
                name = f"{what}-{way}-{parts}"
                if not (work / name / "card.json").exists():
                    asked = ["--reward", REWARDS[what], "--kl-nats", f"{nats:g}"]
                    steered = ["--set", f"solver={way}", "--set", f"modalities={told}"]
                    execute(
                        *["finetune", "qm9", *asked, *STEPS, *SOLVERS[way], *steered],
                        *["--set", f"test_samples={n}", "-j", str(jobs), "--resume", "-o", name],
                        cwd=work,
                    )
                for file in ("config.yaml", "finetune.csv"):
                    shutil.copyfile(work / name / file, out / f"{name}-{file}")
                rows.append(row(work / name, what, way, parts))
    table = pd.DataFrame(rows)
    if (out / "table.csv").exists():
        # What other calls made stays, in the order in which it was made.
        before = pd.read_csv(out / "table.csv", dtype=str)
        table = pd.concat([before, table]).drop_duplicates(KEY, keep="last")
    table.to_csv(out / "table.csv", index=False)
    lines = [list(table), ["---"] * table.shape[1], *table.to_numpy().tolist()]
    (out / "table.md").write_text("".join(f"| {' | '.join(line)} |\n" for line in lines))
    print((out / "table.md").read_text())


if __name__ == "__main__":
    typer.run(main)
