"""Options that say what molecules are designed around."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer

__all__ = ["Attach", "Core", "CoreGeometry", "CoreOptions", "Keep", "Like", "Noise", "Replace"]

_PANEL = "Design around what is given"

Core = Annotated[
    list[str] | None,
    typer.Option(
        help="What every molecule has: a SMILES, where [*:1] says where the rest is bonded, or an "
        "SDF file at its pose. Several are fragments, to be linked.",
        rich_help_panel=_PANEL,
    ),
]
Attach = Annotated[
    str | None,
    typer.Option(
        help="Atoms of the core that may bond to the rest, 0,6,7, counted from 0 "
        "[default: all that have a hydrogen].",
        rich_help_panel=_PANEL,
    ),
]
CoreGeometry = Annotated[
    str | None,
    typer.Option(help="keep (of a SMILES what no bond turns) or free.", rich_help_panel=_PANEL),
]
Like = Annotated[
    str | None,
    typer.Option(help="A molecule to vary, SMILES or SDF file.", rich_help_panel=_PANEL),
]
Noise = Annotated[
    float | None,
    typer.Option(
        help="How much --like is varied: 0.1 little, 1 a new molecule.", rich_help_panel=_PANEL
    ),
]
Keep = Annotated[
    str | None,
    typer.Option(help="SMARTS of the atoms of --like that stay.", rich_help_panel=_PANEL),
]
Replace = Annotated[
    str | None,
    typer.Option(
        help="SMARTS of the part of --like that is drawn anew, all else stays.",
        rich_help_panel=_PANEL,
    ),
]


@dataclass(frozen=True)
class CoreOptions:
    """The core around which flows are steered or merged."""

    core: Core = None
    attach: Attach = None
    core_geometry: CoreGeometry = None
    like: Like = None
    replace: Replace = None

    def given(self) -> dict[str, Any]:
        """As settings."""
        return asdict(self) | {"core": self.core or None}
