r"""Properties of whole ensembles, GFN2-xTB at each conformer's own geometry, and how far off they are.

With Boltzmann weights `w` of an ensemble's own energies, those are

    energy <E>_w, kcal/mol     dipole <|mu|>_w, debye     gap <HOMO-LUMO>_w, eV     minimum min E, kcal/mol

and the error of an ensemble is the absolute difference to the reference ensemble of the same
molecule, the median over molecules in a table.

References:
    Axelrod, Gomez-Bombarelli, GEOM, Sci. Data 9, 185 (2022) (ensemble properties).
    Jing et al., Torsional Diffusion, 2022, arXiv 2206.01729 (median absolute errors of the four).
"""  # noqa: E501

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rdkit import Chem

from molflowctl.chem.ensemble import boltzmann_weights
from molflowctl.chem.units import HARTREE_TO_KCAL_MOL
from molflowctl.io.atomic import replacing_file
from molflowctl.tasks.evaluation.bootstrap import bootstrap

__all__ = ["ERRORS", "EnsembleProperties", "draw_errors"]

# Name in a row of the benchmark: what it is the error of, and its unit.
ERRORS = {
    "error_energy": ("Boltzmann-weighted energy", "kcal/mol"),
    "error_dipole": ("Boltzmann-weighted dipole", "debye"),
    "error_gap": ("Boltzmann-weighted gap", "eV"),
    "error_minimum": ("minimum energy", "kcal/mol"),
}
# Okabe and Ito's colours, told apart with any kind of colour vision.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999")


@dataclass(frozen=True)
class EnsembleProperties:
    """Of one ensemble: kcal/mol, debye, eV; and its energies, those that failed left out.

    NaN where no conformer has an energy.
    """

    energy: float
    dipole: float
    gap: float
    minimum: float
    energies: np.ndarray

    @classmethod
    def of(
        cls, mol: Chem.Mol, most: int | None = None, temperature: float = 298.0
    ) -> EnsembleProperties:
        """Of the first `most` conformers of a molecule with explicit hydrogens."""
        from molflowctl.properties.energies.xtb import single_point

        found = [
            single_point(Chem.Mol(mol, False, conformer.GetId()))
            for conformer in list(mol.GetConformers())[:most]
        ]
        points = [point for point in found if point.error is None]
        energies = HARTREE_TO_KCAL_MOL * np.array([point.energy_hartree for point in points])
        if not points:
            return cls(math.nan, math.nan, math.nan, math.nan, energies)
        weights = boltzmann_weights(energies, temperature)
        dipoles = np.array([np.linalg.norm(point.dipole_debye) for point in points])
        gaps = np.array([point.gap_eV for point in points])
        return cls(
            float(weights @ energies),
            float(weights @ dipoles),
            float(weights @ gaps),
            float(energies.min()),
            energies,
        )

    def errors(self, reference: EnsembleProperties) -> dict[str, float]:
        """Absolute differences, by the names of `ERRORS`."""
        return {
            name: abs(getattr(self, what) - getattr(reference, what))
            for name, what in ((name, name.removeprefix("error_")) for name in ERRORS)
        }


def draw_errors(rows: Mapping[str, Sequence[Mapping[str, float]]], path: Path) -> None:
    """A figure of the median errors of several models, side by side, with 95 % intervals.

    Arguments:
        rows: of every model, a row for each molecule.
        path: of the PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(ERRORS), 3.6), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    places = np.arange(len(rows))
    colours = [COLOURS[k % len(COLOURS)] for k in places]
    for axis, (name, (label, unit)) in zip(
        figure.subplots(1, len(ERRORS)), ERRORS.items(), strict=True
    ):
        found = [
            bootstrap(np.array([row.get(name, math.nan) for row in mine]), "median")
            for mine in rows.values()
        ]
        heights = np.array([e.value for e in found])
        reach = np.clip(
            [heights - [e.low for e in found], [e.high for e in found] - heights], 0, None
        )
        axis.bar(places, heights, yerr=reach, color=colours, alpha=0.8, capsize=3)
        axis.set_xticks(places, [Path(model).name for model in rows], rotation=30, ha="right")
        axis.set_title(label, fontsize=9)
        axis.set_ylabel(f"median absolute error, {unit}", fontsize=8)
    with replacing_file(path) as temporary:
        figure.savefig(temporary, format="png")
