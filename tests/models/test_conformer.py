"""A conformer flow on some molecules is a flow like any other: where its endpoint is exact, its
score, samples and likelihood are those of the Gaussian it should be."""

from itertools import pairwise

import pytest
import torch
from rdkit import Chem

from molflowctl.control.objectives.reward import Reward
from molflowctl.control.solvers.adjoint import AdjointMatching
from molflowctl.control.solvers.solver import Tilt
from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow
from molflowctl.flows.likelihood import log_likelihood
from molflowctl.flows.noise import BatchNoise, IndexedNoise
from molflowctl.flows.samplers import SAMPLERS, uniform_grid
from molflowctl.models.conformer import ConformerFlow, Placed, draw_positions, late_grid
from molflowctl.models.conformer_graph import Graphs

NETWORK = {"width": 32, "pair_width": 8, "heads": 2, "vectors": 4, "depth": 2, "radial": 8}


def graphs(*smiles: str) -> Graphs:
    return Graphs.stack([Graphs.of(Chem.MolFromSmiles(s)) for s in smiles])


@pytest.fixture
def flow() -> ConformerFlow:
    torch.manual_seed(0)
    return ConformerFlow([6, 7, 8, 9], {"4": 10}, "implicit", network=NETWORK).eval()


PAIR = ("C[C@H](O)F", "CC#CO")
WIDTH = 0.4


@pytest.fixture
def exact(flow, monkeypatch):
    """The flow whose data are `N(0, WIDTH^2 C)`: `x1_hat` is `x` times a number."""
    placed = flow.on(graphs(*PAIR))

    def endpoint(x, t):
        t = t.to(x)[:, None, None]
        return t * WIDTH**2 / (t**2 * WIDTH**2 + (1 - t) ** 2) * x

    monkeypatch.setattr(placed, "endpoint", endpoint)
    return placed


def test_score_of_the_exact_flow(exact):
    x = exact.start(6, BatchNoise(0))
    for t in (0.1, 0.5, 0.95):
        found = exact.score_function(x, torch.full((6,), t))
        wanted = -x / (t**2 * WIDTH**2 + (1 - t) ** 2)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_samples_of_the_exact_flow(exact, sampler):
    n = 8000
    noise = BatchNoise(1)
    x = exact.transport(exact.start(n, noise), SAMPLERS[sampler], uniform_grid(400), noise)
    for k in range(2):
        found = torch.einsum("bik,bjk->ij", x[k::2], x[k::2]) / (3 * n / 2)
        wanted = WIDTH**2 * torch.linalg.pinv(exact.graphs.laplacians()[k]).float()
        assert ((found - wanted).abs() / wanted.diagonal().max()).max() < 0.05


def test_likelihood_of_the_exact_flow(exact):
    x = WIDTH * exact.start(4, BatchNoise(2))
    found = log_likelihood(exact, x, steps=40)
    torch.testing.assert_close(found, exact.covariance.log_density(x, WIDTH), rtol=0, atol=0.05)


def test_adjoint_matching_moves_the_mean_by_the_covariance(flow, monkeypatch):
    """A reward `c . x` on the Gaussian: the adjoint is `-(d x1/d x)^T c` to the last digit."""
    placed = flow.on(graphs(PAIR[0]))

    def endpoint(x, t):
        t = t.to(x)[:, None, None]
        return t * WIDTH**2 / (t**2 * WIDTH**2 + (1 - t) ** 2) * x

    monkeypatch.setattr(placed, "endpoint", endpoint)
    c = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    tilt = Tilt(placed, Reward(lambda x: (x * c).sum((1, 2))))
    chain = AdjointMatching(batch=8, steps=20).simulate(
        placed, tilt, uniform_grid(20), BatchNoise(0)
    )
    for t, adjoint in zip(chain.times[2:].tolist(), chain.adjoints[2:], strict=False):
        factor = t * WIDTH**2 / (t**2 * WIDTH**2 + (1 - t) ** 2)
        torch.testing.assert_close(adjoint, (-factor * c).expand(8, 4, 3), rtol=0.15, atol=1e-3)


def test_the_loss_is_least_for_the_posterior_mean(flow, monkeypatch):
    placed = flow.on(graphs(*PAIR))
    x1 = WIDTH * placed.start(4000, BatchNoise(3))
    t = torch.full((4000,), 0.5)
    best = 0.5 * WIDTH**2 / (0.25 * WIDTH**2 + 0.25)
    means = []
    for factor in (0.9 * best, best, 1.1 * best):
        monkeypatch.setattr(placed, "forward", lambda x, t, f=factor: (f - 1) * x / 0.5)
        means.append(float(placed.loss(x1, t, BatchNoise(4)).mean()))
    assert means[1] < min(means[0], means[2])


def test_both_terms_of_the_loss(flow):
    """Against a plain sum over atoms and bonds."""
    placed = flow.on(graphs(PAIR[0]))
    x1, t = placed.start(3, BatchNoise(5)), torch.tensor([0.2, 0.6, 0.98])
    found = placed.losses(x1, t, BatchNoise(6))
    x0 = placed.noise_like(x1, BatchNoise(6))
    gap = placed(placed.path.sample(x0, x1, t), t) - (x1 - x0)
    weight = (1 - t) ** 2 / ((1 - t) ** 2 + 0.02**2) / 12
    mol = Chem.MolFromSmiles(PAIR[0])
    pairs = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in mol.GetBonds()]
    bonds = sum((gap[:, i] - gap[:, j]).square().sum(1) for i, j in pairs)
    torch.testing.assert_close(found["positions"], weight * gap.square().sum((1, 2)))
    torch.testing.assert_close(found["bonds"], weight * bonds)


def test_draws_are_a_function_of_their_number(flow):
    whole = draw_positions(flow, graphs(PAIR[0]), range(8), seed=3, steps=4)
    part = draw_positions(flow, graphs(PAIR[0]), range(4, 8), seed=3, steps=4)
    torch.testing.assert_close(whole[4:], part, rtol=0, atol=1e-5)
    other = draw_positions(flow, graphs(PAIR[0]), range(4, 8), seed=4, steps=4)
    assert (other - part).abs().max() > 0.1


def test_elements_of_a_batch_take_the_graphs_in_turn(flow):
    both = draw_positions(flow, graphs(*PAIR), range(6), seed=0, steps=4)
    for k, smiles in enumerate(PAIR):
        alone = draw_positions(flow, graphs(smiles), range(k, 6, 2), seed=0, steps=4)
        torch.testing.assert_close(both[k::2], alone, rtol=0, atol=1e-5)


def test_the_late_grid():
    grid = late_grid(10)
    steps = [b - a for a, b in pairwise(grid)]
    assert (grid[0], grid[-1], len(grid)) == (0.0, 1.0, 11)
    assert steps == sorted(steps, reverse=True)
    assert steps[-1] > 0
    assert late_grid(4, 2.0) == [0.0, 0.4375, 0.75, 0.9375, 1.0]


def test_storage(flow, tmp_path):
    flow.save(tmp_path / "flow", half=False)
    again = Flow.load(tmp_path / "flow")
    assert isinstance(again, ConformerFlow)
    assert again.arguments == flow.arguments
    for name, tensor in flow.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    flow.on(graphs(PAIR[0])).save(tmp_path / "placed", half=False)
    found = (tmp_path / "placed" / "weights.safetensors").read_bytes()
    assert found == (tmp_path / "flow" / "weights.safetensors").read_bytes()


@pytest.mark.parametrize("larger", [{"triangles": 4}, {"depth": 3, "triangles": 4}, {}], ids=str)
def test_growing_changes_nothing_yet(flow, larger) -> None:
    grown = flow.grown(**larger)
    molecules = graphs(*PAIR)
    x = flow.on(molecules).start(2, IndexedNoise(0, torch.arange(2)))
    t = torch.tensor([0.3, 0.9])
    expected = flow.on(molecules)(x, t)
    torch.testing.assert_close(grown.on(molecules)(x, t), expected, rtol=0, atol=1e-6)
    assert ConformerFlow(**grown.arguments).state_dict().keys() == grown.state_dict().keys()
    if larger:  # and what is new learns
        before = {k: p.detach().clone() for k, p in grown.named_parameters()}
        optimiser = torch.optim.SGD(grown.parameters(), lr=0.1)
        for _ in range(3):  # an output that is zero lets gradients through one step later
            optimiser.zero_grad()
            grown.on(molecules).loss(x, t, BatchNoise(1)).mean().backward()
            optimiser.step()
        fresh = [k for k, _ in grown.named_parameters() if k not in flow.state_dict()]
        weights = [k for k in fresh if k.endswith("weight") and "norm" not in k]
        assert weights
        assert not [k for k in weights if torch.equal(grown.get_parameter(k), before[k])]


@pytest.mark.parametrize("smaller", [{"depth": 1}, {"width": 64}, {"heads": 4}], ids=str)
def test_a_network_only_grows(flow, smaller) -> None:
    with pytest.raises(UserError, match=r"only grow|keeps its"):
        flow.grown(**smaller)


def test_without_molecules_it_is_no_flow_yet(flow):
    with pytest.raises(UserError, match=r"flow\.on"):
        flow.draw_states(4)


@pytest.mark.parametrize(
    ("smiles", "words"),
    [("CCCC", ""), ("CC[Si]C", "Si"), ("C" * 7, "far beyond"), ("CC*", r"\*")],
)
def test_molecules_that_are_refused(flow, smiles, words):
    reason = flow.unsupported_reason(flow.with_placed_atoms(Chem.MolFromSmiles(smiles)))
    assert (words.replace("\\", "") in reason) if words else reason == ""


def test_noise_is_scaled(flow):
    molecule = graphs("CCO")
    index = range(4)
    whole = draw_positions(flow, molecule, index, steps=1, scale=1.0)
    assert torch.equal(draw_positions(flow, molecule, index, steps=1), whole)
    placed = [Placed(flow, molecule, scale=s) for s in (1.0, 0.1)]
    starts = [p.start(4, IndexedNoise(0, torch.arange(4))) for p in placed]
    torch.testing.assert_close(starts[1], 0.1 * starts[0])
    tenth = draw_positions(flow, molecule, index, steps=3, scale=0.1)
    assert not torch.allclose(tenth, draw_positions(flow, molecule, index, steps=3))
    flow.card["sampling"] = {"noise": 0.1}
    assert torch.equal(draw_positions(flow, molecule, index, steps=3), tenth)


def test_steps_are_those_that_the_card_recommends(flow):
    molecule, index = graphs("CCO"), range(4)
    usual = draw_positions(flow, molecule, index)
    assert torch.equal(usual, draw_positions(flow, molecule, index, steps=25))
    flow.card["sampling"] = {"nfe": 3}
    fewer = draw_positions(flow, molecule, index)
    assert torch.equal(fewer, draw_positions(flow, molecule, index, steps=3))
    assert not torch.allclose(fewer, usual)
    assert torch.equal(fewer, draw_positions(flow, molecule, index, relaxed=True))
    flow.card["sampling"] = {"nfe": 3, "nfe_relaxed": 2}
    assert torch.equal(fewer, draw_positions(flow, molecule, index))
    relaxed = draw_positions(flow, molecule, index, relaxed=True)
    assert torch.equal(relaxed, draw_positions(flow, molecule, index, steps=2))
    flow.card["sampling"] = {"nfe": 3, "lateness": 2.5}
    later = draw_positions(flow, molecule, index)
    assert not torch.allclose(later, fewer)
    assert torch.equal(later, draw_positions(flow, molecule, index, steps=3))


def test_a_conformer_flow_says_how_conformers_are_drawn() -> None:
    flow = ConformerFlow(elements=[1, 6, 8], sizes={"9": 1}, network={"width": 32})
    with pytest.raises(UserError, match=r"that you give: in Python molflowctl.conformers"):
        flow.sample(5)
