"""Tables: every name and every number whole, at any width."""

import random

import pytest
from rich.console import Console
from typer.testing import CliRunner

from molflowctl.cli import app
from molflowctl.cli.tables import fitted_markdown, labelled, laid_out, live_lines, number

NAMES = [
    "qed", "logp", "xtb_energy_hartree", "relative_xtb_energy_kcal_mol", "homo_lumo_gap_eV",
    "smarts:[#7][#16](=O)=O", "max_similarity_to_reference", "relax_energy_kcal_mol", "tpsa",
]  # fmt: skip
HEADINGS = ["property", "n", "failed", "mean", "sd", "min", "median", "max", "unit"]


def rows_of(seed: int) -> list[list[str]]:
    rng = random.Random(seed)
    rows = []
    for name in NAMES:
        figures = [f"{rng.choice([-1, 1]) * 10 ** rng.uniform(-12, 12):.5g}" for _ in range(5)]
        unit = rng.choice(["", "kcal/mol", "hartree"])
        rows.append([name, f"{rng.randrange(10**6):,}", f"{rng.randrange(99)}", *figures, unit])
    return rows


@pytest.mark.parametrize("width", [20, 40, 60, 79, 80, 100, 120, 200])
@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_cut_and_every_figure_is_told_of_its_property(width, seed):
    rows = rows_of(seed)
    lines = laid_out(HEADINGS, rows, width, ["unit"])
    starts = [
        next(k for k, line in enumerate(lines) if line.split()[:1] == [name]) for name in NAMES
    ]
    assert starts == sorted(starts)
    for row, start, end in zip(rows, starts, [*starts[1:], len(lines)], strict=True):
        words = " ".join(lines[start:end]).split()
        assert words[0] == row[0]
        for cell in filter(None, row[1:]):
            assert cell in words
    assert "mean" in " ".join(lines).split()
    longest = max(len(word) for row in rows for word in row)
    assert max(map(len, lines)) <= max(width, longest + 12)


def test_a_line_each_where_it_fits_and_two_for_long_names_where_not():
    rows = [[*row[:3], *["-1.2345"] * 5, row[8]] for row in rows_of(0)]
    assert len(laid_out(HEADINGS, rows, 200, ["unit"])) == 1 + len(rows)
    narrow = laid_out(HEADINGS, rows, 80, ["unit"])
    assert len(rows) + 1 < len(narrow) < 2 * len(rows)
    # Figures stand below their headings, to the right; short names beside them.
    end = narrow[0].index("median") + len("median")
    figures = [line for line in narrow[1:] if "-1.2345" in line]
    assert len(figures) == len(rows)
    assert all(line[:end].endswith(" -1.2345") for line in figures)
    assert [line.split()[0] for line in figures if line[0] != " "] == ["qed", "logp", "tpsa"]
    # Too narrow for any name: two lines each.
    assert len(laid_out(HEADINGS, rows, 62, ["unit"])) == 1 + 2 * len(rows)


def test_long_words_of_a_row_and_of_a_paragraph_are_wrapped():
    protocol = "bonds looked up from distances; atoms uncharged; valid: the largest fragment alone"
    table = f"| | stable | protocol |\n|---|---|---|\n| EDM | 98.7 | {protocol} |"
    text = fitted_markdown(f"{protocol}, and so on.\n\n{table}", 60)
    assert max(map(len, text.splitlines())) <= 60
    assert " ".join(text.split()).count("atoms uncharged; valid: the largest fragment alone") == 2
    assert "  stable    98.7" in text


@pytest.mark.parametrize("command", ["flows", "properties", "rewards"])
@pytest.mark.parametrize("width", [80, 100])
def test_lists_fit_the_terminal(command, width, monkeypatch):
    from molflowctl.cli.console import console

    monkeypatch.setattr(console, "_width", width)
    lines = CliRunner().invoke(app, [command]).stdout.splitlines()
    assert len(lines) > 11
    assert max(map(len, lines)) <= width


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_smiles_in_a_summary_stays_whole(width):
    smiles = "CC(C)(C)c1cc(SC(C)(C)Sc2cc(c(O)c(c2)C(C)(C)C)C(C)(C)C)cc(c1O)C(C)(C)C"
    text = labelled([("1.", f"0.9  {smiles}"), ("kept", "10 of 20 records")], width)
    assert any(smiles in line for line in text)
    long = "a reason that goes on and on, and is wrapped between its words"
    lines = labelled([("failed: something rather long", long)], width)
    assert " ".join(" ".join(lines).split()) == f"failed: something rather long {long}"
    assert max(map(len, lines)) <= max(width, 52)


def test_live_lines_keep_cells_whole_below_their_headings():
    heads = ["round", "     mean", "+-  error", "   target", " utility", "  target", "    KL"]
    cells = ["    0", "   2.6790", "+- 0.0412", "   3.4570", "   0.000", "   0.785", "  0.00"]
    for width in (30, 50, 80):
        top, row = live_lines(heads, width).split("\n"), live_lines(cells, width).split("\n")
        assert [len(line) for line in top] == [len(line) for line in row]
        assert max(map(len, row)) <= width
        assert " ".join(" ".join(row).split()) == " ".join(" ".join(cells).split())
    assert "\n" not in live_lines(cells, 80)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2.679, "2.6790"), (-23544.1234, "-23544.1"), (23544.0, "23544"), (1e-9, "0.0000"),
        (-1.5e15, "-1.5e+15"), (float("nan"), "nan"), (float("inf"), "inf"),
        (-999.5, "-999.5000"), (1e100, "1e+100"),
    ],
)  # fmt: skip
def test_a_long_number_loses_digits_and_not_its_exponent(value, text):
    found = number(value, 9, 4)
    assert found.strip() == text
    assert len(found) == 9
    if abs(value) > 1 and abs(value) < float("inf"):
        assert float(found) == pytest.approx(value, rel=5e-3)


def test_markdown_that_fits_stays_and_what_does_not_is_laid_out():
    flows = ["qm9", "tuned", "merged", "other"]
    rows = [[name, *[f"{k}.345 ({k}.3 to {k}.4)" for k in range(4)]] for name in NAMES]
    lines = ["1,000 attempts each.", "", f"| | {' | '.join(flows)} |", "|---" * 5 + "|"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    text = "\n".join(lines)
    assert fitted_markdown(text, 200) == text
    narrow = fitted_markdown(text, 80)
    assert max(map(len, narrow.splitlines())) <= 80
    for word in [*NAMES, *flows, *(cell for row in rows for cell in row)]:
        assert word in narrow
    assert narrow.startswith("1,000 attempts each.\n\n")


@pytest.mark.parametrize("width", [40, 80])
def test_the_console_breaks_no_line(width, monkeypatch):
    from molflowctl.cli import console as module

    narrow = Console(width=width, soft_wrap=True, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    monkeypatch.setattr(module, "console", narrow)
    module.print_table("title", [("1.", "C" * 100), ("[bold]", "smarts:[#7]")])
    printed = narrow.export_text().splitlines()
    assert any("C" * 100 in line for line in printed)
    assert any("[bold]" in line and "smarts:[#7]" in line for line in printed)
