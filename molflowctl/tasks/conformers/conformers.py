"""Low-energy conformers of given molecules, as an SDF library; `molflowctl conformers`.

Every stereoisomer gets `n` conformers from a conformer flow, of the shipped ones the first that has
learnt from molecules of its size and elements (or from ETKDGv3, for comparison). One that
breaks the stereo it was given is drawn again, and counted. Then they are relaxed, pruned by
symmetric heavy-atom RMSD and an energy window, sorted by energy and weighed by Boltzmann.

What cannot be done costs itself and is said with its line; the rest goes on. The conformers of a
molecule are a function of (model, seed, its place in the input): they do not depend on `-j`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rdkit import Chem

from molflowctl.chem.axial import declare_axes
from molflowctl.chem.ensemble import boltzmann_weights, keep_conformers, prune
from molflowctl.chem.relaxation import BECAME
from molflowctl.chem.spin import declare
from molflowctl.compute.parallel import WorkerPool
from molflowctl.io.library import sdf_record
from molflowctl.io.library_writers import SDFWriter
from molflowctl.io.locks import one_writer
from molflowctl.io.reading import Given
from molflowctl.io.record import OURS, versions, write_json
from molflowctl.models.conformer import ConformerFlow
from molflowctl.tasks.conformers.drawing import Drawn, draw_rounds, relax_drawn
from molflowctl.tasks.conformers.jobs import ETKDG, Conformers, Job, count_entries, read_jobs
from molflowctl.tasks.conformers.resume import Done, find_earlier, identity_of, listed
from molflowctl.tasks.conformers.settings import ConformersConfig
from molflowctl.tasks.failures import Failures
from molflowctl.tasks.generate.flows import load_as
from molflowctl.tasks.memory import Memory, pack
from molflowctl.tasks.unfinished import write_library

__all__ = [
    "ETKDG",
    "describe",
    "generate_conformers",
]

AUTO = "auto"
TAGS = ("smiles", "energy_method", "relative_energy_kcal_mol", "boltzmann_weight")
SHIPPED = ("qm9-conformers-gfn2", "druglike-conformers")  # what auto chooses from, in this order
ROUNDS = 20  # of drawing again what broke its stereo
LOST = (BECAME, "the relaxation failed")  # what can become of a draw that is relaxed
SAVE_EVERY = 2.0  # seconds between two records that a resume can start from


@dataclass(frozen=True)
class _Finished:
    """The records of a stereoisomer, and what became of its draws; `note` if it is not all well."""

    records: list[Any]
    counts: dict[str, int]
    note: str = ""


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
    flows = load_flows(config.model, config.device) if flow is None else {config.model: flow}
    run = _Run(config, given, flows, progress)
    with Failures(config.out) as run.state.failures:
        replace = config.overwrite or config.resume
        write_library(run, run.fill, config.out, replace=replace, into=into)
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
        make: Callable[[Any], tuple[int, _Finished]]
        items: Iterator[Any]
        if all(flow.device.type == "cpu" for flow in flows.values()):
            make, items = _DrawAndFinish(flows, config, record), self.jobs
        else:  # the device draws here, the workers relax
            make = _Finish(config, record)
            items = ((job, _draw(flows[job.model], job, config)) for job in self.jobs)
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
        UserError: for an unknown flow, or a device that is not there.
    """
    if model == ETKDG:
        return {}
    names = SHIPPED if model == AUTO else [model]
    return {name: load_as(ConformerFlow, name, device) for name in names}


@dataclass(frozen=True)
class _DrawAndFinish:
    """A job to records, in a worker with one thread."""

    flows: dict[str, ConformerFlow]
    config: ConformersConfig
    make: Callable[..., Any]

    def __call__(self, job: Job) -> tuple[int, _Finished]:
        drawn = _draw(self.flows.get(job.model), job, self.config)
        return _Finish(self.config, self.make)((job, drawn))


@dataclass(frozen=True)
class _Finish:
    """Drawn conformers to records, in a worker; `make` is `sdf_record` or `pack`."""

    config: ConformersConfig
    make: Callable[..., Any]

    def __call__(self, item: tuple[Job, Drawn]) -> tuple[int, _Finished]:
        job, drawn = item
        return job.number, _finish(job, drawn, self.config, self.make)


def _draw(flow: ConformerFlow | None, job: Job, config: ConformersConfig) -> Drawn:
    """`n` conformers with the right stereo, or as many as `ROUNDS` rounds give."""
    bare = Chem.MolFromSmiles(job.smiles)
    declare(bare, job.multiplicity)
    mol = Chem.AddHs(bare) if flow is None else flow.with_placed_atoms(bare)
    declare_axes(mol, job.axes)
    return draw_rounds(flow, mol, config.n, job.number, config, seed=config.seed, rounds=ROUNDS)


def _finish(
    job: Job, drawn: Drawn, config: ConformersConfig, make: Callable[..., Any]
) -> _Finished:
    """Hydrogens, relaxation, pruning, weights, records."""
    counts = {"drawn": drawn.drawn, "wrong stereo": drawn.wrong}
    mol = Chem.Mol(drawn.mol)
    found = mol.GetNumConformers()
    if found == 0:
        return _Finished([], counts, f"none of {drawn.drawn} conformers has the right stereo")
    note = "" if found == config.n else f"only {found} of {config.n} conformers"
    relaxed, energies, method, failures = relax_drawn(mol, config.relax)
    kept = [k for k, failure in enumerate(failures) if not failure]
    if lost := [failure for failure in failures if failure]:
        became = sum(failure.startswith(BECAME) for failure in lost)
        counts |= {LOST[0]: became, LOST[1]: len(lost) - became}
        reasons = "; ".join(f"{k} x {reason}" for reason, k in Counter(lost).most_common())
        if not kept:
            return _Finished([], counts, f"no conformer came through the relaxation: {reasons}")
        note = "; ".join(filter(None, [note, f"dropped: {reasons}"]))
    relaxed, energies = keep_conformers(relaxed, kept), energies[kept]
    tags: dict[str, object] = {"smiles": job.smiles, "energy_method": method, **job.tags}
    if method == "UFF":
        note = "; ".join(filter(None, [note, "by UFF: MMFF94 has no parameters for it"]))
    if job.multiplicity is not None:
        tags["multiplicity"] = job.multiplicity
    if method:
        places = prune(relaxed, energies, config.rmsd_threshold, config.energy_window)
        relaxed, energies = keep_conformers(relaxed, places), energies[places]
        weights = boltzmann_weights(energies, config.temperature_K)
    else:
        note = "no force field knows it: conformers as drawn, without energies"
        weights = np.full(len(kept), np.nan)
    counts["pruned"] = len(kept) - len(weights)
    records = [
        make(
            Chem.Mol(relaxed, False, conformer.GetId()),
            job.title,
            tags
            | {
                "relative_energy_kcal_mol": round(float(energies[k] - energies[0]), 6),
                "boltzmann_weight": float(weights[k]),
            },
        )
        for k, conformer in enumerate(relaxed.GetConformers())
    ]
    return _Finished(records, counts, note)
