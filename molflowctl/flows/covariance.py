"""The covariance `C` of a flow's prior `N(0, C)`, as an operator on states.

A control with correlated noise multiplies by `C`, `C^1/2` and `C^-1/2`; `power` is all three.
Directions in which `C` vanishes (the centre of mass of a molecule) stay zero for every power.
"""

from __future__ import annotations

import copy
import math
from typing import Any, Protocol

import torch
from torch import Tensor

from molflowctl.flows.state import State, dot

__all__ = ["Covariance", "Dense", "Harmonic", "Isotropic"]


class Covariance(Protocol):
    """A symmetric, positive semi-definite operator."""

    def power(self, x: Any, exponent: float) -> Any:
        """`C^exponent x`, the pseudo-inverse's power where `exponent` is negative."""

    def log_density(self, x: Any, scale: float = 1.0) -> Tensor:
        """`log N(x; 0, scale^2 C)`, `(B,)`, on the directions where `C` does not vanish."""


class Isotropic:
    """`C = I`."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Isotropic)

    def __hash__(self) -> int:
        return hash(Isotropic)

    def __repr__(self) -> str:
        return "the identity"

    def power(self, x: Any, exponent: float) -> Any:
        """`x` itself, a state of the shape of `x`."""
        return x

    def log_density(self, x: Any, scale: float = 1.0) -> Tensor:
        """`log N(x; 0, scale^2 I)` in nats, `(B,)`."""
        parts = x.values() if isinstance(x, State) else [x]
        size = sum(part[0].numel() for part in parts)
        return -0.5 * (dot(x, x) / scale**2 + size * math.log(2 * math.pi * scale**2))


class Dense:
    """A matrix that acts on the last dimension of a plain tensor.

    Arguments:
        matrix: `(d, d)`, symmetric and positive semi-definite.

    Raises:
        ValueError: if it is not.
    """

    def __init__(self, matrix: Tensor) -> None:
        square = matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1]
        if not square or not torch.allclose(matrix, matrix.T, atol=1e-6):
            raise ValueError("a covariance is a symmetric matrix")
        self.eigenvalues, self.basis = torch.linalg.eigh(matrix.double())
        if self.eigenvalues.min() < -1e-6 * self.eigenvalues.max().clamp_min(1e-12):
            raise ValueError("a covariance has no negative eigenvalue")
        self.matrix = matrix.double()
        self.null = self.eigenvalues < 1e-9 * self.eigenvalues.max()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dense) and torch.equal(self.matrix, other.matrix)

    def __hash__(self) -> int:
        return hash(tuple(self.matrix.flatten().tolist()))

    def __repr__(self) -> str:
        return f"a {len(self.matrix)} x {len(self.matrix)} matrix"

    def power(self, x: Tensor, exponent: float) -> Tensor:
        """`C^exponent x` of `(B, ..., d)`, of the pseudo-inverse where `exponent` is negative."""
        scale = self.eigenvalues.clamp_min(1e-300) ** exponent
        scale = scale.masked_fill(self.null, 0.0)
        matrix: Tensor = (self.basis * scale) @ self.basis.T
        return x @ matrix.to(x)

    def log_density(self, x: Tensor, scale: float = 1.0) -> Tensor:
        """`log N(x; 0, scale^2 C)` in nats, `(B,)`, where `C` does not vanish."""
        spectrum = 2 * math.pi * scale**2 * self.eigenvalues[~self.null]
        copies = x[0].numel() // len(self.eigenvalues)
        constant = copies * float(spectrum.log().sum())
        return -0.5 * (dot(x, self.power(x, -1.0)) / scale**2 + constant)


class Harmonic:
    """`C = L^+` of `G` connected graphs on `N` nodes, on states `(B, N, 3)`: springs along edges.

    `L` is a graph's Laplacian, so that a draw has energy `1/2 sum_edges |x_i - x_j|^2` and bonded
    atoms start near each other. `C` acts on the nodes, alike in the three directions of space, and
    vanishes where all move together: the centroid of a draw is the origin.

    Element `j` of a batch belongs to graph `j mod G`: `B` is a multiple of `G`.

    Arguments:
        laplacians: `(G, N, N)`.

    Raises:
        ValueError: if they are not symmetric, or a graph falls into pieces.

    References:
        Jing et al., EigenFold, 2023, arXiv 2304.02198 (the harmonic prior).
        Hassan et al., ET-Flow, 2024, arXiv 2410.22388 (its use for conformers).
    """

    def __init__(self, laplacians: Tensor) -> None:
        matrices = (
            laplacians.double().cpu()
        )  # small matrices: a GPU takes longer to diagonalise them
        square = matrices.ndim == 3 and matrices.shape[1] == matrices.shape[2]
        if not square or not torch.allclose(matrices, matrices.mT):
            raise ValueError("Laplacians are symmetric matrices, (G, N, N)")
        stiffness, self.basis = torch.linalg.eigh(matrices)
        if (stiffness[:, 1:] < 1e-9).any():
            raise ValueError("the harmonic prior needs connected graphs")
        self.laplacians = matrices
        self.eigenvalues = 1 / stiffness.clamp_min(1e-9)  # of C, but for the first, which is 0
        self.eigenvalues[:, 0] = 0
        self._powers: dict[tuple[float, torch.device, torch.dtype], Tensor] = {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Harmonic) and torch.equal(self.laplacians, other.laplacians)

    def __hash__(self) -> int:
        return hash(tuple(self.laplacians.flatten().tolist()))

    def __repr__(self) -> str:
        graphs, nodes, _ = self.laplacians.shape
        return f"the harmonic prior of {graphs} graphs of {nodes} nodes"

    def select(self, rows: Tensor) -> Harmonic:
        """That of the graphs `rows`, `(M,)`, in this order, without diagonalising again."""
        rows, part = rows.cpu(), copy.copy(self)
        part.laplacians, part.basis = self.laplacians[rows], self.basis[rows]
        part.eigenvalues, part._powers = self.eigenvalues[rows], {}
        return part

    def power(self, x: Tensor, exponent: float) -> Tensor:
        """`C^exponent x` of `(B, N, 3)`, of the pseudo-inverse where `exponent` is negative."""
        with torch.autocast(x.device.type, enabled=False):  # bf16 has three digits
            return (self._matrix(exponent, x) @ self._by_graph(x)).view(x.shape)

    def log_density(self, x: Tensor, scale: float = 1.0) -> Tensor:
        """`log N(x; 0, scale^2 C)`, `(B,)`, among states with their centroid at the origin."""
        spectrum = 2 * math.pi * scale**2 * self.eigenvalues[:, 1:]
        constant: Tensor = (3 * spectrum.log().sum(1)).to(x).repeat(len(x) // len(spectrum))
        return -0.5 * (dot(x, self.power(x, -1.0)) / scale**2 + constant)

    def _by_graph(self, x: Tensor) -> Tensor:
        graphs, nodes, _ = self.laplacians.shape
        if len(x) % graphs or x.shape[1] != nodes:
            raise ValueError(f"{tuple(x.shape)} is no batch for {self!r}")
        return x.reshape(-1, graphs, nodes, 3)

    def _matrix(self, exponent: float, like: Tensor) -> Tensor:
        key = (exponent, like.device, like.dtype)
        if key not in self._powers:
            scale = torch.zeros_like(self.eigenvalues)
            scale[:, 1:] = self.eigenvalues[:, 1:] ** exponent
            self._powers[key] = ((self.basis * scale[:, None]) @ self.basis.mT).to(like)
        return self._powers[key]
