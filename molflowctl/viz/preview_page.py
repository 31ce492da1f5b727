"""The page of a reward: its parts, how they are distributed and go together, best and worst."""

from __future__ import annotations

import html
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rdkit.Chem import Mol

from molflowctl.io.atomic import write_file
from molflowctl.viz.pictures import svg_of

__all__ = ["Shown", "histogram_svg", "write_preview"]

_WIDTH, _HEIGHT = 160, 44  # of a histogram, pixels
_BINS = 24
_STYLE = """
body { font-family: sans-serif; margin: 2em; color: #222; max-width: 75em }
table { border-collapse: collapse; margin: 1em 0 } td, th { padding: 2px 8px; text-align: right }
th { border-bottom: 1px solid #999; font-weight: normal; color: #555 }
td:first-child, th:first-child { text-align: left; font-family: monospace }
figure { display: inline-block; margin: 4px; width: 130px; vertical-align: top;
         text-align: center; font-size: 12px; overflow-wrap: anywhere }
"""


@dataclass(frozen=True)
class Shown:
    """A molecule of the page: itself, its reward and its name."""

    mol: Mol
    value: str
    name: str


def histogram_svg(values: NDArray[np.float64]) -> str:
    """Bars of the values (n,) from the smallest to the largest, with both written below."""
    if not len(values):
        return ""
    counts, edges = np.histogram(values, _BINS)
    wide, high = _WIDTH / _BINS, _HEIGHT - 14
    bars = "".join(
        f'<rect x="{k * wide:.1f}" y="{high - c / counts.max() * high:.1f}" '
        f'width="{wide - 1:.1f}" height="{c / counts.max() * high:.1f}" fill="#0072B2"/>'
        for k, c in enumerate(counts)
        if c
    )
    text = f'y="{_HEIGHT - 2}" font-size="10" fill="#555"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}">{bars}'
        f'<text x="0" {text}>{edges[0]:.4g}</text>'
        f'<text x="{_WIDTH}" text-anchor="end" {text}>{edges[-1]:.4g}</text></svg>'
    )


def write_preview(
    path: str | os.PathLike[str],
    *,
    title: str,
    table: Sequence[Sequence[str]],
    histograms: Sequence[NDArray[np.float64]],
    correlations: NDArray[np.float64],
    remarks: Sequence[str],
    best: Sequence[Shown],
    worst: Sequence[Shown],
) -> Path:
    """Write the page, one file that loads nothing.

    table: rows of texts, headings first, the last column a histogram in signs, drawn here.
    histograms: the values of each row. correlations: `(m, m)`, of every two rows; NaN for none.
    """
    headings, *rows = [row[:-1] for row in table]
    names = [row[0] for row in rows]
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        "<table>",
        _row([html.escape(cell) for cell in headings] + ["distribution"], "th"),
        *(
            _row([html.escape(cell) for cell in row] + [histogram_svg(values)], "td")
            for row, values in zip(rows, histograms, strict=True)
        ),
        "</table>",
        "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in remarks) + "</ul>",
        "<h2>Rank correlations (Spearman)</h2><table>",
        _row(["", *(str(k) for k in range(1, len(names) + 1))], "th"),
    ]
    for k, name in enumerate(names):
        parts.append(f"<tr><td>{k + 1}. {html.escape(name)}</td>")
        parts += [_cell(float(value)) for value in correlations[k]]
        parts.append("</tr>")
    parts.append("</table>")
    for heading, molecules in (("Best", best), ("Worst", worst)):
        parts.append(f"<h2>{heading}</h2>")
        parts += [_figure(molecule) for molecule in molecules]
    page = "\n".join(parts)
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    write_file(path, f"<!doctype html><html><head>{head}</head><body>\n{page}\n</body></html>\n")
    return Path(path)


def _row(cells: Sequence[str], kind: str) -> str:
    return "<tr>" + "".join(f"<{kind}>{cell}</{kind}>" for cell in cells) + "</tr>"


def _cell(value: float) -> str:
    """A correlation on a ground that is blue for together and orange for against each other."""
    if math.isnan(value):
        return "<td></td>"
    colour = "0,114,178" if value > 0 else "213,94,0"
    return f'<td style="background:rgba({colour},{abs(value) * 0.6:.2f})">{value:.2f}</td>'


def _figure(shown: Shown) -> str:
    caption = f"<b>{html.escape(shown.value)}</b><br>{html.escape(shown.name)}"
    return f"<figure>{svg_of(shown.mol)}<figcaption>{caption}</figcaption></figure>"
