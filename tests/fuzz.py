"""Spoilt inputs of every kind: no traceback, no hang, no flood of memory, no success on damage.

    python tests/fuzz.py --n 1000 --seed 0              all kinds in turn, ten minutes at most
    python tests/fuzz.py --only sdf --n 200 --seed 3    one kind
    python tests/fuzz.py --only flow --first 17 --n 1 --seed 3 --keep here/   one input, kept

Inputs run in a child process, one after another, each under a limit of memory. The child is ended
and started anew where it crashed or hung, and goes on with the next input. Input number k of a kind
depends on the seed, the kind and k alone. Exit status: 0 nothing found, 1 something was.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "tests"))
MEMORY = 10**9  # bytes that an input may take
START = 120.0  # seconds that a child may take to import everything


def inputs(names: list[str], first: int, n: int) -> list[tuple[str, int]]:
    """`n` inputs, the kinds in turn."""
    return [(names[k % len(names)], first + k // len(names)) for k in range(n)]


def main() -> int:
    arguments = _arguments()
    if arguments.child is not None:
        return _serve(json.loads(arguments.child), arguments)
    import fuzz_tensors  # noqa: F401 - which has more of them
    from fuzz_targets import PLANTED, TARGETS

    names = arguments.only or list(TARGETS)
    if unknown := [name for name in names if name not in TARGETS | PLANTED]:
        sys.exit(f"there is no kind {unknown[0]!r}: {', '.join(TARGETS)}")
    todo, until = (
        inputs(names, arguments.first, arguments.n),
        time.monotonic() + 60 * arguments.minutes,
    )
    counts: Counter[tuple[str, str]] = Counter()
    faults: list[tuple[str, int, str]] = []
    while todo and time.monotonic() < until:
        done, outcomes = _run(todo, arguments, until)
        for (name, index), (outcome, text) in zip(todo, outcomes, strict=False):
            counts[name, outcome] += 1
            if outcome not in ("read", "refused"):
                faults.append((name, index, f"{outcome}: {text}"))
        todo = todo[done:]
    for name in names:
        row = {outcome: count for (kind, outcome), count in counts.items() if kind == name}
        print(
            f"{name:10s}", "  ".join(f"{count} {outcome}" for outcome, count in sorted(row.items()))
        )
    for name, index, text in faults[:50]:
        print(f"FAULT {name} {index}: {text}")
    tried = sum(counts.values())
    print(f"{tried} inputs, {len(faults)} faults" + (f", {len(todo)} not tried" if todo else ""))
    return 1 if faults else 0


def _run(
    todo: list[tuple[str, int]], arguments: argparse.Namespace, until: float
) -> tuple[int, list[tuple[str, str]]]:
    """Outcomes of the first inputs, up to the first that ended its process, or the time."""
    command = [
        sys.executable, __file__, "--child", json.dumps(todo), "--seed", str(arguments.seed),
        *(["--keep", arguments.keep] if arguments.keep else []),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
        start_new_session=True,
    )  # fmt: skip
    lines: queue.Queue[str] = queue.Queue()

    def follow() -> None:
        assert child.stdout is not None
        for line in child.stdout:
            lines.put(line)
        lines.put("")

    threading.Thread(target=follow, daemon=True).start()
    outcomes: list[tuple[str, str]] = []
    allowed = START
    try:
        while len(outcomes) < len(todo) and time.monotonic() < until:
            try:
                line = lines.get(timeout=min(allowed, max(0.1, until - time.monotonic())))
            except queue.Empty:
                if time.monotonic() < until:
                    outcomes.append(("hang", f"more than {allowed:g} s"))
                return len(outcomes), outcomes
            if not line and allowed == START:
                sys.exit("the child does not start: run the command with --child '[]' to see why")
            if not line:
                outcomes.append(("crash", f"the process ended with status {child.wait()}"))
                return len(outcomes), outcomes
            allowed = arguments.limit
            if line != "ready\n":
                outcomes.append(tuple(json.loads(line)))
        return len(outcomes), outcomes
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, 9)
        child.wait()


def _serve(todo: list[tuple[str, int]], arguments: argparse.Namespace) -> int:
    """The child: a line for each input, as soon as it is done."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever is printed is no answer
    import warnings

    import fuzz_tensors  # noqa: F401 - which has more of them
    from fuzz_targets import PLANTED, TARGETS, Wrong

    from molflowctl.errors import UserError

    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        targets = {}
        for name in dict.fromkeys(name for name, _ in todo):
            place = Path(folder) / name
            place.mkdir()
            targets[name] = (TARGETS | PLANTED)[name](place)
            # What is imported late counts as imports, not as memory of an input.
            if name in TARGETS:
                with contextlib.suppress(Exception):
                    targets[name].run(targets[name].samples[0], random.Random(0))
        print("ready", file=answers)
        for name, index in todo:
            rng = random.Random(f"{arguments.seed} {name} {index}")
            content = targets[name].spoil(rng)
            if arguments.keep:
                Path(arguments.keep).mkdir(parents=True, exist_ok=True)
                (Path(arguments.keep) / f"{name}-{index}").write_bytes(content)
            size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, resource.RLIM_INFINITY))
            try:
                targets[name].run(content, rng)
                outcome = ("read", "")
            except UserError as error:
                outcome = ("refused", "")
                if "Traceback" in str(error) or len(str(error)) > 2000:
                    outcome = ("message", f"of {len(str(error))} signs: {str(error)[:80]!r}")
            except Wrong as error:
                outcome = ("wrong", str(error)[:200])
            except MemoryError:
                outcome = ("memory", f"more than {MEMORY / 1e9:g} GB")
            except BaseException as error:
                trace = error.__traceback__
                while trace is not None and trace.tb_next is not None:
                    trace = trace.tb_next
                where = (
                    f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
                    if trace
                    else ""
                )
                outcome = ("traceback", f"{type(error).__name__} in {where}: {str(error)[:160]}")
            print(json.dumps(outcome), file=answers)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--n", type=int, default=1000, help="inputs [1000]")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same inputs [0]")
    parser.add_argument("--only", action="append", help="this kind of input; repeatable")
    parser.add_argument(
        "--first", type=int, default=0, help="number of the first input of a kind [0]"
    )
    parser.add_argument("--keep", type=os.path.abspath, help="folder to keep the inputs in")
    parser.add_argument("--limit", type=float, default=30.0, help="seconds of one input [30]")
    parser.add_argument("--minutes", type=float, default=10.0, help="of the whole [10]")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
