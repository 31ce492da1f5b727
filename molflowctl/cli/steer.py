"""`finetune` and `merge`: flows made of flows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from molflowctl.cli.console import console
from molflowctl.cli.options import Minimise, grouped
from molflowctl.cli.shared.around import CoreOptions
from molflowctl.cli.steering import MergeOptions, SteeringOptions, live_table
from molflowctl.cli.tables import live_lines, number

__all__ = ["finetune", "merge"]


@grouped
def finetune(
    *,
    flow: Annotated[str | None, typer.Argument(help="A shipped flow or a folder.")] = None,
    reward: Annotated[
        str | None,
        typer.Option(help="An expression of properties, what it is made of: `molflowctl rewards`."),
    ] = None,
    minimise: Minimise = False,
    kl_weight: Annotated[
        float | None,
        typer.Option(
            help="Weight of the KL divergence to the prior [default: 1, where no divergence is "
            "named]."
        ),
    ] = None,
    kl_nats: Annotated[
        float | None,
        typer.Option(
            help="In place of a weight: how far from the prior the optimum lies, in nats; the "
            "weight is found."
        ),
    ] = None,
    divergence: Annotated[
        list[str] | None,
        typer.Option(
            help="Other divergences: forward-kl:WEIGHT, renyi-ORDER:WEIGHT, w1:WEIGHT or "
            "mmd:WEIGHT; several add up."
        ),
    ] = None,
    oracle_budget: Annotated[
        int | None,
        typer.Option(
            min=100,
            help="Oracle calls in all, of prior and result too; the run ends at the best mirror "
            "step when they are spent [default: no bound].",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="A data set that the flow has learned from (`data prepare`): the objective is "
            "solved on its molecules, which the flow learns by their weights. No mirror steps."
        ),
    ] = None,
    around: CoreOptions,
    run: SteeringOptions,
) -> None:
    """Steer a flow towards a property, judged by the real program while it learns.

    Maximises utilities of `r` less divergences to the prior, with `r` the reward in standard
    deviations of the prior's molecules; without more words `E[r] - KL(p || prior)`. The table shows
    fresh molecules beside the exact optimum, as the prior's own molecules tell it.

    Examples:

        molflowctl finetune qm9 --reward dipole_debye --kl-weight 1 -o tuned/

        molflowctl finetune qm9 --reward dipole_debye --utility upper-cvar:0.1 --kl-nats 0.5
        -o polar/

        molflowctl finetune qm9 --reward homo_lumo_gap_eV --minimise -o low-gap/

        molflowctl finetune druglike --reward "docking('receptor.yaml')" --minimise
        --oracle-budget 2000 -o binders/

        molflowctl finetune druglike --data datasets/druglike --reward qed --kl-nats 1.5
        --set minutes=30 -o fine/

        molflowctl finetune druglike --core "[*:1]c1ccc(cc1)S(N)(=O)=O" --reward qed -o around/

        molflowctl finetune --config objective.yaml -o tuned/
    """
    from molflowctl.tasks.steering.settings import FinetuneConfig

    settings = run.settings(
        FinetuneConfig, flow=flow, reward=reward, minimise=minimise or None, kl_weight=kl_weight,
        kl_nats=kl_nats, divergence=divergence, oracle_budget=oracle_budget,
        data=data, **around.given(),
    )  # fmt: skip
    from molflowctl.tasks.steering import (
        finetune as control,  # heavy: after the settings are known to be good
    )

    header = live_lines(
        [" step", "     mean", "+-  error", "   target", " utility", "  target", "    KL", "   ESS",
         "  way", " valid", "unique", " oracle", "failed", "   min", "  left"],
        console.width,
    )  # fmt: skip

    def line(row: control.FinetuneRow) -> str:
        cells = [
            f"{row.step:5d}", number(row.mean, 9, 4), f"+- {number(row.error, 6, 4)}",
            number(row.target, 9, 4), number(row.utility, 8, 3), number(row.target_utility, 8, 3),
            number(row.kl, 6, 2), f"{row.effective_size:6.0f}", f"{row.walked:5.0%}",
            f"{row.valid:6.1%}", f"{row.unique:6.1%}", f"{row.oracle_calls:7d}",
            f"{row.unscored:6d}", f"{row.minutes:6.1f}", number(row.minutes_left, 6, 1),
        ]  # fmt: skip
        return live_lines(cells, console.width)

    with live_table(header, line, run.quiet) as hooks:
        control.finetune(settings, resume=run.resume, overwrite=run.overwrite, hooks=hooks)
    run.say_next("generate {out} -n 1000 -o library.sdf.gz", page="the ten best, and what was done")


@grouped
def merge(
    *,
    parts: MergeOptions,
    interpolate: Annotated[
        bool, typer.Option("--interpolate", help="From the first part towards the others.")
    ] = False,
    reward: Annotated[
        str | None, typer.Option(help="As of `finetune`, to be large beside.")
    ] = None,
    minimise: Minimise = False,
    reward_weight: Annotated[
        float | None,
        typer.Option(help="Weight of the reward, per standard deviation [default: 1]."),
    ] = None,
    around: CoreOptions,
    run: SteeringOptions,
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

    settings = run.settings(
        MergeConfig, **parts.given(), **around.given(), interpolate=interpolate or None,
        reward=reward, reward_weight=reward_weight, minimise=minimise or None,
    )  # fmt: skip
    from molflowctl.tasks.steering import (
        merge as task,  # heavy: after the settings are known to be good
    )

    header = live_lines(
        [" step", "     mean", "+-  error", " utility", "    KL", " valid", "unique", " oracle",
         "failed", "   min", "  left"],
        console.width,
    )  # fmt: skip

    def line(row: task.MergeRow) -> str:
        cells = [
            f"{row.step:5d}", number(row.mean, 9, 4), f"+- {number(row.error, 6, 4)}",
            number(row.utility, 8, 3), number(row.kl, 6, 2), f"{row.valid:6.1%}",
            f"{row.unique:6.1%}", f"{row.oracle_calls:7d}", f"{row.unscored:6d}",
            f"{row.minutes:6.1f}", number(row.minutes_left, 6, 1),
        ]  # fmt: skip
        return live_lines(cells, console.width)

    with live_table(header, line, run.quiet) as hooks:
        task.merge(settings, resume=run.resume, overwrite=run.overwrite, hooks=hooks)
    run.say_next("generate {out} -n 1000 -o library.sdf.gz", page="parents and child")
