"""Paths of diffusion: what their schedules say, at every timestep and between them."""

import math

import numpy as np
import pytest
import torch

from molflowctl.errors import UserError
from molflowctl.flows.path import CosinePath, LinearPath
from molflowctl.flows.schedule import SchedulePath, TargetPath, VariancePreservingPath

BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)  # Ho et al., the default of DDPM
DDPM = SchedulePath(tuple((1 - BETAS).cumprod(0).tolist()))
COARSE = SchedulePath((0.9, 0.5, 0.1, 0.0))
PATHS = [
    LinearPath(),
    CosinePath(),
    TargetPath(0.1),
    VariancePreservingPath(),
    VariancePreservingPath(1.0, 1.0),
    DDPM,
    COARSE,
]
T = torch.linspace(0.01, 0.99, 25, dtype=torch.float64)


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_derivatives_are_those_of_the_coefficients(path) -> None:
    t = T + 0.0007  # not at the knots of a schedule, where the second derivative jumps
    h = 1e-6
    late, early = path.coefficients(t + h), path.coefficients(t - h)
    _, _, da, db = path.coefficients(t)
    for slope, after, before in zip((da, db), late, early, strict=False):
        slope = torch.as_tensor(slope, dtype=t.dtype).expand_as(t)
        torch.testing.assert_close(slope, (after - before) / (2 * h), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_numbers_and_tensors_say_the_same(path) -> None:
    for t in (0.0, 0.3, 0.77):
        one = path.coefficients(t)
        assert all(isinstance(part, float) for part in one)
        many = path.coefficients(torch.tensor([t], dtype=torch.float64))
        for number, tensor in zip(one, many, strict=True):
            assert float(tensor) == pytest.approx(number, abs=1e-12)


@pytest.mark.parametrize("path", PATHS[3:], ids=repr)
def test_the_variance_is_kept_from_noise_to_data(path) -> None:
    a, b, _, _ = path.coefficients(T)
    torch.testing.assert_close(a**2 + b**2, torch.ones_like(T))
    assert (a.diff() > 0).all()
    assert (b.diff() < 0).all()
    assert path.coefficients(1.0)[:2] == (1.0, 0.0)
    assert path.coefficients(0.0)[0] < 0.61  # exp(-1/2) of a constant beta of one


def test_a_constant_beta_is_an_ornstein_uhlenbeck_process() -> None:
    a, b, _, _ = VariancePreservingPath(2.0, 2.0).coefficients(0.25)
    assert a == pytest.approx(math.exp(-0.75))
    assert b == pytest.approx(math.sqrt(1 - math.exp(-1.5)))


def test_velocity_of_the_diffusion_is_that_of_its_ode() -> None:
    """`dx/du = -beta (x + s) / 2` (Song et al., equation 13), `s` the score and `u = 1 - t`."""
    path = VariancePreservingPath(0.5, 7.0)
    x, end, t = torch.randn(3, 40, 2, dtype=torch.float64)
    t = t[:, 0].sigmoid()
    a, b, _, _ = path.coefficients(t)
    score = (a[:, None] * end - x) / b[:, None] ** 2
    beta = 0.5 + (1 - t) * 6.5
    expected = 0.5 * beta[:, None] * (x + score)
    torch.testing.assert_close(path.velocity(end, x, t), expected)
    torch.testing.assert_close(path.score(expected, x, t), score)


@pytest.mark.parametrize("path", [DDPM, COARSE], ids=repr)
def test_a_schedule_holds_at_its_timesteps(path) -> None:
    n = path.steps
    k = torch.arange(n)
    t = 1 - (k.double() + 1) / n
    a, b, _, _ = path.coefficients(t)
    expected = torch.tensor(path.alphas_cumprod, dtype=torch.float64)
    torch.testing.assert_close(a**2, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(b**2, 1 - expected)
    assert torch.equal(path.timestep(t), k)
    assert torch.equal(path.timestep(t.float()), k)
    torch.testing.assert_close(path.level(t), t)
    # The data are no timestep: the nearest is the one of least noise.
    assert path.timestep(torch.tensor([1.0])).item() == 0


def test_the_discrete_schedule_is_the_continuous_one() -> None:
    """DDPM's betas are `beta(u) / N` of the VP SDE: 0.1 and 20 for a thousand of them."""
    a = DDPM.coefficients(T)[0]
    expected = VariancePreservingPath(0.1, 20.0).coefficients(T)[0]
    assert np.abs((a - expected).numpy()).max() < 6e-3


def test_schedules_are_equal_by_their_numbers() -> None:
    again = SchedulePath(tuple(DDPM.alphas_cumprod))
    assert again == DDPM
    assert again != COARSE
    assert hash(again) == hash(DDPM)
    assert repr(COARSE) == "SchedulePath(4 timesteps, alphas_cumprod 0.9 to 0)"


@pytest.mark.parametrize("values", [(), (0.5,), (0.5, 0.5), (0.1, 0.9), (1.0, 0.5), (0.9, -0.1)])
def test_numbers_that_are_no_schedule(values) -> None:
    with pytest.raises(UserError, match="alphas_cumprod must be two numbers or more that fall"):
        SchedulePath(values)


def test_a_scheduler_of_another_path() -> None:
    with pytest.raises(UserError, match=r"object has no alphas_cumprod.*LinearPath"):
        SchedulePath.of(object())
    with pytest.raises(UserError, match="sigma_min is 1"):
        TargetPath(1.0)
    with pytest.raises(UserError, match="positive beta_min"):
        VariancePreservingPath(3.0, 1.0)
