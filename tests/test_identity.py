"""Laws of which molecule a record is."""

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from molflowctl.chem_identity import parent

SALTS = [
    ("CC(=O)[O-].[Na+]", "CC(=O)[O-]", "CC(=O)O"),
    ("CC(=O)O[Na]", "CC(=O)[O-]", "CC(=O)O"),
    ("CCO[Mg]OCC", "CC[O-]", "CCO"),
    ("C[NH3+].F[P-](F)(F)(F)(F)F", "C[NH3+]", "CN"),
    ("OS(=O)(=O)O.CCN", "CCN", "CCN"),
    ("CN(C)C(=N)NC(N)=N.Cl.O", "CN(C)C(=N)NC(=N)N", "CN(C)C(=N)NC(=N)N"),
    ("C[N+](C)(C)CCO.[Cl-]", "C[N+](C)(C)CCO", "C[N+](C)(C)CCO"),
    ("[NH3+][C@@H](C)C(=O)[O-].Cl", "C[C@H]([NH3+])C(=O)[O-]", "C[C@H](N)C(=O)O"),
    ("[2H]C([2H])([2H])[NH3+].[I-]", "[2H]C([2H])([2H])[NH3+]", "[2H]C([2H])([2H])N"),
    # The metal is a part of these.
    ("N[Pt](N)(Cl)Cl", "N[Pt](N)(Cl)Cl", "N[Pt](N)(Cl)Cl"),
    ("CC[Mg]Br", "CC[Mg]Br", "CC[Mg]Br"),
    ("CC[NH3+]", "CC[NH3+]", "CCN"),
]


def canonical(smiles):
    return Chem.CanonSmiles(smiles)


@pytest.mark.parametrize(("salt", "kept", "neutral"), SALTS)
def test_the_parent_of_a_salt(salt, kept, neutral):
    mol = Chem.MolFromSmiles(salt)
    assert canonical(Chem.MolToSmiles(parent(mol))) == canonical(kept)
    assert canonical(Chem.MolToSmiles(parent(mol, neutralise=True))) == canonical(neutral)
    assert Chem.MolToSmiles(mol) == canonical(salt)  # the argument is left as it was


@pytest.mark.parametrize("salt", ["CC[NH3+].[Cl-]", "C[C@H](O)C(=O)[O-].[Na+]", "CCN.O"])
def test_a_parent_keeps_hydrogens_coordinates_and_title(salt):
    mol = Chem.AddHs(Chem.MolFromSmiles(salt))
    rdDistGeom.EmbedMolecule(mol, randomSeed=7)
    mol.SetProp("_Name", "mine")
    kept = parent(mol)
    assert kept.GetProp("_Name") == "mine"
    atoms = list(Chem.GetMolFrags(mol)[0])
    assert kept.GetNumAtoms() == len(atoms)
    positions = mol.GetConformer().GetPositions()[atoms]
    np.testing.assert_array_equal(kept.GetConformer().GetPositions(), positions)
    neutral = parent(mol, neutralise=True)
    assert Chem.GetFormalCharge(neutral) == 0
    assert not any(atom.GetTotalNumHs() for atom in neutral.GetAtoms())  # all are shown
    assert np.isfinite(neutral.GetConformer().GetPositions()).all()
