"""PoseBusters' checks and relaxations of geometries with known flaws."""

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers, rdMolTransforms

from molflowctl.compute.parallel import WorkerPool
from molflowctl.tasks.evaluation.physical_checks import gfn2_change, mmff_change, posebusters_checks


def relaxed(smiles: str) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=1) == 0
    assert rdForceFieldHelpers.MMFFOptimizeMolecule(mol, maxIters=5000) == 0
    return mol


def stretched(mol: Chem.Mol, by: float) -> Chem.Mol:
    """The bond of atoms 0 and 1 longer, all that hangs on it moved along. angstrom."""
    mol = Chem.Mol(mol)
    conformer = mol.GetConformer()
    length = rdMolTransforms.GetBondLength(conformer, 0, 1)
    rdMolTransforms.SetBondLength(conformer, 0, 1, length + by)
    return mol


def test_posebusters_finds_the_stretched_bond():
    propanol = relaxed("CCCO")
    checks = posebusters_checks(propanol, "graph and geometry")
    assert set(checks.values()) == {True}
    assert "internal_energy" not in checks
    bad = posebusters_checks(stretched(propanol, 0.8), "graph and geometry")
    failed = {name for name, passed in bad.items() if not passed}
    # angles are checked as distances of outer atoms, of which one lies across the bond
    assert failed == {"bond_lengths", "bond_angles"}


def test_posebusters_energy():
    assert posebusters_checks(relaxed("CCCO"), "energy") == {"internal_energy": True}
    # squeezing the bond of ethane to 0.7 angstrom costs far more than 100 times its energy
    assert posebusters_checks(stretched(relaxed("CC"), -0.8), "energy")["internal_energy"] is False


@pytest.mark.parametrize("change", [mmff_change, gfn2_change])
def test_relaxation_undoes_a_stretched_bond(change):
    # A bond of two heavy atoms alone: superposed, each moves by half of what the length changes.
    start = stretched(relaxed("CC"), 0.2)
    result = change(start)
    assert result.rmsd == pytest.approx(0.1, abs=0.01)
    assert 3 < result.drop < 60  # kcal/mol; half a force constant of 4.5 mdyn/A gives 13
    minimum = relaxed("CC")
    assert mmff_change(minimum).drop == pytest.approx(0, abs=0.01)
    assert mmff_change(minimum).rmsd == pytest.approx(0, abs=0.01)


def test_mmff_drop_is_the_difference_of_energies():
    mol = relaxed("CCO")
    properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol)
    bad = stretched(mol, 0.1)
    before, after = (
        rdForceFieldHelpers.MMFFGetMoleculeForceField(m, properties).CalcEnergy()
        for m in (bad, mol)
    )
    assert mmff_change(bad).drop == pytest.approx(before - after, abs=0.01)


def test_no_parameters_is_nan_not_zero():
    mol = Chem.AddHs(Chem.MolFromSmiles("CB(C)C"))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=1) == 0
    assert np.isnan(mmff_change(mol)).all()


def test_a_check_that_hangs_costs_its_molecule_only():
    def checks(seconds):
        import time

        time.sleep(seconds)
        return True

    with WorkerPool(1) as pool:
        values = [outcome.value for outcome in pool.map(checks, [0.0, 60.0, 0.0], timeout=1.0)]
    assert values == [True, None, True]
