"""Complexes of metals are no salts, however they are drawn; salts of metals are."""

import pytest
from rdkit import Chem

from molflowctl.chem.identity import parent
from molflowctl.chem.metals import metal_complex
from molflowctl.chem.salts import settle_salt

COMPLEXES = [
    ("[Fe+2].c1cc[cH-]c1.c1cc[cH-]c1", "iron (Fe)"),
    ("[CH-]1C=CC=C1.[CH-]1C=CC=C1.[Ni+2]", "nickel (Ni)"),
    ("[Ti+4].[Cl-].[Cl-].c1cc[cH-]c1.c1cc[cH-]c1", "titanium (Ti)"),
    ("[Cr].c1ccccc1.c1ccccc1", "chromium (Cr)"),
    ("[Pt+2].[Cl-].[Cl-].N.N", "platinum (Pt)"),
    ("[Ni].[C-]#[O+].[C-]#[O+].[C-]#[O+].[C-]#[O+]", "nickel (Ni)"),
    ("[K+].[K+].[K+].[Fe+3].[C-]#N.[C-]#N.[C-]#N.[C-]#N.[C-]#N.[C-]#N", "iron (Fe)"),
    ("[Ru+2].[Cl-].[Cl-].CC(C)c1ccc(C)cc1", "ruthenium (Ru)"),
    ("[Zn+2].c1cc2cc3ccc([n-]3)cc3ccc([n-]3)cc3nc(cc1n2)C=C3", "zinc (Zn)"),
    ("[Na+].[Fe+3].[O-]C(=O)CN(CC([O-])=O)CCN(CC([O-])=O)CC([O-])=O", "iron (Fe)"),
    ("CC#N.CC#N.CC#N.CC#N.[Cu+].F[P-](F)(F)(F)(F)F", "copper (Cu)"),
]
SALTS = [
    ("[Fe+2].[O-]C(=O)/C=C/C(=O)[O-]", "O=C([O-])/C=C/C(=O)[O-]"),
    ("[Zn+2].CC(=O)[O-].CC(=O)[O-]", "CC(=O)[O-]"),
    ("[Ag+].[N-](c1ncccn1)S(=O)(=O)c1ccc(N)cc1", "Nc1ccc(S(=O)(=O)[N-]c2ncccn2)cc1"),
    ("[Cu+2].[O-]S(=O)(=O)[O-].O.O.O.O.O", None),
    ("[Fe+3].[Cl-].[Cl-].[Cl-]", None),
    ("[Na+].c1cc[cH-]c1", "c1cc[cH-]c1"),
    ("NCCO.Cl", "NCCO"),
]


@pytest.mark.parametrize("rule", ["refuse", "strip", "keep"])
@pytest.mark.parametrize(("smiles", "metal"), COMPLEXES)
def test_a_complex_drawn_in_pieces_is_refused_by_the_name_of_its_metal(smiles, metal, rule):
    mol = Chem.MolFromSmiles(smiles)
    for record in (mol, Chem.AddHs(mol)):
        assert metal_complex(record) == metal
        refused = settle_salt(record, rule).refused
        assert metal in refused
        assert "salt" not in refused
    # What is folded by its parent is not folded with its ligands.
    assert parent(mol).GetNumAtoms() == mol.GetNumAtoms()


@pytest.mark.parametrize(("smiles", "kept"), SALTS)
def test_a_salt_of_a_metal_is_a_salt(smiles, kept):
    mol = Chem.MolFromSmiles(smiles)
    assert not metal_complex(mol)
    assert not settle_salt(mol, "keep").refused
    if kept:
        assert Chem.MolToSmiles(settle_salt(mol, "strip").mol) == Chem.CanonSmiles(kept)


@pytest.mark.parametrize("smiles", ["[Fe]", "[Zn+2]", "[Fe].[Fe]", "CCO", "[Na+].[C-]#N", "C[Pd]C"])
def test_what_is_no_complex_in_pieces(smiles):
    assert not metal_complex(Chem.MolFromSmiles(smiles))
