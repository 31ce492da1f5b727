"""QM9 as a data set of molecular graphs with checked bonds and charges.

QM9 gives each molecule a SMILES and a B3LYP/6-31G(2df,p) geometry. The SMILES' atoms are matched to
the geometry's, and a molecule is kept when its bonds are where the geometry has short distances,
and nowhere else. What is left out is counted by reason in the data set's card.

References:
    R. Ramakrishnan, P. O. Dral, M. Rupp, O. A. von Lilienfeld (2014), Quantum chemistry structures
    and properties of 134 kilo molecules, Scientific Data 1, 140022, doi:10.1038/sdata.2014.22
    B. Cordero et al. (2008), Covalent radii revisited, Dalton Transactions, 2832,
    doi:10.1039/b801115j
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from rdkit import Chem, rdBase
from rich import progress as bars
from rich.console import Console
from rich.text import Text

from molflowctl.chem.geometry import COVALENT_RADII
from molflowctl.chem.graphs import Graph3D, canonical_smiles
from molflowctl.data.datasets import MoleculeDataset
from molflowctl.data.qm9_source import Record, find_records
from molflowctl.errors import UserError
from molflowctl.io.atomic import check_free
from molflowctl.io.locks import one_writer

__all__ = ["Matched", "collate", "match", "prepare_qm9"]

Hydrogens = Literal["implicit", "explicit"]

LONGEST_BOND, SHORTEST_CONTACT = 1.3, 1.15  # times the sum of two radii
MIN_ATOMS = {"explicit": 6, "implicit": 4}  # smaller ones are no task for a generative model
TRAIN, VALIDATION = 100_000, 13_000
LARGEST_INDEX = 133_885


@dataclass(frozen=True)
class Matched:
    """A molecule whose graph and geometry agree: n atoms, e bonds.

    Attributes:
        index: its number in the source.
        smiles: canonical, non-isomeric SMILES.
        numbers: atomic numbers, (n,) uint8.
        charges: formal charges, (n,) int8.
        bonds: pairs i < j, lexicographic, (e, 2) int16.
        orders: 1, 2 or 3, (e,) int8.
        positions: angstrom, (n, 3) float64.
    """

    index: int
    smiles: str
    numbers: np.ndarray
    charges: np.ndarray
    bonds: np.ndarray
    orders: np.ndarray
    positions: np.ndarray

    @classmethod
    def of(cls, graph: Graph3D, index: int, smiles: str) -> Matched:
        """A molecule that is at hand as a graph."""
        i, j = np.nonzero(np.triu(graph.bonds, 1))
        return cls(
            index=index,
            smiles=smiles,
            numbers=graph.numbers.astype(np.uint8),
            charges=graph.charges.astype(np.int8),
            bonds=np.stack([i, j], 1).astype(np.int16),
            orders=graph.bonds[i, j],
            positions=graph.positions,
        )


def match(record: Record) -> Matched | str:
    """The molecule of a record, or why it is left out: one word or two, a key to count by."""
    reason = "no SMILES"
    for smiles in record.smiles:
        result = _match_one(record, smiles)
        if isinstance(result, Matched):
            return result
        reason = result
    return reason


def _match_one(record: Record, smiles: str) -> Matched | str:
    with rdBase.BlockLogs():
        heavy = Chem.MolFromSmiles(smiles)
    if heavy is None:
        return "SMILES not readable"
    mol = Chem.AddHs(heavy)
    elements, positions = record.elements, record.positions
    if len(elements) < MIN_ATOMS["explicit"]:
        return "fewer than 6 atoms"
    if [a.GetSymbol() for a in mol.GetAtoms()] != elements:
        order = _order_by_graph(mol, elements, positions)
        if order is None:
            return "SMILES of another molecule than the geometry"
        elements, positions = [elements[i] for i in order], positions[order]
    Chem.Kekulize(mol, clearAromaticFlags=True)

    n = len(elements)
    orders = np.zeros((n, n), dtype=np.int8)
    for bond in mol.GetBonds():
        first, second = sorted((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()))
        orders[first, second] = int(bond.GetBondTypeAsDouble())
    i, j = np.triu_indices(n, 1)
    relative = _relative_distances(elements, positions)[i, j]
    bonded = orders[i, j] > 0
    if (relative[bonded] > LONGEST_BOND).any():
        return "bond too long"
    if (relative[~bonded] < SHORTEST_CONTACT).any():
        return "short distance without a bond"
    charges = np.array([a.GetFormalCharge() for a in mol.GetAtoms()], dtype=np.int8)
    if np.abs(charges).max() > 1:
        return "charge above 1"
    if any(a.GetNumRadicalElectrons() for a in mol.GetAtoms()):
        return "radical"
    return Matched(
        index=record.index,
        smiles=canonical_smiles(heavy),
        numbers=np.array([a.GetAtomicNum() for a in mol.GetAtoms()], dtype=np.uint8),
        charges=charges,
        bonds=np.stack([i[bonded], j[bonded]], 1).astype(np.int16),
        orders=orders[i, j][bonded],
        positions=positions,
    )


def _relative_distances(elements: list[str], positions: np.ndarray) -> np.ndarray:
    """Distances over the sum of the covalent radii. (n, n)"""
    radii = COVALENT_RADII[[Chem.GetPeriodicTable().GetAtomicNumber(e) for e in elements]]
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    return distances / (radii[:, None] + radii[None])


def _order_by_graph(mol: Chem.Mol, elements: list[str], positions: np.ndarray) -> list[int] | None:
    """The geometry's atom for each atom of `mol`: an isomorphism of elements and connections."""
    bonds = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in mol.GetBonds()]
    near = np.triu(_relative_distances(elements, positions) < SHORTEST_CONTACT, 1)
    contacts = np.argwhere(near).tolist()
    symbols = [a.GetSymbol() for a in mol.GetAtoms()]
    if sorted(symbols) != sorted(elements) or len(bonds) != len(contacts):
        return None
    order = _skeleton(elements, contacts).GetSubstructMatch(_skeleton(symbols, bonds))
    return list(order) or None


def _skeleton(elements: list[str], bonds: Iterable[Sequence[int]]) -> Chem.Mol:
    mol = Chem.RWMol()
    for element in elements:
        mol.AddAtom(Chem.Atom(element))
    for i, j in bonds:
        mol.AddBond(i, j, Chem.BondType.SINGLE)
    return mol.GetMol()


@one_writer(lambda out_folder, *_, **__: out_folder, folder=True)
def prepare_qm9(
    out_folder: str | Path,
    hydrogens: Hydrogens = "implicit",
    source: str | Path | None = None,
    seed: int = 0,
    jobs: int | None = None,
    progress: bool = True,
    overwrite: bool = False,
    split: tuple[int, int] = (TRAIN, VALIDATION),
) -> MoleculeDataset:
    """Read QM9, check it, split it and write it as a data set.

    The split is drawn once, for the molecules with explicit hydrogens: a molecule is in the same
    split in both forms, so one list of training hashes serves both.

    Args:
        out_folder: folder to write, as a whole or not at all.
        hydrogens: `"explicit"` keeps them; `"implicit"` keeps heavy atoms, at least 4 a molecule.
        source: a folder, wheel or zip with the qm9pack CSV files, or the official
            `dsgdb9nsd.xyz.tar.bz2` with `uncharacterized.txt` beside it. None: the installed
            qm9pack distribution, else a download of the official files.
        seed: of the split.
        jobs: worker processes; None for one per CPU core.
        progress: show a bar with rate and time left on stderr.
        overwrite: replace an existing data set.
        split: numbers of training and validation molecules; the rest is the test split.

    Raises:
        UserError: no source, an unreadable one, too few molecules, or an existing `out_folder`.
    """
    if hydrogens not in MIN_ATOMS:
        raise UserError(f"hydrogens must be 'implicit' or 'explicit', not {hydrogens!r}.")
    out_folder = Path(out_folder)
    check_free(out_folder, overwrite=overwrite)

    found = find_records(source, progress=progress)
    kept: list[Matched] = []
    left_out: Counter[str] = Counter(found.left_out)
    for result in _map(found.records, jobs or os.cpu_count() or 1, progress):
        if isinstance(result, Matched):
            kept.append(result)
        else:
            left_out[result] += 1
    if len(kept) <= sum(split):
        raise UserError(
            f"{found.origin} gave {len(kept)} usable molecules, "
            f"not enough for {split[0]} to train on, {split[1]} to validate and some to test."
        )

    kept.sort(key=lambda m: m.index)
    dataset = collate(kept, draw_split(np.array([m.index for m in kept]), *split, seed=seed))
    if hydrogens == "implicit":
        explicit = dataset
        dataset = explicit.without_hydrogens(MIN_ATOMS["implicit"])
        left_out["fewer than 4 heavy atoms"] = len(explicit) - len(dataset)
    dataset.card = {
        "name": "qm9" if hydrogens == "implicit" else "qm9-explicit",
        "title": "QM9: small organic molecules of C, N, O, F, B3LYP/6-31G(2df,p) geometries",
        "source": "https://doi.org/10.6084/m9.figshare.c.978904.v5",
        "doi": "10.1038/sdata.2014.22",
        "citation": "Ramakrishnan, Dral, Rupp, von Lilienfeld, Sci. Data 1, 140022 (2014)",
        "licence": "CC0-1.0",
        "read_from": found.origin,
        "hydrogens": hydrogens,
        "position_unit": "angstrom",
        "split_seed": seed,
        "read": len(found.records) + sum(found.left_out.values()),
        "kept": len(dataset),
        "left_out": dict(left_out.most_common()),
        "rdkit": rdBase.rdkitVersion,
    }
    dataset.save(out_folder, overwrite=overwrite)
    return dataset


def draw_split(index: np.ndarray, train: int, validation: int, *, seed: int) -> np.ndarray:
    """0 train, 1 validation, 2 test for molecules numbered `index` in QM9. (M,) uint8

    Every number of QM9 has a fixed random key and the split goes by rank of the keys, so that one
    molecule more or less (another RDKit) moves one molecule at the borders, not the whole split.
    """
    keys = np.random.default_rng(seed).random(LARGEST_INDEX + 1)[index]
    split = np.full(len(index), 2, dtype=np.uint8)
    rank = np.argsort(keys)
    split[rank[:train]] = 0
    split[rank[train : train + validation]] = 1
    return split


def collate(molecules: list[Matched], split: np.ndarray) -> MoleculeDataset:
    """Concatenate molecules into a data set and centre them."""

    def joined(name: str) -> torch.Tensor:
        return torch.from_numpy(np.concatenate([getattr(m, name) for m in molecules]))

    def pointer(name: str) -> torch.Tensor:
        return torch.tensor([0] + [len(getattr(m, name)) for m in molecules]).cumsum(0)

    dataset = MoleculeDataset(
        numbers=joined("numbers"),
        charges=joined("charges"),
        positions=joined("positions"),
        atom_ptr=pointer("numbers"),
        bond_index=joined("bonds"),
        bond_order=joined("orders"),
        bond_ptr=pointer("orders"),
        split=torch.from_numpy(split),
        source_index=torch.tensor([m.index for m in molecules], dtype=torch.int32),
    )
    dataset.centre()
    dataset.smiles = [m.smiles for m in molecules]
    return dataset


def _map(records: list[Record], jobs: int, progress: bool) -> Iterator[Matched | str]:
    with (
        multiprocessing.Pool(jobs, _leave_signals_to_parent) if jobs > 1 else nullcontext() as pool
    ):
        results = pool.imap(match, records, chunksize=500) if pool else map(match, records)
        yield from _tracked(results, len(records)) if progress else results


def _leave_signals_to_parent() -> None:
    """Ctrl-C is the parent's business, who ends the workers by SIGTERM; they print nothing."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def _tracked(results: Iterable[Matched | str], total: int) -> Iterator[Matched | str]:
    with bars.Progress(
        bars.TextColumn("matching bonds to geometries"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        _Rate(),
        bars.TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as bar:
        task = bar.add_task("", total=total)
        for result in results:
            bar.advance(task)
            yield result


class _Rate(bars.ProgressColumn):
    def render(self, task: bars.Task) -> Text:
        return Text(f"{task.completed / task.elapsed:,.0f}/s" if task.elapsed else "")
