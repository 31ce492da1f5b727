"""Atropisomers and allenes of known hand: each alone in, each alone out."""

import numpy as np
import pytest
from rdkit import Chem

from molflowctl.chem.axial import axes, axes_text
from molflowctl.chem.ensemble import embed
from molflowctl.chem.relaxation import BECAME, changed
from molflowctl.io.library import read_molecules
from molflowctl.io.library_writers import open_writer
from molflowctl.tasks.conformers import conformers as task
from molflowctl.tasks.conformers.settings import ConformersConfig
from tests.pools import InProcess

MOLECULES = [
    "Oc1ccc2ccccc2c1-c1c(O)ccc2ccccc12",  # BINOL
    "Nc1ccc2ccccc2c1-c1c(O)ccc2ccccc12",  # NOBIN
    "O=C(O)c1cccc([N+](=O)[O-])c1-c1c(C(=O)O)cccc1[N+](=O)[O-]",  # the first one resolved, 1922
    "Cc1cccc(Br)c1-c1c(C)cccc1Cl",
    "COc1cccc(I)c1-c1c(Br)cccc1C",
    "Cc1cccc(Br)c1N1C(=O)CSC1=S",
    "CC=C=CC",
    "OC(=O)C=C=CC(=O)O",  # glutinic acid
    "CC(C)(C)C=C=CCl",
    "C[C@H](O)C=C=CF",
    "OC(=O)C=C=C(C)Cl",
]


def both_hands(smiles: str) -> list[Chem.Mol]:
    """Geometries that differ in the hand of the axis alone."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    embed(mol, 12, 3)
    found: dict[str, Chem.Mol] = {}
    for conformer in mol.GetConformers():
        one = Chem.Mol(mol, False, conformer.GetId())
        found.setdefault(axes_text(one), one)
    assert len(found) == 2
    return [found[text] for text in sorted(found)]


@pytest.fixture
def delivered(tmp_path, monkeypatch):
    monkeypatch.setattr(task, "WorkerPool", InProcess)

    def run(mols, **settings):
        source, out = tmp_path / "in.sdf", tmp_path / "out.sdf"
        with open_writer(source, True) as writer:
            for k, mol in enumerate(mols):
                writer.write(mol, {}, f"hand{k}")
        config = {"model": "etkdg", "n": 3, "rmsd_threshold": 0.0, "energy_window": 1e3} | settings
        config |= {"source": str(source), "out": str(out), "overwrite": True}
        state = task.generate_conformers(ConformersConfig(**config))
        if not state.written:
            return state, []
        return state, [(r.name, axes_text(r.mol)) for r in read_molecules(out)]

    return run


@pytest.mark.parametrize("relax", ["none", "mmff"])
@pytest.mark.parametrize("smiles", MOLECULES)
def test_each_hand_alone_in_and_alone_out(smiles, relax, delivered):
    """MMFF94 flattens allenes beside an acid or a fluorine: those are counted, and stay out."""
    hands = both_hands(smiles)
    state, found = delivered(hands, relax=relax)
    wanted = {f"hand{k}": axes_text(mol) for k, mol in enumerate(hands)}
    assert all(wanted.values())
    assert all(wanted[name] == text for name, text in found)
    assert state.counts["duplicates"] == 0
    lost = state.counts[BECAME] + state.counts["the relaxation failed"]
    assert len(found) + lost == 6
    if relax == "none" or "C=C=C" not in smiles:
        assert lost == 0
        assert state.done == 2
    if lost:
        assert any(BECAME in note for note in state.notes)


@pytest.mark.parametrize("smiles", ["FC=C=CF", MOLECULES[6]])
def test_a_flow_is_held_to_the_hand_too(smiles, delivered, untrained_conformers):
    """The network knows nothing of it: half of its draws have the other one."""
    settings = {"model": str(untrained_conformers), "relax": "none", "nfe": 2}
    hands = both_hands(smiles)
    state, found = delivered(hands, **settings)
    wanted = {f"hand{k}": axes_text(mol) for k, mol in enumerate(hands)}
    assert all(wanted[name] == text for name, text in found)
    assert state.counts["wrong stereo"] > 0
    assert state.written > 0


@pytest.mark.parametrize("smiles", [MOLECULES[3], MOLECULES[6], MOLECULES[8]])
def test_a_relaxation_that_loses_the_hand_has_made_another_molecule(smiles):
    one, other = both_hands(smiles)
    assert axes(one)
    assert changed(one, one) == ""
    turned = Chem.Mol(one)
    turned.GetConformer().SetPositions(np.ascontiguousarray(other.GetConformer().GetPositions()))
    assert changed(one, turned).startswith(BECAME)
