"""A data set as one small file, to be sent to where it is trained on.

Coordinates are whole thousandths of an angstrom in 16 bits, counts and indices single bytes, and
all of it is gzipped: 150 bytes for a drug-like molecule instead of 450. What is unpacked differs
from what was packed by at most 0.0005 angstrom in a coordinate.
"""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from molflowctl.data.datasets import MoleculeDataset
from molflowctl.data.flat import pointer_of
from molflowctl.errors import UserError
from molflowctl.io.atomic import check_free, write_file
from molflowctl.io.locks import one_writer
from molflowctl.io.plain_files import check_regular, quoted

__all__ = ["RESOLUTION", "pack", "unpack"]

RESOLUTION = 0.001  # angstrom
FORMAT = "molflowctl packed molecules 1"
# Coordinates hardly shrink, so that data are three times as large unpacked. What claims to be far
# larger is no data set, and no more of it is unpacked than this many times its size, and some.
_RATIO, _SMALL = 8, 20_000_000


@one_writer(lambda data, file, *, overwrite=False: file)
def pack(data: MoleculeDataset, file: str | Path, *, overwrite: bool = False) -> int:
    """Write the data set as one file and return its size in bytes.

    Raises:
        UserError: there is no such folder, the file exists and `overwrite` is off, it cannot be
            written, or a molecule has more than 255 atoms or bonds or reaches farther than 32
            angstrom.
    """
    path = Path(file)
    check_free(path, overwrite=overwrite)
    atoms, bonds = data.atom_ptr.diff(), data.bond_ptr.diff()
    units = (data.positions.double() / RESOLUTION).round()
    if max(atoms.max(), bonds.max()) > 255 or not units.abs().max() <= 32767:
        raise UserError(
            "a molecule is too large to pack: at most 255 atoms and bonds, within 32 angstrom."
        )
    texts = {"smiles": "\n".join(data.smiles), "card": json.dumps(data.card), "format": FORMAT}
    tensors = {
        "numbers": data.numbers,
        "charges": data.charges,
        "positions": units.to(torch.int16),
        "atoms": atoms.to(torch.uint8),
        "bond_index": data.bond_index.to(torch.uint8),
        "bond_order": data.bond_order,
        "bonds": bonds.to(torch.uint8),
        "split": data.split,
        "source_index": data.source_index,
    }
    tensors |= {
        k: torch.frombuffer(bytearray(t.encode()), dtype=torch.uint8) for k, t in texts.items()
    }
    content = gzip.compress(save({k: t.contiguous() for k, t in tensors.items()}), mtime=0)
    write_file(path, content)
    return len(content)


def unpack(file: str | Path) -> MoleculeDataset:
    """The data set in a packed file; its card says where it came from.

    Raises:
        UserError: there is no such file, or it is damaged or something else.
    """
    try:
        tensors = load(_unzipped(Path(file)))
        texts = {k: _text(tensors.pop(k)) for k in ("smiles", "card", "format")}
        if texts["format"] != FORMAT:
            raise ValueError(f"format {quoted(texts['format'])}, not {FORMAT!r}")
        card = json.loads(texts["card"])
        if not isinstance(card, dict):
            raise ValueError("its card is no mapping")
        data = MoleculeDataset(**_unpacked(tensors), card=card)
        data.check()
    except FileNotFoundError:
        raise UserError(f"there is no file {file}.") from None
    except UserError:  # which is a ValueError
        raise
    except (
        OSError, EOFError, zlib.error, SafetensorError, ValueError, KeyError, TypeError,
        IndexError, RuntimeError,
    ) as error:  # fmt: skip
        why = str(error)[:200]
        raise UserError(f"{file} is not a packed data set, or is damaged: {why}.") from None
    data.smiles = texts["smiles"].split("\n")
    if len(data.smiles) != len(data):
        raise UserError(f"{file} has {len(data.smiles)} SMILES for {len(data)} molecules.")
    data.centre()
    return data


def _unzipped(file: Path) -> bytes:
    """What the file holds; a few of its bytes can stand for gigabytes, which are not unpacked."""
    limit = _SMALL + _RATIO * check_regular(file)
    with gzip.open(file, "rb") as packed:
        content = packed.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"unpacked it has more than {limit / 1e6:,.0f} MB")
    return content


def _text(tensor: Tensor) -> str:
    if tensor.dtype != torch.uint8:
        raise ValueError("a text of it is none")
    return tensor.numpy().tobytes().decode()


def _unpacked(tensors: dict[str, Tensor]) -> dict[str, Any]:
    if tensors["positions"].dtype != torch.int16:
        raise ValueError("its coordinates are no whole numbers")
    return {
        "numbers": tensors["numbers"],
        "charges": tensors["charges"],
        "positions": (tensors["positions"].double() * RESOLUTION).float(),
        "atom_ptr": pointer_of(tensors["atoms"].long()),
        "bond_index": tensors["bond_index"].to(torch.int16),
        "bond_order": tensors["bond_order"],
        "bond_ptr": pointer_of(tensors["bonds"].long()),
        "split": tensors["split"],
        "source_index": tensors["source_index"],
    }
