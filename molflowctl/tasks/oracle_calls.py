"""What an oracle is asked while a flow is steered: a budget of calls, its speed, the time left.

A docking takes seconds and a GFN2-xTB relaxation too, so that calls are what a run costs. A budget
holds for all of them, those of the prior and of the result included. What a slow oracle has said is
kept in the folder of the run, so that it is asked about no molecule twice, nor after a kill.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from molflowctl.properties.cache import Cache
from molflowctl.properties.rewards import Objective

__all__ = ["QUICK", "OracleClock", "Purse", "Spent", "answers", "duration", "is_slow"]

FILE = "oracle.sqlite"
SLOW_SECONDS = 0.2  # a call, from which on the time left is worth a line
# Engines that answer in milliseconds: to look a value up takes as long.
QUICK = frozenset(["rdkit", "reference", "surrogate", "mmff"])


class Spent(Exception):
    """The budget does not pay for another mirror step."""


def is_slow(oracle: Objective) -> bool:
    """Whether a property of it takes a program that is slower than a look-up."""
    return any(item.engine not in QUICK for item in oracle.items)


def answers(
    folder: Path, oracle: Objective, wanted: bool = False
) -> AbstractContextManager[Cache | None]:
    """The store of what a slow oracle said in this run, in its folder; None for a quick one.

    Args:
        wanted: of a quick one, too.
    """
    return Cache(folder / FILE) if wanted or is_slow(oracle) else nullcontext()


def duration(seconds: float) -> str:
    """A length of time in words: `40 seconds`, `12 minutes`, `3.1 hours`."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    minutes = seconds / 60
    return f"{minutes / 60:.1f} hours" if minutes > 120 else f"{minutes:.0f} minutes"


class OracleClock:
    """Passes the progress of a run on, and measures by it how fast draws and the oracle are.

    Args:
        progress: called with what is done, how many, and of how many: `prior: oracle`, 12, 500.

    Attributes:
        calls, seconds: that this process asked for and waited.
        drawn, draw_seconds: molecules that it drew, alike.
    """

    def __init__(self, progress: Callable[[str, int, int], object]) -> None:
        self.progress = progress
        self.calls, self.seconds = 0, 0.0
        self.drawn, self.draw_seconds = 0, 0.0
        self._began: float | None = None
        self._last = time.monotonic()

    def __call__(self, label: str, done: int, total: int) -> None:
        now = time.monotonic()
        if label.endswith(("draw", "oracle")):
            if done == 0:
                self._began = now
            elif self._began is None:
                self._began = self._last  # of the oracle, when the last molecule was drawn
            if done == total > 0:
                if label.endswith("oracle"):
                    self.calls += total
                    self.seconds += now - self._began
                else:
                    self.drawn += total
                    self.draw_seconds += now - self._began
                self._began = None
        self._last = now
        self.progress(label, done, total)

    def left(self, calls: int, always: bool = False) -> str:
        """A line about the time that so many more calls take; empty where that is no matter.

        Args:
            always: also of an oracle that is quick.
        """
        if not self.calls or (self.seconds < SLOW_SECONDS * self.calls and not always):
            return ""
        each = self.seconds / self.calls
        time_left = duration(calls * each)
        return f"oracle: {each:.2g} s a molecule; at most {calls:,} to come, about {time_left}"


class Purse:
    """Oracle calls that are left of a run's budget, and the best flow that they have shown.

    Args:
        config: `oracle_budget`, which may be None, `mirror_steps`, `n_samples`, `test_samples`.
        clock: of the oracle.
        say: called with a line about the time left, and with what the run ends with.

    Attributes:
        calls: so far.
        step: of the flow that the run ends with.
    """

    def __init__(self, config: Any, clock: OracleClock, say: Callable[[str], object]) -> None:
        self.config, self.clock, self.say = config, clock, say
        self.calls = 0
        self.step, self.spent = config.mirror_steps, False
        self._best: tuple[float, int, Any] | None = None

    def pay(self, step: int, calls: int, flow: Any, objective: Callable[[], float]) -> None:
        """Before a mirror step, from a flow that was judged; the best of the objective is kept.

        Raises:
            Spent: the budget does not pay for the samples that would judge what comes of it.
        """
        config, self.calls = self.config, calls
        steps_after = config.mirror_steps - step - 1
        coming = steps_after * config.n_samples + config.test_samples
        if config.oracle_budget is not None:
            value = objective()
            if self._best is None or value > self._best[0]:
                self._best = value, step, flow
            left = config.oracle_budget - calls
            if left < config.test_samples + (config.n_samples if steps_after else 0):
                self.spent = True
                raise Spent
            coming = min(coming, left)
        if line := self.clock.left(coming, always=config.oracle_budget is not None and step == 0):
            self.say(line)

    def best(self) -> Any:
        """The flow to end with, once all is spent."""
        assert self._best is not None
        _, self.step, flow = self._best
        self.say(
            f"{self.calls:,} of {self.config.oracle_budget:,} oracle calls are spent, the "
            f"rest judges the result: the best flow is that after mirror step {self.step}"
        )
        return flow

    def record(self) -> dict[str, Any]:
        """What a record says of a budget."""
        if self.config.oracle_budget is None:
            return {}
        return {
            "oracle_budget": self.config.oracle_budget,
            "budget_spent": self.spent,
            "mirror_step": self.step,
        }
