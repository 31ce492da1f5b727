"""Conformers that keep a core where it stands in a reference, `--pose REFERENCE --core SMARTS`.

ETKDGv3 places the rest of the molecule around the core's distances; the core is superposed on the
reference, put there exactly, and held while MMFF94 relaxes the rest. Where the core fits in several
ways, a phenyl turned over, each way gets its share of the conformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom, rdFMCS
from rdkit.Geometry import Point3D

from molflowctl.chem.ensemble import force_field
from molflowctl.chem.geometry import add_conformer, rotation
from molflowctl.chem.graphs import EXACT
from molflowctl.chem.stereo import stereo_kept
from molflowctl.errors import UserError
from molflowctl.io.library import read_molecules
from molflowctl.tasks.conformers.drawing import Drawn

__all__ = ["Placing", "Pose", "draw_posed", "relax_posed"]

LEAST = 3  # atoms of a core
MOST_WAYS = 24  # in which a core is placed
SECONDS = 10  # to look for the largest common part
_NEAR = 1e-3  # angstrom


@dataclass(frozen=True)
class Placing:
    """Where atoms of a molecule are to stand.

    Attributes:
        ways: `(w, k)` atoms of the molecule, for each way in which the core fits.
        positions: `(k, 3)` of the reference, angstrom.
    """

    ways: np.ndarray
    positions: np.ndarray

    def held(self, positions: np.ndarray) -> list[int]:
        """The atoms of the way in which a conformer, `(N, 3)`, was placed."""
        gaps = np.abs(positions[self.ways] - self.positions).max((1, 2))
        way = int(gaps.argmin())
        if gaps[way] > _NEAR:
            raise ValueError("a conformer that was not placed on the core")
        return [int(atom) for atom in self.ways[way]]


@dataclass(frozen=True)
class Pose:
    """A molecule in its pose, and which part of it is kept.

    Attributes:
        path: of the file it was read from; mol: it, heavy atoms alone, one conformer.
        core: the part, as SMARTS; None for the largest that a molecule has in common with it.
    """

    path: str
    mol: Chem.Mol
    core: Chem.Mol | None = field(default=None)

    @classmethod
    def read(cls, path: str, core: str | None) -> Pose:
        """A pose of an SDF file of one record.

        Raises:
            UserError: for a file without one pose, or a core that is none or is not in it once.
        """
        records = list(read_molecules(path))
        if len(records) != 1:
            raise UserError(f"{path} holds {len(records)} records: a pose is a file of one.")
        record = records[0]
        if record.mol is None:
            raise UserError(f"the pose in {path} cannot be read: {record.error}.")
        if not record.mol.GetNumConformers() or not record.mol.GetConformer().Is3D():
            raise UserError(f"{path} has no 3-D coordinates: a pose is an SDF file with them.")
        mol = Chem.RemoveAllHs(record.mol)
        if core is None:
            return cls(path, mol)
        with rdBase.BlockLogs():
            query = Chem.MolFromSmarts(core)
        if query is None or query.GetNumAtoms() == 0:
            raise UserError(f"--core {core!r} is no SMARTS.")
        if query.GetNumAtoms() < LEAST:
            raise UserError(f"--core {core!r} has fewer than {LEAST} atoms: give a larger one.")
        found = mol.GetSubstructMatches(query)
        if not found:
            raise UserError(f"--core {core!r} is not in the molecule of {path}.")
        if len(found) > 1:
            raise UserError(
                f"--core {core!r} is {len(found)} times in the molecule of {path}: give a larger "
                "one, that is there once."
            )
        return cls(path, mol, query)

    def on(self, mol: Chem.Mol) -> Placing | str:
        """Where the atoms of a molecule, with or without hydrogens, stand; or why they cannot."""
        query = self.core
        if query is None:
            found = rdFMCS.FindMCS(
                [self.mol, Chem.RemoveAllHs(mol)], timeout=SECONDS,
                ringMatchesRingOnly=True, completeRingsOnly=True,
            )  # fmt: skip
            query = Chem.MolFromSmarts(found.smartsString) if found.numAtoms >= LEAST else None
            if query is None:
                return f"it has no part of {LEAST} atoms in common with {self.path}"
        ways = mol.GetSubstructMatches(query, uniquify=False, maxMatches=MOST_WAYS)
        if not ways:
            return f"it does not have the core of {self.path}"
        atoms = list(self.mol.GetSubstructMatch(query))
        return Placing(np.array(ways), self.mol.GetConformer().GetPositions()[atoms])


def draw_posed(mol: Chem.Mol, placing: Placing, n: int, *, seed: int) -> Drawn:
    """`n` conformers with the core in its place, fewer where they break the stereo or none fits.

    Arguments:
        mol: with explicit hydrogens; its conformers are replaced.
    """
    mol.RemoveAllConformers()
    shape = Chem.Mol(mol)
    good: list[np.ndarray] = []
    first: list[bool] = []
    for k, way in enumerate(placing.ways.tolist()):
        count = n // len(placing.ways) + (k < n % len(placing.ways))
        settings = rdDistGeom.ETKDGv3()
        settings.randomSeed = 1 + (seed + 7919 * k) % (2**31 - 2)
        settings.useRandomCoords = True
        points = [Point3D(*map(float, x)) for x in placing.positions]
        settings.SetCoordMap(dict(zip(way, points, strict=True)))
        with rdBase.BlockLogs():
            rdDistGeom.EmbedMultipleConfs(shape, count, settings)
        first += [False] * (count - shape.GetNumConformers())
        for conformer in shape.GetConformers():
            positions = _superposed(conformer.GetPositions(), way, placing.positions)
            right = stereo_kept(mol, add_conformer(mol, positions))
            mol.RemoveAllConformers()
            first.append(right)
            if right:
                good.append(positions)
    for positions in good:
        add_conformer(mol, positions)
    return Drawn(mol.ToBinary(EXACT), n, n - len(good), tuple(first))


def relax_posed(mol: Chem.Mol, placing: Placing) -> tuple[Chem.Mol, np.ndarray, str, list[str]]:
    """The molecule relaxed around its core, energies in kcal/mol, by what, failures."""
    mol = Chem.Mol(mol)
    held: Sequence[list[int]] = [placing.held(c.GetPositions()) for c in mol.GetConformers()]
    energies, name, failures = force_field(mol, "all", held=held)
    return mol, energies, name, failures


def _superposed(positions: np.ndarray, way: Sequence[int], wanted: np.ndarray) -> np.ndarray:
    """A geometry moved onto the core, `(N, 3)`, whose atoms are then put where they are to be."""
    centre, place = positions[list(way)].mean(0), wanted.mean(0)
    turn = rotation(positions[list(way)] - centre, wanted - place)
    moved = (positions - centre) @ turn + place
    moved[list(way)] = wanted
    return moved
