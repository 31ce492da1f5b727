"""`score`, `rank` and `surrogate`: properties of a library, its best, and a network for one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from molflowctl.cli.console import FEWER, NOTES, console, print_lines, print_table
from molflowctl.cli.options import (
    Changes,
    Columns,
    Device,
    Fragments,
    Jobs,
    Minimise,
    Multiplicity,
    Nfe,
    Overwrite,
    Pictures,
    Quiet,
    Resumable,
    ScoredLibrary,
    SelectedFile,
    SmilesColumn,
    cores,
    grouped,
    kept_in,
    output,
    seeded,
)

__all__ = ["preview", "rank", "score", "surrogate"]


@grouped
def score(
    *,
    library: Annotated[
        str, typer.Argument(help=".sdf, .smi, .csv or .parquet, perhaps with .gz; or -.")
    ],
    properties: Annotated[
        list[str],
        typer.Option(
            "-p",
            "--properties",
            help="With commas; see `properties`, and of `rewards` those with arguments; "
            "docking('FILE').",
        ),
    ],
    out: SelectedFile,
    reference: Annotated[
        str | None, typer.Option(help="A library of yours: adds similarity and novelty to it.")
    ] = None,
    poses: Annotated[
        str | None, typer.Option(help="Also the docked poses, .sdf or .sdf.gz, of a docking.")
    ] = None,
    charges: Annotated[
        bool, typer.Option("--charges", help="Add the atoms' partial charges (GFN2-xTB; SDF only).")
    ] = False,
    relative: Annotated[
        bool,
        typer.Option(
            "--relative",
            help="Add each energy above the lowest of the molecule's adjacent records.",
        ),
    ] = False,
    isomers: Annotated[
        str,
        typer.Option(
            help="Of stereo that is left open where a geometry is made: first (one isomer, and "
            "which), enumerate, a number (at most so many) or refuse."
        ),
    ] = "first",
    multiplicity: Multiplicity = None,
    jobs: Jobs = None,
    timeout: Annotated[
        float | None,
        typer.Option(min=0, help="Seconds per molecule and program, 0 for any [default: 30]."),
    ] = None,
    backend: Annotated[
        str, typer.Option(help="processes, serial (no time limit), joblib or ray.")
    ] = "processes",
    address: Annotated[
        str | None, typer.Option(help="Of a running Ray cluster, host:port or auto.")
    ] = None,
    cache: Annotated[str | None, kept_in("one file for all, see above")] = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Compute everything, keep nothing.")
    ] = False,
    fragments: Fragments,
    columns: Columns,
    there: Resumable,
    quiet: Quiet = False,
) -> None:
    """Compute properties of a library, from wherever it is.

    SMILES get hydrogens and a conformer first: ETKDGv3, then MMFF94, else UFF, else GFN2-xTB; the
    column `geometry_method` says which. Salts and mixtures are refused such a geometry unless you
    say which part to take: --salts strip scores the parent and says what was left out
    (`salt_stripped`), keep sets the fragments beside each other. Of stereo that is left open one
    isomer is taken and named (`stereo_chosen`), or all with --isomers enumerate. A value that fails
    is left out, its reason is counted, and the exit status is 3.

    What was computed once comes from the cache, also after an interruption: `scores-2.sqlite` in
    `$MOLFLOWCTL_CACHE`, else in the user's cache folder (`~/.cache/molflowctl`).

    Examples:

        molflowctl score library.sdf.gz -p qed,sa_score,dipole_debye -o scored.sdf.gz

        molflowctl score vendor.smi -p logp -p xtb_energy_hartree -j 8 --timeout 60 -o scored.csv

        molflowctl score conformers.sdf.gz -p xtb-energy,mmff-energy --relative -o scored.sdf.gz

        molflowctl score salts.smi -p xtb-energy --salts strip --isomers enumerate -o scored.sdf

        molflowctl score library.sdf -p qed --reference known.smi --charges -o scored.sdf

        molflowctl score vendor.smi -p surrogate:gap/ -o scored.csv

        molflowctl score vendor.smi -p 'qed,smarts("[#7][#16](=O)=O")' -o scored.csv

        molflowctl score vendor.smi -p "docking('r.yaml')" --poses poses.sdf -o docked.csv

        molflowctl score library.sdf -p homo_lumo_gap_eV --backend ray --address auto -o scored.sdf
    """
    if no_cache and cache is not None:
        raise typer.BadParameter("not together with --cache.", param_hint="--no-cache")
    from molflowctl.compute.progress import progress_bars
    from molflowctl.properties.registry import split_names
    from molflowctl.tasks.scoring import score as task
    from molflowctl.tasks.scoring.outcome import describe, reasons
    from molflowctl.tasks.scoring.settings import ScoreConfig

    if timeout is None and backend != "serial":
        timeout = 30.0
    config = ScoreConfig.parse(
        {
            "library": library, "out": out, "jobs": jobs, "timeout": timeout or None,
            "properties": [name for text in properties for name in split_names(text)],
            "backend": backend, "address": address, "cache": False if no_cache else cache,
            "reference": reference, "poses": poses, "charges": charges, "relative": relative,
            "isomers": isomers, "multiplicity": multiplicity,
            **vars(fragments), **vars(columns), **vars(there),
        },
        where="the command line",
    )  # fmt: skip
    with progress_bars(quiet) as bars:
        bar = bars.add_task("molecules", total=None)
        state = task.score_library(
            config, lambda done, total: bars.update(bar, completed=done, total=total)
        )
    if not quiet:
        from molflowctl.cli.tables import laid_out

        headings, *rows = describe(state)
        print_lines([f"{library} -> {out}", *laid_out(headings, rows, console.width, ["unit"])])
        print_lines(state.notes[:NOTES])
        if state.failures is not None:
            print_lines(state.failures.said())
        print_lines([*state.decisions.lines(), *reasons(state)])
        records = " records" if state.written > state.read else ""  # isomers, a record each
        console.print(
            f"{state.written:,}{records} of {state.read:,} molecules written "
            f"in {state.seconds:.1f} s; {state.cached:,} results were in the cache"
            + (f", {state.damaged:,} damaged ones were computed again" if state.damaged else ""),
            highlight=False,
        )
    if state.fewer:
        raise typer.Exit(FEWER)


@grouped
def rank(
    *,
    library: ScoredLibrary,
    by: Annotated[str, typer.Option(help="A column, or a reward made of columns.")],
    out: SelectedFile,
    n: Annotated[int, typer.Option("-n", min=1, help="Molecules to keep.")] = 100,
    diverse: Annotated[
        int | None,
        typer.Option(min=1, help="Of the -n best, so many that are unlike each other (MaxMin)."),
    ] = None,
    per_scaffold: Annotated[
        int | None, typer.Option(min=1, help="At most so many of one Bemis-Murcko scaffold.")
    ] = None,
    minimise: Minimise = False,
    conformers: Annotated[
        bool, typer.Option("--conformers", help="Keep several records of one molecule.")
    ] = False,
    fold_stereo: Annotated[
        bool, typer.Option("--fold-stereo", help="Stereoisomers are one molecule.")
    ] = False,
    fold_salts: Annotated[
        bool,
        typer.Option(
            "--fold-salts", help="Salts, hydrates and charge states of one parent are one molecule."
        ),
    ] = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    columns: Columns,
    pictures: Pictures,
) -> None:
    """Keep the best molecules of a scored library, in order.

    Each molecule once, with the best of its records. Stereoisomers, isotopologues, tautomers, salts
    and charge states are molecules of their own, unless an option folds them; atom maps and
    explicit hydrogens make no other molecule. Every tag of the input stays, `rank` and a reward's
    value come first. Records without the value are left out and counted, and the exit status
    is 3.

    Examples:

        molflowctl rank scored.sdf.gz --by qed -n 50 -o best.sdf.gz --grid best.png

        molflowctl rank scored.sdf.gz --by homo_lumo_gap_eV --minimise -o low-gap.sdf.gz

        molflowctl rank scored.csv --by "product(ramp(qed, 0, 1), step(-sa_score, -4))" -o easy.csv

        molflowctl rank scored.sdf.gz --by qed -n 1000 --per-scaffold 1 --diverse 50 -o fifty.sdf.gz
    """
    from molflowctl.tasks.scoring.settings import RankConfig

    config = RankConfig.parse(
        {
            "library": library, "by": by, "out": out, "n": n, "minimise": minimise,
            "diverse": diverse, "per_scaffold": per_scaffold,
            "conformers": conformers, "fold_stereo": fold_stereo, "fold_salts": fold_salts,
            "overwrite": overwrite, **vars(columns), **vars(pictures),
        },
        where="the command line",
    )  # fmt: skip
    from molflowctl.tasks.scoring import rank as task  # heavy: after the settings

    found = task.rank_library(config)
    if not quiet:
        print_table(f"{library} by {by} -> {out}", task.describe(found))
        print_lines(found.notes)
        if found.failures is not None:
            print_lines(found.failures.said())
    if found.without:
        raise typer.Exit(FEWER)


def preview(
    source: Annotated[
        str, typer.Argument(help="A library (.sdf, .smi, .csv, .parquet), or a flow.")
    ],
    reward: Annotated[str, typer.Option(help="An expression; see `rewards`.")],
    n: Annotated[int, typer.Option("-n", min=3, help="Molecules.")] = 200,
    html: Annotated[
        str | None, typer.Option(help="Also a page: distributions, correlations, best and worst.")
    ] = None,
    seed: Annotated[int, seeded("Of the choice, or of what is drawn.")] = 0,
    nfe: Nfe = 50,
    timeout: Annotated[
        float, typer.Option(min=0.001, help="Seconds per molecule and program.")
    ] = 30.0,
    jobs: Jobs = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Show a reward, part by part, on molecules of a library or of a flow.

    Of each part: how many failed, its values, the share at the highest and the lowest it can be
    (there is nothing to steer by), and Spearman's correlation with the reward. Then seconds per
    molecule of each program, and the ten best and worst. Where a molecule has no reward, the
    reason is told and the exit status is 3.

    Examples:

        molflowctl preview druglike --reward "product(qed, range(logp, 1, 3, 0.5))" --html qed.html

        molflowctl preview library.sdf.gz --reward "qed + where(largest_ring > 6, -1, 0)" -n 500
    """
    from molflowctl.tasks.scoring.settings import PreviewConfig

    config = PreviewConfig.parse(
        {
            "source": source, "reward": reward, "n": n, "html": html, "seed": seed, "nfe": nfe,
            "timeout": timeout, "jobs": jobs or cores(), "device": device, "overwrite": overwrite,
        },
        where="the command line",
    )  # fmt: skip
    from molflowctl.cli.tables import laid_out
    from molflowctl.tasks.scoring import preview as task  # heavy: after the settings

    found = task.preview(config)
    headings, *rows = task.describe(found)
    table = laid_out(headings, rows, console.width)
    lines = [*table, "", *task.remarks(found), "", *task.best_and_worst(found)]
    print("\n".join(line.rstrip() for line in lines))
    if len(found.order) < len(found.mols):
        raise typer.Exit(FEWER)


def surrogate(
    library: ScoredLibrary,
    property_name: Annotated[
        str, typer.Option("-p", "--property", help="A column of the library; see `properties`.")
    ],
    out: Annotated[Path, output("Folder of the surrogate.")],
    seed: Annotated[int, seeded("Of the split and the networks.")] = 0,
    smiles_column: SmilesColumn = None,
    jobs: Jobs = None,
    changes: Changes = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Train a network on a scored library, for oracles that are too slow for the loop.

    Prints its error on molecules held out, the coverage of its intervals, and how many molecules it
    refuses as far from its training set: those get a reason, not a guess. It sees the molecular
    graph alone. Use it as the property `surrogate:FOLDER`.

    Examples:

        molflowctl score library.sdf.gz -p relax_energy -o scored.sdf.gz

        molflowctl surrogate scored.sdf.gz -p relax_energy -o relax/

        molflowctl score others.smi -p surrogate:relax/ -o others.csv
    """
    from molflowctl.tasks.training.settings import SurrogateConfig

    config = SurrogateConfig.parse(
        {
            "library": library, "property": property_name, "out": out, "seed": seed,
            "jobs": jobs or cores(), "overwrite": overwrite, "smiles_column": smiles_column,
        },
        changes,
        where="the command line",
    )  # fmt: skip
    from molflowctl.compute.progress import progress_bars
    from molflowctl.tasks.training import surrogate as task  # heavy: after the settings

    with progress_bars(quiet) as bars:
        bar = bars.add_task("reading", total=None)

        def show(what: str, done: int, total: int) -> None:
            bars.update(bar, description=what, completed=done, total=total or None)

        said: list[str] = []
        trained = task.train_surrogate(config, show, lambda failed: said.extend(failed.said()))
    if not quiet:
        print_table(f"{library} -> {out}", task.describe(trained))
        print_lines(said)
        console.print(f"use it: molflowctl score others.smi -p surrogate:{out} -o others.csv")
