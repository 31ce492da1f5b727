"""Pictures exist, hold what they should, and the page needs no network."""

import json
import math
import re
from html.parser import HTMLParser
from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from molflowctl.errors import UserError
from molflowctl.viz import pictures as looking


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


def with_core(pattern, *smiles):
    """Molecules whose first atoms are the core's, and how many these are."""
    found = []
    for text in smiles:
        mol = Chem.MolFromSmiles(text)
        core = mol.GetSubstructMatch(Chem.MolFromSmarts(pattern))
        rest = [atom for atom in range(mol.GetNumAtoms()) if atom not in core]
        found.append(Chem.RenumberAtoms(mol, [*core, *rest]))
    return found, [range(len(core))] * len(found)


@pytest.mark.parametrize(
    ("pattern", "smiles", "aligned"),
    [
        ("c1ccc(cc1)S(N)(=O)=O", ["NS(=O)(=O)c1ccc(cc1)CC", "CC(C)CNc1ccc(S(N)(=O)=O)cc1"], 10),
        ("c1ccc(F)cc1.C1CCNC1", ["Fc1ccc(CCN2CCCC2)cc1", "Fc1ccc(cc1)C(=O)NCC1CCNC1"], 7),
    ],
)
def test_cores_lie_alike_and_are_marked(tmp_path, pattern, smiles, aligned):
    mols, cores = with_core(pattern, *smiles)
    first, second = (
        flat.GetConformer().GetPositions()[:aligned]
        for flat in looking._in_line(mols, [list(core) for core in cores])
    )
    np.testing.assert_allclose(first - first[0], second - second[0], atol=1e-3)
    colour = "#C1E0F4"
    plain = looking.draw_grid(mols, tmp_path / "plain.svg").read_text()
    marked = looking.draw_grid(mols, tmp_path / "marked.svg", cores=cores).read_text()
    assert colour not in plain
    assert marked.count(colour) >= 2 * len(cores[0])  # of each its atoms, and its bonds beside
    page = looking.write_html(mols, tmp_path / "m.html", ["a", "b"], [{}, {}], cores=cores)
    assert colour in page.read_text()


def test_cores_that_differ_stay_as_they_are_drawn():
    mols = [Chem.MolFromSmiles(smiles) for smiles in ("C1CC1CO", "C1CO1", "CCCC")]
    flats = looking._in_line(mols, [[0, 1, 2], [0, 1, 2], []])
    assert [flat.GetNumAtoms() for flat in flats] == [5, 3, 4]


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
    assert looking.with_interval(2.5, 1.2652) == "2.5 \u00b1 1.3"
    assert looking.with_interval(0.47031, 0.0044) == "0.4703 \u00b1 0.0044"
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
        assert Chem.MolToSmiles(rebuilt(entry["structure"])) == Chem.MolToSmiles(mol)
        assert entry["picture"].startswith("<svg")


STEREO = ["C[C@H](N)O", "C[C@@H](N)O", "C/C=C/CC", "C/C=C\\CC", "C[C@@H]1CC[C@H](O)C1", "CC(N)O",
          "C[C@H](F)/C=C/[C@@H](C)Cl", "[2H][C@H](C)O"]  # fmt: skip


@pytest.mark.parametrize("smiles", STEREO)
def test_picture_and_smiles_have_the_stereo_of_the_molecule(tmp_path, smiles):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    drawn = Chem.MolFromMolBlock(Chem.MolToMolBlock(looking._in_line([mol], [()])[0]))
    assert Chem.MolToSmiles(drawn) == Chem.MolToSmiles(Chem.RemoveHs(mol))
    text = looking.write_html([mol], tmp_path / "m.html", ["x"], [{}]).read_text(encoding="utf-8")
    assert f'"SMILES":{json.dumps(Chem.CanonSmiles(smiles))}' in text


def rebuilt(structure):
    """The molecule that a chemiscope structure shows: bonds as given, stereo from its positions."""
    mol = Chem.RWMol()
    for name in structure["names"]:
        mol.AddAtom(Chem.Atom(name))
    for begin, end, order in structure["bonds"]:
        mol.AddBond(begin, end, Chem.BondType.values[order])
    conformer = Chem.Conformer(structure["size"])
    conformer.SetPositions(np.array([structure[axis] for axis in "xyz"]).T)
    mol.AddConformer(conformer)
    Chem.SanitizeMol(mol)
    Chem.AssignStereochemistryFrom3D(mol)
    return mol.GetMol()


def test_structure_is_turned_as_a_rigid_body(mols):
    for mol in mols:
        before = mol.GetConformer().GetPositions()
        shown = looking._structure(mol)
        after = np.array([shown[axis] for axis in "xyz"]).T
        for i in range(len(after)):
            np.testing.assert_allclose(
                np.linalg.norm(after - after[i], axis=1),
                np.linalg.norm(before - before[i], axis=1),
                atol=3e-3,  # angstrom; positions are rounded to 1e-3
            )
        spread = after.std(axis=0)
        assert spread[0] > spread[1] > spread[2]
        np.testing.assert_array_equal(mol.GetConformer().GetPositions(), before)


def test_page_needs_no_network(tmp_path, mols):
    text = page(tmp_path, mols)
    assert "exports.Chemiscope" in text
    assert "Redistribution and use in source and binary forms" in text
    assert not re.search(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)\s*=", text)
    (policy,) = re.findall(r'Content-Security-Policy"\s+content="([^"]*)"', text)
    rules = dict(rule.split(maxsplit=1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert "connect-src" not in rules
    assert not re.search(r"https?:|\*", policy)


def test_page_is_well_formed_whatever_its_texts_hold(tmp_path, mols):
    class Scripts(HTMLParser):
        count, closed = 0, False

        def handle_starttag(self, tag, attrs):
            self.count += tag == "script"

        def handle_endtag(self, tag):
            self.closed |= tag == "html"

    properties = [{"note": text} for text in ("<!--<script>", "</SCRIPT >", "{{viewer}}")]
    path = looking.write_html(mols, tmp_path / "m.html", list("abc"), properties)
    scripts = Scripts()
    scripts.feed(path.read_text(encoding="utf-8"))
    assert (scripts.count, scripts.closed) == (4, True)
    # Python's parser does not know the state that "<!--" followed by "<script" puts a browser in.
    bodies = re.findall(r"<script\b[^>]*>(.*?)</script>", path.read_text(encoding="utf-8"), re.S)
    assert len(bodies) == 4
    assert not any(re.search("<!--|<script", body, re.I) for body in bodies)


def test_page_says_what_to_install(tmp_path, mols, monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(looking, "distribution", missing)
    with pytest.raises(UserError, match="pip install chemiscope"):
        page(tmp_path, mols)


def test_page_copes_with_molecules_without_conformer(tmp_path):
    path = looking.write_html([Chem.MolFromSmiles("CC")], tmp_path / "m.html", ["x"], [{}])
    assert '"structure":null' in path.read_text(encoding="utf-8")
