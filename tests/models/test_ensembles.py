"""A conformer flow on molecules of several sizes is a flow like any other: where its endpoint is
exact, solvers reach the Gaussian of every molecule that they should."""

import pytest
import torch
from rdkit import Chem

from molflowctl.control.bank import ReplayBuffer
from molflowctl.control.merging import RewardGuidedMerging
from molflowctl.control.objectives.ratios import DenoisingDifference
from molflowctl.control.objectives.reward import Reward
from molflowctl.control.operators import Intersection, Union
from molflowctl.control.solvers.adjoint import AdjointMatching
from molflowctl.control.solvers.solver import Tilt, compatible
from molflowctl.control.solvers.weighted import WeightedFlowMatching
from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow
from molflowctl.flows.noise import BatchNoise
from molflowctl.flows.state import Ragged, State, concatenate, dot, times
from molflowctl.models.conformer import ConformerFlow, draw_positions
from molflowctl.models.conformer_graph import Graphs
from molflowctl.models.ensembles import Ensembles

NETWORK = {"width": 32, "pair_width": 8, "heads": 2, "vectors": 4, "depth": 2, "radial": 8}
SMILES = ("C[C@H](O)F", "CC=O", "CC#CO", "COC", "C1CO1")
WIDTH = 0.4


def mols() -> list[Chem.Mol]:
    return [Chem.MolFromSmiles(s) for s in SMILES]


@pytest.fixture
def flow() -> ConformerFlow:
    torch.manual_seed(0)
    return ConformerFlow([6, 7, 8, 9], {"4": 10}, "implicit", network=NETWORK).eval()


@pytest.fixture
def ensembles(flow) -> Ensembles:
    return Ensembles(flow, mols())


class Spring(Ensembles):
    """Data `N(mean, width^2 C)` of each molecule, to be learnt from the origin and WIDTH on."""

    loss = Flow.loss

    def __init__(self, flow) -> None:
        super().__init__(flow, mols())
        n = int(self.molecules.sizes.max())
        self.mean = torch.nn.Parameter(torch.zeros(len(SMILES), n, 3))
        self.log_width = torch.nn.Parameter(torch.tensor(WIDTH).log())

    def endpoint(self, x, t):
        """`mean + t w^2 / (t^2 w^2 + (1-t)^2) (x - t mean)`."""
        width = self.log_width.exp()
        mean = State(x.given, positions=self.mean[x.given, : x["positions"].shape[1]])
        gain = t * width**2 / (t**2 * width**2 + (1 - t) ** 2)
        return mean + times(gain, x - times(t, mean))


def test_each_element_is_of_its_own_molecule(ensembles, flow):
    x = ensembles.start(12, BatchNoise(3))
    t = torch.linspace(0.1, 0.9, 12)
    found = ensembles.endpoint(x, t)["positions"]
    assert len(x.given.unique()) > 1
    for k in range(12):
        placed = flow.on(Graphs.of(mols()[x.given[k]]))
        alone = placed.endpoint(x["positions"][k : k + 1], t[k : k + 1])
        torch.testing.assert_close(found[k], alone[0], rtol=1e-4, atol=1e-5)


def test_sizes_come_up_as_often_as_they_are_had(ensembles):
    noise = BatchNoise(0)
    starts = [ensembles.start(4, noise) for _ in range(400)]
    share = sum(x["positions"].shape[1] == 4 for x in starts) / 400
    assert share == pytest.approx(2 / 5, abs=0.08)
    given = torch.cat([x.given for x in starts])
    assert (given.bincount() / len(given)).tolist() == pytest.approx([0.2] * 5, abs=0.06)


def test_fewer_states_than_molecules(ensembles):
    few = ensembles.draw_states(1, seed=4, nfe=2)
    assert [group.batch for group in few.groups] == [1]
    assert (
        ensembles.molecules.sizes[int(few.groups[0].given[0])]
        == few.groups[0]["positions"].shape[1]
    )


def test_a_population_does_not_depend_on_its_batches(ensembles, monkeypatch):
    whole = ensembles.draw_states(23, seed=4, nfe=4)
    monkeypatch.setattr("molflowctl.models.ensembles.PAIRS_AT_ONCE", 40)
    parts = ensembles.draw_states(23, seed=4, nfe=4)
    assert isinstance(whole, Ragged)
    assert len(whole) == len(parts) == 23
    assert len(whole.groups) < len(parts.groups)
    counts = concatenate([g for g in whole.groups if g["positions"].shape[1] == 4]).given
    assert counts.bincount().tolist() == [5, 0, 5]
    for n in (3, 4):
        mine = [
            concatenate([g for g in x.groups if g["positions"].shape[1] == n])
            for x in (whole, parts)
        ]
        torch.testing.assert_close(mine[0]["positions"], mine[1]["positions"])


def test_the_same_conformers_as_drawn_of_a_molecule(ensembles, flow):
    """Of one molecule the population is what `draw_positions` gives."""
    alone = Ensembles(flow, mols()[:1])
    (x,) = alone.draw_states(3, seed=7, nfe=5).groups
    wanted = draw_positions(flow, Graphs.of(mols()[0]), range(3), seed=7, steps=5)
    torch.testing.assert_close(alone.decode(x), wanted, rtol=1e-4, atol=1e-5)


def test_adjoint_matching_moves_every_molecule_by_its_covariance(flow):
    """A reward `c_m . x` on the Gaussian of each molecule moves its mean by `WIDTH^2 C_m c_m`."""
    spring = Spring(flow)
    flow.requires_grad_(False)
    c = torch.randn(len(SMILES), 4, 3, generator=torch.Generator().manual_seed(1))

    def slope(x: State) -> State:
        return State(x.given, positions=2 * c[x.given, : x["positions"].shape[1]])

    reward = Reward(lambda x: dot(slope(x), x), gradient=slope)
    solver = AdjointMatching(iterations=40, batch=64, steps=10, passes=3, lr=0.05, average=0.9)
    steered = solver.solve(Tilt(spring, reward))
    for k, found in enumerate(means(steered)):
        force = slope(spring.blank(torch.tensor([k])))
        wanted = WIDTH**2 * spring.covariance.power(force, 1.0)["positions"][0]
        assert (found - wanted).norm() < 0.15 * wanted.norm()


def test_springs_on_the_bonds_make_the_gaussian_narrower(flow):
    """`r = -k/2 sum_bonds d^2` on `N(0, w^2 C)`, `C^-1` the Laplacian: `1/w^2` grows by `k`."""
    spring, k = Spring(flow), 12.0
    flow.requires_grad_(False)
    spring.mean.requires_grad_(False)

    def energy(x: State) -> torch.Tensor:
        graphs, _ = spring.molecules.of(x)
        return 0.5 * k * dot(x, x.map(lambda part: graphs.laplacians().to(part) @ part))

    solver = AdjointMatching(iterations=40, batch=64, steps=16, passes=3, lr=0.03, average=0.9)
    steered = solver.solve(Tilt(spring, Reward(lambda x: -energy(x))))
    assert float(steered.log_width.detach().exp()) ** -2 == pytest.approx(WIDTH**-2 + k, rel=0.1)
    drawn = [
        concatenate(list(f.draw_states(1500, seed=1, sampler="heun", nfe=60).groups[:1]))
        for f in (spring, steered)
    ]
    before, after = (float(energy(x).mean()) for x in drawn)
    # Each of the 3 (N-1) vibrations holds e, and kl/(kl + 2 e) of it in the optimum, kl = 1.
    n = drawn[0]["positions"].shape[1]
    e = before / (3 * (n - 1))
    assert e == pytest.approx(0.5 * k * WIDTH**2, rel=0.1)
    assert after / before == pytest.approx(1 / (1 + 2 * e), rel=0.15)


def test_log_ratio_is_that_of_the_molecules_gaussians(flow):
    p, q = Spring(flow), Spring(flow)
    shift = torch.randn(len(SMILES), 4, 3, generator=torch.Generator().manual_seed(2))
    for k, n in enumerate(p.molecules.sizes.tolist()):
        p.mean.data[k, :n] = 0.3 * (shift[k, :n] - shift[k, :n].mean(0))
    x = times(WIDTH, p.start(20, BatchNoise(0)))
    mean = State(x.given, positions=p.mean.data[x.given, : x["positions"].shape[1]])
    log_density = p.covariance.log_density
    wanted = log_density(x - mean, WIDTH) - log_density(x, WIDTH)
    found = DenoisingDifference(times=64, probes=4)(p, q, x)
    torch.testing.assert_close(found, wanted, rtol=0.05, atol=0.1)


def means(flow: Spring) -> list[torch.Tensor]:
    """Of each molecule, about its centroid: no state has one elsewhere."""
    sizes = flow.molecules.sizes.tolist()
    kept = [flow.mean.detach()[k, :n] for k, n in enumerate(sizes)]
    return [mean - mean.mean(0) for mean in kept]


@pytest.mark.parametrize("kind", [Intersection, Union])
def test_merged_means_lie_where_the_weights_say(kind, flow):
    """Of Gaussians of one covariance, the intersection's and the mixture's mean is the weighted."""
    parts = [Spring(flow), Spring(flow)]
    flow.requires_grad_(False)
    shifts = torch.randn(2, len(SMILES), 4, 3, generator=torch.Generator().manual_seed(2))
    for part, shift in zip(parts, shifts, strict=True):
        part.mean.data = 0.4 * shift
        part.log_width.requires_grad_(False)
    merged = RewardGuidedMerging(
        kind(*parts, weights=[2, 1]),
        AdjointMatching(iterations=30, batch=64, steps=8, passes=3, lr=0.05, average=0.9),
        plan=1,
        points=60 if kind is Intersection else 3000,
        nfe=8,
        matching=WeightedFlowMatching(steps=150, batch=64, lr=0.05),
    ).run()
    for first, second, found in zip(*(means(f) for f in (*parts, merged)), strict=True):
        wanted = (2 * first + second) / 3
        assert (found - wanted).norm() < 0.25 * (first - second).norm() / 3


def test_a_bank_keeps_molecules_with_their_conformers(ensembles):
    x = ensembles.draw_states(20, nfe=2)
    bank = ReplayBuffer.of(x, torch.zeros(20))
    for _ in range(5):
        group, rows = bank.minibatch(6, torch.Generator().manual_seed(0))
        part = bank.states[group].select(rows)
        assert torch.equal(part.given, bank.states[group].given[rows])
    assert ensembles.loss(part, torch.full((6,), 0.5), BatchNoise(0)).shape == (6,)


def test_what_goes_together(ensembles, flow):
    compatible(ensembles, Ensembles(flow, mols()))
    with pytest.raises(UserError, match="noise covariance"):
        compatible(ensembles, Ensembles(flow, mols()[1:]))


def test_stored_as_the_flow_of_all_molecules(ensembles, tmp_path):
    ensembles.save(tmp_path / "flow", half=False)
    assert isinstance(Flow.load(tmp_path / "flow"), ConformerFlow)
    again = ensembles.stored(tmp_path / "flow")
    x, t = ensembles.start(4, BatchNoise(0)), torch.full((4,), 0.5)
    torch.testing.assert_close(
        again.endpoint(x, t)["positions"], ensembles.endpoint(x, t)["positions"]
    )


def test_molecules_it_cannot_do(flow):
    with pytest.raises(UserError, match="CCl: the flow does not know the element Cl"):
        Ensembles(flow, [Chem.MolFromSmiles("CCl")])
    with pytest.raises(UserError, match="one molecule at least"):
        Ensembles(flow, [])
