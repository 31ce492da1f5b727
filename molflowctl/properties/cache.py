"""A store of property values, so that a molecule scored once is never computed again.

One SQLite file maps (molecule, property, version) to the property's values, or to the reason why it
has none. Only what is a statement about the molecule is kept: a time-out, a crash or a bug is tried
again. Several processes may read and write one file at a time (write-ahead log). That log does not
work over a network file system: on a cluster, name a file on a disk of the machine that drives it.

The default file is shared by all libraries: `scores.sqlite` in `MOLFLOWCTL_CACHE`, else in the
platform's cache folder (`~/.cache/molflowctl`, on macOS `~/Library/Caches/molflowctl`).
"""

import hashlib
import os
import sqlite3
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from rdkit.Chem import Mol

from molflowctl.errors import UserError

__all__ = ["Cache", "default_cache", "molecule_key"]

_APPLICATION = 0x6D666374  # "mfct" in the header of a file that is ours
_TABLE = """
    CREATE TABLE IF NOT EXISTS results (
        molecule BLOB, property TEXT, version INTEGER, numbers BLOB, reason TEXT,
        PRIMARY KEY (molecule, property, version)
    ) WITHOUT ROWID
"""
_BUSY_SECONDS = 60.0
_PENDING, _PENDING_SECONDS = 256, 1.0  # results that an interrupted run may lose

Result = NDArray[np.float64] | str


def default_cache() -> Path:
    """The file used where none is named."""
    if folder := os.environ.get("MOLFLOWCTL_CACHE"):
        return Path(folder) / "scores.sqlite"
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "molflowctl" / "scores.sqlite"


def molecule_key(mol: Mol, coordinates: bool) -> bytes:
    """A hash of the molecular graph and, if wanted, the exact coordinates of its first conformer.

    Atoms count in their order, hydrogens as they are, explicit or not. Titles and tags do not.
    """
    atoms = [
        (
            atom.GetAtomicNum(),
            atom.GetFormalCharge(),
            atom.GetNumRadicalElectrons(),
            atom.GetIsotope(),
            atom.GetTotalNumHs(),
            int(atom.GetChiralTag()),
        )
        for atom in mol.GetAtoms()
    ]
    bonds = [
        (
            bond.GetBeginAtomIdx(),
            bond.GetEndAtomIdx(),
            int(bond.GetBondType()),
            int(bond.GetStereo()),
            *bond.GetStereoAtoms(),
        )
        for bond in mol.GetBonds()
    ]
    key = hashlib.sha256(repr((atoms, bonds)).encode())
    if coordinates and mol.GetNumConformers():
        conformer = mol.GetConformer()
        key.update(struct.pack("<?", conformer.Is3D()))
        key.update(np.ascontiguousarray(conformer.GetPositions(), dtype="<f8").tobytes())
    return key.digest()


class Cache:
    """An open store; as a context manager it is closed at the end.

    Args:
        path: the file, created with its folder where there is none.

    Attributes:
        hits: results found so far.

    Raises:
        UserError: here and in every method, for a file that is damaged, of another kind, locked
            for a minute, or cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = Path(path) if path is not None else default_cache()
        self.hits = 0
        self._pending: list[tuple[bytes, str, int, bytes | None, str | None]] = []
        self._flushed = time.monotonic()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(self._unusable(error.strerror or str(error))) from error
        with self._explained():
            self._file = sqlite3.connect(
                self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare()
            except BaseException:
                self._file.close()
                raise

    def get(self, molecule: bytes, name: str, version: int) -> Result | None:
        """The stored values, or the reason why there are none; `None` if nothing is known."""
        with self._explained():
            row = self._file.execute(
                "SELECT numbers, reason FROM results"
                " WHERE molecule = ? AND property = ? AND version = ?",
                (molecule, name, version),
            ).fetchone()
        if row is None:
            return None
        self.hits += 1
        numbers, reason = row
        return np.frombuffer(numbers, dtype="<f8") if reason is None else str(reason)

    def put(self, molecule: bytes, name: str, version: int, result: Result) -> None:
        """Store values or a reason, in place of what was there; on the disk within a second."""
        if isinstance(result, str):
            self._pending.append((molecule, name, version, None, result))
        else:
            numbers = np.ascontiguousarray(result, dtype="<f8").tobytes()
            self._pending.append((molecule, name, version, numbers, None))
        late = time.monotonic() - self._flushed > _PENDING_SECONDS
        if late or len(self._pending) >= _PENDING:
            self.flush()

    def flush(self) -> None:
        """Put everything on the disk."""
        if self._pending:
            with self._explained():
                self._file.execute("BEGIN IMMEDIATE")
                try:
                    self._file.executemany(
                        "INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?)", self._pending
                    )
                    self._file.execute("COMMIT")
                except BaseException:
                    if self._file.in_transaction:
                        self._file.execute("ROLLBACK")
                    raise
            self._pending.clear()
        self._flushed = time.monotonic()

    def close(self) -> None:
        """Flush and close the file."""
        try:
            self.flush()
        finally:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prepare(self) -> None:
        # One transaction: another process may be creating the file between the two looks at it.
        self._file.execute("BEGIN")
        (application,) = self._file.execute("PRAGMA application_id").fetchone()
        filled = self._file.execute("SELECT 1 FROM sqlite_master").fetchone()
        self._file.execute("COMMIT")
        if application == _APPLICATION:
            self._file.execute("SELECT 1 FROM results LIMIT 1").fetchone()
        elif filled:
            raise UserError(self._unusable("it is a database of something else"))
        else:
            self._keep_a_log()
            self._file.execute("BEGIN IMMEDIATE")
            self._file.execute(_TABLE)
            self._file.execute(f"PRAGMA application_id = {_APPLICATION}")
            self._file.execute("COMMIT")
        self._file.execute("PRAGMA synchronous = NORMAL")

    def _keep_a_log(self) -> None:
        # The one statement that does not wait for the file's other users on its own.
        late = time.monotonic() + _BUSY_SECONDS
        while True:
            try:
                self._file.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError:
                if time.monotonic() > late:
                    raise
                time.sleep(0.01)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise UserError(self._unusable(str(error))) from error

    def _unusable(self, reason: str) -> str:
        return (
            f"the score cache {self.path} cannot be used: {reason}. "
            "Delete it, name another with --cache, or pass --no-cache."
        )
