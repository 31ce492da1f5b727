"""Hostile and careless settings: one line with key and place, and nothing heavy for it."""

import math
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from molflowctl.cli import app
from molflowctl.control.operators import parse
from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow
from molflowctl.io.expressions import number_of, parse_expression
from molflowctl.io.locks import OutputLock
from molflowctl.io.yaml_input import read_mapping, read_value
from molflowctl.properties.rewards import parse_reward
from molflowctl.tasks.steering.settings import FinetuneConfig, MergeConfig
from molflowctl.tasks.training.settings import TrainConfig

HOSTILE = {
    "month 13": "2026-13-45",
    "5,000 digits": "1" * 5000,
    "5,000 binary digits": "0b" + "1" * 5000,
    "python object": "!!python/object/apply:os.system [ls]",
    "python tuple": "!!python/tuple [1, 2]",
    "a timestamp that is none": "!!timestamp soon",
    "an integer that is none": "!!int abc",
    "a float that is none": "!!float x",
    "a boolean that is none": "!!bool maybe",
    "an unknown tag": "!mine 3",
    "20,000 brackets": "[" * 20_000,
    "20,000 pairs of brackets": "[" * 20_000 + "]" * 20_000,
    "20,000 braces": "{a: " * 20_000,
    "an unhashable key": "{[1]: 2}",
    "an unknown alias": "*nobody",
    "a list of itself": "&a [*a]",
    "infinity": ".inf",
    "not a number": ".nan",
    "a zero byte": "a\0b",
    "a surrogate": "\ud800",
    "a merge of a text": "{<<: text}",
}
LAUGHS = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{k}: &a{k} [{','.join([f'*a{k - 1}'] * 9)}]\n" for k in range(1, 12)
)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_set_refuses_on_one_line_with_the_key(text):
    with pytest.raises(UserError) as error:
        TrainConfig.parse({"train_steps": 1}, [f"lr={text}"])
    message = str(error.value)
    assert "lr" in message
    assert "\n" not in message
    assert len(message) < 300


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_file_is_refused_on_one_line_with_its_name(text, tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_bytes(f"train_steps: 1\nlr: {text}\n".encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError) as error:
        TrainConfig.read(file)
    message = str(error.value)
    assert "bad.yaml" in message
    assert "\n" not in message
    assert len(message.replace(str(tmp_path), "")) < 300


def test_laughs_by_the_billion_are_refused_at_once(tmp_path):
    (tmp_path / "laughs.yaml").write_text(LAUGHS)
    with pytest.raises(UserError, match=r"laughs\.yaml"):
        TrainConfig.read(tmp_path / "laughs.yaml")


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ("train_steps: 1\n\nlr: fast\n", "line 3: lr: "),
        ("train_steps: 1\nnetwork:\n  depth: 0\n", "line 3: network.depth: "),
        ("train_steps: 1\nnetwork:\n  dept: 2\n", "line 3: network.dept: "),
        (
            "train_steps: 1\nlr: 1\nlr: 2\n",
            "line 3, column 1: cannot be read as YAML: lr is given twice",
        ),
        ("train_steps: [1\n", "line 2, column 1"),
        ("train_steps: 1\nlr: !!int x\n", "line 2, column 5"),
    ],
)
def test_messages_name_the_line(content, place, tmp_path):
    (tmp_path / "own.yaml").write_text(content)
    with pytest.raises(UserError) as error:
        TrainConfig.read(tmp_path / "own.yaml")
    assert f"own.yaml, {place}" in str(error.value)


def test_a_wrong_change_is_not_blamed_on_the_file(tmp_path):
    (tmp_path / "own.yaml").write_text("train_steps: 1\nlr: 1e-3\n")
    with pytest.raises(UserError, match=r"^--set: lr: "):
        TrainConfig.read(tmp_path / "own.yaml", ["lr=fast"])


def test_a_date_is_the_text_that_was_written(tmp_path):
    assert read_value("2026-12-01", "--set name") == "2026-12-01"
    (tmp_path / "own.yaml").write_text("train_steps: 1\nname: 2026-12-01\n")
    assert TrainConfig.read(tmp_path / "own.yaml").name == "2026-12-01"


@pytest.mark.parametrize("text", ["1_000", "1:30", "017", "-0_1", "1_0.5", "4:8", "1_0e3"])
def test_what_few_mean_as_a_number_stays_a_text(text):
    assert read_value(text, "--set a") == text
    assert read_value(f"[{text}]", "--set a") == [text]


@pytest.mark.parametrize(
    ("text", "value"), [("1000", 1000), ("-17", -17), ("0", 0), ("0.5", 0.5), ("1.0e-3", 1e-3)]
)
def test_numbers_are_numbers(text, value):
    assert read_value(text, "--set a") == value


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("train_steps=1_000", "'1_000' is no number: leave out the _"),
        ("lr=1_0.5", "'1_0.5' is no number"),
        ("network.width=1_28", "'1_28' is no number"),
        ("train_steps=1:30", "train_steps: should be a valid integer"),
    ],
)
def test_a_number_to_python_alone_is_no_setting(change, words):
    with pytest.raises(UserError) as caught:
        TrainConfig.parse({"train_steps": 10}, [change])
    assert words in str(caught.value)


def test_a_name_may_hold_what_a_number_may_not():
    assert TrainConfig.parse({"train_steps": 10, "name": "1_000"}).name == "1_000"
    assert TrainConfig.parse({"train_steps": "017", "name": "a"}).train_steps == 17


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "qm9", "-n", "1_0", "-o", "x.sdf"],
        ["conformers", "CCO", "--seed", "1_1", "-o", "x.sdf"],
        ["rank", "x.csv", "--by", "a", "-n", "1_0", "-o", "y.csv"],
        ["data", "subset", "x", "-p", "mw", "--range", "1:2", "--timeout", "1_0.5", "-o", "y"],
    ],
)
def test_an_option_takes_no_number_to_python_alone(arguments):
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "is no number: leave out the _" in " ".join(result.output.split())


@pytest.mark.parametrize("text", ["1_000", "\u0663", "\uff11\uff12", "", " ", "x", "0x10", None])
def test_what_is_no_number_in_a_table(text):
    assert math.isnan(number_of(text))


@pytest.mark.parametrize("text", ["1", " -2.5 ", "1e-3", "+.5", "inf"])
def test_what_is_a_number_in_a_table(text):
    assert number_of(text) == float(text)


def test_what_is_no_file_or_too_large_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"#" * 1_000_001)
    for name, words in (("pipe", "a pipe"), ("large", "larger than"), (".", "a folder")):
        with pytest.raises(UserError, match=words):
            read_mapping(tmp_path / name)
    with pytest.raises(UserError, match="a pipe, a device"):
        read_mapping("/dev/zero")
    with pytest.raises(UserError, match="does not exist"):
        read_mapping(tmp_path / "none")


EXPRESSIONS = {
    "1,000 terms": "&".join(["a"] * 1000),
    "5,000 terms": "a" + "-a" * 5000,
    "20,000 parentheses": "(" * 20_000,
    "20,000 pairs": "(" * 20_000 + "a" + ")" * 20_000,
    "900 minus signs": "-" * 900 + "a",
    "unclosed": "(a",
    "a zero byte": "a\0",
    "5,000 digits": "a" + "1" * 3 + " & " + "1" * 5000,
}


@pytest.mark.parametrize("text", EXPRESSIONS.values(), ids=EXPRESSIONS)
def test_circuits_and_rewards_are_bounded(text):
    for refuse in (
        lambda: parse(text, {"a": Flow()}),
        lambda: parse_reward(text),
        lambda: MergeConfig.parse({"out": "x", "circuit": text}),
        lambda: FinetuneConfig.parse({"out": "x", "flow": "qm9", "reward": text}),
    ):
        with pytest.raises(UserError) as error:
            refuse()
        assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    "reward",
    [
        f"sigmoid(qed, {'9' * 4000}, 1)",
        f"sigmoid(qed, 0x{'f' * 5000}, 1)",
        f"geometric_mean(step(qed, 0), weights=[{'9' * 4000}])",
        {"property": "qed", "transform": "step", "threshold": 10**4000},
        {"geometric_mean": ["step(qed, 0)"], "weights": [10**400]},
        "product(" * 900 + "step(qed, 1)" + ")" * 900,
    ],
    ids=["sigmoid", "hexadecimal", "weights", "mapping", "mapped weights", "deep"],
)
def test_huge_numbers_and_depths_in_rewards_are_refused(reward):
    with pytest.raises(UserError) as error:
        parse_reward(reward)
    assert len(str(error.value)) < 300


def test_a_mapping_as_deep_as_a_well_is_refused():
    spec = "step(qed, 1)"
    for _ in range(5000):
        spec = {"product": [spec]}
    with pytest.raises(UserError, match="levels"):
        parse_reward(spec)


def test_what_people_write_is_within_the_bounds():
    parse_expression(" & ".join(f"flow_{k}" for k in range(60)))
    assert parse_reward("product(" + ", ".join(["ramp(qed, 0, 1)"] * 60) + ")").properties


@pytest.mark.parametrize(
    "arguments",
    [
        ["finetune", "qm9", "--reward", "(qed", "-o", "x"],
        ["finetune", "qm9", "--reward", "qed", "--utility", "cvar:low", "-o", "x"],
        ["merge", "a &", "-o", "x"],
        ["merge", "a & b", "--set", "roundz=3", "-o", "x"],
        ["generate", "qm9", "--relax", "gfn2", "-o", "x.sdf"],
        ["conformers", "CCO", "--relax", "uff", "-o", "x.sdf"],
        ["train", "--config", "qm9.yaml", "--set", "lr=[1", "-o", "x"],
        ["finetune-conformers", "--set", "kl_weight=0", "-o", "x"],
        ["data", "prepare-conformers", "x.smi", "--set", "rmsd_threshold=-1", "-o", "x"],
    ],
    ids=lambda a: " ".join(a[:2]),
)
def test_a_slip_is_told_before_anything_heavy_is_imported(arguments, tmp_path):
    code = (
        "import sys; from molflowctl.cli import app\n"
        f"try: app({arguments!r})\n"
        "except SystemExit as end: code = end.code\n"
        "print(code, sorted({'torch', 'rdkit', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout == "1 []\n", done.stdout + done.stderr
    assert done.stderr.startswith("error: ")
    # An expression that is wrong is shown, with its place below.
    assert done.stderr.count("\n") == (3 if done.stderr.endswith("^\n") else 1)


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "qm9", "-n", "1", "-o", "a\0b.sdf"],
        ["conformers", "CCO", "-o", "a\0b.sdf"],
        ["score", "x.csv", "-p", "mw", "-o", "a\0b.csv"],
        ["score", "a\0b.csv", "-p", "mw", "-o", "y.csv"],
        ["rank", "x.csv", "--by", "a", "-o", "a\0b.csv"],
        ["finetune", "qm9", "--reward", "qed", "-o", "a\0b"],
        ["finetune", "qm9", "--reward", "qed", "-o", "x", "--set", 'flow="a\\0b"'],
        ["data", "pack", "x", "-o", "a\0b"],
    ],
)
def test_a_zero_byte_in_a_name_is_told_in_a_line(arguments):
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code in (1, 2)
    assert isinstance(result.exception, SystemExit)
    assert "zero byte" in " ".join(result.output.split()) or "null byte" in result.output


def test_no_lock_on_a_name_with_a_zero_byte():
    with pytest.raises(UserError, match="no name holds a zero byte"):
        OutputLock("a\0b")
