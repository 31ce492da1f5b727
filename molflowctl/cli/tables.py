"""Tables that fit: names whole, numbers whole, at the width of a terminal, a pipe or a log.

What is too wide for a line is laid out otherwise, never cut: a name that leaves no room for its
figures is on a line of its own above them; where the figures alone are too wide, each has a line.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby

__all__ = ["fitted_markdown", "labelled", "laid_out", "live_lines", "number"]

GAP = "  "


def laid_out(
    headings: Sequence[str], rows: Sequence[Sequence[str]], width: int, words: Sequence[str] = ()
) -> list[str]:
    """The lines of a table whose first column are names.

    Arguments:
        headings: of every column; rows: their cells, as many each.
        width: of a line. Only a name, a figure or a word that is wider itself goes beyond it.
        words: headings of columns that hold words, which stand to the left and beside the name.
    """
    whole = _columns(headings, rows, words)
    if max(map(len, whole), default=0) <= width:
        return whole
    beside = [k for k, heading in enumerate(headings) if heading in words]
    figures = [k for k in range(1, len(headings)) if k not in beside]
    named = [GAP.join(filter(None, [row[0], *(row[k] for k in beside)])) for row in rows]
    below = _columns([headings[k] for k in figures], [[row[k] for k in figures] for row in rows])
    room = width - max(map(len, below), default=0) - len(GAP)
    if figures and room >= 0:
        size = max((len(name) for name in named if len(name) <= room), default=0)
        first = headings[0] if len(headings[0]) <= size else ""
        lines = [f"{first:{size}}{GAP}{below[0]}"]
        for name, line in zip(named, below[1:], strict=True):
            fits = len(name) <= size
            lines += [] if fits else [name]
            lines.append(f"{name if fits else '':{size}}{GAP}{line}")
        return lines
    size = max((len(headings[k]) for k in figures), default=0)
    lines = []
    for name, row in zip(named, rows, strict=True):
        lines.append(name)
        for k in figures:
            lines += _hanging(row[k], f"{GAP}{headings[k]:{size}}{GAP}", width)
    return lines


def labelled(lines: Sequence[tuple[str, str]], width: int) -> list[str]:
    """Labels and what they label; long texts go on below, words such as a SMILES stay whole."""
    longest = max((len(label) for label, _ in lines), default=0)
    size = min(longest, max(12, width // 2))
    found = []
    for label, text in lines:
        begin = f"{label:{size}}{GAP}"
        if len(label) > size:
            found.append(label)
            begin = " " * size + GAP
        found += _hanging(text, begin, width) or [begin.rstrip()]
    return found


def _hanging(text: str, begin: str, width: int) -> list[str]:
    """A text behind what it begins with, its further lines below its first word."""
    return textwrap.wrap(
        text, max(width, len(begin) + 20), initial_indent=begin, subsequent_indent=" " * len(begin),
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def live_lines(cells: Sequence[str], width: int) -> str:
    """Cells of given widths, the first a number of the row, in as many lines as they take."""
    lines, indent = [cells[0]], " " * len(cells[0])
    for cell in cells[1:]:
        if len(lines[-1]) + len(cell) + 1 > width and lines[-1] != indent:
            lines.append(indent)
        lines[-1] += " " + cell
    return "\n".join(lines)


def number(value: float, size: int, decimals: int) -> str:
    """A number to the right of `size` signs, in fewer digits where it is long; never cut."""
    text = f"{value:.{decimals}f}"
    digits = 6
    while len(text) > size and digits and math.isfinite(value):
        text = f"{value:.{digits}g}"
        digits -= 1
    return f"{text:>{size}}"


def fitted_markdown(text: str, width: int) -> str:
    """A text in Markdown, its tables and paragraphs laid out anew where a line is too wide."""
    return "\n".join(_fitted(text.splitlines(), width))


def _fitted(lines: Sequence[str], width: int) -> Iterator[str]:
    for is_table, group in groupby(lines, key=lambda line: line.startswith("|")):
        block = list(group)
        if max(map(len, block)) <= width:
            yield from block
            continue
        if not is_table:
            for line in block:
                yield from _hanging(line, "", width) or [line]
            continue
        cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in block]
        headings, *rows = [row for row in cells if not all(set(cell) <= set("-: ") for cell in row)]
        if any(len(row) != len(headings) for row in rows):
            yield from block
            continue
        yield from laid_out(headings, rows, width)


def _columns(
    headings: Sequence[str], rows: Sequence[Sequence[str]], words: Sequence[str] = ()
) -> list[str]:
    """Aligned columns: names and words to the left, figures to the right."""
    table = [headings, *rows]
    sizes = [max(len(row[k]) for row in table) for k in range(len(headings))]
    left = [heading in words for heading in headings]
    # The first column of a whole table are names, that of figures alone is a figure.
    if headings and not _figures(row[0] for row in rows):
        left[0] = True
    return [
        GAP.join(
            f"{cell:<{size}}" if to_left else f"{cell:>{size}}"
            for cell, size, to_left in zip(row, sizes, left, strict=True)
        ).rstrip()
        for row in table
    ]


def _figures(cells: Iterator[str]) -> bool:
    return all(not cell or cell[0] in "0123456789+-.(n" for cell in cells)
