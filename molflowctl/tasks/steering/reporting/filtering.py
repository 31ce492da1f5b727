r"""Filter or steer: what keeping the best of the base's molecules gives beside the exact target.

The exact target is a reweighting of the base. A threshold is another one: of the base's molecules
those that pass. The largest share `q` whose utility is at least the target's costs `1/q` draws a
molecule, at once; a steered flow costs one, after hours. For a mean on a Gaussian reward and a
target `k` nats away, the target lies `t = sqrt(2 k)` standard deviations up and `q` is where
`phi(z)/q = t`, `z` the quantile that a share of `q` lies beyond: a fifth at one nat, with
`exp(-2 k)` for the effective share of the reweighting.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from molflowctl.control.objectives.objective import Functional
from molflowctl.control.population import Population
from molflowctl.errors import UserError
from molflowctl.tasks.oracle_calls import OracleClock, duration
from molflowctl.tasks.steering.objectives import needs_fingerprints
from molflowctl.tasks.steering.settings import FinetuneConfig

__all__ = ["Filter", "advise", "best_share"]

PLAIN = 0.05  # share of the base from which on a filter is the plainer way
WANTED = 1000  # molecules that the two are compared by


@dataclass(frozen=True)
class Filter:
    """A threshold that does what a target does.

    Attributes:
        share: of the base's draws that pass, invalid ones counted.
        threshold: in the unit of the oracle.
        minimise: whether values up to the threshold pass, rather than those from it on.
    """

    share: float
    threshold: float
    minimise: bool

    @property
    def wins(self) -> bool:
        """Whether so many pass that there is no need to steer."""
        return self.share >= PLAIN

    def condition(self, reward: str) -> str:
        """What `generate --where` takes; four digits, rounded so that what passes still does."""
        size = 10.0 ** (3 - math.floor(math.log10(abs(self.threshold)))) if self.threshold else 1.0
        turn = math.ceil if self.minimise else math.floor
        sign = "<=" if self.minimise else ">="
        return f"{reward} {sign} {turn(self.threshold * size) / size:.4g}"

    def told(self, flow: str, reward: str, draw_seconds: float) -> str:
        """One line for whoever is about to steer.

        Arguments:
            draw_seconds: to draw and score a molecule; NaN if it is not known.
        """
        each = 1 / self.share
        if not self.wins:
            return (
                f"filter or steer: {self.share:.2g} of the base's draws pass a filter that does "
                f"as well, {each:,.0f} draws for each molecule: steering is worth its time"
            )
        took = draw_seconds * each * WANTED
        time = f", about {duration(took)}" if math.isfinite(took) and took > 0 else ""
        return (
            f"filter or steer: your target keeps {100 * self.share:.0f} % of the base: filter it. "
            f'molflowctl generate {flow} -n {WANTED} --where "{self.condition(reward)}" gives as '
            f"much at once ({each:.1f} draws for each molecule{time})"
        )


def best_share(
    wanted: Functional, base: Population, values: Tensor, goal: float, *, minimise: bool = False
) -> Filter | None:
    """The filter that keeps most of the base and is no worse than a target; None where none is.

    Arguments:
        wanted: the utility; its value under the filtered base is compared.
        base: draws of the base, judged.
        values: what the oracle said of them, `(N,)`, NaN for failed ones, which do not pass.
        goal: the utility of the target.
    """
    there = torch.isfinite(values) & base.mask()
    levels = values[there].unique().sort(descending=minimise).values
    for level in levels.tolist():  # from the one that all pass on
        passes = there & ((values <= level) if minimise else (values >= level))
        if wanted.value(base.weighted(passes.double())) >= goal:
            return Filter(float(passes.double().mean()), level, minimise)
    return None


def advise(
    config: FinetuneConfig,
    wanted: Functional,
    base: Population,
    best: Population,
    clock: OracleClock,
    say: Callable[[str], object],
) -> Filter | None:
    """Say in one line what a filter of the base does beside the target that is about to be sought.

    What a filter delivers is valid, so that it is compared with what of the target is.

    Arguments:
        base: draws of it, judged.
        best: points with the weights of the target.

    Raises:
        UserError: if it keeps `config.max_filter_share` of the base or more.
    """
    if needs_fingerprints(config.utility) or any(u.startswith("entropy") for u in config.utility):
        return None  # no threshold of a reward spreads molecules out
    values, minimise = base.values["value"], config.minimise
    goal = wanted.value(best.weighted(best.shares * best.mask()))
    found = best_share(wanted, base, values, goal, minimise=minimise)
    if found is None:
        say(f"filter or steer: no filter of the base's {len(base):,} draws does as well: steer")
        return None
    seconds = clock.draw_seconds / clock.drawn if clock.drawn else math.nan
    if clock.calls:
        seconds += clock.seconds / clock.calls
    line = found.told(" ".join([config.flow, *_around(config)]), str(config.reward), seconds)
    most = config.max_filter_share
    if most is not None and found.share >= most:
        raise UserError(f"{line}. The run stops, as max_filter_share={most:g} says.")
    say(line)
    return found


def _around(config: FinetuneConfig) -> Iterator[str]:
    """The options of the command line that say what is designed around."""
    for core in config.core or ():
        yield f"--core {shlex.quote(core)}"
    for name in ("attach", "core_geometry", "like", "replace"):
        value = getattr(config, name)
        if value is not None and value != type(config).model_fields[name].default:
            text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            yield f"--{name.replace('_', '-')} {shlex.quote(text)}"
