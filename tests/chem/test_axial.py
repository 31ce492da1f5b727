"""Laws of the hands of allenes and crowded single bonds."""

import random

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDepictor, rdDistGeom, rdMolTransforms

from molflowctl.chem.axial import axes, axes_text, declare_axes, hands, hands_kept
from molflowctl.chem.graphs import EXACT
from molflowctl.chem.identity import (
    identity,
    in_canonical_order,
    normalised,
    read_identity,
    same_molecule,
)
from molflowctl.chem.stereo import stereo_kept
from molflowctl.properties.geometries.starting import start

BIARYLS = [
    "Oc1ccc2ccccc2c1-c1c(O)ccc2ccccc12",
    "Cc1cccc(Br)c1-c1c(C)cccc1Cl",
    "Cc1cccc(C(=O)O)c1-c1c(C)cccc1Cl",
    "COc1cccc(I)c1-c1c(Br)cccc1C",
    "CC(=O)N(C)c1c(C)cccc1Cl",
    "CCN(CC)C(=O)c1c(C)cccc1Cl",
    "Cc1cccc(Br)c1N1C(=O)CSC1=S",
]
ALLENES = ["CC=C=CC", "CC(F)=C=CC", "OC(=O)C=C=C(C)Cl", "FC=C=CCl"]
WITHOUT = [
    "CC=C=C",
    "CC=C=C(C)C",
    "CC=C=C=CC",  # cis and trans
    "c1ccccc1-c1ccccc1",
    "Cc1ccccc1-c1ccccc1C",  # turns at room temperature
    "Cc1ccccc1-c1c(C)cccc1F",
    "Cc1cccc(C)c1-c1c(C)cccc1Br",  # one ring is symmetric
    "Cc1cccc(Cl)c1C(=O)O",
    "CC(=O)Nc1c(C)cccc1Cl",
    "C1=CCCCC1",
    "CC(=O)N1CCC[C@H]2CCC[C@@H]21",  # an amide, flat but for what the draw bends
    "C[C@@H]1CCCCN1C(=O)c1ccccc1",
    "CC(=O)N1CCc2c(C)cccc21",
    "CC(=O)n1c(C)c(Cl)c2ccccc21",
    "C[C@H]1CCCCN1c1ccccc1C",  # an amine
    "Cc1ccccc1N1CCOC[C@@H]1C",
    "Cc1ccccc1C(=O)N(C)CC",  # one ortho substituent: turns at room temperature
    "CCN(C(C)=O)c1ccccc1C",
    "Cc1c(C(=O)N2CCOCC2)c(C(F)(F)F)nn1C",  # rings of five
    "COc1ccc(-n2nnc(CO)c2-c2ccccc2C)cc1",
]


def embedded(smiles, seed):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=seed) == 0
    return mol


def mirrored(mol):
    other = Chem.Mol(mol)
    conformer = other.GetConformer()
    conformer.SetPositions(conformer.GetPositions() * [1.0, 1.0, -1.0])
    return other


def forms(mol, seed):
    """Turned in space, in another order, with hydrogens counted, with atom maps."""
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turn *= np.linalg.det(turn)
    turned = Chem.Mol(mol)
    turned.GetConformer().SetPositions(mol.GetConformer().GetPositions() @ turn.T + 3.0)
    turned = Chem.RenumberAtoms(turned, rng.permutation(mol.GetNumAtoms()).tolist())
    mapped = Chem.Mol(turned)
    for atom in mapped.GetAtoms():
        atom.SetAtomMapNum(atom.GetIdx() + 1)
    return [turned, mapped, Chem.RemoveHs(turned), Chem.RemoveHs(mapped)]


@pytest.mark.parametrize("smiles", BIARYLS + ALLENES)
def test_a_hand_is_that_of_the_geometry(smiles):
    found = set()
    for seed in range(8):
        mol = embedded(smiles, seed)
        ((axis, sign),) = hands(mol)
        assert sign in (-1, 1)
        ((same, opposite),) = hands(mirrored(mol))
        assert (same, opposite) == (axis, -sign)
        for form in forms(mol, seed):
            assert [hand for _, hand in hands(form)] == [sign]
        found.add(sign)
    assert found == {-1, 1}  # nothing in the SMILES tells it


@pytest.mark.parametrize("smiles", WITHOUT)
def test_what_turns_or_is_symmetric_has_no_axis(smiles):
    assert axes(Chem.MolFromSmiles(smiles)) == []
    names = {identity(embedded(smiles, seed)) for seed in range(4)}
    assert names == {identity(Chem.MolFromSmiles(smiles))}


@pytest.mark.parametrize("smiles", BIARYLS + ALLENES)
def test_the_hand_is_part_of_the_identity(smiles):
    flat = Chem.MolFromSmiles(smiles)
    mol = embedded(smiles, 1)
    other = mirrored(mol)
    assert len({identity(mol), identity(other), identity(flat)}) == 3
    assert len({identity(m, stereo=False) for m in (mol, other, flat)}) == 1
    for one in (mol, other):
        for form in forms(one, 5):
            assert same_molecule(form, one)
        again = read_identity(identity(one))
        assert Chem.MolToSmiles(again) == Chem.MolToSmiles(normalised(flat))
    # Conformers of one hand are one molecule.
    by_hand = {}
    for seed in range(8):
        drawn = embedded(smiles, seed)
        by_hand.setdefault(hands(drawn)[0][1], set()).add(identity(drawn))
    assert sorted(map(len, by_hand.values())) == [1, 1]


def test_the_sign_by_hand():
    """1,3-Difluoroallene, the far fluorine at -90 degrees from the near one."""
    mol = Chem.MolFromSmiles("FC=C=CF")
    conformer = Chem.Conformer(5)
    conformer.Set3D(True)
    conformer.SetPositions(
        np.array([[0, 1.2, -0.6], [0, 0, 0], [0, 0, 1.3], [0, 0, 2.6], [1.2, 0, 3.2]], dtype=float)
    )
    mol.AddConformer(conformer)
    assert rdMolTransforms.GetDihedralDeg(conformer, 0, 1, 3, 4) == pytest.approx(-90)
    assert hands(mol) == [((0, 1, 3, 4), -1)]


def test_a_planar_geometry_tells_nothing():
    mol = embedded("CC=C=CC", 1)
    conformer = mol.GetConformer()
    positions = conformer.GetPositions()
    axis, _ = hands(mol)[0]
    positions[axis.last] = positions[axis.end] + positions[axis.first] - positions[axis.begin]
    conformer.SetPositions(positions)
    assert hands(mol) == [(axis, 0)]
    assert identity(mol) == "CC=C=CC"


@pytest.mark.parametrize("smiles", BIARYLS[:4])
def test_a_wedge_at_the_axis_is_the_hand(smiles):
    """RDKit keeps a mark when it makes a geometry: that is what it says."""
    for seed in range(3):
        mol = Chem.MolFromSmiles(smiles)
        order = random.Random(seed).sample(range(mol.GetNumAtoms()), mol.GetNumAtoms())
        mol = Chem.RenumberAtoms(mol, order)
        rdDepictor.Compute2DCoords(mol)
        (axis,) = axes(mol)
        for wedge in (1, 6):
            drawn = Chem.MolFromMolBlock(with_wedge(mol, axis.begin, axis.first, wedge))
            ((_, sign),) = hands(drawn)
            full = Chem.AddHs(drawn)
            rdDistGeom.EmbedMolecule(full, randomSeed=seed)
            assert [hand for _, hand in hands(full)] == [sign] != [0]
            assert same_molecule(drawn, full)
            assert not same_molecule(drawn, mirrored(full))


@pytest.mark.parametrize("smiles", BIARYLS[:4])
def test_a_first_geometry_has_the_hand_of_the_wedge(smiles):
    mol = Chem.MolFromSmiles(smiles)
    rdDepictor.Compute2DCoords(mol)
    (axis,) = axes(mol)
    found = []
    for wedge in (1, 6):
        drawn = Chem.MolFromMolBlock(with_wedge(mol, axis.begin, axis.first, wedge))
        full, _ = in_canonical_order(Chem.AddHs(drawn))
        assert axes_text(full) == axes_text(drawn) != ""
        found.append(hands(start(Chem.AddHs(drawn)).mol)[0][1])
        assert found[-1] == hands(drawn)[0][1]
    assert sorted(found) == [-1, 1]


@pytest.mark.parametrize("smiles", BIARYLS + ALLENES)
def test_only_a_declared_hand_is_kept(smiles):
    record = Chem.RemoveHs(forms(embedded(smiles, 3), 1)[0])
    told = axes_text(record)
    for declared, mine, mirrors in ((told, True, False), ("", True, True)):
        plain = Chem.AddHs(Chem.MolFromSmiles(Chem.MolToSmiles(record)))
        declare_axes(plain, declared)
        for seed in range(6):
            rdDistGeom.EmbedMolecule(plain, randomSeed=seed)
            same = axes_text(plain) == told
            assert stereo_kept(plain) == (mine if same else mirrors)
            assert stereo_kept(mirrored(plain)) == (mirrors if same else mine)
            assert hands_kept(Chem.Mol(plain.ToBinary(EXACT))) == (mine if same else mirrors)


def test_an_axis_beside_open_centres_is_told_as_with_known_ones():
    """Ranks are those of the constitution: enumerating stereoisomers leaves the text as it is."""
    text = "C[C@H](O)c1cccc(Br)c1-c1c(C)cccc1Cl"
    known, other = (Chem.AddHs(Chem.MolFromSmiles(s)) for s in (text, text.replace("@", "@@")))
    bare = Chem.AddHs(Chem.MolFromSmiles(text.replace("[C@H]", "C")))
    texts = set()
    for mol in (known, other, bare):
        rdDistGeom.EmbedMolecule(mol, randomSeed=4)
        texts.add(axes_text(mol if hands(mol)[0][1] > 0 else mirrored(mol)))
    assert len(texts) == 1
    assert texts != {""}


def with_wedge(mol, begin, end, wedge):
    lines = Chem.MolToMolBlock(mol).split("\n")
    atoms, bonds = int(lines[3][:3]), int(lines[3][3:6])
    for row in range(4 + atoms, 4 + atoms + bonds):
        pair = {int(lines[row][:3]) - 1, int(lines[row][3:6]) - 1}
        if pair == {begin, end}:
            lines[row] = f"{begin + 1:3d}{end + 1:3d}{lines[row][6:9]}{wedge:3d}"
    return "\n".join(lines)
