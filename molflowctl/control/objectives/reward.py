"""Rewards: a number for every state, and where there is one, its gradient.

    radius = Reward(lambda x: x.square().sum(-1), name="squared radius")
    oracle = Reward(count_oxygens, differentiable=False)
    2.0 * radius - oracle

A reward counts the states it was asked about in `calls`, where the same states asked about twice in
a row count once, and the groups of a `Ragged` population once for all. Solvers that need a gradient
ask for `gradient` and get a clear error from a reward that has none.

This is a reward of states, which a flow moves. What a whole molecule is worth, from its properties,
is `molflowctl.properties.rewards`, a layer above.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from molflowctl.control.population import Population, states_of
from molflowctl.errors import UserError
from molflowctl.flows.state import AnyState, Ragged, State, batch_of, groups_of, times

__all__ = ["Combination", "Reward"]


class Reward:
    """A function of states.

    Arguments:
        function: states to values, `(B,)`; in torch operations if it is `differentiable`.
        gradient: states to the gradient, a state; None to differentiate `function`.
        differentiable: whether there is a gradient at all.
        derived: whether the function is made of other rewards' values, which know themselves what
            they said of a population.
        measured: whether the function reads what a `Population` knows, see `Column`, in place of
            the states themselves. It is asked about populations alone, and has no gradient.
        name: for messages and logs.
    """

    def __init__(
        self,
        function: Callable[[Any], Tensor],
        *,
        gradient: Callable[[Any], Any] | None = None,
        differentiable: bool = True,
        derived: bool = False,
        measured: bool = False,
        name: str = "reward",
    ) -> None:
        self.function, self.slope, self.name = function, gradient, name
        self.differentiable = differentiable and not measured
        self.derived, self.measured = derived, measured
        self.calls = 0
        self._groups = WeakIdKeyDictionary()  # values of groups, while the groups live
        self._last: tuple[Any, int, Tensor] | None = None
        self._last_slope: tuple[Any, int, Any] | None = None

    def __repr__(self) -> str:
        return f"Reward({self.name})"

    @torch.no_grad()
    def value(self, x: AnyState | Ragged | Population) -> Tensor:
        """Values at `x`, `(B,)`.

        Raises:
            UserError: if they are no tensor, not finite or not one per element.
        """
        if self.measured:
            return self._asked(x)
        if not self.derived:
            x = states_of(x)
        if isinstance(x, Ragged) and not self.derived:
            return torch.cat([self._remembered(group) for group in x.groups])
        if self._last is not None and self._is_last(x):
            return self._last[2]
        known: Tensor | None = None if self.derived else self._groups.get(x)
        if known is not None:
            return known
        values = self._asked(x)
        self.calls += batch_of(states_of(x))
        self._last = x, _version(x), values
        return values

    def _asked(self, x: Any) -> Tensor:
        """The function's values, checked."""
        values = self.function(x)
        self._check_shape(values, batch_of(states_of(x)))
        self._check_finite(values)
        return values

    def _remembered(self, group: Any) -> Tensor:
        """Values of one group of a population, which is asked about again as long as it lives."""
        self._groups[group] = values = self.value(group)
        return values

    def gradient(self, x: AnyState) -> Any:
        """The gradient at `x`, a state.

        Raises:
            UserError: if there is none, it is not finite or not of the state's shape.
        """
        if not self.differentiable:
            raise UserError(
                f"{self.name} has no gradient: use a solver by values, ReinforceAdjointMatching or "
                f"WeightedFlowMatching."
            )
        if (
            self._last_slope is not None
            and self._last_slope[0] is x
            and self._last_slope[1] == _version(x)
        ):
            return self._last_slope[2]
        if not self._is_last(x):
            self.calls += batch_of(x)
        slope = self.slope(x) if self.slope else self._autograd(x)
        mine, wanted = (y if isinstance(y, State) else {"": y} for y in (slope, x))
        shapes = [{name: tuple(part.shape) for name, part in y.items()} for y in (mine, wanted)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"the gradient of {self.name} has the shape {shapes[0].get('', shapes[0])}, its "
                f"states have {shapes[1].get('', shapes[1])}."
            )
        if not all(bool(part.isfinite().all()) for part in mine.values()):
            raise UserError(f"the gradient of {self.name} is not finite.")
        self._last_slope = x, _version(x), slope
        return slope

    def _is_last(self, x: AnyState | Ragged | Population) -> bool:
        """Whether `x` is what was asked about last, and has not been written to since."""
        return (
            self._last is not None
            and _identity(self._last[0]) == _identity(x)
            and self._last[1] == _version(x)
        )

    def _check_shape(self, values: Any, batch: int) -> None:
        if not isinstance(values, Tensor):
            raise UserError(
                f"{self.name} returned a {type(values).__name__}: a tensor of the shape ({batch},) "
                f"is needed."
            )
        if values.shape != (batch,):
            shape = tuple(values.shape)
            raise UserError(f"{self.name} returned the shape {shape} for {batch} states.")

    def _check_finite(self, values: Tensor) -> None:
        if bad := int((~values.isfinite()).sum()):
            raise UserError(
                f"{self.name} is not finite for {bad} of {len(values)} states: say what a failed "
                f"one counts as."
            )

    def _autograd(self, x: AnyState) -> Any:
        with torch.enable_grad():
            parts = [
                part.detach().requires_grad_()
                for part in (x.values() if isinstance(x, State) else [x])
            ]
            leaf = _state(x, parts)
            values = self.function(leaf)
            self._check_shape(values, len(parts[0]))
            self._check_finite(values.detach())
            found: Sequence[Tensor | None] = [None] * len(parts)
            if values.requires_grad:
                found = torch.autograd.grad(values.sum(), parts, allow_unused=True)
        if all(slope is None for slope in found):
            raise UserError(
                f"{self.name} does not depend on the state through torch operations: pass "
                f"gradient=..., or differentiable=False and use a solver by values."
            )
        # A reward may ignore a part of the state, whose gradient is then zero.
        slopes = [
            torch.zeros_like(p) if s is None else s for p, s in zip(parts, found, strict=True)
        ]
        return _state(x, slopes)

    def _terms(self) -> list[tuple[float, Reward]]:
        return [(1.0, self)]

    def __add__(self, other: Reward) -> Reward:
        return Combination([*self._terms(), *other._terms()])

    def __mul__(self, factor: float) -> Reward:
        return Combination([(factor * f, part) for f, part in self._terms()])

    __rmul__ = __mul__

    def __neg__(self) -> Reward:
        return self * -1.0

    def __sub__(self, other: Reward) -> Reward:
        return self + -other


class Combination(Reward):
    """A weighted sum of rewards, none of which is a sum; equal ones are merged.

    Arguments:
        terms: factors and rewards; the empty sum is the reward zero.

    Raises:
        UserError: if a factor is not finite.
    """

    def __init__(self, terms: list[tuple[float, Reward]]) -> None:
        factors: dict[Reward, float] = {}
        for factor, part in terms:
            if not math.isfinite(factor):
                raise UserError(f"the factor of {part.name} is {factor}, not finite.")
            factors[part] = factors.get(part, 0.0) + factor
        self.terms = [(factor, part) for part, factor in factors.items() if factor]
        super().__init__(
            self._sum,
            gradient=self._slope,
            differentiable=all(part.differentiable for _, part in self.terms),
            derived=True,
            name=" + ".join(p.name if f == 1 else f"{f:.3g} * {p.name}" for f, p in self.terms)
            or "0",
        )

    def _terms(self) -> list[tuple[float, Reward]]:
        return self.terms

    def _sum(self, x: Any) -> Tensor:
        values = [times(factor, part.value(x)) for factor, part in self.terms]
        return torch.stack(values).sum(0) if values else _zeros(x)

    def _slope(self, x: Any) -> Any:
        slopes = [times(factor, part.gradient(x)) for factor, part in self.terms]
        total = times(0.0, x) if not slopes else slopes[0]
        for slope in slopes[1:]:
            total = total + slope
        return total


def _state(like: Any, parts: Sequence[Tensor]) -> Any:
    """A state of these parts, or the only one of a plain tensor."""
    if not isinstance(like, State):
        return parts[0]
    return State(like.given, **dict(zip(like, parts, strict=True)))


def _identity(x: Any) -> tuple[int, ...]:
    """The very objects that hold a state, or a population's states and what is known of them."""
    return (id(x.states), id(x.values)) if isinstance(x, Population) else (id(x),)


def _version(x: Any) -> int:
    """Counts the writes to a state in place."""
    parts = [
        p for g in groups_of(states_of(x)) for p in (g.values() if isinstance(g, State) else [g])
    ]
    return sum(part._version for part in parts)


def _zeros(x: Any) -> Tensor:
    x = states_of(x)
    part = groups_of(x)[0]
    part = next(iter(part.values())) if isinstance(part, State) else part
    return part.new_zeros(batch_of(x))
