"""Every sampler turns noise into the data of an exact flow, at the order its scheme has."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from molflowctl.flows.flow import Flow
from molflowctl.flows.mixture import MixtureFlow as ExactMixture
from molflowctl.flows.noise import BatchNoise
from molflowctl.flows.path import CosinePath, LinearPath
from molflowctl.flows.samplers import (
    SAMPLERS,
    Ancestral,
    Euler,
    EulerMaruyama,
    Heun,
    draw,
    focused_grid,
    integrate,
    uniform_grid,
    window_grid,
)
from molflowctl.flows.state import State


class MixtureFlow(Flow):
    """The exact flow of a mixture of isotropic Gaussians, from unit noise."""

    def __init__(self, weights, means, variances) -> None:
        super().__init__()
        self.weights = torch.tensor(weights, dtype=torch.float64)
        self.means = torch.tensor(means, dtype=torch.float64)
        self.variances = torch.tensor(variances, dtype=torch.float64)

    def noise_like(self, x, noise):
        return noise.normal(*x.shape).double()

    def endpoint(self, x, t):
        t = t[:, None]
        spread = t**2 * self.variances + (1 - t) ** 2  # (B, K)
        gap = x[:, None] - t[..., None] * self.means  # (B, K, D)
        log_weight = (
            self.weights.log()
            - 0.5 * gap.square().sum(-1) / spread
            - 0.5 * x.shape[1] * spread.log()
        )
        means = self.means + (t * self.variances / spread)[..., None] * gap
        return (log_weight.softmax(1)[..., None] * means).sum(1)

    def moments(self):
        """Mean `(D,)` and variance of each coordinate `(D,)`."""
        mean = self.weights @ self.means
        second = self.weights @ (self.means.square() + self.variances[:, None])
        return mean, second - mean.square()


MIXTURES = {
    "line": ([0.3, 0.7], [[-1.5], [1.0]], [0.1, 0.3]),
    "plane": ([0.5, 0.2, 0.3], [[1.0, 0.0], [-1.0, 2.0], [0.0, -1.5]], [0.2, 0.1, 0.4]),
}


@pytest.mark.parametrize("mixture", MIXTURES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samples_have_the_moments_of_the_data(sampler, mixture) -> None:
    flow = MixtureFlow(*MIXTURES[mixture])
    n, noise = 4000, BatchNoise(7)
    x0 = noise.normal(n, flow.means.shape[1]).double()
    x = draw(flow, SAMPLERS[sampler], x0, focused_grid(200), noise)
    mean, variance = flow.moments()
    error = (variance / n).sqrt()
    assert ((x.mean(0) - mean).abs() < 4 * error).all()
    fourth = (x - mean).pow(4).mean(0)
    error = ((fourth - variance**2) / n).sqrt()
    # Half a per cent is left for the scheme of first order at 200 steps.
    assert ((x.var(0) - variance).abs() < 4 * error + 0.005 * variance).all()


@pytest.mark.parametrize("mixture", MIXTURES)
@pytest.mark.parametrize("sampler", ["ancestral", "euler-maruyama"])
def test_stochastic_samplers_forget_their_start(sampler, mixture) -> None:
    flow = MixtureFlow(*MIXTURES[mixture])
    noise = BatchNoise(1)
    x0 = noise.normal(4000, flow.means.shape[1]).double()
    x = draw(flow, SAMPLERS[sampler], x0, uniform_grid(100), noise)
    correlation = torch.corrcoef(torch.cat([x0, x], 1).T)[0, x0.shape[1]]
    assert abs(correlation) < 4 / math.sqrt(len(x))


def ode_error(sampler, steps: int) -> float:
    """Of the map `x_0 -> m + sqrt(v) x_0` that the ODE of a Gaussian is."""
    mean, variance = 0.8, 0.2
    flow = MixtureFlow([1.0], [[mean]], [variance])
    x0 = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    x = draw(flow, sampler, x0, uniform_grid(steps), BatchNoise(0))
    return (x - mean - math.sqrt(variance) * x0).abs().max().item()


@pytest.mark.parametrize(("sampler", "order"), [(Euler(), 1), (Heun(), 2)])
def test_order_of_the_deterministic_samplers(sampler, order) -> None:
    errors = [ode_error(sampler, steps) for steps in (80, 160, 320)]
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.15)


class Constant:
    """Noise of one value everywhere."""

    def __init__(self, value: float) -> None:
        self.value = value

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.full(shape, self.value, dtype=torch.float64)


def variance_drawn(sampler, steps: int, variance: float) -> float:
    """Variance of the samples of a Gaussian flow, without sampling: its steps are affine."""
    flow = MixtureFlow([1.0], [[0.0]], [variance])
    zero, one = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    spread = 1.0
    for t, s in pairwise(uniform_grid(steps)):
        slope = sampler.step(flow, one, t, s, Constant(0)).item()
        kick = sampler.step(flow, zero, t, s, Constant(1)).item()
        spread = slope**2 * spread + kick**2
    return spread


@pytest.mark.parametrize("sampler", ["ancestral", "euler-maruyama"])
@pytest.mark.parametrize("variance", [0.2, 2.0])
def test_stochastic_samplers_are_of_first_order_in_the_law(sampler, variance) -> None:
    errors = [variance_drawn(SAMPLERS[sampler], n, variance) - variance for n in (200, 400, 800)]
    assert abs(errors[-1]) < 0.01 * variance
    for coarse, fine in pairwise(errors):
        assert coarse / fine == pytest.approx(2, abs=0.25)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_point_is_reached_exactly(sampler) -> None:
    """Data that are one point, `x1_hat = m` everywhere, are met by the last step."""
    flow = MixtureFlow([1.0], [[0.5, -2.0]], [0.0])
    noise = BatchNoise(2)
    x = draw(flow, SAMPLERS[sampler], noise.normal(8, 2).double(), focused_grid(10), noise)
    torch.testing.assert_close(x, flow.means.expand(8, 2))


def test_euler_maruyama_starts_where_sigma_is_infinite() -> None:
    flow = MixtureFlow(*MIXTURES["line"])
    x = EulerMaruyama().step(flow, torch.ones(2, 1).double(), 0.0, 0.01, BatchNoise(0))
    assert torch.isfinite(x).all()


class Evaluations(MixtureFlow):
    count = 0

    def endpoint(self, x, t):
        self.count += 1
        return super().endpoint(x, t)


@pytest.mark.parametrize("name", SAMPLERS)
def test_evaluations_are_as_said(name) -> None:
    flow, sampler = Evaluations(*MIXTURES["line"]), SAMPLERS[name]
    sampler.step(flow, torch.ones(2, 1).double(), 0.2, 0.4, BatchNoise(0))
    assert flow.count == sampler.nfe


@pytest.mark.parametrize(
    "grid", [uniform_grid, focused_grid, lambda steps: window_grid(steps, 0.65, 0.9)]
)
@pytest.mark.parametrize("steps", [1, 2, 3, 50, 500])
def test_grids(grid, steps) -> None:
    times = grid(steps)
    assert len(times) == steps + 1
    assert times[0] == 0
    assert times[-1] == 1
    assert all(t < s for t, s in pairwise(times))


def test_the_focused_grid_has_its_density() -> None:
    times = np.array(focused_grid(500))
    middle, gap = (times[1:] + times[:-1]) / 2, np.diff(times)
    assert middle[gap.argmin()] == pytest.approx(2 / 3, abs=0.02)
    beta = middle**3 * (1 - middle) ** 1.5
    beta *= math.gamma(6.5) / math.gamma(4) / math.gamma(2.5)
    np.testing.assert_allclose(1 / (500 * gap), 0.3 + 0.7 * beta, rtol=0.01)


@pytest.mark.parametrize(("start", "stop"), [(0.1, 0.9), (0.65, 0.9), (0.5, 0.51)])
def test_four_in_five_steps_lie_in_the_window(start, stop) -> None:
    times = np.array(window_grid(60, start, stop))
    assert (times < start - 1e-9).sum() == 6
    assert (times > stop + 1e-9).sum() == 6
    np.testing.assert_allclose(np.diff(times[6:55]), (stop - start) / 48)


def test_trajectories_keep_every_state() -> None:
    flow, grid = MixtureFlow(*MIXTURES["plane"]), focused_grid(5)
    x0 = BatchNoise(0).normal(3, 2).double()
    walk = integrate(flow, SAMPLERS["ancestral"], x0, grid, BatchNoise(1))
    assert walk.times == grid
    assert len(walk.states) == 6
    assert torch.equal(walk.states[0], x0)
    end = draw(flow, SAMPLERS["ancestral"], x0, grid, BatchNoise(1))
    assert torch.equal(walk.states[-1], end)
    assert torch.equal(flow.transport(x0, SAMPLERS["ancestral"], grid, BatchNoise(1)), end)


class Halves(Flow):
    """A flow on a named state whose data are the point one."""

    def noise_like(self, x, noise):
        return x.map(lambda part: noise.normal(*part.shape))

    def endpoint(self, x, t):
        return x.map(torch.ones_like)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_named_states_are_sampled_as_tensors_are(sampler) -> None:
    x0 = State(a=torch.randn(2, 3), b=torch.randn(2, 4, 5))
    x = draw(Halves(), SAMPLERS[sampler], x0, uniform_grid(4), BatchNoise(0))
    for part in x.values():
        torch.testing.assert_close(part, torch.ones_like(part))


# Both paths, correlated noise, churn --------------------------------------------------------------

WALKS = {
    **SAMPLERS,
    "churn 0": Ancestral(stochasticity=0.0),
    "churn 0.5": Ancestral(stochasticity=0.5),
    "churn 2": Ancestral(stochasticity=2.0),
}


@pytest.mark.parametrize("path", ["linear", "cosine"])
@pytest.mark.parametrize("name", WALKS)
def test_moments_under_correlated_noise(name, path) -> None:
    """The noise's covariance is forgotten, whatever path leads away from it."""
    flow = ExactMixture(
        [0.5, 0.2, 0.3],
        [[1.0, 0.0], [-1.0, 2.0], [0.0, -1.5]],
        [0.5, 0.4, 0.6],
        covariance=[[1.0, 0.6], [0.6, 1.2]],
        path=path,
    )
    n, noise = 2500, BatchNoise(5)
    x = draw(flow, WALKS[name], flow.start(n, noise), uniform_grid(100), noise)
    weights, means = flow.log_weights.exp(), flow.means
    mean = weights @ means
    assert ((x.mean(0) - mean).abs() < 4 * (x.var(0) / n).sqrt() + 0.01).all()
    second = torch.einsum("k,ki,kj->ij", weights, means, means)
    second = second + (weights @ flow.variances) * torch.eye(2) - torch.outer(mean, mean)
    gap = x - x.mean(0)
    products = torch.einsum("ni,nj->nij", gap, gap)
    error = products.std(0) / n**0.5
    assert ((products.mean(0) - second).abs() < 4 * error + 0.02 * second.diagonal().max()).all()


@pytest.mark.parametrize("path", [LinearPath(), CosinePath()], ids=["linear", "cosine"])
@pytest.mark.parametrize("stochasticity", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("variance", [0.2, 2.0])
def test_any_churn_keeps_the_law_of_a_gaussian(stochasticity, path, variance) -> None:
    """At every time of the walk, to first order in the step; without sampling."""
    sampler, errors = Ancestral(stochasticity=stochasticity), []
    flow = Gaussian(variance, path)
    zero, one = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    for steps in (200, 400):
        spread, worst = 1.0, 0.0
        for t, s in pairwise(uniform_grid(steps)):
            slope = sampler.step(flow, one, t, s, Constant(0)).item()
            kick = sampler.step(flow, zero, t, s, Constant(1)).item()
            spread = slope**2 * spread + kick**2
            a, b, _, _ = path.coefficients(s)
            worst = max(worst, abs(spread / (a**2 * variance + b**2) - 1))
        errors.append(worst)
    assert errors[1] < 0.05
    assert errors[1] < 0.6 * errors[0]


class Gaussian(Flow):
    """`x_1 ~ N(0, variance)` from unit noise, along any path."""

    def __init__(self, variance, path) -> None:
        super().__init__()
        self.variance, self.path = variance, path

    def noise_like(self, x, noise):
        return noise.normal(*x.shape)

    def endpoint(self, x, t):
        a, b, _, _ = self.path.coefficients(t)
        return (a * self.variance / (a**2 * self.variance + b**2))[:, None] * x
