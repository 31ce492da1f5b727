"""`conformers` of salts, of open stereo and of elements that MMFF94 does not know."""

import json

import numpy as np
import pytest
from rdkit import Chem

from molflowctl.io.library import read_molecules
from molflowctl.properties.energies.forcefield import mmff_energy_kcal_mol
from molflowctl.properties.geometries.complexes import fragments_apart
from molflowctl.tasks.conformers import conformers as task
from molflowctl.tasks.conformers.conformers import generate_conformers
from molflowctl.tasks.conformers.settings import ConformersConfig
from tests.pools import InProcess

SALTS = """\
CC[NH+](CC)CCO.[Cl-] amine
O=C([O-])CCO.[Na+] acid
C[NH3+].[I-] iodide
CC(=O)OCC plain
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(task, "WorkerPool", InProcess)

    def run(source, **changes):
        path = tmp_path / "in.smi"
        path.write_text(source)
        settings = {"out": str(tmp_path / "out.sdf"), "model": "etkdg", "n": 4, "overwrite": True}
        state = generate_conformers(ConformersConfig(source=str(path), **settings | changes))
        return state, list(read_molecules(settings["out"])) if state.written else []

    return run


def test_kept_salts_stand_apart_and_are_weighed_with_what_is_between_them(run, tmp_path):
    state, records = run(SALTS, salts="keep", rmsd_threshold=0.1, energy_window=50)
    assert {record.name for record in records} == {"amine", "acid", "plain"}
    assert [note for note in state.notes if note.startswith("line 3")][-1].endswith("--relax gfn2")
    for name, bound in (("amine", 80), ("acid", 100), ("plain", 0)):
        ours = [record for record in records if record.name == name]
        energies = np.array([mmff_energy_kcal_mol(record.mol) for record in ours])
        relative = [float(record.tags["relative_energy_kcal_mol"]) for record in ours]
        assert energies - energies[0] == pytest.approx(relative, abs=0.2)
        for record in ours:
            assert record.tags["energy_method"] == "MMFF94"
            assert fragments_apart(record.mol)
            pieces = Chem.GetMolFrags(record.mol, asMols=True)
            alone = sum(map(mmff_energy_kcal_mol, pieces))
            assert alone - mmff_energy_kcal_mol(record.mol) >= bound
    assert "a salt" not in json.dumps(json.loads((tmp_path / "out.sdf.run.json").read_text()))


def test_stripped_salts_are_their_parents_and_say_so(run):
    state, records = run(SALTS, salts="strip", n=1)
    said = {record.name: record.tags.get("salt_stripped") for record in records}
    assert said == {"amine": "[Cl-]", "acid": "[Na+]", "iodide": "[I-]", "plain": None}
    assert state.counts["salt stripped"] == 3
    assert state.failed == 0
    parents = [Chem.MolToSmiles(Chem.RemoveHs(record.mol)) for record in records]
    assert parents == ["CC[NH+](CC)CCO", "O=C([O-])CCO", "C[NH3+]", "CCOC(C)=O"]
    state, records = run(SALTS, salts="strip", neutralise=True, n=1)
    assert Chem.MolToSmiles(Chem.RemoveHs(records[0].mol)) == "CCN(CC)CCO"
    assert records[0].tags["charge_neutralised"] == "+1 to 0"


def test_two_salts_of_one_parent_are_one_molecule(run):
    state, records = run("CC[NH3+].[Cl-] a\nCC[NH3+].[Br-] b\nCC[NH3+] c\n", salts="strip", n=1)
    assert [record.name for record in records] == ["a"]
    assert state.counts["duplicates"] == 2


def test_refused_salts_are_named_with_what_to_do(run):
    state, records = run(SALTS, n=1)
    assert {record.name for record in records} == {"plain"}
    assert state.failed == 3
    assert "--salts strip does CC[NH+](CC)CCO alone" in state.notes[0]


def test_other_elements_say_their_field_or_why_there_is_none(run):
    text = "OB(O)C boron\nC[Se]CC selenium\nC[Sn](C)(C)C tin\nFP(F)(F)(F)F p\nClI(Cl)C iodine\n"
    state, records = run(text + "C[Pd]C metal\n", n=2)
    assert {record.tags["energy_method"] for record in records} == {"UFF"}
    assert {record.name for record in records} == {"boron", "selenium", "tin"}
    notes = dict(note.split(": ", 1) for note in state.notes)
    assert notes["line 1"] == "boron: by UFF: MMFF94 has no parameters for it"
    assert notes["line 4"] == "no force field knows how 5 atoms stand around P: --relax gfn2"
    assert notes["line 5"] == "no force field knows how 3 atoms stand around I: --relax gfn2"
    assert notes["line 6"] == "no field knows how ligands stand around palladium (Pd)"
    state, records = run("ClI(Cl)C iodine\n", n=1, relax="gfn2")
    (record,) = records
    x = record.mol.GetConformer().GetPositions()
    (iodine,) = (atom for atom in record.mol.GetAtoms() if atom.GetSymbol() == "I")
    a, b = (x[n.GetIdx()] - x[iodine.GetIdx()]
            for n in iodine.GetNeighbors() if n.GetSymbol() == "Cl")  # fmt: skip
    assert np.degrees(np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))) > 160


@pytest.mark.parametrize(
    ("rule", "names", "words"),
    [
        (8, ["x-iso1", "x-iso2"], "1 centre or double bond left open: 2 stereoisomers"),
        ("enumerate", ["x-iso1", "x-iso2"], "1 centre or double bond left open: 2 stereoisomers"),
        (1, ["x"], "left open: 1 stereoisomers of up to 2: --isomers raises the limit"),
        ("first", ["x"], "left open: F/C=C/F taken, of up to 2"),
        ("refuse", [], "left open: --isomers enumerate does all of them"),
    ],
)
def test_open_stereo_by_rule(run, rule, names, words):
    state, records = run("FC=CF x\n", n=1, isomers=rule)
    assert [record.name for record in records] == names
    assert state.notes[0].startswith("line 1: ")
    assert words in state.notes[0]
    assert all(record.tags["stereo_open"] == "1" for record in records)
    assert state.failed == (rule == "refuse")


def test_the_limit_is_not_blamed_for_what_cannot_be(run):
    """Of camphor's four isomers two have a bridge that cannot be: no limit brings them."""
    state, _ = run("CC1(C)C2CCC1(C)C(=O)C2 x\n", n=1, relax="none")
    assert state.notes[0].endswith("2 stereoisomers of up to 4")
