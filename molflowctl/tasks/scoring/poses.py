"""Docked poses of the records that are scored: one docking gives the score and the poses.

Each pose is a record of an SDF in the receptor's frame, hydrogens explicit, the best first, with
the tags `receptor`, `pose` (from 1) and `docking_kcal_mol` and those of its input. Poses are kept
in the cache under the molecule, the receptor, its box and search, and the versions of Vina and
meeko.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem

from molflowctl.chem.graphs import EXACT
from molflowctl.chem.identity import normalised
from molflowctl.compute.parallel import Pool
from molflowctl.errors import UserError
from molflowctl.io.library_writers import LibraryWriter, open_writer
from molflowctl.io.reading import Record
from molflowctl.properties import Property, PropertyError
from molflowctl.properties.cache import Cache, graph_key
from molflowctl.properties.docking.engine import dock
from molflowctl.properties.docking.ligand import ligand_of, placed
from molflowctl.properties.docking.receptor import Receptor
from molflowctl.properties.docking.scores import VERSION, Docking
from molflowctl.properties.evaluate import Row
from molflowctl.properties.programs import program_versions
from molflowctl.tasks.scoring.settings import ScoreConfig

__all__ = ["Poses", "dockings", "joined", "open_poses"]

_NAME = "docked poses"  # in the cache
_BLOCK = 16  # ligands for each worker between two pauses of the pool

Result = NDArray[np.float64] | str
Tags = Callable[[Record], Iterator[tuple[str, object]]]


def dockings(properties: Sequence[Property]) -> list[Property]:
    """Those of the properties that dock."""
    return [item for item in properties if isinstance(item.compute, Docking)]


@contextmanager
def open_poses(
    config: ScoreConfig,
    properties: Sequence[Property],
    pool: Pool,
    cache: Cache | None,
    tags: Tags,
    progress: Callable[[int], object],
) -> Iterator[Poses | None]:
    """What docks records and writes their poses; None where they are not asked for.

    Raises:
        UserError: none of the properties docks, or the file cannot be written.
    """
    if config.poses is None:
        yield None
        return
    docking = dockings(properties)
    with open_writer(config.poses, config.overwrite or config.resume) as writer:
        yield Poses(docking, writer, pool, config.timeout, cache, tags, progress)


def joined(row: Row, docked: Row, properties: Sequence[Property]) -> Row:
    """A molecule's values from both, in the order of the properties."""
    values, errors = {**row.values, **docked.values}, {**row.errors, **docked.errors}
    return Row(
        {column: values[column] for item in properties for column in item.columns},
        {item.name: errors[item.name] for item in properties if item.name in errors},
    )


class Poses:
    """Docks records that go by, writes their poses, and says what their properties are.

    Args:
        properties: of dockings.
        writer: of the poses.
        timeout: of the pool; a docking has its receptor's own.
        tags: a record's own, to be written with its poses.
        progress: called with the number of records docked.

    Raises:
        UserError: none of the properties docks.
    """

    def __init__(
        self,
        properties: Sequence[Property],
        writer: LibraryWriter,
        pool: Pool,
        timeout: float | None,
        cache: Cache | None,
        tags: Tags,
        progress: Callable[[int], object],
    ) -> None:
        if not properties:
            raise UserError("--poses are of a docking: add -p \"docking('receptor.yaml')\".")
        self._writer, self._pool, self._timeout, self._cache = writer, pool, timeout, cache
        self._tags, self._progress = tags, progress
        self._programs = program_versions("docking")
        self._items: dict[Receptor, list[tuple[Property, Docking]]] = {}
        for item in properties:
            if isinstance(item.compute, Docking):
                self._items.setdefault(item.compute.receptor, []).append((item, item.compute))
        self._rows: deque[Row] = deque()

    def through(self, records: Iterator[Record]) -> Iterator[Record]:
        """The records, each docked and its poses written; `row` has its values in their order."""
        done = 0
        while block := list(islice(records, _BLOCK * self._pool.jobs)):
            mols = [record.mol for record in block if record.mol is not None]
            found = {receptor: iter(self._docked(receptor, mols)) for receptor in self._items}
            for record in block:
                values: dict[str, float] = {}
                errors: dict[str, str] = {}
                for receptor, items in self._items.items():
                    result: Result = "unreadable" if record.mol is None else next(found[receptor])
                    for item, _ in items:
                        values[item.columns[0]] = np.nan
                    if isinstance(result, str):
                        errors |= {item.name: result for item, _ in items}
                    elif record.mol is not None:
                        values |= self._kept(record, record.mol, receptor, result)
                self._rows.append(Row(values, errors))
                done += 1
                self._progress(done)
                yield record

    def row(self) -> Row:
        """Of the next record that came `through`."""
        return self._rows.popleft()

    def _docked(self, receptor: Receptor, mols: Sequence[Chem.Mol]) -> Iterator[Result]:
        """Poses or a reason of each, in order, from the cache or the workers."""
        keys = [_key(mol) for mol in mols]
        version = receptor.version + VERSION
        known: list[Result | None] = [None] * len(mols)
        if self._cache is not None:
            known = [
                None if key is None else self._cache.get(key, _NAME, version, self._programs)
                for key in keys
            ]
        missing = [k for k, result in enumerate(known) if result is None]
        # Both maps of a pool must not run at once: all of a block is docked before it goes on.
        computed = list(
            self._computed(
                receptor, [mols[k].ToBinary(EXACT) for k in missing], [keys[k] for k in missing]
            )
        )
        for k, result in zip(missing, computed, strict=True):
            known[k] = result
        return iter([result for result in known if result is not None])

    def _computed(
        self, receptor: Receptor, binaries: list[bytes], keys: list[bytes | None]
    ) -> Iterator[Result]:
        if not binaries:
            return
        outcomes = self._pool.map(
            partial(_dock, receptor), binaries, timeout=self._timeout, chunk=1
        )
        for key, outcome in zip(keys, outcomes, strict=True):
            if outcome.value is None:  # a time-out or a crash, which is tried again another time
                yield outcome.error or "failed"
                continue
            if self._cache is not None and key is not None:
                version = receptor.version + VERSION
                self._cache.put(key, _NAME, version, outcome.value, self._programs)
            yield outcome.value

    def _kept(
        self, record: Record, mol: Chem.Mol, receptor: Receptor, poses: NDArray[np.float64]
    ) -> dict[str, float]:
        """Write the poses of a record; what its properties are."""
        ligand = ligand_of(normalised(mol))
        rows = poses.reshape(-1, 1 + 3 * ligand.GetNumAtoms())
        tags = dict(self._tags(record))
        for rank, pose in enumerate(rows, start=1):
            said = {
                "receptor": receptor.name, "pose": float(rank), "docking_kcal_mol": float(pose[0])
            }  # fmt: skip
            self._writer.write(placed(ligand, pose), {**tags, **said}, record.title)
        found = {}
        for item, docking in self._items[receptor]:
            found[item.columns[0]] = docking.of(float(rows[0, 0]), mol)
        return found


def _key(mol: Chem.Mol) -> bytes | None:
    try:
        return graph_key(mol)
    except (ValueError, RuntimeError):
        return None


def _dock(receptor: Receptor, binary: bytes) -> Result:
    """In a worker: the poses, flat, or why there are none."""
    try:
        return dock(receptor, normalised(Chem.Mol(binary))).ravel()
    except PropertyError as error:
        return str(error)
