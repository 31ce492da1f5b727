"""Flow density control with other divergences to the prior than KL, and for diversity.

    python benchmarks/denovo/priors.py -j 2
    python benchmarks/denovo/priors.py renyi w1 -j 2        # some of them

`qm9`, steered for the mean of QED by five mirror steps of 1,024 draws each, while KL, Renyi's
divergence of order two or the Wasserstein-1 distance holds it to the prior, their weights such that
on molecules of QM9 each optimum lies 0.4 nats from it. The distance
is of counts of atoms and bonds, exact between the prior's draws, and has a little KL beside it:
alone, it would let a few molecules take all. Then for the entropy of the density, and for unlike
fingerprints, each in three steps at a KL of 0.3 nats and without a reward. Fresh molecules of all
are judged by the oracle, with Vendi score and distinct scaffolds.

The steps are commands of molflowctl, printed as they are run; what is finished is not run again.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Annotated

import typer
from density_control import execute

from molflowctl.compute.parallel import KEEP_MEMORY

RUNS = {
    "kl": ["--kl-weight", "1.05"],
    "renyi": ["--divergence", "renyi-2:0.7"],
    "w1": ["--divergence", "w1:1.5", "--kl-weight", "0.5"],
    "entropy": ["--utility", "entropy:1", "--kl-nats", "0.3", "--mirror-steps", "3"],
    "diversity": ["--utility", "diversity:1", "--kl-nats", "0.3", "--mirror-steps", "3"],
}
STEPS = ["--mirror-steps", "5", "--set", "n_samples=1024", "--set", "base_samples=1024"]
STEPS += ["--set", "test_samples=256"]


def main(
    names: Annotated[
        list[str] | None, typer.Argument(help=f"Some of {', '.join(RUNS)}; without, all.")
    ] = None,
    n: Annotated[int, typer.Option("-n", min=32, help="Fresh molecules of each flow.")] = 2000,
    work: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs/priors"),
    out: Annotated[Path, typer.Option("-o", help="Folder of the tables.")] = Path(__file__).parent
    / "priors",
    jobs: Annotated[int, typer.Option("-j", min=1, help="Worker processes.")] = 2,
) -> None:
    """Steer one flow against several divergences, and for diversity."""
    if absent := sorted(set(names or []) - set(RUNS)):
        raise typer.BadParameter(f"no run {absent[0]}; there are {', '.join(RUNS)}.")
    os.environ |= KEEP_MEMORY  # for the processes that are started from here
    work.mkdir(parents=True, exist_ok=True)
    for name in names or RUNS:
        if not (work / name / "card.json").exists():
            execute(
                *["finetune", "qm9", "--reward", "qed", *STEPS, *RUNS[name]],
                *["-j", str(jobs), "--resume", "-o", name],
                cwd=work,
            )
    done = [name for name in RUNS if (work / name / "card.json").exists()]
    shutil.rmtree(work / "compare", ignore_errors=True)
    execute(
        *["benchmark", "compare", "qm9", *done, "-p", "qed,rings", "-n", str(n)],
        *["--set", "tail=0.2", "-j", str(jobs), "-o", "compare"],
        cwd=work,
    )
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted((work / "compare").iterdir()):
        shutil.copyfile(path, out / path.name)
    shutil.copyfile(work / "compare.run.json", out.with_name(f"{out.name}.run.json"))
    for name in done:
        for file in ("config.yaml", "finetune.csv"):
            shutil.copyfile(work / name / file, out / f"{name}-{file}")
    print((out / "table.md").read_text())


if __name__ == "__main__":
    typer.run(main)
