"""Densities on a grid: the exact optimum of a problem, and how near a flow comes to it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from molflowctl.control.objectives.density import Tabulated
from molflowctl.control.objectives.objective import Functional
from molflowctl.control.objectives.reward import Reward
from molflowctl.control.population import Population
from molflowctl.control.solvers.weighted import optimal_weights
from molflowctl.flows.flow import Flow
from molflowctl.flows.likelihood import log_likelihood
from molflowctl.flows.mixture import MixtureFlow

__all__ = ["GRIDS", "Grid", "Group", "Judged", "Problem", "judge"]


Group = Literal["utility", "divergence", "operator", "form"]


@dataclass(frozen=True)
class Grid:
    """Points of a square or an interval, and what they cover.

    Arguments:
        half: the grid reaches from `-half` to `half` in every dimension.
        spacing: between neighbours.
    """

    dimension: int
    half: float
    spacing: float

    @cached_property
    def x(self) -> Tensor:
        """`(N, d)`."""
        axis = torch.arange(-self.half, self.half + self.spacing / 2, self.spacing)
        return axis[:, None] if self.dimension == 1 else torch.cartesian_prod(axis, axis)

    @property
    def side(self) -> int:
        """Points along an axis."""
        return round(2 * self.half / self.spacing) + 1

    def table(self, log_density: Tensor) -> Tabulated:
        """The density on the grid, `(N,)`, normalised there."""
        log_shares = log_density.double() - log_density.double().logsumexp(0)
        return Tabulated(self.x, log_shares - self.dimension * math.log(self.spacing))

    def sample(self, log_density: Tensor) -> Population:
        """The same as a weighted sample."""
        density = self.table(log_density)
        weights = density.table.softmax(0)
        return Population(self.x, weights=weights, density=density)


GRIDS = {1: Grid(1, 7.0, 0.02), 2: Grid(2, 5.0, 0.125)}


@dataclass(frozen=True)
class Problem:
    """One objective, how it is attacked, and from where.

    Arguments:
        prior: the density the control starts from.
        objective: judged on the grid; `exact` where it differs from what the solver is given (an
            exact potential for a critic).
        solve: seed to flow.
        rewards: whose calls are counted.
    """

    name: str
    group: Group
    prior: MixtureFlow
    objective: Functional
    solve: Callable[[int], Flow]
    rewards: list[Reward] = field(default_factory=list)

    @property
    def grid(self) -> Grid:
        return GRIDS[self.prior.dimension]

    @cached_property
    def base(self) -> Population:
        """The prior on the grid."""
        return self.grid.sample(self.prior.log_density(self.grid.x))

    @cached_property
    def optimum(self) -> Population:
        """The best density on the grid."""
        assert self.base.density is not None
        best = optimal_weights(
            self.objective,
            self.grid.x,
            self.base.density,
            base_weights=self.base.weights,
            steps=3000,
            tolerance=1e-9,
        )
        return self.grid.sample(best.shares.clamp_min(1e-300).log())

    def reached(self, flow: Flow) -> Population:
        """The density of a flow on the grid."""
        return self.grid.sample(log_likelihood(flow, self.grid.x))


@dataclass(frozen=True)
class Judged:
    """How far a run got."""

    base: float
    reached: float
    optimum: float
    kl: float  # KL(p* || p)
    mass: float  # of the reached density on the grid before it was normalised

    @property
    def gap(self) -> float:
        """`(G* - G) / (G* - G_base)`."""
        return (self.optimum - self.reached) / (self.optimum - self.base)


def judge(problem: Problem, flow: Flow) -> tuple[Judged, Population]:
    """Evaluate a flow, and its density on the grid."""
    grid, best = problem.grid, problem.optimum
    log_p = log_likelihood(flow, grid.x).double()
    reached = grid.sample(log_p)
    assert isinstance(best.density, Tabulated)
    assert isinstance(reached.density, Tabulated)
    shares = best.shares
    inside = shares > 1e-12
    ratio = (best.density.table - reached.density.table)[inside]
    judged = Judged(
        base=problem.objective.value(problem.base),
        reached=problem.objective.value(reached),
        optimum=problem.objective.value(best),
        kl=float((shares[inside] * ratio).sum()),
        mass=float(log_p.exp().sum() * grid.spacing**grid.dimension),
    )
    return judged, reached
