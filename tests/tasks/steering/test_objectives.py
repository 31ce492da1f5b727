"""Objectives in words: what they build, and the features that distances are measured in."""

import math

import pytest
import torch

from molflowctl.control.objectives.distances import MMD, Wasserstein1
from molflowctl.control.objectives.divergences import KL, ForwardKL, Renyi
from molflowctl.control.objectives.reward import Reward
from molflowctl.control.population import Population
from molflowctl.errors import UserError
from molflowctl.flows.mixture import MixtureFlow
from molflowctl.flows.state import State
from molflowctl.properties.rewards import parse_reward
from molflowctl.tasks.steering.objectives import (
    check_elements,
    composition,
    divergences,
    utility,
    weight_of,
)

PRIOR = MixtureFlow([1.0], [[0.0]], [1.0])


def plain() -> Reward:
    return Reward(lambda x: x, name="r")


@pytest.mark.parametrize(
    ("specs", "value"),
    [
        (["mean"], 4.5),
        (["cvar:0.2"], 0.5),
        (["upper-cvar:0.2"], 8.5),
        (["mean-variance:0.1"], 4.5 - 0.1 * 8.25),
        (["mean", "cvar:0.2"], 5.0),
    ],
)
def test_utilities_of_the_numbers_from_0_to_9(specs, value) -> None:
    sample = Population(torch.arange(10.0))
    assert utility(specs, plain()).value(sample) == pytest.approx(value, abs=1e-6)


def test_divergences_count_against_the_objective() -> None:
    terms = divergences(["kl:0.5", "forward-kl:1", "renyi-2:3", "w1:0.2", "mmd:4"], PRIOR).terms()
    assert [factor for factor, _ in terms] == [-0.5, -1, -3, -0.2, -4]
    kinds = [KL, ForwardKL, Renyi, Wasserstein1, MMD]
    assert [type(part) for _, part in terms] == kinds
    assert terms[2][1].order == 2


def test_distances_to_points_of_the_prior_are_measured_between_them() -> None:
    """From all of one molecule, W1 is the mean distance to the others; of what is weighed, 0."""
    x = molecules(6)
    away = (composition(x) - composition(x)[:1]).norm(dim=1).mean()
    one = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    for spec, there in (("w1:2", -2 * float(away)), ("mmd:1", None)):
        part = divergences([spec], PRIOR, x)
        assert part.value(Population(x)) == pytest.approx(0, abs=1e-6)
        moved = part.value(Population(x, weights=one))
        assert moved < -0.01 if there is None else moved == pytest.approx(there, rel=1e-6)


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (["mean:3"], "takes no parameter"),
        (["meen"], "did you mean mean"),
        (["cvar:many"], "needs a number"),
        (["upper-cvar:nan"], "needs a number"),
        (["cvar:0"], "between 0 and 1"),
    ],
)
def test_unclear_utilities_are_refused(specs, message) -> None:
    with pytest.raises(UserError, match=message):
        utility(specs, plain())


def test_a_utility_needs_its_reward_and_an_entropy_none() -> None:
    with pytest.raises(UserError, match="--reward"):
        utility(["cvar:0.1"], None)
    assert utility(["entropy:0.3"], None).terms()[0][0] == 0.3
    alike = utility(["diversity:4"], None, lambda x: torch.ones(len(x), 1))
    assert alike.value(Population(torch.arange(10.0))) == pytest.approx(-2)


@pytest.mark.parametrize("specs", [["kl"], ["kl:0"], ["renyi-x:1"], ["renyi-1:1"], ["entropy:1"]])
def test_unclear_divergences_are_refused(specs) -> None:
    with pytest.raises(UserError):
        divergences(specs, PRIOR)


@pytest.mark.parametrize("nats", [0.02, 0.5, 1.5])
def test_the_weight_that_a_budget_of_nats_buys(nats) -> None:
    """The tilt of `N(0, 1)` by `x/w` is `N(1/w, 1)`, at a KL of `1/2w^2`."""
    x = torch.special.ndtri((torch.arange(20_001).double() + 0.5) / 20_001).float()[:, None]
    wanted = utility(["mean"], Reward(lambda x: x[:, 0], name="r"))
    assert weight_of(nats, wanted, x, PRIOR) == pytest.approx((2 * nats) ** -0.5, rel=0.02)


def test_nats_that_the_points_do_not_hold_are_refused() -> None:
    wanted = utility(["mean"], Reward(lambda x: x[:, 0], name="r"))
    with pytest.raises(UserError, match="no way to go that far"):
        weight_of(5.0, wanted, torch.linspace(-1, 1, 20)[:, None], PRIOR)


def molecules(n: int, seed: int = 0) -> State:
    g = torch.Generator().manual_seed(seed)

    def hot(rows: int, kinds: int) -> torch.Tensor:
        picked = torch.randint(kinds, (3, rows), generator=g)
        return 0.5 * torch.nn.functional.one_hot(picked, kinds).double()

    return State(
        positions=torch.randn(3, n, 3, generator=g, dtype=torch.float64),
        atoms=hot(n, 4),
        charges=hot(n, 3),
        bonds=hot(n * (n - 1) // 2, 4),
    )


def test_features_do_not_see_rotation_translation_or_the_order_of_atoms() -> None:
    x = molecules(6)
    q, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
    order = torch.randperm(6)
    first, second = torch.triu_indices(6, 6, 1)
    place = {(int(a), int(b)): k for k, (a, b) in enumerate(zip(first, second, strict=True))}
    pairs = [
        place[tuple(sorted((int(order[a]), int(order[b]))))]
        for a, b in zip(first, second, strict=True)
    ]
    moved = State(
        positions=(x["positions"] @ q + 3.0)[:, order],
        atoms=x["atoms"][:, order],
        charges=x["charges"][:, order],
        bonds=x["bonds"][:, pairs],
    )
    torch.testing.assert_close(composition(x), composition(moved))


def test_features_count_atoms_and_measure_size() -> None:
    x = molecules(6)
    f = composition(x)
    torch.testing.assert_close(f[:, :4].sum(1), torch.full((3,), 3.0).double())
    larger = State(**{**x, "positions": 2 * x["positions"]})
    torch.testing.assert_close(
        (composition(larger) - f)[:, -1], torch.full((3,), math.log(2)).double()
    )
    picked = x["bonds"].argmax(-1)  # 0 for none, then single, double and triple
    for order in (1, 2, 3):
        torch.testing.assert_close(f[:, 6 + order], 0.5 * (picked == order).sum(1).double())


@pytest.mark.parametrize(
    ("reward", "absent"),
    [
        ('smarts("[Br]")', "Br"),
        ('smarts("C[#14](C)C")', "Si"),
        ('smarts("c1ccccc1Cl")', "Cl"),
        ('smarts("[N;!$(N=O)][Cu]")', "Cu"),
        ('product(qed, step(smarts("[Br]"), 1))', "Br"),
        ('qed > 0.5 and smarts("[Br]") > 0', "Br"),
    ],
)
def test_a_reward_on_atoms_that_the_flow_lacks_is_refused(reward, absent) -> None:
    with pytest.raises(UserError, match=rf"molecules with {absent}, which.*C, N, O, F\."):
        check_elements(parse_reward(reward), [6, 7, 8, 9])


@pytest.mark.parametrize(
    "reward",
    [
        'smarts("[Br]") == 0 and qed > 0.5',
        'qed + smarts("[Br]")',
        'smarts("[F,Cl]")',
        'smarts("[!Cl]")',
        'smarts("[#1][NX3]c")',
        'smarts("[R]")',
        "qed",
    ],
)
def test_a_reward_that_the_atoms_of_a_flow_can_meet_is_not(reward) -> None:
    check_elements(parse_reward(reward), [6, 7, 8, 9])
