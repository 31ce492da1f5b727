"""Settings of `finetune` and `merge`, of molecules and of conformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from molflowctl.errors import UserError
from molflowctl.io.config import CircuitText, Config, RewardText, Spec, tell_old_name
from molflowctl.io.yaml_input import read_value
from molflowctl.tasks.generate.settings import AroundSettings
from molflowctl.tasks.shared_settings import (
    ConformerSeed,
    Device,
    Flows,
    Jobs,
    Minutes,
    MirrorSteps,
    MoleculeSeed,
    OracleBudget,
    Part,
    Positive,
    ProductPrecision,
    Timeout,
    by_its_share,
    check_budget,
    share_budget,
)

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


class _Steering(Config, old_names={
    "rounds": "mirror_steps", "round_samples": "n_samples", "evaluations": "nfe",
    "inner_steps": "train_steps",
}):  # fmt: skip
    """What all steering has in common."""

    @classmethod
    def translate(cls, values: dict[str, Any]) -> None:
        if isinstance(given := values.get("utility"), list | tuple):
            values["utility"] = [by_its_share(spec) for spec in given]


class SteeringConfig(_Steering, old_names={
    "round_evaluations": "mirror_nfe", "invalid": "failed_reward", "validity": "invalid_penalty",
    "parts": "modalities",
}):  # fmt: skip
    """What `finetune` and `merge` have in common."""

    out: Path = Field(description="folder of the new flow")
    utility: tuple[Spec, ...] = Field(
        default=("mean",),
        description="of the reward, several add up: mean, cvar:SHARE of the worst or "
        "upper-cvar:SHARE of the best, mean-variance:WEIGHT, diversity:WEIGHT or entropy:WEIGHT",
    )
    minimise: bool = Field(default=False, description="the reward is to become small")
    mirror_steps: MirrorSteps = 8
    n_samples: int = Field(
        default=1024, ge=16, description="drawn and judged afresh per mirror step [molecules]"
    )
    mirror_nfe: int = Field(
        default=50,
        ge=1,
        description="per molecule of those; fewer draw from another density than is judged "
        "[network evaluations]",
    )
    base_samples: int = Field(
        default=2048, ge=64, description="of the prior, which tell the exact target [molecules]"
    )
    test_samples: int = Field(
        default=1000, ge=2, description="drawn and judged at the end [molecules]"
    )
    nfe: int = Field(
        default=50, ge=1, description="per molecule of prior and result [network evaluations]"
    )
    failed_reward: float = Field(
        default=-2.0,
        description="reward of a failed molecule, from the prior's mean [standard deviations of "
        "the prior]",
    )
    invalid_penalty: float = Field(
        default=3.0, ge=0, description="that a molecule loses by being invalid [nats]"
    )
    solver: Solver = Field(default="reinforce", description=_TILTS)
    modalities: tuple[str, ...] = Field(
        default=(),
        description="parts of a molecule's state that are steered, such as positions; none for all",
    )
    train_steps: int = Field(
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
    lr: Positive = Field(
        default=5e-4, description="learning rate of the flow in those steps [per step]"
    )
    timeout: Timeout = Field(
        default=30.0, description="that the oracle may take per molecule [seconds]"
    )
    seed: MoleculeSeed = 0
    jobs: Jobs = 1
    device: Device = "auto"
    precision: ProductPrecision = "float32"


class FinetuneConfig(SteeringConfig, AroundSettings, command="finetune", old_names={
    "arrive": "anneal_fraction", "carry": "error_feedback", "moments": "matched_moments",
    "kl": "kl_weight",
}):  # fmt: skip
    """What `molflowctl finetune` does."""

    flow: str = Field(description="to steer: a shipped name or a folder")
    reward: RewardText = Field(
        description="what is to be large: a property, or an expression of several"
    )
    kl_weight: float | None = Field(
        default=None,
        gt=0,
        description="of the KL divergence to the prior; null for 1 where no divergence is named "
        "[nats of the reward's standard deviations]",
    )
    kl_nats: float | None = Field(
        default=None,
        gt=0,
        description="how far from the prior the optimum is to lie, as a KL divergence, in place of "
        "a weight, which is found [nats]",
    )
    divergence: tuple[Spec, ...] = Field(
        default=(),
        description="others to the prior, beside KL, several add up: forward-kl:WEIGHT, "
        "renyi-ORDER:WEIGHT, w1:WEIGHT or mmd:WEIGHT, in nats of the reward's standard "
        "deviations",
    )
    solver: Solver | Literal["guidance"] = Field(  # type: ignore[assignment]
        default="reinforce",
        description=f"{_TILTS}; or guidance, by a value of noisy states that is learned beside the "
        "flow, which stays as it is: slower to draw from, and nearer to targets that are hard to "
        "learn",
    )
    anneal_fraction: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="of the mirror steps over which the way to the target is shared out; each of "
        "the others asks for all that is missing and corrects what went too far. Give a target "
        "that few molecules show, such as a tail's, more mirror steps, and 0.2 [share]",
    )
    error_feedback: Part = Field(
        default=0.0,
        description="of what a mirror step was asked for and did not bring that the next one is "
        "asked for on top [share]",
    )
    matched_moments: int = Field(
        default=2,
        ge=1,
        le=2,
        description="of the rewards, by which a mirror step tells how far it came: 2 also asks for "
        "their spread, 1 lets a narrower density have the tail that was asked for "
        "[moments]",
    )
    oracle_budget: OracleBudget = None
    max_filter_share: Part | None = Field(
        default=None,
        description="the run stops before it steers where a filter that keeps this share of the "
        "base or more does as well; null to be told only [share]",
    )
    surrogate_samples: int | None = Field(
        default=None,
        ge=0,
        description="with oracle_budget, drawn beside n_samples and judged by a surrogate, which "
        "learns from all calls so far; null for twice n_samples where the oracle is slow, else 0 "
        "[molecules]",
    )
    data: Path | None = Field(
        default=None,
        description="a data set the flow has learned from: the objective is solved on it, and the "
        "flow learns the solution, in place of rounds of draws",
    )
    data_samples: int = Field(
        default=20_000, ge=64, description="of the data set that are weighed, at random [molecules]"
    )
    epochs: Positive = Field(
        default=10.0, description="over what is drawn of them, with data [passes]"
    )
    minutes: Minutes = Field(
        default=None,
        description="length of the learning with data; null where epochs give it [minutes]",
    )

    @classmethod
    def translate(cls, values: dict[str, Any]) -> None:
        super().translate(values)
        share_budget(values)
        given = values.get("divergence")
        if not isinstance(given, list | tuple):
            return
        others = []
        for spec in given:
            name, sign, number = str(spec).partition("=" if "=" in str(spec) else ":")
            new = "kl_nats" if sign == "=" else "kl_weight"
            if name != "kl" or not sign or new in values:
                others.append(spec)
                continue
            values[new] = read_value(number, f"divergence {spec}")
            tell_old_name(f"divergence {spec}", f"{new} {number}")
        values["divergence"] = others

    def model_post_init(self, context: Any) -> None:
        if self.kl_nats is not None and (self.kl_weight is not None or self.divergence):
            raise UserError(
                "kl_nats finds the weight of the one divergence there is, KL: leave out kl_weight "
                "and divergence (kl_weight: null, divergence: [])."
            )
        check_budget(self)
        if self.data and self.modalities:
            raise UserError(
                "a flow that learns --data learns the whole state: modalities= is of mirror steps."
            )
        if self.data and self.solver != "reinforce":
            raise UserError("a flow that learns --data takes no mirror steps: solver= is of them.")

    @property
    def penalties(self) -> tuple[str, ...]:
        """The divergences with their weights, `kl:1` where none is named; none with `kl_nats`."""
        if self.kl_nats is not None:
            return ()
        if self.kl_weight is None:
            return self.divergence or ("kl:1",)
        return (*self.divergence, f"kl:{self.kl_weight!r}")


class MergeConfig(
    SteeringConfig,
    AroundSettings,
    command="merge",
    old_names={"anchor": "kl_weight", "strength": "reward_weight"},
):
    """What `molflowctl merge` does."""

    circuit: CircuitText = Field(description="names of flows with & | - and parentheses")
    flows: Flows = Field(default={})
    weights: tuple[float, ...] | None = Field(
        default=None,
        description="of the outermost operator's parts, or of what a contrast takes away; null for "
        "equal ones [parts]",
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
        description="of score-sum, in which one network learns the sum; 0 keeps all parts "
        "[optimiser steps]",
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
    kl_weight: Positive = Field(
        default=0.5,
        description="of an interpolation's KL to its first part, beside the distances [weight]",
    )
    reward: RewardText | None = Field(
        default=None,
        description="a property or an expression that is to be large beside; null for none",
    )
    reward_weight: Positive = Field(
        default=1.0, description="of the utility, per standard deviation of the base [nats]"
    )
    ratio_times: int = Field(
        default=16, ge=1, description="at which two flows are compared for a log-ratio [times]"
    )
    ratio_latest: float = Field(
        default=0.8,
        gt=0,
        lt=1,
        description="up to which they are compared, and corrected by feynman-kac: beyond it flows "
        "differ by their errors in geometry more than by what they hold likely [time, 0 "
        "to 1]",
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
        description="of a union by regression, or to learn averaged scores; a gate has 1,500 of "
        "its own [optimiser steps]",
    )


class ConformerSteeringConfig(
    _Steering, old_names={"softness": "energy_cap", "steps": "trajectory_steps"}
):
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
    energy_cap: Positive = Field(
        default=50.0,
        description="above the reference, from which on rewards fall with the logarithm [kcal/mol]",
    )
    utility: tuple[Spec, ...] = Field(
        default=("mean",), min_length=1, description="of the negative energy, for instance cvar:0.2"
    )
    mirror_steps: MirrorSteps = 6
    n_samples: int = Field(
        default=512, ge=2, description="drawn afresh per mirror step [conformers]"
    )
    nfe: int = Field(default=25, ge=2, description="per conformer of those [network evaluations]")
    solver: Literal["adjoint", "reinforce", "weighted"] = Field(
        default="adjoint", description="of the tilts: by forces, or by values of the energy"
    )
    iterations: int = Field(
        default=16, ge=1, description="of adjoint matching, per mirror step [iterations]"
    )
    trajectory_steps: int = Field(
        default=16, ge=2, description="of its trajectories, from noise to conformer [steps]"
    )
    passes: int = Field(
        default=3, ge=1, description="per iteration, over its trajectories [optimiser steps]"
    )
    earliest: Part = Field(
        default=0.0, description="from which the flow is steered by forces [time, 0 to 1]"
    )
    train_steps: int = Field(
        default=96, ge=2, description="of solvers by values, per mirror step [optimiser steps]"
    )
    batch: int = Field(default=32, ge=1, description="per optimiser step [conformers]")
    lr: Positive = Field(default=5e-5, description="learning rate [per step]")
    timeout: Timeout = Field(default=30.0, description="for the energy of a conformer [seconds]")
    seed: ConformerSeed = 0
    jobs: Jobs = 1
    device: Device = "auto"


class ConformerFinetuneConfig(
    ConformerSteeringConfig, command="finetune-conformers", old_names={"kl": "kl_weight"}
):
    """What `molflowctl finetune-conformers` does."""

    flow: str = Field(default="qm9-conformers", description="to steer: a shipped name or a folder")
    earliest: Part = Field(
        default=0.6,
        description="from which the flow is steered by forces: by 0.6 it is decided which "
        "conformer becomes, so that each is cooled and none gains weight; 0 to weigh them too "
        "[time, 0 to 1]",
    )
    kl_weight: Positive = Field(
        default=0.3,
        description="that a nat of divergence to the flow is worth; vibrations that hold half of "
        "it lose half of what they hold [kcal/mol]",
    )


class ConformerMergeConfig(
    ConformerSteeringConfig, command="merge-conformers", old_names={"strength": "reward_weight"}
):
    """What `molflowctl merge-conformers` does."""

    circuit: CircuitText = Field(description="names of flows with & | - and parentheses")
    flows: Flows = Field(default={})
    weights: tuple[float, ...] | None = Field(
        default=None, description="of the outermost operator's parts; null for equal ones [parts]"
    )
    reward_weight: float = Field(
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
        description="for mirror ascent, scores of the parts are those at the time 1 - epsilon "
        "[time, 0 to 1]",
    )
