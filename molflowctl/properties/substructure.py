"""How often a molecule has a substructure, for any SMARTS: the property `smarts("PATTERN")`.

`smarts:PATTERN` is the same where names of properties are listed.

References:
    Daylight Theory Manual, chapter 4, SMARTS: daylight.com/dayhtml/doc/theory/theory.smarts.html.
"""

import math
from dataclasses import dataclass
from functools import cache

from rdkit import Chem, rdBase
from rdkit.Chem import Mol

from molflowctl.errors import UserError
from molflowctl.io.plain_files import quoted
from molflowctl.properties.registry import Property, register_function, register_maker

__all__ = ["PREFIX", "Matches", "elements", "read_smarts", "smarts_property"]

PREFIX = "smarts:"


@dataclass(frozen=True)
class Matches:
    """The number of matches of a SMARTS pattern that differ in an atom."""

    pattern: str

    def __call__(self, mol: Mol) -> float:
        with rdBase.BlockLogs():
            plain = Chem.RemoveHs(mol)  # patterns are written for implicit hydrogens
        return len(plain.GetSubstructMatches(read_smarts(self.pattern)))


@cache
def read_smarts(pattern: str) -> Mol:
    """The pattern as RDKit's query.

    Raises:
        UserError: if it cannot be read, or is empty.
    """
    with rdBase.BlockLogs():
        query = Chem.MolFromSmarts(pattern) if pattern else None
    if query is None:
        raise UserError(f"{quoted(pattern)} is no SMARTS pattern.")
    return query


def elements(pattern: str) -> set[int]:
    """Atomic numbers that every match has an atom of; of `[F,Br]` or `[$(CBr)]` none is told.

    Raises:
        UserError: if the pattern cannot be read.
    """
    return {atom.GetAtomicNum() for atom in read_smarts(pattern).GetAtoms()} - {0}


@register_maker(PREFIX)
def smarts_property(pattern: str) -> Property:
    """The property `smarts:PATTERN`.

    Raises:
        UserError: if the pattern cannot be read, or has a sign that no SDF tag can hold.
    """
    return _counted(PREFIX + pattern, pattern)


@register_function(
    "smarts",
    description="number of matches of a SMARTS pattern that differ in an atom",
    arguments={"pattern": "a SMARTS pattern"},
    example='smarts("[#7]S(=O)=O")',
)
def _smarts(pattern: str) -> Property:
    return _counted(PREFIX + pattern, pattern)


def _counted(name: str, pattern: str) -> Property:
    if set(pattern) & set("<>\n\r"):
        raise UserError(f"{quoted(pattern)}: a pattern of one molecule has no < or >.")
    read_smarts(pattern)
    return Property(
        name=name,
        unit="",
        version=1,
        description=f"number of substructures {pattern}",
        compute=Matches(pattern),
        geometry=False,
        aliases=(PREFIX + pattern,),
        bounds=(0.0, math.inf),
    )
