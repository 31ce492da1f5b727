"""`rewards`: what a reward can be made of."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["rewards"]


def rewards(
    name: Annotated[
        str | None, typer.Argument(help="Of a property, a function or a desirability.")
    ] = None,
    form: Annotated[str, typer.Option("--format", help="text or md.")] = "text",
    curves: Annotated[
        Path | None, typer.Option(help="Write a picture of each desirability into this folder.")
    ] = None,
) -> None:
    """List what rewards and filters are made of, or show one thing with its arguments and curve.

    Examples:

        molflowctl rewards

        molflowctl rewards similarity

        molflowctl rewards sigmoid

        molflowctl rewards --format md --curves docs/curves > tables.md
    """
    from molflowctl.cli.console import console
    from molflowctl.tasks.scoring import reward_page

    if form not in ("text", "md"):
        raise typer.BadParameter("is text or md.", param_hint="--format")
    if curves is not None:
        reward_page.write_curves(curves)
    if form == "md":
        print(reward_page.tables())
        return
    width = console.width
    print("\n".join(reward_page.detail(name, width) if name else reward_page.listing(width)))
