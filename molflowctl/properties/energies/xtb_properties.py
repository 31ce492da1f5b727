"""The properties that GFN1-xTB and GFN2-xTB give, registered."""

import numpy as np
from rdkit.Chem import Mol

from molflowctl.chem.spin import SpinError, multiplicity
from molflowctl.properties.energies.xtb import (
    Relaxation,
    SinglePoint,
    cached_calculation,
    relax,
    single_point,
    system_of,
)
from molflowctl.properties.registry import PropertyError, register

__all__ = []


def _succeeded(mol: Mol, method: str = "GFN2-xTB", backend: str = "tblite") -> SinglePoint:
    point = single_point(mol, method, backend)
    if point.error is not None:
        raise PropertyError(point.error)
    return point


def _energy(mol: Mol, method: str = "GFN2-xTB", backend: str = "tblite") -> float:
    system, positions = system_of(mol, method, backend)
    found = cached_calculation(system, backend, positions.tobytes())
    if isinstance(found, str):
        raise PropertyError(found)
    return found.energy


def _gap(point: SinglePoint) -> float:
    if np.isnan(point.gap_eV):
        raise PropertyError("there is no occupied or no empty orbital")
    return point.gap_eV


@register(
    "xtb_energy_hartree",
    unit="hartree",
    version=3,
    engine="xtb",
    aliases=("xtb_energy",),
    description="total energy, GFN2-xTB, at the given geometry",
)
def xtb_energy_hartree(mol: Mol) -> float:
    return _energy(mol)


@register(
    "xtb_energy_per_atom_hartree",
    unit="hartree",
    version=2,
    engine="xtb",
    aliases=("xtb_energy_per_atom",),
    description="total energy, GFN2-xTB, divided by the number of atoms, hydrogens included",
)
def xtb_energy_per_atom_hartree(mol: Mol) -> float:
    return _energy(mol) / mol.GetNumAtoms()


@register(
    "homo_lumo_gap_eV",
    unit="eV",
    version=3,
    engine="xtb",
    aliases=("gap", "xtb_gap", "homo_lumo_gap"),
    description="orbital gap, GFN2-xTB, at the given geometry",
)
def homo_lumo_gap_eV(mol: Mol) -> float:
    return _gap(_succeeded(mol))


@register(
    "dipole_debye",
    unit="debye",
    version=3,
    engine="xtb",
    aliases=("dipole", "xtb_dipole"),
    description="dipole moment, GFN2-xTB, at the given geometry",
)
def dipole_debye(mol: Mol) -> float:
    """Norm of the dipole; of an ion, about its centre of mass."""
    return float(np.linalg.norm(_succeeded(mol).dipole_debye))


@register(
    "multiplicity",
    unit="",
    version=1,
    description="spin that xTB takes: 1 or 2 by the number of electrons, unless the record says it",
)
def spin_multiplicity(mol: Mol) -> float:
    """`2 S + 1`, see `molflowctl.chem.spin`."""
    try:
        return multiplicity(mol)
    except SpinError as error:
        raise PropertyError(str(error)) from error


def _minimum(mol: Mol) -> Relaxation:
    result = relax(mol)
    if result.failure:
        raise PropertyError(result.failure)
    return result


# An engine of its own, because a time limit belongs to an engine and a relaxation takes many times
# as long as a single point.
@register(
    "relax_energy_kcal_mol",
    unit="kcal/mol",
    version=2,
    engine="xtb-relax",
    higher_is="worse",
    aliases=("relax_energy", "xtb_relax_energy"),
    description="energy above the nearest minimum, GFN2-xTB",
)
def relax_energy_kcal_mol(mol: Mol) -> float:
    return _minimum(mol).energy_drop_kcal_mol


@register(
    "relax_rmsd_angstrom",
    unit="angstrom",
    version=2,
    engine="xtb-relax",
    higher_is="worse",
    aliases=("relax_rmsd", "xtb_relax_rmsd"),
    description="heavy-atom RMSD to the nearest minimum, GFN2-xTB, superposed",
)
def relax_rmsd_angstrom(mol: Mol) -> float:
    return _minimum(mol).rmsd_angstrom


def _register_variant(prefix: str, method: str, backend: str) -> None:
    """The three main properties by another method or program, with an engine of their own."""

    def energy(mol: Mol) -> float:
        return _energy(mol, method, backend)

    def gap(mol: Mol) -> float:
        return _gap(_succeeded(mol, method, backend))

    def dipole(mol: Mol) -> float:
        return float(np.linalg.norm(_succeeded(mol, method, backend).dipole_debye))

    for what, unit, compute, words in (
        ("energy", "hartree", energy, "total energy"),
        ("gap", "eV", gap, "orbital gap"),
        ("dipole", "debye", dipole, "dipole moment"),
    ):
        register(
            f"{prefix}_{what}_{unit}",
            unit=unit,
            version=2,
            engine=f"xtb-{prefix}",
            aliases=(f"{prefix}_{what}",),
            description=f"{words}, {method} by {backend}, at the given geometry",
        )(compute)


_register_variant("gfn1", "GFN1-xTB", "tblite")
_register_variant("xtb_python", "GFN2-xTB", "xtb-python")
