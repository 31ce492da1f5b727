"""A ligand for Vina: made from the molecular graph, written as PDBQT, and put into its pose.

The molecule is docked as it is drawn: protons are not moved. Of stereo that is left open, one
isomer is taken, always the same. Bond lengths, angles and rings are those of the conformer that it
starts from (ETKDGv3, MMFF94); rings of seven and more atoms are opened by meeko and move, as Vina
closes them again. So a score is a function of the molecule, whatever geometry a record has.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem

from molflowctl.chem.geometry import rotation, with_positions
from molflowctl.chem.open_stereo import isomers_of
from molflowctl.properties.geometries.starting import start
from molflowctl.properties.registry import PropertyError

__all__ = ["ligand_of", "pdbqt_of", "placed", "poses_in", "with_conformer"]

Array = NDArray[np.float64]

# What Vina 1.2 has parameters for in a ligand.
_KNOWN = frozenset([1, 6, 7, 8, 9, 12, 14, 15, 16, 17, 20, 25, 26, 30, 35, 53])


def ligand_of(mol: Chem.Mol) -> Chem.Mol:
    """The molecule as it is docked, hydrogens explicit, without a conformer.

    Args:
        mol: a normalised molecule, so that equal ones get their atoms in equal order.

    Raises:
        PropertyError: Vina cannot dock it.
    """
    for atom in mol.GetAtoms():
        if atom.GetAtomicNum() not in _KNOWN:
            raise PropertyError(f"Vina has no parameters for {atom.GetSymbol()}")
    if len(Chem.GetMolFrags(mol)) > 1:
        raise PropertyError("several fragments: dock the parent alone")
    if not any(atom.GetAtomicNum() > 1 for atom in mol.GetAtoms()):
        raise PropertyError("no heavy atoms")
    found = isomers_of(mol, "first")
    if not found.mols:
        raise PropertyError(found.refused)
    return Chem.AddHs(found.mols[0])


def with_conformer(ligand: Chem.Mol) -> Chem.Mol:
    """A copy with the conformer that docking starts from.

    Raises:
        PropertyError: there is none.
    """
    return start(ligand).mol


def placed(ligand: Chem.Mol, pose: Array) -> Chem.Mol:
    """The ligand in a pose, (1 + 3 atoms,): score and positions, a row of what `dock` returns."""
    return with_positions(ligand, pose[1:].reshape(-1, 3))


def pdbqt_of(ligand: Chem.Mol) -> str:
    """The ligand in PDBQT, its rotatable bonds as branches.

    Raises:
        PropertyError: meeko has no atom type for an atom of it.
    """
    from meeko import MoleculePreparation, PDBQTWriterLegacy

    (setup,) = MoleculePreparation().prepare(ligand)
    text, fine, error = PDBQTWriterLegacy.write_string(setup)
    if not fine:
        raise PropertyError(f"meeko cannot prepare it: {error.strip().partition(chr(10))[0]}")
    return text


def poses_in(models: str, ligand: Chem.Mol, written: str) -> Array:
    """Positions (poses, atoms, 3) in angstrom of all atoms of the ligand, hydrogens included.

    Vina moves the atoms that PDBQT has. Hydrogens on carbon, which it does not have, go with the
    atom that they are bound to and its neighbours.

    Args:
        models: what Vina says, a MODEL for each pose.
        ligand: with the conformer that it was written from.
        written: its PDBQT.
    """
    begun = ligand.GetConformer().GetPositions()
    lines = _places(written)
    # Both have three decimals: the nearest atom is the atom itself. Pseudo-atoms, which tie opened
    # rings, are none.
    distances = np.linalg.norm(lines[:, None] - begun[None], axis=2)
    atoms = distances.argmin(axis=1)
    real = np.array([not kind.startswith("G") for kind in _kinds(written)])
    places = []
    for model in models.split("MODEL")[1:]:
        moved = _places(model)
        pose = np.full_like(begun, np.nan)
        pose[atoms[real]] = moved[real]
        _bring_along(ligand, begun, pose)
        places.append(pose)
    return np.array(places).reshape(len(places), *begun.shape)


def _atom_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(("ATOM", "HETATM"))]


def _places(text: str) -> Array:
    return np.array([[float(li[k : k + 8]) for k in (30, 38, 46)] for li in _atom_lines(text)])


def _kinds(text: str) -> list[str]:
    return [line[77:].split()[0] for line in _atom_lines(text)]


def _bring_along(ligand: Chem.Mol, begun: Array, pose: Array) -> None:
    """Place what is NaN in `pose` as it lies in `begun` relative to the placed atoms near it."""
    there = np.isfinite(pose[:, 0]).tolist()
    for index in [k for k, placed in enumerate(there) if not placed]:
        near = {n.GetIdx() for n in ligand.GetAtomWithIdx(index).GetNeighbors()}
        for _ in range(2):  # three atoms that are not on a line hold a frame
            near |= {n.GetIdx() for k in near for n in ligand.GetAtomWithIdx(k).GetNeighbors()}
            frame = [k for k in sorted(near) if there[k]]
            if len(frame) >= 3:
                break
        old, new = begun[frame], pose[frame]
        turn = rotation(old - old.mean(axis=0), new - new.mean(axis=0))
        pose[index] = (begun[index] - old.mean(axis=0)) @ turn + new.mean(axis=0)
