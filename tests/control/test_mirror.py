"""Mirror ascent: its optimum, its step sizes, its folder, and its log.

The line is a mixture with an exact flow, so `Mean(r) - a KL(prior)` has its optimum,
`prior exp(r / a)`, in closed form, and what a flow reached is its likelihood on a grid.
"""

import csv
import json
import math
from dataclasses import replace

import pytest
import torch

from molflowctl.control.anchors import Annealed, FromPrevious, FromPrior
from molflowctl.control.mirror import Constant, FlowDensityControl, RobbinsMonro
from molflowctl.control.objectives.distances import Wasserstein1
from molflowctl.control.objectives.divergences import KL, ForwardKL, TrajectoryKL
from molflowctl.control.objectives.potentials import Critic
from molflowctl.control.objectives.reward import Reward
from molflowctl.control.objectives.utilities import CVaR, Mean
from molflowctl.control.solvers.adjoint import AdjointMatching
from molflowctl.control.solvers.solver import Tilt
from molflowctl.control.store import MirrorStep
from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow
from molflowctl.flows.likelihood import log_likelihood
from molflowctl.flows.mixture import MixtureFlow

PRIOR = MixtureFlow([0.6, 0.4], [[-1.0], [1.2]], [0.6, 0.5])
OTHER = MixtureFlow([1.0], [[0.5]], [0.8])
GRID = torch.arange(-5, 5, 0.05)[:, None]
INNER = AdjointMatching(iterations=60, batch=128, steps=16, average=0.95)
QUICK = AdjointMatching(iterations=2, batch=16, steps=6, passes=2)


def wave() -> Reward:
    return Reward(lambda x: (2 * x[:, 0]).sin() + 0.5 * x[:, 0], name="wave")


def bowl() -> Reward:
    return Reward(lambda x: -0.5 * (x[:, 0] - 0.3).square(), name="bowl")


def kl(log_goal: torch.Tensor, flow: Flow) -> float:
    """`KL(goal || flow)` by quadrature."""
    log_goal = log_goal.double() - log_goal.double().logsumexp(0)
    log_p = log_likelihood(flow, GRID, steps=20).double() + math.log(0.05)
    return float((log_goal.exp() * (log_goal - log_p)).sum())


def tilt(strength: float) -> torch.Tensor:
    return PRIOR.log_density(GRID) + strength * bowl().value(GRID)


def control(objective=None, inner=QUICK, **settings) -> FlowDensityControl:
    objective = Mean(wave()) - 0.8 * KL(PRIOR) if objective is None else objective
    return FlowDensityControl(objective, inner, **{"points": 100, "nfe": 8} | settings)


def run(fdc: FlowDensityControl, seed: int = 0) -> Flow:
    torch.manual_seed(0)  # of the network's first layers
    return fdc.run(PRIOR.trainable(32), prior=PRIOR, seed=seed)


def weights(flow: Flow) -> dict[str, torch.Tensor]:
    return {k: v for k, v in flow.state_dict().items() if k.startswith("net")}


def same(a: Flow, b: Flow) -> bool:
    mine, theirs = weights(a), weights(b)
    assert mine.keys() == theirs.keys()
    return all(torch.equal(mine[k], theirs[k]) for k in mine)


# Optima ---------------------------------------------------------------------------------------


class Closed:
    """Solves tilts by `c x - q x^2 / 2` without error: a mixture becomes another."""

    def solve(self, tilt: Tilt) -> MixtureFlow:
        x = GRID[60:140]
        slope = tilt.reward.gradient(x)[:, 0].double()
        lines = torch.stack([torch.ones(len(x)).double(), x[:, 0].double()], 1)
        c, minus_q = torch.linalg.lstsq(lines, slope[:, None]).solution[:, 0]
        torch.testing.assert_close(lines @ torch.stack([c, minus_q]), slope, rtol=0, atol=0.05)
        base = tilt.base
        assert isinstance(base, MixtureFlow)
        m, v = base.means[:, 0].double(), base.variances.double()
        precision = 1 / v - minus_q
        mean = (m / v + c) / precision
        gain = mean.square() * precision / 2 - m.square() / v / 2 - (v * precision).log() / 2
        weights = (base.log_weights.double() + gain).softmax(0)
        return MixtureFlow(weights.tolist(), mean[:, None].tolist(), precision.rsqrt().tolist())


@pytest.mark.parametrize("anchor", [FromPrior(), FromPrevious(epsilon=0.01)])
@pytest.mark.parametrize(
    ("plan", "steps", "size", "reached"),
    [
        (1, 1, 1.0, 1.0),
        (1, 1, 0.5, 0.5),
        (1, 2, 0.5, 0.75),
        (1, 3, 0.5, 0.875),
        (1, 2, 1.0, 1.0),
        (30, 1, 0.5, 1.0),
        (30, 2, 3.0, 1.0),
    ],
)
def test_a_step_leaves_the_share_that_was_not_walked_and_a_plan_leaves_nothing(
    anchor, plan, steps, size, reached
):
    """Steps of size `g`: after `k` of them `exp(r/a)` has the power `1 - (1 - g a)^k`."""
    fdc = control(
        Mean(bowl()) - 0.8 * KL(PRIOR), Closed(), anchor=anchor, plan=plan, steps=steps,
        step_size=Constant(size / 0.8), points=400, nfe=80,
    )  # fmt: skip
    flow = fdc.run(PRIOR)
    assert isinstance(flow, MixtureFlow)
    goal = tilt(reached / 0.8).double().log_softmax(0) - math.log(0.05)
    torch.testing.assert_close(
        flow.log_density(GRID)[40:160].double(), goal[40:160], rtol=0, atol=0.05
    )


@pytest.mark.parametrize(("plan", "size"), [(1, 1 / 0.8), (30, 0.3)])
def test_adjoint_matching_reaches_the_tilt(plan, size):
    fdc = control(
        Mean(bowl()) - 0.8 * KL(PRIOR), INNER, plan=plan, steps=1,
        step_size=Constant(size), points=1000, nfe=80,
    )  # fmt: skip
    flow = run(fdc)
    goal = tilt(1 / 0.8)
    before = kl(goal, PRIOR)
    assert before > 0.1
    assert kl(goal, flow) < 0.2 * before
    for wrong in (-1.0, 0.0, 0.5, 2.0):
        assert kl(goal, flow) < kl(tilt(wrong / 0.8), flow)


def test_a_divergence_along_the_trajectory_draws_the_flow_to_its_reference():
    objective = -1.0 * TrajectoryKL(OTHER)
    fdc = control(objective, INNER, anchor=FromPrevious(), plan=1, steps=2, step_size=Constant(0.7))
    log_goal = OTHER.log_density(GRID)
    before = kl(log_goal, PRIOR)
    assert before > 0.3
    assert kl(log_goal, run(fdc)) < 0.5 * before
    with pytest.raises(UserError, match=r"a running divergence needs anchor=FromPrevious\(\)"):
        run(replace(fdc, anchor=FromPrior()))


# Step sizes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [0.51, 0.75, 1.0])
def test_robbins_monro_steps(power):
    sizes = [RobbinsMonro(2.0, power)(k) for k in range(5)]
    assert sizes == pytest.approx([2 / (1 + k) ** power for k in range(5)])
    assert sizes == sorted(sizes, reverse=True)


def test_a_constant_step_stays():
    assert [Constant(0.3)(k) for k in (0, 7)] == [0.3, 0.3]


@pytest.mark.parametrize("power", [0.5, 0.0, 1.01, -1.0, math.nan])
def test_powers_that_do_not_converge_are_refused(power):
    with pytest.raises(UserError, match="Robbins-Monro steps need"):
        RobbinsMonro(1.0, power)


@pytest.mark.parametrize("kind", [Constant, RobbinsMonro])
@pytest.mark.parametrize("size", [0.0, -1.0, math.nan, math.inf])
def test_step_sizes_are_positive(kind, size):
    with pytest.raises(UserError, match=f"a step size of {size}"):
        kind(size)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"anchor": "base"}, "unknown anchor 'base'"),
        ({"steps": 0}, "at least 1 step"),
        ({"points": 1}, "2 points"),
        ({"plan": 0}, "plan of 1"),
        ({"trust": 0.0}, "trust of 0.0"),
        ({"trust": 1.0}, "trust of 1.0"),
        ({"trust": math.nan}, "trust of nan"),
    ],
)
def test_settings_that_make_no_run_are_named(settings, message):
    with pytest.raises(UserError, match=message):
        control(**settings)


@pytest.mark.parametrize(
    ("anchor", "settings"),
    [
        (Annealed, {"anneal_fraction": 0.0}),
        (Annealed, {"anneal_fraction": 1.1}),
        (Annealed, {"anneal_fraction": math.nan}),
        (Annealed, {"error_feedback": 1.0}),
        (Annealed, {"error_feedback": -0.1}),
        (Annealed, {"matched_moments": 3}),
        (FromPrevious, {"epsilon": 0.0}),
        (FromPrevious, {"epsilon": 1.0}),
    ],
)
def test_settings_that_make_no_anchor_are_named(anchor, settings):
    ((name, value),) = settings.items()
    with pytest.raises(UserError, match=f"{name}={value}"):
        anchor(**settings)


# The folder -----------------------------------------------------------------------------------


def with_critic(**settings) -> FlowDensityControl:
    w1 = Wasserstein1(OTHER, Critic(steps=20, later=10, width=16), points=100)
    objective = CVaR(wave(), 0.4) - 0.3 * w1 - 0.2 * ForwardKL(PRIOR)
    return control(objective, **{"steps": 3, "plan": 3, "step_size": RobbinsMonro(0.5)} | settings)


@pytest.mark.parametrize("anchor", [FromPrior(), FromPrevious()])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path, anchor):
    whole = run(with_critic(anchor=anchor))
    for steps in (1, 2):
        run(with_critic(anchor=anchor, folder=tmp_path, steps=steps))
    seen: list[int] = []
    resumed = run(
        with_critic(anchor=anchor, folder=tmp_path, report=lambda step: seen.append(step.step))
    )
    assert seen == [3]
    assert same(resumed, whole)
    assert not same(whole, run(with_critic(anchor=anchor), seed=1))
    assert sorted(p.name for p in tmp_path.glob("step-*")) == ["step-001", "step-002", "step-003"]
    # Once more there is nothing to be done.
    assert same(run(with_critic(anchor=anchor, folder=tmp_path)), whole)


def test_one_control_object_runs_twice_alike():
    fdc = with_critic(steps=2)
    assert same(run(fdc), run(fdc))


@pytest.mark.parametrize(
    ("settings", "culprit"),
    [
        ({"objective": Mean(wave()) - 0.7 * KL(PRIOR)}, "objective"),
        ({"objective": Mean(wave()) - 0.8 * KL(OTHER)}, "references"),
        ({"inner": replace(QUICK, lr=3e-2)}, "inner"),
        ({"step_size": Constant(0.9)}, "step_size"),
        ({"plan": 2}, "plan"),
        ({"trust": 0.4}, "trust"),
        ({"anchor": FromPrevious()}, "anchor"),
        ({"points": 90}, "points"),
        ({"nfe": 9}, "evaluations"),
    ],
)
def test_the_folder_of_another_run_is_refused(tmp_path, settings, culprit):
    run(control(steps=1, folder=tmp_path))
    with pytest.raises(UserError, match=f"holds another run .its {culprit} differs"):
        run(control(**{"steps": 1, "folder": tmp_path} | settings))


def test_another_seed_or_start_is_another_run(tmp_path):
    fdc = control(steps=1, folder=tmp_path)
    run(fdc)
    with pytest.raises(UserError, match="its seed differs"):
        run(fdc, seed=1)
    torch.manual_seed(1)
    with pytest.raises(UserError, match="its start differs"):
        fdc.run(PRIOR.trainable(32), prior=PRIOR)


def test_a_damaged_record_is_said(tmp_path):
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(UserError, match=r"run\.json cannot be read"):
        run(control(steps=1, folder=tmp_path))


class Flaky:
    """An inner solver that fails at given calls."""

    def __init__(self, *failing: int) -> None:
        self.failing, self.calls = failing, 0

    def __repr__(self) -> str:
        return "Flaky()"

    def solve(self, tilt):
        self.calls += 1
        if self.calls in self.failing:
            raise UserError("the fit diverged")
        return QUICK.solve(tilt)


def test_a_failing_solver_leaves_the_steps_before_it(tmp_path):
    with pytest.raises(UserError, match="the fit diverged"):
        run(with_critic(inner=Flaky(3), folder=tmp_path))
    assert sorted(p.name for p in tmp_path.glob("step-*")) == ["step-001", "step-002"]
    last = Flow.load(tmp_path / "step-002")
    assert same(last, run(with_critic(inner=QUICK, steps=2)))
    again = Flaky()
    resumed = run(with_critic(inner=again, folder=tmp_path))
    assert again.calls == 1
    assert same(resumed, run(with_critic(inner=QUICK)))


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_reward_that_breaks_on_the_way_is_named_and_the_steps_kept(tmp_path, broken):
    reward = wave()
    sound = reward.function

    def report(step: MirrorStep) -> None:
        if step.step == 2:
            reward.function = lambda x: sound(x) * broken

    fdc = control(Mean(reward) - 0.8 * KL(PRIOR), steps=4, folder=tmp_path, report=report)
    with pytest.raises(UserError, match="wave is not finite for 100 of 100 states"):
        run(fdc)
    assert len(list(tmp_path.glob("step-*"))) == 2


class Runaway:
    """Moves a Gaussian by one, and on its second call a thousand times as far."""

    def __init__(self) -> None:
        self.step = 1.0

    def __repr__(self) -> str:
        return "Runaway()"

    def solve(self, tilt: Tilt) -> MixtureFlow:
        assert isinstance(tilt.base, MixtureFlow)
        moved = MixtureFlow([1.0], (tilt.base.means + self.step).tolist(), [0.8])
        self.step *= 1000
        return moved


@pytest.mark.parametrize("anchor", [FromPrior(), FromPrevious()])
def test_a_run_that_leaves_for_good_is_stopped_at_the_last_good_step(tmp_path, anchor):
    """Its states are finite, so nothing else would notice."""
    fdc = control(
        Mean(bowl()) - KL(OTHER), Runaway(), anchor=anchor, steps=4, plan=1, folder=tmp_path
    )
    with pytest.raises(
        UserError, match=r"diverged at step 2: its states are 1e\+03 from the origin"
    ):
        fdc.run(OTHER)
    assert [path.name for path in sorted(tmp_path.glob("step-*"))] == ["step-001"]
    assert isinstance(Flow.load(tmp_path / "step-001"), MixtureFlow)


# The log --------------------------------------------------------------------------------------


def test_the_log_has_a_row_per_step(tmp_path):
    steps: list[MirrorStep] = []
    fdc = with_critic(folder=tmp_path, report=steps.append)
    run(replace(fdc, steps=2))
    run(fdc)
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [1, 2, 3]
    assert list(rows[0]) == [
        "step", "step_size", "objective", "effective_size", "reward_calls", "seconds",
        "0: CVaR_0.4[wave]", "1: W1", "2: forward KL",
    ]  # fmt: skip
    for k, (row, step) in enumerate(zip(rows, steps, strict=True)):
        assert float(row["step_size"]) == pytest.approx(0.5 / (1 + k) ** 0.75)
        total = sum(
            f * float(row[f"{n}: {name}"])
            for n, (f, name) in enumerate(
                [(1, "CVaR_0.4[wave]"), (-0.3, "W1"), (-0.2, "forward KL")]
            )
        )
        assert float(row["objective"]) == pytest.approx(total)
        assert step.row() == {key: pytest.approx(float(value)) for key, value in row.items()}
    assert json.loads((tmp_path / "run.json").read_text())["seed"] == 0


@pytest.mark.parametrize("anchor", [FromPrior(), FromPrevious()])
def test_effective_sizes_are_those_of_the_prior_points(anchor):
    steps: list[MirrorStep] = []
    run(control(steps=3, anchor=anchor, report=steps.append, step_size=Constant(0.4)))
    sizes = [step.effective_size for step in steps]
    if isinstance(anchor, FromPrevious):
        assert all(math.isnan(size) for size in sizes)
    else:
        assert sizes[0] == pytest.approx(100)
        assert all(1 <= size < 100 for size in sizes[1:])


def test_reward_calls_are_those_made():
    """Per step: the values at the points, the gradients at the ends of the chain, and from the
    second step on the prior's points, which say how far the tilt is."""
    reward, steps = wave(), []
    fdc = control(Mean(reward) - 0.8 * KL(PRIOR), steps=3, plan=1, report=steps.append)
    reward.value(GRID)  # not of this run
    run(fdc)
    chains = QUICK.iterations * QUICK.batch
    expected = [100 + chains, 2 * (100 + chains) + 100, 3 * (100 + chains) + 200]
    assert [step.reward_calls for step in steps] == expected


def test_values_are_those_of_the_density_before_the_step():
    steps: list[MirrorStep] = []
    objective = Mean(bowl()) - 0.8 * KL(PRIOR)
    fdc = control(
        objective, Closed(), steps=2, plan=1, step_size=Constant(1.0),
        points=4000, nfe=200, report=steps.append,
    )  # fmt: skip
    fdc.run(PRIOR)
    log_p = [PRIOR.log_density(GRID).double(), tilt(1.0).double()]
    for step, log in zip(steps, log_p, strict=True):
        share = log.softmax(0)
        mean = float((share * bowl().value(GRID)).sum())
        ratio = (share / log_p[0].softmax(0)).log()
        divergence = float((share * ratio).sum())
        names = {name: value for name, _, value in step.terms}
        assert names["E[bowl]"] == pytest.approx(mean, abs=0.06)
        assert names["KL"] == pytest.approx(divergence, abs=0.06)
        assert step.objective == pytest.approx(names["E[bowl]"] - 0.8 * names["KL"])
    assert steps[1].objective > steps[0].objective + 0.2
