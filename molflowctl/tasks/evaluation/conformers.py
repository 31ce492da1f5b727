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

A model is a conformer flow or "etkdg", or several with commas between them, which share the number;
"+mmff" or "+gfn2" behind it relaxes what is drawn. All models see the same molecules; the tables
hold those that every model could do. They are compared at equal numbers, or with `seconds` at equal
times: each draws and relaxes conformers of a molecule for so long.

References:
    Ganea et al., GeoMol, 2021, arXiv 2106.07802; Xu et al., GeoDiff, 2022, arXiv 2203.02923 (COV
        and AMR, twice as many conformers as references).
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field
from rdkit import Chem

from molflowctl.chem.ensemble import keep_conformers, rmsd_matrix
from molflowctl.compute.parallel import WorkerPool
from molflowctl.errors import UserError
from molflowctl.io.atomic import results_folder, write_file
from molflowctl.io.locks import one_writer
from molflowctl.io.record import record_of, record_path, versions, write_json
from molflowctl.models.conformer import ConformerFlow
from molflowctl.tasks.conformers.drawing import Drawn, draw_rounds, relax_drawn, with_hydrogens
from molflowctl.tasks.conformers.jobs import ETKDG
from molflowctl.tasks.conformers.references import Reference, read_groups
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

AT_ONCE = 8  # conformers between two looks at the clock
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
        description="conformer flows by name or folder, or etkdg, or several with commas between, "
        "each perhaps with +mmff or +gfn2",
    )
    per_reference: int = Field(
        default=2, ge=1, description="drawn for each reference conformer [conformers]"
    )
    seconds: float | None = Field(
        default=None,
        gt=0,
        description="that each model has for a molecule, in place of a number [seconds]",
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
    names = {name for model in config.models for name in _names(model)}
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
                drawing = tuple(flows[name] for name in _names(model))
                task = _Measure(drawing, model.partition("+")[2] or "none", config)
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


def _names(model: str) -> list[str]:
    """What draws in a model."""
    return [name.strip() for name in model.partition("+")[0].split(",")]


@dataclass(frozen=True)
class _Measure:
    """One molecule by one model, in a worker with one thread."""

    flows: tuple[ConformerFlow | None, ...]
    relax: str
    config: ConformerBenchmarkConfig

    def __call__(self, reference: Reference) -> Row:
        return measure(reference, self.flows, self.relax, self.config)


def measure(
    reference: Reference,
    flows: Sequence[ConformerFlow | None],
    relax: str,
    config: ConformerBenchmarkConfig,
) -> Row:
    """Every figure of one molecule.

    Arguments:
        flows: which share the number; None is ETKDGv3.

    Raises:
        ValueError: if the model cannot do the molecule.
    """
    known = Chem.Mol(reference.mol)
    Chem.AssignStereochemistryFrom3D(known)
    smiles = Chem.MolToSmiles(Chem.RemoveHs(known))
    began = time.perf_counter()
    drawn, n, first = _made(smiles, known.GetNumConformers(), flows, relax, reference, config)
    seconds = time.perf_counter() - began
    table = rmsd_matrix(drawn, known)
    row: Row = {"references": known.GetNumConformers(), "drawn": n, "seconds": seconds}
    for letter, nearest in (("r", table.min(0)), ("p", table.min(1))):
        row[f"amr_{letter}"] = float(nearest.mean())
        for delta in THRESHOLDS:
            row[f"cov_{letter}_{delta}"] = float((nearest < delta).mean())
    centres = sum(bool(a.GetChiralTag()) for a in known.GetAtoms())
    share = float(np.mean(first))
    row["stereo"] = share if centres or "/" in smiles else math.nan
    row["stereo_of_many"] = share if centres >= MANY else math.nan
    return row | _quality(drawn, known, config)


def _made(
    smiles: str,
    references: int,
    flows: Sequence[ConformerFlow | None],
    relax: str,
    reference: Reference,
    config: ConformerBenchmarkConfig,
) -> tuple[Chem.Mol, int, list[bool]]:
    """Conformers with hydrogens, how many were asked for, and of the first whether they are right.

    All at once, or `AT_ONCE` again and again until the time is over.
    """
    whole: Chem.Mol | None = None
    first: list[bool] = []
    lost, asked, turn, began = "", 0, 0, time.perf_counter()
    at_once = AT_ONCE if config.seconds else config.per_reference * references
    while not turn or (config.seconds and time.perf_counter() - began < config.seconds):
        for k, flow in enumerate(flows):
            share = at_once // len(flows) + (k < at_once % len(flows))
            found = _drawn(smiles, share, flow, reference.number, config, turn, relax != "none")
            first += found.first
            part = Chem.Mol(found.mol)
            if not part.GetNumConformers():
                lost = f"none of {found.drawn} conformers came out"
                continue
            if relax == "none" and not config.redraw:
                part, _ = with_hydrogens(part)
            else:
                part, _, _, failures = relax_drawn(part, relax)
                lost = f"no conformer came through the relaxation ({relax})"
                part = keep_conformers(part, [k for k, why in enumerate(failures) if not why])
            if whole is None:
                whole = part
            else:
                for conformer in part.GetConformers():
                    whole.AddConformer(conformer, assignId=True)
        asked, turn = asked + at_once, turn + 1
    if whole is None or not whole.GetNumConformers():
        raise ValueError(lost)
    return whole, asked, first


def _drawn(
    smiles: str,
    n: int,
    flow: ConformerFlow | None,
    number: int,
    config: ConformerBenchmarkConfig,
    turn: int = 0,
    relaxed: bool = False,
) -> Drawn:
    """`n` conformers, drawn as `conformers` does; others in every turn."""
    bare = Chem.MolFromSmiles(smiles)
    mol = Chem.AddHs(bare) if flow is None else flow.with_placed_atoms(bare)
    if flow is not None and (reason := flow.unsupported_reason(mol)):
        raise ValueError(reason)
    return draw_rounds(
        flow, mol, n, number, config,
        seed=config.seed + 104_729 * turn, rounds=1 + config.redraw, keep_wrong=not config.redraw,
        relaxed=relaxed,
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
        f"{_budget(config)}. Means over molecules, "
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


def _budget(config: ConformerBenchmarkConfig) -> str:
    if config.seconds:
        return f"{config.seconds:g} seconds for each model and molecule"
    return f"{config.per_reference} conformers drawn for each reference"


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
