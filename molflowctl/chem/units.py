"""Physical constants and conversion factors: the only ones in the package.

A factor is named `FROM_TO_UNIT` and multiplies: `energy_eV = HARTREE_TO_EV * energy_hartree`.

References:
    CODATA 2022, NIST Standard Reference Database 121, https://physics.nist.gov/constants
    (Mohr, Newell, Taylor, Tiesinga, Rev. Mod. Phys. 97, 025002, 2025).
"""

__all__ = [
    "BOHR_TO_ANGSTROM",
    "E_BOHR_TO_DEBYE",
    "GAS_CONSTANT_KCAL_MOL_K",
    "HARTREE_TO_EV",
    "HARTREE_TO_KCAL_MOL",
]

_HARTREE_J = 4.3597447222060e-18
_BOHR_M = 0.529177210544e-10
_ELEMENTARY_CHARGE_C = 1.602176634e-19  # exact
_AVOGADRO_PER_MOL = 6.02214076e23  # exact
_BOLTZMANN_J_K = 1.380649e-23  # exact
_SPEED_OF_LIGHT_M_S = 299792458.0  # exact
_CALORIE_J = 4.184  # exact, thermochemical
_DEBYE_C_M = 1e-21 / _SPEED_OF_LIGHT_M_S  # 1e-18 statcoulomb centimetre

HARTREE_TO_EV = _HARTREE_J / _ELEMENTARY_CHARGE_C
HARTREE_TO_KCAL_MOL = _HARTREE_J * _AVOGADRO_PER_MOL / (1000.0 * _CALORIE_J)
BOHR_TO_ANGSTROM = _BOHR_M * 1e10
E_BOHR_TO_DEBYE = _ELEMENTARY_CHARGE_C * _BOHR_M / _DEBYE_C_M
GAS_CONSTANT_KCAL_MOL_K = _BOLTZMANN_J_K * _AVOGADRO_PER_MOL / (1000.0 * _CALORIE_J)
