"""Numbers of substructures, by SMARTS patterns of the user's."""

import pickle

import pytest
from rdkit import Chem

from molflowctl.errors import UserError
from molflowctl.properties import get, score
from molflowctl.properties.registry import split_names
from molflowctl.properties.rewards import PropertyReward

SULFONAMIDE = "smarts:[#7][#16X4](=O)=O"


@pytest.mark.parametrize(
    ("pattern", "smiles", "count"),
    [
        ("[#8]", "OCCO", 2),
        ("c1ccccc1", "c1ccccc1-c1ccccc1", 2),  # each ring once, not once for each of its symmetries
        ("[#7][#16X4](=O)=O", "CS(=O)(=O)NC", 1),
        ("[#7][#16X4](=O)=O", "CS(=O)(=O)C", 0),
        ("[CX4;H3]", "CCC", 2),  # hydrogens are implicit for a pattern, shown or not
    ],
)
@pytest.mark.parametrize("hydrogens", [False, True])
def test_matches_are_counted_once(pattern, smiles, count, hydrogens) -> None:
    mol = Chem.MolFromSmiles(smiles)
    item = get(f"smarts:{pattern}")
    assert item(Chem.AddHs(mol) if hydrogens else mol) == {f"smarts:{pattern}": count}
    assert not item.geometry


def test_workers_can_compute_it() -> None:
    mols = [Chem.MolFromSmiles(s) for s in ("CS(=O)(=O)NC", "CCO")]
    assert score(mols, [SULFONAMIDE], jobs=2)[SULFONAMIDE].tolist() == [1, 0]
    assert pickle.loads(pickle.dumps(get(SULFONAMIDE))) == get(SULFONAMIDE)


def test_it_is_a_reward() -> None:
    reward = PropertyReward('smarts("[#7][#16X4](=O)=O")')
    assert get(reward.properties[0]).compute == get(SULFONAMIDE).compute
    assert reward.value([Chem.MolFromSmiles("CS(=O)(=O)NC")]).tolist() == [1]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("qed, logp", ["qed", "logp"]),
        ("qed,smarts:[N,O],mw", ["qed", "smarts:[N,O]", "mw"]),
        ("smarts:[$([N,O])]C", ["smarts:[$([N,O])]C"]),
        ('qed,smarts("[N,O]"),mw', ["qed", 'smarts("[N,O]")', "mw"]),
        ('smarts("C,(C"), mw', ['smarts("C,(C")', "mw"]),
    ],
)
def test_commas_in_brackets_part_no_names(text, names) -> None:
    assert split_names(text) == names


@pytest.mark.parametrize("hydrogens", [False, True])
def test_as_a_function_it_is_the_same(hydrogens) -> None:
    mol = Chem.MolFromSmiles("CS(=O)(=O)NC")
    name = 'smarts("[#7][#16X4](=O)=O")'
    assert get("smarts( '[#7][#16X4](=O)=O' )")(mol) == {name: 1}
    assert get(name) is get(name)
    assert pickle.loads(pickle.dumps(get(name))) == get(name)
    assert score([mol], [name, "smarts('[#7][#16X4](=O)=O')"]).values.keys() == {name}


@pytest.mark.parametrize("pattern", ["", "[#6", "not a pattern", "[C:1]>>[C:1]O"])
def test_what_is_no_pattern_is_named(pattern) -> None:
    with pytest.raises(UserError, match="pattern"):
        get(f"smarts:{pattern}")
    with pytest.raises(UserError, match="pattern"):
        get(f'smarts("{pattern}")')
