"""What a reward is made of: values, operations on them, desirabilities, means and conditions.

Each is built of parts that are checked, computes `(n,)` values of n molecules from the columns of
their properties, and writes itself as the language does. NaN of a part, also of a branch that is
not taken, is NaN of the whole: a calculation that failed says nothing about the molecule. What is
no number, such as a division by zero or the logarithm of -1, is NaN too.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from molflowctl.errors import UserError
from molflowctl.io.plain_files import quoted
from molflowctl.properties.registry import Property
from molflowctl.properties.rewards.desirabilities import Transform, parameters_of

__all__ = [
    "COMPARISONS",
    "FUNCTIONS",
    "Applied",
    "Arithmetic",
    "Comparison",
    "Constant",
    "Desirability",
    "Logic",
    "Node",
    "Where",
]

Values = NDArray[np.float64]
Columns = Mapping[str, Values]
Bounds = tuple[float, float]
Known = Mapping[str, Bounds]  # by property, between which its values are known to lie
DESIRABLE = ("product", "geometric_mean")  # of values from 0 to 1 alone
ALL: Bounds = (-math.inf, math.inf)
UNIT: Bounds = (0.0, 1.0)


class Node(ABC):
    """A part of a reward, or all of it.

    Attributes:
        parts: what it is computed from.
        condition: whether it holds or does not, 1 or 0.
        level: how tightly it binds, for the brackets of a text; 9 for a name or a call.
    """

    parts: tuple[Node, ...] = ()
    condition = False
    level = 9

    @abstractmethod
    def of(self, columns: Columns) -> Values:
        """The values (n,) of n molecules; NaN means failed."""

    @abstractmethod
    def __str__(self) -> str: ...

    def bounds(self, known: Known | None = None) -> Bounds:
        """Between which its values lie, where more cannot be told the whole line."""
        return UNIT if self.condition else ALL

    def properties(self) -> tuple[Property, ...]:
        """The properties it needs, each once."""
        every = [item for part in self.parts for item in part.properties()]
        return tuple({item.name: item for item in every}.values())

    def inside(self, level: int) -> str:
        """Its text as a part of what binds with this level."""
        return str(self) if self.level >= level else f"({self})"


@dataclass(frozen=True)
class Constant(Node):
    """A number."""

    value: float

    @property
    def level(self) -> int:  # type: ignore[override]
        return 9 if self.value >= 0 else 7

    def of(self, columns: Columns) -> Values:
        n = len(next(iter(columns.values()))) if columns else 1
        return np.full(n, self.value)

    def bounds(self, known: Known | None = None) -> Bounds:
        return self.value, self.value

    def __str__(self) -> str:
        return repr(self.value)


@dataclass(frozen=True)
class Measured(Node):
    """The value of a property, or of a column of a table.

    Args:
        name: as it is written.
        column: where its values are.
        item: the property; None for a column of a table.
        within: between which the values of a column lie, if it has the name of a property.
    """

    name: str
    column: str
    item: Property | None
    within: Bounds = ALL

    def of(self, columns: Columns) -> Values:
        if self.item is not None and self.column not in columns:
            for other in self.item.aliases:  # of a table that an earlier version wrote
                if other in columns:
                    return columns[other]
        return columns[self.column]

    def bounds(self, known: Known | None = None) -> Bounds:
        if self.item is None:
            return self.within
        return (known or {}).get(self.item.name, self.item.bounds)

    def properties(self) -> tuple[Property, ...]:
        return () if self.item is None else (self.item,)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Arithmetic(Node):
    """`a + b`, `a - b`, `a * b`, `a / b`, `a ** b`, and `-a` as `0 - a` without the 0."""

    sign: str
    parts: tuple[Node, ...]

    @property
    def level(self) -> int:  # type: ignore[override]
        if len(self.parts) == 1:
            return 7
        return {"+": 5, "-": 5, "*": 6, "/": 6, "**": 8}[self.sign]

    def of(self, columns: Columns) -> Values:
        given = [part.of(columns) for part in self.parts]
        if len(given) == 1:
            return -given[0]
        return _finite(_ARITHMETIC[self.sign], *given)

    def bounds(self, known: Known | None = None) -> Bounds:
        ends = [part.bounds(known) for part in self.parts]
        if len(ends) == 1:
            return -ends[0][1], -ends[0][0]
        (a, b), (c, d) = ends
        if self.sign == "+":
            return a + c, b + d
        if self.sign == "-":
            return a - d, b - c
        if self.sign == "*":
            products = [0.0 if 0.0 in (x, y) else x * y for x in (a, b) for y in (c, d)]
            return min(products), max(products)
        return ALL

    def __str__(self) -> str:
        if len(self.parts) == 1:
            return f"-{self.parts[0].inside(7)}"
        left, right = self.parts
        if self.sign == "**":
            return f"{left.inside(9)} ** {right.inside(7)}"
        return f"{left.inside(self.level)} {self.sign} {right.inside(self.level + 1)}"


def _finite(compute: Callable[..., Values], *given: Any) -> Values:
    with np.errstate(all="ignore"):
        found = compute(*given)
    return np.where(np.isfinite(found), found, np.nan)


_ARITHMETIC: dict[str, Callable[..., Values]] = {
    "+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide,
    # Python's power of a NaN to 0 is 1.
    "**": lambda a, b: np.where(np.isnan(a) | np.isnan(b), np.nan, np.float_power(a, b)),
}  # fmt: skip
COMPARISONS: dict[str, Callable[..., NDArray[np.bool_]]] = {
    "<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal,
    "==": np.equal, "!=": np.not_equal,
}  # fmt: skip


def _known_to_fail(given: list[Values]) -> NDArray[np.bool_]:
    """Where a part has no value."""
    return np.any([np.isnan(values) for values in given], axis=0)


@dataclass(frozen=True)
class Comparison(Node):
    """`a < b <= c`: 1 where all of it holds, else 0."""

    signs: tuple[str, ...]
    parts: tuple[Node, ...]
    condition = True
    level = 4

    def of(self, columns: Columns) -> Values:
        given = [part.of(columns) for part in self.parts]
        pairs = zip(self.signs, given, given[1:], strict=False)
        holds = np.all([COMPARISONS[sign](a, b) for sign, a, b in pairs], axis=0)
        return np.where(_known_to_fail(given), np.nan, holds.astype(np.float64))

    def bounds(self, known: Known | None = None) -> Bounds:
        ends = [part.bounds(known) for part in self.parts]
        told = [
            _decided(sign, a, b) for sign, a, b in zip(self.signs, ends, ends[1:], strict=False)
        ]
        if False in told:
            return 0.0, 0.0
        return UNIT if None in told else (1.0, 1.0)

    def __str__(self) -> str:
        texts = [part.inside(5) for part in self.parts]
        rest = zip(self.signs, texts[1:], strict=True)
        return " ".join([texts[0], *(f"{sign} {text}" for sign, text in rest)])


def _decided(sign: str, a: Bounds, b: Bounds) -> bool | None:
    """Whether a comparison holds of all values between these bounds; None if that depends."""
    told = {bool(COMPARISONS[sign](x, y)) for x in a for y in b}
    if len(told) > 1:
        return None
    (holds,) = told
    if sign in ("==", "!=") and holds == (sign == "!=") and a[0] <= b[1] and b[0] <= a[1]:
        return None  # the ends differ, what lies between them need not
    return holds


@dataclass(frozen=True)
class Logic(Node):
    """`a and b`, `a or b` of two or more conditions, `not a` of one."""

    word: str
    parts: tuple[Node, ...]
    condition = True

    @property
    def level(self) -> int:  # type: ignore[override]
        return {"or": 1, "and": 2, "not": 3}[self.word]

    def of(self, columns: Columns) -> Values:
        given = [part.of(columns) for part in self.parts]
        if self.word == "not":
            return 1.0 - given[0]
        return (np.minimum if self.word == "and" else np.maximum).reduce(given)

    def bounds(self, known: Known | None = None) -> Bounds:
        ends = [part.bounds(known) for part in self.parts]
        if self.word == "not":
            return 1.0 - ends[0][1], 1.0 - ends[0][0]
        return _combined(min if self.word == "and" else max, ends)

    def __str__(self) -> str:
        if self.word == "not":
            return f"not {self.parts[0].inside(3)}"
        return f" {self.word} ".join(part.inside(self.level + 1) for part in self.parts)


def _combined(choose: Callable[..., float], ends: list[Bounds]) -> Bounds:
    return choose(low for low, _ in ends), choose(high for _, high in ends)


@dataclass(frozen=True)
class Where(Node):
    """`where(condition, value, otherwise)`."""

    parts: tuple[Node, ...]

    def of(self, columns: Columns) -> Values:
        given = [part.of(columns) for part in self.parts]
        chosen = np.where(given[0] > 0, given[1], given[2])
        return np.where(_known_to_fail(given), np.nan, chosen)

    def bounds(self, known: Known | None = None) -> Bounds:
        (never, always), first, second = (part.bounds(known) for part in self.parts)
        if never == 1.0 or always == 0.0:
            return first if never == 1.0 else second
        return min(first[0], second[0]), max(first[1], second[1])

    def __str__(self) -> str:
        return f"where({', '.join(map(str, self.parts))})"


@dataclass(frozen=True)
class Desirability(Node):
    """A desirability of a value."""

    transform: Transform
    part: Node

    @property
    def parts(self) -> tuple[Node, ...]:  # type: ignore[override]
        return (self.part,)

    def of(self, columns: Columns) -> Values:
        return self.transform(self.part.of(columns))

    def bounds(self, known: Known | None = None) -> Bounds:
        low, high = self.part.bounds(known)
        if low == high:
            value = float(self.transform(np.array([low]))[0])
            return value, value
        return UNIT

    def __str__(self) -> str:
        numbers = [repr(getattr(self.transform, name)) for name in parameters_of(self.transform)]
        return f"{self.transform.word()}({', '.join([str(self.part), *numbers])})"


@dataclass(frozen=True)
class Applied(Node):
    """A function of one or more values, perhaps with weights.

    Args:
        name: one of `FUNCTIONS`.
        parts: the values.
        weights: positive, one for each part; None for equal ones.
    """

    name: str
    parts: tuple[Node, ...]
    weights: tuple[float, ...] | None = None

    def of(self, columns: Columns) -> Values:
        given = [part.of(columns) for part in self.parts]
        if self.name in DESIRABLE:
            for part, values in zip(self.parts, given, strict=True):
                if np.any(values < 0) or np.any(values > 1):
                    raise UserError(
                        f"{quoted(str(part))} has values that are not between 0 and 1, as the "
                        f"parts of a {self.name} do: make it a desirability"
                    )
        weights = np.ones(len(given)) if self.weights is None else np.array(self.weights)
        return _finite(FUNCTIONS[self.name], given, weights / weights.sum())

    def bounds(self, known: Known | None = None) -> Bounds:
        ends = [part.bounds(known) for part in self.parts]
        if self.name in ("min", "max"):
            return _combined(min if self.name == "min" else max, ends)
        if self.name == "abs":
            low, high = ends[0]
            least = 0.0 if low <= 0 <= high else min(abs(low), abs(high))
            return least, max(abs(low), abs(high))
        if self.name == "product":  # of desirabilities
            return math.prod(low for low, _ in ends), math.prod(high for _, high in ends)
        if self.name in ("mean", "geometric_mean"):
            return _combined(min, ends)[0], _combined(max, ends)[1]
        return ALL

    def __str__(self) -> str:
        terms = [str(part) for part in self.parts]
        if self.weights is not None:
            terms.append(f"weights={list(self.weights)}")
        return f"{self.name}({', '.join(terms)})"


def _power_mean(given: list[Values], weights: Values) -> Values:
    return np.prod([y**w for y, w in zip(given, weights, strict=True)], axis=0)


# Of the values of the parts and of weights whose sum is 1.
FUNCTIONS: dict[str, Callable[[list[Values], Values], Values]] = {
    "product": lambda given, _: np.prod(given, axis=0),
    "geometric_mean": _power_mean,
    "mean": lambda given, w: np.sum([y * v for y, v in zip(given, w, strict=True)], axis=0),
    "min": lambda given, _: np.minimum.reduce(given),
    "max": lambda given, _: np.maximum.reduce(given),
    "abs": lambda given, _: np.abs(given[0]),
    "sqrt": lambda given, _: np.sqrt(given[0]),
    "exp": lambda given, _: np.exp(given[0]),
    "log": lambda given, _: np.log(given[0]),
    "log10": lambda given, _: np.log10(given[0]),
}
