"""Compute properties of a library of any origin; `molflowctl score`.

Molecules stream through a pool in blocks; those read as SMILES get hydrogens and a conformer in the
workers first (`geometries.py`). Every value, conformer and list of partial charges goes to
the cache, which is what a resumed run lives on.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem

from molflowctl.chem.spin import declare
from molflowctl.compute.parallel import Pool, open_pool
from molflowctl.errors import UserError
from molflowctl.io.atomic import leftovers
from molflowctl.io.library import Record, has_coordinates, is_stream, read_molecules
from molflowctl.io.library_writers import FLAT, LibraryWriter, open_writer
from molflowctl.io.locks import one_writer
from molflowctl.io.reading import Given, Source, isomers_of_groups, survey
from molflowctl.io.record import (
    OURS,
    names_beside,
    own_columns,
    read_record,
    record_of,
    record_path,
    renamed_note,
    versions,
    write_json,
)
from molflowctl.properties import Property, PropertyError
from molflowctl.properties.cache import Cache
from molflowctl.properties.charges import CHARGE, CHARGE_TAG, charge_text, partial_charges
from molflowctl.properties.evaluate import (
    Row,
    block_size,
    resolve,
    score_each,
)
from molflowctl.properties.similarity import reference_properties
from molflowctl.tasks.failures import Failures
from molflowctl.tasks.scoring.geometries import (
    COLUMNS,
    Rules,
    arrays,
    stripped,
    with_geometries,
)
from molflowctl.tasks.scoring.outcome import NOTES, Column, Scored
from molflowctl.tasks.scoring.poses import Poses, dockings, joined, open_poses
from molflowctl.tasks.scoring.relative import relative_columns, with_relative
from molflowctl.tasks.scoring.settings import ScoreConfig

__all__ = [
    "columns_of",
    "kept_tags",
    "score_library",
]

_CHARGES = "partial charges GFN2-xTB", 2, "xtb"  # name, version and engine in the cache
# Settings that change how long it takes or where it goes, but no value.
_MAY_CHANGE = {
    "out",
    "timeout",
    "jobs",
    "backend",
    "address",
    "cache",
    "poses",
    "resume",
    "overwrite",
}


@one_writer(lambda config, *_, **__: config.out)
def score_library(
    config: ScoreConfig,
    progress: Callable[[int, int], object] = lambda done, total: None,
    *,
    given: Given | None = None,
    into: LibraryWriter | None = None,
    watch: Callable[[Record, Row], object] = lambda record, row: None,
) -> Scored:
    """Write the library of `config` with its properties, and its run record.

    On Ctrl-C an SDF keeps the molecules so far before `KeyboardInterrupt` goes on; a library that
    was there stays beside them. Of a table nothing is kept but what is in the cache.

    Args:
        progress: called with the records done and the records of the library.
        given: the library, in the place of `config.library`.
        into: what takes the molecules, in the place of `config.out`: a table, as it seems.
        watch: called with every record and its values, those that failed too.

    Raises:
        UserError: for settings, properties or files that cannot be used.
    """
    known, unreadable = _reference(config.reference)
    properties = resolve([*config.properties, *known])
    _check_resume(config)
    library: Source = given or config.library
    seen = survey(library, config.smiles_column)
    total = seen.count
    columns = {c: Column(c, item.unit) for item in properties for c in item.columns}
    relative = relative_columns(columns) if config.relative else {}
    columns |= {name: Column(name, "kcal/mol") for name, _ in relative.values()}
    ours, note = columns_of(library)
    names = names_beside([*columns, *COLUMNS], seen.tags, ours)
    for column in columns.values():
        column.name = names[column.name]
    geometric = {item.name for item in properties if item.geometry}
    state = Scored(columns, unreadable_reference=unreadable)
    state.decisions.names = names
    state.own_columns = sorted({*names.values(), *ours.intersection(seen.tags)})
    state.notes += filter(None, [note, renamed_note(config.library, names)])
    cache = None if config.cache is False else Cache(config.cache)
    began = time.monotonic()
    try:
        with (
            open_pool(config.jobs, config.backend, config.address) as pool,
            Failures(config.out) as state.failures,
            into or open_writer(config.out, config.overwrite or config.resume) as writer,
            open_poses(
                config, properties, pool, cache, kept_tags, lambda n: progress(n, max(total, n))
            ) as poses,
        ):
            try:
                state.decisions.failures = state.failures
                _save(config, properties, state, writer)
                table = into is not None or str(config.out).endswith(FLAT)
                placed = bool(geometric) or not table
                rows = _rows(config, library, placed, properties, pool, cache, state, poses)
                for record, row in with_relative(rows, relative) if relative else rows:
                    watch(record, row)
                    _take(record, row, writer.write, state, names, geometric)
                    if poses is None:
                        progress(state.read, max(total, state.read))
                state.complete = True
                _finish(config, properties, state, cache, began, writer)
            except KeyboardInterrupt as stopped:
                with contextlib.suppress(UserError):  # of a full disk: an older record stays
                    _finish(config, properties, state, cache, began, writer)
                if str(config.out).endswith(FLAT) and cache is not None:
                    stopped.add_note(
                        "a table is written at the end of a run: all that was computed is in the "
                        "cache, --resume takes it from there"
                    )
                raise
    finally:
        if cache is not None:
            cache.close()
    return state


def columns_of(library: Source) -> tuple[set[str], str]:
    """As `own_columns`; of molecules that are given a new value takes the place of an old one."""
    if isinstance(library, Given):
        return set(survey(library).tags), ""
    return own_columns(str(library))


def _rows(
    config: ScoreConfig,
    library: Source,
    placed: bool,
    properties: list[Property],
    pool: Pool,
    cache: Cache | None,
    state: Scored,
    poses: Poses | None,
) -> Iterator[tuple[Record, Row]]:
    entries = read_molecules(
        library, smiles_column=config.smiles_column, name_column=config.name_column
    )
    records: Iterator[Record] = chain.from_iterable(map(isomers_of_groups, entries))
    if config.multiplicity is not None:
        records = _of_multiplicity(records, config.multiplicity)
    spatial = has_coordinates(library)
    embedded = placed and not spatial
    if config.salts == "strip":
        if config.neutralise and spatial:
            raise UserError(
                "--neutralise adds and removes hydrogens, but the geometries are given: leave it "
                "out, or score the SMILES."
            )
        records = stripped(records, state.decisions, neutralise=config.neutralise)
    if embedded:
        make = partial(
            with_geometries, rules=Rules(config.salts, config.isomers), pool=pool,
            timeout=config.timeout, cache=cache, decisions=state.decisions,
        )  # fmt: skip
        # Of molecules that are given some may have a geometry, which stays.
        groups = groupby(records, key=lambda r: r.mol is not None and r.mol.GetNumConformers() > 0)
        records = chain.from_iterable(run if there else make(run) for there, run in groups)
        if config.multiplicity is not None:  # of what the rules for salts and stereo made of them
            records = _of_multiplicity(records, config.multiplicity)
    if config.charges:
        records = _with_charges(records, pool, config.timeout, cache, state)
    others = properties
    if poses is not None:
        records, docking = poses.through(records), dockings(properties)
        others = [item for item in properties if item not in docking]
    under_way: deque[Record] = deque()

    def mols() -> Iterator[Chem.Mol | None]:
        for record in records:
            under_way.append(record)
            yield record.mol

    ahead = not (embedded or config.charges or poses)  # which use the pool themselves
    for row in score_each(mols(), others, pool, config.timeout, cache, ahead=ahead):
        yield under_way.popleft(), row if poses is None else joined(row, poses.row(), properties)


def _of_multiplicity(records: Iterator[Record], value: int) -> Iterator[Record]:
    for record in records:
        if record.mol is not None:
            declare(record.mol, value)
        yield record


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


def _take(
    record: Record,
    row: Row,
    write: Callable[[Chem.Mol, dict[str, object], str, str], None],
    state: Scored,
    names: Mapping[str, str],
    geometric: Collection[str],
) -> None:
    """names: under which the columns are written. geometric: what needs a geometry.

    A record that got no geometry has failed once, for that, and not once more in each property.
    """
    if record.mol is None:
        state.unreadable[record.error] += 1
        state.fail(record, record.error)
    else:
        values = {names[name]: value for name, value in row.values.items()}
        # A value from an earlier scoring must not pass for one of this.
        tags = {name: text for name, text in kept_tags(record) if name not in values}
        write(record.mol, {**tags, **values}, record.title, record.block)
        state.written += 1
        for name, value in row.values.items():
            state.columns[name].values.append(value)
        for name, reason in row.errors.items():
            if record.error and name in geometric:
                continue
            state.failed.setdefault(name, Counter())[reason] += 1
            state.fail(record, f"{name}: {reason}")
        if record.note and len(state.notes) < NOTES:
            state.notes.append(f"{record.place}: {record.note}")
    state.read = record.number


def kept_tags(record: Record) -> Iterator[tuple[str, object]]:
    """The input's own tags; `ID` by another name, as readers would take it for the title."""
    for name, text in record.tags.items():
        yield "input_ID" if name == "ID" else name, text


def _with_charges(
    records: Iterator[Record], pool: Pool, timeout: float | None, cache: Cache | None, state: Scored
) -> Iterator[Record]:
    """Records with the tag that RDKit reads as a property of each atom, a block at a time."""
    while block := list(islice(records, block_size(pool))):
        mols = [record.mol for record in block if record.mol is not None]
        results = iter(arrays(_charges, _CHARGES, mols, pool, timeout, cache))
        for record in block:
            if record.mol is None:
                yield record
                continue
            tags = {name: text for name, text in record.tags.items() if name != CHARGE_TAG}
            result = next(results)
            if isinstance(result, str) and record.error:
                pass  # it has no geometry, which is counted
            elif isinstance(result, str):
                state.failed.setdefault(CHARGE, Counter())[result] += 1
                state.fail(record, f"{CHARGE}: {result}")
            else:
                tags[CHARGE_TAG] = charge_text(result)
            yield record._replace(tags=tags)


def _charges(binary: bytes) -> NDArray[np.float64] | str:
    try:
        return partial_charges(Chem.Mol(binary))
    except PropertyError as error:
        return str(error)


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
    known, note = record_of(out)
    record = known or {}
    if note:
        raise UserError(f"{note}. It cannot be resumed; --overwrite starts again.")
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
                "without_geometry": dict(state.decisions.without.most_common()),
                **state.decisions.counts(),
                "failed": {n: dict(counts.most_common()) for n, counts in state.failed.items()},
                "cached": state.cached,
                "damaged in the cache": state.damaged,
            },
            "columns": {
                column.name: {
                    k: v if math.isfinite(v) else None for k, v in column.statistics().items()
                }
                for column in state.columns.values()
            },
            OURS: state.own_columns,
            "notes": state.notes,
            "seconds": round(state.seconds, 2),
            "complete": state.complete,
        },
    )  # fmt: skip
