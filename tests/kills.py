"""Kill runs at random moments, and start them in pairs on one output.

    python tests/kills.py --n 50 --seed 0         50 kills and 50 pairs, a few minutes
    python tests/kills.py --only merge --n 8      of one command; repeatable

Every command that writes is ended by KILL, TERM, HUP and INT in turn, with an earlier result in the
place of its output half of the time. Then the earlier result is there whole, or the new one is; and
the run, resumed or started again, ends with the bytes of a run that nobody touched. Of two runs
on one output one is refused, or they follow each other: never a mixture, never a traceback.

The commands run in children of this process, which has loaded everything, so that kills fall into
the work and not into the imports.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_variable] = "1"

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
_MOVING = ("seconds", "minutes", "versions", "oracle_calls", "cached")  # of a record, between runs
_ASKED = ("overwrite", "resume", "cache", "out")

Content = dict[str, str]


@dataclass(frozen=True)
class Command:
    """A command that writes.

    Attributes:
        line: its arguments for an output and a seed.
        content: what its output holds, without what differs from run to run; empty if there is no
            whole result.
        resumes: whether it takes `--resume`, and `overwrites` whether `--overwrite`; `both`: a
            resume of what is to replace something takes the two together.
    """

    name: str
    line: Callable[[Path, int], list[str]]
    suffix: str
    content: Callable[[Path], Content]
    resumes: bool = True
    overwrites: bool = True
    both: bool = False


# What an output holds ----------------------------------------------------------------------------


def _settled(value: Any) -> Any:
    """A record without times, and without how the run was asked for."""
    if isinstance(value, dict):
        return {k: _settled(v) for k, v in value.items() if k not in (*_MOVING, *_ASKED)}
    return [_settled(v) for v in value] if isinstance(value, list) else value


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def library(out: Path) -> Content:
    """A library with its record, if that says it is whole."""
    record = Path(f"{out}.run.json")
    if not (out.exists() and record.exists()):
        return {}
    content = json.loads(record.read_text())
    if not content.get("complete", True):
        return {}
    content.pop("notes", None)  # in the order in which workers finish
    return {"library": _digest(out), "record": json.dumps(_settled(content), sort_keys=True)}


def folder(out: Path) -> Content:
    """Every file of a data set."""
    if not (out / "card.json").exists():
        return {}
    return {p.name: _digest(p) for p in sorted(out.iterdir()) if p.name != "card.json"}


def network(out: Path) -> Content:
    """A surrogate that loads."""
    from molflowctl.properties.surrogate import Surrogate

    if not (out / "card.json").exists():
        return {}
    Surrogate.load(out)  # a damaged one raises
    return {"weights": _digest(out / "weights.safetensors")}


def flow(out: Path) -> Content:
    """A flow that loads."""
    from molflowctl.flows.flow import Flow

    if not (out / "card.json").exists():
        return {}
    Flow.load(out)  # a damaged one raises
    return {"weights": _digest(out / "weights.safetensors")}


def training(out: Path) -> Content:
    """Both flows of a training that is over; each has to load whenever it is there."""
    found = {part: flow(out / part).get("weights", "") for part in ("ema", "raw")}
    place = out / "checkpoint" / "counters.json"
    step = json.loads(place.read_text())["step"] if place.exists() else 0
    return found if step == STEPS else {}


STEPS = 30
NETWORK = "{width: 16, pair_width: 8, heads: 2, vectors: 2, depth: 1, radial: 4}"


_GROUPS = "C CC CCC C(C)C OC N NC F C#N C=O C(N)=O CO CN C#C CCCC CCO".split()  # noqa: SIM905

# The commands ------------------------------------------------------------------------------------


def prepare(place: Path, only: Sequence[str] = ()) -> list[Command]:
    """The commands, or only those of these names, and what they start from."""
    from conftest import SMALL_MOLECULES
    from rdkit import Chem

    smiles = SMALL_MOLECULES.split()
    source = place / "in.smi"
    source.write_text("CCO ethanol\nCC(C)CO isobutanol\nOCC(O)CO glycerol\n")
    data, tiny = _tiny_data(place), place / "start"
    many = place / "many.smi"
    many.write_text("".join(f"{s} m{k}\n" for k, s in enumerate(smiles * 8)))
    scored = place / "scored.csv"
    scored.write_text(
        "smiles,name,value\n"
        + "".join(f"{s},m{k},{Chem.MolFromSmiles(s).GetNumAtoms()}\n" for k, s in enumerate(smiles))
    )
    learnt_from = place / "learnt.csv"
    learnt_from.write_text("smiles,value\n" + "".join(
        f"C({a})CO{b},{len(a) - len(b)}\n" for a in _GROUPS for b in _GROUPS
    ))  # fmt: skip
    parts = [str(data), str(place / "part")]
    run(["data", "subset", parts[0], "-p", "heavy_atoms", "--range", ":5", "--timeout", "0", "-j",
         "1", "-q", "--cache", str(place / "part.sqlite"), "-o",
         parts[1]], place / "log")  # fmt: skip
    train = [
        "--device", "cpu", "--set", f"network={NETWORK}", "--set", "batch_atoms=128",
        "--set", "minutes=null", "--set", "checkpoint_minutes=0.0005",
        "--set", "validate_minutes=0.002", "--set", "sample_every=0", "--set", "precision=float32",
    ]  # fmt: skip
    settings = place / "train.yaml"
    settings.write_text(
        f"name: tiny\ndata: {data}\ntrain_steps: {STEPS}\nwarmup_steps: 5\nlr: 0.01\n"
    )
    training_line = ["train", "--config", str(settings), *train, "-q"]
    learnt = [
        "train_steps=80", "batch_atoms=512", "warmup_steps=20", "ema=0.98", "checkpoint_minutes=9",
        "network={width: 32, pair_width: 8, heads: 2, vectors: 4, depth: 2, radial: 8}",
    ]  # fmt: skip
    again = [word for change in learnt for word in ("--set", change)]
    run([*training_line, *again, "-o", str(tiny)], place / "log")
    commands = [
        Command("generate", lambda out, seed: [
            "generate", "qm9", "-n", "8", "--nfe", "10", "-j", "1", "-q", "--seed",
            str(seed), "--device", "cpu", "-o", str(out),
        ], ".sdf.gz", library),
        Command("conformers", lambda out, seed: [
            "conformers", str(source), "-n", "3", "--model", "etkdg", "-j", "1", "-q", "--seed",
            str(seed), "--device", "cpu", "-o", str(out),
        ], ".sdf", library),
        Command("score", lambda out, seed: [
            "score", str(many), "-p", "mw" if seed else "logp", "-j", "1", "-q", "--timeout", "0",
            "--cache", str(place / f"cache-{seed}.sqlite"), "-o", str(out),
        ], ".csv", library),
        Command("rank", lambda out, seed: [
            "rank", str(scored), "--by", "value", "-n", str(20 + seed), "-q", "-o", str(out),
        ], ".csv", library, resumes=False),
        Command("data subset", lambda out, seed: [
            "data", "subset", str(data), "-p", "heavy_atoms", "--range", "4:", "--seed", str(seed),
            "--timeout", "0", "-j", "1", "-q", "--cache", str(place / "subset.sqlite"), "-o",
            str(out),
        ], "", folder, resumes=False),
        Command("train", lambda out, seed: [*training_line, "--set", f"seed={seed}", "-o",
            str(out)], "", training, overwrites=False),
        Command("finetune", lambda out, seed: [
            "finetune", str(tiny / "ema"), "--reward", "mw", "--seed", str(seed), "-j", "1", "-q",
            "--device", "cpu", "-o", str(out), "--set", "mirror_steps=2", "--set", "n_samples=64",
            "--set", "base_samples=256", "--set", "test_samples=64", "--set", "nfe=4",
            "--set", "train_steps=4", "--set", "batch=16", "--set", "invalid_penalty=0",
        ], "", flow),
        Command("merge", lambda out, seed: [
            "merge", "a & b", "--let", f"a={tiny / 'ema'}", "--let", f"b={tiny / 'raw'}", "--seed",
            str(seed), "-j", "1", "-q", "--device", "cpu", "-o", str(out), "--set",
            "mirror_steps=1",
            "--set", "n_samples=48", "--set", "base_samples=192", "--set", "test_samples=48",
            "--set", "nfe=4", "--set", "mirror_nfe=4", "--set", "train_steps=4",
            "--set", "matching_steps=4", "--set", "ratio_times=2", "--set", "batch=32",
        ], "", flow),
        *_of_conformers(place, only),
        Command("surrogate", lambda out, seed: [
            "surrogate", str(learnt_from), "-p", "value", "--seed", str(seed), "-j", "1", "-q",
            "--set", "epochs=1", "--set", "width=16", "--set", "members=2", "-o", str(out),
        ], "", network, resumes=False),
        Command("data join", lambda out, seed: [
            "data", "join", *(parts if seed else parts[::-1]), "-q", "-o", str(out),
        ], "", folder, resumes=False),
        Command("data prepare-conformers", lambda out, seed: [
            "data", "prepare-conformers", str(source), "--etkdg-conformers", "2", "--seed",
            str(seed), "-j",
            "1", "-q", "-o", str(out),
        ], "", folder, both=True),
    ]  # fmt: skip
    if unknown := set(only) - {command.name for command in commands}:
        sys.exit(f"there is no command {min(unknown)!r}")
    return [command for command in commands if not only or command.name in only]


def _of_conformers(place: Path, only: Sequence[str]) -> list[Command]:
    """The commands that steer conformer flows; a data set and two flows are made for them."""
    if only and not any(name.endswith("-conformers") for name in only):
        return []
    import importlib.util

    import torch

    from molflowctl.models.conformer import ConformerFlow

    spec = importlib.util.spec_from_file_location(
        "of_tasks", Path(__file__).parent / "tasks" / "conftest.py"
    )
    assert spec is not None
    assert spec.loader is not None
    fixtures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fixtures)
    data = fixtures.ensembles.__wrapped__(_Folders(place))
    first = Path(fixtures.untrained_conformers.__wrapped__(_Folders(place)))
    other = ConformerFlow.load(first)
    with torch.no_grad():
        other.network.vector_out.mul_(0.8)
    second = other.save(place / "other")
    tiny = [
        "--data", str(data), "--energy", "MMFF94", "--molecules", "3", "--mirror-steps", "1", "-j",
        "1", "-q", "--device", "cpu", "--set", "n_samples=6", "--set", "nfe=4", "--set",
        "iterations=2", "--set", "trajectory_steps=4", "--set", "passes=2", "--set", "batch=6",
        "--set", "train_steps=4", "--set", "lr=0.001",
    ]  # fmt: skip
    return [
        Command("finetune-conformers", lambda out, seed: [
            "finetune-conformers", str(first), *tiny, "--seed", str(seed), "-o", str(out),
        ], "", flow),
        Command("merge-conformers", lambda out, seed: [
            "merge-conformers", "a & b", "--let", f"a={first}", "--let", f"b={second}",
            "--reward-weight", "0.1", *tiny, "--seed", str(seed), "-o", str(out),
        ], "", flow),
    ]  # fmt: skip


class _Folders:
    """What pytest's fixtures make folders with."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def mktemp(self, name: str) -> Path:
        (self.place / name).mkdir()
        return self.place / name


def _tiny_data(place: Path) -> Path:
    import conftest

    return Path(conftest.tiny_data.__wrapped__(_Folders(place)))


# Running -----------------------------------------------------------------------------------------


def start(line: Sequence[str], log: Path) -> int:
    """A command in a child of this process; its number."""
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(target, 1)
        os.dup2(target, 2)
        from molflowctl.cli import app

        app([*line])
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
    except KeyboardInterrupt:  # while the options are read: as `main` ends then
        code = 130
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(child: int) -> int:
    """The exit status; minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run(line: Sequence[str], log: Path) -> None:
    """A command that has to succeed."""
    status = wait(start(line, log))
    if status not in (0, 3):
        raise AssertionError(f"{' '.join(line)} ended with {status}:\n{log.read_text()}")


@dataclass
class Bench:
    """The commands, their whole results for two seeds, and how long each takes."""

    place: Path
    commands: list[Command]
    rng: random.Random

    def __post_init__(self) -> None:
        self.whole: dict[tuple[str, int], Content] = {}
        self.seconds: dict[str, float] = {}
        self.kept: dict[tuple[str, int], Path] = {}
        for command in self.commands:
            for seed in (0, 1):
                out = self.output(command, f"whole-{seed}")
                began = time.monotonic()
                run(command.line(out, seed), self.place / "log")
                self.seconds[command.name] = time.monotonic() - began
                self.whole[command.name, seed] = command.content(out)
                self.kept[command.name, seed] = out.parent
                assert self.whole[command.name, seed], command.name
            if self.whole[command.name, 0] == self.whole[command.name, 1]:
                raise AssertionError(f"{command.name}: two seeds gave the same")

    def output(self, command: Command, label: str) -> Path:
        """A new folder's output for a command."""
        place = self.place / f"{command.name.replace(' ', '-')}-{label}"
        place.mkdir()
        return place / f"out{command.suffix}"

    def kill(self, number: int) -> str:
        """One kill; what happened, in a line."""
        command = self.commands[number % len(self.commands)]
        sign = SIGNALS[number // len(self.commands) % len(SIGNALS)]
        earlier = command.overwrites and self.rng.random() < 0.5
        out, log = self.output(command, f"kill-{number}"), self.place / f"log-{number}"
        line = command.line(out, 0)
        if earlier:
            shutil.rmtree(out.parent)
            shutil.copytree(self.kept[command.name, 1], out.parent, symlinks=True)
            line = [*line, "--overwrite"]
        moment = self.rng.uniform(0.02, 1.0) * self.seconds[command.name]
        child = start(line, log)
        time.sleep(moment)
        os.kill(child, sign)
        status = wait(child)
        text = log.read_text()
        expected = {0, 3, -sign, 130 if sign == signal.SIGINT else 128 + sign}
        self.check(status in expected, f"status {status}", text)
        self.check("Traceback" not in text, "a traceback", text)
        old, new = self.whole[command.name, 1], self.whole[command.name, 0]
        found = command.content(out)
        if earlier:
            self.check(found in (old, new), f"{command.name} {sign.name}: neither whole", text)
        else:
            self.check(found in ({}, new), f"{command.name} {sign.name}: half of it", text)
        again = command.line(out, 0)
        if command.resumes and (found != new):
            # What was begun is resumed; where nothing had begun yet, it is overwritten as before.
            began = not earlier or any(out.parent.glob("*.partial"))
            again += ["--resume"] if began else ["--overwrite"]
            again += ["--overwrite"] if began and command.both else []
        elif command.overwrites:
            again += ["--overwrite"]
        else:
            again += ["--resume"]
        status = wait(start(again, log))
        if status == 1 and "no readable" in log.read_text():  # killed before its record was begun
            status = wait(start([*command.line(out, 0), "--overwrite"], log))
        self.check(status in (0, 3), f"again: status {status}", log.read_text())
        self.check(command.content(out) == new, f"{command.name} {sign.name}: other result", text)
        left = {p.name for p in out.parent.iterdir()} - {out.name, f"{out.name}.run.json"}
        self.check(not left, f"{command.name}: left {left}", text)
        shutil.rmtree(out.parent)
        state = "new" if found == new else "old" if earlier else "none"
        return f"{command.name:12s} {sign.name:8s} after {moment:5.2f} s  there: {state}"

    def pair(self, number: int) -> str:
        """Two runs at once on one output; what happened, in a line."""
        command = self.commands[number % len(self.commands)]
        out = self.output(command, f"pair-{number}")
        extra = ["--overwrite"] if command.overwrites and number // len(self.commands) % 2 else []
        logs = [self.place / f"log-{number}-{seed}" for seed in (0, 1)]
        children = []
        for seed, log in enumerate(logs):
            children.append(start([*command.line(out, seed), *extra], log))
            time.sleep(self.rng.uniform(0, 0.3) * self.seconds[command.name])
        statuses = [wait(child) for child in children]
        texts = [log.read_text() for log in logs]
        said = "\n".join(texts)
        self.check("Traceback" not in said, "a traceback", said)
        won = [seed for seed, status in enumerate(statuses) if status in (0, 3)]
        self.check(bool(won), f"{command.name}: nobody won", said)
        found = command.content(out)
        self.check(
            found in [self.whole[command.name, seed] for seed in won],
            f"{command.name}: a mixture, or of the one that was refused", said,
        )  # fmt: skip
        for seed, text in enumerate(texts):
            if seed not in won:
                words = ("being written by another run", "exists", "not empty", "already holds")
                self.check(any(word in text for word in words), "refused without why", text)
                self.check(statuses[seed] == 1, f"status {statuses[seed]}", text)
        shutil.rmtree(out.parent)
        return f"{command.name:12s} {' '.join(extra):12s} statuses {statuses}"

    @staticmethod
    def check(holds: bool, what: str, text: str) -> None:
        if not holds:
            raise AssertionError(f"{what}\n{text}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--n", type=int, default=50, help="kills, and pairs unless --pairs")
    parser.add_argument("--pairs", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", default=[], help="this command; repeatable")
    options = parser.parse_args()
    here = Path(__file__).resolve().parent
    sys.path[:0] = [str(here), str(here.parent)]  # this tree, not the installed one
    load_everything()
    failed = 0
    with tempfile.TemporaryDirectory(prefix="kills-") as place:
        bench = Bench(Path(place), prepare(Path(place), options.only), random.Random(options.seed))
        print({name: f"{s:.1f} s" for name, s in bench.seconds.items()}, flush=True)
        pairs = options.n if options.pairs is None else options.pairs
        for what, count in ((bench.kill, options.n), (bench.pair, pairs)):
            for number in range(count):
                try:
                    print(what.__name__, number, what(number), flush=True)
                except AssertionError as error:
                    failed += 1
                    print(what.__name__, number, "FAILED", error, flush=True)
    print(f"{options.n} kills, {pairs} pairs, {failed} failed")
    sys.exit(bool(failed))


def load_everything() -> None:
    """What the commands import when they run."""
    import pandas  # noqa: F401
    import torch

    import molflowctl.cli
    import molflowctl.tasks.conformers.conformers
    import molflowctl.tasks.generate.denovo
    import molflowctl.tasks.preparation.ensembles
    import molflowctl.tasks.preparation.join
    import molflowctl.tasks.preparation.subset
    import molflowctl.tasks.scoring.rank
    import molflowctl.tasks.scoring.score
    import molflowctl.tasks.steering.conformers
    import molflowctl.tasks.steering.finetune
    import molflowctl.tasks.steering.merge
    import molflowctl.tasks.training.surrogate
    import molflowctl.tasks.training.train  # noqa: F401

    torch.set_num_threads(1)


if __name__ == "__main__":
    main()
