"""Unions of de-novo flows by a posterior."""

import pytest
import torch

from molflowctl.errors import UserError
from molflowctl.flows.noise import BatchNoise
from molflowctl.flows.state import State
from molflowctl.models.zoo import DeNovoFlow, Flow, GatedFlow
from molflowctl.tasks.steering.solvers import check_learnable

NETWORK = {"width": 16, "pair_width": 8, "heads": 2, "vectors": 4, "depth": 1, "radial": 4}


def flow(seed: int, **changes) -> DeNovoFlow:
    torch.manual_seed(seed)
    settings = {"elements": [6, 7, 8], "charges": [-1, 0, 1], "sizes": {"4": 1}, "network": NETWORK}
    return DeNovoFlow(**{**settings, **changes})


def of_one_element(which: int, n: int = 64, atoms: int = 4) -> State:
    """States of one flow, where all atoms are of one element."""
    given = flow(0)
    x = given.prior(n, atoms, BatchNoise(which))
    parts = dict(given.round(x))
    parts["atoms"] = torch.zeros_like(parts["atoms"])
    parts["atoms"][..., which] = given.category_scale
    return State(**parts)


@pytest.mark.parametrize("weights", [[1, 1], [1, 3], [2, 1, 1]])
def test_before_it_has_learned_the_shares_are_the_weights(weights) -> None:
    flows = [flow(k) for k in range(len(weights))]
    whole = GatedFlow.of(flows, weights)
    x, t = flows[0].prior(3, 4, BatchNoise(0)), torch.tensor([0.2, 0.5, 0.8])
    ends = [f.endpoint(x, t) for f in flows]
    for name, part in whole.endpoint(x, t).items():
        shares = [w / sum(weights) for w in weights]
        expected = sum(w * end[name] for w, end in zip(shares, ends, strict=True))
        torch.testing.assert_close(part, expected)


@pytest.mark.parametrize("weights", [(1, 1), (1, 3), (3, 1)])
def test_it_tells_its_parts_apart_and_takes_the_endpoint_of_the_right_one(weights) -> None:
    """Near the data; and on a state of noise alone, the parts are as likely as their weights."""
    flows, drawn = [flow(0), flow(1)], [of_one_element(0), of_one_element(2)]
    whole = GatedFlow.learned(flows, weights, drawn, steps=300, batch=64, lr=5e-3)
    assert isinstance(whole, GatedFlow)
    order = [0, 1] if weights[0] >= weights[1] else [1, 0]
    whole.requires_grad_(False)
    noise, late = BatchNoise(5), torch.full((64,), 0.9)
    for k, x1 in enumerate(drawn):
        xt = whole.path.sample(whole.noise_like(x1, noise), x1, late)
        share = whole.logits(xt, late).softmax(-1)[:, order.index(k)]
        assert share.mean() > 0.9
        own, found = flows[k].endpoint(xt, late), whole.endpoint(xt, late)
        other = flows[1 - k].endpoint(xt, late)
        near, far = ((end - found)["atoms"].square().sum() for end in (own, other))
        assert near < 0.2 * far
    start = torch.full((64,), 0.01)
    share = whole.logits(whole.prior(64, 4, noise), start).softmax(-1)[:, order.index(0)]
    assert float(share.mean()) == pytest.approx(weights[0] / sum(weights), abs=0.12)


@pytest.mark.parametrize(("weights", "five"), [((1, 1), 3 / 8), ((1, 3), 9 / 16), ((3, 1), 3 / 16)])
def test_sizes_are_the_mixtures_and_tell_of_the_part(weights, five) -> None:
    """Four atoms: the first part always, the second one time in four; five: the second alone."""
    flows = [flow(0, sizes={"4": 7}), flow(1, sizes={"4": 1, "5": 3})]
    whole = GatedFlow.of(flows, weights)
    assert whole.sizes[5] / sum(whole.sizes.values()) == pytest.approx(five, abs=1e-5)
    second = 1 if weights[0] >= weights[1] else 0
    a, b = (w / sum(weights) for w in weights)
    t = torch.full((2,), 0.5)
    for atoms, expected in ((4, 0.25 * b / (a + 0.25 * b)), (5, 1.0)):
        x = whole.prior(2, atoms, BatchNoise(1))
        share = whole.logits(x, t).softmax(-1)[:, second]
        torch.testing.assert_close(share, torch.full((2,), expected))
    with pytest.raises(UserError, match="no others"):
        whole.start_as(flows, [0.5, 0.5])


def test_learning_leaves_the_parts_as_they_are() -> None:
    flows = [flow(0), flow(1)]
    whole = GatedFlow.learned(
        flows, (1, 1), [of_one_element(0), of_one_element(2)], steps=3, batch=8
    )
    for kept, part in zip((whole.network, whole.others[0].network), flows, strict=True):
        for name, value in part.network.state_dict().items():
            assert torch.equal(kept.state_dict()[name], value)


def test_every_part_sees_a_state_once(monkeypatch) -> None:
    """And is held once: the heads that choose have no trunks of their own."""
    flows = [flow(0), flow(1)]
    whole = GatedFlow.of(flows, (1, 1))
    seen = []
    features = type(whole.network).features
    monkeypatch.setattr(
        type(whole.network), "features", lambda *a: seen.append(a[0]) or features(*a)
    )
    whole.endpoint(flows[0].prior(2, 4, BatchNoise(0)), torch.tensor([0.3, 0.7]))
    assert seen == [whole.network, whole.others[0].network]
    assert not any("layers" in name for name in whole.votes.state_dict())


def test_it_is_stored_with_its_parts(tmp_path) -> None:
    flows, drawn = [flow(0), flow(1)], [of_one_element(0), of_one_element(2)]
    whole = GatedFlow.learned(flows, (1, 2), drawn, steps=3, batch=8)
    whole.save(tmp_path / "gate", half=False)
    again = Flow.load(tmp_path / "gate")
    assert isinstance(again, GatedFlow)
    x, t = whole.prior(2, 4, BatchNoise(0)), torch.tensor([0.3, 0.7])
    for name, part in whole.endpoint(x, t).items():
        assert torch.equal(again.endpoint(x, t)[name], part)
    assert again.sizes == whole.sizes


def test_it_is_not_steered() -> None:
    with pytest.raises(UserError, match="both chooses among flows"):
        check_learnable({"both": GatedFlow.of([flow(0), flow(1)], [1, 1])})


def test_negative_weights_are_no_shares() -> None:
    with pytest.raises(ValueError, match="no shares"):
        GatedFlow.of([flow(0), flow(1)], [1.5, -0.5])


def test_a_seed_is_all_that_chance_takes_from() -> None:
    flows, drawn = [flow(0), flow(1)], [of_one_element(0), of_one_element(2)]
    one, two, three = (
        GatedFlow.learned(flows, [1, 1], drawn, steps=3, seed=seed).state_dict()
        for seed in (5, 5, 6)
    )
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], three[name]) for name in one)
