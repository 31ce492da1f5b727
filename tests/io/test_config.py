"""Configurations are read from files and the command line, checked, and dumped whole."""

import math

import pytest
import yaml
from pydantic import field_validator

from molflowctl.errors import UserError
from molflowctl.io.config import Config, packaged_configs
from molflowctl.tasks.generate.settings import GenerateConfig
from molflowctl.tasks.steering.settings import FinetuneConfig
from molflowctl.tasks.training.settings import ConformerTrainConfig, NetworkConfig, TrainConfig


def refused(config, values, *words, changes=None):
    with pytest.raises(UserError) as error:
        config.parse(values, changes, where="here.yaml")
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize("name", sorted(packaged_configs()))
def test_packaged_configurations_are_valid_and_round_trip(name, tmp_path):
    kind = ConformerTrainConfig if "conformers" in name else TrainConfig
    config = kind.read(name)
    assert config.name in name
    config.dump(tmp_path / "dumped.yaml")
    assert kind.read(tmp_path / "dumped.yaml") == config


def test_the_shipped_flows_have_a_configuration():
    assert {"qm9.yaml", "qm9-explicit.yaml"} <= set(packaged_configs())


def test_unknown_configuration_names_the_packaged_ones():
    with pytest.raises(UserError, match=r"no configuration qm8\.yaml.*qm9\.yaml"):
        TrainConfig.read("qm8.yaml")


def test_unknown_keys_are_refused_by_name():
    refused(TrainConfig, {"train_steps": 1, "stepps": 3}, "here.yaml", "stepps")
    refused(TrainConfig, {"train_steps": 1, "network": {"widht": 64}}, "network.widht")


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"train_steps": "many"}, "train_steps"),
        ({"train_steps": 1.5}, "train_steps"),
        ({"train_steps": 0}, "train_steps"),
        ({"minutes": -1}, "minutes"),
        ({"epochs": 0}, "epochs"),
        ({"train_steps": 1, "seed": -1}, "seed"),
        ({"train_steps": 1, "lr": 0}, "lr"),
        ({"train_steps": 1, "lr": math.nan}, "lr"),
        ({"train_steps": 1, "optimiser": "sgd"}, "optimiser"),
        ({"train_steps": 1, "network": 5}, "network"),
        ({"train_steps": 1, "network": {"width": "wide"}}, "network.width"),
        ({"train_steps": 1, "ema": 1.0}, "ema"),
    ],
)
def test_wrong_types_and_ranges_name_the_field(values, field):
    refused(TrainConfig, values, "here.yaml", f"{field}:")


@pytest.mark.parametrize("values", [{}, {"train_steps": 1, "minutes": 1}])
def test_a_training_has_one_length(values):
    refused(TrainConfig, values, "steps or minutes", "--set train_steps=1000")


def test_steps_for_a_configuration_that_has_minutes():
    with pytest.raises(UserError, match="--set minutes=null"):
        TrainConfig.read("qm9.yaml", ["train_steps=1000"])
    config = TrainConfig.read("qm9.yaml", ["train_steps=1000", "minutes=null"])
    assert (config.train_steps, config.minutes) == (1000, None)


def test_heads_divide_the_width():
    refused(TrainConfig, {"train_steps": 1, "network": {"width": 64, "heads": 7}}, "7 heads", "64")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("network.width=1000000", "network.width: should be less than or equal to 8192"),
        ("network.depth=1000000", "network.depth: should be less than or equal to 512"),
        ("network.pair_width=99999", "network.pair_width: should be less"),
        ("network.heads=1024", "network.heads: should be less"),
        ("network={width: 8192, depth: 500}", "width 8,192, pair_width 64 and depth 500 has"),
    ],
)
def test_an_absurd_network_is_refused_by_what_is_too_large(change, words):
    with pytest.raises(UserError) as caught:
        TrainConfig.parse({"train_steps": 1}, [change])
    assert words in str(caught.value)


def test_large_networks_are_within_the_bounds():
    for width, depth in ((1024, 24), (2048, 48), (4096, 12)):
        assert NetworkConfig(width=width, depth=depth, pair_width=512)


def test_changes_reach_nested_fields_and_are_typed():
    config = TrainConfig.parse(
        {"train_steps": 5, "network": {"depth": 2}},
        ["network.width=64", "lr=1e-3", "train_steps=null", "minutes=0.5", "init=qm9"],
    )
    assert config.network == NetworkConfig(depth=2, width=64)
    assert (config.lr, config.train_steps, config.minutes, config.init) == (1e-3, None, 0.5, "qm9")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("train_steps", ("key=value", "train_steps")),
        ("network.widht=3", ("network.widht",)),
        ("train_steps.deep=3", ("train_steps", "no group")),
        ("lr=[1", ("--set lr", "[1", "YAML")),
        ("lr=fast", ("lr:",)),
    ],
)
def test_bad_changes_are_named(change, words):
    refused(TrainConfig, {"train_steps": 1}, *words, changes=[change])


@pytest.mark.parametrize(
    "content",
    [b"train_steps: [1", b"- 1\n- 2\n", b"text", b"\xff\xfe\x00", b"train_steps: 1\n\tlr: 2"],
    ids=["unclosed", "list", "text", "binary", "tab"],
)
def test_files_that_are_no_mapping_are_refused(tmp_path, content):
    file = tmp_path / "bad.yaml"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.yaml"):
        TrainConfig.read(file)


def test_python_tags_are_refused_and_not_run(tmp_path):
    file, proof = tmp_path / "evil.yaml", tmp_path / "ran"
    file.write_text(f'train_steps: !!python/object/apply:os.system ["touch {proof}"]\n')
    with pytest.raises(UserError, match=r"evil\.yaml"):
        TrainConfig.read(file)
    refused(TrainConfig, {}, "YAML", changes=[f"train_steps=!!python/name:os.system {proof}"])
    assert not proof.exists()


def test_folder_in_place_of_a_file(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        TrainConfig.read(tmp_path)


def test_configurations_are_frozen():
    config = GenerateConfig(flow="qm9", out="-")
    with pytest.raises(ValueError, match="frozen"):
        config.n = 3


@pytest.mark.parametrize(
    ("values", "field"),
    [({"n": 0}, "n"), ({"relax": "xtb"}, "relax"), ({"seed": -1}, "seed"), ({"jobs": 0}, "jobs")],
)
def test_generate_checks_its_settings(values, field):
    refused(GenerateConfig, {"flow": "qm9", "out": "-"} | values, f" {field}:")


@pytest.mark.parametrize(
    ("values", "field"), [({"kl_weight": 0}, "kl_weight"), ({"mirror_steps": 0}, "mirror_steps")]
)
def test_finetune_checks_its_settings(values, field):
    refused(FinetuneConfig, {"flow": "qm9", "out": "x", "reward": "qed"} | values, f"{field}:")


def test_a_dump_is_plain_yaml(tmp_path):
    GenerateConfig(flow="qm9", out="x.sdf").dump(tmp_path / "c.yaml")
    values = yaml.safe_load((tmp_path / "c.yaml").read_text())
    assert values["flow"] == "qm9"
    assert set(values) == set(GenerateConfig.model_fields)


class Inner(Config):
    """Settings with checks of their own, when a value is read and when all are."""

    charge: int = 0
    spin: int = 1

    @field_validator("charge")
    @classmethod
    def check_charge(cls, value):
        if value > 9:
            raise UserError("charge: at most 9, with a reason.")
        return value

    def model_post_init(self, context):
        if self.charge % 2 == self.spin % 2:
            raise UserError("spin does not go with this charge.")


class Outer(Config):
    inner: Inner = Inner()


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"charge": 10}, "charge: at most 9, with a reason."),
        ({"charge": 1, "spin": 1}, "spin does not go with this charge."),
    ],
)
def test_a_check_is_refused_in_its_own_words_wherever_settings_are_made(values, sentence):
    made = (
        lambda: Inner(**values),
        lambda: Inner.parse(values),
        lambda: Outer(inner=values),
        lambda: Outer.parse({"inner": values}),
    )
    for make in made:
        with pytest.raises(UserError) as error:
            make()
        assert str(error.value) == sentence
    assert Outer.parse({"inner": {"charge": 2}}) == Outer(inner=Inner(charge=2))
    assert Outer(inner={"charge": 2}).inner.model_fields_set == {"charge"}


def test_settings_of_a_wrong_type_are_named_wherever_they_are_made():
    with pytest.raises(UserError, match=r"^Inner: charge: .*'two'"):
        Inner(charge="two")
    with pytest.raises(UserError, match=r"^Outer: inner\.charge: "):
        Outer(inner={"charge": "two"})
    refused(Outer, {"inner": {"charge": "two"}}, "inner.charge")
    refused(Outer, {3: 1}, "3")
