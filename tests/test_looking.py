"""Pictures exist, hold what they should, and the page needs no network."""

import json
import math
import re

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from molflowctl import looking
from molflowctl.errors import UserError


@pytest.fixture(scope="module")
def mols():
    made = [Chem.AddHs(Chem.MolFromSmiles(smiles)) for smiles in ("CCO", "c1ccccc1", "C[C@H](N)O")]
    for mol in made:
        rdDistGeom.EmbedMolecule(mol, randomSeed=1)
    return made


def png_size(path):
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG")
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def test_grid_png_has_a_cell_for_each_molecule(tmp_path, mols):
    path = looking.draw_grid(mols, tmp_path / "g.png", ["a", "b", "c"], columns=2, cell=(200, 150))
    assert png_size(path) == (400, 300)
    path = looking.draw_grid(mols, tmp_path / "g.png", n=1, cell=(200, 150))
    assert png_size(path) == (200, 150)


def test_grid_svg_leaves_the_molecules_as_they_are(tmp_path, mols):
    before = [mol.GetConformer().GetPositions() for mol in mols]
    path = looking.draw_grid(mols, tmp_path / "g.svg", ["a", "b", "c"])
    assert "<svg" in path.read_text()
    for mol, positions in zip(mols, before, strict=True):
        np.testing.assert_array_equal(mol.GetConformer().GetPositions(), positions)


def test_pictures_refuse_what_they_cannot_do(tmp_path, mols):
    with pytest.raises(UserError, match="no molecules"):
        looking.draw_grid([], tmp_path / "g.png")
    for name in ("g.txt", "missing/g.png"):
        with pytest.raises(UserError, match=name):
            looking.draw_grid(mols, tmp_path / name)
        with pytest.raises(UserError, match=name):
            looking.before_after_figure({"a": [1.0, 2.0]}, tmp_path / name, "x")
    with pytest.raises(UserError, match="after"):
        looking.before_after_figure({"before": [1.0], "after": [math.nan]}, tmp_path / "f.png", "x")


def test_figure_shows_means_intervals_and_counts_of_the_finite_values(tmp_path):
    sample = np.array([1.0, 2.0, 3.0, 4.0, math.nan])  # mean 2.5, 1.96 * 1.291 / 2 = 1.265
    path = looking.before_after_figure(
        {"before": sample, "after": sample + 1}, tmp_path / "f.svg", "dipole (D)", target=3.3
    )
    assert path.stat().st_size > 5000
    assert looking._with_interval(2.5, 1.2652) == "2.5 \u00b1 1.3"
    assert looking._with_interval(0.47031, 0.0044) == "0.4703 \u00b1 0.0044"
    assert png_size(looking.before_after_figure({"a": sample}, tmp_path / "f.png", "x")) == (
        1050,
        660,
    )


@pytest.mark.parametrize("values", [[5.0], [2.0, 2.0, 2.0], [0.5, 0.5], [0.0, 1.0, 1.0, 4.0]])
def test_figure_copes_with_few_and_equal_values(tmp_path, values):
    assert looking.before_after_figure({"a": values}, tmp_path / "f.png", "x").exists()


def page(tmp_path, mols):
    properties = [
        {"qed": 0.5, "note": "</script><b>bold</b>"},
        {"qed": math.nan, "n": np.int64(3)},
        {"qed": None, "smiles": "mine"},
    ]
    path = looking.write_html(
        mols, tmp_path / "m.html", ["one", "{{data}}", "three"], properties, title="A < B"
    )
    return path.read_text(encoding="utf-8")


def test_page_holds_the_molecules(tmp_path, mols):
    text = page(tmp_path, mols)
    assert text.count("<h1>A &lt; B</h1>") == 1
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    one, two, three = json.loads(data[1])
    assert (one["name"], two["name"]) == ("one", "{{data}}")
    assert one["values"] == {"qed": 0.5, "note": "</script><b>bold</b>", "SMILES": "CCO"}
    assert two["values"] == {"n": 3.0, "SMILES": "c1ccccc1"}
    assert three["values"] == {"smiles": "mine"}
    for entry, mol in zip((one, two, three), mols, strict=True):
        back = Chem.MolFromMolBlock(entry["block"], removeHs=False)
        assert back.GetNumAtoms() == mol.GetNumAtoms()
        assert entry["picture"].startswith("<svg")


def test_page_needs_no_network(tmp_path, mols):
    text = page(tmp_path, mols)
    assert "createViewer" in text
    assert "Copyright (c) 2014, University of Pittsburgh" in text
    assert not re.search(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)\s*=", text)
    assert "default-src 'none'" in text
    assert len(re.findall(r"<script\b", text)) == len(re.findall(r"</script>", text)) == 3


def test_page_copes_with_molecules_without_conformer(tmp_path):
    path = looking.write_html([Chem.MolFromSmiles("CC")], tmp_path / "m.html", ["x"], [{}])
    assert '"block": ""' in path.read_text()
