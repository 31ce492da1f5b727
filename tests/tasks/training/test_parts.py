"""Random parts of molecules, against RDKit on the same molecules."""

import numpy as np
import pytest
import torch
from rdkit import Chem
from rdkit.Chem.Scaffolds import MurckoScaffold

from molflowctl.flows.noise import BatchNoise
from molflowctl.models.around.part import Part
from molflowctl.tasks.training.parts import _room, in_rings, pieces, random_parts, scaffold, square

# Of 17 to 22 heavy atoms; they are made one size by methane, ammonia and so on beside them.
DRUGS = [
    "CC(=O)Nc1ccc(cc1)S(=O)(=O)NCCC(C)C",
    "O=C(Nc1ccc(F)cc1)C1CCN(Cc2ccco2)CC1",
    "CC1(C)CC(=O)c2ccccc2C13CCCCC3",
    "COc1ccc2[nH]cc(CCNC(=O)CC#N)c2c1",
    "C1CC2CCC1CC2CCOCCNCCCCC",
    "CCCCCCCC(=O)NCCCOCCCC",
    "C[N+](C)(C)CC([O-])CC(=O)OCc1ccccc1",
    "O=S1(=O)CCCN1c1ccc(C2CC2)cc1",
]


def batch(smiles: list[str]) -> tuple[torch.Tensor, ...]:
    """Numbers, charges and bonds of molecules of one size."""
    numbers, charges, bonds = [], [], []
    for one in smiles:
        mol = Chem.MolFromSmiles(one)
        Chem.Kekulize(mol, clearAromaticFlags=True)
        n = mol.GetNumAtoms()
        orders = np.zeros((n, n), int)
        for bond in mol.GetBonds():
            i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
            orders[i, j] = orders[j, i] = int(bond.GetBondTypeAsDouble())
        numbers.append([a.GetAtomicNum() for a in mol.GetAtoms()])
        charges.append([a.GetFormalCharge() for a in mol.GetAtoms()])
        bonds.append(orders[np.triu_indices(n, 1)])
    return tuple(torch.tensor(np.array(part)) for part in (numbers, charges, bonds))


@pytest.fixture(params=DRUGS)
def mol(request) -> Chem.Mol:
    return Chem.MolFromSmiles(request.param)


def orders_of(mol: Chem.Mol) -> torch.Tensor:
    return square(batch([Chem.MolToSmiles(mol)])[2], mol.GetNumAtoms())


def again(mol: Chem.Mol) -> Chem.Mol:
    """With its atoms in the order in which `batch` reads them."""
    return Chem.MolFromSmiles(Chem.MolToSmiles(mol))


def test_rings_are_those_of_rdkit(mol) -> None:
    mol = again(mol)
    rings = in_rings(orders_of(mol) > 0)[0]
    for bond in mol.GetBonds():
        i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        assert rings[i, j] == rings[j, i] == bond.IsInRing()
    assert rings.sum() == 2 * sum(bond.IsInRing() for bond in mol.GetBonds())


@pytest.mark.parametrize("n", [3, 4, 12, 60])
def test_a_ring_of_any_size_is_one_and_a_chain_is_none(n) -> None:
    chain = torch.zeros(1, n, n, dtype=torch.bool)
    chain[0, range(n - 1), range(1, n)] = chain[0, range(1, n), range(n - 1)] = True
    assert not in_rings(chain).any()
    chain[0, 0, -1] = chain[0, -1, 0] = True
    assert in_rings(chain).sum() == 2 * n


def test_scaffolds_are_those_of_rdkit(mol) -> None:
    mol = again(mol)
    for atom in mol.GetAtoms():
        atom.SetIntProp("place", atom.GetIdx())
    core = MurckoScaffold.GetScaffoldForMol(mol)
    kept = {atom.GetIntProp("place") for atom in core.GetAtoms()}
    found = scaffold(orders_of(mol))[0].nonzero().flatten().tolist()
    assert set(found) == kept


def test_pieces_are_those_of_rdkit() -> None:
    mol = Chem.MolFromSmiles("C.CCO.C1CC1CC.N")
    found = pieces(orders_of_pieces(mol) > 0)[0].tolist()
    assert found == [
        min(p) for a in range(mol.GetNumAtoms()) for p in Chem.GetMolFrags(mol) if a in p
    ]


def orders_of_pieces(mol: Chem.Mol) -> torch.Tensor:
    return torch.tensor(Chem.GetAdjacencyMatrix(mol))[None]


def test_atoms_have_room_where_they_have_hydrogens(mol) -> None:
    mol = again(mol)
    numbers, charges, bonds = batch([Chem.MolToSmiles(mol)])
    room = _room(numbers, charges, square(bonds, mol.GetNumAtoms()))[0]
    assert room.tolist() == [atom.GetTotalNumHs() > 0 for atom in mol.GetAtoms()]


@pytest.fixture(scope="module")
def many() -> tuple[tuple[torch.Tensor, ...], Part]:
    """One molecule 600 times, a part of each."""
    molecules = batch([DRUGS[1]] * 600)
    return molecules, random_parts(*molecules, BatchNoise(0), 1.0)


def test_parts_are_neither_nothing_nor_nearly_all(many) -> None:
    _, part = many
    share = part.atoms.float().mean(1)
    assert share.min() >= 0.15  # a ring system may be all that there is
    assert share.max() <= 0.85
    assert share.std() > 0.1
    assert len(np.unique(part.atoms.numpy(), axis=0)) > 60


def test_parts_are_of_the_molecules(many) -> None:
    """Open atoms have all bonds to the rest; how many is right where it is said."""
    (numbers, _, bonds), part = many
    orders = square(bonds, numbers.shape[1])
    across = ((orders > 0) & part.atoms[:, :, None] & ~part.atoms[:, None]).sum(-1)
    assert part.open[across > 0].all()
    assert not (part.open & ~part.atoms).any()
    said = part.bonds.any(1)
    assert 0.4 < said.float().mean() < 0.6
    assert torch.equal(part.bonds[said], across[said])
    assert torch.equal(part.open[said], across[said] > 0)
    assert (part.open[~said] & (across[~said] == 0)).any()  # free to bond, and do not


def test_linkers_and_side_chains_are_asked_for(many) -> None:
    (numbers, _, bonds), part = many
    given = (square(bonds, numbers.shape[1]) > 0) & part.atoms[:, :, None] & part.atoms[:, None]
    owner = torch.where(part.atoms, pieces(given), -1)
    counts = torch.tensor([len(row.unique()) - bool((row < 0).any()) for row in owner])
    assert (counts == 1).float().mean() > 0.4
    assert 0.15 < (counts > 1).float().mean() < 0.35


def test_bodies_are_free_one_or_pieces(many) -> None:
    (numbers, _, bonds), part = many
    given = (square(bonds, numbers.shape[1]) > 0) & part.atoms[:, :, None] & part.atoms[:, None]
    free = ~part.bodies.any(1)
    assert 0.1 < free.float().mean() < 0.2
    assert torch.equal(part.bodies[~free] > 0, part.atoms[~free])
    first, second = part.bodies[:, :, None], part.bodies[:, None]
    orders = square(bonds, numbers.shape[1])
    rings = in_rings(orders > 0)
    stiff = given & (rings | (orders > 1)) & ~free[:, None, None]
    assert (first == second)[stiff].all()
    parted = (first != second) & given
    assert parted.any()
    assert not (parted & stiff).any()
    several = part.bodies.amax(1) > 1
    assert several.any()
    assert (part.bodies[~free & ~several].amax(1) == 1).all()


def test_a_share_of_the_molecules_is_given_a_part() -> None:
    molecules = batch([DRUGS[1]] * 2000)
    part = random_parts(*molecules, BatchNoise(1), 0.35)
    assert abs(part.atoms.any(1).float().mean() - 0.35) < 0.04
    nothing = ~part.atoms.any(1)
    assert not any(flags[nothing].any() for flags in part)


@pytest.mark.parametrize("smiles", ["C", "CO", "CCO", "C.C.C.C.C", "C1CC1"])
def test_small_and_strange_molecules_do_not_stop_it(smiles) -> None:
    molecules = batch([smiles] * 50)
    part = random_parts(*molecules, BatchNoise(0), 1.0)
    assert not part.atoms.all(1).any()


def test_parts_are_those_of_the_noise() -> None:
    molecules = batch([DRUGS[0]] * 20)
    first, second, other = (random_parts(*molecules, BatchNoise(k), 0.8) for k in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first.atoms, other.atoms)
