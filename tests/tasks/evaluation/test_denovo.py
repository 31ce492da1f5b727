"""The benchmark from end to end, on a file and on an untrained flow."""

import csv
import json

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from molflowctl.errors import UserError
from molflowctl.io.library_writers import SDFWriter
from molflowctl.models.denovo import DeNovoFlow
from molflowctl.tasks.evaluation import denovo as benchmark
from molflowctl.tasks.evaluation.denovo import BenchmarkConfig, benchmark_denovo, read_sample
from molflowctl.tasks.evaluation.denovo_report import Cost, published_rows


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Ethanol, furan and propane, each at two geometries."""
    path = tmp_path_factory.mktemp("library") / "mols.sdf.gz"
    with SDFWriter(path) as writer:
        for smiles in ("CCO", "c1ccoc1", "CCC"):
            for seed in (1, 2):
                mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
                assert rdDistGeom.EmbedMolecule(mol, randomSeed=seed) == 0
                rdForceFieldHelpers.MMFFOptimizeMolecule(mol)
                writer.write(mol, {})
    return path


def test_a_file(library, tmp_path):
    out = tmp_path / "result"
    config = BenchmarkConfig(source=str(library), jobs=1, energy_n=2, xtb_n=1, timeout=30)
    report = benchmark_denovo(config, out, quiet=True)
    assert sorted(p.name for p in out.iterdir()) == [
        "figure.png",
        "random.png",
        "results.json",
        "table.csv",
        "table.md",
    ]
    results = json.loads((out / "results.json").read_text())
    rates = {name: estimate["value"] for name, estimate in results["rates"].items()}
    assert results["hydrogens"] == "explicit"
    assert (rates["valid"], rates["unique"]) == (1, 0.5)
    assert (rates["atom_stability"], rates["edm_molecule_stability"]) == (1, 1)
    assert results["posebusters"]["all_but_energy"]["value"] == 1
    assert results["posebusters"]["all"]["n"] == 2
    assert results["relaxations"]["mmff_drop_kcal_mol"]["value"] == pytest.approx(0, abs=0.1)
    assert results["relaxations"]["gfn2_rmsd_angstrom"]["n"] == 1
    assert results["chemistry"]["brenk_alerts"]["n"] == rates["valid"] * results["attempts"]
    assert {d["name"] for d in results["distances"]} == {"C-H", "C"}  # 40 bonds, 124 angles
    assert results["seconds_per_1000"] is None
    table = (out / "table.md").read_text()
    assert "EDM" in table
    assert "GeoLDM" in table
    with (out / "table.csv").open() as file:
        rows = {(row["group"], row["name"]): row for row in csv.DictReader(file)}
    assert rows["sample", "valid"]["value"] == "1"
    assert rows["relaxation", "MMFF94 energy drop, median, kcal/mol"]["unit"] == "kcal/mol"
    record = json.loads((tmp_path / "result.run.json").read_text())
    assert record["config"] == config.model_dump(mode="json") | {"data": "qm9"}
    assert (out / "figure.png").read_bytes()[1:4] == b"PNG"
    assert report.explicit
    assert report.complete
    assert "Interrupted" not in table
    with pytest.raises(UserError, match="--overwrite"):
        benchmark_denovo(config, out, quiet=True)


def test_whatever_runs_out_of_time_is_no_result(library, tmp_path):
    config = BenchmarkConfig(source=str(library), jobs=1, n=2, xtb_n=2, timeout=1e-3)
    benchmark_denovo(config, tmp_path / "late", quiet=True)
    results = json.loads((tmp_path / "late" / "results.json").read_text())
    assert results["posebusters"]["all"]["value"] == 0
    assert results["posebusters"]["no_answer"]["value"] == 1
    assert results["posebusters"]["all_answered"]["value"] is None
    assert results["relaxations"]["gfn2_drop_kcal_mol"]["value"] is None
    assert results["relaxations"]["gfn2_failed"]["value"] == 1


@pytest.mark.parametrize("hydrogens", ["implicit", "explicit"])
def test_an_untrained_flow(tmp_path, hydrogens):
    flow = DeNovoFlow(
        elements=[1, 6, 7, 8, 9] if hydrogens == "explicit" else [6, 7, 8, 9],
        charges=[-1, 0, 1],
        sizes={"4": 1, "5": 1},
        hydrogens=hydrogens,
        network={"width": 16, "pair_width": 8, "heads": 2, "vectors": 2, "depth": 1, "radial": 4},
    )
    flow.save(tmp_path / "flow")
    config = BenchmarkConfig(
        source=str(tmp_path / "flow"),
        n=12,
        nfe=2,
        jobs=1,
        energy_n=0,
        xtb_n=0,
        quality=[1, 2],
        quality_n=8,
        cost=[8, 4],
        identity_n=4,
    )
    report = benchmark_denovo(config, tmp_path / "result", quiet=True)
    results = json.loads((tmp_path / "result" / "results.json").read_text())
    assert results["attempts"] == 12
    assert sum(results["failures"].values()) == 12 - 12 * results["rates"]["valid"]["value"]
    assert ("molecule_stability" in results["rates"]) == (hydrogens == "explicit")
    assert bool(results["published"]) == (hydrogens == "explicit")
    assert [row["evaluations"] for row in results["quality_against_evaluations"]] == [1, 2]
    assert results["cost_against_n"]["attempts"] == [4, 8]
    assert {row["molecules"] for row in results["score_identity"]} == {4}
    assert results["complete"]
    assert report.seconds_per_1000 > 0
    assert "sampler with 2 network evaluations" in (tmp_path / "result" / "table.md").read_text()


@pytest.mark.parametrize("error", [KeyboardInterrupt, UserError])
def test_what_was_measured_before_an_interrupt_is_kept(library, tmp_path, monkeypatch, error):
    def stop(*_):
        raise error("stop")

    monkeypatch.setattr(benchmark, "distances", stop)
    config = BenchmarkConfig(source=str(library), jobs=1, n=2, energy_n=0, xtb_n=0)
    with pytest.raises(error):
        benchmark_denovo(config, tmp_path / "half", quiet=True)
    results = json.loads((tmp_path / "half" / "results.json").read_text())
    assert not results["complete"]
    assert results["rates"]["valid"]["value"] == 1
    assert results["relaxations"]["mmff_drop_kcal_mol"]["n"] == 2
    assert results["distances"] == []
    assert "Interrupted" in (tmp_path / "half" / "table.md").read_text()


def test_hydrogens_of_a_file(tmp_path, library):
    implicit = tmp_path / "implicit.sdf"
    broken = tmp_path / "broken.sdf"
    with SDFWriter(implicit) as heavy, SDFWriter(broken) as odd:
        for record in read_sample(library).mols:
            heavy.write(Chem.RemoveHs(record), {})
        odd.write(record, {})
        odd.write(record, {})
        without = Chem.RWMol(record)
        without.RemoveAtom(record.GetNumAtoms() - 1)
        for atom in without.GetAtoms():  # so that the file does not declare the radical
            atom.SetNoImplicit(False)
            atom.SetNumRadicalElectrons(0)
        odd.write(without, {})
    sample = read_sample(implicit)
    assert not sample.explicit
    assert len(sample.valid) == 6
    assert max(sample.graphs[0].numbers) == 8
    assert min(sample.graphs[0].numbers) == 6
    # where the other molecules show all their hydrogens, a missing one is missing
    assert read_sample(broken).failures() == {"radical": 1}


def test_bad_sources(tmp_path, library):
    for source in ("qm99", str(tmp_path / "none.sdf")):
        with pytest.raises(UserError):
            benchmark_denovo(BenchmarkConfig(source=source, jobs=1), tmp_path / "out", quiet=True)
    (tmp_path / "mols.smi").write_text("CCO\n")
    with pytest.raises(UserError, match="three-dimensional"):
        read_sample(tmp_path / "mols.smi")
    (tmp_path / "empty.sdf").write_text("")
    with pytest.raises(UserError, match="no molecules"):
        read_sample(tmp_path / "empty.sdf")
    for change in ({"quality": [10]}, {"relax": "mmff"}):
        config = BenchmarkConfig(source=str(library), **change)
        with pytest.raises(UserError, match="judged as it is"):
            benchmark_denovo(config, tmp_path / "out", quiet=True)
    with pytest.raises(UserError, match="cannot write"):
        benchmark_denovo(BenchmarkConfig(source=str(library)), tmp_path / "mols.smi" / "out")


def test_linear_cost_has_exponent_one():
    assert Cost([250, 500, 1000], [5.0, 10.0, 20.0]).exponent == pytest.approx(1)
    assert Cost([10, 100], [1.0, 100.0]).exponent == pytest.approx(2)
    assert np.isnan(Cost([10], [1.0]).exponent)


def test_published_rows_are_those_of_the_papers():
    rows = {row["model"]: row for row in published_rows()}
    names = ("atom_stability", "molecule_stability", "valid", "valid_and_unique")
    assert [rows["EDM"][name] for name in names] == [98.7, 82.0, 91.9, 90.7]
    assert [rows["GeoLDM"][name] for name in names] == [98.9, 89.4, 93.8, 92.7]
    assert [rows["EquiFM"][name] for name in names] == [98.9, 88.3, 94.7, 93.5]
    for row in rows.values():
        assert row["figures_from"]
        assert row["protocol"]
        given = [row[name] for name in names if row[name] is not None]
        assert all(0 < value <= 100 for value in given)
