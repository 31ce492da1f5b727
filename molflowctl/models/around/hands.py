"""The stereo of a core: which hand its centres have, and which side its double bonds.

A network that sees distances alone draws either hand. What is delivered has the core's: a molecule
in which all centres came out as mirror images is mirrored, and another one fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom

from molflowctl.chem.graphs import Graph3D
from molflowctl.errors import UserError

__all__ = ["REST", "Hands", "hands_of", "open_atoms", "stereo_said"]

REST = -1  # stands for the atom of the rest that is bonded to an atom of the core
_FLAT = 0.1  # of a unit volume, below which a centre has no hand
_TAGS = (Chem.ChiralType.CHI_TETRAHEDRAL_CW, Chem.ChiralType.CHI_TETRAHEDRAL_CCW)
_SIDES = (Chem.BondStereo.STEREOZ, Chem.BondStereo.STEREOE,
          Chem.BondStereo.STEREOCIS, Chem.BondStereo.STEREOTRANS)  # fmt: skip
Row = tuple[int, int, int, int, int]


@dataclass(frozen=True)
class Hands:
    """Stereo of a core, atoms as it numbers them, `REST` for a neighbour that is drawn.

    Attributes:
        centres: `(centre, a, b, c, sign)`, the sign of the volume that a, b, c span at the centre.
        doubles: `(a, begin, end, d, sign)`, +1 where a and d are on one side of the double bond.
    """

    centres: tuple[Row, ...] = ()
    doubles: tuple[Row, ...] = ()

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> Hands:
        """Of what JSON held.

        Raises:
            ValueError: for anything else.
        """
        rows = {name: [tuple(map(int, row)) for row in values[name]] for name in values}
        if set(rows) != {"centres", "doubles"} or any(
            len(r) != 5 for k in rows.values() for r in k
        ):
            raise ValueError("no stereo of a core: its fields are others")
        return cls(tuple(rows["centres"]), tuple(rows["doubles"]))  # type: ignore[arg-type]

    @classmethod
    def joined(cls, parts: Sequence[Hands], starts: Sequence[int]) -> Hands:
        """Of fragments whose first atoms have the numbers `starts`."""

        def moved(row: Row, start: int) -> Row:
            a, b, c, d = (atom if atom == REST else atom + start for atom in row[:4])
            return a, b, c, d, row[4]

        pairs = list(zip(parts, starts, strict=False))
        return cls(
            tuple(moved(row, start) for part, start in pairs for row in part.centres),
            tuple(moved(row, start) for part, start in pairs for row in part.doubles),
        )

    def signs(self, graph: Graph3D, k: int) -> tuple[list[int], list[int]]:
        """Of centres and double bonds: +1 as asked for, -1 the other one, 0 for neither.

        What has no or several drawn neighbours, where one was told by, is as asked for.

        Arguments:
            graph: a molecule whose first `k` atoms are the core's.
        """
        return (
            [_volume(graph, row, k) for row in self.centres],
            [_side(graph, row, k) for row in self.doubles],
        )

    def flaw(self, graph: Graph3D, k: int) -> str:
        """Which centre or double bond is not as asked for; empty if all are."""
        centres, doubles = self.signs(graph, k)
        for row, sign in zip(self.centres, centres, strict=True):
            if sign < 1:
                return f"centre {row[0]} of the core, counted from 0, has not its hand"
        for row, sign in zip(self.doubles, doubles, strict=True):
            if sign < 1:
                return f"the double bond {row[1]}-{row[2]} of the core is not on its side"
        return ""


def hands_of(mol: Chem.Mol, place: list[int]) -> Hands:
    """The stereo of a molecule by its coordinates, at the atoms of a core.

    Arguments:
        mol: sanitised, with a conformer of all atoms.
        place: of each atom, its number in the core, or `REST`.
    """
    mol = Chem.Mol(mol)
    with rdBase.BlockLogs():
        Chem.AssignStereochemistryFrom3D(mol, replaceExistingTags=True)
    x = mol.GetConformer().GetPositions()
    centres = []
    for atom in mol.GetAtoms():
        centre = place[atom.GetIdx()]
        if atom.GetChiralTag() not in _TAGS or centre == REST:
            continue
        # Those of the core first; of two that are drawn neither is told from the other.
        around = sorted(atom.GetNeighbors(), key=lambda n: (place[n.GetIdx()] == REST, n.GetIdx()))
        told = [n.GetIdx() for n in around if n.GetAtomicNum() > 1][:3]
        named = [place[i] for i in told]
        if len(told) == 3 and named.count(REST) < 2:
            sign = _sign_of_volume(x[told] - x[atom.GetIdx()])
            if sign:
                centres.append((centre, *named, sign))
            if sign and REST not in named:
                # What is drawn is on the other side of two of them than the third: a rest that is
                # the mirror image of what fits would otherwise be bonded from below.
                centres.append((centre, *named[:2], REST, -sign))
    doubles = []
    for bond in mol.GetBonds():
        if bond.GetStereo() not in _SIDES:
            continue
        a, d = bond.GetStereoAtoms()
        four = [a, bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), d]
        named = [place[i] for i in four]
        if REST not in named[1:3] and min(mol.GetAtomWithIdx(i).GetAtomicNum() for i in four) > 1:
            doubles.append((*named, _sign_of_side(x[four])))
    return Hands(tuple(centres), tuple(doubles))  # type: ignore[arg-type]


def stereo_said(mol: Chem.Mol, posed: bool, name: str) -> tuple[Hands, set[int]]:
    """The stereo that a core says, and the atoms at which it leaves it open, as the core counts.

    Dummies are iodine meanwhile, so that they are substituents like others.

    Arguments:
        mol: sanitised, with its dummies.
        posed: whether its geometry says the stereo.
        name: for messages.

    Raises:
        UserError: if RDKit finds no geometry of this stereo.
    """
    whole = Chem.RWMol(mol)
    place, heavy = [], 0
    for atom in whole.GetAtoms():
        if atom.GetAtomicNum() == 0:
            atom.SetAtomicNum(53)
            atom.SetIsotope(0)
            place.append(REST)
        else:
            place.append(heavy if atom.GetAtomicNum() > 1 else REST)
            heavy += atom.GetAtomicNum() > 1
        atom.SetAtomMapNum(0)
    with rdBase.BlockLogs():
        Chem.SanitizeMol(whole)
        if posed:
            return hands_of(whole, place), set()
        Chem.AssignStereochemistry(whole, cleanIt=True, force=True)
        left_open = {place[a] for a in open_atoms(whole)} - {REST}
        said = [a for a in whole.GetAtoms() if a.GetChiralTag() != Chem.ChiralType.CHI_UNSPECIFIED]
        if not said and all(b.GetStereo() <= Chem.BondStereo.STEREOANY for b in whole.GetBonds()):
            return Hands(), left_open
        full = Chem.AddHs(whole)
        parameters = rdDistGeom.ETKDGv3()
        parameters.randomSeed = 1
        if rdDistGeom.EmbedMolecule(full, parameters) != 0:
            raise UserError(f"RDKit finds no geometry of {name} with the stereo that it says.")
    return hands_of(full, [*place, *[REST] * (full.GetNumAtoms() - len(place))]), left_open


def open_atoms(mol: Chem.Mol) -> set[int]:
    """Atoms whose stereo is left open: centres, and both ends of double bonds."""
    found: set[int] = set()
    with rdBase.BlockLogs():
        possible = Chem.FindPotentialStereo(Chem.Mol(mol))
    for info in possible:
        if info.specified != Chem.StereoSpecified.Unspecified:
            continue
        if info.type == Chem.StereoType.Atom_Tetrahedral:
            found.add(info.centeredOn)
        elif info.type == Chem.StereoType.Bond_Double:
            bond = mol.GetBondWithIdx(info.centeredOn)
            found |= {bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()}
    return found


def _sign_of_volume(sides: np.ndarray) -> int:
    """Of the volume that three vectors, `(3,3)`, span; 0 for flat ones."""
    unit = sides / np.maximum(np.linalg.norm(sides, axis=1, keepdims=True), 1e-9)
    volume = float(np.linalg.det(unit))
    return int(np.sign(volume)) if abs(volume) > _FLAT else 0


def _sign_of_side(x: np.ndarray) -> int:
    """+1 where the first and last of four points, `(4,3)`, are on one side of the inner two."""
    axis = x[2] - x[1]
    axis = axis / max(float(np.linalg.norm(axis)), 1e-9)
    first, last = (side - (side @ axis) * axis for side in (x[0] - x[1], x[3] - x[2]))
    return 1 if float(first @ last) > 0 else -1


def _resolved(graph: Graph3D, atoms: tuple[int, ...], at: tuple[int, ...], k: int) -> list[int]:
    """The atoms, `REST` replaced by the one drawn neighbour of the atom in `at`; [] if not one."""
    found = []
    for atom, owner in zip(atoms, at, strict=True):
        if atom != REST:
            found.append(atom)
            continue
        drawn = k + np.flatnonzero(graph.bonds[owner, k:])
        if len(drawn) != 1:
            return []
        found.append(int(drawn[0]))
    return found


def _volume(graph: Graph3D, row: Row, k: int) -> int:
    centre, *others, sign = row
    told = _resolved(graph, tuple(others), (centre,) * 3, k)
    if not told:
        return 1
    return sign * _sign_of_volume(graph.positions[told] - graph.positions[centre])


def _side(graph: Graph3D, row: Row, k: int) -> int:
    a, begin, end, d, sign = row
    told = _resolved(graph, (a, d), (begin, end), k)
    if not told:
        return 1
    return sign * _sign_of_side(graph.positions[[told[0], begin, end, told[1]]])
