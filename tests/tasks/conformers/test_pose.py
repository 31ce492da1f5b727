"""Conformers around a core that stays where it stands in a reference."""

import numpy as np
import pytest
from rdkit import Chem

from molflowctl.chem.ensemble import embed, force_field, keep_conformers
from molflowctl.chem.stereo import stereo_kept
from molflowctl.errors import UserError
from molflowctl.io.library import read_molecules
from molflowctl.io.library_writers import SDFWriter
from molflowctl.tasks.conformers import conformers as task
from molflowctl.tasks.conformers.conformers import generate_conformers
from molflowctl.tasks.conformers.pose import Pose
from molflowctl.tasks.conformers.settings import ConformersConfig
from tests.pools import InProcess

LIGAND = "c1ccc2c(c1)[nH]cc2CCN"
INDOLE = "c1ccc2c(c1)[nH]cc2C"
SHIFT = (11.0, -3.0, 25.0)


@pytest.fixture
def reference(tmp_path):
    """A ligand in its pose, far from the origin."""
    mol = Chem.AddHs(Chem.MolFromSmiles(LIGAND))
    embed(mol, 1, 3)
    force_field(mol)
    mol.GetConformer().SetPositions(mol.GetConformer().GetPositions() + SHIFT)
    path = tmp_path / "pose.sdf"
    with SDFWriter(path) as writer:
        writer.write(mol, {}, "ligand")
    return path


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(task, "WorkerPool", InProcess)

    def run(source, **changes):
        out = tmp_path / "out.sdf"
        settings = {"out": str(out), "n": 4, "overwrite": True, "rmsd_threshold": 0.2}
        state = generate_conformers(ConformersConfig(source=str(source), **settings | changes))
        return state, list(read_molecules(out)) if state.written else []

    return run


def core_of(mol: Chem.Mol, core: str) -> np.ndarray:
    atoms = list(mol.GetSubstructMatch(Chem.MolFromSmarts(core)))
    return mol.GetConformer().GetPositions()[atoms]


def test_the_core_stays_and_the_rest_is_relaxed(run, reference):
    smiles = INDOLE + "[C@@H](N)C(=O)NC1CC1"
    state, records = run(smiles, pose=str(reference), core=INDOLE)
    assert (state.done, state.failed) == (1, 0)
    assert len(records) > 1
    (pose,) = read_molecules(reference)
    wanted = core_of(pose.mol, INDOLE)
    asked = Chem.AddHs(Chem.MolFromSmiles(smiles))
    for record in records:
        assert record.tags["drawn_by"] == "etkdg"
        np.testing.assert_allclose(core_of(record.mol, INDOLE), wanted, atol=2e-4)
        mol = Chem.Mol(asked)
        (order,) = [record.mol.GetSubstructMatch(asked)]
        conformer = Chem.Conformer(record.mol.GetConformer())
        conformer.SetPositions(conformer.GetPositions()[list(order)])
        mol.AddConformer(conformer, assignId=True)
        assert stereo_kept(mol)
        # With the core held nothing is left to gain.
        before = mol.GetConformer().GetPositions()
        held = list(asked.GetSubstructMatch(Chem.MolFromSmarts(INDOLE)))
        again, _, _ = force_field(mol, held=[held])
        assert np.isfinite(again).all()
        assert np.abs(mol.GetConformer().GetPositions() - before).max() < 0.1
    energies = [float(r.tags["relative_energy_kcal_mol"]) for r in records]
    assert energies == sorted(energies)


def test_the_largest_common_part_is_the_core_unless_another_is_named(reference):
    pose = Pose.read(str(reference), None)
    placing = pose.on(Chem.AddHs(Chem.MolFromSmiles(LIGAND + "C")))
    assert placing.ways.shape[1] == 12
    pose = Pose.read(str(reference), "c1ccc2[nH]ccc2c1")
    placing = pose.on(Chem.AddHs(Chem.MolFromSmiles(LIGAND)))
    assert placing.ways.shape == (1, 9)


def test_a_core_that_fits_in_two_ways_is_placed_in_both(run, tmp_path):
    """A substituted phenyl turns its substituent to either side of the plane's edge."""
    mol = Chem.AddHs(Chem.MolFromSmiles("c1ccccc1CO"))
    embed(mol, 1, 0)
    path = tmp_path / "benzyl.sdf"
    with SDFWriter(path) as writer:
        writer.write(mol, {}, "benzyl")
    core = "c1ccccc1C"
    _, records = run("Fc1ccccc1CO", pose=str(path), core=core, n=8, rmsd_threshold=0.5)
    wanted = {tuple(x.round(3)) for x in core_of(mol, core)}
    sides = set()
    for record in records:
        carbons = [a.GetIdx() for a in record.mol.GetAtoms() if a.GetSymbol() == "C"]
        found = record.mol.GetConformer().GetPositions()
        assert {tuple(x.round(3)) for x in found[carbons]} == wanted
        (fluorine,) = [a.GetIdx() for a in record.mol.GetAtoms() if a.GetSymbol() == "F"]
        sides.add(tuple(found[fluorine].round(0)))
    assert len(sides) == 2


def test_what_does_not_have_the_core_costs_itself(run, reference, tmp_path):
    path = tmp_path / "in.smi"
    path.write_text(f"{LIGAND}C one\nCCCCO two\n{LIGAND}.CO three\n")
    state, records = run(path, pose=str(reference), core=INDOLE, salts="keep")
    assert {r.name for r in records} == {"one"}
    assert (state.done, state.failed) == (1, 2)
    assert "line 2: it does not have the core of" in state.notes[0]
    assert "line 3: several fragments are not placed" in state.notes[1]


def test_poses_that_are_none(run, reference, tmp_path):
    (record,) = read_molecules(reference)
    several, flat = tmp_path / "two.sdf", tmp_path / "flat.smi"
    with SDFWriter(several) as writer:
        for k in range(2):
            writer.write(record.mol, {}, f"{k}")
    flat.write_text(f"{LIGAND} flat\n")
    for path, core, words in (
        (several, None, "holds 2 records"),
        (flat, None, "no 3-D coordinates"),
        (reference, "c1cc(", "is no SMARTS"),
        (reference, "CN", "fewer than 3 atoms"),
        (reference, "CCCl", "is not in the molecule"),
        (reference, "ccc", "times in the molecule"),
    ):
        with pytest.raises(UserError, match=words):
            run(LIGAND, pose=str(path), core=core)
    for changes, words in (
        ({"core": INDOLE}, "say which, --pose"),
        ({"pose": str(reference), "relax": "gfn2"}, "MMFF94 relaxes the rest"),
        ({"pose": str(reference), "model": "qm9-conformers"}, "by ETKDGv3 alone"),
    ):
        with pytest.raises(UserError, match=words):
            run(LIGAND, **changes)


def test_alike_is_what_stands_at_one_place():
    """Two conformers of one shape, one of them turned over, differ in place alone."""
    from molflowctl.chem.ensemble import prune

    mol = Chem.AddHs(Chem.MolFromSmiles("OCCF"))
    embed(mol, 1, 0)
    turned = Chem.Conformer(mol.GetConformer())
    turned.SetPositions(turned.GetPositions() * [-1, -1, 1])
    mol.AddConformer(turned, assignId=True)
    assert prune(mol, [0.0, 0.1], 0.3, 6) == [0]
    assert prune(mol, [0.0, 0.1], 0.3, 6, in_place=True) == [0, 1]
    twice = keep_conformers(mol, [0, 0])
    assert prune(twice, [0.0, 0.1], 0.3, 6, in_place=True) == [0]
