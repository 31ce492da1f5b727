"""Properties that are made from arguments, such as `smarts("[#7]S(=O)=O")`.

A function that returns a `Property` becomes one by a decorator of the registry; the arguments, with
their kinds and defaults, are those of its signature:

    @register_function(
        "bonds_of",
        description="number of bonds between two elements",
        arguments={"first": "an element", "second": "another"},
        example='bonds_of("C", "N")',
    )
    def bonds_of(first: str, second: str = "C") -> Property: ...

Arguments are texts, whole numbers, numbers or one of the words of a `Literal`; `*references: str`
takes one or more. The property that is returned gets the call as its name and column, written in
one way: `bonds_of("C", "N")`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from molflowctl.errors import UserError
from molflowctl.io.language.grammar import Call, Number, Operation, Text, Tree
from molflowctl.io.language.places import ExpressionError, nearest

if TYPE_CHECKING:
    from molflowctl.properties.registry import Property

__all__ = ["BadArgument", "Function", "Given", "literal"]


class BadArgument(UserError):
    """An argument of a function that is wrong; an expression's error points at it.

    Args:
        value: the argument as it was given.
        reason: what is wrong, and what would be right.
    """

    def __init__(self, value: str | float, reason: str) -> None:
        super().__init__(reason)
        self.value = value


@dataclass(frozen=True)
class Given:
    """A call's arguments: as the function takes them, and the call written in the one way."""

    positional: tuple[str | float, ...]
    named: tuple[tuple[str, str | float], ...]
    text: str


@dataclass(frozen=True, eq=False)
class Function:
    """How a property is made from arguments.

    Attributes:
        name: before the bracket.
        description: one line for tables and help.
        unit: of the property's value; empty for pure numbers.
        arguments: what each argument of `make` means.
        make: from the arguments to the property; raises `BadArgument` for one that is wrong.
        example: a call that works anywhere.
    """

    name: str
    description: str
    unit: str
    make: Callable[..., Property]
    example: str
    arguments: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def signature(self) -> inspect.Signature:
        """Of `make`."""
        return inspect.signature(self.make, eval_str=True)

    def __str__(self) -> str:
        """As help shows it: `similarity("REFERENCE", ..., fingerprint="ecfp4")`."""
        shown = []
        for item in self.signature.parameters.values():
            name = f'"{item.name.upper()}"' if item.annotation is not int else item.name
            if item.kind is item.VAR_POSITIONAL:
                shown += [name, "..."]
            elif item.default is item.empty:
                shown.append(name)
            else:
                shown.append(f"{item.name}={_written(item.default)}")
        return f"{self.name}({', '.join(shown)})"

    def given(self, call: Call, text: str) -> Given:
        """The arguments of a call in the expression `text`.

        Raises:
            ExpressionError: for one that is missing, unknown, one too many or of a wrong kind.
        """
        parameters = list(self.signature.parameters.values())
        several = next((p for p in parameters if p.kind is p.VAR_POSITIONAL), None)
        plain = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        named: dict[str, str | float] = {}
        positional: list[str | float] = []
        for place, tree in enumerate(call.arguments):
            if place < len(plain):
                named[plain[place].name] = _value(tree, plain[place], text, self)
            elif several is not None:
                positional.append(_value(tree, several, text, self))
            else:
                raise ExpressionError(text, tree.at, f"one argument too many: {self}")
        known = {p.name: p for p in parameters if p is not several}
        for option, tree in call.options:
            if option.name not in known:
                hint = nearest(option.name, list(known), f"write {self}")
                raise ExpressionError(
                    text, option.at, f"{self.name} has no option {option.name}: {hint}"
                )
            if option.name in named:
                raise ExpressionError(text, option.at, f"{option.name} is given twice")
            named[option.name] = _value(tree, known[option.name], text, self)
        missing = [p.name for p in known.values() if p.default is p.empty and p.name not in named]
        if missing or (several is not None and not positional):
            name = (missing or [several.name if several else ""])[0]
            meaning = f", {self.arguments[name]}" if name in self.arguments else ""
            raise ExpressionError(
                text, call.end - 1, f"{self.name} needs {name}{meaning}: {self.example}"
            )
        return self._written_once(named, positional)

    def _written_once(self, named: dict[str, str | float], positional: list[str | float]) -> Given:
        first, options = [], []
        kept: list[tuple[str, str | float]] = []
        for item in self.signature.parameters.values():
            if item.kind is item.VAR_POSITIONAL:
                first += [_written(value) for value in positional]
            elif item.name in named and named[item.name] != item.default:
                kept.append((item.name, named[item.name]))
                if item.default is item.empty:
                    first.append(_written(named[item.name]))
                else:
                    options.append(f"{item.name}={_written(named[item.name])}")
        text = f"{self.name}({', '.join([*first, *options])})"
        return Given(tuple(positional), tuple(kept), text)

    def made(self, given: Given) -> Property:
        """The property of these arguments."""
        parameters = self.signature.parameters
        before = [
            value for name, value in given.named
            if parameters[name].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
            and parameters[name].default is inspect.Parameter.empty
        ]  # fmt: skip
        rest = {
            name: value for name, value in given.named
            if parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
            or parameters[name].default is not inspect.Parameter.empty
        }  # fmt: skip
        return self.make(*before, *given.positional, **rest)


def _written(value: str | float) -> str:
    """An argument as the language writes it."""
    if isinstance(value, str):
        return f"'{value}'" if '"' in value else f'"{value}"'
    return repr(value)


def _kind(item: inspect.Parameter) -> Any:
    """`str`, `int`, `float`, or the words of a `Literal`."""
    if get_origin(item.annotation) is Literal:
        return get_args(item.annotation)
    return item.annotation


def _value(tree: Tree, item: inspect.Parameter, text: str, function: Function) -> str | float:
    """The value of an argument, of the kind that the parameter says."""
    kind, name = _kind(item), item.name
    value = literal(tree)
    if isinstance(kind, tuple):
        if value not in kind:
            words = ", ".join(f'"{word}"' for word in kind)
            hint = nearest(value, kind) if isinstance(value, str) else ""
            raise ExpressionError(
                text, tree.at, f"{name} of {function.name} is one of {words}{hint and f': {hint}'}"
            )
        return str(value)
    if kind is str and not isinstance(value, str):
        raise ExpressionError(
            text, tree.at,
            f"{name} of {function.name} is a text in quotes: {function.example}",
        )  # fmt: skip
    if kind in (int, float) and not isinstance(value, float):
        raise ExpressionError(text, tree.at, f"{name} of {function.name} is a number")
    if kind is int:
        if not float(value).is_integer():  # type: ignore[arg-type]
            raise ExpressionError(text, tree.at, f"{name} of {function.name} is a whole number")
        return int(value)  # type: ignore[arg-type]
    return value  # type: ignore[return-value]


def literal(tree: Tree) -> str | float | None:
    """The text or number that a tree is; None if it is neither."""
    if isinstance(tree, Text | Number):
        return tree.value
    if isinstance(tree, Operation) and tree.signs == ("-",) and len(tree.parts) == 1:
        inner = literal(tree.parts[0])
        return -inner if isinstance(inner, float) else None
    return None
