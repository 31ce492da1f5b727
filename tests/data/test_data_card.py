"""Data sets that were edited, damaged or made to hang: refused, by name."""

import gzip
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import AllChem
from safetensors.torch import load_file, save_file

from molflowctl.data.card import how_to_make, sealed
from molflowctl.data.conformer_data import ConformerDataset
from molflowctl.data.datasets import MoleculeDataset
from molflowctl.data.flat import pointer_of
from molflowctl.errors import UnverifiedCard, UserError

SMILES = ["CCO", "C1CC1", "CC=O", "CCN", "C#CC"]


def molecules() -> MoleculeDataset:
    parts: dict[str, list] = {"numbers": [], "positions": [], "bonds": [], "orders": []}
    atoms, edges = [], []
    for smiles in SMILES:
        mol = Chem.MolFromSmiles(smiles)
        AllChem.EmbedMolecule(mol, randomSeed=1)
        x = mol.GetConformer().GetPositions()
        parts["numbers"] += [a.GetAtomicNum() for a in mol.GetAtoms()]
        parts["positions"].append(x - x.mean(0))
        for bond in mol.GetBonds():
            ends = sorted((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()))
            parts["bonds"].append(ends)
            parts["orders"].append(int(bond.GetBondTypeAsDouble()))
        atoms.append(mol.GetNumAtoms())
        edges.append(mol.GetNumBonds())
    found = MoleculeDataset(
        numbers=torch.tensor(parts["numbers"], dtype=torch.uint8),
        charges=torch.zeros(sum(atoms), dtype=torch.int8),
        positions=torch.from_numpy(np.concatenate(parts["positions"])).float(),
        atom_ptr=pointer_of(torch.tensor(atoms)),
        bond_index=torch.tensor(parts["bonds"], dtype=torch.int16),
        bond_order=torch.tensor(parts["orders"], dtype=torch.int8),
        bond_ptr=pointer_of(torch.tensor(edges)),
        split=torch.tensor([0, 0, 0, 1, 2], dtype=torch.uint8),
        source_index=torch.arange(5, dtype=torch.int32),
        card={"hydrogens": "implicit", "name": "five"},
    )
    found.smiles = SMILES
    return found


def ensembles() -> ConformerDataset:
    atoms, conformers = [3, 3, 3], [1, 2, 1]
    return ConformerDataset(
        numbers=torch.full((9,), 6, dtype=torch.uint8),
        atom_ptr=pointer_of(torch.tensor(atoms)),
        positions=torch.randn(12, 3),
        conformer_ptr=pointer_of(torch.tensor(conformers)),
        energies=torch.tensor([0.0, 0.0, 1.0, 0.0]),
        weights=torch.tensor([1.0, 0.8, 0.2, 1.0]),
        split=torch.tensor([0, 1, 2], dtype=torch.uint8),
        source_index=torch.arange(3, dtype=torch.int32),
        smiles=["CCC", "CCO", "CCN"],
        card={"name": "three", "hydrogens": "explicit"},
    )


KINDS = {
    "molecules": (molecules, MoleculeDataset, "molecules.safetensors"),
    "ensembles": (ensembles, ConformerDataset, "ensembles.safetensors"),
}


@pytest.fixture(params=KINDS)
def kind(request, tmp_path):
    """The class, the folder and the file of tensors of a data set."""
    make, cls, tensors = KINDS[request.param]
    return cls, make().save(tmp_path / "data"), tensors


def whole(cls, folder: Path):
    """Load all there is to load."""
    data = cls.load(folder)
    return list(data.smiles)


def rewrite(folder: Path, *, seal: bool, **changes) -> None:
    card = json.loads((folder / "card.json").read_text()) | changes
    (folder / "card.json").write_text(json.dumps(sealed(card) if seal else card))


def vouch(folder: Path, tensors: str) -> None:
    """Let the card confirm the files as they are, so that only their reader can object."""
    digests = {
        name: hashlib.sha256((folder / file).read_bytes()).hexdigest()
        for name, file in (("sha256", tensors), ("smiles_sha256", "smiles.txt.gz"))
    }
    rewrite(folder, seal=True, **digests)


def test_a_data_set_comes_back(kind):
    cls, folder, _ = kind
    assert len(whole(cls, folder)) == len(cls.load(folder))


@pytest.mark.parametrize("change", [{"hydrogens": "none"}, {"temperature_kelvin": 1.0}])
def test_a_card_that_was_edited_is_refused(kind, change):
    cls, folder, _ = kind
    rewrite(folder, seal=False, **change)
    with pytest.raises(UserError, match="was edited"):
        cls.load(folder)


def test_a_title_may_be_edited_and_an_earlier_card_warns(kind):
    cls, folder, _ = kind
    rewrite(folder, seal=False, title="mine")
    assert cls.load(folder).card["title"] == "mine"
    card = json.loads((folder / "card.json").read_text())
    del card["data_sha256"], card["smiles_sha256"]
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.warns(UnverifiedCard):
        whole(cls, folder)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("name", ["tensors", "smiles.txt.gz"])
def test_a_flipped_bit_is_seen(kind, name, seed):
    cls, folder, tensors = kind
    file = folder / (tensors if name == "tensors" else name)
    content = bytearray(file.read_bytes())
    place = int(np.random.default_rng(seed).integers(8 * len(content)))
    content[place // 8] ^= 1 << place % 8
    file.write_bytes(content)
    with pytest.raises(UserError, match="is damaged"):
        whole(cls, folder)


@pytest.mark.parametrize("name", ["tensors", "smiles.txt.gz", "card.json"])
@pytest.mark.parametrize("as_what", ["pipe", "device", "folder", "nothing", "empty"])
def test_what_is_no_file_is_refused_at_once(kind, name, as_what):
    cls, folder, tensors = kind
    file = folder / (tensors if name == "tensors" else name)
    file.unlink()
    if as_what == "pipe":
        os.mkfifo(file)
    elif as_what == "device":
        file.symlink_to("/dev/zero")
    elif as_what == "folder":
        file.mkdir()
    elif as_what == "empty":
        file.write_bytes(b"")
    with pytest.raises(UserError, match=file.name):
        whole(cls, folder)


@pytest.mark.parametrize(
    "content",
    [b"{", b"[]", b"[" * 100_000, b'{"a":' * 9000 + b"1" + b"}" * 9000, b"\xff", b"1" * 5000],
    ids=["no JSON", "list", "brackets", "depth", "binary", "digits"],
)
def test_cards_that_are_none_are_refused(kind, content):
    cls, folder, _ = kind
    (folder / "card.json").write_bytes(content)
    with pytest.raises(UserError, match=r"card\.json") as error:
        cls.load(folder)
    assert len(str(error.value).replace(str(folder), "")) < 300


def test_a_gzip_of_a_gigabyte_is_not_unpacked(kind):
    cls, folder, tensors = kind
    with gzip.open(folder / "smiles.txt.gz", "wb", compresslevel=1) as file:
        for _ in range(64):
            file.write(b"C" * 2**20)
    vouch(folder, tensors)
    with pytest.raises(UserError, match="far more than"):
        whole(cls, folder)


@pytest.mark.parametrize("text", [b"CCO\n", b"CCO\n" * 9, b"\xff\n" * 5])
def test_other_smiles_are_refused(kind, text):
    cls, folder, tensors = kind
    (folder / "smiles.txt.gz").write_bytes(gzip.compress(text))
    vouch(folder, tensors)
    with pytest.raises(UserError, match=r"smiles\.txt\.gz"):
        whole(cls, folder)


def spoil(name: str, change):
    return lambda tensors: tensors.update({name: change(tensors[name])})


SPOILT = {
    "positions not finite": spoil("positions", lambda x: x.fill_(torch.nan)),
    "positions too few": spoil("positions", lambda x: x[:-1]),
    "positions of doubles": spoil("positions", lambda x: x.double()),
    "pointer turned": spoil("atom_ptr", lambda x: x.flip(0)),
    "pointer beyond the end": spoil("atom_ptr", lambda x: x * 1000),
    "pointer short": spoil("atom_ptr", lambda x: x[:-1]),
    "a fourth split": spoil("split", lambda x: x + 3),
    "numbers as floats": spoil("numbers", lambda x: x.float()),
    "a tensor too many": lambda tensors: tensors.update(extra=torch.zeros(1)),
    "a tensor too few": lambda tensors: tensors.pop("numbers"),
}  # fmt: skip


@pytest.mark.parametrize("change", SPOILT.values(), ids=SPOILT)
def test_tensors_that_do_not_fit_are_refused_even_under_a_right_hash(kind, change):
    cls, folder, tensors = kind
    found = load_file(folder / tensors)
    change(found)
    save_file({name: t.contiguous() for name, t in found.items()}, folder / tensors)
    vouch(folder, tensors)
    with pytest.raises(UserError, match=tensors):
        cls.load(folder)


@pytest.mark.parametrize(
    "change",
    [
        spoil("bond_index", lambda x: x + 100),
        spoil("bond_index", lambda x: x.flip(1)),
        spoil("bond_order", lambda x: x * 0),
        spoil("numbers", lambda x: x * 0),
        spoil("numbers", lambda x: x * 0 + 200),
    ],
)
def test_bonds_and_elements_are_what_they_can_be(tmp_path, change):
    folder = molecules().save(tmp_path / "data")
    found = load_file(folder / "molecules.safetensors")
    change(found)
    save_file({name: t.contiguous() for name, t in found.items()}, folder / "molecules.safetensors")
    vouch(folder, "molecules.safetensors")
    with pytest.raises(UserError, match=r"molecules\.safetensors"):
        MoleculeDataset.load(folder)


@pytest.mark.parametrize(
    ("name", "conformers", "words"),
    [
        ("qm9-implicit", False, "data prepare qm9 -o datasets/qm9-implicit"),
        ("qm9-explicit", False, "data prepare qm9 --hydrogens explicit -o datasets/qm9-explicit"),
        ("druglike", False, "data prepare druglike -o datasets/druglike"),
        ("mine", False, "qm9 (or druglike) -o datasets/mine"),
        ("qm9-conformers", True, "prepare-conformers datasets/qm9-explicit -o datasets/qm9-conf"),
        ("qm9-conformers-gfn2", True, "datasets/qm9-explicit --relax gfn2 -o"),
        (
            "druglike-conformers",
            True,
            "datasets/druglike --etkdg-conformers 0 -o",
        ),
        ("mine", True, "prepare-conformers SOURCE -o datasets/mine"),
    ],
)
def test_the_advice_is_of_the_data_set_that_was_asked_for(name, conformers, words):
    folder = Path("datasets") / name
    assert words in how_to_make(folder, conformers=conformers)
    with pytest.raises(UserError, match="is missing") as error:
        (ConformerDataset if conformers else MoleculeDataset).load(folder)
    assert words in str(error.value)


def test_one_kind_in_place_of_the_other_is_told(tmp_path):
    folder = molecules().save(tmp_path / "five")
    with pytest.raises(UserError, match=f"prepare-conformers {folder} -o {folder}-conformers"):
        ConformerDataset.load(folder)
    other = ensembles().save(tmp_path / "three")
    with pytest.raises(UserError, match="ensembles of conformers, where molecules"):
        MoleculeDataset.load(other)
