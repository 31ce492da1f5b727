"""The command line: one command is one configuration and one call of a task.

Here is the tree of commands; each is a function of the module of its group. Nothing heavy is
imported before a command runs. Results go to files or, with `-o -`, to standard output; progress
and messages go to standard error. Exit status: 0 done, 1 failed, 2 wrong usage, 3 fewer results
than asked for, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import typer

import molflowctl
from molflowctl.cli import (
    benchmark,
    data,
    docking,
    generate,
    listing,
    score,
    settings,
    steer,
    steer_conformers,
    train,
)
from molflowctl.cli.console import guarded, print_warning
from molflowctl.cli.options import Command, importing
from molflowctl.errors import BrokenPlugin, OldSpelling, UnverifiedCard

__all__ = ["app", "main"]

COMMANDS: dict[str, Callable[..., None]] = {
    "generate": generate.generate,
    "score": score.score,
    "rank": score.rank,
    "preview": score.preview,
    "surrogate": score.surrogate,
    "finetune": steer.finetune,
    "merge": steer.merge,
    "train": train.train,
    "flows": listing.flows,
    "properties": listing.properties,
    "rewards": listing.rewards,
    "settings": settings.settings,
    "cite": listing.cite,
    "demo": benchmark.demo,
    "conformers": generate.conformers,
    "train-conformers": train.train_conformers,
    "finetune-conformers": steer_conformers.finetune_conformers,
    "merge-conformers": steer_conformers.merge_conformers,
}
DATA: dict[str, Callable[..., None]] = {
    "prepare": data.prepare,
    "subset": data.subset,
    "join": data.join,
    "pack": data.pack,
    "unpack": data.unpack,
    "prepare-conformers": data.prepare_conformers,
}
DOCKING: dict[str, Callable[..., None]] = {
    "prepare": docking.prepare,
    "check": docking.check,
}
BENCHMARK: dict[str, Callable[..., None]] = {
    "denovo": benchmark.denovo,
    "compare": benchmark.compare,
    "analytic": benchmark.analytic,
    "conformers": benchmark.conformers,
}
COMPUTES = {
    "benchmark", "demo", "finetune", "finetune-conformers", "generate", "merge", "merge-conformers",
    "preview", "surrogate", "train", "train-conformers",
}  # fmt: skip

_shown = warnings.showwarning
NO_PLUGINS = {"cite", "settings", "analytic", "join"}  # they neither score nor draw

app = typer.Typer(
    name="molflowctl",
    help="Steer and merge pre-trained flow models of 3-D molecules towards an objective.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
)
data_app = typer.Typer(help="Prepare data sets.", no_args_is_help=True)
docking_app = typer.Typer(help="Receptors to dock into.", no_args_is_help=True)
benchmark_app = typer.Typer(help="Measure flows and libraries.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(docking_app, name="docking")
app.add_typer(benchmark_app, name="benchmark")
for group, commands in (
    (app, COMMANDS),
    (data_app, DATA),
    (docking_app, DOCKING),
    (benchmark_app, BENCHMARK),
):
    for name, command in commands.items():
        whole = command if name in NO_PLUGINS else importing(command)
        group.command(name, cls=Command)(guarded(whole))


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


def main() -> None:
    """Entry point of the console script."""
    if COMPUTES & set(sys.argv[1:2]) and sys.platform == "linux" and "--help" not in sys.argv:
        from molflowctl.compute.parallel import KEEP_MEMORY

        if not os.environ.items() >= KEEP_MEMORY.items():
            os.environ |= KEEP_MEMORY  # read by the C library when a process starts
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    warnings.showwarning = _warn  # type: ignore[assignment]
    try:
        app()
    except KeyboardInterrupt:  # before the command had begun: it ends as it would later
        sys.exit(130)


def _warn(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
    """Our own warnings are for users, without the line of code that gave them."""
    if issubclass(category, UnverifiedCard | BrokenPlugin | OldSpelling):
        print_warning(str(message))
    else:
        _shown(message, category, *place, **more)
