"""`finetune-conformers` and `merge-conformers`: conformer flows made of conformer flows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from molflowctl.cli.options import grouped
from molflowctl.cli.steering import MergeOptions, SteeringOptions, live_table

__all__ = ["finetune_conformers", "merge_conformers"]

HEADER = "flow         median     90 %     reward  oracle failed   min"


Ensembles = Annotated[
    Path | None, typer.Option(help="Ensembles to steer on [default: datasets/qm9-conformers].")
]
Energy = Annotated[
    str | None, typer.Option(help="GFN2-xTB, GFN1-xTB or MMFF94 [default: GFN2-xTB].")
]
Molecules = Annotated[
    int | None, typer.Option(help="Molecules of the training split to steer on [default: 256].")
]


@dataclass(frozen=True)
class Course:
    """What molecules a conformer flow is steered on, and by what energy."""

    data: Ensembles = None
    energy: Energy = None
    molecules: Molecules = None


@grouped
def finetune_conformers(
    *,
    flow: Annotated[
        str | None, typer.Argument(help="A conformer flow: a shipped one or a folder.")
    ] = None,
    kl_weight: Annotated[
        float | None,
        typer.Option(help="kcal/mol that a nat of divergence is worth [default: 0.3]."),
    ] = None,
    course: Course,
    run: SteeringOptions,
) -> None:
    """Steer a conformer flow towards low energies, by the true forces on all atoms.

    Maximises the negative energy of a conformer less --kl-weight times the divergence to the flow,
    on molecules of the training split, from the time on at which it is decided which conformer
    becomes: each is cooled and keeps its weight (--set earliest=0 prefers the lowest, too). The
    table shows energies of fresh conformers above the lowest known of their molecules, kcal/mol.

    Examples:

        molflowctl finetune-conformers qm9-conformers --data datasets/qm9-conformers -o cool/

        molflowctl finetune-conformers mine/ --energy MMFF94 --kl-weight 0.5 --utility cvar:0.2
        -o cool/

        molflowctl finetune-conformers mine/ --set solver=reinforce -o by-values/
    """
    from molflowctl.tasks.steering.settings import ConformerFinetuneConfig

    settings = run.settings(ConformerFinetuneConfig, **vars(course), flow=flow, kl_weight=kl_weight)
    from molflowctl.tasks.steering import conformers as task  # heavy: after the settings

    with live_table(HEADER, _line, run.quiet) as hooks:
        task.finetune_conformers(settings, resume=run.resume, overwrite=run.overwrite, hooks=hooks)
    run.say_next("conformers CCO --model {out} -o out.sdf")


@grouped
def merge_conformers(
    *,
    parts: MergeOptions,
    reward_weight: Annotated[
        float | None,
        typer.Option(help="Nats that a kcal/mol of the energy is worth [default: 0, no energy]."),
    ] = None,
    course: Course,
    run: SteeringOptions,
) -> None:
    """Merge conformer flows: what all of them find likely, what any does; with the energy or not.

    `a & b` is their intersection, `a | b` their union, `a - b` what a finds likely and b does not;
    circuits nest.

    Examples:

        molflowctl merge-conformers "a & b" --let a=mmff/ --let b=gfn2/ -o both/

        molflowctl merge-conformers "a & b" --let a=mmff/ --let b=gfn2/ --reward-weight 0.5
        -o cool/

        molflowctl merge-conformers "a | b" --let a=mmff/ --let b=gfn2/ --weights 1,3 -o any/
    """
    from molflowctl.tasks.steering.settings import ConformerMergeConfig

    settings = run.settings(
        ConformerMergeConfig, **vars(course), **parts.given(), reward_weight=reward_weight
    )
    from molflowctl.tasks.steering import conformers as task  # heavy: after the settings

    with live_table(HEADER, _line, run.quiet) as hooks:
        task.merge_conformers(settings, resume=run.resume, overwrite=run.overwrite, hooks=hooks)
    run.say_next("conformers CCO --model {out} -o out.sdf")


def _line(row: Any) -> str:
    return (
        f"{row.label:10s} {row.median:8.2f} {row.high:8.2f} {row.reward:10.3f} "
        f"{row.oracle_calls:7d} {row.failed:6d} {row.minutes:5.1f}"
    )
