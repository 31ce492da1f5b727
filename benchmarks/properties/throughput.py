"""How fast `molflowctl score -p xtb_energy_hartree` is, over one bare tblite loop.

    python benchmarks/properties/throughput.py library.sdf.gz [--jobs 2] [--molecules 600]
        [--repeat 3] [-o throughput.json]

Both see the same molecules with their geometries, without a cache. The loop is one process with one
thread that does nothing but build a calculator, as accurate as the property's, and ask for its
energy; reading the file and starting Python are not in its time. The command is timed as its run
record says (from opening the library to the finished output, the start of the workers included)
and, for comparison, from outside as the shell sees it. The two alternate `--repeat` times and the
medians are compared: on two workers a ratio of 1.8 is wanted, 2 is ideal, and only an otherwise
idle machine shows it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def bare_loop(library: str) -> float:
    """Seconds of GFN2-xTB single points, one after another, in this process."""
    import numpy as np
    from rdkit.Chem import GetFormalCharge
    from rdkit.Chem.Descriptors import NumRadicalElectrons
    from tblite.interface import Calculator

    from molflowctl.chem.units import BOHR_TO_ANGSTROM
    from molflowctl.io.library import read_molecules
    from molflowctl.properties.energies.xtb_backends import TBLITE_ACCURACY

    mols = [record.mol for record in read_molecules(library) if record.mol is not None]
    systems = [
        (
            np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()]),
            mol.GetConformer().GetPositions() / BOHR_TO_ANGSTROM,
            float(GetFormalCharge(mol)),
            NumRadicalElectrons(mol),
        )
        for mol in mols
    ]
    began = time.perf_counter()
    for numbers, positions, charge, unpaired in systems:
        calculator = Calculator("GFN2-xTB", numbers, positions, charge, unpaired)
        calculator.set("verbosity", 0)
        calculator.set("accuracy", TBLITE_ACCURACY)
        calculator.singlepoint().get("energy")
    return time.perf_counter() - began


def command(library: str, jobs: int) -> tuple[float, float]:
    """Seconds of the command, as it says and as the shell sees it."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "scored.sdf.gz"
        arguments = ["-p", "xtb_energy_hartree", "-o", out, "-j", str(jobs), "--no-cache", "-q"]
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "molflowctl", "score", library, *arguments], check=True
        )
        outside = time.perf_counter() - began
        return json.loads(Path(f"{out}.run.json").read_text())["seconds"], outside


def computable(library: str, most: int | None, copy: Path) -> int:
    """Copy the molecules that GFN2-xTB can compute: a failure costs no time and would flatter."""
    from molflowctl.io.library import read_molecules
    from molflowctl.io.library_writers import SDFWriter
    from molflowctl.properties import get

    count = 0
    with SDFWriter(copy) as writer:
        for record in read_molecules(library):
            if count == most:
                break
            try:
                get("xtb_energy_hartree")(record.mol)
            except (ValueError, AttributeError):
                continue
            writer.write(record.mol, {}, record.name)
            count += 1
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("library", help="an SDF with geometries")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--molecules", type=int, help="the first ones only [default: all]")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("-o", "--out", type=Path, help="also as JSON")
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:  # in a process of its own, which nothing else has warmed or slowed
        print(bare_loop(options.library))
        return
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "library.sdf"
        count = computable(options.library, options.molecules, library)
        if count == 0:
            sys.exit(f"{options.library}: no molecule that GFN2-xTB can compute")
        loops, commands, outside = [], [], []
        for _ in range(options.repeat):
            done = subprocess.run(
                [sys.executable, __file__, str(library), "--bare"],
                env={**os.environ, **ONE_THREAD},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            loops.append(float(done.stdout))
            inside, seen = command(str(library), options.jobs)
            commands.append(inside)
            outside.append(seen)
    loop, scored, shell = (count / statistics.median(s) for s in (loops, commands, outside))
    result = {
        "molecules": count,
        "jobs": options.jobs,
        "cores": len(os.sched_getaffinity(0)),
        "load_average": round(os.getloadavg()[0], 2),
        "bare_loop_per_s": round(loop, 2),
        "score_per_s": round(scored, 2),
        "score_from_the_shell_per_s": round(shell, 2),
        "ratio": round(scored / loop, 3),
        "ratio_from_the_shell": round(shell / loop, 3),
    }
    for name, value in result.items():
        print(f"{name:28s} {value}")
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
