"""Build the site: `python docs/build.py [--serve]` writes it to build/site.

Pages are the Markdown files of the repository, at their own places, so that links are the same here
and in the repository. To them come pages made from the package: commands, settings, properties, the
cards of the shipped flows, and the docstrings. A warning of MkDocs, such as a broken link, is an
error.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import typer

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "build" / "pages"
COPIED = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "CITATION.cff",
    "LICENSE",
    "data/README.md",
]
LINKED = {".md", ".css", ".png", ".svg", ".csv", ".json", ".yaml", ".py", ".gz"}
MODULES = [
    "molflowctl",
    "molflowctl.flows.flow",
    "molflowctl.flows.path",
    "molflowctl.flows.samplers",
    "molflowctl.flows.velocity",
    "molflowctl.models.molecule_flow",
    "molflowctl.properties.registry",
]


def collect() -> None:
    """Copy the pages of the repository, and what they show or link to."""
    shutil.rmtree(PAGES, ignore_errors=True)
    linked = [ROOT / name for name in COPIED]
    for folder in ("docs", "benchmarks"):
        linked += [p for p in (ROOT / folder).rglob("*") if p.suffix in LINKED]
    for path in linked:
        place = PAGES / path.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)


def write(name: str, text: str) -> None:
    place = PAGES / "reference" / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)


def plain(text: str) -> str:
    """Text in which no `<` begins a tag; what is set as code is left as it is."""
    return re.sub(r"`[^`]*`|<", lambda found: "&lt;" if found[0] == "<" else found[0], text)


def cell(text: object) -> str:
    return plain(" ".join(str(text).split()).replace("|", "\\|"))


def commands(group: click.Group, name: str = "molflowctl") -> Iterator[tuple[str, click.Command]]:
    """Every command of a group and of the groups in it, with its whole name."""
    for short, command in group.commands.items():
        whole = f"{name} {short}"
        if hasattr(command, "commands"):
            yield from commands(command, whole)
        elif not command.hidden:
            yield whole, command


def command_page(name: str, command: click.Command) -> str:
    """Help, examples and options of a command."""
    rows = ["| option | default | meaning |", "|---|---|---|"]
    for option in command.params:
        if getattr(option, "hidden", False) or option.name == "help":
            continue
        spelt = ", ".join(f"`{o}`" for o in option.opts) or option.name
        default = "" if option.default in (None, ()) or callable(option.default) else option.default
        shown = "must be given" if option.required else f"`{default}`" if default != "" else ""
        rows.append(f"| {spelt} | {cell(shown)} | {cell(getattr(option, 'help', None) or '')} |")
    about = "\n".join(
        f"    {line}" if line.startswith("molflowctl ") else plain(line)
        for line in map(str.strip, (command.help or "").replace("\b", "").splitlines())
    )
    return f"## {name}\n\n{about}\n\n" + "\n".join(rows) + "\n"


def command_pages() -> None:
    from molflowctl.cli import app

    pages = [command_page(*found) for found in commands(typer.main.get_command(app))]
    write("commands.md", "# Commands\n\n" + "\n".join(pages))


def settings_pages() -> None:
    from molflowctl.tasks.settings import COMMANDS, settings_of, shown

    parts = [
        "# Settings\n\nSettings go into a YAML file for `--config`, or after `--set name=value`.\n"
    ]
    for command in COMMANDS:
        parts.append(f"## {command}\n\n{shown(settings_of(command), 'md')}\n")
    write("settings.md", "\n".join(parts))


def property_page() -> None:
    from molflowctl import properties

    rows = ["# Properties\n", "| name | unit | meaning |", "|---|---|---|"]
    for name in properties.names():
        item = properties.get(name)
        rows.append(f"| `{name}` | {item.unit} | {cell(item.description)} |")
    write("properties.md", "\n".join(rows) + "\n")


def symbol(number: int) -> str:
    """Of an element."""
    from rdkit import Chem

    return str(Chem.GetPeriodicTable().GetElementSymbol(number))


def hardware(training: dict[str, Any]) -> str:
    """What a flow was trained on: `1 CPU thread`, `4 x NVIDIA A100`."""
    said = str(training.get("hardware"))
    found = re.fullmatch(r"1 x cpu, (\d+) threads?", said)
    return said if not found else f"{found[1]} CPU thread{'' if found[1] == '1' else 's'}"


def stage(run: dict[str, Any]) -> str:
    """One run that a flow was finished by, in words."""
    if run["command"] == "finetune":
        way = f"{run['prior']:.3f} to {run['result']:.3f} of a possible {run['target']:.3f}"
        return f"steered, {run['minutes']:.0f} minutes: mean reward {way}"
    data = run["data"]
    method = {"gfn2": "GFN2-xTB minima", "none": f"molecules of {data['name']}"}.get(
        data.get("relax", "mmff"), "MMFF94 minima"
    )
    only = f", at times from {run['times_from']:g}" if run["times_from"] else ""
    only += ", parts of them alone" if run.get("parts_only") else ""
    return f"trained, {run['minutes']:.0f} minutes: {data['limit']:,} {method}{only}"


def card_page(name: str, card: dict[str, Any]) -> str:
    """The model card of a shipped flow."""
    data, training = card.get("data", {}), card.get("training", {})
    hours = (training.get("hours") or 0) + sum((training.get("hours_before") or {}).values())
    # Folders of a training are no flow that a reader has.
    parents = ", ".join(
        p["name"] for p in card.get("parents", []) if "/" not in p["name"] and p["name"] != name
    )
    built, metrics = card.get("arguments", {}), card.get("metrics", {})
    sizes = [int(size) for size in built.get("sizes", {})] if card.get("kind") == "denovo" else []
    kind = {"denovo": "new molecules", "conformer": "conformers of a given molecule"}
    atoms = "atoms" if built.get("hydrogens") == "explicit" else "heavy atoms"
    rows = {
        "draws": card.get("description"),
        "kind": kind.get(card.get("kind", ""), card.get("kind")),
        "elements": " ".join(symbol(number) for number in built.get("elements", [])),
        "sizes": f"{min(sizes)} to {max(sizes)} {atoms}" if sizes else None,
        "measured": ", ".join(
            f"`{figure}` {value:,}"
            for figure, value in metrics.items()
            if isinstance(value, int | float)
        ),
        "parameters": f"{card['parameters']:,}" if "parameters" in card else None,
        "comes from": parents,
        "data": data.get("title"),
        "citation": data.get("citation"),
        "molecules": f"{data['molecules']:,}" if "molecules" in data else None,
        "geometry": data.get("geometry"),
        "training": f"{hours:.1f} hours, {hardware(training)}" if hours else None,
        "finished by": "; ".join(map(stage, card.get("stages", []))),
        "licence": card.get("licence"),
        "SHA-256 of the weights": f"`{card['weights_sha256']}`",
    }
    table = ["| | |", "|---|---|", *(f"| {k} | {cell(v)} |" for k, v in rows.items() if v)]
    again = "\n".join(f"    {line}" for line in card.get("retrain", []))
    made = f"\n\nTo make it again:\n\n{again}" if again else ""
    return f"## {name}\n\n" + "\n".join(table) + made + "\n"


def card_pages() -> None:
    cards = sorted((ROOT / "molflowctl/models/weights").glob("*/card.json"))
    pages = [card_page(path.parent.name, json.loads(path.read_text())) for path in cards]
    about = (
        "What each shipped flow draws, what it learned from, what was measured, and how to make it "
        "again.\nShares are between 0 and 1; `amr` is in angstrom. [Limits](../docs/limits.md) "
        "says what they cannot do.\n\n"
    )
    write("cards.md", "# Model cards\n\n" + about + "\n".join(pages))


def python_page() -> None:
    parts = ["# Python\n", *(f"::: {module}\n" for module in MODULES)]
    write("python.md", "\n".join(parts))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--serve", action="store_true", help="Show it at localhost:8000.")
    serve = parser.parse_args().serve
    collect()
    for made in (command_pages, settings_pages, property_page, card_pages, python_page):
        made()
    action = ["serve"] if serve else ["build", "--strict", "--clean"]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}  # a notice of the theme's authors
    command = [sys.executable, "-m", "mkdocs", *action]
    return subprocess.run(command, cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
