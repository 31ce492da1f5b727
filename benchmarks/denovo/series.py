"""A worked example: from the molecules of a project to a ranked library of new ones.

    molflowctl data prepare druglike --limit 35000 -o datasets/druglike
    python benchmarks/denovo/series.py -j 2

The series are 400 sulfonamides of MOSES, an SDF file as a chemist would have one. A copy of
`druglike` goes on learning from it; the two flows are merged, so that the child keeps to what the
series has in common and takes the rest from all drug-like molecules, with QED as a reward; the
child's library is scored and ranked. Each step but the first is a command of molflowctl, printed
as it is run; what is finished is not run again. `benchmarks/denovo/series.md` tells the story.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rdkit import Chem

from molflowctl.chem.graphs import Molecule, assemble
from molflowctl.compute.parallel import KEEP_MEMORY
from molflowctl.data.datasets import MoleculeDataset
from molflowctl.io.library_writers import open_writer

PATTERN = "[#7]S(=O)(=O)[#6]"  # a sulfonamide
MINUTES = 6
SHOWN = f"qed,smarts:{PATTERN},sa_score"
MERGE = ["--weights", "1,2", "--reward", "qed", "--mirror-steps", "3", "--set", "test_samples=64"]
MERGE += ["--set", "base_samples=768", "--set", "n_samples=512", "--set", "train_steps=96"]


def write_series(data: Path, n: int, out: Path) -> None:
    """The first `n` molecules of a data set that have the pattern, in random order, as an SDF."""
    molecules = MoleculeDataset.load(data)
    pattern = Chem.MolFromSmarts(PATTERN)
    rows = molecules.indices("train").tolist()
    partial = out.with_name(f"partial-{out.name}")
    with open_writer(partial, overwrite=True) as writer:
        for k in np.random.default_rng(0).permutation(len(rows)):
            found = assemble(molecules.graph(rows[k]))
            if isinstance(found, Molecule) and found.mol.HasSubstructMatch(pattern):
                writer.write(found.mol, {}, f"series-{rows[k]}")
                n -= 1
            if not n:
                break
    if n:
        raise SystemExit(f"{data} has {n} molecules too few with the pattern {PATTERN}.")
    partial.rename(out)


def main(
    data: Annotated[Path, typer.Option(help="MOSES, prepared.")] = Path("datasets/druglike"),
    n: Annotated[int, typer.Option("-n", min=32, help="Molecules of the series.")] = 400,
    judged: Annotated[int, typer.Option(min=32, help="Attempts that judge each flow.")] = 500,
    work: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs/series"),
    out: Annotated[Path, typer.Option("-o", help="Folder of the tables.")] = Path(__file__).parent
    / "series",
    jobs: Annotated[int, typer.Option("-j", min=1, help="Worker processes.")] = 2,
) -> None:
    """From a series to a ranked library."""
    os.environ |= KEEP_MEMORY  # for the processes that are started from here
    work.mkdir(parents=True, exist_ok=True)

    def step(result: str, *command: str) -> None:
        if (work / result).exists():
            return
        print(f"$ {shlex.join(['molflowctl', *command])}", file=sys.stderr, flush=True)
        done = subprocess.run([sys.executable, "-m", "molflowctl", *command], cwd=work)
        if done.returncode:
            raise SystemExit(done.returncode)

    if not (work / "series.sdf.gz").exists():
        write_series(data, n, work / "series.sdf.gz")
    minutes = f"minutes={MINUTES}"
    step(
        "series/card.json",
        *["train", "--init", "druglike", "--data", "series.sdf.gz", "--set", minutes],
        *["--resume", "-o", "mine"],
    )
    if not (work / "series").exists():  # only a training that came to its end
        shutil.copytree(work / "mine" / "ema", work / "series")
    step(
        "merged/card.json",
        *["merge", "druglike & mine", "--let", "mine=series", *MERGE],
        *["-j", str(jobs), "--resume", "-o", "merged"],
    )
    step(
        "compare/table.md",
        *["benchmark", "compare", "druglike", "series", "merged", "-p", SHOWN],
        *["-n", str(judged), "-j", str(jobs), "--overwrite", "-o", "compare"],
    )
    step(
        "library.sdf.gz",
        *["generate", "merged", "-n", "500", "--seed", "1", "--relax", "mmff"],
        *["-j", str(jobs), "-o", "library.sdf.gz"],
    )
    step(
        "scored.sdf.gz",
        *["score", "library.sdf.gz", "-p", f"{SHOWN},logp,mw,brenk_alerts", "-j", str(jobs)],
        *["--reference", "series.sdf.gz", "-o", "scored.sdf.gz"],
    )
    step(
        "best.sdf.gz",
        *[
            "rank",
            "scored.sdf.gz",
            "--by",
            "product(ramp(qed, 0, 1), sigmoid(-sa_score, -3.5, 0.5))",
        ],
        *["-n", "30", "--grid", "best.png", "--html", "best.html", "-o", "best.sdf.gz"],
    )
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted((work / "compare").iterdir()):
        shutil.copyfile(path, out / path.name)
    for name in ("best.png", "best.sdf.gz", "merged/merge.csv", "merged/config.yaml"):
        shutil.copyfile(work / name, out / Path(name).name)
    print((out / "table.md").read_text())


if __name__ == "__main__":
    typer.run(main)
