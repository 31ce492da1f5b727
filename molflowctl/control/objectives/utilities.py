r"""Utilities: what a density is to be good at.

Each is a functional with its first variation `dF(p)`; the gradient follows by differentiation:

    Mean             E[r]                                r
    CVaR             E[r | r <= q_b]                     -(q_b - r)_+ / b
    SuperQuantile    E[r | r >= q_b]                     (r - q_b)_+ / (1 - b)
    MeanVariance     E[r] - g Var[r]                     r - g (r - E[r])^2
    Entropy          -E[log p]                           -log p
    LogDet           log det M, M = E[f f'] + l I        f' M^-1 f
    TraceInverse     -tr M^-1 (A-optimal)                f' M^-2 f
    LowestEigenvalue lambda_min(M) (E-optimal)           (u' f)^2
    LogBarrier       E[r] + b log(E[c] - C)              r + b c / (E[c] - C)
    DiverseModes     -1/2 E[k(x, x')]                    -E[k(x, .)]
    InternalDiversity  -1/2 |E[f]|^2                     -E[f].f

References:
    De Santi et al., Flow Density Control, 2025, arXiv 2511.22640, table 1.
    Rockafellar, Uryasev, Optimization of conditional value-at-risk, J. Risk 2, 21 (2000).
    Pukelsheim, Optimal Design of Experiments, 1993 (A-, D- and E-optimality).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from molflowctl.control.objectives.density import (
    Density,
    log_density_reward,
    log_normaliser,
)
from molflowctl.control.objectives.objective import Functional
from molflowctl.control.objectives.reward import Reward
from molflowctl.control.population import Column, Population, of_states
from molflowctl.errors import UserError
from molflowctl.flows.state import times

__all__ = [
    "CVaR",
    "DiverseModes",
    "Entropy",
    "InternalDiversity",
    "LogBarrier",
    "LogDet",
    "LowestEigenvalue",
    "Mean",
    "MeanVariance",
    "SuperQuantile",
    "TraceInverse",
    "weighted_quantile",
]


def weighted_quantile(values: Tensor, shares: Tensor, level: float) -> float:
    """The smallest of `values`, `(N,)`, whose cumulative share reaches `level`."""
    ordered, order = values.double().sort()
    place = torch.searchsorted(shares[order].cumsum(0), torch.tensor(level, dtype=torch.float64))
    return float(ordered[min(int(place), len(ordered) - 1)])


class Mean(Functional):
    """`E[r]`."""

    def __init__(self, reward: Reward) -> None:
        self.reward, self.name = reward, f"E[{reward.name}]"

    def value(self, sample: Population) -> float:
        return sample.mean(self.reward.value(sample))

    def first_variation(self, sample: Population) -> Reward:
        return self.reward


class _Tail(Functional):
    """What is said of one tail of the rewards, parted at the quantile `level`."""

    symbol: ClassVar[str]

    def __init__(self, reward: Reward, level: float) -> None:
        _check_level(level)
        self.reward, self.level = reward, level
        self.name = f"{self.symbol}_{level:g}[{reward.name}]"

    def quantile(self, sample: Population) -> float:
        return weighted_quantile(self.reward.value(sample), sample.shares, self.level)


class CVaR(_Tail):
    """Mean reward of the worst share `level` of the density (lower is worse).

    The threshold is the `level` quantile of the sample: a small `level` needs thousands of points.
    """

    symbol = "CVaR"

    def value(self, sample: Population) -> float:
        r = self.reward.value(sample).double()
        q = weighted_quantile(r, sample.shares, self.level)
        # Rockafellar and Uryasev's form is exact where the quantile falls inside a point's weight.
        return q - sample.mean((q - r).clamp_min(0)) / self.level

    def first_variation(self, sample: Population) -> Reward:
        q = self.quantile(sample)
        return _piecewise(self.reward, q, below=1 / self.level, above=0.0, name=f"d {self.name}")


class SuperQuantile(_Tail):
    """Mean reward of the best share `1 - level` of the density."""

    symbol = "SQ"

    def value(self, sample: Population) -> float:
        r = self.reward.value(sample).double()
        q = weighted_quantile(r, sample.shares, self.level)
        return q + sample.mean((r - q).clamp_min(0)) / (1 - self.level)

    def first_variation(self, sample: Population) -> Reward:
        q = self.quantile(sample)
        rise = 1 / (1 - self.level)
        return _piecewise(self.reward, q, below=0.0, above=rise, name=f"d {self.name}")


class MeanVariance(Functional):
    """`E[r] - weight * Var[r]`: reward at low risk."""

    def __init__(self, reward: Reward, weight: float) -> None:
        if not math.isfinite(weight):
            raise UserError(f"a mean-variance weight of {weight}: it must be finite.")
        self.reward, self.weight = reward, weight
        self.name = f"MV_{weight:g}[{reward.name}]"

    def value(self, sample: Population) -> float:
        r = self.reward.value(sample).double()
        mean = sample.mean(r)
        return mean - self.weight * sample.mean((r - mean).square())

    def first_variation(self, sample: Population) -> Reward:
        mean = sample.mean(self.reward.value(sample))

        def derivative(r: Tensor) -> Tensor:
            return 1 - 2 * self.weight * (r - mean)

        return _through(
            self.reward,
            lambda r: r - self.weight * (r - mean).square(),
            derivative,
            f"d {self.name}",
        )


class Entropy(Functional):
    """`-E[log p]` of the density, in nats.

    Raises:
        UserError: for a sample that does not know its density; for a value, if that is not
            normalised.
    """

    name = "H"

    def value(self, sample: Population) -> float:
        density = _density_of(sample, self.name)
        if not density.normalised:
            raise UserError("the value of an entropy needs a normalised log-density.")
        mean = sample.mean(log_density_reward(density).value(sample))
        return log_normaliser(density) - mean

    def first_variation(self, sample: Population) -> Reward:
        return -log_density_reward(_density_of(sample, self.name))


class _Design(Functional):
    """Functionals of the information matrix `M = E[f f'] + ridge I`."""

    label = ""

    def __init__(self, features: Callable[[Any], Tensor], ridge: float = 1e-3) -> None:
        if not ridge >= 0:
            raise UserError(f"a ridge of {ridge}: it cannot be negative.")
        self.features, self.ridge, self.name = features, ridge, self.label

    def matrix(self, sample: Population) -> Tensor:
        """`M`, `(m, m)` float64."""
        with torch.no_grad():
            f = of_states(self.features, sample).double()
        m = (sample.shares[:, None] * f).T @ f
        return m + self.ridge * torch.eye(m.shape[0], dtype=torch.float64)

    def quadratic(self, a: Tensor) -> Reward:
        """`f' A f`."""

        def form(x: Any) -> Tensor:
            f = self.features(x)
            return torch.einsum("bi,ij,bj->b", f, a.to(f), f)

        return _of_features(form, self.features, f"d {self.name}")


class LogDet(_Design):
    """`log det M`: the volume that the features span (D-optimal design).

    Arguments:
        features: states to `(B, m)`.
        ridge: `l` in `M = E[f f'] + l I`.
    """

    label = "log det"

    def value(self, sample: Population) -> float:
        return float(torch.logdet(self.matrix(sample)))

    def first_variation(self, sample: Population) -> Reward:
        return self.quadratic(torch.linalg.inv(self.matrix(sample)))


class TraceInverse(_Design):
    """`-tr M^-1`, to be maximised: the mean variance of a linear fit (A-optimal design)."""

    label = "-tr inverse"

    def value(self, sample: Population) -> float:
        return -float(torch.linalg.inv(self.matrix(sample)).trace())

    def first_variation(self, sample: Population) -> Reward:
        inverse = torch.linalg.inv(self.matrix(sample))
        return self.quadratic(inverse @ inverse)


class LowestEigenvalue(_Design):
    """`lambda_min(M)`: the worst direction of a linear fit (E-optimal design).

    Where the lowest eigenvalue is degenerate this is one of many super-gradients.
    """

    label = "lambda min"

    def value(self, sample: Population) -> float:
        return float(torch.linalg.eigvalsh(self.matrix(sample))[0])

    def first_variation(self, sample: Population) -> Reward:
        u = torch.linalg.eigh(self.matrix(sample))[1][:, 0]
        return self.quadratic(torch.outer(u, u))


class LogBarrier(Functional):
    """`E[r] + weight * log(E[c] - bound)`: reward while a mean stays above a bound; minus infinity
    where it does not.

    Arguments:
        reward: `r`.
        constraint: `c`.
        bound: `C`; the density must satisfy `E[c] > C` from the start.
        weight: `b`; positive.

    Raises:
        UserError: for a weight or a bound that is none; for a first variation beyond the bound.
    """

    def __init__(self, reward: Reward, constraint: Reward, bound: float, weight: float) -> None:
        if not weight > 0:
            raise UserError(f"a barrier of weight {weight}: it must be positive.")
        if not math.isfinite(bound):
            raise UserError(f"a barrier at the bound {bound}: it must be finite.")
        self.reward, self.constraint, self.bound, self.weight = reward, constraint, bound, weight
        self.name = f"E[{reward.name}] + {weight:g} log(E[{constraint.name}] - {bound:g})"

    def _slack(self, sample: Population) -> float:
        return sample.mean(self.constraint.value(sample)) - self.bound

    def value(self, sample: Population) -> float:
        slack = self._slack(sample)
        if slack <= 0:  # a step that leads there is one to be halved
            return -math.inf
        return sample.mean(self.reward.value(sample)) + self.weight * math.log(slack)

    def first_variation(self, sample: Population) -> Reward:
        slack = self._slack(sample)
        if slack <= 0:
            raise UserError(
                f"the mean of {self.constraint.name} is {slack + self.bound:.4g}, not above the "
                f"bound {self.bound:g} of the barrier: start inside, or lower the bound."
            )
        return self.reward + (self.weight / slack) * self.constraint


class DiverseModes(Functional):
    """`-1/2 E[k(x, x')]` over independent pairs: points that repel each other.

    Arguments:
        features: states to `(B, m)`.
        bandwidth: `h` of the kernel `k = exp(-|f - f'|^2 / (2 h^2))`.
    """

    def __init__(self, features: Callable[[Any], Tensor], bandwidth: float) -> None:
        if not bandwidth > 0:
            raise UserError(f"a bandwidth of {bandwidth}: it must be positive.")
        self.features, self.bandwidth, self.name = features, bandwidth, "diverse modes"

    def _potential(self, sample: Population) -> Callable[[Any], Tensor]:
        with torch.no_grad():
            points, shares = of_states(self.features, sample), sample.shares

        def potential(x: Any) -> Tensor:
            f = self.features(x)
            kernel = torch.exp(-torch.cdist(f, points.to(f)).square() / (2 * self.bandwidth**2))
            return kernel @ shares.to(f)

        return potential

    def value(self, sample: Population) -> float:
        with torch.no_grad():
            return -0.5 * sample.mean(-self.first_variation(sample).value(sample))

    def first_variation(self, sample: Population) -> Reward:
        potential = self._potential(sample)
        return _of_features(lambda x: -potential(x), self.features, f"d {self.name}")


class InternalDiversity(Functional):
    """`-1/2 |E[f]|^2`: for unit vectors `f`, the mean cosine similarity of independent pairs.

    Unlike `DiverseModes` it holds no points, only their mean, and is linear in the features.

    Arguments:
        features: states to unit vectors, `(B, m)`.

    References:
        Polykovskiy et al., MOSES, Front. Pharmacol. 11, 565644 (2020) (internal diversity).
    """

    name = "internal diversity"

    def __init__(self, features: Callable[[Any], Tensor]) -> None:
        self.features = features

    def mean(self, sample: Population) -> Tensor:
        """`E[f]`, `(m,)` float64."""
        with torch.no_grad():
            return sample.shares @ of_states(self.features, sample).double()

    def value(self, sample: Population) -> float:
        return -0.5 * float(self.mean(sample).square().sum())

    def first_variation(self, sample: Population) -> Reward:
        mean = self.mean(sample)

        def slope(x: Any) -> Tensor:
            f = self.features(x)
            return -(f @ mean.to(f))

        return _of_features(slope, self.features, f"d {self.name}")


def _of_features(function: Callable[[Any], Tensor], features: Any, name: str) -> Reward:
    """A reward made of features of states, or of those that populations know."""
    return Reward(function, measured=isinstance(features, Column), name=name)


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise UserError(f"a level of {level}: it must lie between 0 and 1.")


def _density_of(sample: Population, name: str) -> Density:
    if sample.density is None:
        raise UserError(f"{name} needs a sample that knows its density.")
    return sample.density


def _piecewise(reward: Reward, q: float, below: float, above: float, name: str) -> Reward:
    """`below * (r - q)` where `r < q`, `above * (r - q)` elsewhere."""

    def value(r: Tensor) -> Tensor:
        return below * (r - q).clamp_max(0) + above * (r - q).clamp_min(0)

    return _through(reward, value, lambda r: torch.where(r < q, below, above), name)


def _through(
    reward: Reward,
    value: Callable[[Tensor], Tensor],
    derivative: Callable[[Tensor], Tensor],
    name: Any,
) -> Reward:
    """`value(r(x))`, with the gradient `derivative(r(x)) grad r(x)` by the reward's own."""
    return Reward(
        lambda x: value(reward.value(x)),
        gradient=lambda x: times(derivative(reward.value(x)), reward.gradient(x)),
        differentiable=reward.differentiable,
        derived=True,
        name=name,
    )
