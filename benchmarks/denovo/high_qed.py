"""Drug-likeness raised on `druglike`: by its own best molecules, then by control, in one table.

    molflowctl data prepare druglike --limit 35000
    python benchmarks/denovo/high_qed.py -j 2

Four times the flow learns from molecules of MOSES; at first it is steered on its own draws, too:

1. 80 minutes of one thread with the training molecules of `druglike` of a QED of 0.9 and more, 14 %
   of all, and three mirror steps of flow density control with a KL to what it has learnt.
2. 80 minutes with 20,000 of MOSES' training molecules of 0.92 and more, then one mirror step.
3. 32 minutes with these again, which are more diverse than what it draws.
4. 25 minutes with those of them of 0.93 and more.

What it draws lies short of what it learns from, since it errs: more alerts, fewer aromatic rings.
Steering corrects some of that; every step costs validity and diversity, so few of the eight are
taken, and none in the end. The result recommends eighty times the noise of the memoryless SDE,
`druglike` ten times: what is drawn anew gets another chance to be right. What of the gain is the
noise shows a third flow, `druglike` itself drawn so.

Then fresh molecules of `druglike` and of the result are judged by RDKit, beside the best of
`druglike`'s molecules, one in as many as the result took QED calls for each. The commands are
printed as they are run; what is finished is not run again, what was interrupted goes on.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from density_control import execute

from molflowctl.compute.parallel import KEEP_MEMORY
from molflowctl.models.denovo import DeNovoFlow

FIRST = 34_998 + 1_024 + 3 * 1_024  # QED calls: the data, draws before the steering and of it
SECOND = 288_691 + 1_024 + 1_024  # of which 22,000 were kept to learn from
LEARN = "name=learned ema=0.998 batch_atoms=1728 validate_minutes=8 sample_every=0 "
STEER = "base_samples=1024 n_samples=1024 test_samples=512 invalid_penalty=4"
CHURN = 80.0


@dataclass(frozen=True)
class Stage:
    """Molecules to learn from, for how long, and how many mirror steps to take after that."""

    data: str
    length: str
    steps: int = 0


STAGES = (
    Stage("high", "minutes=80 lr=1.5e-3 lr_decay_start=0.4", 3),
    Stage("higher", "minutes=80 lr=1.5e-3 lr_decay_start=0.4", 1),
    Stage("higher", "minutes=32 lr=1e-3 lr_decay_start=0.3"),
    Stage("highest", "minutes=25 lr=1e-3 lr_decay_start=0.3"),
)


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
    if not (work / "higher").exists():
        chosen = ["-p", "qed", "--range", "0.92:", "--limit", "20000", "-j", str(jobs)]
        resume = ["--resume"] if (work / "higher.partial").exists() else []
        execute("data", "prepare", "druglike", *chosen, *resume, "-o", "higher", cwd=work)
    if not (work / "highest").exists():
        chosen = ["-p", "qed", "--range", "0.93:", "-j", str(jobs), "-o", "highest"]
        execute("data", "subset", "higher", *chosen, cwd=work)
    flow = "druglike"
    for number, stage in enumerate(STAGES, 1):
        learned, steered = f"learned-{number}", f"steered-{number}"
        resume = ["--resume"] if (work / learned).exists() else []
        execute(
            *["train", "--init", flow, "--data", stage.data, *settings(LEARN + stage.length)],
            *["--threads", "1", *resume, "-o", learned],
            cwd=work,
        )
        flow = f"{learned}/ema"
        if stage.steps:
            if not (work / steered / "card.json").exists():
                execute(
                    *["finetune", flow, "--reward", "qed", "--kl-nats", "2"],
                    *["--mirror-steps", "8", *settings(STEER), "-j", str(jobs), "--resume"],
                    *["-o", steered],
                    cwd=work,
                )
            flow = f"{steered}/rounds/step-{stage.steps:03d}"
    result = DeNovoFlow.load(work / flow)
    flow = f"flows/druglike-qed-{len(STAGES)}"
    result.card["sampling"] = {"churn": CHURN}
    result.save(work / flow)  # in half precision, as it ships
    noisy = DeNovoFlow.from_pretrained("druglike")
    noisy.card["sampling"] = {"churn": CHURN}
    noisy.save(work / "flows" / "druglike-noisy")
    execute(
        *["benchmark", "compare", "druglike", flow, "flows/druglike-noisy"],
        *["-p", "qed,sa_score,rings,brenk_alerts"],
        *["-n", str(n), "--set", "nfe=100"],
        *["--set", f"best_of={(FIRST + SECOND + n) / n:.3g}"],
        *["-j", str(jobs), "-o", str(out.resolve())],
        cwd=work,
    )
    for number, stage in enumerate(STAGES, 1):
        shutil.copyfile(work / f"learned-{number}" / "log.csv", out / f"learned-{number}.csv")
        runs = [f"learned-{number}"]
        if stage.steps:
            runs.append(f"steered-{number}")
            shutil.copyfile(work / runs[1] / "finetune.csv", out / f"{runs[1]}.csv")
        for run in runs:
            shutil.copyfile(work / run / "config.yaml", out / f"{run}-config.yaml")
    print((out / "table.md").read_text())


if __name__ == "__main__":
    typer.run(main)
