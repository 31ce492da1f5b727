"""Adjoint matching against autograd, and against the tilts of Gaussian mixtures, in closed form.

A mixture with round components times `exp(c.x - q |x|^2 / 2)` is one again, so the flow that a
solver is to find is known exactly, at every time, whatever the path and the noise.
"""

import math
from itertools import pairwise

import pytest
import torch

from molflowctl.control.objectives.reward import Reward
from molflowctl.control.solvers.adjoint import AdjointMatching
from molflowctl.control.solvers.solver import Tilt
from molflowctl.errors import UserError
from molflowctl.flows.likelihood import log_likelihood
from molflowctl.flows.mixture import MixtureFlow
from molflowctl.flows.noise import BatchNoise
from molflowctl.flows.samplers import uniform_grid

CORRELATED = [[1.0, 0.6], [0.6, 1.2]]
PLANE = {"weights": [0.4, 0.6], "means": [[-1.0, 0.2], [0.8, -0.3]], "sds": [0.5, 0.7]}
ROUND = {"weights": [1.0], "means": [[0.5, -0.3]], "sds": [0.7]}
LINE = {"weights": [0.6, 0.4], "means": [[-1.0], [1.2]], "sds": [0.6, 0.5]}
FORMS = ["chain", "continuous"]
PATHS = ["linear", "cosine"]
SAMPLER = {"chain": "ancestral", "continuous": "euler-maruyama"}


@pytest.fixture(autouse=True)
def seeded():
    """The first layers of networks are random."""
    torch.manual_seed(0)


def tilted(spec: dict, c: list[float], q: float) -> dict:
    """The mixture times `exp(c.x - q |x|^2 / 2)`, normalised."""
    weights, means, sds = [], [], []
    for w, m, s in zip(*(spec[k] for k in ("weights", "means", "sds")), strict=True):
        precision = 1 / s**2 + q
        pull = [a / s**2 + b for a, b in zip(m, c, strict=True)]
        gain = sum(p * p / precision - a * a / s**2 for p, a in zip(pull, m, strict=True)) / 2
        weights.append(w * math.exp(gain) * (s**2 * precision) ** (-len(m) / 2))
        means.append([p / precision for p in pull])
        sds.append(precision**-0.5)
    return {"weights": weights, "means": means, "sds": sds}


def reward(c: list[float], q: float = 0.0) -> Reward:
    slope = torch.tensor(c)
    return Reward(lambda x: x @ slope.to(x) - q / 2 * x.square().sum(-1), name="slope")


# The adjoint ----------------------------------------------------------------------------------


def wavy(x, t):
    """A running reward `rho_t`."""
    return t * (2 * x[:, 0]).sin() + x.square().sum(-1)


def wavy_slope(x, t):
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad(wavy(leaf, t).sum(), leaf)[0]


@pytest.mark.parametrize("running", [False, True], ids=["terminal", "running"])
@pytest.mark.parametrize("covariance", [None, CORRELATED], ids=["white", "correlated"])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("form", FORMS)
def test_adjoints_are_the_gradients_through_the_unrolled_chain(form, path, covariance, running):
    """Without a control, `a_k = -d (r(x_K) + sum_{j >= k} h_j rho_j(x_j)) / d x_k`."""
    flow = MixtureFlow(**PLANE, covariance=covariance, path=path).double()
    r = Reward(lambda x: (x.square() * x.sin()).sum(-1))
    solver = AdjointMatching(batch=5, steps=7, form=form)
    grid = uniform_grid(7)
    tilt = Tilt(flow, r, running=wavy_slope if running else None)
    chain = solver.simulate(flow, tilt, grid, BatchNoise(3))

    noise = BatchNoise(3)
    step = flow.path.ancestral if form == "chain" else flow.path.euler_maruyama
    x = flow.start(5, noise).requires_grad_()
    states, total = [x], torch.zeros(())
    for k, (t, s) in enumerate(pairwise(grid)):
        times = torch.full((5,), t, dtype=torch.float64)
        if running and k:
            total = total + (s - t) * wavy(x, times).sum()
        a, b, variance = step(t, s)
        end = flow.endpoint(x, times)
        torch.testing.assert_close(chain.ends[k], end.detach())
        x = a * x + b * end
        if variance:
            x = x + variance**0.5 * flow.noise_like(x, noise)
        states.append(x)
    slopes = torch.autograd.grad(total + r.function(x).sum(), states[1:])
    assert len(chain.adjoints) == len(slopes) == 7
    for k, slope in enumerate(slopes[:-1], 1):
        torch.testing.assert_close(chain.states[k], states[k].detach())
        torch.testing.assert_close(chain.adjoints[k], -slope)
    torch.testing.assert_close(chain.adjoints[0], -slopes[0])  # the first step answers to the next


@pytest.mark.parametrize("form", FORMS)
def test_before_the_earliest_time_nothing_is_asked_for(form):
    flow = MixtureFlow(**PLANE).double()
    grid = uniform_grid(8)
    whole, late = (
        AdjointMatching(batch=5, steps=8, form=form, earliest=s).simulate(
            flow, Tilt(flow, reward([0.8, -0.5], 1.0)), grid, BatchNoise(3)
        )
        for s in (0.0, 0.5)
    )
    for k, t in enumerate(grid[:-1]):
        torch.testing.assert_close(late.states[k], whole.states[k])
        torch.testing.assert_close(late.ends[k], whole.ends[k])
        torch.testing.assert_close(late.adjoints[k], (t >= 0.5) * whole.adjoints[k])


class Late(MixtureFlow):
    """A mixture's endpoint before a time, another's from then on."""

    kind = ""

    def then(self, other: MixtureFlow, time: float) -> "Late":
        self.other, self.time = other, time
        return self

    def endpoint(self, x, t):
        return torch.where(
            (t < self.time)[:, None], super().endpoint(x, t), self.other.endpoint(x, t)
        )


@pytest.mark.parametrize(("sd", "q", "s"), [(1.0, 6.0, 0.5), (0.7, 8.0, 0.6), (1.4, 2.0, 0.6)])
def test_a_late_control_tilts_within_what_is_decided_before_it(sd, q, s):
    """A normal is a mixture of what `x_s` leaves likely: each is tilted, none gains weight."""
    spec = {"weights": [1.0], "means": [[0.0]], "sds": [sd]}
    flow = Late(**spec).then(MixtureFlow(**tilted(spec, [0.0], q)), s)
    left = 1 / (1 / sd**2 + (s / (1 - s)) ** 2)  # of the variance of x_1, x_s given
    within = 1 / (1 / left + q)
    expected = within + (sd**2 - left) * (within / left) ** 2
    x = flow.draw_states(40_000, seed=1, nfe=200, sampler="ancestral")
    assert float(x.var()) == pytest.approx(expected, rel=0.03)
    assert expected > 1.05 / (1 / sd**2 + q)  # than which the whole tilt would leave less


def test_the_solver_finds_a_late_control_where_most_losses_are_zero():
    """Above the bound that they set for losses, nothing is divided by zero."""
    spec, q, s = {"weights": [1.0], "means": [[0.0]], "sds": [1.0]}, 6.0, 0.5
    solver = AdjointMatching(iterations=60, batch=256, average=0.9, earliest=s, clip=0.9)
    new = solver.solve(Tilt(MixtureFlow(**spec).trainable(32), reward([0.0], q)))
    flow = Late(**spec).then(new, s)
    x = flow.draw_states(20_000, seed=1, nfe=200, sampler="ancestral")
    assert float(x.var()) == pytest.approx(0.156, rel=0.15)  # as above; of the base it is 1


def test_a_control_that_would_begin_after_the_last_step_is_refused():
    late = AdjointMatching(iterations=1, batch=8, steps=16, earliest=0.97, clip=0.9)
    with pytest.raises(UserError, match=r"none of 16 steps begins at 0\.97"):
        late.solve(Tilt(MixtureFlow(**LINE).trainable(8, 1), reward([1.0])))


# The loss -------------------------------------------------------------------------------------


class Between(MixtureFlow):
    """`(1 - share)` of a mixture's endpoint and `share` of another's."""

    kind = ""

    def towards(self, other: MixtureFlow, share: float) -> "Between":
        self.other, self.share = other, share
        return self

    def endpoint(self, x, t):
        mine = super().endpoint(x, t)
        return mine + self.share * (self.other.endpoint(x, t) - mine)


TILTS = [([0.8, -0.5], 0.0), ([0.0, 0.0], 1.0), ([0.0, 0.0], -0.5), ([-0.6, 0.9], 0.7)]


@pytest.mark.parametrize(("c", "q"), TILTS)
@pytest.mark.parametrize("covariance", [None, CORRELATED], ids=["white", "correlated"])
@pytest.mark.parametrize(
    ("form", "path"), [("chain", "linear"), ("chain", "cosine"), ("continuous", "linear")]
)
def test_the_loss_is_least_at_the_tilted_flow(form, path, covariance, c, q):
    """Between the base and the tilt, and beyond, the loss is a parabola: its vertex is the tilt.

    Trajectories are those of the tilt, where the fixed point has to be one. A wrong sign puts the
    vertex at -1, a wrong factor of two at 2 or a half.
    """
    settings = {"covariance": covariance, "path": path}
    base = MixtureFlow(**PLANE, **settings)
    goal = MixtureFlow(**tilted(PLANE, c, q), **settings)
    solver = AdjointMatching(batch=1500, steps=60, form=form)
    tilt = Tilt(base, reward(c, q))
    chain = solver.simulate(goal, tilt, uniform_grid(60), BatchNoise(0))
    picked = torch.arange(59)
    low, middle, high = (
        float(
            solver.losses(Between(**PLANE, **settings).towards(goal, s), chain, picked)
            .double()
            .mean()
        )
        for s in (0.0, 1.0, 2.0)
    )
    vertex = (low - high) / (low + high - 2 * middle) / 2 + 1
    assert vertex == pytest.approx(1.0, abs=0.04)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("covariance", [None, CORRELATED], ids=["white", "correlated"])
def test_the_loss_of_a_linear_reward_on_a_gaussian_goes_to_zero(form, covariance):
    """The adjoints are then the same on every path, and the tilt's endpoints undo them."""
    c = [0.8, -0.5]
    base = MixtureFlow(**ROUND, covariance=covariance)
    goal = MixtureFlow(**tilted(ROUND, c, 0.0), covariance=covariance)
    solver = AdjointMatching(batch=8, steps=60, form=form)
    chain = solver.simulate(goal, Tilt(base, reward(c)), uniform_grid(60), BatchNoise(0))
    # The first steps of the continuous form, where its noise is cut off, are its own.
    picked = torch.arange(8, 59)
    before, after = (solver.losses(f, chain, picked).mean() for f in (base, goal))
    assert after < 0.001 * before


# The solver -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "path", "covariance", "c"),
    [
        ("chain", "linear", None, [1.0, -0.5]),
        ("chain", "linear", CORRELATED, [1.0, -0.5]),
        ("chain", "cosine", CORRELATED, [-1.0, 0.0]),
        ("continuous", "linear", None, [0.0, 1.2]),
        ("continuous", "linear", CORRELATED, [0.0, 1.2]),
    ],
)
def test_a_linear_reward_moves_the_mean_by_the_covariance_of_the_data(form, path, covariance, c):
    """The sign test: `N(m, S) exp(c.x)` is `N(m + S c, S)`, whatever the noise is."""
    flow = MixtureFlow(**ROUND, covariance=covariance, path=path)
    steps = 30 if form == "chain" else 60  # whose error is of first order
    solver = AdjointMatching(iterations=60, batch=128, steps=steps, average=0.9, form=form)
    new = solver.solve(Tilt(flow.trainable(32), reward(c)))
    drawn = new.draw_states(20_000, seed=1)
    spread = ROUND["sds"][0] ** 2 * torch.eye(2)
    expected = torch.tensor(ROUND["means"][0]) + spread @ torch.tensor(c)
    # The standard error is 0.005, the shift 0.4.
    torch.testing.assert_close(drawn.mean(0), expected, rtol=0, atol=0.04)
    torch.testing.assert_close(drawn.T.cov(), spread, rtol=0, atol=0.04)


@pytest.mark.parametrize("parts", [(), ("a",), ("b",), ("b", "a")])
def test_a_reward_moves_the_parts_that_are_steered(parts, pair):
    """`exp(a - 2 b)` moves the mean of `a` by 1 and of `b` by -2."""
    one = Reward(lambda x: x["a"][:, 0] - 2 * x["b"][:, 0])
    solver = AdjointMatching(iterations=60, batch=32, steps=20, lr=5e-2, average=0.9, parts=parts)
    new = solver.solve(Tilt(pair(), one))
    for name, mean in (("a", 1.0), ("b", -2.0)):
        moved = mean if not parts or name in parts else 0.0
        assert float(new.means[name].detach()) == pytest.approx(moved, abs=0.03)


def divergence(goal: MixtureFlow, flow, half: float = 5.0) -> float:
    """`KL(goal || flow)` on the line, by quadrature."""
    x = torch.arange(-half, half, 0.05)[:, None]
    log_goal = goal.log_density(x)
    return float((log_goal.exp() * (log_goal - log_likelihood(flow, x, steps=20))).sum() * 0.05)


@pytest.mark.parametrize(("c", "q", "clip"), [(0.5, 1.5, 1.0), (-0.8, -0.6, 1.0), (0.5, 1.5, 0.98)])
def test_a_quadratic_reward_changes_spreads_and_weights(c, q, clip):
    base = MixtureFlow(**LINE)
    goal = MixtureFlow(**tilted(LINE, [c], q))
    before = divergence(goal, base)
    assert before > 0.25
    solver = AdjointMatching(iterations=120, batch=256, average=0.95, clip=clip)
    new = solver.solve(Tilt(base, reward([c], q), start=base.trainable(32)))
    assert divergence(goal, new) < 0.08 * before


def test_a_solve_is_repeatable_and_leaves_the_flow_alone():
    flow = MixtureFlow(**LINE).trainable(8, 1)
    before = {k: v.clone() for k, v in flow.state_dict().items()}
    solver = AdjointMatching(iterations=3, batch=16, steps=6)
    one, two, other = (solver.solve(Tilt(flow, reward([1.0]), seed=s)) for s in (1, 1, 2))
    x, t = torch.zeros(1, 1), torch.full((1,), 0.5)
    assert torch.equal(one.endpoint(x, t), two.endpoint(x, t))
    assert not torch.equal(one.endpoint(x, t), other.endpoint(x, t))
    assert all(torch.equal(before[k], v) for k, v in flow.state_dict().items())


# Errors ---------------------------------------------------------------------------------------

QUICK = AdjointMatching(iterations=3, batch=16, steps=6)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Reward(lambda x: x[:, 0], differentiable=False, name="oracle"), "gradient of oracle"),
        (Reward(lambda x: x[:, 0] / 0, name="pole"), "pole.*not finite"),
        (Reward(lambda x: x[:, 0] * math.nan, name="broken"), "broken.*not finite"),
        (Reward(lambda x: x, name="wide"), r"wide returned the shape \(16, 1\)"),
        (Reward(lambda x: torch.ones(len(x)), name="flat"), "flat does not depend on the state"),
    ],
)
def test_rewards_that_cannot_be_followed_are_named(wrong, message):
    with pytest.raises(UserError, match=message):
        QUICK.solve(Tilt(MixtureFlow(**LINE).trainable(8, 1), wrong))


@pytest.mark.parametrize("make", [reward([1.0]), reward([0.0], 1.0)], ids=["linear", "quadratic"])
def test_a_fit_that_diverges_says_so(make):
    """And does not blame the reward for states that are not finite."""
    wild = AdjointMatching(iterations=20, batch=16, steps=6, lr=1e12)
    with pytest.raises(UserError, match="the fit diverged"):
        wild.solve(Tilt(MixtureFlow(**LINE).trainable(8, 2), make))
