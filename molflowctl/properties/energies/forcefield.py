"""MMFF94 for whole batches: one OpenMM System of many molecules with no force between them.

Pairs are listed one by one, as bonds, so that molecules do not see each other however they lie;
each is moved to the origin, where single precision is finest. `energies_and_gradients`, `relax` and
`langevin` take any number of molecules; one that cannot be computed costs itself only.

Units: kcal/mol, angstrom, picoseconds, kelvin.

References:
    Eastman et al., OpenMM 8, J. Phys. Chem. B 128, 109 (2024), doi:10.1021/acs.jpcb.3c06662;
    `molflowctl.properties.energies.mmff` for the force field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from rdkit.Chem import Mol, rdForceFieldHelpers

from molflowctl.chem.relaxation import changed, minimise
from molflowctl.errors import UserError
from molflowctl.properties.energies import mmff
from molflowctl.properties.energies.lbfgs import BatchedLBFGS
from molflowctl.properties.registry import PropertyError, register

if TYPE_CHECKING:
    import openmm

__all__ = [
    "Array",
    "Energies",
    "Prepared",
    "Relaxation",
    "Run",
    "bare",
    "batches_of",
    "build_system",
    "energies_and_gradients",
    "energy_of",
    "fastest_platform",
    "heavy_atoms",
    "prepare",
    "relax",
]

Array = NDArray[np.float64]

# The platform CPU runs these forces with the kernels of Reference, at the same speed.
_PLATFORMS = ("CUDA", "HIP", "OpenCL", "Reference")
_ACCELERATED = ("CUDA", "HIP", "OpenCL")

_LONGEST_STEP_ANGSTROM = 0.2  # of any atom in one step
_FIRST_CURVATURE = 500.0  # kcal/mol/angstrom^2, a soft bond


@dataclass(frozen=True)
class Energies:
    """MMFF94 of n molecules at fixed geometry; NaN and a reason where there is none.

    Attributes:
        energies_kcal_mol: (n,).
        terms_kcal_mol: (n, 8), its parts in the order of `mmff.ENERGIES`.
        gradients_kcal_mol_angstrom: for each molecule the derivative of its energy with respect to
            the positions, (atoms, 3).
        errors: why there is no result, or `None`.
    """

    energies_kcal_mol: Array
    terms_kcal_mol: Array
    gradients_kcal_mol_angstrom: list[Array]
    errors: list[str | None]


@dataclass(frozen=True)
class Relaxation:
    """A geometry relaxed to the nearest minimum; on failure NaN and the reason in `error`.

    Attributes:
        mol: a copy with the last geometry reached (as it was, where none could be computed).
        energy_kcal_mol: energy after.
        energy_drop_kcal_mol: energy before minus after.
        evaluations: gradients computed.
        converged: the largest gradient component of an atom that may move is below the threshold.
        error: why there is no result, or `None`. Where all atoms moved, a geometry that became
            another molecule is none.
    """

    mol: Mol
    energy_kcal_mol: float
    energy_drop_kcal_mol: float
    evaluations: int
    converged: bool
    error: str | None = None


def heavy_atoms(mol: Mol) -> list[int]:
    """Their indices; as `fixed` of `relax` they leave the hydrogens to relax."""
    return [atom.GetIdx() for atom in mol.GetAtoms() if atom.GetAtomicNum() > 1]


def build_system(mols: Sequence[Mol]) -> openmm.System:
    """The molecules, one after another, as one System in OpenMM's own units, for use elsewhere.

    Raises:
        PropertyError: one of them cannot be computed in MMFF94.
    """
    return _system([_molecule(mol, None) for mol in mols])


def energies_and_gradients(
    mols: Sequence[Mol], *, batch: int = 256, platform: str | None = None
) -> Energies:
    """Energy and its analytic gradient: as a reward, a true gradient.

    Args:
        mols: explicit hydrogens, coordinates in angstrom (the first conformer).
        batch: molecules in one System.
        platform: OpenMM's name for it; by default the fastest that works.

    Raises:
        UserError: the platform is not there. What is wrong with a molecule is in its error.
    """
    prepared, errors = prepare(mols, None)
    terms = np.full((len(mols), len(mmff.ENERGIES)), np.nan)
    gradients = [np.full((mol.GetNumAtoms(), 3), np.nan) for mol in mols]
    for rows in batches_of(prepared, batch):
        run = Run([prepared[row] for row in rows], platform)
        terms[rows] = run.term_energies(run.start)
        gradient = run.gradient(run.start)
        for row, part in zip(rows, run.split(gradient), strict=True):
            gradients[row] = part
    for row in prepared:
        if not (np.isfinite(terms[row]).all() and np.isfinite(gradients[row]).all()):
            errors[row] = "MMFF94 gave a result that is not a number"
            terms[row], gradients[row][:] = np.nan, np.nan
    return Energies(terms.sum(1), terms, gradients, errors)


def relax(
    mols: Sequence[Mol],
    *,
    max_gradient: float = 0.01,
    max_evaluations: int = 2000,
    fixed: Callable[[Mol], Sequence[int]] | None = None,
    batch: int = 64,
    platform: str | None = None,
) -> list[Relaxation]:
    """Follow the gradient to the nearest minimum, all molecules at once, each on its own terms.

    L-BFGS (Nocedal and Wright, Numerical Optimization, 2006, algorithm 7.4) with a history, step
    and end of its own for each molecule. OpenMM's minimiser sees one function of all coordinates:
    it needs several times the evaluations, as the slowest and the most ill-conditioned molecule
    decide for all, and one that is not a number spoils the rest. Steps are judged by the slope
    along them, since OpenMM does not tell the molecules' energies apart.

    Args:
        mols: as for `energies_and_gradients`; they stay as they are.
        max_gradient: a molecule is done when no component is larger, in kcal/mol/angstrom.
        max_evaluations: gradients computed at most; then the last geometry, not converged.
        fixed: gives the atoms of a molecule that stay where they are, such as `heavy_atoms`.
        batch: molecules in one System. More are better on a GPU.
        platform: OpenMM's name for it; by default the fastest that works.

    Raises:
        UserError: the platform is not there. What is wrong with a molecule is in its error.
    """
    prepared, errors = prepare(mols, fixed)
    results = [
        Relaxation(Mol(m), np.nan, np.nan, 0, False, e) for m, e in zip(mols, errors, strict=True)
    ]
    for rows in batches_of(prepared, batch):
        molecules = [prepared[row] for row in rows]
        outcome = _minimise(molecules, max_gradient, max_evaluations, platform)
        for row, molecule, (positions, evaluations, converged) in zip(
            rows, molecules, outcome, strict=True
        ):
            before = energy_of(molecule, molecule.positions)
            after = energy_of(molecule, positions)
            if not np.isfinite(before - after):
                error = "MMFF94 gave a result that is not a number"
                results[row] = Relaxation(Mol(mols[row]), np.nan, np.nan, evaluations, False, error)
                continue
            relaxed = Mol(mols[row])
            relaxed.GetConformer().SetPositions(positions + molecule.centre)
            if fixed is None and (became := changed(mols[row], relaxed)):
                results[row] = Relaxation(relaxed, np.nan, np.nan, evaluations, converged, became)
                continue
            results[row] = Relaxation(relaxed, after, before - after, evaluations, converged)
    return results


@dataclass(frozen=True)
class Prepared:
    """What a System needs: terms, positions about their centre, masses, and who may move."""

    tables: dict[str, mmff.Table]
    positions: Array
    centre: Array
    masses: Array
    free: NDArray[np.bool_]


def _molecule(mol: Mol, fixed: Callable[[Mol], Sequence[int]] | None) -> Prepared:
    tables = mmff.parametrise(mol)
    positions = np.array(mol.GetConformer().GetPositions())
    free = np.ones(len(positions), dtype=bool)
    if fixed is not None:
        free[list(fixed(mol))] = False
    masses = np.array([atom.GetMass() for atom in mol.GetAtoms()])
    centre = positions.mean(0)
    return Prepared(tables, positions - centre, centre, masses, free)


def prepare(
    mols: Sequence[Mol], fixed: Callable[[Mol], Sequence[int]] | None
) -> tuple[dict[int, Prepared], list[str | None]]:
    """Those that can be computed, by row, and for every row the reason if it cannot."""
    prepared: dict[int, Prepared] = {}
    errors: list[str | None] = [None] * len(mols)
    for row, mol in enumerate(mols):
        try:
            prepared[row] = _molecule(mol, fixed)
        except PropertyError as error:
            errors[row] = str(error)
    return prepared, errors


def batches_of(prepared: dict[int, Prepared], batch: int) -> Iterator[list[int]]:
    if batch < 1:
        raise UserError(f"{batch} molecules in a batch: at least 1 is needed.")
    # Those of like size together: padding is wasted work.
    rows = sorted(prepared, key=lambda row: len(prepared[row].masses))
    for first in range(0, len(rows), batch):
        yield rows[first : first + batch]


def bare(mol: Mol) -> Mol:
    copy = Mol(mol)
    copy.RemoveAllConformers()
    return copy


def energy_of(molecule: Prepared, positions: Array) -> float:
    return float(mmff.term_energies(molecule.tables, positions, 1).sum())


def _system(molecules: Sequence[Prepared]) -> openmm.System:
    import openmm

    tables = mmff.concatenate([m.tables for m in molecules], [len(m.masses) for m in molecules])
    system = openmm.System()
    for molecule in molecules:
        for mass, free in zip(molecule.masses.tolist(), molecule.free.tolist(), strict=True):
            system.addParticle(mass if free else 0.0)  # OpenMM does not move what has no mass
    for group, (name, term) in enumerate(mmff.TERMS.items()):
        if len(tables[name].atoms):
            force = term.force(tables[name])
            force.setName(name)
            force.setForceGroup(group)
            system.addForce(force)
    return system


class Run:
    """Molecules on a platform. Positions and gradients are (atoms, 3), one after another."""

    def __init__(
        self,
        molecules: Sequence[Prepared],
        platform: str | None,
        integrator: Callable[[], Any] | None = None,
    ) -> None:
        from openmm import VerletIntegrator, unit

        self._nm = unit.angstrom.conversion_factor_to(unit.nanometer)
        self._kcal = unit.kilojoule_per_mole.conversion_factor_to(unit.kilocalorie_per_mole)
        self.molecules = molecules
        self.start = np.concatenate([m.positions for m in molecules])
        self.offsets = np.cumsum([0] + [len(m.masses) for m in molecules])
        self.context = _context(
            _system(molecules),
            (lambda: VerletIntegrator(0.001)) if integrator is None else integrator,
            platform or fastest_platform(),
        )

    def place(self, positions: Array) -> None:
        self.context.setPositions(positions * self._nm)

    def positions(self) -> Array:
        state = self.context.getState(positions=True)
        return state.getPositions(asNumpy=True)._value / self._nm

    def gradient(self, positions: Array) -> Array:
        """kcal/mol/angstrom."""
        self.place(positions)
        forces = self.context.getState(forces=True).getForces(asNumpy=True)._value
        return forces * (-self._kcal * self._nm)

    def term_energies(self, positions: Array) -> Array:
        """kcal/mol, (molecules, terms)."""
        molecules = self.molecules
        tables = mmff.concatenate([m.tables for m in molecules], [len(m.masses) for m in molecules])
        return mmff.term_energies(tables, positions, len(molecules))

    def split(self, values: Array) -> list[Array]:
        """By molecule."""
        return np.split(values, self.offsets[1:-1])


def _context(system: openmm.System, integrator: Callable[[], Any], name: str) -> openmm.Context:
    import openmm

    try:
        platform = openmm.Platform.getPlatformByName(name)
        precision = {"Precision": "mixed"} if name in _ACCELERATED else {}
        return openmm.Context(system, integrator(), platform, precision)
    except openmm.OpenMMException as error:
        raise UserError(
            f"OpenMM's platform {name} does not work here ({error}). "
            "Leave the platform out to have one chosen."
        ) from error


@cache
def fastest_platform() -> str:
    """OpenMM's name of it. One may be installed where there is no device: the first that works."""
    import openmm

    there = {
        openmm.Platform.getPlatform(i).getName() for i in range(openmm.Platform.getNumPlatforms())
    }
    system = openmm.System()
    system.addParticle(1.0)
    for name in _PLATFORMS:
        if name in there:
            try:
                _context(system, lambda: openmm.VerletIntegrator(0.001), name)
            except UserError:
                continue
            return name
    raise UserError("OpenMM has no working platform here. Install openmm again.")


def _minimise(
    molecules: Sequence[Prepared], max_gradient: float, max_evaluations: int, platform: str | None
) -> list[tuple[Array, int, bool]]:
    """Of each molecule: positions, gradients computed, converged."""
    platform = platform or fastest_platform()
    outcome: list[tuple[Array, int, bool]] = [(m.positions, 0, False) for m in molecules]
    sizes = np.array([len(m.masses) for m in molecules])
    real = np.arange(sizes.max()) < sizes[:, None]  # (molecules, atoms) that are not padding
    x, free = np.zeros((*real.shape, 3)), np.zeros((*real.shape, 3), dtype=bool)
    x[real] = np.concatenate([m.positions for m in molecules])
    free[real] = np.concatenate([m.free for m in molecules])[:, None]
    search = BatchedLBFGS(
        x.reshape(len(x), -1),
        free.reshape(len(x), -1),
        longest_step=_LONGEST_STEP_ANGSTROM,
        curvature=_FIRST_CURVATURE,
    )
    run = Run(molecules, platform)
    rows = np.arange(len(molecules))  # those in the System
    busy = np.ones(len(rows), dtype=bool)
    trial = search.trial
    for evaluation in range(1, max_evaluations + 1):
        gradient = np.zeros((*real.shape, 3))
        gradient[real] = run.gradient(trial.reshape(*real.shape, 3)[real])
        search.observe(gradient.reshape(trial.shape))
        converged = np.abs(search.gradient).max(1) <= max_gradient
        over = converged | search.failed | (evaluation == max_evaluations)
        for place in np.nonzero(over & busy)[0]:
            positions = search.x[place].reshape(-1, 3)[real[place]]
            outcome[rows[place]] = (positions, evaluation, bool(converged[place]))
        busy &= ~over
        if not busy.any():
            break
        # To build the System again costs some evaluations of it; a GPU has to compile besides.
        if busy.sum() <= len(rows) / 2 and platform not in _ACCELERATED:
            search.keep(busy)
            rows, real, busy = rows[busy], real[busy], busy[busy]
            run = Run([molecules[row] for row in rows.tolist()], platform)
        trial = np.where(busy[:, None], search.trial, search.x)
    return outcome


def _rdkit_field(mol: Mol) -> Any:
    """RDKit's field: for one molecule it is ready long before an OpenMM System is built."""
    mmff.check(mol)
    properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol)
    if properties is None:
        raise PropertyError("MMFF94 has no parameters for this molecule")
    field = rdForceFieldHelpers.MMFFGetMoleculeForceField(
        mol, properties, ignoreInterfragInteractions=False
    )
    field.Initialize()
    return field


def mmff_energy_kcal_mol(mol: Mol) -> float:
    return _rdkit_field(mol).CalcEnergy()


def mmff_strain_kcal_mol(mol: Mol) -> float:
    relaxed = Mol(mol)  # the field writes into its positions, and needs it alive
    field = _rdkit_field(relaxed)
    before = field.CalcEnergy()
    if failure := minimise(field) or changed(mol, relaxed):
        raise PropertyError(failure.replace("the relaxation", "the MMFF94 relaxation"))
    return before - field.CalcEnergy()


_TABLE: tuple[tuple[Callable[[Mol], float], Literal["worse"] | None, str], ...] = (
    (mmff_energy_kcal_mol, None,
        "MMFF94 energy at the given geometry; of a complex, with that between its parts"),
    (mmff_strain_kcal_mol, "worse", "MMFF94 energy above the nearest minimum"),
)  # fmt: skip
for compute, higher_is, description in _TABLE:
    name = compute.__name__
    register(
        name, unit="kcal/mol", version=2, higher_is=higher_is, engine="mmff",
        aliases=(name.removesuffix("_kcal_mol"),), description=description,
    )(compute)  # fmt: skip
