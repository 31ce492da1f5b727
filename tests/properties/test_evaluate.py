import os
import subprocess
import sys
import time

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem
from rdkit.Geometry import Point3D

from molflowctl.compute.parallel import WorkerPool, open_pool
from molflowctl.errors import UserError
from molflowctl.properties import PropertyError, evaluate, get, register, registry, score
from molflowctl.properties.cache import Cache
from molflowctl.properties.evaluate import score_each

SMILES = ["CCO", "C=O", "CC(=O)[O-]", "N#CC", "[NH4+]", "C1CO1"]


def embed(smiles):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, randomSeed=1)
    return mol


@pytest.fixture(scope="module")
def mols():
    return [embed(smiles) for smiles in SMILES]


@pytest.fixture(scope="module")
def pool():
    with WorkerPool(2) as pool:
        yield pool


@pytest.fixture
def clean_registry(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))


def test_identical_for_any_number_of_workers(mols, pool):
    chosen = ["qed", "logp", "xtb_energy_hartree", "dipole_debye", "sa_score"]
    columns = [column for name in chosen for column in get(name).columns]
    serial = score(mols, chosen, timeout=None)
    for other in (score(mols, chosen, jobs=1), score(mols, chosen, pool=pool)):
        assert list(serial.values) == list(other.values) == columns
        for column in serial.values:
            assert np.array_equal(serial[column], other[column])
        assert serial.errors == other.errors == [{}] * len(mols)


def test_values_are_those_of_the_properties(mols, pool):
    scores = score(mols, ["qed", "dipole_debye"], pool=pool)
    assert scores["qed"].dtype == np.float64
    for name in scores.values:
        assert list(scores[name]) == [get(name)(mol)[name] for mol in mols]


def test_failures_are_nan_and_counted(mols, pool):
    clash = Chem.Mol(mols[0])
    clash.GetConformer().SetAtomPosition(1, clash.GetConformer().GetAtomPosition(0))
    scores = score([mols[0], clash, None, clash], ["qed", "dipole_debye"], pool=pool)
    assert np.isnan(scores["dipole_debye"]).tolist() == [False, True, True, True]
    assert np.isnan(scores["qed"]).tolist() == [False, False, True, False]
    reasons = scores.failures()
    assert reasons["dipole_debye"]["two atoms are closer than 0.4 angstrom"] == 2
    assert reasons["qed"] == {"the molecule could not be read": 1}
    assert len(scores) == 4
    assert scores.frame().shape == (4, 2)


def test_atom_that_is_too_heavy_has_a_reason(pool):
    mol = Chem.MolFromSmiles("[U]")
    mol.AddConformer(Chem.Conformer(1))
    mol.GetConformer().SetAtomPosition(0, Point3D(0, 0, 0))
    (errors,) = score([mol], ["homo_lumo_gap_eV"], pool=pool).errors
    assert errors == {"homo_lumo_gap_eV": "GFN2-xTB has no parameters for the element U"}


@pytest.mark.usefixtures("clean_registry")
def test_hang_and_crash_cost_their_engine_and_molecule_only(mols, pool):
    @register("fragile", unit="", version=1, description="d", engine="fragile")
    def fragile(mol):
        if mol.GetProp("fate") == "hang":
            time.sleep(60)
        if mol.GetProp("fate") == "crash":
            os._exit(1)
        if mol.GetProp("fate") == "bug":
            raise KeyError("oops")
        return 1.0

    doomed = [Chem.Mol(mol) for mol in mols[:4]]
    for mol, fate in zip(doomed, ["fine", "hang", "crash", "bug"], strict=True):
        mol.SetProp("fate", fate)
    start = time.monotonic()
    scores = score(doomed, ["qed", "fragile"], timeout=2, pool=pool)
    assert time.monotonic() - start < 10
    assert np.isfinite(scores["qed"]).all()
    assert [row.get("fragile") for row in scores.errors] == [
        None,
        "timed out after 2 s",
        "its process exited with status 1",
        "KeyError: 'oops'",
    ]


def test_a_molecule_too_big_for_the_limit_is_ended(pool):
    chain = Chem.AddHs(Chem.MolFromSmiles("C" * 400))
    positions = np.random.default_rng(0).permutation(np.mgrid[:11, :11, :11].reshape(3, -1).T)
    chain.AddConformer(Chem.Conformer(chain.GetNumAtoms()))
    for index in range(chain.GetNumAtoms()):
        chain.GetConformer().SetAtomPosition(index, Point3D(*(1.5 * positions[index])))
    start = time.monotonic()
    scores = score([chain], ["qed", "xtb_energy_hartree"], timeout=2, pool=pool)
    assert time.monotonic() - start < 6
    assert np.isfinite(scores["qed"]).all()
    assert scores.errors == [{"xtb_energy_hartree": "timed out after 2 s"}]


def test_unknown_name_fails_before_any_work():
    def mols():
        pytest.fail("a molecule was drawn")
        yield

    with pytest.raises(UserError, match="unknown property 'ged'"):
        score(mols(), ["qed", "ged"])


def test_empty_and_repeated_names(mols, pool):
    assert score([], ["qed"], pool=pool)["qed"].shape == (0,)
    assert len(score(mols, [], pool=pool)) == len(mols)
    assert list(score(mols, ["qed", "qed"], pool=pool).values) == ["qed"]


def test_progress_counts_molecules(mols, pool):
    seen = []
    score(mols, ["qed", "dipole_debye"], pool=pool, progress=seen.append)
    assert seen == list(range(1, len(mols) + 1))


def test_properties_import_nothing_heavy():
    code = "import molflowctl.properties, sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in run.stdout.split()}
    assert not loaded & {"torch", "tblite", "xtb", "pandas", "scipy", "matplotlib", "posebusters"}


# Cache --------------------------------------------------------------------------------------------


@pytest.fixture
def counted(clean_registry, tmp_path):
    """Properties that note each call, and the function that tells how many there were."""
    calls = tmp_path / "calls"
    calls.touch()

    @register("counted", unit="", version=1, description="d", engine="c", columns=("a", "b"))
    def counted(mol):
        with calls.open("a") as file:
            file.write("x")
        if mol.GetNumHeavyAtoms() == 3:
            raise PropertyError("three heavy atoms")
        if mol.GetNumHeavyAtoms() == 4:
            time.sleep(60)
        if mol.GetNumHeavyAtoms() == 1:
            raise MemoryError("it was a bad day")
        return {"a": mol.GetConformer().GetAtomPosition(0).x, "b": mol.GetNumAtoms()}

    return lambda: len(calls.read_text())


def test_second_scoring_is_free_and_the_same(mols, pool, counted, tmp_path):
    chosen = [mols[1], mols[0], mols[4], mols[2], mols[1]]  # value, reason, bug, time-out, again
    with Cache(tmp_path / "c.sqlite") as cache:
        first = score(chosen, ["counted", "qed"], timeout=1, pool=pool, cache=cache)
        assert counted() == 5
        assert cache.hits == 0
    with Cache(tmp_path / "c.sqlite") as cache:
        again = score(chosen, ["qed", "counted"], timeout=1, pool=pool, cache=cache)
        assert counted() == 7  # the bug and the time-out alone are tried again
        assert cache.hits == 5 + 3
    assert [row.get("counted") for row in first.errors] == [
        None,
        "three heavy atoms",
        "MemoryError: it was a bad day",
        "timed out after 1 s",
        None,
    ]
    assert again.errors == first.errors
    for column in first.values:
        assert np.array_equal(first[column], again[column], equal_nan=True)
    plain = score(chosen[:2], ["counted", "qed"], timeout=None)
    assert np.array_equal(plain["a"], first["a"][:2], equal_nan=True)


def test_cache_knows_version_columns_and_geometry(mols, pool, counted, tmp_path):
    moved = Chem.Mol(mols[1])
    moved.GetConformer().SetAtomPosition(0, Point3D(9, 9, 9))
    with Cache(tmp_path / "c.sqlite") as cache:
        score([mols[1]], ["counted", "qed"], pool=pool, cache=cache)
        scores = score([moved], ["counted", "qed"], pool=pool, cache=cache)
        assert scores["a"].tolist() == [9]
        assert cache.hits == 1  # QED, which is of the graph
        assert counted() == 2

        del registry._REGISTRY["counted"]

        @register("counted", unit="", version=2, description="d", engine="c", columns=("a", "b"))
        def newer(mol):
            return {"a": -1.0, "b": -1.0}

        scores = score([moved], ["counted"], pool=pool, cache=cache)
        assert scores["a"].tolist() == [-1]


def test_a_cached_library_starts_no_workers(mols, tmp_path):
    with Cache(tmp_path / "c.sqlite") as cache:
        score(mols, ["qed"], timeout=None, cache=cache)
        with WorkerPool(2) as fresh:
            scores = score(mols, ["qed"], pool=fresh, cache=cache)
            assert not fresh._workers
    assert np.isfinite(scores["qed"]).all()


def test_no_atoms_is_no_zero(pool):
    scores = score([Chem.Mol()], ["mw", "rings"], pool=pool)
    assert np.isnan(scores["mw"]).all()
    assert scores.errors == [{"mw": "no atoms", "rings": "no atoms"}]


def test_identical_on_every_backend(mols):
    names_ = ["qed", "xtb_energy_hartree"]
    serial = score(mols, names_, timeout=None)
    for backend in ("serial", "joblib", "processes"):
        with open_pool(2, backend) as workers:
            timeout = None if backend == "serial" else 30.0
            other = score(mols, names_, timeout=timeout, pool=workers)
        for column in serial.values:
            assert np.array_equal(serial[column], other[column])


def test_rows_stream_and_the_source_may_use_the_pool(mols, monkeypatch):
    monkeypatch.setattr(evaluate, "block_size", lambda pool: 4)
    with WorkerPool(2) as workers:

        def source():
            for _ in range(3):
                yield from mols
                assert [o.value for o in workers.map(len, ["ab", "c"], timeout=5)] == [2, 1]

        rows = list(score_each(source(), ["heavy_atoms"], workers))
    assert [row.values["heavy_atoms"] for row in rows] == 3 * [m.GetNumHeavyAtoms() for m in mols]


@pytest.mark.parametrize("jobs", [1, 2])
def test_ahead_draws_while_others_are_computed_and_no_more_than_a_block(
    mols, monkeypatch, tmp_path, jobs
):
    monkeypatch.setattr(evaluate, "block_size", lambda pool: 4)
    names_ = ["heavy_atoms", "xtb_energy_hartree"]  # two engines, so two tasks for each
    every = [*mols, None] * 3
    expected = score(every, names_, timeout=None)
    with Cache(tmp_path / "c.sqlite") as cache, WorkerPool(jobs) as workers:
        for _ in ("computed", "known"):
            drawn: list[Chem.Mol | None] = []
            source = (drawn.append(mol) or mol for mol in every)
            for count, row in enumerate(
                score_each(source, names_, workers, None, cache, ahead=True)
            ):
                assert row.errors == expected.errors[count]
                for name in names_:
                    assert row.values[name] == pytest.approx(expected[name][count], nan_ok=True)
                assert len(drawn) <= count + 5  # of a library that is known, too
            assert count + 1 == len(every)


def test_a_few_molecules_are_shared_among_the_workers(mols, monkeypatch):
    with WorkerPool(2) as workers:
        given = []
        inner = workers.map

        def watched(function, items, *, timeout, chunk):
            given.append(chunk)
            return inner(function, items, timeout=timeout, chunk=chunk)

        monkeypatch.setattr(workers, "map", watched)
        for ahead in (False, True):
            list(score_each(mols, ["qed"], workers, ahead=ahead))
    assert given == [1, 1]
