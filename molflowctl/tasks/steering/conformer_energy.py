r"""The energy of conformers as a reward with a true gradient, above a reference of each molecule.

With `D = E(x) - E_ref(m)` in kcal/mol and a softness `w`,

    r = -w log(1 + D/w),     dr/dx = F / (1 + D/w),     F the forces;     -D and F where D < 0

which is `-D` for what a thermal ensemble could hold, and falls with the logarithm beyond: a raw
sample has hot bonds, and two atoms that nearly meet are not to decide a step. Against a wall `a^-n`
the gradient stays below `n w / a`.

A conformer flow's reward is defined up to a constant for each molecule. `E_ref` is the lowest
energy known; from there on, rewards are counted from the mean of a flow's own conformers of the
molecule (`count_from`), to first order what normalises a tilt of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from rdkit import Chem
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from molflowctl.chem.ensemble import keep_conformers
from molflowctl.chem.geometry import with_positions
from molflowctl.chem.graphs import EXACT
from molflowctl.compute.parallel import Pool
from molflowctl.control.objectives.reward import Reward
from molflowctl.errors import UserError
from molflowctl.flows.state import Ragged, State
from molflowctl.properties.energies.energy import energy_rewards
from molflowctl.tasks.preparation.relaxing import relax_ensemble
from molflowctl.tasks.steering.scored_conformers import Judged, ScoredConformers

__all__ = ["ConformerEnergies", "lowest_energies"]

TRIED = 3  # conformers of a molecule that are relaxed for its reference


class ConformerEnergies:
    """What the conformers of some molecules are worth, each asked about once.

    Arguments:
        mols: with explicit hydrogens, in the order of the numbers that states give.
        lowest: `E_ref` in kcal/mol, `(M,)`.
        scale: angstrom per unit of the state.
        pool: worker processes.
        method: `GFN2-xTB`, `GFN1-xTB` or `MMFF94`.
        softness: `w` in kcal/mol.
        timeout: seconds for a conformer; None for no limit.

    Attributes:
        calls: conformers asked about; failed: those without an energy. They have the reward of
            `FAILED` kcal/mol above the reference, and no gradient.
    """

    FAILED = 1000.0

    def __init__(
        self,
        mols: Sequence[Chem.Mol],
        lowest: np.ndarray,
        scale: float,
        pool: Pool,
        *,
        method: str = "GFN2-xTB",
        softness: float = 50.0,
        timeout: float | None = 30.0,
    ) -> None:
        self.mols, self.lowest, self.scale, self.pool = list(mols), lowest, scale, pool
        self.method, self.softness, self.timeout = method, softness, timeout
        self.calls = self.failed = 0
        self.offsets = torch.zeros(len(self.mols))
        self._known = WeakIdKeyDictionary()  # by state: what is known of it

    def reward(self) -> Reward:
        """`r` of states, in kcal/mol, with its gradient."""
        return Reward(
            lambda x: self._asked(x).values - self.offsets[_numbers(x)],
            gradient=lambda x: self._asked(x).slopes,
            name=f"-E({self.method})",
        )

    def count_from(self, x: Ragged) -> None:
        """Count rewards from the molecules' means over a population; to be said once."""
        given = torch.cat([_numbers(group) for group in x.groups])
        values = torch.cat([self._asked(group).values for group in x.groups])
        sums = torch.zeros(len(self.mols)).index_add_(0, given, values)
        self.offsets = sums / given.bincount(minlength=len(self.mols)).clamp_min(1)

    def above(self, x: Any) -> np.ndarray:
        """`E - E_ref` in kcal/mol, `(B,)`; NaN where there is no energy."""
        return self._asked(x).above

    def sample(self, x: Ragged) -> ScoredConformers:
        """Conformers with all that is known of them, to be kept."""
        judged = [self._asked(group) for group in x.groups]
        return ScoredConformers(x, judged, self.failed)

    def take(self, kept: ScoredConformers, calls: int) -> Ragged:
        """The conformers of an earlier run, as if they were asked about now."""
        for group, judged in zip(kept.x.groups, kept.judged, strict=True):
            self._known[group] = judged
        self.calls, self.failed = calls, kept.failed
        return kept.x

    def _asked(self, x: Any) -> Judged:
        if (known := self._known.get(x)) is None:
            known = self._known[x] = self._ask(x)
        return known

    def _ask(self, x: Any) -> Judged:
        given, positions = _numbers(x).tolist(), x["positions"]
        placed = (positions.detach().double().cpu() * self.scale).numpy()
        found = energy_rewards(
            [with_positions(self.mols[k], p) for k, p in zip(given, placed, strict=True)],
            self.method,
            timeout=self.timeout,
            pool=self.pool,
        )
        above = -found.values - self.lowest[given]
        failed = ~np.isfinite(above)
        self.calls, self.failed = self.calls + len(given), self.failed + int(failed.sum())
        heat = np.maximum(np.where(failed, self.FAILED, above), 0)
        values = np.where(above < 0, -above, -self.softness * np.log1p(heat / self.softness))
        slopes = np.stack(found.gradients) / (1 + heat / self.softness)[:, None, None]
        slopes = np.where(failed[:, None, None], 0, slopes) * self.scale
        return Judged(
            torch.from_numpy(values).float(),
            State(x.given, positions=torch.from_numpy(slopes).to(positions)),
            above,
        )


def _numbers(x: Any) -> Tensor:
    """Of the molecules of a state."""
    assert isinstance(x, State)
    assert x.given is not None
    return x.given.cpu()


def lowest_energies(
    mols: Sequence[Chem.Mol], method: str, pool: Pool, *, timeout: float | None = 300.0
) -> tuple[np.ndarray, dict[str, str]]:
    """The lowest energy known of each molecule, kcal/mol: of its first conformers, relaxed.

    Arguments:
        mols: with explicit hydrogens and conformers, the lowest first.

    Returns:
        energies, NaN where there is none, and why, by SMILES.

    Raises:
        UserError: if no molecule has one.
    """
    jobs = [
        keep_conformers(m, range(min(TRIED, m.GetNumConformers()))).ToBinary(EXACT) for m in mols
    ]
    found = pool.map(partial(_lowest, method=method), jobs, timeout=timeout, chunk=1)
    energies, reasons = [], {}
    for mol, outcome in zip(mols, found, strict=True):
        if outcome.value is None or not np.isfinite(outcome.value):
            reason = outcome.error or "none of its conformers could be relaxed"
            reasons[Chem.MolToSmiles(Chem.RemoveHs(mol))] = reason
        energies.append(math.nan if outcome.value is None else outcome.value)
    if len(reasons) == len(mols):
        name, reason = next(iter(reasons.items()))
        raise UserError(f"no molecule has a {method} energy to count from; {name}: {reason}.")
    return np.array(energies), reasons


def _lowest(binary: bytes, method: str) -> float:
    mol = Chem.Mol(binary)
    relaxed, _, _, failures = relax_ensemble(mol, "mmff" if method == "MMFF94" else "gfn2")
    sound = keep_conformers(relaxed, [k for k, failure in enumerate(failures) if not failure])
    every = [Chem.Mol(m, False, c.GetId()) for m in (mol, sound) for c in m.GetConformers()]
    return float(-np.nanmax(_energies(every, method)))


def _energies(mols: list[Chem.Mol], method: str) -> np.ndarray:
    from molflowctl.compute.parallel import open_pool

    with open_pool(1, "serial") as pool:
        return energy_rewards(mols, method, timeout=None, pool=pool).values
