r"""The conformer flow: positions of the atoms of a given molecular graph, from springs on bonds.

The state is `(B, N, 3)`, angstrom over `position_scale`, centroid at the origin. The prior is
`N(0, L^+)` of the graph (`flows/covariance.py`), drawn independently of the data, so score and
memoryless SDE are exact. The endpoint is `x1_hat = x_t + (1-t) F(x_t, t, graph)`.

A `ConformerFlow` knows no molecule yet: `flow.on(graphs)` is the flow of some molecules of one
size, and that is a `Flow` like any other: it is sampled, scored, steered and fine-tuned as it is.

Loss of one conformer, with `g = F - (x_1 - x_0)` and `s = 1-t`:

    s^2/(s^2 + 0.02^2) (|g|^2 + 1/2 sum_bonds |g_i - g_j|^2) / 3N

Both terms are least for the posterior mean; the second is the error in the metric `C^-1 = L`, in
which the KL between two such flows is measured, and holds bond lengths and angles together.

References:
    Hassan et al., ET-Flow: equivariant flow matching for molecular conformer generation, 2024,
        arXiv 2410.22388 (a harmonic prior and an equivariant flow; its coupling is aligned, this
        one independent).
    Lipman et al., Flow matching for generative modeling, 2022, arXiv 2210.02747.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rdkit import Chem
from torch import Tensor

from molflowctl.errors import UserError
from molflowctl.flows.card import check_elements, check_histogram, check_scales
from molflowctl.flows.covariance import Harmonic
from molflowctl.flows.flow import Flow
from molflowctl.flows.noise import BatchNoise, IndexedNoise, Noise
from molflowctl.flows.samplers import SAMPLERS
from molflowctl.models.conformer_graph import Graphs
from molflowctl.models.conformer_network import ConformerNetwork
from molflowctl.models.network import grown

__all__ = ["ConformerFlow", "Placed", "draw_positions", "late_grid"]

BOND_WEIGHT = 0.5
STEPS = 25  # from noise to conformer, where a card recommends nothing
GROWS = ("depth", "triangles")  # what a trained network can be given
_HIGHEST_SIZE = 1.5  # times the largest molecule of the training data


class ConformerFlow(Flow):
    """A flow of conformers for any molecule of some elements.

    Arguments:
        elements: atomic numbers.
        sizes: `{number of atoms: count}` of the training data.
        hydrogens: `"explicit"`, or `"implicit"`: heavy atoms only, hydrogens are added later.
        position_scale: angstrom per unit of the state.
        network: arguments of `ConformerNetwork`.
    """

    kind = "conformer"

    def __init__(
        self,
        elements: list[int],
        sizes: dict[str, int],
        hydrogens: str = "explicit",
        position_scale: float = 1.2,
        network: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(
            elements=elements, sizes=sizes, hydrogens=hydrogens, position_scale=position_scale,
            network=network or {},
        )  # fmt: skip
        if hydrogens not in ("implicit", "explicit"):
            raise ValueError(f"hydrogens must be 'implicit' or 'explicit', not {hydrogens!r}")
        check_elements(elements)
        check_scales(position_scale=position_scale)
        self.elements, self.hydrogens, self.position_scale = elements, hydrogens, position_scale
        self.sizes = {int(n): count for n, count in sizes.items()}
        check_histogram(self.sizes)
        self.network = ConformerNetwork(elements, **(network or {}))

    def grown(self, **network: Any) -> ConformerFlow:
        """The same flow in a larger network, of which what is new changes nothing yet.

        Arguments:
            network: arguments of `ConformerNetwork` that differ.

        Raises:
            UserError: for arguments other than `depth` and `triangles`, or less of one.
        """
        return grown(self, GROWS, network)

    def learnt_from(self, sizes: Mapping[int, int]) -> None:
        """Count more training data, `{number of atoms: count}`, beside what it has learnt from."""
        self.sizes = dict(sorted((Counter(self.sizes) + Counter(sizes)).items()))
        self.arguments["sizes"] = {str(n): count for n, count in self.sizes.items()}

    def on(self, graphs: Graphs) -> Placed:
        """The flow of the conformers of `graphs`; element `j` of a batch is of graph `j mod G`."""
        return Placed(self, graphs.to(self.device))

    def state_space(self) -> str:
        return f"conformers in units of {self.position_scale:g} angstrom"

    def with_placed_atoms(self, mol: Chem.Mol) -> Chem.Mol:
        """The molecule with the atoms this flow places: with hydrogens, or without."""
        return Chem.AddHs(mol) if self.hydrogens == "explicit" else Chem.RemoveHs(mol)

    def unsupported_reason(self, mol: Chem.Mol) -> str:
        """Why a dressed molecule is none for this flow; empty if it is one."""
        table = Chem.GetPeriodicTable()
        strange = {a.GetAtomicNum() for a in mol.GetAtoms()} - set(self.elements)
        if strange:
            known = " ".join(table.GetElementSymbol(z) for z in self.elements)
            names = ", ".join(table.GetElementSymbol(z) if z else "*" for z in sorted(strange))
            return f"the flow does not know the element {names} (it knows {known})"
        n, most = mol.GetNumAtoms(), max(self.sizes)
        if n > _HIGHEST_SIZE * most:
            kind = "atoms" if self.hydrogens == "explicit" else "heavy atoms"
            return f"{n} {kind} are far beyond the {most} of the largest molecule it learnt from"
        return ""

    def endpoint(self, x: Tensor, t: Tensor) -> Tensor:
        raise UserError("a conformer flow moves the atoms of molecules: ask flow.on(graphs).")

    def start(self, batch: int, noise: BatchNoise) -> Tensor:
        raise UserError("a conformer flow moves the atoms of molecules: ask flow.on(graphs).")

    def sample(self, n: int = 1, *, seed: int = 0, **sampling: Any) -> Any:
        """Conformers are of given molecules, so that there is nothing to draw by number alone.

        Raises:
            UserError: always, which says how conformers are drawn.
        """
        name = self.card.get("name", "FLOW")
        raise UserError(
            f"a conformer flow places the atoms of molecules that you give: in Python "
            f"molflowctl.conformers('CCO', n=20, model={name!r}), on the command line "
            f"molflowctl conformers CCO -n 20 --model {name} -o conformers.sdf."
        )

    def draw_times(self, uniform: Tensor) -> Tensor:
        """Training times, somewhat denser near `t = 1`, where local geometry is decided."""
        return (1 - (1 - uniform) ** 1.5).clamp(max=0.9999)


class Placed(Flow):
    """A conformer flow on certain molecules of one size; its parameters are the flow's own.

    Arguments:
        flow: of all molecules; `graphs`: these ones, `G` of them, on the flow's device.
        harmonic: their prior, where it is at hand.
        scale: of all noise, below 1 to draw nearer to the modes; 1 for the flow itself.
    """

    kind = ""

    def __init__(
        self,
        flow: ConformerFlow,
        graphs: Graphs,
        harmonic: Harmonic | None = None,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.flow, self.graphs = flow, graphs
        self.path, self.card = flow.path, flow.card
        self.harmonic = harmonic or Harmonic(graphs.laplacians())
        self.covariance = self.harmonic
        self.scale = scale

    def state_space(self) -> str:
        return f"positions of the atoms of {self.harmonic!r}"

    def start(self, batch: int, noise: Noise) -> Tensor:
        parameter = self.flow.network.vector_in
        return self.noise_like(parameter.new_empty(batch, self.graphs.size, 3), noise)

    def noise_like(self, x: Tensor, noise: Noise) -> Tensor:
        return self.scale * super().noise_like(x, noise)

    def encode(self, positions: Tensor) -> Tensor:
        """States of `positions`, `(B, N, 3)` in angstrom."""
        return (positions - positions.mean(1, keepdim=True)) / self.flow.position_scale

    def decode(self, x: Tensor) -> Tensor:
        """Positions in angstrom, `(B, N, 3)`, of data states."""
        return x * self.flow.position_scale

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """The network's velocity at `(x, t)`."""
        nodes, edges = self.flow.network.features(self.graphs)
        graphs, copies = self.graphs, len(x) // len(self.graphs)
        if copies * len(graphs) != len(x):
            raise ValueError(f"{len(x)} states are no batch for {len(graphs)} graphs")
        if copies > 1:
            graphs = graphs.repeat(copies)
            nodes, edges = (part.repeat(copies, 1, 1) for part in (nodes, edges))
        return self.flow.network(t.to(x), x, nodes, edges, graphs)

    def endpoint(self, x: Tensor, t: Tensor) -> Tensor:
        return x + (1 - t).to(x)[:, None, None] * self(x, t)

    def losses(self, x1: Tensor, t: Tensor, noise: Noise) -> dict[str, Tensor]:
        """The two terms of the loss, each `(B,)`, for data `x1` at times `t`."""
        x0 = self.noise_like(x1, noise)
        gap = self(self.path.sample(x0, x1, t), t) - (x1 - x0)
        s2 = (1 - t).square()
        weight = s2 / (s2 + 4e-4) / (3 * x1.shape[1])
        stretched = gap * self.covariance.power(gap, -1.0)
        return {
            "positions": weight * gap.square().sum((1, 2)),
            "bonds": weight * stretched.sum((1, 2)),
        }

    def loss(self, x1: Tensor, t: Tensor, noise: Noise) -> Tensor:
        terms = self.losses(x1, t, noise)
        return terms["positions"] + BOND_WEIGHT * terms["bonds"]

    def draw_times(self, uniform: Tensor) -> Tensor:
        return self.flow.draw_times(uniform)

    def endpoint_error(self, endpoint: Tensor, target: Tensor, t: Tensor) -> Tensor:
        gap = endpoint - target
        both = gap.square() + BOND_WEIGHT * gap * self.covariance.power(gap, -1.0)
        weight = (1 / ((1 - t).square() + 0.02)).clamp(max=20)
        return weight * both.mean((1, 2))

    def save(
        self, folder: str | Path, card: dict[str, Any] | None = None, *, half: bool = True
    ) -> Path:
        """Write the flow of all molecules, whose parameters these are."""
        return self.flow.save(folder, card, half=half)


def late_grid(steps: int, lateness: float = 1.5) -> list[float]:
    """`steps + 1` times from 0 to 1, closer together near 1: `t = 1 - (1 - z)^lateness`."""
    return [1 - (1 - k / steps) ** lateness for k in range(steps)] + [1.0]


@torch.no_grad()
def draw_positions(
    flow: ConformerFlow,
    graphs: Graphs,
    index: Sequence[int],
    *,
    seed: int = 0,
    sampler: str = "ancestral",
    steps: int | None = None,
    scale: float | None = None,
    relaxed: bool = False,
) -> Tensor:
    """Conformers numbered `index` in the run, `(B, N, 3)` in angstrom, on the CPU.

    Number `i` is a function of `(flow, seed, i)` and its graph, `j mod G` for the place `j`. A card
    may recommend the `noise`, the `nfe`, one of what is relaxed afterwards (`nfe_relaxed`, since a
    relaxation does what the last steps do), and the `lateness` of the steps, see `late_grid`.

    Arguments:
        steps: from noise to conformer; None for what the flow's card recommends, else 25.
        scale: of the noise, see `Placed`; None for what the flow's card recommends, else 1.
        relaxed: the conformers will be.
    """
    recommended = flow.card.get("sampling", {})
    if scale is None:
        scale = float(recommended.get("noise", 1.0))
    if steps is None:
        usual = recommended.get("nfe", STEPS)
        steps = max(1, int(recommended.get("nfe_relaxed", usual) if relaxed else usual))
    placed = Placed(flow, graphs.to(flow.device), scale=scale)
    noise = IndexedNoise(seed, torch.tensor(list(index), device=flow.device))
    x0 = placed.start(len(index), noise)
    grid = late_grid(steps, max(1.0, float(recommended.get("lateness", 1.5))))
    x1 = placed.transport(x0, SAMPLERS[sampler], grid, noise)
    return placed.decode(x1).cpu()
