"""The score identities hold for an exact flow, fail for a wrong one, and are what they say."""

import math

import pytest
import torch

from molflowctl.data.datasets import MoleculeDataset
from molflowctl.errors import UserError
from molflowctl.flows.flow import Flow
from molflowctl.flows.noise import BatchNoise
from molflowctl.flows.state import State
from molflowctl.models.denovo import DeNovoFlow
from molflowctl.tasks.evaluation.score_identity import TIMES, _own, score_identity, score_ratios

SMALL = {"width": 32, "pair_width": 8, "heads": 2, "vectors": 4, "depth": 2}
VARIANCE = {"positions": 1.7, "atoms": 0.3, "charges": 0.05, "bonds": 0.2}
CENTRE = 0.4


class GaussianMolecules(DeNovoFlow):
    """The exact flow of states that are normal, `N(m, v)` in each coordinate, centred positions."""

    kind = ""

    def __init__(self, factor: float = 1.0, shift: float = 0.0) -> None:
        super().__init__([6, 8], [0], {"4": 1}, network=SMALL)
        self.factor, self.shift = factor, shift

    def centre(self, name: str) -> float:
        return 0.0 if name == "positions" else CENTRE

    def data(self, batch: int, atoms: int, noise) -> State:
        z = self.prior(batch, atoms, noise)
        return State(**{k: self.centre(k) + VARIANCE[k] ** 0.5 * z[k] for k in z})

    def endpoint(self, x: State, t: torch.Tensor) -> State:
        u = t[:, None, None]

        def part(name: str) -> torch.Tensor:
            v, m = VARIANCE[name], self.centre(name)
            gain = u * v / (u**2 * v + (1 - u) ** 2)
            moved = m + gain * (x[name] - u * m)
            return self.factor * moved + (self.shift if name != "positions" else 0)

        return State(**{name: part(name) for name in x})


def states(flow: GaussianMolecules, n: int = 600) -> list[State]:
    noise = BatchNoise(1)
    return [flow.data(n, atoms, noise) for atoms in (4, 5, 7)]


def deviations(row: dict) -> dict[str, float]:
    """How many standard errors each identity is missed by."""
    targets = {"mean": 0.0, "stein": 1.0, "denoising": 1.0}
    return {k: (row[k] - v) / row[f"{k}_error"] for k, v in targets.items() if row[f"{k}_error"]}


@pytest.mark.parametrize("t", TIMES)
def test_an_exact_flow_meets_every_identity(t) -> None:
    flow = GaussianMolecules()
    rows = score_ratios(flow, states(flow), t, BatchNoise(2))
    assert [row["part"] for row in rows] == list(VARIANCE)
    for row in rows:
        assert row["time"] == t
        assert row["molecules"] == 1800
        assert all(abs(z) < 4 for z in deviations(row).values()), row
        assert row["stein_error"] < 0.2
        assert row["denoising_error"] < 0.2


def test_dimensions_are_those_that_are_free() -> None:
    flow = GaussianMolecules()
    rows = score_ratios(flow, [flow.data(3, 5, BatchNoise(0))], 0.5, BatchNoise(0))
    assert {r["part"]: r["dimensions"] for r in rows} == {
        "positions": 12,
        "atoms": 10,
        "charges": 5,
        "bonds": 40,
    }


@pytest.mark.parametrize("factor", [0.9, 1.1])
@pytest.mark.parametrize("t", [0.6, 0.8, 0.95])
def test_a_wrong_factor_fails(factor, t) -> None:
    flow = GaussianMolecules(factor)
    for row in score_ratios(flow, states(flow), t, BatchNoise(2)):
        found = deviations(row)
        assert max(abs(found["stein"]), abs(found["denoising"])) > 5, row


def test_a_wrong_offset_fails_the_first_identity() -> None:
    flow = GaussianMolecules(shift=0.05)
    for row in score_ratios(flow, states(flow), 0.8, BatchNoise(2)):
        if row["part"] == "positions":
            assert row["mean"] == pytest.approx(0, abs=1e-9)
        else:
            assert deviations(row)["mean"] > 5


def test_coupled_noise_fails() -> None:
    """Noise that leans towards its data, as optimal transport would have it."""

    class Coupled(GaussianMolecules):
        def noise_like(self, x, noise):
            z = super().noise_like(x, noise)
            return State(**{k: 0.8 * z[k] + 0.6 * (x[k] - self.centre(k)) for k in x})

    for row in score_ratios(Coupled(), states(GaussianMolecules()), 0.8, BatchNoise(2)):
        found = deviations(row)
        assert max(abs(found["stein"]), abs(found["denoising"])) > 5, row


class Normal(Flow):
    """The exact flow of a plain tensor `N(1, 4)`."""

    def noise_like(self, x, noise):
        return noise.normal(*x.shape)

    def endpoint(self, x, t):
        u = t[:, None]
        return 1 + 4 * u / (4 * u**2 + (1 - u) ** 2) * (x - u)


def test_ratios_are_those_of_the_plain_averages() -> None:
    """Without the control variate, on plain tensors: the same within its larger noise."""
    x1 = 1 + 2 * BatchNoise(0).normal(20_000, 3)
    t = 0.7
    (row,) = score_ratios(Normal(), [x1], t, BatchNoise(5))
    x0 = BatchNoise(5).normal(*x1.shape)
    xt = t * x1 + (1 - t) * x0
    s = Normal().score_function(xt, torch.full((len(x1),), t))
    exact = -(xt - t) / (4 * t**2 + (1 - t) ** 2)
    torch.testing.assert_close(s, exact, rtol=1e-4, atol=1e-4)
    products = -(s * xt).sum(1) / 3
    error = products.std().item() / math.sqrt(len(x1))
    assert row["stein"] == pytest.approx(products.mean().item(), abs=4 * error)
    plain = -(s * x0).sum() / (1 - t) / s.square().sum()
    assert row["denoising"] == pytest.approx(plain.item(), abs=1e-4)


def test_errors_are_the_spread_over_repeats() -> None:
    rows = []
    for seed in range(200):
        x1 = 1 + 2 * BatchNoise(seed).normal(200, 3)
        rows += score_ratios(Normal(), [x1], 0.7, BatchNoise(1000 + seed))
    for name in ("mean", "stein", "denoising"):
        values = torch.tensor([row[name] for row in rows])
        said = torch.tensor([row[f"{name}_error"] for row in rows]).mean()
        assert values.std() / said == pytest.approx(1, abs=0.25)


def test_on_a_flow_and_its_own_samples() -> None:
    torch.manual_seed(0)
    flow = DeNovoFlow([6, 8], [0], {"3": 1, "4": 2}, network=SMALL)
    rows = score_identity(flow, None, n=6, times=(0.5, 0.9), seed=3)
    assert [(r["time"], r["part"]) for r in rows] == [(t, p) for t in (0.5, 0.9) for p in VARIANCE]
    assert {r["molecules"] for r in rows} == {6}
    assert rows[0]["dimensions"] == 3 * (2 * 2 + 4 * 3) / 6
    assert rows == score_identity(flow, None, n=6, times=(0.5, 0.9), seed=3)


def test_own_samples_have_one_hots() -> None:
    torch.manual_seed(0)
    flow = DeNovoFlow([6, 8], [0, 1], {"3": 1, "4": 2}, network=SMALL)
    for x in _own(flow, 6, seed=3):
        for name in ("atoms", "charges", "bonds"):
            assert set(x[name].unique().tolist()) == {0.0, flow.category_scale}
            torch.testing.assert_close(x[name].sum(-1), torch.full(x[name].shape[:-1], 0.5))
        torch.testing.assert_close(x["positions"].mean(1), torch.zeros(len(x["positions"]), 3))


def test_on_data(tiny_data) -> None:
    torch.manual_seed(0)
    flow = DeNovoFlow([6, 7, 8], [0], {"4": 1}, network=SMALL)
    dataset = MoleculeDataset.load(tiny_data)
    held_out = dataset.indices("validation")
    rows = score_identity(flow, dataset, times=(0.9,), seed=3)
    assert {r["molecules"] for r in rows} == {len(held_out)}
    sizes = dataset.atom_ptr.diff()[held_out].double()
    assert rows[0]["dimensions"] == pytest.approx(3 * (sizes.mean().item() - 1))
    assert {r["molecules"] for r in score_identity(flow, dataset, n=5, times=(0.9,))} == {5}
    # An untrained flow has no idea of the data.
    assert all(abs(row["denoising"] - 1) > 5 * row["denoising_error"] for row in rows)
    with pytest.raises(UserError, match=r"does not know the elements \[7\]"):
        score_identity(GaussianMolecules(), dataset)


def test_bad_questions_are_refused() -> None:
    flow = GaussianMolecules()
    with pytest.raises(UserError, match="between 0 and 1"):
        score_identity(flow, None, times=(0.5, 1.0))
    with pytest.raises(UserError, match="1 molecules are too few"):
        score_identity(flow, None, n=1)
