"""A library and the record beside it belong together, or it is noticed and said."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
from typer.testing import CliRunner

import molflowctl
from molflowctl.cli import app
from molflowctl.io.record import LIBRARY, commit, record_of, versions
from molflowctl.tasks.settings import config_of

# Ends its process between the two names: after the first rename that gives `out` its name.
KILLED = """
import os, signal, sys
from pathlib import Path
replace, out = os.replace, sys.argv[-1]
def replace_and_die(source, target, **options):
    replace(source, target, **options)
    if str(target) == out:
        os.kill(os.getpid(), signal.SIGKILL)
os.replace = replace_and_die
import molflowctl
from molflowctl.cli import app
app(sys.argv[1:])
"""


def line(source, prop, out):
    cache = str(source.with_name("cache.sqlite"))
    return ["score", str(source), "-p", prop, "--cache", cache, "-j", "1", "-q", "-o", str(out)]


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def killed(tmp_path):
    """A library of molar masses whose run was killed before its record had its name."""
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("smiles,name,tpsa\nCCO,a,7\nCCN,b,8\n")
    assert run(*line(source, "tpsa", out)).exit_code == 0
    words = line(source, "mw", out)
    words[-2:-2] = ["--overwrite"]
    done = subprocess.run([sys.executable, "-c", KILLED, *words], env={**os.environ}, check=False)
    assert done.returncode == -signal.SIGKILL
    assert "mw" in out.read_text()  # the new library beside the old record
    assert json.loads(Path(f"{out}.run.json").read_text())["config"]["properties"] == ["tpsa"]
    return out


def test_a_kill_between_the_two_names_is_seen_through(killed, tmp_path):
    record, note = record_of(killed)
    assert record["config"]["properties"] == ["mw"]
    assert note == ""
    # The old record would say that `tpsa` is not the user's, and `mw` is.
    again = tmp_path / "again.csv"
    assert run(*line(killed, "mw,tpsa", again)).exit_code == 0
    frame = pandas.read_csv(again)
    assert list(frame["tpsa"]) == [7, 8]
    assert {"mw", "tpsa_computed"} <= set(frame)
    assert "mw_computed" not in frame


def test_the_next_run_on_that_output_mends_the_pair(killed, tmp_path):
    assert run(*line(tmp_path / "in.csv", "mw", killed), "--resume").exit_code == 0
    record = json.loads(Path(f"{killed}.run.json").read_text())
    assert record["config"]["properties"] == ["mw"]
    assert not list(tmp_path.glob("*.partial*"))


def test_a_library_that_was_changed_is_said(tmp_path):
    source, out = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("smiles,name\nCCO,a\nCCN,b\n")
    run(*line(source, "mw", out))
    record, note = record_of(out)
    assert (LIBRARY in record, note) == (True, "")
    out.write_text(out.read_text() + "c,CCC,1.0\n")
    assert record_of(out)[0] is None
    result = run("rank", out, "--by", "mw", "-o", tmp_path / "best.csv")
    assert result.exit_code == 0
    assert "is not the library that" in " ".join(result.output.split())
    result = run(*line(source, "mw", out), "--resume")
    assert result.exit_code == 1
    assert "is not the library that" in " ".join(result.output.split())


def test_a_record_that_does_not_say_of_what_it_is_counts(tmp_path):
    (tmp_path / "a.csv").write_text("smiles\nC\n")
    assert record_of(tmp_path / "a.csv") == (None, "")
    (tmp_path / "a.csv.run.json").write_text('{"command": "score"}')
    assert record_of(tmp_path / "a.csv") == ({"command": "score"}, "")


def test_a_record_names_the_commit_that_made_it():
    root = Path(molflowctl.__file__).resolve().parents[1]
    said = commit()
    if (root / ".git").exists():
        head = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        assert said in (head, f"{head} with changes")
    else:
        assert said == f"installed from wheel, version {molflowctl.__version__}"
    assert versions()["commit"] == said


def test_what_is_installed_says_so(tmp_path):
    """A package inside a user's own repository is not of that repository's commit."""
    site = tmp_path / "venv" / "lib" / "site-packages"
    site.mkdir(parents=True)
    (site / "molflowctl").symlink_to(Path(molflowctl.__file__).parent)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    text = (
        "import molflowctl; molflowctl.__file__ = __import__('sys').argv[1]; "
        "from molflowctl.io.record import commit; print(commit())"
    )
    copied = site / "copied" / "__init__.py"
    copied.parent.mkdir()
    copied.touch()
    done = subprocess.run(
        [sys.executable, "-c", text, str(copied)], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(site)},
    )  # fmt: skip
    assert done.stdout.strip() == f"installed from wheel, version {molflowctl.__version__}"


def test_records_have_settings_that_make_the_result_again(tmp_path):
    source = tmp_path / "a.smi"
    source.write_text("CCO one\nCCN two\n")
    assert run(*line(source, "qed", tmp_path / "scored.csv")).exit_code == 0
    ranked = run("rank", tmp_path / "scored.csv", "--by", "qed", "-o", tmp_path / "best.csv")
    assert ranked.exit_code == 0, ranked.output
    for name in ("scored.csv", "best.csv"):
        record = json.loads((tmp_path / f"{name}.run.json").read_text())
        again = config_of(record["command"]).parse(record["config"])
        assert again.model_dump(mode="json") == record["config"]
        assert record["versions"]["commit"] == commit()
