"""Energies of conformers relative to the lowest of the same molecule.

Not a registered property, which sees one record alone: the lowest conformer is known only once all
of them are computed.
"""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rdkit.Chem import Mol

from molflowctl.chem.identity import identity

__all__ = ["molecule_groups", "relative_energies"]


def relative_energies(energies: ArrayLike, groups: Sequence[Hashable]) -> NDArray[np.float64]:
    """Each energy minus the lowest of its group, in the unit given. (n,)

    Args:
        energies: (n,); NaN for those that failed, which stay NaN and are nobody's lowest.
        groups: (n,) which molecule each record is a conformer of: its title, or
            `molecule_groups(mols)`.

    Raises:
        ValueError: lengths that differ.
    """
    values = np.asarray(energies, dtype=np.float64)
    if values.shape != (len(groups),):
        raise ValueError(f"{values.shape} energies do not go with {len(groups)} groups")
    lowest: dict[Hashable, float] = {}
    for group, value in zip(groups, values.tolist(), strict=True):
        if not np.isnan(value):
            lowest[group] = min(value, lowest.get(group, value))
    return values - np.array([lowest.get(group, np.nan) for group in groups], dtype=np.float64)


def molecule_groups(mols: Sequence[Mol]) -> list[str]:
    """What molecule each record is, its stereo included."""
    return [identity(mol) for mol in mols]
