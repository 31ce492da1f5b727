"""Indexed noise is reproducible element by element, and it is noise.

The statistical bounds are four standard errors of independent normals; seeds are fixed.
"""

import math

import pytest
import torch

from molflowctl.flows.noise import BatchNoise, IndexedNoise

SEEDS = (0, 1, 2**40 + 7, 2**64 - 1)
SHAPE = (5, 3)


def draws(seed: int, index, calls: int = 3) -> list[torch.Tensor]:
    noise = IndexedNoise(seed, torch.as_tensor(index))
    return [noise.normal(len(index), *SHAPE) for _ in range(calls)]


@pytest.mark.parametrize("seed", SEEDS)
def test_an_element_depends_on_its_seed_index_and_call_alone(seed) -> None:
    index = [0, 1, 17, 10**9, 2**62]
    whole = draws(seed, index)
    for order in ([4, 2, 0], [3], [1, 1]):
        part = draws(seed, [index[i] for i in order])
        for a, b in zip(whole, part, strict=True):
            assert torch.equal(a[order], b)


@pytest.mark.parametrize("seed", SEEDS)
def test_calls_and_elements_differ(seed) -> None:
    values = torch.stack(draws(seed, [0, 1, 2])).flatten()
    assert len(values.unique()) == len(values)


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 7), (4, 2, 3)])
def test_shapes(shape) -> None:
    x = IndexedNoise(0, torch.arange(4)).normal(*shape)
    assert x.shape == shape
    assert x.dtype == torch.float32


N = 200_000


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]).double())[0, 1].item()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("across", ["elements", "within"])
def test_moments_of_a_standard_normal(seed, across) -> None:
    shape = (N, 1) if across == "elements" else (1, N)
    x = IndexedNoise(seed, torch.arange(shape[0])).normal(*shape).double().flatten()
    bound = 4 / math.sqrt(N)
    assert abs(x.mean()) < bound
    assert abs(x.square().mean() - 1) < bound * math.sqrt(2)
    assert abs((x**3).mean()) < bound * math.sqrt(15)
    assert abs((x**4).mean() - 3) < bound * math.sqrt(96)
    inside = (x.abs() < 1).double().mean()
    p = math.erf(math.sqrt(0.5))
    assert abs(inside - p) < bound * math.sqrt(p * (1 - p))


def test_neighbours_seeds_and_calls_are_independent() -> None:
    bound = 4 / math.sqrt(N)
    index = torch.arange(N // 4)
    noise = IndexedNoise(3, index)
    x, later = noise.normal(len(index), 4), noise.normal(len(index), 4)
    pairs = {
        "call": (x, later),
        "seed": (x, IndexedNoise(4, index).normal(len(index), 4)),
        "next element": (x[1:], x[:-1]),
        "next number": (x[:, 1:], x[:, :-1]),
        "halves of a Box-Muller pair": (x[:, :2], x[:, 2:]),
    }
    for name, (a, b) in pairs.items():
        scale = math.sqrt(N / a.numel())
        assert abs(correlation(a, b)) < bound * scale, name
        assert abs(correlation(a.square(), b.square())) < bound * scale, name


def test_uniform_numbers() -> None:
    u = IndexedNoise(5, torch.arange(N)).uniform()
    assert u.dtype == torch.float64
    assert u.min() >= 0
    assert u.max() < 1
    assert abs(u.mean() - 0.5) < 4 / math.sqrt(12 * N)
    counts = torch.bincount((u * 64).long(), minlength=64).double()
    chi_square = ((counts - N / 64).square() / (N / 64)).sum()
    assert abs(chi_square - 63) < 4 * math.sqrt(2 * 63)


def test_batch_noise_repeats_with_its_seed() -> None:
    a, b, c = (BatchNoise(seed) for seed in (1, 1, 2))
    x = a.normal(4, 2)
    assert torch.equal(x, b.normal(4, 2))
    assert not torch.equal(x, c.normal(4, 2))
    assert not torch.equal(x, a.normal(4, 2))
    u = a.uniform(1000)
    assert u.min() >= 0
    assert u.max() < 1
