"""Settings of `conformers`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from molflowctl.compute.seeds import LAST_SEED
from molflowctl.io.config import Config, IsomerRule, SaltRule, check_neutralise

__all__ = ["ConformersConfig"]


class ConformersConfig(Config):
    """What `molflowctl conformers` does."""

    command = "conformers"

    source: str = Field(description="a SMILES, or a .smi, .csv, .parquet or .sdf file, or -")
    out: str = Field(description="file of the result: .sdf or .sdf.gz; - for standard output")
    n: int = Field(
        default=50, ge=1, le=10_000, description="drawn of each stereoisomer [conformers]"
    )
    model: str = Field(default="auto", description="a flow, auto for the shipped ones, or etkdg")
    relax: Literal["none", "mmff", "gfn2"] = Field(
        default="mmff",
        description="what follows the drawing: none, mmff (MMFF94) or gfn2 (GFN2-xTB)",
    )
    prune: float = Field(
        default=0.5,
        ge=0,
        description="least RMSD of heavy atoms between two conformers; 0 keeps all [angstrom]",
    )
    energy_window: float = Field(
        default=6.0,
        gt=0,
        description="above the molecule's lowest; what is higher is left out [kcal/mol]",
    )
    boltzmann: float = Field(default=298.0, gt=0, description="temperature of the weights [kelvin]")
    salts: SaltRule = Field(
        default="refuse",
        description="what of several fragments is done: refuse none, strip the parent, keep all "
        "(by ETKDGv3)",
    )
    neutralise: bool = Field(
        default=False,
        description="with strip: also add and remove protons until no charge is left that can be",
    )
    isomers: IsomerRule = Field(
        default=8,
        description="made of an input that leaves stereo open: a number at most so many, enumerate "
        "all, first one, refuse none [stereoisomers]",
    )
    smiles_column: str | None = Field(
        default=None, description="column of SMILES in a table; null finds it by its name"
    )
    name_column: str | None = Field(
        default=None, description="column of names in a table; null finds it by its name"
    )
    sampler: Literal["ancestral", "euler-maruyama", "euler", "heun"] = Field(
        default="ancestral", description="rule that carries noise to conformers"
    )
    steps: int = Field(default=25, ge=1, description="from noise to conformer [steps]")
    noise: float | None = Field(
        default=None,
        gt=0,
        description="scale of the sampler's noise; null for the flow's own [factor]",
    )
    multiplicity: int | None = Field(
        default=None,
        ge=1,
        le=15,
        description="spin in xTB: 1 singlet, 2 doublet, 3 triplet; null for what a record says, "
        "else 1 or 2 by the number of electrons [2 S + 1]",
    )
    timeout: float = Field(
        default=600.0, gt=0, allow_inf_nan=False, description="per stereoisomer [seconds]"
    )
    seed: int = Field(
        default=0, ge=0, le=LAST_SEED, description="same seed, same conformers [number]"
    )
    jobs: int = Field(default=1, ge=1, description="working at once [processes]")
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:1")
    resume: bool = Field(default=False, description="continue an interrupted run")
    overwrite: bool = Field(default=False, description="replace an existing output")

    def model_post_init(self, context: Any) -> None:
        check_neutralise(self.salts, self.neutralise)
