"""From an expression to its tree; nothing is evaluated, and what names mean is not asked.

    condition or condition            the loosest
    condition and condition
    not condition
    value < value <= value            also > >= == !=; several in a row all have to hold
    value + value, value - value
    value * value, value / value
    -value
    value ** value                    the tightest
    12.5  name  name.column  "text"  name(argument, name=argument)  [value, value]  (expression)

Operators bind as in Python. Length and depth are bounded, since what follows walks trees
recursively.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from molflowctl.io.language.places import ExpressionError
from molflowctl.io.language.tokens import Token, tokens, unknown

__all__ = [
    "DEPTH",
    "NESTED",
    "Call",
    "Listed",
    "Name",
    "Number",
    "Operation",
    "Text",
    "Tree",
    "parse",
]

DEPTH = 100  # operations inside one another
NESTED = 40  # brackets, each of which takes a dozen calls to read
_COMPARISONS = ("<", "<=", ">", ">=", "==", "!=")
_LEVELS = (("+", "-"), ("*", "/"))


@dataclass(frozen=True, slots=True)
class Tree:
    """A part of an expression, from character `at` to before `end`; `depth` of what is inside."""

    at: int
    end: int
    depth: int


@dataclass(frozen=True, slots=True)
class Number(Tree):
    """A number, without sign."""

    value: float


@dataclass(frozen=True, slots=True)
class Text(Tree):
    """What stands in quotes."""

    value: str


@dataclass(frozen=True, slots=True)
class Name(Tree):
    """`name` or `name.column`."""

    name: str


@dataclass(frozen=True, slots=True)
class Listed(Tree):
    """`[a, b]`."""

    items: tuple[Tree, ...]


@dataclass(frozen=True, slots=True)
class Call(Tree):
    """`name(a, b, option=c)`."""

    name: str
    arguments: tuple[Tree, ...]
    options: tuple[tuple[Name, Tree], ...]


@dataclass(frozen=True, slots=True)
class Operation(Tree):
    """`a OPERATOR b`, `not a` or `-a`; of a chain `a < b <= c` all signs and parts."""

    signs: tuple[str, ...]
    parts: tuple[Tree, ...]


def parse(text: str, known: Callable[[str], bool] = unknown) -> Tree:
    """The tree of an expression.

    Args:
        known: whether something goes by this name, which has hyphens; else they are minus signs.

    Raises:
        ExpressionError: it is none, or longer or deeper than anybody needs; with the place.
    """
    return _Parser(text, known).whole()


class _Parser:
    """Recursive descent, a method for each line of the grammar."""

    def __init__(self, text: str, known: Callable[[str], bool]) -> None:
        self.text = text
        self._signs: Iterator[Token] = tokens(text, known)
        self._inside = 0
        self.next = next(self._signs)

    def whole(self) -> Tree:
        if self.next.kind == "end":
            raise ExpressionError(self.text, 0, "it is empty: write for instance qed > 0.7")
        tree = self.either()
        if self.next.kind != "end":
            raise ExpressionError(self.text, self.next.at, self._unexpected())
        return tree

    def either(self) -> Tree:
        return self._logic("or", self.both)

    def both(self) -> Tree:
        return self._logic("and", self.negation)

    def _logic(self, word: str, inner: Callable[[], Tree]) -> Tree:
        parts = [inner()]
        while self._is("keyword", word):
            self._advance()
            parts.append(inner())
        return parts[0] if len(parts) == 1 else self._operation((word,), parts)

    def negation(self) -> Tree:
        if not self._is("keyword", "not"):
            return self.comparison()
        at = self._advance().at
        return self._operation(("not",), [self._deeper(self.negation)], at)

    def comparison(self) -> Tree:
        parts, signs = [self.terms(0)], []
        while self.next.kind == "sign" and self.next.text in _COMPARISONS:
            signs.append(self._advance().text)
            parts.append(self.terms(0))
        return parts[0] if not signs else self._operation(tuple(signs), parts)

    def terms(self, level: int) -> Tree:
        if level == len(_LEVELS):
            return self.signed()
        left = self.terms(level + 1)
        while self.next.kind == "sign" and self.next.text in _LEVELS[level]:
            sign = self._advance().text
            left = self._operation((sign,), [left, self.terms(level + 1)])
        return left

    def signed(self) -> Tree:
        if self._is("sign", "-") or self._is("sign", "+"):
            token = self._advance()
            inner = self._deeper(self.signed)
            return inner if token.text == "+" else self._operation(("-",), [inner], token.at)
        base = self.atom()
        if not self._is("sign", "**"):
            return base
        self._advance()
        return self._operation(("**",), [base, self._deeper(self.signed)])

    def atom(self) -> Tree:
        token = self.next
        if token.kind == "number":
            self._advance()
            value = float(token.text)
            if not math.isfinite(value):
                raise ExpressionError(self.text, token.at, "the number is too large")
            return Number(token.at, token.end, 1, value)
        if token.kind == "text":
            self._advance()
            return Text(token.at, token.end, 1, token.text)
        if token.kind == "name":
            self._advance()
            if self._is("sign", "("):
                return self._deeper(lambda: self.call(token))
            return Name(token.at, token.end, 1, token.text)
        if self._is("sign", "("):
            return self._deeper(self.bracketed)
        if self._is("sign", "["):
            return self._deeper(self.listed)
        raise ExpressionError(self.text, token.at, self._unexpected(wanted=True))

    def bracketed(self) -> Tree:
        opened = self._advance()
        inner = self.either()
        self._close(")", opened)
        return inner

    def listed(self) -> Tree:
        opened = self._advance()
        items = []
        while not self._is("sign", "]"):
            items.append(self.either())
            if not self._is("sign", ","):
                break
            self._advance()
        end = self._close("]", opened)
        return Listed(opened.at, end, self._depth(opened.at, items), tuple(items))

    def call(self, name: Token) -> Tree:
        opened = self._advance()
        arguments: list[Tree] = []
        options: list[tuple[Name, Tree]] = []
        while not self._is("sign", ")"):
            value = self.either()
            if self._is("sign", "=") and isinstance(value, Name):
                self._advance()
                if value.name in (known.name for known, _ in options):
                    raise ExpressionError(self.text, value.at, f"{value.name} is given twice")
                options.append((value, self.either()))
            elif options:
                raise ExpressionError(
                    self.text, value.at,
                    f"what has no name comes before {options[-1][0].name}=, which has one",
                )  # fmt: skip
            else:
                arguments.append(value)
            if not self._is("sign", ","):
                break
            self._advance()
        end = self._close(")", opened)
        depth = self._depth(name.at, [*arguments, *(value for _, value in options)])
        return Call(name.at, end, depth, name.text, tuple(arguments), tuple(options))

    def _operation(self, signs: tuple[str, ...], parts: list[Tree], at: int = -1) -> Tree:
        at = parts[0].at if at < 0 else at
        return Operation(at, parts[-1].end, self._depth(at, parts), signs, tuple(parts))

    def _depth(self, at: int, parts: list[Tree]) -> int:
        depth = 1 + max((part.depth for part in parts), default=0)
        if depth > DEPTH:
            raise ExpressionError(
                self.text, at, f"it has more than {DEPTH} operations inside one another"
            )
        return depth

    def _deeper(self, inner: Callable[[], Tree]) -> Tree:
        self._inside += 1
        if self._inside > NESTED:
            raise ExpressionError(
                self.text, self.next.at, f"it is nested more than {NESTED} levels deep"
            )
        found = inner()
        self._inside -= 1
        return found

    def _close(self, sign: str, opened: Token) -> int:
        if self._is("sign", sign):
            return self._advance().end
        if self.next.kind == "end":
            raise ExpressionError(self.text, opened.at, f"the bracket {opened.text} is not closed")
        raise ExpressionError(self.text, self.next.at, self._unexpected())

    def _is(self, kind: str, text: str) -> bool:
        return self.next.kind == kind and self.next.text == text

    def _advance(self) -> Token:
        token, self.next = self.next, next(self._signs, self.next)
        return token

    def _unexpected(self, wanted: bool = False) -> str:
        """What is wrong with the next sign, where a value is `wanted` or one has just ended."""
        token = self.next
        if token.text == "=":
            return "= gives an option its value: equality is written =="
        if wanted:
            missing = "a property, a number or a bracket is missing here"
            return missing if token.kind == "end" else f"{missing}, before {token.text}"
        if token.text in (")", "]"):
            return f"no bracket is open that {token.text} could close"
        if token.text == ",":
            return "a comma parts the arguments of a function, and there is none here"
        return f"an operator or a comma is missing before {token.text}"
