"""The benchmark of designs around drugs: what it asks for, and how it judges."""

import math
from pathlib import Path

import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from molflowctl.models.denovo import DeNovoFlow

FILE = Path(__file__).parents[2] / "benchmarks" / "denovo" / "around.py"
SMALL = {"width": 32, "pair_width": 8, "heads": 2, "vectors": 4, "depth": 1}


def test_every_linker_is_one_and_leaves_two_fragments(script) -> None:
    assert len(script.DRUGS) == 20
    assert len(script.LINKERS) == 10
    for name, pattern in script.LINKERS.items():
        mol = Chem.MolFromSmiles(script.DRUGS[name])
        query = Chem.MolFromSmarts(pattern)
        (linker,) = {frozenset(match) for match in mol.GetSubstructMatches(query)}
        rest = Chem.RWMol(mol)
        for atom in sorted(linker, reverse=True):
            rest.RemoveAtom(atom)
        assert len(Chem.GetMolFrags(rest)) == 2


def test_drugs_are_of_the_flow(script) -> None:
    flow = DeNovoFlow.from_pretrained("druglike")
    for smiles in script.DRUGS.values():
        mol = Chem.MolFromSmiles(smiles)
        assert {atom.GetAtomicNum() for atom in mol.GetAtoms()} <= set(flow.elements)
        assert mol.GetNumAtoms() in flow.sizes
        assert 5 < len(script.scaffold(mol)) < mol.GetNumAtoms()


def embedded(smiles: str, seed: int = 1) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=seed) == 0
    return Chem.RemoveHs(mol)


@pytest.mark.parametrize(
    ("smiles", "kept", "filled"),
    [
        ("C1(CC1)CO", True, True),
        ("C1(CC1)N(C)C=O", True, True),
        ("C1CC1.CO", True, False),  # the place is left empty
        ("C1(CC1O)CO", False, False),  # bonded at a closed atom
        ("C1(CO1)CO", False, False),  # another atom
        ("C1(C=C1)CO", False, False),  # another order
        ("C(CCC)CO", False, False),  # a bond is missing
    ],
)
def test_a_core_is_there_or_not(script, smiles, kept, filled) -> None:
    check = script.CoreCheck(embedded("C1(CC1)OC"), [0, 1, 2])
    found = check(Chem.MolToMolBlock(embedded(smiles)))
    assert (found.kept, found.filled) == (kept, filled)


def test_the_other_hand_is_another_core(script) -> None:
    check = script.CoreCheck(embedded("[C@H]1(CCCO1)CC"), [0, 1, 2, 3, 4])
    assert check(Chem.MolToMolBlock(embedded("[C@H]1(CCCO1)N"))).kept
    assert not check(Chem.MolToMolBlock(embedded("[C@@H]1(CCCO1)N"))).kept
    # A place that was left empty is no centre, whichever hydrogen would have been replaced.
    for seed in range(4):
        found = check(Chem.MolToMolBlock(embedded("C1CCCO1", seed)))
        assert (found.kept, found.filled) == (True, False)


@pytest.mark.parametrize("rest", ["c1(O)c(O)cccc1", "c12c(cccc1)cccn2", "c12c(cccc1)OCO2"])
def test_a_ring_that_is_fused_to_an_aromatic_core_changes_nothing_of_it(script, rest) -> None:
    def ring_first(mol: Chem.Mol) -> Chem.Mol:
        """The atoms of the ring first, those with others beside them at the front."""
        for ring in mol.GetSubstructMatches(Chem.MolFromSmarts("c1ccccc1"), uniquify=False):
            taken = [len(mol.GetAtomWithIdx(a).GetNeighbors()) > 2 for a in ring]
            if taken == [True, True, False, False, False, False]:
                others = [a for a in range(mol.GetNumAtoms()) if a not in ring]
                return Chem.RenumberAtoms(mol, [*ring, *others])
        raise AssertionError

    check = script.CoreCheck(ring_first(embedded("COc1ccccc1OC")), [0, 1, 2, 3, 4, 5])
    found = check(Chem.MolToMolBlock(ring_first(embedded(rest))))
    assert (found.kept, found.filled) == (True, True)


def test_distances_to_the_pose_are_of_each_fragment(script) -> None:
    drug = embedded("C1(CC1)CCC2CC2")
    check = script.CoreCheck(drug, [0, 1, 2, 5, 6, 7])
    assert check.pieces == [[0, 1, 2], [3, 4, 5]]
    order = [0, 1, 2, 5, 6, 7, 3, 4]
    for shift, near in ((0.0, True), (0.4, True), (0.6, False)):  # of one of the two fragments
        moved = Chem.RenumberAtoms(drug, order)
        for atom in (3, 4, 5):
            place = moved.GetConformer().GetAtomPosition(atom)
            place.x += shift
            moved.GetConformer().SetAtomPosition(atom, place)
        found = check(Chem.MolToMolBlock(moved))
        assert (found.kept, found.near) == (True, near)
        assert found.rmsd == pytest.approx(shift / math.sqrt(2), abs=1e-3)


def test_who_is_told_is_also_drawn_as_if_not(script) -> None:
    flow = DeNovoFlow([6, 8], [0], {"6": 1}, network=SMALL | {"conditional": True})
    found = script.forms(flow)
    assert [one.conditional for one in found.values()] == [True, False]
    plain = DeNovoFlow([6, 8], [0], {"6": 1}, network=SMALL)
    assert list(script.forms(plain)) == ["not told"]


def test_figures_are_means_over_drugs_and_relative_to_plain(script) -> None:
    def row(task, name, form, valid, **more):
        return script.Row(task, name, form, 10, valid, valid, **more)

    rows = [
        row("scaffolds", "a", "told", 4, kept=4, rmsd=0.1, checked=4, posebusters=2),
        row("scaffolds", "b", "told", 8, kept=6, rmsd=0.2, checked=4, posebusters=4),
        row("scaffolds", "c", "told", 0),
        row("plain", "", "plain", 8, checked=8, posebusters=6, scaffolds={"a": 2, "b": 0}),
        *(row("leads", "atenolol", n, 9, similarity=s) for n, s in (("0.1", 0.8), ("0.3", 0.4))),
        *(row("leads", "caffeine", n, 9, similarity=s) for n, s in (("0.1", 0.3), ("0.3", 0.4))),
    ]
    found = script.figures(rows)
    told = found["scaffolds, told"]
    assert told["valid"]["value"] == pytest.approx(0.4)
    assert told["valid, relative"]["value"] == pytest.approx(0.5)
    assert told["core"]["value"] == pytest.approx((1 + 0.75) / 2)  # of drugs with molecules
    assert told["PoseBusters, relative"]["value"] == pytest.approx(1.0)
    assert told["libraries without a molecule"] == 1
    assert told["largest RMSD"] == 0.2
    assert found["plain, plain"]["has the scaffold"]["value"] == pytest.approx(0.1)
    assert found["plain, plain"]["scaffolds never drawn"] == 1
    assert found["leads"]["falls at each step"] == 1
    assert "| scaffolds, told | largest RMSD | 0.2 |" in script.table(found)
