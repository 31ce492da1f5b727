"""Time left of a steering, on a clock of its own."""

import math
from types import SimpleNamespace

import pytest

from molflowctl.tasks import oracle_calls
from molflowctl.tasks.steering.reporting import time_left
from molflowctl.tasks.steering.reporting.time_left import TimeLeft

CONFIG = SimpleNamespace(
    base_samples=400, n_samples=100, test_samples=200, nfe=50, mirror_nfe=25, train_steps=10,
    batch=32, jobs=2,
)  # fmt: skip
STEPS, LEARNING, ORACLE, DRAW = 5, 70.0, 0.4, 0.3  # seconds, of a step and of a molecule


class Run:
    """A run on a clock that its own work moves."""

    def __init__(self, monkeypatch, steps=STEPS):
        self.time, self.said = 0.0, []
        monkeypatch.setattr(oracle_calls.time, "monotonic", lambda: self.time)
        self.left = TimeLeft(
            CONFIG, steps, lambda *_: None, self.said.append, now=lambda: self.time
        )

    def sample(self, n, nfe):
        """Draws in batches of 20, and asks the oracle one by one."""
        clock = self.left.clock
        clock("x: draw", 0, n)
        for done in range(1, n + 1):
            if done % 20 == 1:
                self.time += 20 * DRAW * nfe / 50
            clock("x: draw", done, n)
        for done in range(1, n + 1):
            self.time += ORACLE
            clock("x: oracle", done, n)


def test_after_a_step_the_rest_is_told_to_the_second(monkeypatch):
    run = Run(monkeypatch)
    run.sample(400, 50)
    told = {0: run.left.before_step(0)}
    for step in range(1, STEPS):
        run.time += LEARNING
        run.sample(100, 25)
        told[step] = run.left.before_step(step), run.time
    run.time += LEARNING
    run.sample(200, 50)
    for step in range(1, STEPS):
        minutes, when = told[step]
        assert 60 * minutes == pytest.approx(run.time - when)


def test_the_first_guess_counts_draws_oracle_and_learning(monkeypatch):
    run = Run(monkeypatch)
    assert math.isnan(run.left.before_step(0))  # all was taken from an earlier run
    assert run.left.told_before(math.nan) == ""
    run.sample(400, 50)
    rounds = (STEPS - 1) * 100 * (DRAW / 2 + ORACLE)
    learning = STEPS * 10 * 32 * time_left._LEARNING * DRAW * 2 / 50
    expected = rounds + learning + 200 * (DRAW + ORACLE)
    assert 60 * run.left.before_step(0) == pytest.approx(expected)
    line = run.left.told_before(expected / 60)
    assert line.startswith("about 7 minutes to go: 5 mirror steps of 100 molecules, 200 at the")


def test_the_speed_of_drawing_is_told_soon_and_once(monkeypatch):
    run = Run(monkeypatch)
    run.sample(400, 50)
    run.sample(100, 50)
    # 400 + 4 x 100 at half the evaluations + 200 at 0.3 s each
    assert run.said == [
        "drawing takes 0.3 s a molecule: about 4 minutes for all draws of this run, beside the "
        "oracle and the learning"
    ]


def test_the_first_molecules_do_not_tell_the_speed(monkeypatch):
    """They come when those of all sizes are drawn: the first late, the others at once."""
    run = Run(monkeypatch)
    clock = run.left.clock
    clock("x: draw", 0, 400)
    run.time += 60
    clock("x: draw", 1, 400)
    run.time += 50
    clock("x: draw", 2, 400)
    assert not run.said
    run.time += 10
    for done in range(3, 401):
        clock("x: draw", done, 400)
    assert run.said[0].startswith("drawing takes 0.6 s a molecule")


def test_two_small_samples_are_not_one(monkeypatch):
    run = Run(monkeypatch)
    run.sample(20, 50)
    run.time += 100
    run.sample(20, 50)
    assert run.said == []


def test_without_mirror_steps_there_is_nothing_to_tell(monkeypatch):
    run = Run(monkeypatch, steps=0)
    run.sample(400, 50)
    assert math.isnan(run.left.before_step(0))


@pytest.mark.parametrize(
    ("seconds", "words"), [(12.4, "12 seconds"), (300, "5 minutes"), (7500, "2.1 hours")]
)
def test_durations_in_words(seconds, words):
    assert oracle_calls.duration(seconds) == words
