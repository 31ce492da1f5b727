"""Run configurations: validated when they are read, dumped beside every result.

A YAML file gives any of the fields; `--set key=value` changes one, dots reach into nested ones.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from molflowctl.atomic import write_file
from molflowctl.errors import UserError
from molflowctl.expressions import check_circuit, check_reward, check_spec
from molflowctl.plain_files import quoted
from molflowctl.yaml_input import lines_of, read_mapping, read_value

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
    "flat_fields",
    "packaged_configs",
]

CircuitText = Annotated[str, AfterValidator(check_circuit)]
RewardText = Annotated[str, AfterValidator(check_reward)]
Spec = Annotated[str, AfterValidator(check_spec)]

CONFIGS = Path(__file__).parent / "configs"


def flat_fields(kind: type[Config], above: str = "") -> dict[str, FieldInfo]:
    """Every setting by its whole name, such as `network.depth`, in the order of the class."""
    return dict(_flat(kind, above))


def _flat(kind: type[Config], above: str) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in kind.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Config):
            yield from _flat(inner, f"{above}{name}.")
        else:
            yield above + name, field


def packaged_configs() -> dict[str, Path]:
    """The configurations that ship with the package, by file name."""
    return {path.name: path for path in sorted(CONFIGS.glob("*.yaml"))}


class Config(BaseModel):
    """A frozen record that refuses unknown keys, and numbers that are not finite.

    Each field's `description` says what it means, and of a number in brackets at the end what it
    counts; `molflowctl settings` lists them. `command` is what they are settings of.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    command: ClassVar[str] = ""

    @classmethod
    def read(cls, path: str | Path, changes: list[str] | None = None) -> Self:
        """Read a YAML file (or the name of a packaged one) and apply `key=value` changes.

        Raises:
            UserError: naming the file, the line and the field that is wrong.
        """
        file = Path(path)
        if not file.exists():
            if str(path) not in packaged_configs():
                known = ", ".join(packaged_configs())
                raise UserError(f"no configuration {path}; a path, or one of the packaged {known}.")
            file = packaged_configs()[str(path)]
        return cls.parse(read_mapping(file), changes, where=str(path), file=file)

    @classmethod
    def parse(
        cls,
        values: Any,
        changes: list[str] | None = None,
        where: str = "config",
        file: Path | None = None,
    ) -> Self:
        """Validate a mapping after applying `key=value` changes (values are YAML).

        Arguments:
            where: what messages call the mapping.
            file: the YAML file it was read from, whose lines messages then name.

        Raises:
            UserError: a line for each setting that is wrong, with its place.
        """
        if not isinstance(values, dict):
            raise UserError(
                f"{where} must hold a mapping of settings, not {type(values).__name__}."
            )
        values, changed = copy.deepcopy(values), set()
        for change in changes or []:
            key, found, text = change.partition("=")
            if not found:
                raise UserError(f"--set takes key=value, got {quoted(change)}.")
            *parents, leaf = key.strip().split(".")
            node = values
            for parent in parents:
                node = node.setdefault(parent, {})
                if not isinstance(node, dict):
                    raise UserError(f"--set {quoted(change)}: {parent} is no group of settings.")
            node[leaf] = read_value(text, f"--set {key.strip()}")
            changed.add((*parents, leaf))
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            known = lines_of(file) if file else {}
            wrong = [cls._complaint(item, where, known, changed) for item in error.errors()]
            raise UserError("\n".join(dict.fromkeys(wrong))) from None

    @classmethod
    def _complaint(
        cls,
        error: Any,
        where: str,
        lines: dict[tuple[str, ...], int],
        changed: set[tuple[str, ...]],
    ) -> str:
        """One line about one setting: its place, its name, and what to do."""
        key = tuple(str(part) for part in error["loc"])
        above = [key[:n] for n in range(len(key), 0, -1)]
        place = where
        if any(part in changed for part in above):
            place = "--set"
        elif line := next((lines[part] for part in above if part in lines), 0):
            place = f"{where}, line {line}"
        name = ".".join(key)
        if error["type"] == "extra_forbidden":
            return f"{place}: {name}: there is no such setting; {cls._nearest(key)}"
        if error["type"] == "missing":
            return f"{place}: {name}: is missing; {cls._listing()}"
        text = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
        shown = "" if error["type"] == "value_error" else f", not {quoted(error['input'])}"
        return f"{place}: {name}: {text}{shown}"

    @classmethod
    def _nearest(cls, key: tuple[str, ...]) -> str:
        """What a name that is no setting may have meant."""
        known = list(flat_fields(cls))
        name = ".".join(key)
        # A setting of a group is found by its last name, too: depth is network.depth.
        near = [full for full in known if full.rpartition(".")[2] == key[-1]]
        near += difflib.get_close_matches(name, known, n=2, cutoff=0.6)
        hint = f"did you mean {' or '.join(dict.fromkeys(near))}? " if near else ""
        return hint + cls._listing()

    @classmethod
    def _listing(cls) -> str:
        return f"`molflowctl settings {cls.command}` lists all." if cls.command else ""

    def dump(self, path: str | Path) -> None:
        """Write the resolved configuration as YAML."""
        write_file(path, yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False))


class NetworkConfig(Config):
    """Sizes of `EquivariantNetwork`."""

    width: int = Field(default=192, ge=8, description="features of an atom [channels]")
    pair_width: int = Field(default=64, ge=4, description="features of a pair of atoms [channels]")
    heads: int = Field(
        default=8, ge=1, description="of attention, which must divide the width [heads]"
    )
    vectors: int = Field(
        default=16,
        ge=1,
        description="vectors that an atom carries, which rotate with the molecule [channels]",
    )
    depth: int = Field(default=6, ge=1, description="blocks, one after another [layers]")
    radial: int = Field(
        default=32, ge=2, description="radial basis functions of a distance [functions]"
    )
    triangles: int = Field(
        default=0, ge=0, description="of triangle products of pairs; 0 for none [channels]"
    )

    def model_post_init(self, context: Any) -> None:
        if self.width % self.heads:
            raise UserError(f"a network's {self.heads} heads must divide its width, {self.width}.")


class TrainConfig(Config):
    """What `molflowctl train` does."""

    command = "train"

    name: str = Field(default="qm9", description="name of the flow, in its card")
    data: Path = Field(
        default=Path("datasets/qm9-implicit"),
        description="a prepared data set, or with `init` an SDF file",
    )
    init: str | None = Field(
        default=None, description="flow to start from, by name or folder; null for a new one"
    )
    position_scale: float = Field(
        default=1.2, gt=0, description="length of the state's unit of positions [angstrom]"
    )
    category_scale: float = Field(
        default=0.5,
        gt=0,
        description="length of the one-hot vectors of types, charges and bonds [state units]",
    )
    network: NetworkConfig = Field(default=NetworkConfig(), description="sizes of the network")
    optimiser: Literal["muon", "adamw"] = Field(default="muon", description="rule of the optimiser")
    lr: float = Field(
        default=2e-3, gt=0, description="learning rate, the largest of the run [per step]"
    )
    batch_atoms: int = Field(
        default=1728,
        ge=1,
        description="atoms in a batch, all of whose molecules have one size [atoms]",
    )
    steps: int | None = Field(
        default=None,
        ge=1,
        description="length of the run; null where minutes or epochs give it [optimiser steps]",
    )
    minutes: float | None = Field(
        default=None,
        gt=0,
        description=(
            "length of the run, over all resumes; null where steps or epochs give it [minutes]"
        ),
    )
    epochs: float | None = Field(
        default=None,
        gt=0,
        description=(
            "length of the run, where neither steps nor minutes are set [passes over the data]"
        ),
    )
    warmup_steps: int = Field(
        default=200,
        ge=0,
        description="over which the learning rate rises from zero [optimiser steps]",
    )
    constant: float = Field(
        default=0.35,
        ge=0,
        le=1,
        description="of the run before the cosine decay of the learning rate [share]",
    )
    clip: float = Field(
        default=1.0,
        gt=0,
        description="largest norm of the gradient; what is longer is shortened [norm]",
    )
    ema: float = Field(
        default=0.995,
        ge=0,
        lt=1,
        description=(
            "decay of the running mean of the weights, per step; the mean is what ships [share]"
        ),
    )
    precision: Literal["auto", "float32", "bf16"] = Field(
        default="auto",
        description="of the arithmetic; auto: bf16 where the device has it, else float32",
    )
    seed: int = Field(default=0, ge=0, description="of the weights, batches and noise [number]")
    validate_minutes: float = Field(
        default=5.0, gt=0, description="between two validations [minutes]"
    )
    checkpoint_minutes: float = Field(
        default=3.0, gt=0, description="between two checkpoints [minutes]"
    )
    sample_every: int = Field(
        default=2, ge=0, description="between two samples that are judged; 0 for none [validations]"
    )
    samples: int = Field(default=128, ge=1, description="drawn for each such sample [molecules]")
    sample_steps: int = Field(
        default=50, ge=1, description="with which they are drawn [network evaluations]"
    )

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
        default=0, ge=0, description="attempt i is a function of the flow, the seed and i [number]"
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


class ScoreConfig(Config):
    """What `molflowctl score` does."""

    command = "score"

    library: str = Field(description="molecules: .sdf, .smi or .csv, each perhaps with .gz")
    out: str = Field(
        description=(
            "file of the result: .sdf, .sdf.gz, .csv or .parquet; - for SDF on standard output"
        )
    )
    properties: tuple[str, ...] = Field(
        min_length=1,
        description="names (see `molflowctl properties`), smarts:PATTERN or surrogate:FOLDER",
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
    charges: bool = Field(
        default=False, description="add partial charges of the atoms (GFN2-xTB), for an SDF only"
    )
    relative: bool = Field(
        default=False, description="add energies relative to the molecule's lowest record, kcal/mol"
    )
    resume: bool = Field(
        default=False,
        description="go on with an interrupted run: what is in the cache is not computed again",
    )
    overwrite: bool = Field(default=False, description="replace an existing output")

    def model_post_init(self, context: Any) -> None:
        if self.charges and self.out.endswith((".csv", ".parquet")):
            raise UserError("partial charges are lists, for which a table has no place: -o to SDF.")
        if self.resume and self.cache is False:
            raise UserError("a resumed run takes its results from the cache: not without one.")
        if self.backend == "serial" and self.timeout is not None:
            raise UserError("the backend serial has no time limit: leave it out or use processes.")


class RankConfig(Config):
    """What `molflowctl rank` does."""

    command = "rank"

    library: str = Field(description="scored: an SDF with tags, or a CSV with columns")
    by: str = Field(description="a column of the library, or a reward of its columns")
    out: str = Field(
        description="file of the best: .sdf, .sdf.gz, .csv, .parquet; - for SDF on standard output"
    )
    n: int = Field(default=100, ge=1, description="to keep [molecules]")
    minimise: bool = Field(default=False, description="small values first")
    conformers: bool = Field(default=False, description="keep several records of one molecule")
    fold_stereo: bool = Field(default=False, description="stereoisomers are one molecule")
    fold_salts: bool = Field(
        default=False,
        description="salts, hydrates and charge states of one parent are one molecule",
    )
    html: str | None = Field(
        default=None, description="file of an offline page with 3-D views; null for none"
    )
    grid: str | None = Field(
        default=None, description="file of a picture, .png or .svg; null for none"
    )
    overwrite: bool = Field(default=False, description="replace an existing output")


class SurrogateConfig(Config):
    """What `molflowctl surrogate` does."""

    command = "surrogate"

    library: str = Field(description="scored: an SDF with tags, or a CSV with columns")
    property: str = Field(description="the column to learn")
    out: Path = Field(description="folder of the surrogate")
    members: int = Field(
        default=4,
        ge=2,
        description="in the ensemble, whose spread tells what is not known [networks]",
    )
    width: int = Field(default=256, ge=8, description="of their two hidden layers [units]")
    epochs: int = Field(default=25, ge=1, description="of training [passes over the library]")
    dropout: float = Field(
        default=0.3,
        ge=0,
        lt=1,
        description="of the hidden units that are left out at random [share]",
    )
    seed: int = Field(default=0, ge=0, description="of the split and the networks [number]")
    jobs: int = Field(default=1, ge=1, description="working at once [processes]")
    overwrite: bool = Field(default=False, description="replace an existing surrogate")


Solver = Literal["reinforce", "values", "weighted", "adjoint", "combined"]
_TILTS = (
    "of the tilts: reinforce adjoint matching, value matching, weighted flow matching, adjoint "
    "matching by the gradient of a network that learned the reward, or the first and the last "
    "combined, on types and bonds and on positions"
)


class SteeringConfig(Config):
    """What `finetune` and `merge` have in common."""

    out: Path = Field(description="folder of the new flow")
    utility: tuple[Spec, ...] = Field(
        default=("mean",),
        description=(
            "of the reward, several add up: mean, cvar:LEVEL, super-quantile:LEVEL, mean-"
            "variance:WEIGHT, diversity:WEIGHT or entropy:WEIGHT"
        ),
    )
    minimise: bool = Field(default=False, description="the reward is to become small")
    rounds: int = Field(
        default=8, ge=1, description="of mirror ascent, each one fine-tuning problem [mirror steps]"
    )
    round_samples: int = Field(
        default=1024, ge=16, description="drawn and judged afresh per mirror step [molecules]"
    )
    round_evaluations: int = Field(
        default=50,
        ge=1,
        description=(
            "per molecule of those; fewer draw from another density than is judged [network "
            "evaluations]"
        ),
    )
    base_samples: int = Field(
        default=2048, ge=64, description="of the prior, which tell the exact target [molecules]"
    )
    test_samples: int = Field(
        default=1000, ge=2, description="drawn and judged at the end [molecules]"
    )
    evaluations: int = Field(
        default=50,
        ge=1,
        description="per molecule of the prior and of the result [network evaluations]",
    )
    invalid: float = Field(
        default=-2.0,
        description=(
            "reward of a failed molecule, from the prior's mean [standard deviations of the prior]"
        ),
    )
    validity: float = Field(
        default=3.0, ge=0, description="that a molecule loses by being invalid [nats]"
    )
    solver: Solver = Field(
        default="reinforce",
        description=_TILTS,
    )
    parts: tuple[str, ...] = Field(
        default=(), description="of the state that are steered, such as positions; none for all"
    )
    inner_steps: int = Field(
        default=128,
        ge=2,
        description="of the flow per mirror step; guidance has none [optimiser steps]",
    )
    value_steps: int = Field(
        default=300,
        ge=2,
        description="of the network of values, where the solver has one [optimiser steps]",
    )
    batch: int = Field(default=128, ge=1, description="per optimiser step [molecules]")
    lr: float = Field(
        default=5e-4, gt=0, description="learning rate of the flow in those steps [per step]"
    )
    timeout: float = Field(
        default=30.0,
        gt=0,
        allow_inf_nan=False,
        description="that the oracle may take per molecule [seconds]",
    )
    seed: int = Field(default=0, ge=0, description="same seed, same molecules [number]")
    jobs: int = Field(default=1, ge=1, description="working at once [processes]")
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:1")


class FinetuneConfig(SteeringConfig):
    """What `molflowctl finetune` does."""

    command = "finetune"

    flow: str = Field(description="to steer: a shipped name or a folder")
    reward: RewardText = Field(
        description="what is to be large: a property, or an expression of several"
    )
    divergence: tuple[Spec, ...] = Field(
        default=("kl:1",),
        min_length=1,
        description=(
            "to the prior, several add up: kl:WEIGHT, forward-kl:WEIGHT, renyi-ORDER:WEIGHT, "
            "w1:WEIGHT or mmd:WEIGHT, in nats of the reward's standard deviations; kl=NATS "
            "finds the weight at which the optimum is so far"
        ),
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
        description=(
            "of the mirror steps over which the way to the target is shared out; each of the "
            "others asks for all that is missing and takes back what went astray. Give a "
            "target that few molecules show, such as a super-quantile, more rounds, and 0.2 "
            "[share]"
        ),
    )
    carry: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description=(
            "of what a mirror step was asked for and did not bring that the next one is asked"
            " for on top [share]"
        ),
    )
    moments: int = Field(
        default=2,
        ge=1,
        le=2,
        description=(
            "of the rewards, by which a mirror step tells how far it came: 2 also asks for "
            "their spread, 1 lets a narrower density have the tail that was asked for "
            "[moments]"
        ),
    )
    data: Path | None = Field(
        default=None,
        description="a data set the flow has learned from: the objective is solved on it, and the "
        "flow learns the solution, in place of rounds of draws",
    )
    data_samples: int = Field(
        default=20_000, ge=64, description="of the data set that are weighed, at random [molecules]"
    )
    epochs: float = Field(
        default=10.0, gt=0, description="over what is drawn of them, with data [passes]"
    )
    minutes: float | None = Field(
        default=None,
        gt=0,
        description="length of the learning with data; null where epochs give it [minutes]",
    )

    def model_post_init(self, context: Any) -> None:
        if self.data and self.parts:
            raise UserError("a flow that learns --data learns all parts: parts= is of rounds.")
        if self.data and self.solver != "reinforce":
            raise UserError("a flow that learns --data takes no rounds: solver= is of them.")


class MergeConfig(SteeringConfig):
    """What `molflowctl merge` does."""

    command = "merge"

    circuit: CircuitText = Field(description="names of flows with & | - and parentheses")
    flows: dict[str, str] = Field(
        default={}, description="names in the circuit to flows; others are looked up in the zoo"
    )
    weights: tuple[float, ...] | None = Field(
        default=None,
        description=(
            "of the outermost operator's parts, or of what a contrast takes away; null for "
            "equal ones [parts]"
        ),
    )
    solver: Solver | Literal["score-sum", "feynman-kac"] = Field(  # type: ignore[assignment]
        default="reinforce",
        description="of the tilts, as in finetune but for guidance; score-sum and feynman-kac "
        "train nothing: they add the scores of an intersection's or a contrast's parts, the latter "
        "with corrections",
    )
    particles: int = Field(
        default=8, ge=2, description="of feynman-kac, carried along for every molecule [particles]"
    )
    distil: int = Field(
        default=0,
        ge=0,
        description=(
            "of score-sum, in which one network learns the sum; 0 keeps all parts [optimiser steps]"
        ),
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
        default=0.5,
        gt=0,
        description="of an interpolation's KL to its first part, beside the distances [weight]",
    )
    reward: RewardText | None = Field(
        default=None,
        description="a property or an expression that is to be large beside; null for none",
    )
    strength: float = Field(
        default=1.0, gt=0, description="of the utility, per standard deviation of the base [nats]"
    )
    ratio_times: int = Field(
        default=16, ge=1, description="at which two flows are compared for a log-ratio [times]"
    )
    ratio_latest: float = Field(
        default=0.8,
        gt=0,
        lt=1,
        description=(
            "up to which they are compared, and corrected by feynman-kac: beyond it flows "
            "differ by their errors in geometry more than by what they hold likely [time, 0 "
            "to 1]"
        ),
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
        description=(
            "of a union by regression, or to learn averaged scores; a gate has 1,500 of its "
            "own [optimiser steps]"
        ),
    )


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
    sdf: str | None = Field(default=None, description="also an SDF library of the ensembles")
    seed: int = Field(default=0, ge=0, description="of the starts and the draw [number]")
    jobs: int = Field(default=1, ge=1, description="working at once [processes]")
    resume: bool = Field(
        default=False, description="go on with an interrupted run of the same settings"
    )
    overwrite: bool = Field(default=False, description="replace an existing data set")


class ConformerTrainConfig(TrainConfig):
    """What `molflowctl train-conformers` does: the settings of a training, these among them."""

    command = "train-conformers"

    name: str = Field(default="qm9-conformers", description="name of the flow, in its card")
    data: Path = Field(
        default=Path("datasets/qm9-conformers"),
        description="ensembles to learn from, as `molflowctl data prepare-conformers` makes them",
    )
    hydrogens: Literal["explicit", "implicit"] = Field(
        default="explicit",
        description="explicit: the flow places them; implicit: they are added to the heavy atoms",
    )
    boltzmann: bool = Field(
        default=False, description="draw conformers by their weights, not all alike"
    )
    samples: int = Field(
        default=64, ge=1, description="whose conformers are drawn and compared [molecules]"
    )
    sample_steps: int = Field(
        default=20, ge=1, description="with which they are drawn [network evaluations]"
    )
    draws: int = Field(default=4, ge=1, description="of each of them [conformers]")


class ConformersConfig(Config):
    """What `molflowctl conformers` does."""

    command = "conformers"

    source: str = Field(description="a SMILES, or a .smi, .csv or .sdf file")
    out: str = Field(description="file of the result: .sdf or .sdf.gz; - for standard output")
    n: int = Field(default=50, ge=1, description="drawn of each stereoisomer [conformers]")
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
    isomers: int = Field(
        default=8,
        ge=1,
        description="made at most of an input that leaves stereo open [stereoisomers]",
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
    timeout: float = Field(
        default=600.0, gt=0, allow_inf_nan=False, description="per stereoisomer [seconds]"
    )
    seed: int = Field(default=0, ge=0, description="same seed, same conformers [number]")
    jobs: int = Field(default=1, ge=1, description="working at once [processes]")
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:1")
    overwrite: bool = Field(default=False, description="replace an existing output")


class ConformerSteeringConfig(Config):
    """What `finetune-conformers` and `merge-conformers` have in common."""

    out: Path = Field(description="folder of the new flow")
    data: Path = Field(
        default=Path("datasets/qm9-conformers"),
        description="ensembles, whose training molecules are steered on",
    )
    molecules: int = Field(
        default=256, ge=1, description="of the training split, at random, to steer on [molecules]"
    )
    energy: Literal["GFN2-xTB", "GFN1-xTB", "MMFF94"] = Field(
        default="GFN2-xTB", description="method of the energies and forces"
    )
    softness: float = Field(
        default=50.0, gt=0, description="above the reference, where rewards turn flat [kcal/mol]"
    )
    utility: tuple[Spec, ...] = Field(
        default=("mean",), min_length=1, description="of the negative energy, for instance cvar:0.2"
    )
    rounds: int = Field(
        default=6, ge=1, description="of mirror ascent, each one fine-tuning problem [mirror steps]"
    )
    round_samples: int = Field(
        default=512, ge=2, description="drawn afresh per mirror step [conformers]"
    )
    evaluations: int = Field(
        default=25, ge=2, description="per conformer of those [network evaluations]"
    )
    solver: Literal["adjoint", "reinforce", "weighted"] = Field(
        default="adjoint", description="of the tilts: by forces, or by values of the energy"
    )
    iterations: int = Field(
        default=16, ge=1, description="of adjoint matching, per mirror step [iterations]"
    )
    steps: int = Field(
        default=16, ge=2, description="of its trajectories, from noise to conformer [steps]"
    )
    passes: int = Field(
        default=3, ge=1, description="per iteration, over its trajectories [optimiser steps]"
    )
    earliest: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="from which the flow is steered by forces [time, 0 to 1]",
    )
    inner_steps: int = Field(
        default=96, ge=2, description="of solvers by values, per mirror step [optimiser steps]"
    )
    batch: int = Field(default=32, ge=1, description="per optimiser step [conformers]")
    lr: float = Field(default=5e-5, gt=0, description="learning rate [per step]")
    timeout: float = Field(
        default=30.0,
        gt=0,
        allow_inf_nan=False,
        description="for the energy of a conformer [seconds]",
    )
    seed: int = Field(default=0, ge=0, description="same seed, same conformers [number]")
    jobs: int = Field(default=1, ge=1, description="working at once [processes]")
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:1")


class ConformerFinetuneConfig(ConformerSteeringConfig):
    """What `molflowctl finetune-conformers` does."""

    command = "finetune-conformers"

    flow: str = Field(default="qm9-conformers", description="to steer: a shipped name or a folder")
    earliest: float = Field(
        default=0.6,
        ge=0,
        lt=1,
        description=(
            "from which the flow is steered by forces: by 0.6 it is decided which conformer "
            "becomes, so that each is cooled and none gains weight; 0 to weigh them too "
            "[time, 0 to 1]"
        ),
    )
    kl: float = Field(
        default=0.3,
        gt=0,
        description=(
            "that a nat of divergence to the flow is worth; vibrations that hold half of it "
            "lose half of what they hold [kcal/mol]"
        ),
    )


class ConformerMergeConfig(ConformerSteeringConfig):
    """What `molflowctl merge-conformers` does."""

    command = "merge-conformers"

    circuit: CircuitText = Field(description="names of flows with & | - and parentheses")
    flows: dict[str, str] = Field(
        default={}, description="names in the circuit to flows; others are looked up in the zoo"
    )
    weights: tuple[float, ...] | None = Field(
        default=None, description="of the outermost operator's parts; null for equal ones [parts]"
    )
    strength: float = Field(
        default=0.0,
        ge=0,
        description="of the utility, for each kcal/mol of it; 0 for no reward [nats per kcal/mol]",
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
        description=(
            "for mirror ascent, scores of the parts are those at the time 1 - epsilon [time, "
            "0 to 1]"
        ),
    )
