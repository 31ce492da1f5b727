"""`generate --where`: what is delivered meets the conditions, and what is not is counted."""

import json

import pytest
from rdkit import Chem

from molflowctl.errors import UserError
from molflowctl.io.library import read_molecules
from molflowctl.properties.rewards.filters import Filter
from molflowctl.tasks.generate import filtering
from molflowctl.tasks.generate.denovo import describe, generate
from molflowctl.tasks.generate.flows import load_flow
from molflowctl.tasks.generate.settings import GenerateConfig

WHERE = "heavy_atoms >= 4 and smarts('[#7]') == 0"


def passes(mol: Chem.Mol) -> bool:
    return mol.GetNumHeavyAtoms() >= 4 and not any(a.GetAtomicNum() == 7 for a in mol.GetAtoms())


@pytest.fixture(scope="module")
def flow(tiny_flow):
    return load_flow(str(tiny_flow), "cpu")


@pytest.fixture
def make(flow, tiny_flow, tmp_path):
    def run(name="library.sdf", progress=lambda state: None, **settings):
        out = tmp_path / name
        values = {"nfe": 10, "attempts": 80} | settings
        config = GenerateConfig(flow=str(tiny_flow), out=str(out), **values)
        state = generate(config, flow=flow, progress=progress)
        return (
            state,
            list(read_molecules(out)) if state.valid else [],
            json.loads((tmp_path / f"{name}.run.json").read_text()),
        )

    return run


def test_delivered_is_what_passes_of_the_same_attempts(make) -> None:
    every, all_records, _ = make("all.sdf")
    state, records, told = make(where=WHERE)
    expected = [r for r in all_records if passes(r.mol)]
    assert 0 < len(expected) < len(all_records)
    assert [r.title for r in records] == [r.title for r in expected]
    assert [Chem.MolToSmiles(r.mol) for r in records] == [Chem.MolToSmiles(r.mol) for r in expected]
    assert (state.attempts, state.failures) == (every.attempts, every.failures)
    assert state.valid == len(expected)
    assert state.rejections.molecules == len(all_records) - len(expected)
    by_hand = {
        "heavy_atoms >= 4": sum(r.mol.GetNumHeavyAtoms() < 4 for r in all_records),
        "smarts('[#7]') == 0": sum("N" in {a.GetSymbol() for a in r.mol.GetAtoms()}
                                   for r in all_records),
    }  # fmt: skip
    assert dict(state.rejections.by_condition) == {k: n for k, n in by_hand.items() if n}
    assert told["counts"]["rejected"] == state.rejections.molecules
    lines = dict(describe(state))
    share = state.rejections.molecules / len(all_records)
    assert f"{share:.1%}" in lines["rejected"]


def test_as_many_as_were_asked_for_are_delivered(make) -> None:
    state, records, _ = make(where=WHERE, n=7, attempts=None)
    assert len(records) == state.valid == 7
    assert state.complete
    assert all(passes(r.mol) for r in records)


def test_what_none_meets_is_given_up(make, monkeypatch) -> None:
    monkeypatch.setattr(filtering, "NONE", 60)
    state, records, _ = make(where="heavy_atoms > 99", n=5, attempts=None)
    assert (state.attempts, state.valid, records) == (60, 0, [])
    assert state.fewer
    monkeypatch.setattr(filtering, "EACH", 5)  # and where some do, after more attempts
    state, records, _ = make("few.sdf", where=WHERE, n=40, attempts=None)
    assert state.attempts <= 200
    assert state.fewer == (len(records) < 40)


def test_a_resumed_run_counts_on(make) -> None:
    def stop(state):
        if state.attempts == 40:
            raise KeyboardInterrupt

    whole, _, _ = make("whole.sdf", where=WHERE)
    with pytest.raises(KeyboardInterrupt):
        make(where=WHERE, progress=stop)
    state, records, _ = make(where=WHERE, resume=True)
    assert state.rejections == whole.rejections
    assert (state.valid, state.attempts) == (whole.valid, whole.attempts)
    assert len(records) == whole.valid
    with pytest.raises(UserError, match="where"):
        make(where="heavy_atoms > 3", resume=True, attempts=90)


def test_each_molecule_once(make) -> None:
    _, every, _ = make("all.sdf", attempts=150)
    state, records, told = make(unique=True, attempts=150)
    first = {Chem.MolToSmiles(Chem.RemoveHs(r.mol)): r.title for r in reversed(every)}
    assert 0 < len(first) < len(every)
    assert [r.title for r in records] == sorted(first.values())
    assert state.unique == state.valid == len(first)
    assert told["counts"]["rejected_by"] == {filtering.AGAIN: len(every) - len(first)}


def test_rejected_attempts_are_kept_with_their_reason(make) -> None:
    state, records, _ = make(where=WHERE, keep_invalid=True)
    rejected = [r for r in records if r.tags.get("invalid_reason") == "rejected"]
    assert len(rejected) == state.rejections.molecules
    assert all(r.tags["detail"] for r in rejected)


def test_a_condition_that_cannot_be_told_is_not_met() -> None:
    mol = Chem.MolFromSmiles("CCO")
    assert Filter.of_text("qed > 0 and mw > 40").rejects(mol) == ()
    assert Filter.of_text("qed > 2 and (mw > 40 or logp > 9)").rejects(mol) == ("qed > 2",)
    assert Filter.of_text("npr1 > 0").rejects(mol) == ("npr1 failed: no coordinates",)
    assert Filter.of_text("not 1 / (qed - qed) > 0").rejects(mol) == ("not 1 / (qed - qed) > 0",)


@pytest.mark.parametrize("where", ["qed", "pains == 0 and qed", "pains = 0", "panes == 0"])
def test_what_is_no_condition_is_shown(make, where) -> None:
    with pytest.raises(UserError, match=r"\^"):
        make(where=where)
