"""The reference pages of the site hold every command, setting, property and shipped flow."""

import ast
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer

from molflowctl import properties
from molflowctl.cli import app
from molflowctl.io.config import Config
from molflowctl.tasks.settings import COMMANDS, config_of

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "molflowctl"


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The pages that docs/build.py makes of the package, by name."""
    spec = importlib.util.spec_from_file_location("docs_build", ROOT / "docs/build.py")
    build = importlib.util.module_from_spec(spec)
    sys.modules["docs_build"] = build
    spec.loader.exec_module(build)
    build.PAGES = tmp_path_factory.mktemp("pages")
    build.command_pages()
    build.settings_pages()
    build.property_page()
    build.card_pages()
    yield {path.stem: path.read_text() for path in (build.PAGES / "reference").iterdir()}
    del sys.modules["docs_build"]


def section(page: str, heading: str) -> str:
    """What stands below a heading, up to the next of its kind."""
    parts = re.split(r"^## (.*)$", page, flags=re.M)
    found = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert heading in found, f"no {heading}; there are {', '.join(found)}"
    return found[heading]


def commands(group: click.Group, name: str) -> Iterator[tuple[str, click.Command]]:
    """Every command that users see, those of groups by their whole name."""
    for word, command in group.commands.items():
        if isinstance(command, click.Group) or hasattr(command, "commands"):
            yield from commands(command, f"{name} {word}")
        elif not command.hidden:
            yield f"{name} {word}", command


def test_every_command_and_option_is_on_the_page(pages):
    found = dict(commands(typer.main.get_command(app), "molflowctl"))
    assert {"molflowctl generate", "molflowctl data prepare"} <= set(found)
    assert set(re.findall(r"^## (.*)$", pages["commands"], re.M)) == set(found)
    for name, command in found.items():
        text = section(pages["commands"], name)
        for option in command.params:
            if option.name == "help" or getattr(option, "hidden", False):
                continue
            row = rf"^\| .*`{re.escape(max(option.opts, key=len))}`.*\| *\S.* \|$"
            assert re.search(row, text, re.M), f"{name}: {option.opts}"


def test_the_page_says_what_the_help_says(pages):
    """Examples as they are typed, without the marks of HTML."""
    for name, command in commands(typer.main.get_command(app), "molflowctl"):
        text = section(pages["commands"], name)
        typed = [line.strip() for line in command.help.splitlines() if "molflowctl " in line]
        for line in (line for line in typed if line.startswith("molflowctl ")):
            assert f"    {line}" in text.splitlines(), f"{name}: {line}"


def fields(config: type[Config], prefix: str = "") -> Iterator[str]:
    """Names of all settings, those of a group behind its name."""
    for name, field in config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Config):
            yield from fields(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


@pytest.mark.parametrize("command", COMMANDS)
def test_every_setting_of_a_command_is_on_the_page(pages, command):
    text = section(pages["settings"], command)
    assert re.findall(r"^\| `([\w.]+)` ", text, re.M) == list(fields(config_of(command)))
    for row in re.findall(r"^\| `.*$", text, re.M):
        assert row.rstrip(" |").rsplit(" | ", 1)[-1].strip(), f"no meaning: {row}"


def settings_classes() -> Iterator[tuple[str, str]]:
    """Classes that say of which command they are the settings, and the command."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ClassDef):
                continue
            said = [word.value for word in node.keywords if word.arg == "command"]
            said += [
                line.value
                for line in node.body
                if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "command"
            ]
            for value in said:
                yield node.name, ast.literal_eval(value)


def test_no_settings_are_left_out():
    found = list(settings_classes())
    assert len(found) > 15
    for name, command in found:
        assert config_of(command).__name__ == name
    taking = [
        name.removeprefix("molflowctl ")
        for name, command in commands(typer.main.get_command(app), "molflowctl")
        if any("--set" in option.opts for option in command.params)
    ]
    assert set(taking) <= set(COMMANDS)


def test_every_property_and_every_shipped_flow_has_its_place(pages):
    for name in properties.names():
        assert f"| `{name}` |" in pages["properties"]
    cards = {path.parent.name for path in PACKAGE.glob("models/weights/*/card.json")}
    assert len(cards) > 9
    assert set(re.findall(r"^## (.*)$", pages["cards"], re.M)) == cards
