"""Expressions that are wrong: each message shows the place and says what would be right."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molflowctl.errors import UserError
from molflowctl.io.language.grammar import DEPTH, NESTED, parse
from molflowctl.io.language.places import ExpressionError, pointed
from molflowctl.io.language.tokens import LENGTH
from molflowctl.properties.rewards import PropertyReward

# What is wrong, the text from which on the caret stands ("" for its end), and words of the message.
MISTAKES = [
    ("ged > 0.7", "ged", "did you mean qed?"),
    ("product(qed, log_p)", "log_p", "did you mean logp"),
    ("sigmod(qed, 0.6, 0.1)", "sigmod", "did you mean sigmoid?"),
    ("(qed + 1", "(", "not closed"),
    ("qed + 1)", ")", "no bracket is open"),
    ("product(qed, brenk == 0", "(qed", "not closed"),
    ("qed = 0.7", "= 0.7", "equality is written =="),
    ("qed > 0.7 &&  logp < 3", "&&", "write `and`"),
    ("qed > 0.7 | logp < 3", "|", "write `or`"),
    ("!lipinski_pass", "!", "write `not`"),
    ("qed > 70%", "%", "0.6"),
    ("qed ^ 2", "^", "written **"),
    ("logp \N{LESS-THAN OR EQUAL TO} 3", "\N{LESS-THAN OR EQUAL TO}", "write <="),
    ("qed \N{MINUS SIGN} 1", "\N{MINUS SIGN}", "write -"),
    ("2qed", "qed", "2 * qed"),
    ("qed logp", "logp", "operator or a comma is missing"),
    ("qed, logp", ",", "a comma parts the arguments"),
    ("qed >", "", "missing here"),
    ("qed * * 2", "* 2", "missing here"),
    ("", "", "empty"),
    ("smarts([#7]S(=O)=O)", "#7", "in quotes"),
    ("step(smarts:[#7]S(=O)=O, 1)", ":[#7]", 'smarts("[#7]")'),
    ('smarts("[#7")', '"[#7"', "no SMARTS"),
    ('smarts("[#7]', '"[#7]', "not closed"),
    ("smarts(\N{LEFT DOUBLE QUOTATION MARK}C\N{RIGHT DOUBLE QUOTATION MARK})",
     "\N{LEFT DOUBLE QUOTATION MARK}", "straight quotation marks"),
    ("smarts()", ")", "needs pattern"),
    ("smarts(6)", "6", "text in quotes"),
    ('smarts("C", "N")', '"N"', "one argument too many"),
    ('smarts(patern="C")', "patern", "did you mean pattern?"),
    ('"c1ccccc1" > 0', '"c1', "a text is no value"),
    ("sigmoid(qed, 0.6)", ")", "needs width"),
    ("sigmoid(qed, 0.6, 0.1, 3)", "3)", "one argument too many"),
    ("sigmoid(qed, 0.6, 0)", "sigmoid", "must not be 0"),
    ("sigmoid(qed, logp, 1)", "logp", "a number is wanted"),
    ("sigmoid(qed, midpiont=1, width=1)", "midpiont", "did you mean midpoint?"),
    ("sigmoid(qed, 1, width=1, midpoint=1)", "midpoint", "given twice"),
    ("sigmoid(midpoint=1, 2, 3)", "2", "comes before"),
    ("ramp(qed, 1, 1)", "ramp", "two different ends"),
    ("range(qed, 3, 1)", "range", "low <= high"),
    ("gauss(mw, 350, 0)", "gauss", "larger than 0"),
    ("sigmoid()", ")", "needs y"),
    ("product(qed, logp)", "logp", "between 0 and 1"),
    ("geometric_mean(-qed)", "-qed", "between 0 and 1"),
    ("product()", ")", "at least one"),
    ("product(qed, weights=[1])", "weights", "geometric_mean or mean"),
    ("geometric_mean(qed, weights=[1, 2])", "[1", "do not go with"),
    ("mean(qed, weights=[-1])", "-1", "positive"),
    ("mean(qed, weights=3)", "3", "list of numbers"),
    ("geometric_mean(qed, scale=3)", "scale", "no option scale"),
    ("product(qed, brenk = 0)", "brenk", "equality is written =="),
    ("abs(qed, logp)", "logp", "one value"),
    ("qed and logp > 1", "qed", "qed > 0"),
    ("logp > 1 and not brenk", "brenk", "brenk > 0"),
    ("where(brenk, -1, 0)", "brenk", "compare it"),
    ("where(brenk > 0, -1)", ")", "needs otherwise"),
    ("if largest_ring > 6: -1", "if", "where(CONDITION, VALUE, OTHERWISE)"),
    ("-1 if largest_ring > 6 else 0", "if", "where("),
    ("qed()", "qed", "takes no arguments"),
    ("ramp + 1", "ramp", "ramp(logp, 0, 3)"),
    ("smarts > 1", "smarts", 'smarts("[#7]S(=O)=O")'),
    ("qed.value", "qed", "no column value"),
    ("[1, 2]", "[", "weights"),
    ("sigmoid(qed, 1e999, 1)", "1e999", "too large"),
    ("qed + $x", "$", "no meaning"),
    ("__import__('os').system('true')", ".", "no meaning"),
    ("lambda: qed", ":", "no meaning"),
    ("qed;logp", ";", "comma"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "place", "words"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_a_mistake_is_shown_where_it_is(text, place, words) -> None:
    with pytest.raises(ExpressionError) as error:
        PropertyReward(text)
    assert words in error.value.reason
    assert text[error.value.at :].startswith(place), text[error.value.at :]
    if not place:
        assert error.value.at == len(text)
    _, shown, caret = str(error.value).splitlines()
    assert shown == f"  {text}"
    assert caret.index("^") == error.value.at + 2


def test_there_are_thirty_of_them() -> None:
    assert len(MISTAKES) >= 30


def test_of_a_long_text_and_of_many_lines_the_place_is_shown() -> None:
    text = " + ".join(["qed"] * 30) + "\n + ged\n + logp"
    with pytest.raises(ExpressionError) as error:
        PropertyReward(text)
    assert str(error.value).splitlines()[1:] == ["   + ged", "     ^"]
    shown, caret = pointed("a" * 500 + "!" + "b" * 500, 500).splitlines()
    assert shown[caret.index("^")] == "!"
    assert len(shown) < 84
    shown, caret = pointed("\x1b[31m\tged", 6).splitlines()
    assert shown[caret.index("^")] == "g"
    assert "\x1b" not in shown


@pytest.mark.parametrize(
    "text",
    [
        "(" * (NESTED + 1) + "qed",
        "-" * 5000 + "qed",
        "not " * 900 + "qed > 1",
        "+".join(["qed"] * (DEPTH + 5)),
        "**".join(["qed"] * 900),
        "abs(" * 900,
        "[" * 900,
        "qed" + " " * LENGTH,
    ],
    ids=["brackets", "minus", "not", "sum", "powers", "calls", "lists", "length"],
)
def test_length_and_depth_are_bounded(text) -> None:
    with pytest.raises(ExpressionError) as error:
        parse(text)
    assert len(str(error.value)) < 300


def test_what_people_write_is_within_the_bounds() -> None:
    parse("product(" + ", ".join(["ramp(qed, 0, 1)"] * 60) + ")")
    parse("+".join(["qed"] * (DEPTH - 5)))
    parse(" and ".join(["qed > 1"] * 800))


def test_an_error_can_be_sent_to_another_process() -> None:
    error = ExpressionError("qed >", 5, "reason")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.at) == (str(error), 5)


PIECES = [
    "qed", "logp", "ged", "(", ")", ",", "+", "-", "*", "**", "<", ">=", "==", "and", "or", "not",
    "0.5", "1e3", '"CC"', "'", "smarts", "step", "product", "where", "weights", "=", "[", "]", " ",
    "#", "\n", "\0", "é", "column", "sigmoid(qed, 1, 2)",
]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join) | st.text(max_size=30))
def test_any_text_is_a_reward_or_an_error_with_a_place(text) -> None:
    try:
        found = PropertyReward(text)
    except UserError as error:
        at = getattr(error, "at", 0)
        assert 0 <= at <= len(text) + 40  # of an old spelling, the place in the new one
        return
    assert PropertyReward(str(found)) == found
