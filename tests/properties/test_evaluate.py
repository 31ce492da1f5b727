import os
import subprocess
import sys
import time

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem
from rdkit.Geometry import Point3D

from molflowctl.errors import UserError
from molflowctl.parallel import WorkerPool
from molflowctl.properties import get, names, register, registry, score

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
    serial = score(mols, names(), timeout=None)
    for other in (score(mols, names(), jobs=1), score(mols, names(), pool=pool)):
        assert list(serial.values) == list(other.values) == names()
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
