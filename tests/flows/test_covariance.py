"""Covariances as operators: powers multiply, and the density is that of the normal law."""

import pytest
import torch
from torch.distributions import MultivariateNormal

from molflowctl.flows.covariance import Dense, Isotropic
from molflowctl.flows.state import State

FULL = torch.tensor([[1.0, 0.6, 0.1], [0.6, 1.2, -0.2], [0.1, -0.2, 0.5]], dtype=torch.float64)
CENTRED = torch.eye(3, dtype=torch.float64) - 1 / 3
X = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).double()


def test_dense_is_its_matrix() -> None:
    torch.testing.assert_close(Dense(FULL).power(X, 1.0), X @ FULL)
    torch.testing.assert_close(Dense(FULL).power(X, -1.0), torch.linalg.solve(FULL, X.T).T)


@pytest.mark.parametrize("matrix", [FULL, 3 * CENTRED], ids=["full", "singular"])
def test_powers_add(matrix) -> None:
    covariance = Dense(matrix)
    for one, two in ((0.5, 0.5), (-0.5, 1.0), (-1.0, 1.0), (0.5, -0.5)):
        both = covariance.power(covariance.power(X, one), two)
        torch.testing.assert_close(both, covariance.power(X, one + two))


@pytest.mark.parametrize("exponent", [-1.0, -0.5, 0.0, 0.5, 1.0])
def test_where_it_vanishes_it_stays_zero(exponent) -> None:
    out = Dense(3 * CENTRED).power(X, exponent)
    torch.testing.assert_close(out, 3.0**exponent * (X - X.mean(1, keepdim=True)))


def test_it_acts_on_the_last_dimension_in_the_precision_of_the_state() -> None:
    x = torch.randn(4, 2, 3)
    out = Dense(FULL).power(x, 0.5)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out[:, 1], Dense(FULL).power(x[:, 1], 0.5))


@pytest.mark.parametrize("scale", [1.0, 0.3, 2.0])
@pytest.mark.parametrize("matrix", [FULL, torch.eye(3).double()], ids=["full", "unit"])
def test_log_density(matrix, scale) -> None:
    expected = MultivariateNormal(torch.zeros(3).double(), scale**2 * matrix).log_prob(X)
    torch.testing.assert_close(Dense(matrix).log_density(X, scale), expected)
    twice = torch.stack([X, X], 1)  # two independent copies
    torch.testing.assert_close(Dense(matrix).log_density(twice, scale), 2 * expected)
    if matrix is not FULL:
        torch.testing.assert_close(Isotropic().log_density(X, scale), expected)
        state = State(a=X[:, :1], b=X[:, 1:])
        torch.testing.assert_close(Isotropic().log_density(state, scale), expected)


def test_a_singular_density_lives_in_its_plane() -> None:
    basis = torch.linalg.eigh(CENTRED)[1][:, 1:]  # the plane of zero centroid
    flat = torch.randn(5, 2).double()
    expected = MultivariateNormal(torch.zeros(2).double(), 3 * torch.eye(2).double()).log_prob(flat)
    torch.testing.assert_close(Dense(3 * CENTRED).log_density(flat @ basis.T), expected)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (torch.ones(2, 3), "symmetric"),
        (torch.tensor([[1.0, 0.5], [0.0, 1.0]]), "symmetric"),
        (torch.diag(torch.tensor([1.0, -0.1])), "no negative eigenvalue"),
    ],
)
def test_what_is_no_covariance(matrix, message) -> None:
    with pytest.raises(ValueError, match=message):
        Dense(matrix)
