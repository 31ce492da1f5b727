r"""Kantorovich potentials: the functions that witness a Wasserstein-1 distance.

    W1(p, q) = max { E_p[phi] - E_q[phi] : |phi(x) - phi(y)| <= |x - y| }

Three ways to find the maximiser between two weighted clouds of points:

- `Sorted`: exact in one dimension, from the two cumulative distributions.
- `Transport`: exact between the clouds in any dimension, from the dual of the linear programme.
- `Critic`: a small network, for large clouds and where the potential is to generalise.

Each has `solve(p, q, seed)`, which returns `phi` as a function of points, `(B, m)` to `(B,)`, that
later calls leave as it is, and `reset`, which forgets what it keeps from one call to the next.

References:
    Arjovsky, Chintala, Bottou, Wasserstein GAN, 2017, arXiv 1701.07875 (the critic).
    Gulrajani et al., Improved Training of Wasserstein GANs, 2017, arXiv 1704.00028 (the penalty).
    Petzka, Fischer, Lukovnikov, On the regularization of Wasserstein GANs, 2017, arXiv 1709.08894
        (the penalty on slopes above one only).
    Peyre, Cuturi, Computational Optimal Transport, 2018, arXiv 1803.00567 (c-transforms, duals).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor, nn

from molflowctl.errors import UserError

__all__ = ["Cloud", "Critic", "Potential", "PotentialSolver", "Sorted", "Transport", "distances"]

Potential = Callable[[Tensor], Tensor]
CHUNK = 1024


@dataclass(frozen=True)
class Cloud:
    """Points of a density.

    Arguments:
        points: `(N, m)`.
        shares: `(N,)` float64, adding up to one.
    """

    points: Tensor
    shares: Tensor

    def mean(self, values: Tensor) -> float:
        """Weighted mean of `values`, `(N,)`."""
        return float((self.shares.to(values.device) * values.double()).sum())

    def thinned(self, n: int, seed: int = 0) -> Cloud:
        """`n` points of equal weight, by systematic resampling; a cloud that small as it is.

        Points without weight are left out either way.
        """
        shares = self.shares
        if len(shares) <= n:
            held = shares > 0
            return Cloud(self.points[held.to(self.points.device)], shares[held])
        start = torch.rand(1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        levels = ((torch.arange(n) + start) / n).to(shares)
        rows = torch.searchsorted(shares.cumsum(0), levels).clamp_max(len(shares) - 1)
        return Cloud(self.points[rows.to(self.points.device)], shares.new_full((n,), 1 / n))


class PotentialSolver(Protocol):
    """Finds a potential between two clouds."""

    def solve(self, p: Cloud, q: Cloud, seed: int = 0) -> Potential:
        """The `phi` that `E_p[phi] - E_q[phi]` is the distance for, up to a constant."""

    def reset(self) -> None:
        """Forget what earlier calls have learned."""


class _Exact:
    """A solver that needs nothing from earlier calls."""

    def reset(self) -> None:
        pass


@dataclass(frozen=True)
class Sorted(_Exact):
    """Exact in one dimension: `phi' = sign(F_q - F_p)`, `F` the cumulative distributions.

    The slope is zero where they agree, so beyond the outermost points.
    """

    def solve(self, p: Cloud, q: Cloud, seed: int = 0) -> Potential:
        """See `PotentialSolver`.

        Raises:
            UserError: for clouds of more than one dimension.
        """
        if p.points.shape[1] != 1:
            raise UserError(
                f"Sorted needs one dimension, not {p.points.shape[1]}: use Transport or Critic."
            )
        knots, order = torch.cat([p.points, q.points])[:, 0].double().sort()
        jumps = torch.cat([-p.shares, q.shares]).to(knots.device)[order]
        gap = jumps.cumsum(0)  # F_q - F_p right of each knot
        slope = torch.where(gap.abs() > 1e-12, gap.sign(), 0.0)
        height = torch.zeros_like(knots)
        height[1:] = (slope[:-1] * knots.diff()).cumsum(0)

        def potential(x: Tensor) -> Tensor:
            z = x[:, 0].to(knots)
            left = torch.searchsorted(knots, z.detach().contiguous(), right=True) - 1
            inside = (left >= 0) & (left < len(knots) - 1)
            left = left.clamp_min(0)
            rise = torch.where(inside, slope[left], 0.0)
            return (height[left] + rise * (z - knots[left])).to(x)

        return potential


@dataclass(frozen=True)
class Transport(_Exact):
    r"""Exact between two clouds, by the optimal plan's dual `u_i + psi_j <= |x_i - y_j|`.

    The c-transform `phi(x) = min_j (|x - y_j| - psi_j)` extends it to every `x`, 1-Lipschitz by
    construction.

    Arguments:
        limit: points per cloud; larger ones are thinned, as the plan takes time near `limit^3`.
    """

    limit: int = 1000

    def solve(self, p: Cloud, q: Cloud, seed: int = 0) -> Potential:
        """See `PotentialSolver`.

        Raises:
            UserError: if the linear programme does not end, or the clouds are too large for it.
        """
        import ot

        p, q = p.thinned(self.limit, seed), q.thinned(self.limit, seed + 1)
        costs = distances(p.points.double(), q.points.double())
        a, b = (c.shares.cpu() / c.shares.sum().cpu() for c in (p, q))
        _, dual = ot.emd(a.numpy(), b.numpy(), costs.cpu().numpy(), numItermax=10**7, log=True)
        if dual["warning"]:
            raise UserError(f"the transport plan was not found: {dual['warning']}")
        psi, ends = torch.as_tensor(dual["v"]).to(costs.device), q.points.double()

        def potential(x: Tensor) -> Tensor:
            parts = [(distances(z, ends) - psi).min(1).values for z in x.to(ends).split(CHUNK)]
            return torch.cat(parts).to(x)

        return potential


class Critic:
    r"""A network whose slopes above one are penalised.

    Maximises `E_p[phi] - E_q[phi] - penalty E[(|grad phi| - 1)_+^2]`, the last mean over points
    between the clouds, in units of the clouds' spread. The penalty is one-sided: under a two-sided
    one of this strength the critic of two shifted Gaussians was caught at the wrong sign. Units are
    leaky ReLUs, as potentials have corners: of two Gaussians that differ in their spread, smooth
    units found 76 to 96 % of the distance, leaky ones 99.8 %. On shifts, spreads and modes in one
    and two dimensions the distance was right to 2 %, mostly above, as slopes exceed one a little.

    Every call goes on from the network of the one before: keep one critic per reference.

    Arguments:
        width, depth: hidden layers.
        steps: of Adam in the first call.
        later: steps in each further call.
        batch: points of each cloud per step, by weight.
        lr: learning rate, which falls along a cosine.
        penalty: on slopes above one.
    """

    def __init__(
        self,
        width: int = 64,
        depth: int = 2,
        steps: int = 400,
        later: int = 200,
        batch: int = 256,
        lr: float = 5e-3,
        penalty: float = 50.0,
    ) -> None:
        if min(width, depth, steps, later, batch) < 1 or min(lr, penalty) <= 0:
            raise UserError("a critic's sizes, steps, learning rate and penalty must be positive.")
        self.width, self.depth, self.steps, self.later = width, depth, steps, later
        self.batch, self.lr, self.penalty = batch, lr, penalty
        self.network: _Network | None = None

    def solve(self, p: Cloud, q: Cloud, seed: int = 0) -> Potential:
        """See `PotentialSolver`; what was learned before is where it starts."""
        steps = self.steps if self.network is None else self.later
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if self.network is None:
                self.network = _Network(p.points.shape[1], self.width, self.depth)
                self.network.standardise(torch.cat([p.points, q.points]))
            self.network.to(p.points.device)
            self._train(self.network, p, q, steps)
        return copy.deepcopy(self.network).to(p.points.dtype).requires_grad_(False)

    def _train(self, network: _Network, p: Cloud, q: Cloud, steps: int) -> None:
        optimiser = torch.optim.Adam(network.parameters(), lr=self.lr, betas=(0.5, 0.9))
        for step in range(steps):
            optimiser.param_groups[0]["lr"] = self.lr * max(
                0.02, 0.5 * (1 + math.cos(math.pi * step / steps))
            )
            mine, theirs = (self._draw(cloud) for cloud in (p, q))
            place = torch.rand(self.batch, 1).to(mine)
            between = (place * mine + (1 - place) * theirs).requires_grad_()
            values = network(torch.cat([mine, theirs, between]))
            high, low, on_path = values.split(self.batch)
            (slopes,) = torch.autograd.grad(on_path.sum(), between, create_graph=True)
            excess = (slopes.norm(dim=1) - 1).clamp_min(0).square().mean()
            loss = (low.mean() - high.mean()) / network.spread + self.penalty * excess
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    def _draw(self, cloud: Cloud) -> Tensor:
        rows = torch.multinomial(cloud.shares.cpu(), self.batch, replacement=True)
        return cloud.points[rows.to(cloud.points.device)].float()

    def reset(self) -> None:
        """See `PotentialSolver`."""
        self.network = None


class _Network(nn.Module):
    """`phi(x) = spread * mlp((x - centre) / spread)`, so that slopes are the network's own."""

    centre: Tensor
    spread: Tensor

    def __init__(self, inputs: int, width: int, depth: int) -> None:
        super().__init__()
        sizes = [inputs, *[width] * depth]
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Linear(width, 1))
        self.register_buffer("centre", torch.zeros(inputs))
        self.register_buffer("spread", torch.ones(()))

    def standardise(self, points: Tensor) -> None:
        """Take centre and spread from the points."""
        self.centre = points.mean(0).float()
        self.spread = (points - points.mean(0)).square().mean().sqrt().float().clamp_min(1e-6)

    def forward(self, x: Tensor) -> Tensor:
        z = (x.to(self.centre) - self.centre) / self.spread
        height: Tensor = self.layers(z)
        return (self.spread * height.squeeze(1)).to(x)


def distances(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distances of points, `(B, m)` and `(N, m)` to `(B, N)`; differentiable."""
    # By products they would lose half their digits, and near points their gradients.
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
