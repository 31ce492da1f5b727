"""The signs that an expression is made of: numbers, names, texts in quotes, operators.

A text in quotes is taken as it stands: a backslash is a bond of a SMILES, nothing is escaped.
A hyphen is a minus, save inside a name that is known to have one (`xtb-gap`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from molflowctl.io.language.places import ExpressionError

__all__ = ["KEYWORDS", "LENGTH", "Token", "tokens", "unknown"]

LENGTH = 10_000  # characters of an expression
KEYWORDS = ("and", "or", "not")
Kind = Literal["number", "name", "text", "sign", "keyword", "end"]

_SPACE = re.compile(r"\s+")
_NUMBER = re.compile(r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_NAME = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*", re.ASCII)
_HYPHENS = re.compile(r"[A-Za-z_]\w*(?:-\w+)+", re.ASCII)
_SIGN = re.compile(r"\*\*|<=|>=|==|!=|[-+*/()\[\],<>=]")
# What people write instead, and what it is here.
_ELSEWHERE = {
    "&&": "write `and`", "&": "write `and`", "||": "write `or`", "|": "write `or`",
    "!": "write `not`, or != for unequal", "~": "write `not`", "^": "a power is written **",
    "%": "write a share as a number, 60 % as 0.6",
    "\N{MINUS SIGN}": "write -", "\N{EN DASH}": "write -", "\N{MULTIPLICATION SIGN}": "write *",
    "\N{MIDDLE DOT}": "write *",
    "\N{LESS-THAN OR EQUAL TO}": "write <=", "\N{GREATER-THAN OR EQUAL TO}": "write >=",
    "\N{NOT EQUAL TO}": "write !=",
    "{": "write ( )", "}": "write ( )", ";": "arguments are parted by a comma",
    ":": 'arguments are in brackets and quotes, smarts("[#7]"); a condition is '
    "where(CONDITION, VALUE, OTHERWISE)",
    "#": 'a SMARTS or SMILES is in quotes, smarts("[#7]")',
    "@": 'a SMARTS or SMILES is in quotes, smarts("[C@H]")',
    "$": 'a SMARTS is in quotes, smarts("[$(NC=O)]")',
    "\\": 'a SMILES is in quotes, similarity("F/C=C\\F")',
}  # fmt: skip
_CURLY = "\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}" \
    "\N{LEFT SINGLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}`"  # fmt: skip


@dataclass(frozen=True, slots=True)
class Token:
    """A sign of an expression: its kind, how it is written, and from where to where it is."""

    kind: Kind
    text: str
    at: int
    end: int


def unknown(name: str) -> bool:
    """No name with a hyphen is known."""
    return False


def tokens(text: str, known: Callable[[str], bool] = unknown) -> Iterator[Token]:
    """The signs of an expression, one after the other, with an `end` as the last.

    Args:
        known: whether something goes by this name, which has hyphens.

    Raises:
        ExpressionError: for what is no sign of the language, at its place.
    """
    if len(text) > LENGTH:
        raise ExpressionError(
            text, LENGTH, f"it is {len(text):,} characters long, {LENGTH:,} are allowed"
        )
    at = 0
    while at < len(text):
        if space := _SPACE.match(text, at):
            at = space.end()
            continue
        token = _token(text, at, known)
        yield token
        at = token.end
    yield Token("end", "", len(text), len(text))


def _token(text: str, at: int, known: Callable[[str], bool]) -> Token:
    first = text[at]
    if first in "\"'":
        end = text.find(first, at + 1)
        if end < 0:
            raise ExpressionError(text, at, f"the quotation mark {first} is not closed")
        return Token("text", text[at + 1 : end], at, end + 1)
    if number := _NUMBER.match(text, at):
        if number.end() < len(text) and (text[number.end()].isalnum() or text[number.end()] in "_"):
            raise ExpressionError(
                text, number.end(), "a number runs into a name: write 2 * qed, or 1e-3"
            )
        return Token("number", number[0], at, number.end())
    if (whole := _HYPHENS.match(text, at)) and (word := _longest(whole[0], known)):
        return Token("name", word, at, at + len(word))
    if name := _NAME.match(text, at):
        word = name[0]
        if word.lower() in KEYWORDS:
            return Token("keyword", word.lower(), at, name.end())
        if word in ("if", "else"):
            raise ExpressionError(text, at, "a condition is where(CONDITION, VALUE, OTHERWISE)")
        return Token("name", word, at, name.end())
    if sign := _SIGN.match(text, at):
        return Token("sign", sign[0], at, sign.end())
    raise ExpressionError(text, at, _advice(text, at))


def _longest(name: str, known: Callable[[str], bool]) -> str:
    """The longest beginning of a name with hyphens that is known; empty if none is."""
    while "-" in name:
        if known(name):
            return name
        name = name.rpartition("-")[0]
    return ""


def _advice(text: str, at: int) -> str:
    if text[at] in _CURLY:
        return "write straight quotation marks, \" or '"
    shown = text[at] if text[at].isprintable() else f"U+{ord(text[at]):04X}"
    for sign in (text[at : at + 2], text[at]):
        if sign in _ELSEWHERE:
            return f"{sign} has no meaning here: {_ELSEWHERE[sign]}"
    return f"{shown} has no meaning here"
