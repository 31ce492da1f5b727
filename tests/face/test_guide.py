"""The Python of docs/python.md runs as it stands, one block after another in one folder."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "python.md"
TEXT = PAGE.read_text()
TOO_LONG = "<!-- too long to be run by the tests -->\n"
LONG = re.findall(TOO_LONG + r"```python\n(.*?)```", TEXT, flags=re.S)
BLOCKS = [b for b in re.findall(r"```python\n(.*?)```", TEXT, flags=re.S) if b not in LONG]


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
@pytest.mark.filterwarnings("ignore::molflowctl.errors.FewerResults")
def test_it_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, str(PAGE), "exec"), {"__name__": "a notebook"})


def test_what_is_too_long_to_run_is_python_and_there():
    assert len(BLOCKS) >= 6
    assert LONG
    for block in BLOCKS + LONG:
        compile(block, str(PAGE), "exec")
        for names in re.findall(r"^from molflowctl import (.*)$", block, flags=re.M):
            exec(f"from molflowctl import {names}", {})
