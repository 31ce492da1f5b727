"""Several inner solvers for one tilt, in turn: each steers the parts of the state it is best at.

    Alternating((
        ReinforceAdjointMatching(parts=("atoms", "charges", "bonds")),
        LearnedAdjoint(AdjointMatching(parts=("positions",))),
    ))

The first is given the tilt, each other the flow that the last one left for its base. Of parts that
are independent, as in `r(x, y) = f(x) + g(y)` on `p(x) q(y)`, that is the whole tilt. Where parts
follow one another, some of it is asked for twice: a walk sees from the samples that it came farther
than it was to, and asks for less the next time (control/walk.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from molflowctl.control.solvers.solver import InnerSolver, Tilt
from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow

__all__ = ["Alternating"]


@dataclass(frozen=True)
class Alternating:
    """An inner solver made of others.

    Arguments:
        solvers: one at least, in their order.

    Raises:
        UserError: for none.
    """

    solvers: tuple[InnerSolver, ...]

    def __post_init__(self) -> None:
        if not self.solvers:
            raise UserError("Alternating needs one solver at least.")

    def solve(self, tilt: Tilt) -> Flow:
        """The flow that the last solver leaves."""
        first, *others = self.solvers
        flow = first.solve(tilt)
        for solver in others:
            flow = solver.solve(replace(tilt, base=flow, start=None))
        return flow
