"""Merging on the line, where products and mixtures of the parts are known."""

import math

import pytest
import torch

from molflowctl.control.composition import Gate
from molflowctl.control.merging import RewardGuidedMerging
from molflowctl.control.objectives.divergences import KL
from molflowctl.control.objectives.reward import Reward
from molflowctl.control.objectives.utilities import Mean
from molflowctl.control.operators import Contrast, Intersection, Union, parse
from molflowctl.control.solvers.adjoint import AdjointMatching
from molflowctl.control.solvers.weighted import WeightedFlowMatching
from molflowctl.control.store import MirrorStep
from molflowctl.errors import UserError
from molflowctl.flows.likelihood import log_likelihood
from molflowctl.flows.mixture import MixtureFlow

NARROW, WIDE = MixtureFlow([1.0], [[-0.6]], [0.6]), MixtureFlow([1.0], [[0.8]], [1.0])
RIGHT = MixtureFlow([1.0], [[1.5]], [0.5])
GRID = torch.arange(-5, 5, 0.05)[:, None]
INNER = AdjointMatching(iterations=60, batch=128, steps=20, average=0.95)
MATCHING = WeightedFlowMatching(steps=500, batch=512, lr=1e-2)
TILTED = Reward(lambda x: 1.5 * x[:, 0].sin(), name="sine")


@pytest.fixture(autouse=True)
def seeded():
    """The first layers of networks are random."""
    torch.manual_seed(0)


def merge(operator, seed: int = 0, **settings):
    defaults = {"points": 2000, "nfe": 80, "matching": MATCHING}
    return RewardGuidedMerging(operator, INNER, **{**defaults, **settings}).run(seed=seed)


def log(flow) -> torch.Tensor:
    return flow.log_density(GRID).double()


def shares(flow) -> torch.Tensor:
    return log_likelihood(flow, GRID, steps=20).double().softmax(0)


def moments(flow) -> tuple[float, float]:
    x, p = GRID[:, 0].double(), shares(flow)
    mean = float((p * x).sum())
    return mean, float((p * (x - mean).square()).sum())


def gap(expected: torch.Tensor, flow) -> float:
    """`KL(expected || flow)` of shares of the grid."""
    inside = expected > 1e-12
    return float((expected * (expected.log() - shares(flow).log()))[inside].sum())


def product(weights: list[float]) -> tuple[float, float]:
    """Mean and variance of `NARROW^a WIDE^b`."""
    a, b = weights
    precision = a / 0.36 + b / 1.0
    return (a * -0.6 / 0.36 + b * 0.8) / precision, 1 / precision


@pytest.mark.parametrize(
    ("operator", "powers", "base"),
    [
        (NARROW & WIDE, [1 / 2, 1 / 2], 2),
        (NARROW & WIDE, [1 / 2, 1 / 2], None),
        (Intersection(NARROW, WIDE, weights=[1, 3]), [1 / 4, 3 / 4], None),
        (Contrast(NARROW, WIDE, 0.5), [1.5, -0.5], None),
    ],
    ids=["a & b from b", "a & b", "1:3", "contrast"],
)
def test_gaussians_merge_to_the_gaussian_of_the_closed_form(operator, powers, base):
    mean, variance = product(powers)
    reached = moments(merge(operator, base=base))
    # The means of the parts are 1.4 apart; 20 steps of the chain fall short by up to a tenth.
    assert reached[0] == pytest.approx(mean, abs=0.12)
    assert reached[1] == pytest.approx(variance, abs=0.12 * max(1, variance / 0.36))


def test_an_intersection_with_a_utility_is_tilted():
    """`prod p_i^(1/2) exp(f / 2)`."""
    steps: list[MirrorStep] = []
    flow = merge(NARROW & WIDE, utility=Mean(TILTED), base=2, report=steps.append)
    f = TILTED.value(GRID).double()
    expected = ((log(NARROW) + log(WIDE) + f) / 2).softmax(0)
    assert gap(expected, flow) < 0.03
    assert gap(((log(NARROW) + log(WIDE)) / 2).softmax(0), flow) > 0.06
    assert [step.step_size for step in steps] == [0.5]
    assert [name for name, _, _ in steps[0].terms] == ["E[sine]", "KL to part 1", "KL to part 2"]


@pytest.mark.parametrize("weights", [[1, 1], [1, 3]])
@pytest.mark.parametrize("slope", [0.0, 0.8])
def test_scores_of_gaussians_of_one_width_add_up_to_their_product(weights, slope):
    """`prod p_i^(w_i/W) exp(c x / W)` has the mean `sum w_i m_i / W + c s^2 / W`."""
    parts = [MixtureFlow([1.0], [[m]], [0.5]) for m in (-0.6, 0.8)]
    linear = Mean(Reward(lambda x: slope * x[:, 0], name="linear")) if slope else None
    flow = merge(
        Intersection(*parts, weights=weights),
        intersection="score-sum",
        utility=linear,
        nfe=20,
        matching=WeightedFlowMatching(steps=300, batch=256, lr=1e-2),
    )
    total = sum(weights)
    mean, variance = moments(flow)
    expected = (weights[0] * -0.6 + weights[1] * 0.8 + slope * 0.25) / total
    assert mean == pytest.approx(expected, abs=0.04)
    assert variance == pytest.approx(0.25, abs=0.03)


def test_averaged_scores_are_learned_once(tmp_path):
    """A run that is resumed takes what it learned, unless it was of other parts."""
    learned = []
    settings = {
        "intersection": "score-sum",
        "learning": lambda done, total: learned.append(done),
        "points": 64,
        "folder": tmp_path,
        "matching": WeightedFlowMatching(steps=5, batch=8, lr=1e-3),
    }
    first, second = (merge(NARROW & WIDE, **settings) for _ in range(2))
    assert learned == [1, 2, 3, 4, 5]
    assert all(map(torch.equal, first.parameters(), second.parameters()))
    with pytest.raises(UserError, match="another run"):
        merge(NARROW & RIGHT, **settings)


@pytest.mark.parametrize("union", ["regression", "gate"])
@pytest.mark.parametrize("weights", [[1, 1], [1, 3]])
def test_a_union_is_the_mixture(union, weights):
    flow = merge(Union(NARROW, RIGHT, weights=weights), union=union)
    a, b = (w / sum(weights) for w in weights)
    expected = a * log(NARROW).softmax(0) + b * log(RIGHT).softmax(0)
    exchanged = b * log(NARROW).softmax(0) + a * log(RIGHT).softmax(0)
    assert isinstance(flow, Gate) == (union == "gate")
    assert gap(expected, flow) < 0.03
    if a != b:
        assert gap(exchanged, flow) > 0.15


def test_a_union_is_kept_in_its_folder_and_found_there(tmp_path):
    settings = {
        "folder": tmp_path,
        "matching": WeightedFlowMatching(steps=5, batch=8, lr=1e-3),
        "points": 64,
    }
    first = merge(NARROW | RIGHT, **settings)
    assert (tmp_path / "mixture" / "step-001" / "card.json").exists()
    assert not (tmp_path / "mixture" / "learning.safetensors").exists()

    def learning(done: int, total: int) -> None:
        raise AssertionError("nothing is to be learned")

    second = merge(NARROW | RIGHT, **settings, learning=learning)
    assert all(map(torch.equal, first.parameters(), second.parameters()))
    with pytest.raises(UserError, match="another run"):
        merge(NARROW | WIDE, **settings)


def test_a_union_with_a_utility_is_reweighted():
    """`sum p_i / (m - f)`, with `m` such that it is a density."""
    flow = merge(NARROW | RIGHT, utility=Mean(TILTED), points=4000)
    parts, f = log(NARROW).softmax(0) + log(RIGHT).softmax(0), TILTED.value(GRID).double()
    low, high = float(f.max()) + 1e-9, float(f.max()) + 10
    for _ in range(100):
        m = (low + high) / 2
        low, high = (m, high) if float((parts / (m - f)).sum()) > 1 else (low, m)
    assert gap(parts / (m - f), flow) < 0.03
    assert gap(parts / 2, flow) > 0.06


@pytest.mark.slow
def test_a_union_by_ascent_finds_the_other_part():
    """The forward KL's ascent: an overlap is enough to learn of the other mode."""
    flow = merge(
        WIDE | NARROW, union="mirror", steps=4, step_size=None,
    )  # fmt: skip
    expected = (log(NARROW).softmax(0) + log(WIDE).softmax(0)) / 2
    assert gap(expected, flow) < 0.05 < gap(expected, WIDE)


def test_a_circuit_from_a_string(tmp_path):
    circuit = parse("(narrow & wide) | right", {"narrow": NARROW, "wide": WIDE, "right": RIGHT})
    flow = merge(circuit, folder=tmp_path)
    mean, variance = product([1 / 2, 1 / 2])
    inner = MixtureFlow([1.0], [[mean]], [math.sqrt(variance)])
    expected = (log(inner).softmax(0) + log(RIGHT).softmax(0)) / 2
    assert gap(expected, flow) < 0.05
    assert gap(expected, RIGHT) > 1
    # The part that was merged first is kept, and found again.
    assert (tmp_path / "part-1" / "step-001" / "card.json").exists()
    seen: list[MirrorStep] = []
    torch.manual_seed(0)
    again = merge(circuit, folder=tmp_path, report=seen.append)
    assert not seen
    assert torch.equal(shares(again), shares(flow))


def test_the_folder_of_another_merging_is_refused(tmp_path):
    quick = {"points": 50, "nfe": 6, "folder": tmp_path}
    inner = AdjointMatching(iterations=1, batch=8, steps=4)

    def run(operator):
        torch.manual_seed(0)
        RewardGuidedMerging(operator, inner, **quick).run()

    run(NARROW & WIDE)
    run(NARROW & WIDE)
    with pytest.raises(UserError, match="holds another run"):
        run(NARROW & RIGHT)


def test_the_heaviest_part_is_where_it_starts():
    steps: list[MirrorStep] = []
    inner = AdjointMatching(iterations=1, batch=8, steps=4, lr=1e-12)
    for operator in (Intersection(NARROW, WIDE, weights=[1, 2]), NARROW & WIDE):
        RewardGuidedMerging(operator, inner, points=2000, nfe=40, report=steps.append).run()
    zero = [name for step in steps for name, _, value in step.terms if value == 0]
    assert zero == ["KL to part 2", "KL to part 1"]


@pytest.mark.parametrize("base", [0, 3, -1])
def test_a_base_is_one_of_the_parts(base):
    with pytest.raises(UserError, match=f"part {base} is not among the 2 parts"):
        RewardGuidedMerging(NARROW & WIDE, INNER, base=base)


def test_a_gate_takes_no_utility():
    utility = Mean(TILTED) - 0.1 * KL(NARROW)
    with pytest.raises(UserError, match="a gate leaves the parts as they are"):
        RewardGuidedMerging(NARROW | WIDE, INNER, utility=utility, union="gate")
    RewardGuidedMerging(NARROW & WIDE, INNER, utility=utility, union="gate")


def test_a_union_with_a_utility_is_kept_and_found_there_too(tmp_path):
    settings = {
        "folder": tmp_path,
        "matching": WeightedFlowMatching(steps=5, batch=8, lr=1e-3),
        "points": 64,
    }
    first = merge(NARROW | RIGHT, utility=Mean(TILTED), **settings)
    assert not (tmp_path / "mixture" / "learning.safetensors").exists()

    def learning(done: int, total: int) -> None:
        raise AssertionError("nothing is to be learned")

    second = merge(NARROW | RIGHT, utility=Mean(TILTED), **settings, learning=learning)
    assert all(map(torch.equal, first.parameters(), second.parameters()))
    with pytest.raises(UserError, match="its utility differs"):
        merge(NARROW | RIGHT, utility=Mean(Reward(lambda x: x[:, 0], name="x")), **settings)
