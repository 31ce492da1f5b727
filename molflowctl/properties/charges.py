"""Partial charges: one number an atom, so a list in the molecule and two extremes as properties.

`attach_partial_charges(mol)` stores them the way RDKit and SDF files know lists of atoms: the tag
`atom.dprop.xtb_charge_e`, which a reader turns back into the property `xtb_charge_e` of each atom.
"""

import textwrap
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem
from rdkit.Chem import Mol

from molflowctl.properties.energies.xtb import single_point
from molflowctl.properties.registry import PropertyError, register

__all__ = ["CHARGE", "CHARGE_TAG", "attach_partial_charges", "charge_text", "partial_charges"]

CHARGE = "xtb_charge_e"
CHARGE_TAG = f"atom.dprop.{CHARGE}"


def partial_charges(
    mol: Mol, method: str = "GFN2-xTB", backend: str = "tblite"
) -> NDArray[np.float64]:
    """Charges of the atoms in elementary charges, (atoms,); Mulliken in GFN2-xTB, CM5 in GFN1-xTB.

    They sum to the molecule's charge; arguments as for `single_point`.

    Raises:
        PropertyError: the molecule cannot be computed; the message is the reason.
    """
    point = single_point(mol, method, backend)
    if point.error is not None:
        raise PropertyError(point.error)
    return point.charges_e.copy()


def charge_text(charges: NDArray[np.float64]) -> str:
    """The list as the tag `CHARGE_TAG` holds it: in the order of the atoms, a line under 200."""
    return "\n".join(textwrap.wrap(" ".join(f"{charge:.5f}" for charge in charges), 190))


def attach_partial_charges(mol: Mol, method: str = "GFN2-xTB", backend: str = "tblite") -> Mol:
    """A copy with `xtb_charge_e` on each atom and the list in the tag `atom.dprop.xtb_charge_e`.

    Raises:
        PropertyError: as `partial_charges`.
    """
    charged = Mol(mol)
    for atom, charge in zip(charged.GetAtoms(), partial_charges(mol, method, backend), strict=True):
        atom.SetDoubleProp(CHARGE, float(charge))
    Chem.CreateAtomDoublePropertyList(charged, CHARGE)
    return charged


@dataclass(frozen=True)
class _Extreme:
    """The charge of the most negative or the most positive atom."""

    end: Literal["min", "max"]

    def __call__(self, mol: Mol) -> float:
        charges = partial_charges(mol)
        return float(charges.min() if self.end == "min" else charges.max())


_ENDS: dict[Literal["min", "max"], str] = {"min": "most negative", "max": "most positive"}
for end, words in _ENDS.items():
    register(
        f"xtb_{end}_charge_e",
        unit="e",
        version=1,
        engine="xtb",
        description=f"partial charge of the {words} atom, GFN2-xTB",
    )(_Extreme(end))
