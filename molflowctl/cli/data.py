"""`data`: prepare data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from molflowctl.cli.console import console, print_table
from molflowctl.cli.options import (
    Changes,
    Jobs,
    Overwrite,
    Quiet,
    Resume,
    Seed,
    cores,
    output,
    seeded,
)
from molflowctl.errors import UserError

__all__ = ["prepare", "prepare_conformers", "subset"]


def prepare(
    name: Annotated[str, typer.Argument(help="qm9.")],
    out: Annotated[Path | None, output("[default: datasets/NAME-HYDROGENS]")] = None,
    hydrogens: Annotated[str, typer.Option(help="implicit or explicit.")] = "implicit",
    source: Annotated[
        Path | None,
        typer.Option(
            help="qm9pack's CSV folder or wheel, or the official archive [default: found]."
        ),
    ] = None,
    seed: Annotated[int, seeded("Of the split.")] = 0,
    jobs: Jobs = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Prepare a data set: bonds and charges matched to the geometry, checked, split.

    Examples:

        molflowctl data prepare qm9

        molflowctl data prepare qm9 --hydrogens explicit -o datasets/qm9-explicit
    """
    if name != "qm9":
        raise UserError(f"there is no recipe for {name!r}; known: qm9.")
    from molflowctl.tasks.prepare import prepare_qm9

    folder = out or Path("datasets") / f"{name}-{hydrogens}"
    data = prepare_qm9(
        folder,
        hydrogens,  # type: ignore[arg-type]
        source,
        seed,
        jobs or cores(),
        not quiet,
        overwrite,
    )
    if not quiet:
        console.print(f"written: {folder}, {len(data):,} molecules")


def subset(
    data: Annotated[Path, typer.Argument(help="A prepared data set.")],
    property_name: Annotated[
        str, typer.Option("-p", "--property", help="A property, see `properties`.")
    ],
    interval: Annotated[
        str, typer.Option("--range", help="Values to keep, ends included: 4:8, 4: or :3.5.")
    ],
    out: Annotated[Path, output("Folder of the new data set.")],
    limit: Annotated[
        int | None, typer.Option(min=1, help="Molecules to score, drawn at random [default: all].")
    ] = None,
    seed: Annotated[int, seeded("Of the draw and the split.")] = 0,
    jobs: Jobs = None,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds per molecule, 0 for any.")] = 30.0,
    cache: Annotated[
        str | None, typer.Option(help="Where values are kept [default: as for `score`].")
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Keep the training molecules of a data set whose property is in a range, to train on.

    Molecules are scored by the real program, hydrogens completed, at the data set's geometry.
    Values go to the cache of `score`, so that an interrupted run goes on where it was.

    Examples:

        molflowctl data subset datasets/qm9-implicit -p dipole_debye --range 4: -o datasets/polar

        molflowctl data subset datasets/qm9-implicit -p rings --range 3: --limit 9000 -o my-rings

        molflowctl train --init qm9 --data datasets/polar -o polar/
    """
    from molflowctl.tasks import subset as task
    from molflowctl.tasks.progress import progress_bars

    low, high = task.parse_range(interval)
    config = task.SubsetConfig.parse(
        {
            "data": data, "out": out, "property": property_name, "low": low, "high": high,
            "limit": limit, "seed": seed, "jobs": jobs or cores(), "timeout": timeout or None,
            "cache": cache, "overwrite": overwrite,
        },
        where="the command line",
    )  # fmt: skip
    with progress_bars(quiet) as bars:
        bar = bars.add_task("scoring", total=None)
        kept = task.subset(config, lambda done, of: bars.update(bar, completed=done, total=of))
    if not quiet:
        print_table(f"{data} -> {out}", task.describe(kept.card))
        console.print(f"next: molflowctl train --init qm9 --data {out} -o my-flow/")


def prepare_conformers(
    source: Annotated[
        str, typer.Argument(help="Folder of a data set, or a .smi or .csv, perhaps .gz.")
    ],
    out: Annotated[str, output("Folder of the ensembles.")],
    starts: Annotated[int, typer.Option(min=1, help="Of ETKDGv3, per molecule.")] = 10,
    relax: Annotated[str, typer.Option(help="mmff, or gfn2 after it.")] = "mmff",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Molecules, drawn at random [default: all].")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Only train, validation or test [default: all].")
    ] = None,
    sdf: Annotated[str | None, typer.Option(help="Also an SDF library of the ensembles.")] = None,
    seed: Seed = 0,
    jobs: Jobs = None,
    changes: Changes = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Ensembles of conformers: many starts, relaxed, pruned and weighed.

    The stereo of a data set with geometries is theirs, and so is its split. Molecules of a file are
    split by a hash, 90 % for training and 5 % each for validation and test.

    Examples:

        molflowctl data prepare-conformers datasets/qm9-explicit -o datasets/qm9-conformers

        molflowctl data prepare-conformers datasets/qm9-explicit --split test --limit 300
        --starts 100 --relax gfn2 --sdf references.sdf.gz -o datasets/qm9-references

        molflowctl data prepare-conformers moses.csv --limit 20000 -o datasets/moses-conformers
    """
    from molflowctl.config import EnsembleConfig
    from molflowctl.tasks.ensembles import prepare_ensembles
    from molflowctl.tasks.progress import progress_bars

    config = EnsembleConfig.parse(
        {
            "source": source, "out": out, "starts": starts, "relax": relax, "limit": limit,
            "split": split, "sdf": sdf, "seed": seed, "jobs": jobs or cores(),
            "name": Path(out).name, "resume": resume, "overwrite": overwrite,
        },
        changes,
        where="the command line",
    )  # fmt: skip
    with progress_bars(quiet) as bars:
        bar = bars.add_task("molecules", total=None)
        data = prepare_ensembles(
            config, progress=lambda done, total: bars.update(bar, completed=done, total=total)
        )
    if not quiet:
        for reason, count in data.card["left_out"].items():
            console.print(f"left out: {count:,} {reason}", highlight=False, markup=False)
        console.print(f"written: {out}, {len(data.energies):,} conformers of {len(data):,}")
