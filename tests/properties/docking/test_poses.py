"""`score --poses`: one docking gives scores and poses; a killed run docks nothing again."""

import json
import signal
import sqlite3
import subprocess
import sys
import time

import numpy as np
import pytest
from rdkit import Chem

from molflowctl.chem.identity import identity
from molflowctl.errors import UserError
from molflowctl.io.library import read_molecules
from molflowctl.properties import score
from molflowctl.tasks.scoring.score import score_library
from molflowctl.tasks.scoring.settings import ScoreConfig

pytest.importorskip("vina", reason="vina is not installed: the extra [docking]")
pytest.importorskip("meeko", reason="meeko is not installed: the extra [docking]")

SMILES = ["Cc1cnc[nH]1 imidazole", "OB(O)C boronic", "C[C@H](N)CO alaninol"]


@pytest.fixture(scope="module")
def tiny(prepared, changed, tmp_path_factory):
    return changed(prepared, tmp_path_factory.mktemp("tiny") / "tiny.yaml", size=[9, 9, 9])


def settings(folder, tiny, **others):
    (folder / "in.smi").write_text("\n".join(SMILES) + "\n")
    told = {
        "library": str(folder / "in.smi"), "out": str(folder / "out.csv"), "jobs": 1,
        "properties": ("qed", f'docking("{tiny}")', f'docking_efficiency("{tiny}")'),
        "cache": str(folder / "scores.sqlite"), "poses": str(folder / "poses.sdf"),
    }  # fmt: skip
    return ScoreConfig.parse(told | others)


def test_poses_are_written_with_the_scores_of_their_docking(tiny, tmp_path):
    config = settings(tmp_path, tiny)
    state = score_library(config)
    mols = [Chem.MolFromSmiles(line.split()[0]) for line in SMILES]
    alone = score(mols, list(config.properties), timeout=None)
    for name in config.properties:
        assert np.array(state.columns[name].values) == pytest.approx(alone[name], nan_ok=True)
    assert list(state.columns) == list(config.properties)
    assert "Vina has no parameters for B" in str(state.failed[config.properties[1]])
    records = list(read_molecules(config.poses))
    assert next(record.name for record in records) == "imidazole"
    assert {record.name for record in records} == {"imidazole", "alaninol"}
    for title, smiles in (("imidazole", "Cc1cnc[nH]1"), ("alaninol", "C[C@H](N)CO")):
        mine = [record for record in records if record.name == title]
        scores = [float(record.tags["docking_kcal_mol"]) for record in mine]
        assert scores == sorted(scores)
        assert [record.tags["pose"] for record in mine] == [str(k + 1) for k in range(len(mine))]
        assert {identity(r.mol) for r in mine} == {identity(Chem.MolFromSmiles(smiles))}
        assert {record.tags["receptor"] for record in mine} == {"tiny"}
    assert float(records[0].tags["docking_kcal_mol"]) == pytest.approx(
        alone[config.properties[1]][0]
    )
    center = np.array([-0.522, -6.93, -22.808])
    for record in records:
        assert np.abs(record.mol.GetConformer().GetPositions() - center).max() < 7.0


def test_poses_come_from_the_cache_the_second_time(tiny, tmp_path):
    first = settings(tmp_path, tiny)
    score_library(first)
    before = (tmp_path / "poses.sdf").read_bytes()
    again = settings(tmp_path, tiny, overwrite=True)
    began = time.monotonic()
    state = score_library(again)
    assert state.cached == 3 + 3  # poses or a reason of each, and QED
    assert time.monotonic() - began < 60
    assert (tmp_path / "poses.sdf").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"properties": ("qed",)}, "--poses are of a docking"),
        ({"poses": "poses.csv"}, "poses go to a .sdf"),
        ({"out": "a.sdf", "poses": "a.sdf"}, "the same file"),
    ],
)
def test_poses_that_cannot_be_are_refused(tiny, tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        score_library(settings(tmp_path, tiny, **changes))


@pytest.mark.slow
def test_what_was_docked_before_a_kill_is_not_docked_again(tiny, changed, tmp_path):
    file = changed(tiny, tmp_path / "slow.yaml", exhaustiveness=6)
    smiles = ["CCO", "CCN", "CC=O", "CCS", "CCC", "CCCl", "CCF", "CC#N"]
    (tmp_path / "in.smi").write_text("\n".join(smiles) + "\n")
    cache = tmp_path / "scores.sqlite"
    command = [
        sys.executable, "-m", "molflowctl", "score", tmp_path / "in.smi",
        "-p", f'docking("{file}")', "-j", "1", "--cache", cache, "-o", tmp_path / "out.csv",
    ]  # fmt: skip

    def kept() -> int:
        try:
            with sqlite3.connect(f"file:{cache}?mode=ro", uri=True) as found:
                return found.execute("SELECT count(*) FROM results").fetchone()[0]
        except sqlite3.OperationalError:
            return 0

    run = subprocess.Popen(list(map(str, command)), stderr=subprocess.DEVNULL)
    late = time.monotonic() + 300
    while kept() < 3 and run.poll() is None and time.monotonic() < late:
        time.sleep(0.05)
    run.send_signal(signal.SIGKILL)
    run.wait()
    done = kept()
    assert 3 <= done < len(smiles)
    subprocess.run([*map(str, command), "--resume"], check=True, stderr=subprocess.DEVNULL)
    record = json.loads((tmp_path / "out.csv.run.json").read_text())
    assert record["counts"]["cached"] == done
    assert kept() == len(smiles)
    whole = score([Chem.MolFromSmiles(s) for s in smiles], [f'docking("{file}")'], timeout=None)
    rows = [float(r.tags[f'docking("{file}")']) for r in read_molecules(tmp_path / "out.csv")]
    assert rows == pytest.approx(whole[f'docking("{file}")'])
