"""Figures of the analytic benchmark: what was asked for, in lines, over what the flow generates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from molflowctl.io.atomic import replacing_file
from molflowctl.tasks.evaluation.analytic.judging import GRIDS

__all__ = ["draw_figures", "slug"]

# Okabe and Ito's colours, told apart with any kind of colour vision.
PRIOR, REACHED, OPTIMUM = "#888888", "#0072B2", "#D55E00"
SHADES = ("#c6dbef", "#6baed6", "#2171b5")  # 90, 60 and 30 per cent of the mass
FIGURES = {
    "operators.png": (
        "intersection",
        "intersection, reward",
        "contrast",
        "union, gate",
        "union 1:3, gate",
        "union, reward",
        "(a & b) | (c & d)",
        "interpolation",
        "interpolation, reward",
    ),
    "control.png": (
        "mean",
        "CVaR 0.3",
        "super-quantile 0.7",
        "mean + entropy",
        "log det",
        "log barrier",
        "KL",
        "W1 + KL",
        "Renyi 2",
    ),
}


def draw_figures(densities: Path, out: Path) -> list[Path]:
    """Write the figures of which every panel is there; their paths.

    Arguments:
        densities: folder of `.npz` files by problem: `base`, `reached`, `optimum`, `dimension`.
    """
    written = []
    for name, problems in FIGURES.items():
        files = [densities / f"{slug(problem)}.npz" for problem in problems]
        if all(file.exists() for file in files):
            written.append(_draw(problems, files, out / name))
    return written


def slug(problem: str) -> str:
    """A file's name for a problem's."""
    return "".join(c if c.isalnum() else "-" for c in problem).strip("-")


def _draw(problems: tuple[str, ...], files: list[Path], path: Path) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    columns = 3
    lines = -(-len(files) // columns)
    figure = Figure(figsize=(3.4 * columns, 3.2 * lines + 0.4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    for axis, problem, file in zip(
        figure.subplots(lines, columns).ravel(), problems, files, strict=True
    ):
        with np.load(file) as stored:
            arrays = {key: stored[key] for key in stored.files}
        (_line if int(arrays["dimension"]) == 1 else _plane)(axis, arrays)
        axis.set_title(problem, fontsize=10)
        axis.set_yticks([])
        axis.set_xticks([])
    handles = [
        Line2D([], [], color=PRIOR, label="prior"),
        Line2D([], [], color=OPTIMUM, label="exact optimum", linestyle="--"),
        Line2D([], [], color=REACHED, label="reached by the flow"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    with replacing_file(path) as temporary:
        figure.savefig(temporary, format="png")
    return path


def _line(axis: Any, arrays: dict[str, np.ndarray]) -> None:
    grid = GRIDS[1]
    x = grid.x[:, 0].numpy()
    axis.fill_between(x, arrays["base"] / grid.spacing, color=PRIOR, alpha=0.35, linewidth=0)
    axis.plot(x, arrays["reached"] / grid.spacing, color=REACHED)
    axis.plot(x, arrays["optimum"] / grid.spacing, color=OPTIMUM, linestyle="--")
    axis.set_xlim(-4.5, 5)
    axis.set_ylim(0)


def _plane(axis: Any, arrays: dict[str, np.ndarray]) -> None:
    grid = GRIDS[2]
    side = np.unique(grid.x[:, 0].numpy())
    fields = {
        name: arrays[name].reshape(grid.side, grid.side).T
        for name in ("base", "reached", "optimum")
    }
    axis.contour(side, side, fields["base"], _levels(fields["base"]), colors=PRIOR, linewidths=0.7)
    levels = [*_levels(fields["optimum"]), 1.0]
    axis.contourf(side, side, fields["reached"], levels, colors=SHADES)
    axis.contour(
        side,
        side,
        fields["optimum"],
        _levels(fields["optimum"]),
        colors=OPTIMUM,
        linewidths=1,
        linestyles="--",
    )
    axis.set_xlim(-4, 4)
    axis.set_ylim(-4, 4)
    axis.set_aspect("equal")


def _levels(field: np.ndarray) -> list[float]:
    """Heights whose regions hold 90, 60 and 30 per cent of the mass."""
    ordered = np.sort(field.ravel())[::-1]
    held = np.cumsum(ordered) / ordered.sum()
    return [float(ordered[np.searchsorted(held, share)]) for share in (0.9, 0.6, 0.3)]
