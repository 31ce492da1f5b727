"""The benchmark's figures on conformers whose distances are known."""

import csv
import json
from collections import Counter

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDepictor

from molflowctl.chem.ensemble import embed, force_field, keep_conformers, rmsd_matrix
from molflowctl.chem.graphs import EXACT
from molflowctl.chem.stereo import stereo_kept
from molflowctl.data.conformer_data import ConformerDataset
from molflowctl.errors import UserError
from molflowctl.models.conformer import ConformerFlow
from molflowctl.tasks.conformers.drawing import Drawn
from molflowctl.tasks.conformers.references import Reference, read_groups
from molflowctl.tasks.evaluation import conformers as task
from molflowctl.tasks.evaluation.conformers import (
    ConformerBenchmarkConfig,
    benchmark_conformers,
    measure,
)
from molflowctl.tasks.preparation.ensembles import write_sdf
from tests.pools import InProcess


@pytest.fixture
def config(monkeypatch):
    monkeypatch.setattr(task, "WorkerPool", InProcess)

    def make(**changes) -> ConformerBenchmarkConfig:
        settings = {"reference": "x.sdf", "models": ("etkdg",), "posebusters": 0, "energies": 0}
        return ConformerBenchmarkConfig(**settings | changes)

    return make


def drawn(mol: Chem.Mol) -> Drawn:
    """These conformers, as if they had been drawn."""
    right = tuple(stereo_kept(mol, c.GetId()) for c in mol.GetConformers())
    return Drawn(mol.ToBinary(EXACT), len(right), right.count(False), right)


def two_conformers() -> Chem.Mol:
    """Butanol in two conformers that differ by much."""
    mol = Chem.AddHs(Chem.MolFromSmiles("CCCCO"))
    assert embed(mol, 20, 1) == 20
    force_field(mol)
    table = rmsd_matrix(mol, mol)
    return keep_conformers(mol, [0, int(table[0].argmax())])


def test_recall_and_precision(config, monkeypatch):
    """Two references, of which only the first is drawn, twice."""
    mol = two_conformers()
    apart = rmsd_matrix(mol, mol)[0, 1]
    assert 0.5 < apart < 1.5
    monkeypatch.setattr(task, "_drawn", lambda *_: drawn(keep_conformers(mol, [0, 0])))
    row = measure(Reference(0, "one", mol.ToBinary(EXACT)), [None], "none", config())
    assert row["amr_r"] == pytest.approx(apart / 2, abs=1e-4)
    assert row["amr_p"] == pytest.approx(0, abs=1e-4)
    for delta in task.THRESHOLDS:
        assert row[f"cov_r_{delta}"] == (1.0 if apart < delta else 0.5)
        assert row[f"cov_p_{delta}"] == 1.0
    assert np.isnan(row["stereo"])


def test_energies_are_above_the_lowest_reference(config, monkeypatch):
    pytest.importorskip("tblite")
    mol = two_conformers()
    for place in (0, 1):
        monkeypatch.setattr(task, "_drawn", lambda *_, k=place: drawn(keep_conformers(mol, [k])))
        row = measure(Reference(0, "one", mol.ToBinary(EXACT)), [None], "none", config(energies=1))
        if place == 0:
            first = row["energy_kcal_mol"]
    assert min(first, row["energy_kcal_mol"]) == pytest.approx(0, abs=1e-6)
    assert max(first, row["energy_kcal_mol"]) > 0.01


@pytest.mark.parametrize(
    ("smiles", "many"), [("C[C@H](O)F", False), ("C[C@H](O)[C@@H](F)[C@H](N)O", True)]
)
def test_wrong_stereo_is_counted(config, monkeypatch, smiles, many):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert embed(mol, 1, 0) == 1
    mirrored = Chem.Mol(mol)
    mirrored.GetConformer().SetPositions(mol.GetConformer().GetPositions() * [1, 1, -1])
    monkeypatch.setattr(task, "_drawn", lambda *_: drawn(mirrored))
    row = measure(Reference(0, "one", mol.ToBinary(EXACT)), [None], "none", config())
    assert row["stereo"] == 0
    assert row["stereo_of_many"] == 0 if many else np.isnan(row["stereo_of_many"])


def test_wrong_stereo_is_drawn_again(config, monkeypatch, untrained_conformers):
    """Of an untrained flow half the centres come out wrong."""
    flow = ConformerFlow.load(untrained_conformers)
    known = Chem.AddHs(Chem.MolFromSmiles("C[C@H](O)CN"))
    embed(known, 10, 1)
    seen = []
    table = rmsd_matrix

    def noted(drawn, other):
        seen.append([stereo_kept(drawn, c.GetId()) for c in drawn.GetConformers()])
        return table(drawn, other)

    monkeypatch.setattr(task, "rmsd_matrix", noted)
    reference = Reference(0, "x", known.ToBinary(EXACT))
    rows = [measure(reference, [flow], "none", config(redraw=k, nfe=4)) for k in (0, 12)]
    assert [len(right) for right in seen] == [20, 20]
    assert rows[0]["stereo"] == rows[1]["stereo"] == np.mean(seen[0])
    assert 0 < rows[0]["stereo"] < 1
    assert all(seen[1])


def test_models_share_the_number(config, monkeypatch):
    """With one conformer by each of two, both references are found; in turns others are drawn."""
    mol = two_conformers()
    asked = []

    def one_each(smiles, n, flow, number, config, turn, relaxed):
        assert not relaxed
        asked.append((n, flow, turn))
        return drawn(keep_conformers(mol, [0 if flow is None else 1] * n))

    monkeypatch.setattr(task, "_drawn", one_each)
    reference = Reference(0, "one", mol.ToBinary(EXACT))
    row = measure(reference, [None, "flow"], "none", config(per_reference=1))
    assert asked == [(1, None, 0), (1, "flow", 0)]
    assert (row["drawn"], row["amr_r"], row["cov_r_0.5"]) == (2, pytest.approx(0, abs=1e-4), 1)
    asked.clear()
    clock = iter(np.arange(1000))
    monkeypatch.setattr(task.time, "perf_counter", lambda: next(clock))
    row = measure(reference, [None, "flow"], "none", config(seconds=2.5))
    assert asked == [(4, flow, turn) for turn in (0, 1, 2) for flow in (None, "flow")]
    assert row["drawn"] == 24


def test_a_whole_benchmark(config, ensembles, untrained_conformers, tmp_path):
    data = ConformerDataset.load(ensembles)
    write_sdf(data, tmp_path / "references.sdf")
    groups = list(read_groups(str(tmp_path / "references.sdf")))
    assert [
        Chem.Mol(g.mol).GetNumConformers() for g in groups
    ] == data.conformer_ptr.diff().tolist()
    settings = config(
        reference=str(tmp_path / "references.sdf"),
        models=("etkdg", "etkdg+mmff", str(untrained_conformers)),
        limit=4,
        nfe=2,
    )
    text = benchmark_conformers(settings, tmp_path / "out")
    assert "| AMR-R, A |" in text
    found = json.loads((tmp_path / "out" / "rows.json").read_text())
    rows = {model: found["rows"][model] for model in settings.models}
    assert all(len(part) == 4 for part in rows.values())
    mean = {model: np.mean([row["amr_r"] for row in part]) for model, part in rows.items()}
    raw, relaxed, untrained = mean.values()
    assert relaxed < raw < untrained
    assert relaxed < 0.1  # the references are MMFF94's own minima
    with pytest.raises(UserError, match="holds results"):
        benchmark_conformers(settings, tmp_path / "out")


def test_models_that_do_not_exist(config, ensembles, tmp_path):
    write_sdf(ConformerDataset.load(ensembles), tmp_path / "r.sdf")
    with pytest.raises(UserError, match="mmff or gfn2"):
        benchmark_conformers(
            config(reference=str(tmp_path / "r.sdf"), models=("etkdg+uff",)), tmp_path / "out"
        )


def references(path, *records) -> str:
    """An SDF of molecules from SMILES, in space (3) or on paper (2), with empty titles."""
    with Chem.SDWriter(str(path)) as writer:
        for k, (smiles, dimensions) in enumerate(records):
            mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
            if dimensions == 3:
                embed(mol, 1, k)
            else:
                rdDepictor.Compute2DCoords(mol)
            writer.write(mol)
    return str(path)


def test_conformers_of_one_molecule_have_one_graph(tmp_path):
    path = references(
        tmp_path / "r.sdf", ("CCCO", 3), ("CCCO", 3), ("COCC", 3), ("CC(C)O", 3), ("CCC", 2)
    )
    left_out = Counter()
    found = [Chem.Mol(r.mol) for r in read_groups(path, left_out=left_out)]
    assert [mol.GetNumConformers() for mol in found] == [2, 1, 1]
    assert left_out == {"without 3-D coordinates": 1}
    # Which of a nitro group's oxygens has the charge is no matter of the molecule.
    nitro = references(tmp_path / "n.sdf", ("CC[N+](=O)[O-]", 3), ("CC[N+]([O-])=O", 3))
    assert [Chem.Mol(r.mol).GetNumConformers() for r in read_groups(nitro)] == [2]


def test_an_interrupted_benchmark_keeps_what_it_has(config, tmp_path):
    path = references(tmp_path / "r.sdf", ("CCCO", 3), ("CCCN", 3))
    settings = config(reference=path, models=("etkdg", "etkdg+mmff"))

    def interrupt(model, done, total):
        if model == "etkdg+mmff":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        benchmark_conformers(settings, tmp_path / "out", progress=interrupt)
    rows = json.loads((tmp_path / "out" / "rows.json").read_text())
    assert not rows["complete"]
    assert [len(part) for part in rows["rows"].values()] == [2, 1]
    assert json.loads((tmp_path / "out.run.json").read_text())["complete"] is False


def test_mistakes_are_told_before_any_work(config, tmp_path):
    path = references(tmp_path / "r.sdf", ("CCCO", 3))

    def never(*_):
        raise AssertionError("a molecule was measured")

    (tmp_path / "file").touch()
    for models, out, message in (
        (("etkdg", "etkdg+uff"), "out", "mmff or gfn2"),
        (("etkdg",), "file", "cannot write"),
    ):
        settings = config(reference=path, models=models)
        with pytest.raises(UserError, match=message):
            benchmark_conformers(settings, tmp_path / out, progress=never)


def test_what_fails_is_traceable(config, tmp_path):
    path = references(tmp_path / "r.sdf", ("CCCO", 3), ("CCCN", 2), ("CCCN", 3))
    text = (tmp_path / "r.sdf").read_text()
    broken = text.split("$$$$\n")[0].replace("V2000", "V9000") + "$$$$\n"
    (tmp_path / "r.sdf").write_text(broken + text)
    settings = config(reference=path, models=("etkdg",))
    table = benchmark_conformers(settings, tmp_path / "out")
    with (tmp_path / "out.failures.csv").open() as file:
        found = list(csv.DictReader(file))
    assert [row["record"] for row in found] == ["1", "3"]
    assert found[0]["reason"]
    assert found[1]["reason"] == "without 3-D coordinates"
    assert "out.failures.csv" in table
    (tmp_path / "r.sdf").write_text(text.split("$$$$\n")[0] + "$$$$\n")
    benchmark_conformers(settings, tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out.failures.csv").exists()
