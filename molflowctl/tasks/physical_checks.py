"""How physical one molecule's geometry is: PoseBusters' checks and relaxations.

Each function takes one molecule and is meant for `WorkerPool.map` with a time limit: PoseBusters'
energy check embeds 50 conformers, which takes from a tenth of a second to minutes.

References:
    Buttenschoen, Morris, Deane, PoseBusters, Chem. Sci. 15, 3130 (2024), doi:10.1039/D3SC04185A.
    Halgren, Merck molecular force field, J. Comput. Chem. 17, 490 (1996).
"""

from __future__ import annotations

import logging
import math
from functools import lru_cache
from typing import Literal, NamedTuple

from rdkit import Chem, rdBase
from rdkit.Chem import rdForceFieldHelpers, rdMolAlign

__all__ = ["RelaxationChange", "gfn2_change", "mmff_change", "posebusters_checks"]

CheckSet = Literal["graph and geometry", "energy"]
_MMFF_STEPS = 2000
_MMFF_ROUNDS = 5


class RelaxationChange(NamedTuple):
    """What the way to the nearest minimum changes; NaN if it was not reached.

    drop: energy before minus after, kcal/mol. rmsd: of the heavy atoms, superposed, angstrom.
    """

    drop: float
    rmsd: float


FAILED = RelaxationChange(math.nan, math.nan)


def posebusters_checks(mol: Chem.Mol, checks: CheckSet) -> dict[str, bool | None]:
    """PoseBusters' configuration "mol": each check by its name, None where it gives no answer.

    checks: "energy" is the internal energy alone (the UFF energy against the mean of 50 relaxed
        conformers), "graph and geometry" are all the others.
    """
    with rdBase.BlockLogs():
        table = _busters(checks).bust([mol])
    return {
        name: bool(value) if present else None
        for name, value, present in zip(
            table.columns, table.iloc[0], table.notna().iloc[0], strict=True
        )
    }


@lru_cache
def _busters(checks: CheckSet):
    from posebusters import PoseBusters

    logging.getLogger("posebusters").setLevel(logging.ERROR)  # its None already tells
    config = PoseBusters("mol").config
    # The file lists the energy check twice, of which one feeds no column; and it would take all
    # cores.
    chosen = [m for m in config["modules"] if m.get("chosen_binary_test_output")]
    energy = [m for m in chosen if m["function"] == "energy_ratio"]
    for module in energy:
        module["parameters"]["num_threads"] = 1
    others = [m for m in chosen if m not in energy]
    return PoseBusters({**config, "modules": energy if checks == "energy" else others})


def mmff_change(mol: Chem.Mol) -> RelaxationChange:
    """Relaxation of every atom in MMFF94; NaN also where it lacks parameters."""
    relaxed = Chem.Mol(mol)
    properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(relaxed)
    if properties is None:
        return FAILED
    field = rdForceFieldHelpers.MMFFGetMoleculeForceField(relaxed, properties)
    field.Initialize()
    before = field.CalcEnergy()
    try:
        rounds = (field.Minimize(maxIts=_MMFF_STEPS) for _ in range(_MMFF_ROUNDS))
        if not any(more == 0 for more in rounds):
            return FAILED
    except RuntimeError:  # the line search gives up on a singular geometry
        return FAILED
    return RelaxationChange(before - field.CalcEnergy(), _heavy_rmsd(mol, relaxed))


def gfn2_change(mol: Chem.Mol) -> RelaxationChange:
    """Relaxation of every atom in GFN2-xTB."""
    from molflowctl.properties.xtb import relax

    result = relax(mol)
    if result.error is not None or not result.converged:
        return FAILED
    return RelaxationChange(result.energy_drop_kcal_mol, result.rmsd_angstrom)


def _heavy_rmsd(mol: Chem.Mol, other: Chem.Mol) -> float:
    heavy = [(a.GetIdx(), a.GetIdx()) for a in mol.GetAtoms() if a.GetAtomicNum() > 1]
    return float(rdMolAlign.GetAlignmentTransform(other, mol, atomMap=heavy)[0])
