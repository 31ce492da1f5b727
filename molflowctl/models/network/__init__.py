"""The equivariant network of the flows: nodes, unordered pairs and vector channels.

Invariant node features `h (B,N,D)` and pair features `e (B,M,P)` over the upper triangle
`M = N(N-1)/2` exchange information by attention; `S` vector channels `X (B,N,3,S)` start at the
positions, which have zero centroid, and move along pair differences only, so the network commutes
with rotations. Batches hold molecules of one size: no masks, and gathers over pairs become products
with constant incidence matrices, which a CPU does several times faster than scatter operations.

It is a relative of EGNN (Satorras et al., arXiv 2102.09844) and of graph transformers with pair
biases (Dwivedi, Bresson, arXiv 2012.09699).
"""

from __future__ import annotations

from molflowctl.models.network.growth import grown
from molflowctl.models.network.layers import Layer, Pairs, full_precision, pairs
from molflowctl.models.network.readers import Reader, ValueNetwork
from molflowctl.models.network.trunk import (
    EquivariantNetwork,
    EquivariantTrunk,
    Seen,
    Sizes,
    in_precision,
    precision_of,
)

__all__ = [
    "EquivariantNetwork",
    "EquivariantTrunk",
    "Layer",
    "Pairs",
    "Reader",
    "Seen",
    "Sizes",
    "ValueNetwork",
    "full_precision",
    "grown",
    "in_precision",
    "pairs",
    "precision_of",
]
