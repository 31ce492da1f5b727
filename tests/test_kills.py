"""Two runs never write one output, whatever the command; a few kills of `tests/kills.py`."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from molflowctl.errors import UserError
from molflowctl.io.locks import OutputLock
from molflowctl.tasks.conformers.conformers import generate_conformers
from molflowctl.tasks.conformers.settings import ConformersConfig
from molflowctl.tasks.generate.denovo import generate
from molflowctl.tasks.generate.settings import GenerateConfig
from molflowctl.tasks.preparation.druglike import prepare_druglike
from molflowctl.tasks.preparation.ensembles import prepare_ensembles
from molflowctl.tasks.preparation.join import join
from molflowctl.tasks.preparation.qm9 import prepare_qm9
from molflowctl.tasks.preparation.settings import EnsembleConfig
from molflowctl.tasks.scoring.rank import rank_library
from molflowctl.tasks.scoring.score import score_library
from molflowctl.tasks.scoring.settings import RankConfig, ScoreConfig
from molflowctl.tasks.steering.finetune import finetune
from molflowctl.tasks.steering.merge import merge
from molflowctl.tasks.steering.settings import FinetuneConfig, MergeConfig
from molflowctl.tasks.training.settings import TrainConfig
from molflowctl.tasks.training.train import Trainer

RUNS = {
    "generate": lambda out: generate(GenerateConfig(flow="qm9", out=f"{out}.sdf", resume=True)),
    "conformers": lambda out: generate_conformers(
        ConformersConfig(source="CCO", out=f"{out}.sdf", resume=True)
    ),
    "score": lambda out: score_library(
        ScoreConfig(library="x.smi", out=f"{out}.sdf", properties=("mw",), resume=True)
    ),
    "rank": lambda out: rank_library(RankConfig(library="x.csv", by="a", out=f"{out}.csv")),
    "finetune": lambda out: finetune(
        FinetuneConfig(flow="qm9", out=out, reward="qed"), resume=True
    ),
    "merge": lambda out: merge(MergeConfig(circuit="qm9 & qm9_dipole", out=out), overwrite=True),
    "train": lambda out: Trainer(TrainConfig(train_steps=1), out, resume=True, device="cpu"),
    "prepare qm9": lambda out: prepare_qm9(out, overwrite=True),
    "prepare druglike": lambda out: prepare_druglike(out, resume=True),
    "prepare-conformers": lambda out: prepare_ensembles(
        EnsembleConfig(source="x.smi", out=str(out), resume=True)
    ),
    "join": lambda out: join([Path("a"), Path("b")], out),
}


ENDINGS = {"generate": ".sdf", "conformers": ".sdf", "score": ".sdf", "rank": ".csv"}


@pytest.mark.parametrize("command", RUNS)
def test_a_second_run_is_refused_before_it_does_anything(command, tmp_path):
    """Another thread stands for the other run: its lock is not this one's either."""
    held, done = threading.Event(), threading.Event()
    out = tmp_path / "out"
    name = f"{out}{ENDINGS.get(command, '')}"

    def other():
        with OutputLock(name):
            held.set()
            done.wait(60)

    thread = threading.Thread(target=other)
    thread.start()
    held.wait(60)
    before = {path.name for path in tmp_path.iterdir()}
    try:
        with pytest.raises(UserError, match=r"being written by another run \(process \d+, started"):
            RUNS[command](out)
        assert {path.name for path in tmp_path.iterdir()} == before
    finally:
        done.set()
        thread.join()


@pytest.mark.slow
def test_a_few_kills_and_pairs():
    script = Path(__file__).parent / "kills.py"
    done = subprocess.run(
        [sys.executable, str(script), "--n", "8", "--pairs", "4", "--seed", "3"],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 kills, 4 pairs, 0 failed" in done.stdout
