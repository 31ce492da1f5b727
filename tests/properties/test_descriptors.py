from pathlib import Path

import pytest
from rdkit import Chem, RDConfig

from molflowctl.properties import PropertyError, get, names

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"
MOLECULES = [
    ASPIRIN,
    "C[N+](C)(C)CC(=O)[O-]",
    "C1CC1C#N",
    "c1ccc2[nH]ccc2c1",
    "OCC(O)CO",
    "N",
    "CCCC",
]
GRAPH_PROPERTIES = [
    name for name in names() if get(name).engine == "rdkit" and not get(name).geometry
]


def value(name, smiles):
    return get(name)(Chem.MolFromSmiles(smiles))[name]


@pytest.mark.parametrize(
    ("smiles", "published"),
    [  # the reference implementation's values for drugs of the QED paper, in RDKit's documentation
        ("N=C(CCSCc1csc(N=C(N)N)n1)NS(N)(=O)=O", 0.253),
        ("CNC(=NCCSCc1nc[nH]c1C)NC#N", 0.234),
        ("CCCCCNC(=N)NN=Cc1c[nH]c2ccc(CO)cc12", 0.234),
    ],
)
def test_qed_published(smiles, published):
    assert value("qed", smiles) == pytest.approx(published, abs=1e-3)


def test_sa_score_published():
    """The authors' own table of 100 molecules."""
    table = Path(RDConfig.RDContribDir) / "SA_Score" / "data" / "zim.100.txt"
    rows = [line.split("\t") for line in table.read_text().splitlines()[1:]]
    assert len(rows) == 100
    for smiles, _, published in rows:
        assert value("sa_score", smiles) == pytest.approx(float(published), abs=1e-3)


@pytest.mark.parametrize(
    ("name", "expected", "tolerance"),
    [  # aspirin: PubChem CID 2244 (weight, TPSA, donors), the others by counting
        ("mw", 180.16, 0.01),
        ("tpsa", 63.6, 0.01),
        ("hbd", 1, 0),
        ("hba", 3, 0),
        ("heavy_atoms", 13, 0),
        ("rings", 1, 0),
        ("aromatic_rings", 1, 0),
        ("rotatable_bonds", 2, 0),
        ("formal_charge", 0, 0),
        ("fraction_sp3", 1 / 9, 1e-12),
        ("logp", 1.31, 0.01),
    ],
)
def test_aspirin(name, expected, tolerance):
    assert value(name, ASPIRIN) == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize(
    ("smiles", "violations", "veber"),
    [
        (ASPIRIN, 0, 1),
        ("C" * 13, 1, 1),  # tridecane: logP; 10 rotatable bonds
        ("C" * 14, 1, 0),  # 11 rotatable bonds
        ("OCC(O)C(O)C(O)C(O)CO", 1, 1),  # sorbitol: 6 donors, 6 acceptors, TPSA 121
        ("C" * 40, 2, 0),  # weight 563 and logP
        # sucrose: 8 donors, 11 acceptors, TPSA 190
        ("OCC1OC(OC2(CO)OC(CO)C(O)C2O)C(O)C(O)C1O", 2, 0),
    ],
)
def test_drug_likeness_rules_by_hand(smiles, violations, veber):
    assert value("lipinski_violations", smiles) == violations
    assert value("lipinski_pass", smiles) == (violations <= 1)
    assert value("veber_pass", smiles) == veber


@pytest.mark.parametrize(
    ("smiles", "charge"), [("[NH4+]", 1), ("CC(=O)[O-]", -1), ("C[N+](C)(C)CC(=O)[O-]", 0)]
)
def test_charge_has_its_sign(smiles, charge):
    assert value("formal_charge", smiles) == charge


@pytest.mark.parametrize("name", GRAPH_PROPERTIES)
@pytest.mark.parametrize("smiles", MOLECULES)
def test_explicit_hydrogens_and_atom_order_do_not_matter(name, smiles):
    plain = Chem.MolFromSmiles(smiles)
    full = Chem.AddHs(plain)
    shuffled = Chem.RenumberAtoms(full, list(reversed(range(full.GetNumAtoms()))))
    expected = get(name)(plain)[name]
    assert get(name)(full)[name] == pytest.approx(expected, rel=1e-12)
    assert get(name)(shuffled)[name] == pytest.approx(expected, rel=1e-12)


def test_sa_score_without_heavy_atoms_is_a_reason():
    with pytest.raises(PropertyError, match="no heavy atoms"):
        get("sa_score")(Chem.MolFromSmiles("[HH]"))
