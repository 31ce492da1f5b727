"""The core that a molecule is designed around: a scaffold, or fragments that are to be linked.

A core is read off an RDKit molecule, of SDF or SMILES. Where it may bond to the rest say its dummy
atoms (`[*:1]`), a list of atoms, or else its hydrogens: each one stands where a bond may be. Atoms
are counted from 0, without hydrogens and dummies; they are the first of every molecule.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Self

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from molflowctl.chem.geometry import COVALENT_RADII
from molflowctl.chem.graphs import Graph3D
from molflowctl.errors import UserError
from molflowctl.models.around.hands import REST, Hands, hands_of, stereo_said

__all__ = ["Core", "Geometry", "embedded", "has_pose"]

Geometry = Literal["keep", "free"]
LARGEST = 500  # atoms
LONGEST = 5000  # letters of a SMILES
_ORDERS = {Chem.BondType.SINGLE: 1, Chem.BondType.DOUBLE: 2, Chem.BondType.TRIPLE: 3}
# Not a bond and not in a terminal group either: what turns.
_TURNS = "[!$([D1]);!$([*]#*)]-;!@[!$([D1]);!$([*]#*)]"


@dataclass(frozen=True)
class Core:
    """Known atoms, the first `k` of every molecule.

    Attributes:
        numbers: `(k,)` atomic numbers; charges: `(k,)` formal charges.
        bonds: `(first atom, second atom, order)`, kekulised.
        room: `(k,)` the largest order of a bond to the rest, 0 where there may be none.
        stated: `(k,)` how many bonds to the rest there are to be; 0 where that is not said.
        positions: `(k, 3)` angstrom, or None.
        bodies: `(k,)` number of the rigid body of an atom, from 1; 0 where its place is free.
        pose: whether molecules are delivered where `positions` are.
        hands: the stereo that every molecule is to have.
    """

    numbers: tuple[int, ...]
    charges: tuple[int, ...]
    bonds: tuple[tuple[int, int, int], ...]
    room: tuple[int, ...]
    stated: tuple[int, ...]
    positions: tuple[tuple[float, float, float], ...] | None
    bodies: tuple[int, ...]
    pose: bool = False
    hands: Hands = field(default_factory=Hands)

    def __post_init__(self) -> None:
        k = len(self)
        lists = (self.charges, self.room, self.stated, self.bodies, self.positions or self.numbers)
        if any(len(part) != k for part in lists) or not 1 <= k <= LARGEST:
            raise ValueError("a core whose atoms, charges, places and bonds do not fit together")
        if any(not 0 <= i < j < k or order not in (1, 2, 3) for i, j, order in self.bonds):
            raise ValueError("a core with a bond to no atom, or of no order")

    def __len__(self) -> int:
        return len(self.numbers)

    def flaw(self, graph: Graph3D) -> str:
        """Why the stereo of a molecule's core is not the core's; empty if it is."""
        return self.hands.flaw(graph, len(self))

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> Self:
        """The core of what `plain` gave.

        Raises:
            ValueError: for anything else.
        """
        values = {"hands": asdict(Hands()), **values}  # which earlier cores did not say
        if set(values) != {f.name for f in fields(cls)}:
            raise ValueError("no core: its fields are others")
        places = values["positions"]
        return cls(
            **{name: tuple(map(int, values[name])) for name in ("numbers", "charges", "room")},
            **{name: tuple(map(int, values[name])) for name in ("stated", "bodies")},
            bonds=tuple((int(i), int(j), int(o)) for i, j, o in values["bonds"]),
            positions=places and tuple((float(x), float(y), float(z)) for x, y, z in places),
            pose=bool(values["pose"]),
            hands=Hands.from_plain(values["hands"]),
        )

    @classmethod
    def from_smiles(
        cls, smiles: str, attach: Collection[int] | None = None, geometry: Geometry = "keep"
    ) -> Self:
        """The core of a SMILES; see `from_mol`.

        Raises:
            UserError: for text that is no SMILES, and as `from_mol`.
        """
        if not smiles.strip():
            raise UserError("an empty text is no core: give a SMILES, or an SDF file.")
        if len(smiles) > LONGEST:
            raise UserError(f"a SMILES of {len(smiles):,} letters is no core: {LONGEST:,} at most.")
        with rdBase.BlockLogs():
            mol = Chem.MolFromSmiles(smiles, sanitize=False)
            if mol is None:
                raise UserError(f"{smiles!r} is no SMILES that RDKit can read.")
            problems = Chem.DetectChemistryProblems(mol)
            if problems:
                raise UserError(f"{smiles!r} is no molecule: {problems[0].Message()}.")
            Chem.SanitizeMol(mol)
        return cls.from_mol(mol, attach, geometry, name=smiles)

    @classmethod
    def from_mol(
        cls,
        mol: Chem.Mol,
        attach: Collection[int] | None = None,
        geometry: Geometry = "keep",
        *,
        name: str = "the core",
    ) -> Self:
        """The core of a sanitised molecule.

        Its three-dimensional conformer is a pose, in which all of it is one rigid body. Without
        one, or as a drawing, it gets a conformer (ETKDGv3 and MMFF94) whose parts between rotatable
        bonds are rigid.

        Arguments:
            attach: atoms that may bond to the rest, numbered as the core numbers them; None for the
                neighbours of dummies, or without dummies for all that have a hydrogen.
            geometry: "free" lets every atom find its place.
            name: for messages.

        Raises:
            UserError: for what cannot be a core; one line that says why.
        """
        posed = has_pose(mol)
        plain, dummies = _without_dummies(mol, name)
        k = plain.GetNumAtoms()
        free = [a.GetTotalNumHs() for a in plain.GetAtoms()]
        room, stated = _places(free, dummies, attach, name)
        if len(Chem.GetMolFrags(plain)) > 1 and not posed:
            raise UserError(
                f"{name} has several fragments and no geometry: give them at their poses, in SDF."
            )
        hands, left_open = stereo_said(mol, posed, name)
        bodies, positions = (0,) * k, None
        if geometry == "keep" or len(Chem.GetMolFrags(plain)) > 1:
            conformer = plain.GetConformer() if posed else embedded(plain, name)
            positions = tuple(
                (float(x), float(y), float(z)) for x, y, z in conformer.GetPositions()
            )
            bodies = (1,) * k if posed else _rigid(plain, hands, left_open)
        if geometry == "free":
            bodies, positions = (0,) * k, None
        Chem.Kekulize(plain, clearAromaticFlags=True)
        bonds = []
        for bond in plain.GetBonds():
            order = _order(bond, name)
            i, j = sorted((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()))
            bonds.append((i, j, order))
        core = cls(
            tuple(atom.GetAtomicNum() for atom in plain.GetAtoms()),
            tuple(atom.GetFormalCharge() for atom in plain.GetAtoms()),
            tuple(sorted(bonds)), room, stated, positions, bodies, posed and geometry == "keep",
            hands,
        )  # fmt: skip
        core.check_apart(name)
        return core

    @classmethod
    def part_of(cls, mol: Chem.Mol, atoms: Sequence[int], *, exact: bool) -> Self:
        """Atoms of a molecule, in this order, at their pose; the rest of it is to be drawn.

        Arguments:
            mol: sanitised, of heavy atoms alone, with a conformer.
            exact: bonds to the rest are to be where and as many as they are; otherwise also where
                a hydrogen is.

        Raises:
            UserError: if no bond of them leads to the rest.
        """
        plain = Chem.Mol(mol)
        hydrogens = [atom.GetTotalNumHs() for atom in plain.GetAtoms()]
        Chem.Kekulize(plain, clearAromaticFlags=True)
        place = {atom: row for row, atom in enumerate(atoms)}
        cut, orders = [0] * len(atoms), [0] * len(atoms)
        bonds = []
        for bond in plain.GetBonds():
            ends, order = (bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()), _order(bond, "it")
            kept = sorted(place[end] for end in ends if end in place)
            if len(kept) == 2:
                bonds.append((kept[0], kept[1], order))
            elif kept:
                cut[kept[0]] += 1
                orders[kept[0]] += order
        spare = [0 if exact else hydrogens[atom] for atom in atoms]
        room = tuple(min(3, o + h) for o, h in zip(orders, spare, strict=True))
        if not any(room):
            raise UserError("no bond leads from what is kept to the rest.")
        own = [plain.GetAtomWithIdx(atom) for atom in atoms]
        places = plain.GetConformer().GetPositions()[list(atoms)]
        return cls(
            tuple(atom.GetAtomicNum() for atom in own),
            tuple(atom.GetFormalCharge() for atom in own),
            tuple(sorted(bonds)),
            room,
            tuple(cut) if exact else (0,) * len(atoms),
            tuple((float(x), float(y), float(z)) for x, y, z in places),
            (1,) * len(atoms),
            pose=True,
            hands=hands_of(mol, [place.get(a, REST) for a in range(mol.GetNumAtoms())]),
        )

    @classmethod
    def joined(cls, cores: Sequence[Self]) -> Self:
        """Fragments at their poses as one core, in one rigid body.

        Raises:
            UserError: if one has no pose, or two of them overlap.
        """
        if len(cores) == 1:
            return cores[0]
        for place, core in enumerate(cores, 1):
            if not core.pose:
                raise UserError(
                    f"fragment {place} of {len(cores)} has no pose: fragments that are to be "
                    f"linked are given where they are, in SDF with 3-D coordinates."
                )
        starts = np.cumsum([0, *map(len, cores)]).tolist()
        whole = cls(
            sum((c.numbers for c in cores), ()),
            sum((c.charges for c in cores), ()),
            tuple((i + s, j + s, o) for c, s in zip(cores, starts, strict=False)
                  for i, j, o in c.bonds),
            sum((c.room for c in cores), ()),
            sum((c.stated for c in cores), ()),
            sum((c.positions or () for c in cores), ()),
            (1,) * starts[-1],
            pose=True,
            hands=Hands.joined([c.hands for c in cores], starts),
        )  # fmt: skip
        whole.check_apart("the core")
        return whole

    def fragments(self) -> list[list[int]]:
        """Atoms that hang together."""
        owner = list(range(len(self)))

        def root(i: int) -> int:
            while owner[i] != i:
                i = owner[i]
            return i

        for i, j, _ in self.bonds:
            owner[root(i)] = root(j)
        found: dict[int, list[int]] = {}
        for i in range(len(self)):
            found.setdefault(root(i), []).append(i)
        return list(found.values())

    def with_room(self, sizes: dict[int, int], *, usual: bool) -> dict[int, int]:
        """Of numbers of atoms, with how often each is drawn, those with room beside the core.

        A larger molecule holds more parts of one size: a chain of `n` atoms has `n - k + 1` of `k`.
        So a number of atoms is drawn `n - k` times as often as without a core of `k` atoms. MOSES
        molecules with a given scaffold have sizes in these shares, within a fifth from two atoms
        beside it on; as often as without a core, two atoms beside it would come 2.5 times and one
        atom 14 times too often (benchmarks/denovo/core_sizes.py, of 250 scaffolds).

        Arguments:
            usual: if there are such, those with an atom for each place that is to be taken; where
                fragments are linked, one may take places of several.
        """
        places = sum(self.stated) - (len(self.fragments()) - 1)
        for rest in (max(1, places) if usual else 1, 1):
            found = {
                n: count * (n - len(self)) for n, count in sizes.items() if n >= len(self) + rest
            }
            if found:
                return found
        return {}

    def check_apart(self, name: str) -> None:
        """Check that atoms of different fragments are not as near as bonded ones.

        Raises:
            UserError: which names the nearest two.
        """
        if self.positions is None or len(pieces := self.fragments()) < 2:
            return
        x, radii = np.array(self.positions), COVALENT_RADII[np.array(self.numbers)]
        owner = np.zeros(len(self), int)
        for number, atoms in enumerate(pieces):
            owner[atoms] = number
        distance = np.linalg.norm(x[:, None] - x[None], axis=-1)
        near = (distance < radii[:, None] + radii[None] + 0.1) & (owner[:, None] != owner[None])
        if near.any():
            i, j = min(np.argwhere(np.triu(near)).tolist(), key=lambda p: distance[p[0], p[1]])
            raise UserError(
                f"{name} has overlapping fragments: atoms {i} and {j}, counted from 0, are "
                f"{distance[i, j]:.2f} angstrom apart."
            )

    def bond_matrix(self) -> np.ndarray:
        """`(k, k)` orders."""
        orders = np.zeros((len(self), len(self)), np.int64)
        for i, j, order in self.bonds:
            orders[i, j] = orders[j, i] = order
        return orders


def has_pose(mol: Chem.Mol) -> bool:
    """Whether a molecule has a conformer in three dimensions."""
    return mol.GetNumConformers() > 0 and mol.GetConformer().Is3D()


def _without_dummies(mol: Chem.Mol, name: str) -> tuple[Chem.Mol, list[int]]:
    """Heavy atoms alone, and how many dummies each had; hydrogens take the places of dummies."""
    bare = Chem.RWMol(mol)
    for atom in list(bare.GetAtoms()):
        if atom.GetAtomicNum() == 0:
            if atom.GetDegree() != 1 or atom.GetBonds()[0].GetBondType() != Chem.BondType.SINGLE:
                raise UserError(f"an attachment point of {name} has one single bond, not others.")
            if atom.GetNeighbors()[0].GetAtomicNum() == 0:
                raise UserError(f"an attachment point of {name} is bonded to another one.")
            neighbour = atom.GetNeighbors()[0]
            neighbour.SetIntProp("dummies", 1 + _dummies(neighbour))
            for key in ("molAtomMapNumber", "dummyLabel", "_MolFileRLabel"):
                atom.ClearProp(key)
            atom.SetIsotope(0)
            atom.SetAtomicNum(1)
            atom.SetNoImplicit(True)
    with rdBase.BlockLogs():
        plain = Chem.Mol(bare)
        Chem.SanitizeMol(plain)
        plain = Chem.RemoveAllHs(plain)
    if not 1 <= plain.GetNumAtoms() <= LARGEST:
        raise UserError(
            f"{name} has {plain.GetNumAtoms()} heavy atoms: 1 to {LARGEST} can be kept."
        )
    for atom in plain.GetAtoms():
        if atom.GetNumRadicalElectrons():
            raise UserError(
                f"{name} has an open valence at atom {atom.GetIdx()}, counted from 0: say [*:1] "
                f"where it is to bond."
            )
    return plain, [_dummies(atom) for atom in plain.GetAtoms()]


def _order(bond: Chem.Bond, name: str) -> int:
    order = _ORDERS.get(bond.GetBondType())
    if order is None:
        raise UserError(f"{name} has a bond of type {bond.GetBondType()}, not 1, 2 or 3.")
    return order


def _dummies(atom: Chem.Atom) -> int:
    return atom.GetIntProp("dummies") if atom.HasProp("dummies") else 0


def _places(
    free: list[int], dummies: list[int], attach: Collection[int] | None, name: str
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """`room` and `stated`, of the hydrogens and dummies of every atom."""
    k = len(free)
    if attach is None and any(dummies):
        return tuple(min(1, d) for d in dummies), tuple(dummies)
    if attach is not None:
        if any(dummies):
            raise UserError(f"{name} has attachment points of its own: give no --attach.")
        for atom in attach:
            if not 0 <= atom < k:
                raise UserError(
                    f"--attach {atom}: {name} has the atoms 0 to {k - 1}, without hydrogens."
                )
            if not free[atom]:
                raise UserError(
                    f"--attach {atom}: this atom of {name} has no hydrogen that a bond could take "
                    f"the place of."
                )
    room = tuple(min(3, h) if attach is None or i in attach else 0 for i, h in enumerate(free))
    if not any(room):
        raise UserError(f"{name} has no place left to attach to: none of its atoms has a hydrogen.")
    return room, (0,) * k


def embedded(plain: Chem.Mol, name: str) -> Chem.Conformer:
    """A conformer of a molecule of heavy atoms, which it has from then on: ETKDGv3, then MMFF94.

    Raises:
        UserError: if RDKit finds none.
    """
    mol = Chem.AddHs(plain)
    parameters = rdDistGeom.ETKDGv3()
    parameters.randomSeed = 1
    with rdBase.BlockLogs():
        found = rdDistGeom.EmbedMolecule(mol, parameters)
        if found == 0 and rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol):
            rdForceFieldHelpers.MMFFOptimizeMolecule(mol, maxIters=500)
    if found != 0:
        raise UserError(
            f"{name} gets no conformer from RDKit: give one in SDF, or say --core-geometry free."
        )
    heavy = Chem.RemoveAllHs(mol)
    conformer = Chem.Conformer(heavy.GetConformer())
    plain.RemoveAllConformers()
    plain.AddConformer(conformer, assignId=True)
    return plain.GetConformer()


def _rigid(plain: Chem.Mol, hands: Hands, left_open: set[int]) -> tuple[int, ...]:
    """Numbers of the parts between rotatable bonds; 0 for lone atoms, which are no body.

    The neighbours of a centre whose hand is said belong to its part, which then has that hand. A
    part whose stereo is left open is none, since a geometry would decide it.
    """
    turning = plain.GetSubstructMatches(Chem.MolFromSmarts(_TURNS))
    cut = Chem.RWMol(plain)
    for i, j in turning:
        cut.RemoveBond(i, j)
    bodies = [0] * plain.GetNumAtoms()
    for number, atoms in enumerate(Chem.GetMolFrags(cut), 1):
        for atom in atoms:
            bodies[atom] = number
    centres = {row[0] for row in hands.centres}
    for centre in sorted(centres):
        for neighbour in plain.GetAtomWithIdx(centre).GetNeighbors():
            if neighbour.GetIdx() not in centres:
                bodies[neighbour.GetIdx()] = bodies[centre]
    free = {bodies[atom] for atom in left_open}
    sizes = Counter(bodies)
    return tuple(0 if sizes[body] < 2 or body in free else body for body in bodies)
