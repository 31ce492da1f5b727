"""`docking`: receptors and boxes that `docking("FILE")` scores molecules in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from molflowctl.cli.console import console, print_lines
from molflowctl.cli.options import Overwrite, Quiet, output
from molflowctl.errors import UserError

__all__ = ["check", "prepare"]


def _three(text: str | None, option: str) -> tuple[float, float, float] | None:
    if text is None:
        return None
    try:
        x, y, z = map(float, text.split(","))
    except ValueError:
        raise UserError(f"{option} {text}: give three numbers, x,y,z in angstrom.") from None
    return x, y, z


def prepare(
    receptor: Annotated[
        str, typer.Argument(help="A .pdb, a .pdbqt, or dockstring:NAME such as dockstring:CA2.")
    ],
    out: Annotated[Path, output("The receptor's file, .yaml.")],
    ligand: Annotated[
        str | None, typer.Option(help="SDF of a ligand in its place: the box is put around it.")
    ] = None,
    margin: Annotated[float, typer.Option(min=0, help="Around the ligand, in angstrom.")] = 5.0,
    center: Annotated[
        str | None, typer.Option(help="Of the box in place of a ligand: x,y,z in angstrom.")
    ] = None,
    size: Annotated[str | None, typer.Option(help="Of the box: x,y,z in angstrom.")] = None,
    exhaustiveness: Annotated[
        int, typer.Option(min=1, help="Independent searches; time grows with it.")
    ] = 8,
    max_evals: Annotated[
        int | None,
        typer.Option(
            min=1000,
            help="Evaluations of the score in each search: 100000 takes a tenth of the time or "
            "less, for scores a little worse [default: Vina's own number, millions].",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=1, help="Of the searches.")] = 1,
    poses: Annotated[int, typer.Option(min=1, help="Kept of each ligand, the best first.")] = 9,
    time_limit: Annotated[float, typer.Option(min=0, help="Seconds for one ligand.")] = 300.0,
    skip_residues: Annotated[
        bool, typer.Option("--skip-residues", help="Leave out residues that cannot be prepared.")
    ] = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Write the file of a receptor and its box, and its PDBQT beside it.

    A PDB is prepared by meeko: hydrogens that it lacks are added, waters and ligands are left out.
    Needs the extra: pip install 'molflowctl[docking]'.

    Examples:

        molflowctl docking prepare protein.pdb --ligand known.sdf --margin 5 -o receptor.yaml

        molflowctl docking prepare dockstring:CA2 --exhaustiveness 4 -o ca2.yaml

        molflowctl docking check ca2.yaml --ligand known.sdf

        molflowctl score library.sdf.gz -p "qed,docking('ca2.yaml')" -o scored.sdf.gz
    """
    from molflowctl.properties.docking.preparing import prepare as run

    found = run(
        receptor,
        out,
        ligand=ligand,
        center=_three(center, "--center"),
        size=_three(size, "--size"),
        skip_residues=skip_residues,
        overwrite=overwrite,
        margin=margin,
        exhaustiveness=exhaustiveness,
        max_evals=max_evals,
        seed=seed,
        n_poses=poses,
        time_limit=time_limit,
    )
    if not quiet:
        if found.left_out:
            names = ", ".join(f"{n:,} {name}" for name, n in found.left_out.most_common(12))
            more = "" if len(found.left_out) <= 12 else " and more"
            console.print(f"left out: {names}{more}", highlight=False, markup=False)
        box = " x ".join(f"{length:g}" for length in found.size)
        console.print(
            f"written: {out}, {found.atoms:,} atoms, a box of {box} angstrom", highlight=False
        )


def check(
    receptor: Annotated[Path, typer.Argument(help="What `docking prepare` wrote.")],
    ligand: Annotated[
        str | None,
        typer.Option(
            help="Dock the first molecule of this file; where it has coordinates, the distance "
            "(RMSD) of each pose from them is told."
        ),
    ] = None,
) -> None:
    """Check the file of a receptor, and dock a known ligand for a try.

    The ligand of a crystal should come back to within 2 angstrom: if it does not, more
    exhaustiveness, other protons or another box may help, and scores of this receptor mean little.

    Examples:

        molflowctl docking check receptor.yaml

        molflowctl docking check receptor.yaml --ligand known.sdf
    """
    from molflowctl.properties.docking.checking import checked

    print_lines(checked(receptor, ligand))
