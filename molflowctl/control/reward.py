"""Rewards: a number for every state, and where there is one, its gradient.

    radius = Reward(lambda x: x.square().sum(-1), name="squared radius")
    oracle = Reward(count_oxygens, differentiable=False)
    2.0 * radius - oracle

Solvers that need a gradient ask for `gradient` and get a clear error from a reward that has none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from molflowctl.errors import UserError
from molflowctl.flows.state import AnyState, State, times

__all__ = ["Reward"]


class Reward:
    """A function of states.

    Arguments:
        function: states to values, `(B,)`; in torch operations if it is `differentiable`.
        gradient: states to the gradient, a state; None to differentiate `function`.
        differentiable: whether there is a gradient at all.
        name: for messages and logs.
    """

    def __init__(
        self,
        function: Callable[[Any], Tensor],
        *,
        gradient: Callable[[Any], Any] | None = None,
        differentiable: bool = True,
        name: str = "reward",
    ) -> None:
        self.function, self.slope, self.name = function, gradient, name
        self.differentiable = differentiable

    def __repr__(self) -> str:
        return f"Reward({self.name})"

    @torch.no_grad()
    def value(self, x: AnyState) -> Tensor:
        """Values at `x`, `(B,)`.

        Raises:
            UserError: if they are not finite or not one per element.
        """
        values = self.function(x)
        batch = x.batch if isinstance(x, State) else len(x)
        if values.shape != (batch,):
            shape = tuple(values.shape)
            raise UserError(f"{self.name} returned the shape {shape} for {batch} states.")
        if bad := int((~values.isfinite()).sum()):
            raise UserError(
                f"{self.name} is not finite for {bad} of {batch} states: say what a failed one "
                f"counts as."
            )
        return values

    def gradient(self, x: AnyState) -> Any:
        """The gradient at `x`, a state.

        Raises:
            UserError: if there is none, or it is not finite.
        """
        if not self.differentiable:
            raise UserError(
                f"{self.name} has no gradient: use a solver by values, ReinforceAdjointMatching or "
                f"WeightedFlowMatching."
            )
        slope = self.slope(x) if self.slope else self._autograd(x)
        parts = slope.values() if isinstance(slope, State) else [slope]
        if not all(bool(part.isfinite().all()) for part in parts):
            raise UserError(f"the gradient of {self.name} is not finite.")
        return slope

    def _autograd(self, x: AnyState) -> Any:
        with torch.enable_grad():
            if isinstance(x, State):
                leaf = x.map(lambda part: part.detach().requires_grad_())
                parts = list(leaf.values())
            else:
                leaf = x.detach().requires_grad_()
                parts = [leaf]
            values = self.function(leaf)
            if not values.requires_grad:
                raise UserError(
                    f"{self.name} does not depend on the state through torch operations: pass "
                    f"gradient=..., or differentiable=False and use a solver by values."
                )
            # A reward may ignore a part of the state, whose gradient is then zero.
            slopes = torch.autograd.grad(values.sum(), parts, allow_unused=True)
        filled = [
            torch.zeros_like(p) if s is None else s for p, s in zip(parts, slopes, strict=True)
        ]
        return State(**dict(zip(leaf, filled, strict=True))) if isinstance(x, State) else filled[0]

    def __add__(self, other: Reward) -> Reward:
        return Reward(
            lambda x: self.function(x) + other.function(x),
            gradient=lambda x: self.gradient(x) + other.gradient(x),
            differentiable=self.differentiable and other.differentiable,
            name=f"{self.name} + {other.name}",
        )

    def __mul__(self, factor: float) -> Reward:
        return Reward(
            lambda x: factor * self.function(x),
            gradient=lambda x: times(factor, self.gradient(x)),
            differentiable=self.differentiable,
            name=f"{factor:g} * {self.name}",
        )

    __rmul__ = __mul__

    def __neg__(self) -> Reward:
        return self * -1.0

    def __sub__(self, other: Reward) -> Reward:
        return self + -other
