r"""Objectives: functionals of the generated density, and their first variations.

A functional `G(p)` has a first variation `dG(p)(x)`, the function with
`G(p + e h) = G(p) + e int dG(p) h + o(e)` for every `h` of mass zero, defined up to a constant.
Handed to a solver as a reward, it is the steepest direction in which to change `p`.

    CVaR(reward, 0.1) + 0.05 * Entropy() - 0.2 * KL(prior)

is a `Sum` of `Scaled` functionals, each a `Functional` again.

References:
    De Santi et al., Flow Density Control, 2025, arXiv 2511.22640.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any

from torch import Tensor

from molflowctl.control.objectives.reward import Reward
from molflowctl.control.population import Population
from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow

__all__ = ["Functional", "Scaled", "Sum"]


class Functional:
    """Something that a density has: a utility to maximise or a divergence to keep small."""

    name: str = "functional"

    def value(self, sample: Population) -> float:
        """`G(p)`, estimated from weighted points of `p`."""
        raise NotImplementedError

    def first_variation(self, sample: Population) -> Reward:
        """`dG(p)` as a function of states, up to a constant."""
        raise NotImplementedError

    def fit(self, sample: Population, seed: int = 0) -> None:
        """Learn what the next call needs, a critic for instance, from points of the current `p`."""

    def reset(self) -> None:
        """Forget what `fit` has learned."""

    def running_variation(self, flow: Flow) -> Callable[[Any, Tensor], Any] | None:
        """Gradient of a first variation along the whole path, `(x, t) -> state`, if there is one.

        Arguments:
            flow: the current one.
        """
        return None

    def rewards(self) -> list[Reward]:
        """The rewards that are asked, to count the calls."""
        return [part for part in vars(self).values() if isinstance(part, Reward)]

    def terms(self) -> list[tuple[float, Functional]]:
        """The functionals that add up to this one, with their factors."""
        return [(1.0, self)]

    def __add__(self, other: Functional) -> Sum:
        if not isinstance(other, Functional):
            return NotImplemented
        return Sum([*self.terms(), *other.terms()])

    def __sub__(self, other: Functional) -> Sum:
        if not isinstance(other, Functional):
            return NotImplemented
        return self + -1.0 * other

    def __mul__(self, factor: float) -> Scaled:
        if not isinstance(factor, Real):
            return NotImplemented
        return Scaled(factor, self)

    __rmul__ = __mul__

    def __neg__(self) -> Scaled:
        return Scaled(-1.0, self)

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True, repr=False)
class Scaled(Functional):
    """`factor * G`.

    Raises:
        UserError: if the factor is not a finite number.
    """

    factor: float
    functional: Functional

    def __post_init__(self) -> None:
        if not math.isfinite(self.factor):
            raise UserError(f"the factor of {self.functional.name} is {self.factor}, not finite.")

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"{self.factor:g} * {self.functional.name}"

    def value(self, sample: Population) -> float:
        return self.factor * self.functional.value(sample)

    def first_variation(self, sample: Population) -> Reward:
        return self.factor * self.functional.first_variation(sample)

    def fit(self, sample: Population, seed: int = 0) -> None:
        self.functional.fit(sample, seed)

    def reset(self) -> None:
        self.functional.reset()

    def rewards(self) -> list[Reward]:
        return self.functional.rewards()

    def terms(self) -> list[tuple[float, Functional]]:
        return [(self.factor * f, part) for f, part in self.functional.terms()]


class Sum(Functional):
    """A weighted sum, flattened: its terms are no sums themselves.

    Arguments:
        parts: factors and functionals.

    Raises:
        UserError: if there are none, or a factor is not a finite number.
    """

    def __init__(self, parts: list[tuple[float, Functional]]) -> None:
        if not parts:
            raise UserError("an objective needs at least one term.")
        self.parts = [term for factor, part in parts for term in Scaled(factor, part).terms()]

    @property
    def name(self) -> str:  # type: ignore[override]
        return " + ".join(p.name if f == 1 else f"{f:g} * {p.name}" for f, p in self.parts)

    def value(self, sample: Population) -> float:
        return sum(factor * part.value(sample) for factor, part in self.parts)

    def first_variation(self, sample: Population) -> Reward:
        first, *rest = (factor * part.first_variation(sample) for factor, part in self.parts)
        for reward in rest:
            first = first + reward
        return first

    def fit(self, sample: Population, seed: int = 0) -> None:
        for k, (_, part) in enumerate(self.parts):
            part.fit(sample, seed + k)

    def reset(self) -> None:
        for _, part in self.parts:
            part.reset()

    def rewards(self) -> list[Reward]:
        return list(dict.fromkeys(r for _, part in self.parts for r in part.rewards()))

    def terms(self) -> list[tuple[float, Functional]]:
        return list(self.parts)
