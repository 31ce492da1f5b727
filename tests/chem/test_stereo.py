"""Stereo read off coordinates: against embedded molecules, their mirror images, and RDKit."""

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdMolTransforms

from molflowctl.chem.ensemble import embed
from molflowctl.chem.stereo import (
    across_double_bonds,
    stereo_kept,
    stereocentres,
    stereoisomers,
    unspecified_stereo,
)

CHIRAL = [
    "C[C@@H]1C[N@]1CC#N",
    "C[C@H](O)F",
    "C[C@@H](O)F",
    "O[C@H]1C[C@@H]1C#N",
    "C[S@](=O)CC",
    "C[P@](=O)(O)CC",
]
DOUBLE = ["C/C=C/C", "C/C=C\\F", "[H]/N=C(/C)N", "C/C(F)=C(/Cl)CC"]
STEREO = [
    "C[C@@H]1C[N@]1CC#N",
    "C[C@H](O)F",
    "C[C@@H](O)[C@H](N)F",
    "O[C@H]1C[C@@H]1C#N",
    "C/C=C/C",
    "C/C(F)=C(/Cl)CC",
    "[H]/N=C(/C)N",
    "C[S@](=O)CC",
    "C[C@H]1CC[C@@H](O)CC1",
]


def embedded(smiles: str, hydrogens: bool = True, seed: int = 1) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=seed) == 0
    return mol if hydrogens else Chem.RemoveHs(mol)


def made(smiles: str, n: int = 3, seed: int = 0) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert embed(mol, n, seed) == n
    return mol


def edited(mol: Chem.Mol, change) -> Chem.Mol:
    mol = Chem.Mol(mol)
    for conformer in mol.GetConformers():
        conformer.SetPositions(np.ascontiguousarray(change(conformer.GetPositions())))
    return mol


def volumes(mol: Chem.Mol, positions: np.ndarray) -> list[float]:
    edges = [[positions[k] - positions[q[4]] for k in q[1:4]] for q in stereocentres(mol)]
    return [float(np.linalg.det(e)) for e in edges]


@pytest.mark.parametrize("hydrogens", [True, False], ids=["all atoms", "heavy atoms"])
@pytest.mark.parametrize("smiles", CHIRAL)
def test_the_right_hand_has_positive_volumes(smiles, hydrogens):
    mol = embedded(smiles, hydrogens)
    x = mol.GetConformer().GetPositions()
    assert volumes(mol, x)
    assert min(volumes(mol, x)) > 0.3
    assert max(volumes(mol, x * [1, 1, -1])) < -0.3


@pytest.mark.parametrize("smiles", CHIRAL)
def test_volumes_do_not_depend_on_the_order_of_atoms(smiles):
    mol = embedded(smiles)
    order = np.random.default_rng(0).permutation(mol.GetNumAtoms()).tolist()
    moved = Chem.RenumberAtoms(mol, order)
    found = sorted(volumes(moved, moved.GetConformer().GetPositions()))
    np.testing.assert_allclose(found, sorted(volumes(mol, mol.GetConformer().GetPositions())))


@pytest.mark.parametrize("smiles", DOUBLE)
def test_cis_pairs_are_nearer_than_trans_pairs(smiles):
    mol = embedded(smiles)
    x = mol.GetConformer().GetPositions()
    found = across_double_bonds(mol)
    assert found
    for bond in mol.GetBonds():
        if bond.GetStereo() == Chem.BondStereo.STEREONONE:
            continue
        ends = np.array([bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()])
        axis = x[ends[1]] - x[ends[0]]
        axis /= np.linalg.norm(axis)
        for i, j, cis in found:
            out = [x[i] - x[ends], x[j] - x[ends]]
            out = [(v - np.outer(v @ axis, axis))[0] for v in out]
            assert (out[0] @ out[1] > 0) == cis


@pytest.mark.parametrize("hydrogens", [True, False], ids=["all atoms", "heavy atoms"])
@pytest.mark.parametrize("smiles", STEREO)
def test_stereo_is_seen_in_coordinates(smiles, hydrogens):
    mol = made(smiles)
    mol = mol if hydrogens else Chem.RemoveHs(mol)
    assert all(stereo_kept(mol, c.GetId()) for c in mol.GetConformers())
    mirrored = edited(mol, lambda x: x * [1, 1, -1])
    chiral = bool(stereocentres(mol))
    assert stereo_kept(mirrored, 0) is not chiral


@pytest.mark.parametrize("angle", [0, 70, 90, 110, 180])
def test_a_double_bond_that_is_turned(angle):
    mol = made("C/C=C/C")  # trans, 180 degrees
    a, b, c, d = 0, 1, 2, 3
    rdMolTransforms.SetDihedralDeg(mol.GetConformer(0), a, b, c, d, angle)
    assert stereo_kept(mol, 0) == (angle == 180)


def test_one_wrong_centre_of_three_is_found():
    right, wrong = "C[C@H](O)[C@H](F)[C@@H](N)Cl", "C[C@H](O)[C@@H](F)[C@@H](N)Cl"
    mol, other = made(right, 1), made(wrong, 1)
    mol.GetConformer().SetPositions(other.GetConformer().GetPositions())
    assert not stereo_kept(mol)


@pytest.mark.parametrize(
    ("smiles", "open_", "isomers"),
    [
        ("CC(O)F", 1, 2),
        ("C[C@H](O)F", 0, 1),
        ("CC=CC(O)F", 2, 4),
        ("CC(O)C(C)O", 2, 3),
        ("CC=CC=CC", 2, 3),
        ("CC=C=CC", 0, 1),  # an allene has a hand, which is no mark of its double bonds
        ("CC=C=CC(O)F", 1, 2),
        ("CC=C=C(C)C=CC", 1, 2),
        ("CC=C=C=CC", 0, 1),
        ("CC=C=O", 0, 1),
        ("CC=[N+]=[N-]", 0, 1),
    ],
)
def test_stereoisomers(smiles, open_, isomers):
    mol = Chem.MolFromSmiles(smiles)
    assert unspecified_stereo(mol) == open_
    found = {Chem.MolToSmiles(m) for m in stereoisomers(mol, 16)}
    assert len(found) == isomers
    assert len(stereoisomers(mol, 1)) == 1


def test_only_stereoisomers_that_can_be_built():
    found = [Chem.MolToSmiles(m) for m in stereoisomers(Chem.MolFromSmiles("CC12CC(F)(C1)C2"), 8)]
    assert len(found) <= 1  # a bridge holds its ends


@pytest.mark.parametrize("smiles", ["C[C@@H](O)[C@H](N)F", "O[C@H]1C[C@@H]1C#N", "C/C=C/[C@H](C)O"])
def test_rdkit_reads_the_same_stereo_off_shaken_coordinates(smiles):
    """But where a centre lies beside its four neighbours."""
    mol, generator = made(smiles, 1), np.random.default_rng(0)
    wanted, agreed = Chem.MolToSmiles(Chem.RemoveHs(mol)), []
    for _ in range(60):
        shaken = edited(mol, lambda x: x + generator.normal(0, 0.25, x.shape))
        kept = stereo_kept(shaken)
        Chem.AssignStereochemistryFrom3D(shaken)
        same = Chem.MolToSmiles(Chem.RemoveHs(shaken)) == wanted
        agreed.append(kept == same)
    assert np.mean(agreed) > 0.75


@pytest.mark.parametrize(
    "smiles",
    [
        "CN=[N+]=[N-]",  # azide
        "CCN=C=O",
        "CN=C=NC",
        "NC(N)=N",
        "[SiH4]",
        "C[SiH2][SiH2]C",
        "[AlH4-].[Li+]",
        "COP(=O)([O-])OCC",  # a phosphodiester
        "COP(=S)([S-])OCC",
        "[O-]S(=O)c1ccccc1",
        "CCP(=O)(O)OC",  # the proton of a phosphonate is on either oxygen
        "O=S(O)c1ccccc1",
        "NP(=O)(O)OC",
        "O=[PH](O)OC",
        "CP(=O)(O)OP(=O)(O)CC",
        "CS(=N)(N)=O",
        "C12C3C4C1C5C2C3C45",  # cubane
        "C1C2CC3CC1CC(C2)C3",  # adamantane
        "C1CN2CCC1CC2",
        "[H]C([H])([2H])C",
    ],
)
def test_nothing_is_open_where_every_choice_gives_one_molecule(smiles):
    assert unspecified_stereo(Chem.MolFromSmiles(smiles)) == 0
    assert unspecified_stereo(Chem.AddHs(Chem.MolFromSmiles(smiles))) == 0


@pytest.mark.parametrize(
    ("smiles", "expected"),
    [
        ("[2H]C(C)O", 1),
        ("C[Si](F)(Cl)CC", 1),
        ("COP(=O)(S)OCC", 1),
        ("COP(=O)([S-])OCC", 1),  # sulfur and oxygen differ
        ("[18O-]P(=O)(OC)OCC", 1),
        ("CCP(=O)(C)OC", 1),
        ("CCS(C)=O", 1),
        ("CCS(C)(=O)=N", 1),
        ("CC(N)P(=O)(O)OC", 1),
        ("CC(N)=N", 1),
        ("CC=C1CCC(C)CC1", 2),
        ("CC1(C)C2CCC1(C)C(=O)C2", 2),  # camphor
        ("C1CCC2CCCCC2C1", 2),  # decalin
    ],
)
def test_what_is_open_stays_open(smiles, expected):
    assert unspecified_stereo(Chem.MolFromSmiles(smiles)) == expected
