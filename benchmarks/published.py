"""Published numbers come from result files: `python benchmarks/published.py [--check] [PAGE ...]`.

A number in a page stands between two comments that say where it comes from:

    <!--= denovo/druglike/results.json; rates / valid; .1% -->93.8 % (92.3 to 95.2)<!--/-->

The parts are a JSON or CSV file below `benchmarks/`, or a `table.md` that a benchmark wrote, the
keys that lead to the number (of a table its row and its column), and its format: digits (`.2f`), a
percentage (`.1%`), grouped thousands (`,`), a name or the cell of a table (`s`). What has
`value`, `low` and `high` is written with its interval, unless the keys lead on to `value`. Of rows
of molecules, `mean(NAME)` and `median(NAME)` take the column NAME, of those molecules that every
model of the file has a value for. A bar in a key, which would end the cell of a table, is `\\|`.

Without `--check` the pages are written anew. With it nothing is written, and numbers that differ
from their file are listed; the exit status is then 1.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import re
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGES = ["README.md", "docs", "benchmarks"]
# No bar and no angle bracket between the comments' own: tables of Markdown hold them.
MARK = re.compile(
    r"<!--= ?(?P<source>[^;]+?); ?(?P<keys>[^;]+?); ?(?P<form>\S+) ?-->(?P<text>[^<]*)<!--/-->"
)
OF_ROWS: dict[str, Callable[[list[float]], float]] = {
    "mean": statistics.fmean,
    "median": statistics.median,
}


def pages(names: list[str]) -> Iterator[Path]:
    """The Markdown files named, and those in the folders named."""
    for name in names:
        path = ROOT / name
        yield from sorted(path.rglob("*.md")) if path.is_dir() else [path]


def read(path: Path) -> Any:
    """A JSON file, or the rows of a table by their first cell.

    Tables of the columns flow, figure, value, low, high are read by flow and figure. The cells of
    a Markdown table are texts; of several tables of a file the first that has a row of that name
    counts.
    """
    if path.suffix == ".md":
        return cells(path.read_text())
    if path.suffix != ".csv":
        return json.loads(path.read_text())
    found: dict[str, dict[str, Any]] = {}
    with path.open(newline="") as lines:
        for row in csv.DictReader(lines):
            if "figure" in row:
                interval = {end: float(row[end]) for end in ("value", "low", "high") if row[end]}
                found.setdefault(row["flow"], {})[row["figure"]] = interval
            else:
                name, *others = row
                found[row[name]] = {other: number(row[other]) for other in others}
    return found


def number(cell: str) -> float | str:
    """What a cell of a table holds: a number, or else its text."""
    try:
        return float(cell)
    except ValueError:
        return cell


def cells(page: str) -> dict[str, dict[str, str]]:
    """The cells of the tables of a page, by the first cell of their row and their column's head."""
    found: dict[str, dict[str, str]] = {}
    head: list[str] = []
    for line in page.splitlines():
        parts = [part.strip() for part in line.strip()[1:-1].split("|")]
        if line[:1] != "|":
            head = []
        elif not head:
            head = parts
        elif not re.fullmatch(r"[|: -]+", line):
            found.setdefault(parts[0], dict(zip(head[1:], parts[1:], strict=True)))
    return found


def look_up(source: str, keys: str) -> Any:
    """What a result file holds under `keys`, such as `rates / valid`.

    Raises:
        KeyError: if it holds no such thing.
    """
    place: Any = read(ROOT / "benchmarks" / source)
    above: Any = place
    for key in (k.strip() for k in keys.replace("\\|", "|").split(" / ")):
        call = re.fullmatch(r"(mean|median)\((.+)\)", key)
        if isinstance(place, list) and call:
            place = OF_ROWS[call[1]](answered(place, list(above.values()), call[2]))
        elif isinstance(place, dict) and key in place:
            above, place = place, place[key]
        else:
            there = ", ".join(place) if isinstance(place, dict) else str(place)
            raise KeyError(f"{source} has no {key!r} of {keys!r}; it has {there[:200]}")
    return place


def answered(rows: list[Any], together: list[list[Any]], name: str) -> list[float]:
    """Values of a column, of the molecules that every model of the file has a value for."""
    kept = []
    for row, *others in zip(rows, *together, strict=True):
        # A row in words says why a molecule has none.
        values = [other.get(name) if isinstance(other, dict) else None for other in others]
        if all(v is not None and not math.isnan(v) for v in values):
            kept.append(row[name])
    return kept


def write_out(value: Any, form: str) -> str:
    """A number, or one with its interval, as a page shows it: `93.8 % (92.3 to 95.2)`."""
    if isinstance(value, dict):
        bare = [write_out(value[end], form).removesuffix(" %") for end in ("low", "high")]
        return f"{write_out(value['value'], form)} ({bare[0]} to {bare[1]})"
    text = format(value, form)
    return text[:-1] + " %" if form.endswith("%") else text


def renewed(page: str) -> str:
    """The text of a page with every marked number as its file has it."""

    def anew(mark: re.Match[str]) -> str:
        text = write_out(look_up(mark["source"], mark["keys"]), mark["form"])
        return mark[0][: mark.start("text") - mark.start()] + text + "<!--/-->"

    return MARK.sub(anew, page)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", nargs="*", default=PAGES, help="Files or folders of Markdown.")
    parser.add_argument(
        "--check", action="store_true", help="Change nothing; exit 1 if one is old."
    )
    arguments = parser.parse_args()
    old = 0
    for path in pages(arguments.pages):
        before = path.read_text()
        after = renewed(before)
        if before == after:
            continue
        name = path.relative_to(ROOT)
        if not arguments.check:
            path.write_text(after)
            print(f"written: {name}")
            continue
        for was, now in zip(MARK.finditer(before), MARK.finditer(after), strict=True):
            if was["text"] != now["text"]:
                line = before[: was.start()].count("\n") + 1
                print(f"{name}:{line}: {was['text']!r}, but {was['source']} says {now['text']!r}")
                old += 1
    return 1 if old else 0


if __name__ == "__main__":
    sys.exit(main())
