"""Flow density control on molecules: means and tails of one reward, for the same price.

    molflowctl data prepare qm9
    python benchmarks/denovo/density_control.py dipole -j 2
    python benchmarks/denovo/density_control.py qed --walk 8 --nats 0.3 --base 2048 --arrive 0.25
    python benchmarks/denovo/density_control.py dipole --walk 10 --nats 0.2 --solver guidance

Fine-tunes `qm9` for the mean, the super-quantile and the CVaR of a reward, each on the same
molecules of its training set (`finetune --data`; 20,000 of them, 100,000 where the oracle costs
nothing), so with as many oracle calls, on as many draws of them, and with the KL to the prior that
costs the same number of nats at the optimum (`--kl-nats NATS`).
With `--walk` each is steered by so many mirror steps on the flow's own draws instead, by the solver
that `--solver` names. `--utility` chooses among the three. Each run draws `-n` fresh molecules and
says how far its mean and its utility are from those of the exact target, in standard errors of the
difference. Then as many more of every flow are judged by the oracle, beside the best of the base's
molecules, one in as many as the others had calls for each.

The steps are commands of molflowctl, printed as they are run; what is finished is not run again.
Tables (`table.md`; `targets.md`: agreement with the exact targets), the figure, the best molecules,
configurations and records land in `benchmarks/denovo/control/REWARD`, `REWARD-walk-8`, or
`REWARD-walk-8-SOLVER` for other solvers than the default.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
import yaml

from molflowctl.compute.parallel import KEEP_MEMORY
from molflowctl.tasks.steering.settings import FinetuneConfig

LEVEL = 0.2  # of the tails
POPULATION = 1024  # of every step of a walk
# Of the table of targets.
HEAD = (
    "Means in the oracle's unit; utilities in standard deviations of the prior's molecules, with "
    "failed ones.",
    "",
    "| for the | effective size | mean | the target's | z | utility | the target's | z |",
    "|---|---|---|---|---|---|---|---|",
)


@dataclass(frozen=True)
class Subject:
    """A reward, whether it is to become small, what else is shown, molecules to learn from."""

    property: str
    minimise: bool = False
    beside: tuple[str, ...] = ()
    calls: int = 20_000


SUBJECTS = {
    "dipole": Subject("dipole_debye", beside=("qed",)),
    "qed": Subject("qed", beside=("rings",), calls=100_000),
    "gap": Subject("homo_lumo_gap_eV", minimise=True, beside=("qed",)),
    "energy": Subject("gfn1_energy_hartree", minimise=True, beside=("heavy_atoms",)),
}
UTILITIES = {
    "mean": "mean",
    "super-quantile": f"upper-cvar:{LEVEL:g}",
    "cvar": f"cvar:{LEVEL:g}",
}


def execute(*command: str, cwd: Path) -> None:
    """Run a command of molflowctl with the Python of this script."""
    print(f"$ {shlex.join(['molflowctl', *command])}", file=sys.stderr, flush=True)
    done = subprocess.run([sys.executable, "-m", "molflowctl", *command], cwd=cwd)
    if done.returncode:
        raise SystemExit(done.returncode)


def agreement(run: Path) -> str:
    """A row of a table: what a run reached on its fresh molecules, and its exact target."""
    record = json.loads((run / "finetune.run.json").read_text())
    target, result = record["target"], record["result"]
    cells = [f"{target['effective_size']:,.0f}"]
    for figure, error in (("mean", "error"), ("utility", "utility_error")):
        gap = result[figure] - target[figure]
        z = gap / math.hypot(result[error], target[error])
        cells += [f"{of[figure]:.4g} +- {of[error]:.2g}" for of in (result, target)] + [f"{z:.1f}"]
    return f"| {run.name} | {' | '.join(cells)} |"


def check(run: Path, **wanted: object) -> None:
    """Refuse a finished run with other settings than those that are asked for."""
    made = FinetuneConfig.of_record(yaml.safe_load((run / "config.yaml").read_text()))
    for name, value in wanted.items():
        if (before := made.get(name, 0.0)) != value:
            raise typer.BadParameter(
                f"{run} was made with {name}={before}, not {value}: give another --work."
            )


def judged(record: Path, place: Path, flows: list[str], n: int) -> bool:
    """Whether these very flows have been compared on as many molecules."""
    if not record.exists():
        return False
    known = json.loads(record.read_text())
    if known["config"]["flows"] != flows or known["config"]["n"] != n:
        return False
    cards = {flow: place / flow / "card.json" for flow in flows}  # none of the shipped ones
    now = {flow: json.loads(card.read_text()) for flow, card in cards.items() if card.exists()}
    then = known.get("weights_sha256", {})
    return all(then.get(flow) == card["weights_sha256"] for flow, card in now.items())


def main(
    reward: Annotated[str, typer.Argument(help=f"One of {', '.join(SUBJECTS)}.")],
    nats: Annotated[float, typer.Option(help="KL to the prior at every optimum.")] = 0.4,
    learned: Annotated[int, typer.Option(help="Draws that each flow learns.")] = 240_000,
    data: Annotated[Path, typer.Option(help="Prepared QM9.")] = Path("datasets/qm9-implicit"),
    walk: Annotated[
        int | None,
        typer.Option(min=1, help="Mirror steps on own draws, not known molecules."),
    ] = None,
    arrive: Annotated[
        float, typer.Option(min=0.01, max=1, help="Share of a walk's steps to the target.")
    ] = 0.5,
    carry: Annotated[
        float, typer.Option(min=0, max=0.99, help="Of what a step did not bring, asked for again.")
    ] = 0.0,
    moments: Annotated[
        int, typer.Option(min=1, max=2, help="Of the reward, that tell how far a walk came.")
    ] = 2,
    solver: Annotated[str, typer.Option(help="Of a walk.")] = "reinforce",
    value_steps: Annotated[
        int, typer.Option(min=2, help="Of its network of values, if it has one.")
    ] = 300,
    base: Annotated[int, typer.Option(min=64, help="Draws of qm9 to begin from.")] = 1024,
    utility: Annotated[
        list[str] | None, typer.Option(help=f"Of {', '.join(UTILITIES)}; all, if none is named.")
    ] = None,
    n: Annotated[int, typer.Option("-n", min=32, help="Fresh molecules of each flow.")] = 2000,
    work: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs/control"),
    out: Annotated[Path, typer.Option("-o", help="Folder of the tables.")] = Path(__file__).parent
    / "control",
    jobs: Annotated[int, typer.Option("-j", min=1, help="Worker processes.")] = 2,
) -> None:
    """Compare utilities of one reward at equal oracle calls and equal KL of the optima."""
    if reward not in SUBJECTS:
        raise typer.BadParameter(f"no reward {reward}; there are {', '.join(SUBJECTS)}.")
    if absent := sorted(set(utility or []) - set(UTILITIES)):
        raise typer.BadParameter(f"no utility {absent[0]}; there are {', '.join(UTILITIES)}.")
    subject = SUBJECTS[reward]
    os.environ |= KEEP_MEMORY  # for the processes that are started from here
    name = f"{reward}-walk-{walk}" if walk else reward
    name += f"-{solver}" if walk and solver != "reinforce" else ""
    place = work / name
    place.mkdir(parents=True, exist_ok=True)
    ways = ["--minimise"] if subject.minimise else []
    # The first step is on draws of the prior.
    calls = base + (walk - 1) * POPULATION if walk else subject.calls
    learn = ["--data", str(data.resolve()), "--set", f"data_samples={calls}"]
    epochs = learned / calls
    learn += ["--set", f"epochs={epochs}"]
    steps = ["--mirror-steps", str(walk), "--set", f"n_samples={POPULATION}"]
    paced: dict[str, object] = {"anneal_fraction": arrive, "error_feedback": carry}
    if moments != 2:
        paced["matched_moments"] = moments
    if solver != "reinforce":
        paced |= {"solver": solver, "value_steps": value_steps}
    steps += [word for name, value in paced.items() for word in ("--set", f"{name}={value}")]
    alike = {"kl_nats": nats, "base_samples": base, "test_samples": n}
    alike |= {"mirror_steps": walk, **paced} if walk else {"data_samples": calls, "epochs": epochs}
    draws = ["--set", f"base_samples={base}", "--set", f"test_samples={n}"]
    runs = [run for run in UTILITIES if run in (utility or UTILITIES)]
    for run in runs:
        if not (place / run / "card.json").exists():
            asked = ["--reward", subject.property, *ways, "--utility", UTILITIES[run]]
            execute(
                *["finetune", "qm9", *asked],
                *[*(steps if walk else learn), *draws, "--kl-nats", f"{nats:g}"],
                *["-j", str(jobs), "--resume", "-o", run],
                cwd=place,
            )
        check(place / run, **alike)
    record = place / "compare.run.json"
    if not judged(record, place, ["qm9", *runs], n):
        shutil.rmtree(place / "compare", ignore_errors=True)
        shown = ",".join((subject.property, *subject.beside))
        execute(
            *["benchmark", "compare", "qm9", *runs, "-p", shown, "-n", str(n), *ways],
            *["--set", f"tail={LEVEL:g}", "--set", f"best_of={(calls + n) / n:g}"],
            *["-j", str(jobs), "-o", "compare"],
            cwd=place,
        )
    target = out / name
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted((place / "compare").iterdir()):
        shutil.copyfile(path, target / path.name)
    shutil.copyfile(record, out / f"{name}.run.json")
    for run in runs:
        for file in ("config.yaml", "finetune.csv", "finetune.run.json"):
            shutil.copyfile(place / run / file, target / f"{run}-{file}")
    rows = [agreement(place / run) for run in runs]
    (target / "targets.md").write_text("\n".join([*HEAD, *rows]) + "\n")
    print((target / "table.md").read_text(), (target / "targets.md").read_text(), sep="\n")


if __name__ == "__main__":
    typer.run(main)
