"""What layers above add to flows.

Flows import nothing that is built on them. What they offer by the help of an upper layer, such as
`a & b`, asks a function that the package's own face (`molflowctl/__init__.py`) has put here.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["bring_operators", "on_operators"]

_operators: list[Callable[[], object]] = []


def on_operators(bring: Callable[[], object]) -> None:
    """Have `bring` called before an operator between flows is first looked up."""
    _operators.append(bring)


def bring_operators() -> None:
    """Let every layer that has operators register them."""
    while _operators:
        _operators.pop()()
