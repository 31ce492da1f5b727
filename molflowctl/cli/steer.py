"""`finetune` and `merge`: flows made of flows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from molflowctl.cli.console import console
from molflowctl.cli.options import (
    Changes,
    Circuit,
    ConfigFile,
    FlowFolder,
    Jobs,
    Let,
    Minimise,
    Overwrite,
    Quiet,
    Resume,
    Rounds,
    SteeringDevice,
    SteeringSeed,
    Utility,
    Weights,
)
from molflowctl.cli.steering import live_table, named_flows, settings_of, weights_of
from molflowctl.cli.tables import live_lines, number

__all__ = ["finetune", "merge"]


def finetune(
    out: FlowFolder,
    flow: Annotated[str | None, typer.Argument(help="A shipped flow or a folder.")] = None,
    reward: Annotated[
        str | None,
        typer.Option(help="An expression of properties, what it is made of: `molflowctl rewards`."),
    ] = None,
    utility: Utility = None,
    divergence: Annotated[
        list[str] | None,
        typer.Option(
            help="To the prior: kl:WEIGHT, forward-kl:WEIGHT, renyi-ORDER:WEIGHT, w1:WEIGHT or "
            "mmd:WEIGHT; several add up. kl=NATS finds the weight at which the optimum is so far."
        ),
    ] = None,
    kl: Annotated[float | None, typer.Option(help="Short for --divergence kl:WEIGHT (1).")] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="A data set that the flow has learned from (`data prepare`): the objective is "
            "solved on its molecules, which the flow learns by their weights. No rounds of draws."
        ),
    ] = None,
    minimise: Minimise = False,
    rounds: Rounds = None,
    seed: SteeringSeed = None,
    jobs: Jobs = None,
    device: SteeringDevice = None,
    config: ConfigFile = None,
    changes: Changes = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Steer a flow towards a property, judged by the real program while it learns.

    Maximises utilities of `r` less divergences to the prior, with `r` the reward in standard
    deviations of the prior's molecules; without more words `E[r] - KL(p || prior)`. The table shows
    fresh molecules beside the exact optimum, as the prior's own molecules tell it.

    Examples:

        molflowctl finetune qm9 --reward dipole_debye --kl 1 -o tuned/

        molflowctl finetune qm9 --reward dipole_debye --utility super-quantile:0.9 --divergence kl=0.5 -o polar/

        molflowctl finetune qm9 --reward homo_lumo_gap_eV --minimise --kl 1 -o low-gap/

        molflowctl finetune druglike --data datasets/druglike --reward qed --divergence kl=1.5 --set minutes=30 -o fine/

        molflowctl finetune --config objective.yaml -o tuned/
    """  # noqa: E501
    from molflowctl.tasks.steering.settings import FinetuneConfig

    if kl is not None:
        divergence = [*(divergence or []), f"kl:{kl:g}"]
    given = {
        "flow": flow, "reward": reward, "utility": utility, "divergence": divergence,
        "minimise": minimise or None, "rounds": rounds, "data": data,
        "out": out, "seed": seed, "jobs": jobs, "device": device,
    }  # fmt: skip
    settings = settings_of(FinetuneConfig, config, given, changes, resume)
    from molflowctl.tasks.steering import (
        finetune as control,  # heavy: after the settings are known to be good
    )

    header = live_lines(
        ["round", "     mean", "+-  error", "   target", " utility", "  target", "    KL", "   ESS",
         "  way", " valid", "unique", " oracle", "failed", "   min"],
        console.width,
    )  # fmt: skip

    def line(row: control.FinetuneRow) -> str:
        cells = [
            f"{row.step:5d}", number(row.mean, 9, 4), f"+- {number(row.error, 6, 4)}",
            number(row.target, 9, 4), number(row.utility, 8, 3), number(row.target_utility, 8, 3),
            number(row.kl, 6, 2), f"{row.effective_size:6.0f}", f"{row.walked:5.0%}",
            f"{row.valid:6.1%}", f"{row.unique:6.1%}", f"{row.oracle_calls:7d}",
            f"{row.unscored:6d}", f"{row.minutes:6.1f}",
        ]  # fmt: skip
        return live_lines(cells, console.width)

    with live_table(header, line, quiet) as hooks:
        control.finetune(settings, resume=resume, overwrite=overwrite, hooks=hooks)
    if not quiet:
        console.print(f"written: {out}   next: molflowctl generate {out} -n 1000 -o library.sdf.gz")


def merge(
    out: FlowFolder,
    circuit: Circuit = None,
    let: Let = None,
    weights: Weights = None,
    interpolate: Annotated[
        bool, typer.Option("--interpolate", help="From the first part towards the others.")
    ] = False,
    reward: Annotated[
        str | None, typer.Option(help="As of `finetune`, to be large beside.")
    ] = None,
    strength: Annotated[
        float | None, typer.Option(help="Weight of the reward, per standard deviation (1).")
    ] = None,
    utility: Utility = None,
    minimise: Minimise = False,
    rounds: Rounds = None,
    seed: SteeringSeed = None,
    jobs: Jobs = None,
    device: SteeringDevice = None,
    config: ConfigFile = None,
    changes: Changes = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Merge flows: what all of them find likely, what any does, or what lies between.

    `a & b` is their intersection, `a | b` their union, `a - b` what a finds likely and b does not;
    circuits nest. A shipped flow's hyphens are underscores in a circuit.

    Examples:

        molflowctl merge "qm9_dipole & qm9_rings" -o dipole-rings/

        molflowctl merge "a | b" --let a=mine/ --let b=qm9 --weights 1,3 -o both/

        molflowctl merge "qm9_dipole & qm9_rings" --reward qed -o drug-like/

        molflowctl merge "qm9_polar & qm9_rings" --interpolate --weights 1,2 -o between/
        --set features=[rings,dipole_debye]
    """
    from molflowctl.tasks.steering.settings import MergeConfig

    given = {
        "circuit": circuit, "flows": named_flows(let), "interpolate": interpolate or None,
        "weights": weights_of(weights), "reward": reward,
        "strength": strength, "utility": utility, "minimise": minimise or None, "rounds": rounds,
        "out": out, "seed": seed, "jobs": jobs, "device": device,
    }  # fmt: skip
    settings = settings_of(MergeConfig, config, given, changes, resume)
    from molflowctl.tasks.steering import (
        merge as task,  # heavy: after the settings are known to be good
    )

    header = live_lines(
        ["round", "     mean", "+-  error", " utility", "    KL", " valid", "unique", " oracle",
         "failed", "   min"],
        console.width,
    )  # fmt: skip

    def line(row: task.MergeRow) -> str:
        cells = [
            f"{row.step:5d}", number(row.mean, 9, 4), f"+- {number(row.error, 6, 4)}",
            number(row.utility, 8, 3), number(row.kl, 6, 2), f"{row.valid:6.1%}",
            f"{row.unique:6.1%}", f"{row.oracle_calls:7d}", f"{row.unscored:6d}",
            f"{row.minutes:6.1f}",
        ]  # fmt: skip
        return live_lines(cells, console.width)

    with live_table(header, line, quiet) as hooks:
        task.merge(settings, resume=resume, overwrite=overwrite, hooks=hooks)
    if not quiet:
        console.print(f"written: {out}   next: molflowctl generate {out} -n 1000 -o library.sdf.gz")
