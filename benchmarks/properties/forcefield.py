"""Speed of MMFF94 relaxation: OpenMM, whole batches, against RDKit's optimiser, one by one.

    python -m benchmarks.properties.forcefield -n 120

Both start from the same ETKDG geometries of drug-like molecules, on one thread (or on a GPU, where
OpenMM finds one). The thresholds differ in kind, so OpenMM's is set to the median over the
molecules of the largest gradient component that RDKit leaves. Times are of the processor, which
other programs disturb little; on a GPU, of the clock. Writes `forcefield.md` beside this file.
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import openmm
from rdkit import Chem, rdBase
from rdkit.Chem import Mol, rdDistGeom, rdForceFieldHelpers

from molflowctl.properties.energies import forcefield, mmff

SMILES = """
    CC(=O)Nc1ccc(S(N)(=O)=O)cc1 CN1CCN(CC1)C(=O)c1cc2ccccc2o1 CC(C)Cc1ccc(cc1)C(C)C(=O)O
    COc1ccc2nc(sc2c1)N1CCOCC1 O=C(NCc1ccccc1F)C1CCN(C1)c1ncccn1 N#Cc1ccc(OCC2CC2)cc1
    Cc1ccc(NC(=O)c2ccc(Cl)cc2)nc1 CC1CCCN(C1)S(=O)(=O)c1ccc(C#N)cc1 Cc1noc(C)c1CC(=O)NCc1ccco1
    O=C1CCC(=O)N1Cc1ccc(Br)cc1 CC(C)(C)NC(=O)c1ccccc1[N+](=O)[O-] COc1cc(CNC(=O)C2CC2)ccc1OC(F)F
    CCOC(=O)c1cnc2ccccc2c1NCCO O=C(O)CCNC(=O)c1ccsc1 CCn1cc(C(=O)NC2CCCCC2)c(C)n1
    FC(F)(F)c1cccc(c1)N1CCN(CC1)C(=O)CO C[NH+](C)CCOC(c1ccccc1)c1ccccc1 CSc1nc2ccccc2[nH]1
    O=C(c1cccs1)N1CCC2(CC1)OCCO2 CN1C=NC2=C1C(=O)N(C(=O)N2C)C
"""


def conformers(n: int) -> list[Mol]:
    smiles = SMILES.split()
    mols = []
    for number in range(n):
        mol = Chem.AddHs(Chem.MolFromSmiles(smiles[number % len(smiles)]))
        if rdDistGeom.EmbedMolecule(mol, randomSeed=1 + number // len(smiles)) != 0:
            raise SystemExit(f"RDKit did not embed {smiles[number % len(smiles)]}")
        mols.append(mol)
    return mols


def timed(clock: Callable[[], float], work: Callable[[], object]) -> tuple[float, object]:
    start = clock()
    result = work()
    return clock() - start, result


def per_gradient(mols: list[Mol], clock: Callable[[], float]) -> tuple[float, float, dict]:
    """Microseconds for one molecule's gradient: RDKit, OpenMM, and OpenMM by kind of term."""
    fields = [
        rdForceFieldHelpers.MMFFGetMoleculeForceField(
            mol, rdForceFieldHelpers.MMFFGetMoleculeProperties(mol)
        )
        for mol in mols
    ]
    repeats = 20
    seconds, _ = timed(clock, lambda: [f.CalcGrad() for f in fields for _ in range(repeats)])
    context = openmm.Context(
        forcefield.build_system(mols),
        openmm.VerletIntegrator(0.001),
        openmm.Platform.getPlatformByName(forcefield.fastest_platform()),
    )
    context.setPositions(np.concatenate([m.GetConformer().GetPositions() for m in mols]) / 10)
    kinds = {"all": -1, **{name: 1 << group for group, name in enumerate(mmff.TERMS)}}
    microseconds = {}
    for name, groups in kinds.items():
        context.getState(forces=True, groups=groups)
        took, _ = timed(
            clock,
            lambda groups=groups: [
                context.getState(forces=True, groups=groups) for _ in range(repeats)
            ],
        )
        microseconds[name] = 1e6 * took / repeats / len(mols)
    return 1e6 * seconds / repeats / len(mols), microseconds.pop("all"), microseconds


def largest_gradients(mols: list[Mol]) -> np.ndarray:
    gradients = forcefield.energies_and_gradients(mols).gradients_kcal_mol_angstrom
    return np.array([np.abs(gradient).max() for gradient in gradients])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=120, help="molecules")
    parser.add_argument("--batch", type=int, default=64, help="molecules in one System")
    parser.add_argument("-o", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args()
    mols = conformers(options.n)
    platform = forcefield.fastest_platform()
    clock = time.process_time if platform == "Reference" else time.perf_counter

    relaxed = [Mol(mol) for mol in mols]
    rdkit_s, _ = timed(
        clock,
        lambda: [rdForceFieldHelpers.MMFFOptimizeMolecule(mol, maxIters=5000) for mol in relaxed],
    )
    left = largest_gradients(relaxed)
    threshold = float(np.median(left))
    openmm_s, results = timed(
        clock,
        lambda: forcefield.relax(
            mols, max_gradient=threshold, max_evaluations=5000, batch=options.batch
        ),
    )
    terms_s, _ = timed(clock, lambda: [mmff.parametrise(mol) for mol in mols])
    rdkit_us, openmm_us, kinds = per_gradient(mols[: options.batch], clock)
    evaluations = np.array([result.evaluations for result in results])
    theirs = forcefield.energies_and_gradients(relaxed).energies_kcal_mol
    difference = np.array([result.energy_kcal_mol for result in results]) - theirs

    rows = [
        ("OpenMM over RDKit, molecules per second", f"**{rdkit_s / openmm_s:.2f}**"),
        ("RDKit, ms per molecule", f"{1e3 * rdkit_s / len(mols):.1f}"),
        ("OpenMM, ms per molecule", f"{1e3 * openmm_s / len(mols):.1f}"),
        ("of which parameters", f"{1e3 * terms_s / len(mols):.1f}"),
        ("OpenMM, gradients per molecule", f"{evaluations.mean():.0f}"),
        ("RDKit, microseconds per gradient", f"{rdkit_us:.0f}"),
        ("OpenMM, microseconds per gradient", f"{openmm_us:.0f}"),
        *((f"of which {name.replace('_', ' ')}", f"{us:.1f}") for name, us in kinds.items()),
        ("converged, OpenMM", f"{sum(r.converged for r in results)} of {len(mols)}"),
        ("same energy within 0.01 kcal/mol", f"{(np.abs(difference) < 0.01).sum()}"),
        ("OpenMM lower, higher", f"{(difference < -0.01).sum()}, {(difference > 0.01).sum()}"),
    ]
    settings = (
        f"{len(mols)} molecules, {np.mean([m.GetNumAtoms() for m in mols]):.0f} atoms on average; "
        f"platform {platform}, {options.batch} molecules in one System; largest gradient component "
        f"{threshold:.1e} kcal/mol/angstrom (what RDKit leaves, median); OpenMM "
        f"{openmm.__version__}, RDKit {rdBase.rdkitVersion}; "
        f"{'processor' if clock is time.process_time else 'wall'} time, one thread"
    )
    lines = ["# MMFF94 relaxation, OpenMM in batches against RDKit one by one", "", settings, ""]
    lines += ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows), ""]
    compound = kinds["stretch_bend"] + kinds["out_of_plane"]
    if platform == "Reference":
        lines += [
            f"Why it is below 1 without a GPU: {compound:.0f} of {sum(kinds.values()):.0f} "
            "microseconds go to the two terms that need `CustomCompoundBondForce`, for which "
            "OpenMM has on a CPU only its reference kernel, on one thread (the platform CPU uses "
            "the same). All other terms, pairs included, take "
            f"{sum(kinds.values()) - compound:.0f}, RDKit {rdkit_us:.0f} for everything. On a CPU, "
            "relax with RDKit over worker processes; batches in OpenMM are for a GPU.",
            "",
        ]
    lines += [f"    python -m benchmarks.properties.forcefield -n {options.n}"]
    text = "\n".join(lines) + "\n"
    options.o.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
