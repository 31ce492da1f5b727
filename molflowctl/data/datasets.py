"""Three-dimensional molecules on disk, a folder as `flat.py` has it.

molecules.safetensors   the tensors of `MoleculeDataset`
smiles.txt.gz           one canonical, non-isomeric SMILES a line
train_hashes.npy        sorted 64-bit hashes of the training molecules, for novelty
sizes.json              {number of atoms: molecules} of the training split
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from molflowctl.chem.graphs import Graph3D
from molflowctl.data.card import check_pointer, check_tensors
from molflowctl.data.flat import FlatDataset, gathered, pointer_of, write_json
from molflowctl.data.known import HASHES, hash_molecules

if TYPE_CHECKING:
    from torch_geometric.data import InMemoryDataset

__all__ = [
    "Batch",
    "MoleculeDataset",
    "split_by_molecule",
]

_SIZES = "sizes.json"


@dataclass(frozen=True)
class Batch:
    """Molecules of one size, dense; `M = N(N-1)/2` pairs as in `torch.triu_indices(N, N, 1)`.

    Attributes:
        numbers: atomic numbers, (B, N) int64.
        charges: formal charges in elementary charges, (B, N) int64.
        bonds: bond orders of the pairs, 0 for none, (B, M) int64.
        positions: angstrom, zero centroid, (B, N, 3) float32.
        rows: rows of the data set, (B,) int64.
    """

    numbers: Tensor
    charges: Tensor
    bonds: Tensor
    positions: Tensor
    rows: Tensor

    def __len__(self) -> int:
        return len(self.numbers)


@dataclass
class MoleculeDataset(FlatDataset):
    """M molecules with N atoms and E bonds in all, concatenated.

    Attributes:
        numbers: atomic numbers, (N,) uint8.
        charges: formal charges in elementary charges, (N,) int8.
        positions: angstrom, zero centroid in each molecule, (N, 3) float32.
        atom_ptr: molecule m owns atoms `atom_ptr[m]:atom_ptr[m+1]`, (M+1,) int64.
        bond_index: pairs i < j counted inside their molecule, (E, 2) int16.
        bond_order: 1, 2 or 3 (Kekule structure), (E,) int8.
        bond_ptr: molecule m owns bonds `bond_ptr[m]:bond_ptr[m+1]`, (M+1,) int64.
        split: 0 train, 1 validation, 2 test, (M,) uint8.
        source_index: the molecule's number in the source, (M,) int32.
        card: provenance; written as `card.json`.
    """

    of: ClassVar[str] = "molecules"
    file: ClassVar[str] = "molecules.safetensors"
    version: ClassVar[str] = "format_version"

    numbers: Tensor
    charges: Tensor
    positions: Tensor
    atom_ptr: Tensor
    bond_index: Tensor
    bond_order: Tensor
    bond_ptr: Tensor
    split: Tensor
    source_index: Tensor
    card: dict[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Raise `ValueError` unless the tensors are of one data set."""
        m, atoms, bonds = len(self.split), len(self.numbers), len(self.bond_order)
        check_tensors(
            numbers=(self.numbers, torch.uint8, (atoms,)),
            charges=(self.charges, torch.int8, (atoms,)),
            positions=(self.positions, torch.float32, (atoms, 3)),
            bond_index=(self.bond_index, torch.int16, (bonds, 2)),
            bond_order=(self.bond_order, torch.int8, (bonds,)),
            split=(self.split, torch.uint8, (m,)),
            source_index=(self.source_index, torch.int32, (m,)),
        )
        check_pointer("atom_ptr", self.atom_ptr, m, atoms)
        check_pointer("bond_ptr", self.bond_ptr, m, bonds)
        sizes = torch.repeat_interleave(self.atom_ptr.diff(), self.bond_ptr.diff())
        first, second = self.bond_index.long().unbind(1)
        if bool(((first < 0) | (first >= second) | (second >= sizes)).any()):
            raise ValueError("a bond is of atoms that its molecule does not have")
        if bool(((self.bond_order < 1) | (self.bond_order > 3)).any()):
            raise ValueError("a bond order is not 1, 2 or 3")
        if bool(((self.numbers < 1) | (self.numbers > 118)).any()) or bool((self.split > 2).any()):
            raise ValueError("an atomic number or a split is none")

    def _written(self, folder: Path) -> dict[str, Any]:
        np.save(folder / HASHES, self.train_hashes())
        write_json(folder / _SIZES, self.sizes())
        return {}

    def sizes(self, split: str | None = "train") -> dict[int, int]:
        """{number of atoms: molecules} of a split, ascending."""
        counts = torch.bincount(self.atom_ptr.diff()[self.indices(split)]).tolist()
        return {n: c for n, c in enumerate(counts) if c}

    def train_hashes(self) -> np.ndarray:
        """Sorted unique hashes of the training molecules, uint64."""
        return hash_molecules(self.smiles[i] for i in self.indices("train").tolist())

    def graph(self, row: int) -> Graph3D:
        """One molecule as arrays, see `molflowctl.chem.graphs`."""
        atoms = slice(*self.atom_ptr[row : row + 2].tolist())
        edges = slice(*self.bond_ptr[row : row + 2].tolist())
        numbers = self.numbers[atoms].numpy().astype(np.int64)
        bonds = np.zeros((len(numbers), len(numbers)), dtype=np.int8)
        i, j = self.bond_index[edges].numpy().T
        bonds[i, j] = bonds[j, i] = self.bond_order[edges].numpy()
        return Graph3D(
            numbers=numbers,
            charges=self.charges[atoms].numpy().astype(np.int64),
            bonds=bonds,
            positions=self.positions[atoms].numpy(),
        )

    def by_size(self, split: str | None = None) -> dict[int, Batch]:
        """One dense `Batch` for each number of atoms, ascending."""
        rows = self.indices(split)
        n_atoms = self.atom_ptr.diff()[rows]
        return {n: self._dense(rows[n_atoms == n], n) for n in n_atoms.unique().tolist()}

    def _dense(self, rows: Tensor, n: int) -> Batch:
        atoms = self.atom_ptr[rows, None] + torch.arange(n)
        first, count = self.bond_ptr[rows], self.bond_ptr.diff()[rows]
        row = torch.repeat_interleave(torch.arange(len(rows)), count)
        bond = first[row] + torch.arange(len(row)) - (count.cumsum(0) - count)[row]
        i, j = self.bond_index[bond].long().unbind(1)
        bonds = torch.zeros(len(rows), n * (n - 1) // 2, dtype=torch.int64)
        # place of (i, j) in the row-wise upper triangle: i rows of n-1, n-2, ... pairs come first
        bonds[row, i * (2 * n - i - 1) // 2 + j - i - 1] = self.bond_order[bond].long()
        return Batch(
            numbers=self.numbers[atoms].long(),
            charges=self.charges[atoms].long(),
            bonds=bonds,
            positions=self.positions[atoms],
            rows=rows,
        )

    def select(self, rows: Tensor) -> MoleculeDataset:
        """The molecules of these rows, (M',) int64, in their order; the card is copied."""
        atoms, atom_ptr = gathered(self.atom_ptr, rows)
        edges, bond_ptr = gathered(self.bond_ptr, rows)
        result = MoleculeDataset(
            numbers=self.numbers[atoms],
            charges=self.charges[atoms],
            positions=self.positions[atoms],
            atom_ptr=atom_ptr,
            bond_index=self.bond_index[edges],
            bond_order=self.bond_order[edges],
            bond_ptr=bond_ptr,
            split=self.split[rows],
            source_index=self.source_index[rows],
            card=dict(self.card),
        )
        result.smiles = [self.smiles[row] for row in rows.tolist()]
        return result

    def without_hydrogens(self, min_atoms: int = 4) -> MoleculeDataset:
        """Heavy atoms only, hydrogens implied by valence, centroids back at zero.

        Molecules with fewer than `min_atoms` heavy atoms are dropped; the others keep their split.
        """
        owner = torch.repeat_interleave(torch.arange(len(self)), self.atom_ptr.diff())
        heavy = self.numbers > 1
        kept = torch.bincount(owner[heavy], minlength=len(self)) >= min_atoms
        atom = heavy & kept[owner]

        # the heavy atom's place in its molecule is the number of heavy atoms before it there
        before = pointer_of(heavy.long())
        place = before[:-1] - before[self.atom_ptr][owner]
        bond_owner = torch.repeat_interleave(torch.arange(len(self)), self.bond_ptr.diff())
        ends = self.bond_index.long() + self.atom_ptr[bond_owner, None]
        bond = atom[ends].all(1)

        def renumbered(owners: Tensor) -> Tensor:
            return pointer_of(torch.bincount(owners, minlength=len(self))[kept])

        result = MoleculeDataset(
            numbers=self.numbers[atom],
            charges=self.charges[atom],
            positions=self.positions[atom],
            atom_ptr=renumbered(owner[atom]),
            bond_index=place[ends[bond]].to(torch.int16),
            bond_order=self.bond_order[bond],
            bond_ptr=renumbered(bond_owner[bond]),
            split=self.split[kept],
            source_index=self.source_index[kept],
            card=dict(self.card),
        )
        result.centre()
        result.smiles = [s for s, k in zip(self.smiles, kept.tolist(), strict=True) if k]
        return result

    def centre(self) -> None:
        """Move every molecule's centroid to the origin, in float64, in place."""
        count = self.atom_ptr.diff()
        owner = torch.repeat_interleave(torch.arange(len(self)), count)
        x = self.positions.double()
        total = torch.zeros(len(self), 3, dtype=x.dtype).index_add_(0, owner, x)
        self.positions = (x - (total / count[:, None])[owner]).float()

    def pyg(self, split: str | None = None) -> InMemoryDataset:
        """A PyTorch Geometric data set of `Data(z, pos, charge, edge_index, edge_attr, smiles)`.

        `z` (N,) int64, `pos` (N, 3) angstrom, `charge` (N,) int64, `edge_index` (2, 2E) with both
        directions of a bond side by side, `edge_attr` (2E,) bond orders.
        """
        from torch_geometric.data import Data, InMemoryDataset

        both_ways = torch.stack(
            [self.bond_index, self.bond_index.flip(1)], 1
        )  # (E, direction, end)
        dataset = InMemoryDataset()
        dataset._data = Data(
            z=self.numbers.long(),
            pos=self.positions,
            charge=self.charges.long(),
            edge_index=both_ways.reshape(-1, 2).T.long().contiguous(),
            edge_attr=self.bond_order.long().repeat_interleave(2),
            smiles=self.smiles,
        )
        edges, rows = 2 * self.bond_ptr, torch.arange(len(self) + 1)
        dataset.slices = {
            **dict.fromkeys(("z", "pos", "charge"), self.atom_ptr),
            **dict.fromkeys(("edge_index", "edge_attr"), edges),
            "smiles": rows,
        }
        return dataset if split is None else dataset[self.indices(split)]


def split_by_molecule(smiles: Sequence[str], share: float, seed: int) -> Tensor:
    """0 train, 1 validation: about a `share` of the rows validates, at random. (M,) uint8

    The rows of one molecule, its conformers or duplicates, stay together, and with two molecules or
    more neither part is empty.
    """
    molecules, owner, counts = np.unique(smiles, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(molecules))
    before = np.cumsum(counts[order]) - counts[order]
    chosen = order[before < share * len(smiles)][: len(molecules) - 1]
    return torch.from_numpy(np.isin(owner, chosen).astype(np.uint8))
