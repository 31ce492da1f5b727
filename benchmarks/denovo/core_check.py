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


def capped(
    mol: Chem.Mol, atoms: list[int], places: list[int], empty: frozenset[int], kekulised: bool
) -> str:
    """Isomeric SMILES of atoms of a molecule, a dummy for each bond of them to other atoms.

    Where an atom has fewer such bonds than it has places, dummies stand for hydrogens: of a place
    that was left empty. Empty if these atoms alone are no molecule.

    Arguments:
        mol: sanitised, of heavy atoms, with a conformer.
        places: how many bonds to the rest each of them may have.
        empty: those of them, counted from 0, with fewer, which have no stereo for that.
        kekulised: cut bonds have the orders that RDKit gives to an aromatic ring; else an aromatic
            bond is cut as a single one.
    """
    full = Chem.AddHs(mol, addCoords=True)
    if kekulised:
        Chem.Kekulize(full, clearAromaticFlags=True)
    x, cut = full.GetConformer().GetPositions(), Chem.RWMol()
    conformer, new = [], {}
    inside = set(atoms)

    def add(number: int, charge: int, position: np.ndarray, aromatic: bool = False) -> int:
        atom = Chem.Atom(number)
        atom.SetFormalCharge(charge)
        atom.SetIsAromatic(aromatic)
        atom.SetNoImplicit(True)
        conformer.append(position)
        return int(cut.AddAtom(atom))

    for i in atoms:
        atom = full.GetAtomWithIdx(i)
        new[i] = add(atom.GetAtomicNum(), atom.GetFormalCharge(), x[i], atom.GetIsAromatic())
    for i, most in zip(atoms, places, strict=True):
        atom = full.GetAtomWithIdx(i)
        outer = [n.GetIdx() for n in atom.GetNeighbors() if n.GetIdx() not in inside]
        outer.sort(key=lambda n: full.GetAtomWithIdx(n).GetAtomicNum() == 1)
        heavy = sum(full.GetAtomWithIdx(n).GetAtomicNum() > 1 for n in outer)
        for rank, n in enumerate(outer):
            cap = add(0 if rank < max(heavy, most) else 1, 0, x[n])
            order = full.GetBondBetweenAtoms(i, n).GetBondType()
            aromatic = order == Chem.BondType.AROMATIC
            cut.AddBond(new[i], cap, Chem.BondType.SINGLE if aromatic else order)
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
        if Chem.SanitizeMol(whole, catchErrors=True):
            return ""
        Chem.AssignStereochemistryFrom3D(whole)
        for row in empty:
            whole.GetAtomWithIdx(row).SetChiralTag(Chem.ChiralType.CHI_UNSPECIFIED)
        Chem.AssignStereochemistry(whole, cleanIt=True, force=True)
        return Chem.MolToSmiles(Chem.RemoveAllHs(whole))


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
        self.drug, self.kept, self.k = drug, kept, len(kept)
        self.places = [
            sum(n.GetIdx() not in kept for n in drug.GetAtomWithIdx(atom).GetNeighbors())
            for atom in kept
        ]
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
        mol = Chem.RemoveAllHs(Chem.MolFromMolBlock(block, removeHs=False))
        gap = mol.GetConformer().GetPositions()[: self.k] - self.target
        outer = Counter(
            min(ends)
            for bond in mol.GetBonds()
            if min(ends := (bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())) < self.k <= max(ends)
        )
        empty = frozenset(row for row, most in enumerate(self.places) if outer[row] < most)
        wanted = capped(self.drug, self.kept, self.places, empty, False)
        first = list(range(self.k))
        kept = wanted in {capped(mol, first, self.places, empty, way) for way in (False, True)}
        distances = [float(np.sqrt((gap[piece] ** 2).sum(1).mean())) for piece in self.pieces]
        return Checked(
            kept,
            kept and not empty,
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
