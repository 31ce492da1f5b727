"""Progress where nobody sees a bar: lines, seldom, with rate and time left."""

import re

import pytest

from molflowctl.compute import progress
from molflowctl.compute.progress import progress_bars


@pytest.fixture
def clock(monkeypatch):
    """Seconds that the test moves."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def lines_of(capsys) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_a_log_has_a_line_a_minute(capsys, clock):
    with progress_bars() as bars:
        bars.get_time = lambda: clock[0]
        task = bars.add_task("draw", total=400)
        for _ in range(400):
            clock[0] += 1
            bars.advance(task)
    lines = lines_of(capsys)
    assert len(lines) == 6
    assert [int(re.search(r"(\d+) of 400", line)[1]) for line in lines] == [*range(60, 361, 60)]
    assert lines[0].startswith("draw: 60 of 400, 1/s, about 0:05:")
    assert lines[2].endswith("about 0:03:40 left")


def test_the_speed_is_not_told_by_the_first_few(capsys, clock):
    """Molecules come in order: the first late, the others at once."""
    with progress_bars() as bars:
        bars.get_time = lambda: clock[0]
        task = bars.add_task("draw", total=400)
        clock[0] += 80
        bars.advance(task)
        clock[0] += 80
        bars.advance(task)
    assert lines_of(capsys) == ["draw: 1 of 400", "draw: 2 of 400"]


def test_what_is_tracked_has_its_lines(capsys, clock):
    with progress_bars() as bars:
        bars.get_time = lambda: clock[0]
        for _ in bars.track(iter(range(400)), total=400, description="judge"):
            clock[0] += 1
    lines = lines_of(capsys)
    assert [int(re.search(r"(\d+) of 400", line)[1]) for line in lines] == [*range(60, 361, 60)]


def test_what_is_done_within_a_minute_leaves_no_line(capsys, clock):
    with progress_bars() as bars:
        for _ in bars.track(range(50), description="score"):
            clock[0] += 1
    assert lines_of(capsys) == []


def test_without_a_total_what_is_done_is_told(capsys, clock):
    with progress_bars() as bars:
        task = bars.add_task("read", total=None)
        clock[0] += 61
        bars.update(task, completed=1234)
    assert lines_of(capsys)[0].startswith("read: 1,234")


def test_quiet_says_nothing(capsys, clock):
    with progress_bars(quiet=True) as bars:
        task = bars.add_task("draw", total=10)
        clock[0] += 100
        bars.update(task, completed=5)
    assert lines_of(capsys) == []
