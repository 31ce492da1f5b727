"""One writer: what is there stays until what replaces it is whole."""

import stat
import threading
from pathlib import Path

import pytest

from molflowctl.errors import UserError
from molflowctl.io import atomic
from molflowctl.io.atomic import leftovers, partial_name, replacing_folder, write_file


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# Files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"new", "text \u00e5", b"x" * 1_000_000], ids=len)
def test_a_file_is_replaced_whole(tmp_path, content):
    path = tmp_path / "f.json"
    path.write_text("old")
    write_file(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert names(tmp_path) == {"f.json"}
    assert stat.S_IMODE(path.stat().st_mode) & 0o044  # others may read it, as of any file


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_what_was_there(tmp_path, error):
    path = tmp_path / "f.json"
    path.write_text("old")

    def write():
        with atomic.replacing_file(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises((UserError, KeyboardInterrupt)) as raised:
        write()
    if isinstance(error, OSError):
        assert str(raised.value) == f"cannot write {path}: No space left on device"
    assert path.read_text() == "old"
    assert names(tmp_path) == {"f.json"}


def test_a_planted_link_is_not_followed(tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / ".f.000000000000.tmp").symlink_to(victim)
    (tmp_path / "f.000000000000.partial").symlink_to(victim)
    monkeypatch.setattr(atomic.secrets, "token_hex", lambda n: "0" * 2 * n)
    with pytest.raises(UserError, match=r"cannot write .*f: File exists"):
        write_file(tmp_path / "f", "new")
    with pytest.raises(FileExistsError):
        atomic.open_new(partial_name(tmp_path / "f"))
    assert leftovers(tmp_path / "f") == []
    assert victim.read_text() == "precious"


def test_leftovers_are_those_of_this_output_alone(tmp_path):
    for name in (
        "a.sdf.0123456789ab.partial", "a.sdf.0123456789ab.partial.run.json", "a.sdf.partial",
        "b.sdf.0123456789ab.partial", "aXsdf.0123456789ab.partial", "a.sdf.gz.0123456789ab.partial",
    ):  # fmt: skip
        (tmp_path / name).write_text("")
    assert [p.name for p in leftovers(tmp_path / "a.sdf")] == ["a.sdf.0123456789ab.partial"]
    assert leftovers(tmp_path / "none" / "a.sdf") == []


# Folders ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("swaps", [True, False], ids=["exchange", "two renames"])
def test_a_folder_is_replaced_as_one(tmp_path, monkeypatch, swaps):
    if not swaps:
        monkeypatch.setattr(atomic, "_renameat2", lambda: None)
    folder = tmp_path / "flow"
    for n in range(3):
        with replacing_folder(folder) as fresh:
            (fresh / "sub").mkdir()
            (fresh / "sub" / f"{n}").write_text("x")
        assert names(folder / "sub") == {f"{n}"}
        assert names(tmp_path) == {"flow"}

    def interrupted():
        with replacing_folder(folder) as fresh:
            (fresh / "half").write_text("")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert names(folder / "sub") == {"2"}
    assert names(tmp_path) == {"flow"}


def test_a_folder_is_whole_at_every_moment(tmp_path):
    """A reader that never stops looking while the folder is replaced fifty times."""
    folder = tmp_path / "flow"
    with replacing_folder(folder) as fresh:
        (fresh / "weights").write_text("0")
    seen, stop = [], threading.Event()

    def look():
        while not stop.is_set():
            seen.append((folder / "weights").exists())

    looker = threading.Thread(target=look)
    looker.start()
    for n in range(50):
        with replacing_folder(folder) as fresh:
            (fresh / "weights").write_text(f"{n}")
    stop.set()
    looker.join()
    if atomic._renameat2() is not None:
        assert all(seen)
