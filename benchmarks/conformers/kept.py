"""Whether delivered conformers are still the molecules that were asked for.

    python benchmarks/conformers/kept.py library.smi -n 200 --relax gfn2 -o kept.json

makes one conformer of each of the first molecules (ETKDGv3), relaxes it as `molflowctl conformers`
does, and checks every delivered record anew: bonds by distances, and stereo by coordinates. It
writes counts, and ends with status 1 if a delivered record is another molecule.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from rdkit import Chem

from molflowctl.chem.relaxation import bonds_kept
from molflowctl.chem.stereo import stereo_kept
from molflowctl.io.record import record_path


def kept(library: Path) -> dict[str, int]:
    """Of the records of an SDF file: how many, and how many keep bonds and stereo."""
    counts = {"delivered": 0, "bonds kept": 0, "stereo kept": 0}
    for mol in Chem.SDMolSupplier(str(library), removeHs=False):
        counts["delivered"] += 1
        counts["bonds kept"] += bonds_kept(mol)
        counts["stereo kept"] += stereo_kept(mol)
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("molecules", help="A file of SMILES.")
    parser.add_argument("-n", type=int, default=200, help="Molecules, from the first on.")
    parser.add_argument("--relax", default="gfn2")
    parser.add_argument("-o", "--out", type=Path, required=True, help="Counts, JSON.")
    options = parser.parse_args()
    lines = Path(options.molecules).read_text().splitlines()[: options.n]
    with tempfile.TemporaryDirectory() as place:
        asked, library = Path(place) / "asked.smi", Path(place) / "library.sdf"
        asked.write_text("\n".join(lines) + "\n")
        command = [sys.executable, "-m", "molflowctl", "conformers", str(asked), "--model", "etkdg"]
        command += ["-n", "1", "--relax", options.relax, "-o", str(library)]
        if (status := subprocess.run(command).returncode) not in (0, 3):  # 3: some failed
            return status
        record = json.loads(record_path(library).read_text())
        found = {"asked": len(lines), **kept(library), "failed": record["counts"]["failed"]}
        told = {"relax": options.relax, "versions": record["versions"], **found}
        options.out.write_text(json.dumps(told, indent=2) + "\n")
    print(found)
    return int(not found["delivered"] == found["bonds kept"] == found["stereo kept"])


if __name__ == "__main__":
    sys.exit(main())
