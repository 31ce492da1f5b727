"""What stands for a molecule that leaves stereo open: bridges that can be built one way."""

import pytest
from rdkit import Chem

from molflowctl.chem.open_stereo import REFUSED, isomers_of
from molflowctl.chem.stereo import stereoisomers

ONE_WAY = ["C1CC2CCC1C2", "C1=CC2C=CC1C2", "OC12CC3CC(CC(C3)C1)C2", "C12C3C4C1C5C2C3C45"]
BOTH = [("CC1(C)C2CCC1(C)C(=O)C2", 2), ("C1CCC2CCCCC2C1", 2), ("C1CCC2CCCC2C1", 3)]


@pytest.mark.parametrize("smiles", ONE_WAY)
@pytest.mark.parametrize("rule", ["first", "refuse", "enumerate", 8])
def test_a_bridge_with_one_way_is_not_open(smiles, rule):
    found = isomers_of(Chem.MolFromSmiles(smiles), rule)
    assert (found.open, found.refused) == (0, "")
    assert [Chem.CanonSmiles(smiles)] == [Chem.MolToSmiles(mol) for mol in found.mols]


@pytest.mark.parametrize(
    "smiles", ["CC(N)P(=O)(O)OC", "CC(F)S(=O)O", "CC(F)P(=O)([O-])OCC", "OCC(C)COP(=O)(O)OCC"]
)
def test_no_choice_is_made_at_a_centre_that_is_none(smiles):
    found = isomers_of(Chem.MolFromSmiles(smiles), "enumerate")
    assert (found.open, found.possible, len(found.mols)) == (1, 2, 2)
    for mol in [*found.mols, *stereoisomers(Chem.MolFromSmiles(smiles), 8)]:
        marked = [a.GetSymbol() for a in mol.GetAtoms() if a.GetChiralTag() != Chem.CHI_UNSPECIFIED]
        assert marked == ["C"]


@pytest.mark.parametrize(("smiles", "isomers"), BOTH)
def test_what_can_be_built_in_several_ways_stays_open(smiles, isomers):
    mol = Chem.MolFromSmiles(smiles)
    assert isomers_of(mol, "refuse").refused == REFUSED
    assert len(isomers_of(mol, "enumerate").mols) == isomers
    assert len(isomers_of(mol, "first").mols) == 1
