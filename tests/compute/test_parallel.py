import itertools
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from molflowctl.compute.parallel import BACKENDS, Outcome, WorkerPool, open_pool, pmap
from molflowctl.errors import UserError


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


def test_tensors_come_back():
    import torch

    shapes = [(0,), (3,), (40, 50), (300, 1000)]
    outcomes = pmap(lambda shape: {"x": [torch.full(shape, 2.5)]}, shapes, 2, chunk=1)
    for shape, outcome in zip(shapes, outcomes, strict=True):
        assert torch.equal(outcome.value["x"][0], torch.full(shape, 2.5))


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
    from molflowctl.compute.parallel import pmap  # unguarded: workers must not run it again

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


# Backends -----------------------------------------------------------------------------------------


def misfortune(x):
    if x in (2, 11):
        os._exit(7)
    if x == 5:
        time.sleep(60)
    if x == 8:
        raise ValueError("eight")
    return x * x


MISFORTUNES = [
    Outcome(error="its process exited with status 7") if x in (2, 11)
    else Outcome(error="timed out after 2 s") if x == 5
    else Outcome(error="ValueError: eight") if x == 8
    else Outcome(x * x)
    for x in range(20)
]  # fmt: skip


@pytest.mark.parametrize("address", [None, "auto"])
def test_ray_cluster_of_the_environment_that_is_not_there(monkeypatch, address):
    """Told before Ray is asked, which would try for minutes."""
    pytest.importorskip("ray")
    monkeypatch.setattr("ray.init", lambda *_, **__: pytest.fail("Ray was asked"))
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(UserError, match=r"no Ray cluster at 127\.0\.0\.1:1: "):
        open_pool(2, "ray", address)


@pytest.mark.slow
@pytest.mark.parametrize("address", ["127.0.0.1:1", "auto"])
def test_ray_cluster_that_is_not_there(address):
    """Before `local_ray` is first asked for: "auto" is any cluster that runs on this machine."""
    code = f"from molflowctl.compute.parallel import open_pool; open_pool(2, 'ray', {address!r})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert f"UserError: no Ray cluster at {address}: " in run.stderr


@pytest.fixture(scope="module")
def local_ray():
    """A Ray cluster of one node on this machine, which costs some seconds to start."""
    ray = pytest.importorskip("ray")
    with open_pool(2, "ray") as pool:
        yield pool
    assert not ray.is_initialized()


def backend_pool(backend, request):
    if backend == "ray":
        return request.getfixturevalue("local_ray")
    return open_pool(2, backend)


KILLING = ["processes", "joblib", pytest.param("ray", marks=pytest.mark.slow)]


@pytest.mark.parametrize("backend", KILLING)
def test_every_backend_gives_the_same_outcomes(backend, request):
    pool = backend_pool(backend, request)
    assert list(pool.map(misfortune, iter(range(20)), timeout=2, chunk=3)) == MISFORTUNES
    # Closures, no time limit, and a crash that must not take the caller down.
    factor, seen = 3, []
    outcomes = pool.map(
        lambda x: os._exit(4) if x == 1 else factor * x, range(4), progress=seen.append
    )
    assert [o.value for o in outcomes] == [0, None, 6, 9]
    assert seen == [1, 2, 3, 4]
    assert list(pool.map(square, [])) == []
    if backend != "ray":
        pool.close()


# joblib says that it cancels tasks, and loky's thread may stumble over that before it is replaced.
@pytest.mark.filterwarnings(
    "ignore::UserWarning:joblib", "ignore::pytest.PytestUnhandledThreadExceptionWarning"
)
@pytest.mark.parametrize("backend", KILLING)
def test_leaving_early_on_every_backend(backend, request):
    pool = backend_pool(backend, request)
    outcomes = pool.map(square, itertools.count(), chunk=2)
    assert [o.value for o in itertools.islice(outcomes, 5)] == [0, 1, 4, 9, 16]
    outcomes.close()
    assert [o.value for o in pool.map(square, [7])] == [49]
    if backend != "ray":
        pool.close()


def test_serial_backend_computes_here_and_admits_that_it_cannot_kill():
    with open_pool(backend="serial") as pool:
        assert pool.jobs == 1
        assert {o.value[0] for o in pool.map(environment, range(3))} == {os.getpid()}
        with pytest.raises(UserError, match="serial has no time limit"):
            pool.map(square, [1], timeout=1)


def test_backends_that_cannot_be():
    with pytest.raises(UserError, match="unknown backend 'dusk': there are processes, serial"):
        open_pool(2, "dusk")
    with pytest.raises(UserError, match="choose the backend ray"):
        open_pool(2, "processes", "127.0.0.1:1")
    for backend in set(BACKENDS) - {"serial"}:
        with pytest.raises(UserError, match="number of jobs is 0"):
            open_pool(0, backend)


def test_default_is_one_job_per_core():
    assert open_pool().jobs == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("package", ["joblib", "ray"])
def test_a_backend_that_is_not_installed(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"{package} is not installed: pip install"):
        open_pool(2, package)


@pytest.mark.slow
def test_second_ray_cluster(local_ray):
    with pytest.raises(UserError, match="Ray is connected already"):
        open_pool(2, "ray", "auto")


TWO_NODES = """
    import os, sys, time
    import ray
    from ray.cluster_utils import Cluster
    from rdkit import Chem
    from molflowctl.compute.parallel import open_pool
    from molflowctl.properties import register, score

    folder = sys.argv[1]
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    doomed = cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()

    @register("slow_weight", unit="", version=1, description="d", engine="slow")
    def slow_weight(mol):
        with open(os.path.join(folder, str(mol.GetNumAtoms())), "a") as file:
            file.write("x")
        time.sleep(0.2)
        return mol.GetNumAtoms()

    mols = [Chem.MolFromSmiles("C" * n) for n in range(1, 61)]
    with open_pool(backend="ray", address=cluster.address) as pool:
        assert pool.jobs == 3, pool.jobs

        def kill(done):
            if done == 6:  # in the middle: both nodes are at work, their chunks half done
                assert len(ray.nodes()) == 2
                cluster.remove_node(doomed, allow_graceful=False)

        scores = score(mols, ["qed", "slow_weight"], pool=pool, timeout=20, progress=kill)
        alive = sum(node["Alive"] for node in ray.nodes())
    assert alive == 1, alive
    assert scores.errors == [{}] * 60, scores.failures()
    assert scores["slow_weight"].tolist() == list(range(1, 61))
    attempts = [len(open(os.path.join(folder, str(n))).read()) for n in range(1, 61)]
    print("attempts", min(attempts), sum(attempts))
    cluster.shutdown()
"""


@pytest.mark.slow
def test_ray_cluster_that_loses_a_node_in_the_middle(tmp_path):
    """Two nodes on loopback, one killed: every molecule is scored, in order, each once."""
    script = tmp_path / "cluster.py"
    script.write_text(textwrap.dedent(TWO_NODES))
    calls = tmp_path / "calls"
    calls.mkdir()
    run = subprocess.run(
        [sys.executable, script, calls],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path),
            "RAY_USAGE_STATS_ENABLED": "0",
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    _, fewest, total = run.stdout.split()[-3:]
    assert int(fewest) == 1
    assert int(total) > 60  # what the lost node had begun was begun again


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_a_cluster_of_this_machine_listens_to_it_alone():
    """In a process of its own: Ray reads where to listen when it is first imported."""
    pytest.importorskip("ray")
    code = """
from molflowctl.compute.parallel import open_pool

def listening():
    lines = [l.split() for f in ("tcp", "tcp6") for l in open(f"/proc/net/{f}").readlines()[1:]]
    return {line[1] for line in lines if line[3] == "0A"}

before = listening()
with open_pool(1, "ray") as pool:
    assert [outcome.value for outcome in pool.map(abs, [-1])] == [1]
    new = {place.rpartition(":")[0] for place in listening() - before}
assert new and new <= {"0100007F", "0000000000000000FFFF00000100007F"}, new
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
