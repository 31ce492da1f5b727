import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers, rdMolTransforms

from molflowctl.properties import PropertyError, get
from molflowctl.properties.validity import posebusters_checks

NAMES = ("posebusters", "posebusters_pass", "posebusters_energy")


def relaxed(smiles):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=1) == 0
    assert rdForceFieldHelpers.MMFFOptimizeMolecule(mol, maxIters=5000) == 0
    return mol


def moved(mol, change):
    mol = Chem.Mol(mol)
    positions = mol.GetConformer().GetPositions()
    change(positions)
    mol.GetConformer().SetPositions(positions)
    return mol


def test_a_column_for_each_check_of_the_installed_posebusters():
    mol = relaxed("CCCO")
    columns = {
        f"pb_{name.replace('-', '_')}" for name in posebusters_checks(mol, "graph and geometry")
    }
    assert set(get("posebusters").columns) == columns
    assert get("posebusters")(mol) == dict.fromkeys(columns, 1.0)
    assert get("posebusters_pass")(mol) == {"posebusters_pass": 1.0}
    assert get("posebusters_energy")(mol) == {"pb_internal_energy": 1.0}


def test_a_stretched_bond_fails_its_own_column():
    mol = relaxed("CCCO")
    length = rdMolTransforms.GetBondLength(mol.GetConformer(), 0, 1)
    rdMolTransforms.SetBondLength(mol.GetConformer(), 0, 1, length + 0.8)
    values = get("posebusters")(mol)
    assert {name for name, value in values.items() if value == 0} == {
        "pb_bond_lengths",
        "pb_bond_angles",
    }
    assert get("posebusters_pass")(mol) == {"posebusters_pass": 0.0}


def test_other_flaws():
    radical = Chem.AddHs(Chem.MolFromSmiles("CC[CH2]"))
    assert rdDistGeom.EmbedMolecule(radical, randomSeed=1) == 0
    assert get("posebusters")(radical)["pb_no_radicals"] == 0
    benzene = moved(relaxed("c1ccccc1"), lambda x: x.__setitem__(0, x[0] + [0, 0, 1.0]))
    assert get("posebusters")(benzene)["pb_aromatic_ring_flatness"] == 0


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_geometry_has_a_reason_and_does_not_pass(name):
    flat = Chem.AddHs(Chem.MolFromSmiles("CCO"))
    with pytest.raises(PropertyError, match="no coordinates"):
        get(name)(flat)
    Chem.rdDepictor.Compute2DCoords(flat)
    with pytest.raises(PropertyError, match="two-dimensional"):
        get(name)(flat)
    broken = moved(relaxed("CCO"), lambda x: x.__setitem__(0, np.nan))
    with pytest.raises(PropertyError, match="not a number"):
        get(name)(broken)
    with pytest.raises(PropertyError, match="no atoms"):
        get(name)(Chem.Mol())


def test_no_answer_is_not_a_pass(monkeypatch):
    from molflowctl.properties import validity

    mol = relaxed("CCO")
    answers = dict.fromkeys(posebusters_checks(mol, "graph and geometry"), True)
    silent = answers | {"bond_angles": None}
    monkeypatch.setattr(validity, "_of_binary", lambda binary: silent)
    for name in ("posebusters", "posebusters_pass"):
        with pytest.raises(PropertyError, match="no answer to bond_angles"):
            get(name)(mol)
    monkeypatch.setattr(validity, "_of_binary", lambda binary: silent | {"bond_lengths": False})
    assert get("posebusters_pass")(mol) == {"posebusters_pass": 0.0}
