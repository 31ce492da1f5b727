"""The integrated log-likelihood against closed forms, in the density's own units (nats)."""

import math

import pytest
import torch

from molflowctl.flows.covariance import Dense
from molflowctl.flows.flow import Flow
from molflowctl.flows.likelihood import log_likelihood
from molflowctl.flows.mixture import MixtureFlow
from molflowctl.flows.path import CosinePath, LinearPath
from molflowctl.flows.state import State

CORRELATED = {1: [[1.5]], 2: [[1.0, 0.6], [0.6, 1.2]]}
MIXTURES = {
    "line": {"weights": [0.3, 0.7], "means": [[-1.5], [1.0]], "sds": [0.3, 0.5]},
    "narrow line": {"weights": [0.3, 0.7], "means": [[-2.0], [1.5]], "sds": [0.15, 0.2]},
    "plane": {
        "weights": [0.5, 0.2, 0.3],
        "means": [[1.0, 0.0], [-1.0, 2.0], [0.0, -1.5]],
        "sds": [0.4, 0.3, 0.6],
    },
}


class Gaussian(Flow):
    """`x_1 ~ N(mean, variance C)` on any states, from noise `N(0, C)`."""

    def __init__(self, mean: float, variance: float, path=None) -> None:
        super().__init__()
        self.mean, self.variance, self.path = mean, variance, path or LinearPath()

    def noise_like(self, x, noise):
        if isinstance(x, State):
            return x.map(lambda part: noise.normal(*part.shape).to(part))
        return super().noise_like(x, noise)

    def endpoint(self, x, t):
        if isinstance(x, State):
            return x.map(lambda part: self.endpoint(part, t))
        a, b, _, _ = (
            torch.as_tensor(c).view(-1, *[1] * (x.ndim - 1)) for c in self.path.coefficients(t)
        )
        gain = a * self.variance / (a**2 * self.variance + b**2)
        return self.mean + gain * (x - a * self.mean)

    def log_density(self, x):
        """For `C = 1`."""
        parts = x.values() if isinstance(x, State) else [x]
        return sum(
            -0.5
            * ((p - self.mean) ** 2 / self.variance + math.log(2 * math.pi * self.variance))
            .flatten(1)
            .sum(1)
            for p in parts
        )


@pytest.mark.parametrize("path", ["linear", "cosine"])
@pytest.mark.parametrize("correlated", [False, True], ids=["white", "correlated"])
@pytest.mark.parametrize("name", MIXTURES)
def test_likelihood_of_a_mixture(name, correlated, path) -> None:
    spec = MIXTURES[name]
    covariance = CORRELATED[len(spec["means"][0])] if correlated else None
    flow = MixtureFlow(**spec, covariance=covariance, path=path)
    x = flow.exact_sample(250, 1)
    error = (log_likelihood(flow, x) - flow.log_density(x)).abs()
    assert error.mean() < 1e-3
    finer = (log_likelihood(flow, x, steps=60) - flow.log_density(x)).abs()
    assert finer.max() < 5e-3


def test_the_scheme_is_of_fourth_order() -> None:
    flow = Gaussian(0.5, 0.3)
    x = torch.linspace(-1, 2, 7, dtype=torch.float64)[:, None]
    errors = [(log_likelihood(flow, x, steps=n) - flow.log_density(x)).abs().max() for n in (8, 16)]
    assert math.log2(errors[0] / errors[1]) > 3.5


@pytest.mark.parametrize("path", [LinearPath(), CosinePath()], ids=["linear", "cosine"])
@pytest.mark.parametrize("variance", [0.05, 1.0, 4.0])
def test_named_states_are_as_likely_as_their_parts_together(variance, path) -> None:
    flow = Gaussian(0.7, variance, path)
    x = State(a=torch.randn(5, 2, 3).double(), b=torch.randn(5, 4).double())
    expected = flow.log_density(x)
    torch.testing.assert_close(log_likelihood(flow, x), expected, rtol=0, atol=1e-3)
    # The Jacobian is a multiple of the unit matrix: one probe of signs gives its trace.
    estimate = log_likelihood(flow, x, trace="hutchinson")
    torch.testing.assert_close(estimate, expected, rtol=0, atol=1e-3)


def test_the_directions_without_noise_do_not_count() -> None:
    """A Gaussian on the plane of zero centroid, `N(0, 0.25 C)` with `C` a projector times two."""
    flow = Gaussian(0.0, 0.25)
    flow.covariance = Dense(2 * (torch.eye(3) - 1 / 3))
    x = torch.randn(6, 3).double()
    x = x - x.mean(1, keepdim=True)
    expected = -0.5 * x.square().sum(1) / 0.5 - math.log(2 * math.pi * 0.5)
    torch.testing.assert_close(log_likelihood(flow, x), expected, rtol=0, atol=1e-4)


def test_hutchinson_has_no_bias() -> None:
    flow = MixtureFlow(**MIXTURES["plane"], covariance=CORRELATED[2])
    x = flow.exact_sample(4, 2)
    draws = 200
    many = x.repeat(draws, 1)
    estimates = log_likelihood(flow, many, trace="hutchinson", seed=3).view(draws, -1)
    error = estimates.std(0) / math.sqrt(draws)
    assert error.max() < 0.05
    assert ((estimates.mean(0) - flow.log_density(x)).abs() < 4 * error + 1e-3).all()
    four = log_likelihood(flow, many, trace="hutchinson", probes=4).view(draws, -1)
    assert four.var(0).sum() / estimates.var(0).sum() == pytest.approx(0.25, rel=0.4)


def test_the_density_of_a_corrected_flow_integrates_to_one() -> None:
    """Also where there is no closed form: mass is conserved."""
    torch.manual_seed(0)
    flow = MixtureFlow(**MIXTURES["plane"], width=16)
    torch.nn.init.normal_(flow.net[-1].weight, std=0.3)
    axis = torch.linspace(-5, 5, 61)
    grid = torch.cartesian_prod(axis, axis)
    density = log_likelihood(flow, grid).exp()
    assert float(density.sum()) * float(axis[1] - axis[0]) ** 2 == pytest.approx(1, abs=2e-3)
    assert not density.requires_grad
    base = MixtureFlow(**MIXTURES["plane"]).log_density(grid).exp()
    assert (density - base).abs().max() > 0.02  # the correction is not nothing


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"probes": 0}, {"trace": "half"}])
def test_what_is_wrong_is_said(wrong) -> None:
    with pytest.raises(ValueError, match="the trace is 'exact' or 'hutchinson'"):
        log_likelihood(Gaussian(0.0, 1.0), torch.zeros(2, 1), **wrong)
