"""Bonds between a core and the rest: laws of probabilities, and the numbers that are known."""

import pytest
import torch

from molflowctl.models.around.attachments import Attachments, shift_to
from molflowctl.models.around.core import Core
from molflowctl.models.network import pairs

ORDERS = 4
SCALE = 0.5


def bonds(n: int, seed: int = 0, none: float = 3.0) -> torch.Tensor:
    """Random probabilities of bonds, most of them unlikely, times the scale of a state."""
    g = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(5, n * (n - 1) // 2, ORDERS, generator=g)
    logits[..., 0] += none
    return SCALE * logits.softmax(-1)


def applied(core: Core, n: int, given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities that are known, and those of bonds from core atoms to the others, `(5,k,R)`."""
    found = Attachments.of(core, n, ORDERS, given.device).apply(given) / SCALE
    k = len(core)
    square = pairs(n, given.device, given.dtype).square.view(n, n)[:k, k:]
    return found, 1 - found[:, square.flatten(), 0].view(5, k, n - k)


@pytest.mark.parametrize("number", [0.01, 1.0, 2.0, 6.9])
def test_a_shift_gives_the_number(number) -> None:
    logits = 4 * torch.randn(6, 7, generator=torch.Generator().manual_seed(1)).double()
    goal = torch.full((6,), number).double()
    shift = shift_to(logits, goal)
    torch.testing.assert_close((logits + shift[:, None]).sigmoid().sum(-1), goal, atol=1e-4, rtol=0)


def test_a_shift_of_what_is_right_is_none() -> None:
    logits = torch.randn(4, 9).double()
    shift = shift_to(logits, logits.sigmoid().sum(-1))
    torch.testing.assert_close(shift, torch.zeros(4).double(), atol=1e-4, rtol=0)


CORES = ["[*:1]c1ccc([*:2])cc1", "CCO", "[*:1]N([*:2])C", "C1CC1C(=O)O", "[*:1]C(F)(F)F"]


@pytest.mark.parametrize("smiles", CORES)
@pytest.mark.parametrize("none", [8.0, 2.0, -2.0])
def test_laws_of_probabilities(smiles, none) -> None:
    """They add up, closed atoms have no bonds, orders fit, and what is not asked stays."""
    core = Core.from_smiles(smiles, geometry="free")
    k, n = len(core), len(core) + 6
    given = bonds(n, none=none)
    found, q = applied(core, n, given)
    torch.testing.assert_close(found.sum(-1), torch.ones_like(found[..., 0]), atol=1e-5, rtol=0)
    assert found.min() >= 0
    room = torch.tensor(core.room)
    assert (q[:, room == 0].abs() < 1e-6).all()
    square = pairs(n, given.device, given.dtype).square.view(n, n)
    for atom in range(k):
        beyond = found[:, square[atom, k:]][..., 1 + core.room[atom] :]
        assert not beyond.any()
    for i in range(n):
        for j in range(i + 1, n):
            if (i < k) == (j < k):
                row = square[i, j]
                torch.testing.assert_close(found[:, row], given[:, row] / SCALE)


@pytest.mark.parametrize("none", [9.0, 3.0, -2.0])
@pytest.mark.parametrize("smiles", ["[*:1]c1ccc([*:2])cc1", "[*:1]N([*:2])C"])
def test_stated_numbers_are_met(smiles, none) -> None:
    core = Core.from_smiles(smiles, geometry="free")
    _, q = applied(core, len(core) + 5, bonds(len(core) + 5, none=none))
    stated = torch.tensor(core.stated).float().expand(5, -1)
    torch.testing.assert_close(q.sum(-1), stated, atol=2e-3, rtol=0)


def test_a_fragment_has_a_bond_and_an_atom_not_too_many() -> None:
    core = Core.from_smiles("CCO", geometry="free")
    unlikely, likely = (applied(core, 9, bonds(9, none=none))[1] for none in (9.0, -4.0))
    torch.testing.assert_close(unlikely.sum((1, 2)), torch.ones(5), atol=2e-3, rtol=0)
    room = torch.tensor(core.room).float()
    assert (likely.sum(-1) <= room + 1e-3).all()
    torch.testing.assert_close(likely.sum(-1)[:, 2], torch.ones(5), atol=2e-3, rtol=0)


def test_what_is_known_already_is_left_alone() -> None:
    """One likely bond of the only fragment: the flow is right by itself."""
    core = Core.from_smiles("CC", geometry="free")
    given = bonds(6, none=9.0)
    row = pairs(6, given.device, given.dtype).square.view(6, 6)[0, 3]
    given[:, row] = SCALE * torch.tensor([0.0, 1.0, 0.0, 0.0])
    found, _ = applied(core, 6, given)
    torch.testing.assert_close(found, given / SCALE, atol=1e-4, rtol=0)


def test_each_of_two_fragments_is_bonded() -> None:
    core = Core(
        numbers=(6, 6, 7), charges=(0, 0, 0), bonds=((0, 1, 1),), room=(3, 3, 2), stated=(0, 0, 0),
        positions=None, bodies=(0, 0, 0),
    )  # fmt: skip
    _, q = applied(core, 8, bonds(8, none=9.0))
    torch.testing.assert_close(q[:, :2].sum((1, 2)), torch.ones(5), atol=2e-3, rtol=0)
    torch.testing.assert_close(q[:, 2].sum(1), torch.ones(5), atol=2e-3, rtol=0)


def test_odds_keep_their_ratios() -> None:
    """An exponential tilt: the odds of all bonds of an atom have one common factor."""
    core = Core.from_smiles("[*:1]C(F)(F)F", geometry="free")
    given = bonds(9, none=4.0)
    given[..., 2:] = 0  # single bonds alone, as they are allowed
    given = SCALE * given / given.sum(-1, keepdim=True)
    _, q = applied(core, 9, given)
    square = pairs(9, given.device, given.dtype).square.view(9, 9)[0, 4:]
    p = 1 - given[:, square, 0] / SCALE
    factor = (q[:, 0] / (1 - q[:, 0])) / (p / (1 - p))
    torch.testing.assert_close(factor, factor[:, :1].expand_as(factor), rtol=1e-2, atol=0)
