"""Populations of molecules: one oracle call each, and values that stay with their molecules."""

import copy

import numpy as np
import pytest
import torch
from rdkit.Chem import MolFromSmiles
from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator

from molflowctl.compute.parallel import WorkerPool
from molflowctl.control.objectives.reward import Reward
from molflowctl.control.population import Population
from molflowctl.errors import UserError
from molflowctl.flows.state import Ragged, State
from molflowctl.models.denovo import DeNovoFlow
from molflowctl.properties.rewards import parse_reward
from molflowctl.tasks.steering.population import PopulationSampler
from molflowctl.tasks.steering.scored_molecules import ScoredMolecules


@pytest.fixture(scope="module")
def drawn(tiny_flow):
    flow = DeNovoFlow.load(tiny_flow)
    with WorkerPool(1) as pool:
        assay = PopulationSampler(parse_reward("heavy_atoms"), pool, similar=True)
        return (flow, assay, *assay.sample("prior", flow, 60, 5, 12))


def test_a_reward_stays_with_its_molecule(drawn) -> None:
    """Heavy atoms are counted in the states themselves; a failed molecule has its own reward."""
    _, assay, sample, x = drawn
    reward = assay.reward("atoms", mean=5.0, std=2.0, failed=-7.0)
    values = reward.value(x)
    sizes = torch.cat(
        [torch.full((len(g["positions"]),), g["positions"].shape[1]) for g in x.states.groups]
    )
    failed = values == -7.0
    assert int((~failed).sum()) == int(np.isfinite(sample.values).sum()) > 0
    torch.testing.assert_close(values[~failed], (sizes[~failed] - 5.0) / 2.0)


def test_the_oracle_is_asked_once_about_every_valid_molecule(drawn) -> None:
    _, assay, sample, x = drawn
    before = assay.calls
    reward = assay.reward("atoms", 0.0, 1.0, 0.0)
    reward.value(x)
    reward.value(Population.joined([x, x]))
    assert assay.calls == before == sum(map(bool, sample.smiles))


def test_a_population_that_is_copied_cut_joined_or_moved_keeps_its_rewards(drawn) -> None:
    _, assay, _, x = drawn
    told = 2 * assay.reward("atoms", 0.0, 1.0, -1.0) + assay.validity()
    values = told.value(x)
    assert len(values.unique()) > 2
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    mine = sizes_of(x)
    for again in (
        copy.copy(x),
        copy.deepcopy(x),
        x.to("cpu"),
        x.weighted(torch.rand(len(x))),
        Population.joined([x.select(slice(0, 20)), x.select(slice(20, None))]),
    ):
        assert torch.equal(told.value(again), values)
        assert torch.equal(sizes_of(again), mine)
    shuffled = x.select(order)
    assert torch.equal(told.value(shuffled), values[order])
    assert torch.equal(sizes_of(shuffled), mine[order])
    assert torch.equal(told.value(x.select(values < 3)), values[values < 3])
    assert torch.equal(
        told.value(Population.joined([shuffled, x])), torch.cat([values[order], values])
    )


def sizes_of(x: Population) -> torch.Tensor:
    """Atoms of every molecule."""
    return torch.cat(
        [torch.full((group.batch,), group["positions"].shape[1]) for group in x.states.groups]
    )


def test_validity_is_zero_for_the_valid(drawn) -> None:
    _, assay, sample, x = drawn
    values = assay.validity().value(x)
    assert sorted(values.unique().tolist()) == [-1, 0]
    assert int((values == 0).sum()) == sum(map(bool, sample.smiles))
    scored = assay.reward("atoms", 0.0, 1.0, -1.0).value(x) != -1
    assert torch.equal(scored, values == 0)  # this oracle never fails on a valid one


def test_fingerprints_have_the_cosine_of_the_molecules(drawn) -> None:
    _, assay, sample, x = drawn
    prints = assay.fingerprints()(x)
    torch.testing.assert_close(prints.norm(dim=1), torch.ones(len(prints)))
    valid = assay.validity().value(x) == 0
    assert float((prints[valid] @ prints[~valid].T).abs().max()) == 0
    assert float((prints[~valid] @ prints[~valid].T).min()) == pytest.approx(1)
    # The valid come in another order than they were drawn in, but all with themselves alike.
    named = [s for s in sample.smiles if s]
    generator = GetMorganGenerator(radius=2, fpSize=1023)
    bits = np.stack([generator.GetFingerprintAsNumPy(MolFromSmiles(s)) for s in named])
    cosines = bits @ bits.T / np.sqrt(np.outer(bits.sum(1), bits.sum(1)))
    found = (prints[valid] @ prints[valid].T).sum(1).sort().values
    torch.testing.assert_close(found.double(), torch.tensor(cosines.sum(1)).sort().values)


def test_features_are_in_standard_deviations_of_the_samples(tiny_flow) -> None:
    """Those of a failed molecule, and they alone, are zero: the mean."""
    flow = DeNovoFlow.load(tiny_flow)
    with WorkerPool(1) as pool:
        assay = PopulationSampler(None, pool, features=("heavy_atoms", "mw"))
        sample, x = assay.sample("prior", flow, 60, 5, 12)
    assert assay.calls == sum(map(bool, sample.smiles)) > 0
    features = assay.measured([sample])
    values = features(x)
    known = values[x.mask()]
    assert values.shape == (60, 2)
    assert bool((values[values.abs().sum(1) > 0] == known).all())
    torch.testing.assert_close(known.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(known.std(0, correction=0), torch.ones(2))
    with pytest.raises(UserError, match="drawn and judged"):
        features(State(positions=torch.zeros(1, 5, 3)))


def test_valid_molecules_without_a_feature_are_counted() -> None:
    features = np.array([[1.0, 2.0], [np.nan, np.nan], [1.0, np.nan], [3.0, 4.0]])
    sample = ScoredMolecules([None] * 4, ["C", "", "CC", "CO"], np.full(4, np.nan), features)
    assert sample.unmeasured == 1
    assert (
        ScoredMolecules([None] * 4, sample.smiles, sample.values, np.empty((4, 0))).unmeasured == 0
    )


def test_a_feature_that_does_not_vary_is_refused(tiny_flow) -> None:
    with WorkerPool(1) as pool:
        assay = PopulationSampler(None, pool, features=("heavy_atoms", "smarts:[Pt]"))
        sample, _ = assay.sample("prior", DeNovoFlow.load(tiny_flow), 40, 5, 12)
    with pytest.raises(UserError, match=r"smarts:\[Pt\] is the same"):
        assay.measured([sample])


def test_states_it_has_not_drawn_have_no_value(drawn) -> None:
    _, assay, _, x = drawn
    for strange in (x.states, x.states.groups[0], Population(x.states)):
        with pytest.raises(UserError, match="drawn and judged"):
            assay.reward("atoms", 0.0, 1.0, 0.0).value(strange)


def test_populations_are_remembered_as_long_as_they_live() -> None:
    asked = []
    reward = Reward(lambda x: asked.append(len(x)) or x[:, 0])
    x = Ragged([torch.zeros(3, 2), torch.ones(2, 4)])
    y = Ragged([*x.groups, torch.ones(1, 4)])
    assert reward.value(x).tolist() == [0, 0, 0, 1, 1]
    assert reward.value(y).tolist() == [0, 0, 0, 1, 1, 1]
    assert (2 * reward + reward).value(y).tolist() == [0, 0, 0, 3, 3, 3]
    assert asked == [3, 2, 1]
    assert reward.calls == 6


def test_a_flow_draws_a_population_of_all_its_sizes(drawn) -> None:
    flow, *_ = drawn
    x = flow.draw_states(300, seed=1, nfe=4)
    assert len(x) == 300
    sizes = {g["positions"].shape[1] for g in x.groups}
    assert sizes == set(flow.sizes)
    again = flow.draw_states(300, seed=1, nfe=4)
    assert all(
        torch.equal(a[name], b[name])
        for a, b in zip(x.groups, again.groups, strict=True)
        for name in a
    )
