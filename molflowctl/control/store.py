"""What a run of mirror steps leaves on disk, to be resumed from."""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow
from molflowctl.io.atomic import replacing_file, write_file

__all__ = ["MirrorStep", "Store", "digest"]


@dataclass(frozen=True)
class MirrorStep:
    """What is known after `step` mirror steps; the figures are of the density before the step.

    Arguments:
        flow: after the step.
        objective: `G`.
        terms: name, factor and value of each part of `G`.
        effective_size: of the prior's points under the weights `exp(R_k)`; NaN for the anchor
            "previous", which has none.
        reward_calls: states at which the objective's rewards were evaluated in this run so far.
        seconds: since the run began.
    """

    step: int
    flow: Flow
    step_size: float
    objective: float
    terms: list[tuple[str, float, float]]
    effective_size: float
    reward_calls: int
    seconds: float

    def row(self) -> dict[str, float | int]:
        """The figures, for a log."""
        values = {f"{k}: {name}": value for k, (name, _, value) in enumerate(self.terms)}
        names = ("step", "step_size", "objective", "effective_size", "reward_calls", "seconds")
        return {**{name: getattr(self, name) for name in names}, **values}


class Store:
    """The folder of a run: `run.json`, `log.csv` and one flow per step, `step-001/` on.

    Raises:
        UserError: if the folder holds a run with other settings.
    """

    def __init__(self, folder: str | Path | None, identity: dict[str, Any]) -> None:
        self.folder = None if folder is None else Path(folder)
        self.rows: list[dict[str, Any]] = []
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "run.json"
        if path.exists():
            try:
                known = dict(json.loads(path.read_text()))
            except (ValueError, TypeError):
                raise UserError(
                    f"{path} cannot be read as a run's settings: give another folder."
                ) from None
            wrong = [key for key in identity if known.get(key) != identity[key]]
            if wrong:
                raise UserError(
                    f"{self.folder} holds another run (its {wrong[0]} differs): resume it with its "
                    f"own settings or give another folder."
                )
        else:
            write_file(path, json.dumps(identity, indent=2) + "\n")

    def load(self, step: int, like: Flow) -> Flow | None:
        """The flow after `step`, of the kind of another one, where an earlier run got there."""
        if self.folder is None or not (self._place(step) / "card.json").exists():
            return None
        return like.stored(self._place(step))

    def save(self, step: MirrorStep) -> None:
        """Keep a step's flow, exactly, and its row."""
        if self.folder is None:
            return
        path, row = self.folder / "log.csv", step.row()
        old: list[dict[str, Any]] = []
        if path.exists():
            with path.open(newline="") as file:
                # A run that was killed before it kept the flow comes by its row again.
                old = [r for r in csv.DictReader(file) if int(r["step"]) < step.step]
        with replacing_file(path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            writer.writeheader()
            writer.writerows([*old, row])
        self.keep(step.step, step.flow)

    def keep(self, step: int, flow: Flow) -> None:
        """Keep a flow, exactly, as that of a step."""
        if self.folder is not None:
            flow.save(self._place(step), half=False)

    def _place(self, step: int) -> Path:
        assert self.folder is not None
        return self.folder / f"step-{step:03d}"


def digest(flow: Flow) -> str:
    """Of a flow's arguments and weights."""
    sha = hashlib.sha256(repr(flow.arguments).encode())
    for name, tensor in sorted(flow.state_dict().items()):
        sha.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()
