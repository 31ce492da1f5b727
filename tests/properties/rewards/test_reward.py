import math
import pickle
import re

import numpy as np
import pytest
import yaml
from rdkit import Chem

from molflowctl.errors import OldSpelling, UserError
from molflowctl.properties import register, registry
from molflowctl.properties.cache import Cache
from molflowctl.properties.rewards import PropertyReward
from molflowctl.properties.rewards.desirabilities import Gauss, Ramp, Range, Sigmoid, Step
from molflowctl.properties.rewards.reward import NO_NUMBER

DESIRABILITIES = [
    Sigmoid(0.6, 0.1),
    Sigmoid(-3.0, -2.0),
    Step(1.5),
    Ramp(-1.0, 3.0),
    Ramp(3.0, -1.0),
    Range(1.0, 3.0),
    Range(1.0, 3.0, 0.5),
    Gauss(1.0, 2.0),
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
    "qed + where(largest_ring > 6.0, -1.0, 0.0)",
    "qed > 0.7 and 1.0 <= logp <= 3.0 and not brenk_alerts > 0.0",
    "(qed > 0.7 or logp < 1.0) and mw != 3.0",
    "not (qed > 0.7 and logp < 1.0)",
    "(not qed > 0.7) == (logp > 1.0)",
    "mean(gauss(mw, 350.0, 50.0), qed, weights=[1.0, 2.0])",
    "min(qed, abs(logp), sqrt(mw), log10(tpsa), -3.0)",
    "logp - (mw - tpsa) / (2.0 * qed)",
    "(-logp) ** 2.0 - -logp ** 2.0 * (qed - 1.0)",
    "(2.0 ** qed) ** logp - 2.0 ** qed ** -logp",
    'smarts("[#7]S(=O)=O") >= 1.0',
    'smarts("F/C=C\\F") * 2.0',
    "--qed - -0.5",
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
        (Gauss(1.0, 2.0), 1.0, 1.0),
        (Gauss(1.0, 2.0), 3.0, math.exp(-0.5)),
        (Gauss(1.0, 2.0), -1.0, math.exp(-0.5)),
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
    a, b = "sigmoid(qed, 0.6, 0.1)", "range(logp, 1, 3, 0.5)"
    da, db = np.array([0.5, 1 / (1 + math.exp(-1))]), np.array([0.5, 0.0])

    def of(text):
        return PropertyReward(text).of(columns)

    assert of(f"product({a}, {b})") == pytest.approx(da * db)
    assert of(f"geometric_mean({a}, {b})") == pytest.approx(np.sqrt(da * db))
    weighted = of(f"geometric_mean({a}, {b}, weights=[3, 1])")
    assert weighted == pytest.approx((da**3 * db) ** 0.25)
    assert of(f"geometric_mean({a}, {a}, {a})") == pytest.approx(da)
    assert of(f"geometric_mean({a}, {b}, weights=[30, 10])") == pytest.approx(weighted)
    assert of(f"mean({a}, {b}, weights=[3, 1])") == pytest.approx((3 * da + db) / 4)


@pytest.mark.parametrize("spec", SPECS)
def test_specification_round_trip(spec):
    assert str(PropertyReward(spec)) == spec
    assert PropertyReward(str(PropertyReward(spec))) == PropertyReward(spec)
    assert hash(PropertyReward(spec)) == hash(PropertyReward(spec))
    assert pickle.loads(pickle.dumps(PropertyReward(spec))).text == spec


# What a text means, by Python's own arithmetic: operators bind as there.
ARITHMETIC = [
    "x + 2 * y - 3",
    "-x ** 2",
    "(-x) ** 2",
    "2 ** -x",
    "2 ** x ** 0.5",
    "x - y - 1",
    "x / y / 2",
    "x - (y - 1)",
    "-x * -y",
    "x < y",
    "1 <= x < y + 1",
    "x > y or x == y",
    "not x > y and y > 1",
    "not (x > y and y > 1)",
    "x > 1 and y > 1 or x < y",
    "x != 2",
    "(x > 1) + (y > 1)",
    "min(x, y) - max(x, y, 3)",
    "abs(x - y)",
    "+x - +2",
    "1e-2 * x + .5 * y + 2. - 1E1",
]


@pytest.mark.parametrize("text", ARITHMETIC)
def test_operators_bind_as_in_python(text):
    x, y = np.array([0.5, 2.0, 3.0, 1.5]), np.array([2.0, 2.0, 0.25, 4.0])
    found = PropertyReward(text, ["x", "y"]).of({"x": x, "y": y})
    expected = [eval(text, {"x": a, "y": b}) for a, b in zip(x.tolist(), y.tolist(), strict=True)]
    assert found.dtype == np.float64
    assert found == pytest.approx(np.array(expected, float))


@pytest.mark.parametrize(
    "text",
    [
        "x + 1", "0 * x", "x ** 0", "x > 1", "not x > 1", "x > 1 and y > 5", "y > 0 or x > 1",
        "where(y > 0, y, x)", "where(x > 0, y, y)", "min(x, y)", "max(x, y)", "mean(x, y)",
        "product(step(x, 1), step(y, 9))", "geometric_mean(step(x, 1), step(y, 9))", "x == x",
        "gauss(x, 1, 1)", "x != 1", "abs(x)",
    ],
)  # fmt: skip
def test_what_failed_in_a_part_failed_as_a_whole(text):
    x, y = np.array([np.nan, 1.0]), np.array([1.0, 1.0])
    failed, there = PropertyReward(text, ["x", "y"]).of({"x": x, "y": y})
    assert np.isnan(failed)
    assert np.isfinite(there)


@pytest.mark.parametrize("text", ["1 / x", "log(x)", "sqrt(x - 1)", "10 ** (999 + x)", "x ** -1"])
def test_what_is_no_number_is_nan_without_a_warning(text, recwarn):
    assert np.isnan(PropertyReward(text, ["x"]).of({"x": np.zeros(1)})).all()
    assert not recwarn.list


def test_bounds_hold_for_every_value_between_those_of_the_properties():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(-2, 3, 500), [-2.0, 3.0]])
    for text in [*ARITHMETIC, "ramp(x, 0, 1) * -2", "where(x > 9, 5, x)", "1 - step(x, 1)"]:
        named = re.sub(r"\by\b", "fraction_sp3", re.sub(r"\bx\b", "qed", text))
        node = PropertyReward(named).node
        low, high = node.bounds({"qed": (-2.0, 3.0), "fraction_sp3": (0.0, 1.0)})
        y = rng.uniform(0, 1, len(x))
        found = node.of({"qed": x, "fraction_sp3": y})
        found = found[np.isfinite(found)]
        assert (found >= low - 1e-9).all(), text
        assert (found <= high + 1e-9).all(), text
    assert PropertyReward("ramp(logp, 0, 1) * -2").bounds() == (-2, 0)
    assert PropertyReward('smarts("C") == 0').bounds({'smarts("C")': (0, 0)}) == (1, 1)
    assert PropertyReward('product(step(smarts("C"), 1), qed)').bounds({'smarts("C")': (0, 0)}) == (
        0,
        0,
    )


def test_the_ways_of_writing_one_thing_are_equal():
    assert PropertyReward(" - dipole_debye ") == PropertyReward("-dipole_debye")
    assert PropertyReward("sigmoid(qed, width=0.1, midpoint=0.6)") == PropertyReward(
        "sigmoid(qed, 0.6, 1e-1)"
    )
    assert PropertyReward("sigmoid(y=qed, width=0.1, midpoint=0.6)") == PropertyReward(
        "sigmoid(qed, 0.6, 0.1)"
    )
    assert PropertyReward("range(logp, 1, 3)") == PropertyReward("range(logp, 1, 3, 0)")
    assert PropertyReward("smarts('CCO')") == PropertyReward('smarts(pattern="CCO")')
    assert PropertyReward("qed > 0.5 AND\n  logp < 3") == PropertyReward("qed>.5 and logp<3")
    assert PropertyReward("ligand_efficiency(logp)") == PropertyReward("-logp / heavy_atoms")


@pytest.mark.parametrize(
    ("text", "spec"),
    [
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
        ("smarts:[#7]S(=O)=O", 'smarts("[#7]S(=O)=O")'),
    ],
)
def test_old_spellings_work_with_a_warning(text, spec):
    with pytest.warns(OldSpelling, match="one more release"):
        found = PropertyReward(yaml.safe_load(text))
    assert found == PropertyReward(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"transform": "step"}, "names a property"),
        ({"property": "qed", "midpoint": 1}, "there is none"),
        ({"property": "qed", "transform": "step", "threshold": "x"}, "not a number"),
        ({"property": "qed", "transform": "step", "treshold": 1}, "did you mean threshold"),
        ({"product": "qed"}, "list of rewards"),
        (3, "is a text"),
    ],
)
@pytest.mark.filterwarnings("ignore::molflowctl.errors.OldSpelling")
def test_bad_mappings(spec, message):
    with pytest.raises(UserError, match=message):
        PropertyReward(spec)


@pytest.mark.usefixtures("clean_registry")
def test_columns_and_hyphens():
    @register("pair", unit="", version=1, description="d", columns=("atoms", "bonds"))
    def pair(mol):
        return {"atoms": mol.GetNumAtoms(), "bonds": mol.GetNumBonds()}

    @register("ring-count", unit="", version=1, description="d")
    def ring_count(mol):
        return mol.GetRingInfo().NumRings()

    assert PropertyReward("-pair.bonds").value(MOLS, timeout=None).tolist() == [-2, -7, -13]
    assert PropertyReward("-ring-count").value(MOLS, timeout=None).tolist() == [0, -1, -1]
    assert PropertyReward("2-ring-count-ring_count").value(MOLS, timeout=None).tolist() == [2, 0, 0]
    assert str(PropertyReward("mw-logp")) == "mw - logp"  # which is no property
    with pytest.raises(UserError, match=r"pair has several columns.* atoms, bonds"):
        PropertyReward("pair")
    with pytest.raises(UserError, match="several columns"):
        PropertyReward("pair.rings")


def test_columns_of_a_table_come_first():
    columns = {"qed": np.array([5.0]), "Docking score": np.array([-9.0]), "a-b": np.array([2.0])}
    assert PropertyReward("qed + 1", columns).of(columns) == [6.0]
    assert PropertyReward('qed - column("Docking score") * a-b', columns).of(columns) == [23.0]
    assert PropertyReward("qed", columns).properties == ()
    with pytest.raises(UserError, match="did you mean Docking score"):
        PropertyReward('column("docking_score")', columns)
    with pytest.raises(UserError, match="no table"):
        PropertyReward('column("x")')


def test_a_column_of_an_earlier_version_is_found():
    reward = PropertyReward('smarts("[#7]") > 1', ["smarts:[#7]"])
    assert reward.of({"smarts:[#7]": np.array([1.0, 2.0])}).tolist() == [0, 1]


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

    reward = PropertyReward("product(step(picky, 5), ramp(-mw, -200, 0))")
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


def test_a_reward_that_is_no_number_has_a_reason():
    scores = PropertyReward("1 / (qed - qed)").score(MOLS[:1], timeout=None)
    assert np.isnan(scores["reward"]).all()
    assert scores.errors[0] == {"reward": NO_NUMBER}
