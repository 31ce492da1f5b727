"""`conformers` is interrupted, killed and refused, and goes on to the very same bytes."""

import shutil
from pathlib import Path

import pytest

from molflowctl.errors import UserError
from molflowctl.io.atomic import leftovers
from molflowctl.io.library import read_molecules
from molflowctl.io.record import read_record, record_path
from molflowctl.tasks.conformers import conformers
from molflowctl.tasks.conformers.conformers import generate_conformers
from molflowctl.tasks.conformers.settings import ConformersConfig

SMILES = ("CCO ethanol", "CC(O)CN open", "NaN bad", "CC(C)CO", "C[C@H](O)C=C chiral", "OCCO glycol")


@pytest.fixture
def make(tmp_path, monkeypatch):
    monkeypatch.setattr(conformers, "SAVE_EVERY", 0.0)
    source = tmp_path / "in.smi"
    source.write_text("".join(f"{line}\n" for line in SMILES))

    def run(out, progress=lambda done, total: None, **settings):
        out.parent.mkdir(exist_ok=True)
        values = {"n": 2, "model": "etkdg", "relax": "mmff", **settings}
        config = ConformersConfig(source=str(source), out=str(out), **values)
        return generate_conformers(config, progress=progress)

    return run


def at(count, act):
    """Act when so many stereoisomers are written."""
    calls = []

    def progress(done, total):
        calls.append(done)
        if len(calls) == count:
            act()

    return progress


def interrupt():
    raise KeyboardInterrupt


def told(state):
    return state.read, state.done, state.failed, state.written, state.counts, sorted(state.notes)


@pytest.mark.parametrize("suffix", [".sdf", ".sdf.gz"])
def test_interrupted_and_killed_runs_end_with_the_same_bytes(make, tmp_path, suffix):
    whole = tmp_path / "whole" / f"lib{suffix}"
    state = make(whole)
    for count in (1, 3):
        out = tmp_path / f"int{count}" / whole.name
        with pytest.raises(KeyboardInterrupt) as stopped:
            make(out, at(count, interrupt))
        held = len(list(read_molecules(out)))
        assert f"{held} records are kept in {out}" in stopped.value.__notes__[0]
        record = read_record(record_path(out))
        assert (record["complete"], record["counts"]["written"]) == (False, held)
        with pytest.raises(UserError, match="exists"):
            make(out)
        assert told(make(out, resume=True)) == told(state)
        assert out.read_bytes() == whole.read_bytes()
    first, copy = (tmp_path / name / whole.name for name in ("first", "copy"))
    make(first, at(3, lambda: shutil.copytree(first.parent, copy.parent)))  # as `kill -9` leaves it
    assert len(leftovers(copy)) == 1
    assert not copy.exists()
    seen = []
    assert told(make(copy, lambda done, total: seen.append(done), resume=True)) == told(state)
    assert copy.read_bytes() == whole.read_bytes()
    failures = f"{copy.name}.failures.csv"
    names = {copy.name, f"{copy.name}.run.json", failures}
    assert {p.name for p in copy.parent.iterdir()} == names
    for folder in ("int1", "int3", "copy"):  # of all records, not only of those done last
        again = (tmp_path / folder / failures).read_text()
        assert again == (whole.parent / failures).read_text()


def test_what_is_done_is_not_drawn_again(make, tmp_path, monkeypatch):
    out = tmp_path / "lib.sdf"
    state = make(out)
    monkeypatch.setattr(conformers, "WorkerPool", Idle)
    assert told(make(out, resume=True)) == told(state)


class Idle:
    """A pool that must not be given anything."""

    def __init__(self, *_, **__):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def map(self, function, items, **_):
        assert not list(items)
        return iter(())


def test_an_overwritten_library_stays_until_the_new_one_is_whole(make, tmp_path):
    out = tmp_path / "lib.sdf"
    make(out, seed=1)
    before = out.read_bytes(), record_path(out).read_bytes()
    with pytest.raises(KeyboardInterrupt):
        make(out, at(2, interrupt), overwrite=True)
    assert (out.read_bytes(), record_path(out).read_bytes()) == before
    (begun,) = leftovers(out)
    assert read_record(record_path(begun))["complete"] is False
    make(out, resume=True)
    make(tmp_path / "other.sdf")
    assert out.read_bytes() == (tmp_path / "other.sdf").read_bytes()
    assert leftovers(out) == []


def test_a_resume_of_another_run_is_refused(make, tmp_path):
    out = tmp_path / "lib.sdf"
    make(out)
    before = out.read_bytes()
    for change, what in (({"seed": 1}, "seed"), ({"n": 3}, "n"), ({"relax": "none"}, "relax")):
        with pytest.raises(UserError, match=rf"made otherwise \({what}\)"):
            make(out, resume=True, **change)
    (tmp_path / "in.smi").write_text("CCCO\n")
    with pytest.raises(UserError, match="another input"):
        make(out, resume=True)
    assert out.read_bytes() == before
    with pytest.raises(UserError, match="no file"):
        make(Path("/dev/null"), resume=True)
