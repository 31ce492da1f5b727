"""The demo writes every file that it names, and what it writes can be read."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest

from molflowctl import properties
from molflowctl.errors import UserError
from molflowctl.io.library import read_molecules
from molflowctl.tasks.evaluation import demo as task

N = 4


@pytest.fixture(scope="module", params=task.PAIRS)
def run(request, tiny_flow, tmp_path_factory):
    """The folder of a demo of two flows, its files, what it said, and the property."""
    folder, said = tmp_path_factory.mktemp("demo"), []
    other = shutil.copytree(tiny_flow, folder / "other")
    pair = dataclasses.replace(task.PAIRS[request.param], base=str(tiny_flow), steered=str(other))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(task.PAIRS, request.param, pair)
        files = task.demo(folder / "out", request.param, n=N, seed=1, say=said.append)
    return folder / "out", files, said, pair.column


def test_every_file_is_written(run):
    out, files, said, _ = run
    assert set(files) == {"base", "steered", "grid", "figure", "page"}
    assert {path.name for path in out.iterdir()} == {
        *(path.name for path in files.values()),
        "demo.run.json",
    }
    for name in ("grid", "figure"):
        assert files[name].read_bytes()[1:4] == b"PNG"
    for path in files.values():
        assert any(str(path) in line for line in said)


def test_libraries_are_complete_and_scored_as_they_are(run):
    out, files, said, column = run
    record = json.loads((out / "demo.run.json").read_text())
    for label in ("base", "steered"):
        records = list(read_molecules(files[label]))
        assert len(records) == N
        mols = [row.mol for row in records]
        values = [float(row.tags[column]) for row in records]
        again = properties.score(mols, [column])[column]  # four digits in an SDF
        np.testing.assert_allclose(values, again, rtol=1e-2, atol=1e-2)
        assert record[column][label] == pytest.approx(np.mean(values), abs=1e-3)
        attempts = int(mols[-1].GetProp("_Name").removeprefix("mfc-")) + 1
        assert any(label in line and f"of {attempts}," in line for line in said)


def test_page_works_offline(run):
    page = run[1]["page"].read_text()
    assert "mfc-" in page
    assert "<script" in page
    assert not re.search(r"<(script|link|img|iframe)[^>]*(src|href)\s*=[\s\"']*(https?:|//)", page)


def test_a_demo_of_nothing_is_refused(tmp_path):
    with pytest.raises(UserError, match="0 molecules"):
        task.demo(tmp_path, n=0)


def test_a_demo_of_a_flow_without_a_steered_one_is_refused(tmp_path):
    with pytest.raises(UserError, match="of qm9 or druglike, not of 'qm9-polar'"):
        task.demo(tmp_path / "out", "qm9-polar")
    assert not (tmp_path / "out").exists()


def test_its_flows_ship():
    from molflowctl.flows.flow import flow_names

    for pair in task.PAIRS.values():
        assert {pair.base, pair.steered} <= set(flow_names())
