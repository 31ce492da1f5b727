"""What every run that steers flows leaves and tells: its folder, its live table, its remarks."""

from __future__ import annotations

import copy
import csv
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from molflowctl.errors import UserError
from molflowctl.flows.flow import WEIGHTS, Flow, flow_names
from molflowctl.io.record import versions, write_json
from molflowctl.tasks.steering.population import Progress
from molflowctl.tasks.steering.settings import ConformerSteeringConfig, SteeringConfig

__all__ = ["Hooks", "RunFolder", "Table", "seed_of"]

PARENTS = "parents.json"
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
    """The live table of dataclasses, on disk whole at every moment."""

    def __init__(self, path: Path, report: Callable[[Any], None]) -> None:
        self.path, self.report = path, report
        self.rows: list[Any] = []

    def add(self, row: Any) -> None:
        self.rows.append(row)
        temporary = self.path.with_suffix(".tmp")
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(asdict(row)))
            writer.writeheader()
            writer.writerows(asdict(known) for known in self.rows)
        os.replace(temporary, self.path)
        self.report(row)


class RunFolder:
    """The folder of a run that makes one flow of others.

    Arguments:
        config: of the run, with `out`.
        names: of the parents.
        flows: the parents.

    Raises:
        UserError: if the folder holds a parent, is not empty or holds other things than a run, or
            another run is to be resumed.
    """

    # What a resume may change: where and how fast it runs, and how the result is judged.
    FREE = ("out", "jobs", "device", "timeout", "test_samples", "minutes", "epochs")

    def __init__(
        self,
        config: SteeringConfig | ConformerSteeringConfig,
        names: list[str],
        flows: Sequence[Flow],
        *,
        resume: bool,
        overwrite: bool,
    ) -> None:
        self.config, self.out = config, Path(config.out)
        self.rounds = self.out / "rounds"
        self.parents = [
            {"name": name, "weights_sha256": flow.card.get("weights_sha256")}
            for name, flow in zip(names, flows, strict=True)
        ]
        for name in names:
            if self.out.resolve() == flow_names().get(name, Path(name)).resolve():
                raise UserError(
                    f"{self.out} holds the flow {name}, which is to stay; choose another folder."
                )
        full = self.out.exists() and any(self.out.iterdir())
        if full and not (resume or overwrite):
            raise UserError(
                f"{self.out} is not empty; choose another folder, --resume or --overwrite."
            )
        begun = (self.out / PARENTS).exists() and (self.out / "config.yaml").exists()
        if full and not begun and (resume or not (self.out / WEIGHTS).exists()):
            raise UserError(
                f"{self.out} is not empty and holds no run of this command (no {PARENTS}): choose "
                f"another folder."
            )
        if resume and begun:
            self._check_resume()
        else:
            for rest in (self.rounds, self.out / "data", self.out / "training"):
                shutil.rmtree(rest, ignore_errors=True)
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "card.json").unlink(missing_ok=True)  # no flow until the run is over
        config.dump(self.out / "config.yaml")
        (self.out / PARENTS).write_text(json.dumps(self.parents, indent=2) + "\n")

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
        """Write the flow with its lineage, and the record of the run."""
        settings = self.config.model_dump(mode="json")
        flow.save(
            self.out,
            {
                "name": self.out.name,
                "parents": self.parents,
                "objective": objective,
                kind: {"config": settings, **summary},
            },
        )
        write_json(self.out / f"{kind}.run.json", {**summary, "versions": versions()})

    def _check_resume(self) -> None:
        earlier = type(self.config).read(self.out / "config.yaml").model_dump()
        now = self.config.model_dump()
        differ = [
            f"{key} = {earlier[key]}, not {now[key]}"
            for key in now
            if key not in self.FREE and earlier[key] != now[key]
        ]
        known = self.out / PARENTS
        if known.exists() and json.loads(known.read_text()) != self.parents:
            differ.append(f"other weights of {', '.join(str(p['name']) for p in self.parents)}")
        if differ:
            raise UserError(
                f"{self.out} was begun with {'; '.join(differ)}: resume it as it was begun, or "
                f"start again with --overwrite."
            )


def seed_of(seed: int, *purpose: int) -> int:
    """Independent seeds for the parts of a run."""
    return int(np.random.SeedSequence([seed, *purpose]).generate_state(1)[0])
