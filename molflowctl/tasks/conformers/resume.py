"""What `molflowctl conformers` keeps of a run, so that a killed one goes on where it was.

The record of a run says of every stereoisomer, in their order, how many records it gave and what
became of its draws. A resumed run reads its input again, copies the records of what is done, block
by block as a whole run writes them, and draws the rest: the bytes are those of a run that was never
interrupted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from molflowctl.errors import UserError
from molflowctl.io.library import is_stream, read_records
from molflowctl.io.library_writers import unfinished
from molflowctl.io.plain_files import sha256_of
from molflowctl.io.record import read_record, record_path
from molflowctl.tasks.conformers.settings import ConformersConfig

__all__ = ["Done", "Earlier", "find_earlier", "identity_of", "listed"]

# Settings that change where and how fast a run goes, but no conformer.
FREE = {"out", "jobs", "device", "timeout", "html", "resume", "overwrite"}


@dataclass(frozen=True)
class Done:
    """What a stereoisomer gave: records, counts of its draws, a note; or why it gave nothing."""

    records: int
    counts: dict[str, int]
    note: str = ""
    error: str = ""


@dataclass(frozen=True)
class Earlier:
    """A run that is gone on from: its library, and what each stereoisomer gave."""

    library: Path
    done: list[Done]

    def records(self) -> Iterator[list[str]]:
        """The records of every stereoisomer that is done.

        Raises:
            UserError: if the library cannot be read.
        """
        texts = read_records(self.library)
        for one in self.done:
            yield list(islice(texts, one.records))


def identity_of(config: ConformersConfig, weights: dict[str, Any]) -> dict[str, Any]:
    """What decides the conformers of a run."""
    digest = ""
    if os.path.isfile(config.source):
        digest = sha256_of(config.source)
    return {
        "settings": config.model_dump(mode="json", exclude=FREE),
        "input_sha256": digest,
        "weights_sha256": weights,
    }


def find_earlier(config: ConformersConfig, identity: dict[str, Any]) -> Earlier | None:
    """The run that `config` goes on from, the longest that fits; None if nothing was begun.

    Raises:
        UserError: what is there was made otherwise, or does not hold what its record says.
    """
    if is_stream(config.out):
        raise UserError(f"-o {config.out} is no file: there is nothing to resume.")
    out = Path(config.out)
    found: list[Earlier] = []
    reasons: list[str] = []
    for place in [*unfinished(out), out]:
        record = read_record(record_path(place)) or {}
        if not place.exists() or (not record and place != out):
            continue
        if record.get("command") != "conformers" or "stereoisomers" not in record:
            reasons.append(f"{place} has no readable {record_path(place).name} beside it")
        elif differ := _differ(record.get("identity", {}), identity):
            reasons.append(f"{place} was made otherwise ({', '.join(differ)})")
        else:
            done = [Done(**json.loads(text)) for text in record["stereoisomers"]]
            held = sum(1 for _ in read_records(place))
            if held < sum(one.records for one in done):
                reasons.append(f"{place} has {held} records, fewer than its record says")
            else:
                found.append(Earlier(place, done))
    if not found and reasons:
        raise UserError(f"{reasons[-1]}: it cannot be resumed; --overwrite starts again.")
    return max(found, key=lambda earlier: len(earlier.done), default=None)


def _differ(earlier: dict[str, Any], now: dict[str, Any]) -> list[str]:
    names = {"input_sha256": "another input", "weights_sha256": "other weights of the model"}
    settings = ConformersConfig.of_record(earlier.get("settings", {}))
    differ = [key for key, value in now["settings"].items() if settings.get(key) != value]
    return differ + [name for key, name in names.items() if earlier.get(key) != now[key]]


def listed(done: list[Done]) -> list[str]:
    """For a record: a line for each stereoisomer."""
    return [json.dumps(asdict(one)) for one in done]
