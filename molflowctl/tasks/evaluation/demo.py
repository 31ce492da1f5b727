"""Base flow against steered flow, by the real oracle; `molflowctl demo` and `make demo`.

The steered flow is one that ships, made by `molflowctl finetune qm9 --reward dipole_debye` (its
card has the configuration). Both draw fresh molecules with one seed; the dipole is GFN2-xTB's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rdkit import Chem
from rdkit.Chem import Mol

from molflowctl import properties
from molflowctl.chem.graphs import canonical_smiles
from molflowctl.compute.parallel import WorkerPool
from molflowctl.io.library import read_molecules
from molflowctl.io.library_writers import SDFWriter
from molflowctl.io.locks import one_writer
from molflowctl.io.record import versions, write_json
from molflowctl.models.generation import Sampling, sample
from molflowctl.tasks.evaluation.bootstrap import bootstrap
from molflowctl.tasks.generate.flows import load_flow
from molflowctl.viz import pictures as looking

__all__ = ["demo"]

BASE, STEERED, PROPERTY = "qm9", "qm9-dipole", "dipole_debye"
COLUMNS = ("qed", "sa_score", "logp", PROPERTY)
GRID = 12  # molecules of each flow in the picture


@one_writer(lambda out, *_, **__: out, folder=True)
def demo(
    out: str | Path,
    *,
    n: int = 64,
    seed: int = 0,
    jobs: int = 1,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Path]:
    """Draw, score, compare; write everything to `out`, replacing what an earlier demo left there.

    Returns:
        the files by what they are: base, steered, grid, figure, page.

    Raises:
        UserError: `n` below 1, or a flow that does not deliver as many valid molecules.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    files = {
        "base": out / "base.sdf.gz",
        "steered": out / "steered.sdf.gz",
        "grid": out / "molecules.png",
        "figure": out / "before_after.png",
        "page": out / "molecules.html",
    }
    values: dict[str, np.ndarray] = {}
    shown: list[tuple[Mol, str, dict[str, float]]] = []
    say(f"{n} molecules from each of {BASE} and {STEERED}, scored by GFN2-xTB")
    with WorkerPool(jobs) as pool:
        for label, name in (("base", BASE), ("steered", STEERED)):
            molecules = sample(load_flow(name), n, Sampling(), seed=seed, jobs=jobs)
            titles = [mol.GetProp("_Name") for mol in molecules]
            attempts = int(titles[-1].rpartition("-")[2]) + 1  # they are numbered
            scores = properties.score(molecules, COLUMNS, pool=pool)
            values[label] = scores[PROPERTY]
            with SDFWriter(files[label], overwrite=True) as writer:
                for i, (title, mol) in enumerate(zip(titles, molecules, strict=True)):
                    row = {column: float(scores[column][i]) for column in COLUMNS}
                    smiles = Chem.MolToSmiles(Chem.RemoveHs(mol))
                    writer.write(mol, {"smiles": smiles, **row}, title)
                    shown.append((mol, f"{label} {title}", row))
            unique = len({canonical_smiles(mol) for mol in molecules})
            mean = bootstrap(scores[PROPERTY], "mean")
            say(
                f"{label:8s} {mean.value:5.2f} debye [{mean.low:.2f}, {mean.high:.2f}]   valid "
                f"{n / attempts:.0%} of {attempts}, unique {unique / n:.0%}   -> {files[label]}"
            )
    for label in ("base", "steered"):
        read = [record for record in read_molecules(files[label]) if record.mol is not None]
        if len(read) != n:
            raise RuntimeError(f"{files[label]} reads back {len(read)} of {n} molecules")
    picked = [*shown[:GRID], *shown[n : n + GRID]]
    looking.draw_grid(
        [mol for mol, _, _ in picked],
        files["grid"],
        [f"{title.split()[0]}  {row[PROPERTY]:.1f} D" for _, title, row in picked],
    )
    looking.before_after_figure(
        {BASE: values["base"], STEERED: values["steered"]},
        files["figure"],
        "dipole moment (debye, GFN2-xTB)",
        title="fresh molecules before and after steering",
    )
    looking.write_html(
        [mol for mol, _, _ in shown],
        files["page"],
        [title for _, title, _ in shown],
        [row for _, _, row in shown],
        title="molflowctl demo",
    )
    seconds = time.monotonic() - began
    write_json(
        out / "demo.run.json",
        {
            "command": "demo",
            "config": {"n": n, "seed": seed},
            "flows": {"base": BASE, "steered": STEERED},
            PROPERTY: {label: float(np.nanmean(v)) for label, v in values.items()},
            "seconds": round(seconds, 1),
            "versions": versions(),
        },
    )
    for what in ("grid", "figure", "page"):
        say(f"{what:8s} -> {files[what]}")
    say(f"done in {seconds:.0f} s")
    return files
