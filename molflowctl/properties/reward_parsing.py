"""Rewards as users write them, expressions or mappings, made into objectives; never evaluated."""

from __future__ import annotations

import ast
from collections.abc import Container, Mapping, Sequence
from typing import Any

from molflowctl.errors import UserError
from molflowctl.io.expressions import LENGTH, check_reward, parse_expression
from molflowctl.io.plain_files import DEPTH, depth_of, quoted
from molflowctl.properties.registry import made_to_order
from molflowctl.properties.rewards import (
    TRANSFORMS,
    GeometricMean,
    Identity,
    Objective,
    Product,
    PropertyReward,
    Transform,
    parameters_of,
)

__all__ = ["parse_reward"]

_TERM = (ast.Name, ast.Attribute, ast.BinOp, ast.UnaryOp, ast.Sub, ast.USub, ast.expr_context)


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
        return (
            PropertyReward(spec.strip())
            if made_to_order(spec.strip())
            else _from_text(spec, columns)
        )
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


def _term(node: ast.expr, transform: Transform, columns: Container[str]) -> PropertyReward:
    """`name`, `name.column`, `-name`; a name may have hyphens, which Python reads as minus."""
    text = "".join(ast.unparse(node).split())
    negative = text.startswith("-")
    if not all(isinstance(part, _TERM) for part in ast.walk(node)):
        raise UserError(f"not the name of a property, or its negative: {quoted(ast.unparse(node))}")
    name = text.removeprefix("-")
    return PropertyReward(name, transform, negative, literal=name in columns)


def _transform(kind: str, given: Sequence[float], named: Mapping[str, float]) -> Transform:
    if kind not in TRANSFORMS:
        known = ", ".join([*TRANSFORMS, *_COMBINATIONS])
        raise UserError(f"unknown transform {quoted(kind)}: there are {known}")
    try:
        return TRANSFORMS[kind](*given, **named)
    except TypeError:
        wanted = ", ".join(parameters_of(TRANSFORMS[kind]))
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
