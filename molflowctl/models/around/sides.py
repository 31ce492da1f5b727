r"""What is drawn at a stereocentre of a core, or at its double bond, comes on the side that it has.

A network that sees distances bonds the rest from either side of a flat core, each as likely. The
stereo of the core says which one is meant: where the atom that is most likely bonded comes on the
other one, it and what hangs together with it are mirrored in the plane between the two sides. With
`n` the unit normal of the plane and `c` a point of it

    x  ->  x - 2 ((x - c) . n) n.

The plane of a centre holds it and two neighbours; that of a double bond holds the bond, and stands
upright on it. Both turn with the molecule, so that the flow does as well.
"""

from __future__ import annotations

import torch
from torch import Tensor

from molflowctl.models.around.hands import REST, Hands
from molflowctl.models.network import pairs

__all__ = ["on_their_sides"]


def on_their_sides(positions: Tensor, bonds: Tensor, hands: Hands, k: int) -> Tensor:
    """Positions with what is drawn at the core's stereo on its side.

    Arguments:
        positions: `(B,N,3)`, the core's `k` atoms first.
        bonds: probabilities of orders, none first, times any factor, `(B,M,orders)`.
    """
    rows = _drawn(hands)
    n = positions.shape[1]
    if not rows or n == k:
        return positions
    square = pairs(n, bonds.device, torch.float32).square.view(n, n)
    with torch.no_grad():
        p = bonds[..., 1:].sum(-1) / bonds.sum(-1).clamp_min(1e-9)
        p = torch.nn.functional.pad(p, (0, 1))  # an atom has no bond to itself
        together = (p[:, square[k:, k:]] > 0.5).to(p)
    for at, through, sign in rows:
        with torch.no_grad():
            nearest = p[:, square[at, k:]].argmax(-1)
            normal = _normal(positions, through)
            member = torch.nn.functional.one_hot(nearest, n - k).to(p)
            place = (member[..., None] * positions[:, k:]).sum(1)
            side = ((place - positions[:, at]) * normal).sum(-1) * sign
            wrong = (side < 0) & (p[:, square[at, k:]].sum(-1) > 0.5)  # where there will be a bond
            for _ in range(n - k - 1):  # a bond farther each time
                member = (member + (together @ member[..., None])[..., 0]).clamp(max=1)
            moved = member * wrong[:, None]
        height = ((positions[:, k:] - positions[:, at, None]) * normal[:, None]).sum(-1)
        rest = positions[:, k:] - 2 * (moved * height)[..., None] * normal[:, None]
        positions = torch.cat([positions[:, :k], rest], 1)
    return positions


def _drawn(hands: Hands) -> list[tuple[int, tuple[int, ...], int]]:
    """The atom that is bonded to what is drawn, what its plane goes by, and the sign of its side.

    By three atoms of a centre, or four of a double bond: an upright plane that holds the inner two.
    """
    found: list[tuple[int, tuple[int, ...], int]] = []
    for centre, a, b, c, sign in hands.centres:
        if c == REST and REST not in (a, b):
            found.append((centre, (centre, a, b), sign))
    for a, begin, end, d, sign in hands.doubles:
        if d == REST and a != REST:
            found.append((end, (a, begin, end, d), sign))
        elif a == REST and d != REST:
            found.append((begin, (d, end, begin, a), sign))
    return found


def _normal(x: Tensor, through: tuple[int, ...]) -> Tensor:
    """Unit normals `(B,3)` towards the side of the sign +1."""
    if len(through) == 3:
        centre, a, b = through
        normal = torch.linalg.cross(x[:, a] - x[:, centre], x[:, b] - x[:, centre])
    else:
        a, begin, end, _ = through
        axis = torch.nn.functional.normalize(x[:, end] - x[:, begin], dim=-1)
        side = x[:, a] - x[:, begin]
        normal = side - (side * axis).sum(-1, keepdim=True) * axis
    return torch.nn.functional.normalize(normal, dim=-1)
