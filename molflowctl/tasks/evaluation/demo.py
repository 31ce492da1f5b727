"""Base flow against steered flow, by the real oracle; `molflowctl demo` and `make demo`.

The steered flow is one that ships; its card says how it was made. Both draw fresh molecules with
one seed, and the property that was steered is computed anew: the dipole moment of `qm9` by
GFN2-xTB, the QED of `druglike` by RDKit.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rdkit import Chem
from rdkit.Chem import Mol

from molflowctl import properties
from molflowctl.chem.graphs import canonical_smiles
from molflowctl.compute.parallel import WorkerPool
from molflowctl.errors import UserError
from molflowctl.io.library import read_molecules
from molflowctl.io.library_writers import SDFWriter
from molflowctl.io.locks import one_writer
from molflowctl.io.plain_files import quoted
from molflowctl.io.record import versions, write_json
from molflowctl.models.generation import Sampling, sample
from molflowctl.tasks.evaluation.bootstrap import bootstrap
from molflowctl.tasks.generate.flows import load_flow
from molflowctl.viz import pictures as looking

__all__ = ["PAIRS", "Pair", "demo"]


@dataclass(frozen=True)
class Pair:
    """A flow, one that was made of it by steering, and what it was steered by.

    Args:
        column: the property that was steered.
        axis: its name in the figure.
        judge: the program that computes it.
        legend: how a picture shows a value.
    """

    base: str
    steered: str
    column: str
    axis: str
    judge: str
    legend: str

    @property
    def columns(self) -> tuple[str, ...]:
        """What is computed of every molecule, the property that was steered last."""
        return (*(c for c in ("qed", "sa_score", "logp") if c != self.column), self.column)


PAIRS = {
    "qm9": Pair(
        "qm9",
        "qm9-dipole",
        "dipole_debye",
        "dipole moment (debye, GFN2-xTB)",
        "GFN2-xTB",
        "{:.1f} D",
    ),
    "druglike": Pair("druglike", "druglike-qed", "qed", "QED", "RDKit", "QED {:.2f}"),
}
GRID = 12  # molecules of each flow in the picture


@one_writer(lambda out, *_, **__: out, folder=True)
def demo(
    out: str | Path,
    flow: str = "qm9",
    *,
    n: int = 64,
    seed: int = 0,
    jobs: int = 1,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Path]:
    """Draw, score, compare; write everything to `out`, replacing what an earlier demo left there.

    Args:
        flow: one of `PAIRS`.
        n: molecules of each flow.

    Returns:
        the files by what they are: base, steered, grid, figure, page.

    Raises:
        UserError: another flow, `n` below 1, or a flow that delivers fewer valid molecules.
    """
    if flow not in PAIRS:
        raise UserError(f"the demo is of {' or '.join(PAIRS)}, not of {quoted(flow)}")
    pair = PAIRS[flow]
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
    say(f"{n} molecules from each of {pair.base} and {pair.steered}, scored by {pair.judge}")
    with WorkerPool(jobs) as pool:
        for label, name in (("base", pair.base), ("steered", pair.steered)):
            molecules = sample(load_flow(name), n, Sampling(), seed=seed, jobs=jobs)
            titles = [mol.GetProp("_Name") for mol in molecules]
            attempts = int(titles[-1].rpartition("-")[2]) + 1  # they are numbered
            scores = properties.score(molecules, pair.columns, pool=pool)
            values[label] = scores[pair.column]
            with SDFWriter(files[label], overwrite=True) as writer:
                for i, (title, mol) in enumerate(zip(titles, molecules, strict=True)):
                    row = {column: float(scores[column][i]) for column in pair.columns}
                    smiles = Chem.MolToSmiles(Chem.RemoveHs(mol))
                    writer.write(mol, {"smiles": smiles, **row}, title)
                    shown.append((mol, f"{label} {title}", row))
            unique = len({canonical_smiles(mol) for mol in molecules})
            mean = bootstrap(scores[pair.column], "mean")
            say(
                f"{label:8s} {pair.column} {mean.value:.2f} [{mean.low:.2f}, {mean.high:.2f}]   "
                f"valid {n / attempts:.0%} of {attempts}, unique {unique / n:.0%}   "
                f"-> {files[label]}"
            )
    for label in ("base", "steered"):
        read = [record for record in read_molecules(files[label]) if record.mol is not None]
        if len(read) != n:
            raise RuntimeError(f"{files[label]} reads back {len(read)} of {n} molecules")
    picked = [*shown[:GRID], *shown[n : n + GRID]]
    looking.draw_grid(
        [mol for mol, _, _ in picked],
        files["grid"],
        [f"{title.split()[0]}  {pair.legend.format(row[pair.column])}" for _, title, row in picked],
    )
    looking.before_after_figure(
        {pair.base: values["base"], pair.steered: values["steered"]},
        files["figure"],
        pair.axis,
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
            "config": {"flow": flow, "n": n, "seed": seed},
            "flows": {"base": pair.base, "steered": pair.steered},
            pair.column: {label: float(np.nanmean(v)) for label, v in values.items()},
            "seconds": round(seconds, 1),
            "versions": versions(),
        },
    )
    for what in ("grid", "figure", "page"):
        say(f"{what:8s} -> {files[what]}")
    say(f"done in {seconds:.0f} s")
    return files
