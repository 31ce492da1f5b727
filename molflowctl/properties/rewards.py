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

import ast
import math
from abc import ABC, abstractmethod
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rdkit.Chem import Mol

from molflowctl.errors import UserError
from molflowctl.io.expressions import LENGTH, check_reward, parse_expression
from molflowctl.io.plain_files import DEPTH, depth_of, quoted
from molflowctl.properties.evaluate import Scores, score
from molflowctl.properties.registry import Property, get, made_to_order

__all__ = [
    "TRANSFORMS",
    "GeometricMean",
    "Identity",
    "Objective",
    "Product",
    "Ramp",
    "Range",
    "Reward",
    "Sigmoid",
    "Step",
    "Transform",
    "parse_reward",
]

Values = NDArray[np.float64]
_TERM = (ast.Name, ast.Attribute, ast.BinOp, ast.UnaryOp, ast.Sub, ast.USub, ast.expr_context)


class Transform(ABC):
    """A function of a property's value; what is NaN stays NaN. Its fields are its parameters."""

    desirability = True  # its values lie from 0 to 1

    @abstractmethod
    def __call__(self, y: Values) -> Values:
        """Elementwise."""

    def __post_init__(self) -> None:
        for name in _parameters(self):
            if not math.isfinite(getattr(self, name)):
                raise UserError(f"{name} of {_name(self)} must be a finite number")


def _name(transform: Transform) -> str:
    return type(transform).__name__.lower()


def _parameters(transform: Transform | type[Transform]) -> list[str]:
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
    """One number per molecule: a `Reward` or a combination. `str` gives its specification."""

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
class Reward(Objective):
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
        numbers = [repr(getattr(self.transform, name)) for name in _parameters(self.transform)]
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


_COMBINATIONS = ("product", "geometric_mean")


def parse_reward(spec: str | Mapping[str, Any], columns: Container[str] = ()) -> Objective:
    """The reward of a specification, the forms of which the module's text shows.

    Nothing is evaluated: the text is read as a syntax tree of names, numbers and the calls above.

    Arguments:
        columns: of a table that the reward will be of; their names come before those of properties.

    Raises:
        UserError: anything else; the message quotes it.
    """
    if isinstance(spec, str) and len(spec) > LENGTH:
        raise UserError(f"a reward of {len(spec):,} signs: {LENGTH:,} are allowed")
    if isinstance(spec, str):
        return Reward(spec.strip()) if made_to_order(spec.strip()) else _from_text(spec, columns)
    if isinstance(spec, Mapping):
        if depth_of(spec) > DEPTH:
            raise UserError(f"a reward has at most {DEPTH} levels inside one another")
        return _from_mapping(spec, columns)
    raise UserError(f"a reward is a text or a mapping, not {quoted(spec)}")


def _from_text(text: str, columns: Container[str]) -> Objective:
    try:
        tree = parse_expression(check_reward(text))
    except ValueError as error:
        raise UserError(str(error)) from None
    return _objective(tree, columns)


def _objective(node: ast.expr, columns: Container[str]) -> Objective:
    if not isinstance(node, ast.Call):
        return _term(node, Identity(), columns)
    kind = node.func.id if isinstance(node.func, ast.Name) else ast.unparse(node.func)
    options = {str(item.arg): item.value for item in node.keywords}
    if kind in _COMBINATIONS:
        weights = options.pop("weights", None)
        if options:
            raise UserError(f"{kind} has no option {', '.join(options)}")
        exponents = None if weights is None else _numbers(weights)
        return _combine(kind, [_objective(part, columns) for part in node.args], exponents)
    if not node.args:
        raise UserError(f"{quoted(ast.unparse(node))} names no property")
    term, *numbers = node.args
    given = [_number(number) for number in numbers]
    named = {name: _number(number) for name, number in options.items()}
    return _term(term, _transform(kind, given, named), columns)


def _term(node: ast.expr, transform: Transform, columns: Container[str]) -> Reward:
    """`name`, `name.column`, `-name`; a name may have hyphens, which Python reads as minus."""
    text = "".join(ast.unparse(node).split())
    negative = text.startswith("-")
    if not all(isinstance(part, _TERM) for part in ast.walk(node)):
        raise UserError(f"not the name of a property, or its negative: {quoted(ast.unparse(node))}")
    name = text.removeprefix("-")
    return Reward(name, transform, negative, literal=name in columns)


def _transform(kind: str, given: Sequence[float], named: Mapping[str, float]) -> Transform:
    if kind not in TRANSFORMS:
        known = ", ".join([*TRANSFORMS, *_COMBINATIONS])
        raise UserError(f"unknown transform {quoted(kind)}: there are {known}")
    try:
        return TRANSFORMS[kind](*given, **named)
    except TypeError:
        wanted = ", ".join(_parameters(TRANSFORMS[kind]))
        raise UserError(f"{kind} takes a property and {wanted}") from None


def _combine(kind: str, parts: list[Objective], weights: Sequence[float] | None) -> Objective:
    if kind == "geometric_mean":
        return GeometricMean(tuple(parts), None if weights is None else tuple(weights))
    if weights is not None:
        raise UserError("a product has no weights: use a geometric_mean")
    return Product(tuple(parts))


def _number(node: ast.expr) -> float:
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, RecursionError, MemoryError):
        value = None
    return _checked(value, ast.unparse(node))


def _numbers(node: ast.expr) -> list[float]:
    if not isinstance(node, ast.List | ast.Tuple):
        raise UserError(f"weights are a list of numbers, not {quoted(ast.unparse(node))}")
    return [_number(item) for item in node.elts]


def _checked(value: Any, text: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"not a number: {quoted(text)}")
    try:
        return float(value)
    except OverflowError:
        raise UserError(f"the number {quoted(text)} is too large") from None


def _from_mapping(spec: Mapping[str, Any], columns: Container[str]) -> Objective:
    rest = {str(key): value for key, value in spec.items()}
    for kind in _COMBINATIONS:
        if kind in rest:
            parts, weights = rest.pop(kind), rest.pop("weights", None)
            if rest or not isinstance(parts, list) or not isinstance(weights, list | None):
                raise UserError(f"{kind} takes a list of rewards, and perhaps one of weights")
            numbers = None if weights is None else [_checked(w, quoted(w)) for w in weights]
            return _combine(kind, [parse_reward(part, columns) for part in parts], numbers)
    if not isinstance(rest.get("property"), str):
        raise UserError(
            f"a reward names a property, a product or a geometric_mean: {quoted(dict(spec))}"
        )
    try:
        term = parse_expression(rest.pop("property"))
    except ValueError:
        raise UserError(f"not the name of a property: {quoted(spec['property'])}") from None
    kind = rest.pop("transform", None)
    named = {key: _checked(value, f"{key}: {quoted(value)}") for key, value in rest.items()}
    if kind is None and named:
        raise UserError(
            f"{', '.join(named)} is of a transform, and there is none: {quoted(dict(spec))}"
        )
    transform = Identity() if kind is None else _transform(str(kind), [], named)
    return _term(term, transform, columns)
