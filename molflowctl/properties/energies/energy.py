"""The negative energy as a reward with a true gradient, by GFN-xTB or MMFF94, in one set of units.

    r(x) = -E(x)                 kcal/mol
    dr/dx = -dE/dx               kcal/mol/angstrom, the forces; analytic, not by finite differences

    rewards = energy_rewards(mols, "GFN2-xTB", jobs=2)
    rewards.values, rewards.gradients

Two atoms that nearly meet have a gradient without bound: clip it before it steers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from rdkit.Chem import Mol

from molflowctl.chem.graphs import EXACT
from molflowctl.chem.units import BOHR_TO_ANGSTROM, HARTREE_TO_KCAL_MOL
from molflowctl.compute.parallel import Pool, WorkerPool
from molflowctl.errors import UserError
from molflowctl.properties.energies.forcefield import energies_and_gradients
from molflowctl.properties.energies.xtb import single_point
from molflowctl.properties.energies.xtb_backends import METHODS

__all__ = ["EnergyRewards", "energy_rewards"]

Array = NDArray[np.float64]

_MMFF = "MMFF94"


@dataclass(frozen=True)
class EnergyRewards:
    """Rewards of n molecules with their gradients; NaN and a reason where there is none.

    Attributes:
        values: (n,) negative energies in kcal/mol.
        gradients: for each molecule (atoms, 3), its reward's derivative by the positions in
            kcal/mol/angstrom.
        errors: why there is no result, or `None`.
    """

    values: Array
    gradients: list[Array]
    errors: list[str | None]


def energy_rewards(
    mols: Sequence[Mol],
    method: str = "GFN2-xTB",
    jobs: int = 1,
    timeout: float | None = 30.0,
    pool: Pool | None = None,
) -> EnergyRewards:
    """The rewards of the molecules' first conformers; hydrogens must be explicit.

    Args:
        method: `GFN2-xTB`, `GFN1-xTB` (by tblite) or `MMFF94` (all at once by OpenMM, so that the
            other arguments do not matter).
        jobs: worker processes.
        timeout: seconds per molecule.
        pool: workers to reuse instead of starting `jobs` new ones.

    Raises:
        UserError: an unknown method. What is wrong with a molecule is in its error.
    """
    if method == _MMFF:
        found = energies_and_gradients(mols)
        gradients = [-gradient for gradient in found.gradients_kcal_mol_angstrom]
        return EnergyRewards(-found.energies_kcal_mol, gradients, found.errors)
    if method not in METHODS:
        raise UserError(f"no energy {method!r}: there are {', '.join([*METHODS, _MMFF])}")
    values = np.full(len(mols), np.nan)
    gradients = [np.full((mol.GetNumAtoms(), 3), np.nan) for mol in mols]
    errors: list[str | None] = [None] * len(mols)
    workers = WorkerPool(jobs) if pool is None else pool
    try:
        binaries = (mol.ToBinary(EXACT) for mol in mols)
        outcomes = workers.map(partial(_xtb, method=method), binaries, timeout=timeout)
        for row, outcome in enumerate(outcomes):
            if outcome.value is None:
                errors[row] = outcome.error
            else:
                values[row], gradients[row], errors[row] = outcome.value
    finally:
        if pool is None:
            workers.close()
    return EnergyRewards(values, gradients, errors)


def _xtb(binary: bytes, method: str) -> tuple[float, Array, str | None]:
    point = single_point(Mol(binary), method)
    per_angstrom = HARTREE_TO_KCAL_MOL / BOHR_TO_ANGSTROM
    return (
        -point.energy_hartree * HARTREE_TO_KCAL_MOL,
        -point.gradient_hartree_per_bohr * per_angstrom,
        point.error,
    )
