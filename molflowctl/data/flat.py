"""What data sets of all kinds share: flat tensors in safetensors, text beside them, no pickle.

A data set is a folder:

    <kind>.safetensors      the tensors, all molecules one after another
    smiles.txt.gz           one SMILES a line
    card.json               source, licence, what was left out and why, sha256
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from molflowctl.data.card import CARD, how_to_make, read_data_card, sealed, smiles_of
from molflowctl.errors import UserError
from molflowctl.io.atomic import check_free, replacing_folder
from molflowctl.io.plain_files import sha256_of

__all__ = ["SMILES", "SPLITS", "FlatDataset", "gathered", "pointer_of", "write_json"]

SPLITS = ("train", "validation", "test")
SMILES = "smiles.txt.gz"
FORMAT_VERSION = 1
TENSORS = ("molecules.safetensors", "ensembles.safetensors")  # which a flow's folder has not


class FlatDataset:
    """M molecules as tensors, concatenated; a subclass is a dataclass with a field for each.

    Attributes:
        split: 0 train, 1 validation, 2 test, (M,) uint8.
        card: provenance; written as `card.json`.
        folder: where it was read from or written to, if it was.
    """

    of: ClassVar[str]  # what it is a data set of
    file: ClassVar[str]  # of the tensors
    version: ClassVar[str]  # key of the format's version in the card
    split: Tensor
    card: dict[str, Any]
    folder: Path | None = None

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a data set's folder, checked against the sha256 in its card.

        Raises:
            UserError: the folder is missing, incomplete, damaged or of another format version.
        """
        folder = Path(folder)
        make = how_to_make(folder, conformers=cls.of == "conformers")
        version = (cls.version, FORMAT_VERSION)
        card = read_data_card(folder, cls.file, SMILES, version, make)
        try:
            tensors: dict[str, Any] = dict(load_file(folder / cls.file))
            data = cls(**tensors)
            data.check()
        except (SafetensorError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{folder / cls.file} is no data set of {cls.of}: {error}") from None
        data.card, data.folder = card, folder
        return data

    def check(self) -> None:
        """Raise `ValueError` unless the tensors are of one data set."""
        raise NotImplementedError

    @cached_property
    def smiles(self) -> list[str]:
        """The SMILES, read when first asked for. (M,)"""
        if self.folder is None:
            raise UserError("This data set has neither SMILES nor a folder to read them from.")
        return smiles_of(self.folder / SMILES, len(self))

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write the folder under a temporary name, then rename it. Returns the folder.

        Raises:
            UserError: the folder exists and `overwrite` is off, or is not a data set's.
        """
        folder = Path(folder)
        _check_replaceable(folder, overwrite=overwrite)
        with replacing_folder(folder) as partial:
            tensors = {name: t.contiguous() for name, t in self.tensors().items()}
            (partial / self.file).write_bytes(save(tensors))
            # Without the time, so that the bytes are the same each time.
            with gzip.GzipFile(partial / SMILES, "wb", mtime=0) as file:
                file.write("".join(f"{s}\n" for s in self.smiles).encode())
            self.card = self.card | {
                self.version: FORMAT_VERSION,
                "molecules": len(self),
                **self._written(partial),
                "split": {name: len(self.indices(name)) for name in SPLITS},
                "sha256": sha256_of(partial / self.file),
                "smiles_sha256": sha256_of(partial / SMILES),
            }
            self.card = sealed(self.card)
            write_json(partial / CARD, self.card)
        self.folder = folder
        return folder

    def _written(self, folder: Path) -> dict[str, Any]:
        """Write what a subclass keeps besides, and return what its card says besides."""
        return {}

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name."""
        return {name: getattr(self, name) for name in self._names()}

    @classmethod
    def _names(cls) -> list[str]:
        known: Any = cls  # a dataclass, as every subclass is
        return [f.name for f in fields(known) if f.type == "Tensor"]

    def __len__(self) -> int:
        return len(self.split)

    def indices(self, split: str | None = None) -> Tensor:
        """Rows of a split, ascending; every row for None. (M',) int64."""
        if split is None:
            return torch.arange(len(self))
        if split not in SPLITS:
            raise UserError(f"No split {split!r}: choose one of {', '.join(SPLITS)}.")
        return (self.split == SPLITS.index(split)).nonzero().squeeze(1)

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """The molecules of one data set after those of another; the card is empty."""

        def joined(name: str) -> Tensor:
            tensors = [getattr(part, name) for part in parts]
            if name.endswith("_ptr"):
                return pointer_of(torch.cat([pointer.diff() for pointer in tensors]))
            return torch.cat(tensors)

        result = cls(**{name: joined(name) for name in cls._names()})
        result.smiles = [smiles for part in parts for smiles in part.smiles]
        return result


def _check_replaceable(folder: Path, *, overwrite: bool) -> None:
    """Check that a data set may be written there.

    Raises:
        UserError: the folder exists, and `overwrite` is off or it is no data set.
    """
    check_free(folder, overwrite=overwrite)
    if folder.exists() and not any((folder / tensors).is_file() for tensors in TENSORS):
        raise UserError(f"{folder} is not a data set, so it is not overwritten.")


def gathered(pointer: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Where the parts of these rows are, row after row, and the pointer into what they make."""
    count = pointer.diff()[rows]
    fresh = pointer_of(count)
    shift = torch.repeat_interleave(pointer[rows] - fresh[:-1], count)
    return torch.arange(len(shift)) + shift, fresh


def pointer_of(counts: Tensor) -> Tensor:
    """Where runs of these lengths, (M,), begin and the last ends, (M+1,)."""
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def write_json(file: Path, value: object) -> None:
    """Write a value as JSON into a folder that has not its name yet."""
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
