"""The part of a molecule that is given: which atoms, where they may bond, what is rigid.

Of the end of a molecule a `Part` tells a network (`Known`) the types and charges of the given
atoms, the orders of bonds between them, that an atom which may not bond to the rest has no bond to
it, and the distances within each rigid body. Distances do not turn with the molecule, so that an
equivariant network stays one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from molflowctl.flows.state import State
from molflowctl.models.around.told import Known
from molflowctl.models.network import pairs

__all__ = ["Part", "of_pairs", "told", "unknown"]


class Part(NamedTuple):
    """What is given of a batch of molecules of one size.

    Attributes:
        atoms: given or not, `(B,N)` bool.
        open: given atoms that may bond to the rest, `(B,N)` bool.
        bonds: how many bonds to the rest such an atom has, `(B,N)` int64; 0 where it is not said.
        bodies: number of the rigid body that a given atom belongs to, `(B,N)` int64, from 1; 0
            where the geometry is free.
    """

    atoms: Tensor
    open: Tensor
    bonds: Tensor
    bodies: Tensor

    @classmethod
    def nothing(cls, batch: int, atoms: int, device: torch.device | None = None) -> Part:
        """A part without atoms."""
        flags = torch.zeros(batch, atoms, dtype=torch.bool, device=device)
        return cls(flags, flags, flags.long(), flags.long())


def of_pairs(part: Part) -> tuple[Tensor, Tensor, Tensor]:
    """Of every pair whether both atoms are given, whether it cannot be a bond since one is given
    and closed and the other is not given, and whether its distance is given; `(B,M)` bool."""
    graph = pairs(part.atoms.shape[1], part.atoms.device, torch.float32)

    def ends(of_atoms: Tensor) -> tuple[Tensor, Tensor]:
        return of_atoms[:, graph.first], of_atoms[:, graph.second]

    (a, b), (c, d), (e, f) = ends(part.atoms), ends(part.open), ends(part.bodies)
    return a & b, (a ^ b) & ~(c | d), (e > 0) & (e == f)


def told(x1: State, part: Part) -> Known:
    """What a network is told of molecules that end as `x1`.

    Arguments:
        x1: the state at time 1, of which the part alone counts.
    """
    both, blocked, rigid = of_pairs(part)
    atoms = torch.cat([x1["atoms"], x1["charges"]], -1)
    flags = torch.stack([part.atoms, part.open, part.bonds], -1).to(atoms)
    graph = pairs(atoms.shape[1], atoms.device, atoms.dtype)
    distances = (graph.difference @ x1["positions"]).square().sum(-1).add(1e-12).sqrt()
    none = F.one_hot(torch.zeros_like(blocked, dtype=torch.long), x1["bonds"].shape[-1])
    # Of a bond that cannot be, the one-hot of none has the length that one of a bond has.
    length = x1["bonds"].sum(-1, keepdim=True)
    bonds = torch.where(both[..., None], x1["bonds"], none * length) * (both | blocked)[..., None]
    facts = torch.stack([both, blocked, rigid], -1).to(atoms)
    return Known(
        torch.cat([atoms * part.atoms[..., None], flags], -1),
        torch.cat([bonds, facts], -1),
        distances,
        rigid,
    )


def unknown(part: Part) -> dict[str, Tensor]:
    """1 for the atoms, charges and bonds that are to be found, 0 for those that are given."""
    both, blocked, _ = of_pairs(part)
    atoms, bonds = (~part.atoms).float(), (~(both | blocked)).float()
    return {"atoms": atoms, "charges": atoms, "bonds": bonds}
