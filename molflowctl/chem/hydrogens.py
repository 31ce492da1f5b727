"""Which way hydrogens point that a flow of heavy atoms leaves open.

Bond lengths, angles and the rest of a molecule say where most hydrogens stand. They do not say how
a hydroxyl, an amine, a thiol or an imine is turned about the bond that holds it, nor on which side
of a secondary amine its hydrogen is. RDKit puts these where the axes of the frame or the order of
the atoms happen to lead it, and a relaxation ends in the nearest minimum: rotated copies of one
molecule then differ in dipole moment by up to three debye. Of all these positions the one of lowest
energy is a property of the molecule itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np
from rdkit import Chem

__all__ = ["point"]

ANGLES = np.arange(24) * (np.pi / 12)  # of the turns that are tried
NEAR = 5.0  # angstrom between two atoms whose hydrogens are turned together
FLAT = 1e-3  # square angstrom, the least area that two bonds must span to have a plane
GAIN = 1e-3  # kcal/mol by which another position must be better


def point(mol: Chem.Mol, field: Any, free: Sequence[int]) -> None:
    """Turn hydrogens to where the energy is lowest, in place; all else stays.

    What can turn is tried at 24 angles, or on its two sides; pairs that are near each other
    together, for a hydrogen may have to wait until the acceptor of its bond has turned. Pair after
    pair, until none gains.

    Arguments:
        mol: with one conformer.
        field: an initialised force field of RDKit for it.
        free: indices of the hydrogens that may move.
    """
    conformer = mol.GetConformer()
    positions = conformer.GetPositions()
    moves = [m for atom in mol.GetAtoms() if (m := _moves(atom, positions, set(free)))]
    near = [(a, b) for a, b in combinations(moves, 2) if np.linalg.norm(a.centre - b.centre) < NEAR]
    alone = [(move,) for move in moves if not any(move is m for pair in near for m in pair)]
    lowest, gained = field.CalcEnergy(positions.ravel().tolist()), True
    while gained:
        gained = False
        for turned in [*alone, *near]:
            best = positions
            for placed in product(*(move.places(positions) for move in turned)):
                tried = positions.copy()
                for move, place in zip(turned, placed, strict=True):
                    tried[move.hydrogens] = place
                energy = field.CalcEnergy(tried.ravel().tolist())
                if energy < lowest - GAIN:
                    lowest, best, gained = energy, tried, True
            positions = best
        alone = []  # what they gain does not depend on the others
    conformer.SetPositions(positions)


@dataclass(frozen=True, eq=False)
class _Move:
    """What the hydrogens of one atom can do.

    Attributes:
        centre: of the atom, `(3,)`, which stays.
        hydrogens: indices of one or two.
        maps: `(K, 3, 3)`, the first of which is none.
    """

    centre: np.ndarray
    hydrogens: list[int]
    maps: np.ndarray

    def places(self, positions: np.ndarray) -> np.ndarray:
        """Positions of the hydrogens, `(K, H, 3)`: where they are, and where they can go."""
        return (positions[self.hydrogens] - self.centre) @ self.maps + self.centre


def _moves(atom: Chem.Atom, positions: np.ndarray, free: set[int]) -> _Move | None:
    """What the hydrogens of an atom can do; None for nothing.

    A methyl has three positions that are alike, and a hydrogen of a carbon none to choose from.
    """
    if atom.GetAtomicNum() in (1, 6):
        return None
    neighbours = [n.GetIdx() for n in atom.GetNeighbors()]
    hydrogens = [n for n in neighbours if n in free]
    others = [n for n in neighbours if n not in free]
    centre = positions[atom.GetIdx()]
    bonds = positions[others] - centre
    if len(others) == 1 and 1 <= len(hydrogens) <= 2:
        length = float(np.linalg.norm(bonds[0]))
        return _Move(centre, hydrogens, _turns(bonds[0] / length)) if length else None
    if len(others) == 2 and len(hydrogens) == 1:
        normal = np.cross(*bonds)
        area = float(np.linalg.norm(normal))
        if area < FLAT:
            return None
        mirror = np.eye(3) - 2 * np.outer(normal, normal) / area**2
        return _Move(centre, hydrogens, np.stack([np.eye(3), mirror]))
    return None


def _turns(axis: np.ndarray) -> np.ndarray:
    """Rotations about a unit vector by `ANGLES`, `(K, 3, 3)` (Rodrigues' formula)."""
    cross = np.cross(np.eye(3), axis)
    sine, rest = np.sin(ANGLES)[:, None, None], 1 - np.cos(ANGLES)[:, None, None]
    return np.eye(3) + sine * cross + rest * cross @ cross
