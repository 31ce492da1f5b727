"""Random parts of molecules, for a network to learn what it is to be given one.

Most are what chemists keep: a molecule is cut at one to four acyclic single bonds and some of the
pieces are given, so that what is left are side chains, a core, or the linker of two fragments.
Others are the scaffold of Murcko, a ring system, or any connected set of atoms. All molecules of a
batch are cut at once.

A bond is in a ring if and only if the molecule stays in one piece without it, that is, if its
effective resistance is less than 1 when every bond is a resistor of 1. Klein, Randic,
doi:10.1007/BF01164627 (resistance distance, of the inverse of the Laplacian).
Bemis, Murcko, doi:10.1021/jm9602928 (scaffolds).
"""

from __future__ import annotations

from functools import lru_cache

import torch
from rdkit import Chem
from torch import Tensor

from molflowctl.flows.noise import BatchNoise
from molflowctl.models.around.part import Part
from molflowctl.models.network import pairs

__all__ = ["random_parts"]

SMALLEST, LARGEST = 0.2, 0.8  # of a molecule that a part is
TRIES = 12  # choices of pieces, of which one of such a size is taken
LINKED = 0.65  # cut molecules of which several fragments are given, where there are such choices
MOST_CUTS = 4
FRAGMENTS, MURCKO, RING_SYSTEM = 0.6, 0.15, 0.15  # shares; the rest is any connected set
STATED = 0.5  # parts whose atoms say how many bonds they have to the rest
FREE_GEOMETRY = 0.15  # parts of which no distance is given
FREE_POSES = 0.3  # parts of which distances are given between bonds that turn, and not across


def random_parts(
    numbers: Tensor, charges: Tensor, bonds: Tensor, noise: BatchNoise, share: float
) -> Part:
    """Parts of a `share` of the molecules, and of the others none.

    Arguments:
        numbers: `(B,N)` atomic numbers; charges: `(B,N)`; bonds: `(B,M)` orders, upper triangle.
        noise: numbers on the CPU, whatever the molecules are on.
    """
    batch, n = numbers.shape
    part = Part.nothing(batch, n, numbers.device)
    rows = (noise.uniform(batch) < share).nonzero().squeeze(1).to(numbers.device)
    if n < 3 or len(rows) == 0:
        return part
    orders = square(bonds[rows], n)
    atoms = _chosen(orders, noise)
    found = _described(atoms, orders, _room(numbers[rows], charges[rows], orders), noise)
    return Part(*(whole.index_copy(0, rows, some) for whole, some in zip(part, found, strict=True)))


def square(upper: Tensor, n: int) -> Tensor:
    """The symmetric matrices `(B,N,N)` of upper triangles `(B,M)`."""
    graph = pairs(n, upper.device, torch.float32)
    full = upper.new_zeros(len(upper), n, n)
    full[:, graph.first, graph.second] = full[:, graph.second, graph.first] = upper
    return full


def pieces(bonded: Tensor) -> Tensor:
    """Of every atom the first one that it hangs together with, `(B,N)`, for `(B,N,N)` bool."""
    n = bonded.shape[-1]
    reach = (bonded | torch.eye(n, dtype=torch.bool, device=bonded.device)).float()
    for _ in range(max(1, (n - 1).bit_length())):  # each doubles the length of the walks
        reach = (reach @ reach).clamp(max=1)
    return reach.argmax(-1)


def in_rings(bonded: Tensor) -> Tensor:
    """The bonds that are in rings, `(B,N,N)` bool like all bonds."""
    n = bonded.shape[-1]
    adjacency = bonded.double()
    laplacian = torch.diag_embed(adjacency.sum(-1)) - adjacency
    # A constant is what the Laplacian does not see; the small one is for molecules in pieces.
    eye = torch.eye(n, dtype=torch.float64, device=bonded.device)
    inverse = torch.linalg.inv(laplacian + 1 / n + 1e-7 * eye)
    own = inverse.diagonal(dim1=-2, dim2=-1)
    resistance = own[:, :, None] + own[:, None] - 2 * inverse
    return bonded & (resistance < 1 - 0.5 / n)  # in a ring of n bonds, 1 - 1/n


def scaffold(orders: Tensor) -> Tensor:
    """Atoms of rings and of what links them, with atoms on double bonds to them, `(B,N)` bool."""
    bonded = orders > 0
    alive = bonded.any(-1)
    for _ in range(orders.shape[-1]):
        kept = alive & ((bonded & alive[:, None]).sum(-1) > 1)
        if torch.equal(kept, alive):
            break
        alive = kept
    return alive | ((orders > 1) & alive[:, None]).any(-1)


def _chosen(orders: Tensor, noise: BatchNoise) -> Tensor:
    """Which atoms are given, `(B,N)` bool: never none, never all."""
    batch, n = orders.shape[:2]
    device, bonded = orders.device, orders > 0

    def uniform(*shape: int) -> Tensor:
        return noise.uniform(*shape).to(device)

    rings = in_rings(bonded)

    cuttable = (bonded & ~rings & (orders == 1)).triu(1).flatten(1)
    rank = torch.where(cuttable, uniform(batch, n * n), 2.0).argsort(1).argsort(1)
    cuts = 1 + (MOST_CUTS * uniform(batch, 1)).long()
    cut = (cuttable & (rank < cuts)).view(batch, n, n)
    owner = pieces(bonded & ~(cut | cut.mT))
    coins = uniform(batch, TRIES, n) < 0.5
    tries = coins.gather(2, owner[:, None].expand(-1, TRIES, -1))
    # Pieces less the cut bonds between them, of which no two close a ring, are the fragments.
    own = owner == torch.arange(n, device=device)
    joined = (cut[:, None] & tries[:, :, :, None] & tries[:, :, None]).sum((2, 3))
    apart = (tries & own[:, None]).sum(-1) - joined > 1
    wanted = apart == (uniform(batch, 1) < LINKED)
    best = (2 * _fits(tries).long() + wanted).argmax(1)
    fragments = tries[torch.arange(batch, device=device), best]

    systems = pieces(rings)
    seed = torch.where(rings.any(-1), uniform(batch, n), -1.0).argmax(1, keepdim=True)
    system = (systems == systems.gather(1, seed)) & rings.any(-1)
    system = system | (((orders > 1) & system[:, None]).any(-1) & (uniform(batch, 1) < 0.5))

    anything = _connected(bonded, uniform)
    kind = uniform(batch, 1)
    first, second = FRAGMENTS, FRAGMENTS + MURCKO
    chosen = torch.where(
        kind < first, fragments, torch.where(kind < second, scaffold(orders), system)
    )
    chosen = torch.where(kind < second + RING_SYSTEM, chosen, anything)
    return torch.where(_fits(chosen)[:, None], chosen, anything)


def _connected(bonded: Tensor, uniform) -> Tensor:
    """A connected set of any shape: the atoms nearest to one of them, by bonds of random length."""
    batch, n = bonded.shape[:2]
    length = uniform(batch, n, n)
    length = torch.where(bonded, length + length.mT, torch.inf)
    start = uniform(batch, n).argmax(1, keepdim=True)
    distance = torch.full((batch, n), torch.inf, device=bonded.device).scatter(1, start, 0.0)
    for _ in range(n - 1):
        distance = torch.minimum(distance, (distance[:, None] + length).amin(-1))
    share = SMALLEST + (LARGEST - SMALLEST) * uniform(batch, 1)
    size = (share * n).round().clamp(1, n - 1)
    return (distance.argsort(1).argsort(1) < size) & distance.isfinite()


def _fits(atoms: Tensor) -> Tensor:
    """Whether a part is neither too small nor too large, `(...)` for `(..., N)` bool."""
    n = atoms.shape[-1]
    count = atoms.sum(-1)
    return (count >= max(1, SMALLEST * n)) & (count <= min(n - 1, LARGEST * n))


def _described(atoms: Tensor, orders: Tensor, room: Tensor, noise: BatchNoise) -> Part:
    """The part of these atoms, with what is said of it drawn at random."""
    batch, n = atoms.shape
    draws = noise.uniform(batch, 4).to(atoms.device)
    among = noise.uniform(batch, n).to(atoms.device)
    bonded = orders > 0
    bonds = (bonded & atoms[:, :, None] & ~atoms[:, None]).sum(-1)
    stated = draws[:, :1] < STATED
    # Where nothing is said of their number, more atoms may be free to bond than do.
    spare = atoms & room & (among < draws[:, 1:2]) & ~stated
    inside = bonded & atoms[:, :, None] & atoms[:, None]
    inner = inside.sum(-1) > 1
    turning = inside & (orders == 1) & ~in_rings(bonded) & inner[:, :, None] & inner[:, None]
    owner = 1 + pieces(inside & ~turning)
    bodies = torch.where(draws[:, 2:3] < FREE_POSES, owner, 1) * atoms
    bodies = bodies * (draws[:, 3:4] >= FREE_GEOMETRY)
    return Part(atoms, (bonds > 0) | spare, bonds * stated, bodies)


def _room(numbers: Tensor, charges: Tensor, orders: Tensor) -> Tensor:
    """Whether an atom has a hydrogen that is not among the atoms, `(B,N)` bool."""
    valences = _valences().to(numbers.device)
    # An ion has the valence of its isoelectronic element: N+ that of C, O- that of F.
    usual = valences[(numbers - charges).clamp(0, len(valences) - 1)]
    return orders.sum(-1) < usual


@lru_cache
def _valences() -> Tensor:
    table = Chem.GetPeriodicTable()
    return torch.tensor([0, *(max(0, table.GetDefaultValence(z)) for z in range(1, 119))])
