"""Control of flows: free of chemistry, on any `Flow` and any states.

from molflowctl.control import CVaR, FlowDensityControl, KL, AdjointMatching, Reward

objective = CVaR(Reward(f), 0.1) - 0.2 * KL(prior)
tuned = FlowDensityControl(objective, AdjointMatching()).run(prior)

"""

from molflowctl.control.anchors import Annealed, FromPrevious, FromPrior
from molflowctl.control.composition import Gate, ScoreSum
from molflowctl.control.merging import RewardGuidedMerging
from molflowctl.control.mirror import Constant, FlowDensityControl, RobbinsMonro
from molflowctl.control.objectives.density import (
    Exact,
    Flowing,
    Tabulated,
    Tilted,
    as_density,
)
from molflowctl.control.objectives.distances import MMD, Wasserstein1
from molflowctl.control.objectives.divergences import KL, ForwardKL, Renyi, TrajectoryKL
from molflowctl.control.objectives.objective import Functional, Sum
from molflowctl.control.objectives.potentials import Critic, Sorted, Transport
from molflowctl.control.objectives.reward import Reward
from molflowctl.control.objectives.utilities import (
    CVaR,
    DiverseModes,
    Entropy,
    InternalDiversity,
    LogBarrier,
    LogDet,
    LowestEigenvalue,
    Mean,
    MeanVariance,
    SuperQuantile,
    TraceInverse,
)
from molflowctl.control.operators import (
    Contrast,
    Interpolation,
    Intersection,
    Operator,
    Union,
    parse,
)
from molflowctl.control.population import Column, Population
from molflowctl.control.solvers.adjoint import AdjointMatching
from molflowctl.control.solvers.guidance import ValueGuidance
from molflowctl.control.solvers.in_turn import Alternating
from molflowctl.control.solvers.learned import LearnedAdjoint
from molflowctl.control.solvers.reinforce import ReinforceAdjointMatching
from molflowctl.control.solvers.solver import InnerSolver, Tilt
from molflowctl.control.solvers.values import ValueMatching
from molflowctl.control.solvers.weighted import WeightedFlowMatching, optimal_weights
from molflowctl.control.store import MirrorStep

__all__ = [
    "KL",
    "MMD",
    "AdjointMatching",
    "Alternating",
    "Annealed",
    "CVaR",
    "Column",
    "Constant",
    "Contrast",
    "Critic",
    "DiverseModes",
    "Entropy",
    "Exact",
    "FlowDensityControl",
    "Flowing",
    "ForwardKL",
    "FromPrevious",
    "FromPrior",
    "Functional",
    "Gate",
    "InnerSolver",
    "InternalDiversity",
    "Interpolation",
    "Intersection",
    "LearnedAdjoint",
    "LogBarrier",
    "LogDet",
    "LowestEigenvalue",
    "Mean",
    "MeanVariance",
    "MirrorStep",
    "Operator",
    "Population",
    "ReinforceAdjointMatching",
    "Renyi",
    "Reward",
    "RewardGuidedMerging",
    "RobbinsMonro",
    "ScoreSum",
    "Sorted",
    "Sum",
    "SuperQuantile",
    "Tabulated",
    "Tilt",
    "Tilted",
    "TraceInverse",
    "TrajectoryKL",
    "Transport",
    "Union",
    "ValueGuidance",
    "ValueMatching",
    "Wasserstein1",
    "WeightedFlowMatching",
    "as_density",
    "optimal_weights",
    "parse",
]
