"""What a sample of de-novo molecules is judged by; nothing here draws or writes.

    stability     of atoms and molecules, on the sample's own bonds and on bonds from distances
    valid         sanitised, one fragment, no radical, no clash: what `assemble` accepts
    unique        distinct molecules among the valid ones
    novel         of the distinct molecules, those that are not in the training data
    PoseBusters   passes every check
    relaxation    energy drop and movement on the way to the nearest minimum
    chemistry     how unlike two molecules are, and structural alerts per molecule
    distances     Wasserstein-1 to the test split: properties, bond lengths, angles

Uniqueness depends on the sample's size; its interval is that of the share of molecules not seen
before, in order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from rdkit import Chem, DataStructs
from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator

from molflowctl.chem.graphs import Failure, Graph3D, Molecule
from molflowctl.data.known import known
from molflowctl.properties.alerts import structural_alerts
from molflowctl.tasks.evaluation.bootstrap import Estimate, bootstrap
from molflowctl.tasks.evaluation.physical_checks import RelaxationChange
from molflowctl.tasks.evaluation.reference import (
    bond_angles,
    bond_lengths,
    descriptors,
    quantiles,
    wasserstein,
)
from molflowctl.tasks.evaluation.stability import (
    distance_bonds,
    edm_smiles,
    has_valences,
    stable_atoms,
)

__all__ = [
    "Attempts",
    "Distance",
    "alerts",
    "chemistry",
    "distances",
    "posebusters_rates",
    "relaxation_estimates",
    "sample_rates",
    "sampling_floor",
    "unlikeness",
]

FEWEST = 20  # values for a distance worth printing


@dataclass(frozen=True)
class Attempts:
    """Attempts at molecules.

    graphs: as they were generated; None for an entry that could not be read.
    results: the molecule each makes, or why it makes none. explicit: the graphs show all hydrogens.
    """

    graphs: Sequence[Graph3D | None]
    results: Sequence[Molecule | Failure]
    explicit: bool

    @cached_property
    def valid(self) -> list[Molecule]:
        return [result for result in self.results if isinstance(result, Molecule)]

    @property
    def mols(self) -> list[Chem.Mol]:
        return [molecule.mol for molecule in self.valid]

    def failures(self) -> dict[str, int]:
        """How many attempts failed for which reason, the most frequent first."""
        reasons = (result.reason for result in self.results if isinstance(result, Failure))
        return dict(Counter(reasons).most_common())


def sample_rates(sample: Attempts, hashes: np.ndarray) -> dict[str, Estimate]:
    """Shares between 0 and 1 by name; stability only for explicit hydrogens and QM9's elements.

    hashes: sorted `molecule_hash` of the training molecules.
    """
    is_valid = np.array([isinstance(result, Molecule) for result in sample.results])
    first = _first_seen(molecule.smiles for molecule in sample.valid)
    distinct = [molecule.smiles for molecule, new in zip(sample.valid, first, strict=True) if new]
    new_molecule = np.zeros(len(is_valid))
    new_molecule[is_valid] = first
    rates = {
        "valid": bootstrap(is_valid),
        "unique": bootstrap(first),
        "novel": bootstrap(~known(distinct, hashes)),
        "valid_and_unique": bootstrap(new_molecule),
    }
    graphs = [graph for graph in sample.graphs if graph is not None]
    if sample.explicit and graphs and all(has_valences(graph.numbers) for graph in graphs):
        rates |= _stability_rates(sample.graphs)
    return rates


def _stability_rates(graphs: Sequence[Graph3D | None]) -> dict[str, Estimate]:
    rates = {}
    readable = [graph for graph in graphs if graph is not None]
    unreadable = len(graphs) - len(readable)
    sizes = np.array([len(graph.numbers) for graph in readable])
    own = [graph.bonds for graph in readable]
    looked_up = [distance_bonds(graph.numbers, graph.positions) for graph in readable]
    for prefix, orders in (("", own), ("edm_", looked_up)):
        share = np.array(
            [
                stable_atoms(graph.numbers, bonds).mean()
                for graph, bonds in zip(readable, orders, strict=True)
            ]
        )
        rates[f"{prefix}atom_stability"] = bootstrap(share, weights=sizes)
        stable = np.concatenate([share == 1, np.zeros(unreadable, bool)])
        rates[f"{prefix}molecule_stability"] = bootstrap(stable)
    smiles = [edm_smiles(graph.numbers, graph.positions) for graph in readable]
    smiles += [None] * unreadable
    is_valid = np.array([text is not None for text in smiles])
    new = np.zeros(len(smiles))
    new[is_valid] = _first_seen(text for text in smiles if text is not None)
    return rates | {"edm_valid": bootstrap(is_valid), "edm_valid_and_unique": bootstrap(new)}


def _first_seen(names: Iterable[str]) -> np.ndarray:
    """Which of them have not come before. bool."""
    seen: set[str] = set()
    first = []
    for name in names:
        first.append(name not in seen)
        seen.add(name)
    return np.array(first, bool)


def posebusters_rates(
    fast: Sequence[Mapping[str, bool | None]], energy: Sequence[Mapping[str, bool | None]]
) -> dict[str, Estimate]:
    """Shares of molecules that pass: all checks but energy, all checks, each check by its name.

    fast: a mapping for each molecule, all with the same names. energy: the same for the first of
    these molecules, perhaps fewer.

    None is a check that gave no answer. It never counts as passed in `all`; `no_answer` is the
    share of molecules that for this reason neither pass all checks nor fail one, `all_answered` the
    share that passes all checks among the others, and `none_failed` what PoseBusters' own table
    counts as passed, where no answer does no harm.
    """
    rates = {}
    if fast:
        rates["all_but_energy"] = bootstrap(_all_true(fast))
    if energy:
        rows = [{**a, **b} for a, b in zip(fast, energy, strict=False)]
        passed = _all_true(rows)
        refuted = np.array([False in row.values() for row in rows])
        rates["all"] = bootstrap(passed)
        rates["none_failed"] = bootstrap(~refuted)
        rates["all_answered"] = bootstrap(passed[passed | refuted])
        rates["no_answer"] = bootstrap(~(passed | refuted))
    for part in (fast, energy):
        for name in part[0] if part else ():
            rates[name] = bootstrap(np.array([row[name] is True for row in part]))
    return rates


def _all_true(rows: Sequence[Mapping[str, bool | None]]) -> np.ndarray:
    return np.array([all(value is True for value in row.values()) for row in rows])


def relaxation_estimates(name: str, changes: Sequence[RelaxationChange]) -> dict[str, Estimate]:
    """Medians of energy drop (kcal/mol) and heavy-atom RMSD (angstrom); the share that failed."""
    table = np.array(changes, float).reshape(-1, 2)
    return {
        f"{name}_drop_kcal_mol": bootstrap(table[:, 0], "median"),
        f"{name}_rmsd_angstrom": bootstrap(table[:, 1], "median"),
        f"{name}_failed": bootstrap(np.isnan(table[:, 0])),
    }


def alerts(mol: Chem.Mol) -> tuple[float, float]:
    """Structural alerts of the PAINS and of the Brenk catalogue."""
    heavy = Chem.RemoveHs(mol)
    return len(structural_alerts(heavy, "pains")), len(structural_alerts(heavy, "brenk"))


def unlikeness(mols: Sequence[Chem.Mol]) -> np.ndarray:
    """1 less the Tanimoto similarity of two molecules, `(n // 2,)`; its mean is their diversity.

    Of Morgan fingerprints (radius 2, 2,048 bits), over as many pairs as need no molecule twice.
    """
    generator = GetMorganGenerator(radius=2, fpSize=2048)
    prints = [generator.GetFingerprint(Chem.RemoveHs(mol)) for mol in mols]
    half = len(prints) // 2
    pairs = zip(prints[:half], prints[half:], strict=False)
    return np.array([1 - DataStructs.TanimotoSimilarity(a, b) for a, b in pairs])


def chemistry(
    mols: Sequence[Chem.Mol], found: Sequence[tuple[float, float] | None]
) -> dict[str, Estimate]:
    """Internal diversity, and the mean number of `alerts`, which `found` holds for each molecule.

    Internal diversity is the mean `unlikeness`.
    """
    if len(mols) < 2:
        return {}
    table = np.array([(np.nan, np.nan) if row is None else row for row in found], float)
    return {
        "internal_diversity": bootstrap(unlikeness(mols)),
        "pains_alerts": bootstrap(table[:, 0]),
        "brenk_alerts": bootstrap(table[:, 1]),
    }


@dataclass(frozen=True)
class Distance:
    """Wasserstein-1 distance of one distribution to the test split's, in the distribution's unit.

    group: "property", "bond length" (angstrom) or "angle" (degree). n: values in the sample.
    floor: what `n` independent draws from the test split itself would score on average.
    """

    group: str
    name: str
    wasserstein: float
    floor: float
    n: int


def sampling_floor(reference: np.ndarray, n: int, repeats: int = 20, seed: int = 0) -> float:
    """Mean distance to the quantiles `reference`, `(200,)`, of `n` independent draws from them."""
    rng = np.random.default_rng(seed)
    drawn = reference[rng.integers(0, len(reference), (repeats, n))]
    return float(np.mean([wasserstein(row, reference) for row in drawn]))


def distances(
    mols: Sequence[Chem.Mol], reference: Mapping[str, Mapping[str, np.ndarray]]
) -> tuple[list[Distance], dict[str, dict[str, np.ndarray]]]:
    """Distances of all distributions of which there are enough values, and the values themselves.

    mols: with explicit hydrogens and a conformer. reference: from `load_reference`.
    """
    values = {
        "descriptors": descriptors(mols),
        "bonds": bond_lengths(mols),
        "angles": bond_angles(mols),
    }
    found = []
    for part, group in _GROUPS.items():
        for name, target in reference[part].items():
            sample = values[part].get(name, np.array([]))
            if len(sample) < FEWEST:
                continue
            row = quantiles(target) if part == "descriptors" else np.asarray(target, float)
            floor = sampling_floor(row, len(sample))
            found.append(Distance(group, name, wasserstein(sample, row), floor, len(sample)))
    return found, values


_GROUPS = {"descriptors": "property", "bonds": "bond length", "angles": "angle"}
