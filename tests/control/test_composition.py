"""Flows made of flows: their algebra, and a gate whose exact posterior makes it a mixture."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from molflowctl.control.composition import Composition, Gate, ScoreSum, average, distil
from molflowctl.control.solvers import fitting
from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow
from molflowctl.flows.likelihood import log_likelihood
from molflowctl.flows.mixture import MixtureFlow
from molflowctl.flows.state import State

CORRELATED = [[1.0, 0.6], [0.6, 1.2]]
FIRST = {"weights": [0.4, 0.6], "means": [[-1.0, 0.2], [0.8, -0.3]], "sds": [0.5, 0.7]}
SECOND = {"weights": [1.0], "means": [[0.4, 1.0]], "sds": [0.6]}
CASES = [(None, "linear"), (CORRELATED, "linear"), (CORRELATED, "cosine")]


@pytest.fixture(autouse=True)
def seeded():
    """The first layers of networks are random."""
    torch.manual_seed(0)


def parts(covariance=None, path="linear") -> list[MixtureFlow]:
    return [MixtureFlow(**spec, covariance=covariance, path=path) for spec in (FIRST, SECOND)]


def points(n: int = 40, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = 1.5 * torch.randn(n, 2, generator=generator, dtype=torch.float64)
    return x, 0.98 * torch.rand(n, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("weights", [[1.0, 1.0], [1.0, 3.0], [0.2, 0.1]])
def test_a_score_sum_averages_scores_and_velocities_and_endpoints(case, weights):
    flows = parts(*case)
    whole = ScoreSum(flows, weights)
    x, t = points()
    share = weights[0] / sum(weights)
    for quantity in ("endpoint", "velocity", "score"):
        a, b = (getattr(flow, quantity)(x, t) for flow in flows)
        expected = share * a + (1 - share) * b
        torch.testing.assert_close(getattr(whole, quantity)(x, t), expected)


@pytest.mark.parametrize("kind", [ScoreSum, Gate])
def test_equal_parts_make_the_part(kind):
    flow, same = parts()[0], parts()[0]
    whole = kind([flow, same, flow], [1.0, 2.0, 0.5])
    x, t = (v.float() for v in points())
    torch.testing.assert_close(whole.endpoint(x, t), flow.endpoint(x, t))
    drawn = [f.draw_states(64, seed=3, nfe=10) for f in (whole, flow)]
    torch.testing.assert_close(*drawn, rtol=0, atol=1e-5)


def test_a_score_sum_of_gaussians_is_not_their_product():
    """Why intersections need control. Two parts `N(0, s_i^2)`: the ODE's scale in closed form.

    For `N(0, s^2)`, `v = x d log(scale_t)/dt` with `scale_t^2 = t^2 s^2 + (1-t)^2`, so averaging
    velocities averages `log s`: the variance is `s_1 s_2`, the product's is harmonic in `s_i^2`.
    """
    s1, s2 = 0.5, 1.5
    whole = ScoreSum([MixtureFlow([1.0], [[0.0]], [s]) for s in (s1, s2)], [1.0, 1.0])
    x = torch.tensor([[0.0], [1.0]])
    log_p = log_likelihood(whole, x, steps=40)
    variance = 0.5 / float(log_p[0] - log_p[1])
    product = 2 / (1 / s1**2 + 1 / s2**2)
    assert variance == pytest.approx(s1 * s2, rel=1e-3)
    assert abs(variance - product) > 0.2


class Posterior(nn.Module):
    """`log p_{i,t}(x)` of the parts, from the features of a gate, by the definition of `x_t`."""

    def __init__(self, flows: list[MixtureFlow]) -> None:
        super().__init__()
        self.flows = flows

    def log_density(self, flow: MixtureFlow, x, t: float):
        a, b, _, _ = flow.path.coefficients(t)
        eye = torch.eye(2).double()
        spread = a**2 * flow.variances.double()[:, None, None] * eye
        noise = b**2 * flow.covariance.power(eye, 1.0)
        components = MultivariateNormal(a * flow.means.double(), spread + noise)
        weights = Categorical(logits=flow.log_weights.double())
        return MixtureSameFamily(weights, components).log_prob(x)

    def forward(self, features):
        rows = [
            torch.stack([self.log_density(f, row[:2], float(row[2])) for f in self.flows])
            for row in features
        ]
        return torch.stack(rows)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("weights", [[1.0, 1.0], [1.0, 3.0]])
def test_a_gate_with_the_exact_posterior_is_the_mixture(case, weights):
    covariance, path = case
    gate = Gate(parts(*case), weights)
    gate.net = Posterior(parts(*case))
    shares = [w / sum(weights) for w in weights]
    mixture = MixtureFlow(
        weights=[shares[0] * w for w in FIRST["weights"]] + [shares[1]],
        means=FIRST["means"] + SECOND["means"],
        sds=FIRST["sds"] + SECOND["sds"],
        covariance=covariance,
        path=path,
    )
    x, t = points()
    for quantity in ("endpoint", "velocity", "score"):
        mine, theirs = (getattr(flow, quantity)(x, t) for flow in (gate, mixture))
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("weights", [[1.0, 1.0], [1.0, 3.0]])
def test_a_gate_learns_the_mixture(weights):
    left, right = MixtureFlow([1.0], [[-1.0]], [0.6]), MixtureFlow([1.0], [[0.8]], [0.5])
    gate = Gate([left, right], weights, width=32).fit(points=2048, steps=300, batch=256)
    x = torch.arange(-4, 4, 0.05)[:, None]
    logs = torch.stack([left.log_density(x), right.log_density(x)])
    mixture = (logs + (torch.tensor(weights) / sum(weights)).log()[:, None]).logsumexp(0)
    log_gate = log_likelihood(gate, x, steps=20)
    kl = float((mixture.exp() * (mixture - log_gate)).sum() * 0.05)
    # With the shares of the parts exchanged it is 0.1 and more; with no posterior at all, 0.3.
    assert kl < 0.01
    assert float(log_gate.exp().sum() * 0.05) == pytest.approx(1, abs=0.01)


def test_fitting_a_gate_leaves_its_parts_and_itself():
    gate = Gate([f.trainable(4, 1) for f in parts()], [1.0, 1.0], width=8)
    before = {k: v.clone() for k, v in gate.state_dict().items()}
    fitted = gate.fit(points=64, steps=5, batch=16, nfe=4)
    changed = {k for k, v in fitted.state_dict().items() if not torch.equal(v, before[k])}
    assert changed
    assert all(name.startswith("net.") for name in changed)
    assert all(torch.equal(v, before[k]) for k, v in gate.state_dict().items())
    assert {name.split(".")[0] for name, p in fitted.named_parameters() if p.requires_grad} == {
        "net"
    }


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("kind", [ScoreSum, Gate])
def test_stored_with_all_parts(kind, case, tmp_path):
    trained = [f.trainable(4, 1) for f in parts(*case)]
    inner = kind(trained, [2.0, 1.0])
    whole = ScoreSum([inner, parts(*case)[1]], [1.0, 4.0])
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in whole.parameters():
            p += 0.3 * torch.randn(p.shape, generator=generator)
    whole.save(tmp_path / "whole", half=False)
    again = Flow.load(tmp_path / "whole")
    assert isinstance(again, ScoreSum)
    x, t = (v.float() for v in points())
    assert torch.equal(again.endpoint(x, t), whole.endpoint(x, t))
    assert again.state_space() == trained[0].state_space()
    assert not torch.equal(again.endpoint(x, t), ScoreSum(parts(*case), [1, 1]).endpoint(x, t))


class Named(Flow):
    """A flow of states with a name."""

    def start(self, batch, noise):
        return State(a=noise.normal(batch, 2))

    def endpoint(self, x, t):
        return x


def test_states_with_names_compose_and_are_no_matter_for_a_gate():
    x, t = State(a=torch.ones(3, 2)), torch.zeros(3)
    whole = ScoreSum([Named(), Named()], [1.0, 2.0])
    torch.testing.assert_close(whole.endpoint(x, t)["a"], x["a"])
    with pytest.raises(UserError, match="a gate is for flows of plain vectors"):
        Gate([Named(), Named()], [1.0, 1.0])


@pytest.mark.parametrize("kind", [ScoreSum, Gate])
@pytest.mark.parametrize(
    "weights", [[1.0], [1.0, 0.0], [-1.0, 1.0], [1.0, math.nan], [math.inf, 1.0]]
)
def test_weights_must_fit(kind, weights):
    with pytest.raises(UserError, match="one positive weight for each"):
        kind(parts(), weights)


@pytest.mark.parametrize("kind", [ScoreSum, Gate])
def test_parts_must_go_together(kind):
    with pytest.raises(UserError, match="one positive weight for each"):
        kind([], [])
    with pytest.raises(UserError, match="differ in their path"):
        kind([parts()[0], parts(path="cosine")[1]], [1.0, 1.0])
    with pytest.raises(NotImplementedError):
        Composition(parts(), [1.0, 1.0]).endpoint(*points())


class Constant(Flow):
    """Its endpoint is one number everywhere, and learned."""

    def __init__(self, value: float, width: int = 1) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.full((width,), value))

    def start(self, batch, noise):
        return noise.normal(batch, 1)

    def endpoint(self, x, t):
        return self.value.mean().expand_as(x)


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.2, 0.8), (1.0, 0.0)])
def test_an_average_has_the_mean_weights_and_leaves_the_parts_alone(shares):
    first, second = Constant(-1.0), Constant(3.0)
    mean = average([first, second], shares)
    assert mean.value.item() == pytest.approx(-shares[0] + 3 * shares[1])
    assert first.value.item() == -1
    assert second.value.item() == 3


def test_flows_of_several_architectures_have_no_average():
    assert average([Constant(0.0), Constant(1.0, width=2)], [0.5, 0.5]) is None
    assert average([Constant(0.0), parts()[0]], [0.5, 0.5]) is None


@pytest.mark.parametrize(("share", "nearest"), [(0.9, 0), (0.5, 1), (0.1, 2)])
def test_what_is_distilled_starts_from_the_nearest_flow(share, nearest):
    """A step of no length tells which it was; the loss of `v` is `share (v + 1)^2 + ...`."""
    teachers = [Constant(-1.0), Constant(1.0)]
    starts = [Constant(-0.8), Constant(0.0), Constant(0.8)]
    drawn = [torch.zeros(8, 1), torch.zeros(8, 1)]
    settings = {"steps": 1, "batch": 200, "lr": 1e-12}
    for order in (starts, starts[::-1]):
        flow = distil(order, teachers, drawn, [share, 1 - share], **settings)
        assert flow.value.item() == pytest.approx(starts[nearest].value.item(), abs=1e-6)


def test_learning_tells_how_far_it_is():
    told = []
    distil(
        [Constant(0.0)], [Constant(1.0)], [torch.zeros(8, 1)],
        steps=3, batch=8, lr=1e-3, watch=lambda *now: told.append(now),
    )  # fmt: skip
    assert told == [(1, 3), (2, 3), (3, 3)]


class Interrupted(Exception):
    """Ctrl-C, in a test."""


@pytest.mark.parametrize("last", [1, 5, 19])
def test_learning_that_was_interrupted_takes_the_steps_it_would_have_taken(
    last, tmp_path, monkeypatch
):
    monkeypatch.setattr(fitting, "KEEP", 0.0)  # after every step
    teachers = parts()
    drawn = [flow.draw_states(64, seed=k, nfe=10) for k, flow in enumerate(teachers)]
    settings = {"steps": 20, "batch": 16, "lr": 1e-2, "file": tmp_path / "learning.safetensors"}

    def stop(done: int, total: int) -> None:
        if done == last:
            raise Interrupted

    start = teachers[0].trainable()
    learned = distil([start], teachers, drawn, [0.5, 0.5], **{**settings, "file": None})
    with pytest.raises(Interrupted):
        distil([start], teachers, drawn, [0.5, 0.5], **settings, watch=stop)
    told = []
    other = teachers[0].trainable()  # whose first weights are others
    again = distil(
        [other], teachers, drawn, [0.5, 0.5], **settings, watch=lambda *now: told.append(now[0])
    )
    assert told == list(range(last + 1, 21))
    for name, weights in learned.state_dict().items():
        assert torch.equal(weights, again.state_dict()[name]), name


def test_learning_refuses_what_another_run_has_learned(tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "KEEP", 0.0)
    file = tmp_path / "learning.safetensors"
    settings = {"steps": 2, "batch": 8, "lr": 1e-3, "file": file}
    x = [torch.zeros(8, 1)]
    distil([Constant(0.0)], [Constant(1.0)], x, **settings)
    with pytest.raises(UserError, match=r"learning\.safetensors is not what this run has learned"):
        distil([Constant(0.0, width=2)], [Constant(1.0)], x, **settings)
    file.write_bytes(b"half of it")
    with pytest.raises(UserError, match="delete it to learn anew"):
        distil([Constant(0.0)], [Constant(1.0)], x, **settings)
