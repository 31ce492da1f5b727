"""The mixture flow: its velocity, score, density and samples are one closed form."""

import itertools
import math

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from molflowctl.flows.flow import Flow
from molflowctl.flows.mixture import MixtureFlow
from molflowctl.flows.noise import BatchNoise

CORRELATED = {1: [[1.5]], 2: [[1.0, 0.6], [0.6, 1.2]]}
SPECS = {
    "line": {"weights": [3.0, 7.0], "means": [[-1.5], [1.0]], "sds": [0.3, 0.5]},
    "plane": {
        "weights": [0.5, 0.2, 0.3],
        "means": [[1.0, 0.0], [-1.0, 2.0], [0.0, -1.5]],
        "sds": [0.4, 0.3, 0.6],
    },
}
CASES = list(itertools.product(SPECS, [False, True], ["linear", "cosine"]))


def build(name: str, correlated: bool, path: str) -> MixtureFlow:
    spec = SPECS[name]
    covariance = CORRELATED[len(spec["means"][0])] if correlated else None
    return MixtureFlow(**spec, covariance=covariance, path=path)


def law(flow: MixtureFlow, t: float) -> MixtureSameFamily:
    """Of `x_t`, from its definition: data and noise add."""
    a, b, _, _ = flow.path.coefficients(t)
    d = flow.dimension
    noise = flow.covariance.power(torch.eye(d).double(), 1.0)
    spread = a**2 * flow.variances.double()[:, None, None] * torch.eye(d) + b**2 * noise
    components = MultivariateNormal(a * flow.means.double(), spread)
    return MixtureSameFamily(Categorical(logits=flow.log_weights.double()), components)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("t", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_score_is_c_times_the_gradient_of_the_log_density(case, t) -> None:
    flow = build(*case)
    x = law(flow, t).sample((20,)).requires_grad_()
    (gradient,) = torch.autograd.grad(law(flow, t).log_prob(x).sum(), x)
    score = flow.score_function(x.detach(), torch.full((20,), t).double())
    expected = flow.covariance.power(gradient, 1.0)
    torch.testing.assert_close(score, expected, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("t", [0.2, 0.6, 0.9])
def test_velocity_carries_the_density(case, t) -> None:
    """`d log p/dt = -div v - v.grad log p`, by finite differences in `t`."""
    flow, h = build(*case), 1e-4
    x = law(flow, t).sample((20,)).requires_grad_()
    (score,) = torch.autograd.grad(law(flow, t).log_prob(x).sum(), x)
    velocity = flow.velocity(x, torch.full((20,), t).double())
    slopes = [
        torch.autograd.grad(velocity[:, k].sum(), x, retain_graph=True)[0][:, k]
        for k in range(flow.dimension)
    ]
    with torch.no_grad():
        rate = (law(flow, t + h).log_prob(x) - law(flow, t - h).log_prob(x)) / (2 * h)
        expected = -sum(slopes) - (velocity * score).sum(1)
    torch.testing.assert_close(rate, expected, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_density_of_the_data(case) -> None:
    flow = build(*case)
    x = flow.exact_sample(50).double()
    torch.testing.assert_close(flow.log_density(x), law(flow, 1.0).log_prob(x))


@pytest.mark.parametrize("name", SPECS)
def test_exact_samples_have_the_moments_of_the_mixture(name) -> None:
    flow, n = MixtureFlow(**SPECS[name]), 40_000
    x = flow.exact_sample(n, seed=3)
    w, m = flow.log_weights.exp(), flow.means
    mean = w @ m
    second = torch.einsum("k,ki,kj->ij", w, m, m) + (w @ flow.variances) * torch.eye(m.shape[1])
    covariance = second - torch.outer(mean, mean)
    assert ((x.mean(0) - mean).abs() < 4 * (covariance.diagonal() / n).sqrt()).all()
    torch.testing.assert_close(torch.cov(x.T).view_as(covariance), covariance, rtol=0, atol=0.05)
    assert torch.equal(x, flow.exact_sample(n, seed=3))
    assert not torch.equal(x, flow.exact_sample(n, seed=4))


@pytest.mark.parametrize("correlated", [False, True], ids=["white", "correlated"])
def test_noise_starts_from_the_prior(correlated) -> None:
    flow, n = build("plane", correlated, "linear"), 40_000
    expected = torch.tensor(CORRELATED[2]) if correlated else torch.eye(2)
    torch.testing.assert_close(
        torch.cov(flow.start(n, BatchNoise(0)).T), expected, rtol=0, atol=0.04
    )


def test_an_untrained_correction_is_nothing_and_survives_the_disk(tmp_path) -> None:
    flow = build("plane", True, "cosine")
    free = flow.trainable(8, 1)
    x, t = flow.exact_sample(9), torch.linspace(0, 1, 9)
    assert torch.equal(free.endpoint(x, t), flow.endpoint(x, t))
    torch.nn.init.normal_(free.net[-1].weight)
    moved = free.endpoint(x, t) - flow.endpoint(x, t)
    assert (moved[:-1].abs().amax(1) > 0).all()
    assert moved[-1].abs().max() < 1e-6  # a correction fades where nothing is left to predict
    back = Flow.load(free.save(tmp_path / "flow", half=False))
    assert torch.equal(back.endpoint(x, t), free.endpoint(x, t))
    with pytest.raises(ValueError, match="no closed form"):
        free.log_density(x)


def test_weights_are_scaled() -> None:
    assert MixtureFlow(**SPECS["line"]).log_weights.exp().tolist() == pytest.approx([0.3, 0.7])
    flow = MixtureFlow([2.0], [[0.0]], [1.0])
    assert float(flow.log_density(torch.zeros(1, 1))) == pytest.approx(-0.5 * math.log(2 * math.pi))


@pytest.mark.parametrize(
    "parts",
    [
        ([0.5], [[0.0], [1.0]], [1.0, 1.0]),
        ([0.5, 0.5], [[0.0], [1.0]], [1.0]),
        ([0.5, -0.5], [[0.0], [1.0]], [1.0, 1.0]),
        ([0.5, 0.5], [[0.0], [1.0]], [1.0, 0.0]),
        ([0.5, 0.5], [0.0, 1.0], [1.0, 1.0]),
    ],
)
def test_parts_that_do_not_fit(parts) -> None:
    with pytest.raises(ValueError, match="as many positive weights"):
        MixtureFlow(*parts)
