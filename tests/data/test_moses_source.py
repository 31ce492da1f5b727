"""MOSES in each of the forms it comes in, small; and what is no MOSES."""

import gzip
import hashlib
import zipfile
from pathlib import Path

import pytest

from molflowctl.data import moses_source
from molflowctl.data.moses_source import find_smiles
from molflowctl.errors import UserError

TRAIN = ["CCCCCCCCCCO", "Cc1ccccc1CCCO", "CCCCCCCCCCO"]  # one of them twice
TEST = ["O=C(O)c1ccccc1CCO"]
WHEEL = "molsets-0.3.1-py3-none-any.whl"
CUT = gzip.compress(b"SMILES\nCCO\n" * 99, mtime=0)[:-12]  # the same in every process


def table(lines: list[str], header: str = "SMILES") -> bytes:
    return "\n".join([header, *lines, ""]).encode()


def write_wheel(file: Path, **changes: bytes | None) -> Path:
    """A wheel that pip takes, with the files of MOSES; None leaves one out."""
    parts = {
        "train": gzip.compress(table(TRAIN)),
        "test": gzip.compress(table(TEST)),
        "test_scaffolds": gzip.compress(table(["C1CCCCC1CCCCCC"])),
    } | changes
    info = "molsets-0.3.1.dist-info"
    with zipfile.ZipFile(file, "w") as wheel:
        for name, content in parts.items():
            if content is not None:
                wheel.writestr(f"moses/dataset/data/{name}.csv.gz", content)
        wheel.writestr("moses/__init__.py", "raise SystemExit('imported')")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: molsets\nVersion: 0.3.1\n")
        tags = "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        wheel.writestr(f"{info}/WHEEL", tags)
        wheel.writestr(f"{info}/RECORD", "".join(f"{n},,\n" for n in wheel.namelist()))
    return file


@pytest.fixture
def wheel(tmp_path) -> Path:
    return write_wheel(tmp_path / WHEEL)


def is_moses(found) -> bool:
    assert found.smiles == [*TRAIN[:2], *TEST]
    assert found.is_test.tolist() == [False, False, True]
    assert (found.card["name"], found.card["licence"]) == ("druglike", "MIT")
    return True


def test_a_wheel_is_read(wheel):
    found = find_smiles(wheel)
    assert is_moses(found)
    assert found.card["read_from"] == WHEEL


def test_the_installed_distribution_is_found(wheel, tmp_path, monkeypatch):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    monkeypatch.syspath_prepend(tmp_path / "site")
    found = find_smiles()
    assert is_moses(found)
    assert found.card["read_from"] == "molsets 0.3.1"


@pytest.fixture
def index(wheel, monkeypatch) -> Path:
    """pip finds what is in this folder, and nothing else."""
    monkeypatch.setattr(moses_source.metadata, "distribution", _not_installed)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    return wheel.parent


def test_the_pinned_wheel_is_downloaded(wheel, index, monkeypatch):
    with pytest.raises(UserError, match=r"not the one.*sha256.*--source"):
        find_smiles()
    monkeypatch.setattr(moses_source, "SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    assert is_moses(find_smiles())


def test_without_a_network_it_says_what_to_do(wheel, index):
    wheel.unlink()
    with pytest.raises(UserError, match=r"Cannot download molsets==0\.3\.1.*--source"):
        find_smiles()


def _not_installed(name: str):
    raise moses_source.metadata.PackageNotFoundError(name)


def test_own_files(tmp_path):
    plain = tmp_path / "mine.csv"
    plain.write_bytes(table(["a,CCO", "b,CCN", "c,CCO"], "name,SMILES"))
    found = find_smiles(plain)
    assert (found.smiles, found.is_test) == (["CCO", "CCN"], None)
    assert "name" not in found.card
    packed = tmp_path / "dataset_v1.csv.gz"
    lines = ["CCO,train", "CCN,test", "CCC,test_scaffolds", "CCS,train"]
    packed.write_bytes(gzip.compress(table(lines, "SMILES,SPLIT")))
    split = find_smiles(packed)
    assert split.smiles == ["CCO", "CCN", "CCS"]
    assert split.is_test.tolist() == [False, True, False]
    assert len({found.sha256(), split.sha256(), find_smiles(plain).sha256()}) == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.whl", b"PK no zip", r"a\.whl is damaged"),
        ("a.csv", b"smiles\nCCO\n", r"a\.csv has no column SMILES"),
        ("a.csv", b"", "no column SMILES"),
        ("a.csv", b"SMILES,SPLIT\nCCO\n", r"line 2: 1 values for 2 columns"),
        ("a.csv", b"SMILES,SPLIT\nCCO,valid\n", "'valid'"),
        ("a.csv", b"SMILES\n\xff\xfe\n", r"a\.csv cannot be read"),
        ("a.csv.gz", b"SMILES\nCCO\n", r"a\.csv\.gz cannot be read"),
        ("a.csv.gz", CUT, r"a\.csv\.gz cannot be read"),
        ("a.smi", b"CCO\n", "expected the molsets wheel"),
    ],
)
def test_bad_files(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        find_smiles(tmp_path / name)


def test_bad_wheels(tmp_path):
    with pytest.raises(UserError, match="no file"):
        find_smiles(tmp_path)
    with pytest.raises(UserError, match=r"no wheel of molsets.*test\.csv\.gz"):
        find_smiles(write_wheel(tmp_path / "less.whl", test=None))
    with pytest.raises(UserError, match=r"train\.csv\.gz has no column SMILES"):
        find_smiles(write_wheel(tmp_path / "odd.whl", train=gzip.compress(b"smiles\nC\n")))
    with pytest.raises(UserError, match=r"train\.csv\.gz cannot be read"):
        find_smiles(write_wheel(tmp_path / "plain.whl", train=table(TRAIN)))
    content = write_wheel(tmp_path / WHEEL).read_bytes()
    (tmp_path / "half.whl").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"half\.whl is damaged"):
        find_smiles(tmp_path / "half.whl")
