import itertools
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from molflowctl.errors import UserError
from molflowctl.parallel import Outcome, WorkerPool, pmap


def square(x):
    return x * x


def hang_natively(x):
    """One call into C that takes minutes and never comes back to the interpreter."""
    return len(str(7**30_000_000)) if x == 1 else x


def misbehave(x):
    if x == 1:
        os._exit(0)  # as a Fortran `stop` does
    if x == 2:
        os._exit(3)
    if x == 3:
        os.kill(os.getpid(), signal.SIGSEGV)
    if x == 4:
        raise ValueError("four")
    if x == 5:
        sys.exit("five")
    if x == 6:
        return lambda: None  # cannot be sent back
    return x


def environment(_):
    threads = [os.environ.get(f"{name}_NUM_THREADS") for name in ("OMP", "MKL", "OPENBLAS")]
    return os.getpid(), threads, "torch" in sys.modules


@pytest.fixture(scope="module")
def pool():
    with WorkerPool(2) as pool:
        yield pool


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("chunk", [1, 5])
@pytest.mark.parametrize("n", [0, 1, 37])
def test_ordered_and_complete(jobs, chunk, n):
    outcomes = list(pmap(square, iter(range(n)), jobs, chunk=chunk))
    assert outcomes == [Outcome(x * x) for x in range(n)]


def test_order_survives_uneven_items(pool):
    delays = [0.3, 0.0, 0.1, 0.0, 0.2, 0.0]
    outcomes = pool.map(lambda d: time.sleep(d) or d, delays, chunk=1)
    assert [o.value for o in outcomes] == delays


def test_more_items_than_the_look_ahead(pool):
    # The first item holds back everything that the look-ahead allows, then all must go on.
    outcomes = pool.map(lambda x: time.sleep(0.5) if x == 0 else x, iter(range(500)), chunk=1)
    assert [o.value for o in outcomes] == [None, *range(1, 500)]


def test_lambda_closure_and_state_of_a_script(pool):
    factor = 3
    assert [o.value for o in pool.map(lambda x: factor * x, [1, 2])] == [3, 6]


def test_time_limit_ends_native_code_and_only_that_item(pool):
    list(pool.map(square, range(4)))  # start-up is not what is timed
    start = time.monotonic()
    outcomes = list(pool.map(hang_natively, range(6), timeout=1))
    assert time.monotonic() - start < 3
    assert outcomes[1] == Outcome(error="timed out after 1 s")
    assert [o.value for o in outcomes] == [0, None, 2, 3, 4, 5]


def test_time_limit_is_per_item_not_per_chunk(pool):
    outcomes = list(pool.map(lambda x: time.sleep(0.3) or x, iter(range(6)), timeout=1, chunk=6))
    assert [o.value for o in outcomes] == list(range(6))


def test_time_limit_with_one_job():
    outcomes = list(pmap(hang_natively, [0, 1, 2], timeout=0.5))
    assert [o.error for o in outcomes] == [None, "timed out after 0.5 s", None]


@pytest.mark.parametrize("chunk", [1, 8])
def test_crash_costs_its_own_item(pool, chunk):
    outcomes = list(pool.map(misbehave, iter(range(9)), chunk=chunk))
    assert [o.value for o in outcomes] == [0, None, None, None, None, None, None, 7, 8]
    assert [o.error for o in outcomes[1:6]] == [
        "its process exited with status 0",
        "its process exited with status 3",
        "its process was killed by SIGSEGV",
        "ValueError: four",
        "SystemExit: five",
    ]
    assert outcomes[6].error.startswith("its result cannot be sent")


def test_exceptions_are_the_same_text_in_this_process():
    here = list(pmap(misbehave, [0, 4, 5]))
    assert here == list(pmap(misbehave, [0, 4, 5], 2))


def test_workers_are_reused_and_one_threaded_and_light(pool):
    first = [o.value for o in pool.map(environment, range(20))]
    again = [o.value for o in pool.map(environment, range(20))]
    pids = {pid for pid, _, _ in first + again}
    assert len(pids) <= 2
    assert os.getpid() not in pids
    assert all(threads == ["1", "1", "1"] and not torch for _, threads, torch in first)


def test_worker_killed_between_two_maps(pool):
    (victim, *_) = {o.value[0] for o in pool.map(environment, range(8))}
    os.kill(victim, signal.SIGKILL)
    time.sleep(0.2)
    assert [o.value for o in pool.map(square, range(8))] == [x * x for x in range(8)]


def test_endless_items_are_drawn_lazily(pool):
    drawn = itertools.count()
    source = (next(drawn) for _ in itertools.repeat(None))
    outcomes = pool.map(square, source, chunk=2)
    assert [o.value for o in itertools.islice(outcomes, 500)] == [x * x for x in range(500)]
    outcomes.close()
    assert next(drawn) <= 500 + 2 * 32 * 2 + 1


def test_leaving_early_frees_the_pool(pool):
    outcomes = pool.map(lambda x: time.sleep(x) or x, [0.0, 60.0, 60.0], chunk=1)
    assert next(outcomes).value == 0.0
    with pytest.raises(RuntimeError, match="in the middle of another map"):
        next(pool.map(square, [1]))
    start = time.monotonic()
    outcomes.close()
    assert [o.value for o in pool.map(square, [2])] == [4]
    assert time.monotonic() - start < 5


def test_large_items_and_results(pool):
    blobs = [bytes([i]) * 3_000_000 for i in range(8)]
    assert [o.value for o in pool.map(lambda b: b + b"!", blobs)] == [b + b"!" for b in blobs]


def test_progress_counts_up(pool):
    seen = []
    list(pool.map(square, range(5), progress=seen.append))
    assert seen == [1, 2, 3, 4, 5]


def remember(value):
    os.environ["REMEMBERED"] = value


def test_initializer_runs_in_each_worker():
    with WorkerPool(2, initializer=remember, initargs=("yes",)) as pool:
        outcomes = pool.map(lambda _: os.environ.get("REMEMBERED"), range(8), timeout=5)
        assert [o.value for o in outcomes] == ["yes"] * 8
    assert "REMEMBERED" not in os.environ


@pytest.mark.parametrize(
    ("initializer", "message"),
    [(lambda: 1 / 0, "ZeroDivisionError"), (lambda: os._exit(9), "status 9 while starting")],
)
def test_worker_that_cannot_start(initializer, message):
    with pytest.raises(RuntimeError, match=message):
        list(pmap(square, [1], 2, initializer=initializer))


def test_bad_arguments():
    with pytest.raises(UserError, match="number of jobs is 0"):
        WorkerPool(0)
    with pytest.raises(UserError, match="time limit is -1 s"):
        pmap(square, [1], timeout=-1)
    with pytest.raises(UserError, match="chunk size is 0"):
        pmap(square, [1], chunk=0)


SCRIPT = """
    import os, time
    from molflowctl.parallel import pmap  # unguarded: workers must not run this script again

    def wait(x):
        os.write(2, b"%d\\n" % os.getpid())
        time.sleep(60)

    list(pmap(wait, range(2), 2, chunk=1))
"""


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_workers_do_not_outlive_an_interrupted_script(tmp_path, end):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    process = subprocess.Popen(
        [sys.executable, script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    workers = [int(process.stderr.readline()) for _ in range(2)]
    start = time.monotonic()
    process.send_signal(end)
    _, rest = process.communicate(timeout=10)
    assert time.monotonic() - start < 5
    assert ("KeyboardInterrupt" in rest) == (end == signal.SIGINT)
    limit = time.monotonic() + 5
    while any(alive(pid) for pid in workers):
        assert time.monotonic() < limit
        time.sleep(0.05)


def alive(pid):
    """Whether the process still runs; one that nobody has reaped yet does not."""
    state = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.strip()
    return bool(state) and not state.startswith("Z")
