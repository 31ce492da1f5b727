import pytest
from scipy.constants import physical_constants

from molflowctl.chem import units

# NIST, CODATA 2022 (https://physics.nist.gov/constants); kcal/mol from J with N_A and 4.184 J.
PUBLISHED = {
    "HARTREE_TO_EV": 27.211386245981,
    "HARTREE_TO_KCAL_MOL": 627.5094740631,
    "BOHR_TO_ANGSTROM": 0.529177210544,
    "E_BOHR_TO_DEBYE": 8.4783536198 / 3.33564095198,
    "GAS_CONSTANT_KCAL_MOL_K": 8.31446261815324 / 4184,
}


@pytest.mark.parametrize("name", units.__all__)
def test_published_values(name):
    assert getattr(units, name) == pytest.approx(PUBLISHED[name], rel=2e-10)


def test_agrees_with_scipy():
    hartree = physical_constants["Hartree energy in eV"][0]
    bohr = physical_constants["Bohr radius"][0]
    dipole = physical_constants["atomic unit of electric dipole mom."][0]
    assert hartree == pytest.approx(units.HARTREE_TO_EV, rel=1e-9)
    assert bohr * 1e10 == pytest.approx(units.BOHR_TO_ANGSTROM, rel=1e-9)
    assert dipole / 3.33564095198e-30 == pytest.approx(units.E_BOHR_TO_DEBYE, rel=1e-9)
