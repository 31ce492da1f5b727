"""`score` and `rank` in Python give what the commands write."""

from pathlib import Path

import numpy as np
import pandas
import pytest
from rdkit import Chem
from rdkit.Chem import QED, Crippen, Descriptors
from typer.testing import CliRunner

from molflowctl import Library, Property, UserError, rank, score
from molflowctl.cli import app
from molflowctl.errors import FewerResults
from molflowctl.tasks.memory import Entry

QUIET = {"progress": False, "jobs": 1}
SERIAL = {**QUIET, "backend": "serial", "timeout": None, "cache": False}
DRUGS = {
    "aspirin": "CC(=O)Oc1ccccc1C(=O)O",
    "caffeine": "Cn1c(=O)c2c(ncn2C)n(C)c1=O",
    "ibuprofen": "CC(C)Cc1ccc([C@H](C)C(=O)O)cc1",
    "paracetamol": "CC(=O)Nc1ccc(O)cc1",
}
MOLS = [Chem.MolFromSmiles(s) for s in DRUGS.values()]


def listed(folder: Path) -> Path:
    path = folder / "drugs.smi"
    path.write_text("".join(f"{smiles} {name}\n" for name, smiles in DRUGS.items()))
    return path


def command(*arguments: object) -> None:
    done = CliRunner().invoke(app, [*map(str, arguments), "-q"])
    assert done.exit_code == 0, done.output


def test_values_are_those_of_rdkit():
    frame = score(MOLS, ["qed", "logp", "mw"], **SERIAL)
    assert frame.index.tolist() == [0, 1, 2, 3]
    assert frame.qed.tolist() == pytest.approx([QED.qed(m) for m in MOLS], rel=1e-9)
    assert frame.logp.tolist() == pytest.approx([Crippen.MolLogP(m) for m in MOLS], rel=1e-9)
    assert frame.mw.tolist() == pytest.approx([Descriptors.MolWt(m) for m in MOLS], rel=1e-6)
    assert "failed" not in frame


def test_scores_are_what_the_command_writes(tmp_path):
    out = tmp_path / "scored.csv"
    options = ["-p", "qed,sa_score,mmff_energy_kcal_mol", "--backend", "serial", "--no-cache"]
    command("score", listed(tmp_path), *options, "-o", out)
    written = pandas.read_csv(out)
    names = ["qed", "sa_score", "mmff_energy_kcal_mol"]
    for source in ([f"{s} {n}" for n, s in DRUGS.items()], listed(tmp_path)):
        frame = score(source, names, **SERIAL)
        assert frame.columns.tolist() == written.columns.tolist()
        assert frame[["name", "smiles"]].equals(written[["name", "smiles"]])
        assert np.allclose(frame[names], written[names], rtol=1e-9)


def test_a_frame_keeps_its_columns_types_and_index():
    frame = pandas.DataFrame(
        {"compound": list(DRUGS), "SMILES": list(DRUGS.values()), "dose": [500, 200, 400, 1000],
         "qed": -1.0},
        index=["a", "b", "c", "d"],
    )  # fmt: skip
    found = score(frame, ["qed", "logp"], **SERIAL)
    assert found.columns.tolist() == ["compound", "SMILES", "dose", "qed", "logp"]
    assert found.index.tolist() == ["a", "b", "c", "d"]
    assert found.dose.dtype == frame.dose.dtype
    assert found.qed.tolist() == pytest.approx([QED.qed(m) for m in MOLS], rel=1e-9)
    assert (frame.qed == -1).all()  # the user's own is not changed


def test_what_fails_is_nan_with_its_reason_at_its_place():
    with pytest.warns(FewerResults, match="some values are missing") as caught:
        frame = score(["CCO", "C1CC", "[Na+].[Cl-]"], ["qed", "mmff_energy_kcal_mol"], **SERIAL)
    assert caught[0].filename == __file__
    assert frame.qed.isna().tolist() == [False, True, False]
    assert frame.mmff_energy_kcal_mol.isna().tolist() == [False, True, True]
    assert frame.failed.isna().tolist() == [True, False, False]
    assert "C1CC" in frame.failed[1]
    assert frame.failed[2].startswith("mmff_energy_kcal_mol: ")
    assert "a salt or a mixture" in frame.failed[2]


def test_a_geometry_that_is_given_stays_and_others_are_made():
    ready = Chem.AddHs(MOLS[3])
    Chem.rdDistGeom.EmbedMolecule(ready, 5)
    energies = score([ready, MOLS[3]], ["mmff_energy_kcal_mol"], **SERIAL).mmff_energy_kcal_mol
    alone = score([ready], ["mmff_energy_kcal_mol"], **SERIAL).mmff_energy_kcal_mol
    assert energies[0] == pytest.approx(alone[0], abs=1e-9)
    assert energies[1] < energies[0] - 1  # which was relaxed


def test_enumerated_isomers_have_the_place_of_their_molecule():
    frame = score(["CCO", "CC(F)Cl"], ["mmff_energy_kcal_mol"], isomers="enumerate", **SERIAL)
    assert frame.index.tolist() == [0, 1, 1]
    assert len(set(frame.smiles)) == 3


def oxygens(mol: Chem.Mol) -> float:
    return sum(atom.GetAtomicNum() == 8 for atom in mol.GetAtoms())


def test_a_property_of_ones_own_in_memory():
    own = Property("oxygens_of_mine", "", 1, "oxygen atoms", oxygens, geometry=False)
    assert score(MOLS, own, **SERIAL).oxygens_of_mine.tolist() == [4, 2, 2, 2]
    assert score(MOLS, ["qed", "oxygens_of_mine"], **SERIAL).oxygens_of_mine[0] == 4
    assert rank(MOLS, own, 1, **QUIET)[0].GetNumAtoms() == MOLS[0].GetNumAtoms()


def test_it_is_written_when_asked(tmp_path):
    frame = score(MOLS, "qed", out=tmp_path / "a.sdf.gz", **SERIAL)
    library = Library.read(tmp_path / "a.sdf.gz")
    assert [row["qed"] for row in library.values] == pytest.approx(frame.qed.tolist(), rel=1e-9)
    assert all(mol.GetNumConformers() for mol in library)
    assert (tmp_path / "a.sdf.gz.run.json").exists()


def test_rank_is_what_the_command_writes(tmp_path):
    frame = score([f"{s} {n}" for n, s in DRUGS.items()], ["qed", "logp"], **SERIAL)
    frame.to_csv(tmp_path / "scored.csv", index=False)
    for by, extra in (("qed", {}), ("logp", {"minimise": True}), ("ramp(-logp, -2, 0)", {})):
        out = tmp_path / f"{len(by)}.csv"
        flags = ["--minimise"] if extra else []
        command("rank", tmp_path / "scored.csv", "--by", by, "-n", 3, *flags, "-o", out)
        written = pandas.read_csv(out)
        best = rank(frame, by, n=3, **extra)
        assert best.columns[0] == "rank"
        assert best["rank"].tolist() == [1, 2, 3]
        assert best.name.tolist() == written.name.tolist()
        assert by in best.columns
        library = rank(tmp_path / "scored.csv", by, n=3, out=tmp_path / f"{len(by)}2.csv", **extra)
        assert library.names == written.name.tolist()


def test_rank_computes_what_is_not_there():
    best = rank(MOLS, by="qed", n=2, **QUIET)
    values = [QED.qed(mol) for mol in MOLS]
    assert [row["qed"] for row in best.values] == pytest.approx(sorted(values)[:1:-1], rel=1e-6)
    assert [row["rank"] for row in best.values] == [1, 2]
    assert best.made["config"]["by"] == "qed"


def test_rank_takes_the_values_of_a_library_and_each_molecule_once():
    twice = [MOLS[0], MOLS[1], MOLS[0]]
    library = Library(
        Entry(mol, f"m{k}", {"affinity": value, "set": "a"})
        for k, (mol, value) in enumerate(zip(twice, [1.0, 2.0, 3.0], strict=True))
    )
    best = rank(library, "affinity")
    assert best.names == ["m2", "m1"]
    assert best.values[0] == {"rank": 1, "affinity": 3.0, "set": "a"}
    frame = library.frame()
    assert rank(frame, "affinity").name.tolist() == ["m2", "m1"]
    assert rank(frame, "-affinity").name.tolist() == ["m0", "m1"]


def test_rank_leaves_out_what_has_no_value_and_says_so():
    frame = pandas.DataFrame({"smiles": ["CCO", "CCN"], "x": [1.0, np.nan]})
    with pytest.warns(FewerResults, match="1 molecules are left out; 1 without x"):
        assert rank(frame, "x").smiles.tolist() == ["CCO"]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: score(MOLS, ["qedd"], **QUIET), "did you mean qed"),
        (lambda: score(MOLS, [], **QUIET), r"score\(\): properties"),
        (lambda: score(MOLS, "qed", salt="strip", **QUIET), r"score\(\): salt: .*salts"),
        (lambda: score("missing.sdf", "qed", **QUIET), "missing.sdf"),
        (lambda: rank(MOLS, "qedd", **QUIET), "did you mean qed"),
        (lambda: rank(MOLS, "qed", n=0, **QUIET), r"rank\(\): n: "),
    ],
    ids=["property", "none", "setting", "file", "by", "number"],
)
def test_bad_input_is_one_clear_line(call, says):
    with pytest.raises(UserError, match=says):
        call()
