"""A molecule made ready for properties of its geometry, and what was decided on the way.

made = ready(Chem.MolFromSmiles("CC(N)C(=O)[O-].[Na+]"), salts="strip")
made.mol      the parent, hydrogens explicit, one conformer
made.notes    {'salt_stripped': '[Na+]', 'stereo_open': '1', 'stereo_chosen': ..., ...}
"""

from dataclasses import dataclass, field

from rdkit import Chem

from molflowctl.chem.open_stereo import IsomerRule, isomers_of
from molflowctl.chem.salts import SaltRule, settle_salt
from molflowctl.errors import UserError
from molflowctl.properties.geometries.starting import start
from molflowctl.properties.registry import PropertyError

__all__ = ["Ready", "check_rules", "ready"]


@dataclass(frozen=True)
class Ready:
    """A molecule after the rules.

    Attributes:
        mol: with a conformer; without one where none was made.
        notes: `salt_stripped`, `charge_neutralised`, `stereo_open`, `stereo_chosen` and
            `geometry_method`, those that apply.
        error: why there is no geometry, or empty.
    """

    mol: Chem.Mol
    notes: dict[str, str] = field(default_factory=dict)
    error: str = ""


def ready(
    mol: Chem.Mol,
    salts: SaltRule = "refuse",
    isomers: IsomerRule = "first",
    *,
    neutralise: bool = False,
    geometry: bool = True,
) -> Ready:
    """Apply the rules for salts and open stereo to a molecule, and give it a geometry.

    A conformer that is there stays: then only `strip` changes the molecule.

    Args:
        salts: of several fragments, `refuse` all, `strip` to the parent or `keep` all.
        isomers: of stereo that is left open, take the `first` isomer, or `refuse`. For all of them
            call `molflowctl.chem.open_stereo.isomers_of` and make each ready.
        neutralise: with `strip`, of molecules without a conformer.
        geometry: False settles salts alone.

    Raises:
        UserError: for rules that are not of these.
    """
    check_rules(salts, isomers, neutralise=neutralise)
    given = mol.GetNumConformers() > 0
    if given and salts != "strip":
        return Ready(mol)
    if given and neutralise:
        raise UserError("neutralise adds and removes hydrogens, but the geometry is given.")
    settled = settle_salt(mol, salts, neutralise=neutralise)
    said = {"salt_stripped": settled.stripped, "charge_neutralised": settled.neutralised}
    notes = {name: text for name, text in said.items() if text}
    if given or not geometry or settled.refused:
        return Ready(settled.mol, notes, settled.refused if geometry else "")
    found = isomers_of(Chem.RemoveHs(settled.mol), isomers)
    if found.refused:
        return Ready(settled.mol, notes, found.refused)
    if found.open:
        notes |= {"stereo_open": str(found.open), "stereo_chosen": Chem.MolToSmiles(found.mols[0])}
    try:
        made = start(Chem.AddHs(found.mols[0]))
    except PropertyError as error:
        return Ready(settled.mol, notes, str(error))
    return Ready(made.mol, notes | {"geometry_method": made.method})


def check_rules(salts: str, isomers: IsomerRule, *, neutralise: bool = False) -> None:
    """Raise `UserError` for rules that `ready` does not have."""
    if salts not in ("refuse", "strip", "keep") or (neutralise and salts != "strip"):
        raise UserError(f"salts={salts!r}: refuse, strip (which may neutralise) or keep.")
    if isomers not in ("first", "refuse"):
        raise UserError(
            f"isomers={isomers!r}: first or refuse. For one row an isomer, score what "
            "molflowctl.chem.open_stereo.isomers_of gives."
        )
