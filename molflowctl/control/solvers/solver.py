r"""The problem that every inner solver solves: tilt a flow by a reward.

    maximise  E_p[r] + int E[rho_t] dt - KL(p || p_base)

whose optimum without a running reward `rho` is `p ~ p_base exp(r)`.
The KL weight is part of the reward: for a weight `beta` hand over `r / beta`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from molflowctl.control.bank import ReplayBuffer
from molflowctl.control.objectives.reward import Reward
from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow

__all__ = ["InnerSolver", "Tilt", "compatible"]


@dataclass(frozen=True)
class Tilt:
    """`p_base exp(r) / Z`, to be reached from a flow that may already be near it.

    Arguments:
        base: the flow the KL is to.
        reward: `r`, of data states.
        start: where the fit starts; None for the base itself.
        running: gradient of `rho_t`, the running reward: `(x, t) -> state`; None for none.
        bank: points that stand for the base, with the rewards, for solvers by values; None where
            they are to draw their own.
        behind: share of a sequence of tilts that lies behind; learning rates may fall with it.
        seed: of every random number.

    Raises:
        UserError: if base and start differ in path, noise or states.
    """

    base: Flow
    reward: Reward
    start: Flow | None = None
    running: Callable[[Any, Tensor], Any] | None = None
    bank: ReplayBuffer | None = None
    behind: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.start is not None:
            compatible(self.base, self.start)

    @property
    def flow(self) -> Flow:
        """Where the fit starts."""
        return self.base if self.start is None else self.start


class InnerSolver(Protocol):
    """Turns a tilt into a flow; `self` holds settings only."""

    def solve(self, tilt: Tilt) -> Flow:
        """The flow of `base exp(reward) / Z`; the tilt's flows stay as they are.

        Raises:
            UserError: for a tilt that it has no use for, or if the fit diverges.
        """


def compatible(*flows: Flow) -> None:
    """Check that flows can be steered or merged together.

    Raises:
        UserError: if two differ in path, noise or states; the message names the difference.
    """
    first, *rest = flows
    for other in rest:
        for what, mine, theirs in (
            ("path", first.path, other.path),
            ("noise covariance", first.covariance, other.covariance),
            ("states", first.state_space(), other.state_space()),
        ):
            if mine != theirs:
                raise UserError(
                    f"these flows do not go together: they differ in their {what} "
                    f"({mine} and {theirs})."
                )
