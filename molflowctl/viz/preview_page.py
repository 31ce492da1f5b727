"""The page of a reward: its parts, how they are distributed and go together, best and worst."""

from __future__ import annotations

import html
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from molflowctl.io.atomic import write_file
from molflowctl.viz.page import Shown, cell_row, framed, molecule_row

__all__ = ["histogram_svg", "write_preview"]

_WIDTH, _HEIGHT = 160, 44  # of a histogram, pixels
_BINS = 24


def histogram_svg(values: NDArray[np.float64]) -> str:
    """Bars of the values (n,) from the smallest to the largest, with both written below."""
    if not len(values):
        return ""
    counts, edges = np.histogram(values, _BINS)
    wide, high = _WIDTH / _BINS, _HEIGHT - 14
    bars = "".join(
        f'<rect x="{k * wide:.1f}" y="{high - c / counts.max() * high:.1f}" '
        f'width="{wide - 1:.1f}" height="{c / counts.max() * high:.1f}" fill="var(--series-1)"/>'
        for k, c in enumerate(counts)
        if c
    )
    text = f'y="{_HEIGHT - 2}" font-size="10"'
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
        '<div class="wide"><table>',
        cell_row([html.escape(cell) for cell in headings] + ["distribution"], "th"),
        *(
            cell_row([html.escape(cell) for cell in row] + [histogram_svg(values)])
            for row, values in zip(rows, histograms, strict=True)
        ),
        "</table></div>",
        "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in remarks) + "</ul>",
        '<h2>Rank correlations (Spearman)</h2><div class="wide"><table>',
        cell_row(["", *(str(k) for k in range(1, len(names) + 1))], "th"),
    ]
    for k, name in enumerate(names):
        parts.append(f"<tr><td>{k + 1}. {html.escape(name)}</td>")
        parts += [_cell(float(value)) for value in correlations[k]]
        parts.append("</tr>")
    parts.append("</table></div>")
    for heading, molecules in (("Best", best), ("Worst", worst)):
        parts += [f"<h2>{heading}</h2>", molecule_row(molecules)]
    write_file(path, framed(title, parts))
    return Path(path)


def _cell(value: float) -> str:
    """A correlation on a ground that is blue for together and orange for against each other."""
    if math.isnan(value):
        return "<td></td>"
    colour = "0,114,178" if value > 0 else "213,94,0"
    return f'<td style="background:rgba({colour},{abs(value) * 0.6:.2f})">{value:.2f}</td>'
