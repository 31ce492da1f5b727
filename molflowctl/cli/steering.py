"""What the commands that make flows of flows share: settings, names in a circuit, a live table."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from molflowctl.cli.console import console
from molflowctl.cli.options import (
    Changes,
    Circuit,
    ConfigFile,
    FlowFolder,
    Jobs,
    Let,
    MirrorSteps,
    Overwrite,
    Quiet,
    Resume,
    SteeringDevice,
    SteeringSeed,
    Utility,
    Weights,
    cores,
)
from molflowctl.errors import UserError
from molflowctl.io.yaml_input import read_mapping

if TYPE_CHECKING:
    from molflowctl.io.config import Config

__all__ = ["MergeOptions", "SteeringOptions", "live_table", "settings_of"]


@dataclass(frozen=True)
class SteeringOptions:
    """What every command that makes flows of flows can be told."""

    out: FlowFolder
    utility: Utility = None
    mirror_steps: MirrorSteps = None
    seed: SteeringSeed = None
    jobs: Jobs = None
    device: SteeringDevice = None
    config: ConfigFile = None
    changes: Changes = None
    resume: Resume = False
    overwrite: Overwrite = False
    quiet: Quiet = False

    def settings(self, kind: Any, **given: Any) -> Any:
        """The settings of class `kind`, with those of the command's own options."""
        for name in ("out", "utility", "mirror_steps", "seed", "jobs", "device"):
            given[name] = getattr(self, name)
        return settings_of(kind, self.config, given, self.changes, self.resume)

    def say_next(self, command: str, page: str = "") -> None:
        """Say what was written, what its page shows, and a command that goes on with it."""
        if not self.quiet:
            if page:
                console.print(
                    f"{page}: {Path(self.out) / 'report.html'}", highlight=False, markup=False
                )
            told = command.format(out=self.out)
            console.print(f"written: {self.out}   next: molflowctl {told}")


@dataclass(frozen=True)
class MergeOptions:
    """What flows are merged."""

    circuit: Circuit = None
    let: Let = None
    weights: Weights = None

    def given(self) -> dict[str, Any]:
        """As settings."""
        flows = {}
        for entry in self.let or []:
            name, found, place = entry.partition("=")
            if not found:
                raise UserError(f"--let takes NAME=FLOW, got {entry!r}.")
            flows[name.strip()] = place.strip()
        weights = None if self.weights is None else self.weights.split(",")
        return {"circuit": self.circuit, "flows": flows or None, "weights": weights}


def settings_of(
    kind: type[Config],
    file: Path | None,
    given: dict[str, Any],
    changes: list[str] | None,
    resume: bool = False,
) -> Any:
    """Settings of a file, under what the command line gives: options that are not None.

    A run that is resumed without a file takes them from its folder.
    """
    begun = Path(given["out"]) / "config.yaml"
    if resume and file is None and begun.exists():
        file, values = begun, kind.of_record(read_mapping(begun))
    else:
        values = {} if file is None else kind.with_new_names(read_mapping(file))
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
