"""`data`: prepare data sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from molflowctl.cli.console import console, print_lines, print_table
from molflowctl.cli.options import (
    Changes,
    Jobs,
    Neutralise,
    Overwrite,
    Quiet,
    Resumable,
    Resume,
    Seed,
    cores,
    grouped,
    kept_in,
    output,
    seeded,
)
from molflowctl.errors import UserError

if TYPE_CHECKING:
    from molflowctl.data.datasets import MoleculeDataset
    from molflowctl.tasks.preparation.subset import Rule

__all__ = ["join", "prepare", "prepare_conformers", "subset"]


def prepare(
    name: Annotated[str, typer.Argument(help="qm9 or druglike.")],
    out: Annotated[Path | None, output("[default: datasets/NAME, and -HYDROGENS of qm9]")] = None,
    hydrogens: Annotated[
        str | None, typer.Option(help="Of qm9: implicit or explicit. [default: implicit]")
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            help="qm9: qm9pack's CSV folder or wheel, or the official archive. druglike: the "
            "molsets wheel, or a .csv with a column SMILES. [default: found or downloaded]"
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1, help="Of druglike: training molecules to try, and a 10th more. [default: 200000]"
        ),
    ] = None,
    property_name: Annotated[
        str | None,
        typer.Option("-p", "--property", help="Of druglike: only molecules with this in --range."),
    ] = None,
    interval: Annotated[
        str | None, typer.Option("--range", help="Ends included: 0.9:1, 0.9: or :3.5.")
    ] = None,
    relax: Annotated[
        str | None,
        typer.Option(help="Of druglike: mmff, or gfn2 after it, 3 s a molecule. [default: mmff]"),
    ] = None,
    known: Annotated[
        Path | None,
        typer.Option(help="Of druglike: an earlier data set, whose molecules are taken over."),
    ] = None,
    seed: Annotated[
        int | None, seeded("Of qm9's split; druglike's is a hash. [default: 0]")
    ] = None,
    jobs: Jobs = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Prepare a data set: molecules with coordinates, checked, split.

    qm9 has geometries: bonds and charges are matched to them, in two minutes. druglike has SMILES:
    each gets the lowest of three conformers by ETKDGv3 and MMFF94, some 13 molecules a second and
    core. An interrupted run goes on with --resume. A larger --limit holds what a smaller one does,
    and --known takes those molecules over.

    Examples:

        molflowctl data prepare qm9

        molflowctl data prepare qm9 --hydrogens explicit -o datasets/qm9-explicit

        molflowctl data prepare druglike --limit 20000 -j 2

        molflowctl data prepare druglike --known datasets/small --limit 60000 -o datasets/more

        molflowctl data prepare druglike --limit 6000 --relax gfn2 -o datasets/druglike-gfn2

        molflowctl data prepare druglike -p "smarts:[#7]S(=O)=O" --range 1: -o datasets/sulfonamides

        molflowctl data prepare druglike -p qed --range 0.92: --limit 20000 -o datasets/high-qed
    """
    from molflowctl.tasks.preparation.subset import Rule

    if name == "qm9":
        if limit is not None or resume or property_name or interval or known or relax:
            raise UserError(
                "--limit, -p, --range, --relax, --known and --resume are of druglike: qm9 is "
                "prepared as a whole; `data subset` chooses of it."
            )
        hydrogens = hydrogens or "implicit"
        folder = out or Path("datasets") / f"qm9-{hydrogens}"
        data = _qm9(folder, hydrogens, source, seed or 0, jobs or cores(), quiet, overwrite)
    elif name == "druglike":
        if hydrogens is not None or seed is not None:
            raise UserError(
                "--hydrogens and --seed are of qm9: druglike has implicit hydrogens, and what is "
                "in which split follows from a hash."
            )
        if relax not in (None, "mmff", "gfn2"):
            raise UserError(f"--relax {relax}: give mmff or gfn2.")
        if (property_name is None) != (interval is None):
            raise UserError("-p and --range belong together: -p qed --range 0.9:")
        rule = Rule.parse(property_name, interval) if property_name and interval else None
        folder = out or Path("datasets/druglike")
        data = _druglike(
            folder,
            source,
            limit,
            relax or "mmff",
            rule,
            known,
            jobs or cores(),
            resume,
            quiet,
            overwrite,
        )
    else:
        raise UserError(f"there is no recipe for {name!r}; known: qm9, druglike.")
    if not quiet:
        for reason, count in data.card["left_out"].items():
            console.print(f"left out: {count:,} {reason}", highlight=False, markup=False)
        console.print(f"written: {folder}, {len(data):,} molecules")


def _qm9(
    folder: Path,
    hydrogens: str,
    source: Path | None,
    seed: int,
    jobs: int,
    quiet: bool,
    overwrite: bool,
) -> MoleculeDataset:
    from molflowctl.tasks.preparation.qm9 import prepare_qm9

    return prepare_qm9(folder, hydrogens, source, seed, jobs, not quiet, overwrite)  # type: ignore[arg-type]


def _druglike(
    folder: Path,
    source: Path | None,
    limit: int | None,
    relax: str,
    rule: Rule | None,
    known: Path | None,
    jobs: int,
    resume: bool,
    quiet: bool,
    overwrite: bool,
) -> MoleculeDataset:
    from molflowctl.compute.progress import progress_bars
    from molflowctl.tasks.preparation.druglike import LIMIT, prepare_druglike

    with progress_bars(quiet) as bars:
        bar = bars.add_task("reading SMILES", total=None)

        def shown(done: int, total: int) -> None:
            bars.update(bar, description="molecules", completed=done, total=total)

        def searching(searched: int) -> None:
            if searched % 1000 == 0:
                bars.update(bar, description=f"searched {searched:,} molecules")

        return prepare_druglike(
            folder, source, limit or LIMIT, jobs,
            relax=relax, rule=rule, known=known,  # type: ignore[arg-type]
            progress=shown, searching=searching, resume=resume, overwrite=overwrite,
        )  # fmt: skip


def subset(
    data: Annotated[Path, typer.Argument(help="A prepared data set.")],
    property_name: Annotated[
        str, typer.Option("-p", "--property", help="See `properties`; or smarts:PATTERN.")
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
    cache: Annotated[str | None, kept_in("as for `score`")] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Keep the training molecules of a data set whose property is in a range, to train on.

    Molecules are scored by the real program, hydrogens completed, at the data set's geometry.
    Values go to the cache of `score`, so that an interrupted run goes on where it was.

    Examples:

        molflowctl data subset datasets/qm9-implicit -p dipole_debye --range 4: -o datasets/polar

        molflowctl data subset datasets/qm9-implicit -p rings --range 3: --limit 9000 -o my-rings

        molflowctl data subset datasets/druglike -p "smarts:[#7]S(=O)=O" --range 1: -o series

        molflowctl train --init qm9 --data datasets/polar -o polar/
    """
    from molflowctl.compute.progress import progress_bars
    from molflowctl.tasks.preparation import subset as task

    config = task.SubsetConfig.parse(
        {
            "data": data, "out": out, "rule": task.Rule.parse(property_name, interval),
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


def join(
    data: Annotated[list[Path], typer.Argument(help="Prepared data sets of one kind.")],
    out: Annotated[Path, output("Folder of the new data set.")],
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Several data sets as one, each molecule once: from the first of them that has it.

    Molecules keep the split they have there. Data sets of molecules can be joined, and data sets of
    conformers.

    Examples:

        molflowctl data join datasets/druglike-conformers datasets/my-conformers -o datasets/both
    """
    from molflowctl.tasks.preparation.join import join as run

    joined = run(data, out, overwrite=overwrite)
    if not quiet:
        for part in joined.card["parents"]:
            console.print(f"{part['name']}: {part['kept']:,} molecules", highlight=False)
        console.print(f"written: {out}, {len(joined):,} molecules")


@grouped
def prepare_conformers(
    *,
    source: Annotated[
        str, typer.Argument(help="Folder of a data set, or a .smi or .csv, perhaps .gz.")
    ],
    out: Annotated[str, output("Folder of the ensembles.")],
    etkdg_conformers: Annotated[
        int, typer.Option(min=0, help="By ETKDGv3, per molecule, beside the source's geometry.")
    ] = 10,
    relax: Annotated[str, typer.Option(help="mmff, gfn2 after it, or none.")] = "mmff",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Molecules, drawn at random [default: all].")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Only train, validation or test [default: all].")
    ] = None,
    salts: Annotated[
        str, typer.Option(help="Several fragments: refuse leaves them out, strip takes the parent.")
    ] = "refuse",
    neutralise: Neutralise = False,
    sdf: Annotated[str | None, typer.Option(help="Also an SDF library of the ensembles.")] = None,
    seed: Seed = 0,
    jobs: Jobs = None,
    changes: Changes = None,
    quiet: Quiet = False,
    there: Resumable,
) -> None:
    """Ensembles of conformers: many by ETKDGv3, relaxed, pruned and weighed.

    The stereo of a data set with geometries is theirs, and so is its split. Molecules of a file are
    split by a hash, 90 % for training and 5 % each for validation and test.

    Examples:

        molflowctl data prepare-conformers datasets/qm9-explicit -o datasets/qm9-conformers

        molflowctl data prepare-conformers datasets/qm9-explicit --split test --limit 300
        --etkdg-conformers 100 --relax gfn2 --sdf references.sdf.gz -o datasets/qm9-references

        molflowctl data prepare-conformers moses.csv --limit 20000 -o datasets/moses-conformers
    """
    from molflowctl.tasks.preparation.settings import EnsembleConfig

    config = EnsembleConfig.parse(
        {
            "source": source, "out": out, "etkdg_conformers": etkdg_conformers, "relax": relax,
            "limit": limit,
            "split": split, "sdf": sdf, "seed": seed, "jobs": jobs or cores(),
            "salts": salts, "neutralise": neutralise,
            "name": Path(out).name, **vars(there),
        },
        changes,
        where="the command line",
    )  # fmt: skip
    from molflowctl.compute.progress import progress_bars
    from molflowctl.tasks.preparation.ensembles import (
        prepare_ensembles,  # heavy: after the settings
    )

    said: list[str] = []
    with progress_bars(quiet) as bars:
        bar = bars.add_task("molecules", total=None)
        data = prepare_ensembles(
            config,
            progress=lambda done, total: bars.update(bar, completed=done, total=total),
            failed=lambda failures: said.extend(failures.said()),
        )
    if not quiet:
        print_lines(said)
        if count := data.card.get("salts_stripped"):
            console.print(f"stripped to the parent: {count:,} salts and mixtures", highlight=False)
        for reason, count in data.card["left_out"].items():
            console.print(f"left out: {count:,} {reason}", highlight=False, markup=False)
        console.print(f"written: {out}, {len(data.energies):,} conformers of {len(data):,}")


def pack(
    data: Annotated[Path, typer.Argument(help="A prepared data set of molecules.")],
    out: Annotated[Path, output("The file.")],
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """A data set of molecules as one small file, to be sent to another machine.

    Coordinates are kept to 0.001 angstrom: some 150 bytes for a drug-like molecule, so that
    200,000 take 30 MB.

    Examples:

        molflowctl data pack datasets/druglike -o druglike.pack

        molflowctl data unpack druglike.pack -o datasets/druglike
    """
    from molflowctl.data.datasets import MoleculeDataset
    from molflowctl.data.packed import pack as run

    size = run(MoleculeDataset.load(data), out, overwrite=overwrite)
    if not quiet:
        console.print(f"written: {out}, {size / 1e6:.1f} MB", highlight=False)


def unpack(
    file: Annotated[Path, typer.Argument(help="What `data pack` wrote.")],
    out: Annotated[Path, output("Folder of the data set.")],
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """The data set in a packed file, as a folder again, to train on.

    Examples:

        molflowctl data unpack druglike.pack -o datasets/druglike
    """
    from molflowctl.data.packed import unpack as run

    found = run(file)
    found.save(out, overwrite=overwrite)
    if not quiet:
        console.print(f"written: {out}, {len(found):,} molecules", highlight=False)
