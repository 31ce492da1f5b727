r"""The de-novo flow: positions, atom types, formal charges and bond orders from noise, all at once.

The state of a molecule with `N` atoms is continuous in every part: positions `(B,N,3)` (angstrom
over `position_scale`, zero centroid) and one-hot atoms `(B,N,A)`, charges `(B,N,Q)` and bond orders
`(B,M,4)` over the upper triangle `M = N(N-1)/2`, times `category_scale`. The prior is a unit normal
on each, drawn independently of the data, so score and memoryless SDE are defined everywhere.

The network gives a velocity for positions, `x1_hat = x_t + (1-t) F`, and class probabilities for
the others, whose softmax times `category_scale` is the posterior mean of the one-hot.

Loss of one molecule, with `s = 1-t` (weights in `LOSS_WEIGHTS`):

    s^2/(s^2 + 0.02^2) mean|F - (x_1 - x_0)|^2
        + (sum CE(atoms) + sum CE(charges) + sum CE(bonds)) / N

The squared error on positions is the flow matching loss (Lipman et al., arXiv 2210.02747); cross
entropy in place of squared error on one-hots has the same optimum, the posterior probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from molflowctl.chem.graphs import Graph3D
from molflowctl.flows.card import check_elements, check_histogram, check_scales
from molflowctl.flows.noise import Noise
from molflowctl.flows.state import State, times
from molflowctl.models.around.part import Part, told, unknown
from molflowctl.models.around.told import Known
from molflowctl.models.molecule_flow import MoleculeFlow
from molflowctl.models.network import EquivariantNetwork, ValueNetwork, grown

__all__ = ["DeNovoFlow", "GivenParts", "time_quantiles"]

BOND_ORDERS = 4  # none, single, double, triple
GROWS = ("depth", "triangles", "conditional")  # what a trained network can be given
LOSS_WEIGHTS = {"positions": 1.0, "atoms": 0.4, "charges": 0.4, "bonds": 0.5}


class DeNovoFlow(MoleculeFlow):
    """A flow over whole molecules.

    Arguments:
        elements: atomic numbers, in the order of the one-hot.
        charges: formal charges, in the order of the one-hot.
        sizes: `{number of atoms: count}` of the training data; new sizes are drawn from it.
        hydrogens: `"implicit"` (heavy atoms only, hydrogens follow from valence) or `"explicit"`.
        position_scale: angstrom per unit of the state.
        category_scale: length of the one-hot vectors.
        network: arguments of `EquivariantNetwork`.
    """

    kind = "denovo"
    element_index: Tensor
    known_of: Callable[[State], Known | None] | None = None  # what a network is told, see `around`

    def __init__(
        self,
        elements: list[int],
        charges: list[int],
        sizes: dict[str, int],
        hydrogens: str = "implicit",
        position_scale: float = 1.2,
        category_scale: float = 0.5,
        network: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(
            elements=elements, charges=charges, sizes=sizes, hydrogens=hydrogens,
            position_scale=position_scale, category_scale=category_scale, network=network or {},
        )  # fmt: skip
        if hydrogens not in ("implicit", "explicit"):
            raise ValueError(f"hydrogens must be 'implicit' or 'explicit', not {hydrogens!r}")
        check_elements(elements)
        if not charges or charges != list(range(charges[0], charges[0] + len(charges))):
            raise ValueError(f"charges are whole numbers one after another, not {charges[:20]}")
        if max(map(abs, charges)) > 8:
            raise ValueError(f"no atom has a charge of {max(charges, key=abs)}")
        check_scales(position_scale=position_scale, category_scale=category_scale)
        self.elements, self.charges, self.hydrogens = elements, charges, hydrogens
        self.sizes = {int(n): count for n, count in sizes.items()}
        check_histogram(self.sizes)
        self.position_scale, self.category_scale = position_scale, category_scale
        self.network = EquivariantNetwork(
            len(elements) + len(charges), BOND_ORDERS, **(network or {})
        )
        lookup = torch.full((max(elements) + 1,), -1)
        lookup[torch.tensor(elements)] = torch.arange(len(elements))
        self.register_buffer("element_index", lookup, persistent=False)

    def grown(self, **network: Any) -> DeNovoFlow:
        """The same flow in a larger network, of which what is new changes nothing yet.

        Arguments:
            network: arguments of `EquivariantNetwork` that differ.

        Raises:
            UserError: for arguments other than `depth`, `triangles` and `conditional`, or less of
                one.
        """
        return grown(self, GROWS, network)

    # States ---------------------------------------------------------------------------------------

    def noise_like(self, x: State, noise: Noise) -> State:
        """Unit normals in the shape of `x`; positions have zero centroid."""
        parts = {name: noise.normal(*part.shape) for name, part in x.items()}
        parts["positions"] = parts["positions"] - parts["positions"].mean(1, keepdim=True)
        return State(**parts)

    def state_space(self) -> str:
        return (
            f"molecules of {'heavy ' if self.hydrogens == 'implicit' else ''}atoms of the elements "
            f"{self.elements} with charges {self.charges}, in units of {self.position_scale} "
            f"angstrom and {self.category_scale}"
        )

    def prior(self, batch: int, atoms: int, noise: Noise) -> State:
        """Noise for `batch` molecules of `atoms` atoms."""
        m = atoms * (atoms - 1) // 2
        shapes = State(
            positions=torch.empty(batch, atoms, 3),
            atoms=torch.empty(batch, atoms, len(self.elements)),
            charges=torch.empty(batch, atoms, len(self.charges)),
            bonds=torch.empty(batch, m, BOND_ORDERS),
        )
        return self.noise_like(shapes, noise)

    def encode(self, numbers: Tensor, charges: Tensor, bonds: Tensor, positions: Tensor) -> State:
        """The data state of molecules of one size, on the device of what is given.

        Arguments:
            numbers: `(B,N)` atomic numbers; charges: `(B,N)`; bonds: `(B,M)` orders over the upper
            triangle; positions: `(B,N,3)` angstrom.
        """
        c, index = self.category_scale, self.element_index.to(numbers.device)
        return State(
            positions=(positions - positions.mean(1, keepdim=True)) / self.position_scale,
            atoms=c * F.one_hot(index[numbers], len(self.elements)).float(),
            charges=c * F.one_hot(charges - self.charges[0], len(self.charges)).float(),
            bonds=c * F.one_hot(bonds, BOND_ORDERS).float(),
        )

    def decode(self, x: State) -> list[Graph3D]:
        """The most likely molecules of a data state."""
        numbers = torch.tensor(self.elements)[x["atoms"].argmax(-1).cpu()].numpy()
        charges = torch.tensor(self.charges)[x["charges"].argmax(-1).cpu()].numpy()
        orders = x["bonds"].argmax(-1).cpu().numpy().astype(np.int8)
        positions = (x["positions"].float() * self.position_scale).cpu().numpy()
        n = numbers.shape[1]
        first, second = np.triu_indices(n, 1)
        bonds = np.zeros((len(numbers), n, n), np.int8)
        bonds[:, first, second] = bonds[:, second, first] = orders
        return [Graph3D(*parts) for parts in zip(numbers, charges, bonds, positions, strict=True)]

    def round(self, x: State) -> State:
        """The data state whose categories are the most likely ones: exact one-hots again."""
        hard = {
            name: self.category_scale * F.one_hot(part.argmax(-1), part.shape[-1]).to(part)
            for name, part in x.items()
            if name != "positions"
        }
        return State(positions=x["positions"], **hard)

    # Predictions ----------------------------------------------------------------------------------

    def forward(self, x: State, t: Tensor, *, known: Known | None = None) -> State:
        """Velocity of the positions and logits of the categories.

        Arguments:
            known: what is given of the molecules, for a `conditional` network to read.
        """
        return self.named(self.network(*network_inputs(x, t), known or self.known(x)))

    def known(self, x: State) -> Known | None:
        """What is given of every molecule of this flow; None for nothing, as for most flows."""
        return self.known_of(x) if self.known_of is not None and self.conditional else None

    def named(self, prediction: tuple[Tensor, Tensor, Tensor]) -> State:
        """What `forward` returns, of what the network does."""
        node_logits, bonds, velocity = prediction
        atoms, charges = node_logits.split([len(self.elements), len(self.charges)], -1)
        return State(positions=velocity, atoms=atoms, charges=charges, bonds=bonds)

    def value_network(self) -> nn.Module:
        return Value(self.network).to(self.device)

    def endpoint(self, x: State, t: Tensor) -> State:
        """`E[x_1 | x_t]`: positions along the velocity, categories by their probabilities."""
        return self.endpoint_of(self(x, t), x, t)

    def endpoint_of(self, prediction: State, x: State, t: Tensor) -> State:
        """The endpoint that a `forward` prediction at `(x, t)` stands for."""
        parts = {
            name: self.category_scale * part.softmax(-1)
            for name, part in prediction.items()
            if name != "positions"
        }
        moved = x["positions"] + times(1 - t, prediction["positions"])
        return State(positions=moved, **parts)

    def endpoint_error(self, endpoint: State, target: State, t: Tensor) -> Tensor:
        """Mean squared error of positions (as a velocity's) and of class probabilities, `(B,)`."""
        snr = (1 / ((1 - t).square() + 0.02)).clamp(max=20)
        terms = []
        for name, weight in (("positions", snr), ("atoms", 4.0), ("charges", 4.0), ("bonds", 8.0)):
            scale = 1.0 if name == "positions" else self.category_scale
            error = ((endpoint[name] - target[name]) / scale).square().mean((1, 2))
            terms.append(weight * error)
        return torch.stack(terms).sum(0)

    @property
    def conditional(self) -> bool:
        """Whether the network reads what is given of a molecule."""
        return self.network.told is not None

    def losses(
        self, x1: State, t: Tensor, noise: Noise, part: Part | None = None
    ) -> dict[str, Tensor]:
        """Every term of the training loss per molecule, each `(B,)`, for data `x1` at times `t`.

        Arguments:
            part: what the network is told of the molecules. Types, charges and bonds that it is
                told are not in the loss; positions are, since how a given body stands is not given.
        """
        x0 = self.noise_like(x1, noise)
        xt = self.path.sample(x0, x1, t)
        prediction = self(xt, t) if part is None else self(xt, t, known=told(x1, part))
        open_to_learn = {} if part is None else unknown(part)
        s2 = (1 - t).square()
        error = (prediction["positions"] - (x1["positions"] - x0["positions"])).square()
        terms = {"positions": error.mean((1, 2)) * s2 / (s2 + 4e-4)}
        n = x1["positions"].shape[1]
        for name in ("atoms", "charges", "bonds"):
            classes = x1[name].argmax(-1)
            entropy = F.cross_entropy(prediction[name].transpose(1, 2), classes, reduction="none")
            if name in open_to_learn:
                entropy = entropy * open_to_learn[name]
            terms[name] = entropy.sum(1) / n
        return terms

    def loss(self, x1: State, t: Tensor, noise: Noise) -> Tensor:
        """The weighted training loss per molecule, `(B,)`."""
        return weighted(self.losses(x1, t, noise))

    def draw_times(self, uniform: Tensor) -> Tensor:
        """Training times for `uniform` in [0, 1): dense where types and bonds are decided."""
        table = time_quantiles().to(uniform)
        place = uniform * (len(table) - 1)
        low = place.long().clamp(max=len(table) - 2)
        return torch.lerp(table[low], table[low + 1], place - low)


class Value(nn.Module):
    """A number `(B,)` for each noisy state."""

    def __init__(self, network: EquivariantNetwork) -> None:
        super().__init__()
        self.network = ValueNetwork(network)

    def forward(self, x: State, t: Tensor) -> Tensor:
        return self.network(*network_inputs(x, t))


class GivenParts:
    """A conditional flow that is told parts of these very molecules, in training.

    Arguments:
        x1: the states of the molecules.
    """

    def __init__(self, flow: DeNovoFlow, part: Part, x1: State) -> None:
        self.flow, self.part, self.x1, self.path = flow, part, x1, flow.path
        self.draw_times, self.noise_like = flow.draw_times, flow.noise_like
        self.endpoint_error = flow.endpoint_error

    def endpoint(self, x: State, t: Tensor) -> State:
        """See `DeNovoFlow.endpoint`."""
        return self.flow.endpoint_of(self.flow(x, t, known=told(self.x1, self.part)), x, t)

    def losses(self, x1: State, t: Tensor, noise: Noise) -> dict[str, Tensor]:
        """See `DeNovoFlow.losses`."""
        return self.flow.losses(x1, t, noise, self.part)

    def loss(self, x1: State, t: Tensor, noise: Noise) -> Tensor:
        """See `DeNovoFlow.loss`."""
        return weighted(self.losses(x1, t, noise))


def weighted(terms: dict[str, Tensor]) -> Tensor:
    """The loss of its terms."""
    return torch.stack([LOSS_WEIGHTS[name] * term for name, term in terms.items()]).sum(0)


def network_inputs(x: State, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Noisy states as the network takes them: times, nodes, pairs, positions."""
    return t, torch.cat([x["atoms"], x["charges"]], -1), x["bonds"], x["positions"]


@lru_cache
def time_quantiles(points: int = 2001) -> Tensor:
    """Quantiles of the training times: 80 % Beta(4, 2.5), 20 % `1 - u^1.5` (geometry, near 1)."""
    z = np.linspace(0, 1, 20001)[1:-1]
    beta = z**3 * (1 - z) ** 1.5 * math.gamma(6.5) / (math.gamma(4) * math.gamma(2.5))
    density = 0.8 * beta + 0.2 * (2 / 3) * (1 - z) ** (-1 / 3)
    mass = np.cumsum(density)
    quantiles = np.interp(np.linspace(0, 1, points), mass / mass[-1], z)
    return torch.tensor(np.clip(quantiles, 0, 0.9999), dtype=torch.float32)
