r"""Estimators of `log p(x) - log q(x)` for two flows, at points `x` that are given.

Each is called `(p, q, x) -> (B,)` and fits `Flowing.ratio_of`. They see a flow through what it
really generates (`Likelihood`, `Classifier`) or through what it says of noised data
(`DenoisingDifference`, `Ito`: equal to the first two if the flow's endpoint is a posterior mean).

Two coordinates make the latter short. With `k = b/a` the level of noise and `y = x_t / a`, the
points of a flow are data plus noise of covariance `k^2 C`, whatever the path, and

    C grad_y log p(y) = (E[x_1|y] - y) / k^2.

Which to use, by bias, variance and time on closed forms: `benchmarks/analytic/ratios`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor

from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow
from molflowctl.flows.likelihood import log_likelihood
from molflowctl.flows.noise import BatchNoise
from molflowctl.flows.path import expand_time
from molflowctl.flows.samplers import Ancestral
from molflowctl.flows.state import AnyState, State, dot, first_part, select, times

__all__ = [
    "DenoisingDifference",
    "Ito",
    "Likelihood",
    "Ratio",
    "check_compatible",
    "flat",
    "heun_sample",
]


class Ratio(Protocol):
    """An estimator of log-ratios."""

    def __call__(self, p: Flow, q: Flow, x: Any) -> Tensor:
        """`log p(x) - log q(x)`, `(B,)`, natural logarithm."""


@dataclass(frozen=True)
class Likelihood:
    """The difference of two ODE likelihoods: exact up to the step size, two backward passes a step.

    Arguments:
        steps, trace, probes, seed: see `log_likelihood`; the probes are common to both flows.
    """

    steps: int = 30
    trace: str = "exact"
    probes: int = 1
    seed: int = 0

    def __call__(self, p: Flow, q: Flow, x: Any) -> Tensor:
        first, second = (
            log_likelihood(
                flow,
                x,
                steps=self.steps,
                trace=self.trace,  # type: ignore[arg-type]
                probes=self.probes,
                seed=self.seed,
            )
            for flow in (p, q)
        )
        return first - second


@dataclass(frozen=True)
class DenoisingDifference:
    r"""Half the integral over signal-to-noise of the difference of two denoising losses.

    The relation of information and minimum mean square error holds for every single point,

        log p(x) - log q(x) = 1/2 int_0^inf E|x - x1_hat_q(z)|^2 - E|x - x1_hat_p(z)|^2 dg,

    `g = (a/b)^2`, `z` the noised `x`, lengths in the metric `C^-1`. Both flows see the same noise,
    taken with both signs: the term of first order in it, which has no mean but most of the
    variance near the data, cancels. Data may be discrete: the ratio is then that of probabilities.
    Times are stratified; a pilot on a few points finds where the
    integrand is large, and its draws are spent there.

    Arguments:
        times: strata, one time for every element in each.
        probes: pairs of noises at each time; a pair costs two evaluations of either flow.
        latest: where the integral ends; what is left falls with `(1 - latest)^2`.
        seed: of times and noise.

    References:
        Kong, Brekelmans, Ver Steeg, Information-Theoretic Diffusion, 2023, arXiv 2302.03792.
        Guo, Shamai, Verdu, IEEE Trans. Inf. Theory 51, 1261 (2005).
    """

    times: int = 32
    probes: int = 1
    latest: float = 0.995
    seed: int = 0

    @torch.no_grad()
    def __call__(self, p: Flow, q: Flow, x: Any) -> Tensor:
        check_compatible(p, q, x)
        noise, batch = BatchNoise(self.seed, first_part(x).device), len(first_part(x))
        shares = self._pilot(p, q, x, noise)
        total = torch.zeros(batch, dtype=torch.float64, device=shares.device)
        for k in range(self.times):
            level = (k + noise.uniform(batch)) / self.times
            place, density = _inverse_cdf(shares, level)
            for _ in range(self.probes):
                total += self._integrand(p, q, x, place, noise).double() / density
        return (total / (self.times * self.probes)).to(first_part(x))

    def _integrand(self, p: Flow, q: Flow, x: Any, place: Tensor, noise: BatchNoise) -> Tensor:
        """Of the integral over `place` in [0, 1], with `1 - t` its square, `(B,)`."""
        end = 1 - (1 - self.latest) ** 0.5
        t = 1 - (1 - end * place).square()
        a, b, da, db = p.path.coefficients(t)
        weight = a * (da * b - a * db) / b**3 * 2 * end * (1 - end * place)  # 1/2 dg/d place
        spread = times(b, p.noise_like(x, noise))
        mean = times(a, x)
        both = torch.zeros_like(weight)
        for noised in (mean + spread, mean - spread):
            first, second = p.endpoint(noised, t), q.endpoint(noised, t)
            # |x - second|^2 - |x - first|^2, without the cancellation.
            gap = p.covariance.power(first - second, -1.0)
            both = both + dot(gap, times(2.0, x) - first - second)
        integrand: Tensor = weight * both / 2
        return integrand

    def _pilot(self, p: Flow, q: Flow, x: Any, noise: BatchNoise, bins: int = 24) -> Tensor:
        """Shares of the draws for equal bins of `place`, by the integrand on at most 64 points."""
        few = select(x, slice(0, 64))
        sizes = []
        for k in range(bins):
            place = (k + noise.uniform(len(first_part(few)))) / bins
            sizes.append(self._integrand(p, q, few, place, noise).double().square().mean().sqrt())
        size = torch.stack(sizes)
        if not float(size.sum()) > 0:  # the flows are one and the same
            size = torch.ones_like(size)
        return 0.8 * size / size.sum() + 0.2 / bins


@dataclass(frozen=True)
class Ito:
    r"""Log-densities accumulated along a path between noise and data, without a divergence.

    Along `dX = f dt + sigma C^1/2 dB`, with any drift `f`, Ito's formula and the continuity
    equation `d log p/dt = -div v - v.s` of a flow with velocity `v` and score `s` give

        d log p(X) = [(f - v).s + sigma^2/2 div(C s) - div v] dt + sigma s.C^1/2 dB.

    A score of a Gaussian path obeys `v = (a'/a) x + (b W / a) C s`, `W = a' b - a b'`. With the
    memoryless `sigma^2/2 = b W / a` the divergences cancel, `sigma^2/2 div(C s) - div v =
    -d a'/a`, and what is left needs the values of `s` and `v` alone:

        d log p(X) = s.(dX - v dt) - d (a'/a) dt.

    In `y = x/a`, `k = b/a`, `u = E[x_1|y] - y = k^2 C grad_y log p`, where noise falls at the rate
    `-dk^2`, the term in `d` is gone:

        d log p(y) = <u, C^-1 dy> / k^2 - 1/2 <u, C^-1 u> |dk^2| / k^4.

    The sum takes `u` where a step is noisiest. It starts from `N(E[x_1], k^2 C)`, which is what a
    flow is where `a` is small. Bias and variance fall with the number of steps. A log-density is
    the exact one of a Gaussian of covariance `width^2 C` plus the sums' difference to it, in
    which most of the error of the first, long steps cancels, as it does in a ratio.

    A path can be drawn by a flow (`generate`) or, for points that are given, by adding noise to
    them: then `E dy` is `(x - y) |dk^2| / k^2`, and the mean of the sum is that of
    `DenoisingDifference`.

    Arguments:
        steps: of the path; each evaluates every flow once.
        paths: averaged over, for each point that is given.
        latest: the last time at which a flow is asked; one step leads from there to the data.
        width: about the standard deviation of the data, in units of the noise's.
        common: one noise for all points of a batch. Most of the noise of a sum is that of the
            noise's own length, the same for all points then: differences between points have a
            third of the variance, while the mean over points has more.
        seed: of the noise.

    References:
        Skreta et al., The Superposition of Diffusion Models Using the Ito Density Estimator, 2024,
            arXiv 2412.17762.
    """

    steps: int = 64
    paths: int = 1
    latest: float = 0.99
    width: float = 1.0
    common: bool = False
    seed: int = 0

    def __call__(self, p: Flow, q: Flow, x: Any) -> Tensor:
        check_compatible(p, q, x)
        first, second = self.log_densities([p, q], x)
        return first - second

    def log_density(self, flow: Flow, x: Any) -> Tensor:
        """`log p(x)`, `(B,)`; fits `Flowing.log_density_of`."""
        return self.log_densities([flow], x)[0]

    @torch.no_grad()
    def log_densities(self, flows: list[Flow], x: Any) -> list[Tensor]:
        """`log p(x)` of every flow, `(B,)` each, on common noise; flows share path and prior."""
        kind = _CommonNoise if self.common else BatchNoise
        path, noise, grid = flows[0].path, kind(self.seed, first_part(x).device), self._grid()
        totals = [torch.zeros(1, dtype=torch.float64, device=first_part(x).device) for _ in flows]
        for _ in range(self.paths):
            y, after = x, 1.0
            for t in reversed(grid[:-1]):
                step = _noise_level(path, t) - _noise_level(path, after)
                move = times(step**0.5, flows[0].noise_like(x, noise))
                y, after = y + move, t
                gains = self._gains(flows, y, t, times(-1.0, move), step)
                totals = [total + gain for total, gain in zip(totals, gains, strict=True)]
            starts = self._starts(flows, y, after)
            totals = [total + start for total, start in zip(totals, starts, strict=True)]
        known = flows[0].covariance.log_density(x, self.width)
        return [known + (total / self.paths).to(known) for total in totals]

    @torch.no_grad()
    def generate(self, flow: Flow, others: list[Flow], n: int) -> tuple[Any, list[Tensor]]:
        """`n` points of `flow`, and their log-density under it and under every one of `others`.

        Returns:
            States, and `1 + len(others)` tensors `(n,)`.
        """
        noise, grid, flows = BatchNoise(self.seed, flow.device), self._grid(), [flow, *others]
        x = Ancestral().step(flow, flow.start(n, noise), 0.0, grid[0], noise)
        for other in others:
            check_compatible(flow, other, x)
        a = flow.path.coefficients(grid[0])[0]
        y = times(1 / a, x)
        totals = self._starts(flows, y, grid[0])
        for t, s in pairwise(grid):
            x = Ancestral().step(flow, times(flow.path.coefficients(t)[0], y), t, s, noise)
            new = times(1 / flow.path.coefficients(s)[0], x)
            step = _noise_level(flow.path, t) - _noise_level(flow.path, s)
            gains = self._gains(flows, y, t, new - y, step)
            totals = [total + gain for total, gain in zip(totals, gains, strict=True)]
            y = new
        known = flow.covariance.log_density(y, self.width)
        return y, [known + total.to(known) for total in totals]

    def _gains(self, flows: list[Flow], y: Any, t: float, move: Any, step: float) -> list[Tensor]:
        """What each `log p(y)` gains on the Gaussian's as `y` moves and `k^2` falls by `step`."""
        level, covariance = _noise_level(flows[0].path, t), flows[0].covariance

        def gain(u: Any) -> Tensor:
            dual = covariance.power(u, -1.0)
            return (dot(dual, move) / level - step / (2 * level**2) * dot(dual, u)).double()

        known = gain(self._gaussian(y, level))
        return [gain(_towards_data(flow, y, t)) - known for flow in flows]

    def _starts(self, flows: list[Flow], y: Any, t: float) -> list[Tensor]:
        """`log N(y; E[x_1|y], k^2 C)` of each flow, less the Gaussian's."""
        level, covariance = _noise_level(flows[0].path, t), flows[0].covariance
        known = covariance.log_density(self._gaussian(y, level), level**0.5)
        return [
            (covariance.log_density(_towards_data(flow, y, t), level**0.5) - known).double()
            for flow in flows
        ]

    def _gaussian(self, y: Any, level: float) -> Any:
        """`E[x_1|y] - y` of the Gaussian."""
        return times(-level / (level + self.width**2), y)

    def _grid(self) -> list[float]:
        """`steps` times before 1, dense towards `latest`, and 1."""
        end = 1 - (1 - self.latest) ** 0.5
        return [1 - (1 - end * k / self.steps) ** 2 for k in range(1, self.steps + 1)] + [1.0]


class _CommonNoise(BatchNoise):
    """The same normals for every element of a batch."""

    def normal(self, *shape: int) -> Tensor:
        return super().normal(1, *shape[1:]).expand(*shape)


def _noise_level(path: Any, t: float) -> float:
    """`k^2 = (b/a)^2`."""
    a, b, _, _ = path.coefficients(t)
    return float((b / a) ** 2)


def _towards_data(flow: Flow, y: Any, t: float) -> Any:
    """`E[x_1|y] - y`."""
    part = first_part(y)
    x = times(flow.path.coefficients(t)[0], y)
    return flow.endpoint(x, expand_time(t, len(part), part)) - y


def heun_sample(flow: Flow, n: int, seed: int) -> Any:
    """`n` states of a flow, by Heun's rule with 100 evaluations of its network."""
    return flow.sample(n, seed=seed, sampler="heun", nfe=100)


def _inverse_cdf(shares: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """Points of [0, 1] at cumulative `level`, and the density there, of a histogram."""
    cumulative = shares.cumsum(0) / shares.sum()
    bins = torch.searchsorted(cumulative, level.double()).clamp_max(len(shares) - 1)
    share = shares[bins] / shares.sum()
    inside = 1 - (cumulative[bins] - level) / share
    return ((bins + inside) / len(shares)).clamp(0, 1).to(level), share * len(shares)


def check_compatible(p: Flow, q: Flow, x: Any) -> None:
    """Raises: UserError, for flows that do not noise alike."""
    if p.path != q.path:
        raise UserError(f"flows of different paths, {p.path} and {q.path}: ratios need one.")
    alike = p.covariance.power(x, 0.5) - q.covariance.power(x, 0.5)
    if float(dot(alike, alike).max()) > 1e-6 * (1 + float(dot(x, x).max())):
        raise UserError("flows whose priors have different covariances: ratios need one.")


def flat(x: AnyState) -> Tensor:
    """The coordinates of every state, `(B, m)`."""
    parts = x.values() if isinstance(x, State) else [x]
    return torch.cat([part.flatten(1) for part in parts], 1)
