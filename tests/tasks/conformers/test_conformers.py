"""Conformers by the command: stereo holds, records are ordered, bad lines cost themselves."""

import json
import re
import time

import numpy as np
import pytest
import torch
from rdkit import Chem
from typer.testing import CliRunner

from molflowctl.chem.ensemble import boltzmann_weights
from molflowctl.chem.spin import multiplicity
from molflowctl.chem.stereo import stereo_kept
from molflowctl.cli import app
from molflowctl.errors import UserError
from molflowctl.io.library import is_file, read_molecules
from molflowctl.models.conformer import ConformerFlow
from molflowctl.tasks.conformers import conformers as task
from molflowctl.tasks.conformers import jobs as conformer_jobs
from molflowctl.tasks.conformers.conformers import generate_conformers
from molflowctl.tasks.conformers.settings import ConformersConfig
from tests.pools import InProcess


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(task, "WorkerPool", InProcess)

    def run(source, **changes):
        settings = {"out": str(tmp_path / "out.sdf"), "model": "etkdg", "n": 6, "overwrite": True}
        state = generate_conformers(ConformersConfig(source=str(source), **settings | changes))
        records = list(read_molecules(settings["out"])) if state.written else []
        return state, records

    return run


def groups(records) -> dict[str, list]:
    found: dict[str, list] = {}
    for record in records:
        found.setdefault(record.name, []).append(record)
    return found


def test_records_are_sorted_weighed_and_in_one_piece(run):
    state, records = run("CCCCO", n=12, rmsd_threshold=0.3)
    assert len(groups(records)) == 1
    energies = [float(r.tags["relative_energy_kcal_mol"]) for r in records]
    assert energies[0] == 0
    assert energies == sorted(energies)
    assert max(energies) <= 6
    weights = [float(r.tags["boltzmann_weight"]) for r in records]
    np.testing.assert_allclose(weights, boltzmann_weights(energies, 298.0), atol=1e-5)
    assert all(r.mol.GetNumAtoms() == 15 for r in records)
    assert state.counts["drawn"] == 12
    assert state.counts["pruned"] + state.written == 12
    assert (state.done, state.failed, state.complete) == (1, 0, True)


@pytest.mark.parametrize("model", ["flow", "etkdg"])
def test_specified_stereo_holds(run, untrained_conformers, model):
    """Of an untrained flow half the centres come out wrong: those are drawn again."""
    smiles = "C[C@H](O)CN"
    name = str(untrained_conformers) if model == "flow" else model
    state, records = run(
        smiles, model=name, relax="none", rmsd_threshold=0.0, energy_window=1e9, nfe=4
    )
    assert (state.counts["wrong stereo"] > 0) == (model == "flow")
    assert state.counts["drawn"] == state.counts["wrong stereo"] + 6
    assert len(records) == 6
    wanted = Chem.MolToSmiles(Chem.MolFromSmiles(smiles))
    for record in records:
        Chem.AssignStereochemistryFrom3D(record.mol)
        assert Chem.MolToSmiles(Chem.RemoveHs(record.mol)) == wanted


def test_open_stereo_is_enumerated_and_said(run):
    state, records = run("CC(O)C=CF", n=2)
    assert len({r.tags["smiles"] for r in records}) == 4
    assert set(groups(records)) == {f"CC(O)C=CF-iso{k}" for k in range(1, 5)}
    assert state.notes == ["CC(O)C=CF: 2 centres or double bonds left open: 4 stereoisomers"]
    state, records = run("CC(O)C=CF", n=2, isomers=3)
    assert len(groups(records)) == 3
    assert "of up to 4" in state.notes[0]
    for record in records:
        mol = Chem.AddHs(Chem.MolFromSmiles(record.tags["smiles"]))
        mol.AddConformer(record.mol.GetConformer(), assignId=True)
        assert stereo_kept(mol, mol.GetConformers()[0].GetId())


def test_a_molecule_is_done_once_in_whatever_form_it_comes(run, tmp_path, untrained_conformers):
    path = tmp_path / "in.smi"
    path.write_text("CCO a\n[CH3:1][CH2:2][OH:3] b\n[H]OCC c\n[2H]OCC d\nOCC[2H] e\n")
    state, records = run(path, model=str(untrained_conformers), n=1, nfe=2, relax="none")
    assert set(groups(records)) == {"a", "d", "e"}
    assert state.counts["duplicates"] == 2


def test_what_became_another_molecule_is_counted_and_named(run, tmp_path):
    """In gas phase GFN2-xTB takes the proton of glycine over; that of betaine is bound."""
    path = tmp_path / "in.smi"
    path.write_text("[NH3+]CC(=O)[O-] glycine\nC[N+](C)(C)CC(=O)[O-] betaine\n")
    state, records = run(path, n=2, relax="gfn2")
    assert set(groups(records)) == {"betaine"}
    assert (state.done, state.failed) == (1, 1)
    assert state.counts["became another molecule"] == 2
    assert "became another molecule: [NH3+]CC(=O)[O-] -> NCC(=O)O" in state.notes[0]
    kept = dict(task.describe(state))
    assert kept["  dropped: became another molecule"] == "2"


def test_a_spin_that_is_asked_for_is_the_one_of_the_energies(run, tmp_path):
    path = tmp_path / "in.csv"
    path.write_text("smiles,name,multiplicity\nF[Si]F,plain,\nF[Si]F,triplet,3\n")
    state, records = run(path, n=1, relax="gfn2")
    assert [multiplicity(r.mol) for r in records] == [1, 3]
    assert (state.done, state.counts["duplicates"]) == (2, 0)


BAD = """C[C@H](O)CN alaninol

[Na+].[O-]C(C)=O salt
[Fe] iron
C[Se]C selenium
xyz nonsense
OCC first
CCO again
* dummy
"""


def test_bad_lines_cost_themselves(run, tmp_path, untrained_conformers):
    path = tmp_path / "in.smi"
    path.write_text(BAD + "C" * 150 + " long\n")
    state, records = run(path, model=str(untrained_conformers), n=1, nfe=2, relax="none")
    assert set(groups(records)) == {"alaninol", "first"}
    assert (state.read, state.done, state.failed) == (9, 2, 6)
    wanted = {
        2: "empty",
        3: "2 fragments, a salt or a mixture: --salts strip does CC(=O)[O-] alone",
        4: "a single atom",
        5: "does not know the element Se (it knows H C N O F)",
        6: "not a SMILES: 'xyz'",
        8: "the same molecule as line 7",
        9: "R group or attachment point",
        10: "452 atoms are far beyond the 12",
    }
    assert len(state.notes) == len(wanted)
    for note, (line, words) in zip(state.notes, wanted.items(), strict=True):
        assert note.startswith(f"line {line}: ")
        assert words in note
    record = json.loads((tmp_path / "out.sdf.run.json").read_text())
    assert record["notes"] == state.notes
    assert record["counts"]["failed"] == 6
    assert record["model"]["weights_sha256"]


def test_the_flow_that_learnt_from_such_molecules_is_chosen(
    run, tmp_path, untrained_conformers, monkeypatch
):
    torch.manual_seed(0)
    network = {"width": 16, "pair_width": 8, "heads": 2, "vectors": 4, "depth": 1, "radial": 8}
    heavy = ConformerFlow([6, 7, 8, 17], {"12": 1}, "implicit", network=network)
    heavy.save(tmp_path / "heavy")
    names = str(untrained_conformers), str(tmp_path / "heavy")
    monkeypatch.setattr(task, "SHIPPED", names)
    small, large = names
    expected = {
        "CCO": (small,),  # both could
        "CCCCCO": (large, "etkdg"),  # 18 atoms, of which the first flow has seen 12 at most
        "CCCl": (large, "etkdg"),  # an element of the second alone
        "O": (small,),  # a single heavy atom
        "C" * 16: (large, "etkdg"),  # 16 heavy atoms for 12, within bounds, and 50 of the first
        "CC[SeH]": ("etkdg",),
        "C1CCCCCCCCC1": ("etkdg",),  # a large ring
        "CCCCCC[NH3+]": ("etkdg",),  # an ion
    }
    flows = task.load_flows("auto", "cpu")
    config = ConformersConfig(source="C", out="-")
    as_drawn = ConformersConfig(source="C", out="-", relax="none")
    for smiles, models in expected.items():
        mol = Chem.MolFromSmiles(smiles)
        assert conformer_jobs._best(mol, flows, config)[0] == models
        assert conformer_jobs._best(mol, flows, as_drawn)[0] == models[:1]
    path = tmp_path / "in.smi"
    path.write_text("\n".join(expected))
    state, records = run(path, model="auto", n=2, nfe=2, relax="none")
    assert (state.read, state.failed) == (8, 0)
    assert {r.tags["drawn_by"] for r in records} == {*names, "etkdg"}
    alone = [note for note in state.notes if "by ETKDGv3 alone: " in note]
    for note, words in zip(alone, ("element Se", "no ring of 10", "charged"), strict=True):
        assert words in note
    assert all(r.mol.GetNumAtoms() == Chem.AddHs(r.mol).GetNumAtoms() for r in records)
    record = json.loads((tmp_path / "out.sdf.run.json").read_text())
    assert set(record["model"]["weights_sha256"]) == set(names)


def test_models_share_the_number_and_are_pruned_together(run, untrained_conformers):
    """Each model's part is what it draws alone; of two alike the lower stays, whoever drew it."""
    flow, smiles = str(untrained_conformers), "OCCCO"
    keep_all = {"rmsd_threshold": 0.0, "energy_window": 1e9, "nfe": 3}
    state, both = run(smiles, model=f"{flow},etkdg", n=5, **keep_all)
    assert state.counts["drawn"] - state.counts["wrong stereo"] == 5
    assert (f"  by {flow} and ETKDGv3", "1") in task.describe(state)
    for model, count in ((flow, 3), ("etkdg", 2)):
        _, alone = run(smiles, model=model, n=count, **keep_all)
        mine = [r for r in both if r.tags["drawn_by"] == model]
        assert len(mine) == count
        for one, other in zip(mine, alone, strict=True):
            x, y = (r.mol.GetConformer().GetPositions() for r in (one, other))
            np.testing.assert_allclose(x, y, atol=1e-3)
    energies = [float(r.tags["relative_energy_kcal_mol"]) for r in both]
    assert energies == sorted(energies)
    _, kept = run(smiles, model=f"{flow},etkdg", n=5, nfe=3, rmsd_threshold=0.5)
    assert 0 < len(kept) < 5
    with pytest.raises(UserError, match="a model is there twice"):
        run(smiles, model="etkdg,etkdg")


def test_energies_by_another_method_than_the_relaxation(run):
    pytest.importorskip("tblite")
    from molflowctl.chem.units import HARTREE_TO_KCAL_MOL
    from molflowctl.properties.energies.xtb import single_point

    _, records = run("OCCCO", n=6, energy="gfn2", energy_window=100, rmsd_threshold=0.2)
    assert len(records) > 1
    assert {r.tags["energy_method"] for r in records} == {"GFN2-xTB"}
    found = [single_point(r.mol).energy_hartree * HARTREE_TO_KCAL_MOL for r in records]
    told = [float(r.tags["relative_energy_kcal_mol"]) for r in records]
    np.testing.assert_allclose(np.array(found) - found[0], told, atol=0.01)
    assert told == sorted(told)
    _, of_the_field = run("OCCCO", n=6, energy_window=100, rmsd_threshold=0.2)
    other = [float(r.tags["relative_energy_kcal_mol"]) for r in of_the_field]
    assert len(other) == len(told)
    assert not np.allclose(other, told, atol=0.05)


def test_what_is_relaxed_in_time_is_delivered(run, monkeypatch):
    """A limit that is not reached changes nothing; one that is leaves one conformer at least."""
    _, whole = run("OCCCO", n=4, rmsd_threshold=0)
    _, same = run("OCCCO", n=4, rmsd_threshold=0, time_limit=600)
    for one, other in zip(whole, same, strict=True):
        assert one.tags == other.tags
    state, some = run("OCCCO", n=4, rmsd_threshold=0, time_limit=1e-9)
    assert len(some) == 1
    assert state.counts["not relaxed in time"] == 3
    assert "3 x not relaxed in time" in state.notes[0]
    assert ("  dropped: not relaxed in time", "3") in task.describe(state)


@pytest.mark.parametrize("kind", ["csv", "sdf"])
def test_other_files(run, tmp_path, kind):
    _, records = run("C[C@H](O)F", n=1)
    path = tmp_path / f"in.{kind}"
    if kind == "csv":
        path.write_text("smiles,name\nC[C@H](O)F,one\n,\nCCO,two\n")
    else:
        path.write_text((tmp_path / "out.sdf").read_text())
    state, records = run(path, n=2, out=str(tmp_path / "out.sdf"))
    assert records[0].tags["smiles"] == "C[C@H](O)F"
    assert state.failed == (kind == "csv")
    if kind == "csv":
        assert state.notes[0].startswith("row 2: ")
        assert set(groups(records)) == {"one", "two"}


def test_results_depend_on_seed_and_place_alone(run, tmp_path, untrained_conformers):
    path = tmp_path / "in.smi"
    path.write_text("CCO a\nCCN b\n")
    flow = {"model": str(untrained_conformers), "relax": "none", "nfe": 3}
    texts = []
    for seed in (0, 0, 1):
        run(path, seed=seed, **flow)
        texts.append((tmp_path / "out.sdf").read_bytes())
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


@pytest.mark.parametrize("model", ["etkdg", "flow"])
@pytest.mark.parametrize(
    ("plain", "forms"),
    [
        ("CCO", ["[2H]OCC", "OCC", "[H]OC([H])([H])C", "[13CH3]CO", "[2H][C@H](O)C"]),
        ("CCC(C)O", ["OC(C)C[13CH3]", "CC(O)C([2H])([2H])C"]),
        ("C[C@H](N)C(=O)O", ["C[C@]([2H])(N)C(=O)O", "OC(=O)[C@@H]([15NH2])C"]),
        ("NC(=O)CC", ["CCC(=O)N([2H])[2H]"]),
    ],
)
def test_conformers_do_not_depend_on_labels_or_on_how_a_molecule_is_written(
    run, untrained_conformers, model, plain, forms
):
    def of(smiles):
        relax = "none" if model == "flow" else "mmff"
        name = str(untrained_conformers) if model == "flow" else model
        _, records = run(smiles, model=name, n=2, relax=relax, rmsd_threshold=0.0, isomers="first")
        assert all(stereo_kept(record.mol) for record in records)
        return [
            np.sort(np.linalg.norm(x[:, None] - x, axis=-1).ravel())
            for x in (record.mol.GetConformer().GetPositions() for record in records)
        ]

    expected = of(plain)
    for form in forms:
        if model == "flow" and "[2H][C@H]" in form:
            continue  # flat in an untrained flow, so that it is drawn again
        found = of(form)
        assert len(found) == len(expected)
        for x, y in zip(expected, found, strict=True):
            assert np.abs(x - y).max() < 1e-3


def test_a_molecule_beyond_distance_geometry_is_refused_at_once(run, tmp_path):
    long = ["C" * 400, "C1" + "C" * 398 + "C1", "N" + "CC(=O)N" * 150 + "C"]
    (tmp_path / "long.smi").write_text("\n".join([*long, "CCO"]))
    began = time.monotonic()
    state, records = run(tmp_path / "long.smi", n=1)
    assert time.monotonic() - began < 20
    assert (state.done, state.failed, len(records)) == (1, 3, 1)
    assert sum("distance geometry takes hours" in note for note in state.notes) == 3


def test_what_is_neither_file_nor_smiles(run):
    with pytest.raises(UserError, match="neither a file nor a SMILES"):
        run("nonsense")
    assert not is_file("C" * 300)  # longer than a file name may be
    with pytest.raises(UserError, match="cannot read"):
        run("missing.smi")


def test_the_command(tmp_path):
    """In processes of its own: exit 0 for what is done, 3 where a line is not."""
    out = tmp_path / "out.sdf.gz"
    arguments = ["conformers", "--model", "etkdg", "-n", "2", "-j", "1", "-o", str(out)]
    done = CliRunner().invoke(app, [*arguments, "CCO"])
    assert done.exit_code == 0, done.output
    (tmp_path / "in.smi").write_text("CCO\n[Na+].[Cl-]\n")
    done = CliRunner().invoke(app, [*arguments, str(tmp_path / "in.smi"), "--overwrite"])
    assert done.exit_code == 3
    assert "line 2: 2 fragments" in done.output
    assert len(list(read_molecules(out))) == 1
    done = CliRunner().invoke(app, [*arguments, "CCO"])
    assert done.exit_code == 1
    assert "exists" in done.output


def test_a_number_of_conformers_that_no_memory_holds_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"n.*10000"):
        ConformersConfig.parse({"source": "CCO", "out": "x.sdf", "n": 1_000_000_000})


def test_a_page_of_conformers_with_their_energies(run, tmp_path):
    page = tmp_path / "page.html"
    _, records = run("C[C@H](O)CN", html=str(page))
    data = re.search(r'id="data">(.*?)</script>', page.read_text(encoding="utf-8"), re.S)
    shown = json.loads(data[1])
    assert [one["name"] for one in shown] == [
        f"{record.name} {k}" for k, record in enumerate(records, 1)
    ]
    for one, record in zip(shown, records, strict=True):
        energy = float(record.tags["relative_energy_kcal_mol"])
        assert one["values"]["relative_energy_kcal_mol"] == energy
        assert one["values"]["smiles"] == "C[C@H](O)CN"
        assert one["structure"]["size"] == record.mol.GetNumAtoms()
    with pytest.raises(UserError, match=r"page\.html exists"):
        run("CCO", html=str(page), overwrite=False)
    with pytest.raises(UserError, match="name one, -o"):
        ConformersConfig(source="CCO", out="-", html="x.html")
