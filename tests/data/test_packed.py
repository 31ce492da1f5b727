"""A packed data set is the data set, to half a thousandth of an angstrom; damage is told."""

import gzip
import resource

import pytest
import torch
from safetensors.torch import load, save

from molflowctl.data.datasets import MoleculeDataset
from molflowctl.data.packed import RESOLUTION, pack, unpack
from molflowctl.errors import UserError


@pytest.fixture(scope="module")
def data(tiny_data) -> MoleculeDataset:
    return MoleculeDataset.load(tiny_data)


def test_unpacked_is_what_was_packed(data, tmp_path) -> None:
    pack(data, tmp_path / "x.pack")
    again = unpack(tmp_path / "x.pack")
    for name, tensor in data.tensors().items():
        found = again.tensors()[name]
        assert found.dtype == tensor.dtype, name
        if name == "positions":  # rounded, and centred again
            assert (found - tensor).abs().max() <= RESOLUTION
        else:
            assert torch.equal(found, tensor), name
    assert again.smiles == data.smiles
    assert again.card["hydrogens"] == data.card["hydrogens"]
    again.save(tmp_path / "folder")
    assert MoleculeDataset.load(tmp_path / "folder").smiles == data.smiles


def test_it_is_smaller_and_the_same_bytes_again(data, tmp_path) -> None:
    sizes = [pack(data, tmp_path / f"{k}.pack") for k in range(2)]
    assert (tmp_path / "0.pack").read_bytes() == (tmp_path / "1.pack").read_bytes()
    folder = data.save(tmp_path / "folder")
    assert sizes[0] < 0.6 * (folder / "molecules.safetensors").stat().st_size


@pytest.mark.parametrize("place", [0, 100, 1000, -1])
def test_damage_is_told(data, tmp_path, place) -> None:
    file = tmp_path / "x.pack"
    pack(data, file)
    content = bytearray(file.read_bytes())
    content[place] ^= 0x55
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"x\.pack"):
        unpack(file)


@pytest.mark.parametrize("content", [b"", b"SMILES\nCCO\n", b"\x1f\x8b"])
def test_what_is_something_else_is_refused(tmp_path, content) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(UserError, match="not a packed data set"):
        unpack(tmp_path / "x")
    with pytest.raises(UserError, match="no file"):
        unpack(tmp_path / "nothing")


def test_a_bomb_is_not_unpacked(tmp_path) -> None:
    """Some 400 kB that would be 100 MB."""
    (tmp_path / "x").write_bytes(gzip.compress(bytes(100_000_000), compresslevel=1))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match="unpacked it has more than"):
        unpack(tmp_path / "x")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000


def other(data, change):
    """The bytes of a packed file in which one tensor is another."""
    tensors = load(gzip.decompress(data.read_bytes()))
    change(tensors)
    return gzip.compress(save(tensors), compresslevel=1)


CHANGES = {
    "a count": lambda t: t["atoms"].__setitem__(0, 255),
    "a bond": lambda t: t["bond_index"].__setitem__((0, 0), 250),
    "no counts": lambda t: t.update(atoms=t["atoms"][:0]),
    "coordinates": lambda t: t.update(positions=t["positions"].float() * float("nan")),
    "a text of floats": lambda t: t.update(smiles=t["smiles"].double()),
    "a deep card": lambda t: t.update(card=torch.tensor([91] * 100_000, dtype=torch.uint8)),
    "a card of a list": lambda t: t.update(card=torch.tensor([91, 93], dtype=torch.uint8)),
    "another format": lambda t: t.update(format=t["format"][1:]),
    "a tensor of another shape": lambda t: t.update(numbers=t["numbers"][None]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_sound_gzip_of_unsound_tensors_is_refused(data, tmp_path, change) -> None:
    pack(data, tmp_path / "good")
    (tmp_path / "x.pack").write_bytes(other(tmp_path / "good", change))
    with pytest.raises(UserError, match=r"x\.pack"):
        unpack(tmp_path / "x.pack")


def test_nothing_is_overwritten_unasked(data, tmp_path) -> None:
    file = tmp_path / "x.pack"
    file.write_text("mine")
    with pytest.raises(UserError, match="--overwrite"):
        pack(data, file)
    assert file.read_text() == "mine"


@pytest.mark.parametrize("factor", [50.0, float("nan")])
def test_what_does_not_fit_is_refused(data, tmp_path, factor) -> None:
    wide = data.select(data.indices())
    wide.positions = wide.positions * factor
    with pytest.raises(UserError, match="32 angstrom"):
        pack(wide, tmp_path / "x.pack")


def test_a_missing_folder_is_refused_as_everywhere(data, tmp_path) -> None:
    with pytest.raises(UserError, match=r"cannot write .*: there is no folder .*none"):
        pack(data, tmp_path / "none" / "x.pack")
    assert not (tmp_path / "none").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file, not a folder"):
        pack(data, tmp_path / "file" / "x.pack")
