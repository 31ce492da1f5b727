"""Sums of the scores of de-novo flows."""

import pytest
import torch

from molflowctl.errors import UserError
from molflowctl.flows.noise import BatchNoise
from molflowctl.flows.state import times
from molflowctl.models.zoo import DeNovoFlow, ScoreSumFlow

SETTINGS = {
    "elements": [6, 7, 8],
    "charges": [-1, 0, 1],
    "sizes": {"4": 2, "5": 1},
    "network": {
        "width": 16,
        "pair_width": 8,
        "heads": 2,
        "vectors": 4,
        "depth": 1,
        "radial": 4,
    },
}


def flow(seed: int, **changes) -> DeNovoFlow:
    torch.manual_seed(seed)
    return DeNovoFlow(**{**SETTINGS, **changes})


@pytest.mark.parametrize("weights", [[1, 1], [1, 3], [2, 1, 1], [1.5, -0.5]])
def test_scores_add_up_with_their_weights(weights) -> None:
    flows = [flow(k) for k in range(len(weights))]
    whole = ScoreSumFlow.of(flows, weights)
    x, t = flows[0].prior(3, 5, BatchNoise(0)), torch.tensor([0.2, 0.5, 0.8])
    with torch.no_grad():
        found = whole.score_function(x, t)
        parts = [
            times(w / sum(weights), f.score_function(x, t))
            for w, f in zip(weights, flows, strict=True)
        ]
    for name, part in found.items():
        torch.testing.assert_close(part, sum(p[name] for p in parts), rtol=1e-4, atol=1e-5)


def test_a_flow_with_itself_is_itself() -> None:
    one = flow(0)
    x, t = one.prior(2, 4, BatchNoise(0)), torch.tensor([0.3, 0.7])
    both = ScoreSumFlow.of([one, one], [1, 2]).endpoint(x, t)
    for name, part in one.endpoint(x, t).items():
        torch.testing.assert_close(both[name], part)


def test_sizes_are_those_of_the_heaviest() -> None:
    light, heavy = flow(0, sizes={"4": 1}), flow(1, sizes={"5": 1})
    assert ScoreSumFlow.of([light, heavy], [1, 2]).sizes == {5: 1}


def test_it_is_stored_with_its_parts(tmp_path) -> None:
    whole = ScoreSumFlow.of([flow(0), flow(1)], [1, 2])
    whole.save(tmp_path / "sum", half=False)
    again = DeNovoFlow.load(tmp_path / "sum")
    assert isinstance(again, ScoreSumFlow)
    x, t = whole.prior(2, 4, BatchNoise(0)), torch.tensor([0.3, 0.7])
    for name, part in whole.endpoint(x, t).items():
        torch.testing.assert_close(again.endpoint(x, t)[name], part)


def test_it_can_start_with_a_mixtures_sizes(tmp_path) -> None:
    whole = ScoreSumFlow.of([flow(0), flow(1)], [1, 2])
    mixed = whole.start_as([flow(0, sizes={"4": 1}), flow(1, sizes={"6": 1})], [0.25, 0.75])
    mixed.save(tmp_path / "sum", half=False)
    again = DeNovoFlow.load(tmp_path / "sum")
    assert isinstance(again, ScoreSumFlow)
    assert again.sizes == {4: 250_000, 6: 750_000}
    assert whole.sizes == {4: 2, 5: 1}


def test_its_loss_is_least_where_its_endpoint_is() -> None:
    """Every part is in it, not the first alone."""
    flows = [flow(0), flow(1)]
    whole = ScoreSumFlow.of(flows, [1, 1])
    x1 = whole.round(whole.prior(40, 5, BatchNoise(0)))
    loss = whole.loss(x1, torch.full((40,), 0.5), BatchNoise(1)).mean()
    slopes = torch.autograd.grad(loss, list(whole.parameters()), allow_unused=True)
    used = {
        name for (name, _), s in zip(whole.named_parameters(), slopes, strict=True) if s is not None
    }
    assert any(name.startswith("others.0.") for name in used)
    assert any(name.startswith("network.") for name in used)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: flow(1, elements=[6, 7, 8, 9]), "differ in their states"),
        (lambda: ScoreSumFlow.of([flow(1), flow(2)], [1, 1]), "plain flows"),
    ],
)
def test_what_cannot_be_added_is_refused(other, message) -> None:
    with pytest.raises(UserError, match=message):
        ScoreSumFlow.of([flow(0), other()], [1, 1])


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0], [1.0, -1.0], [-0.5, 1.5]])
def test_weights_that_make_no_sum_are_refused(weights) -> None:
    with pytest.raises(ValueError, match="weights"):
        ScoreSumFlow([SETTINGS, SETTINGS], weights)


@pytest.mark.parametrize(("weights", "stochasticity"), [([1, 3], 8.0), ([3, 1], 2.0)])
def test_it_is_drawn_from_as_its_heaviest_part(weights, stochasticity) -> None:
    flows = [flow(0), flow(1)]
    for part, own in zip(flows, (2.0, 8.0), strict=True):
        part.card = {"sampling": {"churn": own}, "name": "part"}
    assert ScoreSumFlow.of(flows, weights).card == {"sampling": {"churn": stochasticity}}
