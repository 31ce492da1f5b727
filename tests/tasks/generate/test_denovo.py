"""A library depends on its flow and seed alone, and survives whatever stops its making."""

import gzip
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pandas
import pytest
from rdkit import Chem

from molflowctl.chem.graphs import FAILURE_REASONS, Graph3D, assemble, canonical_smiles
from molflowctl.compute import workers as workers_module
from molflowctl.data.known import known, load_hashes
from molflowctl.errors import UserError
from molflowctl.io.atomic import leftovers
from molflowctl.io.library import read_molecules
from molflowctl.models import generation
from molflowctl.models.denovo import DeNovoFlow
from molflowctl.models.generation import Drawn
from molflowctl.tasks.generate import denovo
from molflowctl.tasks.generate.denovo import TAGS, describe, generate
from molflowctl.tasks.generate.flows import load_flow, parse_atoms, training_hashes
from molflowctl.tasks.generate.resume import differences
from molflowctl.tasks.generate.settings import GenerateConfig

ATTEMPTS = 60


def text(library) -> str:
    opener = gzip.open if library.suffix == ".gz" else open
    with opener(library, "rt") as file:
        return file.read()


def record(library) -> dict:
    return json.loads(library.with_name(library.name + ".run.json").read_text())


@pytest.fixture(scope="module")
def flow(tiny_flow):
    return load_flow(str(tiny_flow), "cpu")


@pytest.fixture
def make(flow, tiny_flow):
    """Write a library; every attempt is written, so that failures are compared as well."""

    def run(out, progress=lambda state: None, **settings):
        settings = {"attempts": ATTEMPTS, "nfe": 10, "keep_invalid": True} | settings
        config = GenerateConfig(flow=str(tiny_flow), out=str(out), **settings)
        return generate(config, flow=flow, progress=progress)

    return run


@pytest.fixture(scope="module")
def whole(flow, tiny_flow, tmp_path_factory):
    """The uninterrupted library, its counts and its record."""
    out = tmp_path_factory.mktemp("whole") / "lib.sdf.gz"
    settings = {"attempts": ATTEMPTS, "nfe": 10, "keep_invalid": True}
    state = generate(GenerateConfig(flow=str(tiny_flow), out=str(out), **settings), flow=flow)
    return state, text(out), record(out)


def counts(state) -> tuple:
    return state.attempts, state.valid, state.unique, state.novel, state.failures, state.complete


def stop_at(attempts, error=KeyboardInterrupt):
    def progress(state):
        if state.attempts == attempts:
            raise error

    return progress


# What is written ----------------------------------------------------------------------------------


def test_every_attempt_is_counted_once(whole):
    state, content, _ = whole
    assert state.attempts == ATTEMPTS == state.valid + sum(state.failures.values())
    assert 0 < state.unique <= state.valid
    assert set(state.failures) <= set(FAILURE_REASONS)
    assert content.count("$$$$\n") == ATTEMPTS
    assert content.count("<invalid_reason>") == ATTEMPTS - state.valid
    for reason, n in state.failures.items():
        assert content.count(f">  <invalid_reason>\n{reason}\n") == n


def test_only_valid_molecules_are_written_unless_asked(make, whole, tmp_path):
    state = make(tmp_path / "lib.sdf", keep_invalid=False)
    assert counts(state) == counts(whole[0])
    entries = list(read_molecules(tmp_path / "lib.sdf"))
    assert len(entries) == state.valid
    assert not any(entry.error for entry in entries)
    kept = [r for r in whole[1].split("$$$$\n") if r and "<invalid_reason>" not in r]
    assert text(tmp_path / "lib.sdf").split("$$$$\n")[:-1] == kept


def test_an_open_valence_is_read_back_open(tmp_path):
    """Of a flow that shows every hydrogen: the reader must not fill a radical up."""
    bonds = np.zeros((4, 4), np.int8)
    bonds[0, 1:] = bonds[1:, 0] = 1
    corners = np.array([[0, 0, 0], [1.08, 0, 0], [-0.54, 0.93, 0], [-0.54, -0.93, 0]])
    methyl = Graph3D(np.array([6, 1, 1, 1]), np.zeros(4, int), bonds, corners)
    result = assemble(methyl, "none", explicit=True)
    assert result.reason == "radical"
    line = denovo._Finish(keep_invalid=True, show=0, explicit=True)(Drawn(0, methyl, result))
    (tmp_path / "lib.sdf").write_text(line.record)
    (entry,) = read_molecules(tmp_path / "lib.sdf")
    assert entry.mol.GetAtomWithIdx(0).GetNumRadicalElectrons() == 1
    assert entry.mol.GetAtomWithIdx(0).GetTotalNumHs(includeNeighbors=True) == 3


def test_a_property_that_breaks_is_an_absent_tag(make, monkeypatch, tmp_path):
    get = denovo.properties.get

    def broken(mol):
        raise ZeroDivisionError

    monkeypatch.setattr(
        denovo.properties, "get", lambda name: broken if name == "qed" else get(name)
    )
    state = make(tmp_path / "lib.sdf", keep_invalid=False, attempts=20)
    tags = [entry.tags for entry in read_molecules(tmp_path / "lib.sdf")]
    assert len(tags) == state.valid > 0
    assert all("qed" not in row and "logp" in row for row in tags)


def test_tags_belong_to_their_molecule(make, tmp_path):
    state = make(tmp_path / "lib.sdf", keep_invalid=False)
    seen = set()
    for entry in read_molecules(tmp_path / "lib.sdf"):
        assert set(entry.tags) == {"smiles", "inchikey", "formula", *TAGS}
        assert not any(atom.GetNumImplicitHs() for atom in entry.mol.GetAtoms())
        assert entry.mol.GetConformer().Is3D()
        assert canonical_smiles(entry.mol) == canonical_smiles(
            Chem.MolFromSmiles(entry.tags["smiles"])
        )
        assert Chem.MolToInchiKey(entry.mol) == entry.tags["inchikey"]
        seen.add(canonical_smiles(entry.mol))
    assert len(seen) == state.unique


def test_the_number_asked_for_is_delivered_exactly(make, tmp_path):
    state = make(tmp_path / "lib.sdf", n=11, attempts=None, keep_invalid=False)
    assert (state.valid, state.complete) == (11, True)
    titles = [entry.name for entry in read_molecules(tmp_path / "lib.sdf")]
    assert len(titles) == 11
    assert titles == sorted(titles)
    assert titles[-1] == f"mfc-{state.attempts - 1:06d}"  # nothing is drawn beyond the last one


@pytest.mark.parametrize(("n", "started"), [(1, 0), (16, 0), (17, 2)])
def test_few_molecules_do_not_wait_for_workers_to_start(make, tmp_path, monkeypatch, n, started):
    workers = []
    start = workers_module._Worker
    monkeypatch.setattr(
        workers_module, "_Worker", lambda *given: workers.append(1) or start(*given)
    )
    make(tmp_path / "lib.sdf", n=n, attempts=None, jobs=2, batch=1)
    assert len(workers) == started


def test_a_flow_that_cannot_deliver_is_given_up(make, tmp_path, monkeypatch):
    monkeypatch.setattr(generation, "GIVE_UP", 2)
    state = make(tmp_path / "lib.sdf", n=35, attempts=None)
    assert (state.attempts, state.complete) == (70, False)
    assert state.valid < 35
    assert record(tmp_path / "lib.sdf")["complete"] is False


def test_the_record_tells_how_the_library_was_made(whole, flow):
    state, _, entry = whole
    assert entry["config"]["nfe"] == 10
    assert entry["config"]["seed"] == 0
    assert entry["flow"]["weights_sha256"] == flow.card["weights_sha256"]
    assert {"molflowctl", "python", "torch", "rdkit"} <= set(entry["versions"])
    assert entry["complete"] is True
    assert entry["counts"] == {
        "asked": ATTEMPTS,
        "attempts": state.attempts,
        "valid": state.valid,
        "unique": state.unique,
        "novel": None,
        "failed": state.failures,
    }


@pytest.mark.parametrize(
    ("card", "name"),
    [
        ({"data": {"name": "qm9-explicit"}}, "qm9"),
        ({"data": {"name": "my-rings", "parent": {"name": "qm9"}}}, "qm9"),
        ({"data": {"name": "other"}}, "other"),
        ({"data": {"name": "qm9-like"}}, None),
        ({"data": {"title": "no name"}}, None),
        ({}, None),
    ],
)
def test_training_molecules_are_those_of_the_data_set_in_the_card(
    card, name, monkeypatch, tmp_path
):
    shipped = {data: tmp_path / "assets" / f"{data}_train_hashes.npy" for data in ("qm9", "other")}
    (tmp_path / "assets").mkdir()
    for number, file in enumerate(shipped.values()):
        np.save(file, np.array([number], np.uint64))
    monkeypatch.setattr("molflowctl.data.known.resources.files", lambda package: tmp_path)
    found = training_hashes(SimpleNamespace(card=card))
    assert (found and found[0]) == name
    assert found is None or found[1] == [list(shipped).index(name)]


def test_novelty_is_told_where_training_molecules_ship(whole, tiny_flow, tmp_path, make):
    assert whole[0].novel is None
    assert not any(label == "novel" for label, _ in describe(whole[0]))
    flow = DeNovoFlow.load(tiny_flow)
    flow.card["data"] = {"name": "qm9"}
    config = GenerateConfig(flow="x", out=str(tmp_path / "lib.sdf"), attempts=ATTEMPTS)
    state = generate(config, flow=flow)
    found = {canonical_smiles(entry.mol) for entry in read_molecules(tmp_path / "lib.sdf")}
    assert state.novel == sum(~known(sorted(found), load_hashes("qm9")))
    assert state.novel < state.unique  # most molecules of this size are in QM9


def test_pictures_are_written(make, tmp_path):
    make(tmp_path / "lib.sdf", html=str(tmp_path / "p.html"), grid=str(tmp_path / "p.png"))
    page = (tmp_path / "p.html").read_text()
    titles = [e.name for e in read_molecules(tmp_path / "lib.sdf") if "qed" in e.tags]
    assert all(title in page for title in titles)
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


# Independence -------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{"batch": 7}, {"batch": 64}, {"jobs": 2, "batch": 16}], ids=str)
def test_batches_and_processes_change_nothing(make, whole, tmp_path, how):
    state = make(tmp_path / "lib.sdf.gz", **how)
    assert text(tmp_path / "lib.sdf.gz") == whole[1]
    assert counts(state) == counts(whole[0])


def test_equal_runs_write_equal_bytes(make, tmp_path):
    for name in ("a", "b"):
        make(tmp_path / f"{name}.sdf.gz", attempts=20)
    assert (tmp_path / "a.sdf.gz").read_bytes() == (tmp_path / "b.sdf.gz").read_bytes()


def test_seeds_give_different_libraries(make, whole, tmp_path):
    make(tmp_path / "lib.sdf.gz", seed=1)
    assert text(tmp_path / "lib.sdf.gz") != whole[1]


# Interruptions ------------------------------------------------------------------------------------


def assert_is_whole(library, state, whole):
    assert text(library) == whole[1]
    assert counts(state) == counts(whole[0])
    assert record(library)["counts"] == whole[2]["counts"]
    assert record(library)["complete"] is True
    left = {path.name for path in library.parent.iterdir()}
    assert left == {library.name, library.name + ".run.json"}


@pytest.mark.parametrize("k", [1, 23])
def test_ctrl_c_keeps_a_readable_library_and_resume_completes_it(make, whole, tmp_path, k):
    out = tmp_path / "lib.sdf.gz"
    with pytest.raises(KeyboardInterrupt):
        make(out, stop_at(k))
    assert whole[1].startswith(text(out))
    assert text(out).count("$$$$\n") == k
    entry = record(out)
    assert entry["complete"] is False
    assert entry["counts"]["attempts"] == k
    assert entry["counts"]["valid"] + sum(entry["counts"]["failed"].values()) == k

    with pytest.raises(KeyboardInterrupt):  # and once more, in the resumed run
        make(out, stop_at(k + 11), resume=True)
    assert text(out).count("$$$$\n") == k + 11
    assert_is_whole(out, make(out, resume=True), whole)


def kill_at(attempts, library, copy):
    """Copy what is on the disk at that moment: all that `kill -9` would leave."""

    def progress(state):
        if state.attempts == attempts:
            shutil.copytree(library.parent, copy)

    return progress


def test_resume_after_kill(make, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(denovo, "SAVE_EVERY", 16)
    first, second, third = (tmp_path / name / "lib.sdf.gz" for name in "abc")
    first.parent.mkdir()
    make(first, kill_at(40, first, second.parent))
    (begun,) = leftovers(second)
    assert {p.name for p in second.parent.iterdir()} == {
        begun.name, f"{begun.name}.run.json", ".lib.sdf.gz.lock",
    }  # fmt: skip
    assert record(begun)["counts"]["attempts"] == 32
    state = make(second, kill_at(50, second, third.parent), resume=True)
    assert_is_whole(second, state, whole)
    assert len(leftovers(third)) == 2
    assert_is_whole(third, make(third, resume=True), whole)
    assert third.read_bytes() == second.read_bytes() == first.read_bytes()


def test_resume_after_kill_of_a_resume(make, whole, tmp_path, monkeypatch):
    """The library was finished by Ctrl-C, resumed, and the resumed run killed at its start."""
    out, copy = (tmp_path / name / "lib.sdf.gz" for name in "ab")
    out.parent.mkdir()
    with pytest.raises(KeyboardInterrupt):
        make(out, stop_at(23))
    make(out, kill_at(24, out, copy.parent), resume=True)
    (begun,) = leftovers(copy)
    begun.write_bytes(b"")  # killed in the middle of copying
    assert_is_whole(copy, make(copy, resume=True), whole)


def test_ctrl_c_while_the_earlier_part_is_copied_loses_nothing(make, whole, tmp_path, monkeypatch):
    out = tmp_path / "lib.sdf.gz"
    with pytest.raises(KeyboardInterrupt):
        make(out, stop_at(23))

    class Stop:
        calls = 0

        def __call__(self, mol):
            self.calls += 1
            if self.calls == 3:
                raise KeyboardInterrupt
            return canonical_smiles(mol)

    with monkeypatch.context() as patch:
        patch.setattr(denovo, "canonical_smiles", Stop())
        with pytest.raises(KeyboardInterrupt):
            make(out, resume=True)
    assert text(out).count("$$$$\n") == 23
    assert_is_whole(out, make(out, resume=True), whole)


@pytest.mark.parametrize("killed", [False, True])
def test_a_failure_in_a_resumed_run_keeps_the_earlier_part(
    make, whole, tmp_path, monkeypatch, killed
):
    monkeypatch.setattr(denovo, "SAVE_EVERY", 8)
    out = tmp_path / "run" / "lib.sdf.gz"
    if killed:
        first = tmp_path / "first" / "lib.sdf.gz"
        first.parent.mkdir()
        make(first, kill_at(24, first, out.parent))
    else:
        out.parent.mkdir()
        with pytest.raises(KeyboardInterrupt):
            make(out, stop_at(23))
    with pytest.raises(UserError, match="disk is full"):
        make(out, stop_at(45, UserError("the disk is full")), resume=True)
    assert_is_whole(out, make(out, resume=True), whole)


def test_resume_extends_a_complete_library(make, whole, tmp_path):
    out = tmp_path / "lib.sdf.gz"
    make(out, attempts=21)
    assert record(out)["complete"] is True
    assert_is_whole(out, make(out, resume=True), whole)


def test_resume_without_anything_to_resume_starts(make, whole, tmp_path):
    out = tmp_path / "lib.sdf.gz"
    assert_is_whole(out, make(out, resume=True), whole)


def test_pictures_of_a_resumed_run_show_its_first_molecules(make, tmp_path):
    out, page = tmp_path / "lib.sdf", tmp_path / "p.html"
    with pytest.raises(KeyboardInterrupt):
        make(out, stop_at(23))
    make(out, resume=True, html=str(page))
    titles = [e.name for e in read_molecules(out) if "qed" in e.tags]
    assert int(titles[0][4:]) < 23
    assert all(title in page.read_text() for title in titles)


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"nfe": 11}, {"relax": "mmff"}, {"atoms": "4"}, {"sampler": "euler"}],
    ids=str,
)
def test_resume_refuses_other_settings(make, tmp_path, change):
    out = tmp_path / "lib.sdf"
    make(out, attempts=3)
    before = text(out)
    with pytest.raises(UserError, match=f"other settings.*{next(iter(change))}"):
        make(out, resume=True, **change)
    assert text(out) == before


def test_resume_refuses_other_weights(make, flow, tmp_path):
    out = tmp_path / "lib.sdf"
    make(out, attempts=3)
    other = DeNovoFlow(**flow.arguments)
    other.save(tmp_path / "other")
    config = GenerateConfig(**record(out)["config"] | {"resume": True})
    with pytest.raises(UserError, match="the flow's weights"):
        generate(config, flow=other)


@pytest.mark.parametrize("content", [None, "", "[]", '{"command": "benchmark"}'])
def test_resume_refuses_a_library_without_its_record(make, tmp_path, content):
    out = tmp_path / "lib.sdf"
    make(out, attempts=3)
    path = tmp_path / "lib.sdf.run.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(UserError, match=r"lib\.sdf\.run\.json"):
        make(out, resume=True)


def test_resume_refuses_a_library_that_lost_molecules(make, tmp_path):
    out = tmp_path / "lib.sdf"
    state = make(out, keep_invalid=False)
    out.write_text("".join(r + "$$$$\n" for r in text(out).split("$$$$\n")[1:-1]))
    with pytest.raises(UserError, match=f"does not hold the {state.valid} molecules"):
        make(out, resume=True, keep_invalid=False)


def test_an_existing_library_is_kept_unless_overwritten(make, tmp_path):
    out = tmp_path / "lib.sdf"
    out.write_text("precious")
    with pytest.raises(UserError, match="--overwrite"):
        make(out)
    assert out.read_text() == "precious"
    assert not (tmp_path / "lib.sdf.run.json").exists()
    make(out, attempts=2, overwrite=True)
    assert text(out).count("$$$$\n") == 2


@pytest.mark.parametrize("suffix", [".smi", ".csv", ".parquet", ".xyz", ".pdb"])
def test_the_suffix_decides_the_format(make, tmp_path, suffix):
    """The same molecules in the same order as in an SDF, read back by what reads them."""
    state = make(tmp_path / "lib.sdf", keep_invalid=False)
    out = tmp_path / f"lib{suffix}"
    assert counts(make(out, keep_invalid=False)) == counts(state)
    mols = list(Chem.SDMolSupplier(str(tmp_path / "lib.sdf"), removeHs=False))
    names = [mol.GetProp("_Name") for mol in mols]
    if suffix == ".smi":
        wanted = [f"{Chem.MolToSmiles(Chem.RemoveHs(m))} {m.GetProp('_Name')}" for m in mols]
        assert text(out).splitlines() == wanted
    elif suffix in (".csv", ".parquet"):
        read = pandas.read_csv if suffix == ".csv" else pandas.read_parquet
        frame = read(out)
        assert frame["name"].tolist() == names
        wanted = [float(mol.GetProp("qed")) for mol in mols]
        assert frame["qed"].tolist() == pytest.approx(wanted, abs=1e-4)
    elif suffix == ".xyz":
        first = text(out).splitlines()
        assert [first[0], first[1]] == [str(mols[0].GetNumAtoms()), names[0]]
        place = [float(number) for number in first[2].split()[1:]]
        assert place == pytest.approx(list(mols[0].GetConformer().GetAtomPosition(0)), abs=1e-3)
        assert len(first) == sum(mol.GetNumAtoms() + 2 for mol in mols)
    else:
        assert text(out).count("MODEL ") == state.valid
        assert text(out).count("HETATM") == sum(mol.GetNumAtoms() for mol in mols)
    assert record(out)["counts"]["valid"] == state.valid


def test_what_other_formats_cannot_hold_is_said_before_anything_is_drawn(make, tmp_path):
    with pytest.raises(UserError, match="no place for why an attempt failed: leave out --keep-inv"):
        make(tmp_path / "lib.xyz")
    with pytest.raises(UserError, match="can be resumed"):
        make(tmp_path / "lib.smi", keep_invalid=False, resume=True)
    with pytest.raises(UserError, match="cannot write this kind of file"):
        make(tmp_path / "lib.mol2", keep_invalid=False)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "lib.smi", stop_at(3), keep_invalid=False)
    assert list(tmp_path.iterdir()) == []


# Arguments ----------------------------------------------------------------------------------------


def test_atoms_are_parsed():
    assert parse_atoms(None) is None
    assert parse_atoms("8") == range(8, 9)
    assert parse_atoms("7-9") == range(7, 10)


@pytest.mark.parametrize("bad", ["", "abc", "9-7", "0", "-3", "0-5", "7-", "7-9-11", "7.5"])
def test_bad_atoms_are_refused(bad):
    with pytest.raises(UserError, match="--atoms"):
        parse_atoms(bad)


@pytest.mark.parametrize("device", ["cuda:99", "warp", "mps:"])
def test_an_absent_device_is_refused(tiny_flow, device):
    with pytest.raises(UserError, match=device):
        load_flow(str(tiny_flow), device)


def test_what_may_differ_when_a_run_goes_on():
    begun = {"n": 100, "attempts": None, "seed": 3, "churn": 1.0, "batch": 16}
    assert differences(begun, {}) == []
    assert differences(begun, {**begun, "n": 200, "batch": 4, "jobs": 2}) == []
    assert differences(begun, {"seed": 4, "churn": None}) == [
        "seed = 3, not 4", "churn = 1.0, not None",
    ]  # fmt: skip
    assert differences(begun, {"n": 99}) == ["n = 100, which can be raised, not 99"]
    assert differences(begun, {"n": 1000, "attempts": 50}) == []
    drawn = {"n": 1000, "attempts": 60}
    assert differences(drawn, {"n": 1000, "attempts": 61}) == []
    assert differences(drawn, {"n": 50, "attempts": None}) == []
    assert differences(drawn, {"attempts": 59}) == ["attempts = 60, which can be raised, not 59"]


def test_a_library_of_more_than_is_asked_for_is_not_called_that(make, tmp_path):
    out = tmp_path / "lib.sdf"
    state = make(out, attempts=30)
    before = text(out)
    with pytest.raises(UserError, match=f"{state.valid} valid already, more than the 2 asked for"):
        make(out, attempts=None, n=2, resume=True)
    assert text(out) == before
