"""Log-ratios of two flows against closed forms, with errors that no wrong sign or factor has."""

import math

import pytest
import torch

from molflowctl.control.objectives.classifier import Classifier
from molflowctl.control.objectives.ratios import DenoisingDifference, Ito, Likelihood
from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow
from molflowctl.flows.mixture import MixtureFlow
from molflowctl.flows.state import State

CORRELATED = {1: [[1.5]], 2: [[1.0, 0.6], [0.6, 1.2]]}
PAIRS = {
    "line": (
        {"weights": [0.3, 0.7], "means": [[-1.5], [1.0]], "sds": [0.3, 0.5]},
        {"weights": [0.6, 0.4], "means": [[-1.0], [1.2]], "sds": [0.5, 0.6]},
    ),
    "plane": (
        {"weights": [0.6, 0.4], "means": [[1.0, 0.0], [-1.0, 1.0]], "sds": [0.4, 0.5]},
        {"weights": [0.3, 0.7], "means": [[0.8, 0.2], [-1.0, 0.5]], "sds": [0.6, 0.5]},
    ),
}
ESTIMATORS = {
    "likelihood": Likelihood(20),
    "likelihood, probes": Likelihood(20, "hutchinson", probes=2),
    "denoising": DenoisingDifference(64),
    "denoising, few times": DenoisingDifference(8, probes=8),
    "ito": Ito(128),
    "ito, several paths": Ito(128, paths=2),
}


def pair(name, correlated=False, path="linear") -> tuple[MixtureFlow, MixtureFlow]:
    covariance = CORRELATED[len(PAIRS[name][0]["means"][0])] if correlated else None
    first, second = (MixtureFlow(**s, covariance=covariance, path=path) for s in PAIRS[name])
    return first, second


def check(estimate: torch.Tensor, truth: torch.Tensor) -> None:
    """Right on the whole, and right point by point up to noise that has no mean."""
    error = estimate - truth
    assert estimate.shape == truth.shape
    assert abs(error.mean()) < 4 * error.std() / math.sqrt(len(error)) + 0.04 * truth.std()
    slope = ((estimate - estimate.mean()) * (truth - truth.mean())).mean() / truth.var()
    assert slope == pytest.approx(1, abs=0.08)
    assert error.std() < 0.4 * truth.std()


@pytest.mark.parametrize(
    ("name", "correlated", "path"),
    [("line", False, "linear"), ("line", True, "cosine"), ("plane", True, "linear"),
     ("plane", False, "cosine")],
)  # fmt: skip
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_ratios_of_mixtures(estimator, name, correlated, path) -> None:
    p, q = pair(name, correlated, path)
    x = torch.cat([p.exact_sample(500, 1), q.exact_sample(500, 2)])
    check(ESTIMATORS[estimator](p, q, x), p.log_density(x) - q.log_density(x))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_ratio_to_oneself_is_nothing_and_turns_sign(estimator) -> None:
    p, q = pair("plane")
    x, ratio = p.exact_sample(20), ESTIMATORS[estimator]
    assert ratio(p, p, x).abs().max() < 1e-6
    torch.testing.assert_close(ratio(p, q, x), -ratio(q, p, x))
    assert torch.equal(ratio(p, q, x), ratio(p, q, x))


def test_denoising_errors_fall_as_the_root_of_the_times() -> None:
    p, q = pair("plane")
    x = p.exact_sample(1000, 1)
    truth = p.log_density(x) - q.log_density(x)
    few, many = ((DenoisingDifference(k)(p, q, x) - truth).std() for k in (8, 128))
    assert few / many == pytest.approx(4, rel=0.3)


def test_denoising_differences_have_no_bias() -> None:
    p, q = pair("plane", True, "cosine")
    x = p.exact_sample(3, 4)
    truth = p.log_density(x) - q.log_density(x)
    draws = 1500
    estimates = DenoisingDifference(16)(p, q, x.repeat(draws, 1)).view(draws, -1)
    error = estimates.std(0) / math.sqrt(draws)
    assert error.max() < 0.03
    assert ((estimates.mean(0) - truth).abs() < 4 * error + 2e-3).all()


@pytest.mark.parametrize("path", ["linear", "cosine"])
@pytest.mark.parametrize("correlated", [False, True], ids=["white", "correlated"])
def test_ito_densities_converge_to_the_exact_ones(correlated, path) -> None:
    """Along trajectories of one flow and along noise added to points that are given."""
    p, q = pair("plane", correlated, path)
    coarse, fine = ({}, {})
    for steps, errors in ((32, coarse), (256, fine)):
        ito = Ito(steps, latest=0.995)
        x, drawn = ito.generate(p, [q], 1000)
        given = p.exact_sample(1000, 2)
        added = ito.log_densities([p, q], given)
        for name, flow, one, two in (("p", p, drawn[0], added[0]), ("q", q, drawn[1], added[1])):
            errors[name, "drawn"] = one - flow.log_density(x)
            errors[name, "given"] = two - flow.log_density(given)
    for key, error in fine.items():
        assert abs(error.mean()) < 0.04, key
        assert error.std() < 0.5 * coarse[key].std(), key
        assert error.std() < 0.2, key


def test_ito_draws_from_the_flow_that_is_asked() -> None:
    p, q = pair("plane")
    x, densities = Ito(64).generate(p, [q, p], 2000)
    assert len(densities) == 3
    torch.testing.assert_close(densities[0], densities[2])
    mean, exact = x.mean(0), p.exact_sample(2000)
    error = (x.var(0) / len(x) * 2).sqrt()
    assert ((mean - exact.mean(0)).abs() < 4 * error).all()


def test_common_noise_cancels_in_differences_of_points() -> None:
    """Of a Gaussian in 30 dimensions: right for differences, with less noise than apart."""
    p = MixtureFlow([1.0], [[0.0] * 30], [0.7])
    x = p.exact_sample(200, 1)
    truth = p.log_density(x)
    centred, spreads = truth - truth.mean(), {}
    for common in (False, True):
        every = [
            Ito(128, latest=0.95, width=0.5, common=common, seed=k).log_density(p, x) - truth
            for k in range(8)
        ]
        errors = torch.stack([error - error.mean() for error in every])
        spreads[common] = float(errors.std())
        slope = float((errors.mean(0) * centred).mean() / centred.var())
        assert slope == pytest.approx(0, abs=0.05), common
    assert spreads[True] < 0.6 * spreads[False]


class Product(Flow):
    """Two independent mixtures as the parts of a named state."""

    def __init__(self, line: MixtureFlow, plane: MixtureFlow) -> None:
        super().__init__()
        self.parts = torch.nn.ModuleDict({"line": line, "plane": plane})

    def endpoint(self, x, t):
        return State(**{k: self.parts[k].endpoint(part, t) for k, part in x.items()})

    def noise_like(self, x, noise):
        return x.map(lambda part: noise.normal(*part.shape).to(part))

    def start(self, batch, noise):
        return State(**{k: flow.start(batch, noise) for k, flow in self.parts.items()})

    def exact_sample(self, n, seed):
        return State(**{k: flow.exact_sample(n, seed) for k, flow in self.parts.items()})

    def log_density(self, x):
        return sum(self.parts[k].log_density(part) for k, part in x.items())


@pytest.mark.parametrize("estimator", ["likelihood", "denoising", "ito"])
def test_ratios_of_named_states(estimator) -> None:
    p, q = (Product(pair("line")[k], pair("plane")[k]) for k in (0, 1))
    x = p.exact_sample(400, 1)
    check(ESTIMATORS[estimator](p, q, x), p.log_density(x) - q.log_density(x))
    y, (of_p, of_q) = Ito(256).generate(p, [q], 200)
    assert isinstance(y, State)
    check(of_p - of_q, p.log_density(y) - q.log_density(y))


class Coin(Flow):
    """Data that are one point with the given probability, else minus one."""

    def __init__(self, heads: float) -> None:
        super().__init__()
        self.bias = math.log(heads / (1 - heads)) / 2

    def endpoint(self, x, t):
        a, b, _, _ = self.path.coefficients(t[:, None])
        return torch.tanh(self.bias + a * x / b**2)


def test_denoising_differences_know_probabilities_of_discrete_data() -> None:
    """Where there is no density, the ratio is that of the probabilities."""
    p, q, n = Coin(0.8), Coin(0.3), 1000
    for x, truth in ((1.0, math.log(0.8 / 0.3)), (-1.0, math.log(0.2 / 0.7))):
        estimate = DenoisingDifference(16)(p, q, torch.full((n, 1), x))
        error = float(estimate.std()) / math.sqrt(n)
        assert error < 0.05
        assert float(estimate.mean()) == pytest.approx(truth, abs=4 * error)


def test_a_classifier_learns_the_ratio_and_says_how_well() -> None:
    p, q = pair("plane")
    x = p.exact_sample(800, 1)
    classifier = Classifier(samples=6000, steps=250)
    fit = classifier.fit(p, q)
    with torch.no_grad():
        check(fit.logit(x), p.log_density(x) - q.log_density(x))
    both = [p.exact_sample(4000, 5), q.exact_sample(4000, 6)]
    exact = [p.log_density(b) - q.log_density(b) for b in both]
    least = 0.5 * float((1 + (-exact[0]).exp()).log().mean() + (1 + exact[1].exp()).log().mean())
    assert fit.calibration.loss == pytest.approx(least, abs=0.03)
    assert fit.calibration.error < 0.05
    assert fit.calibration.mass == pytest.approx(1, abs=0.1)


def test_a_classifier_takes_any_network_and_any_state() -> None:
    """The quadratic logit of two Gaussians is learned exactly, and the module stays as it was."""
    p, q = (
        Product(MixtureFlow([1.0], [[m]], [1.0]), MixtureFlow([1.0], [[0.0, 0.0]], [1.0]))
        for m in (0.5, -0.5)
    )

    class Linear(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.slope = torch.nn.Parameter(torch.zeros(()))

        def forward(self, x):
            return self.slope * x["line"][:, 0]

    network = Linear()
    classifier = Classifier(
        network, samples=8000, steps=200, lr=0.02, draw=lambda flow, n, s: flow.exact_sample(n, s)
    )
    x = p.exact_sample(5, 3)
    torch.testing.assert_close(classifier(p, q, x), x["line"][:, 0], rtol=0.1, atol=0)
    assert network.slope == 0
    assert not classifier(p, q, x).requires_grad


@pytest.mark.parametrize("estimator", [DenoisingDifference(4), Ito(4)], ids=["denoising", "ito"])
def test_flows_that_do_not_noise_alike(estimator) -> None:
    p, _ = pair("plane")
    x = p.exact_sample(4)
    with pytest.raises(UserError, match="different paths"):
        estimator(p, pair("plane", path="cosine")[1], x)
    with pytest.raises(UserError, match="different covariances"):
        estimator(p, pair("plane", True)[1], x)
