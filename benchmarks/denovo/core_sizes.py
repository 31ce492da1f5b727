"""How large the molecules are that have a given scaffold, beside what a flow around it draws.

    python benchmarks/denovo/core_sizes.py datasets/druglike-36500 -o core_sizes.csv

Of molecules that have a scaffold of `k` heavy atoms and more besides, those with `n - k` more atoms
are counted, and compared with two laws: sizes as often as in the whole data set, and these times
`n - k` (`Core.with_room`). Scaffolds (Bemis, Murcko, doi:10.1021/jm9602928) are of other molecules
than those that are searched.
"""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rdkit import Chem
from rdkit.Chem import rdSubstructLibrary
from rdkit.Chem.Scaffolds import MurckoScaffold

LEAST, MOST = 12, 20  # atoms of a scaffold


def expected(sizes: np.ndarray, k: int, weighted: bool) -> np.ndarray:
    """Shares of the numbers of atoms beside `k`, by the histogram `sizes` of all molecules."""
    beside = sizes[k:].astype(float)
    beside *= np.arange(len(beside)) if weighted else np.arange(len(beside)) > 0
    return beside / beside.sum()


def main(
    data: Annotated[Path, typer.Argument(help="A prepared data set.")],
    scaffolds: Annotated[int, typer.Option(min=1, help="To look for.")] = 250,
    searched: Annotated[int, typer.Option(min=100, help="Molecules.")] = 16_000,
    seed: Annotated[int, typer.Option(help="Same seed, same molecules.")] = 1,
    out: Annotated[Path, typer.Option("-o", help="Table.")] = Path(__file__).parent
    / "around"
    / "core_sizes.csv",
) -> None:
    """Count, and write a row for each number of atoms beside the scaffold."""
    with gzip.open(data / "smiles.txt.gz", "rt") as lines:
        smiles = np.random.default_rng(seed).permutation(lines.read().split())
    mols = [Chem.MolFromSmiles(text) for text in smiles[:searched]]
    library = rdSubstructLibrary.SubstructLibrary(
        rdSubstructLibrary.MolHolder(), rdSubstructLibrary.PatternHolder()
    )
    for mol in mols:
        library.AddMol(mol)
    atoms = np.array([mol.GetNumAtoms() for mol in mols])
    sizes = np.bincount(atoms)
    found, plain, weighted = (np.zeros(len(sizes)) for _ in range(3))
    seen: set[str] = set()
    for text in smiles[searched:]:
        core = MurckoScaffold.GetScaffoldForMol(Chem.MolFromSmiles(text))
        k, name = core.GetNumAtoms(), Chem.MolToSmiles(core)
        if not LEAST <= k <= MOST or name in seen or len(seen) == scaffolds:
            continue
        having = atoms[list(library.GetMatches(core, maxResults=searched, numThreads=1))]
        beside = np.bincount(having[having > k] - k, minlength=1)
        if beside.sum() < 3:
            continue
        seen.add(name)
        found[: len(beside)] += beside
        for total, by_left in ((plain, False), (weighted, True)):
            share = expected(sizes, k, by_left)
            total[: len(share)] += beside.sum() * share
    with out.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["beside", "found", "by the sizes alone", "by these times n - k"])
        for n in np.flatnonzero(weighted > 10):
            rows.writerow([n, int(found[n]), round(plain[n], 1), round(weighted[n], 1)])
    print(out.read_text())


if __name__ == "__main__":
    typer.run(main)
