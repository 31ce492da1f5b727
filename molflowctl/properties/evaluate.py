"""Score molecules: properties over worker processes, NaN and a reason where one fails."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from rdkit.Chem import Mol

from molflowctl.chem.graphs import EXACT
from molflowctl.chem.identity import normalised
from molflowctl.chem.salts import SaltRule
from molflowctl.compute.parallel import Pool, WorkerPool
from molflowctl.compute.plugins import source_stamp
from molflowctl.compute.pool import Unsendable, dumps
from molflowctl.errors import UserError
from molflowctl.properties.cache import Cache, geometry_key, graph_key
from molflowctl.properties.energies.geometry import NO_COORDINATES
from molflowctl.properties.geometries.ready import Ready, check_rules, ready
from molflowctl.properties.programs import program_versions
from molflowctl.properties.registry import Property, PropertyError, get

if TYPE_CHECKING:
    import pandas

__all__ = [
    "Row",
    "Scores",
    "block_size",
    "resolve",
    "score",
    "score_each",
]

UNREADABLE = "the molecule could not be read"
_CHUNK = 8  # molecules handed to a worker at a time, fewer where they are few


@dataclass(frozen=True, slots=True)
class Row:
    """Property values of one molecule.

    Attributes:
        values: by column, in the property's unit; NaN means failed.
        errors: the reason for each property that failed.
    """

    values: Mapping[str, float]
    errors: Mapping[str, str]


@dataclass(frozen=True)
class Scores:
    """Property values of n molecules.

    Attributes:
        values: by column, (n,) float64 in the property's unit; NaN means failed.
        errors: per molecule, the reason for each property that failed; empty if none did.
        notes: per molecule, what was decided for it where rules for salts or isomers were given,
            see `ready`.
    """

    values: Mapping[str, NDArray[np.float64]]
    errors: Sequence[Mapping[str, str]]
    notes: Sequence[Mapping[str, str]] = ()

    def __len__(self) -> int:
        return len(self.errors)

    def __getitem__(self, column: str) -> NDArray[np.float64]:
        return self.values[column]

    def failures(self) -> dict[str, Counter[str]]:
        """By property, how many molecules failed for which reason."""
        counts: dict[str, Counter[str]] = {}
        for row in self.errors:
            for name, reason in row.items():
                counts.setdefault(name, Counter())[reason] += 1
        return counts

    def frame(self) -> "pandas.DataFrame":
        """One row per molecule, one column per value."""
        import pandas

        said = list(dict.fromkeys(name for note in self.notes for name in note))
        notes = {name: [note.get(name) for note in self.notes] for name in said}
        return pandas.DataFrame({**self.values, **notes})


def resolve(names: Iterable[str | Property]) -> list[Property]:
    """The properties of these names, each once.

    Raises:
        UserError: an unknown name, or two properties with the same column.
    """
    items = [get(name) if isinstance(name, str) else name for name in names]
    properties = list(dict.fromkeys(items))
    columns = Counter(column for item in properties for column in item.columns)
    if twice := [column for column, count in columns.items() if count > 1]:
        raise UserError(f"two properties have the column {twice[0]}: score them one by one")
    return properties


def score(
    mols: Iterable[Mol | None],
    names: Sequence[str | Property],
    jobs: int = 1,
    timeout: float | None = 30.0,
    pool: Pool | None = None,
    progress: Callable[[int], object] | None = None,
    cache: Cache | None = None,
    *,
    salts: SaltRule | None = None,
    isomers: Literal["first", "refuse"] | None = None,
) -> Scores:
    """Compute the named properties of every molecule.

    The result depends neither on the number of workers nor on the backend. Properties of one engine
    (`xtb`, `rdkit`, ...) share one calculation per molecule and one time limit; a hang or crash
    costs these only.

    Args:
        mols: drawn lazily; `None` (a molecule that could not be read) fails in every property.
        names: registered properties (see `names()`), or properties themselves.
        jobs: worker processes. One, without a time limit, computes in this process.
        timeout: seconds per molecule and engine, after which the calculation is killed.
        pool: workers to reuse instead of starting `jobs` new ones, which costs about a second.
        progress: called with the number of molecules done so far.
        cache: where results are looked up first and stored.
        salts, isomers: rules of `ready`, of which one makes the other its default ("refuse",
            "first"): molecules without a conformer then get one where a property needs it, and what
            was decided is in the notes. With neither, molecules are taken as they are.

    Raises:
        UserError: an unknown property or rule (before any work), a bad number of jobs or time
            limit.
    """
    properties = resolve(names)
    if salts or isomers:
        check_rules(salts or "refuse", isomers or "first")
    table: dict[str, list[float]] = {column: [] for p in properties for column in p.columns}
    errors: list[Mapping[str, str]] = []
    notes: list[Mapping[str, str]] = []
    reasons: list[str] = []
    workers = WorkerPool(jobs) if pool is None else pool
    try:
        if salts or isomers:
            make = partial(_ready, salts or "refuse", isomers or "first", _geometric(properties))
            mols = _made_ready(mols, make, workers, timeout, notes, reasons)
        for row in score_each(mols, names, workers, timeout, cache):
            if reasons and (reason := reasons[len(errors)]):
                row = Row(
                    row.values,
                    {n: reason if e == NO_COORDINATES else e for n, e in row.errors.items()},
                )
            for column, values in table.items():
                values.append(row.values[column])
            errors.append(row.errors)
            if progress is not None:
                progress(len(errors))
    finally:
        if pool is None:
            workers.close()
    arrays = {name: np.array(values, np.float64) for name, values in table.items()}
    return Scores(arrays, errors, notes)


def _geometric(properties: Sequence[Property]) -> bool:
    return any(item.geometry for item in properties)


def _made_ready(
    mols: Iterable[Mol | None],
    make: Callable[[bytes], Ready],
    pool: Pool,
    timeout: float | None,
    notes: list[Mapping[str, str]],
    reasons: list[str],
) -> Iterator[Mol | None]:
    """The molecules after the rules, a block at a time; what is said of each goes to the lists."""
    drawn = iter(mols)
    while block := list(islice(drawn, block_size(pool))):
        binaries = [mol.ToBinary(EXACT) for mol in block if mol is not None]
        outcomes = iter(pool.map(make, binaries, timeout=timeout))
        for mol in block:
            if mol is None:
                notes.append({})
                reasons.append("")
                yield None
                continue
            outcome = next(outcomes)
            made = outcome.value or Ready(mol, error=outcome.error or "failed")
            notes.append(made.notes)
            reasons.append(made.error)
            yield made.mol


def _ready(
    salts: SaltRule, isomers: Literal["first", "refuse"], geometry: bool, binary: bytes
) -> Ready:
    return ready(Mol(binary), salts, isomers, geometry=geometry)


def score_each(
    mols: Iterable[Mol | None],
    names: Sequence[str | Property],
    pool: Pool,
    timeout: float | None = 30.0,
    cache: Cache | None = None,
    *,
    ahead: bool = False,
) -> Iterator[Row]:
    """As `score`, but yield each molecule's `Row` when it is done, in order.

    Molecules are drawn in blocks of `block_size(pool)`, between two blocks the pool is idle: `mols`
    may use it. If it does not, say `ahead`, and they are drawn while others are computed, which
    leaves no worker idle at the end of a block.

    Raises:
        UserError: as `score`.
    """
    properties = resolve(names)
    return _each(iter(mols), properties, pool, timeout, cache, ahead)


def block_size(pool: Pool) -> int:
    """Molecules looked up, computed and stored at a time; many, as workers wait at the end."""
    return max(1024, 256 * pool.jobs)


@dataclass(slots=True)
class _Plan:
    """What is known of one molecule, and how many calculations are under way for the rest."""

    values: dict[str, float] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    keys: dict[str, bytes] = field(default_factory=dict)  # by property, of results to be stored
    missing: list[list[int]] = field(default_factory=list)  # properties, grouped by engine


def _each(
    mols: Iterator[Mol | None],
    properties: Sequence[Property],
    pool: Pool,
    timeout: float | None,
    cache: Cache | None,
    ahead: bool,
) -> Iterator[Row]:
    size = block_size(pool)
    compute = partial(_compute, properties)
    programs = {
        item.name: program_versions(item.engine) + source_stamp(item.compute) for item in properties
    }
    plans: deque[_Plan] = deque()  # of molecules drawn and not yet yielded

    def tasks(drawn: Iterable[Mol | None]) -> Iterator[tuple[bytes, list[int]]]:
        for mol in drawn:
            plans.append(plan := _plan(mol, properties, programs, cache))
            if mol is not None:
                for group in tuple(plan.missing):
                    yield mol.ToBinary(EXACT), group
            if len(plans) >= size:  # of a library that is all in the cache, draw no more than this
                return

    def finished() -> Iterator[Row]:
        while plans and not plans[0].missing:
            yield _row(plans.popleft(), properties)

    try:
        first = min(size, 4 * _CHUNK * pool.jobs) if ahead else size
        while block := list(islice(mols, first)):
            todo = tasks(chain(block, mols) if ahead else block)
            chunk = max(1, min(_CHUNK, len(block) // (4 * pool.jobs)))
            # No map without tasks: it would start workers for nothing.
            for task in islice(todo, 1):
                every = chain([task], todo)
                try:
                    outcomes = pool.map(compute, every, timeout=timeout, chunk=chunk)
                except Unsendable:
                    _blame(properties)
                    raise
                for outcome in outcomes:
                    yield from finished()
                    group = plans[0].missing.pop(0)
                    done = outcome.value or _all_failed(properties, group, outcome.error)
                    _take(plans[0], done, properties, programs, cache)
                    yield from finished()
            yield from finished()
    finally:
        if cache is not None:
            cache.flush()


def _blame(properties: Sequence[Property]) -> None:
    """Name the property that cannot be sent to worker processes."""
    for item in properties:
        try:
            dumps(item)
        except Unsendable as error:
            raise UserError(f"the property {item.name} cannot be computed: {error}") from None


def _plan(
    mol: Mol | None,
    properties: Sequence[Property],
    programs: Mapping[str, str],
    cache: Cache | None,
) -> _Plan:
    plan = _Plan()
    if mol is None:
        plan.errors = {item.name: UNREADABLE for item in properties}
        return plan
    engines: dict[str, list[int]] = {}
    keys: dict[bool, bytes | None] = {}
    for index, item in enumerate(properties):
        if cache is not None and (key := _key(mol, item.geometry, keys)) is not None:
            found = cache.get(key, item.name, item.version, programs[item.name])
            if isinstance(found, str):
                plan.errors[item.name] = found
                continue
            if found is not None and len(found) == len(item.columns):
                plan.values.update(zip(item.columns, found.tolist(), strict=True))
                continue
            plan.keys[item.name] = key
        engines.setdefault(item.engine, []).append(index)
    plan.missing = list(engines.values())
    return plan


def _key(mol: Mol, geometry: bool, keys: dict[bool, bytes | None]) -> bytes | None:
    """The cache's key, made once a molecule; None if RDKit cannot say what molecule it is."""
    if geometry not in keys:
        try:
            keys[geometry] = geometry_key(mol) if geometry else graph_key(mol)
        except (ValueError, RuntimeError):
            keys[geometry] = None
    return keys[geometry]


@dataclass(frozen=True, slots=True)
class _Done:
    """One engine's results for a molecule: values by column, reasons by property.

    `final` names the properties whose reason is a fact about the molecule, worth storing.
    """

    values: dict[str, float]
    errors: dict[str, str]
    final: frozenset[str] = frozenset()


def _all_failed(properties: Sequence[Property], group: Sequence[int], error: str | None) -> _Done:
    return _Done({}, {properties[index].name: error or "failed" for index in group})


def _take(
    plan: _Plan,
    done: _Done,
    properties: Sequence[Property],
    programs: Mapping[str, str],
    cache: Cache | None,
) -> None:
    plan.values.update(done.values)
    plan.errors.update(done.errors)
    if cache is None:
        return
    for item in properties:
        result: NDArray[np.float64] | str
        if item.name in done.final:
            result = done.errors[item.name]
        elif item.columns[0] in done.values:
            result = np.array([done.values[column] for column in item.columns])
        else:
            continue
        if item.name in plan.keys:
            key = plan.keys[item.name]
            cache.put(key, item.name, item.version, result, programs[item.name])


def _row(plan: _Plan, properties: Sequence[Property]) -> Row:
    columns = [column for item in properties for column in item.columns]
    return Row(
        {column: plan.values.get(column, np.nan) for column in columns},
        {item.name: plan.errors[item.name] for item in properties if item.name in plan.errors},
    )


def _compute(properties: Sequence[Property], task: tuple[bytes, list[int]]) -> _Done:
    binary, group = task
    mol = Mol(binary)
    graph: Mol | None = None
    values: dict[str, float] = {}
    errors: dict[str, str] = {}
    final: set[str] = set()
    for item in (properties[index] for index in group):
        try:
            if not item.geometry and graph is None:
                graph = normalised(mol)
            values.update(item.of_prepared(mol if item.geometry or graph is None else graph))
        except PropertyError as error:
            errors[item.name] = str(error)
            final.add(item.name)
        except Exception as error:  # a property may be anybody's code; one must not cost the rest
            reason = str(error).strip().partition("\n")[0]  # RDKit adds a stack trace
            errors[item.name] = f"{type(error).__name__}: {reason}"
    return _Done(values, errors, frozenset(final))
