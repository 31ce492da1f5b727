"""De-novo flows that a value guides."""

import pytest
import torch

from molflowctl.control.bank import ReplayBuffer
from molflowctl.control.solvers.guidance import ValueGuidance
from molflowctl.errors import UserError
from molflowctl.flows.noise import BatchNoise
from molflowctl.flows.samplers import Ancestral
from molflowctl.flows.state import State
from molflowctl.models.score_sum import ScoreSumFlow
from molflowctl.models.zoo import DeNovoFlow, Flow, GuidedFlow
from molflowctl.tasks.steering.solvers import check_learnable
from molflowctl.tasks.training.train import check_single

NETWORK = {"width": 16, "pair_width": 8, "heads": 2, "vectors": 4, "depth": 1, "radial": 4}
TIMES = (0.35, 0.6, 0.9)


def flow() -> DeNovoFlow:
    torch.manual_seed(0)
    return DeNovoFlow([6, 7, 8], [-1, 0, 1], {"4": 1}, network=NETWORK)


def learned(base: Flow, strength: float = 4.0) -> GuidedFlow:
    """A flow that is guided to nitrogen, or away from it, by a few steps."""
    x = base.round(base.prior(256, 4, BatchNoise(1)))
    nitrogen = (x["atoms"].argmax(-1) == 1).float().mean(1)
    solver = ValueGuidance(steps=60, batch=64, lr=5e-3)
    guided = solver.mirror_step(base, ReplayBuffer([x], [nitrogen]), strength)
    assert isinstance(guided, GuidedFlow)
    return guided


def test_before_it_has_learned_it_is_the_flow() -> None:
    base = flow()
    base.card["sampling"] = {"churn": 20.0}
    guided = base.guided()
    one, two = (f.draw_states(20, seed=3, nfe=8) for f in (base, guided))
    for mine, its in zip(one.groups, two.groups, strict=True):
        for name, part in mine.items():
            torch.testing.assert_close(its[name], part, atol=1e-5, rtol=1e-5)
    assert guided.card["sampling"] == {"churn": 20.0}
    assert flow().guided().card["sampling"] == {"churn": 16.0}  # which `flow()` would not have


@pytest.mark.parametrize("time", TIMES)
def test_the_endpoint_moves_along_the_gradient_of_the_value(time) -> None:
    """`(1 - t)^2 / t` times the slope of `V`, by central differences in every part."""
    base = flow()
    guided = learned(base)
    guided.double()
    x, t = base.prior(2, 4, BatchNoise(2)).to(torch.float64), torch.full((2,), time).double()
    moved = guided.endpoint(x, t) - base.double().endpoint(x, t)
    step = 1e-5
    for name, part in x.items():
        toward = torch.randn(part.shape, generator=torch.Generator().manual_seed(4)).double()
        if name == "positions":
            toward = toward - toward.mean(1, keepdim=True)
        up, down = (State(**{**x, name: part + sign * step * toward}) for sign in (1, -1))
        ends = [guided.value(guided.see(y, t), t) for y in (up, down)]
        slope = (ends[0] - ends[1]) / (2 * step)
        wanted = (1 - time) ** 2 / time * slope
        torch.testing.assert_close(
            (moved[name] * toward).flatten(1).sum(1), wanted, rtol=1e-4, atol=1e-9
        )


@pytest.mark.parametrize("time", TIMES)
def test_it_can_be_differentiated(time) -> None:
    """As its likelihood is, through the slope of the value too, by central differences."""
    guided = learned(flow())
    guided.double()
    x, t = guided.prior(2, 4, BatchNoise(2)).to(torch.float64), torch.full((2,), time).double()
    random = torch.Generator().manual_seed(5)
    way = {k: torch.randn(part.shape, generator=random).double() for k, part in x.items()}
    ahead = {k: torch.randn(part.shape, generator=random).double() for k, part in x.items()}

    def along(step: float, leaves: dict[str, torch.Tensor]) -> torch.Tensor:
        end = guided.endpoint(State(**{k: v + step * way[k] for k, v in leaves.items()}), t)
        return sum(((end[k] * ahead[k]).sum() for k in leaves), torch.zeros(()).double())

    leaves = {k: part.clone().requires_grad_() for k, part in x.items()}
    slopes = torch.autograd.grad(along(0, leaves), list(leaves.values()))
    found = sum(float((slope * way[k]).sum()) for k, slope in zip(leaves, slopes, strict=True))
    step = 1e-5
    wanted = (along(step, dict(x.items())) - along(-step, dict(x.items()))) / (2 * step)
    assert found == pytest.approx(float(wanted), rel=1e-5)


def test_it_sees_a_state_once_and_holds_one_trunk(monkeypatch) -> None:
    base = flow()
    guided = learned(base)
    seen = []
    features = type(guided.network).features
    monkeypatch.setattr(type(guided.network), "features", lambda *a: seen.append(1) or features(*a))
    x = base.prior(2, 4, BatchNoise(2))
    for time in (0.1, 0.5):  # outside its window and inside
        seen.clear()
        guided.endpoint(x, torch.full((2,), time))
        assert len(seen) == 1
    own = {f"value.{name}" for name in guided.value.state_dict()}
    assert guided.state_dict().keys() == base.state_dict().keys() | own
    assert not any("layers" in name for name in own)


@pytest.mark.parametrize("time", TIMES)
def test_it_turns_with_its_molecules_and_keeps_their_centroid(time) -> None:
    guided = learned(flow())
    x, t = guided.prior(3, 4, BatchNoise(5)), torch.full((3,), time)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(6)))[0]
    straight = guided.endpoint(x, t)
    turned = guided.endpoint(State(**{**x, "positions": x["positions"] @ turn}), t)
    torch.testing.assert_close(turned["positions"], straight["positions"] @ turn, atol=1e-4, rtol=0)
    torch.testing.assert_close(turned["atoms"], straight["atoms"], atol=1e-4, rtol=0)
    moved = (straight["positions"] - flow().endpoint(x, t)["positions"]).detach()
    assert moved.mean(1).abs().max() < 1e-5 < moved.abs().max()


@pytest.mark.parametrize("time", [0.1, 0.29, 0.98])
def test_outside_its_window_it_is_the_flow(time) -> None:
    base = flow()
    guided = learned(base)
    x, t = base.prior(2, 4, BatchNoise(7)), torch.full((2,), time)
    for name, part in base.endpoint(x, t).items():
        assert torch.equal(guided.endpoint(x, t)[name], part)


@pytest.mark.parametrize("strength", [4.0, -4.0])
def test_it_draws_what_was_asked_for_and_its_network_stays(strength) -> None:
    """More nitrogen, or less, in the noisy states where guidance ends, for the same noise."""
    base = flow()
    guided = learned(base, strength)
    x0, steps = base.prior(200, 4, BatchNoise(3)), [0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    there = [one.transport(x0, Ancestral(), steps, BatchNoise(4)) for one in (base, guided)]
    before, after = (x["atoms"][..., 1].mean(1) for x in there)
    change = (after - before).sign() * (1 if strength > 0 else -1)
    assert float(change.mean()) > 0.9
    for name, weight in base.state_dict().items():
        assert torch.equal(guided.state_dict()[name], weight)


def test_it_is_stored_with_its_value(tmp_path) -> None:
    guided = learned(flow())
    guided.save(tmp_path / "guided", half=False)
    again = Flow.load(tmp_path / "guided")
    assert isinstance(again, GuidedFlow)
    x, t = guided.prior(2, 4, BatchNoise(0)), torch.tensor([0.5, 0.7])
    for name, part in guided.endpoint(x, t).items():
        assert torch.equal(again.endpoint(x, t)[name], part)


def test_its_network_is_neither_steered_nor_merged_nor_trained() -> None:
    guided = flow().guided()
    with pytest.raises(UserError, match="mine is guided by a value"):
        check_learnable({"mine": guided})
    with pytest.raises(UserError, match="mine is guided by a value"):
        check_single("mine", guided)
    with pytest.raises(UserError, match="plain flows"):
        ScoreSumFlow.of([guided, flow()], [1, 1])
    x = guided.prior(2, 4, BatchNoise(0))
    with pytest.raises(UserError, match="does not learn from data"):
        guided.loss(x, torch.full((2,), 0.5), BatchNoise(1))
