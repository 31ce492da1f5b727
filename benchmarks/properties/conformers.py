"""Relative conformer energies against published ones: GFN2-xTB reproduced, methods ranked.

    python -m benchmarks.properties.conformers conformers.sdf.gz [-o FOLDER] [-j WORKERS]

The file holds conformers at fixed geometries, titled by molecule, with the tags
`relative_gfn2_kcal_mol` and `relative_dlpno_kcal_mol` (and, if there, `relative_wb97_kcal_mol`), as
published by Folmsbee and Hutchison, Int. J. Quantum Chem. 2020, doi:10.1002/qua.26381.

Written: `conformers.csv` with one row a molecule, `conformers.md` with the summary, and
`conformers.run.json`. Exit code 1 if a molecule's energies are not the published ones.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdForceFieldHelpers
from scipy.stats import spearmanr

from molflowctl.chem.units import HARTREE_TO_KCAL_MOL
from molflowctl.compute.parallel import WorkerPool
from molflowctl.io.library import Record, read_molecules
from molflowctl.io.record import versions, write_json
from molflowctl.properties.energies.relative import relative_energies
from molflowctl.properties.energies.xtb import single_point

LIMIT_KCAL_MOL = 0.02  # the file's coordinates and energies are rounded to 4 and 2 digits
REFERENCE = "relative_dlpno_kcal_mol"
METHODS = {
    "gfn2": "GFN2-xTB, computed",
    "mmff94": "MMFF94, computed",
    "wb97": "omega-B97X-D3, published",
}


def as_written(mol: Chem.Mol) -> Chem.Mol:
    """The closed-shell molecule with exactly the atoms of the file.

    Perceived bond orders may be wrong (one molecule of the data has a radical and a hydrogen too
    many by them), which does not touch the published calculation: neutral, no unpaired electrons.
    """
    mol = Chem.Mol(mol)
    for atom in mol.GetAtoms():
        atom.SetNoImplicit(True)
        atom.SetNumExplicitHs(0)
        atom.SetNumRadicalElectrons(0)
    mol.UpdatePropertyCache(strict=False)
    return mol


def energies(mol: Chem.Mol) -> tuple[float, float]:
    """GFN2-xTB and MMFF94 at the file's geometry, kcal/mol; NaN where there is none."""
    gfn2 = single_point(as_written(mol)).energy_hartree * HARTREE_TO_KCAL_MOL
    complete = all(atom.GetTotalNumHs() == 0 for atom in mol.GetAtoms())
    parameters = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol) if complete else None
    if parameters is None:
        return gfn2, np.nan
    return gfn2, rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, parameters).CalcEnergy()


def rank_correlation(values: np.ndarray, reference: np.ndarray) -> float:
    """Spearman's, over the conformers that have both; NaN for fewer than three or no spread."""
    both = np.isfinite(values) & np.isfinite(reference)
    if both.sum() < 3 or np.ptp(values[both]) == 0 or np.ptp(reference[both]) == 0:
        return float("nan")
    return float(spearmanr(values[both], reference[both]).statistic)


def measure(path: Path, jobs: int) -> list[dict[str, str | float]]:
    """One row a molecule: deviation from the published GFN2-xTB, rank correlations with DLPNO."""
    records = [record for record in read_molecules(path) if record.mol is not None]
    mols = [record.mol for record in records if record.mol is not None]
    if not mols:
        raise SystemExit(f"{path} has no molecules")
    titles = [mol.GetProp("_Name") for mol in mols]
    with WorkerPool(jobs) as pool:
        outcomes = list(pool.map(energies, mols, timeout=120.0))
    found = np.array([(np.nan, np.nan) if o.value is None else o.value for o in outcomes])
    columns = {
        "gfn2": relative_energies(found[:, 0], titles),
        "mmff94": relative_energies(found[:, 1], titles),
        "wb97": _tag(records, "relative_wb97_kcal_mol"),
    }
    published, reference = _tag(records, "relative_gfn2_kcal_mol"), _tag(records, REFERENCE)
    rows: list[dict[str, str | float]] = []
    for title in dict.fromkeys(titles):
        own = np.array([other == title for other in titles])
        expected = relative_energies(published[own], [title] * int(own.sum()))
        row: dict[str, str | float] = {
            "molecule": title,
            "atoms": mols[titles.index(title)].GetNumAtoms(),
            "conformers": int(own.sum()),
            "gfn2_max_deviation_kcal_mol": float(np.abs(columns["gfn2"][own] - expected).max()),
        }
        for name, values in columns.items():
            row[f"spearman_{name}"] = rank_correlation(values[own], reference[own])
        rows.append(row)
    return rows


def summary(rows: Sequence[dict[str, str | float]]) -> str:
    """The table of `conformers.md`."""
    deviations = np.array([row["gfn2_max_deviation_kcal_mol"] for row in rows], dtype=float)
    within = int((deviations <= LIMIT_KCAL_MOL).sum())
    lines = [
        "# Conformer energies",
        "",
        f"{len(rows)} molecules, {sum(int(row['conformers']) for row in rows)} conformers, by",
        "`python -m benchmarks.properties.conformers`.",
        "",
        f"Relative GFN2-xTB energies within {LIMIT_KCAL_MOL} kcal/mol of the published ones:",
        f"{within} of {len(rows)} molecules; largest deviation {deviations.max():.4f}, median of",
        f"the molecules' largest {np.median(deviations):.4f}.",
        "",
        "Spearman rank correlation with DLPNO-CCSD(T) over a molecule's conformers:",
        "",
        "| method | mean | median | molecules |",
        "| --- | --- | --- | --- |",
    ]
    for name, label in METHODS.items():
        values = np.array([row[f"spearman_{name}"] for row in rows], dtype=float)
        values = values[np.isfinite(values)]
        if len(values):
            lines.append(
                f"| {label} | {values.mean():.3f} | {np.median(values):.3f} | {len(values)} |"
            )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.properties.conformers")
    parser.add_argument("file", type=Path, help="SDF, may be gzipped")
    parser.add_argument("-o", "--out", type=Path, default=Path(__file__).parent, help="folder")
    parser.add_argument("-j", "--jobs", type=int, default=1, help="workers")
    options = parser.parse_args(arguments)
    rows = measure(options.file, options.jobs)
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "conformers.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.4f}" if isinstance(v, float) else v for k, v in row.items()})
    (options.out / "conformers.md").write_text(summary(rows))
    write_json(
        options.out / "conformers.run.json",
        {"file": options.file.name, "molecules": len(rows), "versions": versions()},
    )
    print(summary(rows), end="")
    deviations = [row["gfn2_max_deviation_kcal_mol"] for row in rows]
    return 0 if all(deviation <= LIMIT_KCAL_MOL for deviation in deviations) else 1


def _tag(records: Sequence[Record], name: str) -> np.ndarray:
    return np.array([float(record.tags.get(name, "nan")) for record in records])


if __name__ == "__main__":
    sys.exit(main())
