"""What every calculation on coordinates asks first, so that all give the same reasons."""

import numpy as np
from numpy.typing import NDArray
from rdkit.Chem import Mol

from molflowctl.properties.registry import PropertyError

__all__ = ["CLASH_ANGSTROM", "NO_COORDINATES", "check_distances", "checked_positions"]

CLASH_ANGSTROM = 0.4  # H2 has 0.74; nearer than this is a failed geometry, not a molecule
NO_COORDINATES = "no coordinates"


def checked_positions(mol: Mol) -> NDArray[np.float64]:
    """The first conformer, (atoms, 3) in angstrom.

    Raises:
        PropertyError: no atoms, no coordinates, two-dimensional ones, or one that is not finite.
    """
    if mol.GetNumAtoms() == 0:
        raise PropertyError("no atoms")
    if mol.GetNumConformers() == 0:
        raise PropertyError(NO_COORDINATES)
    conformer = mol.GetConformer()
    if not conformer.Is3D():
        raise PropertyError("the coordinates are two-dimensional")
    positions = np.ascontiguousarray(conformer.GetPositions(), dtype=np.float64)
    if not np.isfinite(positions).all():
        raise PropertyError("a coordinate is not a number")
    return positions


def check_distances(positions: NDArray[np.float64]) -> None:
    """Raise `PropertyError` if two atoms are closer than `CLASH_ANGSTROM`."""
    # Not scipy's pdist, whose import takes longer than the first thirty molecules.
    apart = positions[:, None] - positions
    squares = np.einsum("ijk,ijk->ij", apart, apart)
    squares.flat[:: len(positions) + 1] = np.inf  # an atom and itself
    if squares.min() < CLASH_ANGSTROM**2:
        raise PropertyError(f"two atoms are closer than {CLASH_ANGSTROM} angstrom")
