"""The Python of docs/python.md runs as it stands, one block after another in one folder."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "python.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.S)
LONG = re.findall(r"```python no-run\n(.*?)```", PAGE.read_text(), flags=re.S)


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
@pytest.mark.filterwarnings("ignore::molflowctl.errors.FewerResults")
def test_it_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, str(PAGE), "exec"), {"__name__": "a notebook"})


def test_what_is_too_long_to_run_is_python_and_there():
    assert len(BLOCKS) >= 6
    for block in BLOCKS + LONG:
        compile(block, str(PAGE), "exec")
        for names in re.findall(r"^from molflowctl import (.*)$", block, flags=re.M):
            exec(f"from molflowctl import {names}", {})
