import math

import pytest
from rdkit import Chem

from molflowctl.chem.graphs import canonical_smiles
from molflowctl.data.known import hash_molecules
from molflowctl.errors import UserError
from molflowctl.properties import get, register, registry, score
from molflowctl.properties.similarity import Novelty, Similarity

ASPIRIN, ETHANOL = "CC(=O)Oc1ccccc1C(=O)O", "CCO"


def mol(smiles):
    return Chem.MolFromSmiles(smiles)


def test_similarity_is_that_of_the_nearest():
    both, one = Similarity([ASPIRIN, mol(ETHANOL)]), Similarity([ASPIRIN])
    assert both(mol("OCC")) == 1
    assert one(mol(ASPIRIN)) == both(Chem.AddHs(mol(ASPIRIN))) == 1
    salicylic = mol("OC(=O)c1ccccc1O")
    assert 0.3 < one(salicylic) < 1
    assert both(salicylic) == one(salicylic)
    assert one(mol("[Xe]")) == 0


def test_tanimoto_by_hand():
    """Radius-2 environments: ethane has CH3 and CH3-CH3; propane CH3, CH2, and two more."""
    ethane, propane = mol("CC"), mol("CCC")
    value = Similarity([ethane])(propane)
    assert value == Similarity([propane])(ethane)  # symmetric
    # Only the lone CH3 environment is shared: 1 of 2 + 4 - 1.
    assert value == pytest.approx(1 / 5)


def test_novelty_ignores_stereo_and_hydrogens():
    novelty = Novelty(["C[C@H](N)O", ETHANOL])
    assert novelty(mol("C[C@@H](N)O")) == novelty(Chem.AddHs(mol("OCC"))) == 0
    assert novelty(mol("CCN")) == 1
    assert Novelty([])(mol(ETHANOL)) == 1
    hashes = hash_molecules([canonical_smiles(mol(ETHANOL))])
    assert Novelty(hashes)(mol(ETHANOL)) == 0


def test_version_tells_sets_apart_not_orders():
    for kind in (Similarity, Novelty):
        version = kind([ASPIRIN, ETHANOL]).version
        assert version == kind([mol("OCC"), ASPIRIN]).version
        assert version != kind([ASPIRIN]).version
        assert 0 < version < 2**63  # fits a database


def test_bad_reference():
    with pytest.raises(UserError, match="cannot be read: 'C1C'"):
        Similarity([ASPIRIN, "C1C"])
    with pytest.raises(UserError, match="at least one molecule"):
        Similarity([])


def test_registered_and_scored_in_workers(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    for name, compute in (("near", Similarity([ASPIRIN])), ("new", Novelty([ETHANOL]))):
        register(name, unit="", version=compute.version, description="d")(compute)
    scores = score([mol(ASPIRIN), mol(ETHANOL), Chem.Mol()], ["near", "new"])
    assert scores["near"][0] == 1 > scores["near"][1]
    assert scores["new"][:2].tolist() == [1, 0]
    assert math.isnan(scores["near"][2])
    # Another set under the same name takes its place.
    register("near", unit="", version=1, description="d")(Similarity([ETHANOL]))
    assert get("near")(mol(ETHANOL)) == {"near": 1}


def test_qm9():
    assert get("novelty-qm9")(mol("CC(C)(C)c1ccc(S(N)(=O)=O)cc1Br")) == {"novelty_qm9": 1}
    known = [get("novelty_qm9")(mol(s))["novelty_qm9"] for s in ("CC1CCCO1", "CCCCO", "OC1CCCC1")]
    assert 0 in known
