"""Settings of `generate`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from molflowctl.compute.seeds import LAST_SEED
from molflowctl.io.config import Config

__all__ = ["GenerateConfig"]


class GenerateConfig(Config):
    """What `molflowctl generate` does."""

    command = "generate"

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
    seed: int = Field(
        default=0,
        ge=0,
        le=LAST_SEED,
        description="attempt i is a function of the flow, the seed and i [number]",
    )
    sampler: str = Field(
        default="ancestral",
        description="rule from noise to molecules: ancestral, euler-maruyama, euler or heun",
    )
    evaluations: int = Field(
        default=50, ge=1, description="of the network, per attempt [network evaluations]"
    )
    churn: float | None = Field(
        default=None,
        ge=0,
        description=(
            "noise of the ancestral sampler, times that of the plain one; null: the flow's "
            "own [factor]"
        ),
    )
    atoms: str | None = Field(
        default=None,
        description=(
            "sizes to draw, such as 7-9 or 12; heavy atoms where hydrogens are implicit; "
            "null: as in the flow's data [atoms]"
        ),
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
    jobs: int = Field(default=1, ge=1, description="working at once [processes]")
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:1")
    keep_invalid: bool = Field(
        default=False, description="write failed attempts too, with their reason"
    )
    resume: bool = Field(
        default=False, description="go on with an interrupted run of the same settings"
    )
    overwrite: bool = Field(default=False, description="replace an existing output")
    html: str | None = Field(
        default=None, description="file of an offline page with 3-D views; null for none"
    )
    grid: str | None = Field(
        default=None, description="file of a picture, .png or .svg; null for none"
    )

    @property
    def pictured(self) -> int:
        """How many of the first attempts are kept for pictures."""
        return 250 if self.html else 30 if self.grid else 0
