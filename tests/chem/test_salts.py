"""What becomes of records of several fragments: stripped to the parent, kept whole, refused."""

import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from molflowctl.chem.salts import NO_PARENT, REFUSED, is_several, settle_salt

# The record, its parent, what goes, the parent without charges and how its charge changed.
CASES = [
    ("C[NH+](C)CCC=C1c2ccccc2CCc2ccccc21.[Cl-]", "C[NH+](C)CCC=C1c2ccccc2CCc2ccccc21", "[Cl-]",
     "CN(C)CCC=C1c2ccccc2CCc2ccccc21", "+1 to 0"),
    ("COc1ccc2[nH]cc(CC[NH+](C)C)c2c1", "COc1ccc2[nH]cc(CC[NH+](C)C)c2c1", "",
     "COc1ccc2[nH]cc(CCN(C)C)c2c1", "+1 to 0"),
    ("O=C([O-])c1ccccc1O.[Na+]", "O=C([O-])c1ccccc1O", "[Na+]", "O=C(O)c1ccccc1O", "-1 to 0"),
    ("CN1CCC[C@H]1c1cccnc1.OC(=O)C(O)C(O)C(=O)O", "CN1CCC[C@H]1c1cccnc1",
     "O=C(O)C(O)C(O)C(=O)O", "CN1CCC[C@H]1c1cccnc1", ""),
    ("[K+].[O-]C(=O)CCc1ccccc1", "[O-]C(=O)CCc1ccccc1", "[K+]", "OC(=O)CCc1ccccc1", "-1 to 0"),
    ("C[N+](C)(C)CCO.[I-].O", "C[N+](C)(C)CCO", "O.[I-]", "C[N+](C)(C)CCO", ""),
    ("CC(=O)O[Na]", "CC(=O)[O-]", "[Na]", "CC(=O)O", "-1 to 0"),
    ("[NH3+][C@@H](C)C(=O)[O-].Cl", "[NH3+][C@@H](C)C(=O)[O-]", "Cl", "N[C@@H](C)C(=O)O", ""),
    ("CN(C)C(=N)NC(N)=N.Cl", "CN(C)C(=N)NC(=N)N", "Cl", "CN(C)C(=N)NC(=N)N", ""),
    ("CCO", "CCO", "", "CCO", ""),
]  # fmt: skip


@pytest.mark.parametrize("shown", [False, True], ids=["implicit", "explicit"])
@pytest.mark.parametrize(("record", "parent", "gone", "neutral", "charge"), CASES)
def test_a_record_is_stripped_to_its_parent_and_what_goes_is_said(
    record, parent, gone, neutral, charge, shown
):
    mol = Chem.MolFromSmiles(record)
    mol = Chem.AddHs(mol) if shown else mol
    before = Chem.MolToSmiles(mol)
    found = settle_salt(mol, "strip")
    assert Chem.MolToSmiles(Chem.RemoveHs(found.mol)) == Chem.CanonSmiles(parent)
    assert (found.stripped, found.neutralised, found.refused) == (gone, "", "")
    found = settle_salt(mol, "strip", neutralise=True)
    assert Chem.MolToSmiles(Chem.RemoveHs(found.mol)) == Chem.CanonSmiles(neutral)
    assert (found.stripped, found.neutralised, found.refused) == (gone, charge, "")
    assert Chem.MolToSmiles(mol) == before  # what was given is as it was


@pytest.mark.parametrize(("record", "parent"), [case[:2] for case in CASES])
def test_kept_whole_or_refused(record, parent):
    mol = Chem.MolFromSmiles(record)
    kept, refused = settle_salt(mol, "keep"), settle_salt(mol, "refuse")
    assert Chem.MolToSmiles(kept.mol) == Chem.MolToSmiles(refused.mol) == Chem.MolToSmiles(mol)
    assert (kept.stripped, kept.refused) == ("", "")
    assert refused.refused == (REFUSED if "." in record else "")
    assert is_several(mol) == ("." in record)
    with pytest.raises(ValueError, match="neutralised"):
        settle_salt(mol, "keep", neutralise=True)


@pytest.mark.parametrize("record", ["[Na+].[Cl-]", "O.O", "[K+].[K+].[O-]S(=O)(=O)[O-]"])
def test_without_an_organic_part_there_is_no_parent(record):
    assert settle_salt(Chem.MolFromSmiles(record), "strip").refused == NO_PARENT


def test_a_parent_keeps_its_coordinates():
    mol = Chem.AddHs(Chem.MolFromSmiles("[Na+].C[C@H](O)C(=O)[O-]"))
    rdDistGeom.EmbedMolecule(mol, randomSeed=7)
    found = settle_salt(mol, "strip").mol
    assert (found.GetConformer().GetPositions() == mol.GetConformer().GetPositions()[1:4].tolist()
            + mol.GetConformer().GetPositions()[4:].tolist()).all()  # fmt: skip
    assert found.GetConformer().Is3D()
