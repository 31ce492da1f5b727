"""The page of a run that steers or merges flows, `report.html`."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from molflowctl.io.atomic import write_file
from molflowctl.viz.charts import Level, Line, Sample, course, distributions, key
from molflowctl.viz.page import Shown, cell_row, framed, molecule_row

__all__ = ["Chart", "Molecules", "PartRow", "write_report"]


@dataclass(frozen=True)
class Chart:
    """Lines over the steps of a run, and what they show."""

    caption: str
    lines: Sequence[Line]
    levels: Sequence[Level] = ()


@dataclass(frozen=True)
class PartRow:
    """A part of the reward: its figure in every sample as a text, and how it is distributed."""

    name: str
    figures: Sequence[str]
    samples: Mapping[str, Sample]


@dataclass(frozen=True)
class Molecules:
    """Molecules of a flow that are shown together."""

    heading: str
    shown: Sequence[Shown] = field(default_factory=list)


def write_report(
    path: str | os.PathLike[str],
    *,
    title: str,
    words: Sequence[str],
    steps: Sequence[int],
    charts: Sequence[Chart],
    samples: Mapping[str, Sample],
    reward: str,
    parts: tuple[Sequence[str], Sequence[PartRow]],
    flows: Sequence[Sequence[str]],
    molecules: Sequence[Molecules],
    table: Sequence[Sequence[str]],
    settings: Sequence[tuple[str, str, bool]],
) -> Path:
    """Write the page, one file that loads nothing.

    words: what there is to say, the most important first. steps: of the charts. samples: values of
    the reward that are compared. parts: headings, and a row for each part of the reward. flows: a
    table of figures of every flow, headings first. table: the live table, headings first.
    settings: name, value and whether it is another than by default.
    """
    first, *others = words
    body = [
        f"<h1>{html.escape(title)}</h1>",
        f'<p class="lead">{html.escape(first)}</p>',
        *(f"<p>{html.escape(line)}</p>" for line in others),
        '<div class="charts">',
        *(_chart(steps, chart) for chart in charts),
    ]
    if drawn := distributions(samples):
        body.append(
            f"<figure>{drawn}<figcaption>{key(list(samples))}<br>distribution of "
            f"{html.escape(reward)}</figcaption></figure>"
        )
    body += ["</div>", _section("The flows", flows)]
    for group in molecules:
        body += [f"<h2>{html.escape(group.heading)}</h2>", molecule_row(group.shown)]
    headings, rows = parts
    if rows:
        shown = [
            [*map(html.escape, (row.name, *row.figures)), distributions(row.samples, small=True)]
            for row in rows
        ]
        body += [
            "<h2>What the parts of the reward did</h2>",
            f"<p>{key(list(rows[0].samples))}</p>",
            '<div class="wide"><table>',
            cell_row([*map(html.escape, headings), "distribution"], "th"),
            *map(cell_row, shown),
            "</table></div>",
        ]
    body += [
        _section("Before every mirror step, and at the end", table),
        "<details><summary>Settings</summary><p>In bold: not the default.</p>",
        '<div class="wide"><table>',
        *(_setting(*entry) for entry in settings),
        "</table></div></details>",
    ]
    write_file(path, framed(title, body))
    return Path(path)


def _chart(steps: Sequence[int], chart: Chart) -> str:
    """A figure; empty where nothing is known."""
    drawn = course(steps, chart.lines, chart.levels)
    if not drawn:
        return ""
    names = key([line.name for line in chart.lines], [level.name for level in chart.levels])
    caption = f"{names}<br>{html.escape(chart.caption)}"
    return f"<figure>{drawn}<figcaption>{caption}</figcaption></figure>"


def _section(heading: str, table: Sequence[Sequence[str]]) -> str:
    headings, *rows = [[html.escape(cell) for cell in row] for row in table]
    lines = [cell_row(headings, "th"), *map(cell_row, rows)]
    return f'<h2>{heading}</h2><div class="wide"><table>{"".join(lines)}</table></div>'


def _setting(name: str, value: str, changed: bool) -> str:
    shown = f"<b>{html.escape(value)}</b>" if changed else html.escape(value)
    return f'<tr><td>{html.escape(name)}</td><td class="words">{shown}</td></tr>'
