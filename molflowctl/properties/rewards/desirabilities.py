"""Desirabilities: functions of a value that go from 0 to 1.

    sigmoid(y, midpoint, width)    1 / (1 + exp(-(y - midpoint) / width))
    ramp(y, low, high)             0 below low, 1 above high, a line between
    step(y, threshold)             1 from the threshold on, 0 below
    range(y, low, high, margin)    1 from low to high, 0 from a margin outside on
    gauss(y, mean, sigma)          exp(-(y - mean)^2 / (2 sigma^2))

References:
    Derringer, Suich, Simultaneous optimization of several response variables, J. Quality
    Technology 12, 214 (1980), doi:10.1080/00224065.1980.11980968: ramps and ranges.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import MISSING, dataclass, fields
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from molflowctl.errors import UserError

__all__ = [
    "TRANSFORMS",
    "Gauss",
    "Ramp",
    "Range",
    "Sigmoid",
    "Step",
    "Transform",
    "parameters_of",
]

Values = NDArray[np.float64]


class Transform(ABC):
    """A function of a value, from 0 to 1; what is NaN stays NaN. Its fields are its parameters."""

    example: ClassVar[str]

    @abstractmethod
    def __call__(self, y: Values) -> Values:
        """Elementwise."""

    def __post_init__(self) -> None:
        for name in parameters_of(self):
            if not math.isfinite(getattr(self, name)):
                raise UserError(f"{name} of {self.word()} must be a finite number")

    @classmethod
    def word(cls) -> str:
        """What it is called in an expression."""
        return cls.__name__.lower()

    @classmethod
    def usage(cls) -> str:
        """As help shows it: `range(y, low, high, margin=0.0)`."""
        given = [
            item.name if item.default is MISSING else f"{item.name}={item.default}"
            for item in fields(cls)  # type: ignore[arg-type]
        ]
        return f"{cls.word()}({', '.join(['y', *given])})"


def parameters_of(transform: Transform | type[Transform]) -> list[str]:
    """Names of the parameters, in their order."""
    return [item.name for item in fields(transform)]  # type: ignore[arg-type]


@dataclass(frozen=True)
class Sigmoid(Transform):
    """`1 / (1 + exp(-(y - midpoint) / width))`; a negative width falls."""

    midpoint: float
    width: float
    example = "sigmoid(qed, 0.6, 0.1)"

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
    example = "step(qed, 0.7)"

    def __call__(self, y: Values) -> Values:
        return np.where(np.isnan(y), np.nan, (y >= self.threshold).astype(np.float64))


@dataclass(frozen=True)
class Ramp(Transform):
    """`(y - low) / (high - low)`, cut at 0 and 1; `low > high` falls."""

    low: float
    high: float
    example = "ramp(logp, 0, 3)"

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
    example = "range(logp, 1, 3, 0.5)"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low > self.high or self.margin < 0:
            raise UserError("a range needs low <= high and a margin of 0 or more")

    def __call__(self, y: Values) -> Values:
        outside = np.maximum(np.maximum(self.low - y, y - self.high), 0.0)
        if self.margin == 0:
            return np.where(np.isnan(y), np.nan, (outside == 0).astype(np.float64))
        return np.clip(1.0 - outside / self.margin, 0.0, 1.0)


@dataclass(frozen=True)
class Gauss(Transform):
    """`exp(-(y - mean)^2 / (2 sigma^2))`: 1 at the mean, 0.61 a sigma away."""

    mean: float
    sigma: float
    example = "gauss(mw, 350, 50)"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sigma <= 0:
            raise UserError("the sigma of a gauss must be larger than 0: use a range")

    def __call__(self, y: Values) -> Values:
        with np.errstate(over="ignore"):  # far away it is 0
            return np.exp(-0.5 * ((y - self.mean) / self.sigma) ** 2)


TRANSFORMS: dict[str, type[Transform]] = {
    kind.word(): kind for kind in (Ramp, Range, Sigmoid, Step, Gauss)
}
