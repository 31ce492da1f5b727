"""Options that several commands have, each declared once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from molflowctl.compute.parallel import cores
from molflowctl.compute.plugins import import_file
from molflowctl.compute.seeds import LAST_SEED

__all__ = [
    "Changes",
    "Circuit",
    "ConfigFile",
    "Device",
    "Evaluations",
    "FlowFolder",
    "Jobs",
    "Let",
    "LibraryFile",
    "Minimise",
    "Multiplicity",
    "NameColumn",
    "Neutralise",
    "Overwrite",
    "Quiet",
    "Resume",
    "Rounds",
    "RunFolder",
    "SaltRule",
    "Sampler",
    "Seed",
    "SmilesColumn",
    "SteeringDevice",
    "SteeringSeed",
    "Steps",
    "TablesFolder",
    "Threads",
    "TrainingChanges",
    "Utility",
    "Weights",
    "cores",
    "importing",
    "output",
    "seeded",
]


def output(text: str) -> Any:
    """`-o`, where results go."""
    return typer.Option("-o", "--out", help=text)


def seeded(text: str) -> Any:
    """`--seed`, of what `text` says."""
    return typer.Option("--seed", min=0, max=LAST_SEED, help=text)


SmilesColumn = Annotated[
    str | None,
    typer.Option(help="Column of SMILES in a table [default: smiles, structure or the like]."),
]
NameColumn = Annotated[
    str | None,
    typer.Option(help="Column of names in a table [default: name, title, id or the like]."),
]


def _changed(text: str) -> Any:
    """`--set`, for what has no option of its own."""
    return typer.Option("--set", help=text)


LibraryFile = Annotated[str, output(".sdf, .sdf.gz, or - for standard output.")]
FlowFolder = Annotated[Path, output("Folder of the new flow.")]
RunFolder = Annotated[Path, output("Folder of the run.")]
TablesFolder = Annotated[Path, output("Folder of the tables.")]

Seed = Annotated[int, seeded("Same seed, same molecules.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")]
# Beside a file of settings: None where not given, so that what was given wins, a default too.
SteeringSeed = Annotated[int | None, seeded("Same seed, same molecules. [default: 0]")]
SteeringDevice = Annotated[
    str | None, typer.Option(help="auto, cpu, cuda or cuda:1. [default: auto]")
]
Jobs = Annotated[
    int | None,
    typer.Option("-j", "--jobs", min=1, help="Worker processes [default: one per core]."),
]
Threads = Annotated[
    int | None,
    typer.Option(min=1, help="CPU threads [default: OMP_NUM_THREADS, else all cores]."),
]

Evaluations = Annotated[int, typer.Option(min=1, help="Of the network, per molecule.")]
Steps = Annotated[int, typer.Option(min=1, help="From noise to conformer.")]
Sampler = Annotated[
    str, typer.Option(help="ancestral, euler-maruyama (stochastic), euler or heun (ODE).")
]

Utility = Annotated[
    list[str] | None,
    typer.Option(
        help="mean, cvar:LEVEL, super-quantile:LEVEL, mean-variance:WEIGHT, diversity:WEIGHT or "
        "(of `finetune`) entropy:WEIGHT; several add up."
    ),
]
Circuit = Annotated[
    str | None, typer.Argument(help="Names of flows with & | - and parentheses, in quotes.")
]
Let = Annotated[
    list[str] | None, typer.Option(help="NAME=FLOW: what a name in the circuit stands for.")
]
Weights = Annotated[
    str | None, typer.Option(help="Of the outermost operator's parts, for instance 1,3.")
]
Minimise = Annotated[bool, typer.Option("--minimise", help="Steer towards small values.")]
Multiplicity = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Spin of every molecule in xTB: 1 singlet, 2 doublet, 3 triplet [default: as a record "
        "says by M  RAD or a tag `multiplicity`, else 1 or 2 by its electrons].",
    ),
]
Rounds = Annotated[int | None, typer.Option(min=1, help="Mirror steps (8).")]

SaltRule = Annotated[
    str,
    typer.Option(
        "--salts",
        help="Of several fragments that need a geometry: refuse them, strip to the parent, or keep "
        "all, set apart and relaxed together.",
    ),
]
Neutralise = Annotated[
    bool,
    typer.Option("--neutralise", help="With --salts strip: also remove the charges that can be."),
]

ConfigFile = Annotated[Path | None, typer.Option("--config", help="Settings in YAML.")]
Changes = Annotated[list[str] | None, _changed("Any other setting, key=value.")]
TrainingChanges = Annotated[list[str] | None, _changed("key=value, for instance minutes=30.")]

Imports = Annotated[
    list[Path] | None,
    typer.Option(
        "--import",
        metavar="FILE.py",
        help="Import a Python file first: a property or a kind of flow of your own.",
    ),
]


def importing(command: Callable[..., None]) -> Callable[..., None]:
    """The command with `--import`, for properties and flows of the user's own."""

    @functools.wraps(command)
    def run(*args: Any, imports: list[Path] | None = None, **kwargs: Any) -> None:
        for file in imports or []:
            import_file(file)
        command(*args, **kwargs)

    found = inspect.signature(command, eval_str=True)
    extra = inspect.Parameter(
        "imports", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Imports
    )
    run.__signature__ = found.replace(  # type: ignore[attr-defined]
        parameters=[*found.parameters.values(), extra]
    )
    run.__annotations__ = {**command.__annotations__, "imports": Imports}
    return run


Resume = Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No progress, no summary.")]
