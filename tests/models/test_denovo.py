"""The de-novo flow: states of real molecules, its prior, its loss and what it draws."""

import numpy as np
import pytest
import torch
from e3nn.o3 import rand_matrix
from rdkit import Chem
from rdkit.Chem import rdDistGeom
from scipy.stats import beta as beta_distribution

from molflowctl.chem.graphs import Graph3D, from_mol
from molflowctl.errors import UserError
from molflowctl.flows.noise import BatchNoise, IndexedNoise
from molflowctl.flows.state import State
from molflowctl.models.around.part import Part, told
from molflowctl.models.denovo import LOSS_WEIGHTS, DeNovoFlow, GivenParts, time_quantiles

SMILES = [
    "CCO",
    "c1ccoc1",
    "C#CC=O",
    "N#CC(F)C",
    "[O-]C(=O)C[NH3+]",
    "O=C1NC=CC1",
    "C[N+](C)(C)C",
    "CC(C)(C)O",
]
SMALL = {"width": 32, "pair_width": 8, "heads": 2, "vectors": 4, "depth": 2}
SIZES = {"3": 1, "5": 4, "8": 5}


@pytest.fixture(scope="module")
def flow() -> DeNovoFlow:
    torch.manual_seed(0)
    return DeNovoFlow([1, 6, 7, 8, 9], [-1, 0, 1], SIZES, "explicit", network=SMALL)


def graph(smiles: str, hydrogens: bool) -> Graph3D:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=1) == 0
    return from_mol(mol, hydrogens)


def tensors(*graphs: Graph3D) -> tuple[torch.Tensor, ...]:
    """Arguments of `encode` for molecules of one size."""
    first, second = np.triu_indices(len(graphs[0].numbers), 1)
    return (
        torch.tensor(np.stack([g.numbers for g in graphs])),
        torch.tensor(np.stack([g.charges for g in graphs])),
        torch.tensor(np.stack([g.bonds[first, second] for g in graphs])).long(),
        torch.tensor(np.stack([g.positions for g in graphs])).float(),
    )


@pytest.mark.parametrize("smiles", SMILES)
@pytest.mark.parametrize("hydrogens", [True, False])
def test_decode_undoes_encode(flow, smiles, hydrogens) -> None:
    known = graph(smiles, hydrogens)
    (found,) = flow.decode(flow.encode(*tensors(known)))
    np.testing.assert_array_equal(found.numbers, known.numbers)
    np.testing.assert_array_equal(found.charges, known.charges)
    np.testing.assert_array_equal(found.bonds, known.bonds)
    centred = known.positions - known.positions.mean(0)
    np.testing.assert_allclose(found.positions, centred, atol=1e-5)


def test_scales_of_the_state(flow) -> None:
    x = flow.encode(*tensors(graph("CCO", True)))
    assert {k: tuple(v.shape) for k, v in x.items()} == {
        "positions": (1, 9, 3),
        "atoms": (1, 9, 5),
        "charges": (1, 9, 3),
        "bonds": (1, 36, 4),
    }
    for name in ("atoms", "charges", "bonds"):
        assert set(x[name].unique().tolist()) == {0.0, 0.5}
        assert torch.equal(x[name].sum(-1), torch.full(x[name].shape[:-1], 0.5))
    length = (x["positions"][0, 0] - x["positions"][0, 1]).norm().item()
    assert 1.2 * length == pytest.approx(1.52, abs=0.05)  # the C-C bond in angstrom


def test_translations_do_not_change_the_state(flow) -> None:
    numbers, charges, bonds, positions = tensors(graph("CCO", True))
    x = flow.encode(numbers, charges, bonds, positions)
    moved = flow.encode(numbers, charges, bonds, positions + torch.tensor([3.0, -1.0, 0.5]))
    torch.testing.assert_close(moved["positions"], x["positions"], rtol=0, atol=1e-6)


def test_round_gives_exact_one_hots_and_keeps_data(flow) -> None:
    x = flow.encode(*tensors(graph("CC(C)(C)O", False)))
    blurred = State(**{k: v + 0.2 * torch.rand_like(v) for k, v in x.items()})
    hard = flow.round(blurred)
    for name in x:
        expected = blurred[name] if name == "positions" else x[name]
        assert torch.equal(hard[name], expected)


def test_the_prior_is_a_unit_normal_with_zero_centroid(flow) -> None:
    n, batch = 5, 20_000
    x = flow.prior(batch, n, IndexedNoise(0, torch.arange(batch)))
    positions = x["positions"].double()
    assert positions.mean(1).abs().max() < 1e-6
    flat = positions.transpose(1, 2).reshape(-1, n)  # every axis is one draw
    bound = 4.5 * (2 / len(flat)) ** 0.5
    projection = torch.eye(n) - 1 / n
    torch.testing.assert_close(flat.T @ flat / len(flat), projection.double(), rtol=0, atol=bound)
    axes = positions.reshape(batch, n, 3)[:, 0]
    covariance = axes.T @ axes / batch
    expected = (1 - 1 / n) * torch.eye(3).double()
    torch.testing.assert_close(covariance, expected, rtol=0, atol=4.5 * (2 / batch) ** 0.5)
    for name, channels in (("atoms", 5), ("charges", 3), ("bonds", 4)):
        flat = x[name].double()
        assert flat.shape == (batch, 10 if name == "bonds" else n, channels)
        count = flat.numel()
        assert abs(flat.mean()) < 4.5 / count**0.5
        assert abs(flat.square().mean() - 1) < 4.5 * (2 / count) ** 0.5


class Given:
    """Noise that is handed out part by part, as it was drawn."""

    def __init__(self, parts: State) -> None:
        self.parts = iter(parts.values())

    def normal(self, *shape: int) -> torch.Tensor:
        part = next(self.parts)
        assert part.shape == shape
        return part


@pytest.fixture
def learning(flow):
    """A flow in double precision, three molecules of one size, their noise and times."""
    double = DeNovoFlow(**flow.arguments).double()
    graphs = [graph(s, False) for s in ("CC(C)(C)O", "[O-]C(=O)C[NH3+]", "N#CC(F)C")]
    x1 = flow.encode(*tensors(*graphs)).to(torch.float64)
    x0 = flow.noise_like(x1, BatchNoise(3)).to(torch.float64)
    return double, x1, x0, torch.tensor([0.05, 0.6, 0.95], dtype=torch.float64)


def rotated(x: State, rotation: torch.Tensor) -> State:
    return State(**{**x, "positions": x["positions"] @ rotation.T})


def permuted(x: State, order: torch.Tensor) -> State:
    n = len(order)
    first, second = torch.triu_indices(n, n, 1)
    place = torch.zeros(n, n, dtype=torch.long)
    place[first, second] = place[second, first] = torch.arange(len(first))
    pair_order = place[order[first], order[second]]
    return State(**{k: v[:, pair_order if k == "bonds" else order] for k, v in x.items()})


@pytest.mark.parametrize("seed", range(3))
def test_loss_is_invariant_under_rotation_and_permutation(learning, seed) -> None:
    flow, x1, x0, t = learning
    torch.manual_seed(seed)
    rotation, order = rand_matrix(dtype=torch.float64), torch.randperm(5)
    terms = flow.losses(x1, t, Given(x0))
    for move, by in ((rotated, rotation), (permuted, order)):
        moved = flow.losses(move(x1, by), t, Given(move(x0, by)))
        for name, term in terms.items():
            torch.testing.assert_close(moved[name], term, rtol=0, atol=1e-8)


def test_loss_is_the_formula(learning) -> None:
    flow, x1, x0, t = learning
    found = flow.losses(x1, t, Given(x0))
    for k, time in enumerate(t.tolist()):
        one = slice(k, k + 1)
        xt = State(**{n: time * x1[n][one] + (1 - time) * x0[n][one] for n in x1})
        prediction = flow(xt, t[one])
        gap = prediction["positions"] - (x1["positions"] - x0["positions"])[one]
        s2 = (1 - time) ** 2
        expected = {"positions": gap.square().mean() * s2 / (s2 + 0.02**2)}
        for name in ("atoms", "charges", "bonds"):
            probability = prediction[name].softmax(-1)[x1[name][one] > 0]
            expected[name] = -probability.log().sum() / 5
        for name, value in expected.items():
            torch.testing.assert_close(found[name][k], value)
    total = sum(weight * found[name] for name, weight in LOSS_WEIGHTS.items())
    torch.testing.assert_close(flow.loss(x1, t, Given(x0)), total)


def test_loss_reaches_every_parameter(learning) -> None:
    flow, x1, x0, t = learning
    flow.loss(x1, t, Given(x0)).sum().backward()
    assert [n for n, p in flow.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_endpoint_holds_posterior_means(learning) -> None:
    flow, x1, x0, t = learning
    xt = flow.path.sample(x0, x1, t)
    end, prediction = flow.endpoint(xt, t), flow(xt, t)
    torch.testing.assert_close(flow.velocity(xt, t)["positions"], prediction["positions"])
    for name in ("atoms", "charges", "bonds"):
        torch.testing.assert_close(end[name], 0.5 * prediction[name].softmax(-1))
    score = flow.score_function(xt, t)
    for name in x1:  # -E[x_0 | x_t] / (1 - t)
        u = t[:, None, None]
        torch.testing.assert_close(score[name], (u * end[name] - xt[name]) / (1 - u) ** 2)
    assert score["positions"].mean(1).abs().max() < 1e-5  # the noise is centred in float32


def test_endpoint_error_is_least_at_the_target_and_unitless(learning) -> None:
    flow, x1, x0, t = learning
    assert torch.equal(flow.endpoint_error(x1, x1, t), torch.zeros_like(t))
    snr = (1 / ((1 - t) ** 2 + 0.02)).clamp(max=20)
    weights = {"positions": snr, "atoms": 4 / 0.25, "charges": 4 / 0.25, "bonds": 8 / 0.25}
    expected = sum(w * (x0[k] - x1[k]).square().mean((1, 2)) for k, w in weights.items())
    torch.testing.assert_close(flow.endpoint_error(x0, x1, t), expected)


@pytest.mark.parametrize(
    ("atoms", "expected"),
    [(None, SIZES), (range(4, 9), {"5": 4, "8": 5}), (range(8, 99), {"8": 5})],
)
def test_sizes_follow_the_histogram(flow, atoms, expected) -> None:
    total = sum(expected.values())
    uniform = (np.arange(1000 * total) + 0.5) / (1000 * total)
    drawn = flow.draw_sizes(uniform, atoms)
    found = {
        str(n): int(c) / 1000 for n, c in zip(*np.unique(drawn, return_counts=True), strict=True)
    }
    assert found == expected
    assert (np.diff(drawn) >= 0).all()


def test_sizes_at_the_ends(flow) -> None:
    assert flow.draw_sizes(np.array([0.0, np.nextafter(0.1, 0), 0.1, 1 - 2**-53])).tolist() == [
        3, 3, 5, 8,
    ]  # fmt: skip


def test_time_quantiles_have_their_density() -> None:
    """The law is `0.8 Beta(4, 2.5)` and, for the rest, `1 - u^1.5` with `u` uniform."""
    quantiles = time_quantiles().double().numpy()
    assert (np.diff(quantiles) >= 0).all()
    assert quantiles[-1] < 1
    levels = np.linspace(0, 1, len(quantiles))
    law = 0.8 * beta_distribution(4, 2.5).cdf(quantiles) + 0.2 * (1 - (1 - quantiles) ** (1 / 1.5))
    np.testing.assert_allclose(law, levels, atol=1.5e-3)


def test_times_are_quantiles_at_any_uniform(flow) -> None:
    uniform = torch.tensor([0.0, 0.25, 0.3333, 0.99999, 1 - 2**-24])
    times = flow.draw_times(uniform)
    expected = np.interp(uniform, np.linspace(0, 1, 2001), time_quantiles())
    np.testing.assert_allclose(times, expected, atol=1e-6)


def test_save_and_load(flow, tmp_path) -> None:
    back = DeNovoFlow.load(flow.save(tmp_path / "flow"))
    assert back.arguments == flow.arguments
    x, t = flow.prior(2, 5, BatchNoise(0)), torch.tensor([0.2, 0.8])
    for name, part in flow.endpoint(x, t).items():
        torch.testing.assert_close(back.endpoint(x, t)[name], part, rtol=0, atol=0.02)


def test_hydrogens_are_named() -> None:
    with pytest.raises(ValueError, match="'implicit' or 'explicit', not 'some'"):
        DeNovoFlow([6], [0], {"1": 1}, hydrogens="some", network=SMALL)


def test_molecules_are_encoded_where_they_are_given(flow) -> None:
    """What is judged is on the CPU, and the flow may not be; here it is the other way round."""
    given = [part.to("meta") for part in tensors(graph("CCO", False))]
    assert {part.device.type for part in flow.encode(*given).values()} == {"meta"}


GROWTHS = [{"triangles": 4}, {"depth": 3}, {"triangles": 4, "depth": 4}, {}]


@pytest.mark.parametrize("larger", GROWTHS, ids=str)
def test_growing_changes_nothing_yet(flow, larger) -> None:
    grown = flow.grown(**larger)
    x, t = flow.prior(3, 5, BatchNoise(0)), torch.tensor([0.1, 0.6, 0.95])
    for name, part in flow(x, t).items():
        torch.testing.assert_close(grown(x, t)[name], part, rtol=0, atol=1e-6)
    more = sum(p.numel() for p in grown.parameters()) - sum(p.numel() for p in flow.parameters())
    assert (more > 0) == bool(larger)
    assert DeNovoFlow(**grown.arguments).state_dict().keys() == grown.state_dict().keys()


@pytest.mark.parametrize("larger", GROWTHS[:3], ids=str)
def test_what_was_grown_learns(flow, larger) -> None:
    grown = flow.grown(**larger)
    x1 = grown.round(grown.prior(4, 5, BatchNoise(1)))
    optimiser = torch.optim.SGD(grown.parameters(), lr=0.1)
    known = set(flow.state_dict())
    before = {name: p.detach().clone() for name, p in grown.named_parameters()}
    for _ in range(2):  # outputs that are zero let gradients through from the second step on
        optimiser.zero_grad()
        grown.loss(x1, torch.full((4,), 0.5), BatchNoise(2)).mean().backward()
        optimiser.step()
    fresh = [name for name in before if name not in known and "norm" not in name]
    assert fresh
    still = [n for n, p in grown.named_parameters() if n in fresh and torch.equal(p, before[n])]
    # A bias of keys moves all logits of a row alike: it never learns.
    assert not [name for name in still if not name.endswith("bias")]


def first_three(flow: DeNovoFlow, n: int) -> tuple[State, Part]:
    """Random molecules, of which three atoms are given and the second may bond to the rest."""
    x1 = flow.round(flow.prior(3, n, BatchNoise(7)))
    atoms = (torch.arange(n) < 3).expand(3, -1)
    opened = (torch.arange(n) == 1).expand(3, -1)
    return x1, Part(atoms, opened, 2 * opened.long(), atoms.long())


def test_a_flow_that_is_given_conditions_is_the_same_at_first(flow) -> None:
    grown = flow.grown(conditional=True)
    assert grown.conditional
    assert not flow.conditional
    x1, part = first_three(flow, 5)
    x, t = flow.prior(3, 5, BatchNoise(0)), torch.tensor([0.1, 0.6, 0.95])
    for known in (None, told(x1, part), told(x1, Part.nothing(3, 5))):
        for name, found in grown(x, t, known=known).items():
            torch.testing.assert_close(found, flow(x, t)[name], rtol=0, atol=1e-6)


def test_conditions_are_learned(flow) -> None:
    """After one step; the molecules of which nothing is given do not see it."""
    grown = flow.grown(conditional=True)
    x1, part = first_three(flow, 5)
    t = torch.full((3,), 0.5)
    optimiser = torch.optim.SGD(grown.network.told.parameters(), lr=0.1)
    losses = []
    for _ in range(2):
        optimiser.zero_grad()
        losses.append(GivenParts(grown, part, x1).loss(x1, t, BatchNoise(2)).mean())
        losses[-1].backward()
        optimiser.step()
    assert losses[1] < losses[0]
    assert all(p.any() for p in grown.network.told.parameters())
    torch.testing.assert_close(
        GivenParts(grown, Part.nothing(3, 5), x1).loss(x1, t, BatchNoise(2)),
        flow.loss(x1, t, BatchNoise(2)),
        rtol=0,
        atol=1e-5,
    )


def test_what_is_told_is_what_is_given(flow) -> None:
    """Of atoms that are not given nothing; of closed ones that they have no bonds to the rest."""
    x1, part = first_three(flow, 5)
    facts = told(x1, part)
    types = len(flow.elements) + len(flow.charges)
    assert facts.atoms.shape == (3, 5, types + 3)
    torch.testing.assert_close(
        facts.atoms[:, :3, :types], torch.cat([x1["atoms"], x1["charges"]], -1)[:, :3]
    )
    assert not facts.atoms[:, 3:].any()
    assert facts.atoms[0, :, types:].tolist() == [[1, 0, 0], [1, 1, 2], [1, 0, 0], [0] * 3, [0] * 3]
    ends = list(zip(*np.triu_indices(5, 1), strict=True))
    for m, (i, j) in enumerate(ends):
        both, one, opened = j < 3, i < 3 <= j, i == 1
        fact, distance = facts.pairs[0, m], facts.distances[0, m]
        assert fact[4:].tolist() == [both, one and not opened, both]
        if both:
            torch.testing.assert_close(fact[:4], x1["bonds"][0, m])
            gap = x1["positions"][0, i] - x1["positions"][0, j]
            torch.testing.assert_close(distance, gap.norm(), rtol=1e-4, atol=1e-4)
        else:
            none = [flow.category_scale, 0, 0, 0] if one and not opened else [0] * 4
            assert fact[:4].tolist() == none
        assert bool(facts.rigid[0, m]) == both


@pytest.mark.parametrize("free", [True, False])
def test_what_is_not_given_is_not_told(flow, free) -> None:
    """Neither its types, charges and bonds nor where it is; nor a geometry that is free."""
    x1, part = first_three(flow, 5)
    part = part._replace(bodies=torch.zeros_like(part.bodies) if free else part.bodies)
    other, _ = first_three(flow, 5)
    far = other["positions"].clone()
    far[:, 0 if free else 3 :] += torch.randn(far[:, 0 if free else 3 :].shape)
    bonds = other["bonds"].clone()
    bonds[:, [5, 6, 9]] = bonds[:, [5, 6, 9]].flip(-1)  # of atom 1 to the rest, and in the rest
    atoms, charges = (other[k].clone() for k in ("atoms", "charges"))
    atoms[:, 3:], charges[:, 3:] = atoms[:, 3:].flip(-1), charges[:, 3:].flip(-1)
    other = State(positions=far, atoms=atoms, charges=charges, bonds=bonds)
    x, t = flow.prior(3, 5, BatchNoise(0)), torch.tensor([0.1, 0.6, 0.95])
    grown = flow.grown(conditional=True)
    for p in grown.network.told.parameters():
        torch.nn.init.normal_(p)
    found, expected = (grown(x, t, known=told(y, part)) for y in (other, x1))
    assert (expected["bonds"] - flow(x, t)["bonds"]).abs().max() > 1e-3
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-5)


def test_what_is_given_is_not_in_the_loss(flow) -> None:
    """Types, charges and bonds; the loss of all is the sum of its two parts."""
    grown = flow.grown(conditional=True)  # which says the same whatever it is told
    x1, part = first_three(flow, 5)
    rest = Part.nothing(3, 5)._replace(atoms=~part.atoms, open=~part.atoms)
    t = torch.full((3,), 0.5)
    whole = grown.losses(x1, t, BatchNoise(1))
    parts = [grown.losses(x1, t, BatchNoise(1), p) for p in (part, rest)]
    for name in ("atoms", "charges"):
        torch.testing.assert_close(parts[0][name] + parts[1][name], whole[name])
        assert (parts[0][name] < whole[name]).all()
    assert (parts[0]["bonds"] < whole["bonds"]).all()
    torch.testing.assert_close(parts[0]["positions"], whole["positions"])


@pytest.mark.parametrize("smaller", [{"depth": 1}, {"width": 64}, {"heads": 4}], ids=str)
def test_a_network_only_grows(flow, smaller) -> None:
    with pytest.raises(UserError, match="network"):
        flow.grown(**smaller)
