"""A curve from 0 to 1, as lines of a terminal and as an SVG picture."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["curve_lines", "curve_svg"]

_WIDTH, _HEIGHT, _LEFT, _BELOW, _ABOVE = 260, 130, 28, 26, 8  # pixels


def curve_lines(x: Any, y: Any, label: str, width: int = 48, height: int = 7) -> list[str]:
    """The lines of a terminal that show a curve, with its ends and the name of what it is over.

    x: `(n,)`, rising; y: `(n,)`, from 0 to 1.
    """
    x = np.asarray(x)
    at = np.interp(np.linspace(x[0], x[-1], width), x, y)
    rows = np.round((1 - at) * (height - 1)).astype(int)
    lines = []
    for row in range(height):
        mark = {0: "1", height - 1: "0"}.get(row, " ")
        lines.append(f"{mark} |" + "".join("*" if r == row else " " for r in rows).rstrip())
    ends = f"{x[0]:g}", f"{x[-1]:g}"
    middle = label.center(width - len(ends[0]) - len(ends[1]))
    return [*lines, "  +" + "-" * width, f"   {ends[0]}{middle}{ends[1]}"]


def curve_svg(x: Any, y: Any, label: str) -> str:
    """The same as a picture; equal curves give equal texts."""
    x = np.asarray(x)
    across = (x - x[0]) / (x[-1] - x[0]) * (_WIDTH - _LEFT - 10) + _LEFT
    down = (1 - np.asarray(y)) * (_HEIGHT - _BELOW - _ABOVE) + _ABOVE
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(across, down, strict=True))
    floor, right = _HEIGHT - _BELOW, _WIDTH - 10
    text = 'font-family="sans-serif" font-size="11" fill="#333"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}">',
            f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
            f'<path d="M{_LEFT} {_ABOVE}V{floor}H{right}" fill="none" stroke="#999"/>',
            f'<polyline points="{points}" fill="none" stroke="#0072B2" stroke-width="2"/>',
            f'<text x="{_LEFT - 6}" y="{_ABOVE + 6}" text-anchor="end" {text}>1</text>',
            f'<text x="{_LEFT - 6}" y="{floor}" text-anchor="end" {text}>0</text>',
            f'<text x="{_LEFT}" y="{_HEIGHT - 10}" {text}>{x[0]:g}</text>',
            f'<text x="{right}" y="{_HEIGHT - 10}" text-anchor="end" {text}>{x[-1]:g}</text>',
            f'<text x="{(_LEFT + right) / 2:g}" y="{_HEIGHT - 10}" text-anchor="middle" {text}>'
            f"{label}</text>",
            "</svg>",
            "",
        ]
    )
