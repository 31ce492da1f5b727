"""`generate` and `conformers` in Python give what the commands write."""

import json
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from typer.testing import CliRunner

import molflowctl
from molflowctl import UserError, conformers, generate
from molflowctl.cli import app
from molflowctl.compute import progress
from molflowctl.compute.parallel import Outcome
from molflowctl.errors import FewerResults
from molflowctl.models import DeNovoFlow, Flow

STORED = json.loads((Path(__file__).parents[1] / "test_same_molecules.json").read_text())
QUIET = {"progress": False, "jobs": 1, "device": "cpu", "seed": 3}
DRAWN = {"n": 8, "nfe": 10, "relax": "none", **QUIET}


def command(*arguments: str) -> None:
    done = CliRunner().invoke(app, [*map(str, arguments), "-j", "1", "-q"])
    assert done.exit_code == 0, done.output


def in_file(path: Path) -> list[Chem.Mol]:
    return list(Chem.SDMolSupplier(str(path), removeHs=False))


def assert_same(mols, others, limit: float) -> None:
    """The same molecules in order, with their titles and within `limit` angstrom."""
    assert [m.GetProp("_Name") for m in mols] == [m.GetProp("_Name") for m in others]
    for mol, other in zip(mols, others, strict=True):
        assert Chem.MolToSmiles(mol) == Chem.MolToSmiles(other)
        gap = mol.GetConformer().GetPositions() - other.GetConformer().GetPositions()
        assert np.abs(gap).max() < limit


@pytest.fixture(scope="module")
def eight():
    """Eight molecules of the flow `qm9`."""
    return generate("qm9", **DRAWN)


def test_generate_gives_what_it_has_always_given(eight):
    assert eight.frame().smiles.tolist() == STORED["generate"]["smiles"]


def test_generate_gives_what_the_command_writes(eight, tmp_path):
    out = tmp_path / "library.sdf"
    options = ["-n", 8, "--nfe", 10, "--relax", "none", "--seed", 3, "--device", "cpu"]
    command("generate", "qm9", *options, "-o", out)
    assert_same(eight, in_file(out), 1e-4)
    for row, mol in zip(eight.values, in_file(out), strict=True):
        tags = mol.GetPropsAsDict()
        assert list(row) == list(tags)
        assert row["qed"] == pytest.approx(tags["qed"], rel=1e-9)
        assert row["inchikey"] == tags["inchikey"]
    record = json.loads((tmp_path / "library.sdf.run.json").read_text())
    changed = {k for k, v in record["config"].items() if eight.made["config"][k] != v}
    assert changed == {"out"}


def test_generate_writes_when_asked_and_a_flow_in_memory_draws_the_same(eight, tmp_path):
    flow = Flow.from_pretrained("qm9")
    written = generate(flow, out=tmp_path / "a.sdf", **DRAWN)
    assert_same(eight, written, 1e-4)
    assert (tmp_path / "a.sdf.run.json").exists()
    with pytest.raises(UserError, match="exists"):
        generate(flow, out=tmp_path / "a.sdf", **DRAWN)


def test_generate_says_what_failed_and_keeps_it_on_request(eight):
    assert eight.notes == ()
    library = generate("qm9", attempts=24, keep_invalid=True, **{**DRAWN, "nfe": 4})
    failed = [row for row in library.values if "invalid_reason" in row]
    assert 0 < len(failed) < len(library) == 24
    assert sum(int(note.split()[0]) for note in library.notes) == len(failed)


def test_fewer_molecules_are_a_warning(monkeypatch):
    monkeypatch.setattr("molflowctl.tasks.generate.filtering.give_up_after", lambda n: 16)
    with pytest.warns(FewerResults, match="of 16 attempts"):
        generate("qm9", **{**DRAWN, "n": 100, "nfe": 2})


class InProcess:
    """A pool without processes, whose start would take longer than the work."""

    def __init__(self, jobs, isolate):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def map(self, function, items, *, timeout, chunk):
        return (Outcome(function(item)) for item in items)


@pytest.fixture
def in_process(monkeypatch):
    monkeypatch.setattr("molflowctl.tasks.conformers.conformers.WorkerPool", InProcess)


SMILES = ["CC[C@H](O)C#N first", "C/C=C/CN second"]
PLACED = {"n": 3, "nfe": 5, "relax": "none", "rmsd_threshold": 0, "energy_window": 1000, **QUIET}


def test_conformers_are_what_they_have_always_been():
    found = conformers(SMILES, **PLACED)
    assert [Chem.MolToSmiles(Chem.RemoveHs(m)) for m in found] == STORED["conformers"]["smiles"]
    for mol, positions in zip(found, STORED["conformers"]["positions"], strict=True):
        gap = mol.GetConformer().GetPositions() - np.array(positions)
        assert np.sqrt((gap**2).sum(1).mean()) < 0.02


def test_conformers_are_what_the_command_writes(tmp_path, in_process):
    listed, out = tmp_path / "two.smi", tmp_path / "out.sdf"
    listed.write_text("\n".join(SMILES) + "\n")
    command("conformers", listed, "-n", 3, "--nfe", 5, "--seed", 3, "--device", "cpu", "-o", out)
    settings = {"n": 3, "nfe": 5, **QUIET}
    found = conformers(SMILES, **settings)
    assert_same(found, in_file(out), 1e-4)
    for row, mol in zip(found.values, in_file(out), strict=True):
        tags = mol.GetPropsAsDict()
        assert row["smiles"] == tags["smiles"]
        assert row["boltzmann_weight"] == pytest.approx(tags["boltzmann_weight"], rel=1e-9)
        assert row["relative_energy_kcal_mol"] == pytest.approx(
            tags["relative_energy_kcal_mol"], abs=1e-6
        )
    assert_same(conformers(listed, out=tmp_path / "again.sdf", **settings), in_file(out), 1e-4)


def test_conformers_that_are_there_do_not_matter(in_process):
    bare = conformers("CC[C@H](O)C#N", **PLACED)
    mol = Chem.Mol(bare[0])
    mol.SetProp("_Name", bare.names[0])
    assert_same(conformers(mol, **PLACED), bare, 1e-9)


def test_a_conformer_flow_in_memory(in_process):
    flow = Flow.from_pretrained("qm9-conformers-gfn2")
    by_name = conformers("CCO", **PLACED, model="qm9-conformers-gfn2")
    assert_same(conformers("CCO", **PLACED, model=flow), by_name, 1e-9)


def test_a_molecule_that_cannot_be_done_is_a_warning_with_its_place(in_process):
    with pytest.warns(FewerResults, match="molecule 2: 2 fragments") as caught:
        found = conformers(["CCO", "[Na+].[Cl-]", "xyz"], **PLACED)
    assert caught[0].filename == __file__  # the line of the user
    assert {row["smiles"] for row in found.values} == {"CCO"}
    assert any(note.startswith("molecule 3:") for note in found.notes)


def test_the_wrong_kind_of_flow_says_which_function_is_meant():
    with pytest.raises(UserError, match=r"conformers\(mols, model=flow\)"):
        generate(Flow.from_pretrained("qm9-conformers-gfn2"))
    with pytest.raises(UserError, match=r"generate\(flow"):
        conformers("CCO", model=Flow.from_pretrained("qm9"))
    with pytest.raises(UserError, match=r"conformers\('CCO', n=20, model='druglike-conformers'\)"):
        Flow.from_pretrained("druglike-conformers").sample(4)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: generate("qmm9"), "did you mean qm9"),
        (lambda: generate("qm9", nf=5), r"generate\(\): nf: .*nfe"),
        (lambda: generate("qm9", n=0), r"generate\(\): n: "),
        (lambda: conformers("CCO", n=5, relax="uff"), r"conformers\(\): relax: "),
        (lambda: conformers([]), "the list that was given is empty"),
    ],
    ids=["flow", "misspelt", "number", "choice", "nothing"],
)
def test_bad_input_is_one_clear_line(call, says):
    with pytest.raises(UserError, match=says):
        call()


def test_no_progress_when_it_is_not_wanted(capfd, monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)  # of a log, which this is
    generate("qm9", **{**DRAWN, "n": 1})
    assert capfd.readouterr() == ("", "")
    generate("qm9", **{**DRAWN, "n": 1, "progress": True})
    out, err = capfd.readouterr()
    assert out == ""
    assert "molecules" in err


def test_the_flow_that_is_given_stays_as_it_is(eight):
    flow = DeNovoFlow.from_pretrained("qm9")
    before = {name: tensor.clone() for name, tensor in flow.state_dict().items()}
    assert_same(generate(flow, **DRAWN), eight, 1e-9)
    assert all((before[name] == tensor).all() for name, tensor in flow.state_dict().items())
    assert molflowctl.Flow is Flow
