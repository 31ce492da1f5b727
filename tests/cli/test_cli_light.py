"""`molflowctl --help` answers within a second because it imports none of the heavy packages."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

HEAVY = {
    "e3nn",
    "joblib",
    "lightning_fabric",
    "matplotlib",
    "numpy",
    "openmm",
    "pandas",
    "posebusters",
    "pyarrow",
    "ray",
    "rdkit",
    "scipy",
    "tblite",
    "torch",
    "torch_geometric",
    "xtb",
}


def imported_by(*arguments: str) -> set[str]:
    """Top-level names of everything that `python *arguments` imports."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rsplit("|", 1)[1].strip().split(".")[0] for line in lines}


@pytest.mark.parametrize(
    "arguments",
    [("-c", "import molflowctl"), ("-c", "import molflowctl.cli"), ("-m", "molflowctl", "--help")],
    ids=" ".join,
)
def test_imports_stay_light(arguments):
    names = imported_by(*arguments)
    assert "molflowctl" in names
    assert not names & HEAVY


def test_heavy_imports_would_be_seen():
    assert "numpy" in imported_by("-c", "import numpy.linalg")
