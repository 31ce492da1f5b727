"""The best molecules that a steering has drawn and scored, of all its rounds, as an SDF library.

    python benchmarks/denovo/best_of_rounds.py runs/qed --least 0.88 -o best.sdf.gz
    molflowctl train --init runs/qed/rounds/step-007 --data best.sdf.gz \
        --set minutes=15 -o finished/

A round forgets most of what earlier ones have scored. The flow that learns them all together, each
molecule once, goes on towards the target, and what it repeated grows rare.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rdkit import Chem, rdBase
from safetensors.numpy import load_file

from molflowctl.chem.graphs import to_mol
from molflowctl.io.library_writers import SDFWriter
from molflowctl.tasks.steering.scored_molecules import ScoredMolecules


def main(
    run: Annotated[Path, typer.Argument(help="Folder of a finetune run.")],
    least: Annotated[float, typer.Option(help="The smallest reward.")],
    out: Annotated[Path, typer.Option("-o", help="The library.")],
) -> None:
    """Write them, and say how many there are."""
    seen: set[str] = set()
    counts: dict[str, int] = {}
    with SDFWriter(out) as writer, rdBase.BlockLogs():
        for file in sorted((run / "rounds").glob("sample-*.safetensors")):
            sample = ScoredMolecules.of_arrays(load_file(file))
            label = file.stem.rpartition("-")[0].removeprefix("sample-")
            found = zip(sample.graphs, sample.smiles, sample.values, strict=True)
            for graph, smiles, value in found:
                if graph and smiles and value >= least and smiles not in seen:
                    seen.add(smiles)
                    mol = to_mol(graph)
                    Chem.SanitizeMol(mol)
                    writer.write(mol, {"reward": float(value)}, title=smiles)
                    counts[label] = counts.get(label, 0) + 1
    print(f"{len(seen):,} molecules of {counts}")


if __name__ == "__main__":
    typer.run(main)
