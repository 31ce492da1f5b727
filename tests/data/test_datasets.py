"""The data set's formats agree with each other, survive the disk and refuse what is damaged."""

import json

import numpy as np
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from molflowctl.chem.graphs import canonical_smiles, from_mol
from molflowctl.data.card import sealed
from molflowctl.data.datasets import MoleculeDataset, split_by_molecule
from molflowctl.data.known import hash_molecules, known, load_hashes, load_sizes, molecule_hash
from molflowctl.errors import UserError
from molflowctl.io import atomic

SMILES = (
    "CCO",
    "C#CC=O",
    "c1ccoc1",
    "C1CC1N",
    "[O-]C(=O)C[NH3+]",
    "N#CC(F)C",
    "CC(C)(C)O",
    "OCC=O",
    "O=C1NC=CC1",
    "C[C@H](O)C#N",
)


def mols() -> list[Chem.Mol]:
    result = []
    for seed, smiles in enumerate(SMILES):
        mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
        assert rdDistGeom.EmbedMolecule(mol, randomSeed=seed + 1) == 0
        result.append(mol)
    return result


def flat(graphs, smiles) -> MoleculeDataset:
    """The data set of some graphs, built one bond at a time."""
    numbers, charges, positions, index, order = [], [], [], [], []
    atom_ptr, bond_ptr = [0], [0]
    for graph in graphs:
        numbers += graph.numbers.tolist()
        charges += graph.charges.tolist()
        positions += (graph.positions - graph.positions.mean(0)).tolist()
        for i in range(len(graph.numbers)):
            for j in range(i + 1, len(graph.numbers)):
                if graph.bonds[i, j]:
                    index.append((i, j))
                    order.append(int(graph.bonds[i, j]))
        atom_ptr.append(len(numbers))
        bond_ptr.append(len(order))
    dataset = MoleculeDataset(
        numbers=torch.tensor(numbers, dtype=torch.uint8),
        charges=torch.tensor(charges, dtype=torch.int8),
        positions=torch.tensor(positions),
        atom_ptr=torch.tensor(atom_ptr),
        bond_index=torch.tensor(index, dtype=torch.int16),
        bond_order=torch.tensor(order, dtype=torch.int8),
        bond_ptr=torch.tensor(bond_ptr),
        split=torch.tensor([0, 1, 2, 0, 0, 0, 1, 2, 0, 0], dtype=torch.uint8),
        source_index=torch.arange(len(smiles), dtype=torch.int32) + 1,
        card={"licence": "CC0-1.0"},
    )
    dataset.smiles = smiles
    return dataset


@pytest.fixture(scope="module")
def dataset() -> MoleculeDataset:
    return flat(
        [from_mol(m, hydrogens=True) for m in mols()], [canonical_smiles(m) for m in mols()]
    )


def test_the_folder_holds_what_was_saved(dataset, tmp_path):
    dataset.save(tmp_path / "data")
    again = MoleculeDataset.load(tmp_path / "data")
    for name, tensor in dataset.tensors().items():
        assert tensor.dtype == again.tensors()[name].dtype
        assert torch.equal(tensor, again.tensors()[name])
    assert again.smiles == dataset.smiles
    assert again.card["licence"] == "CC0-1.0"
    assert again.card["split"] == {"train": 6, "validation": 2, "test": 2}
    np.testing.assert_array_equal(load_hashes(tmp_path / "data"), dataset.train_hashes())
    sizes = json.loads((tmp_path / "data/sizes.json").read_text())
    assert {int(n): c for n, c in sizes.items()} == dataset.sizes("train")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data"]


def test_saving_twice_gives_the_same_bytes(dataset, tmp_path):
    one, two = dataset.save(tmp_path / "one"), dataset.save(tmp_path / "two")
    for file in one.iterdir():
        assert file.read_bytes() == (two / file.name).read_bytes()


@pytest.mark.parametrize("split", [None, "train", "validation", "test"])
def test_dense_batches_hold_each_molecule_of_the_split_once(dataset, split):
    batches = dataset.by_size(split)
    rows = torch.cat([b.rows for b in batches.values()])
    assert sorted(rows.tolist()) == dataset.indices(split).tolist()
    assert {n: len(b) for n, b in batches.items()} == dataset.sizes(split)
    for n, batch in batches.items():
        i, j = torch.triu_indices(n, n, 1)
        for k, row in enumerate(batch.rows.tolist()):
            graph = dataset.graph(row)
            assert batch.numbers[k].tolist() == graph.numbers.tolist()
            assert batch.charges[k].tolist() == graph.charges.tolist()
            assert batch.bonds[k].tolist() == graph.bonds[i, j].tolist()
            np.testing.assert_array_equal(batch.positions[k], graph.positions)


def test_graphs_are_the_molecules(dataset):
    for row, mol in enumerate(mols()):
        graph, expected = dataset.graph(row), from_mol(mol, hydrogens=True)
        np.testing.assert_array_equal(graph.numbers, expected.numbers)
        np.testing.assert_array_equal(graph.charges, expected.charges)
        np.testing.assert_array_equal(graph.bonds, expected.bonds)
        centred = expected.positions - expected.positions.mean(0)
        np.testing.assert_allclose(graph.positions, centred, atol=1e-6)


@pytest.mark.parametrize("rows", [[0], [9, 2, 4], [3, 3], list(range(10)), []])
def test_a_selection_is_its_molecules(dataset, rows, tmp_path):
    part = dataset.select(torch.tensor(rows, dtype=torch.int64))
    assert part.smiles == [dataset.smiles[row] for row in rows]
    assert part.split.tolist() == dataset.split[rows].tolist()
    assert part.source_index.tolist() == dataset.source_index[rows].tolist()
    for name, tensor in dataset.tensors().items():
        assert part.tensors()[name].dtype == tensor.dtype
    for k, row in enumerate(rows):
        found, expected = part.graph(k), dataset.graph(row)
        for name in ("numbers", "charges", "bonds", "positions"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("copies", [1, 4])
def test_a_split_keeps_the_rows_of_a_molecule_together(share, copies):
    smiles = [f"C{k}" for k in range(50)] * copies
    split = split_by_molecule(smiles, share, seed=3)
    sides = [
        {s for s, side in zip(smiles, split.tolist(), strict=True) if side == k} for k in (0, 1)
    ]
    assert not sides[0] & sides[1]
    assert len(sides[1]) == 50 * share
    assert torch.equal(split, split_by_molecule(smiles, share, seed=3))
    assert not torch.equal(split, split_by_molecule(smiles, share, seed=4))


@pytest.mark.parametrize("smiles", [["C", "N"], ["C"] * 99 + ["N"], ["C"] * 5])
def test_a_split_leaves_no_side_empty_where_it_can(smiles):
    split = split_by_molecule(smiles, 0.1, seed=0)
    assert len(set(split.tolist())) == len(set(smiles))
    assert 0 in split


def test_hydrogens_leave_as_rdkit_removes_them(dataset):
    implicit = dataset.without_hydrogens(min_atoms=4)
    rows = [k for k, m in enumerate(mols()) if m.GetNumHeavyAtoms() >= 4]
    assert 0 < len(rows) < len(SMILES)  # ethanol is too small
    assert implicit.split.tolist() == dataset.split[rows].tolist()
    assert implicit.source_index.tolist() == [k + 1 for k in rows]
    assert implicit.smiles == [dataset.smiles[k] for k in rows]
    for k, row in enumerate(rows):
        graph, expected = implicit.graph(k), from_mol(mols()[row], hydrogens=False)
        np.testing.assert_array_equal(graph.numbers, expected.numbers)
        np.testing.assert_array_equal(graph.charges, expected.charges)
        np.testing.assert_array_equal(graph.bonds, expected.bonds)
        centred = expected.positions - expected.positions.mean(0)
        np.testing.assert_allclose(graph.positions, centred, atol=1e-6)


def test_pyg_view(dataset):
    from torch_geometric.data import InMemoryDataset
    from torch_geometric.loader import DataLoader

    view = dataset.pyg()
    assert isinstance(view, InMemoryDataset)
    assert len(view) == len(dataset)
    for row, data in enumerate(view):
        graph = dataset.graph(row)
        n = len(graph.numbers)
        assert data.num_nodes == n
        assert data.z.tolist() == graph.numbers.tolist()
        assert data.charge.tolist() == graph.charges.tolist()
        assert data.smiles == dataset.smiles[row]
        assert data.is_undirected()
        bonds = torch.zeros(n, n, dtype=torch.long)
        bonds[data.edge_index[0], data.edge_index[1]] = data.edge_attr
        np.testing.assert_array_equal(bonds, graph.bonds)
        np.testing.assert_array_equal(data.pos, graph.positions)
    train = dataset.pyg("train")
    assert [d.smiles for d in train] == [dataset.smiles[i] for i in dataset.indices("train")]
    batch = next(iter(DataLoader(train, batch_size=len(train))))
    assert batch.num_graphs == len(train)
    owner = batch.batch
    assert torch.equal(owner[batch.edge_index[0]], owner[batch.edge_index[1]])


def test_hash_is_blake2b_little_endian():
    # printf CCO | b2sum -l 64 gives the bytes in this order
    assert molecule_hash("CCO").to_bytes(8, "little").hex() == "6d200b6f6c9553c3"


def test_known_is_membership():
    words = [f"C{'C' * k}" for k in range(200)]
    hashes = hash_molecules(words[::3] + words[::3])
    assert hashes.dtype == np.uint64
    assert len(hashes) == len(words[::3])
    assert (np.diff(hashes) > 0).all()
    assert known(words, hashes).tolist() == [k % 3 == 0 for k in range(200)]
    assert known(words, hashes[:0]).tolist() == [False] * 200
    assert known([], hashes).tolist() == []


def test_a_missing_folder_says_how_to_make_one(tmp_path):
    with pytest.raises(UserError, match=r"card\.json is missing.*data prepare qm9"):
        MoleculeDataset.load(tmp_path / "nowhere")


def test_damage_is_noticed(dataset, tmp_path):
    file = dataset.save(tmp_path / "data") / "molecules.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        MoleculeDataset.load(tmp_path / "data")


def test_a_pickle_is_refused_unread(dataset, tmp_path):
    import hashlib
    import pickle

    folder = dataset.save(tmp_path / "data")
    content = pickle.dumps({"numbers": [1]})
    (folder / "molecules.safetensors").write_bytes(content)
    card = json.loads((folder / "card.json").read_text())
    card["sha256"] = hashlib.sha256(content).hexdigest()
    (folder / "card.json").write_text(json.dumps(sealed(card)))
    with pytest.raises(UserError, match="no data set of molecules"):
        MoleculeDataset.load(folder)


def test_nothing_is_overwritten_by_accident(dataset, tmp_path):
    folder = dataset.save(tmp_path / "data")
    with pytest.raises(UserError, match="--overwrite"):
        dataset.save(folder)
    dataset.save(folder, overwrite=True)
    (tmp_path / "letters").mkdir()
    with pytest.raises(UserError, match="not a data set"):
        dataset.save(tmp_path / "letters", overwrite=True)


def test_an_unwritable_place_is_named(dataset, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"Cannot write .*file/data"):
        dataset.save(tmp_path / "file" / "data")


def test_a_failed_save_leaves_nothing(dataset, tmp_path):
    broken = MoleculeDataset(**dataset.tensors())  # no SMILES
    with pytest.raises(UserError, match="SMILES"):
        broken.save(tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def test_unknown_names(dataset):
    with pytest.raises(UserError, match="train, validation, test"):
        dataset.indices("tset")
    with pytest.raises(UserError, match="qm9_train_hashes"):
        load_hashes("qm99")
    with pytest.raises(UserError, match="implicit"):
        load_sizes("qm9", "none")


def test_a_folder_of_a_shipped_name_is_not_taken_for_it(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dataset.save("qm9")
    assert len(load_hashes("qm9")) > 99_000
    assert len(load_hashes("./qm9")) == len(dataset.train_hashes())


def test_shipped_training_molecules():
    hashes = load_hashes("qm9")
    assert 99_000 < len(hashes) <= 100_000
    assert (np.diff(hashes) > 0).all()
    # acetone, benzene, toluene; then two molecules beyond QM9's nine heavy atoms
    trained = ["CC(C)=O", "c1ccccc1", "Cc1ccccc1"]
    foreign = ["CC(=O)Oc1ccccc1C(=O)O", "Cn1c(=O)c2c(ncn2C)n(C)c1=O"]
    assert known(trained + foreign, hashes).tolist() == [True] * 3 + [False] * 2
    explicit, implicit = load_sizes("qm9", "explicit"), load_sizes("qm9", "implicit")
    assert sum(explicit.values()) == 100_000
    assert 99_980 < sum(implicit.values()) < 100_000
    assert (min(explicit), max(explicit)) == (6, 29)
    assert (min(implicit), max(implicit)) == (4, 9)


@pytest.mark.parametrize("names", [("card.json", "weights.safetensors"), ("card.json", "rounds")])
def test_a_flow_is_no_data_set_to_be_overwritten(dataset, tmp_path, names):
    for name in names:
        (tmp_path / "flow" / name).mkdir(parents=True)
    with pytest.raises(UserError, match="not a data set"):
        dataset.save(tmp_path / "flow", overwrite=True)
    assert {path.name for path in (tmp_path / "flow").iterdir()} == set(names)


def test_an_interrupted_replacement_leaves_the_old_data_set(dataset, tmp_path, monkeypatch):
    folder = dataset.save(tmp_path / "data")

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "_exchanged", interrupted)
        with pytest.raises(KeyboardInterrupt):
            dataset.save(folder, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert len(MoleculeDataset.load(folder)) == len(dataset)
