"""A flow that goes on learning from molecules."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from molflowctl.errors import UserError
from molflowctl.face.draw import named_flow
from molflowctl.face.library import Molecules, given
from molflowctl.face.showing import bar
from molflowctl.face.steer import run_folder

if TYPE_CHECKING:
    from molflowctl.io.reading import Given
    from molflowctl.models import DeNovoFlow, Flow

__all__ = ["train"]


def train(
    molecules: Molecules,
    init: str | os.PathLike[str] | Flow,
    *,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    device: str = "auto",
    progress: bool = True,
    watch: Callable[[dict[str, float]], object] | None = None,
    **settings: Any,
) -> DeNovoFlow:
    """Let a flow go on learning from your molecules; at least 32 that it can hold.

    Examples:
        >>> flow = train(mols, init="druglike", minutes=5)
        >>> generate(flow, n=100)

    What the flow cannot hold (its elements, charges and sizes) is left out and counted. The new
    flow draws the sizes of your molecules.

    Arguments:
        molecules: as of `score`. Those without a geometry are given one first, by ETKDGv3 and
            MMFF94.
        init: the flow to start from: shipped, a folder, or a de-novo flow itself, which stays as
            it is.
        out: folder of the run, with the new flow and all that a resume needs; molecules that are
            in memory are kept beside it, `<out>.given.sdf`. None keeps nothing.
        resume: go on with the run in `out`.
        device: auto, cpu, cuda or cuda:1.
        progress: show a bar on standard error, of the share of the run that is done.
        watch: called with the figures of each validation, such as `ema_loss`.
        settings: any other of `molflowctl settings train`, such as `minutes=5` or `lr=5e-4`; the
            rest is of `own.yaml`.

    Returns:
        The new flow. What it learnt from, and what was left out, is in its card, under "data".

    Raises:
        UserError: for molecules, a flow, setting or folder that cannot be used.
    """
    from molflowctl.io.config import packaged_configs
    from molflowctl.io.yaml_input import read_mapping
    from molflowctl.models import DeNovoFlow
    from molflowctl.tasks.training.settings import TrainConfig
    from molflowctl.tasks.training.train import Trainer

    source = given(molecules)
    with run_folder(out) as folder, tempfile.TemporaryDirectory(prefix="molflowctl-") as beside:
        name, loaded = named_flow(init)
        # Of a run that is kept, a resume asks for the same file.
        given_file = Path(beside) / "molecules.sdf" if out is None else Path(f"{folder}.given.sdf")
        config = TrainConfig.parse(
            {**read_mapping(packaged_configs()["own.yaml"]), "name": folder.name,
             **settings, "init": name, "data": given_file},
            where="train()",
        )  # fmt: skip
        if loaded is not None:
            place = loaded.save(Path(beside) / "init", half=False)
            config = config.model_copy(update={"init": str(place)})
        if isinstance(source, str):
            config = config.model_copy(update={"data": Path(source)})
        elif not (resume and given_file.exists()):
            _write(source, given_file, progress)
        with bar(progress, "learning") as show:

            def report(row: dict[str, float]) -> None:
                show(round(100 * row["progress"]), 100)
                if watch is not None:
                    watch(row)

            try:
                trainer = Trainer(config, folder, resume=resume, device=device, report=report)
            except UserError as error:  # which names a file that the user did not write
                raise UserError(str(error).replace(str(config.data), str(source))) from None
            flow = DeNovoFlow.load(trainer.run())
    if loaded is not None:
        flow.card["parents"][0]["name"] = name
        flow.card["training"]["config"]["init"] = name
    if out is None and not isinstance(source, str):  # its file is gone
        flow.card["training"]["config"]["data"] = str(source)
    return flow


def _write(molecules: Given, path: Path, progress: bool) -> None:
    """Write molecules as an SDF, with geometries made as `score` makes them."""
    from molflowctl.tasks.scoring.score import score_library
    from molflowctl.tasks.scoring.settings import ScoreConfig

    config = ScoreConfig(library=str(molecules), out=str(path), properties=("mw",))
    with bar(progress, "geometries") as show:
        score_library(config, show, given=molecules)
