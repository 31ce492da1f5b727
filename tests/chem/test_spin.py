"""Spin: by the number of electrons, unless a record or the user says otherwise."""

from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem

from molflowctl.chem.ensemble import embed, force_field
from molflowctl.chem.spin import (
    SpinError,
    declare,
    declared,
    multiplicity,
    said_by_extension,
    said_by_record,
)
from molflowctl.chem.units import HARTREE_TO_KCAL_MOL
from molflowctl.io.library import read_molecules
from molflowctl.io.library_writers import open_writer
from molflowctl.properties import PropertyError, get
from molflowctl.properties.cache import geometry_key
from molflowctl.properties.energies.xtb import single_point

CASES = (Path(__file__).parents[1] / "cases" / "carbenes.smi").read_text().split("\n")
CARBENES = [line.split()[0] for line in CASES if line]
OWN = ["C1CCCC1=[C]", "[C]1N(C)C(C)=C(C)N1C", "F[Si]F", "[O]"]
BACKENDS = ["tblite", "xtb-python"]


def made(smiles: str) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert embed(mol, 1, 1)
    return mol


@pytest.mark.parametrize("smiles", [*CARBENES, *OWN])
def test_an_even_number_of_electrons_is_a_singlet(smiles):
    assert multiplicity(Chem.MolFromSmiles(smiles)) == 1
    assert multiplicity(Chem.AddHs(Chem.MolFromSmiles(smiles))) == 1


@pytest.mark.parametrize(
    ("smiles", "expected"),
    [("C[CH2]", 2), ("[OH]", 2), ("C[N+](C)(C)C", 1), ("[O][O]", 1), ("[Na]", 2), ("[Fe+3]", 2)],
)
def test_what_follows_from_electrons(smiles, expected):
    mol = Chem.MolFromSmiles(smiles)
    assert multiplicity(mol) == expected
    assert get("multiplicity")(mol) == {"multiplicity": expected}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("smiles", [CARBENES[0], "F[Si]F"])
def test_both_programs_take_the_singlet(smiles, backend):
    mol = made(smiles)
    plain = single_point(mol, backend=backend)
    declare(mol, 1)
    assert single_point(mol, backend=backend).energy_hartree == plain.energy_hartree
    declare(mol, 3)
    triplet = single_point(mol, backend=backend)
    assert triplet.energy_hartree - plain.energy_hartree > 0.05
    assert triplet.gap_eV != plain.gap_eV


def test_the_first_carbene_lies_62_8_kcal_below_its_triplet():
    mol = made(CARBENES[0])
    force_field(mol)
    energies = []
    for value in (None, 3):
        declare(mol, value)
        energies.append(single_point(mol).energy_hartree)
    assert np.diff(energies)[0] * HARTREE_TO_KCAL_MOL == pytest.approx(62.8, abs=0.5)


@pytest.mark.parametrize("value", [2, 4, 11])
def test_what_does_not_go_with_the_electrons_is_no_value(value):
    mol = made("[CH2]")
    declare(mol, value)
    words = f"multiplicity of {value} does not go with 8 electrons"
    with pytest.raises(PropertyError, match=words):
        get("multiplicity")(mol)
    assert words in single_point(mol).error


def test_an_impossible_multiplicity_is_refused():
    for value in (0, -1, 16):
        with pytest.raises(SpinError, match="whole number from 1 to 15"):
            declare(Chem.MolFromSmiles("C"), value)
    for text in ("two", "1.5", "1.0.0", "0", "0.0", "99999999999999999999", "²"):
        with pytest.raises(SpinError, match="whole number from 1 to 15"):
            said_by_record("", {"multiplicity": text})


@pytest.mark.parametrize(
    ("block", "tags", "expected"),
    [
        ("", {}, None),
        ("M  RAD  1   2   1", {}, 1),
        ("M  RAD  1   2   2", {}, 2),
        ("M  RAD  1   2   3\nM  END", {}, 3),
        ("M  RAD  2   2   2   4   2", {}, 1),
        ("M  RAD  2   2   3   4   2", {}, 4),
        ("M  V30 2 C 0 0.7 0 0 RAD=3 VAL=2", {}, 3),
        ("M  RAD  1   2   3", {"Multiplicity": " 1 "}, 1),
        ("", {"multiplicity": ""}, None),
    ],
)
def test_what_a_record_says(block, tags, expected):
    assert said_by_record(block, tags) == expected


def test_a_declaration_stays_with_the_molecule():
    mol = Chem.MolFromSmiles("[CH2]")
    declare(mol, 3)
    options = Chem.PropertyPickleOptions.AllProps
    for copy in (Chem.Mol(mol), Chem.AddHs(mol), Chem.RemoveHs(Chem.AddHs(mol))):
        assert declared(copy) == 3
        assert declared(Chem.Mol(copy.ToBinary(int(options)))) == 3
    assert geometry_key(mol) != geometry_key(Chem.MolFromSmiles("[CH2]"))


@pytest.mark.parametrize("smiles", ["[CH2]", "C[Si]C", "CN1C=CN(C)[C]1", "[CH2]C[CH2]"])
@pytest.mark.parametrize("value", [None, 1, 3])
def test_a_file_says_what_was_used(smiles, value, tmp_path):
    """RDKit writes every carbene as a triplet, and reads both alike."""
    mol = made(smiles)
    declare(mol, value)
    with open_writer(tmp_path / "a.sdf") as writer:
        writer.write(mol, {})
    (record,) = read_molecules(tmp_path / "a.sdf")
    if smiles == "[CH2]C[CH2]":  # two doublets, whose coupling the format does not tell
        assert multiplicity(record.mol) == 1
    else:
        assert multiplicity(record.mol) == (value or 1)
    assert [a.GetNumRadicalElectrons() for a in record.mol.GetAtoms()] == [
        a.GetNumRadicalElectrons() for a in mol.GetAtoms()
    ]


def test_tags_and_columns(tmp_path):
    (tmp_path / "a.csv").write_text("smiles,name,multiplicity\n[CH2],t,3\n[CH2],s,\n[CH2],x,many\n")
    triplet, singlet, bad = read_molecules(tmp_path / "a.csv")
    assert (multiplicity(triplet.mol), multiplicity(singlet.mol)) == (3, 1)
    assert bad.mol is None
    assert "not 'many'" in bad.error


@pytest.mark.parametrize(
    ("extension", "expected"),
    [
        ("|^3:0|", 1),
        ("|^4:0|", 3),
        ("|^7:1|", 4),
        ("|^6:1|", 2),
        ("|^4:0,2|", 5),
        ("|^1:0,^4:2|", 4),
        ("|^1:0|", None),
        ("|^2:0|", None),
        ("|$^4:0;;$|", None),
        ("|&1:1|", None),
    ],
)
def test_what_the_radicals_of_cxsmiles_say(extension, expected):
    assert said_by_extension(extension) == expected


def test_cxsmiles_from_a_file_set_the_spin(tmp_path):
    path = tmp_path / "radicals.smi"
    path.write_text(
        "[CH2] |^4:0| triplet\n[CH2] |^3:0| singlet\n[CH2] |^2:0| open\nC[N] |^4:1| n\n"
    )
    found = [(r.name, multiplicity(r.mol)) for r in read_molecules(path)]
    assert found == [("triplet", 3), ("singlet", 1), ("open", 1), ("n", 3)]


@pytest.mark.parametrize(("text", "expected"), [("1.0", 1), ("3.", 3), ("3.00", 3), (" 2.0 ", 2)])
def test_a_multiplicity_as_tables_write_numbers(text, expected):
    assert said_by_record("", {"multiplicity": text}) == expected


def test_a_triplet_by_the_mol_block_alone_is_noted(tmp_path):
    block = Chem.MolToMolBlock(made("CN1C=CN(C)[C]1"))
    assert "M  RAD  1" in block
    path = tmp_path / "carbenes.sdf"
    path.write_text(
        f"{block}$$$$\n{block}>  <multiplicity>\n3\n\n$$$$\n{block}>  <multiplicity>\n1\n\n$$$$\n"
    )
    by_block, by_tag, singlet = read_molecules(path)
    assert [multiplicity(r.mol) for r in (by_block, by_tag, singlet)] == [3, 3, 1]
    assert "--multiplicity 1" in by_block.note
    assert by_tag.note == singlet.note == ""
