"""The properties that GFN1-xTB and GFN2-xTB give, registered."""

from collections.abc import Callable
from functools import partial

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


def energy_per_atom(mol: Mol) -> float:
    return _energy(mol) / mol.GetNumAtoms()


def gap(mol: Mol, method: str = "GFN2-xTB", backend: str = "tblite") -> float:
    value = _succeeded(mol, method, backend).gap_eV
    if np.isnan(value):
        raise PropertyError("there is no occupied or no empty orbital")
    return value


def dipole(mol: Mol, method: str = "GFN2-xTB", backend: str = "tblite") -> float:
    """Norm of the dipole; of an ion, about its centre of mass."""
    return float(np.linalg.norm(_succeeded(mol, method, backend).dipole_debye))


def _minimum(mol: Mol) -> Relaxation:
    result = relax(mol)
    if result.failure:
        raise PropertyError(result.failure)
    return result


def relax_energy(mol: Mol) -> float:
    return _minimum(mol).energy_drop_kcal_mol


def relax_rmsd(mol: Mol) -> float:
    return _minimum(mol).rmsd_angstrom


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


_HERE = "GFN2-xTB, at the given geometry"
# name, unit, version, other names, what computes it, what it is
_TABLE: tuple[tuple[str, str, int, tuple[str, ...], Callable[[Mol], float], str], ...] = (
    ("xtb_energy_hartree", "hartree", 3, ("xtb_energy",), _energy, f"total energy, {_HERE}"),
    ("xtb_energy_per_atom_hartree", "hartree", 2, ("xtb_energy_per_atom",), energy_per_atom,
        "total energy, GFN2-xTB, divided by the number of atoms, hydrogens included"),
    ("homo_lumo_gap_eV", "eV", 3, ("gap", "xtb_gap", "homo_lumo_gap"), gap,
        f"orbital gap, {_HERE}"),
    ("dipole_debye", "debye", 3, ("dipole", "xtb_dipole"), dipole, f"dipole moment, {_HERE}"),
)  # fmt: skip
for name, unit, version, aliases, compute, description in _TABLE:
    register(
        name, unit=unit, version=version, engine="xtb", aliases=aliases, description=description
    )(compute)

# An engine of its own, because a time limit belongs to an engine and a relaxation takes many times
# as long as a single point.
for what, unit, compute, description in (
    ("relax_energy", "kcal/mol", relax_energy, "energy above the nearest minimum, GFN2-xTB"),
    ("relax_rmsd", "angstrom", relax_rmsd,
        "heavy-atom RMSD to the nearest minimum, GFN2-xTB, superposed"),
):  # fmt: skip
    register(
        f"{what}_{unit.replace('/', '_')}",
        unit=unit,
        version=2,
        engine="xtb-relax",
        higher_is="worse",
        aliases=(what, f"xtb_{what}"),
        description=description,
    )(compute)

# The three main ones by another method or program, with an engine of their own.
for prefix, method, backend in (
    ("gfn1", "GFN1-xTB", "tblite"),
    ("xtb_python", "GFN2-xTB", "xtb-python"),
):
    for what, unit, by, words in (
        ("energy", "hartree", _energy, "total energy"),
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
        )(partial(by, method=method, backend=backend))
