"""The command line: what users mend is said in a sentence, and no failure exits with 0."""

import gzip
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import typer
from rdkit import Chem
from typer.testing import CliRunner

import molflowctl
from molflowctl.cli import app
from molflowctl.compute.parallel import KEEP_MEMORY
from molflowctl.flows.card import sealed
from molflowctl.io.atomic import leftovers
from molflowctl.io.library import read_molecules
from molflowctl.models.denovo import DeNovoFlow

ROOT = Path(__file__).parents[2]
DONE, FAILED, USAGE, FEWER, INTERRUPTED = 0, 1, 2, 3, 130


@pytest.fixture(autouse=True)
def _quiet_place(monkeypatch, tmp_path):
    """A folder of its own; `train` finds its memory settings and need not start itself again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    for name, value in KEEP_MEMORY.items():
        monkeypatch.setenv(name, value)


def call(*arguments, code=DONE):
    """Run a command in this process; its output with white space and boxes smoothed."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    text = " ".join(re.sub("[─│╭╮╰╯]", " ", result.stderr).split())
    assert result.exit_code == code, (result.exit_code, result.stderr, result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    return result, text


def fails(*arguments, words=(), code=FAILED):
    _, text = call(*arguments, code=code)
    for word in words:
        assert str(word) in text
    return text


@pytest.fixture
def generate(tiny_flow):
    """Few molecules, in this process."""

    def run(*arguments, **options):
        fast = ("--nfe", 10, "-j", 1, "--device", "cpu")
        return call("generate", tiny_flow, *fast, *arguments, **options)

    return run


@pytest.fixture
def flow(tiny_flow, tmp_path):
    """A copy of the flow that may be damaged."""
    return Path(shutil.copytree(tiny_flow, tmp_path / "flow"))


# Help ---------------------------------------------------------------------------------------------


def commands(group, path=()):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


COMMANDS = sorted(commands(typer.main.get_command(app)))


def test_the_commands_are_all_there():
    names = {" ".join(command) for command in COMMANDS}
    assert {"generate", "train", "finetune", "data prepare", "benchmark denovo"} <= names


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_shows_an_example(command):
    result, _ = call(*command, "--help")
    assert "Examples" in result.stdout
    assert f"molflowctl {' '.join(command)}" in result.stdout.split("Examples")[1]


@pytest.mark.parametrize("group", [(), ("data",), ("benchmark",)], ids=str)
def test_groups_list_their_commands(group):
    result, _ = call(*group, "--help")
    assert all(c[len(group)] in result.stdout for c in COMMANDS if c[: len(group)] == group)


def test_version():
    assert call("--version")[0].stdout == f"{molflowctl.__version__}\n"


def test_lists_go_to_standard_output(tiny_flow, monkeypatch):
    monkeypatch.setenv("MOLFLOWCTL_ZOO", str(tiny_flow.parent))
    assert any(line.startswith("ema ") for line in call("flows")[0].stdout.splitlines())
    lines = call("properties")[0].stdout.splitlines()
    assert {"qed", "dipole_debye", "homo_lumo_gap_eV"} <= {line.split()[0] for line in lines}


@pytest.mark.parametrize("content", ["{", "[]", "{}", "\xff"])
def test_a_damaged_card_does_not_hide_the_other_flows(tiny_flow, monkeypatch, content):
    monkeypatch.setenv("MOLFLOWCTL_ZOO", ".")
    shutil.copytree(tiny_flow, "whole")
    Path("bad").mkdir()
    Path("bad/card.json").write_text(content, encoding="latin-1")
    result, text = call("flows", code=FAILED)
    assert any(line.startswith("whole ") for line in result.stdout.splitlines())
    assert "bad/card.json cannot be read" in text


# Generation ---------------------------------------------------------------------------------------


def test_generate_writes_what_was_asked_for(generate):
    _, text = generate("-n", 5, "-o", "lib.sdf.gz")
    molecules = list(read_molecules("lib.sdf.gz"))
    assert len(molecules) == 5
    assert not any(m.error for m in molecules)
    assert json.loads(Path("lib.sdf.gz.run.json").read_text())["counts"]["valid"] == 5
    assert "valid, delivered" in text


def test_standard_output_is_pure_sdf(generate, tmp_path):
    result, _ = generate("-n", 3, "-o", "-")
    supplier = Chem.SDMolSupplier()
    supplier.SetData(result.stdout)
    assert len(list(supplier)) == result.stdout.count("$$$$") == 3
    assert all(supplier)
    assert result.stdout.startswith("mfc-")
    assert result.stdout.endswith("$$$$\n")
    assert list(tmp_path.iterdir()) == []
    assert generate("-n", 3, "-o", "-", "-q")[0].stderr == ""


def test_atoms_restrict_the_size(generate):
    generate("--attempts", 16, "--keep-invalid", "--atoms", "4-5", "--relax", "none", "-o", "l.sdf")
    heavy = [
        sum(line.split()[3] != "H" for line in record.split("\n")[4:] if len(line) == 69)
        for record in Path("l.sdf").read_text().split("$$$$\n")[:-1]
    ]
    assert len(heavy) == 16
    assert set(heavy) == {4, 5}


def test_fewer_than_asked_for(generate, monkeypatch):
    monkeypatch.setattr("molflowctl.models.generation.GIVE_UP", 1)
    _, text = generate("-n", 20, "-o", "lib.sdf", code=FEWER)
    found = len(list(read_molecules("lib.sdf")))
    assert 0 < found < 20
    assert f"only {found} of 20" in text


def test_attempts_are_no_promise_of_molecules(generate):
    generate("--attempts", 8, "-o", "lib.sdf")
    assert len(list(read_molecules("lib.sdf"))) < 8


def test_an_existing_library_is_kept(generate):
    Path("lib.sdf").write_text("precious")
    _, text = generate("-n", 1, "-o", "lib.sdf", code=FAILED)
    assert "lib.sdf exists" in text
    assert "--overwrite" in text
    assert Path("lib.sdf").read_text() == "precious"
    generate("-n", 1, "-o", "lib.sdf", "--overwrite")
    assert len(list(read_molecules("lib.sdf"))) == 1


def test_resume_on_the_command_line(generate):
    generate("--attempts", 10, "-o", "a.sdf")
    generate("--attempts", 20, "-o", "a.sdf", "--resume")
    generate("--attempts", 20, "-o", "b.sdf")
    assert Path("a.sdf").read_text() == Path("b.sdf").read_text()
    generate("--attempts", 20, "-o", "a.sdf", "--resume", "--seed", 1, code=FAILED)
    generate("-n", 1, "-o", "-", "--resume", code=FAILED)


def test_a_resume_takes_its_settings_from_the_record(generate, flow):
    """No flow, no other option: the bytes are those of a run that was never interrupted."""
    settings = (
        "--seed",
        5,
        "--stochasticity",
        0.5,
        "--atoms",
        "4-6",
        "--relax",
        "mmff",
        "--keep-invalid",
    )
    generate("--attempts", 24, "-o", "whole.sdf", *settings)
    generate("--attempts", 10, "-o", "a.sdf", *settings)
    call("generate", "-o", "a.sdf", "--resume", "--attempts", 24, "-j", 1)
    assert Path("a.sdf").read_bytes() == Path("whole.sdf").read_bytes()
    call("generate", "-o", "a.sdf", "--resume")  # there is nothing left to do
    assert Path("a.sdf").read_bytes() == Path("whole.sdf").read_bytes()

    def config(library):
        found = json.loads(Path(f"{library}.run.json").read_text())["config"]
        return {k: v for k, v in found.items() if k not in ("out", "jobs", "resume")}

    assert config("a.sdf") == config("whole.sdf")
    for wrong, words in (
        (("--seed", 6), ["seed = 5, not 6"]),
        (("--seed", 0), ["seed = 5, not 0"]),  # the default, but said
        (("--relax", "none", "--nfe", 11), ["relax = mmff, not none", "= 10, not 11"]),
        (("--attempts", 8), ["attempts = 24, which can be raised, not 8"]),
    ):
        text = fails("generate", "-o", "a.sdf", "--resume", *wrong, words=words)
        assert "--overwrite" in text
    assert Path("a.sdf").read_bytes() == Path("whole.sdf").read_bytes()
    other = DeNovoFlow.load(flow)
    with torch.no_grad():
        next(other.parameters()).add_(1)
    other.save("other")
    fails("generate", "other/", "-o", "a.sdf", "--resume", words=["flow = ", "not other/"])
    fails("generate", "-o", "none.sdf", "--resume", words=["none.sdf.run.json", "name the flow"])
    assert not Path("none.sdf").exists()


def test_a_killed_run_is_resumed_by_the_name_of_its_library(generate, tmp_path):
    """Beside a library of other settings, that it was to overwrite: the newest run is meant."""
    generate("-n", 4, "-o", "whole.sdf", "--seed", 7)
    generate("-n", 1, "-o", "a.sdf", "--seed", 1)
    record = json.loads(Path("a.sdf.run.json").read_text())
    record["config"] |= {"seed": 7, "n": 3}
    record["counts"] |= {"attempts": 0, "valid": 0, "unique": 0, "failed": {}}
    part = "a.sdf.0123456789ab.partial"
    Path(part).write_text("")
    Path(f"{part}.run.json").write_text(json.dumps(record))
    call("generate", "-o", "a.sdf", "--resume", "-n", 4, "-j", 1)
    assert Path("a.sdf").read_bytes() == Path("whole.sdf").read_bytes()
    assert not Path(part).exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["-n", 0],
        ["-n", "many"],
        ["--attempts", 0],
        ["--seed", -1],
        ["-j", 0],
        ["--nfe", 0],
        ["-n", 5, "--attempts", 5],
        ["--colour"],
    ],
    ids=str,
)
def test_wrong_usage(generate, arguments):
    _, text = generate(*arguments, "-o", "lib.sdf", code=USAGE)
    assert arguments[0] in text
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--atoms", "100"], ["--atoms 100-100", "4 to 6 heavy atoms"]),
        (["--atoms", "9-7"], ["--atoms 9-7", "smaller number first"]),
        (["--atoms", "abc"], ["--atoms", "'abc'", "7-9"]),
        (["--sampler", "langevin"], ["langevin", "ancestral"]),
        (["--relax", "dft"], ["relax", "mmff"]),
        (["--device", "cuda:77"], ["cuda:77"]),
        (["-o", "lib.mol3"], ["lib.mol3", ".sdf"]),
        (["-o", "absent/lib.sdf"], ["cannot write absent/lib.sdf", "no folder absent"]),
        (["-o", "file/lib.sdf"], ["cannot write file/lib.sdf", "file is a file, not a folder"]),
        (["-o", "folder.sdf"], ["folder.sdf is a folder"]),
        (["-o", "/dev/full"], ["/dev/full", "No space left"]),
        (["--html", "page.pdf"], ["--html page.pdf", ".html"]),
        (["--grid", "grid.gif"], ["--grid grid.gif", ".png or .svg"]),
        (["--grid", "absent/grid.png"], ["--grid", "no folder absent"]),
    ],
    ids=str,
)
def test_bad_input_is_named(generate, arguments, words):
    Path("file").write_text("")
    Path("folder.sdf").mkdir()
    options = arguments if "-o" in arguments else [*arguments, "-o", "lib.sdf"]
    _, text = generate("-n", 2, *options, code=FAILED)
    assert all(word in text for word in words), text
    assert {p.name for p in Path().iterdir()} == {"file", "folder.sdf"}
    assert not Path("/dev/full.run.json").exists()


def test_an_existing_picture_is_kept(generate):
    Path("page.html").write_text("precious")
    _, text = generate("-n", 1, "-o", "lib.sdf", "--html", "page.html", code=FAILED)
    assert "page.html exists" in text
    assert Path("page.html").read_text() == "precious"
    assert not Path("lib.sdf").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_unwritable_folder(generate, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    _, text = generate("-n", 2, "-o", "locked/lib.sdf", code=FAILED)
    assert "Permission denied" in text


# Flows that cannot be used ------------------------------------------------------------------------


def test_unknown_flow_proposes_the_nearest(tiny_flow, monkeypatch):
    monkeypatch.setenv("MOLFLOWCTL_ZOO", str(tiny_flow.parent))
    words = ["'emma'", "did you mean ema"]
    fails("generate", "emma", "-o", "lib.sdf", words=words)
    fails("finetune", "emma", "--reward", "qed", "-o", "out", words=words)
    assert list(Path().iterdir()) == []
    fails("benchmark", "denovo", "emma", "-o", "out", words=words)


def test_folders_that_hold_no_flow(tmp_path):
    (tmp_path / "empty").mkdir()
    fails("generate", "empty/", "-o", "l.sdf", words=["no flow", "card.json"])
    fails("generate", "absent/", "-o", "l.sdf", words=["absent"])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def change_card(folder: Path, **changes) -> None:
    card = json.loads((folder / "card.json").read_text()) | changes
    (folder / "card.json").write_text(json.dumps(sealed(card)))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: flip(f / "weights.safetensors"), ["SHA-256"]),
        (lambda f: os.truncate(f / "weights.safetensors", 100), ["SHA-256"]),
        (lambda f: (f / "weights.safetensors").unlink(), ["no weights.safetensors"]),
        (lambda f: (f / "card.json").write_text("{"), ["card.json"]),
        (lambda f: change_card(f, kind="diffusion"), ["kind 'diffusion'", "denovo"]),
        (lambda f: change_card(f, arguments={"layers": 3}), ["arguments"]),
    ],
    ids=["flipped bit", "truncated", "missing", "card", "foreign kind", "foreign arguments"],
)
def test_damaged_and_foreign_flows(flow, damage, words):
    damage(flow)
    fails("generate", flow, "-n", 1, "-o", "lib.sdf", words=words)
    assert not Path("lib.sdf").exists()


def test_weights_of_another_network(flow, tiny_flow):
    card = json.loads((flow / "card.json").read_text())
    network = card["arguments"]["network"] | {"width": 64}
    change_card(flow, arguments=card["arguments"] | {"network": network})
    fails("generate", flow, "-n", 1, "-o", "lib.sdf", words=["does not fit", "tensors differ"])


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("exploded").absolute(),))


@pytest.mark.parametrize("protocol", [2, 5])
def test_a_pickle_in_place_of_weights_is_not_opened(flow, protocol):
    pickled = pickle.dumps(Bomb(), protocol=protocol)
    (flow / "weights.safetensors").write_bytes(pickled)
    fails("generate", flow, "-n", 1, "-o", "lib.sdf", words=["is a pickle", "not read"])
    Path("flow.pt").write_bytes(pickled)
    fails("generate", "flow.pt", "-n", 1, "-o", "lib.sdf", words=["pickle", "not read"])
    assert not Path("exploded").exists()
    pickle.loads(pickled)
    assert Path("exploded").exists()  # the bomb was a real one


def test_a_torch_checkpoint_in_place_of_weights(flow):
    import torch

    torch.save({"a": torch.zeros(3)}, flow / "weights.safetensors")
    fails("generate", flow, "-n", 1, "-o", "lib.sdf", words=["is a pickle", "not read"])


# Other commands -----------------------------------------------------------------------------------


def test_unknown_reward_proposes_the_nearest(tiny_flow):
    fails(
        *("finetune", tiny_flow, "--reward", "dipol", "-o", "out"),
        words=["unknown property dipol", "dipole_debye"],
    )
    assert not Path("out").exists()


def test_finetune_keeps_what_is_there(tiny_flow):
    Path("out").mkdir()
    Path("out/thesis.txt").write_text("precious")
    fails("finetune", tiny_flow, "--reward", "qed", "-o", "out", words=["out is not empty"])
    fails(
        "finetune", tiny_flow, "--reward", "qed", "--kl-weight", 0, "-o", "x", words=["kl_weight:"]
    )
    fails("finetune", tiny_flow, "--reward", "qed", "--set", "speed=9", "-o", "x", words=["speed"])


@pytest.mark.parametrize(
    ("task", "wanted"),
    [
        ("steering.finetune.finetune", {"flow": "qm9", "reward": "qed"}),
        ("steering.merge.merge", {"circuit": "qm9_dipole & qm9_rings"}),
        ("steering.conformers.finetune_conformers", {"flow": "a", "kl_weight": 3.0}),
        ("steering.conformers.merge_conformers", {"circuit": "a & b", "flows": {"a": "x"}}),
    ],
)
@pytest.mark.parametrize(
    ("arguments", "changes"),
    [
        ((), {}),
        (("--seed", 0), {"seed": 0}),
        (("--device", "auto"), {"device": "auto"}),
        (("-j", 1, "--mirror-steps", 4, "--seed", 5), {"jobs": 1, "mirror_steps": 4, "seed": 5}),
        (("--seed", 0, "--set", "seed=9"), {"seed": 9}),
    ],
    ids=str,
)
def test_given_options_alone_override_a_file(monkeypatch, task, wanted, arguments, changes):
    """Also where what is given is the default of the option."""
    seen = []
    monkeypatch.setattr(f"molflowctl.tasks.{task}", lambda settings, **_: seen.append(settings))
    file = {**wanted, "seed": 7, "device": "cpu", "jobs": 3, "mirror_steps": 2}
    Path("c.yaml").write_text(json.dumps(file))
    call(task.split(".")[-1].replace("_", "-"), "--config", "c.yaml", *arguments, "-o", "out")
    assert {name: getattr(seen[0], name) for name in file} == file | changes


def test_train_end_to_end(tiny_data, tiny_settings):
    import yaml

    Path("c.yaml").write_text(yaml.safe_dump(tiny_settings))
    fast = ("--config", "c.yaml", "--device", "cpu", "--threads", 1, "-o", "run")
    _, text = call("train", *fast, "--set", "train_steps=2")
    assert "written: run/ema" in text
    fails(
        "train", *fast, "--set", "train_steps=2", words=["already holds a training run", "--resume"]
    )
    call("train", *fast, "--set", "train_steps=3", "--resume", "-q")
    drawn = ("--attempts", 4, "--nfe", 2, "-j", 1, "-o", "lib.sdf")
    call("generate", "run/ema", *drawn, code=FEWER)  # after three steps no molecule is valid


def test_an_operating_system_error_is_a_sentence(tiny_data, tiny_settings):
    Path("file").write_text("")
    settings = {**tiny_settings, "train_steps": 1}
    Path("c.yaml").write_text(json.dumps(settings))
    fails(
        *("train", "--config", "c.yaml", "--device", "cpu", "--threads", 1, "-o", "file/run"),
        words=["error: cannot write file/run: file is a file, not a folder"],
    )


def test_under_torchrun_only_one_process_talks(tiny_settings, monkeypatch):
    """And the cores of a machine are shared among its processes."""
    import torch
    from lightning_fabric import Fabric

    asked = []
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    monkeypatch.setattr("molflowctl.cli.options.cores", lambda: 6)
    monkeypatch.setattr(Fabric, "is_global_zero", False)
    Path("c.yaml").write_text(json.dumps({**tiny_settings, "train_steps": 1}))
    monkeypatch.setattr("molflowctl.tasks.training.train.Trainer.run", lambda self: Path("run/ema"))
    monkeypatch.setattr(
        "molflowctl.tasks.training.train.Trainer._fabric", lambda *_: Fabric(accelerator="cpu")
    )
    for processes, threads in ((4, 1), (8, 1), (2, 3)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        _, text = call("train", "--config", "c.yaml", "-o", "run")
        assert asked.pop() == threads
        assert text == ""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # PyTorch has read it: nothing to set
    call("train", "--config", "c.yaml", "-o", "run")
    assert asked == []
    call("train", "--config", "c.yaml", "-o", "run", "--threads", 5)
    assert asked == [5]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config", "qm8.yaml"], ["no configuration qm8.yaml", "qm9.yaml"]),
        (["--config", "qm9.yaml", "--set", "data=absent"], ["absent is not a data set", "prepare"]),
        (["--config", "qm9.yaml", "--set", "stepps=3"], ["stepps"]),
        (["--config", "qm9.yaml", "--set", "lr"], ["key=value"]),
        (["--init", "qm9", "--data", "absent.sdf"], ["cannot read absent.sdf"]),
        (["--init", "qm9", "--data", "my.smi"], ["my.smi holds no geometries", "molflowctl score"]),
        (["--init", "qm8", "--data", "my.sdf"], ["no flow or folder 'qm8'", "qm9"]),
        (["--config", "qm9.yaml", "--data", "my.sdf"], ["say which, --init"]),
    ],
    ids=str,
)
def test_bad_trainings(arguments, words):
    fails("train", *arguments, "--device", "cpu", "--threads", 1, "-o", "run", words=words)
    assert not Path("run").exists()


def test_trainings_that_lack_something():
    fails("train", "-o", "run", code=USAGE, words=["--config"])
    fails("train", "-o", "run", "--resume", code=USAGE, words=["--config"])
    fails("train", "--init", "qm9", "-o", "run", code=USAGE, words=["--data"])


def test_an_own_library_trains_a_flow(tiny_flow, tiny_library):
    """SDF in, a flow out that draws from it; resumed without saying again what was said."""
    Path("my.sdf.gz").write_bytes(gzip.compress(tiny_library.read_bytes()))
    fast = ("--device", "cpu", "--threads", 1, "-o", "my-flow/")
    given = ("--init", tiny_flow, "--data", "my.sdf.gz", "--set", "epochs=2")
    _, text = call("train", *given, *fast)
    assert "kept 40 records" in text
    assert "written: my-flow/ema" in text
    card = json.loads(Path("my-flow/ema/card.json").read_text())
    assert card["name"] == "my-flow"
    assert card["data"]["read_from"] == "my.sdf.gz"
    assert card["training"]["seen"] == 72  # two times nine tenths
    drawn = ("--attempts", 4, "-j", 1, "--device", "cpu", "-o", "new.sdf")
    _, text = call("generate", "my-flow/ema", *drawn, code=FEWER)
    assert "no molecule after 4 attempts" in text
    call("train", "--resume", "--set", "epochs=3", *fast, "-q")
    card = json.loads(Path("my-flow/ema/card.json").read_text())
    assert card["training"]["seen"] == 108
    Path("my.sdf.gz").write_bytes(gzip.compress(b""))
    fails("train", "--resume", *fast, words=["began with another my.sdf.gz"])


def test_data_subsets(tiny_data, monkeypatch):
    monkeypatch.setenv("MOLFLOWCTL_CACHE", "cache")
    run = ("data", "subset", tiny_data, "-j", 1, "--timeout", 0, "-o", "heavy")
    _, text = call(*run, "-p", "mw", "--range", "50:")
    assert "50 <= mw" in text
    assert "molflowctl train --init qm9 --data heavy" in text
    fails(*run, "-p", "mw", "--range", "50:", words=["heavy exists", "--overwrite"])
    call(*run, "-p", "mw", "--range", "-3:99", "--overwrite", "-q")
    fails(*run, "-p", "mw", "--range", "5:4", words=["no value is in the range 5:4"])
    fails(*run, "-p", "mww", "--range", "5:", "--overwrite", words=["unknown property 'mww'", "mw"])


def test_bad_preparations():
    fails("data", "prepare", "qm8", words=["'qm8'", "qm9"])
    fails("data", "prepare", "qm9", "--hydrogens", "some", words=["hydrogens", "'some'"])
    fails("data", "prepare", "qm9", "--source", "absent.zip", words=["absent.zip"])
    fails("data", "prepare", "qm9", "--limit", 5, words=["--limit", "druglike"])
    fails("data", "prepare", "druglike", "--seed", 0, words=["--seed", "hash"])
    fails("data", "prepare", "druglike", "--source", "absent.csv", words=["absent.csv"])
    Path("there").mkdir()
    fails("data", "prepare", "qm9", "-o", "there", words=["there exists", "--overwrite"])


def test_bad_benchmarks():
    fails("benchmark", "denovo", "absent.sdf", "-o", "out", words=["absent.sdf"])
    fails("benchmark", "denovo", "qm9", "--set", "speed=1", "-o", "out", words=["speed"])


# Processes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [["-m", "molflowctl"], ["script.py"]], ids=["module", "script"])
def test_starting_again_keeps_the_interpreter_as_it_was(monkeypatch, how):
    """For its memory settings: with its options, and finding the package where it was found."""
    for name in KEEP_MEMORY:
        monkeypatch.delenv(name)
    Path("script.py").write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom molflowctl.cli import main\nmain()\n"
    )
    Path("sitecustomize.py").write_text("import sys; print(sys.warnoptions, sys._xoptions)")
    environment = os.environ | {"PYTHONPATH": f"{Path.cwd()}:{ROOT}" if how[0] == "-m" else "."}
    done = subprocess.run(
        [
            *(sys.executable, "-W", "ignore::UserWarning", "-X", "utf8=1", *how),
            *("generate", "absent/", "-o", "lib.sdf"),
        ],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == FAILED
    assert "no flow or folder 'absent/'" in done.stderr
    assert len(done.stdout.splitlines()) == 2
    assert len(set(done.stdout.splitlines())) == 1
    assert "UserWarning" in done.stdout


def children(pid: int) -> set[int]:
    return {int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_ctrl_c_keeps_the_library_and_leaves_no_worker(tiny_flow, tmp_path):
    out = tmp_path / "lib.sdf.gz"
    options = f"-n 1000000 --nfe 4 --relax none --keep-invalid -j 2 --device cpu -o {out}"
    process = subprocess.Popen(
        [sys.executable, "-m", "molflowctl", "generate", tiny_flow, *options.split()],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 120
        while not any(partial.stat().st_size for partial in leftovers(out)):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        workers = children(process.pid)
        assert len(workers) == 2
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == INTERRUPTED
    assert "interrupted" in errors
    assert "Traceback" not in errors
    assert not any(alive(worker) for worker in workers)
    with gzip.open(out, "rt") as file:
        written = file.read().count("$$$$\n")
    counts = json.loads((tmp_path / "lib.sdf.gz.run.json").read_text())["counts"]
    assert written >= counts["attempts"] > 0
    assert counts["attempts"] == counts["valid"] + sum(counts["failed"].values())
    assert {path.name for path in tmp_path.glob("*lib*")} == {"lib.sdf.gz", "lib.sdf.gz.run.json"}


def test_a_closed_pipe_ends_quietly(tiny_flow):
    options = "-n 1000000 --nfe 2 --relax none -j 1 -q --device cpu -o -"
    process = subprocess.Popen(
        [sys.executable, "-m", "molflowctl", "generate", tiny_flow, *options.split()],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline().startswith("mfc-")
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait(timeout=60) == FAILED
    finally:
        process.kill()
        process.stderr.close()
    assert errors == ""
