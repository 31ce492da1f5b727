"""Charts put values where they belong."""

import math
import re

import numpy as np
import pytest

from molflowctl.viz.charts import Level, Line, Sample, course, distributions


def circles(svg):
    """Places of points, `(x, y)`."""
    return [tuple(map(float, p)) for p in re.findall(r'<circle cx="([-\d.]+)" cy="([-\d.]+)"', svg)]


def area(path):
    """Of an outline that ends on its own baseline."""
    points = np.array(re.findall(r"[ML]([-\d.]+) ([-\d.]+)", path), float)
    x, y = points.T
    return 0.5 * abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)))


def test_a_course_is_to_scale_and_has_gaps():
    values = [1.0, 2.0, math.nan, 5.0]
    svg = course(range(4), [Line("r", values, [0.1] * 4)], [Level("target", 6.0, 0.5)])
    places = circles(svg)
    assert len(places) == 3
    (x0, y0), (x1, y1), (x3, y3) = places
    assert (y0 - y3) / (y0 - y1) == pytest.approx(4.0, abs=0.05)  # upwards, one to four
    assert (x3 - x0) / (x1 - x0) == pytest.approx(3.0, abs=0.02)
    (dashed,) = re.findall(r'<path d="M[-\d.]+ ([-\d.]+)H[^>]*stroke-dasharray', svg)
    assert (y0 - float(dashed)) / (y0 - y1) == pytest.approx(5.0, abs=0.05)
    bars = re.findall(r"M[-\d.]+ ([-\d.]+)V([-\d.]+)", svg)
    assert (float(bars[0][0]) - float(bars[0][1])) / (y0 - y1) == pytest.approx(0.392, abs=0.02)


def test_nothing_known_is_no_chart():
    assert course(range(2), [Line("r", [math.nan, math.nan])]) == ""
    assert distributions({"a": Sample(np.array([math.nan]))}) == ""


def test_histograms_are_of_equal_area_and_weights_move_them():
    rng = np.random.default_rng(0)
    values = rng.uniform(size=4000)
    samples = {
        "a": Sample(values), "b": Sample(values[:500]), "c": Sample(values, 1.0 * (values > 0.5)),
    }  # fmt: skip
    svg = distributions(samples)
    outlines = re.findall(r'<path d="([^"]+)" fill="var\(--series', svg)
    areas = [area(path) for path in outlines]
    assert areas == pytest.approx([areas[0]] * 3, rel=0.01)
    tops = [min(float(y) for y in re.findall(r"[ML][-\d.]+ ([-\d.]+)", path)) for path in outlines]
    floor = max(float(y) for y in re.findall(r"[ML][-\d.]+ ([-\d.]+)", outlines[0]))
    # Half the range with all the weight is twice as high.
    assert (floor - tops[2]) / (floor - tops[0]) == pytest.approx(2, rel=0.25)
