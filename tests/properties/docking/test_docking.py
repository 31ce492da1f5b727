"""Docking: Vina's own scores and poses, failures that cost one ligand, the same on every pool."""

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdMolAlign

from molflowctl.chem.geometry import with_positions
from molflowctl.chem.identity import normalised
from molflowctl.errors import UserError
from molflowctl.properties import get, score
from molflowctl.properties.cache import Cache
from molflowctl.properties.docking import engine
from molflowctl.properties.docking.engine import dock
from molflowctl.properties.docking.ligand import ligand_of, pdbqt_of, with_conformer
from molflowctl.properties.docking.receptor import read_receptor
from molflowctl.properties.docking.scores import docking_property
from molflowctl.properties.rewards import PropertyReward

pytest.importorskip("vina", reason="vina is not installed: the extra [docking]")
pytest.importorskip("meeko", reason="meeko is not installed: the extra [docking]")

MOLS = [Chem.MolFromSmiles(smiles) for smiles in ("Cc1cnc[nH]1", "C[C@H](N)CO", "CC(C)=O")]


def docked(mols, file, **options):
    """What `score` says of molecules in the receptor of a file: values (n,), reasons."""
    name = f'docking("{file}")'
    found = score(mols, [name], **{"timeout": None} | options)
    return found[name], [row.get(name, "") for row in found.errors]


def vina_itself(file, mol):
    """Scores (poses,) by Vina's own Python interface, and its poses as text."""
    from vina import Vina

    receptor = read_receptor(file)
    pdbqt = file.parent / "alone.pdbqt"
    pdbqt.write_text(receptor.pdbqt)
    vina = Vina(cpu=1, seed=receptor.seed, verbosity=0)
    vina.set_receptor(str(pdbqt))
    vina.set_ligand_from_string(pdbqt_of(with_conformer(ligand_of(normalised(mol)))))
    vina.compute_vina_maps(list(receptor.center), list(receptor.size))
    vina.dock(
        exhaustiveness=receptor.exhaustiveness, n_poses=receptor.n_poses,
        max_evals=receptor.max_evals or 0,
    )  # fmt: skip
    return vina.energies(n_poses=receptor.n_poses, energy_range=5)[:, 0], vina.poses(
        n_poses=receptor.n_poses, energy_range=5
    )


@pytest.fixture(scope="module")
def small(prepared, changed, tmp_path_factory):
    """A tiny box, and what `score` says of three molecules in it, in this process."""
    file = changed(prepared, tmp_path_factory.mktemp("tiny") / "tiny.yaml", size=[9, 9, 9])
    return file, docked(MOLS, file)[0]


def test_scores_are_those_of_vina_itself(small):
    file, values = small
    for mol, value in zip(MOLS, values, strict=True):
        assert value == pytest.approx(vina_itself(file, mol)[0][0], abs=0.002)


@pytest.mark.slow
def test_a_search_may_be_cut_short(small, prepared, changed, tmp_path):
    """Less is searched in less time, and what is found is what Vina finds with that limit."""
    mol = Chem.MolFromSmiles("CC(C)Cc1ccc(cc1)C(C)C(=O)NCCc1ccncc1")
    seconds, best = [], []
    for limit in (5_000, 200_000):
        file = changed(prepared, tmp_path / f"{limit}.yaml", max_evals=limit)
        docked(MOLS[:1], file)  # makes the maps
        began = time.monotonic()
        best.append(docked([mol], file)[0][0])
        seconds.append(time.monotonic() - began)
        assert best[-1] == pytest.approx(vina_itself(file, mol)[0][0], abs=0.002)
    assert seconds[0] < seconds[1]
    assert best[1] <= best[0]


def test_poses_are_the_ligand_where_vina_puts_it(small):
    file, _ = small
    for mol in MOLS[:2]:
        found = dock(read_receptor(file), normalised(mol))
        ligand = with_conformer(ligand_of(normalised(mol)))
        scores, models = vina_itself(file, mol)
        assert found[:, 0] == pytest.approx(scores, abs=0.002)
        for row, model in zip(found, models.split("MODEL")[1:], strict=True):
            places = row[1:].reshape(-1, 3)
            lines = [line for line in model.splitlines() if line.startswith("ATOM")]
            theirs = np.array([[float(line[k : k + 8]) for k in (30, 38, 46)] for line in lines])
            nearest = np.linalg.norm(theirs[:, None] - places[None], axis=2).min(axis=1)
            assert nearest.max() < 1e-6
            assert_same_shape(ligand, with_positions(ligand, places))


def assert_same_shape(ligand, posed):
    """Bonds and angles as they were, hydrogens included, no atoms on one another, same stereo."""
    before, after = Chem.Get3DDistanceMatrix(ligand), Chem.Get3DDistanceMatrix(posed)
    steps = Chem.GetDistanceMatrix(ligand)
    fixed = (steps == 1) | (steps == 2)
    assert np.abs(before - after)[fixed].max() < 0.02
    assert after[steps > 0].min() > 0.8
    Chem.AssignStereochemistryFrom3D(posed)
    assert Chem.MolToSmiles(posed) == Chem.MolToSmiles(ligand)


def test_efficiencies_are_the_score_over_powers_of_the_heavy_atoms(small):
    file, values = small
    names = [f'docking_efficiency("{file}")', f'docking_sile("{file}")']
    found = score(MOLS, names, timeout=None)
    heavy = np.array([6, 5, 4])
    assert found[names[0]] == pytest.approx(values / heavy)
    assert found[names[1]] == pytest.approx(values / heavy**0.3)


@pytest.mark.slow
def test_two_workers_and_their_time_limit_change_nothing(small):
    file, values = small
    # The run's limit is of other programs: a docking has the one of its receptor's file.
    assert docked(MOLS, file, jobs=2, timeout=0.5)[0].tolist() == values.tolist()


@pytest.mark.slow
def test_ray_changes_nothing(small):
    pytest.importorskip("ray", reason="ray is not installed: the extra [cluster]")
    from molflowctl.compute.parallel import open_pool

    file, values = small
    with open_pool(2, "ray") as pool:
        again, _ = docked(MOLS, file, pool=pool, timeout=30.0)
    assert again.tolist() == values.tolist()


def test_what_cannot_be_docked_has_a_reason_and_no_value(small):
    file, _ = small
    smiles = {
        "OB(O)c1ccccc1": "Vina has no parameters for B",
        "C[Se]C": "Vina has no parameters for Se",
        "CCO.CCN": "several fragments",
        "CC#CC#CC#CC#CC#CC#CC": "does not fit the box of 9 x 9 x 9 angstrom",
        "[H][H]": "no heavy atoms",
    }
    values, reasons = docked([Chem.MolFromSmiles(s) for s in smiles], file)
    assert np.isnan(values).all()
    for told, reason in zip(reasons, smiles.values(), strict=True):
        assert reason in told


def test_silicon_is_known(small):
    file, _ = small
    assert np.isfinite(docked([Chem.MolFromSmiles("C[Si](C)(C)O")], file)[0]).all()


def test_a_score_depends_on_the_molecule_and_not_on_its_record(small):
    file, values = small
    mol = Chem.AddHs(Chem.MolFromSmiles("OC[C@@H](N)C"))
    mol = with_positions(mol, np.random.default_rng(0).normal(size=(mol.GetNumAtoms(), 3)))
    assert docked([mol], file)[0][0] == values[1]


def test_a_ligand_that_takes_too_long_fails_alone(small, changed, tmp_path):
    file = changed(small[0], tmp_path / "hasty.yaml", exhaustiveness=900, time_limit=0.5)
    found = score(MOLS[:1], [f'docking("{file}")', f'docking_efficiency("{file}")'], timeout=None)
    assert np.isnan(list(found.values.values())).all()
    (row,) = found.errors
    assert set(row.values()) == {"TimeoutError: docking timed out after 0.5 s"}


def test_a_crash_of_vina_costs_its_ligand_alone(small, changed, tmp_path):
    file = changed(small[0], tmp_path / "crash.yaml", exhaustiveness=900, seed=3)

    def crash() -> None:
        while True:  # once the first ligand is being docked
            for server in engine._servers.values():
                for worker in server._workers:
                    if worker.ready and worker.batch and server._initargs[0].name == "crash":
                        time.sleep(0.2)
                        os.kill(worker.process.pid, signal.SIGSEGV)
                        return
            time.sleep(0.02)

    killer = threading.Thread(target=crash, daemon=True)
    killer.start()
    mols = [MOLS[0], Chem.MolFromSmiles("OB(O)C")]
    _, reasons = docked(mols, file)
    killer.join(timeout=5)
    assert "docking failed: its process was killed by SIGSEGV" in reasons[0]
    assert "no parameters for B" in reasons[1]


@pytest.mark.slow
def test_values_are_kept_under_all_that_decides_them(small, changed, tmp_path):
    file, values = small
    with Cache(tmp_path / "scores.sqlite") as cache:
        assert docked(MOLS, file, cache=cache)[0].tolist() == values.tolist()
        assert cache.hits == 0
        assert docked(MOLS, file, cache=cache)[0].tolist() == values.tolist()
        assert cache.hits == 3
        mine = changed(file, tmp_path / "mine.yaml")
        docked(MOLS[:1], mine, cache=cache)
        docked(MOLS[:1], changed(file, mine, seed=2), cache=cache)
        assert cache.hits == 3
        docked(MOLS[:1], changed(file, mine, seed=2, time_limit=7), cache=cache)
        assert cache.hits == 4


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_a_killed_run_leaves_no_docking_behind(small, changed, tmp_path):
    psutil = pytest.importorskip("psutil")
    file = changed(small[0], tmp_path / "long.yaml", exhaustiveness=1000, time_limit=200)
    code = (
        "from rdkit import Chem; from molflowctl.properties import score\n"
        f"score([Chem.MolFromSmiles('CCCO')], ['docking(\"{file}\")'], jobs=1, timeout=30)"
    )
    run = subprocess.Popen([sys.executable, "-c", code])
    late, found = time.monotonic() + 100, []
    while time.monotonic() < late and not any(p.cpu_times().user > 3 for p in found[1:]):
        time.sleep(0.2)
        found = psutil.Process(run.pid).children(recursive=True)  # a worker, and Vina's process
    assert len(found) >= 2
    run.kill()
    run.wait()
    _, alive = psutil.wait_procs(found, timeout=20)
    assert alive == []


@pytest.mark.slow
def test_the_ligand_of_a_crystal_is_docked_back_into_its_place(prepared, crystal_ligand):
    crystal = Chem.MolFromMolFile(str(crystal_ligand))
    mol = normalised(crystal)
    found = dock(read_receptor(prepared), mol)
    posed = Chem.RemoveHs(with_positions(ligand_of(mol), found[0, 1:].reshape(-1, 3)))
    assert rdMolAlign.CalcRMS(posed, crystal) < 2.0
    assert found[0, 0] < -5.5


def test_without_vina_the_command_that_installs_it_is_told(small, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "vina" else find(name)
    )
    with pytest.raises(UserError, match=r"needs vina.*pip install 'molflowctl\[docking\]'"):
        docking_property(str(small[0]))


def test_a_wrong_file_is_told_at_its_place_in_a_reward(small, tmp_path):
    with pytest.raises(UserError) as error:
        PropertyReward('sigmoid(docking("none.yaml"), -8, -1)')
    assert "no receptor file none.yaml" in str(error.value)
    assert "docking prepare" in str(error.value)


def test_rewards_hold_dockings(small):
    file, values = small
    reward = PropertyReward(f'product(sigmoid(docking("{file}"), -4, -0.5), step(qed, 0.1))')
    wanted = 1 / (1 + np.exp((values + 4) / 0.5))
    assert reward.value(MOLS, timeout=None) == pytest.approx(wanted)


def test_a_docking_is_a_property_with_a_unit_and_a_direction(small):
    item = get(f'docking("{small[0]}")')
    assert (item.unit, item.higher_is, item.engine) == ("kcal/mol", "worse", "docking")
    assert not item.geometry
