"""Settings of `data prepare-conformers`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from molflowctl.io.config import Config, check_neutralise
from molflowctl.tasks.shared_settings import (
    EnergyWindow,
    Jobs,
    Limit,
    Neutralise,
    Overwrite,
    Resume,
    Seed,
    TemperatureK,
)

__all__ = ["EnsembleConfig"]


class EnsembleConfig(Config, command="data prepare-conformers", old_names={
    "starts": "etkdg_conformers", "prune": "rmsd_threshold", "boltzmann": "temperature_K",
    "most": "max_conformers",
}):  # fmt: skip
    """What `molflowctl data prepare-conformers` does."""

    source: str = Field(description="a data set's folder, or a .smi or .csv file")
    out: str = Field(description="folder of the ensembles")
    name: str = Field(default="conformers", description="of the data set, in its card")
    etkdg_conformers: int = Field(
        default=10,
        ge=0,
        description="that ETKDGv3 makes of a molecule to start from, beside the geometry that a "
        "data set has [conformers]",
    )
    relax: Literal["none", "mmff", "gfn2"] = Field(
        default="mmff",
        description="mmff (MMFF94), gfn2 (GFN2-xTB) after it, or none, for a data set of minima: "
        "heavy atoms stay, hydrogens are placed",
    )
    rmsd_threshold: float = Field(
        default=0.125,
        ge=0,
        description="least RMSD of heavy atoms between two; nearer ones are one [angstrom]",
    )
    energy_window: EnergyWindow = 6.0
    temperature_K: TemperatureK = 298.0
    max_conformers: int = Field(
        default=30, ge=1, description="of a molecule, the lowest ones [conformers]"
    )
    min_atoms: int = Field(default=5, ge=2, description="of a molecule, hydrogens included [atoms]")
    max_atoms: int = Field(
        default=200, ge=2, description="of a molecule, hydrogens included [atoms]"
    )
    limit: Limit = Field(
        default=None, description="of the source, drawn at random; null for all [molecules]"
    )
    split: Literal["train", "validation", "test"] | None = Field(
        default=None, description="of the source's molecules to take; null for all"
    )
    licence: str = Field(
        default="not stated: that of the source", description="of the data, in the card"
    )
    salts: Literal["refuse", "strip"] = Field(
        default="refuse",
        description="of a file's records of several fragments: refuse leaves them out, strip "
        "takes the parent",
    )
    neutralise: Neutralise = False
    sdf: str | None = Field(default=None, description="also an SDF library of the ensembles")
    seed: Seed = Field(default=0, description="of the starts and the draw [number]")
    jobs: Jobs = 1
    resume: Resume = False
    overwrite: Overwrite = False

    def model_post_init(self, context: Any) -> None:
        check_neutralise(self.salts, self.neutralise)
