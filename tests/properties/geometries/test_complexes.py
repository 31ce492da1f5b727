"""Fragments beside each other: in contact, never one in another, at the minimum of their energy."""

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom
from scipy.optimize import brentq

from molflowctl.properties.geometries.complexes import (
    apart,
    fragments_apart,
    partial_charges,
    place,
    settle,
)


def made(smiles):
    """A molecule with hydrogens, and positions of each of its fragments."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    parts = []
    for piece in Chem.GetMolFrags(mol, asMols=True):
        rdDistGeom.EmbedMolecule(piece, randomSeed=7)
        parts.append(piece.GetConformer().GetPositions())
    return mol, parts


def with_positions(mol, positions):
    copy = Chem.Mol(mol)
    conformer = Chem.Conformer(mol.GetNumAtoms())
    conformer.SetPositions(positions)
    copy.AddConformer(conformer)
    return copy


def gaps(mol, positions):
    """Distances between atoms of different fragments."""
    groups = [list(group) for group in Chem.GetMolFrags(mol)]
    return np.concatenate([
        np.linalg.norm(positions[a][:, None] - positions[b], axis=-1).ravel()
        for k, a in enumerate(groups) for b in groups[:k]
    ])  # fmt: skip


@pytest.mark.parametrize("offset", [0.0, 1.0, 2.9])
def test_two_spheres_touch_where_pythagoras_says(offset):
    """A sphere that flies past at `offset` stops at the square root of 3^2 - offset^2."""
    moving, standing = np.array([[0.0, offset, 0.0]]), np.zeros((1, 3))
    way = apart(moving, np.array([1.0, 0, 0]), standing, np.array([[3.0]]))
    assert way == pytest.approx(np.sqrt(9 - offset**2))
    assert apart(moving, np.array([1.0, 0, 0]), standing, np.array([[offset / 2]])) == 0.0


@pytest.mark.parametrize("smiles", [
    "C[NH3+].[Cl-]", "CC(=O)[O-].[Na+]", "c1ccccc1.c1ccccc1.O", "[NH3+]CC[NH3+].[Cl-].[Cl-]",
    "CN1CCC[C@H]1c1cccnc1.OC(=O)C(O)C(O)C(=O)O", "[K+].[O-]C(=O)CCc1ccccc1",
])  # fmt: skip
def test_fragments_touch_and_keep_their_shape(smiles):
    mol, parts = made(smiles)
    positions, energy = place(mol, parts, np.random.default_rng(0))
    for group, part in zip(Chem.GetMolFrags(mol), parts, strict=True):
        inside = positions[list(group)]
        assert np.linalg.norm(inside[:, None] - inside, axis=-1) == pytest.approx(
            np.linalg.norm(part[:, None] - part, axis=-1)
        )
    assert 1.4 < gaps(mol, positions).min() < 4.6
    assert fragments_apart(with_positions(mol, positions))
    settled, lower = settle(mol, positions)
    assert lower <= energy + 1e-9
    assert fragments_apart(with_positions(mol, settled))
    again, same = place(mol, parts, np.random.default_rng(0))
    assert (again == positions).all()
    assert same == energy


@pytest.mark.parametrize("smiles", ["[Na+].[Cl-]", "[K+].[Cl-]", "[Li+].[Br-]"])
def test_two_ions_settle_at_the_root_of_the_derivative(smiles):
    """-332.0637/r + 0.1 (s^2 - 2 s), s = (R/r)^6: dE/dr = 0 solved by hand."""
    mol, parts = made(smiles)
    table = Chem.GetPeriodicTable()
    radius = sum(table.GetRvdw(atom.GetAtomicNum()) for atom in mol.GetAtoms())

    def slope(r):
        s = (radius / r) ** 6
        return 332.0637 / r**2 - 0.1 * 12 / r * (s**2 - s)

    positions, _ = place(mol, parts, np.random.default_rng(0))
    settled, energy = settle(mol, positions)
    r = brentq(slope, 1.0, 4.0)
    assert gaps(mol, settled) == pytest.approx([r], abs=1e-3)
    s = (radius / r) ** 6
    assert energy == pytest.approx(-332.0637 / r + 0.1 * (s**2 - 2 * s), abs=1e-4)


def test_opposite_charges_come_first():
    """Between two ammonium ions there is a chloride, and no two cations touch."""
    mol, parts = made("C[NH3+].C[NH3+].[Cl-].[Cl-]")
    positions, energy = place(mol, parts, np.random.default_rng(0))
    groups = [list(group) for group in Chem.GetMolFrags(mol)]
    nearest = {
        (a, b): np.linalg.norm(positions[groups[a]][:, None] - positions[groups[b]], axis=-1).min()
        for a, b in [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3)]
    }
    assert nearest[0, 1] > min(nearest[0, 2], nearest[0, 3])
    assert energy < -150  # more than two pairs of ions that are far from each other


def test_what_lies_on_top_is_seen():
    for smiles in ("c1ccccc1.c1ccccc1", "CC(=O)[O-].[Na+]", "O.CCO"):
        mol, parts = made(smiles)
        stacked = np.concatenate([part - part.mean(0) + 0.3 * k for k, part in enumerate(parts)])
        order = np.argsort(np.concatenate(Chem.GetMolFrags(mol)))
        assert not fragments_apart(with_positions(mol, stacked[order]))
    assert fragments_apart(with_positions(Chem.MolFromSmiles("C"), np.zeros((1, 3))))
    nan = with_positions(Chem.MolFromSmiles("C.C"), np.full((2, 3), np.nan))
    assert not fragments_apart(nan)


@pytest.mark.parametrize("smiles", ["C[NH3+].[Cl-]", "[I-].CC", "CB(O)O.O", "F[P-](F)(F)(F)(F)F"])
def test_charges_of_a_fragment_add_up_to_its_own(smiles):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    charges = partial_charges(mol)
    for group in Chem.GetMolFrags(mol):
        formal = sum(mol.GetAtomWithIdx(i).GetFormalCharge() for i in group)
        assert charges[list(group)].sum() == pytest.approx(formal, abs=0.01)
