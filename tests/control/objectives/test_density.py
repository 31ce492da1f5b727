"""Densities as an objective sees them: values, gradients, ratios, weighted points."""

import math

import pytest
import torch

from molflowctl.control.objectives.density import (
    Exact,
    Flowing,
    Tilted,
    as_density,
    log_ratio,
    score_near_data,
)
from molflowctl.control.objectives.ratios import Likelihood
from molflowctl.control.objectives.reward import Reward
from molflowctl.control.population import Population
from molflowctl.flows.mixture import MixtureFlow
from molflowctl.flows.state import State

SPEC = {
    "weights": [0.5, 0.2, 0.3],
    "means": [[1.0, 0.0], [-1.0, 2.0], [0.0, -1.5]],
    "sds": [0.4, 0.5, 0.6],
}
CORRELATED = [[1.0, 0.6], [0.6, 1.2]]
SLOPE = torch.tensor([0.7, -0.4])
LINEAR = Reward(lambda x: x @ SLOPE.to(x), name="linear")


def tilted_mixture(spec: dict) -> tuple[MixtureFlow, float]:
    """`q exp(c.x) / Z` is a mixture again; it and `log Z`."""
    weights = torch.tensor(spec["weights"])
    means, variances = torch.tensor(spec["means"]), torch.tensor(spec["sds"]).square()
    factors = (means @ SLOPE + 0.5 * variances * SLOPE.square().sum()).exp() * weights
    shifted = (means + variances[:, None] * SLOPE).tolist()
    return MixtureFlow(factors.tolist(), shifted, spec["sds"]), float(factors.sum().log())


def differences(function, x: torch.Tensor, h: float = 1e-3) -> torch.Tensor:
    """The gradient by central differences."""
    columns = [
        (function(x + h * e) - function(x - h * e)) / (2 * h) for e in torch.eye(x.shape[1]).to(x)
    ]
    return torch.stack(columns, 1)


def test_tilted_density_is_that_of_the_tilted_mixture() -> None:
    flow = MixtureFlow(**SPEC)
    target, log_z = tilted_mixture(SPEC)
    x = flow.exact_sample(50).double()
    tilted = Tilted(Exact(flow), LINEAR, log_z)
    torch.testing.assert_close(tilted.log_density(x), target.log_density(x), rtol=0, atol=1e-5)
    torch.testing.assert_close(tilted.score(x), Exact(target).score(x), rtol=1e-4, atol=1e-4)
    assert tilted.normalised
    free = Tilted(Exact(flow), LINEAR)
    assert not free.normalised
    assert not Tilted(free, LINEAR, log_z).normalised
    torch.testing.assert_close(
        free.log_density(x) - tilted.log_density(x), torch.full((50,), log_z).double()
    )


@pytest.mark.parametrize("path", ["linear", "cosine"])
@pytest.mark.parametrize("covariance", [None, CORRELATED], ids=["white", "correlated"])
def test_scores_are_gradients(covariance, path) -> None:
    flow = MixtureFlow(**SPEC, covariance=covariance, path=path)
    x = flow.exact_sample(30).double()
    expected = differences(flow.log_density, x)
    torch.testing.assert_close(Exact(flow).score(x), expected, rtol=1e-3, atol=1e-3)
    near = Flowing(flow, epsilon=0.01).score(x)
    torch.testing.assert_close(near, expected, rtol=0.02, atol=0.02)


def test_the_blur_of_a_score_falls_with_the_square_of_epsilon() -> None:
    flow = MixtureFlow(**SPEC, covariance=CORRELATED)
    flow = flow.double()
    x = flow.exact_sample(30).double()
    exact = Exact(flow).score(x)
    wide, narrow = ((score_near_data(flow, x, e) - exact).abs().mean() for e in (0.08, 0.04))
    assert math.log2(wide / narrow) == pytest.approx(2, abs=0.3)


def test_a_flow_is_seen_by_what_it_knows() -> None:
    flow = MixtureFlow(**SPEC)
    assert as_density(flow) == Exact(flow)
    free = flow.trainable(8)
    assert as_density(free) == Flowing(free)
    tilted = Tilted(Exact(flow), LINEAR)
    assert as_density(tilted) is tilted
    x = flow.exact_sample(20)
    integrated = as_density(free).log_density(x)
    torch.testing.assert_close(integrated, flow.log_density(x), rtol=0, atol=2e-3)


def test_ratios_go_the_shortest_way() -> None:
    flow, other = MixtureFlow(**SPEC), tilted_mixture(SPEC)[0]
    q, x = Exact(flow), flow.exact_sample(20)
    expected = other.log_density(x) - flow.log_density(x)

    def refuse(*_):
        raise AssertionError("a longer way was taken")

    blind = Flowing(flow, log_density_of=refuse)
    assert torch.equal(log_ratio(Tilted(blind, LINEAR, 0.5), blind, x), LINEAR.value(x) - 0.5)
    torch.testing.assert_close(log_ratio(Exact(other), q, x), expected)
    direct = Flowing(other, log_density_of=refuse, ratio_of=Likelihood(20))
    for reference in (q, blind):
        torch.testing.assert_close(log_ratio(direct, reference, x), expected, rtol=0, atol=5e-3)
    both = log_ratio(Flowing(other), q, x)
    torch.testing.assert_close(both, expected, rtol=0, atol=5e-3)


@pytest.mark.parametrize("named", [False, True], ids=["tensor", "state"])
def test_weighted_points(named) -> None:
    x = torch.randn(4, 2)
    states = State(x=x, y=x) if named else x
    values = torch.tensor([1.0, 2.0, 3.0, 4.0])
    even = Population(states)
    assert len(even) == 4
    assert even.mean(values) == 2.5
    assert even.effective_size() == pytest.approx(4)
    odd = Population(states, weights=torch.tensor([0.0, 2.0, 0.0, 6.0]))
    assert odd.shares.tolist() == [0, 0.25, 0, 0.75]
    assert odd.mean(values) == 3.5
    assert odd.effective_size() == pytest.approx(1 / (0.25**2 + 0.75**2))


def test_a_flow_is_asked_where_it_is_and_answers_where_it_was_asked() -> None:
    asked = []

    def answer(*given):
        asked.append(given[-1].device.type)
        return torch.zeros(20)

    x, elsewhere = MixtureFlow(**SPEC).exact_sample(20), MixtureFlow(**SPEC).to("meta")
    density = Flowing(elsewhere, log_density_of=answer, ratio_of=answer)
    found = [density.log_density(x), log_ratio(density, Flowing(MixtureFlow(**SPEC)), x)]
    assert asked == ["meta", "meta"]
    assert {values.device.type for values in found} == {"cpu"}
