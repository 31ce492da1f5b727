"""Flows around a core: what is given is there, whatever the network says; all else stays a flow."""

import copy
import pickle

import numpy as np
import pytest
import torch
from e3nn.o3 import rand_matrix
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdMolTransforms
from scipy.spatial.transform import Rotation

from molflowctl.chem.graphs import from_mol
from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow
from molflowctl.flows.noise import BatchNoise
from molflowctl.flows.state import State
from molflowctl.models.around.core import Core
from molflowctl.models.around.flow import AroundFlow, GuidedAroundFlow, superposed
from molflowctl.models.denovo import DeNovoFlow
from molflowctl.models.generation import Sampling, draw_states
from molflowctl.models.score_sum import ScoreSumFlow

SMALL = {"width": 32, "pair_width": 8, "heads": 2, "vectors": 4, "depth": 2}
SIZES = {"6": 2, "9": 3, "12": 1}
CORES = ["[*:1]C1CC1", "CC(=O)N", "[*:1]c1ccc([*:2])cc1", "C[NH3+]"]


def denovo(**more) -> DeNovoFlow:
    torch.manual_seed(0)
    flow = DeNovoFlow([6, 7, 8, 9], [-1, 0, 1], SIZES, network=SMALL | more)
    for p in flow.parameters():
        p.data += 0.05 * torch.randn_like(p)
    return flow.eval()


@pytest.fixture(scope="module", params=["plain", "conditional", "sum"])
def flow(request) -> DeNovoFlow:
    if request.param == "sum":
        return ScoreSumFlow.of([denovo(), denovo(triangles=2)], [2.0, 1.0])
    return denovo(conditional=request.param == "conditional")


def posed(smiles: str) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=1) == 0
    return mol


def noisy(flow, n: int, batch: int = 4) -> tuple[State, torch.Tensor]:
    return flow.prior(batch, n, BatchNoise(3)), torch.linspace(0.05, 0.95, batch)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("k", [2, 3, 4, 9])
@pytest.mark.filterwarnings("ignore:Optimal rotation is not uniquely")  # of two points
def test_superposition_is_the_nearest_rotation(seed, k) -> None:
    """Against scipy's, of points with noise and of mirror images."""
    g = torch.Generator().manual_seed(seed)
    given = torch.randn(k, 3, generator=g).double()
    given = given - given.mean(0)
    wanted = 2 + given @ rand_matrix().double() + 0.3 * torch.randn(5, k, 3, generator=g).double()
    wanted[-1] = -wanted[-1]
    for found, goal in zip(superposed(given, wanted).numpy(), wanted.numpy(), strict=True):
        rotation, _ = Rotation.align_vectors(goal - goal.mean(0), given.numpy())
        best = rotation.apply(given.numpy()) + goal.mean(0)
        assert np.square(found - goal).sum() == pytest.approx(np.square(best - goal).sum())
        moved, own = found - found.mean(0), given.numpy()
        np.testing.assert_allclose(moved @ moved.T, own @ own.T, atol=1e-9)
        if k > 3:
            hand = np.linalg.det(moved[:3]) * np.linalg.det(own[:3])
            assert hand >= 0


@pytest.mark.parametrize("smiles", CORES)
def test_the_endpoint_has_the_core(flow, smiles) -> None:
    core = Core.from_smiles(smiles)
    around = flow.around(core)
    k, n = len(core), 9
    end = around.endpoint(*noisy(around, n)).detach()
    for graph in around.decode(end):
        assert tuple(graph.numbers[:k]) == core.numbers
        assert tuple(graph.charges[:k]) == core.charges
        np.testing.assert_array_equal(graph.bonds[:k, :k], core.bond_matrix())
        closed = [a for a in range(k) if not core.room[a]]
        assert not graph.bonds[closed, k:].any()
        own, found = np.array(core.positions), graph.positions[:k]
        for body in set(core.bodies) - {0}:
            atoms = [a for a in range(k) if core.bodies[a] == body]
            a, b = (np.linalg.norm(p[atoms][:, None] - p[atoms], axis=-1) for p in (own, found))
            np.testing.assert_allclose(a, b, atol=1e-4)
    for name in ("atoms", "charges", "bonds"):
        torch.testing.assert_close(
            end[name].sum(-1), torch.full_like(end[name][..., 0], 0.5), atol=1e-5, rtol=0
        )
    torch.testing.assert_close(end["positions"].mean(1), torch.zeros(4, 3), atol=1e-5, rtol=0)


def test_what_is_free_is_the_flows_own(flow) -> None:
    """Atoms that are not the core's, where the network is not told of it."""
    around = flow.around(Core.from_smiles("[*:1]C1CC1", geometry="free"))
    x, t = noisy(flow, 9)
    found, plain = around.endpoint(x, t), flow.endpoint(x, t)
    same = torch.equal(found["atoms"][:, 3:], plain["atoms"][:, 3:])
    assert same == (not getattr(flow, "conditional", False))
    if same:
        torch.testing.assert_close(found["positions"], plain["positions"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("smiles", CORES)
def test_it_turns_with_the_state(flow, smiles) -> None:
    around = flow.around(Core.from_smiles(smiles)).double()
    x, t = noisy(around, 9)
    x, t = x.to(torch.float64), t.double()
    rotation = rand_matrix().double()
    turned = State(**{**x, "positions": x["positions"] @ rotation.T})
    a, b = around.endpoint(x, t), around.endpoint(turned, t)
    torch.testing.assert_close(b["positions"], a["positions"] @ rotation.T, atol=1e-5, rtol=0)
    for name in ("atoms", "bonds"):
        torch.testing.assert_close(a[name], b[name], atol=1e-5, rtol=0)
    flow.float()


def test_the_rest_may_be_in_any_order(flow) -> None:
    around = flow.around(Core.from_smiles("[*:1]C1CC1"))
    n = 8
    x, t = noisy(around, n)
    order = torch.tensor([0, 1, 2, 7, 5, 3, 6, 4])
    first, second = torch.triu_indices(n, n, 1)
    place = torch.zeros(n, n, dtype=torch.long)
    place[first, second] = place[second, first] = torch.arange(len(first))
    pair_order = place[order[first], order[second]]
    moved = State(**{k: v[:, pair_order if k == "bonds" else order] for k, v in x.items()})
    a, b = around.endpoint(x, t), around.endpoint(moved, t)
    for name in a:
        expected = a[name][:, pair_order if name == "bonds" else order]
        torch.testing.assert_close(b[name], expected, atol=2e-4, rtol=0)


def test_molecules_are_drawn_at_the_pose_of_their_core(flow) -> None:
    mol = posed("OCC1CC1")
    move = rdMolTransforms
    transform = np.eye(4)
    transform[:3, 3] = (20.0, -5.0, 3.0)
    move.TransformConformer(mol.GetConformer(), transform)
    core = Core.from_mol(mol, attach=[0])
    around = flow.around(core)
    states = draw_states(around, Sampling(nfe=4), 0, np.arange(6), 9)
    graphs = around.decode(states)
    for graph in graphs:
        np.testing.assert_allclose(graph.positions[:5], core.positions, atol=1e-3)
    (plain, *_) = flow.decode(states)
    a, b = (
        np.linalg.norm(p[:, None] - p[None], axis=-1)
        for p in (plain.positions, graphs[0].positions)
    )
    np.testing.assert_allclose(a, b, atol=1e-3)  # moved as a whole
    assert np.linalg.det(plain.positions[5:8] - plain.positions[8]) * np.linalg.det(
        graphs[0].positions[5:8] - graphs[0].positions[8]
    ) > 0  # fmt: skip


def test_numbers_of_atoms_have_room_for_the_core(flow) -> None:
    """A number of atoms is as likely as without a core, times the atoms that are left to draw."""

    def around(core: str, **sizes: dict[int, int]) -> dict[int, float]:
        core = Core.from_smiles(core)
        return {n: count / (n - len(core)) for n, count in flow.around(core, **sizes).sizes.items()}

    assert around("C1CC1") == {6: 2, 9: 3, 12: 1}
    assert around("CCCCCC") == {9: 3, 12: 1}
    # One atom for each place that is said, unless the sizes are said or there are no larger ones.
    three = "[*:1]C1C([*:2])C1[*:3]"
    assert around("[*:1]CC1CC1C[*:2]") == {9: 3, 12: 1}
    assert around("[*:1]CC1C(C)C1C[*:2]") == {9: 3, 12: 1}
    assert around(three) == {6: 2, 9: 3, 12: 1}
    assert around("[*:1]CCCCC([*:2])CCCCC[*:3]") == {12: 1}
    assert around(three, sizes={4: 1, 6: 2}) == {4: 1, 6: 2}


def test_only_who_is_told_knows(flow) -> None:
    """A conditional network answers otherwise; the others draw with more noise instead."""
    around = flow.around("[*:1]C1CC1")
    told = around.known(noisy(flow, 9)[0])
    assert told.atoms.shape[:2] == (4, 9)
    assert around.informed == (type(flow) is DeNovoFlow and flow.conditional)
    assert ("churn" in around.card.get("sampling", {})) != around.informed
    assert flow.known_of is None  # the flow itself is as it was


def test_saved_and_loaded_copied_and_pickled(flow, tmp_path) -> None:
    around = flow.around("[*:1]c1ccc([*:2])cc1")
    x, t = noisy(around, 9)
    around.endpoint(x, t)
    expected = around.endpoint(x, t)
    there = Flow.load(around.save(tmp_path / "flow", half=False))
    assert type(there) is AroundFlow
    assert there.core == around.core
    for other in (there, copy.deepcopy(around), pickle.loads(pickle.dumps(around))):
        for name, part in other.endpoint(x, t).items():
            torch.testing.assert_close(part, expected[name], atol=1e-6, rtol=0)


def test_it_learns(flow) -> None:
    """The gradient of what a solver lowers reaches the network, and is finite."""
    around = copy.deepcopy(flow.around("[*:1]C1CC1"))
    x, t = noisy(around, 9)
    around.endpoint_error(around.endpoint(x, t), around.round(x), t).mean().backward()
    slopes = [p.grad for p in around.parameters() if p.grad is not None]
    assert len(slopes) > 20
    assert all(slope.isfinite().all() for slope in slopes)
    assert sum(float(slope.abs().sum()) for slope in slopes) > 0


def test_a_value_guides_around_a_core() -> None:
    around = denovo(conditional=True).around("[*:1]C1CC1")
    guided = around.guided()
    assert type(guided) is GuidedAroundFlow
    x, t = noisy(around, 9)
    plain = around.endpoint(x, t)
    for name, part in guided.endpoint(x, t).items():  # its value is zero at first
        torch.testing.assert_close(part, plain[name], atol=1e-5, rtol=0)
    for p in guided.value.parameters():
        torch.nn.init.normal_(p, std=0.3)
    led = guided.endpoint(x, t)
    assert (led["positions"] - plain["positions"]).abs().max() > 1e-4
    torch.testing.assert_close(led["atoms"][:, :3], plain["atoms"][:, :3])
    with pytest.raises(UserError, match="cannot be guided"):
        ScoreSumFlow.of([denovo(), denovo()], [1, 1]).around("[*:1]C1CC1").guided()


def test_a_molecule_is_varied_from_its_own_noise(flow) -> None:
    """With hardly any it comes back; the core stays with any."""
    graph = from_mol(posed("C1CC1C(=O)NCCO"), False)
    little = flow.around(None, like=graph, noise=1e-4)
    assert little.sizes == {9: 1}
    states = draw_states(little, Sampling(nfe=6), 0, np.arange(3), 9)
    start = State(**{k: v[:1] for k, v in states.items()})
    x = little.transport(little.prior(3, 9, BatchNoise(0)), Sampling().stepper(little), [0.0, 1.0],
                         BatchNoise(1))  # fmt: skip
    assert x["positions"].shape == (3, 9, 3)
    assert start["positions"].isfinite().all()
    core = Core.part_of(Chem.RemoveAllHs(posed("C1CC1C(=O)NCCO")), [0, 1, 2], exact=False)
    much = flow.around(core, like=graph, noise=0.9)
    for found in much.decode(draw_states(much, Sampling(nfe=4), 0, np.arange(3), 9)):
        np.testing.assert_array_equal(found.numbers[:3], graph.numbers[:3])
        np.testing.assert_array_equal(found.bonds[:3, :3], graph.bonds[:3, :3])


def test_the_start_of_a_variation_has_the_law_of_its_time() -> None:
    """`a x_1 + b x_0`: the mean of many is `a x_1`, their spread is `b`."""
    graph = from_mol(posed("C1CC1C(=O)NCCO"), False)
    around = denovo().around(None, like=graph, noise=1.0)
    seen = []

    class Watch:
        nfe = 1

        def step(self, flow, x, t, s, noise):
            seen.append((t, x))
            return x

    around.transport(around.prior(4000, 9, BatchNoise(0)), Watch(), [0.0, 0.5, 0.8, 1.0],
                     BatchNoise(1))  # fmt: skip
    assert [t for t, _ in seen] == pytest.approx([0.7, 0.8])
    x1 = around.encode(
        *(torch.tensor(p)[None] for p in (graph.numbers, graph.charges)),
        torch.tensor(graph.bonds[np.triu_indices(9, 1)])[None].long(),
        torch.tensor(graph.positions)[None].float(),
    )
    atoms = seen[0][1]["atoms"]
    torch.testing.assert_close(atoms.mean(0), 0.7 * x1["atoms"][0], atol=0.03, rtol=0)
    assert float(atoms.std(0).mean()) == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize(
    ("core", "words"),
    [
        ("CS", "has S; the flow draws C, N, O, F"),
        ("C[N+](C)(C)[O-]", None),
        ("CCCCCCCCCCCC", "at most 12"),
        ("CCCCCCCCCCCCC", "13 heavy atoms"),
    ],
)
def test_a_core_that_the_flow_has_no_place_for(core, words) -> None:
    if words is None:
        assert denovo().around(core).core is not None
        return
    with pytest.raises(UserError, match=words) as caught:
        denovo().around(core)
    assert "\n" not in str(caught.value)


def test_charges_that_the_flow_lacks() -> None:
    neutral = DeNovoFlow([6, 8], [0], SIZES, network=SMALL)
    with pytest.raises(UserError, match="charge -1; the flow draws charges of 0"):
        neutral.around("CC[O-]")


def test_flows_that_cannot_be_held() -> None:
    explicit = DeNovoFlow([1, 6], [0], SIZES, "explicit", network=SMALL)
    with pytest.raises(UserError, match="implicit"):
        explicit.around("CC")
    with pytest.raises(UserError, match="has a core already"):
        denovo().around("CC").around("CC")
