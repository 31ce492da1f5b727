r"""The network of conformer flows: that of `network.py`, told the graph and the hand of centres.

Between two layers every stereocentre looks at the volume its four atoms span in each vector
channel, signed so that it is positive where the geometry is right, and pushes the four along its
gradient. That is a pseudoscalar times its mark: with `P` a reflection and `-g` the mirrored graph

    f(R x, g) = R f(x, g)  for rotations R,        f(P x, -g) = P f(x, g),

and nothing forces `f(P x, g) = P f(x, g)`, so a chiral molecule gets its own hand.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from molflowctl.models.conformer_graph import ATOM_FEATURES, PAIR_FEATURES, Graphs
from molflowctl.models.network import Layer, full_precision, pairs

__all__ = ["ConformerNetwork"]


class ChiralLayer(nn.Module):
    """A layer of pairs, nodes and vectors, then one of stereocentres."""

    def __init__(self, width: int, pair_width: int, heads: int, vectors: int) -> None:
        super().__init__()
        self.layer = Layer(width, pair_width, heads, vectors)
        self.norm = nn.LayerNorm(width)
        self.centre_in = nn.Linear(width + vectors, width)
        self.centre_out = nn.Linear(width, 2 * width + vectors)
        self.centre_out.weight.data *= 0.5

    def forward(
        self, h: Tensor, e: Tensor, x: Tensor, constants, centres: Tensor, real: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        h, e, x = self.layer(h, e, x, constants)
        k = centres.shape[1]
        if k == 0:
            return h, e, x
        b, _, width = h.shape
        s = x.shape[-1]
        centre = centres[..., :1].expand(-1, -1, width)
        around = centres[..., 1:].reshape(b, -1, 1)
        with full_precision(x):
            corners = x.flatten(2).gather(1, around.expand(-1, -1, 3 * s)).view(b, k, 4, 3, s)
            edges = corners[:, :, :3] - corners[:, :, 3:]
            square = edges.square().sum((2, 3)) / 3 + 1e-3
            slopes = torch.linalg.cross(edges[:, :, [1, 2, 0]], edges[:, :, [2, 0, 1]], dim=3)
            volume = (edges[:, :, 0] * slopes[:, :, 0]).sum(2) / square**1.5
            slopes = torch.cat([slopes, -slopes.sum(2, keepdim=True)], 2)
            slopes = slopes / square.sqrt()[:, :, None, None]
        seen = torch.cat([self.norm(h).gather(1, centre), volume.to(h.dtype)], -1)
        message = self.centre_out(F.silu(self.centre_in(seen))) * real[..., None]
        own, others, push = message.split([width, width, s], -1)
        h = h.scatter_add(1, centre, own.to(h.dtype))
        shared = others.to(h.dtype)[:, :, None].expand(-1, -1, 4, -1).flatten(1, 2)
        h = h.scatter_add(1, around.expand(-1, -1, width), shared)
        with full_precision(x):
            moved = (slopes * push.to(x.dtype)[:, :, None, None]).flatten(1, 2)
            index = around[..., None].expand(-1, -1, 3, s)
            x = x.scatter_add(1, index, moved)
        return h, e, x


class ConformerNetwork(nn.Module):
    """From a molecular graph and noisy positions to a velocity.

    Arguments:
        elements: atomic numbers it knows.
        width, pair_width, heads, vectors, depth: sizes of the features, heads and layers.
        radial: number of Gaussians in the first embedding of distances (0 to 8 length units).
    """

    centres: Tensor
    octaves: Tensor
    element_index: Tensor

    def __init__(
        self,
        elements: list[int],
        width: int = 192,
        pair_width: int = 64,
        heads: int = 8,
        vectors: int = 16,
        depth: int = 6,
        radial: int = 32,
    ) -> None:
        super().__init__()
        self.elements = len(elements)
        lookup = torch.zeros(256, dtype=torch.long)
        lookup[torch.tensor(elements)] = torch.arange(len(elements))
        self.register_buffer("element_index", lookup, persistent=False)
        self.time_in = nn.Sequential(nn.Linear(33, width), nn.SiLU(), nn.Linear(width, width))
        self.time_to_pair = nn.Linear(width, pair_width)
        self.node_in = nn.Linear(len(elements) + sum(ATOM_FEATURES.values()), width)
        self.pair_in = nn.Linear(sum(PAIR_FEATURES.values()), pair_width)
        self.radial_in = nn.Linear(radial, pair_width)
        self.node_to_pair = nn.Linear(width, pair_width)
        self.vector_in = nn.Parameter(1 + 0.5 * torch.randn(vectors))
        self.register_buffer("centres", torch.linspace(0, 8, radial), persistent=False)
        self.register_buffer("octaves", math.pi * 2 ** (torch.arange(16) / 2), persistent=False)
        self.layers = nn.ModuleList(
            ChiralLayer(width, pair_width, heads, vectors) for _ in range(depth)
        )
        self.vector_out = nn.Parameter(0.3 * vectors**-0.5 * torch.randn(vectors))
        self.vector_out_gate = nn.Linear(width, 1)

    def features(self, graphs: Graphs) -> tuple[Tensor, Tensor]:
        """One-hot features of atoms `(G, N, .)` and pairs `(G, M, .)`."""
        atoms = graphs.atoms.long()
        nodes = [F.one_hot(self.element_index[atoms[..., 0]], self.elements)]
        nodes += [
            F.one_hot(atoms[..., k], n) for k, n in enumerate(ATOM_FEATURES.values(), start=1)
        ]
        links = graphs.pairs.long()
        edges = [F.one_hot(links[..., k], n) for k, n in enumerate(PAIR_FEATURES.values())]
        dtype = self.vector_in.dtype
        return torch.cat(nodes, -1).to(dtype), torch.cat(edges, -1).to(dtype)

    def forward(
        self, t: Tensor, positions: Tensor, nodes: Tensor, edges: Tensor, graphs: Graphs
    ) -> Tensor:
        """The velocity `(B, N, 3)`: turns with the input, and the mean over its atoms is zero.

        Arguments:
            t: `(B,)` times; positions: `(B, N, 3)`, zero centroid; nodes, edges: the `features` of
            `graphs`, of which there are `B`.
        """
        n = positions.shape[1]
        constants = pairs(n, positions.device, positions.dtype)
        angle = t[:, None].to(self.octaves.dtype) * self.octaves
        size = torch.full_like(angle[:, :1], n / 18 - 1)
        clock = self.time_in(torch.cat([angle.sin(), angle.cos(), size], -1))
        h = self.node_in(nodes) + clock[:, None]
        with full_precision(positions):
            distance = ((constants.difference @ positions).square().sum(-1) + 1e-6).sqrt()
            spacing = self.centres[1] - self.centres[0]
            waves = torch.exp(-0.5 * ((distance.unsqueeze(-1) - self.centres) / spacing).square())
        node_part = self.node_to_pair(h)
        e = self.pair_in(edges) + self.radial_in(waves) + self.time_to_pair(clock)[:, None]
        e = e + constants.both.to(node_part.dtype) @ node_part
        x = positions.unsqueeze(-1) * self.vector_in
        centres = graphs.centres.long()
        for layer in self.layers:
            h, e, x = layer(h, e, x, constants, centres, graphs.real)
        with full_precision(positions):
            gate = F.linear(h.to(x.dtype), self.vector_out_gate.weight, self.vector_out_gate.bias)
            velocity = (x @ self.vector_out) * (1 + gate)
            return velocity - velocity.mean(1, keepdim=True)
