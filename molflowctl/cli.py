"""The command line: one command is one configuration and one call of a task.

Nothing heavy is imported before a command runs. Results go to files or, with `-o -`, to standard
output; progress and messages go to standard error. Exit status: 0 done, 1 failed, 2 wrong usage,
3 fewer results than asked for, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

import molflowctl
from molflowctl.errors import UserError

__all__ = ["app", "main"]

FAILED, USAGE, FEWER, INTERRUPTED = 1, 2, 3, 130
NOTES = 40  # lines about single entries of an input that are printed
COMPUTES = {
    "benchmark", "demo", "finetune", "generate", "merge", "surrogate", "train", "train-conformers",
}  # fmt: skip

console = Console(stderr=True, soft_wrap=True)
app = typer.Typer(
    name="molflowctl",
    help="Steer and merge pre-trained flow models of 3-D molecules towards an objective.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
)
data_app = typer.Typer(help="Prepare data sets.", no_args_is_help=True)
benchmark_app = typer.Typer(help="Measure flows and libraries.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(benchmark_app, name="benchmark")


def guarded(command: Callable[..., Any]) -> Callable[..., Any]:
    """Turn what users can mend into a message and an exit status."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except UserError as error:
            console.print(f"[bold red]error:[/] {_plain(str(error))}", highlight=False)
            raise typer.Exit(FAILED) from None
        except KeyboardInterrupt:
            console.print("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(FAILED) from None
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            text = _plain(f"{where}{error.strerror or error}")
            console.print(f"[bold red]error:[/] {text}", highlight=False)
            raise typer.Exit(FAILED) from None

    return run


def _plain(text: str) -> str:
    return text.replace("[", "\\[")


def _version(show: bool) -> None:
    if show:
        print(molflowctl.__version__)
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print and exit.")
    ] = False,
) -> None:
    """Steer and merge pre-trained flow models of 3-D molecules towards an objective."""


Seed = Annotated[int, typer.Option("--seed", min=0, help="Same seed, same molecules.")]
Jobs = Annotated[
    int | None,
    typer.Option("-j", "--jobs", min=1, help="Worker processes [default: one per core]."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No progress, no summary.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")]


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@app.command()
@guarded
def generate(
    flow: Annotated[str, typer.Argument(help="A shipped flow (see `flows`) or a folder.")] = "qm9",
    n: Annotated[
        int | None, typer.Option("-n", min=1, help="Valid molecules to deliver [default: 1000].")
    ] = None,
    out: Annotated[
        str, typer.Option("-o", "--out", help=".sdf, .sdf.gz, or - for standard output.")
    ] = "library.sdf.gz",
    attempts: Annotated[
        int | None,
        typer.Option(min=1, help="Draw exactly this many, valid or not, instead of -n."),
    ] = None,
    seed: Seed = 0,
    sampler: Annotated[
        str, typer.Option(help="ancestral, euler-maruyama (stochastic), euler or heun (ODE).")
    ] = "ancestral",
    evaluations: Annotated[int, typer.Option(min=1, help="Of the network, per molecule.")] = 50,
    churn: Annotated[
        float | None,
        typer.Option(min=0, help="Noise of the ancestral sampler [default: the flow's own]."),
    ] = None,
    atoms: Annotated[
        str | None,
        typer.Option(help="Sizes such as 7-9; heavy atoms where hydrogens are implicit."),
    ] = None,
    relax: Annotated[
        str, typer.Option(help="hydrogens (those that were added), mmff (every atom) or none.")
    ] = "hydrogens",
    batch: Annotated[int | None, typer.Option(min=1, help="Molecules drawn at once.")] = None,
    jobs: Jobs = None,
    device: Device = "auto",
    keep_invalid: Annotated[
        bool, typer.Option("--keep-invalid", help="Write failed attempts too, with their reason.")
    ] = False,
    html: Annotated[str | None, typer.Option(help="Also an offline page with 3-D views.")] = None,
    grid: Annotated[str | None, typer.Option(help="Also a picture, .png or .svg.")] = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Draw molecules from a flow and write a scored SDF library.

    Examples:

        molflowctl generate qm9 -n 1000 --seed 0 -o library.sdf.gz

        molflowctl generate tuned/ -n 500 --relax mmff --html library.html -o tuned.sdf

        molflowctl generate qm9-explicit --attempts 10000 --evaluations 100 -o raw.sdf.gz
    """
    if n is not None and attempts is not None:
        raise typer.BadParameter("not together with --attempts.", param_hint="-n")
    from molflowctl.config import GenerateConfig
    from molflowctl.tasks import denovo
    from molflowctl.tasks.progress import progress_bars

    config = GenerateConfig.parse(
        {
            "flow": flow, "out": out, "attempts": attempts, "seed": seed,
            "sampler": sampler, "evaluations": evaluations, "churn": churn, "atoms": atoms,
            "relax": relax,
            "batch": batch, "jobs": jobs or _cores(), "device": device,
            "keep_invalid": keep_invalid, "resume": resume, "overwrite": overwrite,
            "html": html, "grid": grid, **({} if n is None else {"n": n}),
        },
        where="the command line",
    )  # fmt: skip
    with progress_bars(quiet) as bars:
        bar = bars.add_task("molecules", total=config.attempts or config.n)

        def show(state: denovo.Generated) -> None:
            bars.update(bar, completed=state.attempts if attempts else state.valid)

        state = denovo.generate(config, progress=show)
    if not quiet:
        _table(f"{flow} -> {out}", denovo.describe(state))
    if not state.complete:
        console.print(f"only {state.valid} of {config.n} molecules after {state.attempts} attempts")
        raise typer.Exit(FEWER)


@app.command()
@guarded
def score(
    library: Annotated[str, typer.Argument(help=".sdf, .smi or .csv, each perhaps with .gz.")],
    properties: Annotated[
        list[str],
        typer.Option("-p", "--properties", help="With commas; see `properties`; surrogate:FOLDER."),
    ],
    out: Annotated[
        str,
        typer.Option("-o", "--out", help=".sdf, .sdf.gz, .csv, .parquet, or - for SDF to stdout."),
    ],
    reference: Annotated[
        str | None,
        typer.Option(help="A library of yours: adds similarity and novelty to it."),
    ] = None,
    charges: Annotated[
        bool, typer.Option("--charges", help="Add the atoms' partial charges (GFN2-xTB; SDF only).")
    ] = False,
    relative: Annotated[
        bool,
        typer.Option(
            "--relative",
            help="Add each energy above the lowest of the molecule's adjacent records.",
        ),
    ] = False,
    jobs: Jobs = None,
    timeout: Annotated[
        float | None,
        typer.Option(min=0, help="Seconds per molecule and program, 0 for any [default: 30]."),
    ] = None,
    backend: Annotated[
        str, typer.Option(help="processes, serial (no time limit), joblib or ray.")
    ] = "processes",
    address: Annotated[
        str | None, typer.Option(help="Of a running Ray cluster, host:port or auto.")
    ] = None,
    cache: Annotated[
        str | None,
        typer.Option(help="Where values are kept [default: one file for all, see above]."),
    ] = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Compute everything, keep nothing.")
    ] = False,
    resume: Resume = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Compute properties of a library, from wherever it is.

    SMILES get hydrogens and a conformer first (ETKDGv3, MMFF94). A value that fails is left out,
    its reason is counted, and the exit status is 3. What was computed once comes from the cache,
    also after an interruption: `scores.sqlite` in `$MOLFLOWCTL_CACHE`, else in the user's cache
    folder (`~/.cache/molflowctl`).

    Examples:

        molflowctl score library.sdf.gz -p qed,sa_score,dipole_debye -o scored.sdf.gz

        molflowctl score vendor.smi -p logp -p xtb_energy_hartree -j 8 --timeout 60 -o scored.csv

        molflowctl score conformers.sdf.gz -p xtb-energy,mmff-energy --relative -o scored.sdf.gz

        molflowctl score library.sdf -p qed --reference known.smi --charges -o scored.sdf

        molflowctl score vendor.smi -p surrogate:gap/ -o scored.csv

        molflowctl score library.sdf -p homo_lumo_gap_eV --backend ray --address auto -o scored.sdf
    """
    if no_cache and cache is not None:
        raise typer.BadParameter("not together with --cache.", param_hint="--no-cache")
    from molflowctl.config import ScoreConfig
    from molflowctl.tasks import score as task
    from molflowctl.tasks.progress import progress_bars

    if timeout is None and backend != "serial":
        timeout = 30.0
    config = ScoreConfig.parse(
        {
            "library": library, "out": out, "jobs": jobs, "timeout": timeout or None,
            "properties": [name.strip() for text in properties for name in text.split(",")],
            "backend": backend, "address": address, "cache": False if no_cache else cache,
            "reference": reference, "charges": charges, "relative": relative,
            "resume": resume, "overwrite": overwrite,
        },
        where="the command line",
    )  # fmt: skip
    with progress_bars(quiet) as bars:
        bar = bars.add_task("molecules", total=None)
        state = task.score_library(
            config, lambda done, total: bars.update(bar, completed=done, total=total)
        )
    if not quiet:
        from rich import box
        from rich.table import Table

        headings, *rows = task.describe(state)
        table = Table(title=f"{library} -> {out}", title_justify="left", box=box.SIMPLE)
        for heading in headings:
            justify = "left" if heading in ("", "unit") else "right"
            table.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
        for row in rows:
            table.add_row(*row)
        console.print(table)
        for line in task.reasons(state):
            console.print(line, highlight=False, markup=False)
        console.print(
            f"{state.written:,} of {state.read:,} molecules written in {state.seconds:.1f} s; "
            f"{state.cached:,} results were in the cache",
            highlight=False,
        )
    if state.fewer:
        raise typer.Exit(FEWER)


@app.command()
@guarded
def surrogate(
    library: Annotated[str, typer.Argument(help="Scored: .sdf or .csv, perhaps with .gz.")],
    property_name: Annotated[
        str, typer.Option("-p", "--property", help="A column of the library; see `properties`.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the surrogate.")],
    seed: Annotated[int, typer.Option(min=0, help="Of the split and the networks.")] = 0,
    jobs: Jobs = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="Any other setting, key=value.")
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Train a network on a scored library, for oracles that are too slow for the loop.

    Prints its error on molecules held out, the coverage of its intervals, and how many molecules it
    refuses as far from its training set: those get a reason, not a guess. It sees the molecular
    graph alone. Use it as the property `surrogate:FOLDER`.

    Examples:

        molflowctl score library.sdf.gz -p relax_energy -o scored.sdf.gz

        molflowctl surrogate scored.sdf.gz -p relax_energy -o relax/

        molflowctl score others.smi -p surrogate:relax/ -o others.csv
    """
    from molflowctl.config import SurrogateConfig
    from molflowctl.tasks import surrogate as task
    from molflowctl.tasks.progress import progress_bars

    config = SurrogateConfig.parse(
        {
            "library": library, "property": property_name, "out": out, "seed": seed,
            "jobs": jobs or _cores(), "overwrite": overwrite,
        },
        changes,
        where="the command line",
    )  # fmt: skip
    with progress_bars(quiet) as bars:
        bar = bars.add_task("reading", total=None)

        def show(what: str, done: int, total: int) -> None:
            bars.update(bar, description=what, completed=done, total=total or None)

        trained = task.train_surrogate(config, show)
    if not quiet:
        _table(f"{library} -> {out}", task.describe(trained))
        console.print(f"use it: molflowctl score others.smi -p surrogate:{out} -o others.csv")


Utility = Annotated[
    list[str] | None,
    typer.Option(
        help="mean, cvar:LEVEL, super-quantile:LEVEL or mean-variance:WEIGHT; several add up."
    ),
]
Minimise = Annotated[bool, typer.Option("--minimise", help="Steer towards small values.")]
Rounds = Annotated[int | None, typer.Option(min=1, help="Mirror steps (8).")]
Settings = Annotated[Path | None, typer.Option("--config", help="Settings in YAML.")]
Changes = Annotated[list[str] | None, typer.Option("--set", help="Any other setting, key=value.")]


@app.command()
@guarded
def finetune(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the new flow.")],
    flow: Annotated[str | None, typer.Argument(help="A shipped flow or a folder.")] = None,
    reward: Annotated[
        str | None,
        typer.Option(help="A property (see `properties`), an expression, or surrogate:FOLDER."),
    ] = None,
    utility: Utility = None,
    divergence: Annotated[
        list[str] | None,
        typer.Option(
            help="To the prior: kl:WEIGHT, forward-kl:WEIGHT, renyi-ORDER:WEIGHT, w1:WEIGHT or "
            "mmd:WEIGHT; several add up."
        ),
    ] = None,
    kl: Annotated[float | None, typer.Option(help="Short for --divergence kl:WEIGHT (1).")] = None,
    minimise: Minimise = False,
    rounds: Rounds = None,
    seed: Seed = 0,
    jobs: Jobs = None,
    device: Device = "auto",
    config: Settings = None,
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

        molflowctl finetune qm9 --reward dipole_debye --utility super-quantile:0.8 --divergence kl:3 -o polar/

        molflowctl finetune qm9 --reward homo_lumo_gap_eV --minimise --kl 1 -o low-gap/

        molflowctl finetune --config objective.yaml -o tuned/
    """  # noqa: E501
    from molflowctl.config import FinetuneConfig
    from molflowctl.tasks import control

    if kl is not None:
        divergence = [*(divergence or []), f"kl:{kl:g}"]
    given = {
        "flow": flow, "reward": reward, "utility": utility, "divergence": divergence,
        "minimise": minimise or None, "rounds": rounds,
    }  # fmt: skip
    settings = _settings(FinetuneConfig, config, given, out, seed, jobs, device, changes)
    header = (
        "round      mean +- error     target  utility   target     KL   ESS   way  valid unique  "
        "oracle failed   min"
    )

    def line(row: control.Round) -> str:
        return (
            f"{row.step:5d} {row.mean:9.4f} +- {row.error:.4f} {row.target:10.4f} "
            f"{row.utility:8.3f} {row.target_utility:8.3f} {row.kl:6.2f} "
            f"{row.effective_size:5.0f} {row.walked:5.0%} {row.valid:6.1%} {row.unique:6.1%} "
            f"{row.oracle_calls:7d} {row.unscored:6d} {row.minutes:5.1f}"
        )

    with _steering(header, line, quiet) as hooks:
        control.finetune(settings, resume=resume, overwrite=overwrite, hooks=hooks)
    if not quiet:
        console.print(f"written: {out}   next: molflowctl generate {out} -n 1000 -o library.sdf.gz")


@app.command()
@guarded
def merge(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the new flow.")],
    circuit: Annotated[
        str | None, typer.Argument(help="Names of flows with & | - and parentheses, in quotes.")
    ] = None,
    let: Annotated[
        list[str] | None, typer.Option(help="NAME=FLOW: what a name in the circuit stands for.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Of the outermost operator's parts, for instance 1,3.")
    ] = None,
    interpolate: Annotated[
        bool, typer.Option("--interpolate", help="Between the parts, not what they share.")
    ] = False,
    reward: Annotated[
        str | None, typer.Option(help="A property or an expression, to be large beside.")
    ] = None,
    strength: Annotated[
        float | None, typer.Option(help="Weight of the reward, per standard deviation (1).")
    ] = None,
    utility: Utility = None,
    minimise: Minimise = False,
    rounds: Rounds = None,
    seed: Seed = 0,
    jobs: Jobs = None,
    device: Device = "auto",
    config: Settings = None,
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

        molflowctl merge "qm9_dipole & qm9_rings" --interpolate --weights 1,2 -o between/
    """
    from molflowctl.config import MergeConfig
    from molflowctl.tasks import merge as task

    flows = {}
    for entry in let or []:
        name, found, place = entry.partition("=")
        if not found:
            raise UserError(f"--let takes NAME=FLOW, got {entry!r}.")
        flows[name.strip()] = place.strip()
    given = {
        "circuit": circuit, "flows": flows or None, "interpolate": interpolate or None,
        "weights": None if weights is None else weights.split(","), "reward": reward,
        "strength": strength, "utility": utility, "minimise": minimise or None, "rounds": rounds,
    }  # fmt: skip
    settings = _settings(MergeConfig, config, given, out, seed, jobs, device, changes)
    header = "round      mean +- error  utility     KL  valid unique  oracle failed   min"

    def line(row: task.Step) -> str:
        return (
            f"{row.step:5d} {row.mean:9.4f} +- {row.error:.4f} {row.utility:8.3f} {row.kl:6.2f} "
            f"{row.valid:6.1%} {row.unique:6.1%} {row.oracle_calls:7d} {row.unscored:6d} "
            f"{row.minutes:5.1f}"
        )

    with _steering(header, line, quiet) as hooks:
        task.merge(settings, resume=resume, overwrite=overwrite, hooks=hooks)
    if not quiet:
        console.print(f"written: {out}   next: molflowctl generate {out} -n 1000 -o library.sdf.gz")


def _settings(
    kind: Any,
    file: Path | None,
    given: dict[str, Any],
    out: Path,
    seed: int,
    jobs: int | None,
    device: str,
    changes: list[str] | None,
) -> Any:
    """What the command line says, over what a file says."""
    import yaml

    values: dict[str, Any] = {}
    if file is not None:
        try:
            values = yaml.safe_load(file.read_text()) or {}
        except (UnicodeDecodeError, yaml.YAMLError) as error:
            raise UserError(f"{file} cannot be read as YAML: {error}") from None
        if not isinstance(values, dict):
            raise UserError(f"{file} must hold a mapping of settings.")
    values |= {key: value for key, value in given.items() if value is not None}
    values |= {"out": out, "jobs": jobs or values.get("jobs") or _cores()}
    values["seed"] = seed or values.get("seed", 0)
    values["device"] = device if device != "auto" else values.get("device", "auto")
    return kind.parse(values, changes, where=str(file or "the command line"))


@contextlib.contextmanager
def _steering(header: str, line: Callable[[Any], str], quiet: bool) -> Iterator[Any]:
    """The live table of a steering, with a bar for what is being drawn or scored."""
    from molflowctl.tasks.control import Hooks
    from molflowctl.tasks.progress import progress_bars

    label = ""
    with progress_bars(quiet) as bars:
        task = bars.add_task(label, total=None, visible=False)

        def say(text: str) -> None:
            if not quiet:
                bars.console.print(text, highlight=False, markup=False, soft_wrap=True)

        def report(row: Any) -> None:
            nonlocal header
            if header:
                say(header)
                header = ""
            say(line(row))

        def progress(what: str, done: int, total: int) -> None:
            nonlocal label
            if what != label:
                label = what
                bars.reset(task, total=total, description=what)
            bars.update(task, completed=done, visible=done < total)

        yield Hooks(report=report, say=say, progress=progress)


@app.command()
@guarded
def train(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the run.")],
    config: Annotated[
        str | None,
        typer.Option(
            "--config",
            help="A YAML file, or qm9.yaml, qm9-explicit.yaml, own.yaml [default with --init: "
            "own.yaml; with --resume: the run's own].",
        ),
    ] = None,
    init: Annotated[
        str | None, typer.Option(help="Flow to start from, a name (see `flows`) or a folder.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="A prepared data set; with --init also an SDF file, .sdf or .sdf.gz."),
    ] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="key=value, for instance minutes=30.")
    ] = None,
    device: Device = "auto",
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="CPU threads [default: OMP_NUM_THREADS, else all cores]."),
    ] = None,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Train a de-novo flow by flow matching, or let one go on learning from molecules of yours.

    With --init and an SDF file, records that the flow cannot hold are left out and counted; the
    new flow draws the sizes of the file. The file is kept in the run's folder, as a data set.

    Examples:

        molflowctl train --init qm9 --data my.sdf.gz -o my-flow/

        molflowctl train --init qm9 --data my.sdf.gz --set minutes=5 --set lr=5e-4 -o my-flow/

        molflowctl train -o my-flow/ --resume

        molflowctl train --config qm9.yaml --data datasets/qm9-implicit -o runs/qm9

        torchrun --nproc-per-node 4 -m molflowctl train --config qm9.yaml -o runs/qm9
    """
    import json

    if config is None and resume and (out / "config.yaml").exists():
        config = str(out / "config.yaml")
    if config is None and init is None:
        raise typer.BadParameter("say what to train, or --init and --data.", param_hint="--config")
    if config is None and data is None:
        raise typer.BadParameter("say what to learn from.", param_hint="--data")
    import torch

    from molflowctl.config import TrainConfig
    from molflowctl.tasks import own_library
    from molflowctl.tasks.progress import progress_bars
    from molflowctl.tasks.train import Trainer, sample_validity

    processes = int(os.getenv("LOCAL_WORLD_SIZE", 1))  # of torchrun, on this machine
    if threads or "OMP_NUM_THREADS" not in os.environ:  # which PyTorch has read
        torch.set_num_threads(threads or max(1, _cores() // processes))
    options = {"init": init, "data": data, "name": init and out.resolve().name}
    given = [f"{key}={json.dumps(str(value))}" for key, value in options.items() if value]
    settings = TrainConfig.read(config or "own.yaml", [*given, *(changes or [])])
    columns = (
        "minutes",
        "step",
        "epoch",
        "molecules_per_s",
        "lr",
        "train_loss",
        "raw_loss",
        "ema_loss",
    )

    def report(row: dict[str, float]) -> None:
        m, step, epoch, speed, lr, *losses = (row[c] for c in columns)
        valid = f"{row['ema_valid']:6.1%}" if "ema_valid" in row else "      "
        left = f"{m * (1 / row['progress'] - 1):4.0f}m" if row["progress"] else ""
        text = " ".join(f"{loss:7.4f}" for loss in losses)
        console.print(
            f"{m:8.1f} {step:7.0f} {epoch:6.2f} {speed:7.0f} {lr:9.2e} {text} {valid} {left}",
            highlight=False,
        )

    with progress_bars(quiet or not settings.data.is_file()) as bars:
        bar = bars.add_task("", total=None, visible=False)
        trainer = Trainer(
            settings,
            out,
            resume=resume,
            device=device,
            report=(lambda row: None) if quiet else report,
            validity=sample_validity,
            progress=lambda what, done, total: bars.update(
                bar, description=what, completed=done, total=total, visible=True
            ),
        )
    quiet = quiet or not trainer.fabric.is_global_zero
    if not quiet:
        if lines := own_library.describe(trainer.data.card):
            _table(f"{settings.data} -> {out}", lines)
        console.print(
            " minutes    step  epoch   mol/s        lr   train     raw     ema  valid  left"
        )
    flow = trainer.run()
    if not quiet:
        console.print(
            f"written: {flow}   next: molflowctl generate {flow} -n 100 -o library.sdf.gz"
        )


@app.command()
@guarded
def flows() -> None:
    """List the flows that are found by name: the shipped ones and those in MOLFLOWCTL_ZOO.

    Examples:

        molflowctl flows

        MOLFLOWCTL_ZOO=~/flows molflowctl flows
    """
    import json

    from molflowctl.models.zoo import flow_names

    damaged = []
    for name, folder in flow_names().items():
        try:
            card = json.loads((folder / "card.json").read_text())
            print(f"{name:16s} {card['kind']:8s} {card.get('description', '')}")
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            damaged.append(f"{folder / 'card.json'} cannot be read as a flow's card: {error!r}.")
    if damaged:
        raise UserError("\n".join(damaged))


@app.command("properties")
@guarded
def list_properties() -> None:
    """List the properties that can be scored and steered by, with their units.

    Examples:

        molflowctl properties
    """
    from molflowctl import properties

    for name in properties.names():
        item = properties.get(name)
        print(f"{name:24s} {item.unit:10s} {item.description}")


@app.command()
@guarded
def demo(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the results.")] = Path("demo"),
    n: Annotated[int, typer.Option("-n", min=2, help="Molecules from each flow.")] = 64,
    seed: Seed = 0,
    jobs: Jobs = None,
) -> None:
    """Draw molecules from the base flow and a steered one, and compare them by the real oracle.

    Writes two SDF libraries, a picture of the molecules, a before/after figure and a 3-D page.

    Examples:

        molflowctl demo

        molflowctl demo -n 200 --seed 1 -o demo-200
    """
    from molflowctl.tasks.demo import demo as run

    run(out, n=n, seed=seed, jobs=jobs or _cores(), say=lambda t: console.print(t, highlight=False))


@data_app.command("prepare")
@guarded
def prepare(
    name: Annotated[str, typer.Argument(help="qm9.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="[default: datasets/NAME-HYDROGENS]")
    ] = None,
    hydrogens: Annotated[str, typer.Option(help="implicit or explicit.")] = "implicit",
    source: Annotated[
        Path | None,
        typer.Option(
            help="qm9pack's CSV folder or wheel, or the official archive [default: found]."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the split.")] = 0,
    jobs: Jobs = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Prepare a data set: bonds and charges matched to the geometry, checked, split.

    Examples:

        molflowctl data prepare qm9

        molflowctl data prepare qm9 --hydrogens explicit -o datasets/qm9-explicit
    """
    if name != "qm9":
        raise UserError(f"there is no recipe for {name!r}; known: qm9.")
    from molflowctl.tasks.prepare import prepare_qm9

    folder = out or Path("datasets") / f"{name}-{hydrogens}"
    data = prepare_qm9(
        folder,
        hydrogens,  # type: ignore[arg-type]
        source,
        seed,
        jobs or _cores(),
        not quiet,
        overwrite,
    )
    if not quiet:
        console.print(f"written: {folder}, {len(data):,} molecules")


@data_app.command("subset")
@guarded
def data_subset(
    data: Annotated[Path, typer.Argument(help="A prepared data set.")],
    property_name: Annotated[
        str, typer.Option("-p", "--property", help="A property, see `properties`.")
    ],
    interval: Annotated[
        str, typer.Option("--range", help="Values to keep, ends included: 4:8, 4: or :3.5.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the new data set.")],
    limit: Annotated[
        int | None, typer.Option(min=1, help="Molecules to score, drawn at random [default: all].")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw and the split.")] = 0,
    jobs: Jobs = None,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds per molecule, 0 for any.")] = 30.0,
    cache: Annotated[
        str | None, typer.Option(help="Where values are kept [default: as for `score`].")
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Keep the training molecules of a data set whose property is in a range, to train on.

    Molecules are scored by the real program, hydrogens completed, at the data set's geometry.
    Values go to the cache of `score`, so that an interrupted run goes on where it was.

    Examples:

        molflowctl data subset datasets/qm9-implicit -p dipole_debye --range 4: -o datasets/polar

        molflowctl data subset datasets/qm9-implicit -p rings --range 3: --limit 9000 -o my-rings

        molflowctl train --init qm9 --data datasets/polar -o polar/
    """
    from molflowctl.tasks import subset as task
    from molflowctl.tasks.progress import progress_bars

    low, high = task.parse_range(interval)
    config = task.SubsetConfig.parse(
        {
            "data": data, "out": out, "property": property_name, "low": low, "high": high,
            "limit": limit, "seed": seed, "jobs": jobs or _cores(), "timeout": timeout or None,
            "cache": cache, "overwrite": overwrite,
        },
        where="the command line",
    )  # fmt: skip
    with progress_bars(quiet) as bars:
        bar = bars.add_task("scoring", total=None)
        kept = task.subset(config, lambda done, of: bars.update(bar, completed=done, total=of))
    if not quiet:
        _table(f"{data} -> {out}", task.describe(kept.card))
        console.print(f"next: molflowctl train --init qm9 --data {out} -o my-flow/")


@app.command()
@guarded
def conformers(
    source: Annotated[
        str,
        typer.Argument(metavar="INPUT", help="A SMILES, or a .smi, .csv or .sdf, perhaps .gz."),
    ],
    n: Annotated[int, typer.Option("-n", min=1, help="Drawn of each stereoisomer.")] = 50,
    out: Annotated[
        str, typer.Option("-o", "--out", help=".sdf, .sdf.gz, or - for standard output.")
    ] = "conformers.sdf.gz",
    model: Annotated[
        str, typer.Option(help="A conformer flow, by name or folder; or etkdg, RDKit's ETKDGv3.")
    ] = "qm9-conformers",
    relax: Annotated[str, typer.Option(help="none, mmff, or gfn2 (GFN2-xTB).")] = "mmff",
    prune: Annotated[
        float,
        typer.Option(min=0, help="Least RMSD between two, heavy atoms, angstrom; 0 keeps all."),
    ] = 0.5,
    energy_window: Annotated[float, typer.Option(help="Above the lowest, kcal/mol.")] = 6.0,
    boltzmann: Annotated[float, typer.Option(help="Temperature of the weights, kelvin.")] = 298.0,
    isomers: Annotated[
        int, typer.Option(min=1, help="Stereoisomers made of an input that leaves some open.")
    ] = 8,
    steps: Annotated[int, typer.Option(min=1, help="From noise to conformer.")] = 25,
    sampler: Annotated[
        str, typer.Option(help="ancestral, euler-maruyama (stochastic), euler or heun (ODE).")
    ] = "ancestral",
    timeout: Annotated[float, typer.Option(help="Seconds per stereoisomer.")] = 600.0,
    seed: Seed = 0,
    jobs: Jobs = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Low-energy conformers of given molecules, sorted by energy, with Boltzmann weights.

    Stereo that the input specifies holds in every record: a conformer that breaks it is drawn
    again, and counted. What the input leaves open is enumerated. Salts, unknown elements,
    duplicates and bad lines are said by line; the exit status is 3 if a molecule could not be done.

    Examples:

        molflowctl conformers "C[C@H](O)CN" -n 20 -o aminopropanol.sdf

        molflowctl conformers library.smi -n 50 --relax gfn2 --energy-window 4 -o out.sdf.gz

        molflowctl conformers library.csv --model etkdg --prune 0.75 -o etkdg.sdf.gz
    """
    from molflowctl.config import ConformersConfig
    from molflowctl.tasks import conformers as task
    from molflowctl.tasks.progress import progress_bars

    config = ConformersConfig.parse(
        {
            "source": source, "out": out, "n": n, "model": model, "relax": relax, "prune": prune,
            "energy_window": energy_window, "boltzmann": boltzmann, "isomers": isomers,
            "steps": steps, "sampler": sampler, "timeout": timeout, "seed": seed,
            "jobs": jobs or _cores(), "device": device, "overwrite": overwrite,
        },
        where="the command line",
    )  # fmt: skip
    with progress_bars(quiet) as bars:
        bar = bars.add_task("molecules", total=None)
        state = task.generate_conformers(
            config, progress=lambda done, total: bars.update(bar, completed=done, total=total)
        )
    for line in state.notes[:NOTES]:
        console.print(line, highlight=False, markup=False)
    if len(state.notes) > NOTES:
        console.print(f"and {len(state.notes) - NOTES} more such notes, all in the run record")
    if not quiet:
        _table(f"{source} -> {out}", task.describe(state))
    if state.failed:
        raise typer.Exit(FEWER)


@app.command("train-conformers")
@guarded
def train_conformers(
    config: Annotated[str, typer.Option("--config", help="A YAML file, or qm9-conformers.yaml.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the run.")],
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="key=value, for instance minutes=30.")
    ] = None,
    device: Device = "auto",
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="CPU threads [default: OMP_NUM_THREADS, else all cores]."),
    ] = None,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Train a conformer flow by flow matching on ensembles.

    Examples:

        molflowctl data prepare-conformers datasets/qm9-explicit -o datasets/qm9-conformers

        molflowctl train-conformers --config qm9-conformers.yaml -o runs/qm9-conformers

        molflowctl train-conformers --config qm9-conformers.yaml -o runs/qm9-conformers --resume
    """
    import torch

    from molflowctl.config import ConformerTrainConfig
    from molflowctl.tasks.train_conformers import ConformerTrainer

    if threads or "OMP_NUM_THREADS" not in os.environ:  # which PyTorch has read
        torch.set_num_threads(threads or _cores())
    columns = (
        ("minutes", 8, ".1f"), ("step", 7, ".0f"), ("epoch", 6, ".2f"),
        ("molecules_per_s", 7, ".0f"), ("lr", 9, ".2e"), ("train_loss", 7, ".4f"),
        ("raw_loss", 7, ".4f"), ("ema_loss", 7, ".4f"), ("recall", 7, ".3f"),
        ("precision", 7, ".3f"), ("stereo", 7, ".1%"),
    )  # fmt: skip

    def report(row: dict[str, float]) -> None:
        cells = [
            f"{row[name]:{width}{form}}" if name in row else " " * width
            for name, width, form in columns
        ]
        left = row["minutes"] * (1 / row["progress"] - 1) if row["progress"] else float("nan")
        console.print(" ".join(cells), f"{left:4.0f}m", highlight=False)

    trainer = ConformerTrainer(
        ConformerTrainConfig.read(config, changes),
        out,
        resume=resume,
        device=device,
        jobs=threads or _cores(),
        report=(lambda row: None) if quiet else report,
    )
    if not quiet:
        heads = dict(zip((name for name, *_ in columns), (
            "minutes", "step", "epoch", "mol/s", "lr", "train", "raw", "ema", "AMR-R", "AMR-P",
            "stereo",
        ), strict=True))  # fmt: skip
        console.print(" ".join(f"{heads[name]:>{width}}" for name, width, _ in columns), " left")
    flow = trainer.run()
    if not quiet:
        console.print(
            f"written: {flow}   next: molflowctl conformers library.smi --model {flow} "
            "-o conformers.sdf.gz"
        )


@data_app.command("prepare-conformers")
@guarded
def prepare_conformers(
    source: Annotated[
        str, typer.Argument(help="Folder of a data set, or a .smi or .csv, perhaps .gz.")
    ],
    out: Annotated[str, typer.Option("-o", "--out", help="Folder of the ensembles.")],
    starts: Annotated[int, typer.Option(min=1, help="Of ETKDGv3, per molecule.")] = 10,
    relax: Annotated[str, typer.Option(help="mmff, or gfn2 after it.")] = "mmff",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Molecules, drawn at random [default: all].")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Only train, validation or test [default: all].")
    ] = None,
    sdf: Annotated[str | None, typer.Option(help="Also an SDF library of the ensembles.")] = None,
    seed: Seed = 0,
    jobs: Jobs = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="Any other setting, key=value.")
    ] = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Ensembles of conformers: many starts, relaxed, pruned and weighed.

    The stereo of a data set with geometries is theirs, and so is its split. Molecules of a file are
    split by a hash, 90 % for training and 5 % each for validation and test.

    Examples:

        molflowctl data prepare-conformers datasets/qm9-explicit -o datasets/qm9-conformers

        molflowctl data prepare-conformers datasets/qm9-explicit --split test --limit 300
        --starts 100 --relax gfn2 --sdf references.sdf.gz -o datasets/qm9-references

        molflowctl data prepare-conformers moses.csv --limit 20000 -o datasets/moses-conformers
    """
    from molflowctl.config import EnsembleConfig
    from molflowctl.tasks.ensembles import prepare_ensembles
    from molflowctl.tasks.progress import progress_bars

    config = EnsembleConfig.parse(
        {
            "source": source, "out": out, "starts": starts, "relax": relax, "limit": limit,
            "split": split, "sdf": sdf, "seed": seed, "jobs": jobs or _cores(),
            "name": Path(out).name, "resume": resume, "overwrite": overwrite,
        },
        changes,
        where="the command line",
    )  # fmt: skip
    with progress_bars(quiet) as bars:
        bar = bars.add_task("molecules", total=None)
        data = prepare_ensembles(
            config, progress=lambda done, total: bars.update(bar, completed=done, total=total)
        )
    if not quiet:
        for reason, count in data.card["left_out"].items():
            console.print(f"left out: {count:,} {reason}", highlight=False, markup=False)
        console.print(f"written: {out}, {len(data.energies):,} conformers of {len(data):,}")


@benchmark_app.command("denovo")
@guarded
def benchmark_denovo(
    source: Annotated[str, typer.Argument(help="A flow, or an SDF file of any origin.")] = "qm9",
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the tables.")] = Path(
        "benchmark"
    ),
    n: Annotated[
        int | None, typer.Option("-n", min=1, help="Attempts [default: 1000, or all of a file].")
    ] = None,
    seed: Seed = 0,
    evaluations: Annotated[int, typer.Option(min=1, help="Of the network, per molecule.")] = 50,
    jobs: Jobs = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="Any other setting, key=value.")
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Measure stability, validity, novelty, PoseBusters, relaxation, distributions and speed.

    Examples:

        molflowctl benchmark denovo qm9 -n 10000 -o results/qm9

        molflowctl benchmark denovo qm9 --set quality=[10,20,50,100] -o results/quality

        molflowctl benchmark denovo their-library.sdf.gz -o results/theirs
    """
    from molflowctl.tasks.benchmark import BenchmarkConfig
    from molflowctl.tasks.benchmark import benchmark_denovo as run

    config = BenchmarkConfig.parse(
        {
            "source": source,
            "n": n,
            "seed": seed,
            "evaluations": evaluations,
            "jobs": jobs or _cores(),
        },
        changes,
        where="the command line",
    )
    run(config, out, overwrite=overwrite, quiet=quiet)
    if not quiet:
        print((out / "table.md").read_text())


@benchmark_app.command("compare")
@guarded
def benchmark_compare(
    flows: Annotated[list[str], typer.Argument(help="Shipped flows or folders, the prior first.")],
    names: Annotated[
        str, typer.Option("-p", "--properties", help="Judged by, separated by commas.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of tables and figures.")],
    n: Annotated[int, typer.Option("-n", min=32, help="Attempts of each.")] = 2000,
    minimise: Minimise = False,
    jobs: Jobs = None,
    device: Device = "auto",
    changes: Changes = None,
    quiet: Quiet = False,
) -> None:
    """Flows beside each other: validity, means and tails of properties, diversity, pictures.

    Examples:

        molflowctl benchmark compare qm9 tuned/ -p dipole_debye,qed -o benchmarks/denovo/dipole
    """
    from molflowctl.tasks.compare import CompareConfig, compare

    config = CompareConfig.parse(
        {
            "flows": flows, "properties": [p.strip() for p in names.split(",")], "n": n,
            "minimise": minimise, "jobs": jobs or _cores(), "device": device,
        },
        changes,
        where="the command line",
    )  # fmt: skip
    compare(config, out, quiet=quiet)
    if not quiet:
        print((out / "table.md").read_text())


@benchmark_app.command("analytic")
@guarded
def benchmark_analytic(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the tables.")] = Path(
        "analytic"
    ),
    only: Annotated[
        list[str] | None, typer.Option(help="Only problems whose name holds this; repeatable.")
    ] = None,
    seed: Seed = 0,
    jobs: Jobs = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="Any other setting, key=value.")
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Control and merge densities whose optima are known; an interrupted benchmark goes on.

    Examples:

        molflowctl benchmark analytic -o results/analytic

        molflowctl benchmark analytic --only union --only "CVaR 0.3" -o results/some
    """
    from molflowctl.tasks.analytic_benchmark import AnalyticConfig
    from molflowctl.tasks.analytic_benchmark import benchmark_analytic as run

    config = AnalyticConfig.parse(
        {"seed": seed, "jobs": jobs or _cores(), "only": only or []},
        changes,
        where="the command line",
    )
    run(config, out, overwrite=overwrite, quiet=quiet)
    if not quiet:
        print((out / "table.md").read_text())


@benchmark_app.command("conformers")
@guarded
def benchmark_conformers(
    reference: Annotated[
        str, typer.Option(help="An SDF library; conformers of one title are one ensemble.")
    ],
    model: Annotated[
        list[str],
        typer.Option(help="A conformer flow or etkdg, perhaps with +mmff or +gfn2; repeatable."),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the tables.")] = Path(
        "conformer-benchmark"
    ),
    limit: Annotated[int | None, typer.Option(min=1, help="Molecules [default: all].")] = None,
    steps: Annotated[int, typer.Option(min=1, help="From noise to conformer.")] = 25,
    seed: Seed = 0,
    jobs: Jobs = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="Any other setting, key=value.")
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Coverage, RMSD, stereo, PoseBusters, energies and speed against reference ensembles.

    Examples:

        molflowctl benchmark conformers --reference references.sdf.gz --model qm9-conformers
        --model etkdg --model etkdg+mmff -o results/conformers
    """
    from molflowctl.tasks.conformer_benchmark import ConformerBenchmarkConfig
    from molflowctl.tasks.conformer_benchmark import benchmark_conformers as run
    from molflowctl.tasks.progress import progress_bars

    config = ConformerBenchmarkConfig.parse(
        {
            "reference": reference, "models": model, "limit": limit, "steps": steps, "seed": seed,
            "jobs": jobs or _cores(),
        },
        changes,
        where="the command line",
    )  # fmt: skip
    with progress_bars(quiet) as bars:
        bar = bars.add_task("molecules", total=None)

        def show(name: str, done: int, total: int) -> None:
            bars.update(bar, description=name, completed=done, total=total)

        text = run(config, out, overwrite=overwrite, progress=show)
    if not quiet:
        print(text)


def _table(title: str, lines: list[tuple[str, str]]) -> None:
    from rich.table import Table

    table = Table(title=title, show_header=False, title_justify="left")
    for label, figure in lines:
        table.add_row(label, figure)
    console.print(table)


def main() -> None:
    """Entry point of the console script."""
    if COMPUTES & set(sys.argv[1:2]) and sys.platform == "linux" and "--help" not in sys.argv:
        from molflowctl.parallel import KEEP_MEMORY

        if not os.environ.items() >= KEEP_MEMORY.items():
            os.environ |= KEEP_MEMORY  # read by the C library when a process starts
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    app()
