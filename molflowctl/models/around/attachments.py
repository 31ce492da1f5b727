r"""Bonds between a core and the rest: where they may be, of what order, and how many.

A flow says how probable each bond is, one by one. What is known of them together is a number: a
fragment has a bond to the rest at least, an atom not more than it has hydrogens to lose, and where
it is stated exactly so many. Of all probabilities with the right mean number of bonds those nearest
to the flow's, in relative entropy, have the flow's odds times a common factor,

    q_ij / (1 - q_ij)  ->  c p_ij / (1 - p_ij),    sum_ij q_ij = number,

an exponential tilt (Csiszar, Ann. Probab. 3, 146 (1975)). From the first step on every molecule is
then bonded to its core, and which atom bonds is drawn with all else. Without it a flow that is not
told of the core draws a molecule beside it. For the same reason `connected` gives what hangs
together with the core, as far as it is decided, one bond at least to all that does not.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from molflowctl.models.around.core import Core
from molflowctl.models.network import pairs

__all__ = ["Attachments", "connected", "shift_to"]

_STEPS = 24  # of bisection
_WIDEST = 30.0  # nats that odds are moved by


class Attachments:
    """What is known of the bonds between a core and the other atoms, of molecules of one size.

    Attributes:
        where: `(A,R)` the pairs of each of the `A` open atoms with each of the `R` other ones.
        closed: `(C,)` the pairs of closed atoms with the others.
        allowed: `(A,orders)` bool, the orders that a bond of an open atom may have.
        most: `(A,)` the most bonds of an open atom.
        stated: `(A,)` how many it is to have; 0 where that is not said.
        fragments: the open atoms of each fragment of which no number is stated.
    """

    def __init__(
        self,
        where: Tensor,
        closed: Tensor,
        allowed: Tensor,
        most: Tensor,
        stated: Tensor,
        fragments: list[Tensor],
    ) -> None:
        self.where, self.closed, self.allowed = where, closed, allowed
        self.most, self.stated, self.fragments = most, stated, fragments

    @classmethod
    def of(cls, core: Core, n: int, orders: int, device: torch.device) -> Self:
        """Of molecules of `n` atoms, first the core's; `orders` of bonds include none."""
        k = len(core)
        square = pairs(n, device, torch.float32).square.view(n, n)
        room = torch.tensor(core.room, device=device)
        opened = (room > 0).nonzero().squeeze(1)
        place = {int(atom): row for row, atom in enumerate(opened.tolist())}
        stated = torch.tensor(core.stated, device=device)[opened]
        fragments = []
        for atoms in core.fragments():
            rows = [place[atom] for atom in atoms if atom in place]
            if rows and not any(core.stated[atom] for atom in atoms):
                fragments.append(torch.tensor(rows, device=device))
        return cls(
            square[opened][:, k:],
            square[:k][room == 0][:, k:].flatten(),
            torch.arange(orders, device=device)[None] <= room[opened, None],
            room[opened].float(),
            stated.float(),
            fragments,
        )

    def apply(self, bonds: Tensor) -> Tensor:
        """Probabilities of orders `(B,M,orders)`, none first, times any factor, as they are known.

        A bond of a closed atom to the rest is none.
        """
        if not self.where.numel() and not self.closed.numel():
            return bonds
        total = bonds[:, :1].sum(-1, keepdim=True)
        none = torch.zeros_like(bonds[:, self.closed])
        none[..., 0] = total[..., 0]
        bonds = bonds.index_copy(1, self.closed, none)
        if not self.where.numel():
            return bonds
        p = bonds[:, self.where.flatten()].unflatten(1, self.where.shape)
        p = p * self.allowed[:, None].to(p)
        p = p / p.sum(-1, keepdim=True).clamp_min(1e-9)
        bonded = p[..., 1:].sum(-1).clamp(1e-7, 1 - 1e-7)
        tilted = self._tilted(bonded.logit()).sigmoid()
        orders = p[..., 1:] * (tilted / bonded).unsqueeze(-1)
        p = torch.cat([(1 - tilted).unsqueeze(-1), orders], -1) * total.unsqueeze(-1)
        return bonds.index_copy(1, self.where.flatten(), p.flatten(1, 2))

    def _tilted(self, logits: Tensor) -> Tensor:
        """Logits of bonds `(B,A,R)` with the numbers that are known."""
        with torch.no_grad():
            plain = logits.detach()
            shift = torch.zeros_like(plain[..., :1])
            for rows in self.fragments:
                flat = plain[:, rows].flatten(1)
                few = flat.sigmoid().sum(-1) < 1
                up = torch.where(few, shift_to(flat, torch.ones_like(flat[:, 0])), 0.0)
                shift[:, rows] = up[:, None, None]
            mean = (plain + shift).sigmoid().sum(-1)
            goal = torch.where(self.stated > 0, self.stated, torch.minimum(mean, self.most))
            goal = torch.minimum(goal, torch.as_tensor(0.999 * plain.shape[-1]).to(goal))
            exact = (self.stated > 0) | (mean > self.most)
            own = shift_to(plain, goal)[..., None]
            shift = torch.where(exact[..., None], own, shift)
        return logits + shift


def connected(bonds: Tensor, n: int) -> Tensor:
    """Probabilities of orders `(B,M,orders)`, of molecules that are in one piece.

    Bonds that are more likely than not hold the first atom together with others; between them and
    the rest there is one bond at least, tilted as above. Bonds of probability zero stay so.

    Arguments:
        n: number of atoms.
    """
    graph = pairs(n, bonds.device, torch.float32)
    total = bonds.sum(-1)
    p = bonds[..., 1:].sum(-1) / total.clamp_min(1e-9)
    with torch.no_grad():
        padded = torch.nn.functional.pad(p > 0.5, (0, 1))
        reach = padded[:, graph.square].view(-1, n, n).float()
        reach = reach + torch.eye(n, device=bonds.device)
        for _ in range(max(1, (n - 1).bit_length())):  # each doubles the length of the walks
            reach = (reach @ reach).clamp(max=1)
        side = reach[:, 0] > 0
        cut = (side[:, graph.first] ^ side[:, graph.second]) & (p > 0)
        logits = torch.where(cut, p.clamp(1e-12, 1 - 1e-6).logit(), -torch.inf)
        shift = shift_to(logits, torch.ones_like(p[:, 0]))
        few = cut.any(-1) & (logits.sigmoid().sum(-1) < 1)
        shifted = (logits + shift[:, None]).sigmoid()
        factor = torch.where(cut & few[:, None], shifted / p.clamp_min(1e-12), 1.0)
    orders = bonds[..., 1:] * factor.unsqueeze(-1)
    return torch.cat([(total - orders.sum(-1)).clamp_min(0).unsqueeze(-1), orders], -1)


def shift_to(logits: Tensor, number: Tensor) -> Tensor:
    """What to add to logits `(..., m)` so that their probabilities add up to `number`, `(...)`.

    Arguments:
        number: above 0, below `m`.
    """
    low = torch.full_like(number, -_WIDEST)
    high = torch.full_like(number, _WIDEST)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        above = (logits + middle.unsqueeze(-1)).sigmoid().sum(-1) > number
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return (low + high) / 2
