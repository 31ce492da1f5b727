r"""`molflowctl benchmark conformers`: how near drawn conformers come to reference ensembles.

For a molecule with `L` reference conformers, `K` times as many are drawn, and with `d` the
symmetric heavy-atom RMSD between a reference `r` and a drawn one `c`

    COV-R  share of references with min_c d < delta        AMR-R  mean over references of min_c d
    COV-P  share of drawn ones with min_r d < delta        AMR-P  mean over drawn ones of min_r d

each averaged over the molecules. What is drawn, drawn again and relaxed is so by the code of
`conformers`. Stereo is counted in the conformers as they are first drawn; with `redraw` what broke
it is drawn again before all other figures, and left out if it breaks it to the end. Energies are
GFN2-xTB's, above the lowest reference's at its own geometry; errors of ensemble properties are
those of `tasks/ensemble_properties.py`.

A model is a conformer flow or "etkdg"; "+mmff" or "+gfn2" behind it relaxes what it draws. All
models see the same molecules; the tables hold those that every model could do.

References:
    Ganea et al., GeoMol, 2021, arXiv 2106.07802; Xu et al., GeoDiff, 2022, arXiv 2203.02923 (COV
        and AMR, twice as many conformers as references).
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field
from rdkit import Chem

from molflowctl.chem.ensemble import keep_conformers, rmsd_matrix
from molflowctl.chem.graphs import EXACT
from molflowctl.compute.parallel import WorkerPool
from molflowctl.errors import UserError
from molflowctl.io.atomic import results_folder, write_file
from molflowctl.io.library import Record, read_molecules
from molflowctl.io.locks import one_writer
from molflowctl.io.record import record_of, record_path, versions, write_json
from molflowctl.models.conformer import ConformerFlow
from molflowctl.tasks.conformers.drawing import Drawn, draw_rounds, relax_drawn, with_hydrogens
from molflowctl.tasks.conformers.jobs import ETKDG
from molflowctl.tasks.evaluation.bootstrap import Estimate, bootstrap
from molflowctl.tasks.evaluation.ensemble_properties import ERRORS, EnsembleProperties, draw_errors
from molflowctl.tasks.failures import Failures
from molflowctl.tasks.generate.flows import load_as
from molflowctl.tasks.shared_settings import (
    ConformerDrawing,
    ConformerSeed,
    Jobs,
    Limit,
    TemperatureK,
    Timeout,
)

__all__ = [
    "ConformerBenchmarkConfig",
    "Reference",
    "benchmark_conformers",
    "measure",
    "read_groups",
]

MANY = 3  # stereocentres in a molecule
THRESHOLDS = (0.5, 0.75, 1.0, 1.25)  # angstrom
Row = dict[str, float]


class ConformerBenchmarkConfig(
    ConformerDrawing, command="benchmark conformers", old_names={"temperature": "temperature_K"}
):
    """What `molflowctl benchmark conformers` does."""

    reference: str = Field(description="an SDF library, conformers of one title side by side")
    models: tuple[str, ...] = Field(
        min_length=1,
        description="conformer flows by name or folder, or etkdg, each perhaps with +mmff or +gfn2",
    )
    per_reference: int = Field(
        default=2, ge=1, description="drawn for each reference conformer [conformers]"
    )
    limit: Limit = Field(default=None, description="the first ones; null for all [molecules]")
    redraw: int = Field(default=0, ge=0, description="that wrong stereo is drawn again [times]")
    posebusters: int = Field(
        default=2, ge=0, description="drawn of each molecule that PoseBusters checks [conformers]"
    )
    energies: int = Field(
        default=32,
        ge=0,
        description="drawn of each molecule for energy, dipole and gap [conformers]",
    )
    temperature_K: TemperatureK = 298.0
    timeout: Timeout = Field(default=300.0, description="for a molecule and a model [seconds]")
    seed: ConformerSeed = 0
    jobs: Jobs = 1


_NOWHERE = Record("", None, {}, "")


@dataclass(frozen=True)
class Reference:
    """The reference conformers of one molecule.

    Attributes:
        number, title: of the molecule. mol: it, in bytes. place: its first record, without it.
    """

    number: int
    title: str
    mol: bytes
    place: Record = _NOWHERE


@one_writer(lambda config, out, *_, **__: out, folder=True)
def benchmark_conformers(
    config: ConformerBenchmarkConfig,
    out: str | Path,
    *,
    overwrite: bool = False,
    progress: Callable[[str, int, int], None] = lambda model, done, total: None,
) -> str:
    """Measure every model, write `table.md`, `rows.json` and `errors.png` into `out`.

    Returns the table.

    A benchmark that is interrupted leaves the rows it has, with `"complete": false`.

    Raises:
        UserError: for references or models that cannot be read, or results that are there.
    """
    folder = Path(out)
    for model in config.models:
        if (relax := model.partition("+")[2]) not in ("", "mmff", "gfn2"):
            raise UserError(f"{model}: after the + comes mmff or gfn2, not {relax!r}.")
    results_folder(folder, "rows.json", overwrite=overwrite)
    with Failures(folder) as failures:
        return _benchmark(config, folder, failures, progress)


def _benchmark(
    config: ConformerBenchmarkConfig,
    folder: Path,
    failures: Failures,
    progress: Callable[[str, int, int], None],
) -> str:
    left_out: Counter[str] = Counter()
    references = list(read_groups(config.reference, config.limit, left_out, failures))
    if not references:
        raise UserError(
            f"{config.reference} holds no reference conformers"
            f"{''.join(f'; {count} {reason}' for reason, count in left_out.items())}."
        )
    names = {name.split("+")[0] for name in config.models}
    flows = {n: None if n == ETKDG else load_as(ConformerFlow, n, "cpu") for n in names}
    rows: dict[str, list[Row | str]] = {}
    record: dict[str, Any] = {
        "command": "benchmark conformers",
        "config": config.model_dump(mode="json"),
        "weights_sha256": {n: f.card.get("weights_sha256") for n, f in flows.items() if f},
        "versions": versions(),
        "left_out": left_out,
        "complete": False,
    }
    molecules = [reference.title for reference in references]
    try:
        with WorkerPool(config.jobs, isolate=True) as pool:
            for model in config.models:
                name, _, relax = model.partition("+")
                task = _Measure(flows[name], relax or "none", config)
                rows[model] = []
                outcomes = pool.map(task, references, timeout=config.timeout, chunk=1)
                for reference, outcome in zip(references, outcomes, strict=True):
                    row = outcome.value or outcome.error or "failed"
                    rows[model].append(row)
                    if isinstance(row, str):
                        failures.add(reference.place, f"{model}: {row}")
                    progress(model, len(rows[model]), len(references))
        record["complete"] = True
    finally:  # what was measured is kept whatever comes
        if any(rows.values()):
            write_json(folder / "rows.json", record | {"molecules": molecules, "rows": rows})
            write_json(record_path(folder), record)
    kept = _common(rows)
    text = _table(kept, rows, config)
    if left_out:
        reasons = "; ".join(f"{count:,} {reason}" for reason, count in left_out.most_common())
        text += f"\nReferences left out: {reasons}.\n"
    if note := record_of(config.reference)[1]:
        text += f"\n{note}.\n"
    if failures.count:
        text += f"\nWhich records failed, and why: {failures.path}\n"
    write_file(folder / "table.md", text)
    if config.energies and all(kept.values()):
        draw_errors(kept, folder / "errors.png")
    return text


def read_groups(
    path: str,
    limit: int | None = None,
    left_out: Counter[str] | None = None,
    failures: Failures | None = None,
) -> Iterator[Reference]:
    """The molecules of a library: adjacent records of one title and graph are conformers of one.

    Arguments:
        left_out: counts records that are no reference, by reason; failures: takes them one by one.
    """
    left_out = Counter() if left_out is None else left_out

    def leave(record: Record, what: str, reason: str) -> None:
        left_out[what] += 1
        if failures is not None:
            failures.add(record, reason)

    place = _NOWHERE
    mol: Chem.Mol | None = None
    title, number = "", 0
    for record in read_molecules(path):
        if record.mol is None:
            leave(record, "that cannot be read", record.error)
            continue
        if not record.mol.GetNumConformers() or not record.mol.GetConformer().Is3D():
            leave(record, "without 3-D coordinates", "without 3-D coordinates")
            continue
        whole = Chem.AddHs(record.mol, addCoords=True)
        if mol is not None and record.name == title and _graph(mol) == _graph(whole):
            mol.AddConformer(whole.GetConformer(), assignId=True)
            continue
        if mol is not None:
            yield Reference(number, title, mol.ToBinary(EXACT), place)
            number += 1
            if number == limit:
                return
        mol, title = whole, record.name
        place = record._replace(mol=None, tags={}, block="")
    if mol is not None:
        yield Reference(number, title, mol.ToBinary(EXACT), place)


def _graph(mol: Chem.Mol) -> tuple:
    """Atoms in their order and who is bonded to whom.

    Without stereo, which each conformer has for itself, and without bond orders, of which a file
    may hold several resonance structures.
    """
    bonds = [sorted((b.GetBeginAtomIdx(), b.GetEndAtomIdx())) for b in mol.GetBonds()]
    return [a.GetAtomicNum() for a in mol.GetAtoms()], sorted(bonds)


@dataclass(frozen=True)
class _Measure:
    """One molecule by one model, in a worker with one thread."""

    flow: ConformerFlow | None
    relax: str
    config: ConformerBenchmarkConfig

    def __call__(self, reference: Reference) -> Row:
        return measure(reference, self.flow, self.relax, self.config)


def measure(
    reference: Reference, flow: ConformerFlow | None, relax: str, config: ConformerBenchmarkConfig
) -> Row:
    """Every figure of one molecule.

    Raises:
        ValueError: if the model cannot do the molecule.
    """
    known = Chem.Mol(reference.mol)
    Chem.AssignStereochemistryFrom3D(known)
    smiles = Chem.MolToSmiles(Chem.RemoveHs(known))
    n = config.per_reference * known.GetNumConformers()
    began = time.perf_counter()
    found = _drawn(smiles, n, flow, reference.number, config)
    drawn = Chem.Mol(found.mol)
    if not drawn.GetNumConformers():
        raise ValueError(f"none of {found.drawn} conformers came out")
    if relax == "none" and not config.redraw:
        drawn, _ = with_hydrogens(drawn)
    else:
        drawn, _, _, failures = relax_drawn(drawn, relax)
        drawn = keep_conformers(drawn, [k for k, failure in enumerate(failures) if not failure])
    seconds = time.perf_counter() - began
    if not drawn.GetNumConformers():
        raise ValueError(f"no conformer came through the relaxation ({relax})")
    table = rmsd_matrix(drawn, known)
    row: Row = {"references": known.GetNumConformers(), "drawn": n, "seconds": seconds}
    for letter, nearest in (("r", table.min(0)), ("p", table.min(1))):
        row[f"amr_{letter}"] = float(nearest.mean())
        for delta in THRESHOLDS:
            row[f"cov_{letter}_{delta}"] = float((nearest < delta).mean())
    centres = sum(bool(a.GetChiralTag()) for a in known.GetAtoms())
    share = float(np.mean(found.first))
    row["stereo"] = share if centres or "/" in smiles else math.nan
    row["stereo_of_many"] = share if centres >= MANY else math.nan
    return row | _quality(drawn, known, config)


def _drawn(
    smiles: str, n: int, flow: ConformerFlow | None, number: int, config: ConformerBenchmarkConfig
) -> Drawn:
    """`n` conformers, drawn as `conformers` does."""
    bare = Chem.MolFromSmiles(smiles)
    mol = Chem.AddHs(bare) if flow is None else flow.with_placed_atoms(bare)
    if flow is not None and (reason := flow.unsupported_reason(mol)):
        raise ValueError(reason)
    return draw_rounds(
        flow, mol, n, number, config,
        seed=config.seed, rounds=1 + config.redraw, keep_wrong=not config.redraw,
    )  # fmt: skip


def _quality(drawn: Chem.Mol, known: Chem.Mol, config: ConformerBenchmarkConfig) -> Row:
    """PoseBusters' rate, the median energy above the lowest reference, errors of properties."""
    from molflowctl.properties.validity import posebusters_checks

    found: Row = {}
    ids = [conformer.GetId() for conformer in drawn.GetConformers()]
    if config.posebusters:
        passed = [
            all(posebusters_checks(Chem.Mol(drawn, False, k), "graph and geometry").values())
            for k in ids[: config.posebusters]
        ]
        found["posebusters"] = float(np.mean(passed))
    if config.energies:
        mine = EnsembleProperties.of(drawn, config.energies, config.temperature_K)
        theirs = EnsembleProperties.of(known, temperature=config.temperature_K)
        if len(mine.energies):
            found["energy_kcal_mol"] = float(np.median(mine.energies) - theirs.minimum)
        found |= mine.errors(theirs)
    return found


def _common(rows: dict[str, list[Row | str]]) -> dict[str, list[Row]]:
    """The rows of the molecules that every model could do."""
    several = zip(*rows.values(), strict=True)
    common = [k for k, found in enumerate(several) if not any(isinstance(r, str) for r in found)]
    return {
        model: [row for k in common if isinstance(row := found[k], dict)]
        for model, found in rows.items()
    }


def _table(
    kept: dict[str, list[Row]], rows: dict[str, list[Row | str]], config: ConformerBenchmarkConfig
) -> str:
    """Markdown: a row of figures with 95 % intervals, a column for each model."""
    common, count = len(next(iter(kept.values()))), len(next(iter(rows.values())))
    lines = [
        f"{common} of {count} molecules that every model could do; "
        f"{config.per_reference} conformers drawn for each reference. Means over molecules, "
        "medians for energies and errors, 95 % bootstrap intervals.",
        "",
        "| | " + " | ".join(rows) + " |",
        "|---|" + "---:|" * len(rows),
    ]

    def add(label: str, cell: Callable[[list[Row]], str]) -> None:
        lines.append(f"| {label} | " + " | ".join(cell(found) for found in kept.values()) + " |")

    for letter, word in (("r", "R"), ("p", "P")):
        for delta in THRESHOLDS:
            add(f"COV-{word}, {delta:g} A", partial(_percent, f"cov_{letter}_{delta}"))
        add(f"AMR-{word}, A", partial(_number, f"amr_{letter}", "mean", 3))
    add("stereo as asked, as drawn", partial(_percent, "stereo"))
    add(f"the same, of {MANY} or more stereocentres", partial(_percent, "stereo_of_many"))
    add("PoseBusters", partial(_percent, "posebusters"))
    label = "GFN2-xTB energy above the lowest reference, kcal/mol"
    add(label, partial(_number, "energy_kcal_mol", "median", 1))
    for name, (what, unit) in ERRORS.items():
        add(f"absolute error of the {what}, {unit}", partial(_number, name, "median", 2))
    add("conformers/s, one thread", _speed)
    done = [str(sum(isinstance(row, dict) for row in found)) for found in rows.values()]
    lines.append("| molecules it could do | " + " | ".join(done) + " |")
    return "\n".join(lines) + "\n"


def _speed(found: list[Row]) -> str:
    seconds = sum(row["seconds"] for row in found)
    return f"{sum(row['drawn'] for row in found) / seconds:.0f}" if seconds else ""


def _estimate(name: str, statistic: Literal["mean", "median"], found: list[Row]) -> Estimate:
    return bootstrap(np.array([row.get(name, math.nan) for row in found]), statistic)


def _percent(name: str, found: list[Row]) -> str:
    e = _estimate(name, "mean", found)
    return f"{100 * e.value:.1f} ({100 * e.low:.1f}-{100 * e.high:.1f})" if e.n else ""


def _number(name: str, statistic: Literal["mean", "median"], digits: int, found: list[Row]) -> str:
    e = _estimate(name, statistic, found)
    return f"{e.value:.{digits}f} ({e.low:.{digits}f}-{e.high:.{digits}f})" if e.n else ""
