"""Whether delivered molecules have what was kept of a drug, by RDKit alone.

The core with a dummy at each bond to the rest is to have the isomeric SMILES that it has in the
drug: its atoms, charges, bonds and stereo, and bonds to the rest only where the drug has them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from rdkit import Chem, rdBase

NEAR = 0.5  # angstrom of a fragment to its pose


def capped(mol: Chem.Mol, atoms: list[int], places: dict[int, int]) -> str:
    """Isomeric SMILES of atoms of a molecule, a dummy for each bond of them to other atoms.

    Where an atom has fewer such bonds than it has places, dummies stand for hydrogens: of a place
    that was left empty.

    Arguments:
        mol: sanitised, of heavy atoms, with a conformer.
        places: how many bonds to the rest an atom may have, by its number in `mol`.
    """
    full = Chem.AddHs(mol, addCoords=True)
    Chem.Kekulize(full, clearAromaticFlags=True)
    x, cut = full.GetConformer().GetPositions(), Chem.RWMol()
    conformer, new = [], {}
    inside = set(atoms)

    def add(number: int, charge: int, position: np.ndarray) -> int:
        atom = Chem.Atom(number)
        atom.SetFormalCharge(charge)
        atom.SetNoImplicit(True)
        conformer.append(position)
        return int(cut.AddAtom(atom))

    for i in atoms:
        atom = full.GetAtomWithIdx(i)
        new[i] = add(atom.GetAtomicNum(), atom.GetFormalCharge(), x[i])
    for i in atoms:
        atom = full.GetAtomWithIdx(i)
        outer = [n.GetIdx() for n in atom.GetNeighbors() if n.GetIdx() not in inside]
        outer.sort(key=lambda n: full.GetAtomWithIdx(n).GetAtomicNum() == 1)
        heavy = sum(full.GetAtomWithIdx(n).GetAtomicNum() > 1 for n in outer)
        for rank, n in enumerate(outer):
            cap = add(0 if rank < max(heavy, places.get(i, 0)) else 1, 0, x[n])
            cut.AddBond(new[i], cap, full.GetBondBetweenAtoms(i, n).GetBondType())
    for bond in full.GetBonds():
        ends = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        if inside >= set(ends):
            cut.AddBond(new[ends[0]], new[ends[1]], bond.GetBondType())
    whole = cut.GetMol()
    placed = Chem.Conformer(len(conformer))
    for i, position in enumerate(conformer):
        placed.SetAtomPosition(i, position.tolist())
    whole.AddConformer(placed)
    with rdBase.BlockLogs():
        Chem.SanitizeMol(whole)
        Chem.AssignStereochemistryFrom3D(whole)
        return Chem.MolToSmiles(Chem.RemoveHs(whole))


@dataclass(frozen=True)
class Checked:
    """A delivered molecule beside what was given."""

    kept: bool
    filled: bool
    near: bool
    rmsd: float


class CoreCheck:
    """Whether delivered molecules have what was kept of a drug, by RDKit alone."""

    def __init__(self, drug: Chem.Mol, kept: list[int]) -> None:
        self.k = len(kept)
        self.places = {
            row: sum(n.GetIdx() not in kept for n in drug.GetAtomWithIdx(a).GetNeighbors())
            for row, a in enumerate(kept)
        }
        of_drug = {a: self.places[row] for row, a in enumerate(kept)}
        self.smiles = capped(drug, kept, of_drug)
        self.target = drug.GetConformer().GetPositions()[kept]
        bonds = [
            (i, j)
            for i, a in enumerate(kept)
            for j, b in enumerate(kept)
            if drug.GetBondBetweenAtoms(a, b) is not None
        ]
        self.pieces = _pieces(self.k, bonds)

    def __call__(self, block: str) -> Checked:
        """Of a MOL block."""
        mol = Chem.RemoveHs(Chem.MolFromMolBlock(block, removeHs=False))
        gap = mol.GetConformer().GetPositions()[: self.k] - self.target
        kept = capped(mol, list(range(self.k)), self.places) == self.smiles
        outer = Counter(
            min(ends)
            for bond in mol.GetBonds()
            if min(ends := (bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())) < self.k <= max(ends)
        )
        distances = [float(np.sqrt((gap[piece] ** 2).sum(1).mean())) for piece in self.pieces]
        return Checked(
            kept,
            kept and all(outer[row] == number for row, number in self.places.items()),
            kept and max(distances) <= NEAR,
            float(np.sqrt((gap**2).sum(1).mean())),
        )


def _pieces(k: int, bonds: list[tuple[int, int]]) -> list[list[int]]:
    """Atoms that hang together."""
    owner = list(range(k))
    for _ in range(k):
        for i, j in bonds:
            owner[i] = owner[j] = min(owner[i], owner[j])
    return [[i for i in range(k) if owner[i] == o] for o in sorted(set(owner))]
