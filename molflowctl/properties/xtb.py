"""Semi-empirical quantum chemistry: GFN2-xTB by tblite.

`single_point` computes energy, gradient, gap and dipole at once, so the three properties of a
molecule cost one calculation. `relax` follows the gradient to the nearest minimum.

Run many molecules through `molflowctl.parallel` (as `score` does): its workers hold OpenMP to one
thread, which is fastest at this size, and end a calculation that hangs.

References:
    Bannwarth, Ehlert, Grimme, GFN2-xTB, J. Chem. Theory Comput. 15, 1652 (2019),
    doi:10.1021/acs.jctc.8b01176; tblite, https://tblite.readthedocs.io.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem
from rdkit.Chem import Descriptors, Mol, rdMolAlign
from rdkit.Geometry import Point3D

from molflowctl.properties.registry import PropertyError, register
from molflowctl.units import (
    BOHR_TO_ANGSTROM,
    E_BOHR_TO_DEBYE,
    HARTREE_TO_EV,
    HARTREE_TO_KCAL_MOL,
)

__all__ = ["Relaxation", "SinglePoint", "relax", "single_point"]

METHODS = ("GFN2-xTB", "GFN1-xTB")
_CLASH_ANGSTROM = 0.4  # H2 has 0.74; nearer than this is a failed geometry, not a molecule
_HEAVIEST = 86  # radon, the end of the parametrisation


@dataclass(frozen=True)
class SinglePoint:
    """One calculation at fixed geometry; on failure NaN everywhere and the reason in `error`.

    Attributes:
        energy_hartree: total energy.
        gap_eV: lowest empty minus highest occupied orbital; NaN (without an error) where the
            basis has no empty orbital.
        dipole_debye: (3,) vector, about the centre of mass, which matters for ions only.
        gradient_hartree_per_bohr: (atoms, 3) nuclear gradient; the calculation has it anyway.
        error: why there is no result, or `None`.
    """

    energy_hartree: float
    gap_eV: float
    dipole_debye: NDArray[np.float64]
    gradient_hartree_per_bohr: NDArray[np.float64]
    error: str | None = None


@dataclass(frozen=True)
class Relaxation:
    """A geometry relaxed to the nearest minimum; on failure NaN and the reason in `error`.

    Attributes:
        mol: a copy with the last geometry reached.
        energy_drop_kcal_mol: energy before minus after.
        rmsd_angstrom: between heavy atoms before and after, superposed (all atoms if there are
            fewer than three heavy ones).
        evaluations: gradients computed.
        converged: the largest gradient component is below the threshold.
        error: why there is no result, or `None`.
    """

    mol: Mol
    energy_drop_kcal_mol: float
    rmsd_angstrom: float
    evaluations: int
    converged: bool
    error: str | None = None


def single_point(mol: Mol, method: str = "GFN2-xTB") -> SinglePoint:
    """Energy, gradient, gap and dipole of the molecule's first conformer.

    Charge and number of unpaired electrons are the molecule's formal charge and radical electrons.
    Hydrogens must be explicit. The result is cached by geometry and shared: do not write into it.

    Args:
        mol: coordinates in angstrom.
        method: `GFN2-xTB` or `GFN1-xTB`.

    Raises:
        ValueError: unknown method. Everything wrong with the molecule is in the result's `error`.
    """
    try:
        system = _system(mol, method)
    except PropertyError as error:
        return _failed(mol.GetNumAtoms(), str(error))
    return _cached_single_point(system, _positions(mol).tobytes())


def relax(
    mol: Mol,
    method: str = "GFN2-xTB",
    *,
    max_gradient: float = 1e-3,
    max_evaluations: int = 300,
) -> Relaxation:
    """Follow the gradient in Cartesian coordinates (L-BFGS) to the nearest minimum.

    Args:
        mol: as for `single_point`.
        max_gradient: converged when no gradient component is larger, in hartree/bohr.
        max_evaluations: gradients computed at most; then the best so far, not converged.

    Raises:
        ValueError: unknown method.
    """
    from scipy.optimize import minimize

    relaxed = Mol(mol)
    try:
        evaluate = _evaluator(_system(mol, method))
        start = _positions(mol)
        before = evaluate(start)
        result = minimize(
            lambda x: _energy_and_gradient(evaluate, x.reshape(-1, 3)),
            (start / BOHR_TO_ANGSTROM).ravel(),
            jac=True,
            method="L-BFGS-B",
            options={"gtol": max_gradient, "ftol": 0.0, "maxfun": max_evaluations, "maxcor": 20},
        )
    except PropertyError as error:
        return Relaxation(relaxed, np.nan, np.nan, 0, False, str(error))
    conformer = relaxed.GetConformer()
    for index, position in enumerate(result.x.reshape(-1, 3) * BOHR_TO_ANGSTROM):
        conformer.SetAtomPosition(index, Point3D(*position))
    return Relaxation(
        relaxed,
        (before.energy_hartree - float(result.fun)) * HARTREE_TO_KCAL_MOL,
        _rmsd(mol, relaxed),
        int(result.nfev) + 1,
        bool(np.abs(result.jac).max() <= max_gradient),
    )


@dataclass(frozen=True)
class _System:
    """All that a calculation needs besides the positions."""

    method: str
    numbers: tuple[int, ...]
    charge: int
    unpaired: int


def _positions(mol: Mol) -> NDArray[np.float64]:
    return np.ascontiguousarray(mol.GetConformer().GetPositions(), dtype=np.float64)


def _system(mol: Mol, method: str) -> _System:
    """Check the molecule; raise `PropertyError` with the reason if it cannot be computed."""
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}: there are {', '.join(METHODS)}")
    if mol.GetNumAtoms() == 0:
        raise PropertyError("no atoms")
    if mol.GetNumConformers() == 0:
        raise PropertyError("no coordinates")
    if not mol.GetConformer().Is3D():
        raise PropertyError("the coordinates are two-dimensional")
    if not np.isfinite(_positions(mol)).all():
        raise PropertyError("a coordinate is not a number")
    if any(atom.GetTotalNumHs() for atom in mol.GetAtoms()):
        raise PropertyError("hydrogens are missing from the geometry")
    numbers = tuple(atom.GetAtomicNum() for atom in mol.GetAtoms())
    for number in numbers:
        if not 1 <= number <= _HEAVIEST:
            symbol = Chem.GetPeriodicTable().GetElementSymbol(number)
            raise PropertyError(f"{method} has no parameters for the element {symbol}")
    charge = Chem.GetFormalCharge(mol)
    unpaired = Descriptors.NumRadicalElectrons(mol)
    electrons = sum(numbers) - charge
    if electrons < unpaired or (electrons - unpaired) % 2:
        raise PropertyError(
            f"{unpaired} unpaired electrons do not go with {electrons} electrons: "
            "a charge or radical is missing"
        )
    return _System(method, numbers, charge, unpaired)


def _evaluator(system: _System) -> Callable[[NDArray[np.float64]], SinglePoint]:
    """A function from positions (atoms, 3) in angstrom to results, or `PropertyError`.

    It starts each calculation from the last one's density.
    """
    # Its import costs 0.1 s and a compiled library, which descriptors do not need.
    from tblite.exceptions import TBLiteRuntimeError
    from tblite.interface import Calculator

    numbers = np.array(system.numbers)
    table = Chem.GetPeriodicTable()
    masses = np.array([table.GetAtomicWeight(int(number)) for number in numbers])
    calculator: Any = None
    density: Any = None

    def evaluate(positions: NDArray[np.float64]) -> SinglePoint:
        nonlocal calculator, density
        _check_distances(positions)
        bohr = positions / BOHR_TO_ANGSTROM
        try:
            if calculator is None:
                calculator = Calculator(
                    system.method, numbers, bohr, float(system.charge), system.unpaired
                )
                calculator.set("verbosity", 0)
            else:
                calculator.update(positions=bohr)
            density = calculator.singlepoint(density)
        except TBLiteRuntimeError as error:
            raise PropertyError(_reason(system.method, str(error))) from error
        energy = float(density.get("energy"))
        gradient = np.array(density.get("gradient"))
        dipole = np.array(density.get("dipole")) - system.charge * (masses @ bohr) / masses.sum()
        if not (np.isfinite(energy) and np.isfinite(gradient).all() and np.isfinite(dipole).all()):
            raise PropertyError(f"{system.method} gave a result that is not a number")
        return SinglePoint(
            energy, _gap_eV(density, system.unpaired), dipole * E_BOHR_TO_DEBYE, gradient
        )

    return evaluate


def _check_distances(positions: NDArray[np.float64]) -> None:
    from scipy.spatial.distance import pdist

    if len(positions) > 1 and pdist(positions).min() < _CLASH_ANGSTROM:
        raise PropertyError(f"two atoms are closer than {_CLASH_ANGSTROM} angstrom")


def _reason(method: str, message: str) -> str:
    if "SCF not converged" in message:
        return f"the {method} density did not converge"
    return f"{method} failed: {' '.join(message.split())}"


def _gap_eV(result: Any, unpaired: int) -> float:
    """From the number of electrons: occupations are smeared at the electronic temperature."""
    orbitals = np.sort(result.get("orbital-energies"))
    electrons = round(float(result.get("orbital-occupations").sum()))
    occupied = (electrons + unpaired) // 2
    if not 0 < occupied < len(orbitals):
        return float("nan")
    return float(orbitals[occupied] - orbitals[occupied - 1]) * HARTREE_TO_EV


def _energy_and_gradient(
    evaluate: Callable[[NDArray[np.float64]], SinglePoint], bohr: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64]]:
    point = evaluate(bohr * BOHR_TO_ANGSTROM)
    return point.energy_hartree, point.gradient_hartree_per_bohr.ravel()


def _failed(atoms: int, error: str) -> SinglePoint:
    return SinglePoint(np.nan, np.nan, np.full(3, np.nan), np.full((atoms, 3), np.nan), error)


@lru_cache(maxsize=16)
def _cached_single_point(system: _System, positions: bytes) -> SinglePoint:
    try:
        return _evaluator(system)(np.frombuffer(positions).reshape(-1, 3))
    except PropertyError as error:
        return _failed(len(system.numbers), str(error))


def _rmsd(mol: Mol, other: Mol) -> float:
    atoms = [atom.GetIdx() for atom in mol.GetAtoms() if atom.GetAtomicNum() > 1]
    if len(atoms) < 3:
        atoms = list(range(mol.GetNumAtoms()))
    return float(rdMolAlign.GetAlignmentTransform(other, mol, atomMap=[(i, i) for i in atoms])[0])


def _succeeded(mol: Mol) -> SinglePoint:
    point = single_point(mol)
    if point.error is not None:
        raise PropertyError(point.error)
    return point


@register(
    "xtb_energy_hartree",
    unit="hartree",
    version=1,
    engine="xtb",
    description="total energy, GFN2-xTB, at the given geometry",
)
def xtb_energy_hartree(mol: Mol) -> float:
    return _succeeded(mol).energy_hartree


@register(
    "homo_lumo_gap_eV",
    unit="eV",
    version=1,
    engine="xtb",
    description="orbital gap, GFN2-xTB, at the given geometry",
)
def homo_lumo_gap_eV(mol: Mol) -> float:
    gap = _succeeded(mol).gap_eV
    if np.isnan(gap):
        raise PropertyError("there is no occupied or no empty orbital")
    return gap


@register(
    "dipole_debye",
    unit="debye",
    version=1,
    engine="xtb",
    description="dipole moment, GFN2-xTB, at the given geometry",
)
def dipole_debye(mol: Mol) -> float:
    """Norm of the dipole; of an ion, about its centre of mass."""
    return float(np.linalg.norm(_succeeded(mol).dipole_debye))
