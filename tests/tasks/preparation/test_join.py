"""What is joined is every molecule of the parts, once, as it was."""

import json
from dataclasses import fields

import pytest
import torch

from molflowctl.data.conformer_data import ConformerDataset
from molflowctl.data.datasets import MoleculeDataset
from molflowctl.errors import UserError
from molflowctl.tasks.preparation.join import join


def halves(folder, kind, tmp_path):
    """Rows 0, 1, ... and the rest of a data set, with three rows in both."""
    data = kind.load(folder)
    half = len(data) // 2
    parts = [torch.arange(half + 3), torch.arange(half, len(data))]
    return data, [data.select(rows).save(tmp_path / f"part{k}") for k, rows in enumerate(parts)]


@pytest.mark.parametrize("kind", [MoleculeDataset, ConformerDataset])
def test_the_parts_of_a_data_set_are_it_again(kind, tiny_data, ensembles, tmp_path):
    folder = tiny_data if kind is MoleculeDataset else ensembles
    data, parts = halves(folder, kind, tmp_path)
    join(parts, tmp_path / "whole")
    whole = kind.load(tmp_path / "whole")
    assert whole.smiles == data.smiles
    for field in fields(kind):
        if field.type == "Tensor":
            assert torch.equal(getattr(whole, field.name), getattr(data, field.name)), field.name
    card = json.loads((tmp_path / "whole/card.json").read_text())
    assert card["left_out"] == {"in an earlier data set": 3}
    assert [p["kept"] for p in card["parents"]] == [
        len(data) // 2 + 3,
        len(data) - len(data) // 2 - 3,
    ]
    assert card["hydrogens"] == data.card["hydrogens"]


def test_a_stereoisomer_is_the_same_molecule(ensembles, tmp_path):
    data = ConformerDataset.load(ensembles)
    row = next(k for k, s in enumerate(data.smiles) if "@" in s)
    rows = torch.tensor([row, row])
    data.select(rows[:1]).save(tmp_path / "a")
    other = data.select(rows)
    other.smiles = [s.replace("@@", "!").replace("@", "@@").replace("!", "@") for s in other.smiles]
    other.smiles[1] = "CCCC"
    other.save(tmp_path / "b")
    whole = join([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    assert whole.smiles == [data.smiles[row], "CCCC"]


def test_what_cannot_be_joined(tiny_data, ensembles, tmp_path):
    with pytest.raises(UserError, match="two data sets or more"):
        join([tiny_data], tmp_path / "out")
    with pytest.raises(UserError, match="two kinds"):
        join([tiny_data, ensembles], tmp_path / "out")
    with pytest.raises(UserError, match="is not a data set"):
        join([tiny_data, tmp_path / "absent"], tmp_path / "out")
    other = MoleculeDataset.load(tiny_data)
    other.card["hydrogens"] = "explicit"
    other.save(tmp_path / "explicit")
    with pytest.raises(UserError, match="hydrogens is 'explicit' there and 'implicit' here"):
        join([tiny_data, tmp_path / "explicit"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="exists"):
        join([tiny_data, tiny_data], tmp_path / "explicit")
