"""The two programs that compute GFN1-xTB and GFN2-xTB: tblite and xtb-python, in atomic units.

A backend is a class built for one system, called with positions: each call starts from the density
of the last one. Both are the same Hamiltonian, so they agree to what their thresholds leave. These
are set so that gaps agree to 1e-4 eV and dipoles to 1e-3 debye; at both programs' defaults,
drug-like molecules differ by 2e-4 eV and 2e-3 debye (and energies by 5e-8 hartree either way).

References:
    Bannwarth, Ehlert, Grimme, GFN2-xTB, J. Chem. Theory Comput. 15, 1652 (2019),
    doi:10.1021/acs.jctc.8b01176; Grimme, Bannwarth, Shushkov, GFN1-xTB, ibid. 13, 1989 (2017),
    doi:10.1021/acs.jctc.7b00118; tblite, https://tblite.readthedocs.io; xtb-python,
    https://xtb-python.readthedocs.io.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from molflowctl.errors import UserError
from molflowctl.properties.registry import PropertyError

__all__ = ["BACKENDS", "METHODS", "TBLITE_ACCURACY", "Backend", "Density", "Electronic", "System"]

Array = NDArray[np.float64]

METHODS = ("GFN2-xTB", "GFN1-xTB")
TBLITE_ACCURACY = 0.2  # density converged to 1e-5 times this; 13 % of the time more than at 1
_XTB_ACCURACY = 0.1


@dataclass(frozen=True)
class System:
    """All that a calculation needs besides the positions."""

    method: str
    numbers: tuple[int, ...]
    charge: int
    unpaired: int


@dataclass(frozen=True)
class Electronic:
    """One converged calculation, in atomic units.

    Attributes:
        energy: total, hartree.
        gradient: reads (atoms, 3), hartree/bohr.
        density: reads what else follows from it. Both only until the backend is called again; a
            small molecule's energy alone is there 2 % sooner.
    """

    energy: float
    gradient: Callable[[], Array]
    density: "Callable[[], Density]"


@dataclass(frozen=True)
class Density:
    """What follows from the density of a calculation, in atomic units.

    Attributes:
        dipole: (3,), e bohr, about the origin.
        charges: (atoms,), e.
        orbitals: (orbitals,) energies, hartree.
        electrons: in these orbitals.
    """

    dipole: Array
    charges: Array
    orbitals: Array
    electrons: int


class Backend(Protocol):
    """Computes one system at positions (atoms, 3) in bohr; `PropertyError` where it cannot."""

    def __call__(self, bohr: Array) -> Electronic: ...


class _Library(ABC):
    """A calculator of one system, made at the first positions, from density to density.

    Arguments:
        make: the library's calculator, and `method`, as it names the Hamiltonian.
        error: what the library raises.
    """

    def __init__(self, system: System, make: Any, method: Any, error: type[Exception]) -> None:
        self._system, self._make, self._method, self._error = system, make, method, error
        self._calculator: Any = None
        self._density: Any = None

    def __call__(self, bohr: Array) -> Electronic:
        system = self._system
        try:
            if self._calculator is None:
                self._calculator = self._make(
                    self._method, np.array(system.numbers), bohr, float(system.charge),
                    system.unpaired,
                )  # fmt: skip
                self._set_up(self._calculator)
            else:
                self._calculator.update(bohr)
            self._density = self._calculator.singlepoint(self._density)
            return self._read(self._density)
        except self._error as error:
            raise _failure(system, error) from error

    @abstractmethod
    def _set_up(self, calculator: Any) -> None:
        """Let it be silent, and as exact as is needed."""

    @abstractmethod
    def _read(self, result: Any) -> Electronic:
        """What the library found."""


class Tblite(_Library):
    """The default."""

    def __init__(self, system: System) -> None:
        # The import costs 0.1 s and a compiled library, which descriptors do not need.
        from tblite.exceptions import TBLiteRuntimeError
        from tblite.interface import Calculator

        super().__init__(system, Calculator, system.method, TBLiteRuntimeError)

    def _set_up(self, calculator: Any) -> None:
        calculator.set("verbosity", 0)
        calculator.set("accuracy", TBLITE_ACCURACY)

    def _read(self, result: Any) -> Electronic:
        return Electronic(
            float(result.get("energy")),
            lambda: np.array(result.get("gradient")),
            lambda: Density(
                np.array(result.get("dipole")),
                np.array(result.get("charges")),
                np.sort(result.get("orbital-energies")),
                round(float(result.get("orbital-occupations").sum())),
            ),
        )


class XtbPython(_Library):
    """xtb's own library by its Python interface, an independent implementation.

    It ends the process for an element without parameters: check those first.
    """

    def __init__(self, system: System) -> None:
        try:
            from xtb.interface import Calculator, Param, XTBException
            from xtb.libxtb import VERBOSITY_MUTED
        except ImportError as error:
            raise UserError(
                'the backend xtb-python is not installed: pip install "molflowctl[xtb]"'
            ) from error
        parameters = {"GFN2-xTB": Param.GFN2xTB, "GFN1-xTB": Param.GFN1xTB}
        self._muted = VERBOSITY_MUTED
        super().__init__(system, Calculator, parameters[system.method], XTBException)

    def _set_up(self, calculator: Any) -> None:
        calculator.set_verbosity(self._muted)
        calculator.set_accuracy(_XTB_ACCURACY)

    def _read(self, result: Any) -> Electronic:
        return Electronic(
            float(result.get_energy()),
            lambda: np.array(result.get_gradient()),
            lambda: Density(
                np.array(result.get_dipole()),
                np.array(result.get_charges()),
                np.sort(result.get_orbital_eigenvalues()),
                round(float(result.get_orbital_occupations().sum())),
            ),
        )


BACKENDS: Mapping[str, Callable[[System], Backend]] = {"tblite": Tblite, "xtb-python": XtbPython}


def _failure(system: System, error: Exception) -> PropertyError:
    message = " ".join(str(error).split())
    if "SCF not converged" in message or "did not converge" in message:
        return PropertyError(f"the {system.method} density did not converge")
    return PropertyError(f"{system.method} failed: {message}")
