r"""The least RMSD of two conformers over all symmetries of the molecule, however many there are.

A mapping `s` takes each atom to one that the graph cannot tell from it. With centred positions `p`
and `q` and a unit quaternion `x` for the rotation (Horn, J. Opt. Soc. Am. A 4, 629 (1987)),

    N rmsd^2 = sum |p|^2 + |q|^2 - 2 max_x,s x^T K_s x,      K_s = sum_i K(p_i, q_s(i))

Up to 512 mappings are tried one by one. A tert-butyl group has six, and six such groups 46,656:
beyond 512 the graph is taken apart. Some atoms are given their images (each choice is a frame)
until what remains falls into blocks with no bond between them. A mapping is then one option of each
block, and `K = K_0 + sum_b K_b,s(b)`. For any choice `*` and weights `w` that sum to 1, with
`T = K_0 + sum_b K_b,*`,

    max_x,s x^T K x  <=  sum_b max_s lambda_max(w_b T + K_b,s - K_b,*)

since the terms of the right side add up to `K` for every `x`. It is an equality if `*` is best by a
margin. An option whose own bound is below what has been found is struck out; what is left open
after that is branched on. So the result is proven, to 1e-5 angstrom, or there is an error.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem

__all__ = ["Symmetry", "TooSymmetricError"]

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

_FEW = 512  # mappings that are tried one by one
_OPTIONS = (100, 2000)  # of a block: few are quick to search; more, where frames get too many
_FRAMES = 3000
_EXACT = 1e-5  # angstrom
_TERMINAL = Chem.MolFromSmarts("[O,N;D1;$([O,N;D1]-[*]=[O,N;D1]),$([O,N;D1]=[*]-[O,N;D1])]~[*]")


class TooSymmetricError(ValueError):
    """Two conformers that could not be compared in time."""


@dataclass(frozen=True)
class _Block:
    """Atoms whose images do not depend on those of others: `(b,)`, and the choices, `(n, b)`."""

    atoms: Indices
    options: Indices


@dataclass(frozen=True)
class _Frame:
    """Atoms with the images they have been given, and the blocks of all others."""

    atoms: Indices
    images: Indices
    blocks: list[_Block]


class Symmetry:
    """The mappings of the atoms of one molecule onto those of another, or of the same.

    Elements, charges, isotopes, bonds and their orders count; of conjugated terminal groups (the
    oxygens of a carboxylate, a nitro group, an acid) all are alike, as in RDKit's `GetBestRMS`.

    Arguments:
        mol, other: the same molecule, perhaps with another order of atoms; all atoms count.
        seconds: for one pair of conformers.

    Raises:
        ValueError: they are not the same molecule.
        TooSymmetricError: there are more frames than can be listed.
    """

    def __init__(self, mol: Chem.Mol, other: Chem.Mol | None = None, seconds: float = 30.0) -> None:
        other = mol if other is None else other
        self._seconds = seconds
        graphs = [_Graph(m) for m in (mol, other)]
        names: dict[Any, int] = {}
        colours = [[names.setdefault(c, len(names)) for c in graph.kinds] for graph in graphs]
        skeletons = [g.skeleton(c) for g, c in zip(graphs, colours, strict=True)]
        found: tuple[tuple[int, ...], ...] = () if colours[0] else ((),)
        if colours[0] and Counter(colours[0]) == Counter(colours[1]):
            found = skeletons[1].GetSubstructMatches(
                skeletons[0], uniquify=False, maxMatches=_FEW + 1
            )
        if not found:
            raise ValueError("the conformers are not of the same molecule")
        self.few = np.array(found) if len(found) <= _FEW else None
        self.frames: list[_Frame] = []
        if self.few is None:
            self.frames = _frames(graphs, colours)

    def rmsd(self, x: Array, y: Array) -> float:
        """The least RMSD in angstrom of positions `x` of `mol` and `y` of `other`, `(N, 3)`.

        Raises:
            TooSymmetricError: it took too long.
        """
        return self._search(x, y, None)

    def within(self, x: Array, y: Array, threshold: float) -> bool:
        """Whether that RMSD is below `threshold` angstrom; often quicker to say than the RMSD.

        Raises:
            TooSymmetricError: it took too long.
        """
        return self._search(x, y, threshold) < threshold

    def within_in_place(self, x: Array, y: Array, threshold: float) -> bool:
        """Whether the RMSD of positions as they stand, not superposed, is below `threshold`.

        Of a molecule with more mappings than are tried one by one, atoms are taken as numbered.
        """
        images = y[self.few] if self.few is not None else y[None]
        return bool(np.sqrt(((x - images) ** 2).sum(2).mean(1)).min() < threshold)

    def _search(self, x: Array, y: Array, threshold: float | None) -> float:
        p, q = x - x.mean(0), y - y.mean(0)
        total = float((p**2).sum() + (q**2).sum())
        if not len(p):
            return 0.0
        if self.few is not None:
            best = float(_top(_quaternion_forms(p, q[self.few])).max())
            return _rmsd(total, best, len(p))
        search = _Search(total, len(p), threshold, time.monotonic() + self._seconds)
        for frame in self.frames:
            fixed = _quaternion_forms(p[frame.atoms], q[frame.images][None])[0]
            blocks = [_quaternion_forms(p[b.atoms], q[b.options]) for b in frame.blocks]
            search.frame(fixed, blocks)
            if search.done():
                break
        if threshold is not None and not search.found:
            return np.inf
        return _rmsd(total, search.best, len(p))


def _rmsd(total: float, best: float, atoms: int) -> float:
    return float(np.sqrt(max(total - 2 * best, 0.0) / atoms))


def _quaternion_forms(p: Array, q: Array) -> Array:
    """Horn's `K`, `(n, 4, 4)`, for points `(b, 3)` and each of `n` sets of images, `(n, b, 3)`."""
    s = np.einsum("ia,nib->nab", p, q)
    k = np.empty((len(q), 4, 4))
    xx, yy, zz = s[:, 0, 0], s[:, 1, 1], s[:, 2, 2]
    k[:, 0, 0] = xx + yy + zz
    k[:, 1, 1], k[:, 2, 2], k[:, 3, 3] = xx - yy - zz, yy - xx - zz, zz - xx - yy
    k[:, 0, 1] = k[:, 1, 0] = s[:, 1, 2] - s[:, 2, 1]
    k[:, 0, 2] = k[:, 2, 0] = s[:, 2, 0] - s[:, 0, 2]
    k[:, 0, 3] = k[:, 3, 0] = s[:, 0, 1] - s[:, 1, 0]
    k[:, 1, 2] = k[:, 2, 1] = s[:, 0, 1] + s[:, 1, 0]
    k[:, 1, 3] = k[:, 3, 1] = s[:, 2, 0] + s[:, 0, 2]
    k[:, 2, 3] = k[:, 3, 2] = s[:, 1, 2] + s[:, 2, 1]
    return k


def _top(k: Array) -> Array:
    """The largest eigenvalue of each, `(n,)`."""
    return np.asarray(np.linalg.eigvalsh(k)[:, -1], dtype=np.float64)


class _Search:
    """Branch and bound over the options of blocks, for the largest eigenvalue `best`.

    With a threshold, `best` begins at what an RMSD of it has, and the first that is larger ends it.
    """

    def __init__(self, total: float, atoms: int, threshold: float | None, deadline: float) -> None:
        self._total, self._atoms, self._deadline = total, atoms, deadline
        self._needed = None if threshold is None else (total - atoms * threshold**2) / 2
        self.best = -np.inf if self._needed is None else self._needed
        self.found = False

    def done(self) -> bool:
        """Whether nothing better can come, or nothing better is asked for."""
        return (self._needed is not None and self.found) or self._total - 2 * self.best < 1e-9

    def frame(self, fixed: Array, blocks: list[Array]) -> None:
        """Search what is left of one frame: `fixed` is `(4, 4)`, each block `(n, 4, 4)`."""
        while True:
            if time.monotonic() > self._deadline:
                raise TooSymmetricError(
                    "too many symmetric mappings of atoms to find an RMSD in time"
                )
            fixed = fixed + sum(b[0] for b in blocks if len(b) == 1)
            blocks = [b for b in blocks if len(b) > 1]
            chosen, whole = self._ascend(fixed, blocks)
            if self.done() or not blocks:
                return
            # Curvature goes to the blocks whose options differ most.
            news = [b - b[c] for b, c in zip(blocks, chosen, strict=True)]
            spread = np.array([np.linalg.norm(new, axis=(1, 2)).max() for new in news])
            weights = (spread + 1e-12) / (spread + 1e-12).sum()
            bounds = [_top(w * whole + new) for w, new in zip(weights, news, strict=True)]
            highest = np.array([bound.max() for bound in bounds])
            enough = self.best + self._tolerance()
            if highest.sum() <= enough:
                return
            open_ = [bound + (highest.sum() - top) > enough
                     for bound, top in zip(bounds, highest, strict=True)]  # fmt: skip
            if not all(o.any() for o in open_):
                return
            if not all(o.all() for o in open_):
                blocks = [b[o] for b, o in zip(blocks, open_, strict=True)]
                continue
            excess = highest - weights * float(_top(whole[None])[0])
            place = int(excess.argmax())
            rest = blocks[:place] + blocks[place + 1 :]
            for option in np.argsort(-bounds[place]):
                self.frame(fixed + blocks[place][option], rest)
                if self.done():
                    return
            return

    def _ascend(self, fixed: Array, blocks: list[Array]) -> tuple[list[int], Array]:
        """Alternate rotation and options from several starts; the best choice, and its `K`."""
        starts = np.linalg.eigh(fixed)[1].T[::-1]
        reached: tuple[float, list[int], Array] = (-np.inf, [], fixed)
        for x in starts if blocks else starts[:1]:
            value = -np.inf
            while True:
                chosen = [int(np.einsum("i,nij,j->n", x, b, x).argmax()) for b in blocks]
                whole = fixed + sum(b[c] for b, c in zip(blocks, chosen, strict=True))
                values, vectors = np.linalg.eigh(whole)
                if values[-1] <= value + 1e-12 * self._total:
                    break
                value, x = float(values[-1]), vectors[:, -1]
                if value > reached[0]:
                    reached = value, chosen, whole
        if reached[0] > self.best:
            self.best, self.found = reached[0], True
        return reached[1], reached[2]

    def _tolerance(self) -> float:
        """By how much an eigenvalue has to be larger to matter."""
        if self._needed is not None:
            return 0.0
        return self._atoms * _rmsd(self._total, self.best, self._atoms) * _EXACT + 1e-10


class _Graph:
    """Atoms by kind, and bonds by kind, of a molecule."""

    def __init__(self, mol: Chem.Mol) -> None:
        alike = set(mol.GetSubstructMatches(_TERMINAL, uniquify=False))
        terminal = {pair[0] for pair in alike}
        self.kinds = [
            (
                a.GetAtomicNum(),
                0 if a.GetIdx() in terminal else a.GetFormalCharge(),
                a.GetIsotope(),
                a.GetDegree(),
            )
            for a in mol.GetAtoms()
        ]
        self.bonds: list[dict[int, Any]] = [{} for _ in self.kinds]
        for bond in mol.GetBonds():
            i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
            of_group = i in terminal or j in terminal
            kind = Chem.BondType.HEXTUPLE if of_group else bond.GetBondType()
            self.bonds[i][j] = self.bonds[j][i] = kind

    def skeleton(self, colours: list[int]) -> Chem.Mol:
        """For RDKit's search of substructures: colours as isotopes."""
        made = Chem.RWMol()
        for colour, (number, *_) in zip(colours, self.kinds, strict=True):
            atom = Chem.Atom(number)
            atom.SetIsotope(colour + 1)
            made.AddAtom(atom)
        for i, bonds in enumerate(self.bonds):
            for j, kind in bonds.items():
                if i < j:
                    made.AddBond(i, j, kind)
        return made.GetMol()

    def pieces(self, left_out: set[int]) -> list[list[int]]:
        """Connected atoms without those that are left out."""
        seen, found = set(left_out), []
        for first in range(len(self.bonds)):
            if first in seen:
                continue
            piece, seen = [first], seen | {first}
            for atom in piece:
                new = [n for n in self.bonds[atom] if n not in seen]
                piece += new
                seen.update(new)
            found.append(piece)
        return found


def _frames(graphs: list[_Graph], colours: list[list[int]]) -> list[_Frame]:
    """All frames: images of some atoms, and blocks of at most `_OPTIONS` options each."""
    for most in _OPTIONS:
        found = list(islice(_frames_with(graphs, colours, most), _FRAMES + 1))
        if len(found) <= _FRAMES:
            return found
    raise TooSymmetricError("too many symmetric mappings of atoms to list")


def _frames_with(graphs: list[_Graph], colours: list[list[int]], most: int) -> Iterator[_Frame]:
    waiting = [colours]
    while waiting:
        refined = _refined(graphs, waiting.pop())
        if refined is None:
            continue
        cells: list[dict[int, list[int]]] = []
        for colour in refined:
            cell = defaultdict(list)
            for atom, c in enumerate(colour):
                cell[c].append(atom)
            cells.append(cell)
        pairs = [(one[0], cells[1][c][0]) for c, one in cells[0].items() if len(one) == 1]
        fixed, images = (np.array([pair[k] for pair in pairs], dtype=np.int64) for k in (0, 1))
        blocks: list[_Block] = []
        groups = [_groups(g, c, set(f.tolist())) for g, c, f in
                  zip(graphs, refined, (fixed, images), strict=True)]  # fmt: skip
        large: list[int] = []
        for key, atoms in groups[0].items():
            options = _options(graphs, refined, atoms, groups[1].get(key, []), most)
            if options is None:
                large = atoms
                break
            if not len(options):
                break
            blocks.append(_Block(np.array(atoms), options))
        if large:
            first = min(
                large, key=lambda a: (len(cells[0][refined[0][a]]), -len(graphs[0].bonds[a]))
            )
            own = refined[0][first]
            fresh = 1 + max(refined[0])
            for image in reversed(cells[1][own]):
                told = [list(colour) for colour in refined]
                told[0][first] = told[1][image] = fresh
                waiting.append(told)
        elif len(blocks) == len(groups[0]):
            yield _Frame(fixed, images, blocks)


def _refined(graphs: list[_Graph], colours: list[list[int]]) -> list[list[int]] | None:
    """Colours by those of neighbours, until nothing changes; None if the graphs then differ."""
    while True:
        names: dict[Any, int] = {}
        new = [
            [
                names.setdefault(
                    (own, tuple(sorted((int(k), colour[n]) for n, k in graph.bonds[a].items()))),
                    len(names),
                )
                for a, own in enumerate(colour)
            ]
            for graph, colour in zip(graphs, colours, strict=True)
        ]
        if Counter(new[0]) != Counter(new[1]):
            return None
        if len(set(new[0])) == len(set(colours[0])):
            return new
        colours = new


def _groups(graph: _Graph, colours: list[int], fixed: set[int]) -> dict[Any, list[int]]:
    """Atoms of the pieces that are left, those of pieces with the same colours together."""
    found: dict[Any, list[int]] = defaultdict(list)
    for piece in graph.pieces(fixed):
        found[tuple(sorted(colours[a] for a in piece))] += piece
    return found


def _options(
    graphs: list[_Graph],
    colours: list[list[int]],
    atoms: list[int],
    images: list[int],
    most: int,
) -> Indices | None:
    """Every way to map the atoms onto the images, `(n, b)`; None if there are too many."""
    bonds, others = graphs[0].bonds, graphs[1].bonds
    inside = set(atoms)
    by_colour: dict[int, list[int]] = defaultdict(list)
    for image in images:
        by_colour[colours[1][image]].append(image)
    place = {atom: k for k, atom in enumerate(atoms)}
    before = [[n for n in bonds[a] if n in inside and place[n] < k] for k, a in enumerate(atoms)]
    found: list[list[int]] = []
    taken: list[int] = []
    used: set[int] = set()

    def candidates(k: int) -> Iterator[int]:
        known = before[k]
        near = others[taken[place[known[0]]]] if known else by_colour[colours[0][atoms[k]]]
        for image in near:
            if image in used or colours[1][image] != colours[0][atoms[k]]:
                continue
            if all(others[image].get(taken[place[n]]) == bonds[atoms[k]][n] for n in known):
                yield image

    levels = [candidates(0)]
    while levels:
        image = next(levels[-1], -1)
        if image < 0:
            levels.pop()
            if taken:
                used.discard(taken.pop())
            continue
        taken.append(image)
        used.add(image)
        if len(taken) == len(atoms):
            found.append(list(taken))
            if len(found) > most:
                return None
            used.discard(taken.pop())
        else:
            levels.append(candidates(len(taken)))
    return np.array(found, dtype=np.int64).reshape(-1, len(atoms))
