"""Atom and molecule stability on QM9, and the protocol of the published tables.

An atom is stable if the orders of its bonds sum to the valence of its element (`VALENCES`; formal
charges are ignored, so a correct ammonium counts as unstable); a molecule is stable if all its
atoms are. Hydrogens must be explicit.

The published models of the first generation (E-NF, G-SchNet, EDM, GeoLDM, EquiFM, ...) generate no
bonds. Their tables look bonds up from distances: two atoms are bonded with the highest order whose
standard length, plus a margin of 10 pm (single), 5 pm (double) or 3 pm (triple), exceeds their
distance (`distance_bonds`). Their validity asks that RDKit can sanitise this graph of uncharged
atoms, open valences filled with hydrogens, and takes the largest fragment (`edm_smiles`).

References:
    Hoogeboom, Satorras, Vignac, Welling, Equivariant Diffusion for Molecule Generation in 3D, 2022,
    arXiv 2203.17003: valences, lengths and margins, from the tables of its appendix and code,
    https://github.com/ehoogeboom/e3_diffusion_for_molecules (qm9/bond_analyze.py,
    qm9/rdkit_functions.py).
"""

from __future__ import annotations

import numpy as np
from rdkit import Chem, rdBase

from molflowctl.chem.graphs import Graph3D, to_mol

__all__ = ["VALENCES", "distance_bonds", "edm_smiles", "has_valences", "stable_atoms"]

VALENCES = {1: 1, 6: 4, 7: 3, 8: 2, 9: 1}
MARGINS = (10, 5, 3)  # pm, by bond order

# Standard bond lengths in pm: single, double, triple.
_LENGTHS: dict[tuple[int, int], tuple[int, ...]] = {
    (1, 1): (74,),
    (1, 6): (109,),
    (1, 7): (101,),
    (1, 8): (96,),
    (1, 9): (92,),
    (6, 6): (154, 134, 120),
    (6, 7): (147, 129, 116),
    (6, 8): (143, 120, 113),
    (6, 9): (135,),
    (7, 7): (145, 125, 110),
    (7, 8): (140, 121),
    (7, 9): (136,),
    (8, 8): (148, 121),
    (8, 9): (142,),
    (9, 9): (142,),
}
# Upper limits of the distance in angstrom, by order and the two atomic numbers; 0 where there is no
# such bond.
_LIMITS = np.zeros((3, 10, 10))
for (_a, _b), _lengths in _LENGTHS.items():
    for _order, _length in enumerate(_lengths):
        _LIMITS[_order, _a, _b] = _LIMITS[_order, _b, _a] = (_length + MARGINS[_order]) / 100
_VALENCE_OF = np.zeros(10, dtype=np.int64)
_VALENCE_OF[list(VALENCES)] = list(VALENCES.values())


def has_valences(numbers: np.ndarray) -> bool:
    """Whether the table covers every element of `numbers`."""
    return set(np.unique(numbers).tolist()) <= set(VALENCES)


def stable_atoms(numbers: np.ndarray, bonds: np.ndarray) -> np.ndarray:
    """Which atoms have the valence of the table. `(N,)` bool.

    Arguments:
        numbers: `(N,)` atomic numbers, among `VALENCES`.
        bonds: `(N, N)` kekulised orders, symmetric.
    """
    return bonds.sum(1) == _VALENCE_OF[numbers]


def distance_bonds(numbers: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Bond orders looked up from distances. `(N, N)` int8.

    Arguments:
        numbers: `(N,)` atomic numbers, among `VALENCES`.
        positions: `(N, 3)` angstrom.
    """
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    limits = _LIMITS[:, numbers[:, None], numbers[None]]
    # A triple bond is looked for among pairs close enough for a double bond only, as these among
    # singles.
    orders = np.logical_and.accumulate(distances < limits, axis=0).sum(0)
    np.fill_diagonal(orders, 0)
    return orders.astype(np.int8)


def edm_smiles(numbers: np.ndarray, positions: np.ndarray) -> str | None:
    """The largest fragment's SMILES by the published protocol, None if the molecule is invalid."""
    bonds = distance_bonds(numbers, positions)
    mol = to_mol(Graph3D(numbers, np.zeros_like(numbers), bonds, positions))
    with rdBase.BlockLogs():
        if Chem.SanitizeMol(mol, catchErrors=True) != Chem.SanitizeFlags.SANITIZE_NONE:
            return None
        largest = max(Chem.GetMolFrags(mol, asMols=True), key=lambda m: m.GetNumAtoms())
        return Chem.MolToSmiles(largest)
