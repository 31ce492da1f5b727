"""Options that several commands have, each declared once."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from molflowctl.compute.parallel import cores
from molflowctl.compute.plugins import import_file
from molflowctl.compute.seeds import LAST_SEED

__all__ = [
    "Changes",
    "Circuit",
    "Columns",
    "Command",
    "ConfigFile",
    "ConformerNfe",
    "Device",
    "FlowFolder",
    "Fragments",
    "Grid",
    "Html",
    "Jobs",
    "Let",
    "LibraryFile",
    "Measuring",
    "Minimise",
    "MirrorSteps",
    "Multiplicity",
    "NameColumn",
    "Neutralise",
    "Nfe",
    "Overwrite",
    "Pictures",
    "Products",
    "Quiet",
    "Resumable",
    "Resume",
    "RunFolder",
    "SaltRule",
    "Sampler",
    "ScoredLibrary",
    "Seed",
    "SelectedFile",
    "SmilesColumn",
    "SteeringDevice",
    "SteeringSeed",
    "Stochasticity",
    "TablesFolder",
    "Threads",
    "Training",
    "TrainingChanges",
    "Utility",
    "Weights",
    "cores",
    "grouped",
    "importing",
    "kept_in",
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


def kept_in(default: str) -> Any:
    """`--cache`, the file of known values."""
    return typer.Option(help=f"Where values are kept [default: {default}].")


LibraryFile = Annotated[str, output(".sdf, .sdf.gz, or - for standard output.")]
SelectedFile = Annotated[str, output(".sdf, .sdf.gz, .csv, .parquet, .smi, .xyz, .pdb; - for SDF.")]
ScoredLibrary = Annotated[
    str, typer.Argument(help="Scored: .sdf, .csv or .parquet, perhaps with .gz; or -.")
]
FlowFolder = Annotated[Path, output("Folder of the new flow.")]
RunFolder = Annotated[Path, output("Folder of the run.")]
TablesFolder = Annotated[Path, output("Folder of the tables.")]

Seed = Annotated[int, seeded("Same seed, same molecules.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")]
Products = Annotated[
    str,
    typer.Option(
        help="Of a network's products: float32, bf16 (twice as fast where the machine has units "
        "for it), or auto."
    ),
]
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

Nfe = Annotated[int, typer.Option(min=1, help="Network function evaluations, per molecule.")]
ConformerNfe = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Network function evaluations, per conformer [default: what the flow's card "
        "recommends, else 25; twice as many by heun].",
    ),
]
Stochasticity = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="Noise of the ancestral sampler: 0 none, 1 the memoryless process [default: the "
        "flow's own].",
    ),
]
Sampler = Annotated[
    str, typer.Option(help="ancestral, euler-maruyama (stochastic), euler or heun (ODE).")
]

Utility = Annotated[
    list[str] | None,
    typer.Option(
        help="mean, cvar:SHARE of the worst, upper-cvar:SHARE of the best (cvar:0.2 the worst "
        "fifth, upper-cvar:0.2 the best), mean-variance:WEIGHT, diversity:WEIGHT or (of "
        "`finetune`) entropy:WEIGHT; several add up."
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
Minimise = Annotated[
    bool, typer.Option("--minimise", help="Small values are good; also --minimize.")
]
Multiplicity = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Spin of every molecule in xTB: 1 singlet, 2 doublet, 3 triplet [default: as a record "
        "says by M  RAD or a tag `multiplicity`, else 1 or 2 by its electrons].",
    ),
]
MirrorSteps = Annotated[
    int | None, typer.Option(min=1, help="Mirror steps [default: 8, of conformers 6].")
]

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
    typer.Option(
        "--neutralise",
        help="With --salts strip: also remove the charges that can be; or --neutralize.",
    ),
]
Html = Annotated[str | None, typer.Option(help="Also an offline page with 3-D views.")]
Grid = Annotated[str | None, typer.Option(help="Also a picture, .png or .svg.")]

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


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options of its groups one by one.

    A group is a parameter whose type is a data class of options, which the command gets whole.
    """
    found = inspect.signature(command, eval_str=True)
    groups: dict[str, Any] = {
        name: parameter.annotation
        for name, parameter in found.parameters.items()
        if dataclasses.is_dataclass(parameter.annotation)
    }
    single: list[inspect.Parameter] = []
    for name, parameter in found.parameters.items():
        kept = [parameter]
        if name in groups:
            kept = list(inspect.signature(groups[name], eval_str=True).parameters.values())
        single += [item.replace(kind=inspect.Parameter.KEYWORD_ONLY) for item in kept]

    @functools.wraps(command)
    def run(**kwargs: Any) -> None:
        for name, kind in groups.items():
            own = [field.name for field in dataclasses.fields(kind)]
            kwargs[name] = kind(**{key: kwargs.pop(key) for key in own if key in kwargs})
        command(**kwargs)

    run.__signature__ = found.replace(parameters=single)  # type: ignore[attr-defined]
    run.__annotations__ = {item.name: item.annotation for item in single} | {"return": None}
    return run


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


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Where a table has what is read."""

    smiles_column: SmilesColumn = None
    name_column: NameColumn = None


@dataclass(frozen=True, kw_only=True)
class Fragments:
    """What is done with salts and mixtures."""

    salts: SaltRule = "refuse"
    neutralise: Neutralise = False


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """What else is made of a library."""

    html: Html = None
    grid: Grid = None


@dataclass(frozen=True, kw_only=True)
class Resumable:
    """How a command treats what is there."""

    resume: Resume = False
    overwrite: Overwrite = False


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """What every benchmark can be told."""

    jobs: Jobs = None
    changes: Changes = None
    overwrite: Overwrite = False
    quiet: Quiet = False


@dataclass(frozen=True, kw_only=True)
class Training:
    """What both trainings can be told."""

    out: RunFolder
    changes: TrainingChanges = None
    device: Device = "auto"
    threads: Threads = None
    resume: Resume = False
    quiet: Quiet = False

    def config_of_run(self, config: str | None) -> str | None:
        """The file of settings: a run that is resumed without one has its own."""
        begun = self.out / "config.yaml"
        return str(begun) if config is None and self.resume and begun.exists() else config

    def limit_threads(self) -> None:
        """Give PyTorch the threads that were asked for, else its share of the cores."""
        import torch

        processes = int(os.getenv("LOCAL_WORLD_SIZE", 1))  # of torchrun, on this machine
        if self.threads or "OMP_NUM_THREADS" not in os.environ:  # which PyTorch has read
            torch.set_num_threads(self.threads or max(1, cores() // processes))


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


class Command(TyperCommand):
    """A command that takes options by their old names, with a warning; --help shows the new.

    Its numbers are everybody's: `1_000` is one to Python alone.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        args = self._renamed(ctx, args)
        rest = super().parse_args(ctx, list(args))
        given, *_ = self.make_parser(ctx).parse_args(args=list(args))
        option: Any
        for option in self.params:
            text, value = (of.get(option.name or "") for of in (given, ctx.params))
            if isinstance(text, str) and "\0" in text:
                raise typer.BadParameter("it holds a zero byte", ctx=ctx, param=option)
            if isinstance(text, str) and "_" in text and isinstance(value, int | float):
                raise typer.BadParameter(
                    f"{text!r} is no number: leave out the _", ctx=ctx, param=option
                )
        return rest

    def _renamed(self, ctx: Any, args: list[str]) -> list[str]:
        known = {option for parameter in self.params for option in parameter.opts}
        unknown = {arg.partition("=")[0] for arg in args if arg.startswith("--")} - known - {"--"}
        if not unknown:
            return args
        from molflowctl.io.config import SPELLINGS, of_a_record, tell_old_name
        from molflowctl.tasks.settings import COMMANDS, config_of

        name, above = ctx.info_name, ctx.parent
        while above is not None and above.parent is not None:
            name, above = f"{above.info_name} {name}", above.parent
        if name not in COMMANDS:
            return args
        kind = config_of(name)
        spelled = {_option(american): _option(british) for american, british in SPELLINGS.items()}
        old = {_option(name): name for name in kind.every_old_name()}
        found, rest = [], iter(args)
        for arg in rest:
            option, sign, value = arg.partition("=")
            if option not in unknown or option not in old:
                found.append(spelled.get(arg, arg) if spelled.get(arg) in known else arg)
                continue
            if not sign and (value := next(rest, "")) == "":
                return args  # no value follows: which is told of the option as it was written
            given = {old[option]: value, **_sampler(args)}
            with of_a_record():
                now = kind.with_new_names(given)
            new = kind.every_old_name()[old[option]]
            tell_old_name(f"{option} {value}", f"{_option(new)} {now[new]}")
            found += [_option(new), str(now[new])]
        return found


def _sampler(args: list[str]) -> dict[str, str]:
    """The sampler, by which the steps of an old option count as evaluations."""
    pairs = zip(args, [*args[1:], ""], strict=True)
    named = [value for option, value in pairs if option == "--sampler"]
    named += [arg.partition("=")[2] for arg in args if arg.startswith("--sampler=")]
    return {"sampler": named[-1]} if named else {}
