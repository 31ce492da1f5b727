"""`ready` and `score` from Python: rules for salts and open stereo, and what was decided."""

import numpy as np
import pytest
from rdkit import Chem

from molflowctl.chem.salts import REFUSED
from molflowctl.compute.parallel import SerialPool
from molflowctl.errors import UserError
from molflowctl.properties import get, score
from molflowctl.properties.geometries.ready import ready
from molflowctl.properties.geometries.starting import start


def full(smiles):
    return Chem.AddHs(Chem.MolFromSmiles(smiles))


def energy(smiles):
    return get("xtb_energy")(start(full(smiles)).mol)["xtb_energy_hartree"]


def scored(smiles, names=("xtb_energy",), **rules):
    mols = [Chem.MolFromSmiles(s) for s in smiles]
    return score(mols, names, timeout=None, pool=SerialPool(), **rules)


def test_without_rules_molecules_are_taken_as_they_are():
    found = scored(["CCO", "C[NH3+].[Cl-]"])
    assert np.isnan(found["xtb_energy_hartree"]).all()
    assert found.errors == [{"xtb_energy_hartree": "no coordinates"}] * 2
    assert found.notes == []


def test_strip_keep_and_refuse():
    salts = ["C[NH3+].[Cl-]", "CC(=O)[O-].[Na+]", "OCCO.O"]
    stripped = scored(salts, salts="strip")
    parents = ["C[NH3+]", "CC(=O)[O-]", "OCCO"]
    assert stripped["xtb_energy_hartree"] == pytest.approx([energy(s) for s in parents], abs=1e-6)
    assert [note["salt_stripped"] for note in stripped.notes] == ["[Cl-]", "[Na+]", "O"]
    kept = scored(salts, salts="keep")
    apart = [sum(energy(piece) for piece in s.split(".")) for s in salts]
    bound = 627.5095 * (np.array(apart) - kept["xtb_energy_hartree"])
    assert ((bound > 0) & (bound < 200)).all()
    assert all(note["geometry_method"].endswith("together") for note in kept.notes)
    refused = scored(salts, salts="refuse")
    assert np.isnan(refused["xtb_energy_hartree"]).all()
    assert refused.failures() == {"xtb_energy_hartree": {REFUSED: 3}}


def test_open_stereo_is_named_or_refused():
    open_ones = ["O=C1CCC(N2C(=O)c3ccccc3C2=O)C(=O)N1", "FC=CF", "CC(N)C(=O)O"]
    found = scored(open_ones, isomers="first")
    for smiles, note, value in zip(
        open_ones, found.notes, found["xtb_energy_hartree"], strict=True
    ):
        assert note["stereo_open"] == "1"
        flat = Chem.MolToSmiles(Chem.MolFromSmiles(note["stereo_chosen"]), isomericSmiles=False)
        assert flat == Chem.CanonSmiles(smiles)
        assert value == pytest.approx(energy(note["stereo_chosen"]), abs=1e-6)
    assert list(found.frame())[1:] == ["stereo_open", "stereo_chosen", "geometry_method"]
    refused = scored(["FC=CF", "F/C=C/F"], isomers="refuse")
    assert np.isfinite(refused["xtb_energy_hartree"]).tolist() == [False, True]
    assert "left open" in refused.errors[0]["xtb_energy_hartree"]


def test_a_geometry_that_is_given_stays_unless_stripped():
    mol = start(full("CC(=O)[O-].[Na+]")).mol
    positions = mol.GetConformer().GetPositions()
    for salts in ("keep", "refuse"):
        made = ready(mol, salts)
        assert (made.error, made.notes) == ("", {})
        np.testing.assert_array_equal(made.mol.GetConformer().GetPositions(), positions)
    made = ready(mol, "strip")
    assert made.notes == {"salt_stripped": "[Na+]"}
    np.testing.assert_array_equal(
        made.mol.GetConformer().GetPositions(), np.delete(positions, 4, axis=0)
    )
    with pytest.raises(UserError, match="geometry is given"):
        ready(mol, "strip", neutralise=True)


def test_graph_properties_need_no_geometry_and_choose_nothing():
    found = scored(["C[NH3+].[Cl-]", "FC=CF", "CC"], ("mw",), salts="refuse")
    assert found.notes == [{}, {}, {}]
    assert found["mw"] == pytest.approx([67.52, 64.03, 30.07], abs=0.01)
    stripped = scored(["C[NH3+].[Cl-]"], ("mw",), salts="strip")
    assert stripped["mw"] == pytest.approx([32.07], abs=0.01)


def test_neutralised_on_request():
    made = ready(Chem.MolFromSmiles("C[NH3+].[Cl-]"), "strip", neutralise=True)
    assert Chem.MolToSmiles(Chem.RemoveHs(made.mol)) == "CN"
    assert made.notes["charge_neutralised"] == "+1 to 0"


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"salts": "melt"}, "salts='melt'"),
        ({"isomers": "enumerate"}, "isomers_of"),
        ({"isomers": 3}, "isomers=3"),
    ],
)
def test_rules_that_there_are_not(rules, words):
    with pytest.raises(UserError, match=words):
        scored(["CC"], **rules)
