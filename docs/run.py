"""Run the code of pages: `python docs/run.py docs/first-hour.md [--short] [--write]`.

The blocks of a page run one after another in one folder, `build/run/PAGE` (or `--into`):

    ```bash               commands of molflowctl, by the command line itself
    ```python             Python, with one namespace for the page
    ```text title="NAME"  is no code: the file NAME has this text

A block below `<!-- not run: REASON -->` is left out. A command that ends with another exit status
than 0, or than what `<!-- exit status 3 -->` above its block says, ends the run.
`--short` is the form that the tests run: few molecules, few steps, and `qm9` in place of `druglike`
where a flow is steered (`shortened` says all of it). `--write` puts what was printed into the text
below each `<!-- output -->`, and the pictures that the page shows beside the page.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>[^>]+?) -->\n+)?(?:<!-- exit status (?P<status>\d) -->\n+)?"
    r"^```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)^```$",
    re.S | re.M,
)
OUTPUT = re.compile(r"\n+<!-- output -->\n```text\n(?P<text>.*?)^```$", re.S | re.M)

# Files that a page speaks of and that a reader has: here they are those of the tests.
POCKET = ROOT / "tests/properties/docking/data"
GIVEN = {
    "docking.md": {
        "protein.pdb": POCKET / "1s2g_pocket.pdb.gz",
        "known.sdf": POCKET / "1s2g_ligand.sdf",
    }
}

STEERING = ["base_samples=64", "n_samples=16", "test_samples=2", "nfe=8", "mirror_nfe=8",
            "mirror_steps=1", "train_steps=2"]  # fmt: skip
# What a command is given besides in the short form, and the most of an option.
SHORT: dict[str, list[str]] = {
    "generate": ["--nfe", "20"],
    "finetune": [part for name in STEERING for part in ("--set", name)],
    "merge": [part for name in STEERING for part in ("--set", name)],
    "preview": ["-n", "16"],
    "score": ["--timeout", "600"],  # on a machine with other work, too
    "docking prepare": ["--exhaustiveness", "1", "--time-limit", "600"],
}
MOST = {"-n": {"conformers": 2, "preview": 16}, "--attempts": {}}
FEW = 4
PASSING = re.compile("\u2501|^time ")  # bars, and times of this machine: not kept


@dataclass
class Block:
    """A block of code of a page, and why it is not run, if it is not.

    Args:
        status: which exit status its commands may have beside 0.
        end: where in the page it ends.
    """

    language: str
    text: str
    title: str | None
    reason: str | None
    status: int
    end: int


def blocks(page: str) -> list[Block]:
    """All blocks of a page, in their order."""
    return [
        Block(m["language"], m["text"], m["title"], m["reason"], int(m["status"] or 0), m.end())
        for m in BLOCK.finditer(page)
    ]


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command of a block, `molflowctl` left out.

    Raises:
        ValueError: at a line that is no command of molflowctl.
    """
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        words = shlex.split(line, comments=True)
        if words and words[0] != "molflowctl":
            raise ValueError(f"no command of molflowctl, and not marked `not run`: {line}")
        if words:
            yield words[1:]


def shortened(words: list[str]) -> list[str]:
    """A command with few molecules and few steps."""
    name = " ".join(words[:2]) if words[0] in ("benchmark", "docking", "data") else words[0]
    short = list(words)
    for option, most in MOST.items():
        for i in [i for i, word in enumerate(short) if word == option]:
            short[i + 1] = str(min(int(short[i + 1]), most.get(name, FEW)))
    around = {"--core", "--like"} & set(words)
    if name in ("finetune", "merge") and not around:
        short = [re.sub(r"\bdruglike\b", "qm9", word) for word in short]
    if name == "train":
        short = [re.sub(r"^minutes=.*", "train_steps=2", word) for word in short]
    if name == "score":  # MMFF94 in place of a relaxation by GFN2-xTB
        short = [word.replace("relax-energy", "mmff-energy") for word in short]
    more = SHORT.get(name, [])
    if name == "generate" and "--nfe" in short:
        more = []
    one = ["-j", "1"] if "-j" not in short and takes_jobs(name) else []
    return short + more + one


def takes_jobs(name: str) -> bool:
    """Whether a command has `-j`."""
    import typer

    from molflowctl.cli import app

    command: Any = typer.main.get_command(app)
    for part in name.split():
        command = command.commands[part]
    return any("-j" in option.opts for option in command.params)


def run_command(words: list[str], allowed: int) -> str:
    """What a command prints.

    Raises:
        RuntimeError: if it ends with another status than 0 and the one that is allowed.
    """
    from molflowctl.cli import app

    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            status = app(words, standalone_mode=False)
        except SystemExit as end:
            status = end.code
    if status not in (None, 0, allowed):
        raise RuntimeError(f"molflowctl {shlex.join(words)}: status {status}\n{said.getvalue()}")
    return said.getvalue()


def run(
    page: Path, *, short: bool = False, say: Callable[[str], None] = lambda text: None
) -> dict[int, str]:
    """Run a page in the working folder; what each block printed, by where the block ends."""

    for name, source in GIVEN.get(page.name, {}).items():
        data = source.read_bytes()
        Path(name).write_bytes(gzip.decompress(data) if source.suffix == ".gz" else data)
    names: dict[str, Any] = {"__name__": "__main__"}
    printed: dict[int, str] = {}
    for block in blocks(page.read_text()):
        if block.reason:
            continue
        if block.title:
            Path(block.title).write_text(block.text)
        elif block.language == "bash":
            printed[block.end] = ""
            for words in commands(block.text):
                began = time.process_time()
                small = shortened(words) if short else words
                printed[block.end] += run_command(small, block.status)
                say(f"{time.process_time() - began:6.1f} s  molflowctl {shlex.join(words)[:80]}")
        elif block.language == "python":
            said = io.StringIO()
            with contextlib.redirect_stdout(said):
                exec(compile(block.text, page.name, "exec"), names)
            printed[block.end] = said.getvalue()
    return printed


def written(page: str, printed: dict[int, str]) -> str:
    """A page with the outputs of its blocks as they were printed."""
    for end in sorted(printed, reverse=True):
        output = OUTPUT.match(page, end)
        if output:
            lines = [line.rstrip() for line in printed[end].strip().splitlines()]
            text = "".join(f"{line}\n" for line in lines if not PASSING.search(line))
            page = page[: output.start("text")] + text + page[output.end("text") :]
    return page


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--short", action="store_true", help="Few molecules and steps.")
    parser.add_argument("--write", action="store_true", help="Keep outputs and pictures.")
    parser.add_argument("--into", type=Path, default=ROOT / "build/run", help="Where to run.")
    arguments = parser.parse_args()
    for page in (path.resolve() for path in arguments.pages):
        folder = arguments.into.resolve() / page.stem
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        with contextlib.chdir(folder):
            printed = run(page, short=arguments.short, say=print)
        print(f"{page.name}: {len(printed)} blocks ran in {folder}")
        if arguments.write:
            text = page.read_text()
            page.write_text(written(text, printed))
            for picture in re.findall(r"!\[[^]]*\]\(([^)/]+)\)", text):
                if (folder / picture).exists():
                    shutil.copyfile(folder / picture, page.parent / picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
