"""Compute properties of a library of any origin; `molflowctl score`.

Molecules stream through a pool in blocks; those read as SMILES get hydrogens and a conformer in the
workers first. Every value, conformer and list of partial charges goes to the cache, which is what a
resumed run lives on.
"""

from __future__ import annotations

import contextlib
import math
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from molflowctl.chem.graphs import EXACT
from molflowctl.chem.units import HARTREE_TO_KCAL_MOL
from molflowctl.compute.parallel import Pool, open_pool
from molflowctl.errors import UserError
from molflowctl.io.atomic import leftovers, one_writer
from molflowctl.io.library import Record, count_records, has_coordinates, is_stream, read_molecules
from molflowctl.io.library_writers import LibraryWriter, open_writer
from molflowctl.io.record import read_record, record_path, versions, write_json
from molflowctl.properties import Property, PropertyError
from molflowctl.properties.cache import Cache, geometry_key
from molflowctl.properties.charges import CHARGE, CHARGE_TAG, charge_text, partial_charges
from molflowctl.properties.energies.relative import molecule_groups, relative_energies
from molflowctl.properties.evaluate import (
    Row,
    block_size,
    resolve,
    score_each,
)
from molflowctl.properties.programs import program_versions
from molflowctl.properties.similarity import reference_properties
from molflowctl.tasks.scoring.settings import ScoreConfig

__all__ = ["Column", "Scored", "describe", "embed", "kept_tags", "reasons", "score_library"]

_CONFORMER = "conformer ETKDGv3 MMFF94", 1, "rdkit"  # name, version, engine
_CHARGES = "partial charges GFN2-xTB", 1, "xtb"
_SEED = 0xF00D  # one for all: a conformer depends on its molecule only, and can be cached
_MMFF_STEPS = 2000
# Settings that change how long it takes or where it goes, but no value.
_MAY_CHANGE = {"out", "timeout", "jobs", "backend", "address", "cache", "resume", "overwrite"}


@dataclass
class Column:
    """The values of one column so far."""

    name: str
    unit: str
    values: array[float] = field(default_factory=lambda: array("d"))

    def statistics(self) -> dict[str, float]:
        """n, failed, and of the n: mean, sd (n - 1), min, median, max; NaN where undefined."""
        numbers = np.array(self.values)
        good = numbers[np.isfinite(numbers)]
        n = len(good)
        return {
            "n": n,
            "failed": len(numbers) - n,
            "mean": float(good.mean()) if n else math.nan,
            "sd": float(good.std(ddof=1)) if n > 1 else math.nan,
            "min": float(good.min()) if n else math.nan,
            "median": float(np.median(good)) if n else math.nan,
            "max": float(good.max()) if n else math.nan,
        }


@dataclass
class Scored:
    """How a scoring went.

    Attributes:
        columns: values by column, of every molecule that was written.
        read: records of the library so far.
        written: molecules in the output.
        unreadable: records without a molecule, by reason.
        unreadable_reference: the same of the reference.
        without_conformer: molecules that got none, by reason.
        failed: by property, molecules without its value, by reason.
        cached: values and conformers that were known before.
        damaged: results of the cache that were damaged, and were computed again.
        seconds: wall time.
        complete: the library was read to its end.
    """

    columns: dict[str, Column]
    read: int = 0
    written: int = 0
    unreadable: Counter[str] = field(default_factory=Counter)
    unreadable_reference: Counter[str] = field(default_factory=Counter)
    without_conformer: Counter[str] = field(default_factory=Counter)
    failed: dict[str, Counter[str]] = field(default_factory=dict)
    cached: int = 0
    damaged: int = 0
    seconds: float = 0.0
    complete: bool = False

    @property
    def fewer(self) -> bool:
        """Whether there are fewer results than were asked for."""
        return bool(self.unreadable or self.without_conformer or self.failed)


@one_writer(lambda config, *_, **__: config.out)
def score_library(
    config: ScoreConfig, progress: Callable[[int, int], object] = lambda done, total: None
) -> Scored:
    """Write the library of `config` with its properties, and its run record.

    On Ctrl-C an SDF keeps the molecules so far before `KeyboardInterrupt` goes on; a library that
    was there stays beside them.

    Args:
        progress: called with the records done and the records of the library.

    Raises:
        UserError: for settings, properties or files that cannot be used.
    """
    known, unreadable = _reference(config.reference)
    properties = resolve([*config.properties, *known])
    _check_resume(config)
    total = count_records(config.library)
    columns = {c: Column(c, item.unit) for item in properties for c in item.columns}
    relative = _relative_columns(columns) if config.relative else {}
    columns |= {name: Column(name, "kcal/mol") for name, _ in relative.values()}
    state = Scored(columns, unreadable_reference=unreadable)
    cache = None if config.cache is False else Cache(config.cache)
    began = time.monotonic()
    try:
        with (
            open_pool(config.jobs, config.backend, config.address) as pool,
            open_writer(config.out, config.overwrite or config.resume) as writer,
        ):
            try:
                _save(config, properties, state, writer)
                rows = _rows(config, properties, pool, cache, state)
                for record, row in _with_relative(rows, relative) if relative else rows:
                    _take(record, row, writer.write, state)
                    progress(state.read, max(total, state.read))
                state.complete = True
                _finish(config, properties, state, cache, began, writer)
            except KeyboardInterrupt:
                with contextlib.suppress(UserError):  # of a full disk: an older record stays
                    _finish(config, properties, state, cache, began, writer)
                raise
    finally:
        if cache is not None:
            cache.close()
    return state


def _rows(
    config: ScoreConfig,
    properties: list[Property],
    pool: Pool,
    cache: Cache | None,
    state: Scored,
) -> Iterator[tuple[Record, Row]]:
    records: Iterator[Record] = read_molecules(config.library)
    table = str(config.out).endswith((".csv", ".parquet"))
    geometric = not table or any(item.geometry for item in properties)
    embedded = geometric and not has_coordinates(config.library)
    if embedded:
        records = _with_conformers(records, pool, config.timeout, cache, state)
    if config.charges:
        records = _with_charges(records, pool, config.timeout, cache, state)
    under_way: deque[Record] = deque()

    def mols() -> Iterator[Chem.Mol | None]:
        for record in records:
            under_way.append(record)
            yield record.mol

    ahead = not (embedded or config.charges)  # which use the pool themselves
    for row in score_each(mols(), properties, pool, config.timeout, cache, ahead=ahead):
        yield under_way.popleft(), row


def _reference(library: str | None) -> tuple[list[Property], Counter[str]]:
    """What to compute against the user's own set, and its records that cannot be read."""
    unreadable: Counter[str] = Counter()
    if library is None:
        return [], unreadable
    mols = []
    for record in read_molecules(library):
        if record.mol is None:
            unreadable[record.error] += 1
        else:
            mols.append(record.mol)
    if not mols:
        raise UserError(f"{library} has no molecule to compare with.")
    return reference_properties(mols), unreadable


def _relative_columns(columns: Iterable[str]) -> dict[str, tuple[str, float]]:
    """By column of an energy, the name of the relative one and the factor to kcal/mol.

    Raises:
        UserError: no energy among them.
    """
    found = {}
    for unit, factor in (("_hartree", HARTREE_TO_KCAL_MOL), ("_kcal_mol", 1.0)):
        for column in columns:
            if column.endswith(f"_energy{unit}") and not column.startswith("relax"):
                found[column] = f"relative_{column.removesuffix(unit)}_kcal_mol", factor
    if not found:
        raise UserError("relative to what? Add an energy, for instance -p xtb-energy.")
    return found


def _with_relative(
    rows: Iterator[tuple[Record, Row]], relative: dict[str, tuple[str, float]]
) -> Iterator[tuple[Record, Row]]:
    """Add each energy above the lowest of the adjacent records of the same molecule.

    A molecule that comes back after another has no such value: its lowest is not known here.
    """
    seen: set[str] = set()
    last = ""

    def molecule_of(pair: tuple[Record, Row]) -> str:
        nonlocal last
        if pair[0].mol is not None:  # an unreadable record does not part its neighbours
            (last,) = molecule_groups([pair[0].mol])
        return last

    for molecule, group in groupby(rows, key=molecule_of):
        records, found = zip(*group, strict=True)
        again = molecule in seen
        seen.add(molecule)
        added: list[dict[str, float]] = [{} for _ in found]
        for column, (name, factor) in relative.items():
            energies = [factor * row.values[column] for row in found]
            for values, value in zip(
                added, relative_energies(energies, [molecule] * len(energies)), strict=True
            ):
                values[name] = math.nan if again else float(value)
        for record, row, values in zip(records, found, added, strict=True):
            errors = dict(row.errors)
            if again and record.mol is not None:
                errors["relative energy"] = "its conformers are not next to one another"
            yield record, Row({**row.values, **values}, errors)


def _take(
    record: Record,
    row: Row,
    write: Callable[[Chem.Mol, dict[str, object], str, str], None],
    state: Scored,
) -> None:
    index = state.read
    if record.mol is None:
        state.unreadable[record.error] += 1
    else:
        # A value from an earlier scoring must not pass for one of this.
        tags = {name: text for name, text in kept_tags(record) if name not in row.values}
        title = record.title
        write(record.mol, {**tags, **row.values}, title, record.block)
        state.written += 1
        for name, value in row.values.items():
            state.columns[name].values.append(value)
        for name, reason in row.errors.items():
            state.failed.setdefault(name, Counter())[reason] += 1
    state.read = index + 1


def kept_tags(record: Record) -> Iterator[tuple[str, object]]:
    """The input's own tags; `ID` by another name, as readers would take it for the title."""
    for name, text in record.tags.items():
        yield "input_ID" if name == "ID" else name, text


def _with_conformers(
    records: Iterator[Record],
    pool: Pool,
    timeout: float | None,
    cache: Cache | None,
    state: Scored,
) -> Iterator[Record]:
    """Records with hydrogens and a conformer, computed a block at a time."""
    while block := list(islice(records, block_size(pool))):
        full = [Chem.AddHs(record.mol) if record.mol is not None else None for record in block]
        reasons = _embed_all([mol for mol in full if mol is not None], pool, timeout, cache)
        for record, mol in zip(block, full, strict=True):
            if mol is not None and (reason := next(reasons)):
                state.without_conformer[reason] += 1
            yield record._replace(mol=mol)


def _embed_all(
    mols: list[Chem.Mol], pool: Pool, timeout: float | None, cache: Cache | None
) -> Iterator[str]:
    """Give each molecule a conformer in place; the reasons of those that stay without, or ''."""
    results = _arrays(_positions, _CONFORMER, mols, pool, timeout, cache)
    return map(_settle, mols, results)


def _with_charges(
    records: Iterator[Record],
    pool: Pool,
    timeout: float | None,
    cache: Cache | None,
    state: Scored,
) -> Iterator[Record]:
    """Records with the tag that RDKit reads as a property of each atom, a block at a time."""
    while block := list(islice(records, block_size(pool))):
        mols = [record.mol for record in block if record.mol is not None]
        results = iter(_arrays(_charges, _CHARGES, mols, pool, timeout, cache))
        for record in block:
            if record.mol is None:
                yield record
                continue
            tags = {name: text for name, text in record.tags.items() if name != CHARGE_TAG}
            result = next(results)
            if isinstance(result, str):
                state.failed.setdefault(CHARGE, Counter())[result] += 1
            else:
                tags[CHARGE_TAG] = charge_text(result)
            yield record._replace(tags=tags)


def _arrays(
    function: Callable[[bytes], NDArray[np.float64] | str],
    name: tuple[str, int, str],
    mols: list[Chem.Mol],
    pool: Pool,
    timeout: float | None,
    cache: Cache | None,
) -> list[NDArray[np.float64] | str]:
    """An array of each molecule, or the reason why there is none, from the cache or the workers.

    `name` is the cache's, with its version and engine. Arrays are in the order of the atoms, and so
    is their key.
    """
    title, version, engine = name
    programs = program_versions(engine)
    keys = [geometry_key(mol) for mol in mols] if cache is not None else []
    results: list[NDArray[np.float64] | str | None] = [None] * len(mols)
    if cache is not None:
        results = [cache.get(key, title, version, programs) for key in keys]
    missing = [index for index, result in enumerate(results) if result is None]
    if missing:
        binaries = [mols[index].ToBinary(EXACT) for index in missing]
        for index, outcome in zip(
            missing, pool.map(function, binaries, timeout=timeout), strict=True
        ):
            if outcome.value is None:  # a time-out or a crash, which is tried again another time
                results[index] = outcome.error or "failed"
                continue
            results[index] = outcome.value
            if cache is not None:
                cache.put(keys[index], title, version, outcome.value, programs)
    return [result if result is not None else "failed" for result in results]


def _charges(binary: bytes) -> NDArray[np.float64] | str:
    try:
        return partial_charges(Chem.Mol(binary))
    except PropertyError as error:
        return str(error)


def _settle(mol: Chem.Mol, result: NDArray[np.float64] | str) -> str:
    if isinstance(result, str):
        return result
    conformer = Chem.Conformer(mol.GetNumAtoms())
    conformer.SetPositions(result.reshape(-1, 3).copy())
    conformer.Set3D(True)
    mol.AddConformer(conformer, assignId=True)
    return ""


def _positions(binary: bytes) -> NDArray[np.float64] | str:
    try:
        return embed(Chem.Mol(binary)).GetConformer().GetPositions().ravel()
    except PropertyError as error:
        return str(error)


def embed(mol: Chem.Mol) -> Chem.Mol:
    """A copy with one conformer: ETKDGv3, then MMFF94 to its minimum (at most 2,000 steps).

    Equal molecules get equal conformers. Hydrogens must be explicit.

    Raises:
        PropertyError: no geometry was found, or MMFF94 has no parameters for the molecule.

    References:
        Wang, Witek, Landrum, Riniker, J. Chem. Inf. Model. 60, 2044 (2020) (ETKDGv3);
        Halgren, J. Comput. Chem. 17, 490 (1996) (MMFF94).
    """
    mol = Chem.Mol(mol)
    if mol.GetNumAtoms() == 0:
        raise PropertyError("no atoms")
    parameters = rdDistGeom.ETKDGv3()
    parameters.randomSeed = _SEED
    with rdBase.BlockLogs():
        if not rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol):
            raise PropertyError("no conformer: MMFF94 has no parameters for it")
        if rdDistGeom.EmbedMolecule(mol, parameters) < 0:
            parameters.useRandomCoords = True
            if rdDistGeom.EmbedMolecule(mol, parameters) < 0:
                raise PropertyError("no conformer: ETKDGv3 found none")
        rdForceFieldHelpers.MMFFOptimizeMolecule(mol, maxIters=_MMFF_STEPS)
    return mol


def _check_resume(config: ScoreConfig) -> None:
    """Raise `UserError` unless the output is of an earlier run of the same settings."""
    if not config.resume:
        return
    if is_stream(config.out):
        raise UserError(f"-o {config.out} is no file: there is nothing to resume.")
    out = Path(config.out)
    if not out.exists():
        return  # nothing was finished; what was computed is in the cache
    settings = config.model_dump(mode="json")

    def changed(record: dict[str, Any]) -> list[str]:
        earlier = record.get("config", {})
        return [n for n, v in settings.items() if n not in _MAY_CHANGE and earlier.get(n) != v]

    begun = [read_record(record_path(path)) or {} for path in leftovers(out)]
    if any(record.get("command") == "score" and not changed(record) for record in begun):
        return  # of a run that was to overwrite what is there
    record = read_record(record_path(out)) or {}
    if record.get("command") != "score":
        raise UserError(
            f"{out} has no readable {record_path(out).name} beside it: it cannot be "
            "resumed; --overwrite starts again."
        )
    if differ := changed(record):
        raise UserError(
            f"{config.out} was made with other settings ({', '.join(differ)}): it cannot be "
            "resumed; --overwrite starts again."
        )


def _finish(
    config: ScoreConfig,
    properties: Iterable[Property],
    state: Scored,
    cache: Cache | None,
    began: float,
    writer: LibraryWriter,
) -> None:
    state.cached = 0 if cache is None else cache.hits
    state.damaged = 0 if cache is None else cache.damaged
    state.seconds = time.monotonic() - began
    _save(config, properties, state, writer)


def _save(
    config: ScoreConfig, properties: Iterable[Property], state: Scored, writer: LibraryWriter
) -> None:
    """Write the run record beside the unfinished output."""
    if writer.record is None:
        return
    write_json(
        writer.record,
        {
            "command": "score",
            "config": config.model_dump(mode="json"),
            "properties": {item.name: {"version": item.version, "unit": item.unit}
                           for item in properties},
            "versions": versions(),
            "counts": {
                "read": state.read,
                "written": state.written,
                "unreadable": dict(state.unreadable.most_common()),
                "unreadable_reference": dict(state.unreadable_reference.most_common()),
                "without_conformer": dict(state.without_conformer.most_common()),
                "failed": {n: dict(counts.most_common()) for n, counts in state.failed.items()},
                "cached": state.cached,
                "damaged in the cache": state.damaged,
            },
            "columns": {
                name: {k: v if math.isfinite(v) else None for k, v in column.statistics().items()}
                for name, column in state.columns.items()
            },
            "seconds": round(state.seconds, 2),
            "complete": state.complete,
        },
    )  # fmt: skip


def describe(state: Scored) -> list[tuple[str, ...]]:
    """The summary table: a row of texts for each column, headings first."""
    headings: tuple[str, ...] = (
        "property",
        "n",
        "failed",
        "mean",
        "sd",
        "min",
        "median",
        "max",
        "unit",
    )
    rows = [headings]
    for column in state.columns.values():
        figures = column.statistics()
        counts = [f"{int(figures.pop(name)):,}" for name in ("n", "failed")]
        numbers = ["" if math.isnan(v) else f"{v:.5g}" for v in figures.values()]
        rows.append((column.name, *counts, *numbers, column.unit))
    return rows


def reasons(state: Scored) -> list[str]:
    """One line for each reason why a result is missing, the most frequent first."""
    counts = [
        ("unreadable", state.unreadable),
        ("unreadable in the reference", state.unreadable_reference),
        ("no conformer", state.without_conformer),
    ]
    return [
        f"{count:,} x {what}: {reason}"
        for what, counter in [*counts, *state.failed.items()]
        for reason, count in counter.most_common()
    ]
