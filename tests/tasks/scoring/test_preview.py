"""A reward on some molecules: what is shown of it is what can be computed by hand."""

import gzip
import random
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from scipy.stats import spearmanr
from typer.testing import CliRunner

from molflowctl.cli import app
from molflowctl.cli.console import console
from molflowctl.errors import UserError
from molflowctl.properties import score
from molflowctl.tasks.scoring.preview import _sampled, preview
from molflowctl.tasks.scoring.settings import PreviewConfig

ASSET = Path(__file__).parents[3] / "molflowctl" / "assets" / "druglike_test_smiles.txt.gz"
SMILES = random.Random(5).sample(gzip.decompress(ASSET.read_bytes()).decode().split(), 60)
REWARD = "product(qed, range(logp, 1, 3, 0.5)) + where(largest_ring > 6, -1, 0)"


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("preview") / "some.smi"
    path.write_text("".join(f"{s} m{n}\n" for n, s in enumerate(SMILES)))
    return path


def test_parts_are_what_they_are_by_hand(library, tmp_path) -> None:
    page = tmp_path / "page.html"
    config = PreviewConfig(source=str(library), reward=REWARD, html=str(page))
    found = preview(config)
    mols = [Chem.MolFromSmiles(s) for s in SMILES]
    known = score(mols, ["qed", "logp", "largest_ring"], timeout=None)
    qed, logp, ring = known["qed"], known["logp"], known["largest_ring"]
    outside = np.maximum(np.maximum(1 - logp, logp - 3), 0)
    desirable = np.clip(1 - outside / 0.5, 0, 1)
    expected = {
        "product(qed, range(logp, 1, 3, 0.5)) + where(largest_ring > 6, -1, 0)":
            qed * desirable - (ring > 6),
        "product(qed, range(logp, 1, 3, 0.5))": qed * desirable,
        "where(largest_ring > 6, -1, 0)": -1.0 * (ring > 6),
        "qed": qed, "range(logp, 1, 3, 0.5)": desirable, "largest_ring > 6": 1.0 * (ring > 6),
        "logp": logp, "largest_ring": ring,
    }  # fmt: skip
    assert [part.text for part in found.parts] == list(expected)
    whole = next(iter(expected.values()))
    for part in found.parts:
        by_hand = expected[part.text]
        np.testing.assert_allclose(part.values, by_hand, atol=1e-12)
        if np.ptp(by_hand):
            assert part.correlation == pytest.approx(spearmanr(by_hand, whole).statistic)
    parts = {part.text: part for part in found.parts}
    assert parts["range(logp, 1, 3, 0.5)"].share_at(1.0) == np.mean(desirable == 1)
    assert parts["range(logp, 1, 3, 0.5)"].share_at(0.0) == np.mean(desirable == 0)
    assert np.isnan(parts["logp"].share_at(parts["logp"].high))
    assert found.order == np.argsort(-whole, kind="stable").tolist()
    assert set(found.seconds) == {"rdkit"}
    assert 0 < found.seconds["rdkit"] < 1
    text = page.read_text()
    assert text.count("<figure>") == 20
    assert text.count('fill="var(--series-1)"') > 20
    assert not re.search(r"src=|href=|<script|@import", text)  # it loads nothing
    assert all(f"{whole[k]:.4g}" in text for k in found.order[:10])
    with pytest.raises(UserError, match="exists"):
        preview(config)


def test_of_a_larger_library_some_are_chosen_at_random(library) -> None:
    seen: dict[str, int] = {}
    for seed in range(30):
        config = PreviewConfig(source=str(library), reward="heavy_atoms", n=20, seed=seed)
        names = [name for name, _ in _sampled(config, Counter())]
        assert len(set(names)) == 20
        assert names == sorted(names, key=lambda name: int(name[1:]))
        for name in names:
            seen[name] = seen.get(name, 0) + 1
    # Binomial of 30 tries and a third: 10 +- 2.6.
    assert len(seen) == 60
    assert max(seen.values()) < 21


def test_a_flow_is_drawn_from(tiny_flow) -> None:
    config = PreviewConfig(source=str(tiny_flow), reward="npr1 + heavy_atoms", n=30, nfe=10)
    found = preview(config)
    assert len(found.mols) + found.invalid.total() == 30
    assert "conformers" not in found.seconds  # its own pose
    assert np.isfinite(found.parts[0].values).all()


def test_molecules_without_a_pose_get_one(library) -> None:
    config = PreviewConfig(source=str(library), reward="npr1", n=5)
    found = preview(config)
    assert found.seconds.keys() == {"conformers", "rdkit"}
    assert np.isfinite(found.parts[0].values).all()


def test_the_command_fits_a_terminal_and_tells_failures(library, monkeypatch) -> None:
    monkeypatch.setattr(console, "width", 80)
    command = ["preview", str(library), "-j", "1", "--reward", "log(logp - 1)"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 3  # of some, the logarithm is none
    logp = score([Chem.MolFromSmiles(s) for s in SMILES], ["logp"], timeout=None)["logp"]
    assert f"{(logp <= 1).sum():,} x reward" in result.output
    assert max(map(len, result.output.splitlines())) <= 80
    assert "the 10 best" in result.output
    assert "the 10 worst" in result.output


@pytest.mark.parametrize(
    ("reward", "words"),
    [
        ("log(-mw)", "no molecule has this reward"),
        ("3 + 4", "the same for every molecule"),
        ("qed + logpp", "did you mean logp"),
    ],
)
def test_what_cannot_be_shown_is_told(library, reward, words) -> None:
    with pytest.raises(UserError, match=words):
        preview(PreviewConfig(source=str(library), reward=reward, n=5))


def test_a_reward_that_is_the_same_for_all_is_told(library) -> None:
    result = CliRunner().invoke(app, ["preview", str(library), "--reward", "step(mw, 10)"])
    assert result.exit_code == 0
    assert "nothing to steer by" in result.output
