r"""Problems whose answers are known, for every utility, divergence and operator.

Priors are Gaussian mixtures in one and two dimensions with closed-form velocity, so nothing is lost
to pre-training. The optimum of each objective is found by mirror ascent on a grid, the reached
density is the flow's exact likelihood on that grid, and both are judged by the same functional:

    relative gap = (G* - G) / (G* - G_base),      KL(p* || p) on the grid.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from molflowctl.control import (
    KL,
    MMD,
    AdjointMatching,
    Constant,
    Contrast,
    Critic,
    CVaR,
    DiverseModes,
    Entropy,
    FlowDensityControl,
    ForwardKL,
    FromPrevious,
    FromPrior,
    Functional,
    InnerSolver,
    Interpolation,
    Intersection,
    LogBarrier,
    LogDet,
    LowestEigenvalue,
    Mean,
    MeanVariance,
    Operator,
    Renyi,
    Reward,
    RewardGuidedMerging,
    Sorted,
    Sum,
    SuperQuantile,
    TraceInverse,
    TrajectoryKL,
    Union,
    Wasserstein1,
    WeightedFlowMatching,
)
from molflowctl.control.anchors import Anchor
from molflowctl.flows.flow import Flow
from molflowctl.flows.mixture import MixtureFlow
from molflowctl.tasks.evaluation.analytic.judging import GRIDS, Group, Problem

__all__ = ["problems"]


# Priors and parts -------------------------------------------------------------------------------

LINE = MixtureFlow([0.5, 0.3, 0.2], [[-1.5], [0.8], [2.6]], [0.6, 0.5, 0.7])
PLANE = MixtureFlow([0.4, 0.35, 0.25], [[-1.5, 0.0], [1.2, 1.2], [0.8, -1.5]], [0.7, 0.6, 0.7])
A = MixtureFlow([0.5, 0.5], [[-1.5, 0.0], [1.0, 1.0]], [0.7, 0.7])
B = MixtureFlow([0.5, 0.5], [[1.0, 1.0], [1.0, -1.8]], [0.7, 0.7])
C = MixtureFlow([0.6, 0.4], [[0.6, 0.8], [-1.0, -1.0]], [0.9, 0.8])
D = MixtureFlow([0.5, 0.5], [[-1.2, -0.8], [1.2, -1.2]], [0.7, 0.8])
LEFT = MixtureFlow([0.7, 0.3], [[-1.5], [-0.2]], [0.6, 0.6])
RIGHT = MixtureFlow([0.4, 0.6], [[0.6], [1.8]], [0.6, 0.5])


def slope() -> Reward:
    """A reward that rises to the right and falls off the axis."""
    return Reward(lambda x: x[:, 0] - 0.3 * x[:, 1].square(), name="slope")


def hill() -> Reward:
    """A smooth bump."""
    centre = torch.tensor([0.5, 0.5])
    return Reward(lambda x: torch.exp(-0.5 * (x - centre.to(x)).square().sum(-1)), name="hill")


def wave() -> Reward:
    """A reward on the line with two maxima."""
    return Reward(lambda x: torch.sin(1.5 * x[:, 0]) + 0.3 * x[:, 0], name="wave")


def features(x: Tensor) -> Tensor:
    """Features of a design: 1, u, v and uv for `u, v = tanh x, tanh y`."""
    u, v = x.tanh().unbind(-1)
    return torch.stack([torch.ones_like(u), u, v, u * v], -1)


def sharp() -> Critic:
    """A critic with time to become exact."""
    return Critic(steps=800, later=400)


def late(t: Tensor) -> Tensor:
    """`462 t^20 (1 - t)`, of integral one."""
    return 462 * t**20 * (1 - t)


def unequal(x: Tensor) -> Tensor:
    """Features whose lowest eigenvalue stays a single one: 1, u and v/2."""
    u, v = x.tanh().unbind(-1)
    return torch.stack([torch.ones_like(u), u, 0.5 * v], -1)


# Runs -------------------------------------------------------------------------------------------

PRIOR = FromPrior()
LONG = AdjointMatching(iterations=200, batch=512)
SHORT = AdjointMatching(iterations=150, batch=512)
# For rewards that raise small far modes: what a batch does not hold, adjoints do not teach.
WIDE = AdjointMatching(iterations=100, batch=1024, lr=2e-2)


# By values: the bank holds the far modes in their proportion. The lowest eigenvalue, near the next
# one at its optimum, is sensitive to small errors of the density.
BANK = WeightedFlowMatching(points=65536, steps=4000, batch=1024, lr=1e-2, refresh=0.02)


def controlled(
    name: str,
    prior: MixtureFlow,
    objective: Functional,
    *,
    group: Group = "utility",
    step: float,
    steps: int = 3,
    inner: InnerSolver = SHORT,
    anchor: Anchor = PRIOR,
    exact: Functional | None = None,
    points: int = 4096,
    plan: int = 30,
) -> Problem:
    """A problem of flow density control."""
    control = FlowDensityControl(
        objective,
        inner,
        steps=steps,
        step_size=Constant(step),
        anchor=anchor,
        points=points,
        plan=plan,
    )
    return Problem(
        name,
        group,
        prior,
        exact or objective,
        lambda seed: control.run(prior.trainable(), prior=prior, seed=seed),
        objective.rewards(),
    )


def merged(
    name: str,
    operator: Operator,
    *,
    utility: Functional | None = None,
    objective: Functional | None = None,
    step: float | None = None,
    steps: int = 1,
    inner: AdjointMatching = LONG,
    union: Literal["regression", "gate", "mirror"] = "regression",
) -> Problem:
    """A problem of reward-guided merging; the heaviest part is the prior."""
    parts = operator.parts
    heaviest = parts[max(range(len(parts)), key=lambda k: operator.weights[k])]
    prior = heaviest if isinstance(heaviest, MixtureFlow) else operator.flows()[0]
    assert isinstance(prior, MixtureFlow)
    if objective is None:
        objective = operator.objective([p for p in parts if isinstance(p, Flow)])
        objective = objective if utility is None else utility + objective
    merging = RewardGuidedMerging(
        operator,
        inner,
        utility=utility,
        steps=steps,
        step_size=None if step is None else Constant(step),
        union=union,
        points=16384 if union == "regression" else 4096,
        matching=WeightedFlowMatching(steps=2000, lr=1e-2, batch=1024),
    )
    return Problem(
        name,
        "operator",
        prior,
        objective,
        lambda seed: merging.run(seed=seed),
        [] if utility is None else utility.rewards(),
    )


def problems() -> list[Problem]:
    """All rows of the table."""
    return [*utilities(), *divergences(), *operators(), *forms()]


def utilities() -> list[Problem]:
    """Every utility, with a KL to the prior."""
    r, h = slope(), hill()
    kl = KL(PLANE)
    return [
        controlled("mean", PLANE, Mean(r) - 0.8 * kl, step=1 / 0.8, steps=1, inner=LONG),
        controlled("CVaR 0.3", PLANE, CVaR(r, 0.3) - 1.2 * kl, step=0.6),
        controlled("super-quantile 0.7", PLANE, SuperQuantile(r, 0.7) - 0.8 * kl, step=0.9),
        controlled("mean - variance", PLANE, MeanVariance(r, 0.4) - 0.6 * kl, step=1.0),
        controlled("mean + entropy", PLANE, Mean(r) + 0.4 * Entropy() - 0.6 * kl, step=1.0),
        controlled("log det", PLANE, LogDet(features) - 1.0 * kl, step=0.8),
        controlled("A-optimal", PLANE, TraceInverse(features) - 1.2 * kl, step=0.4, inner=WIDE),
        controlled(
            "E-optimal",
            PLANE,
            10.0 * LowestEigenvalue(unequal) - 0.5 * kl,
            step=1.0,
            steps=1,
            inner=BANK,
        ),
        controlled(
            "log barrier", PLANE, LogBarrier(h, r, bound=-0.8, weight=0.5) - 0.5 * kl, step=1.2
        ),
        controlled(
            "diverse modes",
            LINE,
            10.0 * DiverseModes(lambda x: x, 0.7) - 0.5 * KL(LINE),
            step=0.8,
            points=1500,
        ),
    ]


def divergences() -> list[Problem]:
    """Every divergence to the prior, with a mean reward."""
    w = wave()
    plain = Mean(w)
    near = 0.4 * KL(LINE)
    return [
        controlled(
            "KL",
            LINE,
            plain - 0.6 * KL(LINE),
            group="divergence",
            step=1 / 0.6,
            steps=1,
            inner=replace(WIDE, iterations=500, lr=1e-2),
        ),
        controlled(
            "forward KL",
            LINE,
            plain - 2.4 * ForwardKL(LINE),
            group="divergence",
            step=0.2,
            inner=WIDE,
        ),
        controlled(
            "Renyi 2",
            LINE,
            plain - 1.2 * Renyi(LINE, 2.0),
            group="divergence",
            step=0.3,
            inner=WIDE,
        ),
        controlled(
            "W1 + KL",
            LINE,
            plain - 0.3 * Wasserstein1(LINE, sharp()) - near,
            exact=plain - 0.3 * Wasserstein1(LINE, Sorted(), points=20000) - near,
            group="divergence",
            step=0.9,
            steps=4,
            plan=4,
            inner=BANK,
        ),
        controlled(
            "MMD + KL",
            LINE,
            plain - 1.0 * MMD(LINE, points=1000) - near,
            group="divergence",
            step=0.9,
            points=1000,
            plan=3,
            inner=BANK,
        ),
    ]


def operators() -> list[Problem]:
    """Every operator, balanced and unbalanced, with a reward and without, and a circuit."""
    h, w = hill(), wave()
    grid = GRIDS[2]
    product = [0.5 * (a.log_density(grid.x) + b.log_density(grid.x)) for a, b in ((A, B), (C, D))]
    circuit = Sum(
        [
            (-1.0, ForwardKL(grid.table(log_p), name=f"KL from part {k}"))
            for k, log_p in enumerate(product, 1)
        ]
    )
    # A plan asks for many potentials of densities that differ little: later ones learn quickly.
    between = Interpolation(LEFT, RIGHT, weights=[0.5, 1.0], potential=Critic(steps=800, later=150))
    exact = Interpolation(LEFT, RIGHT, weights=[0.5, 1.0], potential=Sorted())
    return [
        merged("intersection", A & B),
        merged("intersection 1:3", Intersection(A, B, weights=[1, 3])),
        merged("intersection of three", A & B & C),
        merged("intersection, reward", A & B, utility=4.0 * Mean(h)),
        merged("contrast", Contrast(A, C, 0.5)),
        merged("union, regression", A | B),
        merged("union, gate", A | B, union="gate"),
        merged("union 1:3, regression", Union(A, B, weights=[1, 3])),
        merged("union 1:3, gate", Union(A, B, weights=[1, 3]), union="gate"),
        merged("union, ascent", LEFT | RIGHT, union="mirror", step=0.2, steps=3, inner=WIDE),
        merged("union, reward", A | B, utility=2.0 * Mean(h)),
        merged("(a & b) | (c & d)", (A & B) | (C & D), objective=circuit),
        interpolated("interpolation", between, exact, None),
        interpolated("interpolation, reward", between, exact, 0.5 * Mean(w)),
    ]


def interpolated(
    name: str, operator: Interpolation, exact: Interpolation, utility: Functional | None
) -> Problem:
    """Between two parts, with a KL to the first, which makes the optimum unique."""
    near = Sum([(-0.8, KL(LEFT))])
    extra = near if utility is None else utility + near
    merging = RewardGuidedMerging(
        operator, SHORT, utility=extra, base=1, steps=3, step_size=Constant(0.8), plan=4
    )
    return Problem(
        name,
        "operator",
        LEFT,
        extra + exact.objective([LEFT, RIGHT]),
        lambda seed: merging.run(seed=seed),
        extra.rewards(),
    )


def forms() -> list[Problem]:
    """The same intersection by the published anchor: scores of the flow itself, in two forms."""
    balanced = (A & B).objective([A, B])
    # The later along the path it is weighted, the nearer the optimum is to that of the KL itself.
    path = Sum([(-1.0, TrajectoryKL(part, weight=late)) for part in (A, B)])
    return [
        controlled(
            "intersection, terminal score",
            A,
            balanced,
            group="form",
            step=0.25,
            steps=4,
            anchor=FromPrevious(),
        ),
        controlled(
            "intersection, whole trajectory",
            A,
            path,
            exact=balanced,
            group="form",
            step=0.25,
            steps=4,
            anchor=FromPrevious(),
        ),
    ]
