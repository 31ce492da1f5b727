"""A store of property values, so that a molecule scored once is never computed again.

One SQLite file maps (molecule, property, version, programs) to the property's values, or to the
reason why it has none. `version` is the property's own, `programs` the versions of the programs
behind it: after an upgrade values are computed again. Each row has a checksum; one that does not
fit is damaged, and as good as absent. Only what is a statement about the molecule is kept: a
time-out, a crash or a bug is tried again.

A property of the molecular graph is kept under the molecule's identity, however it is written; one
of a geometry under all that its value may depend on, see `geometry_key`.

Several processes may read and write one file at a time (write-ahead log). That log does not work
over a network file system: on a cluster, name a file on a disk of the machine that drives it.

The default file is shared by all libraries: `scores-2.sqlite` in `MOLFLOWCTL_CACHE`, else in the
platform's cache folder (`~/.cache/molflowctl`, on macOS `~/Library/Caches/molflowctl`). The number
is that of the layout; a file of another layout is never read.
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

from molflowctl.chem.identity import identity
from molflowctl.chem.spin import declared
from molflowctl.errors import UserError

__all__ = ["Cache", "default_cache", "geometry_key", "graph_key"]

_APPLICATION = 0x6D666374  # "mfct" in the header of a file that is ours
_LAYOUT = 2  # of the table and of what the keys are made of
_TABLE = """
    CREATE TABLE IF NOT EXISTS results (
        molecule BLOB, property TEXT, version INTEGER, programs TEXT, value BLOB, checksum BLOB,
        PRIMARY KEY (molecule, property, version, programs)
    ) WITHOUT ROWID
"""
_NUMBERS, _REASON = b"n", b"r"  # the first byte of a value: doubles, or the reason for none
_CHECKSUM_BYTES = 16
_LARGEST_VALUE = 10_000_000  # bytes; a damaged length must not take all memory
_FILE_NAME = f"scores-{_LAYOUT}.sqlite"
_BUSY_SECONDS = 60.0
_PENDING, _PENDING_SECONDS = 256, 1.0  # results that an interrupted run may lose

Result = NDArray[np.float64] | str


def default_cache() -> Path:
    """The file used where none is named."""
    if folder := os.environ.get("MOLFLOWCTL_CACHE"):
        return Path(folder) / _FILE_NAME
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "molflowctl" / _FILE_NAME


def graph_key(mol: Mol) -> bytes:
    """A hash of the molecule's identity: equal for all records of it.

    Raises:
        ValueError: RDKit cannot sanitise the molecule.
    """
    return hashlib.sha256(identity(mol).encode()).digest()


def geometry_key(mol: Mol) -> bytes:
    """A hash of all that a value of the molecule's first conformer may depend on.

    These are each atom's element, charge, unpaired electrons, isotope, hydrogens and stereo, the
    bonds, the exact coordinates, and the spin that was declared for it. Atoms count in
    their order: energies of two orders differ in the last digits, relaxations in more. Atom maps,
    titles and other tags do not count.
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
    key = hashlib.sha256(repr((atoms, bonds, declared(mol))).encode())
    if mol.GetNumConformers():
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
        damaged: rows found so far whose checksum did not fit; they count as absent.

    Raises:
        UserError: here and in every method, for a file that is damaged, of another kind, of
            another layout, locked for a minute, or cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = Path(path) if path is not None else default_cache()
        self.hits = 0
        self.damaged = 0
        self._pending: list[tuple[bytes, str, int, str, bytes, bytes]] = []
        self._flushed = time.monotonic()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(self._unusable(error.strerror or str(error))) from error
        if self.path.exists() and not self.path.is_file():
            raise UserError(self._unusable("it is not a file"))
        with self._explained():
            self._file = sqlite3.connect(
                self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            try:
                self._file.text_factory = bytes  # a damaged type must not end in decoding
                self._file.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LARGEST_VALUE)
                self._prepare()
            except BaseException:
                self._file.close()
                raise

    def get(self, molecule: bytes, name: str, version: int, programs: str = "") -> Result | None:
        """The stored values, or the reason why there are none; `None` if nothing is known.

        Args:
            molecule: `graph_key` or `geometry_key`.
            name, version: the property's.
            programs: `program_versions` of its engine.
        """
        with self._explained():
            row = self._file.execute(
                "SELECT value, checksum FROM results"
                " WHERE molecule = ? AND property = ? AND version = ? AND programs = ?",
                (molecule, name, version, programs),
            ).fetchone()
        if row is None:
            return None
        value, checksum = row
        sound = isinstance(value, bytes) and checksum == _checksum(
            molecule, name, version, programs, value
        )
        if not sound:
            self.damaged += 1
            return None
        self.hits += 1
        kind, content = value[:1], value[1:]
        return np.frombuffer(content, dtype="<f8") if kind == _NUMBERS else content.decode()

    def put(
        self, molecule: bytes, name: str, version: int, result: Result, programs: str = ""
    ) -> None:
        """Store values or a reason, in place of what was there; on the disk within a second."""
        if isinstance(result, str):
            value = _REASON + result.encode(errors="replace")
        else:
            value = _NUMBERS + np.ascontiguousarray(result, dtype="<f8").tobytes()
        checksum = _checksum(molecule, name, version, programs, value)
        self._pending.append((molecule, name, version, programs, value, checksum))
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
                        "INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?, ?)", self._pending
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
        (layout,) = self._file.execute("PRAGMA user_version").fetchone()
        filled = self._file.execute("SELECT 1 FROM sqlite_master").fetchone()
        self._file.execute("COMMIT")
        if application == _APPLICATION and layout != _LAYOUT:
            raise UserError(
                self._unusable(f"it has layout {layout or 1}, this program writes {_LAYOUT}")
            )
        elif application == _APPLICATION:
            self._file.execute("SELECT value, checksum FROM results LIMIT 1").fetchone()
        elif filled:
            raise UserError(self._unusable("it is a database of something else"))
        else:
            self._keep_a_log()
            self._file.execute("BEGIN IMMEDIATE")
            self._file.execute(_TABLE)
            self._file.execute(f"PRAGMA application_id = {_APPLICATION}")
            self._file.execute(f"PRAGMA user_version = {_LAYOUT}")
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
        except UnicodeDecodeError as error:  # of SQLite's own message on a damaged file
            raise UserError(self._unusable("it is damaged")) from error
        except sqlite3.DatabaseError as error:
            raise UserError(self._unusable(str(error))) from error

    def _unusable(self, reason: str) -> str:
        return (
            f"the score cache {self.path} cannot be used: {reason}. "
            "Delete it, name another with --cache, or pass --no-cache."
        )


def _checksum(molecule: bytes, name: str, version: int, programs: str, value: bytes) -> bytes:
    """Of the whole row, so that a value under another's key does not pass either."""
    row = repr((molecule, name, version, programs)).encode() + value
    return hashlib.blake2b(row, digest_size=_CHECKSUM_BYTES).digest()
