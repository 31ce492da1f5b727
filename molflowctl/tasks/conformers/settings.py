"""Settings of `conformers`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from molflowctl.errors import UserError
from molflowctl.io.config import IsomerRule, SaltRule, check_neutralise
from molflowctl.tasks.shared_settings import (
    ConformerDrawing,
    ConformerSeed,
    Device,
    EnergyWindow,
    Html,
    Jobs,
    Multiplicity,
    NameColumn,
    Neutralise,
    Overwrite,
    Resume,
    SmilesColumn,
    TemperatureK,
    Timeout,
)

__all__ = ["ConformersConfig"]


class ConformersConfig(
    ConformerDrawing,
    command="conformers",
    old_names={"prune": "rmsd_threshold", "boltzmann": "temperature_K"},
):
    """What `molflowctl conformers` does."""

    source: str = Field(description="a SMILES, or a .smi, .csv, .parquet or .sdf file, or -")
    out: str = Field(description="file of the result: .sdf or .sdf.gz; - for standard output")
    n: int = Field(
        default=50, ge=1, le=10_000, description="drawn of each stereoisomer [conformers]"
    )
    model: str = Field(
        default="auto",
        description="a flow, etkdg, both with a comma between them, which share the number and are "
        "pruned together, or auto for what the benchmark found best for such a molecule",
    )
    relax: Literal["none", "mmff", "gfn2"] = Field(
        default="mmff",
        description="what follows the drawing: none, mmff (MMFF94) or gfn2 (GFN2-xTB)",
    )
    energy: Literal["mmff", "gfn2"] | None = Field(
        default=None,
        description="that ranks and weighs conformers: mmff, or gfn2 (a single point of those that "
        "differ); null for that of the relaxation",
    )
    pose: str | None = Field(
        default=None,
        description="an SDF file of one molecule, whose core every conformer keeps where it stands",
    )
    core: str | None = Field(
        default=None,
        description="of the pose, as SMARTS; null for the largest part that both have in common",
    )
    rmsd_threshold: float = Field(
        default=0.5,
        ge=0,
        description="least RMSD of heavy atoms between two conformers; 0 keeps all [angstrom]",
    )
    energy_window: EnergyWindow = 6.0
    temperature_K: TemperatureK = 298.0
    salts: SaltRule = Field(
        default="refuse",
        description="what of several fragments is done: refuse none, strip the parent, keep all "
        "(by ETKDGv3)",
    )
    neutralise: Neutralise = False
    isomers: IsomerRule = Field(
        default=8,
        description="made of an input that leaves stereo open: a number at most so many, enumerate "
        "all, first one, refuse none [stereoisomers]",
    )
    smiles_column: SmilesColumn = None
    name_column: NameColumn = None
    multiplicity: Multiplicity = None
    timeout: Timeout = Field(default=600.0, description="per stereoisomer [seconds]")
    time_limit: float | None = Field(
        default=None,
        gt=0,
        description="after which no more conformers of a stereoisomer are relaxed; null for none "
        "[seconds]",
    )
    seed: ConformerSeed = 0
    jobs: Jobs = 1
    device: Device = "auto"
    html: Html = None
    resume: Resume = False
    overwrite: Overwrite = False

    def model_post_init(self, context: Any) -> None:
        check_neutralise(self.salts, self.neutralise)
        if self.html is not None and self.out == "-":
            raise UserError("--html is a page of the file that is written: name one, -o FILE.sdf.")
        if self.core is not None and self.pose is None:
            raise UserError("core is the part of a pose that is kept: say which, --pose FILE.sdf.")
        if self.pose is not None and self.relax != "mmff":
            raise UserError(
                f"around a pose's core MMFF94 relaxes the rest, not {self.relax}: leave relax out, "
                "and take energy=gfn2 for energies by GFN2-xTB."
            )
        if self.pose is not None and self.model not in ("auto", "etkdg"):
            raise UserError(
                f"a pose's core is kept by ETKDGv3 alone, not by {self.model}: leave model out."
            )
