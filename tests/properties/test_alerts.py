import pytest
from rdkit import Chem

from molflowctl.properties import get
from molflowctl.properties.alerts import structural_alerts


@pytest.mark.parametrize(
    ("smiles", "catalogue", "alert"),
    [  # classes named in the catalogues' papers
        ("O=C1CSC(=S)N1", "pains", "rhod_sat_A(33)"),
        ("Cc1ccc(O)c(O)c1", "pains", "catechol_A(92)"),
        ("O=C1C=CC(=O)C=C1", "pains", "quinone_A(370)"),
        ("CC=O", "brenk", "aldehyde"),
        ("C[N+](=O)[O-]", "brenk", "nitro_group"),
        ("CCS", "brenk", "Thiol_2"),
        ("CC1CO1", "brenk", "three-membered_heterocycle"),
    ],
)
def test_known_alert(smiles, catalogue, alert):
    mol = Chem.MolFromSmiles(smiles)
    assert alert.lower() in [name.lower() for name in structural_alerts(mol, catalogue)]
    assert structural_alerts(Chem.AddHs(mol), catalogue) == structural_alerts(mol, catalogue)


def test_counts():
    clean = Chem.MolFromSmiles("CC(C)NCc1ccccc1")
    assert get("pains")(clean) == {"pains_alerts": 0}
    assert get("brenk")(clean) == {"brenk_alerts": 0}
    two = Chem.MolFromSmiles("O=CC1CO1")
    alerts = structural_alerts(two, "brenk")
    assert len(alerts) >= 2
    assert get("brenk_alerts")(two) == {"brenk_alerts": len(alerts)}
