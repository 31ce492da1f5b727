r"""The network of conformer flows: that of `network.py`, told the graph and the hand of centres.

Between two layers every stereocentre looks at the volume its four atoms span in each vector
channel, signed so that it is positive where the geometry is right, and pushes the four along its
gradient. That is a pseudoscalar times its mark: with `P` a reflection and `-g` the mirrored graph

    f(R x, g) = R f(x, g)  for rotations R,        f(P x, -g) = P f(x, g),

and nothing forces `f(P x, g) = P f(x, g)`, so a chiral molecule gets its own hand.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from molflowctl.models.conformer_graph import ATOM_FEATURES, PAIR_FEATURES, Graphs
from molflowctl.models.network import EquivariantTrunk, Layer, Sizes, full_precision, pairs

__all__ = ["ConformerNetwork"]


class ChiralLayer(nn.Module):
    """A layer of pairs, nodes and vectors, then one of stereocentres."""

    def __init__(
        self, width: int, pair_width: int, heads: int, vectors: int, triangles: int = 0
    ) -> None:
        super().__init__()
        self.layer = Layer(width, pair_width, heads, vectors, triangles)
        self.norm = nn.LayerNorm(width)
        self.centre_in = nn.Linear(width + vectors, width)
        self.centre_out = nn.Linear(width, 2 * width + vectors)
        self.centre_out.weight.data *= 0.5

    def silence(self) -> None:
        """Make the layer change nothing, as a trained network needs of one that it is given."""
        self.layer.silence()
        nn.init.zeros_(self.centre_out.weight)
        nn.init.zeros_(self.centre_out.bias)

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


class ConformerNetwork(EquivariantTrunk):
    """From a molecular graph and noisy positions to a velocity.

    Arguments:
        elements: atomic numbers it knows.
        sizes: of `Sizes`; distances are embedded from 0 to 8 length units.
    """

    element_index: Tensor

    def __init__(self, elements: list[int], **sizes: int) -> None:
        size = Sizes(**sizes)
        atoms = len(elements) + sum(ATOM_FEATURES.values())
        super().__init__(atoms, sum(PAIR_FEATURES.values()), size, reach=8)
        self.elements = len(elements)
        lookup = torch.zeros(256, dtype=torch.long)
        lookup[torch.tensor(elements)] = torch.arange(len(elements))
        self.register_buffer("element_index", lookup, persistent=False)
        self.layers = nn.ModuleList(
            ChiralLayer(size.width, size.pair_width, size.heads, size.vectors, size.triangles)
            for _ in range(size.depth)
        )
        self.head(size.width, size.vectors)

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
        constants = pairs(positions.shape[1], positions.device, positions.dtype)
        with self.products(positions):
            h, e, x = self.embed(t, nodes, edges, positions, constants)
            centres = graphs.centres.long()
            for layer in self.layers:
                h, e, x = layer(h, e, x, constants, centres, graphs.real)
            return self.velocity(h, x)
