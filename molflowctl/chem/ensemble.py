"""The conformers of one molecule: made by distance geometry, relaxed, pruned, weighed.

Everything here takes an RDKit molecule with explicit hydrogens whose conformers are the ensemble.

References:
    Wang, Witek, Landrum, Riniker, J. Chem. Inf. Model. 60, 2044 (2020) (ETKDGv3).
    Halgren, J. Comput. Chem. 17, 490 (1996) (MMFF94); Rappe et al., J. Am. Chem. Soc. 114, 10024
        (1992) (UFF, where MMFF94 has no parameters).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import (
    rdDistGeom,
    rdForceFieldHelpers,
)

from molflowctl.chem.relaxation import minimise, what_became
from molflowctl.chem.symmetry import Symmetry
from molflowctl.chem.units import GAS_CONSTANT_KCAL_MOL_K

__all__ = [
    "boltzmann_weights",
    "embed",
    "force_field",
    "keep_conformers",
    "prune",
    "rmsd_matrix",
    "symmetric_rmsd",
]

_STEPS = 2000


def embed(mol: Chem.Mol, n: int, seed: int, tries: int = 0) -> int:
    """Replace the conformers by up to `n` of ETKDGv3; how many there are.

    Arguments:
        mol: with explicit hydrogens; changed in place.
        tries: at one conformer; 0 for RDKit's own, ten for each atom, which for a strained cage
            means seconds before it fails.
    """
    settings = rdDistGeom.ETKDGv3()
    settings.maxIterations = tries
    # Its conformers take multiples of the seed: with 0 all would be one and the same.
    settings.randomSeed = 1 + seed % (2**31 - 2)
    with rdBase.BlockLogs():
        rdDistGeom.EmbedMultipleConfs(mol, n, settings)
        if mol.GetNumConformers() == 0:  # crowded rings start better from random coordinates
            settings.useRandomCoords = True
            rdDistGeom.EmbedMultipleConfs(mol, n, settings)
    return mol.GetNumConformers()


def force_field(
    mol: Chem.Mol,
    relax: Literal["none", "hydrogens", "all"] = "all",
    *,
    held: Sequence[Sequence[int]] | None = None,
) -> tuple[np.ndarray, str, list[str]]:
    """Energies in kcal/mol, `(K,)`, after relaxing the conformers in place; the field; failures.

    Arguments:
        held: of each conformer the atoms that stay where they are; None for none.

    Of several fragments, the terms between them count. (UFF has no charges: ions attract each other
    in MMFF94 alone.)

    The field is "MMFF94", "UFF" where that has no parameters, or "" and NaN where neither has. A
    relaxation that does not converge, or makes another molecule of a conformer, leaves its energy
    NaN and says so: failures are `K` texts, empty for what is well.
    """
    energies = np.full(mol.GetNumConformers(), np.nan)
    failures = [""] * len(energies)
    with rdBase.BlockLogs():
        parameters = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol)
        if parameters is None and not rdForceFieldHelpers.UFFHasAllMoleculeParams(mol):
            return energies, "", failures
        for k, conformer in enumerate(mol.GetConformers()):
            number = conformer.GetId()
            field = (
                rdForceFieldHelpers.UFFGetMoleculeForceField(
                    mol, confId=number, ignoreInterfragInteractions=False
                )
                if parameters is None
                else rdForceFieldHelpers.MMFFGetMoleculeForceField(
                    mol, parameters, confId=number, ignoreInterfragInteractions=False
                )
            )
            field.Initialize()
            if relax == "hydrogens":
                for atom in mol.GetAtoms():
                    if atom.GetAtomicNum() > 1:
                        field.AddFixedPoint(atom.GetIdx())
            for atom in held[k] if held is not None else ():
                field.AddFixedPoint(atom)
            if relax != "none":
                failures[k] = minimise(field, _STEPS)
            if relax == "all" and not failures[k]:
                failures[k] = what_became(mol, number)
            if not failures[k]:
                energies[k] = field.CalcEnergy()
    return energies, "UFF" if parameters is None else "MMFF94", failures


def symmetric_rmsd(mol: Chem.Mol, number: int, other: Chem.Mol, reference: int) -> float:
    """RMSD in angstrom of superposed conformers, the least over the graph's symmetries.

    Arguments:
        mol, other: the same molecule with the atoms that count.

    Raises:
        ValueError: they are not the same molecule, or too symmetric to say in time.
    """
    x, y = (m.GetConformer(k).GetPositions() for m, k in ((mol, number), (other, reference)))
    return Symmetry(mol, other).rmsd(x, y)


def rmsd_matrix(mol: Chem.Mol, other: Chem.Mol) -> np.ndarray:
    """Heavy-atom `symmetric_rmsd` in angstrom of every conformer to each of `other`, (K, L)."""
    first, second = Chem.RemoveAllHs(mol), Chem.RemoveAllHs(other)
    symmetry = Symmetry(first, second)
    x, y = ([c.GetPositions() for c in m.GetConformers()] for m in (first, second))
    return np.array([[symmetry.rmsd(one, another) for another in y] for one in x])


def prune(
    mol: Chem.Mol,
    energies: Sequence[float] | np.ndarray,
    rmsd: float,
    window: float,
    *,
    in_place: bool = False,
) -> list[int]:
    """Places of the conformers to keep, by rising energy.

    Going up from the lowest, one is kept if it is within `window` kcal/mol of it and its heavy-atom
    `symmetric_rmsd` to all that are kept is at least `rmsd` angstrom. NaN energies are dropped.

    Arguments:
        in_place: conformers are compared where they stand, not superposed.
    """
    values = np.asarray(energies, dtype=float)
    places = [int(k) for k in np.argsort(values, kind="stable") if np.isfinite(values[k])]
    places = [k for k in places if values[k] <= values[places[0]] + window]
    if rmsd <= 0:
        return places
    heavy = Chem.RemoveAllHs(mol)
    symmetry = Symmetry(heavy)
    x = [conformer.GetPositions() for conformer in heavy.GetConformers()]
    kept: list[int] = []
    within = symmetry.within_in_place if in_place else symmetry.within
    for k in places:
        if not any(within(x[k], x[j], rmsd) for j in kept):
            kept.append(k)
    return kept


def keep_conformers(mol: Chem.Mol, places: Sequence[int]) -> Chem.Mol:
    """A copy with the conformers at these places, in their order, numbered from 0."""
    found = list(mol.GetConformers())
    kept = Chem.Mol(mol)
    kept.RemoveAllConformers()
    for place in places:
        kept.AddConformer(Chem.Conformer(found[place]), assignId=True)
    return kept


def boltzmann_weights(energies: Sequence[float] | np.ndarray, temperature: float) -> np.ndarray:
    """`exp(-E/RT) / Z` for energies in kcal/mol at a temperature in kelvin, `(K,)`."""
    values = np.asarray(energies, dtype=float)
    factors = np.exp(-(values - values.min()) / (GAS_CONSTANT_KCAL_MOL_K * temperature))
    return factors / factors.sum()
