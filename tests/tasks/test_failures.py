"""What failed is named with its place; a user's own columns stay beside ours."""

import csv
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from molflowctl.cli import app
from molflowctl.errors import UserError
from molflowctl.io.record import names_beside
from molflowctl.tasks.generate.flows import MOST_ATOMS, parse_atoms

CASES = Path(__file__).parents[1] / "io" / "cases"


def score(source, out, *more):
    call = ["score", str(source), "-p", "qed,logp", "--no-cache", "-o", str(out), "-j", "1"]
    return CliRunner().invoke(app, [*call, "--backend", "serial", *more])


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_every_failed_record_has_its_place_name_and_reason(tmp_path):
    source, out = tmp_path / "in.smi", tmp_path / "out.csv"
    source.write_text("CCO a\n[CH200] b\n\nC1CC\n*C =d\n" + "xx\n" * 20)
    result = score(source, out)
    assert result.exit_code == 3
    found = rows(f"{out}.failures.csv")
    places = [(row["line"], row["record"], row["name"]) for row in found[:3]]
    assert places == [("2", "2", "b"), ("4", "3", "in.smi:4"), ("5", "4", "'=d")]
    assert len(found) == 23
    assert all(row["reason"] and row["file"] == str(source) for row in found)
    assert "in.smi:2 (b): " in result.output
    assert result.output.count("in.smi:") == 10
    assert "23 failures" in result.output
    source.write_text("CCO a\n")
    assert score(source, out, "--overwrite").exit_code == 0
    assert not Path(f"{out}.failures.csv").exists()


@pytest.mark.parametrize("ending", ["csv", "sdf"])
def test_a_record_without_geometry_fails_once_however_many_properties_need_one(tmp_path, ending):
    source, out = tmp_path / "in.smi", tmp_path / f"out.{ending}"
    source.write_text("C[Pd]C metal\nCC[NH3+].[Cl-] salt\nF[U](F)(F)F uranium\nCO good\n")
    names = "mmff-energy,mmff-strain,logp" if ending == "csv" else "logp"
    result = score(source, out, "-p", names)
    assert result.exit_code == 3
    found = rows(f"{out}.failures.csv")
    assert [row["name"] for row in found] == ["metal", "salt", "uranium"]
    counts = json.loads(Path(f"{out}.run.json").read_text())["counts"]
    assert sum(counts["without_geometry"].values()) == 3
    assert counts["failed"] == {}
    assert "no coordinates" not in result.output


@pytest.mark.parametrize("kind", ["smi", "sdf", "csv"])
@pytest.mark.parametrize("command", ["score", "rank", "conformers"])
def test_no_molecules(tmp_path, kind, command):
    source = tmp_path / f"none.{kind}"
    source.write_text("smiles,name\n" if kind == "csv" else "\n")
    out = tmp_path / "out.sdf"
    more = {"score": ["-p", "qed", "--no-cache", "-j", "1"], "rank": ["--by", "qed"]}
    more["conformers"] = ["--model", "etkdg", "-j", "1"]
    result = CliRunner().invoke(app, [command, str(source), "-o", str(out), *more[command]])
    assert result.exit_code == 1
    assert "no molecules in" in result.output
    assert not out.exists()


def test_a_users_own_columns_stay(tmp_path):
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    result = score(CASES / "user_tags.sdf", first)
    assert "qed_computed beside its qed" in result.output
    (row,) = rows(first)
    assert (row["qed"], row["logp"], row["IC50 (nM)"]) == ("0.99", "3.14", ">10")
    assert float(row["qed_computed"]) == pytest.approx(0.45135, abs=1e-4)
    assert float(row["logp_computed"]) == pytest.approx(-0.5818, abs=1e-4)
    score(first, second)  # ours of before are replaced, the user's are not
    (again,) = rows(second)
    assert {k for k in again if "qed" in k} == {"qed", "qed_computed"}
    assert json.loads(Path(f"{second}.run.json").read_text())["own_columns"]


@pytest.mark.parametrize(
    ("tags", "ours", "name"),
    [
        ([], set(), "qed"),
        (["qed"], set(), "qed_computed"),
        (["qed"], {"qed"}, "qed"),
        (["qed", "qed_computed"], set(), "qed_computed_2"),
        (["qed", "qed_computed"], {"qed_computed"}, "qed_computed"),
    ],
)
def test_names_beside(tags, ours, name):
    assert names_beside(["qed"], tags, ours) == {"qed": name}


@pytest.mark.parametrize("text", ["1-999999999999", f"{MOST_ATOMS + 1}", "9" * 5000])
def test_sizes_have_a_bound(text):
    with pytest.raises(UserError, match="--atoms"):
        parse_atoms(text)
