"""`settings`: what can be set, command by command."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["settings"]


def settings(
    command: Annotated[
        list[str] | None,
        typer.Argument(help="A command, such as `finetune` or `benchmark denovo`."),
    ] = None,
    form: Annotated[str, typer.Option("--format", help="text, md or json.")] = "text",
) -> None:
    """List every setting of a command: name, default, unit, meaning and what it may be.

    Settings go into a file for --config or after --set, NAME=VALUE; many are options, too. Without
    a command, the commands that have settings are listed.

    Examples:

        molflowctl settings finetune

        molflowctl settings benchmark denovo --format md

        molflowctl finetune qm9 --reward qed --set mirror_steps=12 --set lr=2e-4 -o tuned/
    """
    from molflowctl.tasks.settings import COMMANDS, settings_of, shown

    if not command:
        print("\n".join(COMMANDS))
        return
    print(shown(settings_of(" ".join(command)), form))
