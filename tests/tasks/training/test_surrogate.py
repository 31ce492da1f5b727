"""A surrogate states its error, covers what its intervals promise, and refuses the unknown."""

import json
import math
import os

import numpy as np
import pandas
import pytest
from rdkit import Chem
from scipy.stats import binom

from molflowctl.errors import UserError
from molflowctl.properties import PropertyError, get, score
from molflowctl.properties.rewards import PropertyReward
from molflowctl.properties.surrogate import FAR, Counts, Surrogate, features
from molflowctl.tasks.failures import Failures
from molflowctl.tasks.scoring.score import score_library
from molflowctl.tasks.scoring.settings import ScoreConfig
from molflowctl.tasks.training.settings import SurrogateConfig
from molflowctl.tasks.training.surrogate import _part, _read, describe, train_surrogate

GROUPS = """
    C CC C(C)C OC N NC F C#N C=O C(N)=O CO CN C#C
""".split()  # noqa: SIM905
CORES = ["C({})CO{}", "C1({})CC(O1){}", "c1({})ccc(o1){}", "C({})(C)N{}", "C({})=C{}"]


def smiles():
    texts = (core.format(a, b) for core in CORES for a in GROUPS for b in GROUPS)
    return sorted({Chem.CanonSmiles(text) for text in texts})


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Some 600 small molecules with Crippen's logP, of which some lack it."""
    mols = [Chem.MolFromSmiles(text) for text in smiles()]
    values = score(mols, ["logp", "tpsa"], timeout=None)
    frame = pandas.DataFrame({"smiles": smiles(), **values.values, "one": 1.0})
    frame.loc[::50, "logp"] = math.nan
    path = tmp_path_factory.mktemp("surrogate") / "scored.csv"
    frame.to_csv(path, index=False)
    return path


def settings(library, out, **changes):
    options = {"property": "logp", "epochs": 15, "width": 64, "members": 3, **changes}
    return SurrogateConfig(library=str(library), out=out, **options)


@pytest.fixture(scope="module")
def folder(library):
    out = library.with_name("logp")
    train_surrogate(settings(library, out))
    return out


@pytest.fixture(scope="module")
def surrogate(folder):
    return Surrogate.load(folder)


@pytest.fixture(scope="module")
def held_out(library):
    """Test molecules, with their true values, picked by the documented split alone."""
    frame = pandas.read_csv(library).dropna()
    mols = [Chem.MolFromSmiles(text) for text in frame["smiles"]]
    test = [_part(Chem.MolToInchiKey(mol), 0) == "test" for mol in mols]
    return [(mol, y) for mol, y, chosen in zip(mols, frame["logp"], test, strict=True) if chosen]


def test_what_it_states_is_what_it_does(surrogate, held_out):
    stated = surrogate.card["test"]
    scores = score([mol for mol, _ in held_out], [surrogate.as_property()], timeout=None)
    errors = np.abs(scores["surrogate_logp"] - [y for _, y in held_out])
    good = errors[np.isfinite(errors)]
    assert (len(good), len(errors) - len(good)) == (stated["n"], stated["refused"])
    assert good.mean() == pytest.approx(stated["mae"], rel=1e-4)
    assert stated["mae"] < 0.25 * stated["mae_of_the_mean"]
    assert stated["r2"] > 0.9
    skipped = surrogate.card["molecules"]["skipped"]
    assert skipped == {"no logp": math.ceil(len(smiles()) / 50)}
    parts = [surrogate.card["molecules"][part] for part in ("train", "calibrate", "test")]
    assert sum(parts) == len(smiles()) - skipped["no logp"]


def test_intervals_cover_what_they_say(surrogate, held_out):
    stated = surrogate.card["test"]["coverage"]
    for level in (0.5, 0.9):
        inside, n = 0, 0
        for mol, y in held_out:
            try:
                value, half_width = surrogate.interval(mol, level)
            except PropertyError:
                continue
            n += 1
            inside += abs(value - y) <= half_width
        assert inside / n == pytest.approx(stated[str(level)])
        # Both the calibration and the test set are samples: two binomials, at one in a thousand.
        spread = math.sqrt(2 * level * (1 - level) / n)
        assert abs(inside / n - level) < 3.3 * spread
        assert binom.cdf(inside, n, level) > 1e-5
    narrow, wide = (surrogate.interval(held_out[0][0], level)[1] for level in (0.5, 0.9))
    assert 0 < narrow < wide


@pytest.mark.parametrize(
    "far",
    ["CCCCCCCCCCCCCCCCCCCCCCCCCCCCCC", "[Fe]", "c1ccc2c(c1)sc1ccccc12", "[Na+].[Cl-]",
     "CC(=O)Oc1ccccc1C(=O)O", "[SiH3][SiH2]Br"],
)  # fmt: skip
def test_far_from_the_training_set_is_refused(surrogate, far):
    mol = Chem.MolFromSmiles(far)
    assert surrogate.distance(mol) > surrogate.card["threshold"]
    with pytest.raises(PropertyError, match=FAR):
        surrogate(mol)
    scores = score([mol, None], [surrogate.as_property()], timeout=None)
    assert np.isnan(scores["surrogate_logp"]).all()
    assert scores.errors[0] == {"surrogate_logp": FAR}


def test_near_ones_are_not_refused(surrogate, held_out):
    refused = sum(surrogate.distance(mol) > surrogate.card["threshold"] for mol, _ in held_out)
    assert refused <= binom.ppf(0.9999, len(held_out), 0.03)  # 1 % by construction, of the training


def test_neither_order_nor_hydrogens_nor_coordinates_matter(surrogate, held_out):
    rng = np.random.default_rng(0)
    for mol, _ in held_out[:20]:
        try:
            value = surrogate(mol)
        except PropertyError:
            continue
        full = Chem.AddHs(mol)
        for other in (mol, full):
            order = rng.permutation(other.GetNumAtoms()).tolist()
            assert surrogate(Chem.RenumberAtoms(other, order)) == pytest.approx(value, abs=1e-5)


def test_saved_and_loaded_is_the_same(surrogate, folder, held_out, tmp_path):
    assert {path.name for path in folder.iterdir()} == {"card.json", "weights.safetensors"}
    surrogate.save(tmp_path)
    again = Surrogate.load(tmp_path)
    assert again.version == surrogate.version
    mols = [mol for mol, _ in held_out]
    one, other = (score(mols, [s.as_property()], timeout=None) for s in (surrogate, again))
    assert np.array_equal(one["surrogate_logp"], other["surrogate_logp"], equal_nan=True)


def test_same_seed_same_surrogate(library, tmp_path):
    fast = {"epochs": 1, "width": 8}
    versions = [
        train_surrogate(settings(library, tmp_path / str(i), jobs=jobs, seed=seed, **fast)).version
        for i, (jobs, seed) in enumerate([(1, 0), (2, 0), (1, 1)])
    ]
    assert versions[0] == versions[1] != versions[2]


def test_by_name_as_a_property_and_a_reward(surrogate, folder, held_out):
    name = f"surrogate:{folder}"
    mol, _ = held_out[0]
    item = get(name)
    assert (item.columns, item.version, item.geometry) == (
        ("surrogate_logp",), surrogate.version, False,
    )  # fmt: skip
    value = item(mol)["surrogate_logp"]
    assert value == surrogate(mol)
    workers = score([mol, Chem.MolFromSmiles("[Fe]")], [name, "logp"], jobs=2)
    assert workers["surrogate_logp"][0] == value
    assert math.isnan(workers["surrogate_logp"][1])
    assert np.isfinite(workers["logp"]).all()
    reward = PropertyReward(f'sigmoid(surrogate("{folder}"), 1.0, 0.5)')
    assert reward.value([mol], timeout=None)[0] == pytest.approx(
        1 / (1 + math.exp(-(value - 1) / 0.5))
    )
    text = dict(describe(surrogate))
    assert f"{surrogate.card['test']['mae']:.4g}" in text["test MAE"]


def test_which_records_are_one_molecule(tmp_path):
    """Forms of one have the mean of their values; tautomers and isotopologues are others."""
    texts = ["CCOC", "[CH3:1][CH2:2][O:3][CH3:4]", "Oc1ccccn1", "O=c1cccc[nH]1", "CCOC([2H])[2H]"]
    path = tmp_path / "scored.csv"
    lines = [f"{text},{n}.0" for n, text in enumerate(texts)]
    path.write_text("\n".join(["smiles,logp", *lines]) + "\n")
    with Failures(tmp_path / "out") as failures:
        table = _read(settings(path, tmp_path / "out"), "logp", lambda *_: None, failures)
    assert sorted(table.values.tolist()) == [0.5, 2.0, 3.0, 4.0]


def test_distance_by_hand():
    """Counts a = (2, 1, 0), b = (1, 1, 3): minima 2, maxima 6."""
    a, b = (np.zeros(2048, np.uint8) for _ in range(2))
    a[:3], b[:3] = (2, 1, 0), (1, 1, 3)
    near = Counts.of(np.stack([a, b]))
    assert near.similarities(a).tolist() == pytest.approx([1, 1 / 3])
    assert near.similarities(b).tolist() == pytest.approx([1 / 3, 1])
    six = Counts.of(np.stack([a, b, b, b, b, b]))
    assert six.distance(a, skip=0) == pytest.approx(2 / 3)
    assert six.distance(a) == pytest.approx(1 - (1 + 4 / 3) / 5)


def test_features_tell_charge_and_size_apart():
    base = features(Chem.MolFromSmiles("CCO"))[0]
    for other in ("CC[O-]", "CCCO", "CCN"):
        assert not np.array_equal(features(Chem.MolFromSmiles(other))[0], base)


def test_mistakes_are_said(library, folder, tmp_path):
    out = tmp_path / "new"
    with pytest.raises(UserError, match="exists"):
        train_surrogate(settings(library, folder))
    with pytest.raises(UserError, match=r"no numbers in a column dipole_debye.*logp"):
        train_surrogate(settings(library, out, property="dipole"))
    with pytest.raises(UserError, match="nothing to learn"):
        train_surrogate(settings(library, out, property="one"))
    few = tmp_path / "few.csv"
    pandas.read_csv(library).head(50).to_csv(few, index=False)
    with pytest.raises(UserError, match="200 is the least"):
        train_surrogate(settings(few, out))
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="no surrogate, so it is not overwritten"):
        train_surrogate(settings(library, tmp_path / "mine", overwrite=True))
    assert not out.exists()


def test_damaged_folders_are_said(surrogate, tmp_path):
    with pytest.raises(UserError, match="no surrogate in"):
        get(f"surrogate:{tmp_path}")
    surrogate.save(tmp_path)
    card = json.loads((tmp_path / "card.json").read_text())
    for change, words in (
        ({"kind": "denovo"}, "something else"),
        ({"descriptors": ["mw"]}, "other descriptors"),
        ({"digest": 1}, "do not belong together"),
        ({"threshold": 1.0}, "do not belong together"),
        ({"unit": "kcal/mol"}, "do not belong together"),
        ({"conformal": {"0.5": 0.1, "0.9": 0.2}}, "do not belong together"),
        ({"test": {**card["test"], "mae": 0.001}}, "do not belong together"),
        ({"library": "better.csv"}, "do not belong together"),
        ({"note": "added"}, "do not belong together"),
    ):
        (tmp_path / "card.json").write_text(json.dumps({**card, **change}))
        with pytest.raises(UserError, match=words):
            Surrogate.load(tmp_path)
    (tmp_path / "card.json").write_text(json.dumps(card))
    (tmp_path / "weights.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match="cannot be read as a surrogate"):
        Surrogate.load(tmp_path)
    for name in ("weights.safetensors", "card.json"):
        (tmp_path / name).unlink()
        os.mkfifo(tmp_path / name)
        with pytest.raises(UserError, match=f"{name} cannot be read: it is a pipe"):
            Surrogate.load(tmp_path)


def test_what_is_not_learned_from_is_traceable(library, tmp_path):
    lines = library.read_text().splitlines()
    columns = lines[0].split(",")
    for line, smiles in ((10, "C1CC"), (20, "[H][H]"), (30, "CC" * 600)):
        cells = dict(zip(columns, lines[line - 1].split(","), strict=True)) | {"smiles": smiles}
        lines[line - 1] = ",".join((cells | {"logp": "1.5"})[name] for name in columns)
    spoilt = tmp_path / "spoilt.csv"
    spoilt.write_text("\n".join(lines) + "\n")
    out, said = tmp_path / "out", []
    trained = train_surrogate(
        settings(spoilt, out, epochs=1), failed=lambda f: said.extend(f.said())
    )
    found = pandas.read_csv(f"{out}.failures.csv")
    assert len(found) == sum(trained.card["molecules"]["skipped"].values())
    reasons = dict(zip(found["line"], found["reason"], strict=True))
    assert "1,200 heavy atoms" in reasons[30]
    assert reasons[20] == "no heavy atoms"
    assert reasons[10]
    values = pandas.read_csv(spoilt)["logp"]
    without = [line for line, why in reasons.items() if why == "no logp"]
    assert without == [row + 2 for row in range(len(values)) if math.isnan(values[row])]
    assert f"all in {out}.failures.csv" in said[-1]
    train_surrogate(settings(library, out, property="tpsa", epochs=1, overwrite=True))
    assert not (tmp_path / "out.failures.csv").exists()


@pytest.mark.slow
def test_learns_what_quantum_chemistry_says(library, tmp_path):
    """The whole way: conformers, GFN2-xTB gaps, a network, its intervals on molecules unseen."""
    source, scored = tmp_path / "in.smi", tmp_path / "scored.sdf.gz"
    source.write_text("\n".join(smiles()))
    score_library(
        ScoreConfig(library=str(source), out=str(scored), properties=("xtb-gap",), cache=False)
    )
    trained = train_surrogate(
        settings(scored, tmp_path / "gap", property="xtb-gap", width=256, members=4, epochs=25)
    )
    assert (trained.card["property"], trained.card["unit"]) == ("homo_lumo_gap_eV", "eV")
    test = trained.card["test"]
    assert test["mae"] < 0.5 * test["mae_of_the_mean"]
    assert test["r2"] > 0.5
    for level in (0.5, 0.9):
        spread = math.sqrt(2 * level * (1 - level) / test["n"])
        assert abs(test["coverage"][str(level)] - level) < 3.3 * spread
