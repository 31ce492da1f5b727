"""Rings of a molecule: their sizes, and whether known molecules have such ring systems.

A ring system is what rings form that share atoms: fused, bridged or spiro. It is told by its atoms
and the bonds between them, without substituents, charges, hydrogens or stereo.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

from rdkit import Chem, rdBase
from rdkit.Chem import Mol

from molflowctl.chem.identity import unlabelled
from molflowctl.properties.likeness.references import digest, references
from molflowctl.properties.registry import Property, register, register_function

__all__ = [
    "KNOWN_SYSTEMS",
    "NewSystems",
    "four_membered_rings",
    "known_systems",
    "largest_ring",
    "ring_systems",
    "unseen_ring_systems",
]

KNOWN_SYSTEMS = "druglike_ring_systems.txt.gz"


def ring_systems(mol: Mol) -> list[str]:
    """SMILES of each ring system; those that differ in substituents, charge or [nH] alone agree."""
    with rdBase.BlockLogs():
        bare = Chem.RemoveAllHs(unlabelled(mol), sanitize=False)
    Chem.FastFindRings(bare)
    systems: list[set[int]] = []
    for ring in bare.GetRingInfo().AtomRings():
        atoms = set(ring)
        for system in [s for s in systems if s & atoms]:
            systems.remove(system)
            atoms |= system
        systems.append(atoms)
    if not systems:
        return []
    for atom in bare.GetAtoms():
        atom.SetNoImplicit(False)
        atom.SetNumExplicitHs(0)
        atom.SetFormalCharge(0)
        atom.SetIsotope(0)
        atom.SetAtomMapNum(0)
        atom.SetChiralTag(Chem.ChiralType.CHI_UNSPECIFIED)
    named = []
    for atoms in systems:
        inner = [
            bond.GetIdx()
            for bond in bare.GetBonds()
            if bond.IsInRing() and bond.GetBeginAtomIdx() in atoms
        ]
        named.append(Chem.MolFragmentToSmiles(bare, list(atoms), inner, isomericSmiles=False))
    return sorted(named)


@cache
def known_systems() -> frozenset[str]:
    """The ring systems of MOSES' training molecules, as this RDKit writes them."""
    asset = resources.files("molflowctl") / "assets" / KNOWN_SYSTEMS
    version, *systems = gzip.decompress(asset.read_bytes()).decode().splitlines()
    if version != rdBase.rdkitVersion:  # which may write the same system in another way
        with rdBase.BlockLogs():
            systems = [Chem.MolToSmiles(Chem.MolFromSmiles(s, sanitize=False)) for s in systems]
    return frozenset(systems)


def largest_ring(mol: Mol) -> float:
    """Atoms of the largest ring of the smallest set of rings."""
    return max(map(len, mol.GetRingInfo().AtomRings()), default=0)


def four_membered_rings(mol: Mol) -> float:
    """How many rings have four atoms."""
    return sum(len(ring) == 4 for ring in mol.GetRingInfo().AtomRings())


def unseen_ring_systems(mol: Mol) -> float:
    """How many ring systems are not among `known_systems`."""
    return sum(system not in known_systems() for system in ring_systems(mol))


_TABLE: tuple[tuple[Callable[[Mol], float], Literal["worse"] | None, str], ...] = (
    (largest_ring, None,
        "atoms of the largest ring (of the smallest set of rings); 0 without rings"),
    (four_membered_rings, None, "number of rings of four atoms"),
    (unseen_ring_systems, "worse",
        "number of ring systems that no molecule of MOSES' training set has"),
)  # fmt: skip
for compute, higher_is, description in _TABLE:
    register(
        compute.__name__, unit="", version=1, geometry=False, higher_is=higher_is,
        description=description,
    )(compute)  # fmt: skip


@dataclass(frozen=True)
class NewSystems:
    """The number of a molecule's ring systems that none of the known molecules has."""

    known: frozenset[str]

    def __call__(self, mol: Mol) -> float:
        return sum(system not in self.known for system in ring_systems(mol))


def _systems_of(mols: Iterable[Mol]) -> frozenset[str]:
    return frozenset(system for mol in mols for system in ring_systems(mol))


@register_function(
    "new_ring_systems",
    description="number of ring systems that no molecule of a reference has",
    arguments={"reference": "a library of known molecules, or SMILES"},
    example='new_ring_systems("c1ccc2ccccc2c1", "c1ccccc1")',
)
def _new_ring_systems(*reference: str) -> Property:
    known = _systems_of(references(reference))
    return Property(
        name="new_ring_systems",
        unit="",
        version=digest(sorted(known)),
        description="number of ring systems that no molecule of the reference has",
        compute=NewSystems(known),
        higher_is="worse",
        engine="reference",
        geometry=False,
        bounds=(0.0, math.inf),
    )
