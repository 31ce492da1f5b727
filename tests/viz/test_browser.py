"""The pages in a real browser, where one is installed."""

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from molflowctl.viz.charts import Level, Line, Sample
from molflowctl.viz.page import Shown
from molflowctl.viz.pictures import write_html
from molflowctl.viz.preview_page import write_preview
from molflowctl.viz.report_page import Chart, Molecules, PartRow, write_report
from tests.viz.browser import asked, needs_browser

pytestmark = [needs_browser, pytest.mark.slow]

SMILES = ["CCO", "c1ccccc1", "C[C@H](N)O", "CC(=O)N", "C/C=C/C", "OC1CC1"]
REWARD = "product(qed, range(logp, 1, 3, 0.5), sigmoid(-sa_score, -3.5, 0.5))"
EVIL = "<img src=x onerror=\"document.title='hacked'\">"


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    mols = []
    for smiles in SMILES:
        mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
        rdDistGeom.EmbedMolecule(mol, randomSeed=1)
        mols.append(mol)
    rows = [
        {REWARD: k / 7, "qed": 0.1 + 0.2, "logp": k / 3, "note": EVIL if k == 2 else "bought",
         **{f"property_{c}": k + c / 7 for c in range(4)}}
        for k in range(len(mols))
    ]  # fmt: skip
    names = [f"mfc-{k:06d}" for k in range(len(mols) - 1)] + [EVIL]
    return write_html(mols, tmp_path_factory.mktemp("page") / "m.html", names, rows, title=EVIL)


def test_the_filter_filters_list_view_and_map(gallery):
    found = asked(
        gallery,
        """
        await wait(500);
        const seen = [];
        for (const text of ["logp > 0.5", "logp>0.5 property_0 <= 4", "C/C=C/C", "hacked",
                            "qed == 7", ""]) {
          const filter = document.getElementById("filter");
          filter.value = text;
          filter.dispatchEvent(new Event("input"));
          await wait(600);
          seen.push([document.querySelectorAll("#rows tr").length, placed.length,
                     document.getElementById("count").textContent]);
        }
        return seen;
        """,
        seconds=6,
    )
    shares = [4, 3, 1, 2, 0]
    expected = [[n, n, f"{n} of 6 molecules"] for n in shares] + [[6, 6, "6 molecules"]]
    assert found == expected


def test_the_map_shows_what_tells_conformers_apart(tmp_path):
    """Not a column that is the same for all, and no colour that is not known of all."""
    mol = Chem.AddHs(Chem.MolFromSmiles("OCCO"))
    rdDistGeom.EmbedMultipleConfs(mol, 3, randomSeed=1)
    mols = [Chem.Mol(mol, False, conf.GetId()) for conf in mol.GetConformers()]
    rows = [{"charge": 0, "energy": k / 2, "weight": 1 - k / 3} | ({"open": 1} if k else {})
            for k in range(3)]  # fmt: skip
    page = write_html(mols, tmp_path / "m.html", list("abc"), rows, noun="conformers")
    found = asked(
        page,
        """
        await wait(1500);
        const map = document.getElementById("map").firstElementChild.shadowRoot;
        const titles = [...map.querySelectorAll(".xtitle, .ytitle")];
        return [document.getElementById("count").textContent, titles.map(t => t.textContent)];
        """,
        seconds=4,
    )
    assert found == ["3 conformers", ["energy", "weight"]]


def test_texts_of_others_are_texts(gallery):
    found = asked(
        gallery,
        """
        return [document.querySelectorAll("img[src=x]").length, document.title,
                document.querySelector("#rows tr:last-child .name").textContent];
        """,
    )
    assert found == [0, EVIL, EVIL]


@pytest.mark.parametrize("dark", [False, True])
def test_every_number_is_in_view_on_a_laptop(gallery, dark):
    """Eight columns, one of them headed by a long reward, beside the 3-D view."""
    found = asked(
        gallery,
        """
        const list = document.getElementById("list"), style = getComputedStyle(document.body);
        return {over: list.scrollWidth - list.clientWidth, page: style.backgroundColor,
                heads: [...document.querySelectorAll("#head th")].map(h => h.textContent),
                ink: style.color};
        """,
        dark=dark,
    )
    assert found["over"] <= 0
    # 0.1 + 0.2 has eighteen digits: a number is listed however long it is written.
    assert found["heads"][1:4] == ["Name", REWARD, "qed"]
    page, ink = (sum(map(int, found[k][4:-1].split(","))) for k in ("page", "ink"))
    assert (page < ink) is dark


@pytest.mark.parametrize("width", [500, 1366])
def test_a_reward_page_fits_the_screen(tmp_path, width):
    values = np.linspace(0, 1, 50)
    page = write_preview(
        tmp_path / "p.html", title=EVIL,
        table=[("part", "mean", "values"), (REWARD, "0.5", "."), (EVIL, "1", ".")],
        histograms=[values, values], correlations=np.eye(2), remarks=[EVIL],
        best=[Shown(Chem.MolFromSmiles("CCO"), "0.5", EVIL)], worst=[],
    )  # fmt: skip
    found = asked(
        page,
        "return [document.documentElement.scrollWidth - innerWidth, document.title,"
        " document.querySelectorAll('img').length];",
        width=width,
    )
    assert found == [0, EVIL, 0]


@pytest.mark.parametrize(("width", "dark"), [(500, True), (1366, False)])
def test_the_page_of_a_run_fits_the_screen(tmp_path, width, dark):
    """Twenty columns of a table scroll inside it; charts and drawings have some size."""
    rng = np.random.default_rng(0)
    samples = {name: Sample(rng.normal(size=200)) for name in ("base", EVIL)}
    shown = [Shown(Chem.MolFromSmiles(smiles), "0.5", smiles) for smiles in SMILES]
    page = write_report(
        tmp_path / "r.html", title=EVIL, words=[EVIL, REWARD], steps=range(3), reward=EVIL,
        charts=[Chart(EVIL, [Line(EVIL, [0.1, float("nan"), 0.3], [0.1] * 3)],
                      [Level("target", 0.5, 0.02)])],
        samples=samples, parts=([EVIL, "a", "b"], [PartRow(REWARD, ["0.5", EVIL], samples)]),
        flows=[["flow", "valid"], [EVIL, "99 %"]], molecules=[Molecules(EVIL, shown)],
        table=[["a long heading"] * 20, ["0.123456"] * 20], settings=[("reward", EVIL, True)],
    )  # fmt: skip
    found = asked(
        page,
        """
        const sizes = [...document.querySelectorAll(".chart, .molecules svg")]
          .map(s => s.getBoundingClientRect()).map(b => b.width > 90 && b.height > 50);
        const colour = getComputedStyle(document.body).backgroundColor;
        return [document.documentElement.scrollWidth - innerWidth, document.title, sizes,
                document.querySelectorAll("img").length, colour];
        """,
        width=width,
        dark=dark,
    )
    colour = "rgb(24, 29, 36)" if dark else "rgb(255, 255, 255)"
    assert found == [0, EVIL, [True] * (2 + len(SMILES)), 0, colour]
