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

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow
from molflowctl.models.around.told import Known, Told

__all__ = [
    "EquivariantNetwork",
    "EquivariantTrunk",
    "Pairs",
    "Reader",
    "Seen",
    "Sizes",
    "ValueNetwork",
    "grown",
    "pairs",
]

FlowT = TypeVar("FlowT", bound=Flow)

MOMENTS = 32  # whose lengths a network of values reads


class Pairs(NamedTuple):
    """Constants of the complete graph on `N` nodes."""

    first: Tensor  # (M,) smaller node of each pair
    second: Tensor  # (M,) larger node
    both: Tensor  # (M,N) incidence: 1 at both nodes, so `both @ h` is h_i + h_j
    difference: Tensor  # (M,N) signed incidence: `difference @ x` is x_i - x_j
    square: Tensor  # (N*N,) the pair of each ordered (i,j); M stands for the diagonal
    upper: Tensor  # (M,) where in (N*N,) the pair is


@lru_cache(maxsize=256)
def pairs(n: int, device: torch.device, dtype: torch.dtype) -> Pairs:
    """Pair constants for `n` nodes."""
    first, second = torch.triu_indices(n, n, 1, device=device)
    m = len(first)
    row = torch.arange(m, device=device)
    both = torch.zeros(m, n, device=device, dtype=dtype)
    both[row, first] = both[row, second] = 1
    difference = torch.zeros(m, n, device=device, dtype=dtype)
    difference[row, first], difference[row, second] = 1, -1
    square = torch.full((n, n), m, device=device)
    square[first, second] = square[second, first] = row
    return Pairs(first, second, both, difference, square.flatten(), first * n + second)


def full_precision(like: Tensor):
    """Geometry is kept out of autocast: bf16 has three digits, a bond length needs four."""
    return torch.autocast(like.device.type, enabled=False)


class Triangles(nn.Module):
    """Pairs read pairs: `i,j` learns of every third atom `k` from `i,k` and `k,j`.

    A layer without it sees a pair by its two atoms alone, and cannot count rings. With it, walks of
    two pairs reach a pair, and of 2^L pairs after `L` layers. That is the refinement of 2-FWL,
    which counts cycles of up to seven atoms (Fuerer, arXiv 1704.01023; Arvind et al., arXiv
    1811.04801).
    The product is the triangle multiplication of Jumper et al., Nature 596, 583 (2021), made
    symmetric. Its output is zero at first, so that a trained network can be given it.

    Arguments:
        pair_width: channels of the pairs.
        channels: of the product.
    """

    def __init__(self, pair_width: int, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(pair_width)
        self.sides = nn.Linear(pair_width, 2 * channels)
        self.product_norm = nn.LayerNorm(channels)
        self.out = nn.Linear(channels, pair_width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, e: Tensor, graph: Pairs) -> Tensor:
        """What to add to pairs, `(B,M,pair_width)`, of pairs of that shape."""
        b, n = len(e), graph.both.shape[1]
        sides = F.pad(self.sides(self.norm(e)), (0, 0, 0, 1)).index_select(1, graph.square)
        left, right = sides.view(b, n, n, 2, -1).permute(3, 0, 4, 1, 2)
        product = left @ right
        product = (product + product.mT).flatten(2)[:, :, graph.upper].mT
        return self.out(self.product_norm(product))


class Layer(nn.Module):
    """Pairs read nodes and distances; nodes attend through pairs; vectors move along pairs."""

    def __init__(
        self, width: int, pair_width: int, heads: int, vectors: int, triangles: int = 0
    ) -> None:
        super().__init__()
        self.heads, self.vectors = heads, vectors
        self.triangles = Triangles(pair_width, triangles) if triangles else None
        self.pair_norm = nn.LayerNorm(pair_width)
        self.pair_from_node_norm = nn.LayerNorm(width)
        self.pair_from_node = nn.Linear(width, pair_width)
        self.pair_in = nn.Linear(pair_width + vectors, pair_width)
        # One product gives a pair's residual, its attention bias and gate, and its vector weights.
        self.pair_out = nn.Linear(pair_width, pair_width + 2 * heads + vectors)
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.node_norm = nn.LayerNorm(width)
        self.node_in = nn.Linear(width + vectors, 2 * width)
        self.node_out = nn.Linear(2 * width, width)
        self.vector_mix = nn.Linear(vectors, vectors, bias=False)
        self.vector_gate = nn.Linear(width, vectors)
        nn.init.eye_(self.vector_mix.weight)
        nn.init.zeros_(self.vector_gate.weight)
        nn.init.ones_(self.vector_gate.bias)
        for residual in (self.attention_out, self.node_out, self.pair_out):
            residual.weight.data *= 0.5

    def silence(self) -> None:
        """Make the layer change nothing, as a trained network needs of one that it is given."""
        for residual in (self.attention_out, self.node_out, self.pair_out):
            nn.init.zeros_(residual.weight)
            nn.init.zeros_(residual.bias)

    def forward(
        self, h: Tensor, e: Tensor, x: Tensor, graph: Pairs
    ) -> tuple[Tensor, Tensor, Tensor]:
        b, n, width = h.shape
        heads, s = self.heads, self.vectors
        if self.triangles is not None:
            e = e + self.triangles(e, graph)
        with full_precision(x):
            gap = (graph.difference @ x.flatten(2)).view(b, -1, 3, s)
            distance = (gap.square().sum(2) + 1e-3).sqrt()
        z = self.pair_in(torch.cat([self.pair_norm(e), distance.to(e.dtype)], -1))
        node_part = self.pair_from_node(self.pair_from_node_norm(h))
        z = F.silu(z + graph.both.to(node_part.dtype) @ node_part)
        residual, bias, weight = self.pair_out(z).split([e.shape[-1], 2 * heads, s], -1)
        e = e + residual

        bias = F.pad(bias.to(x.dtype), (0, 0, 0, 1)).index_select(1, graph.square)
        bias, gate = bias.view(b, n, n, 2, heads).permute(3, 0, 4, 1, 2)
        q, k, v = self.qkv(self.attention_norm(h)).view(b, n, 3, heads, -1).permute(2, 0, 3, 1, 4)
        logits = (q @ k.transpose(-1, -2)).to(x.dtype) * (width // heads) ** -0.5 + bias
        # A softmax whose rows are summed by a product: on rows as short as a molecule that is 10 %
        # of a whole training step faster than torch's own. The bound stands in for the shift by
        # the largest logit: exp(40) is far from overflow, and logits stay within a few units.
        weights = logits.clamp(-40, 40).exp()
        total = weights @ weights.new_ones(n, 1)
        message = ((weights * torch.sigmoid(gate)).to(v.dtype) @ v) * (2 / total).to(v.dtype)
        h = h + self.attention_out(message.transpose(1, 2).reshape(b, n, width))

        norm = (x.square().sum(2) + 1e-3).sqrt().to(h.dtype)
        h = h + self.node_out(F.silu(self.node_in(torch.cat([self.node_norm(h), norm], -1))))
        with full_precision(x):
            weight = (weight.to(x.dtype) / (1 + distance)).unsqueeze(2)
            push = (graph.difference.T @ (gap * weight).flatten(2)).view(b, n, 3, s) * n**-0.5
            gate = F.linear(h.to(x.dtype), self.vector_gate.weight, self.vector_gate.bias)
            x = F.linear(x + push, self.vector_mix.weight) * gate.unsqueeze(2)
        return h, e, x


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
        h, e, x = self.embed(t, nodes, edges, positions, graph)
        if known is not None and self.told is not None:
            with full_precision(x):
                waves = self.waves(known.distances)
            of_nodes, of_pairs = self.told(known, waves)
            h, e = h + of_nodes, e + of_pairs
        for layer in self.layers:
            h, e, x = layer(h, e, x, graph)
        return h, e, x


def grown(flow: FlowT, grows: Sequence[str], network: dict[str, Any]) -> FlowT:
    """The same flow in a larger network, of which what is new changes nothing yet.

    Arguments:
        flow: with a `network` of layers.
        grows: the arguments of the network that may grow.
        network: arguments that differ.

    Raises:
        UserError: for arguments that may not grow, or less of one.

    Chen, Goodfellow, Shlens, arXiv 1511.05641 (growth that preserves the function).
    """
    known = vars(Sizes()) | flow.arguments["network"]
    if changed := sorted(k for k, v in network.items() if k not in grows and known[k] != v):
        raise UserError(f"a trained network keeps its {', '.join(changed)}: leave them out.")
    arguments = {**flow.arguments, "network": {**flow.arguments["network"], **network}}
    larger = type(flow)(**arguments)
    theirs, state = larger.state_dict(), flow.state_dict()
    if any(k not in theirs or theirs[k].shape != v.shape for k, v in state.items()):
        raise UserError(
            "a trained network can only grow: give more layers, not fewer, and take neither its "
            "triangles nor what it knows of given parts away."
        )
    larger.load_state_dict(state, strict=False)
    before, now = (cast(nn.ModuleList, f.get_submodule("network.layers")) for f in (flow, larger))
    for layer in now[len(before) :]:
        cast(Layer, layer).silence()
    larger.card = flow.card
    return larger.to(flow.device)


class ValueNetwork(nn.Module):
    """A number for each noisy state, which does not change with rotations; zero at first.

    It reads the features of a trained network, which stay as they are: what a state will become
    they hold already, a few layers on top are learned from few samples, and a trunk that went on
    learning from numbers alone would lose the damping of its vectors.

    Arguments:
        trunk: the trained network; it is copied.
    """

    def __init__(self, trunk: EquivariantNetwork) -> None:
        super().__init__()
        self.trunk = copy.deepcopy(trunk).requires_grad_(False)
        self.reader = Reader(trunk)

    def forward(
        self, t: Tensor, nodes: Tensor, edges: Tensor, positions: Tensor, known: Known | None = None
    ) -> Tensor:
        """`(B,)`, of what `EquivariantNetwork` takes; the centroid of the positions is nothing."""
        return self.reader(self.trunk.see(t, nodes, edges, positions, known), t)


class Reader(nn.Module):
    """A number for each state, of what a network has seen of it; zero at first.

    Beside means over nodes and pairs it reads the lengths of moments, `|sum_i q_i r_i|` with
    learned charges `q` at the predicted positions `r`, plus learned vectors: what adds up as
    vectors, as a dipole moment does, cancels or not by geometry, which no mean of numbers says.

    Arguments:
        trunk: the network.
    """

    def __init__(self, trunk: EquivariantNetwork) -> None:
        super().__init__()
        width, pair_width = trunk.node_in.out_features, trunk.pair_in.out_features
        self.nodes = _perceptron(width, width, width)
        self.pairs = _perceptron(pair_width, width, width)
        self.charges = _perceptron(width, width, MOMENTS)
        self.weights = _perceptron(width, width, MOMENTS)
        self.vectors = nn.Linear(len(trunk.vector_in), MOMENTS, bias=False)
        self.moments = nn.Linear(2 * MOMENTS, width)
        self.out = _perceptron(3 * width, width, 1)
        for parameter in self.out[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, seen: Seen, t: Tensor) -> Tensor:
        """`(B,)`; the times are in the features already."""
        h, e, x, end = seen
        moments = torch.einsum("bnk,bnd->bdk", self.charges(h).to(end.dtype), end)
        with full_precision(x):
            vectors = F.linear(x, self.vectors.weight)
        weights = self.weights(h).to(x.dtype) / x.shape[1]
        moments = moments + torch.einsum("bnk,bndk->bdk", weights, vectors)
        lengths = (moments.square().sum(1) + 1e-2).sqrt()
        # A lone atom has no pairs.
        pooled = [
            self.nodes(h).mean(1),
            self.pairs(e).sum(1) / max(1, e.shape[1]),
            self.moments(torch.cat([lengths, lengths.log()], -1)),
        ]
        return self.out(torch.cat(pooled, -1)).squeeze(-1).to(end.dtype)


def _perceptron(inputs: int, width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(inputs), nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, outputs)
    )
