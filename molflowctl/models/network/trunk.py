"""The trunk that the networks of all flows share, and the network of the de-novo flows."""

from __future__ import annotations

import contextlib
import copy
import math
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from molflowctl.compute.precision import wants_bf16
from molflowctl.models.around.told import Known, Told
from molflowctl.models.network.layers import Layer, Pairs, full_precision, pairs

__all__ = [
    "EquivariantNetwork",
    "EquivariantTrunk",
    "Seen",
    "Sizes",
    "in_precision",
    "precision_of",
]

FlowT = TypeVar("FlowT", bound=nn.Module)


@dataclass(frozen=True)
class Sizes:
    """Sizes of a network.

    Arguments:
        width, pair_width, heads, vectors, depth: of the features, heads and layers.
        radial: number of Gaussians in the first embedding of distances.
        triangles: channels of `Triangles` in each layer; 0 for none.
    """

    width: int = 192
    pair_width: int = 64
    heads: int = 8
    vectors: int = 16
    depth: int = 6
    radial: int = 32
    triangles: int = 0


class EquivariantTrunk(nn.Module):
    """What the networks of all flows share: how a noisy state is embedded, and how it moves.

    Arguments:
        node_features, pair_features: channels of the inputs.
        width, pair_width, vectors: sizes of the features.
        radial, reach: number of Gaussians in the first embedding of distances, from 0 to `reach`
            length units.
    """

    centres: Tensor
    octaves: Tensor
    bf16 = False  # its products, see `in_precision`

    def __init__(self, node_features: int, pair_features: int, size: Sizes, reach: float) -> None:
        super().__init__()
        width, pair_width, radial = size.width, size.pair_width, size.radial
        self.time_in = nn.Sequential(nn.Linear(33, width), nn.SiLU(), nn.Linear(width, width))
        self.time_to_pair = nn.Linear(width, pair_width)
        self.node_in = nn.Linear(node_features, width)
        self.pair_in = nn.Linear(pair_features, pair_width)
        self.radial_in = nn.Linear(radial, pair_width)
        self.node_to_pair = nn.Linear(width, pair_width)
        self.vector_in = nn.Parameter(1 + 0.5 * torch.randn(size.vectors))
        self.register_buffer("centres", torch.linspace(0, reach, radial), persistent=False)
        self.register_buffer("octaves", math.pi * 2 ** (torch.arange(16) / 2), persistent=False)

    def products(self, like: Tensor) -> AbstractContextManager[Any]:
        """Where products are taken in bf16, if they are to be; geometry never is."""
        if self.bf16:
            return torch.autocast(like.device.type, torch.bfloat16)
        return contextlib.nullcontext()

    def head(self, width: int, vectors: int) -> None:
        """Add the parameters of `velocity`, the last that a network makes."""
        self.vector_out = nn.Parameter(0.3 * vectors**-0.5 * torch.randn(vectors))
        self.vector_out_gate = nn.Linear(width, 1)

    def embed(
        self, t: Tensor, nodes: Tensor, edges: Tensor, positions: Tensor, graph: Pairs
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Features of nodes `(B,N,width)` and pairs `(B,M,pair_width)`, and vectors `(B,N,3,S)`."""
        angle = t[:, None].to(self.octaves.dtype) * self.octaves
        size = torch.full_like(angle[:, :1], positions.shape[1] / 18 - 1)
        clock = self.time_in(torch.cat([angle.sin(), angle.cos(), size], -1))
        h = self.node_in(nodes) + clock[:, None]
        with full_precision(positions):
            distance = ((graph.difference @ positions).square().sum(-1) + 1e-6).sqrt()
            waves = self.waves(distance)
        node_part = self.node_to_pair(h)
        e = self.pair_in(edges) + self.radial_in(waves) + self.time_to_pair(clock)[:, None]
        e = e + graph.both.to(node_part.dtype) @ node_part
        return h, e, positions.unsqueeze(-1) * self.vector_in

    def waves(self, distance: Tensor) -> Tensor:
        """Gaussians of distances, `(..., radial)`."""
        spacing = self.centres[1] - self.centres[0]
        return torch.exp(-0.5 * ((distance.unsqueeze(-1) - self.centres) / spacing).square())

    def velocity(self, h: Tensor, x: Tensor) -> Tensor:
        """`(B,N,3)`, turning with the vectors `x`, with zero mean over nodes."""
        with full_precision(x):
            gate = F.linear(h.to(x.dtype), self.vector_out_gate.weight, self.vector_out_gate.bias)
            velocity = (x @ self.vector_out) * (1 + gate)
            return velocity - velocity.mean(1, keepdim=True)


class Seen(NamedTuple):
    """What an `EquivariantNetwork` makes of states, for others to read."""

    h: Tensor  # (B,N,width) features of nodes
    e: Tensor  # (B,M,pair_width) features of pairs
    x: Tensor  # (B,N,3,S) vectors
    end: Tensor  # (B,N,3) positions at time 1, predicted


class EquivariantNetwork(EquivariantTrunk):
    """From noisy nodes, pairs and positions to node logits, pair logits and a velocity.

    Arguments:
        node_features, pair_features: channels of the inputs, and of the outputs.
        conditional: it can be told what is `Known` of the molecules.
        sizes: of `Sizes`; distances are embedded from 0 to 6 length units.
    """

    def __init__(
        self, node_features: int, pair_features: int, *, conditional: bool = False, **sizes: int
    ) -> None:
        size = Sizes(**sizes)
        width, pair_width = size.width, size.pair_width
        super().__init__(node_features, pair_features, size, 6)
        self.layers = nn.ModuleList(
            Layer(width, pair_width, size.heads, size.vectors, size.triangles)
            for _ in range(size.depth)
        )
        self.node_head = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, node_features)
        )
        self.pair_head = nn.Sequential(
            nn.LayerNorm(pair_width),
            nn.Linear(pair_width, pair_width),
            nn.SiLU(),
            nn.Linear(pair_width, pair_features),
        )
        self.head(width, size.vectors)
        # The last to be made: what is drawn for the others stays as it is without it.
        shapes = (node_features, pair_features, width, pair_width, size.radial)
        self.told = Told(*shapes) if conditional else None

    def forward(
        self, t: Tensor, nodes: Tensor, edges: Tensor, positions: Tensor, known: Known | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Evaluate the network.

        Arguments:
            t: `(B,)` times; nodes: `(B,N,node_features)`; edges: `(B,M,pair_features)`, upper
            triangle; positions: `(B,N,3)`, zero centroid; known: what is given, None for nothing.

        Returns:
            node logits `(B,N,node_features)`, pair logits `(B,M,pair_features)`, and a velocity
            `(B,N,3)` that is equivariant to rotations and has zero mean over nodes.
        """
        return self.predict(*self.features(t, nodes, edges, positions, known))

    def predict(self, h: Tensor, e: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What `forward` returns, of the features."""
        with self.products(x):
            return self.node_head(h).to(x.dtype), self.pair_head(e).to(x.dtype), self.velocity(h, x)

    def see(
        self, t: Tensor, nodes: Tensor, edges: Tensor, positions: Tensor, known: Known | None = None
    ) -> Seen:
        """The features, and where the velocity leads; the centroid of the positions is nothing."""
        positions = positions - positions.mean(1, keepdim=True)
        h, e, x = self.features(t, nodes, edges, positions, known)
        return Seen(h, e, x, positions + (1 - t)[:, None, None] * self.velocity(h, x))

    def features(
        self, t: Tensor, nodes: Tensor, edges: Tensor, positions: Tensor, known: Known | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Nodes `(B,N,width)`, pairs `(B,M,pair_width)`, vectors `(B,N,3,S)` after all layers."""
        graph = pairs(positions.shape[1], positions.device, positions.dtype)
        with self.products(positions):
            h, e, x = self.embed(t, nodes, edges, positions, graph)
            if known is not None and self.told is not None:
                with full_precision(x):
                    waves = self.waves(known.distances)
                of_nodes, of_pairs = self.told(known, waves)
                h, e = h + of_nodes, e + of_pairs
            for layer in self.layers:
                h, e, x = layer(h, e, x, graph)
        if self.bf16:  # what reads them is in float32
            h, e = h.to(x.dtype), e.to(x.dtype)
        return h, e, x


def in_precision(flow: FlowT, precision: str) -> FlowT:
    """The flow with the products of its networks in a `Precision`; itself if that changes nothing.

    A flow keeps it when it is copied, steered or sent to a worker, and not when it is saved.

    Arguments:
        flow: any module; one without such networks is returned as it is.
        precision: float32, bf16, or auto for bf16 where the flow's device has units for it.
    """
    found = [m for m in flow.modules() if isinstance(m, EquivariantTrunk)]
    wanted = [wants_bf16(precision, trunk.vector_in.device) for trunk in found]
    if wanted == [trunk.bf16 for trunk in found]:
        return flow
    flow = copy.deepcopy(flow)
    for module in flow.modules():
        if isinstance(module, EquivariantTrunk):
            module.bf16 = wants_bf16(precision, module.vector_in.device)
    return flow


def precision_of(flow: nn.Module) -> str:
    """The `Precision` that `in_precision` gave a flow: bf16 or float32."""
    trunks = (m for m in flow.modules() if isinstance(m, EquivariantTrunk))
    return "bf16" if any(trunk.bf16 for trunk in trunks) else "float32"
