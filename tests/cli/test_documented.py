"""What README and docs tell users to type is what the commands take, and their Python runs."""

import re
import shlex
from pathlib import Path

import click
import pytest
import typer

from molflowctl.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "data/README.md"]
PAGES += sorted((ROOT / "benchmarks").rglob("*.md"))


def code(page: Path) -> str:
    """Indented and fenced code, continued lines joined."""
    text = re.sub(r"<!--.*?-->", "", page.read_text(), flags=re.S)
    return re.sub(r"\\\n\s*", " ", text)


def lines() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for line in code(page).splitlines():
            for part in line.split(" && ") if line.startswith(("    ", "molflowctl")) else []:
                if part.strip().startswith("molflowctl "):
                    found.append((page.name, part.strip()))
    return found


def test_there_are_commands_in_every_guide():
    assert {"README.md", "scoring.md", "steering.md", "merging.md", "conformers.md"} <= {
        page for page, _ in lines()
    }


@pytest.mark.parametrize(("page", "line"), lines())
def test_a_documented_command_is_understood(page, line):
    """Its command and options exist and take a value where one is given; nothing is run."""
    command: click.Command = typer.main.get_command(app)
    words = shlex.split(line, comments=True)[1:]
    while hasattr(command, "commands") and words:
        assert words[0] in command.commands, f"{page}: {line}"
        command = command.commands[words.pop(0)]
    context = command.make_context(line, [], resilient_parsing=True)
    command.make_parser(context).parse_args([w for w in words if w != "--help"])


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/concepts.md"])
def test_documented_python_runs(page):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.S)
    assert blocks
    for block in blocks:
        exec(compile(block, page, "exec"), {})
