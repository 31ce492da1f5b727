"""How a network is told what of the molecules is given."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["Known", "Told"]

KNOWN = 3  # numbers beside the features of an atom, and of a pair


class Known(NamedTuple):
    """What is given of the molecules at time 1; zero where nothing is.

    Attributes:
        atoms: `(B,N,node_features+3)`: types and charges of given atoms, whether the atom is given,
            whether it may bond to the rest, and by how many bonds, 0 where that is not said.
        pairs: `(B,M,pair_features+3)`: given bonds, whether both atoms are given, whether the pair
            is known to be no bond, and whether the distance is given.
        distances: `(B,M)` length units, of which those count that `rigid` `(B,M)` names.
    """

    atoms: Tensor
    pairs: Tensor
    distances: Tensor
    rigid: Tensor


class Told(nn.Module):
    """What is given enters the features of nodes and pairs; nothing given adds nothing.

    It is linear without a bias, and zero at first, so that a trained network can be given it.
    """

    def __init__(
        self, node_features: int, pair_features: int, width: int, pair_width: int, radial: int
    ) -> None:
        super().__init__()
        self.nodes = nn.Linear(node_features + KNOWN, width, bias=False)
        self.pairs = nn.Linear(pair_features + KNOWN + radial, pair_width, bias=False)
        nn.init.zeros_(self.nodes.weight)
        nn.init.zeros_(self.pairs.weight)

    def forward(self, known: Known, waves: Tensor) -> tuple[Tensor, Tensor]:
        """What to add to nodes `(B,N,width)` and pairs `(B,M,pair_width)`."""
        waves = waves * known.rigid.unsqueeze(-1)
        return self.nodes(known.atoms), self.pairs(torch.cat([known.pairs, waves], -1))
