"""Filter or steer: closed forms of the share of a base whose best are worth as much as a target."""

import math

import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import norm

from molflowctl.control.objectives.reward import Reward
from molflowctl.control.objectives.utilities import CVaR, Mean, MeanVariance, SuperQuantile
from molflowctl.control.population import Population
from molflowctl.errors import UserError
from molflowctl.properties.rewards import parse_reward
from molflowctl.tasks.oracle_calls import OracleClock
from molflowctl.tasks.steering.finetune import finetune
from molflowctl.tasks.steering.reporting.filtering import Filter, advise, best_share
from molflowctl.tasks.steering.run_folder import Hooks
from molflowctl.tasks.steering.settings import FinetuneConfig

N = 2000
MIDDLES = (torch.arange(N, dtype=torch.float64) + 0.5) / N
UNIFORM = MIDDLES[torch.randperm(N, generator=torch.Generator().manual_seed(0))]


def base(values):
    """Draws of a base whose reward is what the oracle says of them, 0 where it fails."""
    return Population(values.nan_to_num()[:, None], {"value": values}, values.isfinite())


def first(x):
    return x[:, 0]


@pytest.mark.parametrize("nats", [0.05, 0.5, 1.0, 2.0])
def test_the_mean_of_a_gaussian_reward(nats):
    """A tilt of so many nats lies `sqrt(2 nats)` up; a threshold at z has the mean phi(z)/q."""
    up = math.sqrt(2 * nats)
    z = brentq(lambda z: norm.pdf(z) / norm.sf(z) - up, -6, 6)
    values = torch.from_numpy(norm.ppf(UNIFORM.numpy()))
    found = best_share(Mean(Reward(first)), base(values), values, up)
    assert found.share == pytest.approx(norm.sf(z), abs=4 / N)
    assert found.threshold == pytest.approx(z, abs=0.02)
    lower = best_share(Mean(Reward(lambda x: -first(x))), base(values), values, up, minimise=True)
    assert lower.share == pytest.approx(found.share, abs=1 / N)
    assert lower.threshold == pytest.approx(-z, abs=0.02)


@pytest.mark.parametrize("level", [0.1, 0.3])
@pytest.mark.parametrize("least", [0.2, 0.7])
def test_tails_of_a_uniform_reward(level, least):
    """From c on, the worst share b has the mean c + b (1 - c)/2 and the best 1 - b (1 - c)/2."""
    half = level * (1 - least) / 2
    for utility, goal in (
        (CVaR(Reward(first), level), least + half),
        (SuperQuantile(Reward(first), 1 - level), 1 - half),
    ):
        found = best_share(utility, base(UNIFORM), UNIFORM, goal - 1e-6)
        assert found.share == pytest.approx(1 - least, abs=10 / N)
    variance = (1 - least) ** 2 / 12
    calm = MeanVariance(Reward(first), 0.5)
    found = best_share(calm, base(UNIFORM), UNIFORM, (1 + least) / 2 - variance / 2 - 1e-6)
    assert found.share == pytest.approx(1 - least, abs=2 / N)


def test_what_failed_does_not_pass():
    """Half of the draws failed: the same threshold keeps half as many of them."""
    half = torch.where(torch.arange(N) % 2 == 0, UNIFORM, torch.nan)
    found = best_share(Mean(Reward(first)), base(half), half, 0.75)
    assert found.share == pytest.approx(0.25, abs=0.02)
    assert found.threshold == pytest.approx(0.5, abs=0.04)
    assert best_share(Mean(Reward(first)), base(half), half, 1.1) is None


def test_equal_values_pass_together():
    values = torch.tensor([0.0] * 60 + [1.0] * 40, dtype=torch.float64)
    found = best_share(Mean(Reward(first)), base(values), values, 0.9)
    assert (found.share, found.threshold) == (pytest.approx(0.4), 1.0)


@pytest.mark.parametrize("threshold", [0.79123456, -123.4567, 3e-5, 0.0, 41.0])
@pytest.mark.parametrize("minimise", [False, True])
def test_the_condition_lets_through_what_passed(threshold, minimise):
    text = Filter(0.5, threshold, minimise).condition("qed")
    sign, number = text.split()[1:]
    assert sign == ("<=" if minimise else ">=")
    slack = (float(number) - threshold) * (1 if minimise else -1)
    assert -1e-12 <= slack <= 1e-3 * abs(threshold)
    assert parse_reward(text.replace("qed", "logp")).bounds() == (0.0, 1.0)  # it can be read


def asked(**changes):
    told = {
        "flow": "druglike", "out": "x", "reward": "qed", "core": ["c1ccccc1[*:1]"],
        "utility": ("mean",), "max_filter_share": None, **changes,
    }  # fmt: skip
    return FinetuneConfig(**told)


def at(goal):
    """A target whose utility is `goal`, and a failed draw, which nobody is given."""
    return base(torch.tensor([goal, torch.nan], dtype=torch.float64))


def clock():
    found = OracleClock(lambda *_: None)
    found.drawn, found.draw_seconds, found.calls, found.seconds = 100, 20.0, 50, 5.0
    return found


def test_the_line_says_what_to_do_and_how_long_it_takes():
    said = []
    advise(asked(), Mean(Reward(first)), base(UNIFORM), at(0.75), clock(), said.append)
    (line,) = said
    assert "your target keeps 50 % of the base: filter it" in line
    assert "generate druglike --core 'c1ccccc1[*:1]' -n 1000 --where \"qed >= 0.5" in line
    assert "2.0 draws for each molecule, about 10 minutes" in line  # 2 x 1,000 x (0.2 + 0.1) s
    advise(asked(), Mean(Reward(first)), base(UNIFORM), at(0.99), clock(), said.append)
    assert "0.02 of the base's draws pass a filter that does as well, 50 draws" in said[-1]
    advise(asked(), Mean(Reward(first)), base(UNIFORM), at(1.5), clock(), said.append)
    assert "no filter of the base's 2,000 draws does as well" in said[-1]
    many = asked(utility=("mean", "diversity:1"))
    assert advise(many, Mean(Reward(first)), base(UNIFORM), at(0.75), clock(), said.append) is None
    assert len(said) == 3


def test_a_run_stops_where_it_is_asked_to():
    calm = asked(max_filter_share=0.6)
    assert advise(calm, Mean(Reward(first)), base(UNIFORM), at(0.75), clock(), print).wins
    strict = asked(max_filter_share=0.4)
    with pytest.raises(UserError, match=r"filter it.*max_filter_share=0\.4"):
        advise(strict, Mean(Reward(first)), base(UNIFORM), at(0.75), clock(), print)


def test_a_steering_says_so_before_it_takes_a_step(tiny_flow, tmp_path):
    said = []
    settings = {
        "flow": str(tiny_flow), "out": tmp_path / "run", "reward": "logp", "kl_nats": 0.1,
        "mirror_steps": 1, "n_samples": 96, "base_samples": 192, "test_samples": 96, "nfe": 12,
        "train_steps": 4, "batch": 48, "max_filter_share": 0.02,
    }  # fmt: skip
    with pytest.raises(UserError, match="max_filter_share"):
        finetune(FinetuneConfig(**settings), hooks=Hooks(say=said.append))
    assert not list((tmp_path / "run" / "rounds").glob("step-*"))
