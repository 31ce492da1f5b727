"""Which solver the settings name, and which flows have a network that it can go on to train."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from molflowctl.control.solvers.adjoint import AdjointMatching
from molflowctl.control.solvers.guidance import ValueGuidance
from molflowctl.control.solvers.in_turn import Alternating
from molflowctl.control.solvers.learned import LearnedAdjoint
from molflowctl.control.solvers.reinforce import ReinforceAdjointMatching
from molflowctl.control.solvers.solver import InnerSolver
from molflowctl.control.solvers.values import ValueMatching
from molflowctl.control.solvers.weighted import WeightedFlowMatching
from molflowctl.errors import UserError
from molflowctl.flows.noise import BatchNoise
from molflowctl.flows.state import only
from molflowctl.models.around.flow import AroundFlow
from molflowctl.models.denovo import DeNovoFlow
from molflowctl.models.feynman_kac import FeynmanKacFlow
from molflowctl.models.gated import GatedFlow
from molflowctl.models.guided import GuidedFlow
from molflowctl.models.molecule_flow import MoleculeFlow
from molflowctl.tasks.generate.around import read_given
from molflowctl.tasks.steering.settings import FinetuneConfig, MergeConfig, SteeringConfig

__all__ = ["around_core", "check_learnable", "solver_of"]

DISCRETE = ("atoms", "charges", "bonds")
PASSES = 4  # over the trajectories of an iteration of adjoint matching


def check_learnable(flows: Mapping[str, MoleculeFlow]) -> None:
    """Check that what the flows draw is what their networks say.

    Raises:
        UserError: which names a flow that only swarms can draw from, or one that only chooses.
    """
    for name, flow in flows.items():
        if isinstance(flow, FeynmanKacFlow):
            raise UserError(
                f"{name} was merged by feynman-kac: it can be drawn from, but no network has what "
                f"it draws. Steer or merge its parts, or train on a library of it (train --data)."
            )
        if isinstance(flow, GatedFlow):
            raise UserError(
                f"{name} chooses among flows that stay as they are, and has no network that could "
                f"learn. Steer or merge its parts, or merge them by --set union=regression."
            )
        if isinstance(flow, GuidedFlow):
            raise UserError(
                f"{name} is guided by a value, and its network stays as it is. Go on with "
                f"finetune --set solver=guidance, or train on a library of it (train --data)."
            )


def solver_of(config: SteeringConfig, flow: MoleculeFlow) -> InnerSolver:
    """What the settings name for the tilts of a flow.

    Raises:
        UserError: if its states lack a part that is to be steered, or the solver moves all parts.
    """
    only(flow.start(1, BatchNoise(0, flow.device)), config.modalities)
    if config.solver in ("weighted", "combined", "guidance") and config.modalities:
        raise UserError(f"solver={config.solver} moves all parts of a state: no parts=.")
    match config.solver:
        case "weighted":
            return WeightedFlowMatching(steps=config.train_steps, batch=config.batch, lr=config.lr)
        case "values":
            return ValueMatching(
                config.value_steps, steps=config.train_steps, batch=config.batch, lr=config.lr,
                parts=config.modalities,
            )  # fmt: skip
        case "guidance":
            return ValueGuidance(config.value_steps, config.batch)
        case "adjoint":
            return _adjoint(config, config.modalities)
        case "combined":
            return Alternating((_reinforce(config, DISCRETE), _adjoint(config, ("positions",))))
    return _reinforce(config, config.modalities)


def _reinforce(config: SteeringConfig, parts: tuple[str, ...]) -> ReinforceAdjointMatching:
    return ReinforceAdjointMatching(config.train_steps, config.batch, config.lr, parts=parts)


def _adjoint(config: SteeringConfig, parts: tuple[str, ...]) -> LearnedAdjoint:
    adjoint = AdjointMatching(
        max(1, config.train_steps // PASSES), config.batch, passes=PASSES, lr=config.lr,
        average=0.9, clip=0.9, parts=parts,
    )  # fmt: skip
    return LearnedAdjoint(adjoint, config.value_steps, config.batch)


def around_core(
    flow: MoleculeFlow, config: FinetuneConfig | MergeConfig, say: Callable[[str], None]
) -> MoleculeFlow:
    """The flow around the core that the settings give; itself where they give none.

    Arguments:
        say: called with what was decided where the settings leave it open.

    Raises:
        UserError: for what is no core or has no place in the flow, and for settings that a core
            does not go with.
    """
    given = read_given(config)
    if given is not None:
        flow = given.flow(flow)
        for note in given.notes:
            say(note)
    if not isinstance(flow, AroundFlow):
        return flow
    if isinstance(config, FinetuneConfig) and config.data is not None:
        raise UserError("the molecules of --data have no core: steer by mirror steps instead.")
    if any(spec.startswith("entropy") for spec in config.utility):
        raise UserError("the entropy around a core is not known: leave it out, or take diversity.")
    if config.solver == "guidance" and type(flow.flow) is not DeNovoFlow:
        raise UserError(
            "a flow that is guided already, or made of several, cannot be guided around a core: "
            "take another solver."
        )
    if config.solver in ("score-sum", "feynman-kac"):
        raise UserError(
            f"--set solver={config.solver} merges flows as they are: merge them first, and draw "
            f"from what it makes with generate --core."
        )
    return flow
