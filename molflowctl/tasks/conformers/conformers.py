"""Low-energy conformers of given molecules, as an SDF library; `molflowctl conformers`.

Every stereoisomer gets `n` conformers from a conformer flow, from ETKDGv3, or half of them from
each, by what the benchmark found best for such a molecule (`jobs.py`). One that breaks the stereo
it was given is drawn again, and counted. Then they are relaxed, pruned together by symmetric
heavy-atom RMSD and an energy window, sorted by energy and weighed by Boltzmann (`finishing.py`).

What cannot be done costs itself and is said with its line; the rest goes on. The conformers of a
molecule are a function of (model, seed, its place in the input): they do not depend on `-j`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from molflowctl.compute.parallel import WorkerPool
from molflowctl.errors import UserError
from molflowctl.io.library import sdf_record
from molflowctl.io.library_writers import SDFWriter
from molflowctl.io.locks import one_writer
from molflowctl.io.reading import Given
from molflowctl.io.record import OURS, versions, write_json
from molflowctl.models.conformer import ConformerFlow
from molflowctl.tasks.conformers.drawing import Drawn
from molflowctl.tasks.conformers.finishing import BY, LOST, Finished, draw_by_flows, finish
from molflowctl.tasks.conformers.jobs import (
    AUTO,
    ETKDG,
    Conformers,
    Job,
    count_entries,
    models_of,
    read_jobs,
)
from molflowctl.tasks.conformers.resume import Done, find_earlier, identity_of, listed
from molflowctl.tasks.conformers.settings import ConformersConfig
from molflowctl.tasks.failures import Failures
from molflowctl.tasks.generate.flows import load_as
from molflowctl.tasks.memory import Memory, pack
from molflowctl.tasks.pages import library_page
from molflowctl.tasks.unfinished import write_library
from molflowctl.viz.pictures import check_pictures

__all__ = [
    "ETKDG",
    "describe",
    "generate_conformers",
]

TAGS = ("smiles", "energy_method", "relative_energy_kcal_mol", "boltzmann_weight", "drawn_by")
SHIPPED = ("qm9-conformers-gfn2", "druglike-conformers")  # what auto chooses from, in this order
SAVE_EVERY = 2.0  # seconds between two records that a resume can start from


@one_writer(lambda config, *_, **__: config.out)
def generate_conformers(
    config: ConformersConfig,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    given: Given | None = None,
    flow: ConformerFlow | None = None,
    into: Memory | None = None,
) -> Conformers:
    """Write the library of `config` and its run record.

    On Ctrl-C the molecules that are done are kept, and a resumed run goes on from them.

    Arguments:
        given, flow, into: the molecules, what draws and what takes the conformers, in the place of
            `config.source`, `config.model` and `config.out`.

    Raises:
        UserError: for an input, model, device or output that cannot be used, or a resume of a run
            with other settings, input or weights.
    """
    check_pictures(config.html, None, replace=config.overwrite or config.resume)
    flows = load_flows(config.model, config.device) if flow is None else {config.model: flow}
    run = _Run(config, given, flows, progress)
    with Failures(config.out) as run.state.failures:
        replace = config.overwrite or config.resume
        write_library(run, run.fill, config.out, replace=replace, into=into)
    if config.html is not None and into is None and run.state.written:
        library_page(config.out, config.html, f"{config.out}, conformers of {config.source}")
    return run.state


class _Run:
    """A run: its stereoisomers in the order of the input, and what became of those before."""

    def __init__(
        self,
        config: ConformersConfig,
        given: Given | None,
        flows: Mapping[str, ConformerFlow],
        progress: Callable[[int, int], None],
    ) -> None:
        self.config, self.given = config, given
        self.flows, self.progress = dict(flows), progress
        self.state, self.began = Conformers(), time.monotonic()
        self.total = count_entries(given or config.source)
        weights = {name: flow.card.get("weights_sha256") for name, flow in flows.items()}
        self.identity = identity_of(config, weights)
        self.begun = find_earlier(config, self.identity) if config.resume else None
        self.done: list[Done] = []
        self.saved = self.pause = 0.0  # when the record was written, and how long until it is again
        self.waiting: dict[int, Job] = {}
        self.jobs = self._jobs()

    def _jobs(self) -> Iterator[Job]:
        for job in read_jobs(self.config, self.given, self.flows, self.state):
            self.waiting[job.number] = job
            yield job

    @property
    def earlier(self) -> Path | None:
        """The library it goes on from, if any."""
        return self.begun.library if self.begun else None

    def copy_earlier(self, writer: SDFWriter) -> None:
        """Write again what an earlier run has done."""
        if (begun := self.begun) is not None:
            for one, records, job in zip(begun.done, begun.records(), self.jobs, strict=False):
                self._take(job.number, one, records, writer)

    def fill(self, writer: SDFWriter | Memory) -> None:
        """Draw, relax and write the rest."""
        self.save(writer)
        config, flows = self.config, self.flows
        record = pack if isinstance(writer, Memory) else sdf_record
        make: Callable[[Any], tuple[int, Finished]]
        items: Iterator[Any]
        if all(flow.device.type == "cpu" for flow in flows.values()):
            make, items = _DrawAndFinish(flows, config, record), self.jobs
        else:  # the device draws here, the workers relax
            make = _Finish(config, record)
            items = ((job, draw_by_flows(flows, job, config)) for job in self.jobs)
        with WorkerPool(config.jobs, isolate=True) as pool:
            outcomes = pool.map(make, items, timeout=config.timeout, chunk=1)
            for number, outcome in enumerate(outcomes, start=len(self.done)):
                if outcome.value is None:
                    self._take(number, Done(0, {}, error=outcome.error or "failed"), [], writer)
                else:
                    found = outcome.value[1]
                    done = Done(len(found.records), found.counts, found.note)
                    self._take(number, done, found.records, writer)
                if time.monotonic() - self.saved > self.pause:
                    self.save(writer)
        self.state.complete = True

    def _take(
        self, number: int, done: Done, records: list[Any], writer: SDFWriter | Memory
    ) -> None:
        """Write the records of a stereoisomer and count them."""
        job, state = self.waiting.pop(number), self.state
        for record in records:
            writer.write_record(record)
        writer.flush()  # after each, always: a resumed run writes the very same blocks
        state.written += len(records)
        state.counts.update(done.counts)
        if done.error:
            state.refuse(job.record, done.error)
        elif records and not done.note.startswith("only"):
            state.done += 1
        else:
            state.failed += 1
            if state.failures is not None:
                state.failures.add(job.record, done.note or "no conformer")
        if done.note:
            state.notes.append(f"{job.place}: {job.title}: {done.note}")
        self.done.append(done)
        self.progress(state.read, self.total)

    def finish(self, writer: SDFWriter | Memory) -> None:
        """Write the last record."""
        self.save(writer)

    def save(self, writer: SDFWriter | Memory) -> None:
        """Write the record beside the unfinished library."""
        self.state.seconds = time.monotonic() - self.began
        if writer.record is None:
            return
        began = time.monotonic()
        write_json(writer.record, self._record())
        self.saved = time.monotonic()
        self.pause = max(SAVE_EVERY, 50 * (self.saved - began))  # of long runs it is long

    def _record(self) -> dict[str, Any]:
        state, config = self.state, self.config
        return {
            "command": "conformers",
            OURS: list(TAGS),
            "config": config.model_dump(mode="json"),
            "model": {
                "name": config.model,
                "weights_sha256": self.identity["weights_sha256"],
            },
            "versions": versions(),
            "counts": {
                "read": state.read,
                "done": state.done,
                "failed": state.failed,
                "written": state.written,
                **state.counts,
            },
            "notes": state.notes,
            "seconds": round(state.seconds, 2),
            "complete": state.complete,
            "identity": self.identity,
            "stereoisomers": listed(self.done),
        }


def describe(state: Conformers) -> list[tuple[str, str]]:
    """The lines of a summary: label and figure."""
    counts = state.counts
    lines = [
        ("entries read", f"{state.read:,}"),
        *(
            (f"  {name}", f"{counts[name]:,}")
            for name in ("salt stripped", "charge neutralised")
            if counts[name]
        ),
        ("stereoisomers delivered", f"{state.done:,}"),
        *((f"  {name}", f"{k:,}") for name, k in sorted(counts.items()) if name.startswith(BY)),
        ("failed", f"{state.failed:,}"),
        ("conformers drawn", f"{counts['drawn']:,}"),
        ("  redrawn: wrong stereo", f"{counts['wrong stereo']:,}"),
        *((f"  dropped: {name}", f"{counts[name]:,}") for name in LOST if counts[name]),
        ("  pruned: RMSD or energy window", f"{counts['pruned']:,}"),
        ("conformers written", f"{state.written:,}"),
    ]
    rate = counts["drawn"] / state.seconds if state.seconds else 0.0
    return [*lines, ("time", f"{state.seconds:.1f} s, {rate:.1f} conformers/s")]


def load_flows(model: str, device: str = "auto") -> dict[str, ConformerFlow]:
    """The flows that a model stands for, by name: none for ETKDGv3, the shipped ones for "auto".

    Raises:
        UserError: for an unknown flow, a device that is not there, or a model twice.
    """
    names = SHIPPED if model == AUTO else models_of(model, {})
    if len(set(names)) < len(names):
        raise UserError(f"--model {model}: a model is there twice.")
    return {name: load_as(ConformerFlow, name, device) for name in names if name != ETKDG}


@dataclass(frozen=True)
class _DrawAndFinish:
    """A job to records, in a worker with one thread."""

    flows: dict[str, ConformerFlow]
    config: ConformersConfig
    make: Callable[..., Any]

    def __call__(self, job: Job) -> tuple[int, Finished]:
        began = time.monotonic()
        drawn = draw_by_flows(self.flows, job, self.config)
        return job.number, finish(job, drawn, self.config, self.make, began)


@dataclass(frozen=True)
class _Finish:
    """What flows drew, elsewhere, to records, in a worker; `make` is `sdf_record` or `pack`."""

    config: ConformersConfig
    make: Callable[..., Any]

    def __call__(self, item: tuple[Job, dict[str, Drawn]]) -> tuple[int, Finished]:
        job, drawn = item
        return job.number, finish(job, drawn, self.config, self.make, time.monotonic())
