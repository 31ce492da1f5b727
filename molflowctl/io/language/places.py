"""Errors in an expression that show the expression, with a caret under the place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from molflowctl.errors import UserError

__all__ = ["ExpressionError", "nearest", "pointed"]

_WIDTH = 72  # characters of the expression that are shown


class ExpressionError(UserError):
    """An expression that is wrong at one character.

    Args:
        text: the expression.
        at: the place in it, from 0.
        reason: what is wrong, and what would be right.

    Attributes: `text`, `at` and `reason`; as a text, the reason with the expression and a caret.
    """

    def __init__(self, text: str, at: int, reason: str) -> None:
        super().__init__(f"{reason}\n{pointed(text, at)}")
        self.text, self.at, self.reason = text, at, reason

    def __reduce__(self) -> tuple[type[ExpressionError], tuple[str, int, str]]:
        return type(self), (self.text, self.at, self.reason)


def pointed(text: str, at: int) -> str:
    """The line of the text around a place, and below it a caret at the place."""
    at = min(max(at, 0), len(text))
    begin = text.rfind("\n", 0, at) + 1
    end = text.find("\n", at)
    line = text[begin : len(text) if end < 0 else end]
    place = at - begin
    line = "".join(sign if sign.isprintable() else " " for sign in line)
    left = max(0, min(place - _WIDTH // 2, len(line) - _WIDTH))
    right = left + _WIDTH
    before, after = "..." * (left > 0), "..." * (right < len(line))
    return f"  {before}{line[left:right]}{after}\n  {' ' * (len(before) + place - left)}^"


def nearest(name: str, known: Iterable[str] | Mapping[str, str], otherwise: str = "") -> str:
    """`did you mean A or B?` of the known names like this one; `otherwise` if none is.

    known: names, or spellings with the name that each stands for.
    """
    stands_for = known if isinstance(known, Mapping) else {item: item for item in known}
    by_spelling = {item.lower(): stands_for[item] for item in stands_for}
    near = get_close_matches(name.lower(), by_spelling, n=3, cutoff=0.6)
    proposed = dict.fromkeys(by_spelling[item] for item in near)
    return f"did you mean {' or '.join(proposed)}?" if near else otherwise
