"""The parts of a merge, each by itself: where it starts, what it maximises, what it tells."""

import math
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from molflowctl.compute.parallel import WorkerPool
from molflowctl.control.objectives.density import Tilted, as_density
from molflowctl.control.objectives.reward import Reward
from molflowctl.control.operators import Contrast, Interpolation, Intersection, Union, parse
from molflowctl.flows.mixture import MixtureFlow
from molflowctl.flows.state import Ragged
from molflowctl.properties.rewards import parse_reward
from molflowctl.tasks.steering.circuit import heaviest
from molflowctl.tasks.steering.merge import _Asked, _Goal, _goal, _Lines, _Parts
from molflowctl.tasks.steering.population import PopulationSampler
from molflowctl.tasks.steering.reporting.time_left import TimeLeft
from molflowctl.tasks.steering.run_folder import Table
from molflowctl.tasks.steering.scored_molecules import ScoredMolecules
from molflowctl.tasks.steering.settings import MergeConfig

A, B, C = (MixtureFlow([1.0], [[m]], [1.0]) for m in (0.0, 2.0, 4.0))
NAMES = {"a": A, "b": B, "c": C}
SMILES = ["C", "", "CC", "CCO"] * 12
VALUES = np.where(np.array([bool(s) for s in SMILES]), np.arange(48.0), math.nan)


@pytest.fixture
def assay():
    with WorkerPool(1) as pool:
        yield PopulationSampler(parse_reward("logp"), pool)


def parts_of(assay: PopulationSampler, names: str = "ab") -> _Parts:
    """Molecules of each part, every fourth of which is invalid."""
    drawn = []
    for name in names:
        none = np.empty((len(SMILES), 0))
        sample = ScoredMolecules([None] * len(SMILES), SMILES, VALUES, none)
        states = Ragged([torch.randn(len(SMILES), 1)])
        drawn.append((NAMES[name], sample, assay._population(states, SMILES, VALUES, none)))
    samples = {name: sample for name, (_, sample, _) in zip(names, drawn, strict=True)}
    return _Parts(samples, names[0], drawn)


def asked_of(circuit: str, reward: str | None = "logp") -> _Asked:
    oracle = None if reward is None else parse_reward(reward)
    operator = parse(circuit, NAMES)
    return _Asked(oracle, NAMES, operator, solver=None, summed=None)


@pytest.mark.parametrize(
    ("operator", "name"),
    [
        (A & B, "a"),
        (Intersection(A, B, weights=[1, 2]), "b"),
        (Union(A & B, C, weights=[1, 3]), "c"),
        (Union(C, Intersection(A, B, weights=[1, 4]), weights=[1, 3]), "b"),
        (Interpolation(A, B, weights=[1, 2]), "a"),
        (Contrast(C, A), "c"),
    ],
)
def test_a_walk_starts_from_the_heaviest_flow(operator, name: str) -> None:
    assert heaviest(operator, NAMES) == name


def test_the_goal_is_in_standard_deviations_of_the_heaviest_part(assay) -> None:
    config = MergeConfig(
        circuit="a & b", out="x", reward="logp", reward_weight=2.0, invalid_penalty=3.0,
        failed_reward=-5.0,
    )  # fmt: skip
    asked, parts = asked_of("a & b"), parts_of(assay)
    goal = _goal(config, asked, parts, assay)
    found = VALUES[np.isfinite(VALUES)]
    r = np.nan_to_num((VALUES - found.mean()) / found.std(), nan=-5.0)
    x = parts.population(A)
    assert goal.aim.value(x) == pytest.approx(r.mean(), abs=1e-5)
    # One in four is invalid, at three nats each.
    assert goal.wanted.value(x) == pytest.approx(2 * r.mean() - 3 * 0.25, abs=1e-5)
    told = goal.told(config, asked)
    assert told["r"] == f"(logp - {found.mean():.6g}) / {found.std():.6g}"
    assert told["merge"] == "mixture & mixture"
    down = _goal(config.model_copy(update={"minimise": True}), asked, parts, assay)
    worse = np.nan_to_num(-(VALUES - found.mean()) / found.std(), nan=-5.0)
    assert down.aim.value(x) == pytest.approx(worse.mean(), abs=1e-5)


@pytest.mark.parametrize(("circuit", "penalised"), [("a & b", True), ("a | b", False)])
def test_without_a_reward_validity_is_of_those_that_learn_from_samples(
    assay, circuit: str, penalised: bool
) -> None:
    config = MergeConfig(circuit=circuit, out="x", invalid_penalty=3.0)
    goal = _goal(config, asked_of(circuit, None), parts_of(assay), assay)
    assert goal.aim is None
    assert (goal.wanted is not None) == penalised


def test_the_table_draws_no_part_again_and_tells_of_the_draw_before_each_step(
    assay, tmp_path
) -> None:
    rows: list = []
    parts = parts_of(assay)
    aim = Reward(lambda x: torch.ones(len(x)))
    table, goal = Table(tmp_path / "merge.csv", rows.append), _Goal(None, None, None)
    written: list = []
    page = SimpleNamespace(write=lambda *told: written.append(told))
    left = TimeLeft(MergeConfig(circuit="a & b", out="x"), 3, lambda *_: None, lambda _: None)
    lines = _Lines(table, parts, goal, assay, time.monotonic(), left, page)
    with pytest.raises(AssertionError):  # which is no flow of molecules
        lines.draw(A, 10, 0, 5)
    assert parts.of(C) is None
    x = parts.population(A)
    assert x is parts.drawn[0][2]
    lines.watch(0, x.weighted(None, Tilted(as_density(A), 0.0 * aim, 0.0)))
    (row,) = rows
    assert (row.step, row.kl, row.valid, row.unique) == (0, 0.0, 0.75, 3 / 36)
    assert row.mean == pytest.approx(np.nanmean(VALUES))
    assert row.unscored == 0
    assert math.isnan(row.utility)
    assert [told[0] for told in written] == [[row]]
