"""Cards of the shipped flows are read today, and their commands make the flows that they say."""

import json
import runpy
import shlex
import warnings
from pathlib import Path

import click
import pytest
import typer

from molflowctl.cli import app
from molflowctl.errors import OldSpelling
from molflowctl.models import Flow, flow_names
from molflowctl.tasks.preparation.settings import EnsembleConfig
from molflowctl.tasks.steering.settings import FinetuneConfig
from molflowctl.tasks.training.settings import ConformerTrainConfig, TrainConfig

ROOT = Path(__file__).parents[2]
SHELF = ROOT / "molflowctl" / "models" / "weights"
CARDS = {
    path.parent.name: json.loads(path.read_text()) for path in sorted(SHELF.glob("*/card.json"))
}
KINDS = {
    "train": TrainConfig,
    "train-conformers": ConformerTrainConfig,
    "finetune": FinetuneConfig,
    "data prepare-conformers": EnsembleConfig,
}
# Where a run is, what it is called, how it is watched and how fast it goes makes no other flow.
PLACES = {"name", "data", "init", "out", "flow", "jobs", "device", "timeout", "test_samples"}
WATCHED = {"validate_minutes", "checkpoint_minutes", "sample_every", "samples", "sample_nfe"}
LENGTHS = {"train_steps", "minutes", "epochs"}
# What the data sets of `data prepare` are called where no -o says so.
USUAL = {"qm9": "datasets/qm9-implicit", "druglike": "datasets/druglike"}


def parsed(line: str) -> tuple[str, dict]:
    """A command as the program takes it: its name and its parameters; nothing is run."""
    command: click.Command = typer.main.get_command(app)
    words, names = shlex.split(line)[1:], []
    while hasattr(command, "commands"):
        names.append(words.pop(0))
        command = command.commands[names[-1]]
    return " ".join(names), command.make_context(names[-1], words).params


def settings(name: str, given: dict):
    """The settings of a command with these parameters, made as the command makes them."""
    kind = KINDS[name]
    changes = list(given.get("changes") or [])
    if name.startswith("train"):
        options = {key: given.get(key) for key in ("init", "data")}
        changes = [f"{k}={json.dumps(str(v))}" for k, v in options.items() if v] + changes
        return kind.read(given["config"] or "own.yaml", changes)
    # An option that may be given several times and was not is an empty list.
    known = {k: v for k, v in given.items() if k in kind.model_fields and v not in (None, [], ())}
    return kind.parse(known, changes)


def lines() -> list[tuple[str, str]]:
    return [(flow, line) for flow, card in CARDS.items() for line in card["retrain"]]


def test_every_shipped_flow_has_a_card_and_says_how_it_is_made_again():
    assert set(CARDS) == {name for name, folder in flow_names().items() if folder.parent == SHELF}
    assert all(card["retrain"] and card["licence"] and card["data"] for card in CARDS.values())


@pytest.mark.parametrize("flow", CARDS)
def test_it_loads_and_its_settings_are_read_today(flow):
    card = CARDS[flow]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OldSpelling)  # of the names that it was made with
        if "training" in card:
            conformers = card["kind"] == "conformer"
            (ConformerTrainConfig if conformers else TrainConfig).parse(card["training"]["config"])
        if "finetune" in card:
            FinetuneConfig.parse(card["finetune"]["config"])
    assert "training" in card or "finetune" in card
    assert Flow.from_pretrained(flow).card["weights_sha256"] == card["weights_sha256"]


@pytest.mark.parametrize(("flow", "line"), lines())
def test_a_command_of_a_card_is_understood(flow, line):
    words = shlex.split(line)
    if words[0] == "python":
        assert (ROOT / words[1]).is_file()
        return
    assert words[0] == "molflowctl"
    with warnings.catch_warnings():
        warnings.simplefilter("error", OldSpelling)
        name, given = parsed(line)
        if name in KINDS:
            settings(name, given)


@pytest.mark.parametrize("flow", CARDS)
def test_every_command_of_a_card_has_what_it_needs(flow):
    made = set()
    for line in CARDS[flow]["retrain"]:
        words = shlex.split(line)
        if words[0] == "python":
            continue
        name, given = parsed(line)
        needed = [w for w in words[1:] if w.startswith(("datasets/", "runs/"))]
        needed += [w.partition("=")[2] for w in words if "=datasets/" in w or "=runs/" in w]
        if name.startswith("train"):
            config = settings(name, given)
            needed += [str(config.data), *([config.init] if config.init else [])]
        out = str(given.get("out") or "")
        for place in needed:
            folder = "/".join(place.split("/")[:2])
            known = folder in made or place in CARDS or folder == out
            assert known, f"{line}: nothing has made {place}"
        made.add(out)
        if name == "data prepare":
            source = given.get("name") or words[3]
            made |= {USUAL[source], f"datasets/{source}-{given.get('hydrogens')}"}


@pytest.mark.parametrize("flow", [flow for flow, card in CARDS.items() if "training" in card])
def test_the_last_training_is_that_of_the_card(flow):
    trainings = [line for line in CARDS[flow]["retrain"] if line.startswith("molflowctl train")]
    if not trainings:
        pytest.skip("made by a script, which trains several times")
    # What finished it after that training, its stages tell.
    after = sum(stage["command"] == "train" for stage in CARDS[flow].get("stages", []))
    name, given = parsed(trainings[-1 - after])
    now = settings(name, given).model_dump(mode="json")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OldSpelling)
        then = KINDS[name].parse(CARDS[flow]["training"]["config"]).model_dump(mode="json")
    # A run that was interrupted is told by its steps; one that goes on from a flow has its scales.
    free = PLACES | WATCHED | (LENGTHS if now["train_steps"] else set())
    free |= {"position_scale", "category_scale", "network"} if now["init"] else set()
    assert {k: v for k, v in now.items() if k not in free} == {
        k: v for k, v in then.items() if k not in free
    }


@pytest.mark.parametrize("flow", [flow for flow, card in CARDS.items() if "finetune" in card])
def test_the_last_command_of_a_steered_flow_steers_it_as_the_card_says(flow):
    name, given = parsed(CARDS[flow]["retrain"][-1])
    assert name == "finetune"
    now = settings(name, given).model_dump(mode="json")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OldSpelling)
        then = FinetuneConfig.parse(CARDS[flow]["finetune"]["config"]).model_dump(mode="json")
    assert {k: v for k, v in now.items() if k not in PLACES} == {
        k: v for k, v in then.items() if k not in PLACES
    }


def test_flows_ship_with_the_commands_of_their_cards():
    retrain = runpy.run_path(str(ROOT / "benchmarks" / "ship.py"))["RETRAIN"]
    assert {flow: CARDS[flow]["retrain"] for flow in retrain} == retrain
