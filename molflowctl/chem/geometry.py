"""Positions of atoms and what they are measured by: conformers made of them, covalent radii."""

from __future__ import annotations

import numpy as np
from rdkit import Chem

__all__ = ["COVALENT_RADII", "add_conformer", "rotation", "with_positions"]

# Covalent radii in angstrom by atomic number, those of RDKit.
COVALENT_RADII = np.array([Chem.GetPeriodicTable().GetRcovalent(z) for z in range(119)])


def add_conformer(mol: Chem.Mol, positions: np.ndarray) -> int:
    """Add a three-dimensional conformer, in place; its number.

    Arguments:
        positions: `(atoms, 3)`, in angstrom.
    """
    conformer = Chem.Conformer(len(positions))
    conformer.Set3D(True)
    conformer.SetPositions(np.ascontiguousarray(positions, dtype=np.float64))
    return mol.AddConformer(conformer, assignId=True)


def with_positions(mol: Chem.Mol, positions: np.ndarray) -> Chem.Mol:
    """A copy whose one conformer has these positions, `(atoms, 3)`, in angstrom."""
    placed = Chem.Mol(mol)
    placed.RemoveAllConformers()
    add_conformer(placed, positions)
    return placed


def rotation(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """The rotation R, (3, 3), that brings centred points `old @ R` nearest to `new`, `(k, 3)`.

    Kabsch, Acta Cryst. A 32, 922 (1976).
    """
    left, _, right = np.linalg.svd(old.T @ new)
    sign = np.sign(np.linalg.det(left @ right)) or 1.0
    return left @ np.diag([1.0, 1.0, sign]) @ right
