"""How long a steering takes: guessed from its first draws, then measured step by step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from molflowctl.tasks.oracle_calls import OracleClock, duration

__all__ = ["TimeLeft"]

SOON = 20.0  # seconds after which the speed of drawing is told, once half of a sample is there
# Evaluations of the network that a molecule of an optimiser step is worth: three for its way
# forwards and backwards, one of the flow that the step is measured from.
_LEARNING = 4.0


class TimeLeft:
    """Minutes to go, before every mirror step.

    Arguments:
        config: `base_samples`, `n_samples`, `test_samples`, `nfe`, `mirror_nfe`, `train_steps`,
            `batch`, `jobs`.
        steps: mirror steps of the whole run; 0 where all is drawn at once.
        progress: called with what is done, how many, and of how many: `prior: draw`, 12, 500.
        say: called with a line about the whole.
        now: seconds of a clock.

    Attributes:
        clock: of draws and oracle calls, which passes the progress on.
    """

    def __init__(
        self,
        config: Any,
        steps: int,
        progress: Callable[[str, int, int], object],
        say: Callable[[str], object],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config, self.steps, self.say, self.now = config, steps, say, now
        self.progress = progress
        self.clock = OracleClock(self._pass)
        self._told = False
        self._began: float | None = None  # when the sample was begun
        self._before: tuple[int, float, int, float, float] | None = None
        # Of a whole mirror step; of the draws in it; of the oracle in it.
        self._step: tuple[float, float, float] | None = None

    def _pass(self, label: str, done: int, total: int) -> None:
        self.progress(label, done, total)
        if self._told or not label.endswith("draw"):
            return
        now = self.now()
        if not done:
            self._began = now
        # They are drawn size by size and come in order: the first ones wait for all sizes.
        if self._began is None or now - self._began < SOON or 2 * done < total:
            return
        self._told = True
        each = (now - self._began) / done
        self.say(
            f"drawing takes {each:.2g} s a molecule: about {duration(self._draws() * each)} for "
            f"all draws of this run, beside the oracle and the learning"
        )

    def _draws(self) -> float:
        """Molecules to be drawn in all, those with fewer evaluations counted as the less."""
        c = self.config
        rounds = max(self.steps - 1, 0) * c.n_samples * c.mirror_nfe / c.nfe
        return float(c.base_samples + rounds + c.test_samples)

    def before_step(self, behind: int) -> float:
        """Minutes left with so many mirror steps behind; NaN where nothing was measured yet."""
        now, clock = self.now(), self.clock
        here = behind, now, clock.drawn, clock.draw_seconds, clock.seconds
        if self._before is not None and clock.drawn > self._before[2]:
            steps, began, _, draw, oracle = self._before
            if behind == steps + 1:
                self._step = now - began, clock.draw_seconds - draw, clock.seconds - oracle
        self._before = here
        seconds = self._guessed(behind) if self._step is None else self._measured(behind)
        return seconds / 60

    def _measured(self, behind: int) -> float:
        """Seconds, by the last mirror step; after the last one the result is drawn instead."""
        assert self._step is not None
        c = self.config
        step, draw, oracle = self._step
        share = c.test_samples / c.n_samples
        result = share * (draw * c.nfe / c.mirror_nfe + oracle)
        left = self.steps - behind
        return max(left, 0) * step - (draw + oracle if left > 0 else 0.0) + result

    def _guessed(self, behind: int) -> float:
        """Seconds, by the draws of the prior and what the oracle said of them."""
        c, clock = self.config, self.clock
        if not clock.drawn or not self.steps:
            return math.nan
        draw = clock.draw_seconds / clock.drawn
        oracle = clock.seconds / clock.calls if clock.calls else 0.0
        left = self.steps - behind
        rounds = max(left - 1, 0) * c.n_samples * (draw * c.mirror_nfe / c.nfe + oracle)
        one_core = draw * c.jobs / c.nfe
        learning = max(left, 0) * c.train_steps * c.batch * _LEARNING * one_core
        return rounds + learning + c.test_samples * (draw + oracle)

    def told_before(self, minutes: float) -> str:
        """A line about the whole before the first mirror step; empty where nothing is known."""
        if not math.isfinite(minutes):
            return ""
        c = self.config
        return (
            f"about {duration(60 * minutes)} to go: {self.steps} mirror steps of {c.n_samples:,} "
            f"molecules, {c.test_samples:,} at the end (a guess, until a step was measured)"
        )
