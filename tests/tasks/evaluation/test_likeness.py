"""How like known molecules a sample is: identities, hand-made counts, an equal draw."""

import numpy as np
import pytest
from rdkit import Chem

from molflowctl.tasks.evaluation.likeness import cosine, fragments, likeness, load_known, scaffold


@pytest.fixture(scope="module")
def known() -> tuple[list[Chem.Mol], list[Chem.Mol]]:
    return load_known("druglike")


def test_a_sample_is_most_like_itself(known) -> None:
    some = known[0][:60]
    found = likeness(some, some)
    for name in ("fragments", "scaffolds", "nearest", "copies"):
        assert found[name].value == pytest.approx(1, abs=1e-9), name


def test_hydrogens_and_order_do_not_matter(known) -> None:
    some, others = known[0][:40], known[1][:100]
    again = [Chem.AddHs(Chem.MolFromSmiles(Chem.MolToSmiles(m, doRandom=True))) for m in some]
    a, b = likeness(some, others), likeness(again, others)
    assert {k: e.value for k, e in a.items()} == pytest.approx({k: e.value for k, e in b.items()})


def test_an_equal_draw_is_like_and_chains_are_not(known) -> None:
    reference, equal = known[0][:1500], known[1][:1500]
    drawn = likeness(equal, reference)
    assert drawn["fragments"].value > 0.98
    assert drawn["unseen_ring"].value < 0.01
    assert 0.3 < drawn["nearest"].value < 0.64  # SNN of MOSES: 0.64, to 176,000 molecules
    assert drawn["large_ring"].value < 0.04
    chains = [Chem.MolFromSmiles("C" * n) for n in range(5, 30)]
    found = likeness(chains, reference)
    assert found["fragments"].value < 0.2
    assert found["scaffolds"].value == 0
    assert found["large_ring"].value == found["four_ring"].value == 0


def test_the_cosine_is_that_of_counts() -> None:
    """12 benzenes and 9 cyclohexanes against 1 and 2: (12 + 18) / (15 sqrt(5))."""
    six = [Chem.MolFromSmiles("c1ccccc1C")] * 12 + [Chem.MolFromSmiles("C1CCCCC1C")] * 9
    known = [Chem.MolFromSmiles("c1ccccc1")] + [Chem.MolFromSmiles("C1CCCCC1")] * 2
    found = likeness(six, known)["scaffolds"]
    assert found.value == pytest.approx(30 / (15 * np.sqrt(5)))
    assert found.low < found.value < found.high


def test_the_interval_of_a_cosine_is_that_of_repeated_draws() -> None:
    """The spread of 300 draws of 200 molecules is what the interval of one of them says."""
    rng = np.random.default_rng(0)
    target = [["a"], ["b"], ["b"], ["c"], ["c"], ["c"]]
    draws = [[["abc"[k]] for k in rng.choice(3, 200, p=[0.5, 0.3, 0.2])] for _ in range(300)]
    found = [cosine(draw, target) for draw in draws]
    spread = np.std([e.value for e in found])
    told = np.mean([(e.high - e.low) / (2 * 1.96) for e in found])
    assert told == pytest.approx(spread, rel=0.15)


def test_fragments_and_scaffolds_by_hand() -> None:
    mol = Chem.MolFromSmiles("CC(=O)NCCc1ccccc1")
    assert sorted(f.count("*") for f in fragments(mol)) == [1, 1, 2, 2]
    assert scaffold(mol) == "c1ccccc1"
    assert scaffold(Chem.MolFromSmiles("CCO")) == ""
