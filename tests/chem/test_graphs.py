"""Laws of the bridge to RDKit and of the library files, over a list of varied molecules."""

import gzip
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from molflowctl.chem import graphs as chem
from molflowctl.errors import UserError
from molflowctl.io.library import numbered_title, read_molecules, sdf_record
from molflowctl.io.library_writers import SDFWriter, TableWriter

MOLECULES = {
    "methane": "C",
    "water": "O",
    "hydrogen cyanide": "C#N",
    "but-2-yne": "CC#CC",
    "benzene": "c1ccccc1",
    "pyrrole": "c1cc[nH]c1",
    "imidazole": "Cc1c[nH]cn1",
    "naphthalene": "c1ccc2ccccc2c1",
    "glycine zwitterion": "[NH3+]CC(=O)[O-]",
    "nitromethane": "C[N+](=O)[O-]",
    "azide": "CN=[N+]=[N-]",
    "ammonium": "C[NH3+]",
    "formate": "O=C[O-]",
    "R alcohol": "C[C@@H](O)C#N",
    "S alcohol": "C[C@H](O)C#N",
    "cis": "F/C=C\\C=O",
    "trans": "F/C=C/C=O",
    "cage": "C1C2CC3CC1CC(C2)C3",
    "dimethyl sulfone": "CS(=O)(=O)C",
}


def embed(smiles: str) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=7) == 0
    rdForceFieldHelpers.MMFFOptimizeMolecule(mol)
    Chem.AssignStereochemistryFrom3D(mol)
    return mol


@pytest.fixture(scope="module")
def molecules() -> dict[str, Chem.Mol]:
    return {name: embed(smiles) for name, smiles in MOLECULES.items()}


def isomeric(mol: Chem.Mol) -> str:
    return Chem.MolToSmiles(Chem.RemoveHs(mol))


def heavy_positions(mol: Chem.Mol) -> np.ndarray:
    heavy = [atom.GetIdx() for atom in mol.GetAtoms() if atom.GetAtomicNum() > 1]
    return mol.GetConformer().GetPositions()[heavy]


def graph(symbols: str, bonds: list[tuple[int, int, int]], charges=None, positions=None):
    """Atoms on a stretched helix, far enough apart for no clash, unless positions are given."""
    n = len(symbols)
    table = Chem.GetPeriodicTable()
    matrix = np.zeros((n, n), dtype=np.int8)
    for i, j, order in bonds:
        matrix[i, j] = matrix[j, i] = order
    if positions is None:
        turn = 1.9 * np.arange(n)
        positions = np.stack([1.3 * np.cos(turn), 1.3 * np.sin(turn), 0.6 * np.arange(n)], 1)
    return chem.Graph3D(
        np.array([table.GetAtomicNumber(symbol) for symbol in symbols]),
        np.zeros(n, dtype=int) if charges is None else np.array(charges),
        matrix,
        np.array(positions, dtype=float),
    )


@pytest.mark.parametrize("name", MOLECULES)
@pytest.mark.parametrize("hydrogens", [False, True])
@pytest.mark.parametrize("relax", ["none", "hydrogens"])
def test_graph_round_trip_keeps_identity_stereo_and_heavy_atoms(molecules, name, hydrogens, relax):
    mol = molecules[name]
    made = chem.assemble(chem.from_mol(mol, hydrogens), relax, explicit=hydrogens)
    assert isinstance(made, chem.Molecule), made
    assert isomeric(made.mol) == isomeric(mol)
    assert made.smiles == chem.canonical_smiles(mol) == chem.canonical_smiles(made.mol)
    assert made.mol.GetNumAtoms() == mol.GetNumAtoms()
    assert Chem.GetFormalCharge(made.mol) == Chem.GetFormalCharge(mol)
    np.testing.assert_allclose(heavy_positions(made.mol), heavy_positions(mol), atol=1e-9)
    if hydrogens and relax == "none":
        np.testing.assert_array_equal(
            made.mol.GetConformer().GetPositions(), mol.GetConformer().GetPositions()
        )


@pytest.mark.parametrize("name", MOLECULES)
def test_from_mol_is_a_kekulised_symmetric_graph(molecules, name):
    made = chem.from_mol(molecules[name], hydrogens=True)
    n = molecules[name].GetNumAtoms()
    assert made.numbers.shape == made.charges.shape == (n,)
    assert made.positions.shape == (n, 3)
    assert made.bonds.dtype == np.int8
    assert np.array_equal(made.bonds, made.bonds.T)
    assert not made.bonds.diagonal().any()
    carbon = (made.numbers == 6) & (made.charges == 0)
    assert (made.bonds.sum(1)[carbon] == 4).all()
    assert (made.bonds.sum(1)[made.numbers == 1] == 1).all()


def test_relaxing_hydrogens_lowers_the_energy_to_its_minimum(molecules):
    for name in ("but-2-yne", "glycine zwitterion", "R alcohol", "imidazole"):
        implicit = chem.from_mol(molecules[name], hydrogens=False)
        energies = []
        for relax in ("none", "hydrogens", "mmff"):
            made = chem.assemble(implicit, relax)
            assert made.force_field == ("" if relax == "none" else "MMFF94")
            properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(made.mol)
            field = rdForceFieldHelpers.MMFFGetMoleculeForceField(made.mol, properties)
            energies.append(field.CalcEnergy())
            if relax == "hydrogens":
                hydrogen = [atom.GetAtomicNum() == 1 for atom in made.mol.GetAtoms()]
                forces = np.array(field.CalcGrad()).reshape(-1, 3)[hydrogen]
                assert np.abs(forces).max() < 0.1  # kcal/mol/angstrom
        assert energies[0] > energies[1] + 0.01, name
        assert energies[1] >= energies[2] - 1e-6, name


def test_uff_stands_in_where_mmff_has_no_parameters(molecules):
    borane = graph("CB", [(0, 1, 1)], positions=[[0, 0, 0], [1.57, 0, 0]])
    made = chem.assemble(borane)
    assert made.force_field == "UFF"
    np.testing.assert_allclose(heavy_positions(made.mol), borane.positions, atol=1e-9)


@pytest.mark.parametrize(
    ("reason", "made", "explicit"),
    [
        ("valence", graph("CCCCCC", [(0, i, 1) for i in range(1, 6)]), False),
        ("valence", graph("CO", [(0, 1, 3)]), False),
        ("fragments", graph("CCO", [(0, 1, 1)]), False),
        ("radical", graph("CO", [(0, 1, 2)]), True),
        ("nonfinite", graph("CO", [(0, 1, 1)], positions=[[0, 0, 0], [np.nan, 0, 0]]), False),
        ("nonfinite", graph("CO", [(0, 1, 1)], positions=[[0, 0, 0], [np.inf, 0, 0]]), False),
        ("clash", graph("CO", [(0, 1, 1)], positions=[[0, 0, 0], [0.6, 0, 0]]), False),
        ("clash", graph("CO", [(0, 1, 1)], positions=[[0, 0, 0], [0, 0, 0]]), False),
    ],
)
def test_failures_have_their_reason(reason, made, explicit):
    failure = chem.assemble(made, explicit=explicit)
    assert isinstance(failure, chem.Failure)
    assert failure.reason == reason
    assert reason in chem.FAILURE_REASONS


def test_clash_bound_is_half_the_covalent_distance():
    for distance, is_clash in ((0.70, True), (0.72, False)):  # C 0.76 + O 0.66 angstrom
        made = chem.assemble(
            graph("CO", [(0, 1, 1)], positions=[[0, 0, 0], [distance, 0, 0]]), relax="none"
        )
        assert isinstance(made, chem.Failure) == is_clash


def test_stretch_bound_is_three_halves_of_the_covalent_distance(molecules):
    """As drawn; what relaxes every atom pulls a bond together, or says that it could not."""
    for distance, is_stretched in ((2.12, False), (2.14, True), (40.0, True)):
        made = chem.assemble(
            graph("CO", [(0, 1, 1)], positions=[[0, 0, 0], [distance, 0, 0]]), relax="none"
        )
        assert isinstance(made, chem.Failure) == is_stretched
        if is_stretched:
            assert made.reason == "stretched"
            assert f"atoms 1 and 2 is {distance:.2f} angstrom" in made.detail
    long = graph("CCO", [(0, 1, 1), (1, 2, 1)], positions=[[-1.5, 0, 0], [0, 0, 0], [1.5, 2.0, 0]])
    assert chem.assemble(long).reason == "stretched"
    assert isinstance(chem.assemble(long, "mmff"), chem.Molecule)


def test_canonical_smiles_ignores_spelling_stereo_and_hydrogens(molecules):
    assert chem.canonical_smiles(molecules["R alcohol"]) == chem.canonical_smiles(
        molecules["S alcohol"]
    )
    assert chem.canonical_smiles(molecules["cis"]) == chem.canonical_smiles(molecules["trans"])
    for mol in molecules.values():
        smiles = chem.canonical_smiles(mol)
        assert chem.canonical_smiles(Chem.MolFromSmiles(smiles)) == smiles
        order = list(range(mol.GetNumAtoms()))[::-1]
        assert chem.canonical_smiles(Chem.RenumberAtoms(mol, order)) == smiles
    assert len({chem.canonical_smiles(mol) for mol in molecules.values()}) == len(MOLECULES) - 2
    imine = embed("[H]/N=C1\\O[C@H]2C[C@]1(C#C)C2")  # RemoveHs keeps the hydrogen of its C=N-H
    assert "[H]" in isomeric(imine)
    assert chem.canonical_smiles(imine) == "C#CC12CC(C1)OC2=N"


def test_formula_and_inchikey_of_known_molecules(molecules):
    assert chem.formula(molecules["glycine zwitterion"]) == "C2H5NO2"
    assert chem.formula(molecules["ammonium"]) == "CH6N+"
    assert chem.inchikey(molecules["benzene"]) == "UHOVQNZJYSORNB-UHFFFAOYSA-N"
    assert chem.inchikey(molecules["R alcohol"]) != chem.inchikey(molecules["S alcohol"])


# Files

TAGS = {"qed": 0.1234567, "xtb_energy_hartree": -40.51234567, "n": 3, "note": "two\n\nlines"}


@pytest.mark.parametrize("suffix", [".sdf", ".sdf.gz"])
def test_sdf_round_trip(tmp_path, molecules, suffix):
    path = tmp_path / f"library{suffix}"
    with SDFWriter(path) as writer:
        for name, mol in molecules.items():
            writer.write(mol, TAGS | {"failed": np.nan, "absent": None, "far": np.inf}, title=name)
    records = list(read_molecules(path))
    assert [record.name for record in records] == list(molecules)
    for record, mol in zip(records, molecules.values(), strict=True):
        assert record.error == ""
        assert isomeric(record.mol) == isomeric(mol)
        assert chem.canonical_smiles(record.mol) == chem.canonical_smiles(mol)
        charges = [[atom.GetFormalCharge() for atom in m.GetAtoms()] for m in (record.mol, mol)]
        assert charges[0] == charges[1]
        np.testing.assert_allclose(
            record.mol.GetConformer().GetPositions(), mol.GetConformer().GetPositions(), atol=1e-4
        )
        assert list(record.tags) == list(TAGS)
        assert float(record.tags["qed"]) == TAGS["qed"]
        assert float(record.tags["xtb_energy_hartree"]) == TAGS["xtb_energy_hartree"]
        assert record.tags["n"] == "3"
        assert record.tags["note"] == "two\n\nlines"
    # RDKit's own reader agrees
    plain = tmp_path / "plain.sdf"
    plain.write_bytes(
        gzip.decompress(path.read_bytes()) if suffix == ".sdf.gz" else path.read_bytes()
    )
    supplier = Chem.SDMolSupplier(str(plain), removeHs=False)
    assert len(supplier) == len(molecules)
    assert all(mol is not None for mol in supplier)


def test_same_records_give_the_same_bytes(tmp_path, molecules):
    texts = []
    for name in ("a.sdf.gz", "b.sdf.gz"):
        with SDFWriter(tmp_path / name) as writer:
            for mol in molecules.values():
                writer.write(mol, TAGS)
        texts.append((tmp_path / name).read_bytes())
    assert texts[0] == texts[1]
    assert writer.count == len(molecules)
    names = [record.name for record in read_molecules(tmp_path / "a.sdf.gz")]
    assert names == [numbered_title(i) for i in range(len(molecules))]
    assert names[1] == "mfc-000001"


def test_private_properties_are_not_written(molecules):
    mol = Chem.Mol(molecules["water"])
    mol.SetProp("secret", "1")
    assert "secret" not in sdf_record(mol, "water", {})


@pytest.mark.parametrize("tags", [{"ID": 1}, {"": 1}])
def test_tags_that_no_reader_could_find_are_refused(molecules, tags):
    with pytest.raises(ValueError, match=r"SDF"):
        sdf_record(molecules["water"], "x", tags)


def test_invalid_graphs_can_be_written_and_are_reported_when_read(tmp_path, molecules):
    bad = chem.to_mol(graph("CCCCCC", [(0, i, 1) for i in range(1, 6)]))
    path = tmp_path / "mixed.sdf"
    with SDFWriter(path) as writer:
        writer.write(molecules["water"], {}, title="good")
        writer.write(bad, {"reason": "valence"}, title="bad")
        writer.write_record("broken\nnot a mol block\n$$$$\n")
        writer.write(molecules["cage"], {}, title="last")
    good, five, broken, last = read_molecules(path)
    assert good.mol is not None
    assert five.mol is None
    assert (five.name, five.tags) == ("bad", {"reason": "valence"})
    assert "valence" in five.error.lower()
    assert broken.mol is None
    assert broken.name == "broken"
    assert broken.error
    assert last.mol is not None


def test_truncated_gzip_yields_what_is_whole_and_then_an_error(tmp_path, molecules):
    path = tmp_path / "library.sdf.gz"
    with SDFWriter(path) as writer:
        for mol in molecules.values():
            writer.write(mol, {})
    path.write_bytes(path.read_bytes()[:-40])
    *whole, last = read_molecules(path)
    assert whole
    assert all(record.mol is not None for record in whole)
    assert last.mol is None
    assert "damaged" in last.error


def test_windows_line_ends_and_foreign_letters(tmp_path, molecules):
    text = sdf_record(molecules["water"], "eau", {"unit": "angstrom"}).replace("\n", "\r\n")
    (tmp_path / "w.sdf").write_bytes(text.encode().replace(b"angstrom", b"\xe5ngstrom"))
    (record,) = read_molecules(tmp_path / "w.sdf")
    assert record.error == ""
    assert record.name == "eau"
    assert record.tags["unit"].endswith("ngstrom")


def test_smiles_and_csv(tmp_path):
    (tmp_path / "a.smi").write_text("smiles name\nCCO ethanol one\n\nC(C)(C)(C)(C)C five\nxx\nC\n")
    (tmp_path / "a.csv").write_text('Name,SMILES,qed\none,CCO,0.4\n"two",C1CC,\n,C,1\n')
    ethanol, five, junk, methane = read_molecules(tmp_path / "a.smi")
    assert (ethanol.name, Chem.MolToSmiles(ethanol.mol)) == ("ethanol one", "CCO")
    assert "valence" in five.error.lower()
    assert "xx" in junk.error
    assert methane.name == ""
    one, two, three = read_molecules(tmp_path / "a.csv")
    assert (one.name, one.tags, one.error) == ("one", {"qed": "0.4"}, "")
    assert two.mol is None
    assert "C1CC" in two.error
    assert three.tags == {"qed": "1"}


def test_unreadable_inputs_name_the_culprit(tmp_path):
    (tmp_path / "no.csv").write_text("a,b\n1,2\n")
    for name, words in {"x.pdb": "x.pdb", "gone.sdf": "No such file", "no.csv": "smiles"}.items():
        with pytest.raises(UserError, match=words):
            list(read_molecules(tmp_path / name))


def test_unwritable_outputs_name_the_culprit(tmp_path, molecules):
    (tmp_path / "there.sdf").write_text("")
    (tmp_path / "folder.sdf").mkdir()
    for name in ("there.sdf", "folder.sdf", "missing/x.sdf", "x.mol2"):
        with pytest.raises(UserError, match=name):
            SDFWriter(tmp_path / name)
    with SDFWriter(tmp_path / "there.sdf", overwrite=True) as writer:
        writer.write(molecules["water"], {})
    assert len(list(read_molecules(tmp_path / "there.sdf"))) == 1


def test_an_error_leaves_no_file(tmp_path, molecules):
    def write_and_fail():
        with SDFWriter(tmp_path / "x.sdf") as writer:
            writer.write(molecules["water"], {})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_and_fail()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("suffix", [".sdf", ".sdf.gz"])
def test_an_interrupt_keeps_whole_records(tmp_path, molecules, monkeypatch, suffix):
    monkeypatch.setattr("molflowctl.io.library_writers._BLOCK", 4000)
    path = tmp_path / f"x{suffix}"

    def write_and_stop():
        with SDFWriter(path) as writer:
            for mol in molecules.values():
                writer.write(mol, {})
            writer._file.write(b"half a block")  # the interrupt comes while a block is written
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_stop()
    records = list(read_molecules(path))
    assert len(records) == len(molecules)
    assert all(record.mol is not None for record in records)
    assert os.listdir(tmp_path) == [path.name]


def run(code: str, **options) -> subprocess.Popen:
    head = """
        from molflowctl.io.library_writers import SDFWriter
        from rdkit import Chem
        from rdkit.Chem import rdDistGeom
        mol = Chem.AddHs(Chem.MolFromSmiles("CCO")); rdDistGeom.EmbedMolecule(mol, randomSeed=1)
    """
    code = textwrap.dedent(head) + textwrap.dedent(code)
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, **options)


def test_a_real_ctrl_c_keeps_a_readable_library(tmp_path):
    process = run(
        f"""
        import signal, sys
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
        with SDFWriter({str(tmp_path / "x.sdf.gz")!r}) as writer:
            while True:
                writer.write(mol, {{"qed": 0.5}})
                if writer.count == 1500:
                    print("go", file=sys.stderr, flush=True)
        """
    )
    assert process.stderr.readline() == b"go\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    records = list(read_molecules(tmp_path / "x.sdf.gz"))
    assert len(records) >= 1500
    assert all(record.mol is not None for record in records)
    assert os.listdir(tmp_path) == ["x.sdf.gz"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a limit on file sizes")
def test_a_full_disk_is_a_user_error(tmp_path):
    process = run(
        f"""
        import resource
        from molflowctl.errors import UserError
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            with SDFWriter({str(tmp_path / "x.sdf")!r}) as writer:
                for _ in range(5000):
                    writer.write(mol, {{}})
        except UserError as error:
            print(error)
        """,
        stdout=subprocess.PIPE,
    )
    out, _ = process.communicate(timeout=30)
    assert b"x.sdf: File too large" in out
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_writing_to_a_full_device(molecules):
    with pytest.raises(UserError, match=r"/dev/full: No space left"), SDFWriter("/dev/full") as out:
        out.write(molecules["water"], {})
    assert os.path.exists("/dev/full")


def test_standard_output_streams_records(tmp_path):
    process = run(
        """
        with SDFWriter("-") as writer:
            for _ in range(3):
                writer.write(mol, {"qed": 0.5})
        """,
        stdout=subprocess.PIPE,
    )
    out, _ = process.communicate(timeout=30)
    (tmp_path / "x.sdf").write_bytes(out)
    assert [r.name for r in read_molecules(tmp_path / "x.sdf")] == [
        numbered_title(i) for i in range(3)
    ]


def test_full_disk_keeps_whole_records(tmp_path):
    """A file system of 600 kB, or a limit on the file's size where none can be mounted."""
    import subprocess
    import sys

    script = """
import resource, sys
from rdkit import Chem
from molflowctl.errors import UserError
from molflowctl.io.library_writers import SDFWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))
import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
mol = Chem.MolFromSmiles("CCO")
try:
    with SDFWriter(sys.argv[1]) as writer:
        for _ in range(20000):
            writer.write(mol, {"smiles": "CCO"})
except UserError as error:
    print(error)
    sys.exit(1)
"""
    path = tmp_path / "full.sdf"
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    records = list(read_molecules(path))
    assert len(records) > 100
    assert all(record.mol is not None for record in records)
    assert f"the first {len(records)} records are kept" in done.stdout
    assert not list(tmp_path.glob("*.partial"))


def test_tags_that_are_called_as_a_table_calls_its_own_columns(tmp_path):
    with TableWriter(tmp_path / "t.csv") as writer:
        tags = {"name": "ethanol", "smiles": "CCO.Cl", "SMILES": "C", "qed": 0.4}
        writer.write(Chem.MolFromSmiles("CCO"), tags, "CHEMBL1")
        writer.write(Chem.MolFromSmiles("CCN"), {"smiles": "CCN", "Name": "amine"}, "amine")
    record, same = read_molecules(tmp_path / "t.csv")
    assert (same.name, Chem.MolToSmiles(same.mol), same.tags) == ("amine", "CCN", {})
    assert (record.name, Chem.MolToSmiles(record.mol)) == ("CHEMBL1", "CCO")
    kept = {"input_name": "ethanol", "input_smiles": "CCO.Cl", "input_SMILES": "C", "qed": "0.4"}
    assert record.tags == kept


def test_two_columns_of_structures_are_refused(tmp_path):
    (tmp_path / "two.csv").write_text("smiles,name,SMILES\nCCO,a,C\n")
    with pytest.raises(UserError, match="two columns 'smiles'"):
        list(read_molecules(tmp_path / "two.csv"))
