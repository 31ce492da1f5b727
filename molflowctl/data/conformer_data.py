"""Ensembles of conformers on disk, a folder as `flat.py` has it.

ensembles.safetensors   the tensors of `ConformerDataset`
smiles.txt.gz           one isomeric SMILES a line; its atoms, then its hydrogens, are the order
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from rdkit import Chem, rdBase
from torch import Tensor

from molflowctl.chem.geometry import add_conformer
from molflowctl.data.card import check_pointer, check_tensors, smiles_of
from molflowctl.data.flat import SMILES, SPLITS, FlatDataset, gathered
from molflowctl.errors import UserError

__all__ = ["ConformerDataset"]


@dataclass
class ConformerDataset(FlatDataset):
    """M molecules; molecule m has K conformers of N atoms, hydrogens included.

    Attributes:
        numbers: atomic numbers of the molecules, concatenated, uint8.
        atom_ptr: molecule m owns `numbers[atom_ptr[m]:atom_ptr[m+1]]`, (M+1,) int64.
        positions: angstrom; conformers of one molecule are contiguous, by rising energy, each with
            N rows, (rows, 3) float32.
        conformer_ptr: molecule m owns conformers `conformer_ptr[m]:conformer_ptr[m+1]`, (M+1,)
            int64.
        energies: of the conformers, kcal/mol above the molecule's lowest, float32.
        weights: Boltzmann weights at the card's temperature, one in sum for a molecule, float32.
        split: 0 train, 1 validation, 2 test, (M,) uint8.
        source_index: the molecule's number in the source, (M,) int32.
        smiles: isomeric SMILES; `AddHs(MolFromSmiles(.))` has the order of the atoms.
        card: provenance; written as `card.json`.
    """

    of: ClassVar[str] = "conformers"
    file: ClassVar[str] = "ensembles.safetensors"
    version: ClassVar[str] = "conformer_format_version"

    numbers: Tensor
    atom_ptr: Tensor
    positions: Tensor
    conformer_ptr: Tensor
    energies: Tensor
    weights: Tensor
    split: Tensor
    source_index: Tensor
    smiles: list[str] = field(default_factory=list)
    card: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows = self.atom_ptr.diff() * self.conformer_ptr.diff()
        self.row_ptr = torch.cat([rows.new_zeros(1), rows.cumsum(0)])

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        data = super().load(folder)
        # At once: whatever is done with the ensembles needs them.
        data.smiles = smiles_of(Path(folder) / SMILES, len(data))
        return data

    def check(self) -> None:
        """Raise `ValueError` unless the tensors are of one data set."""
        m, conformers = len(self.split), len(self.energies)
        check_tensors(
            numbers=(self.numbers, torch.uint8, (len(self.numbers),)),
            positions=(self.positions, torch.float32, (len(self.positions), 3)),
            energies=(self.energies, torch.float32, (conformers,)),
            weights=(self.weights, torch.float32, (conformers,)),
            split=(self.split, torch.uint8, (m,)),
            source_index=(self.source_index, torch.int32, (m,)),
        )
        check_pointer("atom_ptr", self.atom_ptr, m, len(self.numbers))
        check_pointer("conformer_ptr", self.conformer_ptr, m, conformers)
        if int(self.row_ptr[-1]) != len(self.positions):
            raise ValueError("there are not as many positions as atoms of all conformers")
        if bool((self.split > 2).any()) or bool((self.weights < 0).any()):
            raise ValueError("a split is none, or a weight is negative")

    def _written(self, folder: Path) -> dict[str, Any]:
        return {"conformers": len(self.energies)}

    def holding_out(self, share: float, seed: int = 0) -> ConformerDataset:
        """The same data with a share of the training molecules, one at least, for validation."""
        rows = self.indices("train")
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
        split = self.split.clone()
        split[rows[order[: max(1, round(share * len(rows)))]]] = SPLITS.index("validation")
        return replace(self, split=split)

    def conformers(self, row: int) -> Tensor:
        """All conformers of a molecule, `(K, N, 3)` in angstrom."""
        n = int(self.atom_ptr[row + 1] - self.atom_ptr[row])
        return self.positions[self.row_ptr[row] : self.row_ptr[row + 1]].view(-1, n, 3)

    def dense(self, rows: Tensor, uniform: Tensor, atoms: int, *, boltzmann: bool) -> Tensor:
        """One conformer of each molecule, the first `atoms` of its atoms, `(B, atoms, 3)`.

        Arguments:
            rows: `(B,)`; uniform: `(B,)` in [0, 1), which picks the conformer.
            boltzmann: by their weights, else all alike.
        """
        first, count = self.conformer_ptr[rows], self.conformer_ptr.diff()[rows]
        if boltzmann:
            cumulative = self._cumulative
            start = cumulative[first] - self.weights[first]
            wanted = start + uniform.double() * (cumulative[first + count - 1] - start)
            picked = torch.searchsorted(cumulative, wanted, right=True)
            picked = torch.minimum(torch.maximum(picked, first), first + count - 1) - first
        else:
            picked = torch.minimum((uniform * count).long(), count - 1)
        start = self.row_ptr[rows] + picked * self.atom_ptr.diff()[rows]
        return self.positions[start[:, None] + torch.arange(atoms)]

    @cached_property
    def _cumulative(self) -> Tensor:
        return self.weights.double().cumsum(0)

    def select(self, rows: Tensor) -> ConformerDataset:
        """The molecules of these rows, (M',) int64, in their order; the card is copied."""
        atoms, atom_ptr = gathered(self.atom_ptr, rows)
        conformers, conformer_ptr = gathered(self.conformer_ptr, rows)
        lines, _ = gathered(self.row_ptr, rows)
        return ConformerDataset(
            numbers=self.numbers[atoms],
            atom_ptr=atom_ptr,
            positions=self.positions[lines],
            conformer_ptr=conformer_ptr,
            energies=self.energies[conformers],
            weights=self.weights[conformers],
            split=self.split[rows],
            source_index=self.source_index[rows],
            smiles=[self.smiles[row] for row in rows.tolist()],
            card=dict(self.card),
        )

    def heavy_mol(self, row: int) -> Chem.Mol:
        """The molecule without explicit hydrogens and conformers."""
        with rdBase.BlockLogs():
            mol = Chem.MolFromSmiles(self.smiles[row])
        if mol is None:
            raise UserError(f"the data set's SMILES {self.smiles[row]!r} cannot be read by RDKit.")
        return mol

    def mol(self, row: int) -> Chem.Mol:
        """The molecule with hydrogens and all its conformers.

        Raises:
            UserError: if this RDKit orders the atoms of the SMILES in another way.
        """
        mol = Chem.AddHs(self.heavy_mol(row))
        numbers = self.numbers[self.atom_ptr[row] : self.atom_ptr[row + 1]].tolist()
        if [atom.GetAtomicNum() for atom in mol.GetAtoms()] != numbers:
            raise UserError(f"this RDKit orders the atoms of {self.smiles[row]} in another way.")
        for positions in self.conformers(row).double().numpy():
            add_conformer(mol, positions)
        return mol
