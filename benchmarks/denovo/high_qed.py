"""Drug-likeness raised on `druglike`: by its own best molecules, then by control, in one table.

    molflowctl data prepare druglike --limit 35000
    python benchmarks/denovo/high_qed.py -j 2

1. The training molecules of `druglike` with a QED of 0.9 and more are 14 % of all: a tilt by two
   nats, which the flow learns in 80 minutes of one thread. What it draws afterwards lies short of
   them, since it errs: more alerts, fewer aromatic rings.
2. Flow density control on its own draws corrects what it errs in. The third step of eight is taken:
   every step costs some validity.

Then fresh molecules of `druglike` and of the result are judged by RDKit, beside the best of
`druglike`'s molecules, one in as many as the result took QED calls for each. The commands are
printed as they are run; what is finished is not run again, what was interrupted goes on.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Annotated

import typer
from density_control import execute

from molflowctl.models.denovo import DeNovoFlow
from molflowctl.parallel import KEEP_MEMORY

CALLS = 34_998 + 1_024 + 3 * 1_024  # molecules of the data, of the learned flow, of three steps
LEARN = "name=learned minutes=80 lr=1.5e-3 constant=0.4 ema=0.998 batch_atoms=1728 "
LEARN += "validate_minutes=8 sample_every=0"
STEER = "base_samples=1024 round_samples=1024 test_samples=512 validity=4"


def settings(text: str) -> list[str]:
    """`a=1 b=2` as options of a command."""
    return [part for pair in text.split() for part in ("--set", pair)]


def main(
    data: Annotated[Path, typer.Option(help="Prepared drug-like molecules.")] = Path(
        "datasets/druglike"
    ),
    n: Annotated[int, typer.Option("-n", min=200, help="Fresh molecules of each flow.")] = 1500,
    work: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs/high-qed"),
    out: Annotated[Path, typer.Option("-o", help="Folder of the tables.")] = Path(__file__).parent
    / "high-qed",
    jobs: Annotated[int, typer.Option("-j", min=1, help="Worker processes.")] = 2,
) -> None:
    """Raise the QED of `druglike` and judge what came of it."""
    os.environ |= KEEP_MEMORY  # for the processes that are started from here
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "high").exists():
        chosen = ["-p", "qed", "--range", "0.9:", "-j", str(jobs), "-o", "high"]
        execute("data", "subset", str(data.resolve()), *chosen, cwd=work)
    resume = ["--resume"] if (work / "learned").exists() else []
    execute(
        *["train", "--init", "druglike", "--data", "high", *settings(LEARN)],
        *["--threads", "1", *resume, "-o", "learned"],
        cwd=work,
    )
    if not (work / "steered" / "card.json").exists():
        execute(
            *["finetune", "learned/ema", "--reward", "qed", "--divergence", "kl=2"],
            *["--rounds", "8", *settings(STEER), "-j", str(jobs), "--resume", "-o", "steered"],
            cwd=work,
        )
    step = DeNovoFlow.load(work / "steered" / "rounds" / "step-003")
    step.save(work / "flows" / "druglike-qed")  # in half precision, as it ships
    execute(
        *["benchmark", "compare", "druglike", "flows/druglike-qed"],
        *["-p", "qed,sa_score,rings,brenk_alerts"],
        *["-n", str(n), "--set", "evaluations=100", "--set", f"best_of={(CALLS + n) / n:.3g}"],
        *["-j", str(jobs), "-o", str(out.resolve())],
        cwd=work,
    )
    for run in ("learned", "steered"):
        shutil.copyfile(work / run / "config.yaml", out / f"{run}-config.yaml")
    shutil.copyfile(work / "steered" / "finetune.csv", out / "finetune.csv")
    print((out / "table.md").read_text())


if __name__ == "__main__":
    typer.run(main)
