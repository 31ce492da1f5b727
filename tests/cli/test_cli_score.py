"""`molflowctl score` on the command line: exit statuses, streams, messages."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pandas
import pytest
from rdkit import Chem
from typer.testing import CliRunner

from molflowctl.cli import app
from molflowctl.io.library import read_molecules

DONE, FAILED, USAGE, FEWER, INTERRUPTED = 0, 1, 2, 3, 130


@pytest.fixture(autouse=True)
def _quiet_place(monkeypatch, tmp_path):
    """A folder and a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("MOLFLOWCTL_CACHE", str(tmp_path / "cache"))
    Path("in.smi").write_text("CCO ethanol\nc1ccccc1 benzene\nCC(=O)O acid\n")


def call(*arguments, code=DONE):
    result = CliRunner().invoke(app, ["score", *map(str, arguments)])
    text = " ".join(re.sub("[─│╭╮╰╯]", " ", result.stderr).split())
    assert result.exit_code == code, (result.exit_code, result.stderr, result.exception)
    assert "Traceback" not in result.output
    return result, text


def test_library_summary_and_record():
    result, text = call("in.smi", "-p", "qed,mw", "-p", "tpsa", "-o", "out.sdf.gz", "-j", 1)
    assert result.stdout == ""
    for word in ("qed", "mw", "tpsa", "median", "angstrom^2", "g/mol", "3 of 3 molecules written"):
        assert word in text
    records = list(read_molecules("out.sdf.gz"))
    assert [record.name for record in records] == ["ethanol", "benzene", "acid"]
    assert set(records[0].tags) == {"qed", "mw", "tpsa", "geometry_method"}
    record = json.loads(Path("out.sdf.gz.run.json").read_text())
    assert record["command"] == "score"
    assert record["config"]["properties"] == ["qed", "mw", "tpsa"]
    assert record["counts"]["written"] == 3
    assert "tblite" in record["versions"]
    again = call("in.smi", "-p", "qed,mw,tpsa", "-o", "again.sdf", "-j", 1)[1]
    assert "12 results were in the cache" in again  # and three conformers


def test_a_damaged_cache_is_told_and_a_cache_of_before_refused():
    call("in.smi", "-p", "qed,mw", "-o", "one.csv", "-j", 1)
    file = sqlite3.connect("cache/scores-2.sqlite")
    file.execute("UPDATE results SET value = x'6e00' WHERE property = 'qed'")
    file.commit()
    _, text = call("in.smi", "-p", "qed,mw", "-o", "two.csv", "-j", 1)
    assert "3 results were in the cache, 3 damaged ones were computed again" in text
    assert Path("one.csv").read_text() == Path("two.csv").read_text()
    record = json.loads(Path("two.csv.run.json").read_text())
    assert record["counts"]["damaged in the cache"] == 3
    file.execute("PRAGMA user_version = 0")  # the layout of before had no number
    file.close()
    _, text = call("in.smi", "-p", "qed", "-o", "three.csv", "-j", 1, code=FAILED)
    assert "has layout 1, this program writes 2. Delete it" in text
    assert not Path("three.csv").exists()


def test_a_pattern_is_shown_with_its_brackets():
    _, text = call("in.smi", "-p", "mw,smarts:[O,N]", "-o", "out.csv", "-j", 1)
    assert "smarts:[O,N]" in text
    assert pandas.read_csv("out.csv")["smarts:[O,N]"].tolist() == [1, 0, 2]


def test_output_on_standard_output_is_nothing_but_sdf():
    result, _ = call("in.smi", "-p", "mw", "-o", "-", "-j", 1, "--no-cache")
    assert result.stdout.count("$$$$") == 3
    assert Chem.MolFromMolBlock(result.stdout).GetNumAtoms() == 3
    assert not Path("cache").exists()
    assert not Path("-.run.json").exists()


def test_isomers_are_more_records_than_molecules():
    Path("open.smi").write_text("CC(N)C(=O)O alanine\n")
    options = ("--isomers", "enumerate", "--backend", "serial", "--no-cache", "-o", "out.csv")
    _, text = call("open.smi", "-p", "mmff-energy", *options)
    assert "2 records of 1 molecules written" in text


def test_quiet_says_nothing():
    result, text = call("in.smi", "-p", "mw", "-o", "out.csv", "-j", 1, "-q")
    assert result.stdout == text == ""
    assert pandas.read_csv("out.csv")["mw"].tolist() == pytest.approx([46.069, 78.114, 60.052])


def test_fewer_results_than_molecules():
    with Path("in.smi").open("a") as file:
        file.write("nonsense x\n[H][H] hydrogen\n")
    _, text = call("in.smi", "-p", "sa_score", "-o", "out.csv", "-j", 1, code=FEWER)
    assert "1 x left out: not a SMILES: 'nonsense'" in text
    assert "1 x sa_score: no heavy atoms" in text
    assert len(pandas.read_csv("out.csv")) == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("in.smi", "-p", "ged", "-o", "out.sdf"), ["unknown property 'ged'", "qed"]),
        (("no.sdf", "-p", "qed", "-o", "out.sdf"), ["cannot read no.sdf"]),
        (("in.xyz", "-p", "qed", "-o", "out.sdf"), ["cannot read this kind of file"]),
        (("in.smi", "-p", "qed", "-o", "out.txt"), ["cannot write this kind of file"]),
        (("in.smi", "-p", "qed", "-o", "no/out.sdf"), ["cannot write no/out.sdf"]),
        (("in.smi", "-p", "qed", "-o", "o.sdf", "--backend", "dusk"), ["backend", "'ray'"]),
        (("in.smi", "-p", "qed", "-o", "o.sdf", "--address", "a:1"), ["choose the backend ray"]),
        (("in.smi", "-p", "qed", "-o", "o.sdf", "--cache", "in.smi"), ["the score cache in.smi"]),
        (("in.smi", "-p", "qed", "-o", "o.sdf", "--no-cache", "--resume"), ["from the cache"]),
        (
            ("in.smi", "-p", "qed", "-o", "o.sdf", "--backend", "serial", "--timeout", "9"),
            ["serial has no time limit"],
        ),
    ],
)  # fmt: skip
def test_mistakes_are_said_in_a_sentence(arguments, words):
    before = sorted(Path().glob("*"))
    _, text = call(*arguments, "-j", 1, code=FAILED)
    for word in words:
        assert word in text
    left = set(Path().glob("*")) - {*before, Path("cache")}
    assert not left


def test_usage():
    call("in.smi", "-o", "out.sdf", code=USAGE)
    call("in.smi", "-p", "qed", code=USAGE)
    call("in.smi", "-p", "qed", "-o", "o.sdf", "--no-cache", "--cache", "c", code=USAGE)


def test_existing_output():
    call("in.smi", "-p", "mw", "-o", "out.csv", "-j", 1)
    assert "--overwrite" in call("in.smi", "-p", "qed", "-o", "out.csv", code=FAILED)[1]
    assert "mw" in pandas.read_csv("out.csv")
    call("in.smi", "-p", "qed", "-o", "out.csv", "--overwrite", "-j", 1, "--backend", "serial")
    assert "qed" in pandas.read_csv("out.csv")


def test_ctrl_c_leaves_no_part_of_a_table_and_resume_goes_on():
    Path("in.smi").write_text("".join(f"{'C' * (n % 20 + 12)}O{'C' * (n // 20)} m{n}\n"
                                      for n in range(400)))  # fmt: skip
    command = ("score", "in.smi", "-p", "xtb_energy_hartree", "-o", "out.csv", "-j", "1")
    process = subprocess.Popen(
        [sys.executable, "-m", "molflowctl", *command],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stderr=subprocess.PIPE,
        text=True,
    )
    cache, deadline = Path("cache/scores-2.sqlite-wal"), time.monotonic() + 60
    while not (cache.exists() and cache.stat().st_size > 60_000):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == INTERRUPTED, said
    assert "Traceback" not in said
    assert "all that was computed is in the cache, --resume takes it from there" in said
    assert list(Path().glob("*out.csv*")) == []
    lines = Path("in.smi").read_text().splitlines()[:3]
    Path("in.smi").write_text("\n".join(lines))
    text = call(*command[1:], "--resume")[1]
    assert "3 of 3" in text
    assert int(re.search(r"(\d+) results were in the cache", text)[1]) >= 3


def test_reference_charges_and_relative_energies():
    Path("known.smi").write_text("OCC\n")
    options = ("--reference", "known.smi", "--charges", "--relative")
    call("in.smi", "-p", "xtb-energy", *options, "-o", "out.sdf", "-j", 1)
    tags = next(read_molecules("out.sdf")).tags
    names = {"xtb_energy_hartree", "reference_similarity", "reference_novelty",
             "relative_xtb_energy_kcal_mol", "atom.dprop.xtb_charge_e",
             "geometry_method"}  # fmt: skip
    assert set(tags) == names
    assert (tags["reference_similarity"], tags["relative_xtb_energy_kcal_mol"]) == ("1", "0")
    config = json.loads(Path("out.sdf.run.json").read_text())["config"]
    assert (config["reference"], config["charges"], config["relative"]) == ("known.smi", True, True)


def test_a_surrogate_from_training_to_scoring():
    groups = ("C", "O", "N", "F", "CC", "CO", "CN", "OC", "NC", "C#N", "C=O", "C=C", "CCO", "CCN")
    texts = [f"C({a})C{b}" for a in groups for b in groups]
    texts += [f"C1({a})CC1{b}" for a in groups for b in groups]
    Path("many.smi").write_text("\n".join(texts))
    call("many.smi", "-p", "logp", "-o", "scored.csv", "-j", 1)
    runner, arguments = (
        CliRunner(),
        ["surrogate", "scored.csv", "-p", "logp", "-o", "net", "-j", "1"],
    )
    done = runner.invoke(app, [*arguments, "--set", "epochs=15", "--set", "width=32"])
    assert done.exit_code == DONE, done.stderr
    for words in ("test MAE", "R^2", "90% interval", "refused", "-p surrogate:net"):
        assert words in done.stderr
    assert runner.invoke(app, arguments).exit_code == FAILED
    Path("new.smi").write_text("C(C)CCC near\nc1ccc2c(c1)sc1ccccc12 far\n")
    _, text = call("new.smi", "-p", "surrogate:net", "-o", "new.csv", "-j", 1, code=FEWER)
    assert "1 x surrogate_logp: far from the training set" in text
    table = pandas.read_csv("new.csv")
    assert table["surrogate_logp"].isna().tolist() == [False, True]
    _, text = call("new.smi", "-p", "surrogate:none", "-o", "x.csv", code=FAILED)
    assert "no surrogate in none" in text
