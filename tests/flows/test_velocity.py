"""A network of one's own is a flow: every prediction on every path, against exact mixtures."""

import copy
import itertools
import json
import math
import subprocess
import sys

import pytest
import torch
from torch import nn

from molflowctl.errors import UserError
from molflowctl.flows.covariance import Dense
from molflowctl.flows.flow import Flow
from molflowctl.flows.likelihood import log_likelihood
from molflowctl.flows.mixture import MixtureFlow
from molflowctl.flows.noise import BatchNoise
from molflowctl.flows.path import CosinePath, LinearPath
from molflowctl.flows.samplers import Ancestral
from molflowctl.flows.schedule import SchedulePath, TargetPath, VariancePreservingPath
from molflowctl.flows.state import State
from molflowctl.flows.velocity import VelocityFlow, calibration, from_scheduler

WEIGHTS = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
MEANS = torch.tensor([[1.0, 0.0], [-1.0, 2.0], [0.0, -1.5]], dtype=torch.float64)
SDS = torch.tensor([0.4, 0.3, 0.6], dtype=torch.float64)
NOISE = torch.tensor([[1.0, 0.6], [0.6, 1.2]], dtype=torch.float64)
BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
SCHEDULE = SchedulePath(tuple((1 - BETAS).cumprod(0).tolist()))
PATHS = {
    "linear": LinearPath(),
    "cosine": CosinePath(),
    "target": TargetPath(0.1),
    "variance-preserving": VariancePreservingPath(),
    "schedule": SCHEDULE,
}
PREDICTIONS = ("velocity", "endpoint", "noise", "score", "v-prediction")
CASES = [
    (prediction, path, correlated)
    for prediction, path, correlated in itertools.product(PREDICTIONS, PATHS, [False, True])
    if prediction != "v-prediction" or path not in ("linear", "target")
]


class Posterior(nn.Module):
    """What an ideal network of a mixture says: means of data and noise by Gaussian conditioning."""

    def __init__(self, prediction: str, path, covariance: torch.Tensor) -> None:
        super().__init__()
        self.prediction, self.path, self.noise = prediction, path, covariance

    def means(self, x, t):
        """`E[x_1 | x_t]` and `E[x_0 | x_t]`, component by component."""
        a, b, _, _ = (torch.as_tensor(c).double() for c in self.path.coefficients(t))
        a, b = (c.expand(len(x))[:, None, None, None] for c in (a, b))
        total = a**2 * SDS.square()[:, None, None] * torch.eye(2) + b**2 * self.noise
        gap = x.double()[:, None] - a[..., 0] * MEANS
        solved = torch.linalg.solve(total, gap)
        logits = WEIGHTS.log() - 0.5 * ((gap * solved).sum(-1) + torch.logdet(total))
        shares = logits.softmax(-1)[..., None]
        data = MEANS + a[..., 0] * SDS.square()[:, None] * solved
        noise = b[..., 0] * solved @ self.noise
        return (shares * data).sum(1), (shares * noise).sum(1)

    def forward(self, x, t):
        if isinstance(self.path, SchedulePath):  # it is asked by timestep
            assert t.dtype == torch.int64
            t = 1 - (t.double() + 1) / self.path.steps
        data, noise = self.means(x, t)
        a, b, da, db = (
            torch.as_tensor(c).double().expand(len(x))[:, None] for c in self.path.coefficients(t)
        )
        said = {
            "endpoint": data,
            "noise": noise,
            "velocity": da * data + db * noise,
            "score": torch.linalg.solve(self.noise, -(noise / b).mT).mT,
            "v-prediction": a * noise - b * data,
        }
        return said[self.prediction].to(x)


def ideal(prediction: str, path: str, correlated: bool = False, **more) -> VelocityFlow:
    covariance = NOISE if correlated else torch.eye(2, dtype=torch.float64)
    return VelocityFlow(
        Posterior(prediction, PATHS[path], covariance),
        PATHS[path],
        prediction,
        shape=(2,),
        covariance=Dense(covariance) if correlated else None,
        **more,
    )


def mixture(path: str, correlated: bool = False) -> MixtureFlow:
    flow = MixtureFlow(
        WEIGHTS.tolist(), MEANS.tolist(), SDS.tolist(), NOISE.tolist() if correlated else None
    )
    flow.path = PATHS[path]
    return flow


def points(flow: MixtureFlow, time: float, n: int = 50):
    t = torch.full((n,), time).double()
    noise = BatchNoise(1)
    x1 = flow.exact_sample(n, seed=2).double()
    return flow.path.sample(flow.noise_like(x1, noise), x1, t), t


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("time", [0.05, 0.4, 0.9])
def test_every_prediction_is_the_same_knowledge(case, time) -> None:
    flow, exact = ideal(*case), mixture(*case[1:])
    x, t = points(exact, time)
    for name in ("endpoint", "velocity", "score_function"):
        found, expected = getattr(flow, name)(x, t), getattr(exact, name)(x, t)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_score_is_the_gradient_of_the_log_density(case) -> None:
    flow, exact = ideal(*case), mixture(*case[1:])
    x, t = points(exact, 0.6)
    x.requires_grad_()
    a, b, _, _ = exact._times(t)
    gap, variance = exact._components(x, *(torch.as_tensor(c)[..., None] for c in (a, b)))
    log_density = exact._log_posterior(gap, variance).logsumexp(-1)
    (gradient,) = torch.autograd.grad(log_density.sum(), x)
    found = flow.score_function(x.detach(), t)
    torch.testing.assert_close(found, flow.covariance.power(gradient, 1.0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_loss_is_least_for_the_ideal_network(case) -> None:
    """Of networks that differ by a shift of what they say, the ideal one has the least loss."""
    flow, exact = ideal(*case), mixture(*case[1:])
    x1, u = exact.exact_sample(4000).double(), torch.rand(4000, generator=torch.Generator())
    t = flow.draw_times(0.05 + 0.9 * u)
    losses = []
    for shift in (-0.3, 0.0, 0.3):
        moved = copy.copy(flow)
        moved.call = lambda net, x, t, shift=shift: net(x, t) + shift
        losses.append(float(moved.loss(x1, t, BatchNoise(3)).mean()))
    assert losses[1] < min(losses[0], losses[2])


@pytest.mark.parametrize(
    ("prediction", "path", "sampler"),
    [
        ("noise", "linear", "heun"),
        ("score", "linear", "ancestral"),
        ("noise", "cosine", "ancestral"),
        ("velocity", "target", "heun"),
        ("velocity", "variance-preserving", "heun"),
        ("noise", "schedule", "ancestral"),
        ("v-prediction", "schedule", "heun"),
    ],
)
def test_draws_are_of_the_mixture(prediction, path, sampler) -> None:
    flow, exact = ideal(prediction, path), mixture(path)
    x = flow.draw_states(3000, sampler=sampler, nfe=120)
    assert x.shape == (3000, 2)
    data = exact.exact_sample(200_000)
    loose = 0.12 if path == "target" else 0.06  # which ends at the endpoint, noise and all
    torch.testing.assert_close(x.mean(0), data.mean(0), atol=loose, rtol=0)
    torch.testing.assert_close(x.T.cov(), data.T.cov(), atol=2 * loose, rtol=0)


@pytest.mark.parametrize("path", ["linear", "variance-preserving", "schedule"])
def test_likelihood_of_a_noise_prediction(path) -> None:
    flow, exact = ideal("noise", path), mixture(path)
    x = exact.exact_sample(40, seed=5)
    found = log_likelihood(flow, x, steps=60)
    torch.testing.assert_close(found, exact.log_density(x), atol=0.1, rtol=0)


def test_a_schedule_is_walked_by_its_timesteps() -> None:
    asked = []

    def call(network, x, t):
        asked.append(t.unique().tolist())
        return network(x, t)

    flow = ideal("noise", "schedule", call=call)
    flow.draw_states(3, sampler="ancestral", nfe=7)
    expected = [round((1 - j / 7) * 1000) - 1 for j in range(7)]
    assert asked == [[k] for k in expected]
    assert asked[0] == [999]
    with pytest.raises(UserError, match="2000 steps of a schedule of 1000"):
        flow.grid(2000)


class Parts(nn.Module):
    """The endpoint of unit Gaussians, part by part."""

    def forward(self, x: State, t):
        shrink = t / (t**2 + (1 - t) ** 2)
        return x.map(lambda part: shrink.view(-1, *[1] * (part.ndim - 1)) * part)


def test_states_of_several_parts() -> None:
    flow = VelocityFlow(Parts(), prediction="endpoint", shape={"a": (2,), "b": (3, 4)})
    x = flow.draw_states(3000, nfe=40)
    assert {name: tuple(part.shape) for name, part in x.items()} == {
        "a": (3000, 2),
        "b": (3000, 3, 4),
    }
    for part in x.values():
        assert float(part.std()) == pytest.approx(1.0, abs=0.04)
    assert flow.trace == "exact"
    assert VelocityFlow(Parts(), shape=(9, 9)).trace == "hutchinson"


class Joined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(self.layer(x))


def test_ways_to_call_a_network() -> None:
    x, t = torch.randn(4, 2), torch.rand(4)
    network = Joined()
    joined = VelocityFlow(network, shape=(2,), call="x and t joined")
    expected = network.layer(torch.cat([x, t[:, None]], 1))
    torch.testing.assert_close(joined.predict(x, t), expected)

    class Swapped(nn.Module):
        def forward(self, t, x):
            return type("Output", (), {"sample": t[:, None] * x})()

    swapped = VelocityFlow(Swapped(), shape=(2,), call="t, x")
    torch.testing.assert_close(swapped.predict(x, t), t[:, None] * x)


def test_a_network_stays_in_evaluation_mode() -> None:
    network = Joined()
    flow = VelocityFlow(network, shape=(2,), call="x and t joined").train()
    assert flow.training
    assert not flow.network.drop.training


def test_a_frozen_network_is_trained_as_a_copy() -> None:
    network = Joined().requires_grad_(False)
    flow = VelocityFlow(network, shape=(2,), call="x and t joined")
    free = flow.trainable()
    assert all(p.requires_grad for p in free.parameters())
    assert not any(p.requires_grad for p in network.parameters())
    assert free.trainable() is free


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": lambda x, t: x}, "is of a torch.nn.Module"),
        ({"prediction": "speed"}, "predicts one of velocity, endpoint, noise, score"),
        ({"path": "linear"}, "'linear' is no path"),
        ({"prediction": "v-prediction"}, "paths that keep the variance"),
        ({"call": "t"}, "call is one of 'x, t'"),
    ],
    ids=["function", "prediction", "path", "variance", "call"],
)
def test_what_does_not_fit_is_refused_at_once(change, message) -> None:
    given = {"network": Joined(), "path": LinearPath(), "shape": (2,)} | change
    with pytest.raises(UserError, match=message):
        VelocityFlow(**given)


def test_a_wrong_shape_is_named() -> None:
    flow = VelocityFlow(nn.Bilinear(2, 1, 5), shape=(2,), call=lambda n, x, t: n(x, t[:, None]))
    with pytest.raises(UserError, match=r"gave \(4, 5\) for states of \(4, 2\): say by `call`"):
        flow.endpoint(torch.zeros(4, 2), torch.full((4,), 0.5))
    with pytest.raises(UserError, match=r"tensors of the shape \(1, 8, 8\): give.*value="):
        VelocityFlow(Joined(), shape=(1, 8, 8)).value_network()


def test_weights_come_back_into_a_network_of_ones_own(tmp_path) -> None:
    flow = VelocityFlow(Joined(), SCHEDULE, "noise", shape=(2,), call="x and t joined")
    folder = flow.save(tmp_path / "flow", half=False)
    card = json.loads((folder / "card.json").read_text())
    assert card["arguments"]["prediction"] == "noise"
    assert "1000 timesteps" in card["arguments"]["path"]
    other = VelocityFlow(Joined(), SCHEDULE, "noise", shape=(2,), call="x and t joined")
    back = other.stored(folder)
    torch.testing.assert_close(back.network.layer.weight, flow.network.layer.weight)
    assert not torch.equal(other.network.layer.weight, flow.network.layer.weight)
    with pytest.raises(UserError, match=r"yours to build: VelocityFlow\(.*\)\.stored\(folder\)"):
        Flow.load(folder)
    wrong = VelocityFlow(nn.Linear(2, 2), shape=(2,))
    with pytest.raises(UserError, match="does not fit the network"):
        wrong.stored(folder)


class Named(VelocityFlow):
    """As docs/own-flow.md says it is done to be found by name."""

    kind = "test-velocity-named"

    def __init__(self, bias: bool = True) -> None:
        network = Joined()
        network.layer = nn.Linear(3, 2, bias=bias)
        super().__init__(network, shape=(2,), call="x and t joined")
        self.arguments = {"bias": bias}


def test_a_subclass_with_a_kind_is_found_by_its_folder(tmp_path) -> None:
    flow = Named(bias=False)
    back = Flow.from_pretrained(flow.save(tmp_path / "flow", half=False))
    assert type(back) is Named
    assert torch.equal(back.network.layer.weight, flow.network.layer.weight)


class Nameless(Named):
    pass


def test_a_flow_without_a_kind_is_not_saved(tmp_path) -> None:
    with pytest.raises(UserError, match=r"Nameless has no kind.*kind = \"my-flow\""):
        Nameless().save(tmp_path / "flow")
    assert not (tmp_path / "flow").exists()
    assert Flow.kinds["test-velocity-named"] is Named


def test_a_kind_is_of_one_class() -> None:
    with pytest.raises(UserError, match=r"kind 'mixture' of .*Mine is taken by .*MixtureFlow"):

        class Mine(Flow):
            kind = "mixture"


def test_a_guided_copy_begins_as_the_flow() -> None:
    flow = ideal("noise", "variance-preserving")
    guided = flow.guided()
    x, t = (part.float() for part in points(mixture("variance-preserving"), 0.5))
    torch.testing.assert_close(guided.endpoint(x, t), flow.endpoint(x, t))
    assert guided.state_space() == flow.state_space()


class AlignedGaussian(nn.Module):
    """The velocity that optimal transport of `N(0, 1)` to `N(m, s^2)` gives: straight lines."""

    mean, sd = 1.0, 0.5

    def forward(self, x, t):
        x0 = (x - t[:, None] * self.mean) / (1 - t + t * self.sd)[:, None]
        return self.mean + (self.sd - 1) * x0


def test_calibration_tells_independent_noise_from_aligned() -> None:
    for case in (("velocity", "linear"), ("noise", "schedule"), ("score", "variance-preserving")):
        rows = calibration(ideal(*case), mixture(case[1]).exact_sample(4000))
        assert [row.t for row in rows] == [0.2, 0.4, 0.6, 0.8]
        for row in rows:
            assert abs(row.slope - 1) < 4 * row.error
        assert rows[-1].error < 0.01  # early, where there is little signal, it is larger
    aligned = VelocityFlow(AlignedGaussian(), shape=(1,))
    # It does draw the right thing, so that its samples tell nothing.
    x = aligned.draw_states(4000, nfe=20)
    assert float(x.mean()) == pytest.approx(1.0, abs=0.04)
    assert float(x.std()) == pytest.approx(0.5, abs=0.03)
    for row in calibration(aligned, x, (0.2, 0.4, 0.6)):
        a, s, c = row.t, 0.5, 1 - row.t + row.t * 0.5
        expected = a * s * c / (a**2 * s**2 + (1 - a) ** 2)
        assert row.slope == pytest.approx(expected, abs=4 * row.error)
    assert calibration(aligned, x, (0.2,))[0].slope < 0.3


def test_from_scheduler_takes_what_the_scheduler_says() -> None:
    class Scheduler:
        alphas_cumprod = torch.tensor(SCHEDULE.alphas_cumprod)

        class config:
            prediction_type = "v_prediction"

    flow = from_scheduler(Joined(), Scheduler(), (2,))
    assert flow.prediction == "v-prediction"
    assert flow.path.steps == 1000
    Scheduler.config.prediction_type = "flow"
    with pytest.raises(UserError, match="predicts 'flow'; known: epsilon, sample"):
        from_scheduler(Joined(), Scheduler(), (2,))


def test_operators_need_no_import() -> None:
    """`a & b` in a fresh process that has imported flows alone."""
    code = (
        "from molflowctl.flows.mixture import MixtureFlow\n"
        "import sys\n"
        "a = MixtureFlow([1.0], [[0.0]], [1.0])\n"
        "assert 'molflowctl.control' not in sys.modules\n"
        "print(repr((a & a) | a), '/', repr(a - a))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(mixture & mixture) | mixture / mixture - mixture"


def test_the_score_of_a_flow_is_none_of_molecules() -> None:
    flow = mixture("linear")
    x, t = points(flow, 0.5)
    with pytest.raises(UserError, match=r"molecules are scored by molflowctl.properties.score"):
        flow.score(["CCO"])
    with pytest.warns(DeprecationWarning, match="score_function"):
        old = flow.score(x, t)
    assert torch.equal(old, flow.score_function(x, t))


def test_a_subclass_needs_endpoint_and_start_alone() -> None:
    """As README says: states of several parts included."""

    class Short(Flow):
        def endpoint(self, x, t):
            return Parts()(x, t)

        def start(self, batch, noise):
            return self.noise_like(State(a=torch.empty(batch, 2), b=torch.empty(batch, 1)), noise)

    x = Short().draw_states(2000, nfe=40)
    assert float(x["b"].std()) == pytest.approx(1.0, abs=0.06)
    churned = Short().transport(
        Short().start(2000, BatchNoise(0)), Ancestral(0.0), Short().grid(60), BatchNoise(1)
    )
    assert float(churned["a"].std()) == pytest.approx(1.0, abs=0.06)
    assert math.isfinite(float(Short().loss(x, torch.rand(2000) * 0.9, BatchNoise(2)).mean()))
