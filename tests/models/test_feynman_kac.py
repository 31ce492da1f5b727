"""Products of de-novo flows, drawn by swarms."""

import pytest
import torch

from molflowctl.errors import UserError
from molflowctl.flows import feynman_kac
from molflowctl.flows.samplers import Ancestral
from molflowctl.flows.state import dot
from molflowctl.models.denovo import DeNovoFlow
from molflowctl.models.feynman_kac import FeynmanKacFlow
from molflowctl.models.generation import Sampling, draw_states
from molflowctl.models.score_sum import ScoreSumFlow

SETTINGS = {
    "elements": [6, 7, 8],
    "charges": [-1, 0, 1],
    "sizes": {"4": 2, "5": 1},
    "network": {"width": 16, "pair_width": 8, "heads": 2, "vectors": 4, "depth": 1, "radial": 4},
}


def flow(seed: int, scale: float = 1.0) -> DeNovoFlow:
    """A network that was never trained; with a scale, one that is sure of what it says."""
    torch.manual_seed(seed)
    made = DeNovoFlow(**SETTINGS)
    with torch.no_grad():
        for parameter in made.network.parameters():
            parameter *= scale
    return made


def states(flow, index, **sampling):
    settings = Sampling(nfe=10, **sampling)
    return draw_states(flow, settings, 3, torch.as_tensor(index).numpy(), 5)


def test_a_molecule_depends_on_its_number_alone(monkeypatch) -> None:
    whole = FeynmanKacFlow.of([flow(0, 1.6), flow(1, 1.6)], [1, 2], particles=4)
    chosen, at = [], feynman_kac._at
    monkeypatch.setattr(feynman_kac, "_at", lambda *a: chosen.append(1) or at(*a))
    every = states(whole, range(20))
    assert len(chosen) > 1  # some swarms were drawn anew, beside the last choice
    some = states(whole, [7, 11])
    for name, part in some.items():
        assert torch.equal(part, every[name][[7, 11]])


def test_it_differs_from_the_sum_of_scores_by_its_weights_alone() -> None:
    """Parts that agree have even weights, so that whoever is taken is a draw of the part."""
    one = flow(0)
    x = states(FeynmanKacFlow.of([one, one], [1, 1], particles=3), range(64))
    y = states(ScoreSumFlow.of([one, one], [1, 1]), range(64))
    sizes = [dot(z, z).sqrt() for z in (x, y)]
    gap, error = sizes[0].mean() - sizes[1].mean(), (sum(s.var() for s in sizes) / 64) ** 0.5
    assert abs(float(gap)) < 4 * float(error)


def test_it_is_stored_with_its_parts(tmp_path) -> None:
    whole = FeynmanKacFlow.of([flow(0), flow(1)], [1, 2], particles=4, until=0.6)
    whole.save(tmp_path / "product", half=False)
    again = DeNovoFlow.load(tmp_path / "product")
    assert isinstance(again, FeynmanKacFlow)
    assert (again.particles, again.until) == (4, 0.6)
    for name, part in states(whole, range(5)).items():
        torch.testing.assert_close(states(again, range(5))[name], part)


@pytest.mark.parametrize("sampling", [{"sampler": "heun"}, {"stochasticity": 2.0}])
def test_samplers_without_the_common_noising_are_refused(sampling) -> None:
    whole = FeynmanKacFlow.of([flow(0), flow(1)], [1, 2])
    with pytest.raises(UserError, match="stochasticity of 1"):
        states(whole, range(2), **sampling)
    with pytest.raises(UserError, match="stochasticity of 1"):
        Sampling(**sampling).check(whole)  # before any worker starts
    Sampling().check(whole)
    assert Sampling().stepper(whole) == Ancestral()


@pytest.mark.parametrize("more", [{"particles": 1}, {"until": 0.0}, {"until": 1.0}])
def test_swarms_that_are_none_are_refused(more) -> None:
    with pytest.raises(ValueError, match="particles"):
        FeynmanKacFlow([SETTINGS, SETTINGS], [1.0, 1.0], **more)


def test_a_churn_that_a_part_recommends_is_not_taken_over() -> None:
    noisy = flow(0)
    noisy.card = {"sampling": {"churn": 8.0}}
    product = FeynmanKacFlow.of([noisy, flow(1)], [2, 1], particles=2)
    assert product.card == {}
    assert len(product.draw_states(2, nfe=4).groups) > 0
