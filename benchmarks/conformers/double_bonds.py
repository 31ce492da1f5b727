"""Molecules of MOSES with a double bond that may be E or Z, as SMILES to train a conformer flow on.

    python benchmarks/conformers/double_bonds.py -n 4500 -o double-bonds.smi
    molflowctl data prepare-conformers double-bonds.smi --etkdg-conformers 1 \\
        -o datasets/double-bonds

Of the molecules of `druglike` one in two hundred has such a bond outside rings. These are drawn
from the training molecules of MOSES; which isomer one becomes `prepare-conformers` draws.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rdkit import Chem

from molflowctl.data.moses_source import find_smiles

BOND = Chem.MolFromSmarts("[#6X3,#7X2;!D1]=!@[#6X3,#7X2;!D1]")


def main(
    out: Annotated[Path, typer.Option("-o", help="A .smi file.")],
    n: Annotated[int, typer.Option("-n", min=1, help="Molecules.")] = 4500,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    source: Annotated[str | None, typer.Option(help="A copy of the wheel molsets.")] = None,
) -> None:
    """Draw training molecules of MOSES that have such a bond."""
    every = find_smiles(source)
    smiles = [s for s, test in zip(every.smiles, every.is_test, strict=True) if not test]
    found: list[str] = []
    for k in np.random.default_rng(seed).permutation(len(smiles)):
        if len(found) == n:
            break
        # Most have none, as their letters say already.
        if "=C" in smiles[k] or "=N" in smiles[k]:
            mol = Chem.MolFromSmiles(smiles[k])
            if mol is not None and mol.HasSubstructMatch(BOND):
                found.append(smiles[k])
    out.write_text("".join(f"{s} double-bond-{k}\n" for k, s in enumerate(found)))
    print(f"{len(found):,} molecules -> {out}")


if __name__ == "__main__":
    typer.run(main)
