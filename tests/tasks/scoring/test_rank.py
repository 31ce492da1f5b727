import csv
import gzip

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem
from typer.testing import CliRunner

from molflowctl.cli import app
from molflowctl.errors import UserError
from molflowctl.io.library import read_molecules, sdf_record
from molflowctl.properties.rewards import parse_reward
from molflowctl.tasks.scoring.rank import rank_library
from molflowctl.tasks.scoring.settings import RankConfig

SMILES = ["CCO", "CCN", "CCO", "CCCC", "c1ccccc1", "CC(=O)O", "CCF"]
QED = [0.3, 0.5, 0.4, 0.5, 0.1, 0.9, None]
SA = [2.0, 5.0, 2.0, 1.0, 1.5, 4.5, 1.0]


def test_a_column_lies_where_the_property_of_its_name_does(library, tmp_path):
    """QED goes into a product as it is; a column of other values, though of its name, does not."""
    by = "product(qed, sigmoid(-sa_score, -3, 1))"
    found, _ = run(library, by=by)
    again, _ = run(library, by=by.replace("qed", "ramp(qed, 0, 1)"), overwrite=True)
    assert [place.value for place in found.places] == [place.value for place in again.places]
    path = tmp_path / "percent.csv"
    path.write_text("smiles,name,qed,sa_score\nCCO,a,40,2\nCCN,b,50,3\n")
    with pytest.raises(UserError, match=r"'qed' has values that are not between 0 and 1"):
        run(path, by=by)
    with pytest.raises(UserError, match="sa_score need not lie between 0 and 1"):
        run(library, by="product(qed, sa_score)", overwrite=True)


@pytest.fixture
def library(tmp_path):
    path = tmp_path / "scored.sdf.gz"
    with gzip.open(path, "wt") as file:
        for n, (smiles, qed, sa) in enumerate(zip(SMILES, QED, SA, strict=True)):
            mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
            AllChem.EmbedMolecule(mol, randomSeed=n + 1)
            tags = {"qed": qed, "sa_score": sa, "vendor": f"v{n}", "rank": 77}
            file.write(sdf_record(mol, f"m{n}", tags))
    return path


def run(library, **settings):
    out = library.parent / ("best.csv" if library.suffix == ".csv" else "best.sdf")
    found = rank_library(RankConfig(library=str(library), out=str(out), **settings))
    return found, list(read_molecules(out))


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"by": "qed"}, ["m5", "m1", "m3", "m2", "m4"]),
        ({"by": "qed", "n": 2}, ["m5", "m1"]),
        ({"by": "qed", "conformers": True}, ["m5", "m1", "m3", "m2", "m0", "m4"]),
        ({"by": "qed", "minimise": True}, ["m4", "m0", "m1", "m3", "m5"]),
        ({"by": "-qed"}, ["m4", "m0", "m1", "m3", "m5"]),
        ({"by": "sa_score", "minimise": True, "n": 3}, ["m3", "m6", "m4"]),
    ],
)
def test_the_best_come_first_each_molecule_once_and_ties_stay_in_order(library, settings, names):
    _, records = run(library, **settings)
    assert [record.name for record in records] == names
    places = [int(record.tags["rank_computed"]) for record in records]
    assert places == list(range(1, len(names) + 1))
    assert {record.tags["rank"] for record in records} == {"77"}  # the input's own


ONE_OR_MORE = {  # records, and how many molecules they are: as they are, stereo, salts, both folded
    "maps and hydrogens": (["CCOC", "[CH3:1][CH2:2][O:3][CH3:4]", "[H]C([H])([H])OCC"], 1, 1, 1, 1),
    "isotopologues": (["CCO", "[2H]OCC", "[13CH3]CO", "OC[13CH3]"], 3, 3, 3, 3),
    "tautomers": (["CC(C)=O", "CC(O)=C", "C=C(C)O"], 2, 2, 2, 2),
    "enantiomers": (["C[C@H](N)O", "C[C@@H](N)O", "CC(N)O", "O[C@@H](C)N"], 3, 1, 3, 1),
    "double bonds": (["F/C=C/F", "F/C=C\\F", "F\\C=C\\F"], 2, 1, 2, 1),
    "salts": (["CCN", "CC[NH3+].[Cl-]", "CCN.Cl", "CCN.O"], 4, 4, 1, 1),
    "acids": (["CC(=O)O", "CC(=O)[O-].[Na+]", "CC(=O)O[Na]", "[O-]C(C)=O"], 4, 4, 1, 1),
    "chiral salts": (["C[C@H](F)N.Cl", "C[C@@H](F)[NH3+].[Br-]", "CC(F)N"], 3, 3, 3, 1),
}


@pytest.mark.parametrize("case", ONE_OR_MORE)
def test_what_is_one_molecule(tmp_path, case):
    smiles, *wanted = ONE_OR_MORE[case]
    path = tmp_path / "scored.csv"
    lines = [f"{s},m{n},{n}" for n, s in enumerate(smiles)]
    path.write_text("\n".join(["smiles,name,qed", *lines]) + "\n")
    options = ([], ["--fold-stereo"], ["--fold-salts"], ["--fold-stereo", "--fold-salts"])
    for extra, count in zip(options, wanted, strict=True):
        out = tmp_path / "best.csv"
        command = ["rank", str(path), "--by", "qed", "-o", str(out), "--overwrite", *extra]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
        with open(out) as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == count, (case, extra)
        assert rows[0]["name"] == f"m{len(smiles) - 1}"  # the best of its records, as it was


def test_a_reward_of_columns_is_the_reward(library):
    by = "product(ramp(qed, 0, 1), sigmoid(-sa_score, -3, 1))"
    found, records = run(library, by=by)
    rows = [n for n, qed in enumerate(QED) if qed is not None and n != 0]  # m2 is the better CCO
    columns = {
        name: np.array([float(of[n]) for n in rows])
        for name, of in (("qed", QED), ("sa_score", SA))
    }
    worth = parse_reward(by).of(columns)
    order = np.argsort(-worth)
    assert [record.name for record in records] == [f"m{rows[n]}" for n in order]
    assert [place.value for place in found.places] == pytest.approx(worth[order])
    assert [float(record.tags[by]) for record in records] == pytest.approx(worth[order])


def test_tags_titles_and_coordinates_stay(library):
    _, records = run(library, by="qed", n=1)
    before = list(read_molecules(library))[5]
    (after,) = records
    assert after.block.split("\n")[1:] == before.block.split("\n")[1:]
    assert (after.tags["vendor"], after.tags["sa_score"]) == ("v5", "4.5")


def test_what_has_no_value_is_counted_and_the_exit_status_says_so(library):
    found, _ = run(library, by="qed")
    assert found.without == {"without qed": 1}
    assert (found.read, found.again) == (7, 1)
    call = ["rank", str(library), "--by", "qed", "-o", str(library.parent / "o.csv")]
    result = CliRunner().invoke(app, call)
    assert result.exit_code == 3
    with open(library.parent / "o.csv", newline="") as file:
        assert [row["vendor"] for row in csv.DictReader(file)] == ["v5", "v1", "v3", "v2", "v4"]
    call[3] = "sa_score"
    assert CliRunner().invoke(app, [*call, "--overwrite"]).exit_code == 0


@pytest.mark.parametrize(
    ("by", "words"),
    [
        ("qeed", ["qeed", "no column", "vendor", "did you mean"]),
        ("logp", ["nothing to rank", "without logp", "score -p"]),
        ("vendor", ["nothing to rank"]),
        ("__import__('os')", ["no column"]),
    ],
)
def test_columns_that_are_not_there(library, by, words):
    with pytest.raises(UserError) as error:
        run(library, by=by)
    for word in words:
        assert word in str(error.value)
    assert not (library.parent / "best.sdf").exists()


def test_pictures(library):
    page, grid = library.parent / "best.html", library.parent / "best.png"
    run(library, by="qed", n=3, html=str(page), grid=str(grid))
    assert grid.read_bytes()[:4] == b"\x89PNG"
    text = page.read_text()
    assert all(f"{rank}. m{n}" in text for rank, n in ((1, 5), (2, 1), (3, 3)))


def test_columns_whose_names_an_sdf_cannot_hold(tmp_path):
    """And molecules that it would hold without geometries."""
    table = tmp_path / "vendor.csv"
    table.write_text("smiles,name,ID,ic50 <nM>\nCCO,a,7,30\nCCN,b,8,4\n")
    config = RankConfig(
        library=str(table), by="ic50 <nM>", minimise=True, out=str(tmp_path / "best.csv")
    )
    rank_library(config)
    with open(tmp_path / "best.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["input_ID"] for row in rows] == ["8", "7"]
    assert [row["ic50 <nM>"] for row in rows] == ["4", "30"]
    with pytest.raises(UserError, match="no geometries"):
        rank_library(config.model_copy(update={"out": str(tmp_path / "best.sdf")}))
    assert not (tmp_path / "best.sdf").exists()


def table(tmp_path, text, **settings):
    (tmp_path / "in.csv").write_text(text)
    out = tmp_path / "best.csv"
    rank_library(RankConfig(library=str(tmp_path / "in.csv"), out=str(out), **settings))
    with out.open() as file:
        return [row["name"] for row in csv.DictReader(file)]


@pytest.mark.parametrize(
    ("by", "names"),
    [
        ("docking", ["c", "b"]),  # which the first record lacks
        ("-docking", ["b", "c"]),
        ("ramp(docking, 0, 10)", ["c", "b"]),
        ("gap", ["a", "b", "c"]),  # the column of that name, and not what a property goes by
        ("ramp(gap, 0, 10)", ["a", "b", "c"]),
        ("homo_lumo_gap_eV", ["c", "b", "a"]),
        ("product(ramp(homo_lumo_gap_eV, 0, 10), ramp(docking, 0, 10))", ["c", "b"]),
    ],
)
def test_a_column_comes_before_a_property(tmp_path, by, names):
    rows = "smiles,name,docking,gap,homo_lumo_gap_eV\nCCO,a,,7,1\nCCN,b,3,5,2\nCCC,c,4,3,3\n"
    assert table(tmp_path, rows, by=by) == names


def test_pictures_that_cannot_be_are_told_before_the_library_is_written(library):
    page = library.parent / "page.html"
    page.write_text("mine")
    for picture in ({"html": str(page)}, {"grid": "nowhere/g.png"}, {"grid": "g.pdf"}):
        with pytest.raises(UserError, match=r"--html|--grid"):
            run(library, by="qed", **picture)
        assert not (library.parent / "best.sdf").exists()
    run(library, by="qed", html=str(page), overwrite=True)
    assert page.read_text() != "mine"


def test_what_only_python_takes_for_a_number_is_none(tmp_path):
    """The value is written as text by a spreadsheet or a chemist: `1_000` is no thousand there."""
    (tmp_path / "v.csv").write_text("smiles,v\nCO,1_000\nCN,\u0663\nCCC,1e400\nCCCl,-3\nCC, 0.5 \n")
    found, _ = run(tmp_path / "v.csv", by="v")
    assert [place.value for place in found.places] == [0.5, -3.0]
    assert found.without.total() == 3
