"""The card of a data set: read with care, and held against the files that it speaks of.

`data_sha256` in a card is the hash of what defines the data set: its format, the hashes of its
tensors and its SMILES, and what its numbers mean. Cards of earlier versions lack it and load
with a warning.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from molflowctl.errors import UnverifiedCard, UserError
from molflowctl.io.plain_files import quoted, read_json, read_lines_gz, sha256_of

__all__ = [
    "CARD",
    "check_pointer",
    "check_tensors",
    "how_to_make",
    "read_data_card",
    "sealed",
    "smiles_of",
]

CARD = "card.json"
DEFINES = (
    "format_version", "conformer_format_version", "sha256", "smiles_sha256", "hydrogens",
    "position_unit", "energy_unit", "temperature_kelvin",
)  # fmt: skip
WIDEST = 10_000  # bytes of a SMILES


def data_sha256(card: dict[str, Any]) -> str:
    """The hash of what defines a data set."""
    content = {key: card.get(key) for key in DEFINES}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def sealed(card: dict[str, Any]) -> dict[str, Any]:
    """The card with the hash of what it says now."""
    return {**card, "data_sha256": data_sha256(card)}


def read_data_card(
    folder: Path, tensors: str, smiles: str, version: tuple[str, int], make: str
) -> dict[str, Any]:
    """The card of a data set whose files are those it was written with.

    Arguments:
        tensors, smiles: the names of its files.
        version: the key of the format's version in the card, and the one that is read.
        make: how such a data set is made.

    Raises:
        UserError: something is missing, edited, damaged, no file, or of another version.
    """
    again = "Prepare the data again."
    for file in (CARD, tensors, smiles):
        if not (folder / file).exists():
            raise UserError(f"{folder} is not a data set: {file} is missing. {make}")
    try:
        card = read_json(folder / CARD)
        digests = {
            "sha256": (tensors, sha256_of(folder / tensors)),
            "smiles_sha256": (smiles, sha256_of(folder / smiles)),
        }
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error}.") from None
    except UserError as error:
        raise UserError(f"{error} {again}") from None
    key, known = version
    if card.get(key) != known:
        raise UserError(
            f"{folder} has format version {quoted(card.get(key))}, this program reads {known}. "
            f"{again}"
        )
    for name, (file, digest) in digests.items():
        # Before there was `data_sha256`, a hash of SMILES was that of the source they came from.
        told = name == "sha256" or (name in card and "data_sha256" in card)
        if told and card.get(name) != digest:
            raise UserError(
                f"{folder / file} is damaged: its sha256 is not the one in {CARD}. {again}"
            )
    if "data_sha256" not in card:
        warnings.warn(
            f"{folder / CARD} has no hash of what defines the data set, as earlier versions wrote "
            f"it: nobody can tell whether it was edited.",
            UnverifiedCard,
            stacklevel=3,
        )
    elif card["data_sha256"] != data_sha256(card):
        raise UserError(f"{folder / CARD} was edited: its hash is that of another card. {again}")
    return card


def how_to_make(folder: Path, *, conformers: bool = False) -> str:
    """How the data set that was asked for is made, as far as its name tells."""
    name = folder.name.lower()
    if conformers:
        source, more = Path("SOURCE"), ""
        if (folder / "molecules.safetensors").exists():
            return (
                f"It holds molecules; their ensembles are made with: molflowctl data "
                f"prepare-conformers {folder} -o {folder}-conformers"
            )
        if name.startswith("qm9"):
            source = folder.with_name("qm9-explicit")
        elif name.startswith("druglike"):
            source, more = folder.with_name("druglike"), " --etkdg-conformers 0"
        if "gfn2" in name:
            more += " --relax gfn2"
        return f"Make it with: molflowctl data prepare-conformers {source}{more} -o {folder}"
    if (folder / "ensembles.safetensors").exists():
        return "It holds ensembles of conformers, where molecules with one geometry are needed."
    if name.startswith("qm9"):
        hydrogens = " --hydrogens explicit" if "explicit" in name else ""
        return f"Make it with: molflowctl data prepare qm9{hydrogens} -o {folder}"
    if name.startswith("druglike"):
        return f"Make it with: molflowctl data prepare druglike -o {folder}"
    return (
        f"Make one with: molflowctl data prepare qm9 (or druglike) -o {folder}, or choose "
        f"molecules of one: molflowctl data subset"
    )


def smiles_of(file: Path, molecules: int) -> list[str]:
    """The SMILES of a data set, a line each.

    Raises:
        UserError: the file is missing, damaged, or of another number of molecules.
    """
    try:
        return read_lines_gz(file, molecules, WIDEST)
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error}. Prepare the data again.") from None


def check_pointer(name: str, pointer: Tensor, parts: int, total: int) -> None:
    """Raise `ValueError` unless `pointer` divides `total` rows among `parts`, in order."""
    if pointer.dtype != torch.int64 or pointer.shape != (parts + 1,):
        raise ValueError(f"{name} is not of {parts + 1} whole numbers")
    if int(pointer[0]) != 0 or int(pointer[-1]) != total or bool((pointer.diff() < 0).any()):
        raise ValueError(f"{name} does not divide {total} rows in order")


def check_tensors(**tensors: tuple[Tensor, torch.dtype, tuple[int, ...]]) -> None:
    """Raise `ValueError` unless each has its type, its shape and finite values, by name."""
    for name, (tensor, dtype, shape) in tensors.items():
        if tensor.dtype != dtype or tuple(tensor.shape) != shape:
            raise ValueError(f"{name} is {tensor.dtype} of {tuple(tensor.shape)}, not of {shape}")
        if dtype.is_floating_point and not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{name} has numbers that are not finite")
