"""A receptor's file: what is read, and what is refused with the place that is wrong."""

from dataclasses import replace

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom
from scipy.spatial.transform import Rotation

from molflowctl.chem.geometry import with_positions
from molflowctl.errors import UserError
from molflowctl.properties.docking.receptor import atoms_of, box_around, read_receptor

ATOM = "ATOM      1  CA  HIS A   3    {:8.3f}{:8.3f}{:8.3f}  1.00  0.00     0.157 {}\n"
PDBQT = ATOM.format(1, 2, 3, "C ") + ATOM.format(2, 2, 3, "Zn")
GOOD = "receptor: r.pdbqt\ncenter: [1, 2, 3]\nsize: [10, 10, 12]\n"


def read(folder, text=GOOD, pdbqt=PDBQT, name="r.yaml"):
    (folder / "r.pdbqt").write_text(pdbqt)
    (folder / name).write_text(text)
    return read_receptor(folder / name)


def test_a_file_is_read_with_what_it_leaves_out(tmp_path):
    found = read(tmp_path)
    assert (found.name, found.center, found.size) == ("r", (1, 2, 3), (10, 10, 12))
    assert (found.exhaustiveness, found.seed, found.n_poses, found.time_limit) == (8, 1, 9, 300)
    types, places = atoms_of(found.pdbqt, "r.pdbqt")
    assert types == ["C", "Zn"]
    assert places.tolist() == [[1, 2, 3], [2, 2, 3]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("receptor: r.pdbqt\n", ["box needs center and size, or a ligand"]),
        ("receptor: r.pdbqt\ncenter: [1, 2, 3]\n", ["box needs center and size"]),
        (GOOD + "ligand: l.sdf\n", ["box needs center and size, or a ligand", "not both"]),
        ("center: [1, 2, 3]\nsize: [9, 9, 9]\n", ["receptor: is missing"]),
        (GOOD + "exhaustivness: 8\n", ["line 4", "exhaustivness", "did you mean exhaustiveness"]),
        (GOOD + "exhaustiveness: 0\n", ["line 4", "exhaustiveness", "greater than or equal to 1"]),
        (GOOD + "seed: 0\n", ["line 4", "seed"]),
        (GOOD + "time_limit: -1\n", ["line 4", "time_limit"]),
        (GOOD.replace("12]", "120]"), ["line 3", "size", "50"]),
        (GOOD.replace("12]", "a]"), ["line 3", "size", "'a'"]),
        (GOOD.replace("[1, 2, 3]", "[99, 2, 3]"), ["no atom of the receptor", "same frame"]),
        (GOOD.replace("r.pdbqt", "none.pdbqt"), ["receptor", "none.pdbqt", "No such file"]),
        (GOOD.replace("r.pdbqt", "r.pdb"), ["r.pdb is no PDBQT", "docking prepare r.pdb"]),
        (GOOD + "name: a/b\n", ["name", "'a/b'"]),
        ("- a\n", ["mapping"]),
    ],
)  # fmt: skip
def test_wrong_settings_are_named(tmp_path, text, words):
    with pytest.raises(UserError) as error:
        read(tmp_path, text)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(
    ("pdbqt", "words"),
    [
        ("ROOT\n" + PDBQT, ["line 1", "ROOT", "rigid receptor"]),
        (PDBQT + "BEGIN_RES HIS A 3\n", ["line 3", "flexible"]),
        (ATOM.format(1, 2, 3, "C ").replace(" C \n", "\n"), ["line 1", "no atom type"]),
        (PDBQT + ATOM.format(1, 2, 3, "SE"), ["line 3", "'SE'", "no atom type of AutoDock"]),
        (ATOM.format(1, 2, 3, "C ").replace("1.000", "  abc"), ["line 1", "no coordinates"]),
        ("HEADER    LYASE\n", ["no PDBQT", "ATOM"]),
    ],
)
def test_what_is_no_rigid_pdbqt_is_named_by_its_line(tmp_path, pdbqt, words):
    with pytest.raises(UserError) as error:
        read(tmp_path, pdbqt=pdbqt)
    assert all(word in str(error.value) for word in ["r.pdbqt", *words]), error.value


def test_files_that_are_not_there_or_of_another_kind(tmp_path):
    with pytest.raises(UserError, match=r"no receptor file .*docking prepare"):
        read_receptor(tmp_path / "none.yaml")
    (tmp_path / "r.pdbqt").write_text(PDBQT)
    with pytest.raises(UserError, match="not the YAML file of a receptor"):
        read_receptor(tmp_path / "r.pdbqt")


def write_ligand(file, smiles, places):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    everywhere = np.zeros((mol.GetNumAtoms(), 3)) + 50.0  # hydrogens do not count
    everywhere[: len(places)] = places
    file.write_text(Chem.MolToMolBlock(with_positions(mol, everywhere)) + "$$$$\n")


def test_the_box_around_a_ligand_reaches_a_margin_beyond_its_heavy_atoms(tmp_path):
    write_ligand(tmp_path / "l.sdf", "CCO", [[0.0, 0, 0], [1.5, 0, 0.5], [2, -1, 3]])
    center, size = box_around(tmp_path / "l.sdf", 4.0)
    assert np.allclose(center, [1, -0.5, 1.5])
    assert np.allclose(size, [10, 9, 11])
    found = read(tmp_path, "receptor: r.pdbqt\nligand: l.sdf\nmargin: 4\n")
    assert (found.center, found.size) == (center, size)


@pytest.mark.parametrize("margin", [30.0, 0.0])
def test_a_box_that_is_too_large_or_flat_is_refused(tmp_path, margin):
    mol = Chem.AddHs(Chem.MolFromSmiles("CC"))
    rdDistGeom.EmbedMolecule(mol, randomSeed=1)
    places = mol.GetConformer().GetPositions()
    along = (places[1] - places[0]) / np.linalg.norm(places[1] - places[0])
    turn = Rotation.align_vectors([[1.0, 0, 0]], [along])[0]  # both carbons on one line
    turned = with_positions(mol, turn.apply(places - places[0]))
    (tmp_path / "l.sdf").write_text(Chem.MolToMolBlock(turned) + "$$$$\n")
    with pytest.raises(UserError, match="cannot be searched"):
        box_around(tmp_path / "l.sdf", margin)


def test_a_reference_without_coordinates_in_space_is_refused(tmp_path):
    (tmp_path / "l.smi").write_text("CCO\n")
    with pytest.raises(UserError, match="no coordinates in space"):
        box_around(tmp_path / "l.smi", 5.0)


def test_the_version_changes_with_what_decides_a_score_alone(tmp_path):
    found = read(tmp_path)
    changes = {
        "pdbqt": PDBQT + PDBQT, "center": (1.0, 2.0, 3.1), "size": (10.0, 10.0, 12.1),
        "exhaustiveness": 9, "seed": 2, "n_poses": 8,
        "max_evals": 100_000,
    }  # fmt: skip
    versions = {replace(found, **{name: value}).version for name, value in changes.items()}
    assert len(versions | {found.version}) == 1 + len(changes)
    assert replace(found, name="other", time_limit=5.0).version == found.version
