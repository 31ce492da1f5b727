"""`train` and `train-conformers`: flow matching on a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from molflowctl.cli.console import console, print_table
from molflowctl.cli.options import (
    Training,
    cores,
    grouped,
)
from molflowctl.cli.tables import live_lines

__all__ = ["train", "train_conformers"]


def _config_file(shipped: str) -> Any:
    """`--config`, a file or one of those that ship."""
    return typer.Option("--config", help=f"A YAML file, or {shipped}")


@grouped
def train(
    *,
    config: Annotated[
        str | None,
        _config_file(
            "qm9.yaml, qm9-explicit.yaml, own.yaml [default with --init: own.yaml; with --resume: "
            "the run's own]."
        ),
    ] = None,
    init: Annotated[
        str | None, typer.Option(help="Flow to start from, a name (see `flows`) or a folder.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="A prepared data set; with --init also an SDF file, .sdf or .sdf.gz."),
    ] = None,
    run: Training,
) -> None:
    """Train a de-novo flow by flow matching, or let one go on learning from molecules of yours.

    With --init and an SDF file, records that the flow cannot hold are left out and counted; the
    new flow draws the sizes of the file. The file is kept in the run's folder, as a data set.

    Examples:

        molflowctl train --init qm9 --data my.sdf.gz -o my-flow/

        molflowctl train --init qm9 --data my.sdf.gz --set minutes=5 --set lr=5e-4 -o my-flow/

        molflowctl train -o my-flow/ --resume

        molflowctl train --config qm9.yaml --data datasets/qm9-implicit -o runs/qm9

        torchrun --nproc-per-node 4 -m molflowctl train --config qm9.yaml -o runs/qm9
    """
    import json

    config = run.config_of_run(config)
    if config is None and init is None:
        raise typer.BadParameter("say what to train, or --init and --data.", param_hint="--config")
    if config is None and data is None:
        raise typer.BadParameter("say what to learn from.", param_hint="--data")
    from molflowctl.tasks.training.settings import TrainConfig

    options = {"init": init, "data": data, "name": init and run.out.resolve().name}
    given = [f"{key}={json.dumps(str(value))}" for key, value in options.items() if value]
    settings = TrainConfig.read(config or "own.yaml", [*given, *(run.changes or [])])
    from molflowctl.compute.progress import progress_bars
    from molflowctl.tasks.preparation import own_library
    from molflowctl.tasks.training.train import Trainer, sample_validity

    run.limit_threads()
    columns = (
        "minutes", "step", "epoch", "molecules_per_s", "lr", "train_loss", "raw_loss", "ema_loss",
    )  # fmt: skip

    def report(row: dict[str, float]) -> None:
        m, step, epoch, speed, lr, *losses = (row[c] for c in columns)
        valid = f"{row['ema_valid']:6.1%}" if "ema_valid" in row else "      "
        left = f"{m * (1 / row['progress'] - 1):4.0f}m" if row["progress"] else ""
        text = " ".join(f"{loss:7.4f}" for loss in losses)
        console.print(
            f"{m:8.1f} {step:7.0f} {epoch:6.2f} {speed:7.0f} {lr:9.2e} {text} {valid} {left}",
            highlight=False,
        )

    with progress_bars(run.quiet or not settings.data.is_file()) as bars:
        bar = bars.add_task("", total=None, visible=False)
        trainer = Trainer(
            settings,
            run.out,
            resume=run.resume,
            device=run.device,
            report=(lambda row: None) if run.quiet else report,
            validity=sample_validity,
            progress=lambda what, done, total: bars.update(
                bar, description=what, completed=done, total=total, visible=True
            ),
        )
    quiet = run.quiet or not trainer.fabric.is_global_zero
    if not quiet:
        if lines := own_library.describe(trainer.data.card):
            print_table(f"{settings.data} -> {run.out}", lines)
        console.print(
            " minutes    step  epoch   mol/s        lr   train     raw     ema  valid  left"
        )
    flow = trainer.run()
    if not quiet:
        console.print(
            f"written: {flow}   next: molflowctl generate {flow} -n 100 -o library.sdf.gz"
        )


@grouped
def train_conformers(
    *,
    config: Annotated[
        str | None, _config_file("qm9-conformers.yaml [default with --resume: the run's own].")
    ] = None,
    run: Training,
) -> None:
    """Train a conformer flow by flow matching on ensembles.

    Examples:

        molflowctl data prepare-conformers datasets/qm9-explicit -o datasets/qm9-conformers

        molflowctl train-conformers --config qm9-conformers.yaml -o runs/qm9-conformers

        molflowctl train-conformers -o runs/qm9-conformers --resume
    """
    config = run.config_of_run(config)
    if config is None:
        raise typer.BadParameter("say what to train.", param_hint="--config")
    from molflowctl.tasks.training.settings import ConformerTrainConfig

    settings = ConformerTrainConfig.read(config, run.changes)
    from molflowctl.tasks.training.train_conformers import ConformerTrainer

    run.limit_threads()
    columns = (
        ("minutes", 8, ".1f"), ("step", 7, ".0f"), ("epoch", 6, ".2f"),
        ("molecules_per_s", 7, ".0f"), ("lr", 9, ".2e"), ("train_loss", 7, ".4f"),
        ("raw_loss", 7, ".4f"), ("ema_loss", 7, ".4f"), ("recall", 7, ".3f"),
        ("precision", 7, ".3f"), ("stereo", 7, ".1%"),
    )  # fmt: skip

    def report(row: dict[str, float]) -> None:
        cells = [
            f"{row[name]:{width}{form}}" if name in row else " " * width
            for name, width, form in columns
        ]
        left = row["minutes"] * (1 / row["progress"] - 1) if row["progress"] else float("nan")
        console.print(live_lines([*cells, f"{left:4.0f}m"], console.width), highlight=False)

    trainer = ConformerTrainer(
        settings,
        run.out,
        resume=run.resume,
        device=run.device,
        jobs=run.threads or cores(),
        report=(lambda row: None) if run.quiet else report,
    )
    learnt = sum(len(group) for group in trainer.batches.values())
    if not run.quiet and (left := len(trainer.data.indices("train")) - learnt):
        console.print(
            f"left out: {left:,} training molecules of one atom, or, for a flow of heavy atoms, "
            "with a hydrogen that stereo needs",
            highlight=False,
        )
    if not run.quiet:
        heads = dict(zip((name for name, *_ in columns), (
            "minutes", "step", "epoch", "mol/s", "lr", "train", "raw", "ema", "AMR-R", "AMR-P",
            "stereo",
        ), strict=True))  # fmt: skip
        headings = [f"{heads[name]:>{width}}" for name, width, _ in columns]
        console.print(live_lines([*headings, " left"], console.width))
    flow = trainer.run()
    if not run.quiet:
        console.print(
            f"written: {flow}   next: molflowctl conformers library.smi --model {flow} "
            "-o conformers.sdf.gz"
        )
