"""Drug-like molecules as a data set of heavy-atom graphs with one conformer each.

MOSES gives SMILES only. Each gets a few conformers by ETKDGv3 with all its hydrogens, relaxed by
MMFF94 in vacuum. The lowest is kept, and on request relaxed further by GFN2-xTB. Then the hydrogens
are dropped, as valence implies them. What is left out is counted by reason in the card.

A molecule's place is a hash of its SMILES: which split it is in, how early it is taken and where
its conformers start. So a larger limit gives the molecules of a smaller one, and more: molecules
that an earlier data set holds are taken from it (`known`). With a rule, the limit is of the
molecules that follow it.

References:
    Wang, Witek, Landrum, Riniker, J. Chem. Inf. Model. 60, 2044 (2020) (ETKDGv3).
    Halgren, J. Comput. Chem. 17, 490 (1996) (MMFF94).
    Bannwarth, Ehlert, Grimme, J. Chem. Theory Comput. 15, 1652 (2019) (GFN2-xTB).
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import compress, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rdkit import Chem, rdBase
from rdkit.Chem import rdForceFieldHelpers

from molflowctl import properties
from molflowctl.chem.ensemble import embed, force_field, keep_conformers
from molflowctl.chem.graphs import canonical_smiles, from_mol, to_mol
from molflowctl.compute.parallel import WorkerPool
from molflowctl.data.datasets import MoleculeDataset
from molflowctl.data.flat import SPLITS
from molflowctl.data.known import molecule_hash
from molflowctl.data.moses_source import Found, find_smiles
from molflowctl.data.shards import check_workshop, open_workshop, read_shard, write_shard
from molflowctl.errors import UserError
from molflowctl.io.atomic import check_free
from molflowctl.io.locks import one_writer
from molflowctl.io.record import versions
from molflowctl.properties.energies.xtb import relax as relax_by_xtb
from molflowctl.tasks.preparation.qm9 import Matched, collate
from molflowctl.tasks.preparation.subset import Rule

__all__ = ["LIMIT", "Candidate", "build", "choose", "prepare_druglike"]

Relax = Literal["mmff", "gfn2"]

LIMIT = 200_000
HELD_OUT = 20  # one validation and one test molecule for as many training molecules
ELEMENTS = {"C", "N", "O", "F", "S", "Cl", "Br"}
FEWEST, MOST = 10, 27  # heavy atoms
TRIES = 20  # of ETKDG at the conformer: seconds are lost on strained cages else
SECONDS = {"mmff": 60.0, "gfn2": 600.0}  # a molecule; few take one, or five
SHARD = {"mmff": 500, "gfn2": 100}  # molecules
STARTS = 3  # conformers of which the lowest is kept; 0.8 kcal/mol lower on average than one
_FILTERS = (
    f"one fragment of {FEWEST} to {MOST} heavy atoms {', '.join(sorted(ELEMENTS))}; no radicals, "
    "no charge above 1 on an atom; MMFF94 has its parameters; ETKDGv3 finds a conformer, whose "
    "bonds and marked stereo the relaxation keeps; the same molecule again from heavy atoms alone"
)
_STEREO = (
    "stereo that a SMILES leaves open (in MOSES all of it) is drawn at random in the embedding, "
    "both mirror images as likely; the list of SMILES has none"
)


@dataclass(frozen=True)
class Candidate:
    """A molecule to build.

    Attributes:
        number: its row in the source.
        smiles: as the source writes it.
        split: 0 train, 1 validation, 2 test.
        key: hash of the SMILES.
    """

    number: int
    smiles: str
    split: int
    key: int


@one_writer(lambda out_folder, *_, **__: out_folder, folder=True)
def prepare_druglike(
    out_folder: str | Path,
    source: str | Path | None = None,
    limit: int = LIMIT,
    jobs: int = 1,
    *,
    relax: Relax = "mmff",
    rule: Rule | None = None,
    known: str | Path | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
    searching: Callable[[int], object] = lambda searched: None,
    resume: bool = False,
    overwrite: bool = False,
) -> MoleculeDataset:
    """Read SMILES, choose, build and write them as a data set. Ctrl-C keeps the whole shards.

    Args:
        out_folder: folder to write, as a whole or not at all.
        source: see `molflowctl.data.moses_source.find_smiles`.
        limit: training molecules to try; a 20th of that for validation, and for testing.
        jobs: worker processes; the result does not depend on it.
        relax: what the geometry is a minimum of: MMFF94, or GFN2-xTB after it.
        rule: molecules that do not follow it, or that its property fails for, are not tried.
        known: an earlier data set of this source; what it holds is not built again.
        searching: called with the molecules of a split that the rule was asked about so far.
        progress: called with the molecules tried so far, and of how many.
        resume: go on with what an interrupted run left in `<out_folder>.partial`.
        overwrite: replace an existing data set, or such a rest.

    Raises:
        UserError: no source, an unreadable one, a rule on an unknown property or on one that needs
            a geometry, nothing can be kept for some split, or an existing `out_folder`.
    """
    out = Path(out_folder)
    check_free(out, overwrite=overwrite)
    if limit < 1:
        raise UserError(f"the limit is {limit} molecules; give 1 or more.")
    if rule is not None and properties.get(rule.property).geometry:
        raise UserError(
            f"{rule.property} needs a geometry, which SMILES have not: prepare a data set, then "
            f"choose of it with `molflowctl data subset -p {rule.property}`."
        )
    found = find_smiles(source)
    source_of: dict[str, Any] = {
        "source_sha256": found.sha256(),
        "rdkit": rdBase.rdkitVersion,
        "starts": STARTS,
        "relax": relax,
    }
    settings: dict[str, Any] = {"limit": limit, **source_of}
    if rule is not None:
        settings["rule"] = str(rule)
    earlier = None if known is None else _earlier(known, source_of)
    if earlier is not None:
        settings["known_sha256"] = earlier.card["sha256"]
    # Before a search that may take minutes; opened after it, since a search may find nothing.
    check_workshop(out, settings, resume=resume, overwrite=overwrite)
    asked = 0  # molecules that were held against the rule
    with WorkerPool(jobs, isolate=True) as pool:

        def following(smiles: Iterable[str]) -> Iterator[bool]:
            nonlocal asked
            assert rule is not None
            follows = _Follows(rule)
            for outcome in pool.map(
                follows, smiles, timeout=SECONDS["mmff"], chunk=500, progress=searching
            ):
                asked += 1
                yield bool(outcome.value)

        chosen = choose(found, limit, None if rule is None else following)
        candidates = chosen
        if earlier is not None:
            held = set(earlier.source_index.tolist())
            candidates = [c for c in chosen if c.number not in held]
        workshop = open_workshop(out, settings, resume=resume, overwrite=overwrite)
        starts = range(0, len(candidates), SHARD[relax])
        shards = [workshop / f"{k:05d}.safetensors" for k in range(len(starts))]
        for start, shard in zip(starts, shards, strict=True):
            chunk = candidates[start : start + SHARD[relax]]
            if not shard.exists():

                def counted(done: int, start: int = start) -> None:
                    progress(start + done, len(candidates))

                _make_shard(shard, chunk, relax, pool, counted)
            progress(start + len(chunk), len(candidates))
    dataset = _merged(shards, candidates, earlier, {c.number for c in chosen})
    dataset.card = {
        "name": out.resolve().name,
        **found.card,
        "hydrogens": "implicit",
        "position_unit": "angstrom",
        "geometry": f"the lowest of {STARTS} conformers: ETKDGv3, then MMFF94 in vacuum with all "
        f"hydrogens{', then GFN2-xTB' if relax == 'gfn2' else ''}",
        "stereo": _STEREO,
        "filters": _FILTERS,
        "in_source": len(found.smiles),
        **settings,
        **({"searched": asked} if rule else {}),
        "read": len(chosen),
        "kept": len(dataset),
        **dataset.card,
        "versions": versions(),
    }
    dataset.save(out, overwrite=overwrite)
    shutil.rmtree(workshop)
    return dataset


@dataclass(frozen=True)
class _Follows:
    """Whether a molecule follows a rule; what cannot be read or scored does not."""

    rule: Rule

    def __call__(self, smiles: str) -> bool:
        with rdBase.BlockLogs():
            mol = Chem.MolFromSmiles(smiles)
            if mol is None:
                return False
            (value,) = properties.get(self.rule.property)(mol).values()
        return bool(self.rule.keeps(value))


def choose(
    found: Found,
    limit: int,
    following: Callable[[Iterable[str]], Iterable[bool]] | None = None,
) -> list[Candidate]:
    """The molecules to build: training, validation and test ones, each by rising hash.

    Among the molecules that the source does not hold out, those whose hash is a multiple of 20
    validate; where it holds out none, those next to a multiple test.

    Args:
        following: says of SMILES, one after another, which to take; default all. Only as many are
            asked about as it needs.

    Raises:
        UserError: a split gets no molecule.
    """
    keys = np.fromiter((molecule_hash(s) for s in found.smiles), np.uint64, len(found.smiles))
    residue = keys % np.uint64(HELD_OUT)
    split = (residue == 0).astype(np.uint8)
    split[found.is_test if found.is_test is not None else residue == 1] = 2
    candidates = []
    for number, count in enumerate((limit, *2 * [max(1, limit // HELD_OUT)])):
        rows = np.flatnonzero(split == number)
        chosen: Iterable[int] = rows[np.argsort(keys[rows])].tolist()
        if following is not None:
            chosen = compress(chosen, following(found.smiles[k] for k in chosen))
        rows_taken = list(islice(chosen, count))
        if not rows_taken:
            raise UserError(
                f"{found.card['read_from']} has {len(found.smiles)} molecules, too few: none "
                f"{'that follows the rule ' if following else ''}is in the {SPLITS[number]} split."
            )
        candidates += [Candidate(k, found.smiles[k], number, int(keys[k])) for k in rows_taken]
    return candidates


def build(candidate: Candidate, relax: Relax = "mmff") -> Matched | str:
    """The molecule of heavy atoms with a relaxed conformer, or why there is none, to count by."""
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(candidate.smiles)
    if mol is None:
        return "SMILES not readable"
    if len(Chem.GetMolFrags(mol)) != 1:
        return "not one fragment"
    if not FEWEST <= mol.GetNumHeavyAtoms() <= MOST:
        return f"fewer than {FEWEST} or more than {MOST} heavy atoms"
    if {atom.GetSymbol() for atom in mol.GetAtoms()} - ELEMENTS - {"H"}:
        return "another element"
    if any(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms()):
        return "radical"
    if any(abs(atom.GetFormalCharge()) > 1 for atom in mol.GetAtoms()):
        return "charge above 1"
    smiles = canonical_smiles(mol)
    mol = Chem.AddHs(mol)
    with rdBase.BlockLogs():
        if not rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol):
            return "MMFF94 lacks parameters"
    if not embed(mol, STARTS, seed=candidate.key, tries=TRIES):
        return "ETKDGv3 found no conformer"
    energies, *_ = force_field(mol)
    sound = [k for k in np.argsort(energies).tolist() if np.isfinite(energies[k])]
    if not sound:
        return "bonds or stereo lost in MMFF94"
    mol = keep_conformers(mol, sound[:1])
    if relax == "gfn2":
        minimum = relax_by_xtb(mol)
        if minimum.failure:
            return "another molecule, or no minimum, in GFN2-xTB"
        mol = minimum.mol
    graph = from_mol(mol, hydrogens=False)
    again = to_mol(graph)
    if Chem.SanitizeMol(again, catchErrors=True) or canonical_smiles(again) != smiles:
        return "another molecule from heavy atoms alone"
    return Matched.of(graph, candidate.number, smiles)


def _make_shard(
    path: Path,
    candidates: Sequence[Candidate],
    relax: Relax,
    pool: WorkerPool,
    progress: Callable[[int], object],
) -> None:
    """Build the molecules and write them, one after another, with the split and the failures."""
    made: list[Matched] = []
    split: list[int] = []
    left_out: Counter[str] = Counter()
    make = build if relax == "mmff" else partial(build, relax=relax)
    outcomes = pool.map(make, candidates, timeout=SECONDS[relax], chunk=4, progress=progress)
    for candidate, outcome in zip(candidates, outcomes, strict=True):
        if isinstance(outcome.value, Matched):
            made.append(outcome.value)
            split.append(candidate.split)
        else:
            left_out[outcome.value or (outcome.error or "").split(":")[0]] += 1
    tensors = collate(made, np.array(split, np.uint8)).tensors() if made else {}
    write_shard(path, tensors, {"smiles": [m.smiles for m in made], "left_out": left_out})


def _earlier(folder: str | Path, source_of: dict[str, Any]) -> MoleculeDataset:
    """The data set whose molecules need not be built again.

    Raises:
        UserError: it is of another source, RDKit or number of conformers.
    """
    earlier = MoleculeDataset.load(folder)
    card = {"relax": "mmff"} | earlier.card  # the only one, before there was a choice
    differ = [key for key, value in source_of.items() if card.get(key) != value]
    if differ:
        raise UserError(
            f"{folder} was made with another {', '.join(differ)}: its molecules cannot be taken "
            "over; leave --known out."
        )
    return earlier


def _merged(
    shards: Sequence[Path],
    candidates: Sequence[Candidate],
    earlier: MoleculeDataset | None,
    wanted: set[int],
) -> MoleculeDataset:
    """All shards as one data set, each molecule once; the card has the counts."""
    parts: list[MoleculeDataset] = []
    left_out: Counter[str] = Counter()
    if earlier is not None:
        rows = [k for k, number in enumerate(earlier.source_index.tolist()) if number in wanted]
        parts.append(earlier.select(torch.tensor(rows, dtype=torch.int64)))
    for shard in shards:
        tensors, note = read_shard(shard)
        left_out.update(note["left_out"])
        if tensors:
            parts.append(MoleculeDataset(**tensors))
            parts[-1].smiles = note["smiles"]
    if not parts:
        raise UserError(f"none of {len(candidates)} molecules is left: {dict(left_out)}.")
    whole = MoleculeDataset.concatenate(parts)
    _, first = np.unique(whole.smiles, return_index=True)
    if repeated := len(whole) - len(first):
        left_out["the same molecule as an earlier one"] = repeated
        whole = whole.select(torch.from_numpy(np.sort(first)))
    if empty := [name for name in SPLITS if not len(whole.indices(name))]:
        raise UserError(
            f"none of {len(candidates)} molecules is left in the {empty[0]} split "
            f"({dict(left_out)}): raise --limit."
        )
    whole.card = {"left_out": dict(left_out.most_common())}
    return whole
