"""Settings of `score`, `rank` and `preview`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from molflowctl.errors import UserError
from molflowctl.io.config import Config, IsomerRule, RewardText, SaltRule, check_neutralise
from molflowctl.tasks.shared_settings import (
    Device,
    Grid,
    Html,
    Jobs,
    Limit,
    Multiplicity,
    NameColumn,
    Neutralise,
    Nfe,
    Overwrite,
    Seed,
    SmilesColumn,
    Timeout,
)

__all__ = ["PreviewConfig", "RankConfig", "ScoreConfig"]


class ScoreConfig(Config, command="score"):
    """What `molflowctl score` does."""

    library: str = Field(description="molecules: .sdf, .smi, .csv or .parquet, perhaps .gz; or -")
    out: str = Field(
        description=(
            "file of the result: .sdf, .sdf.gz, .csv or .parquet; - for SDF on standard output"
        )
    )
    properties: tuple[str, ...] = Field(
        min_length=1,
        description="names (see `molflowctl properties`), smarts:PATTERN, surrogate:FOLDER or "
        "docking('FILE')",
    )
    timeout: float | None = Field(
        default=30.0,
        gt=0,
        allow_inf_nan=False,
        description="per molecule and program; null for no limit [seconds]",
    )
    jobs: int | None = Field(
        default=None, ge=1, description="working at once; null for one per core [processes]"
    )
    backend: Literal["processes", "serial", "joblib", "ray"] = Field(
        default="processes", description="what runs the workers; serial has no time limit"
    )
    address: str | None = Field(
        default=None, description="of a running Ray cluster, host:port or auto"
    )
    cache: str | Literal[False] | None = Field(
        default=None, description="file of known values; null for the default one, false for none"
    )
    reference: str | None = Field(
        default=None,
        description="library whose similarity and novelty are added; null for none",
    )
    poses: str | None = Field(
        default=None,
        description="file of the docked poses, .sdf or .sdf.gz, of a docking that is among the "
        "properties; null for none",
    )
    charges: bool = Field(
        default=False, description="add partial charges of the atoms (GFN2-xTB), for an SDF only"
    )
    multiplicity: Multiplicity = None
    relative: bool = Field(
        default=False, description="add energies relative to the molecule's lowest record, kcal/mol"
    )
    salts: SaltRule = Field(
        default="refuse",
        description="what of several fragments gets a geometry: refuse none, strip the parent, "
        "keep all; a geometry that is given stays, unless stripped",
    )
    neutralise: Neutralise = False
    isomers: IsomerRule = Field(
        default="first",
        description="what of stereo left open gets a geometry: first one isomer, enumerate all, a "
        "number so many, refuse none [stereoisomers]",
    )
    smiles_column: SmilesColumn = None
    name_column: NameColumn = None
    resume: bool = Field(
        default=False,
        description="go on with an interrupted run: what is in the cache is not computed again",
    )
    overwrite: Overwrite = False

    def model_post_init(self, context: Any) -> None:
        if self.charges and self.out.endswith((".csv", ".parquet", ".smi", ".xyz", ".pdb")):
            raise UserError("partial charges are lists, only an SDF has a place for them.")
        if self.poses is not None and not self.poses.endswith((".sdf", ".sdf.gz")):
            raise UserError(f"--poses {self.poses}: poses go to a .sdf or .sdf.gz.")
        if self.poses is not None and Path(self.poses) == Path(self.out):
            raise UserError("--poses and -o name the same file.")
        if self.resume and self.cache is False:
            raise UserError("a resumed run takes its results from the cache: not without one.")
        if self.backend == "serial" and self.timeout is not None:
            raise UserError("the backend serial has no time limit: leave it out or use processes.")
        check_neutralise(self.salts, self.neutralise)


class RankConfig(Config, command="rank"):
    """What `molflowctl rank` does."""

    library: str = Field(description="scored: SDF with tags, CSV or Parquet with columns")
    by: str = Field(description="a column of the library, or a reward of its columns")
    out: str = Field(
        description="file of the best: .sdf, .sdf.gz, .csv, .parquet; - for SDF on standard output"
    )
    n: int = Field(default=100, ge=1, description="to keep [molecules]")
    diverse: Limit = Field(
        default=None,
        description="of the n best, as unlike each other as can be (MaxMin, from the best on); "
        "null for all of them [molecules]",
    )
    per_scaffold: Limit = Field(
        default=None,
        description="of each Bemis-Murcko scaffold at most, the best; null for any number "
        "[molecules]",
    )
    minimise: bool = Field(default=False, description="small values first")
    conformers: bool = Field(default=False, description="keep several records of one molecule")
    fold_stereo: bool = Field(default=False, description="stereoisomers are one molecule")
    fold_salts: bool = Field(
        default=False,
        description="salts, hydrates and charge states of one parent are one molecule",
    )
    smiles_column: SmilesColumn = None
    name_column: NameColumn = None
    html: Html = None
    grid: Grid = None
    overwrite: Overwrite = False


class PreviewConfig(Config):
    """What `molflowctl preview` does."""

    command = "preview"

    source: str = Field(
        description="a library (.sdf, .smi, .csv or .parquet), or a flow by name or folder"
    )
    reward: RewardText = Field(description="an expression; see `molflowctl rewards`")
    n: int = Field(
        default=200,
        ge=3,
        description="of the library at random, or attempts of the flow [molecules]",
    )
    seed: Seed = Field(default=0, description="of the choice, or of what is drawn [number]")
    nfe: Nfe = 50
    timeout: Timeout = Field(
        default=30.0, description="that a program may take per molecule [seconds]"
    )
    jobs: Jobs = 1
    device: Device = "auto"
    html: str | None = Field(default=None, description="file of the page; null for none")
    overwrite: Overwrite = False
