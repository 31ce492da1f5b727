"""Expressions that users write, circuits and rewards: read as syntax trees, never evaluated.

Light to import, so that a slip is told before anything heavy is. Sizes are bounded: what follows
walks the trees recursively.
"""

from __future__ import annotations

import ast
import math
import warnings

from molflowctl.errors import UserError
from molflowctl.io.language.grammar import parse
from molflowctl.io.plain_files import quoted

__all__ = [
    "check_circuit",
    "check_reward",
    "check_spec",
    "number_of",
    "parse_circuit",
    "parse_expression",
]

LENGTH = 10_000  # signs
DEPTH = 100  # of operations and calls inside one another
MADE_TO_ORDER = ("surrogate:", "smarts:")  # rewards that are no expressions, the old way


def parse_expression(text: str) -> ast.expr:
    """The syntax tree of an expression.

    Raises:
        ValueError: it is none, longer or deeper than anybody needs, or has a huge number; the
            message does not quote it.
    """
    if len(text) > LENGTH:
        raise ValueError(f"it is {len(text):,} signs long, {LENGTH:,} are allowed")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as "invalid decimal literal"
            tree = ast.parse(text.strip(), mode="eval").body
    except (RecursionError, MemoryError):
        raise ValueError(f"it is nested more than {DEPTH} levels deep") from None
    except (SyntaxError, ValueError) as error:  # ValueError: a zero byte, or thousands of digits
        message = error.msg if isinstance(error, SyntaxError) else str(error)
        raise ValueError(f"{' '.join(str(message).split())[:100]}") from None
    level: list[ast.AST] = [tree]
    for _ in range(DEPTH):
        for node in level:
            value = getattr(node, "value", None)
            if isinstance(value, int) and value.bit_length() > 1000:
                raise ValueError("a number of more than 300 digits is no number of a property")
        level = [child for node in level for child in ast.iter_child_nodes(node)]
        if not level:
            return tree
    raise ValueError(f"it has more than {DEPTH} operations inside one another")


def parse_circuit(text: str) -> ast.expr:
    """The tree of a circuit: names, `&`, `|`, `-`, and nothing else.

    Raises:
        ValueError: for anything else.
    """
    shown = quoted(text)
    try:
        tree = parse_expression(text)
    except ValueError as error:
        raise ValueError(
            f"{shown} is no circuit: combine names with & | - and ( ); {error}"
        ) from None
    allowed = (ast.Name, ast.BitAnd, ast.BitOr, ast.Sub, ast.expr_context)
    for node in ast.walk(tree):
        if isinstance(node, allowed) or (
            isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd | ast.BitOr | ast.Sub)
        ):
            continue
        part = isinstance(node, ast.expr) and ast.get_source_segment(text.strip(), node)
        raise ValueError(
            f"{quoted(part or text)} in {shown} is not allowed: only names, & | - and ( )"
        )
    return tree


def check_circuit(text: str) -> str:
    """The text, where it is a circuit; raises `ValueError` otherwise."""
    parse_circuit(text)
    return text


def check_reward(text: str) -> str:
    """The text, where it can be a reward: what the names mean is not asked here.

    Raises:
        ValueError: it can be none.
    """
    if not text.strip().startswith(MADE_TO_ORDER):
        try:
            parse(text)
        except UserError as error:
            raise ValueError(f"not a reward: {error}") from None
    return text


def number_of(text: str | None) -> float:
    """The number that a text is; NaN of any other text, and of none.

    `1_000` and digits of other scripts are numbers to Python alone: whoever wrote them may have
    meant something else.
    """
    if text is None or "_" in text or not text.isascii():
        return math.nan
    try:
        return float(text)
    except ValueError:
        return math.nan


def check_spec(text: str) -> str:
    """The text, where it is `NAME`, `NAME:NUMBER` or `NAME=NUMBER`.

    Raises:
        ValueError: the number is none, or not finite.
    """
    _, sign, number = text.partition("=" if "=" in text else ":")
    if sign and not math.isfinite(number_of(number)):
        raise ValueError(f"{quoted(text)} needs a number: NAME:NUMBER, for instance kl:0.5")
    return text
