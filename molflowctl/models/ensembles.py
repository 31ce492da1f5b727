r"""The conformer flow on a set of molecules of any sizes: what a control steers.

A conformer flow is conditional, `p(x | m)`. With molecules drawn alike from a set, `p(m) p(x | m)`
is a density like any other but for one thing: no control moves `p(m)`. A reward is therefore
defined up to a constant for each molecule, and solvers by values do the better the nearer the
molecules' means are: count energies from a reference of each molecule.

States are `State(given, positions=...)` of molecules of one size, `given` the number of the
molecule; a population is `Ragged`, a group for each size.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rdkit import Chem
from torch import Tensor, nn

from molflowctl.errors import UserError
from molflowctl.flows.covariance import Harmonic
from molflowctl.flows.flow import Flow
from molflowctl.flows.noise import BatchNoise, IndexedNoise, Noise
from molflowctl.flows.samplers import SAMPLERS
from molflowctl.flows.state import Ragged, State, times
from molflowctl.models.conformer import ConformerFlow, Placed, late_grid
from molflowctl.models.conformer_graph import Graphs

__all__ = ["Ensembles", "SummedEnsembles"]

PAIRS_AT_ONCE = 60_000  # of atoms, in a batch that is drawn


class Molecules:
    """Graphs and harmonic priors of molecules, by size.

    Arguments:
        mols: with the atoms that a flow places.
        device: of the graphs.
    """

    def __init__(self, mols: Sequence[Chem.Mol], device: torch.device) -> None:
        self.sizes = torch.tensor([mol.GetNumAtoms() for mol in mols])
        self.smiles = [Chem.MolToSmiles(mol) for mol in mols]
        self.members = {int(n): (self.sizes == n).nonzero()[:, 0] for n in self.sizes.unique()}
        self.place = torch.zeros_like(self.sizes)  # within the molecules of the same size
        self.graphs: dict[int, Graphs] = {}
        self.harmonic: dict[int, Harmonic] = {}
        for n, members in self.members.items():
            self.place[members] = torch.arange(len(members))
            graphs = Graphs.stack([Graphs.of(mols[k]) for k in members.tolist()])
            self.graphs[n], self.harmonic[n] = graphs.to(device), Harmonic(graphs.laplacians())

    def __len__(self) -> int:
        return len(self.sizes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Molecules) and self.smiles == other.smiles

    def __hash__(self) -> int:
        return hash(tuple(self.smiles))

    def __repr__(self) -> str:
        return f"{len(self)} molecules"

    def __deepcopy__(self, memo: dict[int, Any]) -> Molecules:
        return self  # never written to

    def of(self, x: State) -> tuple[Graphs, Harmonic]:
        """Those of every element of a state."""
        given = _given(x)
        n, place = x["positions"].shape[1], self.place[given.cpu()]
        return self.graphs[n].select(place.to(given.device)), self.harmonic[n].select(place)


class _Springs:
    """The harmonic priors as the covariance of states."""

    def __init__(self, molecules: Molecules) -> None:
        self.molecules = molecules

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Springs) and self.molecules == other.molecules

    def __hash__(self) -> int:
        return hash(self.molecules)

    def __repr__(self) -> str:
        return f"the harmonic priors of {self.molecules!r}"

    def power(self, x: State, exponent: float) -> State:
        """`C^exponent x`, every element with the covariance of its molecule."""
        _, harmonic = self.molecules.of(x)
        return x.map(lambda part: harmonic.power(part, exponent))

    def log_density(self, x: State, scale: float = 1.0) -> Tensor:
        """`log N(x; 0, scale^2 C)`, `(B,)`."""
        return self.molecules.of(x)[1].log_density(x["positions"], scale)


class Ensembles(Flow):
    """A conformer flow on molecules, each as likely as any other; its parameters are the flow's.

    Arguments:
        flow: of all molecules.
        molecules: with the atoms it places (`flow.dress`), or what another flow has made of them.

    Raises:
        UserError: if there are none, or the flow cannot do one of them.
    """

    kind = ""
    trace = "hutchinson"

    def __init__(self, flow: ConformerFlow, molecules: Sequence[Chem.Mol] | Molecules) -> None:
        if not len(molecules):
            raise UserError("a conformer flow is steered on one molecule at least.")
        if not isinstance(molecules, Molecules):
            for mol in molecules:
                if reason := flow.unsupported_reason(mol):
                    raise UserError(f"{Chem.MolToSmiles(mol)}: {reason}.")
            molecules = Molecules(molecules, flow.device)
        super().__init__(molecules=molecules.smiles)
        self.flow, self.molecules = flow, molecules
        self.path, self.card = flow.path, flow.card
        self.covariance = _Springs(molecules)

    def state_space(self) -> str:
        return self.flow.state_space()

    def placed(self, x: State) -> Placed:
        """The conformer flow on the molecules of a state, one for each element."""
        return Placed(self.flow, *self.molecules.of(x))

    def blank(self, given: Tensor) -> State:
        """A state of zeros of molecules of one size."""
        n = int(self.molecules.sizes[int(given[0])])
        parameter = self.flow.network.vector_in
        return State(given.to(parameter.device), positions=parameter.new_zeros(len(given), n, 3))

    def start(self, batch: int, noise: BatchNoise) -> State:
        """Draws from the prior, of molecules of one size, which comes up as often as it is had."""
        sizes = self.molecules.sizes
        size = int(sizes[int(noise.uniform(1) * len(sizes))])
        members = self.molecules.members[size]
        given = members[(noise.uniform(batch).cpu() * len(members)).long()]
        return self.noise_like(self.blank(given), noise)

    def noise_like(self, x: State, noise: Noise) -> State:
        return self.placed_map(x, lambda placed, part: placed.noise_like(part, noise))

    def endpoint(self, x: State, t: Tensor) -> State:
        return self.placed_map(x, lambda placed, part: placed.endpoint(part, t))

    def placed_map(self, x: State, function) -> State:
        """A state of what the placed flow makes of the positions."""
        return State(x.given, positions=function(self.placed(x), x["positions"]))

    def loss(self, x1: State, t: Tensor, noise: Noise) -> Tensor:
        return self.placed(x1).loss(x1["positions"], t, noise)

    def endpoint_error(self, endpoint: State, target: State, t: Tensor) -> Tensor:
        placed = self.placed(endpoint)
        return placed.endpoint_error(endpoint["positions"], target["positions"], t)

    def draw_times(self, uniform: Tensor) -> Tensor:
        return self.flow.draw_times(uniform)

    def grid(self, steps: int) -> list[float]:
        return late_grid(steps)

    def encode(self, given: Tensor, positions: Tensor) -> State:
        """States of `positions`, `(B, N, 3)` in angstrom, of the molecules `given`."""
        centred = positions - positions.mean(1, keepdim=True)
        return State(given, positions=centred / self.flow.position_scale)

    def decode(self, x: State) -> Tensor:
        """Positions in angstrom, `(B, N, 3)`, of data states."""
        return x["positions"] * self.flow.position_scale

    @torch.no_grad()
    def draw_states(
        self, n: int, *, seed: int = 0, sampler: str = "ancestral", nfe: int = 25
    ) -> Ragged:
        """`n` data states of all molecules in turn; number `i` depends on `(flow, seed, i)`."""
        number, stepper = torch.arange(n), SAMPLERS[sampler]
        given = number % len(self.molecules)
        groups = []
        for size in self.molecules.members:
            mine = number[self.molecules.sizes[given] == size]
            if not len(mine):  # fewer states than molecules
                continue
            for part in mine.split(max(1, PAIRS_AT_ONCE // size**2)):
                noise = IndexedNoise(seed, part.to(self.device))
                x0 = self.noise_like(self.blank(given[part]), noise)
                grid = self.grid(nfe // stepper.nfe)
                groups.append(self.transport(x0, stepper, grid, noise))
        return Ragged(groups)

    def save(
        self, folder: str | Path, card: dict[str, Any] | None = None, *, half: bool = True
    ) -> Path:
        """Write the flow of all molecules, whose parameters these are."""
        return self.flow.save(folder, card, half=half)

    def stored(self, folder: str | Path) -> Ensembles:
        return Ensembles(ConformerFlow.load(folder).to(self.device), self.molecules)


class SummedEnsembles(Ensembles):
    """Conformer flows on the same molecules, their scores averaged; see `control/composition.py`.

    Arguments:
        parts: on one set of molecules; weights: positive, scaled to add up to one.
    """

    def __init__(self, parts: Sequence[Ensembles], weights: Sequence[float]) -> None:
        super().__init__(parts[0].flow, parts[0].molecules)
        self.parts = nn.ModuleList(parts)
        self.shares = [w / sum(weights) for w in weights]

    def endpoint(self, x: State, t: Tensor) -> State:
        terms = []
        for share, part in zip(self.shares, self.parts, strict=True):
            assert isinstance(part, Ensembles)
            terms.append(times(share, part.endpoint(x, t)))
        return sum(terms[1:], terms[0])


def _given(x: State) -> Tensor:
    if x.given is None:
        raise ValueError("these conformers do not say of which molecules they are")
    return x.given
