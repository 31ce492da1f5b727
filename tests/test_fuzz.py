"""The fuzz command finds nothing in a hundred inputs, and sees every fault that is planted."""

import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).with_name("fuzz.py")


def fuzz(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(FUZZ), *map(str, arguments)], capture_output=True, text=True
    )


def test_a_hundred_inputs():
    done = fuzz("--n", 100, "--seed", 1, "--minutes", 4)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("100 inputs, 0 faults\n"), done.stdout


def test_planted_faults_are_seen_and_the_rest_goes_on():
    kinds = ["traceback", "crash", "wrong", "hang", "memory"]
    only = [word for kind in kinds for word in ("--only", kind)]
    done = fuzz(*only, "--n", 5, "--limit", 2)
    assert done.returncode == 1, done.stdout + done.stderr
    for kind in kinds:
        (line,) = (line for line in done.stdout.splitlines() if line.startswith(f"FAULT {kind} 0"))
        assert line.startswith(f"FAULT {kind} 0: {kind}: ")
    assert done.stdout.endswith("5 inputs, 5 faults\n")


def test_inputs_depend_on_the_seed_and_the_number_alone(tmp_path):
    kinds = ["--only", "yaml", "--only", "reward"]
    fuzz(*kinds, "--n", 12, "--seed", 5, "--keep", tmp_path / "all")
    fuzz("--only", "yaml", "--n", 1, "--first", 3, "--seed", 5, "--keep", tmp_path / "one")
    kept = (tmp_path / "one" / "yaml-3").read_bytes()
    assert kept == (tmp_path / "all" / "yaml-3").read_bytes()
    assert len({file.read_bytes() for file in (tmp_path / "all").iterdir()}) > 6


def test_an_unknown_kind_is_told():
    done = fuzz("--only", "sdff")
    assert "there is no kind 'sdff'" in done.stderr
    with pytest.raises(subprocess.CalledProcessError):
        done.check_returncode()
