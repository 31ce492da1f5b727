"""A property of what a molecule has beside a core: `new_part("[*:1]c1ccccc1", "logp")`.

The atoms of the core are taken away, and hydrogens come where they were bonded; several pieces are
one molecule of several fragments. Where the core says its attachment points, `[*:1]`, it is found
only where its other atoms are bonded to nothing else. Of a molecule that has it at several places
the value is the mean over them, so that it does not depend on the order of the atoms.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import Mol

from molflowctl.errors import UserError
from molflowctl.properties.functions import BadArgument
from molflowctl.properties.likeness.references import digest, references
from molflowctl.properties.registry import Property, PropertyError, get, register_function

__all__ = ["NewPart"]

_MOST = 1000  # places where a core is looked for


@dataclass(frozen=True)
class NewPart:
    """A property of the rest of a molecule, the mean over the places where its core is.

    Arguments:
        core: SMILES, perhaps with attachment points.
        item: the property, of one value and of the graph alone.
    """

    core: str
    item: Property

    def __call__(self, mol: Mol) -> float:
        """The value.

        Raises:
            PropertyError: the molecule has no such core, or nothing else; and as the property.
        """
        with rdBase.BlockLogs():
            plain = Chem.RemoveHs(mol)
            rests = [rest_of(plain, place) for place in self.places(plain)]
        if not rests:
            raise PropertyError("the core is not in it")
        (column,) = self.item.columns
        return float(np.mean([self.item(rest)[column] for rest in rests]))

    def places(self, plain: Mol) -> list[frozenset[int]]:
        """Where a molecule of heavy atoms has the core, each set of atoms once."""
        # Not each set once at first: a ring of the core can lie in six ways on one of the molecule.
        found = plain.GetSubstructMatches(self._query[0], uniquify=False, maxMatches=_MOST)
        return sorted(
            {frozenset(p) for p in found if self._bonded_where_it_may(plain, p)}, key=sorted
        )

    def _bonded_where_it_may(self, plain: Mol, place: tuple[int, ...]) -> bool:
        points = self._query[1]
        if not points:
            return True
        inside = set(place)
        return all(
            sum(n.GetIdx() not in inside for n in plain.GetAtomWithIdx(atom).GetNeighbors())
            <= points[row]
            for row, atom in enumerate(place)
        )

    @cached_property
    def _query(self) -> tuple[Mol, Counter[int]]:
        """The core without its dummies, and how many each atom had."""
        bare, points = Chem.RWMol(Chem.MolFromSmiles(self.core)), Counter[int]()
        dummies = [atom.GetIdx() for atom in bare.GetAtoms() if atom.GetAtomicNum() == 0]
        kept = [i for i in range(bare.GetNumAtoms()) if i not in dummies]
        for dummy in dummies:
            for neighbour in bare.GetAtomWithIdx(dummy).GetNeighbors():
                if neighbour.GetIdx() in kept:
                    points[kept.index(neighbour.GetIdx())] += 1
        for dummy in reversed(dummies):
            bare.RemoveAtom(dummy)
        return bare.GetMol(), points


def rest_of(plain: Mol, gone: frozenset[int]) -> Mol:
    """A molecule without some of its heavy atoms; hydrogens come where these were bonded.

    Arguments:
        plain: sanitised, of heavy atoms.

    Raises:
        PropertyError: if no atom is left.
    """
    if len(gone) == plain.GetNumAtoms():
        raise PropertyError("there is nothing but the core")
    rest = Chem.RWMol(plain)
    Chem.Kekulize(rest, clearAromaticFlags=True)
    cut = [
        (bond.GetEndAtom() if bond.GetBeginAtomIdx() in gone else bond.GetBeginAtom(), bond)
        for bond in rest.GetBonds()
        if (bond.GetBeginAtomIdx() in gone) != (bond.GetEndAtomIdx() in gone)
    ]
    for atom, bond in cut:
        if atom.GetNoImplicit() or atom.GetNumExplicitHs():
            atom.SetNumExplicitHs(atom.GetNumExplicitHs() + int(bond.GetBondTypeAsDouble()))
        atom.SetChiralTag(Chem.ChiralType.CHI_UNSPECIFIED)
    for atom in sorted(gone, reverse=True):
        rest.RemoveAtom(atom)
    whole = rest.GetMol()
    Chem.SanitizeMol(whole)
    return whole


@register_function(
    "new_part",
    description="a property of what a molecule has beside a core, hydrogens where it was bonded",
    unit="that of the property",
    arguments={
        "core": "a SMILES, in which [*:1] says where the rest is bonded, or a file with one "
        "molecule",
        "property": "of the graph alone, such as logp",
    },
    example='new_part("c1ccccc1", "logp")',
)
def _new_part(core: str, property: str) -> Property:
    try:
        item = get(property)
    except UserError as error:
        raise BadArgument(property, str(error)) from None
    if item.geometry or len(item.columns) > 1:
        why = "has several values" if len(item.columns) > 1 else "is of a geometry"
        raise BadArgument(property, f"{property} {why}: take one of the graph, such as logp")
    mols = references([core])
    if len(mols) != 1:
        raise BadArgument(core, f"{core} holds {len(mols)} molecules: a core is one")
    smiles = Chem.MolToSmiles(Chem.RemoveHs(mols[0]))
    if all(atom.GetAtomicNum() == 0 for atom in mols[0].GetAtoms()):
        raise BadArgument(core, f"{core} has no atom but attachment points")
    return Property(
        name="new_part",
        unit=item.unit,
        version=digest([smiles, item.name, str(item.version)]),
        description=f"{item.name} of what is beside the core",
        compute=NewPart(smiles, item),
        higher_is=item.higher_is,
        engine=item.engine,
        geometry=False,
        bounds=item.bounds,
    )
