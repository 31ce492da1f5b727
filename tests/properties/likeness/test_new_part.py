"""What a molecule has beside a core, and what a property says of that."""

import math

import pytest
from rdkit import Chem
from rdkit.Chem import Crippen

from molflowctl.errors import UserError
from molflowctl.properties import get, score
from molflowctl.properties.likeness.new_part import NewPart, rest_of
from molflowctl.properties.rewards import parse_reward


@pytest.mark.parametrize(
    ("core", "smiles", "rest"),
    [
        ("c1ccccc1", "c1ccccc1CCO", "CCO"),
        ("[*:1]c1ccccc1", "c1ccccc1CCc1ccc(O)cc1", "CCc1ccc(O)cc1"),  # not the other ring
        ("C1CCNCC1", "C1CCN(CC1)C(=O)c1cc[nH]c1", "O=Cc1cc[nH]c1"),
        ("c1ccccc1.C1CC1", "c1ccccc1OCC1CC1", "CO"),  # a linker
        ("c1ccccc1", "OCc1ccccc1N", "CO.N"),  # two pieces
        ("c1ccccc1", "c1ccc2[nH]ccc2c1", "C=CN"),  # fused: what is left of the ring
        ("C(=O)N", "C[C@H](N)C(=O)N[C@@H](F)Cl", "CCN.FCCl"),
        ("O", "CC(C)=O", "CCC"),
        ("C[NH+](C)C", "C[N+](C)(C)CC(=O)[O-]", "CC(=O)[O-]"),  # its charge, not its hydrogen
    ],
)
def test_the_rest_of_a_molecule(core, smiles, rest) -> None:
    mol = Chem.MolFromSmiles(smiles)
    places = NewPart(core, get("mw")).places(mol)
    found = {Chem.CanonSmiles(Chem.MolToSmiles(rest_of(mol, place))) for place in places}
    assert Chem.CanonSmiles(rest) in found


@pytest.mark.parametrize("hydrogens", [False, True])
def test_the_property_is_that_of_the_rest(hydrogens) -> None:
    item = get('new_part("[*:1]c1ccc(cc1)S(N)(=O)=O", "logp")')
    mol = Chem.MolFromSmiles("NS(=O)(=O)c1ccc(cc1)NC(=O)C1CC1")
    rest = Chem.MolFromSmiles("NC(=O)C1CC1")
    value = item(Chem.AddHs(mol) if hydrogens else mol)[item.name]
    assert value == pytest.approx(Crippen.MolLogP(rest), abs=1e-9)


def test_of_several_places_the_mean_in_any_order() -> None:
    item = get('new_part("c1ccccc1", "heavy_atoms")')
    mol = Chem.MolFromSmiles("c1ccccc1Cc1ccc(O)c(O)c1")
    for order in (range(15), reversed(range(15))):
        shuffled = Chem.RenumberAtoms(mol, list(order))
        assert item(shuffled)[item.name] == 9


@pytest.mark.parametrize(
    ("smiles", "reason"),
    [("CCO", "the core is not in it"), ("c1ccccc1", "there is nothing but the core")],
)
def test_what_has_no_new_part_has_no_value(smiles, reason) -> None:
    name = 'new_part("c1ccccc1", "logp")'
    found = score([Chem.MolFromSmiles(smiles)], [name])
    assert math.isnan(found[name][0])
    assert found.errors[0] == {name: reason}


def test_it_is_a_reward_beside_others() -> None:
    reward = parse_reward("qed - 0.1 * new_part('C1CC1', 'smarts(\"[Cl]\")')")
    mol = Chem.MolFromSmiles("C1CC1CCCl")
    assert reward.value([mol])[0] == pytest.approx(get("qed")(mol)["qed"] - 0.1)


def test_other_cores_and_properties_have_other_versions() -> None:
    names = ['"C1CC1", "logp"', '"C1CCC1", "logp"', '"C1CC1", "qed"', '"[*:1]C1CC1", "logp"']
    assert len({get(f"new_part({name})").version for name in names}) == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ('"c1ccccc1", "dipole_debye"', "dipole_debye is of a geometry"),
        ('"c1ccccc1", "lgp"', "unknown property"),
        ('"c1cccc", "logp"', "no SMILES that can be read"),
        ('"[*:1]", "logp"', "no atom but attachment points"),
        ('"c1ccccc1"', "new_part needs property"),
    ],
)
def test_what_is_wrong_is_said(arguments, words) -> None:
    with pytest.raises(UserError, match=words):
        get(f"new_part({arguments})")
