"""`flows`, `properties`, `rewards` and `cite`: what there is, and whom it is owed to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from molflowctl.errors import UserError

__all__ = ["cite", "flows", "properties", "rewards"]


def flows(
    stamp: Annotated[
        Path | None,
        typer.Option(help="Vouch for the flow in this folder: add the hash of what defines it."),
    ] = None,
) -> None:
    """List the flows that are found by name: the shipped ones and those in MOLFLOWCTL_ZOO.

    A flow's card holds the hash of what defines the flow; one that was edited is refused. Flows of
    earlier versions lack it and load with a warning, until --stamp adds it.

    Examples:

        molflowctl flows

        MOLFLOWCTL_ZOO=~/flows molflowctl flows

        molflowctl flows --stamp my-flow/ema
    """
    from molflowctl.models.zoo import flow_names

    if stamp is not None:
        from molflowctl.flows.card import stamp as vouch

        vouch(stamp)
        return
    from molflowctl.cli.console import console
    from molflowctl.cli.tables import labelled
    from molflowctl.flows.card import read_card

    lines, damaged = [], []
    for name, folder in flow_names().items():
        try:
            card = read_card(folder)
        except UserError as error:
            damaged.append(str(error))
            continue
        described = "".join(c if c.isprintable() else " " for c in str(card.get("description", "")))
        lines.append((f"{name:20s} {card['kind']:9s}", described))
    print("\n".join(labelled(lines, console.width)))
    if damaged:
        raise UserError("\n".join(damaged))


def properties() -> None:
    """List the properties that can be scored and steered by, with their units.

    Examples:

        molflowctl properties
    """
    from molflowctl import properties as registry
    from molflowctl.cli.console import console
    from molflowctl.cli.tables import labelled

    found = [registry.get(name) for name in registry.names()]
    told = [(f.name, f.description + (f" [{f.unit}]" if f.unit else "")) for f in found]
    print("\n".join(labelled(told, console.width)))


def cite() -> None:
    """Print what to cite, as BibTeX: this package and the methods behind its commands.

    The data that a flow has learned from are cited on its card.

    Examples:

        molflowctl cite

        molflowctl cite > molflowctl.bib
    """
    from importlib import resources

    print((resources.files("molflowctl") / "assets" / "citations.bib").read_text().rstrip())


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
