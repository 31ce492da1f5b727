"""`demo`: a flow before and after it was steered."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from molflowctl.cli.console import console
from molflowctl.cli.options import Jobs, Seed, cores, output

__all__ = ["demo"]


def demo(
    out: Annotated[Path, output("Folder of the results.")] = Path("demo"),
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
    from molflowctl.tasks.evaluation.demo import demo as run

    run(out, n=n, seed=seed, jobs=jobs or cores(), say=lambda t: console.print(t, highlight=False))
