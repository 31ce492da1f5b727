"""All conformers of a molecule relaxed by MMFF94 or GFN2-xTB, with energies of one method."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rdkit import Chem

from molflowctl.chem.ensemble import force_field

__all__ = ["relax_ensemble", "xtb_energies"]


def relax_ensemble(mol: Chem.Mol, relax: str) -> tuple[Chem.Mol, np.ndarray, str, list[str]]:
    """The molecule with its conformers relaxed, energies in kcal/mol, by what, and failures.

    Arguments:
        mol: with explicit hydrogens.
        relax: "none" (energies of the force field, as they are), "mmff" or "gfn2". A conformer that
            fails, by not reaching a minimum or by becoming another molecule, has the energy NaN and
            a text that says so.
    """
    mol = Chem.Mol(mol)
    if relax != "gfn2":
        energies, name, failures = force_field(mol, "all" if relax == "mmff" else "none")
        return mol, energies, name, failures
    from molflowctl.properties.energies.xtb import relax as relax_by_xtb

    failures = [""] * mol.GetNumConformers()
    for k, conformer in enumerate(mol.GetConformers()):
        result = relax_by_xtb(Chem.Mol(mol, False, conformer.GetId()))
        failures[k] = result.failure
        if not result.failure:
            conformer.SetPositions(result.mol.GetConformer().GetPositions())
    energies, name, unknown = xtb_energies(mol, [not failure for failure in failures])
    return mol, energies, name, [a or b for a, b in zip(failures, unknown, strict=True)]


def xtb_energies(
    mol: Chem.Mol, wanted: Sequence[bool] | None = None
) -> tuple[np.ndarray, str, list[str]]:
    """GFN2-xTB energies of the conformers as they are, kcal/mol, by what, failures.

    Arguments:
        mol: with explicit hydrogens.
        wanted: of which conformers; None for all. The energy of others is NaN.
    """
    from molflowctl.chem.units import HARTREE_TO_KCAL_MOL
    from molflowctl.properties.energies.xtb import single_point

    energies = np.full(mol.GetNumConformers(), np.nan)
    failures = [""] * len(energies)
    for k, conformer in enumerate(mol.GetConformers()):
        if wanted is not None and not wanted[k]:
            continue
        point = single_point(Chem.Mol(mol, False, conformer.GetId()))
        failures[k] = point.error or ""
        energies[k] = point.energy_hartree * HARTREE_TO_KCAL_MOL
    return energies, "GFN2-xTB", failures
