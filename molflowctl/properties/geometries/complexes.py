"""Geometries of salts and mixtures: fragments made one by one and set beside each other.

Distance geometry lays several fragments on top of each other: nothing bounds the distance between
them. Here each has its own conformer; the largest stays, and one after another, opposite charges
first, the rest is moved up to it from many sides and in many orientations until van der Waals
spheres touch. Where electrostatics and dispersion between fragments

    E = sum 332.06 q_i q_j / r  +  0.1 ((R/r)^12 - 2 (R/r)^6)         kcal/mol, angstrom

are lowest, with `R` the sum of two van der Waals radii, it is put; `settle` then follows the same
energy to its minimum, moving and turning fragments as rigid bodies. Where MMFF94 has parameters for
all of them, relax the whole with the terms between fragments in its place.

References:
    Bondi, J. Phys. Chem. 68, 441 (1964) (radii, those of RDKit's periodic table);
    Cornell et al., J. Am. Chem. Soc. 117, 5179 (1995) (0.6 angstrom for hydrogen on N, O, F);
    Gasteiger, Marsili, Tetrahedron 36, 3219 (1980) (charges where MMFF94 has none);
    Gonzalez, Math. Geosci. 42, 49 (2010) (the Fibonacci lattice of directions).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem, rdBase
from rdkit.Chem import rdForceFieldHelpers, rdPartialCharges

from molflowctl.chem.geometry import COVALENT_RADII

__all__ = ["apart", "fragments_apart", "partial_charges", "place", "settle"]

Array = NDArray[np.float64]

_SIDES = 48  # directions from which a fragment comes
_TURNS = 12  # orientations in which it does
_TOUCH = 0.9  # of the sum of two van der Waals radii, where it stops
_COULOMB, _DEPTH = 332.0637, 0.1  # kcal/mol angstrom, kcal/mol
_POLAR_HYDROGEN = 0.6  # angstrom
_NEAREST = 1.1  # times the sum of covalent radii: nearer than that, atoms of two fragments overlap
_NEAREST_ION = 0.75  # the same where one is a monatomic ion, whose covalent radius is no size of it
_TABLE = Chem.GetPeriodicTable()
_BONDI = np.array([_TABLE.GetRvdw(z) for z in range(119)])


def place(mol: Chem.Mol, parts: Sequence[Array], rng: np.random.Generator) -> tuple[Array, float]:
    """Set the fragments beside each other, touching; positions `(atoms, 3)`, energy in kcal/mol.

    Args:
        mol: with explicit hydrogens.
        parts: of each fragment, in the order of `Chem.GetMolFrags`, its atoms' positions.
        rng: of the sides and orientations that are tried.
    """
    indices = [np.array(part) for part in Chem.GetMolFrags(mol)]
    spheres, charges = _spheres(mol), partial_charges(mol)
    whole = np.zeros((mol.GetNumAtoms(), 3))
    order = _order([len(part) for part in indices], [charges[part].sum() for part in indices])
    there = indices[order[0]]
    whole[there] = parts[order[0]] - parts[order[0]].mean(0)
    total = 0.0
    for k in order[1:]:
        new, best, lowest = indices[k], np.empty(0), np.inf
        radii, products = _pairs(spheres, charges, there, new)
        aims = _aims(charges[there], charges[new].sum(), rng)
        for turn, aim in zip(_rotations(_TURNS, rng), aims, strict=True):
            turned = (parts[k] - parts[k].mean(0)) @ turn.T + whole[there[aim]]
            for side in _directions(_SIDES, rng):
                # From outside of everything towards the atom aimed at, until it touches.
                way = apart(turned, side, whole[there], _TOUCH * radii)
                tried = turned + way * side
                energy = _energy(whole[there], tried, radii, products)
                if energy < lowest:
                    best, lowest = tried, energy
        whole[new], total = best, total + lowest
        there = np.concatenate([there, new])
    return whole, total


def settle(mol: Chem.Mol, positions: Array) -> tuple[Array, float]:
    """The nearest minimum of the energy between fragments, each a rigid body; with that energy."""
    from scipy.optimize import minimize
    from scipy.spatial.transform import Rotation

    indices = [np.array(part) for part in Chem.GetMolFrags(mol)]
    spheres, charges = _spheres(mol), partial_charges(mol)
    terms = {
        (a, b): _pairs(spheres, charges, indices[a], indices[b])
        for b in range(len(indices))
        for a in range(b)
    }
    centres = [positions[part].mean(0) for part in indices]

    def moved(x: Array) -> list[Array]:
        steps = np.concatenate([np.zeros(6), x]).reshape(-1, 6)  # the first fragment stays
        return [
            (positions[part] - centre) @ Rotation.from_rotvec(step[3:]).as_matrix().T
            + centre
            + step[:3]
            for part, centre, step in zip(indices, centres, steps, strict=True)
        ]

    def energy(x: Array) -> float:
        at = moved(x)
        return sum(_energy(at[a], at[b], *pair) for (a, b), pair in terms.items())

    found = minimize(energy, np.zeros(6 * (len(indices) - 1)), method="L-BFGS-B")
    settled = np.empty_like(positions)
    for part, x in zip(indices, moved(found.x), strict=True):
        settled[part] = x
    return settled, float(found.fun)


def partial_charges(mol: Chem.Mol) -> Array:
    """Of each fragment by MMFF94, else by Gasteiger, else its formal charges, `(atoms,)`."""
    charges = np.empty(mol.GetNumAtoms())
    with rdBase.BlockLogs():
        for part, piece in zip(
            Chem.GetMolFrags(mol), Chem.GetMolFrags(mol, asMols=True), strict=True
        ):
            charges[list(part)] = _fragment_charges(piece)
    return charges


def _fragment_charges(piece: Chem.Mol) -> Array:
    atoms = range(piece.GetNumAtoms())
    formal = np.array([float(atom.GetFormalCharge()) for atom in piece.GetAtoms()])
    if len(atoms) == 1:
        return formal
    field = rdForceFieldHelpers.MMFFGetMoleculeProperties(piece)
    if field is not None:
        return np.array([field.GetMMFFPartialCharge(i) for i in atoms])
    rdPartialCharges.ComputeGasteigerCharges(piece)
    found = np.array([piece.GetAtomWithIdx(i).GetDoubleProp("_GasteigerCharge") for i in atoms])
    # Not a number for many elements; and for some ions the sum is not the charge.
    return found if abs(found.sum() - formal.sum()) < 0.01 else formal


def fragments_apart(mol: Chem.Mol, number: int = -1) -> bool:
    """Whether no atom of a fragment lies in another: none nearer than a bond would be.

    A monatomic ion has a contact that is shorter than the sum of covalent radii: Na-O is 2.2 and
    not 2.3 angstrom.
    """
    groups = Chem.GetMolFrags(mol)
    if len(groups) < 2:
        return True
    positions = mol.GetConformer(number).GetPositions()
    if not np.isfinite(positions).all():
        return False
    fragment, single = np.empty(len(positions), dtype=int), np.zeros(len(positions), dtype=bool)
    for k, group in enumerate(groups):
        fragment[list(group)], single[list(group)] = k, len(group) == 1
    radii = COVALENT_RADII[[atom.GetAtomicNum() for atom in mol.GetAtoms()]]
    factor = np.where(single[:, None] | single, _NEAREST_ION, _NEAREST)
    gaps = np.linalg.norm(positions[:, None] - positions, axis=-1)
    foreign = fragment[:, None] != fragment
    return bool((gaps > factor * (radii[:, None] + radii))[foreign].all())


def apart(moving: Array, direction: Array, standing: Array, contact: Array) -> float:
    """How far along the unit vector `direction` to move so that every pair is at least in contact.

    The largest root of `|moving_j + s direction - standing_i| = contact_ij` over all pairs, at
    least 0.

    Args:
        moving: (M, 3); standing: (S, 3); contact: (S, M), all in angstrom.
    """
    between = moving - standing[:, None]
    along = between @ direction
    inside = contact**2 - (between**2).sum(-1) + along**2
    hits = inside > 0
    return max(0.0, float((np.sqrt(inside[hits]) - along[hits]).max())) if hits.any() else 0.0


def _spheres(mol: Chem.Mol) -> Array:
    """Van der Waals radii in angstrom; small for a hydrogen that can make a hydrogen bond."""
    radii = _BONDI[[atom.GetAtomicNum() for atom in mol.GetAtoms()]]
    for atom in mol.GetAtoms():
        if atom.GetAtomicNum() == 1 and any(n.GetAtomicNum() != 6 for n in atom.GetNeighbors()):
            radii[atom.GetIdx()] = _POLAR_HYDROGEN
    return radii


def _pairs(
    spheres: Array, charges: Array, first: NDArray[np.int64], other: NDArray[np.int64]
) -> tuple[Array, Array]:
    """Sums of radii and products of charges of all pairs between two groups of atoms."""
    return spheres[first][:, None] + spheres[other], np.outer(charges[first], charges[other])


def _energy(first: Array, other: Array, radii: Array, products: Array) -> float:
    r = np.linalg.norm(other - first[:, None], axis=-1)
    ratio = (radii / r) ** 6
    return float((_COULOMB * products / r + _DEPTH * (ratio**2 - 2 * ratio)).sum())


def _order(sizes: list[int], charges: list[float]) -> list[int]:
    """Largest first; then always the one of most opposite charge to what is there, then by size."""
    left = sorted(range(len(sizes)), key=lambda k: (-sizes[k], k))
    order = [left.pop(0)]
    while left:
        there = round(sum(charges[k] for k in order))
        left.sort(key=lambda k: (round(charges[k]) * there, -sizes[k], k))
        order.append(left.pop(0))
    return order


def _aims(charges: Array, charge: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Atoms that a fragment of this charge is moved up to, `(_TURNS,)`.

    Those that attract it most; to one without a charge, the most polar ones and as many others.
    """
    if round(charge):
        order = np.argsort(charges * round(charge), kind="stable")
    else:
        polar = np.argsort(-np.abs(charges), kind="stable")[: _TURNS // 2]
        order = np.concatenate([polar, rng.permutation(len(charges))])
    return np.resize(order[:_TURNS], _TURNS)


def _directions(n: int, rng: np.random.Generator) -> Array:
    """Unit vectors evenly over the sphere, turned at random, `(n, 3)`."""
    k = np.arange(n) + 0.5
    height, angle = 1 - 2 * k / n, np.pi * (1 + np.sqrt(5)) * k
    flat = np.sqrt(1 - height**2)
    even = np.stack([flat * np.cos(angle), flat * np.sin(angle), height], axis=1)
    return even @ _rotations(1, rng)[0].T


def _rotations(n: int, rng: np.random.Generator) -> Array:
    """Uniform random rotations, `(n, 3, 3)`."""
    q = rng.normal(size=(n, 4))
    w, x, y, z = (q / np.linalg.norm(q, axis=1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.array(rows).transpose(2, 0, 1)
