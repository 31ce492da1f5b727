"""The harmonic prior against the pseudo-inverse of its Laplacian, by algebra and by draws."""

import math

import pytest
import torch

from molflowctl.flows.covariance import Harmonic
from molflowctl.flows.noise import BatchNoise


def laplacian(nodes: int, bonds: list[tuple[int, int]]) -> torch.Tensor:
    matrix = torch.zeros(nodes, nodes, dtype=torch.float64)
    for i, j in bonds:
        matrix[i, j] = matrix[j, i] = -1
    return matrix - torch.diag(matrix.sum(1))


CHAIN = laplacian(5, [(0, 1), (1, 2), (2, 3), (3, 4)])
RING = laplacian(5, [(0, 1), (1, 2), (2, 3), (3, 0), (0, 4)])
BOTH = torch.stack([CHAIN, RING])


def centred(batch: int, nodes: int = 5, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, nodes, 3, generator=generator, dtype=torch.float64)
    return x - x.mean(1, keepdim=True)


@pytest.mark.parametrize("exponent", [-1.0, -0.5, 0.0, 0.5, 1.0, 2.0])
def test_powers_of_the_pseudo_inverse(exponent):
    x = torch.randn(4, 5, 3, dtype=torch.float64)  # centroids anywhere
    found = Harmonic(BOTH).power(x, exponent)
    for k in range(4):  # graphs take turns
        values, basis = torch.linalg.eigh(BOTH[k % 2])
        powers = torch.where(values > 1e-9, values.clamp_min(1e-12) ** -exponent, 0)
        torch.testing.assert_close(found[k], basis @ (powers[:, None] * (basis.T @ x[k])))
    torch.testing.assert_close(found.mean(1), torch.zeros(4, 3, dtype=x.dtype))


def test_draws_have_the_covariance():
    prior, n = Harmonic(CHAIN[None]), 20_000
    x = prior.power(BatchNoise(0).normal(n, 5, 3).double(), 0.5)
    found = torch.einsum("bik,bjk->ij", x, x) / (3 * n)
    exact = torch.linalg.pinv(CHAIN)
    # the variance of a product of Gaussians, Isserlis
    error = ((exact.diag()[:, None] * exact.diag() + exact**2) / (3 * n)).sqrt()
    assert ((found - exact).abs() < 4.5 * error).all()
    assert x.mean(1).abs().max() < 1e-6


def test_bonded_nodes_of_a_tree_are_one_unit_apart():
    """In each direction: the energy is 1/2 sum |x_i - x_j|^2, a tree's bonds are independent."""
    exact = torch.linalg.pinv(CHAIN)
    for i in range(4):
        variance = exact[i, i] + exact[i + 1, i + 1] - 2 * exact[i, i + 1]
        assert float(variance) == pytest.approx(1.0)


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_log_density(scale):
    x = centred(4)
    found = Harmonic(BOTH).log_density(x, scale)
    plane = torch.linalg.qr(torch.cat([torch.ones(5, 1), torch.eye(5)[:, :4]], 1).double())[0]
    free = plane[:, 1:]  # an orthonormal basis of the states without their centroid
    for k in range(4):
        covariance = scale**2 * free.T @ torch.linalg.pinv(BOTH[k % 2]) @ free
        gaussian = torch.distributions.MultivariateNormal(
            torch.zeros(4, dtype=torch.float64), covariance
        )
        assert float(found[k]) == pytest.approx(float(gaussian.log_prob(x[k].T @ free).sum()))


def test_precision_of_what_it_acts_on():
    x = centred(2).float()
    assert Harmonic(BOTH).power(x, 0.5).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = Harmonic(BOTH).power(x, -1.0)
    torch.testing.assert_close(found, BOTH.float() @ x)


def test_equality_is_that_of_the_graphs():
    assert Harmonic(BOTH) == Harmonic(BOTH.clone())
    assert Harmonic(BOTH) != Harmonic(BOTH.flip(0))
    assert hash(Harmonic(BOTH)) == hash(Harmonic(BOTH.clone()))


@pytest.mark.parametrize(
    "matrix",
    [
        laplacian(4, [(0, 1), (2, 3)])[None],
        CHAIN,
        torch.tensor([[[1.0, 0.0], [-1.0, 1.0]]]),
    ],
    ids=["two pieces", "not batched", "not symmetric"],
)
def test_what_is_no_prior(matrix):
    with pytest.raises(ValueError, match=r"connected|symmetric"):
        Harmonic(matrix)


def test_batches_that_do_not_fit():
    with pytest.raises(ValueError, match="no batch"):
        Harmonic(BOTH).power(centred(3), 1.0)


def test_the_lowest_mode_of_a_long_chain_is_wide():
    """Free end: a chain of n bonds has its slowest mode at 4 sin^2(pi/2n')."""
    n = 12
    chain = laplacian(n, [(i, i + 1) for i in range(n - 1)])
    widest = float(Harmonic(chain[None]).eigenvalues.max())
    assert widest == pytest.approx(1 / (4 * math.sin(math.pi / (2 * n)) ** 2))
