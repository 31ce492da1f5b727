"""What every run that steers flows leaves and tells: its folder, its live table, its remarks."""

from __future__ import annotations

import copy
import csv
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from molflowctl.errors import UserError
from molflowctl.flows.flow import WEIGHTS, Flow, flow_names
from molflowctl.io.atomic import (
    cannot_write,
    leftovers,
    partial_name,
    replace_folder,
    replacing_file,
    write_file,
)
from molflowctl.io.config import of_a_record
from molflowctl.io.record import versions, write_json
from molflowctl.tasks.steering.population import Progress
from molflowctl.tasks.steering.settings import ConformerSteeringConfig, SteeringConfig

__all__ = ["REPORT", "Hooks", "RunFolder", "Table", "seed_of"]

PARENTS = "parents.json"
REPORT = "report.html"
_TABLES = [f"{kind}.{end}" for kind in ("finetune", "merge") for end in ("csv", "run.json")]
OF_RUNS = {
    "data",
    "training",
    "rounds",
    ".lock",
    "report.html",
    *_TABLES,
}  # of an earlier run, and go with it
F = TypeVar("F", bound=Flow)


@dataclass(frozen=True)
class Hooks:
    """What a task tells while it runs.

    Arguments:
        report: called with each line of the live table.
        say: called with each remark.
        progress: called with what is being drawn or scored, how many are done, and of how many.
    """

    report: Callable[[Any], None] = lambda line: None
    say: Callable[[str], None] = lambda text: None
    progress: Progress = lambda label, done, total: None


class Table:
    """The live table of dataclasses, on disk whole at every moment.

    A resumed run comes by the rows of the earlier one again: each stays until its own replaces it.
    """

    def __init__(self, path: Path, report: Callable[[Any], None]) -> None:
        self.path, self.report = path, report
        self.rows: list[Any] = []
        self._earlier: list[dict[str, Any]] = []
        if path.exists():
            with path.open(newline="") as file:
                self._earlier = list(csv.DictReader(file))

    def add(self, row: Any) -> None:
        self.rows.append(row)
        names = list(asdict(row))
        rest = [r for r in self._earlier[len(self.rows) :] if list(r) == names]
        with (
            replacing_file(self.path) as temporary,
            temporary.open("w", newline="") as file,
        ):
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows([*(asdict(known) for known in self.rows), *rest])
        self.report(row)


class RunFolder:
    """The folder of a run that makes one flow of others; to be made under its lock.

    A run that is to overwrite another works in a folder of its own beside it, which takes its name
    when the flow is whole.

    Attributes:
        out: where the run works.

    Arguments:
        config: of the run, with `out`.
        names: of the parents.
        flows: the parents.

    Raises:
        UserError: if the folder holds a parent, is not empty or holds other things than a run, or
            another run is to be resumed.
    """

    # What a resume may change: where and how fast it runs, and how the result is judged.
    FREE = (
        "out",
        "jobs",
        "device",
        "timeout",
        "test_samples",
        "minutes",
        "epochs",
        "oracle_budget",
        "max_filter_share",
    )

    def __init__(
        self,
        config: SteeringConfig | ConformerSteeringConfig,
        names: list[str],
        flows: Sequence[Flow],
        *,
        resume: bool,
        overwrite: bool,
    ) -> None:
        self.config, self.final = config, Path(config.out)
        self.parents = [
            {"name": name, "weights_sha256": flow.card.get("weights_sha256")}
            for name, flow in zip(names, flows, strict=True)
        ]
        for name in names:
            if self.final.resolve() == flow_names().get(name, Path(name)).resolve():
                raise UserError(
                    f"{self.final} holds the flow {name}, which is to stay; choose another folder."
                )
        self.out = self._resumed() if resume else self._begun(overwrite)
        self.rounds = self.out / "rounds"
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(self.final, error) from error
        config.dump(self.out / "config.yaml")
        write_file(self.out / PARENTS, json.dumps(self.parents, indent=2) + "\n")

    def _begun(self, overwrite: bool) -> Path:
        """Where a new run works."""
        if not _is_full(self.final):
            return self.final
        if not overwrite:
            raise UserError(
                f"{self.final} is not empty; choose another folder, --resume or --overwrite."
            )
        if not _is_run(self.final) and not (self.final / WEIGHTS).exists():
            raise self._foreign()
        return partial_name(self.final.resolve())

    def _resumed(self) -> Path:
        """Where the run works that is resumed: the one of these settings."""
        differ: list[str] = []
        for place in [*reversed(leftovers(self.final.resolve())), self.final]:
            if _is_run(place) and not (differ := self._differences(place)):
                return place
        if differ:
            raise UserError(
                f"{self.final} was begun with {'; '.join(differ)}: resume it as it was begun, or "
                f"start again with --overwrite."
            )
        if _is_full(self.final):
            raise self._foreign()
        return self.final

    def _foreign(self) -> UserError:
        return UserError(
            f"{self.final} is not empty and holds no run of this command (no {PARENTS}): choose "
            f"another folder."
        )

    def beginning(self, parent: F) -> F:
        """A copy of a parent to start from, whose card is that of its children."""
        flow = copy.deepcopy(parent)
        kept = ("data", "licence", "retrain", "sampling")
        flow.card = {k: v for k, v in parent.card.items() if k in kept}
        flow.card["parents"] = self.parents
        return flow

    def finish(
        self, flow: Flow, kind: str, objective: dict[str, str], summary: dict[str, Any]
    ) -> None:
        """Write the flow with its lineage, and the record of the run; then all has its name."""
        settings = self.config.model_dump(mode="json")
        flow.save(
            self.out,
            {
                "name": self.final.name,
                "parents": self.parents,
                "objective": objective,
                kind: {"config": settings, **summary},
            },
        )
        record = {
            "command": type(self.config).command,
            "config": settings,
            "parents": self.parents,
            **summary,
            "versions": versions(),
        }
        write_json(self.out / f"{kind}.run.json", record)
        try:
            if self.out != self.final:
                self._keep_others()
                replace_folder(self.out, self.final.resolve())
        except OSError as error:
            raise cannot_write(self.final, error) from error
        for rest in leftovers(self.final.resolve()):
            if _is_run(rest):
                shutil.rmtree(rest, ignore_errors=True)

    def _keep_others(self) -> None:
        """Take over what stands in the earlier run's folder and is not of a run: the user's own."""
        for path in self.final.iterdir():
            if path.name in OF_RUNS or (self.out / path.name).exists():
                continue
            copy_of = shutil.copytree if path.is_dir() else shutil.copy2
            copy_of(path, self.out / path.name)

    def _differences(self, place: Path) -> list[str]:
        """How what was begun there differs from what is asked for."""
        with of_a_record():
            earlier = type(self.config).read(place / "config.yaml").model_dump()
        now = self.config.model_dump()
        differ = [
            f"{key} = {earlier[key]}, not {now[key]}"
            for key in now
            if key not in self.FREE and earlier[key] != now[key]
        ]
        if json.loads((place / PARENTS).read_text()) != self.parents:
            differ.append(f"other weights of {', '.join(str(p['name']) for p in self.parents)}")
        return differ


def _is_full(folder: Path) -> bool:
    # In the mount point of a container its lock is inside.
    return folder.exists() and any(p.name != ".lock" for p in folder.iterdir())


def _is_run(folder: Path) -> bool:
    return (folder / PARENTS).exists() and (folder / "config.yaml").exists()


def seed_of(seed: int, *purpose: int) -> int:
    """Independent seeds for the parts of a run."""
    return int(np.random.SeedSequence([seed, *purpose]).generate_state(1)[0])
