"""Numbers read off what a trained network has seen: values of noisy states."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from molflowctl.models.around.told import Known
from molflowctl.models.network.layers import full_precision
from molflowctl.models.network.trunk import EquivariantNetwork, Seen

__all__ = ["Reader", "ValueNetwork"]

MOMENTS = 32  # whose lengths a network of values reads


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
