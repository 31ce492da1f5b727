"""What README and docs tell users to type is what the commands take, and their Python runs."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
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


@pytest.fixture(scope="module")
def runner():
    """docs/run.py, which runs the code of pages."""
    spec = importlib.util.spec_from_file_location("docs_run", ROOT / "docs/run.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["docs_run"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["docs_run"]


RUN = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_every_block_of_code_is_run_or_says_why_not(runner):
    """Fenced, of a language that the runner knows, and not empty; nothing is indented as code."""
    ran = []
    for page in RUN:
        text = page.read_text()
        found = runner.blocks(text)
        assert len(found) * 2 == len(re.findall("^```", text, re.M)), page.name
        bare = runner.BLOCK.sub("", text)
        assert not re.search(r"^\n {4}\S", bare, re.M), f"{page.name}: indented code"
        for block in found:
            assert block.language in ("bash", "python", "text"), (page.name, block.language)
            assert block.text.strip(), page.name
        ran += [b for b in found if b.language != "text" and not b.reason]
    assert len(ran) > 30


# Minutes: adjoint matching on mixtures, docking, a training, a library with two filters.
SLOW = {"concepts.md", "docking.md", "own-molecules.md", "first-hour.md"}
PAGES_RUN = [
    pytest.param(page, marks=[pytest.mark.slow] * (page.name in SLOW), id=page.name)
    for page in RUN
    if re.search(r"^```(bash|python)$", page.read_text(), re.M)
]


@pytest.mark.parametrize("page", PAGES_RUN)
def test_the_code_of_a_page_runs(page, tmp_path):
    """In its short form, in a process of its own, where what it defines stays."""
    command = [sys.executable, str(ROOT / "docs/run.py"), str(page), "--short"]
    ran = subprocess.run(
        [*command, "--into", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "MOLFLOWCTL_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize(
    ("line", "short"),
    [
        ("generate druglike -n 500 -o a.sdf", "generate druglike -n 4 -o a.sdf --nfe 20 -j 1"),
        ("generate qm9 -n 2 --nfe 9 -o a.sdf", "generate qm9 -n 2 --nfe 9 -o a.sdf -j 1"),
        ("rank a.csv --by qed -n 50 -o b.csv", "rank a.csv --by qed -n 4 -o b.csv"),
        ("train --init qm9 --set minutes=6 -o a", "train --init qm9 --set train_steps=2 -o a"),
    ],
)
def test_the_short_form_of_a_command(runner, line, short):
    assert runner.shortened(line.split()) == short.split()


def test_a_command_that_fails_ends_the_run(runner, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "page.md"
    broken = "```bash\nmolflowctl rank none.sdf --by qed -o best.sdf\n```\n"
    page.write_text(broken)
    with pytest.raises(RuntimeError, match=r"status 1\n.*none\.sdf"):
        runner.run(page)
    page.write_text("<!-- exit status 1 -->\n" + broken)
    assert "none.sdf" in "".join(runner.run(page).values())
    page.write_text("```bash\nls\n```\n")
    with pytest.raises(ValueError, match="not marked"):
        runner.run(page)
