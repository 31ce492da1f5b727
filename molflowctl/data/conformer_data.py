"""Ensembles of conformers on disk: flat tensors in safetensors, text beside them, no pickle.

A data set is a folder:

    ensembles.safetensors   the tensors of `ConformerDataset`, all molecules one after another
    smiles.txt.gz           one isomeric SMILES a line; its atoms, then its hydrogens, are the order
    card.json               source, licence, method, what was left out and why, sha256
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from rdkit import Chem, rdBase
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from molflowctl.chem.geometry import add_conformer
from molflowctl.data.card import (
    check_pointer,
    check_tensors,
    how_to_make,
    read_data_card,
    sealed,
    sha256_of,
    smiles_of,
)
from molflowctl.data.datasets import SPLITS, check_replaceable, gathered, pointer_of
from molflowctl.errors import UserError
from molflowctl.io.atomic import replacing_folder

__all__ = ["ConformerDataset"]

FORMAT_VERSION = 1
_TENSORS, _SMILES, _CARD = "ensembles.safetensors", "smiles.txt.gz", "card.json"


@dataclass
class ConformerDataset:
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
    def load(cls, folder: str | Path) -> ConformerDataset:
        """Read a data set's folder, checked against the sha256 in its card.

        Raises:
            UserError: the folder is missing, incomplete, damaged or of another format version.
        """
        folder = Path(folder)
        make = how_to_make(folder, conformers=True)
        version = ("conformer_format_version", FORMAT_VERSION)
        card = read_data_card(folder, _TENSORS, _SMILES, version, make)
        try:
            tensors: dict[str, Any] = dict(load_file(folder / _TENSORS))
            data = cls(**tensors, card=card)
            data._check()
        except (SafetensorError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{folder / _TENSORS} is no data set of conformers: {error}") from None
        data.smiles = smiles_of(folder / _SMILES, len(data))
        return data

    def _check(self) -> None:
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

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write the folder under a temporary name, then rename it. Returns the folder.

        Raises:
            UserError: the folder exists and `overwrite` is off, or is not a data set's.
        """
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.type == "Tensor"}
        content = save({name: t.contiguous() for name, t in tensors.items()})
        check_replaceable(Path(folder), overwrite=overwrite)
        with replacing_folder(Path(folder)) as partial:
            (partial / _TENSORS).write_bytes(content)
            with gzip.GzipFile(partial / _SMILES, "wb", mtime=0) as file:
                file.write("".join(f"{s}\n" for s in self.smiles).encode())
            self.card = self.card | {
                "conformer_format_version": FORMAT_VERSION,
                "molecules": len(self),
                "conformers": len(self.energies),
                "split": {name: len(self.indices(name)) for name in SPLITS},
                "sha256": hashlib.sha256(content).hexdigest(),
                "smiles_sha256": sha256_of(partial / _SMILES),
            }
            self.card = sealed(self.card)
            text = json.dumps(self.card, indent=2) + "\n"
            (partial / _CARD).write_text(text, encoding="utf-8")
        return Path(folder)

    def __len__(self) -> int:
        return len(self.split)

    def holding_out(self, share: float, seed: int = 0) -> ConformerDataset:
        """The same data with a share of the training molecules, one at least, for validation."""
        rows = self.indices("train")
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
        split = self.split.clone()
        split[rows[order[: max(1, round(share * len(rows)))]]] = SPLITS.index("validation")
        return replace(self, split=split)

    def indices(self, split: str | None = None) -> Tensor:
        """Rows of a split, ascending; every row for None. (M',) int64."""
        if split is None:
            return torch.arange(len(self))
        if split not in SPLITS:
            raise UserError(f"No split {split!r}: choose one of {', '.join(SPLITS)}.")
        return (self.split == SPLITS.index(split)).nonzero().squeeze(1)

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

    @classmethod
    def concatenate(cls, parts: Sequence[ConformerDataset]) -> ConformerDataset:
        """The molecules of one data set after those of another; the card is empty."""

        def joined(name: str) -> Tensor:
            tensors = [getattr(part, name) for part in parts]
            if name.endswith("_ptr"):
                return pointer_of(torch.cat([pointer.diff() for pointer in tensors]))
            return torch.cat(tensors)

        tensors: dict[str, Any] = {
            f.name: joined(f.name) for f in fields(cls) if f.type == "Tensor"
        }
        return cls(**tensors, smiles=[s for part in parts for s in part.smiles])

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
