r"""Divergences: how far a density `p` is from a reference `q`.

Each is a functional with its first variation `dD(p)` and that one's gradient, where `s` are scores:

    KL             E_p[log p/q]               log p/q            s_p - s_q
    ForwardKL      E_q[log q/p]               -q/p               -(q/p)(s_q - s_p)
    Renyi          log E_p[w] / (b - 1)       b/(b-1) w / Z      b w (s_p - s_q) / Z
    Wasserstein1   max E_p[phi] - E_q[phi]    phi                grad phi
    MMD            |mu_p - mu_q|^2            2 (mu_p - mu_q)    by differentiation

with `w = (p/q)^(b-1)`, `Z = E_p[w]`, `phi` 1-Lipschitz and `mu_p(x) = E_p[k(x, x')]`.

The first three read log-densities and scores of `p` from the sample's density; the last two only
compare points, so that a reference may be a `Sample` too.

References:
    De Santi et al., Flow Density Control, 2025, arXiv 2511.22640 (first variations).
    van Erven, Harremoes, Renyi Divergence and Kullback-Leibler Divergence, 2012, arXiv 1206.2459.
    Gretton et al., A Kernel Two-Sample Test, J. Mach. Learn. Res. 13, 723 (2012).
    Villani, Optimal Transport, Old and New, 2009 (Kantorovich duality).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from molflowctl.control.objectives.density import (
    Density,
    Exact,
    Flowing,
    Sample,
    Tilted,
    as_density,
    log_normaliser,
    log_ratio_reward,
)
from molflowctl.control.objectives.objective import Functional
from molflowctl.control.objectives.potentials import (
    CHUNK,
    Cloud,
    Critic,
    Potential,
    PotentialSolver,
    distances,
)
from molflowctl.control.objectives.reward import Combination, Reward
from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow
from molflowctl.flows.mixture import MixtureFlow
from molflowctl.flows.state import State, by_group, groups_of, on_cpu, times

__all__ = ["KL", "MMD", "ForwardKL", "Renyi", "TrajectoryKL", "Wasserstein1"]

BOUND = 100.0


class _Ratio:
    """`log p - log q` of the density of a sample, normalised, with its gradient.

    Where a normaliser is unknown, it is estimated from the sample by `E_p[q/p] = 1`.
    """

    def __init__(self, sample: Sample, reference: Density, name: str) -> None:
        if sample.density is None:
            raise UserError(f"{name} needs a sample that knows its density.")
        _check_dimension(sample.x, reference, name)
        self.reward = log_ratio_reward(sample.density, reference)
        if sample.density.normalised and reference.normalised:
            self.offset = log_normaliser(sample.density) - log_normaliser(reference)
        else:
            self.offset = -_log_mean_exp(sample, -self.reward.value(sample.x))

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

    def value(self, sample: Sample) -> float:
        return sample.mean(_Ratio(sample, self.reference, self.name).value(sample.x))

    def first_variation(self, sample: Sample) -> Reward:
        if sample.density is None:
            raise UserError(f"{self.name} needs a sample that knows its density.")
        _check_dimension(sample.x, self.reference, self.name)
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

    def value(self, sample: Sample) -> float:
        log_u = -_Ratio(sample, self.reference, self.name).value(sample.x).double()
        beyond = (log_u - math.log(self.bound)).clamp_min(0)
        u = log_u.exp()
        tame = u * (math.log(self.bound) + 2) - self.bound * (2 + beyond)
        return sample.mean(torch.where(beyond > 0, tame, u * log_u))

    def first_variation(self, sample: Sample) -> Reward:
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

    def value(self, sample: Sample) -> float:
        ratio = _Ratio(sample, self.reference, self.name)
        return self._log_z(ratio, sample) / (self.order - 1)

    def first_variation(self, sample: Sample) -> Reward:
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

    def _log_z(self, ratio: _Ratio, sample: Sample) -> float:
        return _log_mean_exp(sample, (self.order - 1) * ratio.value(sample.x))


class _Between(Functional):
    """A distance between points of `p` and points of `q`, drawn once and kept."""

    def __init__(
        self,
        reference: Flow | Density | Sample,
        features: Callable[[Any], Tensor] | None,
        points: int,
        seed: int,
        name: str,
    ) -> None:
        if points < 2:
            raise UserError(f"{name}: {points} points of the reference are too few.")
        self.name, self.features, self.points, self.seed = name, features, points, seed
        self.source = _source(reference, name)

    @cached_property
    def drawn(self) -> Sample:
        """The points of `q`."""
        flow = self.source
        if isinstance(flow, Sample):
            return flow
        if isinstance(flow, MixtureFlow) and flow.net is None:
            return Sample(on_cpu(flow.exact_sample(self.points, self.seed)))
        return Sample(on_cpu(flow.draw_states(self.points, seed=self.seed)))

    @cached_property
    def reference(self) -> Cloud:
        """Features of the points of `q`."""
        return self.cloud(self.drawn)

    def cloud(self, sample: Sample) -> Cloud:
        """Features of the points of a sample.

        Raises:
            UserError: if its states are not of the reference's kind.
        """
        mine, theirs = _layout(sample.x), _layout(self.drawn.x)
        if mine != theirs:
            raise UserError(
                f"{self.name} compares states of two kinds: the sample's have {mine}, the "
                f"reference's {theirs}."
            )
        with torch.no_grad():
            return Cloud(self.featured(sample.x), sample.shares)

    def featured(self, x: Any) -> Tensor:
        """Where the distance is measured, `(B, m)`."""
        if self.features is not None:
            f = by_group(self.features, x)
            if f.ndim != 2:
                raise UserError(
                    f"the features of {self.name} have the shape {tuple(f.shape)}, not (B, m)."
                )
            return f
        if isinstance(groups_of(x)[0], State):
            raise UserError(f"{self.name} of states with several parts needs features=...")
        return by_group(lambda group: group.flatten(1), x)


class Wasserstein1(_Between):
    r"""`W1(p, q)`, the Euclidean cost of moving `p` to `q`.

    The potential is solved for the sample it is asked about: `fit` once, then value and first
    variation of that sample are free.

    Arguments:
        reference: `q`: a flow, or a sample of it.
        potential: how the potential is found: `Critic()`, `Sorted()` or `Transport()`. A copy is
            kept, so that no two references share a critic.
        features: states to `(B, m)`, where the distance is measured; None for the state itself.
        points: drawn from the reference.
        seed: of the points.
        name: for messages and logs.
    """

    def __init__(
        self,
        reference: Flow | Density | Sample,
        potential: PotentialSolver | None = None,
        *,
        features: Callable[[Any], Tensor] | None = None,
        points: int = 2000,
        seed: int = 0,
        name: str = "W1",
    ) -> None:
        super().__init__(reference, features, points, seed, name)
        self.potential = copy.deepcopy(potential) if potential is not None else Critic()
        self._solved: tuple[Sample, Potential] | None = None

    def fit(self, sample: Sample, seed: int = 0) -> None:
        self._solved = sample, self.potential.solve(self.cloud(sample), self.reference, seed)

    def value(self, sample: Sample) -> float:
        phi, p, q = self._phi(sample), self.cloud(sample), self.reference
        with torch.no_grad():
            # A critic that found nothing is worse than the constant.
            return max(0.0, p.mean(phi(p.points)) - q.mean(phi(q.points)))

    def first_variation(self, sample: Sample) -> Reward:
        phi = self._phi(sample)
        return Reward(lambda x: phi(self.featured(x)), name=f"d {self.name}")

    def reset(self) -> None:
        self.potential.reset()
        self._solved = None

    def _phi(self, sample: Sample) -> Potential:
        if self._solved is None or self._solved[0] is not sample:
            self.fit(sample, self.seed)
        assert self._solved is not None
        return self._solved[1]


class MMD(_Between):
    r"""`|mu_p - mu_q|^2`, the squared maximum mean discrepancy, of sums of Gaussian kernels.

    `k(x, y) = sum_h exp(-|f(x) - f(y)|^2 / (2 h^2))`. The value is that of the weighted points (a
    V-statistic: pairs of a point with itself count), so above zero by about
    `(k(x, x) - E[k]) (1/n + 1/m)` for two samples of one density.

    Arguments:
        reference: `q`: a flow, or a sample of it.
        features: `f`, states to `(B, m)`; None for the state itself.
        bandwidths: the `h`; None for half, one and two times the median distance between points of
            the reference, so that the functional stays the same while `p` moves.
        points: drawn from the reference.
        seed: of the points.
        name: for messages and logs.
    """

    def __init__(
        self,
        reference: Flow | Density | Sample,
        features: Callable[[Any], Tensor] | None = None,
        bandwidths: Sequence[float] | None = None,
        *,
        points: int = 2000,
        seed: int = 0,
        name: str = "MMD",
    ) -> None:
        super().__init__(reference, features, points, seed, name)
        if bandwidths is not None and (not bandwidths or min(bandwidths) <= 0):
            raise UserError(f"{name}: bandwidths {list(bandwidths)}: they must be positive.")
        self._given = bandwidths

    @cached_property
    def bandwidths(self) -> list[float]:
        """The `h`."""
        if self._given is not None:
            return list(self._given)
        median = float(torch.pdist(self.reference.thinned(1000).points).median())
        if median == 0:
            raise UserError(f"{self.name}: the reference's points coincide; give bandwidths=...")
        return [0.5 * median, median, 2 * median]

    def embedding(self, cloud: Cloud, x: Tensor) -> Tensor:
        """`mu(x)` of the cloud, `(B,)`."""
        totals = []
        for z in x.split(CHUNK):
            total = z.new_zeros(len(z))
            for y, share in zip(cloud.points.split(CHUNK), cloud.shares.split(CHUNK), strict=True):
                squared = distances(z, y.to(z)).square()
                for h in self.bandwidths:
                    total = total + torch.exp(-squared / (2 * h**2)) @ share.to(z)
            totals.append(total)
        return torch.cat(totals)

    @torch.no_grad()
    def value(self, sample: Sample) -> float:
        p, q = self.cloud(sample), self.reference
        cross = p.mean(self.embedding(q, p.points))
        return max(0.0, p.mean(self.embedding(p, p.points)) - 2 * cross + self._reference_norm)

    def first_variation(self, sample: Sample) -> Reward:
        p, q = self.cloud(sample), self.reference

        def witness(x: Any) -> Tensor:
            f = self.featured(x)
            return 2 * (self.embedding(p, f) - self.embedding(q, f))

        return Reward(witness, name=f"d {self.name}")

    @cached_property
    def _reference_norm(self) -> float:
        with torch.no_grad():
            return self.reference.mean(self.embedding(self.reference, self.reference.points))


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

    def value(self, sample: Sample) -> float:
        return self.terminal.value(sample)

    def first_variation(self, sample: Sample) -> Reward:
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


def _log_mean_exp(sample: Sample, values: Tensor) -> float:
    """`log E_p[exp(values)]`."""
    return float((sample.shares.log().to(values.device) + values.double()).logsumexp(0))


def _density(reference: Flow | Density, name: str) -> Density:
    if not isinstance(reference, Flow) and not hasattr(reference, "log_density"):
        raise UserError(
            f"the reference of {name} is a {type(reference).__name__}: a flow or a density is "
            f"needed."
        )
    return as_density(reference)


def _source(reference: Flow | Density | Sample, name: str) -> Flow | Sample:
    """Where points of the reference come from."""
    if isinstance(reference, Exact | Flowing):
        return reference.flow
    if not isinstance(reference, Flow | Sample):
        raise UserError(
            f"{name} needs points of its reference, and a {type(reference).__name__} has none: "
            f"pass a flow, or a Sample of its states."
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
    if isinstance(flow, MixtureFlow) and _layout(x) != {"": (2, flow.dimension)}:
        raise UserError(
            f"{name}: the reference has states of the shape (B, {flow.dimension}), the sample's "
            f"have {_layout(x)}."
        )


def _layout(x: Any) -> dict[str, tuple[int, int]]:
    """Parts of a state, each with its number of dimensions and the last of its sizes.

    Sizes between, of atoms for instance, may differ from one group of states to the next.
    """
    group = groups_of(x)[0]
    parts = group if isinstance(group, State) else {"": group}
    return {name: (part.ndim, part.shape[-1]) for name, part in parts.items()}
