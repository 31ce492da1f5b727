"""Draw a scored SDF library from a de-novo flow; `molflowctl generate`."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rdkit import Chem

from molflowctl import properties
from molflowctl.chem import (
    FAILURE_REASONS,
    Failure,
    canonical_smiles,
    formula,
    inchikey,
    to_mol,
)
from molflowctl.config import GenerateConfig
from molflowctl.datasets import known, load_hashes
from molflowctl.errors import UserError
from molflowctl.library import SDFWriter, numbered_title, read_records, sdf_record
from molflowctl.models.denovo import DeNovoFlow
from molflowctl.models.generation import Drawn, Sampling, draws
from molflowctl.parallel import WorkerPool
from molflowctl.tasks.record import read_record, record_path, versions, write_json

__all__ = ["TAGS", "Generated", "generate", "load_flow", "parse_atoms"]

TAGS = ("qed", "sa_score", "logp", "mw")
SAVE_EVERY = 1024  # attempts between two states that a resume can start from
_GIVE_UP = 50  # attempts per molecule asked for, after which a flow is called unable


class _Line(NamedTuple):
    """What a worker sends back of one attempt: the finished record instead of the molecule."""

    index: int
    record: str
    smiles: str
    failure: str
    shown: bytes  # the molecule, where a picture was asked for


@dataclass(frozen=True)
class _Finish:
    """Score an attempt and write its record, in the worker."""

    keep_invalid: bool
    show: int

    def __call__(self, drawn: Drawn) -> _Line:
        title = numbered_title(drawn.index)
        if isinstance(drawn.result, Failure):
            record = ""
            if self.keep_invalid and drawn.graph is not None:
                tags = {"invalid_reason": drawn.result.reason, "detail": drawn.result.detail}
                if drawn.result.reason != "nonfinite":
                    record = sdf_record(to_mol(drawn.graph), title, tags)
            return _Line(drawn.index, record, "", drawn.result.reason, b"")
        mol, smiles = drawn.result.mol, drawn.result.smiles
        tags = {
            "smiles": Chem.MolToSmiles(Chem.RemoveHs(mol)),
            "inchikey": inchikey(mol),
            "formula": formula(mol),
        }
        for name in TAGS:
            try:
                tags |= properties.get(name)(mol)
            except properties.PropertyError:  # a failed value is an absent tag
                continue
        shown = mol.ToBinary() if drawn.index < self.show else b""
        return _Line(drawn.index, sdf_record(mol, title, tags), smiles, "", shown)


@dataclass(frozen=True)
class Generated:
    """How a generation went; every count is of this library, earlier parts of a resumed one included."""

    asked: int
    attempts: int
    valid: int
    unique: int
    novel: int | None
    failures: dict[str, int]
    seconds: float
    complete: bool


def load_flow(name: str, device: str = "auto") -> DeNovoFlow:
    """A de-novo flow by name or folder, on the wanted device.

    Raises:
        UserError: for an unknown flow, or a device that is not there.
    """
    import torch

    flow = DeNovoFlow.from_pretrained(name)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return flow.to(torch.device(device)).eval()
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from None


def parse_atoms(text: str | None) -> range | None:
    """`7-9` or `8` as a range of sizes.

    Raises:
        UserError: for anything else.
    """
    if text is None:
        return None
    low, dash, high = text.partition("-")
    try:
        first, last = int(low), int(high if dash else low)
    except ValueError:
        raise UserError(f"--atoms takes a number or a range such as 7-9, got {text!r}.") from None
    if not 0 < first <= last:
        raise UserError(f"--atoms {text} is empty: give the smaller number first, 1 or more.")
    return range(first, last + 1)


def generate(
    config: GenerateConfig,
    *,
    flow: DeNovoFlow | None = None,
    progress: Callable[[Generated], None] = lambda state: None,
) -> Generated:
    """Write the library of `config`, its run record, and the pictures that were asked for.

    On Ctrl-C the molecules so far are kept as a whole library before `KeyboardInterrupt` goes on.

    Raises:
        UserError: for settings, flows or files that cannot be used.
    """
    out = config.out
    flow = flow or load_flow(config.flow, config.device)
    sampling = Sampling(
        sampler=config.sampler,
        evaluations=config.evaluations,
        atoms=parse_atoms(config.atoms),
        relax=config.relax,
        batch=config.batch,
    )
    sampling.check(flow)
    job = _Job(config, flow)
    if config.resume and out != "-":
        job.resume()
    writer = SDFWriter(out, overwrite=config.overwrite or config.resume)
    with writer:
        job.copy_earlier(writer)
        job.save(complete=False)
        lines = draws(
            flow,
            sampling,
            seed=config.seed,
            start=job.next,
            count=None if config.attempts is None else config.attempts - job.next,
            expected=math.ceil(1.04 * (config.n - job.valid)),
            pool=job.pool,
            finish=_Finish(config.keep_invalid, config.pictured),
        )
        try:
            while not job.done():
                try:
                    line = next(lines)
                except StopIteration:
                    break
                job.take(line, writer)
                progress(job.state())
        except KeyboardInterrupt:
            job.save(complete=False)
            raise
        finally:
            lines.close()
            job.pool.close()
    complete = job.valid >= config.n if config.attempts is None else job.next >= config.attempts
    job.save(complete=complete)
    job.draw_pictures()
    return job.state(complete)


class _Job:
    """Counts of a generation, and their record on disk."""

    def __init__(self, config: GenerateConfig, flow: DeNovoFlow) -> None:
        self.config, self.flow = config, flow
        self.pool = WorkerPool(config.jobs)
        self.next = self.valid = self.novel = 0
        self.failures: Counter[str] = Counter()
        self.seen: set[str] = set()
        self.mols: list[tuple[str, Chem.Mol]] = []
        self.earlier: Path | None = None
        self.began = time.monotonic()
        self.before = 0.0
        self.hashes = load_hashes("qm9") if _is_qm9(flow) else None

    def done(self) -> bool:
        if self.config.attempts is not None:
            return self.next >= self.config.attempts
        return self.valid >= self.config.n or self.next >= _GIVE_UP * max(self.config.n, 20)

    def take(self, line: _Line, writer: SDFWriter) -> None:
        """Write an attempt's record and count it."""
        if line.record:
            writer.write_record(line.record)
        if line.failure:
            self.failures[line.failure] += 1
        else:
            self.count(line.smiles)
            if line.shown:
                self.mols.append((numbered_title(line.index), Chem.Mol(line.shown)))
        self.next = line.index + 1
        if self.next % SAVE_EVERY == 0:  # by count, not time: equal runs write equal bytes
            writer.flush()
            self.save(complete=False)

    def count(self, smiles: str) -> None:
        self.valid += 1
        if smiles in self.seen:
            return
        self.seen.add(smiles)
        if self.hashes is not None:
            self.novel += int(not known([smiles], self.hashes)[0])

    def state(self, complete: bool = False) -> Generated:
        c = self.config
        return Generated(
            asked=c.n if c.attempts is None else c.attempts,
            attempts=self.next,
            valid=self.valid,
            unique=len(self.seen),
            novel=None if self.hashes is None else self.novel,
            failures=dict(self.failures.most_common()),
            seconds=self.before + time.monotonic() - self.began,
            complete=complete,
        )

    def save(self, complete: bool) -> None:
        """Write the run record."""
        if self.config.out == "-":
            return
        state = self.state(complete)
        try:
            write_json(
                record_path(self.config.out),
                {
                    "command": "generate",
                    "config": self.config.model_dump(mode="json"),
                    "flow": {
                        "name": self.config.flow,
                        "weights_sha256": self.flow.card.get("weights_sha256"),
                    },
                    "versions": versions(),
                    "counts": {
                        "asked": state.asked,
                        "attempts": state.attempts,
                        "valid": state.valid,
                        "unique": state.unique,
                        "novel": state.novel,
                        "failed": {k: v for k, v in state.failures.items()},
                    },
                    "seconds": round(state.seconds, 2),
                    "complete": complete,
                },
            )
        except OSError as error:
            raise UserError(
                f"cannot write {record_path(self.config.out)}: {error.strerror}"
            ) from error

    def resume(self) -> None:
        """Take up the counts of an unfinished run of the same settings."""
        out = Path(self.config.out)
        record = read_record(record_path(out))
        partial, earlier = (out.with_name(out.name + end) for end in (".partial", ".earlier"))
        # A resume that was itself cut off leaves `.earlier`, which is then the whole of the two.
        source = next((path for path in (earlier, partial, out) if path.exists()), out)
        if record is None or not source.exists():
            if out.exists():
                raise UserError(
                    f"{out} has no readable {record_path(out).name}: it cannot be resumed."
                )
            return
        changing = (
            "n",
            "attempts",
            "jobs",
            "batch",
            "resume",
            "overwrite",
            "html",
            "grid",
            "device",
        )
        old, new = (
            {k: v for k, v in c.items() if k not in changing}
            for c in (record["config"], self.config.model_dump(mode="json"))
        )
        differ = [k for k in new if old.get(k) != new[k]]
        if differ or record["flow"]["weights_sha256"] != self.flow.card.get("weights_sha256"):
            what = ", ".join(differ) or "the flow's weights"
            raise UserError(f"{out} was made with other settings ({what}): it cannot be resumed.")
        self.next = record["counts"]["attempts"]
        self.failures = Counter(record["counts"]["failed"])
        self.before = record["seconds"]
        if source == partial:  # the name that the new file is written under
            source = earlier
            os.replace(partial, earlier)
        self.earlier = source

    def copy_earlier(self, writer: SDFWriter) -> None:
        """Write the records that an interrupted run left behind."""
        if self.earlier is None:
            return
        for text in read_records(self.earlier):
            index = int(text.split("\n", 1)[0].removeprefix("mfc-"))
            if index >= self.next:
                break  # written after the last count was saved; drawn again, and the same
            writer.write_record(text)
            if "<invalid_reason>" not in text:
                self.count(canonical_smiles(Chem.MolFromMolBlock(text, removeHs=False)))
        if self.earlier.suffix == ".earlier":
            writer.flush()
            self.earlier.unlink()

    def draw_pictures(self) -> None:
        c = self.config
        if not self.mols or not (c.html or c.grid):
            return
        from molflowctl import looking

        titles, mols = zip(*self.mols, strict=True)
        rows = [properties.score([m], TAGS, timeout=None).values for m in mols]
        values = [{name: float(row[name][0]) for name in TAGS} for row in rows]
        if c.html:
            looking.write_html(mols, c.html, titles, values, title=f"{c.flow}, seed {c.seed}")
        if c.grid:
            legends = [f"{t}  QED {v['qed']:.2f}" for t, v in zip(titles, values, strict=True)]
            looking.draw_grid(mols, c.grid, legends)


def _is_qm9(flow: DeNovoFlow) -> bool:
    """Whether novelty can be told: the hashes of QM9's training molecules ship."""
    return str(flow.card.get("data", {}).get("name", "")).startswith("qm9")


def describe(state: Generated) -> list[tuple[str, str]]:
    """The lines of a summary: label and figure."""

    def share(part: int, whole: int) -> str:
        return f"{part:,} ({part / whole:.1%})" if whole else "0"

    lines = [
        ("attempts", f"{state.attempts:,}"),
        ("valid, delivered", share(state.valid, state.attempts)),
        ("unique", share(state.unique, state.valid)),
    ]
    if state.novel is not None:
        lines.append(("novel", share(state.novel, state.unique)))
    lines += [
        (f"failed: {reason}", f"{share(n, state.attempts)}  {FAILURE_REASONS.get(reason, '')}")
        for reason, n in state.failures.items()
    ]
    rate = state.attempts / state.seconds if state.seconds else math.nan
    lines.append(("time", f"{state.seconds:.0f} s, {rate:.1f} molecules/s"))
    return lines
