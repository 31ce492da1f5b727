"""How physical one molecule's geometry is: PoseBusters' checks and relaxations.

Each function takes one molecule and is meant for `WorkerPool.map` with a time limit: PoseBusters'
energy check embeds 50 conformers, which takes from a tenth of a second to minutes.

References:
    Halgren, Merck molecular force field, J. Comput. Chem. 17, 490 (1996).
"""

from __future__ import annotations

import math
from typing import NamedTuple

from rdkit import Chem
from rdkit.Chem import rdForceFieldHelpers, rdMolAlign

from molflowctl.chem.relaxation import changed, minimise
from molflowctl.properties.validity import CheckSet, posebusters_checks

__all__ = ["CheckSet", "RelaxationChange", "gfn2_change", "mmff_change", "posebusters_checks"]


class RelaxationChange(NamedTuple):
    """What the way to the nearest minimum changes; NaN if it was not
    reached, or is one of another molecule.

    drop: energy before minus after, kcal/mol. rmsd: of the heavy atoms, superposed, angstrom.
    """

    drop: float
    rmsd: float


FAILED = RelaxationChange(math.nan, math.nan)


def mmff_change(mol: Chem.Mol) -> RelaxationChange:
    """Relaxation of every atom in MMFF94; NaN also where it lacks parameters."""
    relaxed = Chem.Mol(mol)
    properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(relaxed)
    if properties is None:
        return FAILED
    field = rdForceFieldHelpers.MMFFGetMoleculeForceField(
        relaxed, properties, ignoreInterfragInteractions=False
    )
    field.Initialize()
    before = field.CalcEnergy()
    if minimise(field) or changed(mol, relaxed):
        return FAILED
    return RelaxationChange(before - field.CalcEnergy(), _heavy_rmsd(mol, relaxed))


def gfn2_change(mol: Chem.Mol) -> RelaxationChange:
    """Relaxation of every atom in GFN2-xTB."""
    from molflowctl.properties.energies.xtb import relax

    result = relax(mol)
    if result.failure:
        return FAILED
    return RelaxationChange(result.energy_drop_kcal_mol, result.rmsd_angstrom)


def _heavy_rmsd(mol: Chem.Mol, other: Chem.Mol) -> float:
    heavy = [(a.GetIdx(), a.GetIdx()) for a in mol.GetAtoms() if a.GetAtomicNum() > 1]
    return float(rdMolAlign.GetAlignmentTransform(other, mol, atomMap=heavy)[0])
