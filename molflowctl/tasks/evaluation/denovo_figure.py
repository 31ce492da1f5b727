"""The figure of the de-novo benchmark: rates with intervals, distributions against the test
split."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from molflowctl.io.atomic import replacing_file
from molflowctl.tasks.evaluation.bootstrap import Estimate

__all__ = ["draw_figure"]

# Okabe and Ito's colours, told apart with any kind of colour vision.
SAMPLE, TEST = "#0072B2", "#888888"
RATES = {
    "atom_stability": "stable atoms",
    "molecule_stability": "stable molecules",
    "valid": "valid",
    "unique": "unique",
    "novel": "novel",
    "all_but_energy": "PoseBusters\nwithout energy",
    "all": "PoseBusters",
}
PANELS = (
    ("descriptors", "qed", "QED"),
    ("descriptors", "logp", "logP"),
    ("descriptors", "sa_score", "SA score"),
    ("descriptors", "mw", "molecular weight, g/mol"),
    ("descriptors", "tpsa", "TPSA, square angstrom"),
    ("descriptors", "rotatable_bonds", "rotatable bonds"),
    ("descriptors", "rings", "rings"),
    ("bonds", "C-C", "C-C, angstrom"),
    ("bonds", "C=O", "C=O, angstrom"),
    ("angles", "C", "angles at C, degrees"),
    ("angles", "N", "angles at N, degrees"),
)
COUNTS = ("rotatable_bonds", "rings")


def draw_figure(
    rates: Mapping[str, Estimate],
    posebusters: Mapping[str, Estimate],
    values: Mapping[str, Mapping[str, np.ndarray]],
    reference: Mapping[str, Mapping[str, np.ndarray]],
    path: Path,
) -> None:
    """Write the figure; panels of which the sample has no values stay out.

    values, reference: by part (`descriptors`, `bonds`, `angles`) and name, values or quantiles.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [p for p in PANELS if len(values.get(p[0], {}).get(p[1], ())) > 1]
    shown = [p for p in shown if p[1] in reference[p[0]]]
    columns = 4
    lines = -(-(len(shown) + 1) // columns)
    figure = Figure(figsize=(13, 3 * lines), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = np.atleast_1d(figure.subplots(lines, columns)).ravel()
    _rates(axes[0], {**rates, **posebusters})
    for axis, (part, name, label) in zip(axes[1:], shown, strict=False):
        _distribution(axis, values[part][name], reference[part][name], name in COUNTS)
        axis.set_xlabel(label)
    for axis in axes[1 + len(shown) :]:
        axis.set_axis_off()
    if shown:
        axes[1].legend(frameon=False, fontsize=8)
    with replacing_file(path) as temporary:
        figure.savefig(temporary, format="png")


def _rates(axis: Any, rates: Mapping[str, Estimate]) -> None:
    names = [name for name in RATES if name in rates and np.isfinite(rates[name].value)]
    share = np.array([100 * rates[name].value for name in names])
    low = np.array([100 * rates[name].low for name in names])
    high = np.array([100 * rates[name].high for name in names])
    places = np.arange(len(names))
    # A percentile interval may miss the estimate itself by a hair.
    reach = np.clip([share - low, high - share], 0, None)
    axis.barh(places, share, xerr=reach, color=SAMPLE, alpha=0.6, capsize=3)
    for place, value in zip(places, share, strict=True):
        axis.text(2, place, f"{value:.1f}", va="center", fontsize=8)
    axis.set_yticks(places, [RATES[name] for name in names])
    axis.invert_yaxis()
    axis.set_xlim(0, 104)
    axis.set_xlabel("per cent, 95 % intervals")


def _distribution(axis: Any, sample: np.ndarray, test: np.ndarray, counts: bool) -> None:
    both = np.concatenate([sample, test])
    if counts:
        edges = np.arange(both.min(), both.max() + 2) - 0.5
    else:  # outliers share the outermost bins
        edges = np.linspace(np.quantile(both, 0.002), np.quantile(both, 0.998), 41)
        if edges[0] == edges[-1]:
            edges = edges[0] + np.array([-0.5, 0.5])
    for data, colour, label in ((test, TEST, "test split"), (sample, SAMPLE, "sample")):
        heights, _ = np.histogram(np.clip(data, edges[0], edges[-1]), edges, density=True)
        filled = colour == TEST
        axis.stairs(
            heights, edges, fill=filled, color=colour, alpha=0.5 if filled else 1, label=label
        )
    axis.set_yticks([])
