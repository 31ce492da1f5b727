"""Settings of `generate`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from molflowctl.io.config import Config, RewardText
from molflowctl.tasks.shared_settings import (
    Device,
    Focus,
    Grid,
    Html,
    Jobs,
    MoleculeSampler,
    Nfe,
    Overwrite,
    ProductPrecision,
    Resume,
    Seed,
    Stochasticity,
)

__all__ = ["AroundSettings", "GenerateConfig"]


class AroundSettings(Config):
    """What molecules are designed around; null in all of it for nothing."""

    core: tuple[str, ...] | None = Field(
        default=None,
        description=(
            "what every molecule has: a SMILES, in which [*:1] says where the rest is bonded, or "
            "an SDF file; several are fragments at their poses, to be linked"
        ),
    )
    attach: str | None = Field(
        default=None,
        description=(
            "atoms of the core that may bond to the rest, such as 0,6,7, counted from 0 without "
            "hydrogens; null: where [*:1] stands, or all that have a hydrogen"
        ),
    )
    core_geometry: Literal["keep", "free"] | None = Field(
        default=None,
        description=(
            "of the core: keep (its pose in SDF; of a SMILES what no bond turns) or free; null: "
            "keep"
        ),
    )
    like: str | None = Field(
        default=None, description="a molecule to vary by noise, or of which a part is replaced"
    )
    keep: str | None = Field(
        default=None, description="pattern (SMARTS) of the atoms of like that stay as they are"
    )
    replace: str | None = Field(
        default=None,
        description="pattern (SMARTS) of the atoms of like that are drawn anew, and no others",
    )


class GenerateConfig(
    AroundSettings, command="generate", old_names={"evaluations": "nfe", "churn": "stochasticity"}
):
    """What `molflowctl generate` does."""

    flow: str = Field(
        description="to draw from: a shipped name (see `molflowctl flows`) or a folder"
    )
    out: str = Field(description="file of the library, .sdf or .sdf.gz; - for standard output")
    n: int = Field(default=1000, ge=1, description="valid ones to deliver [molecules]")
    attempts: int | None = Field(
        default=None,
        ge=1,
        description=(
            "to draw exactly, valid or not, in place of n; null for as many as n takes [attempts]"
        ),
    )
    where: RewardText | None = Field(
        default=None,
        description=(
            "conditions that delivered molecules meet, such as pains == 0 and largest_ring <= 6; "
            "null: none"
        ),
    )
    unique: bool = Field(default=False, description="deliver each molecule once")
    seed: Seed = Field(
        default=0,
        description="attempt i is a function of the flow, the seed and i [number]",
    )
    sampler: MoleculeSampler = "ancestral"
    nfe: Nfe = 50
    stochasticity: Stochasticity = None
    focus: Focus = None
    atoms: str | None = Field(
        default=None,
        description=(
            "sizes to draw, such as 7-9 or 12; heavy atoms where hydrogens are implicit; "
            "null: as in the flow's data [atoms]"
        ),
    )
    noise: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="that like is varied by: 0.3 changes little, 1 is a new molecule [share]",
    )
    relax: Literal["hydrogens", "mmff", "none"] = Field(
        default="hydrogens",
        description=(
            "what MMFF94 relaxes: hydrogens (those that were added), mmff (every atom) or none"
        ),
    )
    batch: int | None = Field(
        default=None, ge=1, description="drawn at once; null: what suits the device [molecules]"
    )
    jobs: Jobs = 1
    device: Device = "auto"
    precision: ProductPrecision = "float32"
    keep_invalid: bool = Field(
        default=False, description="write failed attempts too, with their reason"
    )
    resume: Resume = False
    overwrite: Overwrite = False
    html: Html = None
    grid: Grid = None

    @property
    def pictured(self) -> int:
        """How many of the first attempts are kept for pictures."""
        return 250 if self.html else 30 if self.grid else 0
