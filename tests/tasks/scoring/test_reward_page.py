"""What rewards are made of: every entry works, and the page says what there is."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from molflowctl.cli import app
from molflowctl.errors import UserError
from molflowctl.properties import names
from molflowctl.properties.registry import functions
from molflowctl.properties.rewards import PropertyReward
from molflowctl.properties.rewards.catalogue import curve, entries, find
from molflowctl.properties.rewards.desirabilities import TRANSFORMS
from molflowctl.properties.rewards.nodes import FUNCTIONS
from molflowctl.tasks.scoring.reward_page import detail, listing, tables, write_curves
from molflowctl.viz.curves import curve_lines

DOCS = Path(__file__).parents[3] / "docs"
ENTRIES = entries()


def test_everything_that_can_be_written_is_listed() -> None:
    listed = {entry.name for entry in ENTRIES}
    made = {maker.name for maker in functions()}
    assert {*names(), *made, *TRANSFORMS, *FUNCTIONS, "where", "column"} <= listed
    for maker in functions():  # and every argument is explained
        assert set(maker.signature.parameters) == set(maker.arguments), maker.name


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_example_is_a_reward(entry) -> None:
    if entry.name == "column":
        assert PropertyReward('column("Docking score")', ["Docking score"])
    elif entry.name != "surrogate" and not entry.name.startswith("docking"):  # files of the user
        reward = PropertyReward(entry.example)
        assert PropertyReward(str(reward)) == reward


@pytest.mark.parametrize("word", TRANSFORMS)
def test_a_curve_is_that_of_the_desirability(word) -> None:
    (entry,) = find(word)
    x, y = curve(entry)
    reward = PropertyReward(entry.example)
    (item,) = reward.items
    np.testing.assert_array_equal(y, reward.of({item.columns[0]: x}))
    assert y.min() < 0.05
    assert y.max() > 0.95
    lines = curve_lines(x, y, "x", width=40, height=5)
    drawn = np.array([[sign == "*" for sign in f"{line:43}"[3:43]] for line in lines[:5]])
    assert (drawn.sum(0) == 1).all()
    heights = 1 - drawn.argmax(0) / 4
    np.testing.assert_allclose(heights, np.interp(np.linspace(x[0], x[-1], 40), x, y), atol=0.126)


def test_the_page_says_what_there_is(tmp_path) -> None:
    """`molflowctl rewards --format md --curves docs/curves` writes both anew."""
    text = (DOCS / "rewards.md").read_text()
    mark = ": molflowctl rewards --format md -->\n"
    inside = text.split(f"<!-- below{mark}")[1].split(f"<!-- above{mark}")[0]
    assert inside.strip().splitlines() == tables().strip().splitlines()
    write_curves(tmp_path)
    for path in tmp_path.iterdir():
        assert path.read_text() == (DOCS / "curves" / path.name).read_text(), path.name
        assert f"(curves/{path.name})" in text


def test_expressions_of_the_page_are_rewards() -> None:
    text = (DOCS / "rewards.md").read_text().split("Where something is wrong")[0]
    shown = text.split("```text\n")[1].split("```")[0].splitlines()
    assert len(shown) >= 5
    for line in shown:
        PropertyReward(line.split("    ")[0])


@pytest.mark.parametrize("width", [40, 80, 200])
def test_lines_fit(width) -> None:
    for line in [*listing(width), *detail("similarity", width)]:
        assert len(line) <= max(width, 70)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("similarity", ["fingerprint", "ecfp6", "CC(=O)Oc1ccccc1C(=O)O"]),
        ("sigmoid", ["exp(", "*****"]),
        ("xtb-gap", ["eV"]),
        ("and", ["a and b"]),
        ("xtb_python", ["xtb_python_gap_eV", "xtb_python_dipole_debye"]),
    ],
)
def test_one_of_them_in_detail(name, words) -> None:
    shown = CliRunner().invoke(app, ["rewards", name])
    assert shown.exit_code == 0
    for word in words:
        assert word in shown.output


def test_what_is_not_there_is_told() -> None:
    with pytest.raises(UserError, match="did you mean sigmoid"):
        find("sigmod")
