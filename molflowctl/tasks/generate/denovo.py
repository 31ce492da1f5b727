"""Draw a scored library from a de-novo flow; `molflowctl generate`."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rdkit import Chem

from molflowctl import properties
from molflowctl.chem.graphs import (
    Failure,
    canonical_smiles,
    formula,
    inchikey,
    to_mol,
)
from molflowctl.compute.parallel import WorkerPool
from molflowctl.data.known import known, molecule_hash
from molflowctl.errors import UserError
from molflowctl.io.library import is_stream, numbered_title, read_records, sdf_record
from molflowctl.io.library_writers import SDFWriter, unfinished
from molflowctl.io.locks import one_writer
from molflowctl.io.record import OURS, read_record, record_path, versions, write_json
from molflowctl.models.around.flow import AroundFlow
from molflowctl.models.generation import (
    Drawn,
    Sampling,
    draws,
)
from molflowctl.models.molecule_flow import MoleculeFlow
from molflowctl.models.network import in_precision
from molflowctl.properties.rewards.filters import Filter
from molflowctl.tasks.generate.around import CORE_TAGS, Given, read_given
from molflowctl.tasks.generate.filtering import AGAIN, Rejections, hopeless, likely
from molflowctl.tasks.generate.flows import load_flow, parse_atoms, training_hashes
from molflowctl.tasks.generate.records import count_delivered, describe, index_of, is_delivered
from molflowctl.tasks.generate.resume import differences
from molflowctl.tasks.generate.settings import GenerateConfig
from molflowctl.tasks.memory import Memory, pack
from molflowctl.tasks.unfinished import SDF, OtherFormat, write_library
from molflowctl.viz.pictures import check_pictures

__all__ = [
    "TAGS",
    "Generated",
    "describe",
    "generate",
]

TAGS = ("qed", "sa_score", "logp", "mw")
FEW = 16  # molecules that are drawn sooner than a worker process has started
SAVE_EVERY = 1024  # attempts between two states that a resume can start from
Writer = SDFWriter | OtherFormat | Memory
_UNWRITABLE = ("nonfinite", "error")  # graphs that RDKit or the format may not take


@dataclass(frozen=True, slots=True)
class _Line:
    """What a worker sends back of one attempt: the finished record instead of the molecule."""

    index: int
    record: Any  # a text for a file, or packed for the memory; empty if it is not written
    smiles: str
    failure: str
    shown: bytes  # the molecule, where a picture was asked for
    rejected: tuple[str, ...] = ()  # the conditions of --where that are not met


@dataclass(frozen=True)
class _Finish:
    """Score an attempt and write its record, in the worker."""

    keep_invalid: bool
    show: int
    explicit: bool
    where: Filter | None = None
    make: Callable[[Chem.Mol, str, Mapping[str, object]], Any] = sdf_record
    given: Given | None = None

    def __call__(self, drawn: Drawn) -> _Line:
        title = numbered_title(drawn.index)
        if isinstance(drawn.result, Failure):
            record: Any = ""
            if self.keep_invalid and drawn.graph is not None:
                why = {"invalid_reason": drawn.result.reason, "detail": drawn.result.detail}
                if drawn.result.reason not in _UNWRITABLE:
                    record = self.make(to_mol(drawn.graph, self.explicit), title, why)
            return _Line(drawn.index, record, "", drawn.result.reason, b"")
        mol, smiles = drawn.result.mol, drawn.result.smiles
        if self.where is not None and (unmet := self.where.rejects(mol)):
            why = {"invalid_reason": "rejected", "detail": "; ".join(unmet)}
            record = self.make(mol, title, why) if self.keep_invalid else ""
            return _Line(drawn.index, record, "", "", b"", unmet)
        tags: dict[str, object] = {
            "smiles": Chem.MolToSmiles(Chem.RemoveHs(mol)),
            "inchikey": inchikey(mol),
            "formula": formula(mol),
        }
        for name in TAGS:
            try:
                tags |= properties.get(name)(mol)
            except Exception:  # anybody's code may fail in any way; a failed value is an absent tag
                continue
        if self.given is not None:
            tags |= self.given.tags(mol)
        shown = mol.ToBinary() if drawn.index < self.show else b""
        return _Line(drawn.index, self.make(mol, title, tags), smiles, "", shown)


@dataclass(frozen=True)
class Generated:
    """How a generation went; all counts are of the whole library, resumed or not."""

    asked: int
    attempts: int
    valid: int
    unique: int
    novel: int | None
    failures: dict[str, int]
    seconds: float
    complete: bool
    rejections: Rejections = field(default_factory=Rejections)
    notes: tuple[str, ...] = ()  # what was decided where the input left it open

    @property
    def fewer(self) -> bool:
        """Whether there are fewer molecules than were asked for, or none at all."""
        return not self.complete or self.valid == 0


@one_writer(lambda config, *_, **__: config.out)
def generate(
    config: GenerateConfig,
    *,
    flow: MoleculeFlow | None = None,
    progress: Callable[[Generated], None] = lambda state: None,
    into: Memory | None = None,
) -> Generated:
    """Write the library of `config`, its run record, and the pictures that were asked for.

    On Ctrl-C the molecules so far are kept as a whole library before `KeyboardInterrupt` goes on;
    a library that was there stays, unless a resumed run has gone on from it.

    Arguments:
        flow: in the place of `config.flow`. into: what takes the library, in the place of
            `config.out`.

    Raises:
        UserError: for settings, flows or files that cannot be used.
    """
    check_pictures(config.html, config.grid, replace=config.overwrite or config.resume)
    where = None if config.where is None else Filter.of_text(config.where)
    given = read_given(config)
    flow = in_precision(flow or load_flow(config.flow, config.device), config.precision)
    if given is not None:
        flow = given.flow(flow)
    elif isinstance(flow, AroundFlow):
        given = Given(flow.core)
    sampling = Sampling(
        sampler=config.sampler,
        nfe=config.nfe,
        atoms=parse_atoms(config.atoms),
        relax=config.relax,
        batch=config.batch,
        stochasticity=config.stochasticity,
        focus=config.focus,
    )
    sampling.check(flow)
    job = _Job(config, flow, where, given)
    _write(job, sampling, progress, into)
    job.draw_pictures()
    return job.state


def _write(
    job: _Job,
    sampling: Sampling,
    progress: Callable[[Generated], None],
    into: Memory | OtherFormat | None,
) -> None:
    """The library and its record."""
    config = job.config
    if into is None and not job.stream and not config.out.endswith(SDF):
        into = OtherFormat.of_run(config)
    if config.resume:
        job.resume()

    def fill(writer: Writer) -> None:
        if job.earlier is None:
            job.save(writer)
        _fill(job, sampling, writer, progress)

    write_library(job, fill, config.out, replace=config.overwrite or config.resume, into=into)


def _fill(
    job: _Job, sampling: Sampling, writer: Writer, progress: Callable[[Generated], None]
) -> None:
    """Draw and write attempts until there is what was asked for."""
    config = job.config
    lines = draws(
        job.flow,
        sampling,
        seed=config.seed,
        start=job.next,
        count=None if config.attempts is None else config.attempts - job.next,
        expected=likely(config, job.valid) if config.attempts is None else None,
        pool=job.pool,
        finish=_Finish(
            config.keep_invalid,
            # How many of the first pass is not known.
            config.pictured if job.where is None or not config.pictured else sys.maxsize,
            explicit=job.flow.hydrogens == "explicit",
            where=job.where,
            make=sdf_record if isinstance(writer, SDFWriter) else pack,
            given=job.given,
        ),
    )
    try:
        while not (job.done() or job.hopeless()):
            job.take(next(lines), writer)
            progress(job.state)
    finally:
        lines.close()
        job.pool.close()


class _Job:
    """Counts of a generation, and their record on disk."""

    def __init__(
        self,
        config: GenerateConfig,
        flow: MoleculeFlow,
        where: Filter | None = None,
        given: Given | None = None,
    ) -> None:
        self.config, self.flow, self.where, self.given = config, flow, where, given
        self.rejections = Rejections()
        asked = config.n if config.attempts is None else config.attempts
        self.pool = WorkerPool(config.jobs if asked > FEW else 1)
        self.stream = is_stream(config.out)
        self.next = self.valid = self.novel = 0
        self.failures: Counter[str] = Counter()
        self.seen: set[int] = set()  # hashes, for libraries of millions
        self.mols: list[tuple[str, Chem.Mol]] = []
        self.earlier: Path | None = None  # what a resumed run goes on from
        self.began = time.monotonic()
        self.before = 0.0
        trained_on = training_hashes(flow)
        self.hashes = trained_on and trained_on[1]
        self.state = self.summary()

    def done(self) -> bool:
        """Whether everything that was asked for is there."""
        if self.config.attempts is not None:
            return self.next >= self.config.attempts
        return self.valid >= self.config.n

    def hopeless(self) -> bool:
        """Whether the flow is unable to deliver what was asked for."""
        return hopeless(self.config, self.next, self.valid)

    def take(self, line: _Line, writer: Writer) -> None:
        """Write an attempt's record and count it."""
        if self.config.unique and line.smiles and molecule_hash(line.smiles) in self.seen:
            line = replace(line, record="", shown=b"", rejected=(AGAIN,))
        if line.record:
            writer.write_record(line.record)
        if line.failure:
            self.failures[line.failure] += 1
        elif line.rejected:
            self.rejections.add(line.rejected)
        else:
            self.count(line.smiles)
            if line.shown and len(self.mols) < self.config.pictured:
                self.mols.append((numbered_title(line.index), Chem.Mol(line.shown)))
        self.next = line.index + 1
        self.state = self.summary()  # at once: Ctrl-C never sees an attempt that is half counted
        if self.next % SAVE_EVERY == 0:  # by count, not time: equal runs write equal bytes
            writer.flush()
            self.save(writer)

    def count(self, smiles: str) -> None:
        self.valid += 1
        identity = molecule_hash(smiles)
        if identity in self.seen:
            return
        self.seen.add(identity)
        if self.hashes is not None:
            self.novel += int(not known([smiles], self.hashes)[0])

    def summary(self) -> Generated:
        c = self.config
        return Generated(
            asked=c.n if c.attempts is None else c.attempts,
            attempts=self.next,
            valid=self.valid,
            unique=len(self.seen),
            novel=None if self.hashes is None else self.novel,
            failures=dict(self.failures.most_common()),
            seconds=self.before + time.monotonic() - self.began,
            complete=False,
            rejections=self.rejections,
            notes=self.given.notes if self.given else (),
        )

    def save(self, writer: Writer) -> None:
        """Write the run record beside the unfinished library."""
        if writer.record is None:
            return
        state = self.state
        write_json(
            writer.record,
            {
                "command": "generate",
                OURS: ["smiles", "inchikey", "formula", *TAGS, *(CORE_TAGS if self.given else ())],
                "config": self.config.model_dump(mode="json"),
                "flow": {
                    "name": self.config.flow,
                    "weights_sha256": self.flow.card.get("weights_sha256"),
                    **({"given_sha256": self.given.digest()} if self.given else {}),
                },
                "versions": versions(),
                "counts": {
                    "asked": state.asked,
                    "attempts": state.attempts,
                    "valid": state.valid,
                    "unique": state.unique,
                    "novel": state.novel,
                    "failed": state.failures,
                    **self.rejections.counts(),
                },
                "seconds": round(state.seconds, 2),
                "complete": state.complete,
                **({"notes": list(state.notes)} if state.notes else {}),
            },
        )

    def resume(self) -> None:
        """Take up the counts of an unfinished run of the same settings.

        A killed run leaves its part beside what was there before, each with a record of its own:
        the longest that fits is gone on from.
        """
        if self.stream:
            raise UserError(f"-o {self.config.out} is no file: there is nothing to resume.")
        out = Path(self.config.out)
        reasons: list[str] = []
        for place in [*unfinished(out), out]:
            if not place.exists():
                continue
            record = read_record(record_path(place))
            if record is None and place != out:
                continue  # killed before it had written anything
            if reason := self._unfit(place, record or {}):
                reasons.append(reason)
            elif record and (self.earlier is None or record["counts"]["attempts"] >= self.next):
                self.earlier, self.next = place, record["counts"]["attempts"]
                self.before = record["seconds"]
                self.failures = Counter(record["counts"]["failed"])
                self.rejections = Rejections.of_counts(record["counts"])
        if self.earlier is None and reasons:
            raise UserError(f"{reasons[-1]}: it cannot be resumed; --overwrite starts again.")

    def _unfit(self, place: Path, record: dict[str, Any]) -> str:
        """Why a run cannot go on from what is there; empty if it can."""
        known = {"config", "flow", "counts", "seconds"} <= record.keys()
        if record.get("command") != "generate" or not known:
            return f"{place} has no readable {record_path(place).name} beside it"
        begun = self.config.of_record(record["config"])
        differ = differences(begun, self.config.model_dump(mode="json"))
        if record["flow"]["weights_sha256"] != self.flow.card.get("weights_sha256"):
            name = record["flow"].get("name")
            other = f": flow = {name}, not {self.config.flow}" if name != self.config.flow else ""
            differ.append(f"the flow's weights{other}")
        if record["flow"].get("given_sha256") != (self.given and self.given.digest()):
            differ.append("what molecules are designed around, in its file")
        if differ:
            return f"{place} was made with other settings ({'; '.join(differ)})"
        counts, asked = record["counts"], self.config
        what, most = ("valid", asked.n) if asked.attempts is None else ("attempts", asked.attempts)
        if counts[what] > most:
            return f"{place} has {counts[what]} {what} already, more than the {most} asked for"
        if count_delivered(place, counts["attempts"]) != counts["valid"]:
            return (
                f"{place} does not hold the {counts['valid']} molecules of its "
                f"{record_path(place).name}"
            )
        return ""

    def copy_earlier(self, writer: SDFWriter) -> None:
        """Write the records that an interrupted run left behind, in the blocks of a whole one."""
        if self.earlier is None:
            return
        blocks = 0
        for text in read_records(self.earlier):
            index = index_of(text)
            if index >= self.next:
                break  # written after the last count was saved; drawn again, and the same
            if index // SAVE_EVERY > blocks:
                blocks = index // SAVE_EVERY
                writer.flush()
            writer.write_record(text)
            if is_delivered(text):
                mol = Chem.MolFromMolBlock(text, removeHs=False)
                self.count(canonical_smiles(mol))
                if index < self.config.pictured or (
                    self.where is not None and len(self.mols) < self.config.pictured
                ):
                    self.mols.append((numbered_title(index), mol))
        if self.next // SAVE_EVERY > blocks:
            writer.flush()
        self.state = self.summary()

    def finish(self, writer: Writer) -> None:
        """Write the last record, of a library that is whole or as far as it got."""
        self.state = replace(self.state, complete=self.done())
        self.save(writer)

    def draw_pictures(self) -> None:
        c = self.config
        if not self.mols or not (c.html or c.grid):
            return
        from molflowctl.viz import pictures as looking

        titles, mols = zip(*self.mols, strict=True)
        rows = [properties.score([m], TAGS, timeout=None).values for m in mols]
        values = [{name: float(row[name][0]) for name in TAGS} for row in rows]
        cores = None
        if self.given is not None and self.given.core is not None:
            cores = [range(len(self.given.core))] * len(mols)
        if c.html:
            title = f"{c.flow}, seed {c.seed}"
            looking.write_html(mols, c.html, titles, values, title, cores)
        if c.grid:
            legends = [f"{t}  QED {v['qed']:.2f}" for t, v in zip(titles, values, strict=True)]
            looking.draw_grid(mols, c.grid, legends, cores=cores)
