"""MMFF94 as tables: every term of a molecule with its parameters, from RDKit's per-term getters.

    bond          143.9325/2 kb d^2 (1 - 2 d + 7/3 d^2)                      d = r - r0
    angle         c/2 ka d^2 (1 - 0.4 deg d)                                 d = theta - theta0
    linear angle  143.9325 ka (1 + cos theta)                                the apex is sp
    stretch-bend  143.9325 deg (kijk (rij - r0ij) + kkji (rkj - r0kj)) (theta - theta0)
    out-of-plane  c/2 koop chi^2                           three Wilson angles of each planar atom
    torsion       1/2 (V1 (1 + cos phi) + V2 (1 - cos 2 phi) + V3 (1 + cos 3 phi))
    van der Waals eps (1.07 R/(r + 0.07 R))^7 (1.12 R^7/(r^7 + 0.12 R^7) - 2)
    Coulomb       332.0716 qi qj/(r + 0.05), times 0.75 for 1-4 pairs

in kcal/mol, angstrom and degrees, with deg = pi/180 and c = 143.9325 deg^2. Which atoms get which
term follows RDKit's builder with `ignoreInterfragInteractions=False`: pairs from 1-4 on and between
the fragments of a complex, within 100 angstrom; no torsion about an atom of a triple bond or one
that is neither sp2 nor sp3.

`TERMS` holds each formula twice: as an OpenMM expression, which a GPU evaluates and differentiates
for a whole batch, and in numpy, because OpenMM only knows the sum over the batch. A test holds both
against RDKit's own energy.

References:
    Halgren, Merck molecular force field I-V, J. Comput. Chem. 17, 490-641 (1996);
    Tosco, Stiefl, Landrum, J. Cheminformatics 6:37 (2014), doi:10.1186/s13321-014-0037-3.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations, combinations_with_replacement
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem
from rdkit.Chem import Mol, rdForceFieldHelpers, rdmolops

from molflowctl.properties.energies.geometry import check_distances, checked_positions
from molflowctl.properties.registry import PropertyError

__all__ = [
    "ENERGIES",
    "TERMS",
    "Table",
    "Term",
    "check",
    "concatenate",
    "parametrise",
    "term_energies",
]

Array = NDArray[np.float64]

_STRETCH = 143.9325  # kcal/mol in a millidyne angstrom
_COULOMB = 332.0716  # kcal/mol angstrom for two elementary charges, MMFF94's own figure
_DEGREE = np.pi / 180
_BEND = _STRETCH * _DEGREE**2
_CUBIC_BEND = -0.4 * _DEGREE
_SCALE_1_4 = 0.75
_LONGEST_PAIR_ANGSTROM = 100.0  # RDKit's default `nonBondedThresh`
_LINEAR_TYPES = {4, 53, 61}  # column "linh" of MMFFPROP.PAR, atoms with two neighbours


@dataclass(frozen=True)
class Table:
    """All terms of one kind: who takes part, and the parameters.

    Attributes:
        atoms: (terms, atoms in a term) indices, along the chain. Out of plane: two neighbours with
            the centre between them, then the third neighbour.
        parameters: (terms, parameters), in the order of `Term.parameters`.
        molecule: (terms,) the molecule each belongs to.
    """

    atoms: NDArray[np.int64]
    parameters: Array
    molecule: NDArray[np.int64]


@dataclass(frozen=True)
class Term:
    """One kind of term.

    Attributes:
        openmm: the force is OpenMM's `Custom...Force` of this name.
        size: atoms in one term.
        parameters: their names in the expression; kcal/mol, angstrom, degrees, elementary charges.
        expression: energy in kcal/mol in the language of OpenMM, whose own variables are in
            nanometres and radians.
        where: definitions that the expression uses.
        energies: the same in numpy: from positions (size, terms, 3) in angstrom and one array
            (terms,) for each parameter to kcal/mol (terms,); van der Waals and Coulomb apart.
    """

    openmm: str
    size: int
    parameters: tuple[str, ...]
    expression: str
    where: str
    energies: Callable[..., tuple[Array, ...]]

    def force(self, table: Table) -> Any:
        """An OpenMM force with these terms, in its kJ/mol."""
        import openmm
        from openmm.unit import kilocalorie_per_mole, kilojoule_per_mole

        compound = self.openmm == "CompoundBond"
        what = "Bond" if compound else self.openmm
        kilojoules = kilocalorie_per_mole.conversion_factor_to(kilojoule_per_mole)
        text = f"{kilojoules}*({self.expression});{self.where}"
        make = getattr(openmm, f"Custom{self.openmm}Force")
        force = make(self.size, text) if compound else make(text)
        for name in self.parameters:
            getattr(force, f"addPer{what}Parameter")(name)
        add = getattr(force, f"add{what}")
        rows = zip(table.atoms.tolist(), table.parameters.tolist(), strict=True)
        for atoms, parameters in rows:
            if compound:
                add(atoms, parameters)
            else:
                add(*atoms, parameters)
        return force


def _bond(x: Array, k: Array, r0: Array) -> tuple[Array, ...]:
    d = _length(x[1] - x[0]) - r0
    return (_STRETCH / 2 * k * d**2 * (1 - 2 * d + 7 / 3 * d**2),)


def _angle(x: Array, k: Array, theta0: Array) -> tuple[Array, ...]:
    d = np.arccos(_cos_angle(x)) / _DEGREE - theta0
    return (_BEND / 2 * k * d**2 * (1 + _CUBIC_BEND * d),)


def _linear_angle(x: Array, k: Array) -> tuple[Array, ...]:
    return (_STRETCH * k * (1 + _cos_angle(x)),)


def _stretch_bend(
    x: Array, k1: Array, k2: Array, r1: Array, r2: Array, theta0: Array
) -> tuple[Array, ...]:
    stretch = k1 * (_length(x[0] - x[1]) - r1) + k2 * (_length(x[2] - x[1]) - r2)
    return (_STRETCH * _DEGREE * stretch * (np.arccos(_cos_angle(x)) / _DEGREE - theta0),)


def _out_of_plane(x: Array, k: Array) -> tuple[Array, ...]:
    normal = np.cross(x[0] - x[1], x[2] - x[1])
    out = x[3] - x[1]
    sine = (normal * out).sum(1) / (_length(normal) * _length(out))
    return (_STRETCH / 2 * k * np.arcsin(np.clip(sine, -1, 1)) ** 2,)


def _torsion(x: Array, v1: Array, v2: Array, v3: Array) -> tuple[Array, ...]:
    left = np.cross(x[0] - x[1], x[2] - x[1])
    right = np.cross(x[1] - x[2], x[3] - x[2])
    cos = np.clip((left * right).sum(1) / (_length(left) * _length(right)), -1, 1)
    cos2 = 2 * cos**2 - 1
    cos3 = cos * (2 * cos2 - 1)
    return ((v1 * (1 + cos) + v2 * (1 - cos2) + v3 * (1 + cos3)) / 2,)


def _pair(x: Array, depth: Array, radius: Array, charges: Array) -> tuple[Array, ...]:
    r = _length(x[1] - x[0])
    ratio = r / radius
    shape = 1.12 / (ratio**7 + 0.12) - 2
    return depth * (1.07 / (ratio + 0.07)) ** 7 * shape, _COULOMB * charges / (r + 0.05)


def _length(vectors: Array) -> Array:
    return np.sqrt((vectors * vectors).sum(-1))


def _cos_angle(x: Array) -> Array:
    a, b = x[0] - x[1], x[2] - x[1]
    return np.clip((a * b).sum(-1) / (_length(a) * _length(b)), -1, 1)


TERMS = {
    "bond": Term(
        "Bond",
        2,
        ("k", "r0"),
        f"{_STRETCH / 2}*k*d^2*(1-2*d+7/3*d^2)",
        "d=10*r-r0",
        _bond,
    ),
    "angle": Term(
        "Angle",
        3,
        ("k", "theta0"),
        f"{_BEND / 2}*k*d^2*(1+{_CUBIC_BEND}*d)",
        f"d=theta/{_DEGREE}-theta0",
        _angle,
    ),
    # The cosine by distances: the derivative of OpenMM's angle is not exact at 180 degrees.
    "linear_angle": Term(
        "CompoundBond",
        3,
        ("k",),
        f"{_STRETCH}*k*(1+(a^2+b^2-c^2)/(2*a*b))",
        "a=distance(p1,p2);b=distance(p2,p3);c=distance(p1,p3)",
        _linear_angle,
    ),
    "stretch_bend": Term(
        "CompoundBond",
        3,
        ("k1", "k2", "r1", "r2", "theta0"),
        f"{_STRETCH * _DEGREE}*(k1*d1+k2*d2)*(angle(p1,p2,p3)/{_DEGREE}-theta0)",
        "d1=10*distance(p1,p2)-r1;d2=10*distance(p3,p2)-r2",
        _stretch_bend,
    ),
    "out_of_plane": Term(
        "CompoundBond",
        4,
        ("k",),
        f"{_STRETCH / 2}*k*asin(sin(angle(p3,p2,p4))*sin(dihedral(p1,p2,p3,p4)))^2",
        "",
        _out_of_plane,
    ),
    "torsion": Term(
        "Torsion",
        4,
        ("v1", "v2", "v3"),
        "0.5*(v1*(1+cos(theta))+v2*(1-cos(2*theta))+v3*(1+cos(3*theta)))",
        "",
        _torsion,
    ),
    "pair": Term(
        "Bond",
        2,
        ("depth", "radius", "charges"),
        f"depth*(1.07/(x+0.07))^7*(1.12/(x^7+0.12)-2)+{_COULOMB}*charges/(10*r+0.05)",
        "x=10*r/radius",
        _pair,
    ),
}

# What `term_energies` returns; RDKit's seven terms, linear angles being angles there.
ENERGIES = (
    "bond", "angle", "linear_angle", "stretch_bend", "out_of_plane", "torsion", "van_der_waals",
    "coulomb",
)  # fmt: skip


def parametrise(mol: Mol) -> dict[str, Table]:
    """The terms of one molecule, by the keys of `TERMS`.

    Args:
        mol: explicit hydrogens, and a conformer: pairs more than 100 angstrom apart are left out.

    Raises:
        PropertyError: the molecule cannot be computed in MMFF94; the message says why.
    """
    positions = check(mol)
    properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol)
    if properties is None:
        raise PropertyError("MMFF94 has no parameters for this molecule")
    types = [properties.GetMMFFAtomType(i) for i in range(mol.GetNumAtoms())]
    neighbours = [[n.GetIdx() for n in atom.GetNeighbors()] for atom in mol.GetAtoms()]
    rows: dict[str, list[tuple[tuple[int, ...], tuple[float, ...]]]] = {name: [] for name in TERMS}

    for bond in mol.GetBonds():
        ends = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        if found := properties.GetMMFFBondStretchParams(mol, *ends):
            rows["bond"].append((ends, found[1:]))
    for centre, around in enumerate(neighbours):
        linear = types[centre] in _LINEAR_TYPES
        for i, k in combinations(around, 2):
            atoms = i, centre, k
            bend = properties.GetMMFFAngleBendParams(mol, *atoms)
            if bend is None:
                continue
            if linear:
                rows["linear_angle"].append((atoms, bend[1:2]))
                continue
            rows["angle"].append((atoms, bend[1:]))
            if found := properties.GetMMFFStretchBendParams(mol, *atoms):
                left = properties.GetMMFFBondStretchParams(mol, i, centre)
                right = properties.GetMMFFBondStretchParams(mol, k, centre)
                rows["stretch_bend"].append((atoms, (*found[1:], left[2], right[2], bend[2])))
        if len(around) == 3:
            i, k, end = around
            koop = properties.GetMMFFOopBendParams(mol, i, centre, k, end)
            if koop is not None:
                for planar, out in (((i, k), end), ((i, end), k), ((k, end), i)):
                    rows["out_of_plane"].append(((planar[0], centre, planar[1], out), (koop,)))
    for j, k in mol.GetSubstructMatches(_TORSION_AXES, maxMatches=mol.GetNumBonds()):
        if any(mol.GetAtomWithIdx(a).GetHybridization() not in _TORSION_HYBRIDS for a in (j, k)):
            continue
        for i in neighbours[j]:
            for end in neighbours[k]:
                if i in (k, end) or end == j:
                    continue
                if found := properties.GetMMFFTorsionParams(mol, i, j, k, end):
                    rows["torsion"].append(((i, j, k, end), found[1:]))
    tables = {name: _table(rows[name], term) for name, term in TERMS.items() if name != "pair"}
    return tables | {"pair": _pairs(mol, properties, types, positions)}


def check(mol: Mol) -> Array:
    """The positions of the first conformer, (atoms, 3) in angstrom.

    Raises:
        PropertyError: there is none, or it is not that of a complete molecule.
    """
    positions = checked_positions(mol)
    if any(atom.GetTotalNumHs() for atom in mol.GetAtoms()):
        raise PropertyError("hydrogens are missing from the geometry")
    check_distances(positions)
    return positions


def concatenate(tables: Sequence[dict[str, Table]], sizes: Sequence[int]) -> dict[str, Table]:
    """The terms of many molecules with `sizes` atoms, one after another, in one table each."""
    offsets = np.cumsum(sizes) - np.asarray(sizes)
    return {
        name: Table(
            np.concatenate([t[name].atoms + o for t, o in zip(tables, offsets, strict=True)]),
            np.concatenate([t[name].parameters for t in tables]),
            np.repeat(np.arange(len(tables)), [len(t[name].atoms) for t in tables]),
        )
        for name in TERMS
    }


def term_energies(tables: dict[str, Table], positions: Array, molecules: int) -> Array:
    """Energies in kcal/mol, (molecules, 8): each molecule's terms in the order of `ENERGIES`.

    Args:
        positions: (atoms, 3) in angstrom, of all the molecules in the tables.
    """
    columns = []
    for name, term in TERMS.items():
        table = tables[name]
        x = positions[table.atoms.T]
        columns += [
            np.bincount(table.molecule, weights=energy, minlength=molecules)
            for energy in term.energies(x, *table.parameters.T)
        ]
    return np.stack(columns, axis=1)


_TORSION_AXES = Chem.MolFromSmarts("[!$(*#*)&!D1]~[!$(*#*)&!D1]")
_TORSION_HYBRIDS = {Chem.HybridizationType.SP2, Chem.HybridizationType.SP3}


def _table(rows: list[tuple[tuple[int, ...], tuple[float, ...]]], term: Term) -> Table:
    atoms = np.array([row[0] for row in rows], dtype=np.int64).reshape(-1, term.size)
    values = np.array([row[1] for row in rows], dtype=np.float64)
    return Table(
        atoms, values.reshape(-1, len(term.parameters)), np.zeros(len(rows), dtype=np.int64)
    )


def _pairs(mol: Mol, properties: Any, types: list[int], positions: Array) -> Table:
    """Van der Waals depth and radius, and product of charges, of every pair from 1-4 on."""
    apart = rdmolops.GetDistanceMatrix(mol)
    from scipy.spatial.distance import pdist, squareform

    near = squareform(pdist(positions)) <= _LONGEST_PAIR_ANGSTROM
    # Atoms of two fragments are 1e8 bonds apart in RDKit: all their pairs count.
    i, j = np.nonzero(np.triu((apart >= 3) & near))
    # Depth and radius depend on the two types alone: one call for each pair of types.
    _, first, kind = np.unique(types, return_index=True, return_inverse=True)
    wells = np.zeros((len(first), len(first), 2))
    for a, b in combinations_with_replacement(range(len(first)), 2):
        radius, depth = properties.GetMMFFVdWParams(int(first[a]), int(first[b]))[2:]
        wells[a, b] = wells[b, a] = depth, radius
    charge = np.array([properties.GetMMFFPartialCharge(a) for a in range(len(types))])
    product = charge[i] * charge[j] * np.where(apart[i, j] == 3, _SCALE_1_4, 1.0)
    parameters = np.column_stack([wells[kind[i], kind[j]], product])
    return Table(np.column_stack([i, j]), parameters, np.zeros(len(i), dtype=np.int64))
