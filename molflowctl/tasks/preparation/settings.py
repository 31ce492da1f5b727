"""Settings of `data prepare-conformers`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from molflowctl.compute.seeds import LAST_SEED
from molflowctl.io.config import Config, check_neutralise

__all__ = ["EnsembleConfig"]


class EnsembleConfig(Config):
    """What `molflowctl data prepare-conformers` does."""

    command = "data prepare-conformers"

    source: str = Field(description="a data set's folder, or a .smi or .csv file")
    out: str = Field(description="folder of the ensembles")
    name: str = Field(default="conformers", description="of the data set, in its card")
    starts: int = Field(
        default=10,
        ge=0,
        description="of ETKDGv3 per molecule, beside the geometry that a data set has [geometries]",
    )
    relax: Literal["mmff", "gfn2"] = Field(
        default="mmff", description="mmff (MMFF94), or gfn2 (GFN2-xTB) after it"
    )
    prune: float = Field(
        default=0.125,
        ge=0,
        description="least RMSD of heavy atoms between two; nearer ones are one [angstrom]",
    )
    energy_window: float = Field(
        default=6.0,
        gt=0,
        description="above the molecule's lowest; what is higher is left out [kcal/mol]",
    )
    boltzmann: float = Field(default=298.0, gt=0, description="temperature of the weights [kelvin]")
    most: int = Field(default=30, ge=1, description="of a molecule, the lowest ones [conformers]")
    min_atoms: int = Field(default=5, ge=2, description="of a molecule, hydrogens included [atoms]")
    max_atoms: int = Field(
        default=200, ge=2, description="of a molecule, hydrogens included [atoms]"
    )
    limit: int | None = Field(
        default=None, ge=1, description="of the source, drawn at random; null for all [molecules]"
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
    neutralise: bool = Field(
        default=False,
        description="with strip: also add and remove protons until no charge is left that can be",
    )
    sdf: str | None = Field(default=None, description="also an SDF library of the ensembles")
    seed: int = Field(
        default=0, ge=0, le=LAST_SEED, description="of the starts and the draw [number]"
    )
    jobs: int = Field(default=1, ge=1, description="working at once [processes]")
    resume: bool = Field(
        default=False, description="go on with an interrupted run of the same settings"
    )
    overwrite: bool = Field(default=False, description="replace an existing data set")

    def model_post_init(self, context: Any) -> None:
        check_neutralise(self.salts, self.neutralise)
