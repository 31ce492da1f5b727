"""A receptor's file is made from a PDB, a PDBQT or a target, and what cannot be is told."""

import shutil
from collections import Counter

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from molflowctl.cli import app
from molflowctl.errors import UserError
from molflowctl.properties.docking.checking import checked
from molflowctl.properties.docking.preparing import prepare
from molflowctl.properties.docking.receptor import atoms_of, box_around, read_receptor

pytest.importorskip("meeko", reason="meeko is not installed: the extra [docking]")
pytest.importorskip("vina", reason="vina is not installed: the extra [docking]")

BOX = {"center": (0.0, -7.0, -23.0), "size": (12.0, 12.0, 12.0)}
WATER = "HETATM 9001  O   HOH A 901       3.646  -9.632 -23.625  1.00 27.33           O  \n"
ZINC = "HETATM 9002 ZN    ZN A 902      -3.000 -12.000 -20.000  1.00 20.00          ZN  \n"
DRUG = "HETATM 9003  C1  STI A 903      -3.000  -8.000 -20.000  1.00 20.00           C  \n"


def heavy_atoms_of_pdb(file):
    lines = [line for line in file.read_text().splitlines() if line.startswith("ATOM")]
    return sorted(
        tuple(round(float(line[k : k + 8]), 3) for k in (30, 38, 46))
        for line in lines
        if line[76:78].strip() != "H"
    )


def test_a_pdb_keeps_its_atoms_and_gets_polar_hydrogens_alone(prepared, pocket_pdb, crystal_ligand):
    found = read_receptor(prepared)
    kinds, places = atoms_of(found.pdbqt, "pocket.pdbqt")
    heavy = [k for k, kind in enumerate(kinds) if kind not in ("H", "HD")]
    assert sorted(map(tuple, np.round(places[heavy], 3).tolist())) == heavy_atoms_of_pdb(pocket_pdb)
    assert Counter(kinds)["HD"] > 60
    assert (found.center, found.size) == box_around(crystal_ligand, 5.0)
    assert found.exhaustiveness == 1


def test_waters_and_ligands_are_left_out_and_ions_stay(pocket_pdb, tmp_path):
    file = tmp_path / "full.pdb"
    lines = pocket_pdb.read_text().replace("END\n", "")
    file.write_text(lines + WATER + ZINC + DRUG + "END\n")
    found = prepare(str(file), tmp_path / "full.yaml", **BOX)
    assert found.left_out == {"HOH": 1, "STI": 1}
    kinds, _ = atoms_of((tmp_path / "full.pdbqt").read_text(), "full.pdbqt")
    assert Counter(kinds)["Zn"] == 1
    assert found.atoms == len(kinds)


def test_hydrogens_that_a_pdb_lacks_are_added(pocket_pdb, prepared, tmp_path):
    file = tmp_path / "bare.pdb"
    lines = pocket_pdb.read_text().splitlines(keepends=True)
    file.write_text("".join(line for line in lines if line[76:78].strip() != "H"))
    prepare(str(file), tmp_path / "bare.yaml", **BOX)
    kinds, _ = atoms_of((tmp_path / "bare.pdbqt").read_text(), "bare.pdbqt")
    with_them, _ = atoms_of(read_receptor(prepared).pdbqt, "pocket.pdbqt")
    assert abs(Counter(kinds)["HD"] - Counter(with_them)["HD"]) <= 2  # of histidines


def test_a_residue_that_is_torn_is_named_or_left_out(pocket_pdb, tmp_path):
    file = tmp_path / "torn.pdb"
    lines = pocket_pdb.read_text().splitlines(keepends=True)
    torn = [li for li in lines if not (li[21:26] == "A  14" and li[12:16].strip() in ("CB", "CA"))]
    file.write_text("".join(torn))
    with pytest.raises(UserError, match=r"torn.pdb: .*A:14.*--skip-residues"):
        prepare(str(file), tmp_path / "torn.yaml", **BOX)
    assert not list(tmp_path.glob("*.yaml"))
    found = prepare(str(file), tmp_path / "torn.yaml", skip_residues=True, **BOX)
    assert [name.split()[1] for name in found.left_out] == ["A:14"]


def test_a_residue_that_is_unknown_is_named_or_left_out(pocket_pdb, tmp_path):
    file = tmp_path / "odd.pdb"
    file.write_text(pocket_pdb.read_text().replace("END\n", DRUG.replace("HETATM", "ATOM  ")))
    with pytest.raises(UserError, match=r"odd.pdb: meeko has no template for STI.*--skip-residues"):
        prepare(str(file), tmp_path / "odd.yaml", **BOX)
    assert prepare(str(file), tmp_path / "odd.yaml", skip_residues=True, **BOX).left_out["STI"] == 1


def test_a_pdbqt_stays_where_it_is(prepared, tmp_path):
    (tmp_path / "receptors").mkdir()
    shutil.copy(prepared.with_suffix(".pdbqt"), tmp_path / "receptors" / "mine.pdbqt")
    out = tmp_path / "mine.yaml"
    prepare(str(tmp_path / "receptors" / "mine.pdbqt"), out, seed=5, time_limit=20, **BOX)
    assert yaml.safe_load(out.read_text())["receptor"] == "receptors/mine.pdbqt"
    found = read_receptor(out)
    assert (found.seed, found.time_limit, found.name) == (5, 20, "mine")
    assert (found.center, found.size) == (BOX["center"], BOX["size"])


def test_targets_of_dockstring_bring_their_box(tmp_path):
    pytest.importorskip("dockstring", reason="dockstring is not installed: the extra [dev]")
    found = prepare("dockstring:CA2", tmp_path / "ca2.yaml")
    assert (found.center, found.size) == ((-5.846, 1.074, 16.803), (30, 30, 30))
    small = prepare("dockstring:CA2", tmp_path / "small.yaml", size=(14.0, 15.0, 16.0))
    assert (small.center, small.size) == (found.center, (14, 15, 16))
    assert read_receptor(tmp_path / "ca2.yaml").pdbqt.count("\nATOM") == found.atoms
    with pytest.raises(UserError, match="no target CA9 in dockstring; there are ABL1, ACHE"):
        prepare("dockstring:CA9", tmp_path / "ca9.yaml")


@pytest.mark.parametrize(
    ("receptor", "options", "words"),
    [
        ("p.pdb", {}, "where is the box"),
        ("p.pdb", {"center": (0.0, 0.0, 0.0)}, "--center and --size"),
        ("p.pdb", {"ligand": "l.sdf", **BOX}, "not both"),
        ("p.mol2", BOX, r"p.mol2: a receptor is a .pdb, a .pdbqt or dockstring:NAME"),
        ("none.pdb", BOX, "none.pdb: No such file"),
        ("p.pdb", {**BOX, "exhaustiveness": 0}, "exhaustiveness"),
        ("p.pdb", {**BOX, "size": (0.0, 1.0, 1.0)}, "size"),
        ("empty.pdb", BOX, "empty.pdb holds no residue"),
    ],
)  # fmt: skip
def test_what_cannot_be_prepared_is_told(pocket_pdb, tmp_path, receptor, options, words):
    shutil.copy(pocket_pdb, tmp_path / "p.pdb")
    (tmp_path / "empty.pdb").write_text("HEADER\n")
    with pytest.raises(UserError, match=words):
        prepare(str(tmp_path / receptor), tmp_path / "out.yaml", **options)
    assert not (tmp_path / "out.yaml").exists()


def test_nothing_is_overwritten_unasked(prepared, tmp_path):
    out = tmp_path / "r.yaml"
    source = str(prepared.with_suffix(".pdbqt"))
    prepare(source, out, **BOX)
    with pytest.raises(UserError, match=r"r.yaml exists: --overwrite"):
        prepare(source, out, **BOX)
    prepare(source, out, overwrite=True, seed=9, **BOX)
    assert read_receptor(out).seed == 9
    with pytest.raises(UserError, match=r"ends in .yaml"):
        prepare(source, tmp_path / "r.pdbqt", **BOX)


def test_the_commands_write_a_receptor_and_dock_its_ligand_back(
    pocket_pdb, crystal_ligand, tmp_path
):
    out = tmp_path / "r.yaml"
    arguments = ["--ligand", str(crystal_ligand), "--margin", "4", "--exhaustiveness", "1"]
    call = CliRunner().invoke
    result = call(app, ["docking", "prepare", str(pocket_pdb), *arguments, "-o", str(out)])
    assert result.exit_code == 0, result.output
    center, size = box_around(crystal_ligand, 4.0)
    found = read_receptor(out)
    assert (found.center, found.size, found.exhaustiveness) == (center, size, 1)
    assert f"{found.pdbqt.count('ATOM')} atoms" in result.output
    result = call(app, ["docking", "check", str(out)])
    assert result.exit_code == 0
    said = " ".join(result.output.split())
    assert "exhaustiveness 1, Vina's own number of evaluations, seed 1, 9 poses" in said
    wrong = [
        "docking",
        "prepare",
        str(pocket_pdb),
        "--center",
        "1,2",
        "-o",
        str(tmp_path / "w.yaml"),
    ]
    result = call(app, wrong)
    assert result.exit_code == 1
    assert "--center 1,2: give three numbers" in result.output


@pytest.mark.slow
def test_the_ligand_of_the_crystal_comes_back(prepared, crystal_ligand):
    lines = checked(prepared, str(crystal_ligand))
    best = next(line for line in lines if "pose 1" in line)
    assert float(best.split(", ")[1].split()[0]) < 2.0
