"""Muon's updates are nearly orthogonal matrices of a known length."""

import copy
import math

import pytest
import torch

from molflowctl.tasks.training.muon import Muon, orthogonalise

SHAPES = [(1, 8, 8), (3, 32, 32), (2, 16, 64), (2, 64, 16), (4, 5, 1), (1, 192, 64)]


def matrices(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_singular_values_go_to_one(shape, scale) -> None:
    x = orthogonalise(scale * matrices(*shape))
    values = torch.linalg.svdvals(x)
    # The polynomial lets tiny singular values of square matrices lag; there are few.
    inside = ((values > 0.6) & (values < 1.3)).float().mean()
    assert values.max() < 1.3
    assert inside > (0.95 if shape[1] == shape[2] else 0.999)


@pytest.mark.parametrize("shape", SHAPES)
def test_singular_vectors_stay(shape) -> None:
    g = matrices(*shape).double()
    u, _, vh = torch.linalg.svd(g, full_matrices=False)
    inner = u.mT @ orthogonalise(g) @ vh.mT
    diagonal = torch.diag_embed(inner.diagonal(dim1=-2, dim2=-1))
    torch.testing.assert_close(inner, diagonal, rtol=0, atol=1e-5)
    assert inner.diagonal(dim1=-2, dim2=-1).min() > 0


def test_zero_gradients_stay_zero() -> None:
    assert torch.equal(orthogonalise(torch.zeros(1, 4, 6)), torch.zeros(1, 4, 6))


def step(p: torch.Tensor, *gradients: torch.Tensor, blocks: int = 1, **kwargs) -> torch.Tensor:
    """The parameter after one optimiser step for each gradient."""
    p = torch.nn.Parameter(p.clone())
    optimiser = Muon([{"params": [p], "blocks": blocks}], **{"lr": 0.1, **kwargs})
    for gradient in gradients:
        p.grad = gradient.clone()
        optimiser.step()
    return p.detach()


@pytest.mark.parametrize(("rows", "columns"), [(32, 32), (16, 64), (64, 16)])
def test_a_step_has_the_length_of_adamw(rows, columns) -> None:
    """RMS `lr 0.2 sqrt(max) sqrt(min) / sqrt(rows columns) = 0.2 lr` for an orthogonal update."""
    gradient = matrices(rows, columns)
    moved = step(torch.zeros(rows, columns), gradient, weight_decay=0)
    unit = orthogonalise(gradient[None])[0]
    torch.testing.assert_close(moved, -0.1 * 0.2 * math.sqrt(max(rows, columns)) * unit)
    assert moved.square().mean().sqrt() == pytest.approx(0.1 * 0.2, rel=0.2)


def test_weight_decay_is_decoupled() -> None:
    p = matrices(4, 4)
    moved = step(p, torch.zeros(4, 4), lr=0.1, weight_decay=0.5)
    torch.testing.assert_close(moved, p * (1 - 0.1 * 0.5))


def test_momentum_is_nesterovs() -> None:
    a, b = matrices(8, 8, seed=1), matrices(8, 8, seed=2)
    start = torch.zeros(8, 8)
    first = step(start, a, weight_decay=0)
    beta = 0.95
    average = beta * (1 - beta) * a + (1 - beta) * b
    update = (1 - beta) * b + beta * average
    expected = first - 0.1 * 0.2 * math.sqrt(8) * orthogonalise(update[None])[0]
    torch.testing.assert_close(step(start, a, b, weight_decay=0), expected, rtol=0, atol=1e-6)


def test_blocks_are_separate_matrices() -> None:
    p, g = matrices(24, 8), matrices(24, 8, seed=1)
    together = step(p, g, g, blocks=3)
    apart = [step(a, b, b) for a, b in zip(p.chunk(3), g.chunk(3), strict=True)]
    torch.testing.assert_close(together, torch.cat(apart), rtol=0, atol=1e-6)
    assert not torch.allclose(together, step(p, g, g))


def test_matrices_of_one_shape_do_not_mix() -> None:
    ps = [torch.nn.Parameter(matrices(6, 9, seed=k)) for k in range(3)]
    before = copy.deepcopy(ps)
    gradients = [matrices(6, 9, seed=10 + k) for k in range(3)]
    optimiser = Muon(ps, lr=0.1)
    for p, g in zip(ps, gradients, strict=True):
        p.grad = g
    ps[1].grad = None
    optimiser.step()
    assert torch.equal(ps[1], before[1])
    for k in (0, 2):
        torch.testing.assert_close(ps[k].detach(), step(before[k].detach(), gradients[k]))
