"""Settings of `finetune` and `merge`, of molecules and of conformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from molflowctl.compute.seeds import LAST_SEED
from molflowctl.errors import UserError
from molflowctl.io.config import CircuitText, Config, RewardText, Spec

__all__ = [
    "ConformerFinetuneConfig",
    "ConformerMergeConfig",
    "ConformerSteeringConfig",
    "FinetuneConfig",
    "MergeConfig",
    "SteeringConfig",
]

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
    seed: int = Field(
        default=0, ge=0, le=LAST_SEED, description="same seed, same molecules [number]"
    )
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
    seed: int = Field(
        default=0, ge=0, le=LAST_SEED, description="same seed, same conformers [number]"
    )
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
