"""The covariance `C` of a flow's prior `N(0, C)`, as an operator on states.

A control with correlated noise multiplies by `C`, `C^1/2` and `C^-1/2`; `power` is all three.
Directions in which `C` vanishes (the centre of mass of a molecule) stay zero for every power.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from molflowctl.flows.state import State, dot

__all__ = ["Covariance", "Dense", "Isotropic"]


class Covariance(Protocol):
    """A symmetric, positive semi-definite operator."""

    def power(self, x, exponent: float):
        """`C^exponent x`, the pseudo-inverse's power where `exponent` is negative."""

    def log_density(self, x, scale: float = 1.0) -> Tensor:
        """`log N(x; 0, scale^2 C)`, `(B,)`, on the directions where `C` does not vanish."""


class Isotropic:
    """`C = I`."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Isotropic)

    def __hash__(self) -> int:
        return hash(Isotropic)

    def __repr__(self) -> str:
        return "the identity"

    def power(self, x, exponent: float):
        return x

    def log_density(self, x, scale: float = 1.0) -> Tensor:
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
        scale = self.eigenvalues.clamp_min(1e-300) ** exponent
        scale = scale.masked_fill(self.null, 0.0)
        return x @ ((self.basis * scale) @ self.basis.T).to(x)

    def log_density(self, x: Tensor, scale: float = 1.0) -> Tensor:
        spectrum = 2 * math.pi * scale**2 * self.eigenvalues[~self.null]
        copies = x[0].numel() // len(self.eigenvalues)
        constant = copies * float(spectrum.log().sum())
        return -0.5 * (dot(x, self.power(x, -1.0)) / scale**2 + constant)
