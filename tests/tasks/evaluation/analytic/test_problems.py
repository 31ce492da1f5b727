"""The analytic problems judge right: the optimum has no gap, the prior has all of it."""

import json
import math

import numpy as np
import pytest
import torch

from molflowctl.errors import UserError
from molflowctl.tasks.evaluation.analytic import benchmark as analytic_benchmark
from molflowctl.tasks.evaluation.analytic import risks
from molflowctl.tasks.evaluation.analytic.benchmark import AnalyticConfig, benchmark_analytic, slug
from molflowctl.tasks.evaluation.analytic.figure import FIGURES
from molflowctl.tasks.evaluation.analytic.judging import GRIDS, judge
from molflowctl.tasks.evaluation.analytic.problems import LINE, PLANE, A, B, problems

NAMED = {problem.name: problem for problem in problems()}


@pytest.mark.parametrize(("dimension", "flow"), [(1, LINE), (2, PLANE), (2, A)])
def test_grids_hold_the_mixtures(dimension, flow):
    grid = GRIDS[dimension]
    density = flow.log_density(grid.x).double().exp()
    assert float(density.sum()) * grid.spacing**dimension == pytest.approx(1, abs=1e-3)
    sample = grid.sample(density.log())
    assert float(sample.shares.sum()) == pytest.approx(1)
    assert sample.density.table == pytest.approx(density.log(), abs=2e-3)


def test_every_name_and_file_is_one_problem():
    names = [problem.name for problem in problems()]
    assert len({slug(name) for name in names}) == len(names) == len(NAMED)
    assert {name for panel in FIGURES.values() for name in panel} <= set(names)


def test_the_optimum_of_an_intersection_is_the_product():
    problem = NAMED["intersection"]
    x = problem.grid.x
    product = problem.grid.table(0.5 * (A.log_density(x) + B.log_density(x)))
    inside = product.table > product.table.max() - 15
    torch.testing.assert_close(
        problem.optimum.density.table[inside], product.table[inside], rtol=0, atol=1e-3
    )


def test_the_optimum_of_a_mean_is_the_exponential_tilt():
    problem = NAMED["mean"]
    x = problem.grid.x
    tilt = problem.grid.table(PLANE.log_density(x) + (x[:, 0] - 0.3 * x[:, 1] ** 2) / 0.8)
    inside = tilt.table > tilt.table.max() - 15
    torch.testing.assert_close(
        problem.optimum.density.table[inside], tilt.table[inside], rtol=0, atol=1e-3
    )


@pytest.mark.parametrize(
    "name", ["mean", "log barrier", "KL", "forward KL", "contrast", "union, gate"]
)
def test_the_optimum_is_better_than_densities_around_it(name):
    problem = NAMED[name]
    best, base = problem.optimum, problem.base
    top = problem.objective.value(best)
    assert top > problem.objective.value(base)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        wave = torch.randn(2, problem.prior.dimension, generator=generator)
        bump = 0.2 * (problem.grid.x @ wave[0] + wave[1, 0]).sin()
        near = problem.grid.sample(best.density.table + bump)
        assert problem.objective.value(near) < top


def test_a_flow_that_is_not_steered_has_all_of_the_gap():
    judged, _ = judge(NAMED["KL"], LINE)
    assert judged.gap == pytest.approx(1, abs=1e-3)
    assert judged.mass == pytest.approx(1, abs=1e-3)
    assert judged.kl > 0.1


ROW = {
    "problem": "KL",
    "group": "divergence",
    "base": -0.1,
    "reached": 0.5,
    "optimum": 0.53,
    "relative_gap": 0.05,
    "kl_to_optimum": 0.01,
    "mass_on_grid": 1.0,
    "seconds": 2.0,
    "reward_calls": 1000,
}


def test_an_interrupted_benchmark_goes_on(tmp_path, monkeypatch):
    """Rows that are kept are not computed again; those of another seed are refused."""
    (tmp_path / "rows.json").write_text(json.dumps({"seed": 0, "rows": {"problem/KL": ROW}}))

    class Refusing:
        def __init__(self, jobs):
            self.jobs = jobs

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def map(self, function, items, chunk):
            assert not list(items)
            return iter(())

    monkeypatch.setattr(analytic_benchmark, "WorkerPool", Refusing)
    config = AnalyticConfig(only=["KL"], jobs=1)
    monkeypatch.setattr(
        analytic_benchmark, "problems", lambda: [p for p in problems() if p.name == "KL"]
    )
    tables = benchmark_analytic(config, tmp_path, quiet=True)
    assert [row["problem"] for row in tables["problems"]] == ["KL"]
    assert (
        "| KL | -0.1000 | 0.5000 | 0.5300 | 5.0 % | 0.0100 | 2 | 1,000 |"
        in (tmp_path / "table.md").read_text()
    )
    assert (tmp_path / "problems.csv").read_text().count("\n") == 2
    with pytest.raises(UserError, match="seed 0"):
        benchmark_analytic(AnalyticConfig(only=["KL"], seed=1), tmp_path, quiet=True)


def test_unknown_problems_are_named(tmp_path):
    with pytest.raises(UserError, match=r"no problem is named like onion; there are: mean"):
        benchmark_analytic(AnalyticConfig(only=["onion"]), tmp_path, quiet=True)


def test_tails_are_means_of_the_worst_and_the_best():
    values = np.random.default_rng(0).permutation(np.arange(1000.0))
    low, high = risks._lower_tail(values), risks._upper_tail(values)
    assert (low, high) == (pytest.approx(149.5), pytest.approx(849.5))
    found = risks._interval(values, risks._lower_tail)
    assert found["low"] < found["value"] == low < found["high"]
    assert not math.isnan(found["low"])
