"""Run configurations: validated when they are read, dumped beside every result.

A YAML file gives any of the fields; `--set key=value` changes one, dots reach into nested ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from molflowctl.errors import UserError

__all__ = [
    "Config",
    "ConformerFinetuneConfig",
    "ConformerMergeConfig",
    "ConformerSteeringConfig",
    "ConformerTrainConfig",
    "ConformersConfig",
    "EnsembleConfig",
    "FinetuneConfig",
    "GenerateConfig",
    "MergeConfig",
    "NetworkConfig",
    "RankConfig",
    "ScoreConfig",
    "SteeringConfig",
    "SurrogateConfig",
    "TrainConfig",
    "packaged_configs",
]

CONFIGS = Path(__file__).parent / "configs"


def packaged_configs() -> dict[str, Path]:
    """The configurations that ship with the package, by file name."""
    return {path.name: path for path in sorted(CONFIGS.glob("*.yaml"))}


class Config(BaseModel):
    """A frozen record that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def read(cls, path: str | Path, changes: list[str] | None = None) -> Self:
        """Read a YAML file (or the name of a packaged one) and apply `key=value` changes.

        Raises:
            UserError: naming the file and the field that is wrong.
        """
        file = Path(path)
        if not file.exists():
            if str(path) not in packaged_configs():
                known = ", ".join(packaged_configs())
                raise UserError(f"no configuration {path}; a path, or one of the packaged {known}.")
            file = packaged_configs()[str(path)]
        try:
            values = yaml.safe_load(file.read_text()) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UserError(f"{path} cannot be read as YAML: {error}") from None
        return cls.parse(values, changes, where=str(path))

    @classmethod
    def parse(cls, values: Any, changes: list[str] | None = None, where: str = "config") -> Self:
        """Validate a mapping after applying `key=value` changes (values are YAML)."""
        if not isinstance(values, dict):
            raise UserError(
                f"{where} must hold a mapping of settings, not {type(values).__name__}."
            )
        for change in changes or []:
            key, found, text = change.partition("=")
            if not found:
                raise UserError(f"--set takes key=value, got {change!r}.")
            *parents, leaf = key.strip().split(".")
            node = values
            for parent in parents:
                node = node.setdefault(parent, {})
                if not isinstance(node, dict):
                    raise UserError(f"--set {change}: {parent} is no group of settings.")
            try:
                node[leaf] = yaml.safe_load(text)
            except yaml.YAMLError:
                raise UserError(f"--set {change}: {text!r} is no value in YAML.") from None
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            lines = [f"  {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
            raise UserError(f"{where} is not valid:\n" + "\n".join(lines)) from None

    def dump(self, path: str | Path) -> None:
        """Write the resolved configuration as YAML."""
        Path(path).write_text(yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False))


class NetworkConfig(Config):
    """Sizes of `EquivariantNetwork`."""

    width: int = Field(default=192, ge=8)
    pair_width: int = Field(default=64, ge=4)
    heads: int = Field(default=8, ge=1)
    vectors: int = Field(default=16, ge=1)
    depth: int = Field(default=6, ge=1)
    radial: int = Field(default=32, ge=2)
    triangles: int = Field(default=0, ge=0)

    def model_post_init(self, context: Any) -> None:
        if self.width % self.heads:
            raise UserError(f"a network's {self.heads} heads must divide its width, {self.width}.")


class TrainConfig(Config):
    """What `molflowctl train` does."""

    name: str = "qm9"
    data: Path = Field(
        default=Path("datasets/qm9-implicit"),
        description="a prepared data set, or with `init` an SDF file",
    )
    init: str | None = Field(default=None, description="flow to start from: a name or a folder")
    position_scale: float = Field(default=1.2, gt=0)
    category_scale: float = Field(default=0.5, gt=0)
    network: NetworkConfig = NetworkConfig()
    optimiser: Literal["muon", "adamw"] = "muon"
    lr: float = Field(default=2e-3, gt=0)
    batch_atoms: int = Field(
        default=1728, ge=1, description="atoms in a batch of molecules of one size"
    )
    steps: int | None = Field(
        default=None, ge=1, description="length of the run in optimiser steps"
    )
    minutes: float | None = Field(default=None, gt=0, description="or in minutes, over all resumes")
    epochs: float | None = Field(
        default=None, gt=0, description="or in passes over the data, where neither of these is set"
    )
    warmup_steps: int = Field(default=200, ge=0)
    constant: float = Field(
        default=0.35, ge=0, le=1, description="share of the run before the cosine decay"
    )
    clip: float = Field(default=1.0, gt=0)
    ema: float = Field(default=0.995, ge=0, lt=1)
    precision: Literal["auto", "float32", "bf16"] = "auto"
    seed: int = Field(default=0, ge=0)
    validate_minutes: float = Field(default=5.0, gt=0)
    checkpoint_minutes: float = Field(default=3.0, gt=0)
    sample_every: int = Field(
        default=2, ge=0, description="validations between two samples; 0 for none"
    )
    samples: int = Field(default=128, ge=1)
    sample_steps: int = Field(default=50, ge=1)

    def model_post_init(self, context: Any) -> None:
        if self.steps is None and self.minutes is None and self.epochs is None:
            raise UserError(
                "a training needs its length as steps or minutes (or epochs): --set steps=1000."
            )
        if self.steps is not None and self.minutes is not None:
            raise UserError(
                "a training has its length as steps or minutes, not both: give one and unset the "
                "other, for instance --set steps=1000 --set minutes=null."
            )


class GenerateConfig(Config):
    """What `molflowctl generate` does."""

    flow: str
    out: str
    n: int = Field(default=1000, ge=1)
    attempts: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0)
    sampler: str = "ancestral"
    evaluations: int = Field(default=50, ge=1)
    churn: float | None = Field(
        default=None, ge=0, description="noise of the ancestral sampler; null: the flow's own"
    )
    atoms: str | None = None
    relax: Literal["hydrogens", "mmff", "none"] = "hydrogens"
    batch: int | None = Field(default=None, ge=1)
    jobs: int = Field(default=1, ge=1)
    device: str = "auto"
    keep_invalid: bool = False
    resume: bool = False
    overwrite: bool = False
    html: str | None = None
    grid: str | None = None

    @property
    def pictured(self) -> int:
        """How many of the first attempts are kept for pictures."""
        return 250 if self.html else 30 if self.grid else 0


class ScoreConfig(Config):
    """What `molflowctl score` does."""

    library: str
    out: str
    properties: tuple[str, ...] = Field(min_length=1)
    timeout: float | None = Field(
        default=30.0,
        gt=0,
        allow_inf_nan=False,
        description="seconds per molecule and program; null for no limit",
    )
    jobs: int | None = Field(default=None, ge=1, description="null for one per core")
    backend: Literal["processes", "serial", "joblib", "ray"] = "processes"
    address: str | None = Field(default=None, description="of a running Ray cluster")
    cache: str | Literal[False] | None = Field(
        default=None, description="a file; null for the default one, false for none"
    )
    reference: str | None = Field(
        default=None, description="a library: similarity and novelty to it are added"
    )
    charges: bool = Field(default=False, description="add partial charges of the atoms")
    relative: bool = Field(
        default=False, description="add energies relative to the molecule's lowest record"
    )
    resume: bool = False
    overwrite: bool = False

    def model_post_init(self, context: Any) -> None:
        if self.charges and self.out.endswith((".csv", ".parquet")):
            raise UserError("partial charges are lists, for which a table has no place: -o to SDF.")
        if self.resume and self.cache is False:
            raise UserError("a resumed run takes its results from the cache: not without one.")
        if self.backend == "serial" and self.timeout is not None:
            raise UserError("the backend serial has no time limit: leave it out or use processes.")


class RankConfig(Config):
    """What `molflowctl rank` does."""

    library: str = Field(description="scored: an SDF with tags, or a CSV with columns")
    by: str = Field(description="a column of the library, or a reward of its columns")
    out: str
    n: int = Field(default=100, ge=1, description="molecules to keep")
    minimise: bool = Field(default=False, description="small values first")
    conformers: bool = Field(default=False, description="keep several records of one molecule")
    html: str | None = None
    grid: str | None = None
    overwrite: bool = False


class SurrogateConfig(Config):
    """What `molflowctl surrogate` does."""

    library: str = Field(description="scored: an SDF with tags, or a CSV with columns")
    property: str = Field(description="the column to learn")
    out: Path
    members: int = Field(default=4, ge=2, description="networks in the ensemble")
    width: int = Field(default=256, ge=8, description="of their two hidden layers")
    epochs: int = Field(default=25, ge=1)
    dropout: float = Field(default=0.3, ge=0, lt=1)
    seed: int = Field(default=0, ge=0)
    jobs: int = Field(default=1, ge=1)
    overwrite: bool = False


Solver = Literal["reinforce", "values", "weighted", "adjoint", "combined"]
_TILTS = (
    "of the tilts: reinforce adjoint matching, value matching, weighted flow matching, adjoint "
    "matching by the gradient of a network that learned the reward, or the first and the last "
    "combined, on types and bonds and on positions"
)


class SteeringConfig(Config):
    """What `finetune` and `merge` have in common."""

    out: Path
    utility: tuple[str, ...] = Field(
        default=("mean",), description="of the reward, for instance super-quantile:0.95"
    )
    minimise: bool = Field(default=False, description="the reward is to become small")
    rounds: int = Field(default=8, ge=1, description="mirror steps")
    round_samples: int = Field(default=1024, ge=16, description="fresh molecules per mirror step")
    round_evaluations: int = Field(
        default=50,
        ge=1,
        description="of the network, for those; fewer draw from another density than is judged",
    )
    base_samples: int = Field(
        default=2048, ge=64, description="molecules of the prior, for the exact target"
    )
    test_samples: int = Field(
        default=1000, ge=2, description="fresh molecules that judge the result"
    )
    evaluations: int = Field(default=50, ge=1)
    invalid: float = Field(
        default=-2.0, description="reward of a failed molecule, in standard deviations"
    )
    validity: float = Field(
        default=3.0, ge=0, description="nats that a molecule loses by being invalid"
    )
    solver: Solver = Field(
        default="reinforce",
        description=_TILTS,
    )
    parts: tuple[str, ...] = Field(
        default=(), description="of the state that are steered, such as positions; none for all"
    )
    inner_steps: int = Field(
        default=128, ge=2, description="optimiser steps of the flow per round; guidance has none"
    )
    value_steps: int = Field(default=300, ge=2, description="of the network of values, if any")
    batch: int = Field(default=128, ge=1)
    lr: float = Field(default=5e-4, gt=0, description="of those steps")
    timeout: float = Field(
        default=30.0,
        gt=0,
        allow_inf_nan=False,
        description="seconds that the oracle may take per molecule",
    )
    seed: int = Field(default=0, ge=0)
    jobs: int = Field(default=1, ge=1)
    device: str = "auto"


class FinetuneConfig(SteeringConfig):
    """What `molflowctl finetune` does."""

    flow: str
    reward: str = Field(description="a property, or an expression of several")
    divergence: tuple[str, ...] = Field(
        default=("kl:1",),
        min_length=1,
        description="to the prior, for instance kl:0.1, or kl=0.5 for 0.5 nats at the optimum",
    )
    solver: Solver | Literal["guidance"] = Field(  # type: ignore[assignment]
        default="reinforce",
        description=f"{_TILTS}; or guidance, by a value of noisy states that is learned beside the "
        "flow, which stays as it is: slower to draw from, and nearer to targets that are hard to "
        "learn",
    )
    arrive: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="share of the rounds over which the way to the target is shared out; each of "
        "the others asks for all that is missing and takes back what went astray. Give a target "
        "that few molecules show, such as a super-quantile, more rounds, and 0.2",
    )
    carry: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="share of what a round was asked for and did not bring that the next one is "
        "asked for on top",
    )
    moments: int = Field(
        default=2,
        ge=1,
        le=2,
        description="of the rewards, by which a round tells how far it came: 2 also asks for their "
        "spread, 1 lets a narrower density have the tail that was asked for",
    )
    data: Path | None = Field(
        default=None,
        description="a data set the flow has learned from: the objective is solved on it, and the "
        "flow learns the solution, in place of rounds of draws",
    )
    data_samples: int = Field(default=20_000, ge=64, description="molecules of it, at random")
    epochs: float = Field(default=10.0, gt=0, description="passes over what is drawn of them")
    minutes: float | None = Field(default=None, gt=0, description="or the length in minutes")

    def model_post_init(self, context: Any) -> None:
        if self.data and self.parts:
            raise UserError("a flow that learns --data learns all parts: parts= is of rounds.")
        if self.data and self.solver != "reinforce":
            raise UserError("a flow that learns --data takes no rounds: solver= is of them.")


class MergeConfig(SteeringConfig):
    """What `molflowctl merge` does."""

    circuit: str = Field(description="names of flows with & | - and parentheses")
    flows: dict[str, str] = Field(
        default={}, description="names in the circuit to flows; others are looked up in the zoo"
    )
    weights: tuple[float, ...] | None = Field(
        default=None, description="of the outermost operator's parts; null for equal ones"
    )
    solver: Solver | Literal["score-sum", "feynman-kac"] = Field(  # type: ignore[assignment]
        default="reinforce",
        description="of the tilts, as in finetune but for guidance; score-sum and feynman-kac "
        "train nothing: they add the scores of an intersection's or a contrast's parts, the latter "
        "with corrections",
    )
    particles: int = Field(
        default=8, ge=2, description="of feynman-kac, carried along for every molecule"
    )
    distil: int = Field(
        default=0,
        ge=0,
        description="of score-sum: optimiser steps in which one network learns the sum; 0 keeps "
        "all parts",
    )
    interpolate: bool = Field(
        default=False,
        description="from the first part of the circuit's & towards the others, by Wasserstein "
        "distances",
    )
    features: tuple[str, ...] = Field(
        default=(),
        description="properties that span the space of an interpolation, in standard deviations "
        "of the parts' molecules; none for atoms, bonds and size",
    )
    anchor: float = Field(
        default=0.5, gt=0, description="weight of an interpolation's KL to its first part"
    )
    reward: str | None = None
    strength: float = Field(
        default=1.0, gt=0, description="of the utility, per standard deviation of the base"
    )
    ratio_times: int = Field(
        default=16, ge=1, description="times at which two flows are compared for a log-ratio"
    )
    ratio_latest: float = Field(
        default=0.8,
        gt=0,
        lt=1,
        description="time up to which they are compared, and corrected by feynman-kac: beyond it "
        "flows differ by their errors in geometry more than by what they hold likely",
    )
    intersection: Literal["mirror", "score-sum"] = Field(
        default="mirror",
        description="how &: mirror ascent from the heaviest part, or from the averaged scores of "
        "the parts, learned by one network, which is quicker and as near for parts of one ancestor",
    )
    union: Literal["regression", "gate"] = Field(
        default="regression",
        description="how |: one network learns the parts' endpoints, or a learned posterior "
        "chooses among the parts as they are, which is nearer to their mixture and slower to draw",
    )
    matching_steps: int = Field(
        default=600,
        ge=1,
        description="optimiser steps of a union by regression, or to learn averaged scores; a gate "
        "has 1,500 of its own",
    )


class EnsembleConfig(Config):
    """What `molflowctl data prepare-conformers` does."""

    source: str = Field(description="a data set's folder, or a .smi or .csv file")
    out: str
    name: str = "conformers"
    starts: int = Field(
        default=10,
        ge=0,
        description="of ETKDGv3, per molecule, beside the geometry that a data set has",
    )
    relax: Literal["mmff", "gfn2"] = "mmff"
    prune: float = Field(default=0.125, ge=0, description="RMSD of heavy atoms, angstrom")
    energy_window: float = Field(default=6.0, gt=0, description="kcal/mol")
    boltzmann: float = Field(default=298.0, gt=0, description="kelvin")
    most: int = Field(default=30, ge=1, description="conformers of a molecule")
    min_atoms: int = Field(default=5, ge=2, description="hydrogens included")
    max_atoms: int = Field(default=200, ge=2)
    limit: int | None = Field(default=None, ge=1, description="molecules, drawn at random")
    split: Literal["train", "validation", "test"] | None = None
    licence: str = "not stated: that of the source"
    sdf: str | None = Field(default=None, description="also an SDF library of the ensembles")
    seed: int = Field(default=0, ge=0)
    jobs: int = Field(default=1, ge=1)
    resume: bool = False
    overwrite: bool = False


class ConformerTrainConfig(TrainConfig):
    """What `molflowctl train-conformers` does: the settings of a training, these among them."""

    name: str = "qm9-conformers"
    data: Path = Path("datasets/qm9-conformers")
    hydrogens: Literal["explicit", "implicit"] = "explicit"
    boltzmann: bool = Field(
        default=False, description="draw conformers by their weights, not all alike"
    )
    samples: int = Field(default=64, ge=1, description="molecules whose conformers are compared")
    sample_steps: int = Field(default=20, ge=1)
    draws: int = Field(default=4, ge=1, description="conformers of each of them")


class ConformersConfig(Config):
    """What `molflowctl conformers` does."""

    source: str = Field(description="a SMILES, or a .smi, .csv or .sdf file")
    out: str
    n: int = Field(default=50, ge=1, description="conformers drawn of each stereoisomer")
    model: str = Field(default="auto", description="a flow, auto for the shipped ones, or etkdg")
    relax: Literal["none", "mmff", "gfn2"] = "mmff"
    prune: float = Field(
        default=0.5, ge=0, description="RMSD of heavy atoms, angstrom; 0: keep all"
    )
    energy_window: float = Field(default=6.0, gt=0, description="kcal/mol")
    boltzmann: float = Field(default=298.0, gt=0, description="kelvin")
    isomers: int = Field(default=8, ge=1, description="where the input leaves stereo open, at most")
    sampler: Literal["ancestral", "euler-maruyama", "euler", "heun"] = "ancestral"
    steps: int = Field(default=25, ge=1)
    noise: float | None = Field(
        default=None, gt=0, description="scale of the sampler's noise; null for the flow's own"
    )
    timeout: float = Field(
        default=600.0, gt=0, allow_inf_nan=False, description="seconds a molecule"
    )
    seed: int = Field(default=0, ge=0)
    jobs: int = Field(default=1, ge=1)
    device: str = "auto"
    overwrite: bool = False


class ConformerSteeringConfig(Config):
    """What `finetune-conformers` and `merge-conformers` have in common."""

    out: Path
    data: Path = Field(
        default=Path("datasets/qm9-conformers"),
        description="ensembles, whose training molecules are steered on",
    )
    molecules: int = Field(default=256, ge=1, description="of the training split, at random")
    energy: Literal["GFN2-xTB", "GFN1-xTB", "MMFF94"] = "GFN2-xTB"
    softness: float = Field(
        default=50.0, gt=0, description="kcal/mol above the reference where rewards turn flat"
    )
    utility: tuple[str, ...] = Field(
        default=("mean",), min_length=1, description="of the negative energy, for instance cvar:0.2"
    )
    rounds: int = Field(default=6, ge=1, description="mirror steps")
    round_samples: int = Field(default=512, ge=2, description="fresh conformers per mirror step")
    evaluations: int = Field(default=25, ge=2, description="of the network, for those")
    solver: Literal["adjoint", "reinforce", "weighted"] = Field(
        default="adjoint", description="of the tilts: by forces, or by values of the energy"
    )
    iterations: int = Field(default=16, ge=1, description="of adjoint matching, per mirror step")
    steps: int = Field(default=16, ge=2, description="of its trajectories")
    passes: int = Field(default=3, ge=1, description="optimiser steps per iteration")
    earliest: float = Field(
        default=0.0, ge=0, lt=1, description="time from which the flow is steered by forces"
    )
    inner_steps: int = Field(default=96, ge=2, description="optimiser steps of solvers by values")
    batch: int = Field(default=32, ge=1)
    lr: float = Field(default=5e-5, gt=0)
    timeout: float = Field(
        default=30.0, gt=0, allow_inf_nan=False, description="seconds for the energy of a conformer"
    )
    seed: int = Field(default=0, ge=0)
    jobs: int = Field(default=1, ge=1)
    device: str = "auto"


class ConformerFinetuneConfig(ConformerSteeringConfig):
    """What `molflowctl finetune-conformers` does."""

    flow: str = "qm9-conformers"
    earliest: float = Field(
        default=0.6,
        ge=0,
        lt=1,
        description="time from which the flow is steered by forces: by 0.6 it is decided which "
        "conformer becomes, so that each is cooled and none gains weight; 0 to weigh them too",
    )
    kl: float = Field(
        default=0.3,
        gt=0,
        description="kcal/mol that a nat of divergence to the flow is worth; vibrations that hold "
        "half of it lose half of what they hold",
    )


class ConformerMergeConfig(ConformerSteeringConfig):
    """What `molflowctl merge-conformers` does."""

    circuit: str = Field(description="names of flows with & | - and parentheses")
    flows: dict[str, str] = Field(
        default={}, description="names in the circuit to flows; others are looked up in the zoo"
    )
    weights: tuple[float, ...] | None = Field(
        default=None, description="of the outermost operator's parts; null for equal ones"
    )
    strength: float = Field(
        default=0.0, ge=0, description="of the utility, nats per kcal/mol; 0 for no reward"
    )
    intersection: Literal["score-sum", "mirror"] = Field(
        default="score-sum",
        description="how &: scores averaged and distilled, then steered by the utility, or mirror "
        "ascent from the heaviest part, for which the scores at the end must be good",
    )
    epsilon: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="for mirror ascent, scores of the parts are those at the time 1 - epsilon",
    )
