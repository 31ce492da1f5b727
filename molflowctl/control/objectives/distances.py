"""Distances of two densities by functions that tell their samples apart: Wasserstein-1 and MMD."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from molflowctl.control.objectives.density import Density
from molflowctl.control.objectives.divergences import layout_of, source_of
from molflowctl.control.objectives.objective import Functional
from molflowctl.control.objectives.potentials import (
    CHUNK,
    Cloud,
    Critic,
    Potential,
    PotentialSolver,
    distances,
)
from molflowctl.control.objectives.reward import Reward
from molflowctl.control.population import Column, Population, of_states, states_of
from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow
from molflowctl.flows.mixture import MixtureFlow
from molflowctl.flows.state import State, by_group, groups_of, on_cpu

__all__ = ["MMD", "Wasserstein1"]


class _Between(Functional):
    """A distance between points of `p` and points of `q`, drawn once and kept."""

    def __init__(
        self,
        reference: Flow | Density | Population,
        features: Callable[[Any], Tensor] | None,
        points: int,
        seed: int,
        name: str,
    ) -> None:
        if points < 2:
            raise UserError(f"{name}: {points} points of the reference are too few.")
        self.name, self.features, self.points, self.seed = name, features, points, seed
        self.source = source_of(reference, name)

    @cached_property
    def drawn(self) -> Population:
        """The points of `q`."""
        flow = self.source
        if isinstance(flow, Population):
            return flow
        if isinstance(flow, MixtureFlow) and flow.net is None:
            return Population(on_cpu(flow.exact_sample(self.points, self.seed)))
        return Population(on_cpu(flow.draw_states(self.points, seed=self.seed)))

    @cached_property
    def reference(self) -> Cloud:
        """Features of the points of `q`."""
        return self.cloud(self.drawn)

    def cloud(self, sample: Population) -> Cloud:
        """Features of the points of a sample.

        Raises:
            UserError: if its states are not of the reference's kind.
        """
        mine, theirs = layout_of(sample.states), layout_of(self.drawn.states)
        if mine != theirs:
            raise UserError(
                f"{self.name} compares states of two kinds: the sample's have {mine}, the "
                f"reference's {theirs}."
            )
        with torch.no_grad():
            return Cloud(self.featured(sample), sample.shares)

    def featured(self, x: Any) -> Tensor:
        """Where the distance is measured, `(B, m)`."""
        if self.features is not None:
            f = of_states(self.features, x)
            if f.ndim != 2:
                raise UserError(
                    f"the features of {self.name} have the shape {tuple(f.shape)}, not (B, m)."
                )
            return f
        x = states_of(x)
        if isinstance(groups_of(x)[0], State):
            raise UserError(f"{self.name} of states with several parts needs features=...")
        return by_group(lambda group: group.flatten(1), x)

    def _reward(self, function: Callable[[Any], Tensor]) -> Reward:
        """A first variation, made of features of states, or of those that populations know."""
        return Reward(function, measured=isinstance(self.features, Column), name=f"d {self.name}")


class Wasserstein1(_Between):
    r"""`W1(p, q)`, the Euclidean cost of moving `p` to `q`.

    The potential is solved for the sample it is asked about: `fit` once, then value and first
    variation of that sample are free.

    Arguments:
        reference: `q`: a flow, or a population of it.
        potential: how the potential is found: `Critic()`, `Sorted()` or `Transport()`. A copy is
            kept, so that no two references share a critic.
        features: states to `(B, m)`, where the distance is measured; None for the state itself.
        points: drawn from the reference.
        seed: of the points.
        name: for messages and logs.
    """

    def __init__(
        self,
        reference: Flow | Density | Population,
        potential: PotentialSolver | None = None,
        *,
        features: Callable[[Any], Tensor] | None = None,
        points: int = 2000,
        seed: int = 0,
        name: str = "W1",
    ) -> None:
        super().__init__(reference, features, points, seed, name)
        self.potential = copy.deepcopy(potential) if potential is not None else Critic()
        self._solved: tuple[Population, Potential] | None = None

    def fit(self, sample: Population, seed: int = 0) -> None:
        self._solved = sample, self.potential.solve(self.cloud(sample), self.reference, seed)

    def value(self, sample: Population) -> float:
        phi, p, q = self._phi(sample), self.cloud(sample), self.reference
        with torch.no_grad():
            # A critic that found nothing is worse than the constant.
            return max(0.0, p.mean(phi(p.points)) - q.mean(phi(q.points)))

    def first_variation(self, sample: Population) -> Reward:
        phi = self._phi(sample)
        return self._reward(lambda x: phi(self.featured(x)))

    def reset(self) -> None:
        self.potential.reset()
        self._solved = None

    def _phi(self, sample: Population) -> Potential:
        if self._solved is None or self._solved[0] is not sample:
            self.fit(sample, self.seed)
        assert self._solved is not None
        return self._solved[1]


class MMD(_Between):
    r"""`|mu_p - mu_q|^2`, the squared maximum mean discrepancy, of sums of Gaussian kernels.

    `k(x, y) = sum_h exp(-|f(x) - f(y)|^2 / (2 h^2))`. The value is that of the weighted points (a
    V-statistic: pairs of a point with itself count), so above zero by about
    `(k(x, x) - E[k]) (1/n + 1/m)` for two samples of one density.

    Arguments:
        reference: `q`: a flow, or a population of it.
        features: `f`, states to `(B, m)`; None for the state itself.
        bandwidths: the `h`; None for half, one and two times the median distance between points of
            the reference, so that the functional stays the same while `p` moves.
        points: drawn from the reference.
        seed: of the points.
        name: for messages and logs.
    """

    def __init__(
        self,
        reference: Flow | Density | Population,
        features: Callable[[Any], Tensor] | None = None,
        bandwidths: Sequence[float] | None = None,
        *,
        points: int = 2000,
        seed: int = 0,
        name: str = "MMD",
    ) -> None:
        super().__init__(reference, features, points, seed, name)
        if bandwidths is not None and (not bandwidths or min(bandwidths) <= 0):
            raise UserError(f"{name}: bandwidths {list(bandwidths)}: they must be positive.")
        self._given = bandwidths

    @cached_property
    def bandwidths(self) -> list[float]:
        """The `h`.

        Raises:
            UserError: if the reference's points coincide and none are given.
        """
        if self._given is not None:
            return list(self._given)
        median = float(torch.pdist(self.reference.thinned(1000).points).median())
        if median == 0:
            raise UserError(f"{self.name}: the reference's points coincide; give bandwidths=...")
        return [0.5 * median, median, 2 * median]

    def embedding(self, cloud: Cloud, x: Tensor) -> Tensor:
        """`mu(x)` of the cloud, `(B,)`."""
        totals = []
        for z in x.split(CHUNK):
            total = z.new_zeros(len(z))
            for y, share in zip(cloud.points.split(CHUNK), cloud.shares.split(CHUNK), strict=True):
                squared = distances(z, y.to(z)).square()
                for h in self.bandwidths:
                    total = total + torch.exp(-squared / (2 * h**2)) @ share.to(z)
            totals.append(total)
        return torch.cat(totals)

    @torch.no_grad()
    def value(self, sample: Population) -> float:
        p, q = self.cloud(sample), self.reference
        cross = p.mean(self.embedding(q, p.points))
        return max(0.0, p.mean(self.embedding(p, p.points)) - 2 * cross + self._reference_norm)

    def first_variation(self, sample: Population) -> Reward:
        p, q = self.cloud(sample), self.reference

        def witness(x: Any) -> Tensor:
            f = self.featured(x)
            return 2 * (self.embedding(p, f) - self.embedding(q, f))

        return self._reward(witness)

    @cached_property
    def _reference_norm(self) -> float:
        with torch.no_grad():
            return self.reference.mean(self.embedding(self.reference, self.reference.points))
