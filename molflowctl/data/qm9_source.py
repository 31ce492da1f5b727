"""Where QM9 comes from: the CSV files of the qm9pack wheel, or the official archive."""

from __future__ import annotations

import csv
import io
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import numpy as np

from molflowctl.errors import UserError

__all__ = ["Found", "Record", "find_records", "parse_uncharacterized", "parse_xyz"]

FIGSHARE = "https://springernature.figshare.com/ndownloader/files/"
ARCHIVE, ARCHIVE_URL = "dsgdb9nsd.xyz.tar.bz2", FIGSHARE + "3195389"
UNCHARACTERIZED, UNCHARACTERIZED_URL = "uncharacterized.txt", FIGSHARE + "3195404"
_NO_BRACKETS = str.maketrans("", "", "[]")
COLUMNS = ("Index", "SMILES", "Elements", "XYZ_Ang")


@dataclass(frozen=True)
class Record:
    """One molecule as the source has it.

    Attributes:
        index: its number, 1 to 133885.
        smiles: candidates, the best first.
        elements: symbols, n of them.
        positions: angstrom, (n, 3) float64.
    """

    index: int
    smiles: tuple[str, ...]
    elements: list[str]
    positions: np.ndarray


@dataclass(frozen=True)
class Found:
    """The records, what they were read from, and what was left out on reading."""

    records: list[Record]
    origin: str
    left_out: dict[str, int] = field(default_factory=dict)


def find_records(source: str | Path | None = None, progress: bool = False) -> Found:
    """Read QM9 from `source`, else from the installed qm9pack, else from the official download.

    Raises:
        UserError: nothing to read there, or the download failed.
    """
    if source is None:
        return _from_distribution() or _from_download(progress)
    source = Path(source)
    if not source.exists():
        raise UserError(f"{source} does not exist.")
    if source.is_dir():
        files = sorted(source.rglob("qm9_part*.csv"))
        if files:
            return _from_csv_files(files, str(source.name))
        archives = sorted(source.rglob(ARCHIVE))
        if archives:
            return _from_archive(archives[0])
    elif source.suffix in (".whl", ".zip") and zipfile.is_zipfile(source):
        return _from_zip(source)
    elif source.suffix == ".bz2":
        return _from_archive(source)
    raise UserError(
        f"{source} holds no QM9: expected a folder, wheel or zip with qm9_part*.csv, or {ARCHIVE}."
    )


def _from_distribution() -> Found | None:
    try:
        installed = metadata.distribution("qm9pack")
    except metadata.PackageNotFoundError:
        return None
    # the files only: importing the package needs pkg_resources, which setuptools has dropped
    files = [Path(str(f.locate())) for f in installed.files or [] if f.match("qm9_part*.csv")]
    if not files:
        return None
    return _from_csv_files(sorted(files), f"qm9pack {installed.version}")


def _from_csv_files(files: list[Path], origin: str) -> Found:
    records: list[Record] = []
    for file in files:
        with file.open(newline="", encoding="utf-8") as stream:
            records.extend(_parse_csv(stream, str(file)))
    return Found(records, origin)


def _from_zip(file: Path) -> Found:
    records: list[Record] = []
    with zipfile.ZipFile(file) as archive:
        names = sorted(n for n in archive.namelist() if Path(n).match("qm9_part*.csv"))
        if not names:
            raise UserError(f"{file} holds no qm9_part*.csv.")
        for name in names:
            with archive.open(name) as stream:
                text = io.TextIOWrapper(stream, encoding="utf-8", newline="")
                records.extend(_parse_csv(text, f"{file}:{name}"))
    return Found(records, file.name)


def _parse_csv(stream: Iterable[str], name: str) -> Iterator[Record]:
    rows = csv.reader(stream)
    header = next(rows, [])
    missing = [c for c in COLUMNS if c not in header]
    if missing:
        raise UserError(f"{name} is no file of qm9pack: no column {', '.join(missing)}.")
    index, smiles, elements, positions = (header.index(c) for c in COLUMNS)
    for row in rows:
        try:
            yield Record(
                index=int(row[index]),
                smiles=(row[smiles],),
                elements=row[elements].strip("[]").replace("'", "").split(","),
                # "1." is a number here and no JSON
                positions=_positions(row[positions].translate(_NO_BRACKETS).split(",")),
            )
        except (ValueError, IndexError) as error:
            raise UserError(f"{name}, line {rows.line_num}: {error}") from error


def _positions(numbers: list[str]) -> np.ndarray:
    """(n, 3), from numbers that Mathematica may have written: `1.2*^-5`."""
    return np.array([float(x.replace("*^", "e")) for x in numbers]).reshape(-1, 3)


def _from_archive(file: Path) -> Found:
    listed = file.parent / UNCHARACTERIZED
    if not listed.is_file():
        raise UserError(
            f"{listed} is missing: the list of molecules to leave out, from {UNCHARACTERIZED_URL}"
        )
    leave_out = parse_uncharacterized(listed.read_text(encoding="utf-8"))
    records, skipped = [], 0
    try:
        with tarfile.open(file, "r:bz2") as archive:
            for member in archive:
                stream = archive.extractfile(member)
                if stream is None or not member.name.endswith(".xyz"):
                    continue
                record = parse_xyz(stream.read().decode("ascii"), member.name)
                if record.index in leave_out:
                    skipped += 1
                else:
                    records.append(record)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{file} is damaged ({error}). Download it again: {ARCHIVE_URL}") from error
    return Found(records, file.name, {"uncharacterised": skipped})


def parse_uncharacterized(text: str) -> frozenset[int]:
    """Numbers of the molecules whose geometry left its graph; nine lines of header, one of footer.

    Raises:
        UserError: a line does not begin with a number.
    """
    try:
        return frozenset(int(line.split()[0]) for line in text.splitlines()[9:-1] if line.strip())
    except ValueError as error:
        raise UserError(f"{UNCHARACTERIZED} is not the official list: {error}") from error


def parse_xyz(text: str, name: str) -> Record:
    """QM9's extended XYZ.

        n
        gdb <index> <properties>
        <element> <x> <y> <z> <Mulliken charge>          n lines, angstrom, e
        <frequencies>
        <SMILES of GDB> <SMILES of the relaxed geometry>
        <InChI of both>

    Numbers may be written as Mathematica does: `1.2*^-5`.

    Raises:
        UserError: the text is not in this form.
    """
    lines = text.splitlines()
    try:
        n = int(lines[0])
        atoms = [line.split() for line in lines[2 : 2 + n]]
        from_gdb, relaxed = lines[n + 3].split()
        return Record(
            index=int(lines[1].split()[1]),
            smiles=(from_gdb, relaxed),
            elements=[atom[0] for atom in atoms],
            positions=_positions([x for atom in atoms for x in atom[1:4]]),
        )
    except (ValueError, IndexError) as error:
        raise UserError(f"{name} is not in QM9's extended XYZ form: {error}") from error


def _from_download(progress: bool) -> Found:
    with tempfile.TemporaryDirectory(prefix="qm9-") as temporary:
        folder = Path(temporary)
        _download(UNCHARACTERIZED_URL, folder / UNCHARACTERIZED, progress)
        _download(ARCHIVE_URL, folder / ARCHIVE, progress)
        return _from_archive(folder / ARCHIVE)


def _download(url: str, file: Path, progress: bool) -> None:
    from rich.console import Console
    from rich.progress import wrap_file

    console = Console(stderr=True, quiet=not progress)
    try:
        with urllib.request.urlopen(url, timeout=60) as answer, file.open("wb") as out:
            size = int(answer.headers.get("Content-Length", 0))
            with wrap_file(answer, size, description=file.name, console=console) as stream:
                shutil.copyfileobj(stream, out)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise UserError(
            f"Cannot download {url}: {error}. Install the data instead "
            "(pip install --no-deps qm9pack) or name a copy with --source."
        ) from error
