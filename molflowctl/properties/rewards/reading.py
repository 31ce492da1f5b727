"""From the tree of an expression to what it means: names are looked up, arguments checked."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from molflowctl.errors import OldSpelling, UserError
from molflowctl.io.expressions import MADE_TO_ORDER
from molflowctl.io.language.grammar import (
    Call,
    Listed,
    Name,
    Number,
    Operation,
    Text,
    Tree,
    parse,
)
from molflowctl.io.language.places import ExpressionError, nearest
from molflowctl.io.plain_files import DEPTH, depth_of, quoted
from molflowctl.properties import registry
from molflowctl.properties.functions import literal
from molflowctl.properties.registry import Property
from molflowctl.properties.rewards.desirabilities import TRANSFORMS, Transform, parameters_of
from molflowctl.properties.rewards.nodes import (
    ALL,
    COMPARISONS,
    DESIRABLE,
    FUNCTIONS,
    Applied,
    Arithmetic,
    Comparison,
    Constant,
    Desirability,
    Logic,
    Measured,
    Node,
    Where,
)

__all__ = ["as_text", "read", "read_conditions"]

_WEIGHTED = ("geometric_mean", "mean")
_SEVERAL = ("product", "geometric_mean", "mean", "min", "max")
_SPECIAL = {
    "where": "where(largest_ring > 6, -1, 0)",
    "column": 'column("Docking score")',
    "ligand_efficiency": "ligand_efficiency(xtb_energy_hartree)",
}


def read(text: str, columns: Iterable[str] = ()) -> Node:
    """What an expression means.

    Args:
        columns: of a table that it will be of; their names come before those of properties.

    Raises:
        ExpressionError: with the place of what is wrong.
    """
    text = _today(text)
    reader = _Reader(text, list(columns))
    return reader.node(parse(text, reader.is_name))


def read_conditions(text: str, columns: Iterable[str] = ()) -> dict[str, Node]:
    """The conditions that stand between the outermost `and`s, each by its text.

    Raises:
        ExpressionError: what is no condition, with the place.
    """
    reader = _Reader(text, list(columns))
    tree = parse(text, reader.is_name)
    every = tree.parts if isinstance(tree, Operation) and tree.signs == ("and",) else (tree,)
    return {" ".join(text[part.at : part.end].split()): reader.condition(part) for part in every}


def _today(text: str) -> str:
    """The text, an old spelling of a whole reward written anew."""
    for prefix in MADE_TO_ORDER:
        if text.strip().startswith(prefix):
            argument = text.strip().removeprefix(prefix)
            quote = "'" if '"' in argument else '"'
            text = f"{prefix[:-1]}({quote}{argument}{quote})"
            _old(f"{prefix}... as a reward", text)
    return text


def _old(old: str, new: str) -> None:
    warnings.warn(
        f"{quoted(old)} is written {new} now; the old way works for one more release",
        OldSpelling,
        stacklevel=4,
    )


class _Reader:
    def __init__(self, text: str, columns: list[str]) -> None:
        self.text, self.columns = text, columns

    def is_name(self, name: str) -> bool:
        """Whether a column or a property goes by this name."""
        return name in self.columns or registry.known(name)

    def error(self, at: int, reason: str) -> ExpressionError:
        return ExpressionError(self.text, at, reason)

    def node(self, tree: Tree) -> Node:
        match tree:
            case Number(value=value):
                return Constant(value)
            case Name():
                return self.measured(tree)
            case Call():
                return self.call(tree)
            case Operation():
                return self.operation(tree)
            case Text():
                raise self.error(tree.at, f"a text is no value: {self._use_of(tree.value)}")
        raise self.error(tree.at, "a list is for weights=[2, 1] alone")

    def _use_of(self, text: str) -> str:
        if text in self.columns:
            return f'a column is column("{text[:40]}")'
        return f'write smarts("{text[:20]}") for matches, similarity("{text[:20]}") for likeness'

    def measured(self, tree: Name) -> Node:
        if tree.name in self.columns:
            item = registry.get(tree.name) if registry.known(tree.name) else None
            within = item.bounds if item and item.columns[0] == tree.name else ALL
            return Measured(tree.name, tree.name, None, within)
        name, _, column = tree.name.partition(".")
        if not registry.known(name):
            raise self.error(tree.at, self._unknown(tree.name))
        item = registry.get(name)
        return self.of_property(tree, name, item, column)

    def _unknown(self, name: str) -> str:
        example = _SPECIAL.get(name)
        if kind := TRANSFORMS.get(name):
            example = kind.example
        elif name in FUNCTIONS:
            example = f"{name}({'qed, fraction_sp3' if name in _SEVERAL else 'logp'})"
        elif maker := registry.function(name):
            example = maker.example
        if example:
            return f"{name} needs arguments: {example}"
        known = {item: item for item in (*self.columns, *_every_function())}
        known |= registry.spellings()
        return f"unknown property {name}: " + nearest(name, known, _LISTED)

    def of_property(self, tree: Tree, written: str, item: Property, column: str = "") -> Measured:
        """A property, or the column of it that was asked for."""
        if not column and len(item.columns) == 1:
            return Measured(written, item.columns[0], item)
        if column not in item.columns:
            places = ", ".join(item.columns)
            if len(item.columns) == 1:
                raise self.error(tree.at, f"{written} is one value, and has no column {column}")
            raise self.error(
                tree.at,
                f"{written} has several columns: choose one, {written}.COLUMN with one of {places}",
            )
        return Measured(f"{written}.{column}", column, item)

    def operation(self, tree: Operation) -> Node:
        sign = tree.signs[0]
        if sign in COMPARISONS:
            return Comparison(tree.signs, tuple(self.node(part) for part in tree.parts))
        if sign in ("and", "or", "not"):
            return Logic(sign, tuple(self.condition(part) for part in tree.parts))
        number = literal(tree)
        if isinstance(number, float):
            return Constant(number)
        return Arithmetic(sign, tuple(self.node(part) for part in tree.parts))

    def condition(self, tree: Tree) -> Node:
        found = self.node(tree)
        if not found.condition:
            raise self.error(
                tree.at, f"{quoted(str(found))[1:-1]} is a number, not a condition: compare it, "
                f"for instance {quoted(found.inside(5))[1:-1]} > 0",
            )  # fmt: skip
        return found

    def call(self, tree: Call) -> Node:
        if tree.name in TRANSFORMS:
            return self.desirability(tree)
        if tree.name in FUNCTIONS:
            return self.applied(tree)
        if tree.name == "where":
            condition, value, otherwise = self.arguments(tree, ["condition", "value", "otherwise"])
            parts = (self.condition(condition), self.node(value), self.node(otherwise))
            return Where(parts)
        if tree.name == "column":
            return self.column(tree)
        if tree.name == "ligand_efficiency":
            (score,) = self.arguments(tree, ["score"])
            size = self.measured(Name(tree.at, tree.end, 1, "heavy_atoms"))
            return Arithmetic("/", (Arithmetic("-", (self.node(score),)), size))
        if registry.function(tree.name) is None and not registry.known(tree.name):
            hint = nearest(tree.name, _every_function(), _LISTED)
            raise self.error(tree.at, f"there is no function {tree.name}: {hint}")
        item = registry.made(tree, self.text)
        return self.of_property(tree, item.name, item)

    def arguments(self, tree: Call, names: list[str]) -> list[Tree]:
        """The arguments of these names, each once, in the order of the names."""
        given = dict(zip(names, tree.arguments, strict=False))
        usage = f"write {tree.name}({', '.join(names)}), for instance {_example(tree.name)}"
        if len(tree.arguments) > len(names):
            raise self.error(tree.arguments[len(names)].at, f"one argument too many: {usage}")
        for option, value in tree.options:
            if option.name not in names:
                hint = nearest(option.name, names, usage)
                raise self.error(option.at, f"{tree.name} has no option {option.name}: {hint}")
            if option.name in given:
                raise self.error(option.at, f"{option.name} is given twice")
            given[option.name] = value
        if missing := [name for name in names if name not in given]:
            raise self.error(tree.end - 1, f"{tree.name} needs {missing[0]}: {usage}")
        return [given[name] for name in names]

    def desirability(self, tree: Call) -> Node:
        kind = TRANSFORMS[tree.name]
        names = ["y", *parameters_of(kind)]
        last = len(tree.arguments) + len(tree.options)
        if kind is TRANSFORMS["range"] and last == len(names) - 1:
            names = names[:-1]  # without a margin, which has a default
        value, *numbers = self.arguments(tree, names)
        parameters = [self.number(part) for part in numbers]
        return Desirability(self._built(tree, kind, parameters), self.node(value))

    def _built(self, tree: Call, kind: type[Transform], parameters: list[float]) -> Transform:
        try:
            return kind(*parameters)
        except UserError as error:
            raise self.error(tree.at, str(error)) from None

    def number(self, tree: Tree) -> float:
        value = literal(tree)
        if not isinstance(value, float):
            raise self.error(tree.at, "a number is wanted here, such as 0.5 or -3")
        return value

    def applied(self, tree: Call) -> Node:
        options = {option.name: (option, value) for option, value in tree.options}
        weights = options.pop("weights", None) if tree.name in _WEIGHTED else None
        for name, (option, _) in options.items():
            why = "; equality is written ==" if self.is_name(name) else ""
            why = ": use geometric_mean or mean" if name == "weights" else why
            raise self.error(option.at, f"{tree.name} has no option {name}{why}")
        if not tree.arguments:
            raise self.error(tree.end - 1, f"{tree.name} needs at least one value")
        if tree.name not in _SEVERAL and len(tree.arguments) > 1:
            raise self.error(tree.arguments[1].at, f"{tree.name} is of one value")
        parts = tuple(self.node(part) for part in tree.arguments)
        if tree.name in DESIRABLE:
            for part, where in zip(parts, tree.arguments, strict=True):
                self.check_desirable(part, where, tree.name)
        return Applied(tree.name, parts, self.weights(weights and weights[1], len(parts)))

    def check_desirable(self, part: Node, tree: Tree, name: str) -> None:
        low, high = part.bounds()
        if low < 0 or high > 1:
            shown = quoted(str(part))[1:-1]
            raise self.error(
                tree.at, f"{shown} need not lie between 0 and 1, as the parts of a {name} do: "
                f"make it a desirability, for instance ramp({shown}, LOW, HIGH), or write * and +",
            )  # fmt: skip

    def weights(self, tree: Tree | None, count: int) -> tuple[float, ...] | None:
        if tree is None:
            return None
        if not isinstance(tree, Listed):
            raise self.error(tree.at, "weights are a list of numbers, weights=[2, 1]")
        numbers = tuple(self.number(item) for item in tree.items)
        if len(numbers) != count:
            raise self.error(tree.at, f"{count} values do not go with {len(numbers)} weights")
        for number, item in zip(numbers, tree.items, strict=True):
            if number <= 0:
                raise self.error(item.at, "weights are positive numbers")
        return numbers

    def column(self, tree: Call) -> Node:
        (where,) = self.arguments(tree, ["name"])
        if not isinstance(where, Text):
            raise self.error(where.at, f"the name of a column is in quotes: {_SPECIAL['column']}")
        if where.value not in self.columns:
            if not self.columns:
                raise self.error(tree.at, "there is no table here whose column it could be")
            hint = nearest(where.value, self.columns, f"there are {', '.join(self.columns)}")
            raise self.error(where.at, f"there is no column {where.value}: {hint}"[:300])
        return Measured(f"column({_in_quotes(where.value)})", where.value, None)


_LISTED = "`molflowctl rewards` lists all"


def _in_quotes(text: str) -> str:
    return f"'{text}'" if '"' in text else f'"{text}"'


def _every_function() -> list[str]:
    made = [item.name for item in registry.functions()]
    return [*TRANSFORMS, *FUNCTIONS, *_SPECIAL, *made]


def _example(name: str) -> str:
    return TRANSFORMS[name].example if name in TRANSFORMS else _SPECIAL[name]


# Mappings, as earlier versions took them beside texts ---------------------------------------------


def as_text(spec: Any) -> str:
    """The expression that a reward is given as, a text or, in the old way, a mapping.

    Raises:
        UserError: it is neither.
    """
    if isinstance(spec, str):
        return spec
    if not isinstance(spec, Mapping):
        raise UserError(f"a reward is a text, not {quoted(spec)}")
    if depth_of(spec) > DEPTH:
        raise UserError(f"a reward has at most {DEPTH} levels inside one another")
    text = _from_mapping(spec)
    _old("a mapping", text)
    return text


def _from_mapping(spec: Any) -> str:
    if isinstance(spec, str):
        return spec
    rest = {str(key): value for key, value in spec.items()} if isinstance(spec, Mapping) else {}
    for kind in DESIRABLE:
        if kind in rest:
            parts, weights = rest.pop(kind), rest.pop("weights", None)
            if rest or not isinstance(parts, list) or not isinstance(weights, list | None):
                raise UserError(f"{kind} takes a list of rewards, and perhaps one of weights")
            inner = [_from_mapping(part) for part in parts]
            if weights is not None:
                inner.append(f"weights=[{', '.join(_number(w, 'weights') for w in weights)}]")
            return f"{kind}({', '.join(inner)})"
    if not isinstance(rest.get("property"), str):
        raise UserError(f"a reward names a property, a product or a geometric_mean: {quoted(spec)}")
    name, kind = rest.pop("property"), rest.pop("transform", None)
    if kind is None and rest:
        raise UserError(f"{', '.join(rest)} is of a transform, and there is none: {quoted(spec)}")
    numbers = [f"{key}={_number(value, key)}" for key, value in rest.items()]
    return f"{kind}({', '.join([name, *numbers])})" if kind is not None else name


def _number(value: Any, key: str) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{key}: {quoted(value)} is not a number")
    try:
        return repr(float(value))
    except OverflowError:
        raise UserError(f"{key}: {quoted(value)} is too large") from None
