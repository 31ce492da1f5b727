"""`generate` and `conformers`: draw from a flow."""

from __future__ import annotations

from typing import Annotated

import typer

from molflowctl.cli.console import FEWER, NOTES, console, print_lines, print_table
from molflowctl.cli.options import (
    Columns,
    ConformerNfe,
    Device,
    Fragments,
    Html,
    Jobs,
    LibraryFile,
    Multiplicity,
    Nfe,
    Pictures,
    Products,
    Quiet,
    Resumable,
    Sampler,
    Seed,
    SelectedFile,
    Stochasticity,
    cores,
    grouped,
)
from molflowctl.cli.shared.around import Attach, Core, CoreGeometry, Keep, Like, Noise, Replace

__all__ = ["conformers", "generate"]


@grouped
def generate(
    *,
    ctx: typer.Context,
    flow: Annotated[str, typer.Argument(help="A shipped flow (see `flows`) or a folder.")] = "qm9",
    n: Annotated[
        int | None, typer.Option("-n", min=1, help="Valid molecules to deliver [default: 1000].")
    ] = None,
    out: SelectedFile = "library.sdf.gz",
    attempts: Annotated[
        int | None, typer.Option(min=1, help="Draw exactly this many, valid or not, instead of -n.")
    ] = None,
    where: Annotated[
        str | None, typer.Option(help="Deliver what meets these conditions only; see `rewards`.")
    ] = None,
    unique: Annotated[bool, typer.Option("--unique", help="Deliver each molecule once.")] = False,
    seed: Seed = 0,
    sampler: Sampler = "ancestral",
    nfe: Nfe = 50,
    stochasticity: Stochasticity = None,
    atoms: Annotated[
        str | None,
        typer.Option(help="Sizes such as 7-9; heavy atoms where hydrogens are implicit."),
    ] = None,
    core: Core = None,
    attach: Attach = None,
    core_geometry: CoreGeometry = None,
    like: Like = None,
    noise: Noise = None,
    keep: Keep = None,
    replace: Replace = None,
    relax: Annotated[
        str, typer.Option(help="hydrogens (those that were added), mmff (every atom) or none.")
    ] = "hydrogens",
    batch: Annotated[int | None, typer.Option(min=1, help="Molecules drawn at once.")] = None,
    jobs: Jobs = None,
    device: Device = "auto",
    precision: Products = "float32",
    keep_invalid: Annotated[
        bool, typer.Option("--keep-invalid", help="Write failed attempts too, with their reason.")
    ] = False,
    pictures: Pictures,
    there: Resumable,
    quiet: Quiet = False,
) -> None:
    """Draw molecules from a flow and write a scored SDF library.

    Examples:

        molflowctl generate qm9 -n 1000 --seed 0 -o library.sdf.gz

        molflowctl generate tuned/ -n 500 --relax mmff --html library.html -o tuned.sdf

        molflowctl generate qm9-explicit --attempts 10000 --nfe 100 -o raw.sdf.gz

        molflowctl generate druglike -n 200 --where "pains == 0 and largest_ring <= 6" -o clean.sdf

        molflowctl generate druglike --core "[*:1]c1ccc(cc1)S(N)(=O)=O" -n 500 -o around.sdf.gz

        molflowctl generate druglike --core left.sdf --core right.sdf -n 100 -o linked.sdf.gz

        molflowctl generate druglike --like ligand.sdf --noise 0.5 -n 100 -o analogues.sdf.gz

        molflowctl generate druglike --like ligand.sdf --replace "c1ccncc1" -n 100 -o hops.sdf.gz

        molflowctl generate -o library.sdf.gz --resume

    With `--where`, `-n` molecules that meet the conditions are delivered, and how many meet each is
    told. Where too few do, it gives up and says after how many attempts (exit status 3).

    The suffix of `-o` decides the format. Only an SDF can be resumed.

    `--resume` goes on with the settings of the run's record. `-n` or `--attempts` may be raised;
    other options need not be given again.
    """
    if n is not None and attempts is not None:
        raise typer.BadParameter("not together with --attempts.", param_hint="-n")
    from molflowctl.tasks.generate.resume import settings_to_resume
    from molflowctl.tasks.generate.settings import GenerateConfig

    values = {
        "flow": flow, "attempts": attempts, "where": where, "unique": unique, "seed": seed,
        "sampler": sampler, "nfe": nfe, "precision": precision, "stochasticity": stochasticity,
        "atoms": atoms, "relax": relax,
        "batch": batch, "device": device, "keep_invalid": keep_invalid, **vars(pictures),
        "core": core or None, "attach": attach, "core_geometry": core_geometry, "like": like,
        "noise": noise, "keep": keep, "replace": replace,
        **({} if n is None else {"n": n}),
    }  # fmt: skip
    if there.resume:
        values = settings_to_resume(out, {k: v for k, v in values.items() if _is_given(ctx, k)})
    own = {"out": out, "jobs": jobs or cores(), **vars(there)}
    config = GenerateConfig.parse(
        {**values, **own}, where=f"{out}.run.json" if there.resume else "the command line"
    )
    from molflowctl.compute.progress import progress_bars
    from molflowctl.tasks.generate import denovo  # heavy: after the settings are known to be good

    with progress_bars(quiet) as bars:
        bar = bars.add_task("molecules", total=config.attempts or config.n)

        def show(state: denovo.Generated) -> None:
            bars.update(bar, completed=state.attempts if config.attempts else state.valid)

        state = denovo.generate(config, progress=show)
    if not quiet:
        print_table(f"{config.flow} -> {out}", denovo.describe(state))
        print_lines(state.notes)
    if state.fewer:
        asked = "no molecule" if config.attempts else f"only {state.valid} of {config.n} molecules"
        console.print(f"{asked} after {state.attempts} attempts")
        raise typer.Exit(FEWER)


def _is_given(ctx: typer.Context, name: str) -> bool:
    """Whether the user said this option, be it its default."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


@grouped
def conformers(
    *,
    source: Annotated[
        str, typer.Argument(metavar="INPUT", help="A SMILES; .smi, .csv, .parquet, .sdf; -.")
    ],
    n: Annotated[int, typer.Option("-n", min=1, help="Drawn of each stereoisomer.")] = 50,
    out: LibraryFile = "conformers.sdf.gz",
    model: Annotated[
        str,
        typer.Option(
            help="A conformer flow, by name or folder; etkdg, RDKit's ETKDGv3; both with a comma "
            "between them; or auto, what the benchmark found best for such a molecule."
        ),
    ] = "auto",
    relax: Annotated[str, typer.Option(help="none, mmff, or gfn2 (GFN2-xTB).")] = "mmff",
    energy: Annotated[
        str | None,
        typer.Option(help="Rank and weigh by mmff or gfn2 [default: that of the relaxation]."),
    ] = None,
    pose: Annotated[
        str | None,
        typer.Option(metavar="SDF", help="A pose whose core every conformer keeps."),
    ] = None,
    core: Annotated[
        str | None,
        typer.Option(metavar="SMARTS", help="Of the pose [default: the largest common part]."),
    ] = None,
    rmsd_threshold: Annotated[
        float,
        typer.Option(min=0, help="Least RMSD between two, heavy atoms, angstrom; 0 keeps all."),
    ] = 0.5,
    energy_window: Annotated[float, typer.Option(help="Above the lowest, kcal/mol.")] = 6.0,
    temperature_K: Annotated[
        float, typer.Option("--temperature-K", help="Temperature of the Boltzmann weights, kelvin.")
    ] = 298.0,
    isomers: Annotated[
        str,
        typer.Option(
            help="Of an input that leaves stereo open: a number (at most so many), enumerate, "
            "first (one isomer) or refuse."
        ),
    ] = "8",
    nfe: ConformerNfe = None,
    sampler: Sampler = "ancestral",
    noise_scale: Annotated[
        float | None,
        typer.Option(
            help="Scale of the sampler's noise: below 1 more of the likeliest conformers, fewer "
            "different ones [default: what the flow's card recommends, else 1]."
        ),
    ] = None,
    multiplicity: Multiplicity = None,
    timeout: Annotated[float, typer.Option(help="Seconds per stereoisomer.")] = 600.0,
    time_limit: Annotated[
        float | None,
        typer.Option(help="Seconds per stereoisomer; what is relaxed by then is written."),
    ] = None,
    seed: Seed = 0,
    jobs: Jobs = None,
    device: Device = "auto",
    html: Html = None,
    fragments: Fragments,
    columns: Columns,
    there: Resumable,
    quiet: Quiet = False,
) -> None:
    """Low-energy conformers of given molecules, sorted by energy, with Boltzmann weights.

    Stereo that the input specifies holds in every record: a conformer that breaks it is drawn
    again, and counted. What the input leaves open is enumerated. Salts and mixtures are refused
    unless --salts says which part to take. They, unknown elements, duplicates and bad lines are
    said by line; the exit status is 3 if a molecule could not be done.

    Examples:

        molflowctl conformers "C[C@H](O)CN" -n 20 -o aminopropanol.sdf

        molflowctl conformers library.smi -n 50 --relax gfn2 --energy-window 4 -o out.sdf.gz

        molflowctl conformers library.csv --model etkdg --rmsd-threshold 0.75 -o etkdg.sdf.gz

        molflowctl conformers analogues.smi --pose ligand.sdf --core "c1ccc2[nH]ncc2c1" -o posed.sdf
    """
    from molflowctl.tasks.conformers.settings import ConformersConfig

    config = ConformersConfig.parse(
        {
            "source": source, "out": out, "n": n, "model": model, "relax": relax,
            "rmsd_threshold": rmsd_threshold, "energy_window": energy_window,
            "temperature_K": temperature_K, "isomers": isomers, "multiplicity": multiplicity,
            "nfe": nfe, "sampler": sampler, "noise_scale": noise_scale, "timeout": timeout,
            "energy": energy, "pose": pose, "core": core, "time_limit": time_limit,
            "seed": seed, "jobs": jobs or cores(), "device": device, "html": html,
            **vars(fragments), **vars(columns), **vars(there),
        },
        where="the command line",
    )  # fmt: skip
    from molflowctl.compute.progress import progress_bars
    from molflowctl.tasks.conformers import conformers as task  # heavy: after the settings

    with progress_bars(quiet) as bars:
        bar = bars.add_task("molecules", total=None)
        state = task.generate_conformers(
            config, progress=lambda done, total: bars.update(bar, completed=done, total=total)
        )
    print_lines(state.notes[:NOTES])
    if len(state.notes) > NOTES:
        console.print(f"and {len(state.notes) - NOTES} more such notes, all in the run record")
    if not quiet:
        print_table(f"{source} -> {out}", task.describe(state))
    if state.failures is not None and state.failures.path is not None and state.failed:
        print_lines([f"what failed, and why: {state.failures.path}"])
    if state.failed:
        raise typer.Exit(FEWER)
