"""`benchmark`: measure flows and libraries; `demo`: a flow before and after it was steered."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from molflowctl.cli.console import console
from molflowctl.cli.options import (
    ConformerNfe,
    Device,
    Jobs,
    Measuring,
    Minimise,
    Nfe,
    Seed,
    TablesFolder,
    cores,
    grouped,
    output,
)
from molflowctl.cli.tables import fitted_markdown

if TYPE_CHECKING:
    from molflowctl.io.config import Config

__all__ = ["analytic", "compare", "conformers", "demo", "denovo"]

C = TypeVar("C", bound="Config")


@grouped
def denovo(
    *,
    source: Annotated[str, typer.Argument(help="A flow, or an SDF file of any origin.")] = "qm9",
    out: TablesFolder = Path("benchmark"),
    n: Annotated[
        int | None, typer.Option("-n", min=1, help="Attempts [default: 1000, or all of a file].")
    ] = None,
    seed: Seed = 0,
    nfe: Nfe = 50,
    measuring: Measuring,
) -> None:
    """Measure stability, validity, novelty, PoseBusters, relaxation, distributions and speed.

    Examples:

        molflowctl benchmark denovo qm9 -n 10000 -o results/qm9

        molflowctl benchmark denovo qm9 --set quality=[10,20,50,100] -o results/quality

        molflowctl benchmark denovo their-library.sdf.gz -o results/theirs
    """
    from molflowctl.tasks.evaluation.denovo import BenchmarkConfig
    from molflowctl.tasks.evaluation.denovo import benchmark_denovo as run

    config = _settings(BenchmarkConfig, measuring, source=source, n=n, seed=seed, nfe=nfe)
    run(config, out, overwrite=measuring.overwrite, quiet=measuring.quiet)
    _show(out, measuring)


@grouped
def compare(
    *,
    flows: Annotated[list[str], typer.Argument(help="Shipped flows or folders, the prior first.")],
    names: Annotated[
        str, typer.Option("-p", "--properties", help="Judged by, separated by commas.")
    ],
    out: Annotated[Path, output("Folder of tables and figures.")],
    n: Annotated[int, typer.Option("-n", min=32, help="Attempts of each.")] = 2000,
    minimise: Minimise = False,
    device: Device = "auto",
    measuring: Measuring,
) -> None:
    """Flows beside each other: validity, means and tails of properties, diversity, pictures.

    Examples:

        molflowctl benchmark compare qm9 tuned/ -p dipole_debye,qed -o benchmarks/denovo/dipole
    """
    from molflowctl.properties.registry import split_names
    from molflowctl.tasks.evaluation.compare import CompareConfig
    from molflowctl.tasks.evaluation.compare import compare as run

    config = _settings(
        CompareConfig, measuring, flows=flows, properties=split_names(names), n=n,
        minimise=minimise, device=device,
    )  # fmt: skip
    run(config, out, overwrite=measuring.overwrite, quiet=measuring.quiet)
    _show(out, measuring)


@grouped
def analytic(
    *,
    out: TablesFolder = Path("analytic"),
    only: Annotated[
        list[str] | None, typer.Option(help="Only problems whose name holds this; repeatable.")
    ] = None,
    seed: Seed = 0,
    measuring: Measuring,
) -> None:
    """Control and merge densities whose optima are known; an interrupted benchmark goes on.

    Examples:

        molflowctl benchmark analytic -o results/analytic

        molflowctl benchmark analytic --only union --only "CVaR 0.3" -o results/some
    """
    from molflowctl.tasks.evaluation.analytic.benchmark import AnalyticConfig
    from molflowctl.tasks.evaluation.analytic.benchmark import benchmark_analytic as run

    config = _settings(AnalyticConfig, measuring, seed=seed, only=only or [])
    run(config, out, overwrite=measuring.overwrite, quiet=measuring.quiet)
    _show(out, measuring)


@grouped
def conformers(
    *,
    reference: Annotated[
        str, typer.Option(help="An SDF library; conformers of one title are one ensemble.")
    ],
    model: Annotated[
        list[str],
        typer.Option(
            help="A conformer flow or etkdg, or both with a comma between, perhaps with +mmff or "
            "+gfn2; repeatable."
        ),
    ],
    out: TablesFolder = Path("conformer-benchmark"),
    limit: Annotated[int | None, typer.Option(min=1, help="Molecules [default: all].")] = None,
    nfe: ConformerNfe = None,
    seed: Seed = 0,
    measuring: Measuring,
) -> None:
    """Coverage, RMSD, stereo, PoseBusters, energies and speed against reference ensembles.

    Also the errors of ensemble properties: Boltzmann-weighted energy, dipole and gap, and the
    minimum energy, GFN2-xTB; the models side by side in table.md and errors.png.

    Examples:

        molflowctl benchmark conformers --reference references.sdf.gz --model qm9-conformers
        --model etkdg --model etkdg+mmff -o results/conformers

        molflowctl benchmark conformers --reference references.sdf.gz --model a/ --model b/
        --model both/ -o results/merged
    """
    from molflowctl.compute.progress import progress_bars
    from molflowctl.tasks.evaluation.conformers import ConformerBenchmarkConfig
    from molflowctl.tasks.evaluation.conformers import benchmark_conformers as run

    config = _settings(
        ConformerBenchmarkConfig, measuring, reference=reference, models=model, limit=limit,
        nfe=nfe, seed=seed,
    )  # fmt: skip
    with progress_bars(measuring.quiet) as bars:
        bar = bars.add_task("molecules", total=None)

        def show(name: str, done: int, total: int) -> None:
            bars.update(bar, description=name, completed=done, total=total)

        text = run(config, out, overwrite=measuring.overwrite, progress=show)
    if not measuring.quiet:
        print(fitted_markdown(text, console.width))


def demo(
    flow: Annotated[str, typer.Argument(help="qm9 or druglike.")] = "qm9",
    out: Annotated[Path, output("Folder of the results.")] = Path("demo"),
    n: Annotated[int, typer.Option("-n", min=2, help="Molecules from each flow.")] = 64,
    seed: Seed = 0,
    jobs: Jobs = None,
) -> None:
    """Draw molecules from a flow and a steered one, and compare them by the real oracle.

    Of qm9 the dipole moment was steered, of druglike the QED. Writes two SDF libraries, a picture
    of the molecules, a before/after figure and a 3-D page.

    Examples:

        molflowctl demo

        molflowctl demo druglike -n 32 -o demo-druglike

        molflowctl demo -n 200 --seed 1 -o demo-200
    """
    from molflowctl.tasks.evaluation.demo import demo as run

    run(
        out,
        flow,
        n=n,
        seed=seed,
        jobs=jobs or cores(),
        say=lambda t: console.print(t, highlight=False),
    )


def _settings(kind: type[C], measuring: Measuring, **given: Any) -> C:
    """The settings of a benchmark."""
    values = {**given, "jobs": measuring.jobs or cores()}
    return kind.parse(values, measuring.changes, where="the command line")


def _show(out: Path, measuring: Measuring) -> None:
    """Print the tables of a benchmark."""
    if not measuring.quiet:
        print(fitted_markdown((out / "table.md").read_text(), console.width))
