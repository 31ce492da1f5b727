"""Rings: sizes counted by hand, systems that substituents, charges and stereo do not change."""

import gzip

import pytest
from rdkit import Chem

from molflowctl import properties
from molflowctl.properties import rings

SIZES = {
    "CCO": (0, 0),
    "C1CC1": (3, 0),
    "C1CCC1": (4, 1),
    "c1ccccc1": (6, 0),
    "C1CC2(C1)CCC2": (4, 2),
    "C1=CC=CC=CN1": (7, 0),
    "C1CCCCCCC1": (8, 0),
    "O=C1CCN1C1CCCCC1": (6, 1),
    "c1ccc2c(c1)CCCCC2": (7, 0),
}


@pytest.mark.parametrize("smiles", SIZES)
@pytest.mark.parametrize("hydrogens", [False, True])
def test_sizes(smiles, hydrogens) -> None:
    mol = Chem.MolFromSmiles(smiles)
    mol = Chem.AddHs(mol) if hydrogens else mol
    found = (properties.get("largest_ring")(mol), properties.get("four_membered_rings")(mol))
    assert tuple(v for part in found for v in part.values()) == SIZES[smiles]


ALIKE = [
    ("c1cc[nH]c1", "Cn1cccc1"),
    ("C1CCNC1", "C[N+]1(C)CCCC1"),
    ("C1CCCCC1", "F[C@H]1CC[C@@H](Cl)CC1"),
    ("c1ccncc1", "O=C(O)c1ccc(C#N)nc1"),
    ("C1CCCCC1", "[2H]C1CCCCC1"),
    ("C1CC[CH2:7]CC1", "C1CCCCC1"),
]


@pytest.mark.parametrize(("a", "b"), ALIKE)
def test_substituents_charges_labels_and_stereo_do_not_matter(a, b) -> None:
    a, b = (rings.ring_systems(Chem.MolFromSmiles(s)) for s in (a, b))
    assert a == b
    assert len(a) == 1


@pytest.mark.parametrize(
    ("smiles", "count"),
    [
        ("c1ccccc1-c1ccccc1", 2),
        ("c1ccc2ccccc2c1", 1),
        ("C1CC2(C1)CCC2", 1),
        ("C1CC2CCC1C2", 1),
        ("C1CC1CC1CC1.C1CCC1", 3),
        ("c1ccc2c(c1)-c1ccccc1C2CC1CC1", 2),
    ],
)
def test_rings_that_share_an_atom_are_one_system(smiles, count) -> None:
    assert len(rings.ring_systems(Chem.MolFromSmiles(smiles))) == count


def test_order_of_atoms_and_hydrogens_do_not_matter() -> None:
    mol = Chem.MolFromSmiles("O=C1NC=CC2=C1SC=C2CN1CCOCC1")
    named = rings.ring_systems(mol)
    for seed in range(5):
        order = Chem.MolToSmiles(mol, doRandom=True, canonical=False)
        again = Chem.AddHs(Chem.MolFromSmiles(order))
        assert rings.ring_systems(again) == named, seed


@pytest.mark.parametrize(
    "smiles",
    ["c1ccccc1", "C1CCNCC1", "c1ccc2[nH]ccc2c1", "C1COCCN1c1ccncc1", "O=C1CCCN1C"],
)
def test_common_systems_are_known(smiles) -> None:
    assert properties.get("unseen_ring_systems")(Chem.MolFromSmiles(smiles)) == {
        "unseen_ring_systems": 0
    }


@pytest.mark.parametrize("smiles", ["C1=CC=CC=CC=C1", "C1=CC=C1", "C1=CC2=CC=CC2=C1"])
def test_rings_no_chemist_makes_are_unseen(smiles) -> None:
    mol = Chem.MolFromSmiles(smiles)
    assert properties.get("unseen_ring_systems")(mol) == {"unseen_ring_systems": 1}


def test_another_rdkit_writes_the_systems_again(monkeypatch, tmp_path) -> None:
    """Systems in another spelling are found, since they are written anew."""
    (tmp_path / "assets").mkdir()
    file = tmp_path / "assets" / rings.KNOWN_SYSTEMS
    file.write_bytes(gzip.compress(b"1900.01\nC1NCC1\nn1ccccc1\n"))
    monkeypatch.setattr(rings.resources, "files", lambda package: tmp_path)
    rings.known_systems.cache_clear()
    try:
        assert rings.known_systems() == {"C1CNC1", "c1ccncc1"}
    finally:
        rings.known_systems.cache_clear()
