"""Semi-empirical quantum chemistry: GFN2-xTB or GFN1-xTB, by tblite or xtb-python.

`single_point` computes energy, gradient, gap, dipole and partial charges at once, so the properties
of a molecule cost one calculation. `relax` follows the gradient to the nearest minimum.

Run many molecules through `molflowctl.compute.parallel` (as `score` does): its workers hold OpenMP
to one thread, which is fastest at this size, and end a calculation that hangs.

The properties without a prefix are GFN2-xTB by tblite; `gfn1_...` are GFN1-xTB by tblite and
`xtb_python_...` GFN2-xTB by xtb-python. References are in `xtb_backends`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem
from rdkit.Chem import Mol, rdMolAlign
from rdkit.Geometry import Point3D

from molflowctl.chem.relaxation import changed
from molflowctl.chem.spin import SpinError, multiplicity
from molflowctl.chem.units import (
    BOHR_TO_ANGSTROM,
    E_BOHR_TO_DEBYE,
    HARTREE_TO_EV,
    HARTREE_TO_KCAL_MOL,
)
from molflowctl.properties.energies.geometry import check_distances, checked_positions
from molflowctl.properties.energies.xtb_backends import BACKENDS, METHODS, Electronic, System
from molflowctl.properties.registry import PropertyError

__all__ = [
    "MAX_ATOMS",
    "Relaxation",
    "SinglePoint",
    "cached_calculation",
    "relax",
    "single_point",
    "system_of",
]

# tblite: 2,000 atoms are 5,000 orbitals, matrices of 200 MB and many minutes. xtb-python keeps
# atoms-squared arrays on the stack, and overflows the usual 8 MB from 430 atoms on.
MAX_ATOMS = {"tblite": 2000, "xtb-python": 300}
_HEAVIEST = 86  # radon, the end of the parametrisation
_STARTS = 3  # of a search for a minimum
_BEYOND = "a charge of {:+d} is beyond the valence electrons or orbitals of {}"
_NOT_A_NUMBER = "{} gave a result that is not a number"


@dataclass(frozen=True)
class SinglePoint:
    """One calculation at fixed geometry; on failure NaN everywhere and the reason in `error`.

    Attributes:
        energy_hartree: total energy.
        gap_eV: lowest empty minus highest occupied orbital; NaN (without an error) where the
            basis has no empty orbital.
        dipole_debye: (3,) vector, about the centre of mass, which matters for ions only.
        gradient_hartree_per_bohr: (atoms, 3) nuclear gradient; the calculation has it anyway.
        charges_e: (atoms,) partial charges, Mulliken (GFN2-xTB) or CM5 (GFN1-xTB).
        error: why there is no result, or `None`.
    """

    energy_hartree: float
    gap_eV: float
    dipole_debye: NDArray[np.float64]
    gradient_hartree_per_bohr: NDArray[np.float64]
    charges_e: NDArray[np.float64]
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
        error: why there is no result, or `None`. A geometry that became another molecule is none.
    """

    mol: Mol
    energy_drop_kcal_mol: float
    rmsd_angstrom: float
    evaluations: int
    converged: bool
    error: str | None = None

    @property
    def failure(self) -> str:
        """Why this is no minimum of the molecule; empty if it is one."""
        return self.error or ("" if self.converged else "the relaxation did not reach a minimum")


def single_point(mol: Mol, method: str = "GFN2-xTB", backend: str = "tblite") -> SinglePoint:
    """Energy, gradient, gap, dipole and partial charges of the molecule's first conformer.

    The charge is the molecule's formal charge, the spin that of `molflowctl.chem.spin`.
    Hydrogens must be explicit. The result is cached by geometry and shared: do not write into it.

    Args:
        mol: coordinates in angstrom.
        method: `GFN2-xTB` or `GFN1-xTB`.
        backend: the program, `tblite` or `xtb-python`.

    Raises:
        ValueError: unknown method or backend. Everything wrong with the molecule is in the
            result's `error`.
        UserError: the backend is not installed.
    """
    _check_names(method, backend)
    try:
        system, positions = system_of(mol, method, backend)
    except PropertyError as error:
        return _failed(mol.GetNumAtoms(), str(error))
    return _cached_single_point(system, backend, positions.tobytes())


def relax(
    mol: Mol,
    method: str = "GFN2-xTB",
    backend: str = "tblite",
    *,
    max_gradient: float = 1e-3,
    max_evaluations: int = 600,
) -> Relaxation:
    """Follow the gradient in Cartesian coordinates (L-BFGS) to the nearest minimum.

    A minimum whose bonds or stereo are not the molecule's own is a failure, with both SMILES.

    Args:
        mol: as for `single_point`.
        method, backend: as for `single_point`.
        max_gradient: converged when no gradient component is larger, in hartree/bohr.
        max_evaluations: gradients computed at most; then the best so far, not converged.

    Raises:
        ValueError: unknown method or backend.
        UserError: the backend is not installed.
    """
    _check_names(method, backend)
    relaxed = Mol(mol)
    try:
        system, start = system_of(mol, method, backend)
        path = _cached_descent(system, backend, start.tobytes(), max_gradient, max_evaluations)
    except PropertyError as error:
        return Relaxation(relaxed, np.nan, np.nan, 0, False, str(error))
    conformer = relaxed.GetConformer()
    for index, position in enumerate(path.positions):
        conformer.SetAtomPosition(index, Point3D(*position))
    if became := changed(mol, relaxed):
        return Relaxation(relaxed, np.nan, np.nan, path.evaluations, path.converged, became)
    return Relaxation(
        relaxed,
        path.drop_hartree * HARTREE_TO_KCAL_MOL,
        _rmsd(mol, relaxed),
        path.evaluations,
        path.converged,
    )


def _check_names(method: str, backend: str) -> None:
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}: there are {', '.join(METHODS)}")
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}: there are {', '.join(BACKENDS)}")


def system_of(mol: Mol, method: str, backend: str) -> tuple[System, NDArray[np.float64]]:
    """Check the molecule; raise `PropertyError` with the reason if it cannot be computed."""
    positions = checked_positions(mol)
    if len(positions) > MAX_ATOMS[backend]:
        raise PropertyError(f"more than {MAX_ATOMS[backend]:,} atoms are too many for {backend}")
    if mol.NeedsUpdatePropertyCache():  # not sanitised: RDKit has not counted hydrogens yet
        mol = Mol(mol)
        mol.UpdatePropertyCache(strict=False)
    # Once and by number: `GetAtoms` makes new objects each time, and takes three times as long.
    atoms = [mol.GetAtomWithIdx(index) for index in range(mol.GetNumAtoms())]
    if any(atom.GetTotalNumHs() for atom in atoms):
        raise PropertyError("hydrogens are missing from the geometry")
    numbers = tuple(atom.GetAtomicNum() for atom in atoms)
    for number in numbers:
        if not 1 <= number <= _HEAVIEST:
            symbol = Chem.GetPeriodicTable().GetElementSymbol(number)
            raise PropertyError(f"{method} has no parameters for the element {symbol}")
    charge = Chem.GetFormalCharge(mol)
    outer = [int(Chem.GetPeriodicTable().GetNOuterElecs(number)) for number in numbers]
    room = sum(map(_room, numbers, outer))
    if not -room <= charge <= sum(outer):  # tblite writes beyond its orbitals there, and may crash
        raise PropertyError(_BEYOND.format(charge, method))
    try:
        unpaired = multiplicity(mol) - 1
    except SpinError as error:
        raise PropertyError(str(error)) from error
    return System(method, numbers, charge, unpaired), positions


def _evaluator(system: System, backend: str) -> Callable[[NDArray[np.float64]], Electronic]:
    """A function from positions (atoms, 3) in angstrom to results, or `PropertyError`.

    It starts each calculation from the last one's density.
    """
    compute = BACKENDS[backend](system)
    checked = False

    def evaluate(positions: NDArray[np.float64]) -> Electronic:
        nonlocal checked
        check_distances(positions)
        found = compute(positions / BOHR_TO_ANGSTROM)
        if not math.isfinite(found.energy):
            raise PropertyError(_NOT_A_NUMBER.format(system.method))
        if not checked:  # it depends on the system alone
            _check_charge(system, float(found.density().charges.sum()))
            checked = True
        return found

    return evaluate


def _check_charge(system: System, found: float) -> None:
    """Without electrons enough the programs compute another ion and do not say so."""
    if abs(found - system.charge) > 0.5:
        raise PropertyError(_BEYOND.format(system.charge, system.method))


def _room(number: int, outer: int) -> int:
    """Electrons that an atom takes up: to 2 for hydrogen, to an octet, of d elements to 18."""
    return 1 if number == 1 else (8 if outer <= 8 else 18) - outer


def _check_finite(system: System, results: NDArray[np.float64]) -> None:
    if not np.isfinite(results).all():
        raise PropertyError(_NOT_A_NUMBER.format(system.method))


def _gap_eV(orbitals: NDArray[np.float64], electrons: int, unpaired: int) -> float:
    """From the number of electrons: occupations are smeared at the electronic temperature."""
    occupied = (electrons + unpaired) // 2
    if not 0 < occupied < len(orbitals):
        return float("nan")
    return float(orbitals[occupied] - orbitals[occupied - 1]) * HARTREE_TO_EV


@dataclass(frozen=True)
class _Descent:
    positions: NDArray[np.float64]
    drop_hartree: float
    evaluations: int
    converged: bool


@lru_cache(maxsize=4)
def _cached_descent(
    system: System, backend: str, start: bytes, max_gradient: float, max_evaluations: int
) -> _Descent:
    from scipy.optimize import minimize

    evaluate = _evaluator(system, backend)
    positions = np.frombuffer(start).reshape(-1, 3)
    before = evaluate(positions)

    def energy_and_gradient(bohr: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        point = evaluate(bohr.reshape(-1, 3) * BOHR_TO_ANGSTROM)
        gradient = point.gradient().ravel()
        _check_finite(system, gradient)
        return point.energy, gradient

    x, evaluations, converged = (positions / BOHR_TO_ANGSTROM).ravel(), 1, False
    for _ in range(_STARTS):  # a line search that fails is begun again with a fresh history
        result = minimize(
            energy_and_gradient,
            x,
            jac=True,
            method="L-BFGS-B",
            options={
                "gtol": max_gradient,
                "ftol": 0.0,
                "maxfun": max_evaluations - evaluations + 1,
                "maxcor": 20,
            },
        )
        x, evaluations = result.x, evaluations + int(result.nfev)
        converged = bool(np.abs(result.jac).max() <= max_gradient)
        if converged or evaluations > max_evaluations:
            break
    return _Descent(
        x.reshape(-1, 3) * BOHR_TO_ANGSTROM,
        before.energy - float(result.fun),
        evaluations,
        converged,
    )


def _failed(atoms: int, error: str) -> SinglePoint:
    nothing = np.full((atoms, 3), np.nan)
    return SinglePoint(np.nan, np.nan, np.full(3, np.nan), nothing, nothing[:, 0], error)


@lru_cache(maxsize=1)  # it holds the program's matrices
def cached_calculation(system: System, backend: str, positions: bytes) -> Electronic | str:
    """The result, or the reason why there is none."""
    try:
        return _evaluator(system, backend)(np.frombuffer(positions).reshape(-1, 3))
    except PropertyError as error:
        return str(error)


@lru_cache(maxsize=16)
def _cached_single_point(system: System, backend: str, positions: bytes) -> SinglePoint:
    found = cached_calculation(system, backend, positions)
    if isinstance(found, str):
        return _failed(len(system.numbers), found)
    density = found.density()
    dipole = density.dipole
    if system.charge:  # it depends on the origin: then about the centre of mass
        table = Chem.GetPeriodicTable()
        masses = np.array([table.GetAtomicWeight(number) for number in system.numbers])
        bohr = np.frombuffer(positions).reshape(-1, 3) / BOHR_TO_ANGSTROM
        dipole = dipole - system.charge * (masses @ bohr) / masses.sum()
    try:
        gradient = found.gradient()
        _check_finite(system, np.concatenate([gradient.ravel(), dipole, density.charges]))
    except PropertyError as error:
        return _failed(len(system.numbers), str(error))
    return SinglePoint(
        found.energy,
        _gap_eV(density.orbitals, density.electrons, system.unpaired),
        dipole * E_BOHR_TO_DEBYE,
        gradient,
        density.charges,
    )


def _rmsd(mol: Mol, other: Mol) -> float:
    atoms = [atom.GetIdx() for atom in mol.GetAtoms() if atom.GetAtomicNum() > 1]
    if len(atoms) < 3:
        atoms = list(range(mol.GetNumAtoms()))
    return float(rdMolAlign.GetAlignmentTransform(other, mol, atomMap=[(i, i) for i in atoms])[0])
