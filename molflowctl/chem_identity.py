"""Which molecule a record is, and which part of a salt is the molecule."""

from __future__ import annotations

from functools import cache

from rdkit import Chem, rdBase
from rdkit.Chem.MolStandardize import rdMolStandardize

__all__ = ["parent"]

# Salts that were drawn with a bond to the metal, `CC(=O)O[Na]`. Complexes and organometallics, of
# which the metal is a part, stay whole.
_SALT_BONDS = "[Li,Na,K,Rb,Cs,Mg,Ca,Sr,Ba;D1,D2]~[N,O,F,S]"
_SALT_HALIDES = "[Li,Na,K,Rb,Cs;D1]~[Cl,Br,I]"


def parent(mol: Chem.Mol, *, neutralise: bool = False) -> Chem.Mol:
    """The largest organic fragment of a salt or mixture, as RDKit's `FragmentParent` chooses it.

    Bonds to alkali and alkaline earth metals count as ionic. An organic fragment (one with carbon)
    comes before any other; among equals the one with more atoms, hydrogens included. Nothing else
    is changed: the fragment keeps its charges, isotopes, stereo, hydrogens, coordinates and title.
    A molecule of one fragment is returned as an equal copy.

    Args:
        mol: a sanitised molecule.
        neutralise: also add or remove protons until no charge is left that can be; coordinates of
            added hydrogens are ideal ones, if the record shows its hydrogens.
    """
    with rdBase.BlockLogs():
        found = mol
        if len(Chem.GetMolFrags(mol)) > 1 or any(map(mol.HasSubstructMatch, _salt_bonds())):
            found = _disconnector().Disconnect(mol)
            # True: without the clean-up, which would also redraw the groups of the molecule.
            found = rdMolStandardize.FragmentParent(found, _parameters(), True)
        if neutralise:
            found = _neutral(found)
    return Chem.Mol(found)


def _neutral(mol: Chem.Mol) -> Chem.Mol:
    shows_hydrogens = any(atom.GetAtomicNum() == 1 for atom in mol.GetAtoms())
    # It takes no proton away that is an atom of its own.
    plain = rdMolStandardize.Uncharger().uncharge(Chem.RemoveHs(mol))
    return Chem.AddHs(plain, addCoords=True) if shows_hydrogens else plain


@cache
def _salt_bonds() -> tuple[Chem.Mol, Chem.Mol]:
    return Chem.MolFromSmarts(_SALT_BONDS), Chem.MolFromSmarts(_SALT_HALIDES)


@cache
def _disconnector() -> rdMolStandardize.MetalDisconnector:
    disconnector = rdMolStandardize.MetalDisconnector()
    disconnector.SetMetalNof(_salt_bonds()[0])
    disconnector.SetMetalNon(_salt_bonds()[1])
    return disconnector


@cache
def _parameters() -> rdMolStandardize.CleanupParameters:
    parameters = rdMolStandardize.CleanupParameters()
    parameters.preferOrganic = True
    return parameters
