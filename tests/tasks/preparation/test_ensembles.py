"""Ensembles end to end: what is kept, what is left out and why, on disk and after a stop."""

import csv
import json

import numpy as np
import pytest
import torch
from rdkit import Chem

from molflowctl.chem.ensemble import boltzmann_weights, embed, rmsd_matrix
from molflowctl.chem.geometry import add_conformer
from molflowctl.chem.graphs import from_mol
from molflowctl.chem.stereo import stereo_kept
from molflowctl.data.conformer_data import ConformerDataset
from molflowctl.errors import UserError
from molflowctl.io.library import read_molecules
from molflowctl.tasks.preparation import ensembles
from molflowctl.tasks.preparation.ensembles import (
    Source,
    make_ensemble,
    prepare_ensembles,
)
from molflowctl.tasks.preparation.relaxing import relax_ensemble
from molflowctl.tasks.preparation.settings import EnsembleConfig
from tests.pools import InProcess

LINES = """C[C@H](O)CN one
CC(O)C=CC two
[Na+].[Cl-] salt
this is none
C/C=C/CO three
OC/C=C/C again
CCCCO four
C=[CH] radical
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setattr(ensembles, "WorkerPool", InProcess)
    (tmp_path / "in.smi").write_text(LINES)

    def make(**changes) -> EnsembleConfig:
        settings = {
            "source": str(tmp_path / "in.smi"),
            "out": str(tmp_path / "out"),
            "etkdg_conformers": 5,
        }
        return EnsembleConfig(**settings | changes)

    return make


def test_from_a_file(config, tmp_path):
    data = prepare_ensembles(config(sdf=str(tmp_path / "all.sdf")))
    again = ConformerDataset.load(tmp_path / "out")
    assert again.smiles == data.smiles
    assert [again.source_index.tolist(), len(data)] == [[0, 1, 4, 6], 4]
    assert again.card["left_out"] == {
        "several fragments": 1,
        "SMILES not readable": 1,
        "the same molecule as an earlier one": 1,
        "radical": 1,
    }
    with (tmp_path / "out.failures.csv").open() as file:
        failed = list(csv.DictReader(file))
    # What is there already is no failure.
    assert [(row["line"], row["name"]) for row in failed] == [
        ("3", "salt"), ("4", "is none"), ("8", "radical"),
    ]  # fmt: skip
    reasons = [row["reason"] for row in failed]
    assert reasons == ["several fragments", "not a SMILES: 'this'", "radical"]
    for row in range(len(again)):
        mol, first = again.mol(row), again.conformer_ptr[row]
        energies = again.energies[first : again.conformer_ptr[row + 1]].numpy()
        weights = again.weights[first : again.conformer_ptr[row + 1]].numpy()
        assert energies[0] == 0
        assert (np.diff(energies) >= 0).all()
        assert energies.max() <= 6
        np.testing.assert_allclose(weights, boltzmann_weights(energies, 298.0), rtol=1e-4)
        assert all(stereo_kept(mol, c.GetId()) for c in mol.GetConformers())
        table = rmsd_matrix(mol, mol) + 9 * np.eye(len(energies))
        assert table.min() >= 0.12
    records = list(read_molecules(tmp_path / "all.sdf"))
    assert len(records) == len(again.energies)
    assert len({r.name for r in records}) == len(again)
    assert "[C@" in data.smiles[1]  # open stereo became one isomer
    assert not (tmp_path / "out.partial").exists()


def test_a_geometry_gives_its_stereo():
    mol = Chem.AddHs(Chem.MolFromSmiles("C[C@H](O)/C=C/F"))
    assert embed(mol, 1, 0) == 1
    for hydrogens in (True, False):
        source = Source(0, from_mol(mol, hydrogens=hydrogens), 0)
        made = make_ensemble(source, EnsembleConfig(source="", out="", etkdg_conformers=3))
        assert made.smiles == Chem.MolToSmiles(Chem.MolFromSmiles("C[C@H](O)/C=C/F"))


def test_a_geometry_alone_is_relaxed(config):
    mol = Chem.AddHs(Chem.MolFromSmiles("C[C@H](F)CNC(=O)c1ccccc1"))
    embed(mol, 1, 0)
    relaxed, *_ = relax_ensemble(mol, "mmff")
    settings = EnsembleConfig(source="", out="", etkdg_conformers=0)
    for hydrogens in (True, False):
        made = make_ensemble(Source(0, from_mol(relaxed, hydrogens=hydrogens), 0), settings)
        found = Chem.AddHs(Chem.MolFromSmiles(made.smiles))
        assert made.positions.shape == (1, found.GetNumAtoms(), 3)
        conformer = Chem.Conformer(found.GetNumAtoms())
        conformer.SetPositions(made.positions[0].astype(float))
        found.AddConformer(conformer)
        assert stereo_kept(found)
        assert rmsd_matrix(found, relaxed)[0, 0] < 0.1
    with pytest.raises(UserError, match="--etkdg-conformers has to be 1"):
        prepare_ensembles(config(etkdg_conformers=0))


def test_a_geometry_stays_where_nothing_is_relaxed():
    """Of heavy atoms alone, hydrogens are placed; of all atoms, all stay."""
    mol = Chem.AddHs(Chem.MolFromSmiles("C[C@H](F)CNC(=O)c1ccccc1"))
    embed(mol, 1, 0)
    settings = EnsembleConfig(source="", out="", etkdg_conformers=0, relax="none")
    for hydrogens in (True, False):
        made = make_ensemble(Source(0, from_mol(mol, hydrogens=hydrogens), 0), settings)
        found = Chem.AddHs(Chem.MolFromSmiles(made.smiles))
        add_conformer(found, made.positions[0].astype(float))
        assert stereo_kept(found)
        assert rmsd_matrix(found, mol)[0, 0] < 1e-4


def test_ensembles_of_a_molecule_do_not_depend_on_its_neighbours(config, tmp_path):
    whole = prepare_ensembles(config())
    settings = config(out=str(tmp_path / "other"))
    alone = make_ensemble(Source(6, "CCCCO", 0), settings)
    assert torch.equal(whole.conformers(3), torch.from_numpy(alone.positions))


def test_a_resumed_run_equals_an_uninterrupted_one(config, tmp_path, monkeypatch):
    monkeypatch.setattr(ensembles, "SHARD", 2)
    prepare_ensembles(config(out=str(tmp_path / "whole")))
    make = ensembles._make_shard

    def interrupted(path, *rest):
        if path.stem == "00002":
            raise KeyboardInterrupt
        make(path, *rest)

    monkeypatch.setattr(ensembles, "_make_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare_ensembles(config())
    assert len(list((tmp_path / "out.partial").glob("*.safetensors"))) == 2
    done = []
    monkeypatch.setattr(
        ensembles, "_make_shard", lambda path, *rest: (done.append(path.stem), make(path, *rest))
    )
    with pytest.raises(UserError, match="unfinished run"):
        prepare_ensembles(config())
    with pytest.raises(UserError, match="other settings"):
        prepare_ensembles(config(resume=True, etkdg_conformers=6))
    source = tmp_path / "in.smi"
    source.write_text(LINES.replace("CCCCO four", "CCCCN four"))
    with pytest.raises(UserError, match="another source"):
        prepare_ensembles(config(resume=True))
    source.write_text(LINES)
    prepare_ensembles(config(resume=True))
    assert done == ["00002", "00003"]
    parts = [tmp_path / name / "ensembles.safetensors" for name in ("whole", "out")]
    assert parts[0].read_bytes() == parts[1].read_bytes()


def test_constitutions_decide_the_split(config):
    sources, _ = ensembles._sources(config())
    by_line = {s.number: s.split for s in sources}
    assert by_line[4] == by_line[5]
    assert set(by_line.values()) <= {0, 1, 2}


def test_atom_maps_and_hydrogens_do_not_come_along(config, tmp_path):
    lines = ["CCOC", "[CH3:1][CH2:2][O:3][CH3:4]", "[H]C([H])([H])OCC"]
    (tmp_path / "forms.smi").write_text("\n".join(lines) + "\n")
    sources, _ = ensembles._sources(config(source=str(tmp_path / "forms.smi")))
    assert {(source.molecule, source.split) for source in sources} == {("CCOC", sources[0].split)}


def test_a_number_of_molecules(config):
    assert [len(ensembles._sources(config(limit=k))[0]) for k in (1, 3, 100)] == [1, 3, 8]


def test_gfn2_finds_lower_energies_than_it_is_given():
    pytest.importorskip("tblite")
    mol = Chem.AddHs(Chem.MolFromSmiles("CO"))
    assert embed(mol, 1, 0) == 1
    start = Chem.Mol(mol)
    relaxed, energies, name, _ = relax_ensemble(mol, "gfn2")
    again, same, *_ = relax_ensemble(relaxed, "gfn2")
    assert name == "GFN2-xTB"
    assert energies[0] - same[0] == pytest.approx(0, abs=0.01)
    assert np.array_equal(mol.GetConformer().GetPositions(), start.GetConformer().GetPositions())
    assert rmsd_matrix(again, relaxed)[0, 0] < 0.01


def test_bad_places(config, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="exists"):
        prepare_ensembles(config())
    (tmp_path / "empty.smi").write_text("\n")
    with pytest.raises(UserError, match="no molecules"):
        prepare_ensembles(config(source=str(tmp_path / "empty.smi"), out=str(tmp_path / "x")))
    with pytest.raises(
        UserError, match=r"card\.json is missing\. Make it with: .* prepare-conformers"
    ):
        ConformerDataset.load(tmp_path / "out")


def test_damage_is_noticed(ensembles, tmp_path):
    data = ConformerDataset.load(ensembles)
    folder = data.save(tmp_path / "copy")
    file = folder / "ensembles.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        ConformerDataset.load(folder)
    card = json.loads((folder / "card.json").read_text()) | {"conformer_format_version": 0}
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(UserError, match="format version"):
        ConformerDataset.load(folder)


def test_conformers_are_picked_by_their_weights(ensembles):
    data = ConformerDataset.load(ensembles)
    row = int(data.conformer_ptr.diff().argmax())
    k, n = int(data.conformer_ptr.diff()[row]), int(data.atom_ptr.diff()[row])
    assert k > 2
    uniform = (torch.arange(4000) + 0.5) / 4000
    all_ = data.conformers(row)
    for boltzmann in (True, False):
        found = data.dense(torch.full((4000,), row), uniform, n, boltzmann=boltzmann)
        which = (found[:, None] - all_).abs().amax((2, 3)).argmin(1)
        shares = torch.bincount(which, minlength=k) / 4000
        first = data.conformer_ptr[row]
        wanted = data.weights[first : first + k] if boltzmann else torch.full((k,), 1 / k)
        torch.testing.assert_close(shares, wanted, rtol=0, atol=2e-3)


def test_salts_are_left_out_or_stripped_and_counted(config, tmp_path):
    lines = "C[NH2+]C.[Cl-] a\nCC(=O)[O-].[Na+] b\nC[NH2+]C.[Br-] c\nCCCO d\n"
    (tmp_path / "in.smi").write_text(lines)
    refused = prepare_ensembles(config())
    assert refused.smiles == ["CCCO"]
    assert refused.card["left_out"]["several fragments"] == 3
    stripped = prepare_ensembles(config(salts="strip", overwrite=True))
    assert sorted(stripped.smiles) == ["CC(=O)[O-]", "CCCO", "C[NH2+]C"]
    assert stripped.card["salts_stripped"] == 3
    neutral = prepare_ensembles(config(salts="strip", neutralise=True, overwrite=True))
    assert sorted(neutral.smiles) == ["CC(=O)O", "CCCO", "CNC"]
