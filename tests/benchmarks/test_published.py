"""Numbers of README and docs are those of the result files, and what differs is found."""

import json
import re
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "benchmarks/published.py"
ROOT = FILE.parents[1]
MARKED = "<!--= a.json; {keys}; {form} -->{text}<!--/-->"


@pytest.fixture
def results(script, tmp_path, monkeypatch):
    """A tree with one result file and no page."""
    (tmp_path / "benchmarks").mkdir()
    rows = {
        "ours": [{"amr": 1.0}, {"amr": 3.0}, {"amr": 8.0}],
        "theirs": [{"amr": 2.0}, {"amr": float("nan")}, "timed out"],
    }
    wanted = {"valid": {"value": 0.938, "low": 0.923, "high": 0.9521}, "n": 12345, "rows": rows}
    wanted |= {"word": "reached", "either | both": 0.5}
    (tmp_path / "benchmarks/a.json").write_text(json.dumps(wanted))
    monkeypatch.setattr(script, "ROOT", tmp_path)
    return script


@pytest.mark.parametrize(
    ("keys", "form", "shown"),
    [
        ("valid", ".1%", "93.8 % (92.3 to 95.2)"),
        ("valid", ".2f", "0.94 (0.92 to 0.95)"),
        ("valid / value", ".1%", "93.8 %"),
        ("n", ",", "12,345"),
        ("word", "s", "reached"),
        # A bare bar would end the cell of a table.
        (r"either \| both", ".1f", "0.5"),
        # Only the first molecule has a value of both models.
        ("rows / ours / mean(amr)", ".1f", "1.0"),
        ("rows / theirs / median(amr)", ".1f", "2.0"),
    ],
)
def test_a_number_is_shown_as_its_file_has_it(results, keys, form, shown):
    old = MARKED.format(keys=keys, form=form, text="old")
    assert results.renewed(f"| {old} |") == f"| {MARKED.format(keys=keys, form=form, text=shown)} |"


def test_what_the_file_lacks_is_named(results):
    with pytest.raises(KeyError, match="'unique'"):
        results.renewed(MARKED.format(keys="unique", form=".1%", text=""))


def test_a_changed_result_fails_the_check_and_is_written_without_it(results, monkeypatch, capsys):
    page = results.ROOT / "page.md"
    page.write_text(MARKED.format(keys="valid / value", form=".1%", text="93.9 %"))
    monkeypatch.setattr("sys.argv", ["published.py", "--check", "page.md"])
    assert results.main() == 1
    said = capsys.readouterr().out
    assert all(part in said for part in ("page.md:1", "93.9 %", "93.8 %"))
    monkeypatch.setattr("sys.argv", ["published.py", "page.md"])
    assert results.main() == 0
    monkeypatch.setattr("sys.argv", ["published.py", "--check", "page.md"])
    assert results.main() == 0


def test_pages_agree_with_the_result_files(script, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["published.py", "--check"])
    assert script.main() == 0, capsys.readouterr().out


def test_every_measured_number_of_the_readme_has_its_file(script):
    """Percentages, intervals and angstroms in tables; what others published is marked so."""
    table = [line for line in (ROOT / "README.md").read_text().splitlines() if line[:1] == "|"]
    for line in table:
        bare = re.sub(r"[^|]*\(published\)", "", script.MARK.sub("", line))
        assert not re.search(r"\d+(\.\d+)? ?%|\d\.\d", bare), line


def test_the_readme_is_one_screen(script):
    """At most 150 lines, code that fits the page, and no sentence of more than 25 words."""
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    code = "".join(re.findall(r"```.*?```", text, flags=re.S))
    assert [line for line in code.splitlines() if len(line) > 100] == []
    prose = re.sub(
        r"```.*?```|^    .*$|^\|.*$|^#.*$|<!--.*?-->|!\[.*?\]\(.*?\)", "", text, flags=re.S | re.M
    )
    prose = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", prose)
    for sentence in re.split(r"[.:;!?]\s|\n\n|\n- ", prose):
        assert len(sentence.split()) <= 25, sentence


def test_links_between_pages_lead_somewhere():
    """Files, and headings within them."""
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        prose = re.sub(r"```.*?```|^    .*$|`[^`]*`", "", page.read_text(), flags=re.S | re.M)
        for link in re.findall(r"\]\(([^)#:]*)(#[^)]*)?\)", prose):
            target = (page.parent / link[0]) if link[0] else page
            assert target.exists(), f"{page.name}: {link[0]}"
            if link[1] and target.suffix == ".md":
                heads = re.findall(r"^#+ (.*)$", target.read_text(), flags=re.M)
                anchors = {"#" + re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in heads}
                assert link[1] in anchors, f"{page.name}: {''.join(link)}"


def test_the_cell_of_a_table_is_found_by_its_row_and_column(results):
    (results.ROOT / "benchmarks/t.md").write_text(
        "Words.\n\n| | ours | theirs |\n|---|---:|---|\n| A, angstrom | 0.1 (0.0-0.2) | |\n"
    )
    mark = "<!--= t.md; A, angstrom / ours; s -->{}<!--/-->"
    assert results.renewed(mark.format("old")) == mark.format("0.1 (0.0-0.2)")
    with pytest.raises(KeyError, match="it has ours, theirs"):
        results.renewed("<!--= t.md; A, angstrom / others; s -->x<!--/-->")


def test_no_result_lies_about_that_no_page_shows(script):
    """Pictures, tables and texts: a page links to each, or takes a number from it."""
    pages = [p for p in ROOT.rglob("*.md") if not {".venv", ".venv-ci", "build"} & set(p.parts)]
    shown = set()
    for page in pages:
        text = page.read_text()
        links = [page.parent / link for link in re.findall(r"\]\(([^)#\s]+)", text)]
        links += [
            ROOT / "benchmarks" / mark["source"].strip() for mark in script.MARK.finditer(text)
        ]
        shown |= {link.resolve() for link in links}
    kept = [p for p in (ROOT / "benchmarks").rglob("*") if p.suffix in (".png", ".md")]
    assert [str(p) for p in kept if p.resolve() not in shown and p.name != "README.md"] == []


def test_a_number_of_a_table_of_values_is_found_by_its_row(results):
    (results.ROOT / "benchmarks/t.csv").write_text(
        "step,label,median\n0,base,5.85\n1,steered,2.9\n"
    )
    mark = "<!--= t.csv; 0 / {}; {} -->{}<!--/-->"
    assert results.renewed(mark.format("median", ".1f", "old")) == mark.format(
        "median", ".1f", "5.8"
    )
    assert results.renewed(mark.format("label", "s", "old")) == mark.format("label", "s", "base")


def test_measured_numbers_in_tables_of_pages_have_their_file(script):
    """Percentages and decimals, but for the first cell of a row, its name.

    What others published says so there, or names its source in the last cell. docs/rewards.md
    explains scales.
    """
    pages = [p for p in (ROOT / "docs").glob("*.md") if p.name != "rewards.md"]
    pages += (ROOT / "benchmarks").rglob("README.md")
    for page in [*pages, ROOT / "benchmarks/denovo/series.md"]:
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
        text = re.sub(r"`[^`]*`", "", script.MARK.sub("", text))
        text = re.sub(r"^\|.*\n\|[-|: ]+$", "", text, flags=re.M)  # heads
        for line in re.findall(r"^\|.*$", text, flags=re.M):
            _, name, *values, _ = line.split("|")
            if name.startswith((" published", " rerun")):
                continue
            if re.search(r"et al\.|doi:|^ the same $", values[-1]):
                continue
            assert not re.search(r"\d ?%|\d\.\d", " ".join(values)), f"{page.name}: {line}"
