r"""Operators that merge flows, and circuits of them.

    merged = a & b                                  # Intersection, equal weights
    merged = Intersection(a, b, weights=[2, 1])     # what a reads counts twice
    merged = (a & b) | (c & d)                      # circuits nest
    merged = parse("(a & b) - c", {"a": a, "b": b, "c": c})

    operator        maximises                                optimum
    Intersection    -sum w_i KL(p || p_i)                    prod p_i^(w_i/W),  W = sum w_i
    Union           -sum w_i KL(p_i || p)                    sum w_i p_i / W
    Interpolation   -sum w_i W1(p, p_i)                      a median between the parts
    Contrast        -(1+w) KL(p || a) + w KL(p || b)         a^(1+w) b^-w

`RewardGuidedMerging` (control/merging.py) runs them, with a utility or without.

References:
    De Santi et al., Reward-Guided Flow Merging, 2026, arXiv 2602.08012.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from molflowctl.control.objectives.density import Density
from molflowctl.control.objectives.distances import Wasserstein1
from molflowctl.control.objectives.divergences import KL, ForwardKL
from molflowctl.control.objectives.objective import Functional, Sum
from molflowctl.control.objectives.potentials import PotentialSolver
from molflowctl.control.population import Population
from molflowctl.control.solvers.solver import compatible
from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow
from molflowctl.io.expressions import parse_circuit
from molflowctl.io.plain_files import quoted

__all__ = ["Contrast", "Interpolation", "Intersection", "Operator", "Union", "parse"]


class Operator:
    """A way to merge parts, each a flow or an operator.

    Arguments:
        parts: two or more.
        weights: one per part, positive and finite; None for ones.

    Raises:
        UserError: if parts or weights do not fit; the message names the culprit.
    """

    symbol = ""

    def __init__(self, *parts: Flow | Operator, weights: Sequence[float] | None = None) -> None:
        kind = type(self).__name__
        for part in parts:
            if not isinstance(part, Flow | Operator):
                raise UserError(f"{kind} merges flows and operators, not {type(part).__name__}.")
        if len(parts) < 2:
            raise UserError(f"{kind} needs two parts or more, got {len(parts)}.")
        self.balanced = weights is None
        self.parts = list(parts)
        self.weights = [1.0] * len(parts) if weights is None else [float(w) for w in weights]
        if len(self.weights) != len(parts):
            raise UserError(f"{kind} has {len(parts)} parts and {len(self.weights)} weights.")
        for place, weight in enumerate(self.weights, 1):
            if not (math.isfinite(weight) and weight > 0):
                raise UserError(
                    f"weight {place} of {kind} is {weight:g}: weights are positive numbers."
                )
        compatible(*self.flows())

    def __repr__(self) -> str:
        inside = f" {self.symbol} ".join(
            f"({p!r})" if isinstance(p, Operator) else (p.card.get("name") or p.kind)
            for p in self.parts
        )
        if self.balanced:
            return inside
        return f"{type(self).__name__}({inside}; weights {self.weights})"

    def flows(self) -> list[Flow]:
        """The flows at the leaves."""
        return [f for p in self.parts for f in (p.flows() if isinstance(p, Operator) else [p])]

    def objective(self, densities: Sequence[Flow | Density]) -> Functional:
        """What the merged density maximises, for the densities of the parts in their order."""
        raise NotImplementedError

    def __and__(self, other: Flow | Operator) -> Intersection:
        return Intersection(*_flat(Intersection, self, other))

    def __or__(self, other: Flow | Operator) -> Union:
        return Union(*_flat(Union, self, other))

    def __sub__(self, other: Flow | Operator) -> Contrast:
        return Contrast(self, other)


class Intersection(Operator):
    """What all parts find likely: `prod p_i^(w_i/W)`."""

    symbol = "&"

    def objective(self, densities: Sequence[Flow | Density]) -> Functional:
        pairs = zip(self.weights, densities, strict=True)
        return Sum([(-w, KL(q, name=f"KL to part {k}")) for k, (w, q) in enumerate(pairs, 1)])


class Union(Operator):
    """What any part finds likely: `sum w_i p_i / W`."""

    symbol = "|"

    def objective(self, densities: Sequence[Flow | Density]) -> Functional:
        pairs = zip(self.weights, densities, strict=True)
        terms: list[tuple[float, Functional]] = [
            (-w, ForwardKL(q, name=f"KL from part {k}")) for k, (w, q) in enumerate(pairs, 1)
        ]
        return Sum(terms)


class Interpolation(Operator):
    """Between the parts in the geometry of the states, where their densities need not overlap.

    Arguments:
        potential: how the distance is found, see `Wasserstein1`; None for a critic.
        features: states to `(B, m)`, where the distance is measured; None for the state itself.
        samples: of each part, where they are known already; None to draw them.

    The sum of distances alone has many optima (any point between two parts of equal weight); mirror
    steps choose among them the ones near the start, a utility or a KL term the one it prefers.
    """

    symbol = "~"

    def __init__(
        self,
        *parts: Flow | Operator,
        weights: Sequence[float] | None = None,
        potential: PotentialSolver | None = None,
        features: Callable[[Any], Tensor] | None = None,
        samples: Sequence[Population] | None = None,
    ) -> None:
        super().__init__(*parts, weights=weights)
        self.potential, self.features, self.samples = potential, features, samples

    def objective(self, densities: Sequence[Flow | Density]) -> Functional:
        pairs = zip(self.weights, self.samples or densities, strict=True)
        return Sum(
            [
                (
                    -w,
                    Wasserstein1(q, self.potential, features=self.features, name=f"W1 to part {k}"),
                )
                for k, (w, q) in enumerate(pairs, 1)
            ]
        )


class Contrast(Operator):
    """What the first part finds likely and the second does not: `a^(1+w) b^-w`.

    Arguments:
        a, b: the parts.
        weight: `w`, positive.

    The optimum exists where `a^(1+w) b^-w` can be normalised: `a` must not have heavier tails.
    """

    symbol = "-"

    def __init__(self, a: Flow | Operator, b: Flow | Operator, weight: float = 1.0) -> None:
        super().__init__(a, b, weights=[1 + weight, weight])
        self.balanced = weight == 1

    def objective(self, densities: Sequence[Flow | Density]) -> Functional:
        (first, second), (a, b) = self.weights, densities
        return Sum([(-first, KL(a, name="KL to part 1")), (second, KL(b, name="KL to part 2"))])


def parse(circuit: str, flows: Mapping[str, Flow]) -> Flow | Operator:
    """The operator that a string of names, `&`, `|`, `-` and parentheses spells.

    Raises:
        UserError: for anything else, or a name that is not among the flows.
    """
    try:
        tree = parse_circuit(circuit)
    except ValueError as error:
        raise UserError(f"{error}.") from None
    symbols: dict[type[ast.operator], Callable[[Any, Any], Operator]] = {
        ast.BitAnd: lambda a, b: a & b,
        ast.BitOr: lambda a, b: a | b,
        ast.Sub: lambda a, b: a - b,
    }

    def build(node: ast.expr) -> Flow | Operator:
        if isinstance(node, ast.Name):
            if node.id not in flows:
                known = ", ".join(flows) or "none"
                raise UserError(
                    f"no flow named {quoted(node.id)} for the circuit; there are: {known}."
                )
            return flows[node.id]
        assert isinstance(node, ast.BinOp)  # which is all that a circuit has
        return symbols[type(node.op)](build(node.left), build(node.right))

    return build(tree)


def _flat(kind: type[Operator], *sides: Flow | Operator) -> list[Flow | Operator]:
    """`a & b & c` as one operator on three parts; explicit weights stay as they are."""
    parts: list[Flow | Operator] = []
    for side in sides:
        parts += side.parts if type(side) is kind and side.balanced else [side]
    return parts


Flow.operators |= {
    "&": lambda a, b: Intersection(*_flat(Intersection, a, b)),
    "|": lambda a, b: Union(*_flat(Union, a, b)),
    "-": Contrast,
}
