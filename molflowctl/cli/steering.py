"""What the commands that make flows of flows share: settings, names in a circuit, a live table."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from molflowctl.cli.options import cores
from molflowctl.errors import UserError
from molflowctl.io.yaml_input import read_mapping

__all__ = ["live_table", "named_flows", "settings_of", "weights_of"]


def settings_of(
    kind: Any,
    file: Path | None,
    given: dict[str, Any],
    changes: list[str] | None,
    resume: bool = False,
) -> Any:
    """Settings of a file, under what the command line gives: options that are not None.

    A run that is resumed without a file takes them from its folder.
    """
    if resume and file is None and (Path(given["out"]) / "config.yaml").exists():
        file = Path(given["out"]) / "config.yaml"
    values = {} if file is None else read_mapping(file)
    values |= {key: value for key, value in given.items() if value is not None}
    values["jobs"] = values.get("jobs") or cores()
    return kind.parse(values, changes, where=str(file or "the command line"), file=file)


@contextlib.contextmanager
def live_table(header: str, line: Callable[[Any], str], quiet: bool) -> Iterator[Any]:
    """The live table of a steering, with a bar for what is being drawn or scored."""
    from molflowctl.compute.progress import progress_bars
    from molflowctl.tasks.steering.run_folder import Hooks

    label = ""
    with progress_bars(quiet) as bars:
        task = bars.add_task(label, total=None, visible=False)

        def say(text: str) -> None:
            if not quiet:
                bars.console.print(text, highlight=False, markup=False, soft_wrap=True)

        def report(row: Any) -> None:
            nonlocal header
            if header:
                say(header)
                header = ""
            say(line(row))

        def progress(what: str, done: int, total: int) -> None:
            nonlocal label
            if what != label:
                label = what
                bars.reset(task, total=total, description=what)
            bars.update(task, completed=done, visible=done < total)

        yield Hooks(report=report, say=say, progress=progress)


def named_flows(let: list[str] | None) -> dict[str, str] | None:
    """The flows of `--let NAME=FLOW`; None where there are none."""
    flows = {}
    for entry in let or []:
        name, found, place = entry.partition("=")
        if not found:
            raise UserError(f"--let takes NAME=FLOW, got {entry!r}.")
        flows[name.strip()] = place.strip()
    return flows or None


def weights_of(text: str | None) -> list[str] | None:
    """The numbers of `--weights 1,3`, as they are written."""
    return None if text is None else text.split(",")
