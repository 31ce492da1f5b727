"""The path's formulas against closed forms of Gaussian data `N(m, v)` with noise `N(0, c)`."""

import itertools
import math

import pytest
import torch

from molflowctl.flows.path import CosinePath, LinearPath, expand_time
from molflowctl.flows.state import State

PATH = LinearPath()
DATA = [(0.0, 1.0, 1.0), (1.5, 0.25, 1.0), (-2.0, 3.0, 0.5)]  # mean, variance, noise variance
TIMES = (0.0, 0.05, 0.5, 0.8, 0.99)
X = torch.linspace(-3, 3, 7, dtype=torch.float64)


def marginal(t, mean, variance, noise):
    """Mean and variance of `x_t`."""
    return t * mean, t**2 * variance + (1 - t) ** 2 * noise


def exact_velocity(x, t, mean, variance, noise):
    """`E[x_1 - x_0 | x_t]` by conditioning the joint Gaussian of `(x_1 - x_0, x_t)`."""
    centre, spread = marginal(t, mean, variance, noise)
    return mean + (t * variance - (1 - t) * noise) / spread * (x - centre)


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("t", TIMES)
def test_score_is_the_gradient_of_the_log_density(data, t) -> None:
    x = X.clone().requires_grad_()
    centre, spread = marginal(t, *data)
    log_density = -0.5 * (x - centre) ** 2 / spread
    (gradient,) = torch.autograd.grad(log_density.sum(), x)
    score = PATH.score(exact_velocity(X, t, *data), X, t)  # C times the gradient
    torch.testing.assert_close(score, data[2] * gradient, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("t", TIMES)
def test_endpoint_is_the_posterior_mean(data, t) -> None:
    mean, variance, _ = data
    centre, spread = marginal(t, *data)
    posterior = mean + t * variance / spread * (X - centre)
    velocity = exact_velocity(X, t, *data)
    torch.testing.assert_close(PATH.endpoint(velocity, X, t), posterior)
    torch.testing.assert_close(PATH.velocity(posterior, X, t), velocity)


@pytest.mark.parametrize("t", [0.3, torch.tensor([0.1, 0.9], dtype=torch.float64)])
def test_velocity_is_the_slope_of_a_path_whose_ends_are_known(t) -> None:
    g = torch.Generator().manual_seed(0)
    x0, x1 = (
        State(a=torch.randn(2, 3, generator=g).double(), b=torch.randn(2, 1, 4, generator=g))
        for _ in range(2)
    )
    xt = PATH.sample(x0, x1, t)
    v = PATH.velocity(x1, xt, t)
    for name in x1:
        torch.testing.assert_close(v[name], (x1 - x0)[name], check_dtype=False)
    for end, expected in ((0.0, x0), (1.0, x1)):
        assert torch.equal(PATH.sample(x0, x1, end)["a"], expected["a"])


def conditioned(t: float, s: float, noise: float) -> tuple[float, float, float]:
    """`x_s | x_t, x_1` of the memoryless process, by conditioning a joint Gaussian.

    Under the memoryless SDE `x_t = t x_1 + (1-t) e_t` where `x_t/t = x_1 + n_t` and `n_t` has
    independent increments that shrink: with `k = ((1-t)/t)^2` the covariance of `n_t` and `n_s` is
    the later, smaller `k_s`. Conditioning `n_s` on `n_t` gives mean `k_s/k_t n_t` and variance
    `k_s (1 - k_s/k_t)`.
    """
    kt, ks = ((1 - t) / t) ** 2, ((1 - s) / s) ** 2
    shrink = ks / kt
    return s * shrink / t, s * (1 - shrink), s**2 * ks * (1 - shrink) * noise


STEPS = [(0.1, 0.3), (0.5, 0.51), (0.2, 0.9), (0.9, 0.95), (0.3, 1.0)]


@pytest.mark.parametrize(("t", "s"), STEPS)
def test_ancestral_coefficients_are_those_of_the_gaussian_posterior(t, s) -> None:
    assert PATH.ancestral(t, s) == pytest.approx(conditioned(t, s, 1.0), abs=1e-14)


@pytest.mark.parametrize("s", [0.1, 0.7, 1.0])
def test_the_first_ancestral_step_forgets_its_start(s) -> None:
    assert PATH.ancestral(0.0, s) == pytest.approx((0, s, (1 - s) ** 2), abs=1e-15)


@pytest.mark.parametrize(("t", "s"), [(0.0, 0.4), *STEPS])
def test_an_ancestral_step_keeps_the_path_given_the_data(t, s) -> None:
    a, b, variance = PATH.ancestral(t, s)
    assert a * t + b == pytest.approx(s)  # mean s x_1
    assert a**2 * (1 - t) ** 2 + variance == pytest.approx((1 - s) ** 2)


@pytest.mark.parametrize(
    ("t", "u", "s"), list(itertools.combinations((0.0, 0.2, 0.6, 0.9, 1.0), 3))
)
def test_two_ancestral_steps_make_one(t, u, s) -> None:
    a, b, v = PATH.ancestral(t, u)
    a2, b2, v2 = PATH.ancestral(u, s)
    assert (a2 * a, a2 * b + b2, a2**2 * v + v2) == pytest.approx(PATH.ancestral(t, s), abs=1e-14)


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_short_ancestral_steps_are_the_memoryless_sde(t) -> None:
    h = 1e-5
    x, x1 = 0.7, -0.4
    a, b, variance = PATH.ancestral(t, t + h)
    v = (x1 - x) / (1 - t)
    assert (a * x + b * x1 - x) / h == pytest.approx(2 * v - x / t, rel=1e-3)
    assert variance / h == pytest.approx(PATH.memoryless_sigma(t) ** 2, rel=1e-3)


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_memoryless_sigma(t) -> None:
    """`2 b (a' b / a - b')` for `a = t`, `b = 1 - t`, from its derivation."""
    a, b, da, db = t, 1 - t, 1.0, -1.0
    assert PATH.memoryless_sigma(t) == pytest.approx(math.sqrt(2 * b * (da * b / a - db)))
    assert PATH.memoryless_sigma(torch.tensor(t)).item() == pytest.approx(PATH.memoryless_sigma(t))


def test_expand_time() -> None:
    like = torch.zeros(3, 2, dtype=torch.float64)
    assert torch.equal(expand_time(0.25, 3, like), torch.full((3,), 0.25, dtype=torch.float64))
    own = torch.tensor([0.1, 0.2, 0.3])
    assert expand_time(own, 3, like) is own


# Both paths, any churn ----------------------------------------------------------------------------

PATHS = {"linear": LinearPath(), "cosine": CosinePath()}
CHURNS = (0.0, 0.3, 1.0, 2.5)
both = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)


@both
def test_a_path_leads_from_noise_to_data(path) -> None:
    assert path.coefficients(0.0)[:2] == pytest.approx((0, 1))
    assert path.coefficients(1.0)[:2] == (1, 0)  # exactly: the end is the data
    early, late = (path.coefficients(t)[0] / path.coefficients(t)[1] for t in (0.3, 0.4))
    assert early < late


@both
@pytest.mark.parametrize("t", TIMES)
def test_coefficients_and_their_slopes(path, t) -> None:
    h = 1e-6
    a, b, da, db = path.coefficients(t)
    for place, slope in ((0, da), (1, db)):
        rate = (path.coefficients(t + h)[place] - path.coefficients(t - h)[place]) / (2 * h)
        assert slope == pytest.approx(rate, abs=1e-8)
    wronskian = 1.0 if isinstance(path, LinearPath) else math.pi / 2
    assert da * b - a * db == pytest.approx(wronskian)
    assert path.signal_to_noise(t) == pytest.approx((a / b) ** 2)
    several = path.coefficients(torch.tensor([t, t], dtype=torch.float64))
    torch.testing.assert_close(several[0], torch.full((2,), a, dtype=torch.float64))


def test_the_cosine_path_keeps_unit_variance() -> None:
    for t in TIMES:
        a, b, _, _ = PATHS["cosine"].coefficients(t)
        assert a**2 + b**2 == pytest.approx(1)


@both
@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("t", TIMES)
def test_three_units_of_one_knowledge(path, data, t) -> None:
    """Velocity, endpoint and score of Gaussian data, each from the joint law of `x_1, x_0, x_t`."""
    mean, variance, noise = data
    a, b, da, db = path.coefficients(t)
    spread, gap = a**2 * variance + b**2 * noise, X - a * mean
    velocity = da * mean + (a * da * variance + b * db * noise) / spread * gap
    endpoint = mean + a * variance / spread * gap
    torch.testing.assert_close(path.velocity(endpoint, X, t), velocity)
    torch.testing.assert_close(path.endpoint(velocity, X, t), endpoint)
    torch.testing.assert_close(path.score(velocity, X, t), -noise * gap / spread)


@both
@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_memoryless_sigma_of_both(path, t) -> None:
    """`2 b (a' b / a - b')`."""
    a, b, da, db = path.coefficients(t)
    assert path.memoryless_sigma(t) ** 2 == pytest.approx(2 * b * (da * b / a - db))


@both
@pytest.mark.parametrize(("t", "s"), [(0.0, 0.4), *STEPS])
def test_no_churn_is_the_implicit_step(path, t, s) -> None:
    """DDIM's: the noise that the endpoint implies is kept, `x_s = a_s x1_hat + b_s x0_hat`."""
    (a, b, _, _), (a2, b2, _, _) = path.coefficients(t), path.coefficients(s)
    x, x1 = 0.7, -0.4
    keep, pull, variance = path.ancestral(t, s, 0.0)
    assert variance == 0
    assert keep * x + pull * x1 == pytest.approx(a2 * x1 + b2 * (x - a * x1) / b)
    if isinstance(path, LinearPath):  # Euler's step, on a straight line
        assert keep * x + pull * x1 == pytest.approx(x + (s - t) * path.velocity(x1, x, t))


@both
@pytest.mark.parametrize(("t", "s"), STEPS)
def test_full_churn_is_the_gaussian_posterior(path, t, s) -> None:
    """As `conditioned`, with the noise level `k = (b/a)^2` of either path."""
    (a, b, _, _), (a2, b2, _, _) = path.coefficients(t), path.coefficients(s)
    kt, ks = (b / a) ** 2, (b2 / a2) ** 2
    expected = a2 * ks / kt / a, a2 * (1 - ks / kt), a2**2 * ks * (1 - ks / kt)
    assert path.ancestral(t, s) == pytest.approx(expected, abs=1e-14)
    assert path.ancestral(t, s) == path.ancestral(t, s, 1.0)


@both
@pytest.mark.parametrize("stochasticity", CHURNS)
@pytest.mark.parametrize(("t", "s"), [(0.0, 0.4), *STEPS])
def test_any_churn_keeps_the_path_given_the_data(path, stochasticity, t, s) -> None:
    (a, b, _, _), (a2, b2, _, _) = path.coefficients(t), path.coefficients(s)
    keep, pull, variance = path.ancestral(t, s, stochasticity)
    assert keep * a + pull == pytest.approx(a2)
    assert keep**2 * b**2 + variance == pytest.approx(b2**2, abs=1e-15)


@both
@pytest.mark.parametrize("stochasticity", CHURNS)
def test_two_steps_of_any_churn_make_one(path, stochasticity) -> None:
    for t, u, s in ((0.0, 0.2, 0.6), (0.2, 0.6, 0.9), (0.6, 0.9, 1.0)):
        a, b, v = path.ancestral(t, u, stochasticity)
        a2, b2, v2 = path.ancestral(u, s, stochasticity)
        assert (a2 * a, a2 * b + b2, a2**2 * v + v2) == pytest.approx(
            path.ancestral(t, s, stochasticity), abs=1e-14
        )


@both
@pytest.mark.parametrize("stochasticity", CHURNS)
@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_short_steps_follow_the_sde_of_their_churn(path, stochasticity, t) -> None:
    """`dX = [v + c sigma^2/2 C s] dt + c^1/2 sigma dB`."""
    h, x, x1 = 1e-6, 0.7, -0.4
    keep, pull, variance = path.ancestral(t, t + h, stochasticity)
    v, sigma2 = path.velocity(x1, x, t), path.memoryless_sigma(t) ** 2
    drift = v + stochasticity * sigma2 / 2 * path.score(v, x, t)
    assert (keep * x + pull * x1 - x) / h == pytest.approx(drift, rel=1e-3)
    assert variance / h == pytest.approx(stochasticity * sigma2, rel=1e-3, abs=1e-12)
