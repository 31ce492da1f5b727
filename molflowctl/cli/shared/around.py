"""Options that say what molecules are designed around."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer

__all__ = ["Attach", "Core", "CoreGeometry", "CoreOptions", "Keep", "Like", "Noise", "Replace"]


def _option(text: str) -> Any:
    return typer.Option(help=text, rich_help_panel="Design around what is given")


Core = Annotated[
    list[str] | None,
    _option(
        "What every molecule has: a SMILES, where [*:1] says where the rest is bonded, or an "
        "SDF file at its pose. Several are fragments, to be linked."
    ),
]
Attach = Annotated[
    str | None,
    _option(
        "Atoms of the core that may bond to the rest, 0,6,7, counted from 0 "
        "[default: all that have a hydrogen]."
    ),
]
CoreGeometry = Annotated[str | None, _option("keep (of a SMILES what no bond turns) or free.")]
Like = Annotated[str | None, _option("A molecule to vary, SMILES or SDF file.")]
Noise = Annotated[float | None, _option("How much --like is varied: 0.1 little, 1 a new molecule.")]
Keep = Annotated[str | None, _option("SMARTS of the atoms of --like that stay.")]
Replace = Annotated[
    str | None, _option("SMARTS of the part of --like that is drawn anew, all else stays.")
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
