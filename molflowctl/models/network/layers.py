"""Layers of the network: pairs read pairs and atoms, atoms read atoms, vectors move along pairs."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Layer", "Pairs", "Triangles", "full_precision", "pairs"]


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
