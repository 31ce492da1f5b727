"""What users give as molecules, and the library that they get."""

import numpy as np
import pandas
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from molflowctl import Library, UserError
from molflowctl.face.library import given
from molflowctl.tasks.memory import Entry


def with_geometry(smiles: str, seed: int = 7) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, seed)
    return mol


SMILES = ["CCO", "c1ccccc1O", "C[C@H](N)C(=O)O"]
MOLS = [Chem.MolFromSmiles(s) for s in SMILES]
ANSWERS = [Chem.CanonSmiles(s) for s in SMILES]
# Each stands for the same three molecules.
SOURCES = {
    "SMILES": SMILES,
    "molecules": MOLS,
    "a generator": (mol for mol in MOLS),
    "a series": pandas.Series(SMILES),
    "a column of SMILES": pandas.DataFrame({"id": [1, 2, 3], "Canonical SMILES": SMILES}),
    "a column of molecules": pandas.DataFrame({"ROMol": MOLS, "activity": [0.5, 1, 2]}),
    "a library": Library([Entry(mol, f"m{k}", {}) for k, mol in enumerate(MOLS)]),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_every_way_to_give_molecules(source):
    records = given(source).records
    assert [Chem.MolToSmiles(record.mol) for record in records] == ANSWERS
    assert [record.place for record in records] == ["molecule 1", "molecule 2", "molecule 3"]


def test_one_molecule_and_one_smiles():
    for source in (MOLS[2], SMILES[2]):
        (record,) = given(source).records
        assert Chem.MolToSmiles(record.mol) == ANSWERS[2]


def test_a_file_stays_a_file(tmp_path):
    assert given("library.sdf.gz") == "library.sdf.gz"
    assert given(tmp_path / "a.smi") == str(tmp_path / "a.smi")


def test_names_and_values_come_along():
    mol = Chem.Mol(MOLS[0])
    mol.SetProp("_Name", "ethanol")
    mol.SetDoubleProp("activity", 1.25)
    (record,) = given([mol]).records
    assert (record.name, record.tags) == ("ethanol", {"activity": "1.25"})
    frame = pandas.DataFrame({"smiles": ["CCO"], "name": ["ethanol"], "activity": [1.25]})
    (record,) = given(frame).records
    assert (record.name, record.tags) == ("ethanol", {"activity": "1.25"})
    (record,) = given(["CCO ethanol"]).records
    assert record.name == "ethanol"


def test_what_cannot_be_read_keeps_its_place():
    one, two, three = given(["CCO", "C1CC", None]).records
    assert (one.mol is not None, two.mol, three.mol) == (True, None, None)
    assert "C1CC" in two.error
    assert three.error == "no molecule"


def test_a_flat_drawing_is_no_geometry_and_the_molecule_of_the_user_stays():
    mol = Chem.Mol(MOLS[1])
    AllChem.Compute2DCoords(mol)
    (record,) = given([mol]).records
    assert record.mol.GetNumConformers() == 0
    assert mol.GetNumConformers() == 1


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ([], "no molecules"),
        (3, "not int"),
        ([3], "3 is neither"),
        (pandas.DataFrame({"qed": [0.5]}), "no column 'smiles'; it has: qed"),
    ],
    ids=["nothing", "a number", "numbers", "a table without molecules"],
)
def test_what_is_no_molecules_is_refused(source, says):
    with pytest.raises(UserError, match=says):
        given(source)


@pytest.fixture
def library():
    tags = [{"qed": 0.4, "made": "by hand"}, {"qed": float("nan"), "made": "twice"}]
    mols = [with_geometry("CCO"), with_geometry("C[C@H](N)C(=O)O")]
    names = ["ethanol", "alanine"]
    made = {"command": "generate", "config": {"seed": 3}}
    return Library(map(Entry, mols, names, tags), ["one note"], made)


def test_a_library_is_a_sequence_of_molecules(library):
    assert len(library) == 2
    assert [mol.GetProp("_Name") for mol in library] == ["ethanol", "alanine"]
    assert library[-1].GetProp("_Name") == "alanine"
    part = library[1:]
    assert (part.names, part.notes, part.made) == (["alanine"], ("one note",), library.made)
    assert "qed" in repr(library)


def test_its_table(library):
    frame = library.frame()
    assert list(frame.columns) == ["name", "smiles", "qed", "made"]
    assert frame.smiles.tolist() == ["CCO", "C[C@H](N)C(=O)O"]
    assert frame.qed[0] == 0.4
    assert np.isnan(frame.qed[1])
    assert "ethanol" in library._repr_html_()


@pytest.mark.parametrize("name", ["out.sdf", "out.sdf.gz", "out.csv", "out.parquet"])
def test_it_is_written_with_its_record_and_read_again(library, tmp_path, name):
    path = library.write(tmp_path / name)
    again = Library.read(path)
    assert again.frame().smiles.tolist() == library.frame().smiles.tolist()
    assert again.names == library.names
    assert [row.get("qed") for row in again.values] == [0.4, None]
    record = (tmp_path / f"{name}.run.json").read_text()
    assert '"seed": 3' in record
    assert '"molflowctl"' in record  # its version
    with pytest.raises(UserError, match="exists"):
        library.write(path)
    library.write(path, overwrite=True)
    if ".sdf" in name:
        there = again[1].GetConformer().GetPositions() - library[1].GetConformer().GetPositions()
        assert np.abs(there).max() < 1e-4


def test_without_geometries_it_is_no_sdf(tmp_path):
    library = Library([Entry(MOLS[0], "flat", {})])
    with pytest.raises(UserError, match=r"1 of 1 molecules \(flat\) have no geometry"):
        library.write(tmp_path / "a.sdf")
    assert library.write(tmp_path / "a.csv").exists()
