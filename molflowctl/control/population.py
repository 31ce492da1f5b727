"""States with what is known of each of them, as one value.

    population = Population(states, {"reward": rewards}, valid)
    population.select(rows), Population.joined([first, second]), population.to("cpu")

What an oracle said of a molecule, whether it is valid and what it weighs travel with its state:
whoever copies, cuts, joins or moves a population has them still.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from molflowctl.errors import UserError
from molflowctl.flows.state import (
    Ragged,
    batch_of,
    by_group,
    concatenate,
    groups_of,
    on_cpu,
    select,
)

if TYPE_CHECKING:
    from molflowctl.control.objectives.density import Density

__all__ = ["Column", "Population", "cpu_population", "of_states", "population_of", "states_of"]


@dataclass(frozen=True, eq=False)
class Population:
    """Weighted states of a density, with what is known of each; immutable.

    Arguments:
        states: `N` of them: a tensor or a `State` with the leading dimension `N`, or a `Ragged` of
            several shapes, in the order of its groups.
        values: name -> tensor `(N, ...)` of what was measured; NaN where that failed.
        valid: `(N,)` booleans, of states that stand for what they are meant to; None for all.
        weights: `(N,)`, not negative, which need not add up to one; None where all count the same.
        density: what the weighted states are a sample of, if an objective asks for its log-density
            or score; None if it is not known.

    Raises:
        ValueError: if one of these is not of `N` elements.
    """

    states: Any
    values: Mapping[str, Tensor] = field(default_factory=dict)
    valid: Tensor | None = None
    weights: Tensor | None = None
    density: Density | None = None

    def __post_init__(self) -> None:
        n = batch_of(self.states)
        told = {**self.values, "valid": self.valid, "weights": self.weights}
        for name, column in told.items():
            if column is not None and len(column) != n:
                raise ValueError(f"{name} is of {len(column)} states, and there are {n}")

    def __len__(self) -> int:
        return batch_of(self.states)

    @property
    def shares(self) -> Tensor:
        """The weights, `(N,)` float64, adding up to one."""
        if self.weights is not None:
            return self.weights.double() / self.weights.double().sum()
        return torch.full((len(self),), 1 / len(self), dtype=torch.float64)

    def mean(self, values: Tensor) -> float:
        """Weighted mean of `values`, `(N,)`."""
        return float((self.shares * values.double()).sum())

    def effective_size(self) -> float:
        """Kish's effective sample size, `1 / sum w^2`, of 1 to `N` states."""
        return float(1 / self.shares.square().sum())

    def mask(self) -> Tensor:
        """Which states are valid, `(N,)` booleans."""
        return torch.ones(len(self), dtype=torch.bool) if self.valid is None else self.valid

    def weighted(self, weights: Tensor | None, density: Density | None = None) -> Population:
        """The same states with other weights, `(N,)`, as a sample of another density."""
        return replace(self, weights=weights, density=density)

    def select(self, rows: Tensor | slice) -> Population:
        """The states `rows`, an index `(M,)`, a mask `(N,)` or a slice, with all that is theirs."""
        rows = torch.arange(len(self))[rows]
        valid, weights = (None if c is None else c[rows] for c in (self.valid, self.weights))
        values = {name: column[rows] for name, column in self.values.items()}
        return Population(_selected(self.states, rows), values, valid, weights, self.density)

    def to(self, device: str | torch.device) -> Population:
        """The same population with states, values and weights on a device."""
        valid, weights = (None if c is None else c.to(device) for c in (self.valid, self.weights))
        values = {name: column.to(device) for name, column in self.values.items()}
        groups = [group.to(device) for group in groups_of(self.states)]
        states = Ragged(groups) if isinstance(self.states, Ragged) else groups[0]
        return Population(states, values, valid, weights, self.density)

    @staticmethod
    def joined(populations: Sequence[Population]) -> Population:
        """Several populations as one, in their order, of no density.

        Raises:
            ValueError: if they do not know the same of their states, or some have weights and some
                have none, whose sizes would not compare.
        """
        first = populations[0]
        if any(p.values.keys() != first.values.keys() for p in populations):
            raise ValueError("populations that know different values cannot be joined")
        weights = [p.weights for p in populations if p.weights is not None]
        if weights and len(weights) < len(populations):
            raise ValueError("populations with weights and without cannot be joined")
        known = any(p.valid is not None for p in populations)
        return Population(
            concatenate([p.states for p in populations]),
            {name: torch.cat([p.values[name] for p in populations]) for name in first.values},
            torch.cat([p.mask() for p in populations]) if known else None,
            torch.cat(weights) if weights else None,
        )


@dataclass(frozen=True)
class Column:
    """A function of what a population knows: `(N, ...)` of the values of one name.

    Arguments:
        key: of the values.
        title: what they are, for messages.
        function: what is made of them, `(N, ...)` to `(N, ...)`; None for the values themselves.

    Raises:
        UserError: when called with states that nobody has measured.
    """

    key: str
    title: str
    function: Callable[[Tensor], Tensor] | None = None

    def __call__(self, population: Any) -> Tensor:
        """Of the states of a population, `(N, ...)`."""
        known = population.values.get(self.key) if isinstance(population, Population) else None
        if known is None:
            raise UserError(f"{self.title} is known of molecules only that were drawn and judged.")
        return known if self.function is None else self.function(known)


def population_of(x: Any) -> Population:
    """States as a population of which nothing else is known; a population as it is."""
    return x if isinstance(x, Population) else Population(x)


def states_of(x: Any) -> Any:
    """The states of a population; states as they are."""
    return x.states if isinstance(x, Population) else x


def of_states(function: Callable[[Any], Tensor], x: Any) -> Tensor:
    """One row for each state, `(N, ...)`.

    Arguments:
        function: of states of one shape, `(B, ...)`, or a `Column`.
        x: a population, or states of one shape or several.
    """
    return function(x) if isinstance(function, Column) else by_group(function, states_of(x))


def _selected(states: Any, rows: Tensor) -> Any:
    """Rows `(M,)` of states of one shape or several; several stay in the order of the rows."""
    if not isinstance(states, Ragged):
        return select(states, rows)
    ends = torch.tensor([batch_of(group) for group in states.groups]).cumsum(0)
    group_of = torch.searchsorted(ends, rows, right=True).tolist()
    found, start = [], 0
    for place, run in groupby(group_of):
        size = len(list(run))
        first = int(ends[place - 1]) if place else 0
        found.append(select(states.groups[place], rows[start : start + size] - first))
        start += size
    return Ragged(found)


def cpu_population(x: Any) -> Population:
    """A population whose states are on the CPU, where rewards, weights and banks are."""
    if not isinstance(x, Population):
        return Population(on_cpu(x))
    states = on_cpu(x.states)
    return x if states is x.states else x.to("cpu")
