"""Charts of the HTML pages, SVG in the page's own colours: distributions, and courses of a run."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from molflowctl.viz.pictures import bin_edges

__all__ = ["Level", "Line", "Sample", "course", "distributions", "key"]

Values = NDArray[np.float64]
_WIDTH, _HEIGHT = 480, 250  # the page scales them to its columns
_LEFT, _RIGHT, _ABOVE, _BELOW = 58, 12, 10, 38
_NORMAL_95 = 1.96
_COLOURS = 6  # `--series-1` and so on, of the page


@dataclass(frozen=True)
class Line:
    """A figure before every step, `values` (n,), with its standard errors (n,); NaN is a gap."""

    name: str
    values: Sequence[float]
    errors: Sequence[float] = field(default_factory=list)


@dataclass(frozen=True)
class Level:
    """A value that is the same all along, such as a target, with its standard error."""

    name: str
    value: float
    error: float = math.nan


@dataclass(frozen=True)
class Sample:
    """Values (n,), NaN for failed, and the weights of them; None where all count the same."""

    values: Values
    weights: Values | None = None


def key(names: Sequence[str], dashed: Sequence[str] = ()) -> str:
    """What the colours mean; those of levels come after the lines'."""
    return "".join(
        f'<span class="key" style="background:{_colour(k)}"></span>{html.escape(name)}'
        for k, name in enumerate([*names, *dashed])
    )


def course(steps: Sequence[int], lines: Sequence[Line], levels: Sequence[Level] = ()) -> str:
    """Lines over the mirror steps with 95 % intervals, `value +- 1.96 error`, and levels dashed."""
    drawn = [np.asarray(line.values, np.float64) for line in lines]
    reaches = [
        _NORMAL_95 * np.nan_to_num(np.asarray(line.errors or np.zeros(len(y)), np.float64))
        for line, y in zip(lines, drawn, strict=True)
    ]
    known = [level for level in levels if math.isfinite(level.value)]
    bands = [_NORMAL_95 * float(np.nan_to_num(level.error)) for level in known]
    ends = [y + sign * r for y, r in zip(drawn, reaches, strict=True) for sign in (-1, 1)]
    ends += [
        np.array([level.value - band, level.value + band])
        for level, band in zip(known, bands, strict=True)
    ]
    every = np.concatenate(ends) if ends else np.empty(0)
    every = every[np.isfinite(every)]
    if not len(every):
        return ""
    low, high = _room(float(every.min()), float(every.max()))
    frame = _Frame(-0.1, max(len(steps) - 1, 1) + 0.1, low, high)
    parts = [frame.axes(_ticks(low, high), "mirror steps done")]
    parts += [
        f'<text x="{frame.x(k):.1f}" y="{_HEIGHT - 22}" text-anchor="middle" font-size="12">'
        f"{step}</text>"
        for k, step in enumerate(steps)
        if len(steps) <= 12 or k % math.ceil(len(steps) / 12) == 0
    ]
    for k, (level, band) in enumerate(zip(known, bands, strict=True), len(lines)):
        top, floor = frame.y(level.value + band), frame.y(level.value - band)
        parts.append(
            f'<rect x="{_LEFT}" y="{top:.1f}" width="{_WIDTH - _LEFT - _RIGHT}" '
            f'height="{floor - top:.1f}" fill="{_colour(k)}" fill-opacity="0.15"/>'
            f'<path d="M{_LEFT} {frame.y(level.value):.1f}H{_WIDTH - _RIGHT}" fill="none" '
            f'stroke="{_colour(k)}" stroke-dasharray="5 4"/>'
        )
    for k, (y, reach) in enumerate(zip(drawn, reaches, strict=True)):
        parts.append(_line(frame, y, reach, _colour(k)))
    return _svg(parts)


def distributions(samples: Mapping[str, Sample], small: bool = False) -> str:
    """Histograms of equal area over one another; far outliers share the outermost bins.

    small: a strip without axes, for a table.
    """
    found = {name: _finite(sample) for name, sample in samples.items()}
    found = {name: known for name, known in found.items() if len(known[0]) and known[1].sum() > 0}
    if not found:
        return ""
    edges = bin_edges(
        np.concatenate([values for values, _ in found.values()]),
        min(len(values) for values, _ in found.values()),
    )
    heights = {
        place: np.histogram(
            np.clip(values, edges[0], edges[-1]), edges, weights=weights, density=True
        )[0]
        for place, name in enumerate(samples)
        if name in found
        for values, weights in [found[name]]
    }
    top = max(float(h.max()) for h in heights.values()) or 1.0
    frame = _Frame(float(edges[0]), float(edges[-1]), 0.0, 1.05 * top, small)
    parts = [] if small else [frame.axes([], "")]
    if not small:
        parts += [
            f'<text x="{frame.x(tick):.1f}" y="{_HEIGHT - 18}" text-anchor="middle" '
            f'font-size="12">{tick:.6g}</text>'
            for tick in _ticks(float(edges[0]), float(edges[-1]))
        ]
    for place, height in heights.items():
        outline = "".join(
            f"L{frame.x(float(a)):.1f} {frame.y(float(h)):.1f}"
            f"L{frame.x(float(b)):.1f} {frame.y(float(h)):.1f}"
            for a, b, h in zip(edges[:-1], edges[1:], height, strict=True)
        )
        begin = f"M{frame.x(float(edges[0])):.1f} {frame.y(0):.1f}"
        end = f"L{frame.x(float(edges[-1])):.1f} {frame.y(0):.1f}"
        colour = _colour(place)
        parts.append(
            f'<path d="{begin}{outline}{end}" fill="{colour}" fill-opacity="0.16" '
            f'stroke="{colour}" stroke-width="1.6"/>'
        )
    return _svg(parts, small)


@dataclass(frozen=True)
class _Frame:
    """From values to places in the picture."""

    left: float
    right: float
    low: float
    high: float
    small: bool = False

    def x(self, value: float) -> float:
        begin, end = (1.0, 159.0) if self.small else (_LEFT, _WIDTH - _RIGHT)
        return begin + (value - self.left) / (self.right - self.left) * (end - begin)

    def y(self, value: float) -> float:
        top, floor = (2.0, 39.0) if self.small else (_ABOVE, _HEIGHT - _BELOW)
        return floor - (value - self.low) / (self.high - self.low) * (floor - top)

    def axes(self, ticks: Sequence[float], below: str) -> str:
        """The axes, the ticks of the upright one, and what the other shows."""
        floor, right = _HEIGHT - _BELOW, _WIDTH - _RIGHT
        parts = [
            f'<path d="M{_LEFT} {self.y(tick):.1f}H{right}" stroke="var(--line)"/>'
            f'<text x="{_LEFT - 6}" y="{self.y(tick) + 4:.1f}" text-anchor="end" font-size="12">'
            f"{tick:.6g}</text>"
            for tick in ticks
        ]
        parts.append(f'<path d="M{_LEFT} {floor}H{right}" stroke="var(--soft)"/>')
        parts.append(
            f'<text x="{(_LEFT + right) / 2:.0f}" y="{_HEIGHT - 4}" text-anchor="middle" '
            f'font-size="12">{html.escape(below)}</text>'
        )
        return "".join(parts)


def _line(frame: _Frame, y: Values, reach: Values, colour: str) -> str:
    """Points with bars for their intervals, joined where neighbours are known."""
    parts, pen = [], "M"
    path = ""
    for k, (value, r) in enumerate(zip(y.tolist(), reach.tolist(), strict=True)):
        if not math.isfinite(value):
            pen = "M"
            continue
        x, place = frame.x(k), frame.y(value)
        path += f"{pen}{x:.1f} {place:.1f}"
        pen = "L"
        parts.append(f'<circle cx="{x:.1f}" cy="{place:.1f}" r="3.5" fill="{colour}"/>')
        if r > 0:
            parts.append(
                f'<path d="M{x:.1f} {frame.y(value - r):.1f}V{frame.y(value + r):.1f}" '
                f'stroke="{colour}" stroke-width="2"/>'
            )
    return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>' + "".join(parts)


def _svg(parts: Sequence[str], small: bool = False) -> str:
    if small:
        size = 'width="160" height="42" viewBox="0 0 160 42"'
    else:
        size = f'class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{"".join(parts)}</svg>'


def _colour(place: int) -> str:
    return f"var(--series-{place % _COLOURS + 1})"


def _finite(sample: Sample) -> tuple[Values, Values]:
    """Values that are there, and their weights."""
    values = np.asarray(sample.values, np.float64)
    there = np.isfinite(values)
    weights = np.ones(len(values)) if sample.weights is None else np.asarray(sample.weights)
    return values[there], weights[there]


def _room(low: float, high: float) -> tuple[float, float]:
    """Bounds with a twentieth of room; of a single value, some of its size."""
    span = high - low or abs(high) * 0.1 or 1.0
    return low - 0.06 * span, high + 0.06 * span


def _ticks(low: float, high: float) -> list[float]:
    """Four to nine round numbers between two bounds: steps of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [round(k * step, 12) for k in range(first, last + 1)]
