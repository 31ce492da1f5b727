"""Names of the release before: each works, with a line that says its name of now."""

import json
import re
import warnings
from pathlib import Path

import pytest
from typer.testing import CliRunner

from molflowctl.cli import BENCHMARK, COMMANDS, DATA, app
from molflowctl.errors import OldSpelling, UserError
from molflowctl.io.config import SPELLINGS, Config, of_a_record
from molflowctl.models.zoo import flow_names
from molflowctl.tasks.conformers.settings import ConformersConfig
from molflowctl.tasks.generate.settings import GenerateConfig
from molflowctl.tasks.settings import COMMANDS as SETTINGS
from molflowctl.tasks.settings import config_of
from molflowctl.tasks.steering.settings import (
    ConformerFinetuneConfig,
    ConformerMergeConfig,
    FinetuneConfig,
    MergeConfig,
)
from molflowctl.tasks.training.settings import ConformerTrainConfig, TrainConfig

ROOT = Path(__file__).parents[2]
REQUIRED = {
    "flow": "qm9", "out": "x", "source": "CCO", "reward": "qed", "circuit": "a & b",
    "properties": ["qed"], "flows": ["qm9"], "models": ["etkdg"], "reference": "x.sdf",
    "library": "x.sdf", "by": "qed", "property": "qed", "data": "x",
}  # fmt: skip


def needed(kind: type[Config]) -> dict:
    """Settings without which there is no `kind`."""
    fields = kind.model_fields
    found = {name: REQUIRED[name] for name, field in fields.items() if field.is_required()}
    return found | ({"train_steps": 1} if issubclass(kind, TrainConfig) else {})


def renamed() -> list[tuple[str, str, str]]:
    return [
        (command, old, new)
        for command in SETTINGS
        if command != "data subset"
        for old, new in config_of(command).every_old_name().items()
    ]


def value_of(kind: type[Config], name: str):
    """A value that a setting can have and has not by default."""
    default = kind.model_fields[name].default
    for value in (3, 0.25, 17, 0.7, 299.5, ["positions"], True, 16):
        if value == default:
            continue
        try:
            kind.parse(needed(kind) | {name: value})
        except UserError:
            continue
        return value
    raise AssertionError(f"{kind.__name__}.{name}")


@pytest.mark.parametrize(("command", "old", "new"), renamed())
def test_a_setting_by_its_old_name_is_the_same_setting(command, old, new, tmp_path):
    kind = config_of(command)
    value = value_of(kind, new)
    whole = kind.parse(needed(kind) | {new: value})
    said = rf"^{old} is {new} now: the old name goes with the next release$"
    base = {name: item for name, item in needed(kind).items() if name != new}
    with pytest.warns(OldSpelling, match=said):
        assert kind.parse(base | {old: value}) == whole
    with pytest.warns(OldSpelling, match=said):
        assert kind(**base | {old: value}) == whole
    with pytest.warns(OldSpelling, match=said):
        assert kind.parse(needed(kind), [f"{old}={json.dumps(value)}"]) == whole
    file = tmp_path / "settings.yaml"
    file.write_text(json.dumps(base | {old: value}))
    with pytest.warns(OldSpelling, match=said):
        assert kind.read(file) == whole
    with pytest.raises(UserError, match=f"{old} and {new} are one setting"):
        kind.parse(base | {old: value, new: value})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kind.of_record({old: value})[new] == value


@pytest.mark.parametrize(("command", "old", "new"), renamed())
def test_what_is_wrong_with_it_is_told_by_its_new_name_at_its_line(command, old, new, tmp_path):
    kind = config_of(command)
    file = tmp_path / "settings.yaml"
    base = {name: item for name, item in needed(kind).items() if name != new}
    lines = [f"{name}: {json.dumps(item)}" for name, item in base.items()]
    file.write_text("\n".join([*lines, f"{old}: {{}}"]))
    with of_a_record(), pytest.raises(UserError, match=rf"line {len(lines) + 1}: {new}: "):
        kind.read(file)


def test_a_change_wins_over_the_file_by_either_name():
    base = {"flow": "qm9", "out": "x", "reward": "qed"}
    with pytest.warns(OldSpelling):
        assert FinetuneConfig.parse(base | {"rounds": 3}, ["mirror_steps=5"]).mirror_steps == 5
    with pytest.warns(OldSpelling):
        assert FinetuneConfig.parse(base | {"mirror_steps": 3}, ["rounds=5"]).mirror_steps == 5


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"divergence": ["kl:0.5"]}, {"kl_weight": 0.5}),
        ({"divergence": ["kl=0.5"]}, {"kl_nats": 0.5}),
        ({"divergence": ["w1:1.5", "kl:0.5"]}, {"divergence": ["w1:1.5"], "kl_weight": 0.5}),
        ({"utility": ["super-quantile:0.9"]}, {"utility": ["upper-cvar:0.1"]}),
        ({"utility": ["mean", "super-quantile:0.7"]}, {"utility": ["mean", "upper-cvar:0.3"]}),
    ],
)
def test_old_forms_of_an_objective(old, new):
    base = {"flow": "qm9", "out": "x", "reward": "qed"}
    with pytest.warns(OldSpelling):
        assert FinetuneConfig.parse(base | old) == FinetuneConfig.parse(base | new)


def test_kl_is_by_weight_or_by_nats():
    base = {"flow": "qm9", "out": "x", "reward": "qed"}
    assert FinetuneConfig.parse(base).penalties == ("kl:1",)
    assert FinetuneConfig.parse(base | {"divergence": ["w1:2"]}).penalties == ("w1:2",)
    both = FinetuneConfig.parse(base | {"divergence": ["w1:2"], "kl_weight": 0.25})
    assert both.penalties == ("w1:2", "kl:0.25")
    assert FinetuneConfig.parse(base | {"kl_nats": 0.3}).penalties == ()
    for more in ({"kl_weight": 1.0}, {"divergence": ["w1:2"]}):
        with pytest.raises(UserError, match="leave out kl_weight and divergence"):
            FinetuneConfig.parse(base | {"kl_nats": 0.3} | more)


@pytest.mark.parametrize(
    ("given", "nfe", "steps"),
    [
        ({}, None, None),
        ({"sampler": "heun"}, None, None),
        ({"nfe": 10}, 10, 10),
        ({"nfe": 10, "sampler": "heun"}, 10, 5),
        ({"nfe": 1, "sampler": "heun"}, 1, 1),
        ({"steps": 10, "sampler": "euler"}, 10, 10),
        ({"steps": 10, "sampler": "heun"}, 20, 10),
    ],
)
def test_evaluations_of_a_conformer_and_its_steps(given, nfe, steps):
    with of_a_record():
        config = ConformersConfig(source="CCO", out="-", **given)
    assert (config.nfe, config.steps) == (nfe, steps)


@pytest.mark.parametrize("american", SPELLINGS)
def test_american_spellings_are_right_too(american):
    british = SPELLINGS[american]
    kinds = [k for k in map(config_of, SETTINGS) if british in k.model_fields]
    assert kinds
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in kinds:
            value = (
                value_of(kind, british)
                if british == "minimise"
                else kind.model_fields[british].default
            )
            assert kind.parse(needed(kind) | {american: value}) == kind.parse(
                needed(kind) | {british: value}
            )


OPTIONS = [
    ("generate", "--evaluations", "--nfe"),
    ("generate", "--churn", "--stochasticity"),
    ("conformers", "--prune", "--rmsd-threshold"),
    ("conformers", "--boltzmann", "--temperature-K"),
    ("conformers", "--steps", "--nfe"),
    ("conformers", "--noise", "--noise-scale"),
    ("finetune", "--rounds", "--mirror-steps"),
    ("finetune", "--kl", "--kl-weight"),
    ("merge", "--rounds", "--mirror-steps"),
    ("merge", "--strength", "--reward-weight"),
    ("finetune-conformers", "--kl", "--kl-weight"),
    ("merge-conformers", "--strength", "--reward-weight"),
    ("data prepare-conformers", "--starts", "--etkdg-conformers"),
    ("benchmark denovo", "--evaluations", "--nfe"),
    ("benchmark conformers", "--steps", "--nfe"),
]


@pytest.mark.parametrize(("command", "old", "new"), OPTIONS)
@pytest.mark.parametrize("joined", [True, False])
def test_an_option_by_its_old_name_is_the_new_one(command, old, new, joined):
    """A value that cannot be is told of the new option, after the warning."""
    words = [f"{old}=wrong"] if joined else [old, "wrong"]
    with pytest.warns(OldSpelling, match=f"^{old} wrong is {new} wrong now: "):
        result = CliRunner().invoke(app, [*command.split(), *words, "-o", "x"])
    assert result.exit_code == 2
    assert new in result.output
    shown = CliRunner().invoke(app, [*command.split(), "--help"]).output
    assert new in shown
    assert not re.search(rf"{old}\b(?!-)", shown)


def test_steps_of_heun_count_twice(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["conformers", "CC[", "--sampler", "heun", "--steps", "7", "-o", "x.sdf"]
    with pytest.warns(OldSpelling, match="^--steps 7 is --nfe 14 now"):
        CliRunner().invoke(app, words)


def test_an_old_option_without_its_value_is_told():
    result = CliRunner().invoke(app, ["conformers", "CCO", "--steps"])
    assert (result.exit_code, "--steps" in result.output) == (2, True)


def test_no_help_shows_an_old_option():
    for prefix, commands in (("", COMMANDS), ("data ", DATA), ("benchmark ", BENCHMARK)):
        for name in {prefix + command for command in commands} & set(SETTINGS):
            shown = CliRunner().invoke(app, [*name.split(), "--help"]).output
            for old in config_of(name).every_old_name():
                assert not re.search(rf"--{old.replace('_', '-')}(?![\w-])", shown), (name, old)


@pytest.mark.parametrize("name", flow_names())
def test_settings_in_cards_of_shipped_flows_are_those_of_now(name):
    """Those of trainings and steerings; the names are of whichever release made the flow."""
    card = json.loads((flow_names()[name] / "card.json").read_text())
    kinds = {
        "training": ConformerTrainConfig if card["kind"] == "conformer" else TrainConfig,
        "finetune": FinetuneConfig,
        "merge": MergeConfig,
        "finetune-conformers": ConformerFinetuneConfig,
        "merge-conformers": ConformerMergeConfig,
    }
    found = [part for part in kinds if "config" in card.get(part, {})]
    assert found or name == "druglike-qed"
    for part in found:
        kinds[part].parse(kinds[part].of_record(card[part]["config"]), where=f"{name}, {part}")


def texts() -> list[Path]:
    places = [
        ROOT / "README.md",
        ROOT / "data" / "README.md",
        *sorted((ROOT / "docs").glob("*.md")),
    ]
    places += sorted((ROOT / "benchmarks").glob("**/*.md"))
    places += sorted((ROOT / "molflowctl").glob("**/*.py"))
    places += sorted((ROOT / "molflowctl").glob("**/*.yaml"))
    return places + sorted((ROOT / "molflowctl").glob("**/card.json"))


COMMAND = re.compile(r"molflowctl ((?:data |benchmark )?[a-z-]+)((?:[^\n`|#\\]|\\\n)*)")


@pytest.mark.parametrize("path", texts(), ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_that_are_written_down_have_no_old_name(path):
    for command, rest in COMMAND.findall(path.read_text()):
        if command not in SETTINGS:
            continue
        old = config_of(command).every_old_name()
        options = {f"--{name.replace('_', '-')}" for name in old}
        assert not options & set(re.split(r"[\s=\"']+", rest)), (command, rest)
        assert not set(old) & set(re.findall(r"--set (\w+)=", rest)), (command, rest)
        assert not re.search(r"\bkl[:=]|super-quantile:", rest), (command, rest)


def test_the_record_of_an_earlier_release_is_resumed(tmp_path):
    from molflowctl.tasks.generate.resume import settings_to_resume

    config = GenerateConfig(flow="qm9", out=str(tmp_path / "l.sdf"), nfe=12, stochasticity=2.0)
    values = config.model_dump(mode="json")
    values["evaluations"], values["churn"] = values.pop("nfe"), values.pop("stochasticity")
    record = {"command": "generate", "config": values}
    (tmp_path / "l.sdf.run.json").write_text(json.dumps(record))
    found = settings_to_resume(str(tmp_path / "l.sdf"), {"nfe": 12})
    assert (found["nfe"], found["stochasticity"]) == (12, 2.0)
    with pytest.raises(UserError, match="nfe = 12, not 13"):
        settings_to_resume(str(tmp_path / "l.sdf"), {"nfe": 13})
