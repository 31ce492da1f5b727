"""Langevin dynamics by MMFF94 of whole batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rdkit.Chem import Mol

from molflowctl.chem.geometry import add_conformer
from molflowctl.errors import UserError
from molflowctl.properties.energies.forcefield import (
    Array,
    Prepared,
    Run,
    bare,
    batches_of,
    energy_of,
    prepare,
)

__all__ = ["Dynamics", "langevin"]


@dataclass(frozen=True)
class Dynamics:
    """Frames of a molecule's motion; on failure none of them, and the reason in `error`.

    Attributes:
        mol: a copy with one conformer per frame.
        energies_kcal_mol: (frames,) potential energies.
        error: why there is no result, or `None`.
    """

    mol: Mol
    energies_kcal_mol: Array
    error: str | None = None


def langevin(
    mols: Sequence[Mol],
    *,
    temperature_K: float = 300.0,
    duration_ps: float = 10.0,
    equilibration_ps: float = 2.0,
    frames: int = 10,
    step_ps: float = 0.0005,
    friction_per_ps: float = 5.0,
    seed: int = 0,
    fixed: Callable[[Mol], Sequence[int]] | None = None,
    batch: int = 256,
    platform: str | None = None,
) -> list[Dynamics]:
    """Sample the Boltzmann distribution exp(-E/kT) around each molecule's geometry.

    Langevin dynamics, middle scheme (Zhang et al., J. Phys. Chem. A 123, 6056 (2019)), which
    samples positions well even at long steps. Start near a minimum: see `relax`. The same seed
    gives the same frames on the same platform, molecules, order and batch.

    Args:
        mols: as for `energies_and_gradients`; they stay as they are.
        temperature_K: kelvin.
        duration_ps: picoseconds over which frames are taken, evenly.
        equilibration_ps: picoseconds before that.
        frames: how many, the last at the end.
        step_ps: picoseconds; half a femtosecond resolves the stretching of bonds to hydrogen.
        friction_per_ps: coupling to the bath, 1/picosecond.
        seed: of the velocities at the start and of the noise.
        fixed, batch, platform: as for `relax`.

    Raises:
        UserError: the platform is not there, or an argument makes no sense.
    """
    if min(temperature_K, duration_ps, step_ps, friction_per_ps, frames) <= 0 or (
        equilibration_ps < 0
    ):
        raise UserError("Langevin dynamics needs positive temperature, times, friction and frames.")
    waits = [round(equilibration_ps / step_ps)]
    waits += np.diff(np.linspace(0, duration_ps / step_ps, frames + 1).round()).astype(int).tolist()
    bath = _Bath(temperature_K, friction_per_ps, step_ps, seed)
    prepared, errors = prepare(mols, fixed)
    results = [Dynamics(bare(m), np.empty(0), e) for m, e in zip(mols, errors, strict=True)]
    for rows in batches_of(prepared, batch):
        for row, found in _trajectories(prepared, rows, bath, waits, platform):
            molecule = prepared[row]
            energies = np.array([energy_of(molecule, positions) for positions in found])
            if not (found and np.isfinite(energies).all()):
                error = "the dynamics ran away: relax it first or take shorter steps"
                results[row] = Dynamics(bare(mols[row]), np.empty(0), error)
                continue
            mol = bare(mols[row])
            for positions in found:
                add_conformer(mol, positions + molecule.centre)
            results[row] = Dynamics(mol, energies)
    return results


@dataclass(frozen=True)
class _Bath:
    temperature_K: float
    friction_per_ps: float
    step_ps: float
    seed: int

    def integrator(self, seed: int) -> Any:
        from openmm import LangevinMiddleIntegrator, unit

        made = LangevinMiddleIntegrator(
            self.temperature_K * unit.kelvin,
            self.friction_per_ps / unit.picosecond,
            self.step_ps * unit.picosecond,
        )
        made.setRandomNumberSeed(seed)
        return made


def _trajectories(
    prepared: dict[int, Prepared],
    rows: list[int],
    bath: _Bath,
    waits: list[int],
    platform: str | None,
) -> Iterator[tuple[int, list[Array]]]:
    """Each row's frames, after every wait but the first; none if it ran away.

    OpenMM gives up all molecules when one is not a number: then each half goes on its own.
    """
    import openmm

    # 31 bits, and zero would mean a seed of OpenMM's own choosing.
    noise, start = (
        int(n % (2**31 - 1)) + 1
        for n in np.random.SeedSequence([bath.seed, rows[0], len(rows)]).generate_state(2)
    )
    run = Run([prepared[row] for row in rows], platform, lambda: bath.integrator(noise))
    run.place(run.start)
    run.context.setVelocitiesToTemperature(bath.temperature_K, start)
    frames = []
    try:
        for wait in waits:
            run.context.getIntegrator().step(wait)
            frames.append(run.split(run.positions()))
    except openmm.OpenMMException:
        if len(rows) == 1:
            yield rows[0], []
            return
        half = len(rows) // 2
        for part in (rows[:half], rows[half:]):
            yield from _trajectories(prepared, part, bath, waits, platform)
        return
    for place, row in enumerate(rows):
        yield row, [frame[place] for frame in frames[1:]]
