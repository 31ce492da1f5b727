"""Cores read off molecules: atoms, places to bond, geometry; what is no core says why."""

import json

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdMolTransforms

from molflowctl.errors import UserError
from molflowctl.models.around.core import Core


def posed(smiles: str, shift: float = 0.0) -> Chem.Mol:
    """A molecule with hydrogens and a conformer, moved along x by so many angstrom."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=1) == 0
    move = np.eye(4)
    move[0, 3] = shift
    rdMolTransforms.TransformConformer(mol.GetConformer(), move)
    return mol


@pytest.mark.parametrize(
    ("smiles", "room", "stated"),
    [
        ("[*:1]c1ccc(cc1)S(N)(=O)=O", [1] + 9 * [0], [1] + 9 * [0]),
        ("[*:1]N([*:2])CC", [1, 0, 0], [2, 0, 0]),
        ("C1CC1", [2, 2, 2], [0, 0, 0]),
        ("CC(=O)O", [3, 0, 0, 1], [0, 0, 0, 0]),
        ("c1cc[nH]c1", [1, 1, 1, 1, 1], 5 * [0]),
        ("*C#N", [1, 0], [1, 0]),
    ],
)
def test_where_a_core_may_bond(smiles, room, stated) -> None:
    core = Core.from_smiles(smiles, geometry="free")
    assert list(core.room) == room
    assert list(core.stated) == stated
    assert core.positions is None
    assert not any(core.bodies)


def test_attach_names_atoms_and_hydrogens_stay_at_the_others() -> None:
    core = Core.from_smiles("Cc1ccccc1O", [0, 7])
    assert list(core.room) == [3, 0, 0, 0, 0, 0, 0, 1]
    assert not any(core.stated)


@pytest.mark.parametrize("smiles", ["[*:1]c1ccncc1", "C[N+](C)(C)C[*:1]", "[*:1]C(=O)[O-]"])
def test_a_core_is_its_molecule_without_dummies(smiles) -> None:
    mol = Chem.DeleteSubstructs(Chem.MolFromSmiles(smiles), Chem.MolFromSmarts("[#0]"))
    Chem.Kekulize(mol, clearAromaticFlags=True)
    core = Core.from_smiles(smiles)
    assert list(core.numbers) == [atom.GetAtomicNum() for atom in mol.GetAtoms()]
    assert list(core.charges) == [atom.GetFormalCharge() for atom in mol.GetAtoms()]
    bonds = [
        (*sorted((b.GetBeginAtomIdx(), b.GetEndAtomIdx())), int(b.GetBondTypeAsDouble()))
        for b in mol.GetBonds()
    ]
    assert list(core.bonds) == sorted(bonds)
    assert np.array_equal(core.bond_matrix(), core.bond_matrix().T)


def test_of_a_smiles_what_no_bond_turns_is_rigid() -> None:
    core = Core.from_smiles("c1ccccc1CCC(=O)N")
    ring, carbonyl = core.bodies[:6], core.bodies[8:]
    assert len(set(ring)) == len(set(carbonyl)) == 1
    assert ring[0] != carbonyl[0]
    assert core.bodies[7] == 0  # a lone atom between two bonds that turn
    assert not core.pose
    x = np.array(core.positions)
    assert np.linalg.norm(x[0] - x[1]) == pytest.approx(1.39, abs=0.03)


def test_a_pose_is_one_body_where_it_was() -> None:
    mol = posed("OCC1CC1", shift=30.0)
    core = Core.from_mol(mol)
    assert core.pose
    assert set(core.bodies) == {1}
    np.testing.assert_allclose(core.positions, mol.GetConformer().GetPositions()[:5])
    free = Core.from_mol(mol, geometry="free")
    assert free.positions is None
    assert not free.pose
    assert free.bonds == core.bonds


def test_fragments_are_joined_at_their_poses() -> None:
    left, right = Core.from_mol(posed("C1CC1")), Core.from_mol(posed("[H]C#N", shift=8.0))
    core = Core.joined([left, right])
    assert len(core) == 5
    assert core.fragments() == [[0, 1, 2], [3, 4]]
    np.testing.assert_allclose(core.positions[3:], right.positions)
    assert core.room == left.room + right.room
    assert Core.joined([left]) is left


def test_a_part_of_a_molecule() -> None:
    """Toluene's ring, of anisole: the oxygen and its methyl are to be found again."""
    mol = Chem.RemoveAllHs(posed("COc1ccccc1"))
    ring = [2, 3, 4, 5, 6, 7]
    exact = Core.part_of(mol, ring, exact=True)
    assert exact.room == (1, 0, 0, 0, 0, 0) == exact.stated
    assert Core.part_of(mol, ring, exact=False).room == (1, 1, 1, 1, 1, 1)
    np.testing.assert_allclose(exact.positions, mol.GetConformer().GetPositions()[ring])
    both = Core.part_of(Chem.RemoveAllHs(posed("C1CC1CC=O")), [0, 1, 4, 5], exact=True)
    assert both.stated == (1, 1, 1, 0)
    with pytest.raises(UserError, match="no bond leads"):
        Core.part_of(mol, range(8), exact=True)


@pytest.mark.parametrize("smiles", ["[*:1]c1ccccc1", "CCO"])
def test_json_and_back(smiles) -> None:
    core = Core.from_smiles(smiles)
    assert Core.from_plain(json.loads(json.dumps(core.plain()))) == core


@pytest.mark.parametrize(
    "change",
    [{"charges": [0]}, {"bonds": [[0, 9, 1]]}, {"bonds": [[0, 1, 7]]}, {"more": 1}],
    ids=str,
)
def test_json_that_is_no_core(change) -> None:
    with pytest.raises((ValueError, TypeError)):
        Core.from_plain(Core.from_smiles("CCO").plain() | change)


@pytest.mark.parametrize(
    ("smiles", "attach", "words"),
    [
        ("c1ccc", None, "no SMILES|no molecule"),
        ("C(C)(C)(C)(C)C", None, "valence"),
        ("FC(F)(F)F", None, "no place left"),
        ("CCO", [3], "atoms 0 to 2"),
        ("CC(C)(C)C", [1], "no hydrogen"),
        ("[*:1]CCO", [0], "no --attach"),
        ("C1CC1.CCO", None, "several fragments and no geometry"),
        ("[*]", None, "one single bond"),
        ("[H][H]", None, "heavy atoms"),
        ("C[*]C", None, "one single bond"),
        ("C=[*]", None, "one single bond"),
        ("[CH2]CC", None, "open valence"),
        ("C" * 6000, None, "letters"),
    ],
)
def test_what_is_no_core_says_why(smiles, attach, words) -> None:
    with pytest.raises(UserError, match=words) as caught:
        Core.from_smiles(smiles, attach)
    assert "\n" not in str(caught.value)


def test_fragments_that_cannot_be_joined() -> None:
    here, there = Core.from_mol(posed("C1CC1")), Core.from_mol(posed("CCO", shift=1.0))
    with pytest.raises(UserError, match=r"overlapping.*angstrom apart"):
        Core.joined([here, there])
    with pytest.raises(UserError, match="fragment 2 of 2 has no pose"):
        Core.joined([here, Core.from_smiles("CCO")])
