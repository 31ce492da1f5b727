"""One run at a time writes an output."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from molflowctl.errors import UserError
from molflowctl.io import locks
from molflowctl.io.locks import OutputLock


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


HOLD = """
import sys, time
from molflowctl.io.locks import OutputLock
with OutputLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    started = []

    def start(out: Path) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(out)], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
def test_another_run_is_refused_with_process_and_time(tmp_path, holder, folder):
    out = tmp_path / "out.sdf"
    if folder:
        out.mkdir()
        (tmp_path / "link").symlink_to(out)
    process = holder(out)
    for name in [out, tmp_path / "link"] if folder else [out, tmp_path / "." / "out.sdf"]:
        began = time.monotonic()
        with pytest.raises(UserError) as refused:
            OutputLock(name).acquire()
        assert time.monotonic() - began < 1
        text = str(refused.value)
        assert str(name) in text
        assert f"process {process.pid}" in text
        assert f"started {time.strftime('%Y-%m-%d')}" in text
    with OutputLock(tmp_path / "another.sdf"):
        pass


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_lock_of_a_dead_run_is_taken_over(tmp_path, holder, how):
    out = tmp_path / "out.sdf"
    rest = tmp_path / ".out.sdf.run.json.0123456789ab.tmp"
    process = holder(out)
    rest.write_text("half")
    process.send_signal(how)
    process.wait()
    assert (tmp_path / ".out.sdf.lock").exists()
    with OutputLock(out):
        assert json.loads((tmp_path / ".out.sdf.lock").read_text())["pid"] == os.getpid()
        assert not rest.exists()
    assert names(tmp_path) == set()


@pytest.mark.parametrize(
    ("change", "free"),
    [
        ({}, False),  # the process is this one, and lives
        ({"process_start": "1"}, True),  # another process has its number now
        ({"pid": 2**22 + 1}, True),  # there is no such process
        ({"host": "elsewhere"}, False),  # nobody here can tell
    ],
    ids=["alive", "number used again", "dead", "another machine"],
)
def test_where_the_disk_has_no_locks_the_signature_counts(tmp_path, monkeypatch, change, free):
    def no_locks(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(locks.fcntl, "flock", no_locks)
    signed = {
        "pid": os.getpid(),
        "started": "2026-01-01 00:00:00",
        "host": socket.gethostname(),
        "process_start": locks._process_start(os.getpid()),
    }
    (tmp_path / ".o.lock").write_text(json.dumps(signed | change))
    if free:
        with OutputLock(tmp_path / "o"):
            pass
    else:
        with pytest.raises(UserError, match="2026-01-01 00:00:00"):
            OutputLock(tmp_path / "o").acquire()


def test_blocks_of_one_thread_nest_and_those_of_two_do_not(tmp_path):
    out = tmp_path / "o.sdf"
    refused = []

    def other():
        try:
            OutputLock(out).acquire()
        except UserError as error:
            refused.append(str(error))

    with OutputLock(out):
        with OutputLock(out):
            pass
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(refused) == 1
    assert str(os.getpid()) in refused[0]
    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert len(refused) == 1


def test_a_lock_that_is_a_link_is_refused(tmp_path):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / ".o.lock").symlink_to(tmp_path / "victim")
    with pytest.raises(UserError, match="cannot write"):
        OutputLock(tmp_path / "o").acquire()
    assert (tmp_path / "victim").read_text() == "precious"


def test_streams_have_no_lock():
    for name in ("-", "/dev/null"):
        with OutputLock(name), OutputLock(name):
            pass


def _contend(out: Path, rounds: int, results) -> None:
    won = 0
    for _ in range(rounds):
        try:
            with OutputLock(out):
                token = str(os.getpid())
                out.write_text(token)
                time.sleep(0.001)
                assert out.read_text() == token
                won += 1
        except UserError:
            time.sleep(0.001)
    results.put(won)


def test_many_runs_never_hold_one_lock_together(tmp_path):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    workers = [
        context.Process(target=_contend, args=(tmp_path / "o", 100, results)) for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    won = [results.get(timeout=60) for _ in workers]  # one that fails its check sends nothing
    for worker in workers:
        worker.join()
    assert sum(won) > 0
