"""Flows of other people, trained here in their ways: steered by every solver, and merged.

Where torchcfm or diffusers is installed, its own networks, couplings and schedulers are tried; the
same tests run on networks of the same calling conventions everywhere.
"""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from molflowctl.control import (
    KL,
    AdjointMatching,
    CVaR,
    FlowDensityControl,
    LearnedAdjoint,
    Mean,
    ReinforceAdjointMatching,
    Reward,
    RewardGuidedMerging,
    ValueGuidance,
    ValueMatching,
    WeightedFlowMatching,
)
from molflowctl.control.bank import ReplayBuffer
from molflowctl.control.solvers.solver import Tilt
from molflowctl.errors import UserError
from molflowctl.flows.mixture import MixtureFlow, perceptron, time_features
from molflowctl.flows.noise import BatchNoise
from molflowctl.flows.path import CosinePath, LinearPath
from molflowctl.flows.samplers import Ancestral
from molflowctl.flows.schedule import SchedulePath, VariancePreservingPath
from molflowctl.flows.velocity import VelocityFlow, calibration, from_scheduler

BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
ALPHAS = (1 - BETAS).cumprod(0)
MEAN, SD = torch.tensor([1.0, -0.5]), 0.6
C = torch.tensor([0.8, 0.4])


class Gaussian(nn.Module):
    """What an ideal network of `N(MEAN, SD^2)` predicts, with a correction that can be trained."""

    def __init__(self, prediction: str, path) -> None:
        super().__init__()
        self.prediction, self.path = prediction, path
        torch.manual_seed(0)
        self.net = perceptron(2, 48, 2, 2)

    def forward(self, x, t):
        if isinstance(self.path, SchedulePath):
            t = 1 - (t.to(x) + 1) / self.path.steps
        a, b, da, db = (
            torch.as_tensor(c).to(x).expand(len(x))[:, None] for c in self.path.coefficients(t)
        )
        gap = (x - a * MEAN) / (a**2 * SD**2 + b**2)
        data, noise = MEAN + a * SD**2 * gap, b * gap
        said = {
            "endpoint": data,
            "noise": noise,
            "velocity": da * data + db * noise,
            "score": -gap,
            "v-prediction": a * noise - b * data,
        }[self.prediction]
        unit = b if self.prediction == "endpoint" else 1 / b if self.prediction == "score" else 1
        return said + unit * self.net(time_features(x, t))


def gaussian(prediction: str, path) -> VelocityFlow:
    return VelocityFlow(Gaussian(prediction, path), path, prediction, shape=(2,))


KINDS = {
    "velocity, linear": ("velocity", LinearPath()),
    "noise, linear": ("noise", LinearPath()),
    "endpoint, cosine": ("endpoint", CosinePath()),
    "score, variance-preserving": ("score", VariancePreservingPath()),
    "noise, schedule": ("noise", SchedulePath(tuple(ALPHAS.tolist()))),
    "v-prediction, schedule": ("v-prediction", SchedulePath(tuple(ALPHAS.tolist()))),
}
UPWARDS = Reward(lambda x: x @ C, name="c.x")


SLOW = ("noise, linear", "endpoint, cosine", "v-prediction, schedule")


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[pytest.mark.slow] if k in SLOW else []) for k in KINDS]
)
def test_adjoint_matching_moves_a_gaussian_by_its_variance_times_c(kind) -> None:
    """`N(m, s^2) exp(c.x)` is `N(m + s^2 c, s^2)`: sign, factor and unit of every prediction."""
    flow = gaussian(*KINDS[kind])
    solver = AdjointMatching(iterations=40, batch=96, steps=24, lr=1e-2)
    tuned = solver.solve(Tilt(flow, UPWARDS, seed=1))
    x = tuned.draw_states(3000, nfe=60, seed=3)
    torch.testing.assert_close(x.mean(0), MEAN + SD**2 * C, atol=0.05, rtol=0)
    torch.testing.assert_close(x.std(0), torch.full((2,), SD), atol=0.05, rtol=0)
    assert type(tuned) is VelocityFlow
    before = flow.draw_states(3000, nfe=60, seed=3)  # which has stayed as it was
    torch.testing.assert_close(before.mean(0), MEAN, atol=0.04, rtol=0)


SOLVERS = {
    "weighted": WeightedFlowMatching(steps=250, batch=256, lr=5e-3),
    "values": ValueMatching(value_steps=200, steps=150, batch=256, lr=5e-3, rounds=1),
    "reinforce": ReinforceAdjointMatching(150, 256, 5e-3, rounds=1),
    "guidance": ValueGuidance(steps=200, batch=256, rounds=1),
    "learned": LearnedAdjoint(
        AdjointMatching(iterations=40, batch=128, steps=20, lr=1e-2), 200, 256
    ),
}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", ["velocity, linear", "noise, schedule"])
def test_solvers_that_learn_from_samples(solver, kind) -> None:
    flow = gaussian(*KINDS[kind])
    x = flow.draw_states(2000, nfe=60, seed=5)
    bank = ReplayBuffer.of(x, UPWARDS.value(x))
    tuned = SOLVERS[solver].solve(Tilt(flow, UPWARDS, bank=bank, seed=1))
    x = tuned.draw_states(3000, nfe=60, seed=3)
    moved = (x.mean(0) - MEAN) @ C / (SD**2 * C @ C)  # share of the way along c
    assert 0.75 < float(moved) < 1.25


# A network in the manner of torchcfm ----------------------------------------------------------


class OwnMLP(nn.Module):
    """As torchcfm's `MLP(dim=2, w=64, time_varying=True)`: one tensor, the time last."""

    def __init__(self, w: int = 64) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(3, w), nn.SELU(), nn.Linear(w, w), nn.SELU(), nn.Linear(w, 2)
        )

    def forward(self, x):
        return self.net(x)


class OwnMatcher:
    """As torchcfm's `ConditionalFlowMatcher(sigma=0)`."""

    def sample_location_and_conditional_flow(self, x0, x1):
        t = torch.rand(len(x0))
        return t, t[:, None] * x1 + (1 - t)[:, None] * x0, x1 - x0


def torchcfm_parts(kind: str):
    if kind == "own":
        return OwnMLP(), OwnMatcher(), LinearPath()
    matching = pytest.importorskip("torchcfm.conditional_flow_matching")
    models = pytest.importorskip("torchcfm.models.models")
    network = models.MLP(dim=2, w=64, time_varying=True)
    if kind == "torchcfm, independent":
        return network, matching.ConditionalFlowMatcher(sigma=0.0), LinearPath()
    return (
        network,
        matching.VariancePreservingConditionalFlowMatcher(sigma=0.0),
        CosinePath(),
    )


def trained(network, matcher, data: MixtureFlow, steps: int = 400) -> nn.Module:
    """The training loop of torchcfm's README."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    x = data.exact_sample(20_000, seed=9)
    for _ in range(steps):
        x1 = x[torch.randint(len(x), (512,))]
        t, xt, ut = matcher.sample_location_and_conditional_flow(torch.randn_like(x1), x1)
        loss = (network(torch.cat([xt, t[:, None]], -1)) - ut).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return network


@pytest.mark.parametrize("kind", ["own", "torchcfm, independent", "torchcfm, variance-preserving"])
def test_a_model_of_torchcfm_is_steered_and_merged(kind) -> None:
    torch.manual_seed(3)
    network, matcher, path = torchcfm_parts(kind)
    data = MixtureFlow([1.0], [[-0.8, 0.0]], [0.6])
    trained(network, matcher, data)

    model = VelocityFlow(network, path, "velocity", shape=(2,), call="x and t joined")
    rows = calibration(model, data.exact_sample(4000, seed=1), (0.6, 0.8))
    assert [row.slope for row in rows] == pytest.approx([1.0, 1.0], abs=0.1)
    height = Reward(lambda x: x[:, 1], name="height")
    solver = AdjointMatching(iterations=40, batch=96, steps=20, lr=1e-3)
    tuned = FlowDensityControl(Mean(height) - 0.5 * KL(model), solver, steps=1).run(model)
    x = tuned.draw_states(3000, nfe=60, seed=1)
    torch.testing.assert_close(  # exp(2 y) moves the mean by 2 * 0.36
        x.mean(0), torch.tensor([-0.8, 0.72]), atol=0.12, rtol=0
    )

    other = MixtureFlow(
        [1.0], [[0.8, 0.0]], [0.6], path="cosine" if path == CosinePath() else "linear"
    )
    # Of one covariance the averaged scores are the intersection's, see control/merging.py.
    matching = WeightedFlowMatching(steps=150, batch=256, lr=1e-3)
    merged = RewardGuidedMerging(
        model & other, solver, base=1, intersection="score-sum", matching=matching, points=2048
    ).run()
    x = merged.draw_states(3000, nfe=60, seed=1)
    torch.testing.assert_close(x.mean(0), torch.zeros(2), atol=0.12, rtol=0)  # half way
    torch.testing.assert_close(x.std(0), torch.full((2,), 0.6), atol=0.1, rtol=0)


def test_two_learned_flows_are_intersected_by_their_scores() -> None:
    """Near the data the scores of networks are wrong by the error of an endpoint over the square of
    the noise: what is asked of them there must not lead away from both."""
    torch.manual_seed(3)
    parts = []
    for mean in (-0.4, 0.4):
        network, matcher, path = torchcfm_parts("own")
        trained(network, matcher, MixtureFlow([1.0], [[mean, 0.0]], [0.6]))
        parts.append(VelocityFlow(network, path, shape=(2,), call="x and t joined"))
    solver = AdjointMatching(iterations=40, batch=96, steps=20, lr=1e-3)
    merged = RewardGuidedMerging(parts[0] & parts[1], solver, points=1024, plan=1).run()
    x = merged.draw_states(3000, nfe=60, seed=1)
    torch.testing.assert_close(x.mean(0), torch.zeros(2), atol=0.15, rtol=0)
    torch.testing.assert_close(x.std(0), torch.full((2,), 0.6), atol=0.1, rtol=0)


def test_a_coupling_by_optimal_transport_is_found_out() -> None:
    matching = pytest.importorskip("torchcfm.conditional_flow_matching")
    torch.manual_seed(3)
    network, _, path = torchcfm_parts("torchcfm, independent")
    data = MixtureFlow([1.0], [[1.5, 0.0]], [0.6])
    trained(network, matching.ExactOptimalTransportConditionalFlowMatcher(sigma=0.0), data, 150)
    model = VelocityFlow(network, path, "velocity", shape=(2,), call="x and t joined")
    early = calibration(model, data.exact_sample(4000, seed=1), (0.2,))[0]
    assert early.slope < 0.7


def test_flows_on_other_paths_do_not_go_together() -> None:
    with pytest.raises(UserError, match=r"differ in their path .*Linear.*Cosine"):
        gaussian("velocity", LinearPath()) & gaussian("velocity", CosinePath())


def test_a_run_in_a_folder_goes_on_from_its_steps(tmp_path) -> None:
    """With a network that no card could build again."""
    model = gaussian("velocity", LinearPath())
    solver = AdjointMatching(iterations=3, batch=32, steps=8)
    runs = []
    for steps in (1, 2, 2):
        control = FlowDensityControl(
            CVaR(UPWARDS, 0.5) - KL(model), solver, steps=steps, points=64, folder=tmp_path
        )
        runs.append(control.run(model, seed=2).state_dict())
    assert (tmp_path / "step-002" / "weights.safetensors").exists()
    for name, tensor in runs[1].items():
        torch.testing.assert_close(runs[2][name], tensor)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(runs[0], runs[1])


# A network and a scheduler in the manner of diffusers ---------------------------------------------


class OwnUNet(nn.Module):
    """As a diffusers model: `(sample, timestep)` to an output with a `.sample`."""

    def __init__(self) -> None:
        super().__init__()
        self.net = perceptron(2, 64, 2, 2)

    def forward(self, sample, timestep):
        assert timestep.dtype == torch.int64
        return SimpleNamespace(sample=self.net(time_features(sample, timestep / 1000)))


def own_scheduler(prediction_type: str = "epsilon") -> SimpleNamespace:
    config = SimpleNamespace(prediction_type=prediction_type)
    return SimpleNamespace(alphas_cumprod=ALPHAS.float(), config=config)


def noised(scheduler, x1, noise, k):
    if hasattr(scheduler, "add_noise"):
        return scheduler.add_noise(x1, noise, k)
    signal = scheduler.alphas_cumprod[k][:, None]
    return signal.sqrt() * x1 + (1 - signal).sqrt() * noise


@pytest.mark.parametrize("package", ["own", "diffusers"])
def test_a_diffusion_model_is_steered(package) -> None:
    """Trained to predict noise at discrete timesteps, as in the tutorial of diffusers."""
    scheduler = own_scheduler()
    if package == "diffusers":
        scheduler = pytest.importorskip("diffusers").DDPMScheduler(num_train_timesteps=1000)
    torch.manual_seed(0)
    network, steps = OwnUNet(), 500
    data = MixtureFlow([1.0], [[0.5, 0.0]], [0.5])
    optimiser = torch.optim.AdamW(network.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    x = data.exact_sample(20_000, seed=9)
    for _ in range(steps):
        x1 = x[torch.randint(len(x), (512,))]
        noise, k = torch.randn_like(x1), torch.randint(0, 1000, (512,))
        loss = (network(noised(scheduler, x1, noise, k), k).sample - noise).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()

    model = from_scheduler(network, scheduler, (2,))
    drawn = model.draw_states(3000, nfe=60)
    torch.testing.assert_close(drawn.mean(0), torch.tensor([0.5, 0.0]), atol=0.1, rtol=0)
    height = Reward(lambda x: x[:, 1], name="height")
    solver = AdjointMatching(iterations=40, batch=96, steps=20, lr=1e-3)
    tuned = FlowDensityControl(Mean(height) - 0.5 * KL(model), solver, steps=1).run(model)
    x = tuned.draw_states(3000, nfe=60)
    torch.testing.assert_close(  # exp(2 y) moves the mean by 2 * 0.25
        x.mean(0), drawn.mean(0) + torch.tensor([0.0, 0.5]), atol=0.12, rtol=0
    )


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("stochasticity", [0.0, 1.0])
def test_steps_are_those_of_ddim(prediction, stochasticity) -> None:
    """DDIM's step with its `eta` is the ancestral step with that churn, at 0 and at 1."""
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=1000, prediction_type=prediction, clip_sample=False
    )
    scheduler.set_timesteps(50)
    torch.manual_seed(0)
    network = OwnUNet()
    nn.init.normal_(network.net[-1].weight, std=0.1)
    flow = from_scheduler(network, scheduler, (2,))
    x, k = torch.randn(40, 2), 500
    with torch.no_grad():
        said = network(x, torch.full((40,), k)).sample
        expected = scheduler.step(said, k, x, eta=stochasticity, variance_noise=torch.zeros_like(x))
        t, s = 1 - (k + 1) / 1000, 1 - (k - 20 + 1) / 1000
        end = flow.endpoint(x, torch.full((40,), t))
        torch.testing.assert_close(end, expected.pred_original_sample, rtol=1e-3, atol=1e-3)
        a, b, variance = flow.path.ancestral(t, s, stochasticity)
        torch.testing.assert_close(a * x + b * end, expected.prev_sample, rtol=1e-3, atol=1e-3)
        noisy = scheduler.step(said, k, x, eta=stochasticity, variance_noise=torch.ones_like(x))
        spread = float((noisy.prev_sample - expected.prev_sample).mean())
        assert spread == pytest.approx(variance**0.5, abs=1e-4)
        if stochasticity == 0:
            step = Ancestral(0.0).step(flow, x, t, s, BatchNoise(0))
            torch.testing.assert_close(step, expected.prev_sample, rtol=1e-3, atol=1e-3)


def test_a_unet_of_diffusers_is_a_flow() -> None:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    network = diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1,
        block_out_channels=(8, 16), norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    flow = from_scheduler(network, diffusers.DDPMScheduler(), (1, 8, 8))
    x = flow.draw_states(2, sampler="ancestral", nfe=10)
    assert x.shape == (2, 1, 8, 8)
    assert x.isfinite().all()
    bright = Reward(lambda x: x.mean((1, 2, 3)), name="brightness")
    tuned = AdjointMatching(iterations=1, batch=2, steps=4).solve(Tilt(flow, bright))
    assert tuned.draw_states(2, sampler="ancestral", nfe=5).isfinite().all()
