"""The benchmark of designs around drugs: what it asks for, and how it judges."""

import math
from pathlib import Path

import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from molflowctl.models.around.core import Core
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


@pytest.mark.parametrize(
    ("smiles", "kept"),
    [
        ("C1(CC1)CO", True),
        ("C1(CC1O)CO", False),  # bonded at a closed atom
        ("C1(CO1)CO", False),  # another atom
        ("C1(C=C1)CO", False),  # another order
        ("C(CCC)CO", False),  # a bond is missing
    ],
)
def test_a_core_is_there_or_not(script, smiles, kept) -> None:
    core = Core.from_smiles("[*:1]C1CC1")
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=1) == 0
    assert script.has_core(mol, core) == kept


def test_who_is_told_is_also_drawn_as_if_not(script) -> None:
    flow = DeNovoFlow([6, 8], [0], {"6": 1}, network=SMALL | {"conditional": True})
    found = script.forms(flow)
    assert [one.conditional for one in found.values()] == [True, False]
    plain = DeNovoFlow([6, 8], [0], {"6": 1}, network=SMALL)
    assert list(script.forms(plain)) == ["not told"]


def test_the_table_has_means_over_drugs(script) -> None:
    rows = [
        script.Row("scaffolds", name, "told", 10, valid, 1.0, 1.0, rmsd, 0.5, valid > 0.5)
        for name, valid, rmsd in (("a", 0.4, 0.1), ("b", 0.8, 0.2), ("c", 0.6, math.nan))
    ]
    line = script.table(rows).splitlines()[-1]
    assert line == "| scaffolds | told | 3 | 0.600 | 1.000 | 1.000 | 0.200 | 0.500 | 2 |"
