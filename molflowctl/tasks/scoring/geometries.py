"""Geometries for the records of a library that has none: salts, open stereo, first conformers.

Each record comes out with explicit hydrogens and a conformer, and with columns that say what was
decided for it: `salt_stripped`, `charge_neutralised`, `stereo_open` and `stereo_chosen`,
`geometry_method`. Of a record that gets no geometry the reason is counted, and it goes on without,
the reason as its `error`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem

from molflowctl.chem.geometry import add_conformer
from molflowctl.chem.graphs import EXACT
from molflowctl.chem.open_stereo import IsomerRule, Isomers, isomers_of
from molflowctl.chem.salts import SaltRule, settle_salt
from molflowctl.chem.spin import declare, declared
from molflowctl.chem.stereo import unspecified_stereo
from molflowctl.compute.parallel import Pool
from molflowctl.io.reading import Record
from molflowctl.properties import PropertyError
from molflowctl.properties.cache import Cache, geometry_key
from molflowctl.properties.evaluate import block_size
from molflowctl.properties.geometries.starting import method_of, start
from molflowctl.properties.programs import program_versions
from molflowctl.tasks.failures import Failures

__all__ = ["COLUMNS", "Decisions", "Rules", "arrays", "stripped", "with_geometries"]

_GEOMETRY = "first geometry", 3, "xtb-relax"  # name, version and engine in the cache
_PLAIN = "ETKDGv3, MMFF94"
COLUMNS = (
    "salt_stripped", "charge_neutralised", "stereo_open", "stereo_chosen", "geometry_method"
)  # fmt: skip


class Rules(NamedTuple):
    """What to do with several fragments, and with stereo that is left open."""

    salts: SaltRule = "refuse"
    isomers: IsomerRule = "first"


@dataclass
class Decisions:
    """What was decided for records, counted by what it was; `without`: no geometry, by reason.

    failures: where the latter are noted one by one. names: of the columns, where the library has
    some of these names already.
    """

    without: Counter[str] = field(default_factory=Counter)
    stripped: Counter[str] = field(default_factory=Counter)
    neutralised: Counter[str] = field(default_factory=Counter)
    isomers: Counter[str] = field(default_factory=Counter)
    methods: Counter[str] = field(default_factory=Counter)
    failures: Failures | None = None
    names: Mapping[str, str] = field(default_factory=dict)

    def tagged(self, tags: dict[str, str], decided: dict[str, str]) -> dict[str, str]:
        """A record's own tags, and those of what was decided."""
        return {**tags, **{self.names.get(name, name): text for name, text in decided.items()}}

    def leave(self, record: Record, reason: str) -> None:
        """Note a record that gets no geometry."""
        self.without[reason] += 1
        if self.failures is not None:
            self.failures.add(record, reason)

    def lines(self) -> list[str]:
        """One line for each kind of decision that is worth a word, the most frequent first."""
        counts = [
            ("stripped of", self.stripped),
            ("neutralised, charge", self.neutralised),
            ("stereo left open", self.isomers),
            ("geometry by", Counter({k: n for k, n in self.methods.items() if k != _PLAIN})),
        ]
        return [
            f"{count:,} x {what} {which}"
            for what, counter in counts
            for which, count in counter.most_common()
        ]

    def counts(self) -> dict[str, dict[str, int]]:
        """For a run record."""
        named = {
            "stripped": self.stripped,
            "neutralised": self.neutralised,
            "stereo_chosen": self.isomers,
            "geometry_methods": self.methods,
        }
        return {name: dict(counter.most_common()) for name, counter in named.items() if counter}


def stripped(
    records: Iterator[Record], decisions: Decisions, *, neutralise: bool = False
) -> Iterator[Record]:
    """Records reduced to their parents; coordinates that are there stay."""
    for record in records:
        if record.mol is None:
            yield record
            continue
        found = settle_salt(record.mol, "strip", neutralise=neutralise)
        if found.refused:
            yield record._replace(mol=None, error=found.refused, block="")
            continue
        added = {}
        if found.stripped:
            decisions.stripped[found.stripped] += 1
            added["salt_stripped"] = found.stripped
        if found.neutralised:
            decisions.neutralised[found.neutralised] += 1
            added["charge_neutralised"] = found.neutralised
        if not added:
            yield record
            continue
        declare(found.mol, declared(record.mol))
        yield record._replace(mol=found.mol, tags=decisions.tagged(record.tags, added), block="")


def with_geometries(
    records: Iterator[Record],
    rules: Rules,
    pool: Pool,
    timeout: float | None,
    cache: Cache | None,
    decisions: Decisions,
) -> Iterator[Record]:
    """Records with hydrogens and a conformer, computed a block at a time."""
    while block := list(islice(records, block_size(pool))):
        settled = _settled(block, rules, pool, timeout, decisions)
        wanted = [k for k, (record, refused) in enumerate(settled) if record.mol and not refused]
        mols = [mol for k in wanted if (mol := settled[k][0].mol) is not None]
        found = dict(
            zip(wanted, arrays(_positions, _GEOMETRY, mols, pool, timeout, cache), strict=True)
        )
        for k, (record, refused) in enumerate(settled):
            if record.mol is None:
                yield record
                continue
            result = found.get(k, refused)
            if isinstance(result, str):
                decisions.leave(record, result)
                yield record._replace(error=result)
                continue
            method = method_of(record.mol)
            decisions.methods[method] += 1
            _settle(record.mol, result)
            yield record._replace(tags=decisions.tagged(record.tags, {"geometry_method": method}))


def arrays(
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


def _settled(
    block: list[Record],
    rules: Rules,
    pool: Pool,
    timeout: float | None,
    decisions: Decisions,
) -> list[tuple[Record, str]]:
    """Records with hydrogens, their isomers in the place of open stereo, and why to stop there."""
    refusals = [
        settle_salt(record.mol, rules.salts).refused
        if record.mol is not None and rules.salts != "strip"
        else ""
        for record in block
    ]
    places = [
        k
        for k, record in enumerate(block)
        if record.mol is not None and not refusals[k] and unspecified_stereo(record.mol)
    ]
    isomers: dict[int, Isomers | str] = {}
    if places:
        binaries = [mol.ToBinary(EXACT) for k in places if (mol := block[k].mol) is not None]
        outcomes = pool.map(partial(_isomers, rule=rules.isomers), binaries, timeout=timeout)
        for k, outcome in zip(places, outcomes, strict=True):
            isomers[k] = outcome.error or "failed" if outcome.value is None else outcome.value
    settled: list[tuple[Record, str]] = []
    for k, record in enumerate(block):
        if record.mol is None:
            settled.append((record, ""))
        elif k not in isomers:
            settled.append((_dressed(record, record.mol), refusals[k]))
        elif isinstance(found := isomers[k], str) or found.refused:
            reason = found if isinstance(found, str) else found.refused
            settled.append((_dressed(record, record.mol), reason))
        else:
            if not found.open:
                settled.append((_dressed(record, record.mol), ""))
                continue
            for chosen in _chosen(record, found, rules, decisions):
                if chosen.mol is not None:
                    declare(chosen.mol, declared(record.mol))
                settled.append((chosen, ""))
    return settled


def _isomers(binary: bytes, rule: IsomerRule) -> Isomers:
    return isomers_of(Chem.Mol(binary), rule)


def _chosen(record: Record, found: Isomers, rules: Rules, decisions: Decisions) -> Iterator[Record]:
    """The isomers of a record as records, and a count of what was taken."""
    taken = len(found.mols)
    what = "one isomer taken" if taken == 1 else f"{taken} isomers taken"
    decisions.isomers[f"({found.open}): {what} of up to {found.possible}"] += 1
    for k, mol in enumerate(found.mols, start=1):
        chosen = {"stereo_open": str(found.open), "stereo_chosen": Chem.MolToSmiles(mol)}
        name = f"{record.title}-iso{k}" if rules.isomers != "first" and taken > 1 else record.name
        tags = decisions.tagged(record.tags, chosen)
        yield _dressed(record, mol)._replace(name=name, tags=tags)


def _dressed(record: Record, mol: Chem.Mol) -> Record:
    return record._replace(mol=Chem.AddHs(mol))


def _settle(mol: Chem.Mol, positions: NDArray[np.float64]) -> None:
    add_conformer(mol, positions.reshape(-1, 3))


def _positions(binary: bytes) -> NDArray[np.float64] | str:
    try:
        return start(Chem.Mol(binary)).mol.GetConformer().GetPositions().ravel()
    except PropertyError as error:
        return str(error).removeprefix("no geometry: ")
