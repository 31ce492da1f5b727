"""A look at a receptor's file, and at where a ligand comes to lie in it."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdMolAlign

from molflowctl.chem.identity import normalised
from molflowctl.errors import UserError
from molflowctl.io.reading import read_molecules
from molflowctl.properties.docking.engine import check_installed, dock
from molflowctl.properties.docking.ligand import ligand_of, placed
from molflowctl.properties.docking.receptor import atoms_of, read_receptor
from molflowctl.properties.registry import PropertyError

__all__ = ["checked", "rmsd"]


def rmsd(mol: Chem.Mol, reference: Chem.Mol) -> float:
    """Root mean square distance of heavy atoms where they are, the best over symmetry, angstrom.

    Raises:
        RuntimeError: they are two different molecules.
    """
    return float(rdMolAlign.CalcRMS(Chem.RemoveHs(mol), Chem.RemoveHs(reference)))


def checked(file: Path, ligand: str | None = None) -> list[str]:
    """What is to be said of a receptor's file, and of a ligand that is docked into it.

    Raises:
        UserError: for a file that cannot be used, or a ligand that cannot be docked.
    """
    receptor = read_receptor(file)
    kinds, places = atoms_of(receptor.pdbqt, str(file))
    inside = (np.abs(places - np.array(receptor.center)) < np.array(receptor.size) / 2).all(axis=1)
    x, y, z = receptor.center
    limit = receptor.max_evals
    ends = "Vina's own number of evaluations" if limit is None else f"{limit:,} evaluations each"
    lines = [
        f"{file}: {len(kinds):,} atoms, {int(inside.sum()):,} of them in the box",
        f"box: {receptor.box} around {x:g} {y:g} {z:g}",
        f"search: exhaustiveness {receptor.exhaustiveness}, {ends}, seed {receptor.seed}, "
        f"{receptor.n_poses} poses, at most {receptor.time_limit:g} s a ligand",
    ]
    if np.prod(receptor.size) > 27_000:
        lines.append(
            "a box of more than 27,000 cubic angstrom is searched badly: raise exhaustiveness"
        )
    if ligand is None:
        return lines
    check_installed()
    record = next(read_molecules(ligand))
    if record.mol is None:
        raise UserError(f"{ligand}: {record.error}.")
    began = time.monotonic()
    try:
        poses = dock(receptor, normalised(record.mol))
    except (PropertyError, TimeoutError, RuntimeError) as error:
        raise UserError(f"{ligand} cannot be docked: {error}") from None
    seconds = time.monotonic() - began
    lines.append(f"{record.title}: {len(poses)} poses in {seconds:.1f} s, maps included")
    known = record.mol.GetNumConformers() and record.mol.GetConformer().Is3D()
    docked = ligand_of(normalised(record.mol))
    for rank, pose in enumerate(poses, start=1):
        away = f", {rmsd(placed(docked, pose), record.mol):.2f} angstrom away" if known else ""
        lines.append(f"  pose {rank}: {pose[0]:.2f} kcal/mol{away}")
    return lines
