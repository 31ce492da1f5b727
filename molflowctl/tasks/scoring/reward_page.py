"""What rewards are made of: as a list, in detail, and as the tables of `docs/rewards.md`."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from molflowctl.io.atomic import write_file
from molflowctl.properties.rewards.catalogue import GROUPS, Entry, curve, entries, find, in_group
from molflowctl.viz.curves import curve_lines, curve_svg

__all__ = ["detail", "listing", "tables", "write_curves"]

CURVES = "curves"  # folder of the pictures, beside the page


def listing(width: int) -> list[str]:
    """Every entry, a line or more each, in groups."""
    lines = []
    every = entries()
    for group, title in GROUPS.items():
        lines += ["", title]
        for entry in in_group(group, every):
            unit = f" [{entry.unit}]" if entry.unit else ""
            text = f"{entry.meaning}{unit}"
            lines += _beside(entry.usage, text, width, column=28)
    return lines[1:]


def _beside(name: str, text: str, width: int, column: int) -> list[str]:
    """A name and a text beside it, on the next line where the name is long."""
    indent = " " * column
    begin = f"  {name:{column - 2}}" if len(name) + 4 <= column else indent
    wrapped = textwrap.wrap(
        text, max(width, column + 20), initial_indent=begin, subsequent_indent=indent,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    return wrapped if begin != indent else [f"  {name}", *wrapped]


def detail(name: str, width: int) -> list[str]:
    """All there is to say of the entries of a name; raises `UserError` where there are none."""
    lines: list[str] = []
    for entry in find(name):
        lines += ["", entry.usage]
        lines += textwrap.wrap(
            entry.meaning + (f" [{entry.unit}]" if entry.unit else ""), width,
            initial_indent="  ", subsequent_indent="  ",
        )  # fmt: skip
        for argument, meaning in entry.arguments:
            lines += ["", *_beside(argument, meaning, width, column=18)]
        lines += ["", f"  for instance  {entry.example}"]
        if entry.between is not None:
            x, y = curve(entry)
            lines += ["", *(f"  {line}" for line in curve_lines(x, y, _over(entry)))]
    return lines[1:]


def _over(entry: Entry) -> str:
    """What the curve of an example is over."""
    return entry.example.partition("(")[2].partition(",")[0]


def tables() -> str:
    """The tables of `docs/rewards.md`, in Markdown; the pictures are those of `write_curves`."""
    every = entries()
    parts = []
    for group, title in GROUPS.items():
        parts.append(f"## {title}\n")
        if group == "desirability":
            parts += [_pictured(entry) for entry in in_group(group, every)]
        else:
            parts.append(_table(in_group(group, every)))
    return "\n".join(parts)


def _table(rows: Sequence[Entry]) -> str:
    lines = ["| written | unit | meaning | for instance |", "|---|---|---|---|"]
    for entry in rows:
        meaning = entry.meaning
        if entry.arguments:
            meaning += "; " + "; ".join(f"`{name}`: {text}" for name, text in entry.arguments)
        cells = f"`{entry.usage}`", entry.unit, meaning, f"`{entry.example}`"
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*lines, ""])


def _pictured(entry: Entry) -> str:
    return (
        f"### `{entry.usage}`\n\n{entry.meaning}.\n\n"
        f"`{entry.example}`\n\n![{entry.example}]({CURVES}/{entry.name}.svg)\n"
    )


def write_curves(folder: Path) -> None:
    """Write the picture of each desirability into a folder."""
    for entry in in_group("desirability", entries()):
        x, y = curve(entry)
        write_file(folder / f"{entry.name}.svg", curve_svg(x, y, _over(entry)))
