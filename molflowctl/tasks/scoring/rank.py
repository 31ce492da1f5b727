"""The best molecules of a scored library, in order; `molflowctl rank`.

The order is that of a column of the library, or of a reward over its columns
(`properties/rewards.py`). Nothing is computed anew: what a library does not hold, `score` adds.
A molecule counts once, with the best of its records, unless conformers are asked for. Which records
are one molecule, `chem/identity.py` says; stereoisomers, and salts of a parent, are folded on
request.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rdkit import Chem

from molflowctl.chem.identity import identity, parent
from molflowctl.errors import UserError
from molflowctl.io.expressions import number_of
from molflowctl.io.library import Record, read_molecules
from molflowctl.io.library_writers import FLAT, LibraryWriter, open_writer
from molflowctl.io.locks import one_writer
from molflowctl.io.reading import Given, Source
from molflowctl.io.record import OURS, names_beside, versions, write_json
from molflowctl.properties.rewards import Objective, parse_reward
from molflowctl.tasks.failures import Failures
from molflowctl.tasks.pages import PICTURED, plain
from molflowctl.tasks.scoring.picks import diverse, per_scaffold
from molflowctl.tasks.scoring.score import columns_of, kept_tags
from molflowctl.tasks.scoring.settings import RankConfig
from molflowctl.viz.pictures import check_pictures, draw_grid, write_html

__all__ = ["Ranked", "describe", "rank_library"]

DRAWN = 30  # molecules in a grid


@dataclass(frozen=True)
class Place:
    """A record of the library: where it stands, its value and its molecule's identity."""

    index: int
    value: float
    smiles: str


@dataclass
class Ranked:
    """What was found.

    Arguments:
        places: the records that were kept, the best first; records: they themselves.
        read: records of the library; without: those that have no value, by reason.
        again: records of a molecule that has a better one; alike: molecules of whose scaffold there
            are enough better ones; failures: those without, one by one.
        notes: what is to be said of the library.
    """

    places: list[Place] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    read: int = 0
    without: Counter[str] = field(default_factory=Counter)
    again: int = 0
    alike: int = 0
    failures: Failures | None = None
    notes: list[str] = field(default_factory=list)

    def fail(self, record: Record, reason: str) -> None:
        """Count a record without a value."""
        self.without[reason] += 1
        if self.failures is not None:
            self.failures.add(record, reason)


@one_writer(lambda config, *_, **__: config.out)
def rank_library(
    config: RankConfig, *, given: Given | None = None, into: LibraryWriter | None = None
) -> Ranked:
    """Write the best records of `config.library` to `config.out`.

    Args:
        given: the library, in the place of `config.library`.
        into: what takes the best, in the place of `config.out`.

    Raises:
        UserError: for a library that cannot be read or has no such column, an output or a picture
            that exists, no record with a value, or an SDF of molecules without geometries.
    """
    check_pictures(config.html, config.grid, replace=config.overwrite)
    with Failures(config.out) as failures:
        found = _rank(config, given or config.library, into, Ranked(failures=failures))
    _show(config, found)
    return found


def _rank(config: RankConfig, library: Source, into: LibraryWriter | None, found: Ranked) -> Ranked:
    """What is found of the library, written."""
    sign = -1.0 if config.minimise else 1.0
    every = sorted(
        _places(config, library, found), key=lambda place: (-sign * place.value, place.index)
    )
    if not every:
        reasons = "; ".join(f"{count:,} {reason}" for reason, count in found.without.items())
        raise UserError(
            f"{config.library}: nothing to rank: {reasons or 'it is empty'}. What it does not hold "
            f"yet, molflowctl score -p adds."
        )
    best: dict[str, Place] = {}
    for place in every:
        best.setdefault(str(place.index) if config.conformers else place.smiles, place)
    found.again = len(every) - len(best)
    ranked = list(best.values())
    if config.per_scaffold is not None:
        ranked = per_scaffold(ranked, config.per_scaffold, lambda place: place.smiles)
        found.alike = len(best) - len(ranked)
    found.places = ranked[: config.n]
    if config.diverse is not None:
        found.places = diverse(found.places, config.diverse, lambda place: place.smiles)
    wanted = {place.index: rank for rank, place in enumerate(found.places)}
    kept: dict[int, Record] = {}
    for index, record in enumerate(_entries(config, library)):
        if index in wanted:
            kept[wanted[index]] = record
    found.records = [kept[rank] for rank in range(len(found.places))]
    flat = [r.name for r in found.records if r.mol is not None and not r.mol.GetNumConformers()]
    if flat and into is None and not str(config.out).endswith(FLAT):
        raise UserError(
            f"{config.library} holds no geometries ({flat[0]}) for an SDF: -o to a .csv, or make "
            f"some first: molflowctl score {config.library} -p qed -o scored.sdf.gz"
        )
    ours, note = columns_of(library)
    found.notes += filter(None, [note])
    tagged = dict.fromkeys(name for record in found.records for name in record.tags)
    name = names_beside(["rank"], tagged, ours)["rank"]
    with into or open_writer(config.out, config.overwrite) as writer:
        for rank, (place, record) in enumerate(zip(found.places, found.records, strict=True), 1):
            assert record.mol is not None
            tags: dict[str, object] = {name: rank}
            if config.by not in record.tags:
                tags[config.by] = place.value
            tags |= {tag: text for tag, text in kept_tags(record) if tag not in tags}
            writer.write(record.mol, tags, record.title, record.block)
        if writer.record is not None:
            write_json(
                writer.record,
                {
                    "command": "rank",
                    OURS: sorted({name, *ours.intersection(tagged)}),
                    "config": config.model_dump(mode="json"),
                    "versions": versions(),
                    "counts": {
                        "read": found.read,
                        "without a value": dict(found.without),
                        "another record of a molecule": found.again,
                        "written": len(found.places),
                    },
                },
            )
    return found


def _entries(config: RankConfig, library: Source) -> Iterator[Record]:
    return read_molecules(
        library, smiles_column=config.smiles_column, name_column=config.name_column
    )


def _places(config: RankConfig, library: Source, found: Ranked) -> Iterator[Place]:
    """The records that have a value; the others are counted by reason."""
    objective = _objective(config, library)
    for index, record in enumerate(_entries(config, library)):
        found.read += 1
        if record.mol is None:
            found.fail(record, record.error)
            continue
        value = _value(config.by, objective, record.tags)
        if math.isfinite(value):
            yield Place(index, value, _identity(record.mol, config))
        else:
            found.fail(record, f"without {config.by}")


def _identity(mol: Chem.Mol, config: RankConfig) -> str:
    """By which records count as one molecule."""
    if config.fold_salts:
        mol = parent(mol, neutralise=True)
    return identity(mol, stereo=not config.fold_stereo)


def _objective(config: RankConfig, library: Source) -> Objective | None:
    """None if `by` is a column of the library, else the reward it names.

    A record without a value lacks the column, so that all may have to be asked.
    """
    columns: dict[str, None] = {}
    for record in _entries(config, library):
        columns |= dict.fromkeys(record.tags)
        if config.by in columns:
            return None
    try:
        return parse_reward(config.by, columns)
    except UserError as error:
        raise UserError(
            f"{config.by!r} is no column of {config.library}, which has "
            f"{', '.join(columns) or 'none'}; and as a reward of its columns: {error}"
        ) from None


def _value(by: str, objective: Objective | None, tags: dict[str, str]) -> float:
    if objective is None:
        return number_of(tags.get(by, ""))
    columns = _Columns({name: np.array([number_of(text)]) for name, text in tags.items()})
    return float(objective.of(columns)[0])


class _Columns(dict[str, Any]):
    """Columns of one record; a value that is not there is NaN, which means failed."""

    def __missing__(self, name: str) -> Any:
        return np.array([math.nan])


def _show(config: RankConfig, found: Ranked) -> None:
    """The pictures that were asked for."""
    titles = [f"{rank}. {record.name}" for rank, record in enumerate(found.records, 1)]
    mols: list[Chem.Mol] = [record.mol for record in found.records if record.mol is not None]
    cores = [_core(record) for record in found.records if record.mol is not None]
    if config.grid:
        legends = [f"{place.value:.4g}" for place in found.places[:DRAWN]]
        draw_grid(mols, config.grid, legends, n=DRAWN, cores=cores)
    if config.html:
        values = [
            {config.by: place.value, **record.tags}
            for place, record in zip(found.places, found.records, strict=True)
        ]
        shown = [{name: plain(value) for name, value in row.items()} for row in values]
        write_html(
            mols[:PICTURED],
            config.html,
            titles[:PICTURED],
            shown[:PICTURED],
            title=f"{config.library}, by {config.by}",
            cores=cores[:PICTURED],
        )


def _core(record: Record) -> list[int]:
    """Atoms of the core that a molecule was designed around, as `generate` writes them."""
    parts = record.tags.get("core_atoms", "").split()
    atoms = [int(part) for part in parts if part.isdecimal()]
    known = record.mol is not None and max(atoms, default=0) < record.mol.GetNumHeavyAtoms()
    return atoms if known and len(set(atoms)) == len(parts) else []


def describe(found: Ranked) -> list[tuple[str, str]]:
    """The first places, and what was left out."""
    first = found.places[:10]
    values = [f"{place.value:.4g}" for place in first]
    size = max(map(len, values), default=0)
    rows = [
        (f"{rank}.", f"{value:{size}}  {place.smiles}")
        for rank, (value, place) in enumerate(zip(values, first, strict=True), 1)
    ]
    rows.append(("kept", f"{len(found.places):,} of {found.read:,} records"))
    if found.again:
        rows.append(("other records of a molecule", f"{found.again:,}"))
    if found.alike:
        rows.append(("others of a scaffold", f"{found.alike:,}"))
    return rows + [(reason, f"{count:,}") for reason, count in found.without.most_common()]
