"""The figures of a training as it goes: `log.csv`, and `tensorboard/` where that is installed."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from molflowctl.io.atomic import replacing_file

__all__ = ["TrainingLog"]


class TrainingLog:
    """The log of the run in `folder`; a resumed run takes over what is there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._board: Any = None  # of TensorBoard, once there is something to show

    def add(self, row: dict[str, float]) -> None:
        """Write the figures of a validation; `row["step"]` says when it was.

        Raises:
            UserError: the file cannot be written.
        """
        path = self.folder / "log.csv"
        names = list(row)
        old: list[dict[str, Any]] = []
        if path.exists():
            with path.open(newline="") as file:
                # A resumed run comes again by what was logged after its checkpoint.
                old = [r for r in csv.DictReader(file) if int(r["step"]) < row["step"]]
            names = list(dict.fromkeys([*(old[0] if old else {}), *row]))
        with replacing_file(path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows([*old, row])
        if self._board is None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:  # an extra; the CSV holds the same figures
                return
            self._board = SummaryWriter(str(self.folder / "tensorboard"))
        for name, value in row.items():
            self._board.add_scalar(name, value, int(row["step"]))
        self._board.flush()

    def close(self) -> None:
        """Close what TensorBoard has open."""
        if self._board is not None:
            self._board.close()
            self._board = None
