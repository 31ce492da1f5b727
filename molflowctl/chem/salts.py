"""What becomes of a salt or a mixture, a record of several fragments, that needs a geometry.

refuse   a failure that is counted: no number can pass for one of another molecule
strip    the parent alone (`parent` of the identity module), and it is said what was left out
keep     all of it, the fragments beside each other
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from rdkit import Chem

from molflowctl.chem.identity import parent
from molflowctl.chem.metals import metal_complex

__all__ = ["COMPLEX", "NO_PARENT", "REFUSED", "SaltRule", "Settled", "is_several", "settle_salt"]

SaltRule = Literal["refuse", "strip", "keep"]

REFUSED = "a salt or a mixture: --salts strip takes its parent alone, --salts keep all of it"
NO_PARENT = "a salt or a mixture without an organic part: there is no parent to strip it to"
COMPLEX = "a complex of {}, drawn in pieces: no field knows how its ligands stand around the metal"
_PLACE = "_molflowctl_place"


class Settled(NamedTuple):
    """A molecule after a rule.

    mol: what is left to compute. stripped: SMILES of what was left out, with dots; empty if nothing
    was. neutralised: net charge before and after, `+1 to 0`; empty if nothing changed. refused: why
    no geometry of it may be made; empty if one may.
    """

    mol: Chem.Mol
    stripped: str = ""
    neutralised: str = ""
    refused: str = ""


def is_several(mol: Chem.Mol) -> bool:
    """Whether a molecule has more than one fragment."""
    return len(Chem.GetMolFrags(mol)) > 1


def settle_salt(mol: Chem.Mol, rule: SaltRule, *, neutralise: bool = False) -> Settled:
    """Apply a rule to a molecule; one of a single fragment stays as it is.

    A salt drawn with a bond to the metal, `CC(=O)O[Na]`, is stripped too. A complex of a metal that
    is drawn in pieces, as ferrocene is, is refused whatever the rule: it is no salt (`metals`).

    Args:
        mol: sanitised; left as it is.
        neutralise: with `strip` alone: add and remove protons until no charge is left that can be,
            of molecules of one fragment too.

    Raises:
        ValueError: `neutralise` with another rule.
    """
    if rule != "strip" and neutralise:
        raise ValueError("what is not stripped is not neutralised")
    if metal := metal_complex(mol):
        return Settled(mol, refused=COMPLEX.format(metal))
    if rule != "strip":
        return Settled(mol, refused=REFUSED if rule == "refuse" and is_several(mol) else "")
    marked = Chem.Mol(mol)
    for atom in marked.GetAtoms():
        atom.SetIntProp(_PLACE, atom.GetIdx())
    kept = parent(marked)
    if is_several(mol) and not any(atom.GetAtomicNum() == 6 for atom in kept.GetAtoms()):
        return Settled(mol, refused=NO_PARENT)
    stayed = {atom.GetIntProp(_PLACE) for atom in kept.GetAtoms()}
    gone = [index for index in range(mol.GetNumAtoms()) if index not in stayed]
    stripped = _smiles_of(mol, gone) if gone else ""
    before = Chem.GetFormalCharge(kept)
    if neutralise:
        kept = parent(kept, neutralise=True)
    for atom in kept.GetAtoms():
        atom.ClearProp(_PLACE)
    after = Chem.GetFormalCharge(kept)
    neutralised = f"{before:+d} to {after:+d}".replace("+0", "0") if before != after else ""
    return Settled(kept, stripped, neutralised)


def _smiles_of(mol: Chem.Mol, atoms: list[int]) -> str:
    """SMILES of some fragments, or of atoms cut off from the rest."""
    part = Chem.RWMol(mol)
    part.BeginBatchEdit()
    for index in set(range(mol.GetNumAtoms())) - set(atoms):
        part.RemoveAtom(index)
    part.CommitBatchEdit()
    return Chem.MolToSmiles(Chem.RemoveHs(part.GetMol(), sanitize=False))
