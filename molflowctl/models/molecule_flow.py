r"""What a flow of molecules has to be, for `generate`, `finetune` and `merge`.

A flow of your own, of whatever states and network, is a subclass of `MoleculeFlow` with

    kind            its name in cards, and a constructor whose arguments JSON can hold
    elements        atomic numbers that it can draw
    hydrogens       "implicit": it draws heavy atoms, hydrogens follow from valence; or "explicit"
    sizes           {number of atoms: how often}, the histogram that new sizes are drawn from
    prior           noise for molecules of one size
    encode, decode  molecules to states and back
    endpoint        E[x_1 | x_t], of the network

and, for solvers by values (`finetune --set solver=values`, `adjoint`), `value_network`. Everything
else has a default. `molflowctl generate FOLDER --import FILE.py` then draws from it.

States are a `State` or a tensor; all molecules of a batch have one number of atoms. Noise is
independent of the data, see docs/own-flow.md.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from rdkit import Chem
from torch import Tensor

from molflowctl.chem.graphs import Graph3D
from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow, operator
from molflowctl.flows.noise import BatchNoise, Noise
from molflowctl.flows.samplers import Sampler
from molflowctl.flows.state import Ragged
from molflowctl.io.config import tell_old_name
from molflowctl.models.generation import Sampling, population, sample
from molflowctl.models.network import in_precision, precision_of

__all__ = ["MoleculeFlow"]

OLD_NAMES = {"evaluations": "nfe", "churn": "stochasticity"}  # of the release before
_MIXED = 1_000_000  # counts of a mixture of histograms


class MoleculeFlow(Flow):
    """A flow over whole molecules.

    Attributes:
        elements: atomic numbers.
        hydrogens: "implicit" or "explicit".
        sizes: `{number of atoms of the state: count}`.
    """

    trace = "hutchinson"
    elements: list[int]
    hydrogens: str
    sizes: dict[int, int]

    def prior(self, batch: int, atoms: int, noise: Noise) -> Any:
        """Noise for `batch` molecules of `atoms` atoms, on the device of the flow.

        `noise` gives each molecule numbers of its own: draw with `noise.normal(batch, ...)` alone.
        """
        raise NotImplementedError(f"{type(self).__name__} has no `prior`")

    def encode(self, numbers: Tensor, charges: Tensor, bonds: Tensor, positions: Tensor) -> Any:
        """The data state of molecules of one size, on the device of what is given.

        Arguments:
            numbers: `(B,N)` atomic numbers.
            charges: `(B,N)` formal charges.
            bonds: `(B,M)` orders (0 for none) over the upper triangle, row by row, `M = N(N-1)/2`.
            positions: `(B,N,3)`, angstrom.
        """
        raise NotImplementedError(f"{type(self).__name__} has no `encode`")

    def decode(self, x: Any) -> list[Graph3D]:
        """The most likely molecules of a data state, positions in angstrom."""
        raise NotImplementedError(f"{type(self).__name__} has no `decode`")

    def flaw_of(self) -> Callable[[Graph3D], str] | None:
        """What tells why a decoded graph is not as asked for, "" if it is; None where all are.

        It goes to worker processes.
        """
        return None

    def round(self, x: Any) -> Any:
        """A drawn state as exact as data are, categories decided; the state itself by default."""
        return x

    def check_sampler(self, sampler: Sampler) -> None:
        """Raise `UserError` for a sampler that this flow cannot be drawn with: none is."""

    def start(self, batch: int, noise: BatchNoise) -> Any:
        """Noise for `batch` molecules of one size, which is drawn from the data's histogram."""
        atoms = int(self.draw_sizes(noise.uniform(1).cpu().numpy())[0])
        return self.prior(batch, atoms, noise)

    def start_as(self, flows: Sequence[Flow], shares: Sequence[float]) -> Self:
        """This flow with the mixture of the flows' numbers of atoms.

        Raises:
            UserError: if a flow has none.
        """
        mixed: dict[int, float] = {}
        for flow, share in zip(flows, shares, strict=True):
            if not isinstance(flow, MoleculeFlow):
                raise UserError(f"a flow of kind {flow.kind!r} has no numbers of atoms to mix.")
            total = sum(flow.sizes.values())
            for n, count in flow.sizes.items():
                mixed[n] = mixed.get(n, 0.0) + share * count / total
        flow = copy.deepcopy(self)
        flow.sizes = {n: round(_MIXED * mixed[n]) or 1 for n in sorted(mixed)}
        if "sizes" in flow.arguments:
            sizes = {str(n): count for n, count in flow.sizes.items()}
            flow.arguments = flow.arguments | {"sizes": sizes}
        return flow

    def draw_sizes(self, uniform: np.ndarray, atoms: range | None = None) -> np.ndarray:
        """Numbers of atoms from the data's histogram, by inverting it at `uniform` in [0, 1)."""
        known = sorted(n for n in self.sizes if atoms is None or n in atoms)
        cumulative = np.cumsum([self.sizes[n] for n in known])
        return np.array(known)[np.searchsorted(cumulative, uniform * cumulative[-1], side="right")]

    def around(self, core: Any, **given: Any) -> MoleculeFlow:
        """This flow around what is given: a part of every molecule is known, the rest is drawn.

        Arguments:
            core: a `Core` (models/around/core.py), or a SMILES whose `[*:1]` say where it may bond;
                None with `like` alone.
            given: what `AroundFlow.of` (models/around/flow.py) takes besides.

        Raises:
            UserError: for what is no core, or for one that this flow has no place for.
        """
        return operator("around")(self, core, **given)

    def stored(self, folder: str | Path) -> Flow:
        """See `Flow.stored`; its networks calculate in the precision of this one's."""
        return in_precision(super().stored(folder), precision_of(self))

    def draw_states(
        self, n: int, *, seed: int = 0, sampler: str = "ancestral", nfe: int = 50
    ) -> Ragged:
        """`n` data states, sizes drawn from the data's histogram, grouped by size."""
        return population(self, n, Sampling(sampler=sampler, nfe=nfe), seed)

    def sample(self, n: int, *, seed: int = 0, jobs: int = 1, **sampling: Any) -> list[Chem.Mol]:
        """`n` valid molecules, sanitised, with hydrogens and one conformer each.

        Arguments:
            seed: attempt `i` is a function of (flow, seed, i); the molecules are titled by attempt.
            jobs: worker processes.
            sampling: fields of `molflowctl.models.generation.Sampling`: `sampler="ancestral"`,
                `nfe=50`, `atoms=range(7, 10)`, `relax="mmff"`, ...

        Raises:
            UserError: for settings the flow cannot serve, or if 50 attempts a molecule do not do.
        """
        for old in OLD_NAMES.keys() & sampling.keys():
            tell_old_name(old, OLD_NAMES[old])
            sampling[OLD_NAMES[old]] = sampling.pop(old)
        return sample(self, n, Sampling(**sampling), seed=seed, jobs=jobs)
