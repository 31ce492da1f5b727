"""What ships of data sets: hashes of their training molecules, and how large molecules are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path

import numpy as np

from molflowctl.errors import UserError

__all__ = [
    "HASHES",
    "hash_molecules",
    "known",
    "load_hashes",
    "load_sizes",
    "molecule_hash",
]

HASHES = "train_hashes.npy"  # in the folder of a data set


def molecule_hash(smiles: str) -> int:
    """64-bit hash of a molecule: BLAKE2b of its canonical SMILES, little-endian."""
    return int.from_bytes(hashlib.blake2b(smiles.encode(), digest_size=8).digest(), "little")


def hash_molecules(smiles: Iterable[str]) -> np.ndarray:
    """Sorted unique `molecule_hash` of each, uint64."""
    return np.unique(np.fromiter((molecule_hash(s) for s in smiles), dtype=np.uint64))


def known(smiles: Sequence[str], hashes: np.ndarray) -> np.ndarray:
    """Which molecules are in a sorted array of hashes. (n,) bool.

    Two of n molecules and m hashes collide with a probability of about n m / 2^64: none here.
    """
    asked = np.fromiter((molecule_hash(s) for s in smiles), dtype=np.uint64, count=len(smiles))
    if len(hashes) == 0:
        return np.zeros(len(asked), dtype=bool)
    place = np.searchsorted(hashes, asked).clip(max=len(hashes) - 1)
    return hashes[place] == asked


def load_hashes(name: str | Path) -> np.ndarray:
    """Training molecules' hashes: those shipped under a name (`"qm9"`), or a data set's folder's.

    A name wins over a folder of that name, as it does for flows; `./qm9` is the folder.
    """
    shipped, file = f"{name}_train_hashes.npy", Path(name) / HASHES
    assets = resources.files("molflowctl") / "assets"
    is_name = Path(shipped).name == shipped and (assets / shipped).is_file()
    if file.is_file() and not is_name:
        return np.load(file, allow_pickle=False)
    with resources.as_file(_asset(shipped)) as file:
        return np.load(file, allow_pickle=False)


def load_sizes(name: str, hydrogens: str) -> dict[int, int]:
    """{number of atoms: molecules} of a shipped training split, hydrogens implicit or explicit."""
    histograms = json.loads(_asset(f"{name}_sizes.json").read_text(encoding="utf-8"))
    if hydrogens not in histograms:
        raise UserError(f"No histogram for {hydrogens!r} hydrogens: {', '.join(histograms)}.")
    return {int(n): count for n, count in histograms[hydrogens].items()}


def _asset(file: str) -> resources.abc.Traversable:
    assets = resources.files("molflowctl") / "assets"
    if not (assets / file).is_file():
        there = sorted(f.name for f in assets.iterdir()) if assets.is_dir() else []
        raise UserError(f"No packaged file {file}. There are: {', '.join(there) or 'none'}.")
    return assets / file
