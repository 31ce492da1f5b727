import math

import numpy as np
import pytest
import yaml
from rdkit import Chem

from molflowctl.errors import UserError
from molflowctl.properties import register, registry
from molflowctl.properties.cache import Cache
from molflowctl.properties.reward_parsing import parse_reward
from molflowctl.properties.rewards import (
    GeometricMean,
    Identity,
    Product,
    PropertyReward,
    Ramp,
    Range,
    Sigmoid,
    Step,
)

DESIRABILITIES = [
    Sigmoid(0.6, 0.1),
    Sigmoid(-3.0, -2.0),
    Step(1.5),
    Ramp(-1.0, 3.0),
    Ramp(3.0, -1.0),
    Range(1.0, 3.0),
    Range(1.0, 3.0, 0.5),
]
SPECS = [
    "dipole_debye",
    "-xtb_energy_hartree",
    "sigmoid(qed, 0.6, 0.1)",
    "step(-sa_score, -4.0)",
    "ramp(logp, 0.0, 3.0)",
    "range(logp, 1.0, 3.0, 0.5)",
    "product(sigmoid(qed, 0.6, 0.1), step(logp, 2.0))",
    "geometric_mean(sigmoid(qed, 0.6, 0.1), range(logp, 1.0, 3.0, 1.0), weights=[2.0, 1.0])",
    "product(geometric_mean(step(qed, 0.5), step(mw, 100.0)), step(logp, 2.0))",
]
MOLS = [Chem.MolFromSmiles(smiles) for smiles in ("CCO", "c1ccccc1O", "CC(=O)Oc1ccccc1C(=O)O")]
Y = np.array([-1e6, -3.0, 0.0, 0.6, 1.0, 1.25, 1.5, 3.0, 3.5, 1e6])


@pytest.fixture
def clean_registry(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))


@pytest.mark.parametrize("transform", DESIRABILITIES, ids=str)
def test_desirabilities_lie_between_0_and_1_and_keep_nan(transform):
    d = transform(np.append(Y, np.nan))
    assert d.dtype == np.float64
    assert (d[:-1] >= 0).all()
    assert (d[:-1] <= 1).all()
    assert np.isnan(d[-1])
    assert len(set(d[:-1])) > 1


@pytest.mark.parametrize(
    ("transform", "y", "expected"),
    [
        (Identity(), -3.5, -3.5),
        (Sigmoid(0.6, 0.1), 0.6, 0.5),
        (Sigmoid(0.6, 0.1), 0.7, 1 / (1 + math.exp(-1))),
        (Sigmoid(0.6, -0.1), 0.7, 1 / (1 + math.exp(1))),
        (Sigmoid(0.0, 1e-3), -100.0, 0.0),
        (Step(1.5), 1.5, 1.0),
        (Step(1.5), 1.5 - 1e-9, 0.0),
        (Ramp(-1.0, 3.0), 0.0, 0.25),
        (Ramp(3.0, -1.0), 0.0, 0.75),
        (Ramp(-1.0, 3.0), 9.0, 1.0),
        (Range(1.0, 3.0, 0.5), 0.75, 0.5),
        (Range(1.0, 3.0, 0.5), 3.125, 0.75),
        (Range(1.0, 3.0, 0.5), 3.5, 0.0),
        (Range(1.0, 3.0), 3.0, 1.0),
        (Range(1.0, 3.0), 3.1, 0.0),
    ],
)
def test_closed_forms(transform, y, expected):
    assert transform(np.array([y]))[0] == pytest.approx(expected, abs=1e-12)


def test_combinations_are_those_of_derringer_and_suich():
    columns = {"qed": np.array([0.6, 0.7]), "logp": np.array([0.75, 3.5])}
    a, b = PropertyReward("qed", Sigmoid(0.6, 0.1)), PropertyReward("logp", Range(1.0, 3.0, 0.5))
    da, db = np.array([0.5, 1 / (1 + math.exp(-1))]), np.array([0.5, 0.0])
    assert Product((a, b)).of(columns) == pytest.approx(da * db)
    assert GeometricMean((a, b)).of(columns) == pytest.approx(np.sqrt(da * db))
    weighted = GeometricMean((a, b), (3.0, 1.0)).of(columns)
    assert weighted == pytest.approx((da**3 * db) ** 0.25)
    assert GeometricMean((a, a, a)).of(columns) == pytest.approx(da)
    assert GeometricMean((a, b), (30.0, 10.0)).of(columns) == pytest.approx(weighted)


@pytest.mark.parametrize("spec", SPECS)
def test_specification_round_trip(spec):
    assert str(parse_reward(spec)) == spec
    assert parse_reward(str(parse_reward(spec))) == parse_reward(spec)


def test_parsed_objects():
    assert parse_reward(" - dipole_debye ") == PropertyReward("dipole_debye", negative=True)
    assert parse_reward("sigmoid(qed, width=0.1, midpoint=0.6)") == PropertyReward(
        "qed", Sigmoid(0.6, 0.1)
    )
    assert parse_reward("ramp(-logp, -3, 1e0)") == PropertyReward("logp", Ramp(-3.0, 1.0), True)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("sigmoid(qed, 0.6, 0.1)", "sigmoid(qed, 0.6, 0.1)"),
        ("{property: -dipole_debye}", "-dipole_debye"),
        (
            "{property: qed, transform: sigmoid, midpoint: 0.6, width: 0.1}",
            "sigmoid(qed, 0.6, 0.1)",
        ),
        (
            "geometric_mean: [{property: qed, transform: step, threshold: 1}, 'step(mw, 100)']\n"
            "weights: [2, 1]",
            "geometric_mean(step(qed, 1), step(mw, 100), weights=[2, 1])",
        ),
        ("{product: ['step(qed, 1)']}", "product(step(qed, 1))"),
    ],
)
def test_yaml(text, spec):
    assert parse_reward(yaml.safe_load(text)) == parse_reward(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "not a reward"),
        ("sigmoid(qed", "not a reward"),
        ("ged", "unknown property 'ged'"),
        ("qed + logp", "not the name of a property"),
        ("2 * qed", "not the name of a property"),
        ("__import__('os').system('true')", "unknown transform"),
        ("sigmoid(__import__('os'), 1, 1)", "not the name of a property"),
        ("sigmoid(qed, [].__class__, 1)", "not a number"),
        ("sigmoid(qed, 1e999, 1)", "finite"),
        ("sigmoid(qed, 0.5)", "takes a property and midpoint, width"),
        ("sigmoid(qed, 0.5, 1, 2)", "takes a property and midpoint, width"),
        ("sigmoid(qed, 0.5, 0)", "must not be 0"),
        ("sigmoid()", "names no property"),
        ("bump(qed, 1)", "unknown transform 'bump'"),
        ("range(qed, 3, 1)", "low <= high"),
        ("ramp(qed, 3, 3)", "two different ends"),
        ("product(qed, step(logp, 1))", "qed is no desirability"),
        ("product()", "at least one"),
        ("product(step(qed, 1), weights=[1])", "no weights"),
        ("geometric_mean(step(qed, 1), weights=[1, 2])", "1 rewards do not go with 2 weights"),
        ("geometric_mean(step(qed, 1), weights=[-1])", "positive"),
        ("geometric_mean(step(qed, 1), weights=3)", "list of numbers"),
        ("geometric_mean(step(qed, 1), scale=3)", "no option scale"),
        ("lambda: qed", "not the name of a property"),
        ("(" * 500 + "qed" + ")" * 500, "not a reward"),
        ({"transform": "step"}, "names a property"),
        ({"property": "qed", "midpoint": 1}, "there is none"),
        ({"property": "qed", "transform": "step", "threshold": "x"}, "not a number"),
        ({"property": "qed", "transform": "step", "treshold": 1}, "takes a property and threshold"),
        ({"product": "qed"}, "list of rewards"),
        (3, "a text or a mapping"),
    ],
)
def test_bad_specifications(spec, message):
    with pytest.raises(UserError, match=message):
        parse_reward(spec)


@pytest.mark.usefixtures("clean_registry")
def test_columns_and_hyphens():
    @register("pair", unit="", version=1, description="d", columns=("atoms", "bonds"))
    def pair(mol):
        return {"atoms": mol.GetNumAtoms(), "bonds": mol.GetNumBonds()}

    @register("ring-count", unit="", version=1, description="d")
    def ring_count(mol):
        return mol.GetRingInfo().NumRings()

    assert parse_reward("-pair.bonds").value(MOLS, timeout=None).tolist() == [-2, -7, -13]
    assert parse_reward("-ring-count").value(MOLS, timeout=None).tolist() == [0, -1, -1]
    with pytest.raises(UserError, match=r"choose a column of pair, .* atoms, bonds"):
        parse_reward("pair")
    with pytest.raises(UserError, match="choose a column"):
        parse_reward("pair.rings")


@pytest.mark.usefixtures("clean_registry")
def test_values_go_through_score_and_failures_stay_nan(tmp_path):
    calls = tmp_path / "calls"

    @register("picky", unit="", version=1, description="d", engine="picky")
    def picky(mol):
        with calls.open("a") as file:
            file.write("x")
        if mol.GetNumAtoms() == 7:
            raise registry.PropertyError("seven atoms")
        return mol.GetNumAtoms()

    reward = parse_reward("product(step(picky, 5), ramp(-mw, -200, 0))")
    assert reward.properties == ("picky", "mw")
    with Cache(tmp_path / "c.sqlite") as cache:
        first = reward.score(MOLS, timeout=None, cache=cache)
        again = reward.score(MOLS, timeout=None, cache=cache)
    assert calls.read_text() == "xxx"
    for scores in (first, again):
        assert scores["reward"][0] == 0
        assert np.isnan(scores["reward"][1])
        assert scores["reward"][2] == pytest.approx(1 - 180.159 / 200, abs=1e-4)
        assert scores.errors[1] == {"picky": "seven atoms", "reward": "picky: seven atoms"}
        assert scores.errors[0] == scores.errors[2] == {}
