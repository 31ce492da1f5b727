"""`finetune-conformers` and `merge-conformers`: conformer flows made of conformer flows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from molflowctl.cli.console import console
from molflowctl.cli.options import (
    Changes,
    Circuit,
    ConfigFile,
    FlowFolder,
    Jobs,
    Let,
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

__all__ = ["finetune_conformers", "merge_conformers"]

HEADER = "flow         median     90 %     reward  oracle failed   min"

Ensembles = Annotated[
    Path | None,
    typer.Option(help="Ensembles to steer on (datasets/qm9-conformers)."),
]
Energy = Annotated[str | None, typer.Option(help="GFN2-xTB (the default), GFN1-xTB or MMFF94.")]
Molecules = Annotated[
    int | None, typer.Option(help="Molecules of the training split to steer on (256).")
]


def finetune_conformers(
    out: FlowFolder,
    flow: Annotated[
        str | None, typer.Argument(help="A conformer flow: a shipped one or a folder.")
    ] = None,
    data: Ensembles = None,
    energy: Energy = None,
    kl: Annotated[
        float | None, typer.Option(help="kcal/mol that a nat of divergence is worth (0.3).")
    ] = None,
    utility: Utility = None,
    molecules: Molecules = None,
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
    """Steer a conformer flow towards low energies, by the true forces on all atoms.

    Maximises the negative energy of a conformer less --kl times the divergence to the flow, on
    molecules of the training split, from the time on at which it is decided which conformer
    becomes: each is cooled and keeps its weight (--set earliest=0 prefers the lowest, too). The
    table shows energies of fresh conformers above the lowest known of their molecules, kcal/mol.

    Examples:

        molflowctl finetune-conformers qm9-conformers --data datasets/qm9-conformers -o cool/

        molflowctl finetune-conformers mine/ --energy MMFF94 --kl 0.5 --utility cvar:0.2 -o cool/

        molflowctl finetune-conformers mine/ --set solver=reinforce -o by-values/
    """
    from molflowctl.tasks.steering.settings import ConformerFinetuneConfig

    given = {
        "flow": flow, "data": data, "energy": energy, "kl": kl, "utility": utility,
        "molecules": molecules, "rounds": rounds,
        "out": out, "seed": seed, "jobs": jobs, "device": device,
    }  # fmt: skip
    settings = settings_of(ConformerFinetuneConfig, config, given, changes, resume)
    from molflowctl.tasks.steering import conformers as task  # heavy: after the settings

    with live_table(HEADER, _line, quiet) as hooks:
        task.finetune_conformers(settings, resume=resume, overwrite=overwrite, hooks=hooks)
    if not quiet:
        console.print(f"written: {out}   next: molflowctl conformers CCO --model {out} -o out.sdf")


def merge_conformers(
    out: FlowFolder,
    circuit: Circuit = None,
    let: Let = None,
    weights: Weights = None,
    strength: Annotated[
        float | None,
        typer.Option(help="Nats that a kcal/mol of the energy is worth beside (0: none)."),
    ] = None,
    utility: Utility = None,
    data: Ensembles = None,
    energy: Energy = None,
    molecules: Molecules = None,
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
    """Merge conformer flows: what all of them find likely, what any does; with the energy or not.

    `a & b` is their intersection, `a | b` their union, `a - b` what a finds likely and b does not;
    circuits nest.

    Examples:

        molflowctl merge-conformers "a & b" --let a=mmff/ --let b=gfn2/ -o both/

        molflowctl merge-conformers "a & b" --let a=mmff/ --let b=gfn2/ --strength 0.5 -o cool/

        molflowctl merge-conformers "a | b" --let a=mmff/ --let b=gfn2/ --weights 1,3 -o any/
    """
    from molflowctl.tasks.steering.settings import ConformerMergeConfig

    given = {
        "circuit": circuit, "flows": named_flows(let), "strength": strength,
        "weights": weights_of(weights), "utility": utility,
        "data": data, "energy": energy, "molecules": molecules, "rounds": rounds,
        "out": out, "seed": seed, "jobs": jobs, "device": device,
    }  # fmt: skip
    settings = settings_of(ConformerMergeConfig, config, given, changes, resume)
    from molflowctl.tasks.steering import conformers as task  # heavy: after the settings

    with live_table(HEADER, _line, quiet) as hooks:
        task.merge_conformers(settings, resume=resume, overwrite=overwrite, hooks=hooks)
    if not quiet:
        console.print(f"written: {out}   next: molflowctl conformers CCO --model {out} -o out.sdf")


def _line(row: Any) -> str:
    return (
        f"{row.label:10s} {row.median:8.2f} {row.high:8.2f} {row.reward:10.3f} "
        f"{row.oracle_calls:7d} {row.failed:6d} {row.minutes:5.1f}"
    )
