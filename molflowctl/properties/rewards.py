"""Rewards: what properties are worth, as one number per molecule.

A reward is a property, a desirability of one, or several desirabilities combined:

    dipole_debye                                   the value itself
    -xtb_energy_hartree                            its negative: small is good
    sigmoid(qed, 0.6, 0.1)                         1 / (1 + exp(-(y - midpoint) / width))
    step(-sa_score, -4)                            1 from the threshold on, 0 below
    ramp(logp, 0, 3)                               0 below low, 1 above high, a line between
    range(logp, 1, 3, 0.5)                         1 from low to high, 0 from a margin outside on
    product(ramp(qed, 0, 1), sigmoid(logp, 2, 1))  d_1 d_2 ... d_m
    geometric_mean(sigmoid(qed, 0.6, 0.1), range(logp, 1, 3, 1), weights=[2, 1])

The same in YAML is a string, or `{property: qed, transform: sigmoid, midpoint: 0.6, width: 0.1}`,
`{product: [...]}` and `{geometric_mean: [...], weights: [...]}` with either form inside.

These are rewards of whole molecules, by the oracle. A reward of the continuous states that a flow
moves, perhaps with a gradient, is `molflowctl.control.Reward`, which may call one of these.

A molecule without a property has no reward: NaN, with the property's reason. It is never worth
zero, since a failed calculation says nothing about the molecule.

References:
    Derringer, Suich, Simultaneous optimization of several response variables, J. Quality
    Technology 12, 214 (1980), doi:10.1080/00224065.1980.11980968: ramps, ranges, and
    D = (d_1 d_2 ... d_m)^(1/m). Derringer, A balancing act: optimizing a product's properties,
    Quality Progress 27, 51 (1994): weights, D = (d_1^w_1 ... d_m^w_m)^(1 / sum w).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rdkit.Chem import Mol

from molflowctl.errors import UserError
from molflowctl.properties.evaluate import Scores, score
from molflowctl.properties.registry import Property, get, made_to_order

__all__ = [
    "TRANSFORMS",
    "GeometricMean",
    "Identity",
    "Objective",
    "Product",
    "PropertyReward",
    "Ramp",
    "Range",
    "Sigmoid",
    "Step",
    "Transform",
    "parameters_of",
]

Values = NDArray[np.float64]


class Transform(ABC):
    """A function of a property's value; what is NaN stays NaN. Its fields are its parameters."""

    desirability = True  # its values lie from 0 to 1

    @abstractmethod
    def __call__(self, y: Values) -> Values:
        """Elementwise."""

    def __post_init__(self) -> None:
        for name in parameters_of(self):
            if not math.isfinite(getattr(self, name)):
                raise UserError(f"{name} of {_name(self)} must be a finite number")


def _name(transform: Transform) -> str:
    return type(transform).__name__.lower()


def parameters_of(transform: Transform | type[Transform]) -> list[str]:
    return [item.name for item in fields(transform)]  # type: ignore[arg-type]


@dataclass(frozen=True)
class Identity(Transform):
    """The value itself."""

    desirability = False

    def __call__(self, y: Values) -> Values:
        return y


@dataclass(frozen=True)
class Sigmoid(Transform):
    """`1 / (1 + exp(-(y - midpoint) / width))`; a negative width falls."""

    midpoint: float
    width: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width == 0:
            raise UserError("the width of a sigmoid must not be 0: use a step")

    def __call__(self, y: Values) -> Values:
        return 0.5 * (1.0 + np.tanh(0.5 * (y - self.midpoint) / self.width))  # cannot overflow


@dataclass(frozen=True)
class Step(Transform):
    """1 from the threshold on, 0 below."""

    threshold: float

    def __call__(self, y: Values) -> Values:
        return np.where(np.isnan(y), np.nan, (y >= self.threshold).astype(np.float64))


@dataclass(frozen=True)
class Ramp(Transform):
    """`(y - low) / (high - low)`, cut at 0 and 1; `low > high` falls."""

    low: float
    high: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low == self.high:
            raise UserError("a ramp needs two different ends: use a step")

    def __call__(self, y: Values) -> Values:
        return np.clip((y - self.low) / (self.high - self.low), 0.0, 1.0)


@dataclass(frozen=True)
class Range(Transform):
    """1 from low to high, falling to 0 over a margin on either side (at once without one)."""

    low: float
    high: float
    margin: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low > self.high or self.margin < 0:
            raise UserError("a range needs low <= high and a margin of 0 or more")

    def __call__(self, y: Values) -> Values:
        outside = np.maximum(np.maximum(self.low - y, y - self.high), 0.0)
        if self.margin == 0:
            return np.where(np.isnan(y), np.nan, (outside == 0).astype(np.float64))
        return np.clip(1.0 - outside / self.margin, 0.0, 1.0)


TRANSFORMS: dict[str, type[Transform]] = {
    "ramp": Ramp,
    "range": Range,
    "sigmoid": Sigmoid,
    "step": Step,
}


class Objective(ABC):
    """One number per molecule: of one property or a combination. `str` gives its specification."""

    @property
    @abstractmethod
    def properties(self) -> tuple[str, ...]:
        """The properties it needs, each once."""

    @property
    @abstractmethod
    def desirability(self) -> bool:
        """Whether its values lie from 0 to 1."""

    @abstractmethod
    def of(self, columns: Mapping[str, Values]) -> Values:
        """The rewards (n,) of n molecules from their property values, (n,) by column."""

    def score(self, mols: Iterable[Mol | None], **options: Any) -> Scores:
        """The column `reward` and those of its properties; `options` as of `properties.score`.

        A molecule that failed in any property has the reward NaN, and the reasons of the properties
        in its errors.
        """
        scores = score(mols, self.properties, **options)
        errors = []
        for row in scores.errors:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in row.items())
            errors.append({**row, "reward": reasons} if row else row)
        return Scores({"reward": self.of(scores.values), **scores.values}, errors)

    def value(self, mols: Iterable[Mol | None], **options: Any) -> Values:
        """The rewards (n,), NaN where a property failed; `options` as of `properties.score`."""
        return self.score(mols, **options)["reward"]


@dataclass(frozen=True)
class PropertyReward(Objective):
    """`transform(y)`, or `transform(-y)`, of a property's value `y`.

    Args:
        name: a registered property; `property.column` for one of several columns;
            `surrogate:FOLDER` or `smarts:PATTERN`, which no expression can have inside.
        transform: default the value itself.
        negative: take the negative of the property first.
        literal: the name is that of a column of a table, whatever property goes by it.

    Raises:
        UserError: an unknown property or column.
    """

    name: str
    transform: Transform = Identity()
    negative: bool = False
    literal: bool = False

    def __post_init__(self) -> None:
        if not self.literal:
            self._resolve()

    def _resolve(self) -> tuple[Property, str]:
        # A folder's name may have dots.
        whole = made_to_order(self.name)
        name, _, column = (self.name, "", "") if whole else self.name.partition(".")
        item = get(name)
        if not column and len(item.columns) == 1:
            return item, item.columns[0]
        if column not in item.columns:
            raise UserError(
                f"a reward is one number: choose a column of {name}, "
                f"{name}.COLUMN with one of {', '.join(item.columns)}"
            )
        return item, column

    @property
    def properties(self) -> tuple[str, ...]:
        if self.literal:
            return ()
        return (self.name if made_to_order(self.name) else self._resolve()[0].name,)

    @property
    def desirability(self) -> bool:
        return self.transform.desirability

    def of(self, columns: Mapping[str, Values]) -> Values:
        y = columns[self.name if self.literal else self._resolve()[1]]
        return self.transform(-y if self.negative else y)

    def __str__(self) -> str:
        term = f"-{self.name}" if self.negative else self.name
        numbers = [repr(getattr(self.transform, name)) for name in parameters_of(self.transform)]
        return f"{_name(self.transform)}({', '.join([term, *numbers])})" if numbers else term


class _Combination(Objective):
    """Several desirabilities, each part checked when it is built."""

    parts: tuple[Objective, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise UserError("a combined reward needs at least one part")
        for part in self.parts:
            if not part.desirability:
                raise UserError(
                    f"{part} is no desirability, 0 to 1, which products and means are made of: "
                    f"transform it, for instance sigmoid({part}, midpoint, width)"
                )

    @property
    def properties(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for part in self.parts for name in part.properties))

    @property
    def desirability(self) -> bool:
        return True


@dataclass(frozen=True)
class Product(_Combination):
    """`d_1 d_2 ... d_m` of desirabilities."""

    parts: tuple[Objective, ...]

    def of(self, columns: Mapping[str, Values]) -> Values:
        return np.prod([part.of(columns) for part in self.parts], axis=0)

    def __str__(self) -> str:
        return f"product({', '.join(map(str, self.parts))})"


@dataclass(frozen=True)
class GeometricMean(_Combination):
    """`(d_1^w_1 ... d_m^w_m)^(1 / sum w)`: one part that is not met at all makes it 0.

    Args:
        parts: desirabilities.
        weights: positive, one for each; default equal.
    """

    parts: tuple[Objective, ...]
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights is None:
            return
        if len(self.weights) != len(self.parts):
            raise UserError(f"{len(self.parts)} rewards do not go with {len(self.weights)} weights")
        if not all(0 < weight < math.inf for weight in self.weights):
            raise UserError("the weights of a geometric mean are positive numbers")

    def of(self, columns: Mapping[str, Values]) -> Values:
        weights = np.ones(len(self.parts)) if self.weights is None else np.array(self.weights)
        weights = weights / weights.sum()
        factors = [part.of(columns) ** w for part, w in zip(self.parts, weights, strict=True)]
        return np.prod(factors, axis=0)

    def __str__(self) -> str:
        terms = [str(part) for part in self.parts]
        if self.weights is not None:
            terms.append(f"weights={list(self.weights)}")
        return f"geometric_mean({', '.join(terms)})"
