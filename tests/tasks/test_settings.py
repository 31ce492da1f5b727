"""`molflowctl settings`: every setting of every command is described, and can be read."""

import inspect
import json
import re
import subprocess
import sys

import pytest
import yaml
from typer.testing import CliRunner

from molflowctl.cli import BENCHMARK, COMMANDS, DATA, app
from molflowctl.errors import UserError
from molflowctl.io.config import Config, flat_fields
from molflowctl.tasks.settings import COMMANDS as SETTINGS
from molflowctl.tasks.settings import config_of, settings_of, shown
from molflowctl.tasks.steering.settings import FinetuneConfig
from molflowctl.tasks.training.settings import TrainConfig

# Imported before the classes are listed: their configurations stand beside the tasks.
CONFIGS = [config_of(command) for command in SETTINGS]


def every_config(kind=Config):
    for child in kind.__subclasses__():
        if child.__module__.startswith("molflowctl."):
            yield child
        yield from every_config(child)


@pytest.mark.parametrize("kind", sorted(set(every_config()), key=lambda k: k.__name__))
def test_every_setting_has_a_meaning_and_every_number_a_unit(kind):
    for name, field in flat_fields(kind).items():
        text = field.description or ""
        assert len(text) > 5, f"{kind.__name__}.{name} has no description"
        assert text[0].islower() or text.startswith(("RMSD", ".")), (kind, name, text)
        assert not text.endswith("."), (kind, name, text)
        written = f"{field.annotation} {getattr(field.annotation, '__name__', '')}"
        if {"int", "float"} & set(re.split(r"\W+", written)):
            assert text.endswith("]"), f"{kind.__name__}.{name}: of what? {text!r}"


def test_every_command_with_set_has_its_settings_listed():
    groups = {"": COMMANDS, "data ": DATA, "benchmark ": BENCHMARK}
    for prefix, commands in groups.items():
        for name, function in commands.items():
            if "changes" in inspect.signature(function).parameters:
                assert config_of(prefix + name).command == prefix + name
    for command in SETTINGS:
        assert config_of(command).command == command


@pytest.mark.parametrize("command", sorted(SETTINGS))
def test_the_list_fits_80_columns_and_names_everything(command):
    settings = settings_of(command)
    names = list(flat_fields(config_of(command)))
    assert [item.name for item in settings] == names
    text = shown(settings, "text")
    lines = text.splitlines()
    assert max(map(len, lines)) < 80
    # Each name begins a line, whole; what belongs to it is indented.
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == names
    words = " ".join(text.split())
    for item in settings:
        assert " ".join(item.meaning.split()) in words
        assert item.unit in words


@pytest.mark.parametrize("command", ["finetune", "train", "benchmark denovo"])
def test_json_holds_defaults_that_parse_to_themselves(command):
    found = json.loads(shown(settings_of(command), "json"))
    fields = flat_fields(config_of(command))
    for item in found:
        assert set(item) == {"name", "default", "unit", "values", "meaning"}
        field = fields[item["name"]]
        if item["default"] is None:
            assert field.is_required()
            continue
        value = yaml.safe_load(item["default"])
        own = field.default
        own = list(own) if isinstance(own, tuple) else own
        assert str(value) == str(own)


def test_markdown_has_a_row_each():
    lines = shown(settings_of("finetune"), "md").splitlines()
    assert len(lines) == 2 + len(flat_fields(FinetuneConfig))
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1


def test_limits_and_choices_are_said():
    found = {item.name: item for item in settings_of("train")}
    assert found["ema"].values == "number; at least 0, below 1"
    assert found["optimiser"].values == "one of muon, adamw"
    assert found["network.depth"].default == "6"
    assert (found["validate_minutes"].unit, found["train_steps"].default) == ("minutes", "null")
    assert "guidance" in {i.name: i for i in settings_of("finetune")}["solver"].values


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fintune"], ["did you mean finetune?"]),
        (["denovo"], ["benchmark denovo"]),
        (["flows"], ["has no settings", "finetune"]),
        (["finetune", "--format", "xml"], ["text, md, json", "xml"]),
    ],
)
def test_what_has_no_settings_is_told(arguments, words):
    result = CliRunner().invoke(app, ["settings", *arguments])
    assert result.exit_code == 1
    assert all(word in " ".join(result.output.split()) for word in words), result.output


def test_without_a_command_the_commands_are_listed():
    result = CliRunner().invoke(app, ["settings"])
    assert result.output.split("\n")[:-1] == list(SETTINGS)


@pytest.mark.parametrize(
    ("kind", "values", "near"),
    [
        (TrainConfig, {"train_steps": 1, "train_stepps": 3}, "did you mean train_steps?"),
        (TrainConfig, {"train_steps": 1, "network": {"widht": 64}}, "did you mean network.width"),
        (TrainConfig, {"train_steps": 1, "depth": 64}, "did you mean network.depth?"),
        (
            TrainConfig,
            {"train_steps": 1, "zzz": 64},
            "there is no such setting; `molflowctl settings",
        ),
    ],
)
def test_a_misspelt_setting_gets_the_nearest_and_the_list(kind, values, near):
    with pytest.raises(UserError) as error:
        kind.parse(values, where="here.yaml")
    assert near in str(error.value)
    assert f"`molflowctl settings {kind.command}` lists all" in str(error.value)
    assert "\n" not in str(error.value)


def test_settings_import_nothing_heavy():
    code = (
        "import sys; from typer.testing import CliRunner; from molflowctl.cli import app;"
        "assert CliRunner().invoke(app, ['settings', 'finetune']).exit_code == 0;"
        "print(sorted({'torch', 'rdkit', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
