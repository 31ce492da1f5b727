"""What `alkenes.py` makes on paper are molecules, larger ones, as E and as Z."""

from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem

from molflowctl.chem.stereo import unspecified_stereo

FILE = Path(__file__).parents[2] / "benchmarks" / "conformers" / "alkenes.py"
ALKENES = ["CC=C(C)c1ccccc1", "OC(=O)C=Cc1ccccc1", "NCC=Cc1ccncc1", "CC=NOCc1ccccc1"]
ACIDS, AMINES = ["OC(=O)c1ccccc1"], ["NCCC1CC1", "CNC"]


def mols(smiles):
    return [Chem.MolFromSmiles(s) for s in smiles]


@pytest.mark.parametrize("smiles", ALKENES)
def test_what_grows_is_larger_and_keeps_a_double_bond_to_mark(script, smiles):
    mol, rng = Chem.MolFromSmiles(smiles), np.random.default_rng(0)
    found = [script.grown(mol, mols(ACIDS), mols(AMINES), rng) for _ in range(30)]
    made = [larger for larger in found if larger is not None]
    assert made
    # Not all: with a second methyl there is nothing left to mark.
    assert any(unspecified_stereo(larger) for larger in made)
    for larger in made:
        assert mol.GetNumAtoms() <= larger.GetNumAtoms() <= script.MOST
        assert len(Chem.GetMolFrags(larger)) == 1


def test_an_acid_and_an_amine_become_an_amide(script):
    """One water less than the two."""
    acid, amine = mols(["OC(=O)C=Cc1ccccc1", "CNC"])
    reaction = script.AllChem.ReactionFromSmarts(script.AMIDE)
    made = script.product(reaction, acid, amine)
    assert Chem.MolToSmiles(made) == Chem.CanonSmiles("CN(C)C(=O)C=Cc1ccccc1")
    for none in ("CC(N)=O", "CS(=O)(=O)N", "NN", "NO"):  # no amines
        assert not Chem.MolFromSmiles(none).HasSubstructMatch(script.AMINE)


def test_one_double_bond_is_written_as_both(script):
    both = script.isomers(Chem.MolFromSmiles("CC=C(Cl)c1ccccc1"), seed=0)
    assert len(set(both)) == 2
    assert all(unspecified_stereo(Chem.MolFromSmiles(s)) == 0 for s in both)
