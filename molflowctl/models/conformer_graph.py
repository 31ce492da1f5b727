"""Molecular graphs as tensors: what a conformer flow is told about the molecule it places.

Chemical features are small integers. Stereo enters by geometry, never by CIP labels: the four atoms
about a stereocentre in the order that gives a positive volume, and marks on the pairs of atoms that
are cis or trans across a double bond (`molflowctl.chem.stereo`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from rdkit import Chem
from torch import Tensor

from molflowctl.chem.stereo import across_double_bonds, stereocentres

__all__ = ["ATOM_FEATURES", "PAIR_FEATURES", "Graphs"]

# Name and number of classes; the columns of `Graphs.atoms` after the atomic number.
ATOM_FEATURES = {
    "charge": 5,  # -2 to 2
    "degree": 7,
    "hydrogens": 5,  # bonded ones, explicit or not
    "ring": 7,  # none, smallest is of 3, 4, 5, 6, 7, more
    "aromatic": 2,
    "hybridisation": 4,  # sp, sp2, sp3, other
    "stereocentre": 2,
}
# The columns of `Graphs.pairs`.
PAIR_FEATURES = {
    "bond": 5,  # none, single, double, triple, aromatic
    "separation": 8,  # bonds between the two, 1 to 7, or more
    "conjugated": 2,  # of the bond
    "ring_bond": 2,
    "same_ring": 2,
    "double_bond": 3,  # not across one that is marked, cis, trans
}
_BONDS = {
    Chem.BondType.SINGLE: 1,
    Chem.BondType.DOUBLE: 2,
    Chem.BondType.TRIPLE: 3,
    Chem.BondType.AROMATIC: 4,
}
_HYBRIDS = {
    Chem.HybridizationType.SP: 0,
    Chem.HybridizationType.SP2: 1,
    Chem.HybridizationType.SP3: 2,
}


@dataclass(frozen=True, eq=False)
class Graphs:
    """`G` molecular graphs of `N` atoms; `M = N(N-1)/2` pairs as in `torch.triu_indices(N, N, 1)`.

    Attributes:
        atoms: `(G, N, 1 + features)` uint8, the atomic number, then classes of `ATOM_FEATURES`.
        pairs: `(G, M, features)` uint8, classes of `PAIR_FEATURES`.
        centres: `(G, K, 5)` int16, stereocentres: centre and `q0..q3`; zeros fill up to `K`.
        real: `(G, K)` bool, which of them are there.
    """

    atoms: Tensor
    pairs: Tensor
    centres: Tensor
    real: Tensor

    @classmethod
    def of(cls, mol: Chem.Mol) -> Self:
        """The graph of one sanitised molecule, `G = 1`; its hydrogens are those it has as atoms.

        Raises:
            ValueError: for a bond that is neither single, double, triple nor aromatic.
        """
        n = mol.GetNumAtoms()
        rings = mol.GetRingInfo()
        centres = stereocentres(mol)
        marked = {centre for centre, *_ in centres}
        atoms = np.zeros((n, 1 + len(ATOM_FEATURES)), np.uint8)
        for i, atom in enumerate(mol.GetAtoms()):
            smallest = rings.MinAtomRingSize(i)
            atoms[i] = (
                atom.GetAtomicNum(),
                min(max(atom.GetFormalCharge() + 2, 0), 4),
                min(atom.GetDegree(), 6),
                min(atom.GetTotalNumHs(includeNeighbors=True), 4),
                min(smallest - 2, 6) if smallest else 0,
                atom.GetIsAromatic(),
                _HYBRIDS.get(atom.GetHybridization(), 3),
                i in marked,
            )
        square = np.zeros((n, n, len(PAIR_FEATURES)), np.uint8)
        square[..., 1] = np.clip(Chem.GetDistanceMatrix(mol) - 1, 0, 7)
        for ring in rings.AtomRings():
            square[np.ix_(ring, ring)] |= np.array([0, 0, 0, 0, 1, 0], np.uint8)
        for bond in mol.GetBonds():
            i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
            if bond.GetBondType() not in _BONDS:
                raise ValueError(f"a bond of type {bond.GetBondType()} is unknown to the network")
            order, conjugated = _BONDS[bond.GetBondType()], bond.GetIsConjugated()
            for ends in ((i, j), (j, i)):
                square[ends][[0, 2, 3]] = order, conjugated, bond.IsInRing()
        for i, j, cis in across_double_bonds(mol):
            square[i, j, 5] = square[j, i, 5] = 1 if cis else 2
        return cls(
            atoms=torch.from_numpy(atoms)[None],
            pairs=torch.from_numpy(square[np.triu_indices(n, 1)])[None],
            centres=torch.tensor(centres, dtype=torch.int16).reshape(1, -1, 5),
            real=torch.ones(1, len(centres), dtype=torch.bool),
        )

    @classmethod
    def stack(cls, graphs: list[Self]) -> Self:
        """Join graphs of one number of atoms."""
        most = max(g.centres.shape[1] for g in graphs)

        def filled(part: Tensor) -> Tensor:
            tail = (0, 0) * (part.ndim - 2)
            return F.pad(part, (*tail, 0, most - part.shape[1]))

        return cls(
            atoms=torch.cat([g.atoms for g in graphs]),
            pairs=torch.cat([g.pairs for g in graphs]),
            centres=torch.cat([filled(g.centres) for g in graphs]),
            real=torch.cat([filled(g.real) for g in graphs]),
        )

    def __len__(self) -> int:
        return len(self.atoms)

    @property
    def size(self) -> int:
        """`N`."""
        return self.atoms.shape[1]

    def select(self, index: Tensor) -> Graphs:
        """The graphs `index`."""
        return self._map(lambda part: part[index])

    def repeat(self, times: int) -> Graphs:
        """All graphs, `times` times one after another."""
        return self._map(lambda part: part.repeat(times, *[1] * (part.ndim - 1)))

    def to(self, device: torch.device | str) -> Graphs:
        """The graphs on a device."""
        return self._map(lambda part: part.to(device, non_blocking=True))

    def laplacians(self) -> Tensor:
        """`(G, N, N)` float64: the degree of a node on the diagonal, -1 for a bond."""
        n = self.size
        first, second = torch.triu_indices(n, n, 1, device=self.pairs.device)
        bonded = (self.pairs[..., 0] > 0).double()
        matrix = bonded.new_zeros(len(self), n, n)
        matrix[:, first, second] = matrix[:, second, first] = -bonded
        return matrix - torch.diag_embed(matrix.sum(2))

    def _map(self, function) -> Graphs:
        return Graphs(**{f.name: function(getattr(self, f.name)) for f in fields(self)})
