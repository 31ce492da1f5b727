r"""Divergences: how far a density `p` is from a reference `q`.

Each is a functional with its first variation `dD(p)` and that one's gradient, where `s` are scores:

    KL             E_p[log p/q]               log p/q            s_p - s_q
    ForwardKL      E_q[log q/p]               -q/p               -(q/p)(s_q - s_p)
    Renyi          log E_p[w] / (b - 1)       b/(b-1) w / Z      b w (s_p - s_q) / Z
    Wasserstein1   max E_p[phi] - E_q[phi]    phi                grad phi
    MMD            |mu_p - mu_q|^2            2 (mu_p - mu_q)    by differentiation

with `w = (p/q)^(b-1)`, `Z = E_p[w]`, `phi` 1-Lipschitz and `mu_p(x) = E_p[k(x, x')]`.

The first three read log-densities and scores of `p` from the sample's density; the last two only
compare points, so that a reference may be a `Population` too.

References:
    De Santi et al., Flow Density Control, 2025, arXiv 2511.22640 (first variations).
    van Erven, Harremoes, Renyi Divergence and Kullback-Leibler Divergence, 2012, arXiv 1206.2459.
    Gretton et al., A Kernel Two-Population Test, J. Mach. Learn. Res. 13, 723 (2012).
    Villani, Optimal Transport, Old and New, 2009 (Kantorovich duality).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from molflowctl.control.objectives.density import (
    Density,
    Exact,
    Flowing,
    Tilted,
    as_density,
    log_normaliser,
    log_ratio_reward,
)
from molflowctl.control.objectives.objective import Functional
from molflowctl.control.objectives.reward import Combination, Reward
from molflowctl.control.population import Population
from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow
from molflowctl.flows.mixture import MixtureFlow
from molflowctl.flows.state import State, groups_of, times

__all__ = ["KL", "ForwardKL", "Renyi", "TrajectoryKL", "layout_of", "source_of"]

BOUND = 100.0


class _Ratio:
    """`log p - log q` of the density of a sample, normalised, with its gradient.

    Where a normaliser is unknown, it is estimated from the sample by `E_p[q/p] = 1`.
    """

    def __init__(self, sample: Population, reference: Density, name: str) -> None:
        if sample.density is None:
            raise UserError(f"{name} needs a sample that knows its density.")
        _check_dimension(sample.states, reference, name)
        self.reward = log_ratio_reward(sample.density, reference)
        if sample.density.normalised and reference.normalised:
            self.offset = log_normaliser(sample.density) - log_normaliser(reference)
        else:
            self.offset = -_log_mean_exp(sample, -self.reward.value(sample))

    def value(self, x: Any) -> Tensor:
        return self.reward.value(x) - self.offset

    def gradient(self, x: Any) -> Any:
        return self.reward.gradient(x)


class KL(Functional):
    """`KL(p || q) = E_p[log p/q]`, in nats.

    Arguments:
        reference: `q`, a flow or a density.
        name: for messages and logs.
    """

    def __init__(self, reference: Flow | Density, *, name: str = "KL") -> None:
        self.reference, self.name = _density(reference, name), name

    def value(self, sample: Population) -> float:
        return sample.mean(_Ratio(sample, self.reference, self.name).value(sample))

    def first_variation(self, sample: Population) -> Reward:
        """See `Functional`.

        Raises:
            UserError: for a sample that does not know its density.
        """
        if sample.density is None:
            raise UserError(f"{self.name} needs a sample that knows its density.")
        _check_dimension(sample.states, self.reference, self.name)
        return log_ratio_reward(sample.density, self.reference)


class ForwardKL(Functional):
    r"""`KL(q || p) = E_p[u log u]`, `u = q/p`, in nats, tamed where `p` hardly is.

    Above a ratio `c` it is the divergence `E_p[f(u)]` with `f(u) = u (log c + 2) - c (2 + log u/c)`
    instead of `u log u`: convex and smooth still, so zero at `p = q` alone, but of the first
    variation `-c (1 + log u/c)`, which grows with the logarithm of a ratio and not with the ratio.

    Arguments:
        reference: `q`, a flow or a density.
        bound: `c`.
        name: for messages and logs.
    """

    def __init__(
        self, reference: Flow | Density, *, bound: float = BOUND, name: str = "forward KL"
    ) -> None:
        self.reference, self.name = _density(reference, name), name
        self.bound = _check_bound(bound, name)

    def value(self, sample: Population) -> float:
        log_u = -_Ratio(sample, self.reference, self.name).value(sample).double()
        beyond = (log_u - math.log(self.bound)).clamp_min(0)
        u = log_u.exp()
        tame = u * (math.log(self.bound) + 2) - self.bound * (2 + beyond)
        return sample.mean(torch.where(beyond > 0, tame, u * log_u))

    def first_variation(self, sample: Population) -> Reward:
        ratio = _Ratio(sample, self.reference, self.name)
        return Reward(
            lambda x: -_tamed(-ratio.value(x), self.bound),
            gradient=lambda x: times(_capped(-ratio.value(x), self.bound), ratio.gradient(x)),
            differentiable=ratio.reward.differentiable,
            derived=True,
            name=f"d {self.name}",
        )


class Renyi(Functional):
    r"""`D_b(p || q) = log E_p[(p/q)^(b-1)] / (b - 1)`, in nats; the KL as `b` goes to 1.

    In the first variation, `(p/q)^(b-1) / Z` grows with its logarithm only above `bound`.

    Arguments:
        reference: `q`, a flow or a density.
        order: `b`; positive and not 1.
        bound: on `(p/q)^(b-1) / Z`.
        name: for messages and logs.
    """

    def __init__(
        self,
        reference: Flow | Density,
        order: float,
        *,
        bound: float = BOUND,
        name: str | None = None,
    ) -> None:
        self.order, self.name = order, name or f"Renyi_{order:g}"
        if not (order > 0 and math.isfinite(order)) or order == 1:
            raise UserError(
                f"{self.name}: an order of {order} is out of range: it must be positive and not 1, "
                f"where the divergence is KL."
            )
        self.reference = _density(reference, self.name)
        self.bound = _check_bound(bound, self.name)

    def value(self, sample: Population) -> float:
        ratio = _Ratio(sample, self.reference, self.name)
        return self._log_z(ratio, sample) / (self.order - 1)

    def first_variation(self, sample: Population) -> Reward:
        ratio, b = _Ratio(sample, self.reference, self.name), self.order
        log_z = self._log_z(ratio, sample)

        def log_weight(x: Any) -> Tensor:
            return (b - 1) * ratio.value(x) - log_z

        return Reward(
            lambda x: b / (b - 1) * _tamed(log_weight(x), self.bound),
            gradient=lambda x: times(b * _capped(log_weight(x), self.bound), ratio.gradient(x)),
            differentiable=ratio.reward.differentiable,
            derived=True,
            name=f"d {self.name}",
        )

    def _log_z(self, ratio: _Ratio, sample: Population) -> float:
        return _log_mean_exp(sample, (self.order - 1) * ratio.value(sample))


class TrajectoryKL(Functional):
    r"""`int lambda_t KL(p_t || q_t) dt`, the KL along the whole generation, as a running reward.

    Its first variation `lambda_t (log p_t - log q_t)` has the gradient `lambda_t (s_p - s_q)` at
    every time, where scores are well conditioned; `lambda_t` goes to zero where they are not. The
    optimum differs from that of `KL`, since noise and product do not commute. The value is
    that of the `KL` it stands in for.

    Arguments:
        reference: `q`, a flow.
        weight: `lambda_t`, of integral one; None for `12 t^2 (1 - t)`.
        name: for messages and logs.
    """

    def __init__(
        self,
        reference: Flow,
        *,
        weight: Callable[[Tensor], Tensor] | None = None,
        name: str = "trajectory KL",
    ) -> None:
        self.flow, self.name = reference, name
        self.weight = weight if weight is not None else _late
        self.terminal = KL(reference, name=name)

    def value(self, sample: Population) -> float:
        return self.terminal.value(sample)

    def first_variation(self, sample: Population) -> Reward:
        return Combination([])

    def running_variation(self, flow: Flow) -> Callable[[Any, Tensor], Any]:
        def gradient(x: Any, t: Tensor) -> Any:
            gap = flow.score_function(x, t) - self.flow.score_function(x, t)  # C times the scores
            return times(self.weight(t), flow.covariance.power(gap, -1.0))

        return gradient


def _late(t: Tensor) -> Tensor:
    return 12 * t.square() * (1 - t)


def _tamed(log_u: Tensor, bound: float) -> Tensor:
    """`u` up to the bound `c`, `c (1 + log u/c)` above: smooth, increasing, concave above."""
    return _capped(log_u, bound) + bound * (log_u - math.log(bound)).clamp_min(0)


def _capped(log_u: Tensor, bound: float) -> Tensor:
    """`min(u, c)`, the derivative of `_tamed` by `log u`."""
    return log_u.clamp_max(math.log(bound)).exp()


def _log_mean_exp(sample: Population, values: Tensor) -> float:
    """`log E_p[exp(values)]`."""
    return float((sample.shares.log().to(values.device) + values.double()).logsumexp(0))


def _density(reference: Flow | Density, name: str) -> Density:
    if not isinstance(reference, Flow) and not hasattr(reference, "log_density"):
        raise UserError(
            f"the reference of {name} is a {type(reference).__name__}: a flow or a density is "
            f"needed."
        )
    return as_density(reference)


def source_of(reference: Flow | Density | Population, name: str) -> Flow | Population:
    """Where points of the reference come from.

    Raises:
        UserError: for a reference that has none.
    """
    if isinstance(reference, Exact | Flowing):
        return reference.flow
    if not isinstance(reference, Flow | Population):
        raise UserError(
            f"{name} needs points of its reference, and a {type(reference).__name__} has none: "
            f"pass a flow, or a Population of its states."
        )
    return reference


def _check_bound(bound: float, name: str) -> float:
    if not (bound > 1 and math.isfinite(bound)):
        raise UserError(f"{name}: a bound of {bound} on ratios: it must be above 1 and finite.")
    return bound


def _check_dimension(x: Any, reference: Density, name: str) -> None:
    while isinstance(reference, Tilted):
        reference = reference.base
    flow = reference.flow if isinstance(reference, Exact | Flowing) else None
    if isinstance(flow, MixtureFlow) and layout_of(x) != {"": (2, flow.dimension)}:
        raise UserError(
            f"{name}: the reference has states of the shape (B, {flow.dimension}), the sample's "
            f"have {layout_of(x)}."
        )


def layout_of(x: Any) -> dict[str, tuple[int, int]]:
    """Parts of a state, each with its number of dimensions and the last of its sizes.

    Sizes between, of atoms for instance, may differ from one group of states to the next.
    """
    group = groups_of(x)[0]
    parts = group if isinstance(group, State) else {"": group}
    return {name: (part.ndim, part.shape[-1]) for name, part in parts.items()}
