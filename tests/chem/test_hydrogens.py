"""Where hydrogens point that a graph leaves open: of the molecule, not of its frame or order."""

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers, rdMolTransforms

from molflowctl.chem import graphs as chem
from molflowctl.chem.hydrogens import point

OPEN = {
    "acid": "CCC(=O)O",
    "amide": "CC(N)=O",
    "imine": "N=C1CCCO1",
    "imidic acid": "CC(=N)O",
    "diol": "CC(O)CO",
    "aziridine": "CC1NC1C#N",
    "phenol": "Oc1ccccc1F",
    "thiol": "O=CCS",
    "amino alcohol": "NCCO",
    "hydroxylamine": "CC(=O)NO",
    "no hydrogen that can turn": "CC1CC1C=O",
    "water": "O",
    "methylamine": "CN",
}


def heavy(smiles: str) -> chem.Graph3D:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=7) == 0
    rdForceFieldHelpers.MMFFOptimizeMolecule(mol)
    return chem.from_mol(mol, hydrogens=False)


def seen_otherwise(graph: chem.Graph3D, rng: np.random.Generator) -> chem.Graph3D:
    """The same molecule in another frame, its atoms in another order."""
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turn *= np.linalg.det(turn)  # -1 for a reflection: minus it is a rotation
    order = rng.permutation(len(graph.numbers))
    return chem.Graph3D(
        graph.numbers[order],
        graph.charges[order],
        graph.bonds[np.ix_(order, order)],
        (graph.positions @ turn.T)[order],
    )


def whole(graph: chem.Graph3D) -> Chem.Mol:
    made = chem.assemble(graph)
    assert isinstance(made, chem.Molecule)
    return made.mol


def field_of(mol: Chem.Mol):
    properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol)
    field = rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, properties)
    field.Initialize()
    return field


def energy(mol: Chem.Mol) -> float:
    """MMFF94, kcal/mol."""
    return field_of(mol).CalcEnergy()


@pytest.mark.parametrize("smiles", OPEN.values(), ids=OPEN)
def test_frame_and_order_do_not_matter(smiles):
    graph, rng = heavy(smiles), np.random.default_rng(0)
    energies = [energy(whole(seen_otherwise(graph, rng))) for _ in range(6)]
    assert np.ptp(energies) < 0.2  # a third of kT: nearer minima are told apart by 15 degrees


@pytest.mark.parametrize("smiles", OPEN.values(), ids=OPEN)
def test_no_other_start_relaxes_to_a_lower_energy(smiles):
    """Hydrogens relaxed from random turns of what can turn never end below."""
    mol = whole(heavy(smiles))
    lowest, rng = energy(mol), np.random.default_rng(1)
    pattern = Chem.MolFromSmarts("[#1][!#6;!#1]~[!#1]~[*]")
    for _ in range(12):
        other = Chem.Mol(mol)
        for match in other.GetSubstructMatches(pattern):
            # The hydrogens that ride on the bond turn with it.
            if not other.GetBondBetweenAtoms(*match[1:3]).IsInRing():
                angle = float(rng.uniform(-180, 180))
                rdMolTransforms.SetDihedralDeg(other.GetConformer(), *match[::-1], angle)
        field = field_of(other)
        for atom in other.GetAtoms():
            if atom.GetAtomicNum() != 1:
                field.AddFixedPoint(atom.GetIdx())
        field.Minimize(maxIts=2000)
        assert energy(other) > lowest - 0.2


@pytest.mark.parametrize("smiles", ["OC=O", "CC(=O)O", "CCC(=O)O", "OC(=O)c1ccccc1"])
def test_acids_are_syn(smiles):
    """Formic acid by 4 kcal/mol (Hocking, Z. Naturforsch. A 31, 1113 (1976))."""
    graph, rng = heavy(smiles), np.random.default_rng(2)
    pattern = Chem.MolFromSmarts("[#1]OC=O")
    for _ in range(4):
        mol = whole(seen_otherwise(graph, rng))
        (match,) = mol.GetSubstructMatches(pattern)
        assert abs(rdMolTransforms.GetDihedralDeg(mol.GetConformer(), *match)) < 20


@pytest.mark.parametrize("smiles", OPEN.values(), ids=OPEN)
def test_only_what_may_turn_is_moved_and_bonds_keep_their_length(smiles):
    bare = chem.to_mol(heavy(smiles), explicit=False)
    Chem.SanitizeMol(bare)
    mol = Chem.AddHs(bare, addCoords=True)
    free = [a.GetIdx() for a in mol.GetAtoms() if a.GetAtomicNum() == 1]
    before, start = mol.GetConformer().GetPositions(), energy(mol)
    point(mol, field_of(mol), free)
    after = mol.GetConformer().GetPositions()
    assert energy(mol) <= start
    for atom in mol.GetAtoms():
        i, moved = atom.GetIdx(), np.abs(after[atom.GetIdx()] - before[atom.GetIdx()]).max()
        if atom.GetAtomicNum() != 1:
            assert moved == 0
            continue
        j = atom.GetNeighbors()[0].GetIdx()
        if mol.GetAtomWithIdx(j).GetAtomicNum() == 6:
            assert moved == 0
        lengths = [np.linalg.norm(p[i] - p[j]) for p in (before, after)]
        assert lengths[0] == pytest.approx(lengths[1], abs=1e-9)


def test_nothing_turns_that_may_not():
    mol = whole(heavy("CCC(=O)O"))
    rdMolTransforms.SetDihedralDeg(
        mol.GetConformer(), *mol.GetSubstructMatch(Chem.MolFromSmarts("O=CO[#1]")), 180.0
    )
    before = mol.GetConformer().GetPositions()
    point(mol, field_of(mol), [])
    assert np.array_equal(mol.GetConformer().GetPositions(), before)


def test_hydrogens_that_a_graph_shows_stay_where_it_has_them():
    """Of an explicit graph nothing was left open: an anti acid relaxes to an anti acid."""
    mol = whole(heavy("CCC(=O)O"))
    match = mol.GetSubstructMatch(Chem.MolFromSmarts("O=CO[#1]"))
    rdMolTransforms.SetDihedralDeg(mol.GetConformer(), *match, 180.0)
    made = chem.assemble(chem.from_mol(mol, hydrogens=True), "mmff", explicit=True)
    assert isinstance(made, chem.Molecule)
    match = made.mol.GetSubstructMatch(Chem.MolFromSmarts("O=CO[#1]"))
    assert abs(rdMolTransforms.GetDihedralDeg(made.mol.GetConformer(), *match)) > 150
