r"""Densities, as an objective sees them: samples, log-densities, scores.

A functional of the generated density `p` needs points of `p` with weights, and, if it contains
`log p`, values and gradients of `log p - log q` for a reference `q`. A `Density` knows them:

- `Exact`: a flow that knows its own density, such as `MixtureFlow`.
- `Tilted`: `p ~ q exp(R)`, which is what a control that starts from `q` is to reach: `log p` is
  `log q + R - log Z`, without any estimate.
- `Flowing`: what a flow really generates: its score at `1 - epsilon`, its log-density by an
  estimator of `control/ratios.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Protocol

import torch
from torch import Tensor

from molflowctl.control.objectives.ratios import DenoisingDifference
from molflowctl.control.objectives.reward import Combination, Reward
from molflowctl.control.population import states_of
from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow
from molflowctl.flows.likelihood import log_likelihood
from molflowctl.flows.mixture import MixtureFlow
from molflowctl.flows.path import expand_time
from molflowctl.flows.state import first_part, times

__all__ = [
    "Density",
    "Exact",
    "Flowing",
    "Tabulated",
    "Tilted",
    "as_density",
    "log_density_reward",
    "log_normaliser",
    "log_ratio",
    "log_ratio_reward",
    "score_near_data",
]

EPSILON = 0.05


class Density(Protocol):
    """`log p` and its gradient at data states.

    Constants that do not depend on the state are free, except for those who need normalised values,
    who ask whether the density is `normalised`.
    """

    @property
    def normalised(self) -> bool:
        """Whether `log p` integrates to one, its constant included."""

    def __hash__(self) -> int: ...

    def log_density(self, x: Any) -> Tensor:
        """`log p(x)`, `(B,)`."""

    def score(self, x: Any) -> Any:
        """`grad log p(x)`, a state."""


def score_near_data(flow: Flow, x: Any, epsilon: float = EPSILON) -> Any:
    r"""`grad log p_1(x)` from the flow's score at `t = 1 - epsilon`.

    `p_t` is `p_1` scaled by `a_t` and blurred by `b_t^2 C`; without the blur,
    `grad log p_1(x) = a_t s(a_t x, t)`. The error falls as `b_t^2`, the noise of a learned endpoint
    is divided by it: that is what `epsilon` trades.
    """
    t = 1 - epsilon
    a, _, _, _ = flow.path.coefficients(t)
    xt = times(a, x)
    part = first_part(x)
    score = flow.score_function(xt, expand_time(t, len(part), part))
    return times(a, flow.covariance.power(score, -1.0))


@dataclass(frozen=True)
class Exact:
    """The density of a mixture, in closed form."""

    flow: MixtureFlow
    normalised = True

    def log_density(self, x: Any) -> Tensor:
        """`log p(x)`, `(B,)`, at states `(B, d)`."""
        points: Tensor = states_of(x)
        values: Tensor = self.flow.log_density(points.to(self.flow.device))
        return values.to(points.device)

    def score(self, x: Tensor) -> Tensor:
        """`grad log p(x)`, `(B, d)`, at states `(B, d)`."""
        slope: Tensor = Reward(self.log_density, name="log density")._autograd(x)
        return slope


@dataclass(frozen=True)
class Tilted:
    """`p = q exp(R) / Z`.

    Arguments:
        base: `q`.
        reward: `R`.
        log_normaliser: `log Z`; None where it is not known.
    """

    base: Density
    reward: Reward
    log_normaliser: float | None = None

    @property
    def normalised(self) -> bool:
        """Whether `log Z` and the base are known."""
        return self.log_normaliser is not None and self.base.normalised

    def log_density(self, x: Any) -> Tensor:
        """`log q(x) + R(x) - log Z`, `(B,)`, in nats."""
        return self.base.log_density(x) + self.reward.value(x) - (self.log_normaliser or 0.0)

    def score(self, x: Any) -> Any:
        """`grad log q(x) + grad R(x)`, a state."""
        return self.base.score(x) + self.reward.gradient(x)


@dataclass(frozen=True)
class Flowing:
    """The density that a flow generates; asked at states of any device, answered there.

    Arguments:
        flow: the flow.
        log_density_of: `(flow, x) -> (B,)`.
        ratio_of: `(p, q, x) -> log p(x)/q(x)` of two flows, where that is to be estimated at once
            and not as a difference of log-densities; see `control/ratios.py`.
        epsilon: of the score, see `score_near_data`.
    """

    flow: Flow
    log_density_of: Callable[[Flow, Any], Tensor] = log_likelihood
    ratio_of: Callable[[Flow, Flow, Any], Tensor] | None = None
    epsilon: float = EPSILON
    normalised = True

    def log_density(self, x: Any) -> Tensor:
        """`log p(x)` in nats, `(B,)`, by `log_density_of`."""
        x = states_of(x)
        return self.log_density_of(self.flow, x.to(self.flow.device)).to(first_part(x).device)

    @torch.no_grad()
    def score(self, x: Any) -> Any:
        """`grad log p(x)`, a state, see `score_near_data`."""
        here = x.to(self.flow.device)
        return score_near_data(self.flow, here, self.epsilon).to(first_part(x).device)


@dataclass(frozen=True)
class Tabulated:
    """A density that is known at given points only, those of a grid for instance.

    Arguments:
        x: the points; the very object that is asked for.
        table: `log p` there, normalised, `(N,)`.

    Raises:
        UserError: when asked for other points, or for a score.
    """

    x: Any
    table: Tensor
    normalised = True

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def log_density(self, x: Any) -> Tensor:
        """The table, `(N,)`, for the very points that it is of."""
        if states_of(x) is not self.x:
            raise UserError("a tabulated density is known at its own points only.")
        return self.table

    def score(self, x: Any) -> Any:
        """There is none: always raises."""
        raise UserError("a tabulated density has no score.")


_estimated = partial(log_likelihood, trace="hutchinson")


def as_density(of: Flow | Density) -> Density:
    """The density of a flow, in closed form where there is one; a density is returned as it is."""
    if not isinstance(of, Flow):
        return of
    if isinstance(of, MixtureFlow) and of.net is None:
        return Exact(of)
    if of.trace == "exact":
        return Flowing(of, epsilon=of.near_data)
    # In hundreds of dimensions a log-density is too noisy to be the half of a difference.
    return Flowing(of, _estimated, DenoisingDifference(), of.near_data)


def log_ratio(p: Density, q: Density, x: Any) -> Tensor:
    """`log p(x) - log q(x)`, `(B,)`, by the most direct way the two densities offer."""
    if isinstance(p, Tilted) and p.base == q:
        return p.reward.value(x) - (p.log_normaliser or 0.0)
    if isinstance(p, Flowing) and p.ratio_of and isinstance(q, Flowing | Exact):
        x = states_of(x)
        return p.ratio_of(p.flow, q.flow, x.to(p.flow.device)).to(first_part(x).device)
    return p.log_density(x) - q.log_density(x)


def log_normaliser(density: Density) -> float:
    """What `log_density_reward` leaves out of `log p`."""
    if not isinstance(density, Tilted):
        return 0.0
    return (density.log_normaliser or 0.0) + log_normaliser(density.base)


@lru_cache(maxsize=256)
def log_density_reward(p: Density) -> Reward:
    """`log p + log Z` as a reward; the same object for the same density, so that sums merge it."""
    if isinstance(p, Tilted):
        return log_density_reward(p.base) + p.reward
    return Reward(p.log_density, gradient=p.score, name="log p")


@lru_cache(maxsize=256)
def log_ratio_reward(p: Density, q: Density) -> Reward:
    """`log p - log q` as a reward; of two tilts of one density, the difference of their rewards."""
    if p == q:
        return Combination([])
    if isinstance(p, Tilted):
        return log_ratio_reward(p.base, q) + p.reward
    if isinstance(q, Tilted):
        return log_ratio_reward(p, q.base) - q.reward
    return Reward(
        lambda x: log_ratio(p, q, x), gradient=lambda x: p.score(x) - q.score(x), name="log p/q"
    )
