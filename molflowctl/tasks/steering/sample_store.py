"""Samples of a run, kept in its folder: a run that is resumed takes them from there.

    rounds/sample-round-2-1f0c8b6a92d4.safetensors     what was drawn and found, as arrays
    rounds/sample-round-2-1f0c8b6a92d4.json            what was drawn and asked, and the hash

Molecules and their values (`ScoredMolecules`), conformers and their energies (`ScoredConformers`)
and the lowest energies of molecules (`References`) are kept so. A sample is found by what decides
its molecules: the flow, its seed, how many, and evaluations of the network. It is taken if what was
asked about them is the same, too, and its file has the hash.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from molflowctl.io.atomic import cannot_write, write_files
from molflowctl.io.plain_files import json_text, read_json, read_plain
from molflowctl.tasks.steering.scored_molecules import ScoredMolecules

__all__ = ["Kept", "SampleStore"]

LIMIT = 4_000_000_000  # bytes of one sample


class Kept(Protocol):
    """What can be kept: so many things called `noun`, as arrays and back."""

    noun: ClassVar[str]

    def __len__(self) -> int: ...

    def arrays(self) -> dict[str, np.ndarray]: ...

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self: ...


class SampleStore:
    """The samples that a run has drawn and judged.

    Arguments:
        folder: where they are; made with the first of them.
        say: called with a line about each sample that is taken, or cannot be.
    """

    def __init__(self, folder: Path, say: Callable[[str], None] = lambda text: None) -> None:
        self.folder, self.say = folder, say

    def load(
        self,
        label: str,
        drawn: dict[str, Any],
        asked: dict[str, Any],
        kind: type[Kept] = ScoredMolecules,
    ) -> tuple[Any, int] | None:
        """The sample that was drawn and judged so; None where there is none.

        A damaged one is told in one line, and is none.

        Returns:
            it, of the kind `kind`, and how many things the oracle had been asked about when it was
            kept.

        Arguments:
            label: what the sample is called.
            drawn: what decides the molecules, in values that JSON can hold.
            asked: what decides the values of them, alike.
            kind: of the sample.
        """
        tensors, card = self._places(label, drawn)
        if not card.exists():
            return None
        try:
            told = read_json(card)
            content = read_plain(tensors, LIMIT)
            if hashlib.sha256(content).hexdigest() != told.get("sha256"):
                raise ValueError("its SHA-256 is another")
            if told.get("drawn") != _plain(drawn):
                raise ValueError("it is of another flow")
            if told.get("asked") != _plain(asked):
                self.say(f"{label}: drawn and judged again, since properties or programs changed")
                return None
            sample, calls = kind.of_arrays(load(content)), int(told["oracle_calls"])
        except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
            why = str(error).partition("\n")[0]
            self.say(f"{label}: drawn and judged again, since {tensors.name} is damaged ({why})")
            return None
        self.say(f"{label}: {len(sample):,} {kind.noun} taken from {self.folder}")
        return sample, calls

    def save(
        self, label: str, drawn: dict[str, Any], asked: dict[str, Any], sample: Kept, calls: int
    ) -> None:
        """Keep a sample.

        Raises:
            UserError: if it cannot be written.
        """
        tensors, card = self._places(label, drawn)
        content = save(sample.arrays())
        told = {
            "drawn": drawn,
            "asked": asked,
            sample.noun: len(sample),
            "oracle_calls": calls,
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(self.folder, error) from error
        write_files({tensors: content, card: json_text(told) + "\n"})

    def _places(self, label: str, drawn: dict[str, Any]) -> tuple[Path, Path]:
        digest = hashlib.sha256(json.dumps(drawn, sort_keys=True).encode()).hexdigest()[:12]
        name = f"sample-{re.sub('[^a-z0-9_]+', '-', label.lower())[:40]}-{digest}"
        return self.folder / f"{name}.safetensors", self.folder / f"{name}.json"


def _plain(value: dict[str, Any]) -> Any:
    """As JSON gives it back."""
    return json.loads(json.dumps(value))
