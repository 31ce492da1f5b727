"""Scoring a library: what goes in comes out, whole, in order, and what is bad is counted."""

import gzip
import json
import math

import numpy as np
import pandas
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem
from rdkit.Geometry import Point3D

from molflowctl.compute.parallel import WorkerPool
from molflowctl.errors import UserError
from molflowctl.io.library import count_records, read_molecules, sdf_record
from molflowctl.properties import PropertyError, get, register, registry
from molflowctl.properties.charges import CHARGE, CHARGE_TAG, partial_charges
from molflowctl.properties.geometries.starting import start
from molflowctl.tasks.scoring import geometries
from molflowctl.tasks.scoring.outcome import Column, describe, reasons
from molflowctl.tasks.scoring.score import score_library
from molflowctl.tasks.scoring.settings import ScoreConfig

GRAPH = ("qed", "mw")
XTB = ("mw", "xtb_energy_hartree")


def embedded(smiles):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, randomSeed=1)
    return mol


GOOD = [embedded(smiles) for smiles in ("CCO", "C=O", "CC#N")]


def at(mol, positions):
    mol = Chem.Mol(mol)
    for index, position in enumerate(positions):
        mol.GetConformer().SetAtomPosition(index, Point3D(*map(float, position)))
    return mol


def library(path, *entries):
    """An SDF of molecules, titled by their place, and of raw records."""
    texts = [
        e if isinstance(e, bytes) else sdf_record(e, f"m{i}", {"kept": i}).encode()
        for i, e in enumerate(entries)
    ]
    content = b"".join(texts)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def run(source, out, properties=GRAPH, **options):
    options = {"timeout": None, "jobs": 1, "cache": False, **options}
    config = ScoreConfig(library=str(source), out=str(out), properties=properties, **options)
    return score_library(config)


@pytest.fixture
def clean_registry(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))


@pytest.mark.parametrize("name", ["out.sdf", "out.sdf.gz"])
def test_sdf_in_and_out(tmp_path, name):
    source = library(tmp_path / "in.sdf.gz", *GOOD)
    state = run(source, tmp_path / name, ("qed", "dipole_debye"))
    assert (state.read, state.written, state.complete, state.fewer) == (3, 3, True, False)
    records = list(read_molecules(tmp_path / name))
    assert [record.name for record in records] == ["m0", "m1", "m2"]
    for index, (record, mol) in enumerate(zip(records, GOOD, strict=True)):
        assert list(record.tags) == ["kept", "qed", "dipole_debye"]
        assert record.tags["kept"] == str(index)
        positions = mol.GetConformer().GetPositions()
        assert record.mol.GetConformer().GetPositions() == pytest.approx(positions, abs=1e-4)
        for column in ("qed", "dipole_debye"):
            assert float(record.tags[column]) == pytest.approx(get(column)(mol)[column], rel=2e-4)
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
@pytest.mark.parametrize("v3000", [False, True])
def test_mol_blocks_come_out_as_they_went_in(tmp_path, ending, v3000):
    """Also the lines that RDKit would write in another way."""
    plain = Chem.MolToMolBlock(GOOD[1], forceV3000=v3000).splitlines()
    mine = [*plain[:1], "  a program  01010112003D", "a comment", *plain[3:]]
    text = ending.join(line.encode() for line in [*mine, ">  <kept>", "1", "", "$$$$", ""])
    assert run(library(tmp_path / "in.sdf", text), tmp_path / "out.sdf", ("mw",)).written == 1
    lines = (tmp_path / "out.sdf").read_text().split("\n")
    assert lines[1 : len(mine) + 2] == [*mine[1:], ">  <kept>", "1"]
    (record,) = read_molecules(tmp_path / "out.sdf")
    assert record.mol.GetNumAtoms() == GOOD[1].GetNumAtoms()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_tables(tmp_path, kind):
    source = library(tmp_path / "in.sdf", *GOOD, embedded("[H][H]"))
    out = tmp_path / f"out.{kind}"
    state = run(source, out, ("qed", "sa_score"))
    assert state.failed == {"sa_score": {"no heavy atoms": 1}}
    frame = pandas.read_csv(out) if kind == "csv" else pandas.read_parquet(out)
    assert list(frame) == ["name", "smiles", "kept", "qed", "sa_score"]
    assert list(frame["smiles"]) == ["CCO", "C=O", "CC#N", "[H][H]"]
    assert frame["qed"].dtype == frame["sa_score"].dtype == np.float64
    assert frame["sa_score"].isna().tolist() == [False, False, False, True]


@pytest.mark.parametrize("name", ["in.smi", "in.csv", "in.smi.gz"])
def test_smiles_get_a_conformer_first(tmp_path, name):
    rows = ["smiles,name,activity" if ".csv" in name else "smiles name"]
    rows += [s.replace(" ", ",") if ".csv" in name else s for s in ("CCO a", "c1ccccc1O b")]
    rows = [row + ",7" if ".csv" in name and i else row for i, row in enumerate(rows)]
    text = "\n".join(rows) + "\n"
    content = gzip.compress(text.encode()) if name.endswith(".gz") else text.encode()
    (tmp_path / name).write_bytes(content)
    state = run(tmp_path / name, tmp_path / "out.sdf", ("qed", "xtb_energy_hartree"))
    assert not state.fewer
    for record, smiles in zip(
        read_molecules(tmp_path / "out.sdf"), ("CCO", "c1ccccc1O"), strict=True
    ):
        mol = start(Chem.AddHs(Chem.MolFromSmiles(smiles))).mol
        expected = get("xtb_energy_hartree")(mol)["xtb_energy_hartree"]
        assert float(record.tags["xtb_energy_hartree"]) == pytest.approx(expected, abs=1e-6)
        assert record.mol.GetConformer().Is3D()
        assert record.mol.GetNumAtoms() == mol.GetNumAtoms()
        assert record.tags.get("activity") == ("7" if ".csv" in name else None)
        # A minimum of MMFF94, which is what the relaxation was for.
        field = AllChem.MMFFGetMoleculeForceField(mol, AllChem.MMFFGetMoleculeProperties(mol))
        assert np.abs(field.CalcGrad()).max() < 0.1


def test_graph_properties_into_a_table_need_no_conformer(tmp_path, monkeypatch):
    monkeypatch.setattr(geometries, "start", lambda mol: pytest.fail("a conformer was computed"))
    (tmp_path / "in.smi").write_text("CCO a\n")
    assert run(tmp_path / "in.smi", tmp_path / "out.csv", GRAPH).written == 1


def test_molecules_without_conformer_are_counted_and_keep_their_graph_properties(tmp_path):
    (tmp_path / "in.smi").write_text("C[Pd]C metal\nCCO good\nnonsense bad\n")
    state = run(tmp_path / "in.smi", tmp_path / "out.csv", XTB)
    reason = "no field knows how ligands stand around palladium (Pd)"
    assert state.decisions.without == {reason: 1}
    assert state.failed == {}  # it is counted once, not once more for each property
    assert state.fewer
    assert state.unreadable == {"not a SMILES: 'nonsense'": 1}
    assert np.isfinite(state.columns["mw"].values).all()
    assert (state.read, state.written) == (3, 2)


@pytest.mark.usefixtures("clean_registry")
def test_all_columns_units_and_statistics(tmp_path):
    @register("pair", unit="eV", version=3, description="d", columns=("atoms", "heavy"))
    def pair(mol):
        if mol.GetNumHeavyAtoms() == 2:
            raise PropertyError("two heavy atoms")
        return {"atoms": mol.GetNumAtoms(), "heavy": mol.GetNumHeavyAtoms()}

    state = run(library(tmp_path / "in.sdf", *GOOD), tmp_path / "out.sdf", ("pair",))
    tags = [record.tags for record in read_molecules(tmp_path / "out.sdf")]
    assert tags == [
        {"kept": "0", "atoms": "9", "heavy": "3"},
        {"kept": "1"},
        {"kept": "2", "atoms": "6", "heavy": "3"},
    ]
    assert describe(state) == [
        ("property", "n", "failed", "mean", "sd", "min", "median", "max", "unit"),
        ("atoms", "2", "1", "7.5", "2.1213", "6", "7.5", "9", "eV"),
        ("heavy", "2", "1", "3", "0", "3", "3", "3", "eV"),
    ]
    assert reasons(state) == ["1 x pair: two heavy atoms"]
    record = json.loads((tmp_path / "out.sdf.run.json").read_text())
    assert record["properties"] == {"pair": {"version": 3, "unit": "eV"}}
    assert record["counts"]["failed"] == {"pair": {"two heavy atoms": 1}}
    assert record["columns"]["atoms"]["sd"] == pytest.approx(math.sqrt(4.5))
    assert record["complete"] is True


def test_statistics_of_nothing():
    figures = Column("x", "").statistics()
    assert figures["n"] == figures["failed"] == 0
    assert all(math.isnan(figures[name]) for name in ("mean", "sd", "min", "median", "max"))


@pytest.mark.usefixtures("clean_registry")
def test_a_stale_value_does_not_survive_a_failure(tmp_path):
    source = library(
        tmp_path / "in.sdf", sdf_record(embedded("[H][H]"), "h", {"sa_score": 2}).encode()
    )
    run(source, tmp_path / "out.sdf", ("sa_score",))
    assert next(read_molecules(tmp_path / "out.sdf")).tags == {"sa_score": "2"}  # not ours
    (tmp_path / "in.sdf.run.json").write_text('{"command": "score", "columns": {"sa_score": {}}}')
    run(source, tmp_path / "again.sdf", ("sa_score",))
    assert next(read_molecules(tmp_path / "again.sdf")).tags == {}


def test_tags_that_an_sdf_cannot_hold(tmp_path):
    (tmp_path / "in.csv").write_text('smiles,ID,a<b>,name\nCC,7,$$$$,"two\nlines"\n')
    run(tmp_path / "in.csv", tmp_path / "out.sdf", ("mw",))
    (record,) = read_molecules(tmp_path / "out.sdf")
    assert record.name == "two lines"
    assert record.tags.pop("mw")
    assert record.tags.pop("geometry_method") == "ETKDGv3, MMFF94"
    assert record.tags == {"input_ID": "7", "a<b>": "$$$$"}


def test_results_do_not_depend_on_workers_backend_cache_or_blocks(tmp_path, monkeypatch):
    (tmp_path / "in.smi").write_text("\n".join(["CCO", "C=O", "bad", "C1CC1", "CC(=O)[O-]"]))
    outputs = []
    for number, options in enumerate(
        [
            {"backend": "serial"},
            {"jobs": 2},
            {"jobs": 2, "timeout": 30.0, "cache": str(tmp_path / "c.sqlite")},
            {"jobs": 2, "timeout": 30.0, "cache": str(tmp_path / "c.sqlite")},
            {"jobs": 1, "block": 2},
        ]
    ):
        if "block" in options:
            size = options.pop("block")
            monkeypatch.setattr(geometries, "block_size", lambda pool, size=size: size)
            monkeypatch.setattr("molflowctl.properties.evaluate.block_size", lambda pool: 3)
        out = tmp_path / f"out{number}.sdf.gz"
        state = run(tmp_path / "in.smi", out, XTB, **options)
        outputs.append(out.read_bytes())
        assert state.cached == (12 if number == 3 else 0)
    assert set(outputs) == {outputs[0]}


@pytest.mark.usefixtures("clean_registry")
def test_interrupted_and_resumed(tmp_path):
    """Ctrl-C keeps whole records; resuming computes only what is missing."""
    calls = tmp_path / "calls"

    @register("counted", unit="", version=1, description="d")
    def counted(mol):
        with calls.open("a") as file:
            file.write("x")
        return mol.GetNumAtoms()

    different = [at(GOOD[i % 3], [[9 + i, 0, 0]]) for i in range(12)]
    source = library(tmp_path / "in.sdf", *different)
    out = tmp_path / "out.sdf"
    config = ScoreConfig(
        library=str(source), out=str(out), properties=("counted",), timeout=None, jobs=1,
        cache=str(tmp_path / "c.sqlite"),
    )  # fmt: skip

    def interrupt(done, total):
        assert total == 12
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_library(config, interrupt)
    assert len(list(read_molecules(out))) == 5
    record = json.loads((tmp_path / "out.sdf.run.json").read_text())
    assert (record["complete"], record["counts"]["written"]) == (False, 5)
    with pytest.raises(UserError, match="exists"):
        score_library(config)
    other = config.model_copy(update={"resume": True, "properties": ("mw",)})
    with pytest.raises(UserError, match=r"other settings \(properties\)"):
        score_library(other)
    before = len(calls.read_text())
    state = score_library(config.model_copy(update={"resume": True}))
    assert (state.written, state.complete, state.cached) == (12, True, before)
    assert len(calls.read_text()) == 12
    assert [r.name for r in read_molecules(out)] == [f"m{i}" for i in range(12)]


def test_resume_refuses(tmp_path):
    source = library(tmp_path / "in.sdf", *GOOD)
    with pytest.raises(UserError, match="takes its results from the cache"):
        run(source, tmp_path / "out.sdf", resume=True)
    cache = str(tmp_path / "c.sqlite")
    with pytest.raises(UserError, match="nothing to resume"):
        run(source, "-", resume=True, cache=cache)
    (tmp_path / "out.sdf").write_text("somebody's")
    with pytest.raises(UserError, match=r"no readable out\.sdf\.run\.json"):
        run(source, tmp_path / "out.sdf", resume=True, cache=cache)
    assert (tmp_path / "out.sdf").read_text() == "somebody's"


@pytest.mark.parametrize(
    ("out", "message"),
    [("x.txt", "cannot write this kind"), ("none/x.csv", "no folder"), ("d.csv", "is a folder")],
)
def test_outputs_that_cannot_be(tmp_path, out, message):
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(UserError, match=message):
        run(library(tmp_path / "in.sdf", *GOOD), tmp_path / out)
    assert not (tmp_path / f"{out}.run.json").exists()


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("old.sdf", ZeroDivisionError),
        ("old.csv", ZeroDivisionError),
        ("old.csv", KeyboardInterrupt),  # a table is written whole or not at all
    ],
)
def test_what_ends_in_the_middle_leaves_what_was_there(tmp_path, name, error):
    source = library(tmp_path / "in.sdf", *GOOD)
    run(source, tmp_path / name, ("mw",))
    before = {path: path.read_bytes() for path in tmp_path.glob("old*")}
    assert len(before) == 2
    config = ScoreConfig(library=str(source), out=str(tmp_path / name), properties=GRAPH,
                         timeout=None, jobs=1, cache=False, overwrite=True)  # fmt: skip

    def end(done, total):
        if done == 2:
            raise error

    with pytest.raises(error):
        score_library(config, end)
    assert {path: path.read_bytes() for path in tmp_path.glob("old*")} == before


def test_an_error_in_the_middle_leaves_nothing_new(tmp_path):
    source = library(tmp_path / "in.sdf", *GOOD)
    for name in ("out.sdf", "out.csv"):
        config = ScoreConfig(library=str(source), out=str(tmp_path / name), properties=GRAPH,
                             timeout=None, jobs=1, cache=False)  # fmt: skip
        with pytest.raises(ZeroDivisionError):
            score_library(config, lambda done, total: 1 / (done - 2))
        assert not list(tmp_path.glob(f"{name}*"))


# Bad input: each is counted by its reason, the rest is scored ------------------------------------


def check(state, out, *, written, unreadable=(), failed=None):
    assert dict(state.unreadable) == dict(unreadable)
    assert state.failed == (failed or {})
    records = list(read_molecules(out))
    assert len(records) == state.written == written
    assert all(record.mol is not None for record in records)
    assert state.fewer == bool(unreadable or failed)
    names = [record.name for record in records]
    for good in ("m0", "last"):
        record = records[names.index(good)]
        assert float(record.tags["mw"]) > 0
        assert float(record.tags.get("xtb_energy_hartree", -1)) < 0


LAST = sdf_record(GOOD[1], "last", {}).encode()


def test_truncated_sdf(tmp_path):
    text = sdf_record(GOOD[2], "cut", {}).encode()
    source = library(tmp_path / "in.sdf", GOOD[0], LAST, text[: len(text) // 2])
    state = run(source, tmp_path / "o.sdf", XTB)
    check(state, tmp_path / "o.sdf", written=2, unreadable={"not a readable MOL block": 1})
    assert count_records(source) == 3


def test_truncated_gzip(tmp_path):
    entries = [sdf_record(GOOD[i % 3], f"m{i}", {}).encode() for i in range(60)]
    source = library(tmp_path / "in.sdf.gz", *entries)
    source.write_bytes(source.read_bytes()[:-200])
    state = run(source, tmp_path / "o.sdf", ("mw",))
    assert 0 < state.written < 60
    (reason,) = state.unreadable
    assert "damaged or incomplete" in reason
    assert state.fewer


def test_garbage_sdf(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, 4000, dtype=np.uint8).tobytes()
    source = library(tmp_path / "in.sdf", GOOD[0], noise + b"\n$$$$\n", LAST)
    state = run(source, tmp_path / "o.sdf", XTB)
    check(state, tmp_path / "o.sdf", written=2, unreadable={"not a readable MOL block": 1})


def test_nothing_but_garbage(tmp_path):
    (tmp_path / "in.sdf").write_bytes(b"\x00\xff" * 1000)
    state = run(tmp_path / "in.sdf", tmp_path / "o.sdf", XTB)
    assert (state.read, state.written, state.fewer) == (1, 0, True)
    (tmp_path / "empty.sdf").touch()
    with pytest.raises(UserError, match=r"no molecules in .*empty.sdf"):
        run(tmp_path / "empty.sdf", tmp_path / "o2.csv", XTB)
    assert not (tmp_path / "o2.csv").exists()


def test_two_dimensional(tmp_path):
    flat = Chem.AddHs(Chem.MolFromSmiles("CCO"))
    AllChem.Compute2DCoords(flat)
    state = run(library(tmp_path / "in.sdf", GOOD[0], flat, LAST), tmp_path / "o.sdf", XTB)
    reason = "the coordinates are two-dimensional"
    check(state, tmp_path / "o.sdf", written=3, failed={"xtb_energy_hartree": {reason: 1}})


def test_zero_atoms(tmp_path):
    state = run(library(tmp_path / "in.sdf", GOOD[0], Chem.Mol(), LAST), tmp_path / "o.sdf", XTB)
    failed = {"mw": {"no atoms": 1}, "xtb_energy_hartree": {"no atoms": 1}}
    check(state, tmp_path / "o.sdf", written=3, failed=failed)


def test_three_thousand_atoms(tmp_path):
    big = Chem.AddHs(Chem.MolFromSmiles("C" * 1000))
    grid = 1.5 * np.mgrid[:15, :15, :15].reshape(3, -1).T
    big.AddConformer(Chem.Conformer(big.GetNumAtoms()))
    big = at(big, grid[: big.GetNumAtoms()])
    source = library(tmp_path / "in.sdf", GOOD[0], big, LAST)
    state = run(source, tmp_path / "o.sdf", XTB, timeout=2.0)
    (reason,) = state.failed["xtb_energy_hartree"]
    assert "2,000 atoms" in reason or "timed out" in reason
    check(state, tmp_path / "o.sdf", written=3, failed={"xtb_energy_hartree": {reason: 1}})
    assert max(state.columns["mw"].values) == pytest.approx(1000 * 12.011 + 2002 * 1.008, abs=0.1)


def test_radicals_and_ions_are_computed_as_they_are(tmp_path):
    odd = [embedded(s) for s in ("[CH3]", "C[CH]C", "[NH4+]", "CC(=O)[O-]", "[Na+].[Cl-]")]
    odd[-1] = at(odd[-1], [[0, 0, 0], [0, 0, 2.4]])
    state = run(library(tmp_path / "in.sdf", GOOD[0], *odd, LAST), tmp_path / "o.sdf", XTB)
    check(state, tmp_path / "o.sdf", written=7)


def test_metals_and_unknown_elements(tmp_path):
    complexes = [embedded(s) for s in ("[Fe]", "[U]")]
    state = run(library(tmp_path / "in.sdf", GOOD[0], *complexes, LAST), tmp_path / "o.sdf", XTB)
    reason = "GFN2-xTB has no parameters for the element U"
    assert state.failed["xtb_energy_hartree"][reason] == 1
    assert state.written == 4
    assert np.isfinite(state.columns["mw"].values).all()


def test_overlapping_atoms(tmp_path):
    clash = at(GOOD[0], [GOOD[0].GetConformer().GetAtomPosition(1)])
    state = run(library(tmp_path / "in.sdf", GOOD[0], clash, LAST), tmp_path / "o.sdf", XTB)
    failed = {"xtb_energy_hartree": {"two atoms are closer than 0.4 angstrom": 1}}
    check(state, tmp_path / "o.sdf", written=3, failed=failed)


def test_duplicate_names(tmp_path):
    twin = sdf_record(GOOD[2], "last", {}).encode()
    state = run(library(tmp_path / "in.sdf", GOOD[0], LAST, twin, LAST), tmp_path / "o.sdf", XTB)
    check(state, tmp_path / "o.sdf", written=4)
    records = list(read_molecules(tmp_path / "o.sdf"))
    assert [record.name for record in records] == ["m0", "last", "last", "last"]
    assert [r.mol.GetNumAtoms() for r in records] == [9, 4, 6, 4]


def test_names_that_are_not_utf_8(tmp_path):
    foreign = LAST.replace(b"last", "Säure µ".encode("latin-1"), 1)
    state = run(library(tmp_path / "in.sdf", GOOD[0], foreign, LAST), tmp_path / "o.sdf", XTB)
    check(state, tmp_path / "o.sdf", written=3)
    assert [r.name for r in read_molecules(tmp_path / "o.sdf")][1].startswith("S")


@pytest.mark.parametrize("number", [b"nan", b"inf", b"1e9"])
def test_coordinates_that_are_no_numbers(tmp_path, number):
    lines = LAST.split(b"\n")
    lines[4] = number.rjust(10) + lines[4][10:]
    bad = b"\n".join(lines).replace(b"last", b"bad", 1)
    state = run(library(tmp_path / "in.sdf", GOOD[0], bad, LAST), tmp_path / "o.sdf", XTB)
    assert sum(state.unreadable.values()) + len(state.failed) == 1
    assert state.fewer
    assert state.written + sum(state.unreadable.values()) == state.read == 3


def test_nan_coordinates_in_memory_are_a_reason():
    broken = at(GOOD[0], [[np.nan, 0, 0]])
    with WorkerPool(1) as pool:
        from molflowctl.properties import score

        scores = score([broken, GOOD[0]], XTB, timeout=None, pool=pool)
    assert np.isnan(scores["xtb_energy_hartree"]).tolist() == [True, False]
    assert scores.errors[0] == {"xtb_energy_hartree": "a coordinate is not a number"}


# Reference, charges, relative energies ------------------------------------------------------------


def test_similarity_and_novelty_to_a_set_of_ones_own(tmp_path):
    (tmp_path / "known.smi").write_text("OCC\nnonsense\nCCCO\n")
    source = library(tmp_path / "in.sdf", *GOOD)
    options = {"reference": str(tmp_path / "known.smi"), "cache": str(tmp_path / "cache")}
    state = run(source, tmp_path / "out.csv", ("mw",), **options)
    assert list(state.columns) == ["mw", "reference_similarity", "reference_novelty"]
    assert state.columns["reference_similarity"].values[0] == 1
    assert max(state.columns["reference_similarity"].values[1:]) < 1
    assert list(state.columns["reference_novelty"].values) == [0, 1, 1]
    assert sum(state.unreadable_reference.values()) == 1
    assert any("unreadable in the reference" in line for line in reasons(state))
    assert not state.fewer
    # Values of another set do not come from the cache.
    (tmp_path / "known.smi").write_text("C=O\n")
    again = run(source, tmp_path / "again.csv", ("mw",), **options)
    assert list(again.columns["reference_novelty"].values) == [1, 0, 1]
    assert again.cached == 3
    (tmp_path / "known.smi").write_text("nonsense\n")
    with pytest.raises(UserError, match="no molecule to compare with"):
        run(source, tmp_path / "third.csv", ("mw",), **options)


def test_partial_charges_come_back_as_properties_of_atoms(tmp_path):
    ion, clash = embedded("CC(=O)[O-]"), at(GOOD[0], [[0, 0, 0], [0, 0, 0.1]])
    long = embedded("C" * 12)
    source = library(tmp_path / "in.sdf", ion, clash, b"nonsense\n$$$$\n", long)
    options = {"charges": True, "cache": str(tmp_path / "cache")}
    state = run(source, tmp_path / "out.sdf", ("mw",), **options)
    assert state.failed == {CHARGE: {"two atoms are closer than 0.4 angstrom": 1}}
    assert state.written == 3
    charged = [record.mol for record in read_molecules(tmp_path / "out.sdf")]
    for mol, total in ((charged[0], -1), (charged[2], 0)):
        charges = [atom.GetDoubleProp(CHARGE) for atom in mol.GetAtoms()]
        assert sum(charges) == pytest.approx(total, abs=1e-3)
        assert charges == pytest.approx(partial_charges(mol), abs=2e-3)
    assert not charged[1].HasProp(CHARGE_TAG)
    assert max(map(len, (tmp_path / "out.sdf").read_text().splitlines())) < 200
    # Again, from the cache, and in place of the list that the input has by now.
    again = run(tmp_path / "out.sdf", tmp_path / "again.sdf", ("mw",), **options)
    assert again.cached >= 3
    with pytest.raises(UserError, match="only an SDF has a place for them"):
        run(source, tmp_path / "out.csv", ("mw",), charges=True)


def test_relative_energies_are_above_the_lowest_of_the_molecule(tmp_path):
    butane = Chem.AddHs(Chem.MolFromSmiles("CCCC"))
    AllChem.EmbedMultipleConfs(butane, 4, randomSeed=3)
    conformers = [Chem.Mol(butane, confId=c.GetId()) for c in butane.GetConformers()]
    source = library(tmp_path / "in.sdf", *conformers[:3], b"nonsense\n$$$$\n", conformers[3],
                     GOOD[0], conformers[0])  # fmt: skip
    state = run(source, tmp_path / "o.csv", ("xtb-energy", "mmff-energy"), relative=True)
    columns = {name: np.array(column.values) for name, column in state.columns.items()}
    for energy, factor in (("xtb_energy_hartree", 627.5095), ("mmff_energy_kcal_mol", 1.0)):
        kind = energy.split("_")[0]
        relative = columns[f"relative_{kind}_energy_kcal_mol"]
        expected = factor * (columns[energy][:4] - columns[energy][:4].min())
        assert relative[:4] == pytest.approx(expected, abs=1e-5)
        assert relative[:4].min() == 0
        assert relative[:4].max() > 0.1
        assert relative[4] == 0  # of the only ethanol
        assert np.isnan(relative[5])  # butane comes back: whose lowest is gone
    why = "its conformers are not next to one another"
    assert state.failed == {"relative energy": {why: 1}}
    assert state.fewer
    with pytest.raises(UserError, match="Add an energy"):
        run(source, tmp_path / "none.csv", ("mw", "relax_energy"), relative=True)


def test_a_spin_stays_when_open_stereo_is_settled(tmp_path):
    """Of the record, of the option, and of neither; the user's own column stays beside ours."""
    source = tmp_path / "in.csv"
    source.write_text("smiles,name,multiplicity\nCC(F)[C]Cl,open,3\n[CH2],t,3\n[CH2],s,\n")
    run(source, tmp_path / "out.csv", ("multiplicity",))
    table = pandas.read_csv(tmp_path / "out.csv")
    assert table["multiplicity_computed"].tolist() == [3, 3, 1]
    run(source, tmp_path / "all.csv", ("multiplicity",), multiplicity=5)
    assert pandas.read_csv(tmp_path / "all.csv")["multiplicity_computed"].tolist() == [5, 5, 5]
