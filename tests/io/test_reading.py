"""What is read of a file: its molecules, their names and tags, and the place of what fails."""

import csv
import gzip
import os
import random
import threading
import time
from pathlib import Path

import numpy as np
import pandas
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from molflowctl.chem.identity import identity
from molflowctl.errors import UserError
from molflowctl.io import opening
from molflowctl.io.library import sdf_record
from molflowctl.io.library_writers import TableWriter
from molflowctl.io.parsing import MOST_ATOMS, is_flat_drawing, parse_block, parse_smiles
from molflowctl.io.reading import count_records, isomers_of_groups, read_molecules, survey

CASES = Path(__file__).parent / "cases"


def geometry(smiles: str) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert AllChem.EmbedMolecule(mol, randomSeed=7) == 0
    return mol


def read(path: Path, text: str | bytes, **options: str):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(read_molecules(path, **options))


def smiles_of(records):
    return [Chem.MolToSmiles(r.mol) if r.mol is not None else None for r in records]


# Enhanced stereo


def test_the_case_of_enhanced_stereo():
    records = list(read_molecules(CASES / "enhanced_stereo.smi"))
    names = ["racemic_aminopropanol", "or_group", "x", "methyl", "rgroup"]
    names += ["L-ala with space name", "glycine"]
    assert [r.name for r in records] == names
    assert all("|" not in r.name for r in records)
    assert [r.name for r in records if r.mol is None] == ["rgroup"]
    assert "R group" in records[4].error
    assert records[3].mol.GetAtomWithIdx(0).GetNumRadicalElectrons() == 1
    mixture, either = ([*isomers_of_groups(records[k])] for k in (0, 1))
    assert smiles_of(mixture) == ["C[C@H](O)CN", "C[C@@H](O)CN"]
    assert [r.name for r in mixture] == [f"racemic_aminopropanol-iso{k}" for k in (1, 2)]
    assert smiles_of(either) == [Chem.CanonSmiles("C[C@H](F)[C@@H](Cl)O")]
    assert Chem.CanonSmiles("C[C@@H](F)[C@H](Cl)O") in either[0].note
    assert "AND" in mixture[0].tags["enhanced_stereo"]
    assert "OR" in either[0].tags["enhanced_stereo"]


@pytest.mark.parametrize(
    ("line", "isomers"),
    [
        ("C[C@H](F)Cl |&1:1| a", ["C[C@H](F)Cl", "C[C@@H](F)Cl"]),
        ("C[C@H](F)[C@@H](Cl)O |&1:1,3| b", ["C[C@H](F)[C@@H](Cl)O", "C[C@@H](F)[C@H](Cl)O"]),
        ("C[C@H](F)[C@@H](Cl)O |&1:1,o1:3|", ["C[C@H](F)[C@@H](Cl)O", "C[C@@H](F)[C@@H](Cl)O"]),
        ("C[C@H](F)[C@H](F)C |&1:1,3| meso", ["C[C@H](F)[C@H](F)C"]),
        ("C[C@H](F)Cl |a:1| absolute", ["C[C@H](F)Cl"]),
        ("C[C@H](F)Cl |o1:1|", ["C[C@H](F)Cl"]),
    ],
)
def test_groups_are_the_isomers_they_stand_for(tmp_path, line, isomers):
    (record,) = read(tmp_path / "a.smi", line)
    assert smiles_of(isomers_of_groups(record)) == [Chem.CanonSmiles(s) for s in isomers]


@pytest.mark.parametrize("smiles", ["C[C@H](F)Cl", "C[C@H](O)C#N", "N[C@@H](C)C(=O)O"])
@pytest.mark.parametrize("kind", ["&", "o"])
def test_groups_of_a_v3000_block(tmp_path, smiles, kind):
    centre = next(
        a.GetIdx() for a in Chem.MolFromSmiles(smiles).GetAtoms() if a.GetChiralTag() != 0
    )
    mol = Chem.MolFromSmiles(f"{smiles} |{kind}1:{centre}|")
    AllChem.Compute2DCoords(mol)
    (record,) = read(tmp_path / "a.sdf", Chem.MolToV3KMolBlock(mol) + "$$$$\n")
    found = [*isomers_of_groups(record)]
    assert len({identity(r.mol) for r in found}) == (2 if kind == "&" else 1)
    assert identity(found[0].mol) == identity(Chem.MolFromSmiles(smiles))


@pytest.mark.parametrize("text", ["CC |bogus| name", "CC |m:0:1|", "CCC |LN:1:1.3|"])
def test_an_extension_that_says_something_else_is_refused(tmp_path, text):
    (record,) = read(tmp_path / "a.smi", text)
    assert record.mol is None


@pytest.mark.parametrize("text", ["CCO |$_R1;;$|", "OCC |$;;_AP1$|", "*CC |$_R2;;$|"])
def test_a_label_that_makes_an_atom_a_group_is_refused(tmp_path, text):
    (record,) = read(tmp_path / "a.smi", text)
    assert record.mol is None
    assert "is an R group or attachment point (_" in record.error
    (record,) = read(tmp_path / "b.smi", "CCO |$C1;R_alpha;_Rest$| label")  # words of a chemist
    assert (Chem.MolToSmiles(record.mol), record.name) == ("CCO", "label")


@pytest.mark.parametrize("mass", [1000, 65536, 65549, 10**12])
def test_a_mass_number_that_rdkit_would_fold_is_refused(tmp_path, mass):
    """It keeps 16 bits: 65536 was no label at all, 65549 carbon-13."""
    (record,) = read(tmp_path / "a.smi", f"C[{mass}CH3]")
    assert record.mol is None
    assert f"{mass} is no mass number" in record.error
    labelled = Chem.MolFromSmiles("C[13CH3]")
    AllChem.Compute2DCoords(labelled)
    block = Chem.MolToV3KMolBlock(labelled)
    (record,) = read(tmp_path / "a.sdf", block + "$$$$\n")
    assert Chem.MolToSmiles(record.mol) == "C[13CH3]"
    assert "MASS=13" in block
    (record,) = read(tmp_path / "b.sdf", block.replace("MASS=13", f"MASS={mass}") + "$$$$\n")
    assert record.mol is None
    assert f"{mass} is no mass number" in record.error


# Text and lines


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "utf-8-sig"])
@pytest.mark.parametrize("name", ["Müller", "naïve 5 µM", "Säure ß"])
def test_text_survives(tmp_path, encoding, name):
    for kind, text in {
        "smi": f"CCO {name}\n",
        "csv": f"smiles,name,Größe\nCCO,{name},5 µm\n",
        "sdf": sdf_record(geometry("CO"), name, {"Größe": "5 µm"}),
    }.items():
        (record,) = read(tmp_path / f"a.{kind}", text.encode(encoding))
        assert record.name == name
        assert record.tags == ({} if kind == "smi" else {"Größe": "5 µm"})


def test_the_case_of_latin_1():
    (record,) = read_molecules(CASES / "latin1.sdf")
    assert record.name == "Müller µ"
    assert record.tags == {"Größe": "5 µM", "Supplier": "Müller"}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("kind", ["smi", "csv", "sdf"])
def test_line_ends(tmp_path, end, kind):
    whole = {
        "smi": "CCO a\nCCN b\nCCC c",
        "csv": "smiles,name\nCCO,a\nCCN,b\nCCC,c",
        "sdf": "".join(sdf_record(geometry(s), n, {"x": 1}) for s, n in zip(
            ("CCO", "CCN", "CCC"), "abc", strict=True)),
    }  # fmt: skip
    records = read(tmp_path / f"a.{kind}", whole[kind].replace("\n", end))
    assert [r.name for r in records] == ["a", "b", "c"]
    assert [Chem.MolToSmiles(Chem.RemoveHs(r.mol)) for r in records] == ["CCO", "CCN", "CCC"]
    assert count_records(tmp_path / f"a.{kind}") == 3


def test_a_pair_of_line_ends_may_fall_between_two_blocks(tmp_path):
    for shift in range(4):
        name = "x" * (opening._PIECE - 8 + shift)
        records = read(tmp_path / "a.smi", f"CCO {name}\r\nCCN b\r\n")
        assert [(r.line, len(r.name)) for r in records] == [(1, len(name)), (2, 1)]


@pytest.mark.parametrize("case", ["cr_only.smi", "bom_header.smi", "other_header.smi"])
def test_cases_of_lines_and_headers(case):
    records = [(Chem.MolToSmiles(r.mol), r.name) for r in read_molecules(CASES / case)]
    wanted = {
        "cr_only.smi": [("CCO", "ethanol"), ("CCN", "ethylamine"), ("CCC", "propane")],
        "bom_header.smi": [("CCO", "ethanol"), ("CCN", "ethylamine")],
        "other_header.smi": [("CCO", "1")],
    }
    assert records == wanted[case]


# Columns


@pytest.mark.parametrize(
    "header", ["smiles", "SMILES", "canonical_smiles", "Structure", "Isomeric SMILES", "smi"]
)
@pytest.mark.parametrize("kind", ["csv", "smi", "parquet"])
def test_the_column_of_smiles_is_found(tmp_path, header, kind):
    frame = pandas.DataFrame({"Name": ["a b", "c"], header: ["CCO", "CCN"], "x": [1.5, -2.0]})
    path = tmp_path / f"t.{kind}"
    if kind == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if kind == "smi" else ",")
    records = list(read_molecules(path))
    assert smiles_of(records) == ["CCO", "CCN"]
    assert [r.name for r in records] == ["a b", "c"]
    assert [float(r.tags["x"]) for r in records] == [1.5, -2.0]
    assert count_records(path) == 2


def test_columns_that_are_named(tmp_path):
    text = "mine,other,smiles,key\nCCO,CCN,C,k1\n"
    (record,) = read(tmp_path / "a.csv", text, smiles_column="other", name_column="key")
    assert (Chem.MolToSmiles(record.mol), record.name) == ("CCN", "k1")
    assert record.tags == {"mine": "CCO", "smiles": "C", "key": "k1"}
    with pytest.raises(UserError, match=r"no column 'gone'; it has: mine, other"):
        read(tmp_path / "a.csv", text, smiles_column="gone")
    assert survey(tmp_path / "a.csv", "other").tags.keys() == {"mine", "smiles", "key"}


@pytest.mark.parametrize("sign", [";", "\t"])
def test_other_separators(tmp_path, sign):
    text = sign.join(["smiles", "name"]) + "\n" + sign.join(["CCO", "a"]) + "\n"
    assert [r.name for r in read(tmp_path / "a.csv", text)] == ["a"]


# Streams


@pytest.mark.parametrize("text", ["CCO a\nCCN b\n", "smiles,name\nCCO,a\nCCN,b\n", "sdf"])
def test_a_pipe_can_be_read_more_than_once(tmp_path, text):
    if text == "sdf":
        text = "".join(sdf_record(geometry(s), n, {}) for s, n in (("CCO", "a"), ("CCN", "b")))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(text,))
    writer.start()
    assert count_records(pipe) == 2
    for _ in range(2):
        assert [r.name for r in read_molecules(pipe)] == ["a", "b"]
    writer.join()


def test_a_device_and_a_folder_are_refused(tmp_path):
    for path, words in {"/dev/zero": "device", tmp_path: "folder"}.items():
        with pytest.raises(UserError, match=words):
            list(read_molecules(path))


@pytest.mark.parametrize("name", ["e.smi", "e.sdf", "e.csv", "e.sdf.gz"])
@pytest.mark.parametrize("text", [b"", b"\n\n"])
def test_nothing_in_a_file_is_said(tmp_path, name, text):
    text = b"smiles,name\n" if name == "e.csv" else text
    with pytest.raises(UserError, match=f"no molecules in .*{name}"):
        read(tmp_path / name, gzip.compress(text) if name.endswith("gz") else text)


# What fails costs itself


BAD = ["[CH200]", "C[#200]C", "[#6]C", "C~C", "*C", "[R1]C", "C1CC", "C(C)(C)(C)(C)C", "C\0C", "["]


@pytest.mark.parametrize("smiles", BAD)
def test_a_bad_line_costs_itself(tmp_path, smiles):
    good, bad, last = read(tmp_path / "a.smi", f"CCO first\n\n{smiles} bad one\nCCN\n")
    assert (good.name, bad.name, last.title) == ("first", "bad one", "a.smi:4")
    assert (bad.mol, bad.line, bad.place, bad.number) == (None, 3, "line 3", 2)
    assert bad.error
    assert "\n" not in bad.error


def test_large_molecules_are_refused_by_name_or_read_elsewhere(tmp_path):
    lines = ["C" * 20_000 + " a", "C" * 60_000 + " b", "[13CH2]" * 900 + " c", "CCO d"]
    records = read(tmp_path / "a.smi", "\n".join(lines))
    assert [r.name for r in records] == ["a", "b", "c", "d"]
    assert f"at most {MOST_ATOMS:,}" in records[0].error
    assert "60,000 characters" in records[1].error
    assert records[2].mol.GetNumAtoms() == 900


def regular(n, degree, seed=1):
    """A graph of carbons with `degree` neighbours each, nearly; its rings are large."""
    ends = [k for k in range(n) for _ in range(degree)]
    random.Random(seed).shuffle(ends)
    mol = Chem.RWMol()
    for _ in range(n):
        mol.AddAtom(Chem.Atom(6))
    for i, j in {tuple(sorted(pair)) for pair in zip(ends[::2], ends[1::2], strict=False)}:
        if i != j:
            mol.AddBond(i, j, Chem.BondType.SINGLE)
    return mol


# What is refused here took RDKit 12 s and 768 MB, or 6 s and 2.6 GB.
@pytest.mark.parametrize(
    ("smiles", "words"),
    [
        ("C1" + "C" * 4_998 + "C1", f"5,000 heavy atoms; at most {MOST_ATOMS:,} heavy"),
        ("C1" + "C" * (MOST_ATOMS - 1) + "C1", "1,001 heavy atoms"),
        ("C1" + "C" * (MOST_ATOMS - 2) + "C1", ""),
        (".".join(["[H][H]"] * 2_100), "4,200 atoms"),
        (Chem.MolToSmiles(regular(400, 4)), ""),
        (Chem.MolToSmiles(regular(800, 4), canonical=False), "rings; at most 500 are read"),
    ],
    ids=["ring 5000", "ring 1001", "ring 1000", "hydrogen", "net 400", "net 800"],
)
def test_what_rdkit_needs_long_for_is_refused(smiles, words):
    began = time.process_time()
    parsed = parse_smiles(smiles)
    assert (parsed.mol is None) == bool(words)
    assert words in parsed.error
    if parsed.mol is not None:
        Chem.MolToSmiles(parsed.mol)
    assert time.process_time() - began < 2.0


def test_a_block_is_refused_by_its_atoms_and_rings():
    for mol, words in ((regular(1_001, 3), "1,001 heavy atoms"), (regular(800, 4), "rings")):
        assert words in parse_block(Chem.MolToV3KMolBlock(mol, kekulize=False).encode()).error


def test_a_record_has_a_bound_and_the_next_one_is_read(tmp_path, monkeypatch):
    from molflowctl.io import reading, tables

    for module in (opening, reading, tables):
        monkeypatch.setattr(module, "LONGEST", 100_000)
    long = "x" * 150_000
    for kind, text in {
        "smi": f"CCO a\n{long}\nCCN c\n",
        "csv": f'smiles,name\nCCO,a\nC,"{long}"\nCCN,c\n',
        "sdf": sdf_record(geometry("CCO"), "a", {}) + long + "\n" + "y\n" * 10 + "$$$$\n"
        + sdf_record(geometry("CCN"), "c", {}),
    }.items():  # fmt: skip
        first, middle, last = read(tmp_path / f"a.{kind}", text)
        assert (first.name, last.name) == ("a", "c")
        assert middle.mol is None
        assert "MB" in middle.error


def test_an_endless_line_takes_no_memory(tmp_path):
    """100 MB in 100 kB; what is held of it is a tenth at most."""
    import tracemalloc

    path = tmp_path / "bomb.smi.gz"
    path.write_bytes(gzip.compress(b"C" * 10**8, 6))
    tracemalloc.start()
    (record,) = read_molecules(path)
    assert tracemalloc.get_traced_memory()[1] < 4e7
    tracemalloc.stop()
    assert "10 MB" in record.error


# What is no molecule, or no geometry


QUERIES = {
    "not carbon": ("M  ALS   1  1 T C   ", "query"),
    "a list": ("M  ALS   1  2 F C   N   ", "query"),
    "an R group": ("M  RGP  1   1   1", "query|R group"),
    "a substitution count": ("M  SUB  1   1   2", "query"),
    "a polymer": ("M  STY  1   1 SRU\nM  SAL   1  1   2\nM  SMT   1 n", "polymer"),
}


@pytest.mark.parametrize("name", QUERIES)
def test_queries_in_mol_blocks_are_refused(tmp_path, name):
    line, words = QUERIES[name]
    block = Chem.MolToMolBlock(Chem.MolFromSmiles("CCC")).replace("M  END", f"{line}\nM  END")
    bad, good = read(tmp_path / "a.sdf", block + "$$$$\n" + sdf_record(geometry("CO"), "g", {}))
    assert bad.mol is None
    assert any(word in bad.error for word in words.split("|")), bad.error
    assert good.mol is not None


def test_the_case_of_drawings_tagged_3d():
    records = list(read_molecules(CASES / "drawings_tagged_3d.sdf"))
    assert len(records) == 40
    for record in records:
        assert record.mol is not None
        assert not record.mol.GetConformer().Is3D(), record.name


@pytest.mark.parametrize("smiles", ["CCO", "c1ccccc1C", "N[C@@H](C)C(=O)O", "F/C=C/F", "CC#CC"])
def test_a_drawing_is_one_with_and_without_hydrogens(smiles):
    for mol in (Chem.MolFromSmiles(smiles), Chem.AddHs(Chem.MolFromSmiles(smiles))):
        AllChem.Compute2DCoords(mol)
        mol.GetConformer().Set3D(True)
        assert is_flat_drawing(mol)
        assert not is_flat_drawing(geometry(smiles))


@pytest.mark.parametrize("smiles", ["O", "c1ccccc1", "C=C", "O=C=O", "C#N"])
def test_a_flat_molecule_is_a_geometry(smiles):
    mol = geometry(smiles)
    AllChem.CanonicalizeConformer(mol.GetConformer())
    x = mol.GetConformer().GetPositions()
    x[:, 2] = 0.0
    mol.GetConformer().SetPositions(x)
    assert not is_flat_drawing(mol)


PLANES = {"xz": [0, 2, 1], "yz": [2, 0, 1], "tilted": None}


def _turned(x, plane):
    if PLANES[plane] is not None:
        return x[:, PLANES[plane]]
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    return x @ turn.T + [1.0, 2.0, 3.0]


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize(
    "smiles", ["CC(N)C(=O)O", "Cc1ccccc1C=O", "CC(=O)Nc1ccc(O)cc1", "C/C=C/CC(C)C", "CC(C)(C)C=O"]
)
@pytest.mark.parametrize("hydrogens", [False, True])
def test_a_drawing_in_any_plane_is_a_drawing(smiles, plane, hydrogens):
    mol = Chem.MolFromSmiles(smiles)
    mol = Chem.AddHs(mol) if hydrogens else mol
    AllChem.Compute2DCoords(mol)
    x = _turned(mol.GetConformer().GetPositions(), plane)
    mol.GetConformer().Set3D(True)
    mol.GetConformer().SetPositions(np.ascontiguousarray(x))
    parsed = parse_block(Chem.MolToMolBlock(mol).replace("2D", "3D").encode(), b"")
    assert parsed.note.startswith("a drawing")
    assert not parsed.mol.GetConformer().Is3D()
    assert Chem.MolToSmiles(Chem.RemoveHs(parsed.mol)) == Chem.CanonSmiles(smiles)


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("smiles", ["O", "c1ccccc1", "C=C", "O=C=O", "C#N", "C#C", "c1ccncc1", "N"])
@pytest.mark.parametrize("hydrogens", [False, True])
def test_a_flat_molecule_in_another_plane_is_a_geometry(smiles, plane, hydrogens):
    mol = geometry(smiles)
    AllChem.CanonicalizeConformer(mol.GetConformer())
    x = mol.GetConformer().GetPositions()
    if smiles != "N":  # a pyramid
        x[:, 2] = 0.0
    mol.GetConformer().SetPositions(np.ascontiguousarray(_turned(x, plane)))
    bare = Chem.RemoveHs(mol)
    if not hydrogens and bare.GetNumAtoms() < 3:
        pytest.skip("a line, which is in the plane of x and y, too")
    assert not is_flat_drawing(mol if hydrogens else bare)


# Tags


def test_the_case_of_user_tags():
    (record,) = read_molecules(CASES / "user_tags.sdf")
    wanted = {"qed": "0.99", "logp": "3.14", "MULTI": "first line\nsecond  line", "ID": "CAS-1"}
    wanted |= {"empty": "", "name": "own name", "smiles": "NOTTHIS", "MULTI_2": "again"}
    assert record.tags == wanted | {"Name": "other", "IC50 (nM)": ">10"}
    assert survey(CASES / "user_tags.sdf").tags.keys() >= {"qed", "logp", "IC50 (nM)"}


TEXTS = [
    "$$$$ evil",
    "> <qed>",
    "\x1b[31mred",
    "=1+1",
    "-alpha",
    "@x",
    "+y",
    "two\n\nlines",
    "\\u{1b}",
]


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_written_reads_back(tmp_path, text):
    mol = geometry("CO")
    name = text.replace("\n", " ")
    record = sdf_record(mol, name, {"t": text, text: "1", "qed": 0.5})
    first, second = read(tmp_path / "a.sdf", record * 2)
    with TableWriter(tmp_path / "a.csv") as writer:
        writer.write(mol, {"t": text, text: "1", "qed": 0.5}, name)
    (third,) = read_molecules(tmp_path / "a.csv")
    for found in (first, second, third):
        assert found.name == name
        assert found.tags == {"t": text, text: "1", "qed": "0.5"}
    assert len(Chem.SDMolSupplier(str(tmp_path / "a.sdf"))) == 2
    with open(tmp_path / "a.csv", newline="") as file:
        assert not any(c[:1] in tuple("=+-@") for row in csv.reader(file) for c in row)
