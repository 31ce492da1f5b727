"""What is written for a format means nothing there but itself, and reads back as it was."""

import random
import re

import pytest

from molflowctl.io import escaping

TEXTS = [
    "ethanol", "two words", "", " ", " leading", "trailing ", "\t", "a\tb", "$$$$", "$$$$ next",
    "$$$", "x $$$$", "> <qed>", ">10", ">  <a> (1)", "<b>", "two\nlines", "two\n\nlines", "\n",
    "\n\n\n",    "a\n$$$$\nb", "a\n> <qed>\n1", "a\n \nb", "a\r\nb", "a\rb",
    "\x1b[31mred\x1b[0m", "\x00", "\x07",
    "\x85", "\u2028", "\u202eevil", "=1+1", "+1-2", "-alpha", "@SUM(A1)", "'=1", "''=1", "'tis",
    "-5.2", "+1e-3", "-", "=", "-1+cmd|' /C calc'!A0", "F/C=C\\C", "\\u{1b}", "\\\\u{1b}",
    "\\u{zz}",
    "\\u{110000}", "\\u001b", "Müller", "5 µM", "β-pinene", "分子", "🧪",
]  # fmt: skip
FORMATS = {
    "title": (escaping.title, escaping.unescaped),
    "tag name": (escaping.tag_name, escaping.unescaped),
    "tag value": (escaping.tag_value, escaping.unescaped),
    "cell": (escaping.cell, escaping.cell_text),
}
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\ud800-\udfff]")


def random_texts() -> list[str]:
    letters = [
        "$",
        ">",
        "<",
        "=",
        "-",
        "'",
        "\\",
        "u",
        "{",
        "}",
        "1",
        "b",
        "\n",
        "\r",
        " ",
        "\x1b",
        "é",
    ]
    draw = random.Random(3)
    return ["".join(draw.choices(letters, k=draw.randrange(12))) for _ in range(2000)]


@pytest.mark.parametrize("kind", FORMATS)
def test_reads_back_and_holds_no_control_character(kind):
    there, back = FORMATS[kind]
    for text in [*TEXTS, *random_texts()]:
        written = there(text)
        assert back(written) == text
        assert not CONTROL.search(written)


def test_a_title_is_one_line_that_ends_no_record():
    for text in [*TEXTS, *random_texts()]:
        written = escaping.title(text)
        assert "\n" not in written
        assert not written.startswith("$$$$")


def test_a_value_has_no_line_that_is_empty_or_begins_something():
    for text in [*TEXTS, *random_texts()]:
        if not text:
            continue
        for line in escaping.tag_value(text).split("\n"):
            assert line.strip()
            assert not line.startswith("$$$$")
            assert not re.match(r">.*<.*>", line)


def test_a_cell_is_a_formula_only_if_it_is_a_number():
    for text in [*TEXTS, *random_texts()]:
        written = escaping.cell(text)
        if written[:1] in tuple("=+-@\t\r"):
            float(written)


@pytest.mark.parametrize(
    "text", ["ethanol", "F/C=C\\C", "Müller 5 µM", "-5.2", ">10", "(+)-x", "'tis"]
)
def test_ordinary_text_stays_as_it_is(text):
    for there, _ in FORMATS.values():
        if text != ">10" or there is not escaping.tag_name:
            assert there(text) == text
    assert escaping.shown(text) == text


def test_a_long_text_has_an_end_on_the_terminal():
    assert len(escaping.shown("x" * 10**6)) < 400
    assert "\x1b" not in escaping.shown("\x1b]0;title\x07" * 100)
