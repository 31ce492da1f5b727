"""`generate` around what is given: records, resuming, and inputs that are refused at once."""

import json
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from molflowctl.errors import UserError
from molflowctl.io.library_writers import SDFWriter
from molflowctl.io.reading import read_molecules
from molflowctl.io.record import record_path
from molflowctl.models.around.core import Core
from molflowctl.tasks.generate import around as task
from molflowctl.tasks.generate.denovo import generate
from molflowctl.tasks.generate.settings import GenerateConfig


def write(path, *smiles: str, apart: float = 8.0):
    """An SDF file of conformers, each so many angstrom beside the one before."""
    with SDFWriter(path) as writer:
        for k, one in enumerate(smiles):
            mol = Chem.AddHs(Chem.MolFromSmiles(one))
            assert rdDistGeom.EmbedMolecule(mol, randomSeed=2) == 0
            x = mol.GetConformer().GetPositions()
            mol.GetConformer().SetPositions(x + np.array([apart * k, 0, 0]))
            writer.write(mol, {})
    return str(path)


@pytest.fixture
def config(tiny_flow, tmp_path):
    def make(**changes) -> GenerateConfig:
        base = {"flow": str(tiny_flow), "out": str(tmp_path / "out.sdf"), "attempts": 40,
                "nfe": 20}  # fmt: skip
        return GenerateConfig(**base | changes)

    return make


def records(config) -> list:
    return list(read_molecules(config.out))


def test_molecules_have_the_core_where_it_may_bond(config) -> None:
    run = config(core=("[*:1]C1CC1",))
    state = generate(run)
    assert state.valid > 3
    core = Chem.MolFromSmarts("[CH1]1[CH2][CH2]1")  # no other atom of it has lost a hydrogen
    for record in records(run):
        plain = Chem.RemoveHs(record.mol)
        assert record.tags["core_atoms"] == "0 1 2"
        assert plain.HasSubstructMatch(core)
        atoms = [plain.GetAtomWithIdx(i) for i in range(3)]
        assert [len(a.GetNeighbors()) for a in atoms] == [3, 2, 2]
        assert "core_rmsd_angstrom" not in record.tags  # a SMILES has no pose


def test_a_pose_is_kept_and_its_rmsd_said(config, tmp_path) -> None:
    file = write(tmp_path / "core.sdf", "C", "C1CO1", apart=30.0)
    (_, second) = read_molecules(file)
    with SDFWriter(tmp_path / "one.sdf") as writer:
        writer.write(second.mol, {})
    run = config(core=(str(tmp_path / "one.sdf"),))
    assert generate(run).valid > 3
    given = Chem.RemoveHs(second.mol).GetConformer().GetPositions()
    for record in records(run):
        assert float(record.tags["core_rmsd_angstrom"]) < 1e-2
        found = record.mol.GetConformer().GetPositions()[:3]
        np.testing.assert_allclose(found, given, atol=2e-3)


def test_a_resumed_run_is_the_whole_one(config, tmp_path) -> None:
    whole = config(core=("[*:1]C1CC1",), out=str(tmp_path / "whole.sdf"))
    generate(whole)
    part = config(core=("[*:1]C1CC1",), attempts=15)
    generate(part)
    generate(part.model_copy(update={"attempts": 40, "resume": True}))
    assert (tmp_path / "out.sdf").read_bytes() == (tmp_path / "whole.sdf").read_bytes()
    record = json.loads((tmp_path / "out.sdf.run.json").read_text())
    assert record["config"]["core"] == ["[*:1]C1CC1"]
    assert len(record["flow"]["given_sha256"]) == 64


def test_a_core_that_changed_in_its_file_is_not_resumed(config, tmp_path) -> None:
    file = write(tmp_path / "core.sdf", "C1CC1")
    run = config(core=(file,), attempts=5)
    generate(run)
    write(tmp_path / "other.sdf", "C1CO1")
    (tmp_path / "other.sdf").replace(tmp_path / "core.sdf")
    with pytest.raises(UserError, match="designed around"):
        generate(run.model_copy(update={"attempts": 9, "resume": True}))


def test_a_molecule_is_varied(config) -> None:
    run = config(like="CC1CC1C=O", noise=0.5, keep="C1CC1")
    generate(run)
    found = records(run)
    assert found
    for record in found:
        assert record.mol.GetNumHeavyAtoms() == 6
        assert 0 <= float(record.tags["similarity_to_start"]) <= 1
        assert Chem.RemoveHs(record.mol).HasSubstructMatch(Chem.MolFromSmarts("C1CC1"))


def test_a_part_is_replaced_and_the_rest_is_as_it_was(config) -> None:
    run = config(like="C1CC1C=O", replace="C=O")
    generate(run)
    found = records(run)
    assert found
    for record in found:
        plain = Chem.RemoveHs(record.mol)
        assert [len(plain.GetAtomWithIdx(i).GetNeighbors()) for i in range(3)] == [2, 2, 3]
    assert {r.mol.GetNumHeavyAtoms() for r in found} <= {4, 5, 6}


def test_a_flow_that_was_saved_with_a_core_draws_around_it(config, tiny_flow, tmp_path) -> None:
    from molflowctl.models.denovo import DeNovoFlow

    around = DeNovoFlow.load(tiny_flow).around("[*:1]C1CC1")
    run = config(flow=str(around.save(tmp_path / "around")))
    assert generate(run).valid > 0
    assert all(record.tags["core_atoms"] == "0 1 2" for record in records(run))


def given(**settings):
    return task.read_given(GenerateConfig(flow="qm9", out="x.sdf", **settings))


def test_fragments_of_one_file_or_two_are_one_core(tmp_path) -> None:
    both = write(tmp_path / "both.sdf", "C1CC1", "CO")
    whole = given(core=(both,)).core
    assert whole.fragments() == [[0, 1, 2], [3, 4]]
    first, second = read_molecules(both)
    for name, record in (("a", first), ("b", second)):
        with SDFWriter(tmp_path / f"{name}.sdf") as writer:
            writer.write(record.mol, {})
    assert given(core=(str(tmp_path / "a.sdf"), str(tmp_path / "b.sdf"))).core == whole
    some = given(core=(both,), attach="1,4").core
    assert [atom for atom, room in enumerate(some.room) if room] == [1, 4]


def test_nothing_given_is_none() -> None:
    assert given() is None


def test_what_is_replaced_says_where_bonds_are_and_how_large_it_may_get() -> None:
    found = given(like="Cc1ccccc1OC", replace="OC")
    assert found.sizes == range(8, 13)
    assert found.core.stated == (0, 0, 0, 0, 0, 0, 1)
    assert found.like is None
    assert found.start == Chem.CanonSmiles("Cc1ccccc1OC")


def test_the_core_of_a_variation_comes_first() -> None:
    found = given(like="COCc1ccncc1", noise=0.4, keep="c1ccncc1")
    k = len(found.core)
    assert tuple(found.like.numbers[:k]) == found.core.numbers
    np.testing.assert_array_equal(found.like.bonds[:k, :k], found.core.bond_matrix())
    np.testing.assert_allclose(found.like.positions[:k], found.core.positions)
    assert k == 6
    assert len(found.like.numbers) == 9


@pytest.mark.parametrize(
    ("settings", "isomers"),
    [
        ({"like": "CC(F)CO", "noise": 0.3}, ["C[C@H](F)CO", "C[C@@H](F)CO"]),
        ({"like": "CC(F)CO", "replace": "O"}, ["C[C@H](F)CO", "C[C@@H](F)CO"]),
        ({"like": "CC(F)CO", "replace": "C(F)CO"}, []),  # the centre is drawn anew
        ({"like": "C[C@H](F)CO", "noise": 0.3}, []),
        ({"like": "CC=CCO", "noise": 0.3}, ["C/C=C/CO", "C/C=C\\CO"]),
        ({"like": "CCO", "noise": 0.3}, []),
    ],
    ids=str,
)
def test_which_isomer_of_open_stereo_was_taken_is_said(config, settings, isomers) -> None:
    notes = given(**settings).notes
    assert len(notes) == bool(isomers)
    if isomers:
        assert notes[0].split()[6] in {Chem.CanonSmiles(smiles) for smiles in isomers}
        assert notes[0].startswith(f"{settings['like']} leaves stereo open")


def test_the_isomer_that_was_taken_is_in_the_record(config) -> None:
    run = config(like="CC(N)CO", noise=0.3)
    state = generate(run)
    assert len(state.notes) == 1
    assert json.loads(record_path(run.out).read_text())["notes"] == list(state.notes)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"core": ("CCO",), "like": "CCN"}, "two ways"),
        ({"attach": "0"}, "--attach is of a core"),
        ({"core_geometry": "free"}, "--core-geometry is of a core"),
        ({"noise": 0.4}, "--noise is of a molecule"),
        ({"keep": "C"}, "--keep is of a molecule"),
        ({"replace": "C"}, "--replace is of a molecule"),
        ({"like": "CCO"}, "needs --noise"),
        ({"like": "CCO", "noise": 0.3, "keep": "N"}, "N matches nothing in CCO"),
        ({"like": "CCO", "noise": 0.3, "keep": "C("}, "no SMARTS"),
        ({"like": "CCO", "noise": 0.3, "keep": "*"}, "nothing is left to vary"),
        ({"like": "CCO", "replace": "CCO"}, "nothing would stay"),
        ({"like": "COC", "replace": "[CH3]"}, "matches 2 parts"),
        ({"like": "CCO", "replace": "O", "keep": "C"}, "take one"),
        ({"like": "CC.O", "noise": 0.3}, "several fragments"),
        ({"like": "nothing.sdf", "noise": 0.3}, "nothing.sdf"),
        ({"like": "C(", "noise": 0.3}, "no SMILES"),
        ({"core": ("C(",)}, "no SMILES"),
        ({"core": ("",)}, "an empty text is no core"),
        ({"core": ("CC(C)(C)(C)C",)}, "no molecule: Explicit valence for atom # 1 C, 5"),
        ({"core": ("FC(F)(F)F",)}, "no place left to attach to"),
        ({"core": ("CCO", "CCN")}, "has no pose"),
        ({"core": ("CC.OO",)}, "no geometry"),
        ({"core": ("CCO",), "attach": "0,x"}, "numbers of atoms"),
        ({"core": ("CCO",), "attach": "3"}, "atoms 0 to 2"),
        ({"core": ("nothing.sdf",)}, "nothing.sdf"),
    ],
    ids=str,
)
def test_what_does_not_go_is_said_in_a_line(settings, words) -> None:
    with pytest.raises(UserError, match=words) as caught:
        given(**settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"core": ("CCCCCC",)}, "no room"),
        ({"core": ("CCBr",)}, "Br"),
        ({"core": ("CC",), "atoms": "2"}, "--atoms"),
        ({"like": "CCCCCCCCC", "noise": 0.3}, "at most 6"),
        ({"like": "CCCCCCCCCCCO", "replace": "O"}, "knows molecules of 4 to 6"),
    ],
    ids=str,
)
def test_a_flow_without_a_place_for_it_says_so_before_it_draws(
    config, settings, words, monkeypatch
) -> None:
    monkeypatch.setattr("molflowctl.tasks.generate.denovo.draws", None)
    run = config(**settings)
    with pytest.raises(UserError, match=words):
        generate(run)
    assert not Path(run.out).exists()


def test_a_core_read_from_a_file_is_that_of_its_molecule(tmp_path) -> None:
    file = write(tmp_path / "core.sdf", "OCC1CC1")
    (record,) = read_molecules(file)
    assert given(core=(file,)).core == Core.from_mol(record.mol)
