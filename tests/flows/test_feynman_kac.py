"""Feynman-Kac correctors draw products of densities, which sums of scores do not."""

import math

import pytest
import torch

from molflowctl.flows.feynman_kac import draw_product
from molflowctl.flows.mixture import MixtureFlow
from molflowctl.flows.noise import BatchNoise, IndexedNoise

GRID = [k / 60 * 0.98 for k in range(61)]


def product(a, b, weights, n, *, particles, noise=None, grid=GRID):
    def endpoints(x, t):
        return [a.endpoint(x, t), b.endpoint(x, t)]

    x = torch.zeros(n, a.dimension)
    noise = noise or BatchNoise(0)
    return draw_product(a, endpoints, weights, x, grid, noise, particles=particles)


def gaussian(mean: float, sd: float) -> MixtureFlow:
    return MixtureFlow([1.0], [[mean]], [sd])


def noised_product(parts, weights, t: float):
    """Mean and variance of `prod N(t m_i, t^2 s_i^2 + (1-t)^2)^w_i`."""
    precision = mean = 0.0
    for (m, s), w in zip(parts, weights, strict=True):
        one = w / (t**2 * s**2 + (1 - t) ** 2)
        precision, mean = precision + one, mean + one * t * m
    return mean / precision, 1 / precision


@pytest.mark.parametrize(
    ("parts", "weights"),
    [
        ([(-1.0, 0.5), (1.0, 1.0)], (0.5, 0.5)),
        ([(-1.0, 0.5), (1.0, 0.8)], (0.2, 0.8)),
        ([(0.3, 0.6), (0.0, 1.2)], (1.5, -0.5)),
    ],
)
def test_products_of_gaussians(parts, weights):
    n = 8000
    x = product(*(gaussian(*part) for part in parts), weights, n, particles=48)[:, 0].double()
    mean, variance = noised_product(parts, weights, GRID[-1])
    assert float(x.mean()) == pytest.approx(mean, abs=4 * math.sqrt(variance / n) + 0.01)
    assert float(x.var()) == pytest.approx(variance, rel=4 * math.sqrt(2 / n) + 0.05)


def test_what_a_sum_of_scores_gets_wrong():
    """Two modes, which the parts hold to be equally likely but of other widths."""
    a = MixtureFlow([0.5, 0.5], [[-1.5], [1.5]], [0.2, 0.6])
    b = MixtureFlow([0.5, 0.5], [[-1.0], [1.5]], [0.2, 0.6])
    grid = torch.linspace(-5, 5, 4001)[:, None]
    density = (0.5 * a.log_density(grid) + 0.5 * b.log_density(grid)).double().softmax(0)
    exact = float(density[grid[:, 0] < 0].sum())
    n = 4000
    # A swarm of one is a sum of scores. It leads to the same modes, with other masses.
    found = [
        float((product(a, b, (0.5, 0.5), n, particles=k)[:, 0] < 0).double().mean())
        for k in (1, 64)
    ]
    noise = 4 * math.sqrt(exact * (1 - exact) / n)
    assert abs(found[0] - exact) > 2 * noise
    assert abs(found[1] - exact) < noise + 0.01


def test_a_flow_with_itself_is_itself():
    a = MixtureFlow([0.3, 0.7], [[-1.5], [1.0]], [0.3, 0.5])
    both = product(a, a, (0.4, 0.6), 3000, particles=4)[:, 0]
    assert float((both < -0.25).double().mean()) == pytest.approx(0.3, abs=0.045)


def test_a_sample_depends_on_its_own_noise_alone():
    a, b = gaussian(-1.0, 0.5), gaussian(1.0, 1.0)

    def draw(index):
        noise = IndexedNoise(3, index)
        return product(a, b, (0.5, 0.5), len(index), particles=5, noise=noise)

    # Swarms are drawn anew at different times: each alone at its own, some of 32 at every one.
    together, alone = draw(torch.arange(32)), [draw(torch.tensor([k])) for k in range(32)]
    torch.testing.assert_close(together, torch.cat(alone))


@pytest.mark.parametrize(("weights", "grid"), [((0.5, 0.6), GRID), ((0.5, 0.5), [0.0, 0.5, 1.0])])
def test_what_has_no_weights_is_refused(weights, grid):
    with pytest.raises(ValueError, match="add up to one"):
        product(gaussian(0, 1), gaussian(1, 1), weights, 2, particles=2, grid=grid)
