"""Banks of samples, and what self-normalised weights say about a tilted density."""

import math

import pytest
import torch

from molflowctl.control.bank import ReplayBuffer, self_normalised
from molflowctl.flows.state import Ragged, State, select


def normals(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_banks_check_what_they_are_given() -> None:
    x, r = torch.zeros(2, 3), torch.zeros(2)
    with pytest.raises(ValueError, match="as many groups of rewards as of states"):
        ReplayBuffer([x, x], [r])
    with pytest.raises(ValueError, match="one at least"):
        ReplayBuffer([], [])
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="rewards must be finite"):
            ReplayBuffer([x], [torch.tensor([0.0, bad])])
    assert len(ReplayBuffer([x, x[:1]], [r, r[:1]])) == 3


def test_advantages_are_centred_over_all_groups_and_clipped() -> None:
    rewards = [5 + 2 * normals(400), 5 + 2 * normals(600, 1)]
    bank = ReplayBuffer([r[:, None] for r in rewards], rewards)
    every = torch.cat(rewards)
    free = torch.cat(bank.advantages(clip=math.inf))
    torch.testing.assert_close(free, every - every.mean())
    clipped = torch.cat(bank.advantages(clip=1.5))
    bound = 1.5 * every.std(unbiased=False)
    torch.testing.assert_close(clipped, free.clamp(-bound, bound))


def test_equal_rewards_are_no_advantage() -> None:
    bank = ReplayBuffer([torch.zeros(4, 1)], [torch.full((4,), 3.0)])
    assert torch.equal(bank.advantages(3.0)[0], torch.zeros(4))


@pytest.mark.parametrize("strength", [0.0, 0.5, -2.0, 30.0])
def test_ratios_are_those_of_the_tilt_to_what_the_points_stand_for(strength: float) -> None:
    rewards = [1000 + normals(400), 1000 + normals(200, 1)]
    values = torch.cat([normals(400, 2), normals(200, 3)])
    weights = [normals(n, 4).exp() for n in (400, 200)]
    bank = ReplayBuffer([r[:, None] for r in rewards], rewards, weights)
    ratios = torch.cat(bank.ratios(strength, clip=math.inf))
    shares = torch.cat(weights) / torch.cat(weights).sum()
    torch.testing.assert_close((shares * ratios).sum(), torch.ones((), dtype=torch.float64))
    tilted = (shares.log() + strength * torch.cat(rewards)).softmax(0)
    torch.testing.assert_close((shares * ratios * values).sum(), (tilted * values).sum())


def test_ratios_know_points_without_weight_and_rewards_beyond_the_clip() -> None:
    bank = ReplayBuffer(
        [torch.zeros(4, 1)], [torch.tensor([0.0, 0, 0, 4])], [torch.tensor([0.0, 1, 1, 1])]
    )
    (free,), (clipped,) = bank.ratios(1.0, clip=math.inf), bank.ratios(1.0, clip=1.0)
    z = (2 + math.exp(4)) / 3
    torch.testing.assert_close(free, torch.tensor([1, 1, 1, math.exp(4)]) / z)
    spread = 4 * math.sqrt(2) / 3  # about a mean of 4/3
    assert float(clipped[3] / clipped[1]) == pytest.approx(math.exp(spread + 4 / 3), rel=1e-5)


@pytest.mark.parametrize("power", [1, 8])  # of rewards: the eighth power has most of it in a few
def test_focused_banks_have_the_same_expectations(power: int) -> None:
    rewards = [normals(400).abs() ** power, normals(200, 1).abs() ** power]
    values = [normals(400, 2), normals(200, 3)]
    bank = ReplayBuffer(
        [v[:, None] for v in values], rewards, [normals(n, 4).exp() for n in (400, 200)]
    )
    advantages = bank.advantages(clip=math.inf)
    focused, factors = bank.focused(advantages)
    shares, more = (torch.cat(b.weights) / torch.cat(b.weights).sum() for b in (bank, focused))
    v, a, f = (torch.cat(each) for each in (values, advantages, factors))
    torch.testing.assert_close((more * f * v).sum(), (shares * v).sum())
    torch.testing.assert_close((more * f * a * v).sum(), (shares * a * v).sum())
    assert f.max() <= 2  # no point speaks louder than twice
    # Half of what is drawn is drawn in proportion to what it tells.
    expected = shares * (1 + a.abs() / (shares * a.abs()).sum()) / 2
    torch.testing.assert_close(more, expected)


def test_focus_draws_the_few_that_matter() -> None:
    rewards = torch.zeros(1000)
    rewards[:5] = 1.0
    bank = ReplayBuffer([torch.arange(1000.0)[:, None]], [rewards])
    focused, _ = bank.focused(bank.advantages(math.inf))
    _, rows = focused.minibatch(20_000, torch.Generator().manual_seed(0))
    # The five hold half of E|A|, and half of the draws go by |A|.
    assert abs(float((rows < 5).double().mean()) - 0.2525) < 4 * math.sqrt(0.19 / 20_000)
    flat, factors = bank.focused([torch.zeros(1000)])
    torch.testing.assert_close(flat.weights[0], torch.full((1000,), 1e-3))
    assert torch.equal(factors[0], torch.ones(1000))


def test_minibatches_choose_groups_by_their_size() -> None:
    sizes = (30, 10, 60)
    bank = ReplayBuffer([torch.zeros(n, 1) for n in sizes], [torch.zeros(n) for n in sizes])
    generator = torch.Generator().manual_seed(0)
    draws = [bank.minibatch(7, generator) for _ in range(2000)]
    for group, n in enumerate(sizes):
        rows = torch.cat([r for g, r in draws if g == group])
        share = sum(g == group for g, _ in draws) / 2000
        assert abs(share - n / 100) < 4 * math.sqrt(n / 100 * (1 - n / 100) / 2000)
        assert sorted(rows.unique().tolist()) == list(range(n))
        assert all(len(r) == 7 for _, r in draws)


def test_select_takes_rows_of_tensors_and_states() -> None:
    x, rows = torch.arange(6.0).view(3, 2), torch.tensor([2, 0])
    assert torch.equal(select(x, rows), x[rows])
    assert torch.equal(select(State(a=x), rows)["a"], x[rows])


@pytest.mark.parametrize("strength", [-1.0, 0.0, 0.3, 1.0])
def test_a_tilted_normal_has_its_mean_moved_by_the_strength(strength) -> None:
    """`N(0, 1) exp(s x)` is `N(s, 1)`; the weights' effective size is `n exp(-s^2)`."""
    x = normals(100_000)
    mean, error, size = self_normalised(x, x, strength)
    assert abs(mean - strength) < 4 * error
    assert size / len(x) == pytest.approx(math.exp(-(strength**2)), rel=0.1)
    assert abs(self_normalised(x, x.square(), strength)[0] - 1 - strength**2) < 0.1


def test_its_error_is_the_spread_over_repeats() -> None:
    repeats = [self_normalised(x, x, 0.6) for x in normals(400 * 1000).view(400, 1000)]
    means, errors, _ = torch.tensor(repeats, dtype=torch.float64).T
    assert means.std() / errors.mean() == pytest.approx(1, abs=0.15)
    assert abs(means.mean() - 0.6) < 4 * means.std() / 20 + 1e-3


def test_weights_do_not_overflow() -> None:
    x = normals(100)
    mean, error, size = self_normalised(1e6 + 1e4 * x, x, 1.0)
    assert mean == pytest.approx(x.max().item())
    assert error == pytest.approx(0, abs=1e-12)
    assert size == pytest.approx(1)


def test_states_of_one_shape_become_one_group() -> None:
    x = Ragged([torch.full((2, 3), 0.0), torch.full((1, 5), 1.0), torch.full((3, 3), 2.0)])
    rewards, weights = torch.arange(6.0), torch.arange(6.0) + 1
    bank = ReplayBuffer.of(x, rewards, weights)
    assert [tuple(state.shape) for state in bank.states] == [(5, 3), (1, 5)]
    assert [r.tolist() for r in bank.rewards] == [[0, 1, 3, 4, 5], [2]]
    assert [w.tolist() for w in bank.weights] == [[1, 2, 4, 5, 6], [3]]
    assert bank.states[0][:, 0].tolist() == [0, 0, 2, 2, 2]
    alone = ReplayBuffer.of(x.groups[0], rewards[:2])
    assert [w.tolist() for w in alone.weights] == [[1, 1]]


def test_minibatches_follow_the_weights() -> None:
    x = torch.arange(4.0)
    bank = ReplayBuffer([x[:2, None], x[2:, None]], [x[:2], x[2:]], [torch.tensor([1.0, 0.0])] * 2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        _, rows = bank.minibatch(5, generator)
        assert (rows == 0).all()
