"""Ensembles of conformers for training and for reference; `molflowctl data prepare-conformers`.

Each molecule gets many starts by ETKDGv3, and its own geometry where the source has one, relaxed by
MMFF94 and, if asked, by GFN2-xTB. What lost its stereo or its bonds on the way is dropped; the rest
is pruned by symmetric heavy-atom RMSD and an energy window and weighed by Boltzmann. Molecules are
done in shards, which a resumed run keeps.

A molecule that leaves stereo open becomes one of its stereoisomers, drawn by its number. Molecules
of a file are split by a hash of their constitution, so stereoisomers are never in two splits.
"""

from __future__ import annotations

import hashlib
import itertools
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rdkit import Chem, rdBase

from molflowctl.chem.ensemble import boltzmann_weights, embed, keep_conformers, prune
from molflowctl.chem.graphs import Graph3D, canonical_smiles, to_mol
from molflowctl.chem.identity import normalised
from molflowctl.chem.salts import settle_salt
from molflowctl.chem.stereo import stereoisomers, unspecified_stereo
from molflowctl.compute.parallel import WorkerPool
from molflowctl.data.conformer_data import ConformerDataset
from molflowctl.data.datasets import MoleculeDataset
from molflowctl.data.flat import SPLITS, pointer_of
from molflowctl.data.known import molecule_hash
from molflowctl.data.shards import open_workshop, read_shard, write_shard
from molflowctl.errors import UserError
from molflowctl.io.atomic import check_free
from molflowctl.io.library import Record, count_records, read_molecules
from molflowctl.io.library_writers import SDFWriter
from molflowctl.io.locks import one_writer
from molflowctl.io.record import versions
from molflowctl.tasks.failures import Failures
from molflowctl.tasks.preparation.relaxing import relax_ensemble
from molflowctl.tasks.preparation.settings import EnsembleConfig

__all__ = ["Made", "Source", "make_ensemble", "prepare_ensembles", "write_sdf"]

SHARD = 100  # molecules
SHARES = (0.9, 0.95)  # of a file: train up to here, validation up to here, then test
TRIES = 8  # of ETKDG at one conformer: seconds are lost on strained cages else
TIMEOUT = {"none": 300.0, "mmff": 300.0, "gfn2": 3600.0}  # seconds a molecule


_NOWHERE = Record("", None, {}, "")


@dataclass(frozen=True)
class Source:
    """One molecule to make an ensemble of: SMILES, or a geometry that knows the stereo.

    Attributes:
        place: where it stands, for what is said of it: its record without the molecule.
    """

    number: int
    molecule: str | Graph3D
    split: int
    place: Record = _NOWHERE


@dataclass(frozen=True)
class Made:
    """A finished ensemble: K conformers of N atoms, by rising energy.

    Attributes:
        smiles: isomeric; `AddHs(MolFromSmiles(.))` has the order of the atoms.
        numbers: (N,) uint8; positions: angstrom, (K, N, 3) float32.
        energies: kcal/mol above the lowest, (K,).
    """

    source: Source
    smiles: str
    numbers: np.ndarray
    positions: np.ndarray
    energies: np.ndarray


@one_writer(lambda config, *_, **__: config.out, folder=True)
def prepare_ensembles(
    config: EnsembleConfig,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    failed: Callable[[Failures], object] = lambda _: None,
) -> ConformerDataset:
    """Make and write the data set of `config`. Ctrl-C keeps the shards that are whole.

    Arguments:
        failed: called at the end with the molecules that got no ensemble.

    Raises:
        UserError: for a source, an output or settings that cannot be used, or if nothing is left.
    """
    out = Path(config.out)
    check_free(out, overwrite=config.overwrite)
    if config.sdf:
        check_free(config.sdf, overwrite=config.overwrite)
    sources, provenance = _sources(config)
    workshop = _workshop(config, out, sources)
    with WorkerPool(config.jobs, isolate=True) as pool:
        for number, chunk in enumerate(_chunks(sources, SHARD)):
            shard = workshop / f"{number:05d}.safetensors"
            if not shard.exists():
                _make_shard(shard, chunk, config, pool)
            progress(min((number + 1) * SHARD, len(sources)), len(sources))
    with Failures(out) as failures:
        places = {source.number: source.place for source in sources}
        data = _merged(sorted(workshop.glob("*.safetensors")), config, places, failures)
        data.card = provenance | data.card
        data.save(out, overwrite=config.overwrite)
    failed(failures)
    if config.sdf:
        write_sdf(data, config.sdf, overwrite=config.overwrite)
    shutil.rmtree(workshop)
    return data


def make_ensemble(source: Source, config: EnsembleConfig) -> Made | str:
    """The ensemble of one molecule, or why there is none: a key to count by."""
    try:
        smiles, given = _isomeric_smiles(source, config.seed)
    except _LeftOut as reason:
        return str(reason)
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    if not config.min_atoms <= mol.GetNumAtoms() <= config.max_atoms:
        return "too few or too many atoms"
    if config.etkdg_conformers:
        embed(
            mol, config.etkdg_conformers, seed=config.seed + 1_000_003 * source.number, tries=TRIES
        )
    if given is not None and (order := given.GetSubstructMatch(mol, useChirality=True)):
        conformer = Chem.Conformer(given.GetConformer())
        conformer.SetPositions(given.GetConformer().GetPositions()[list(order)])
        mol.AddConformer(conformer, assignId=True)
    if mol.GetNumConformers() == 0:
        return "no geometry to start from"
    mol, energies = _refined(mol, "none" if config.relax == "none" else "mmff", config)
    if config.relax == "gfn2" and len(energies):
        mol, energies = _refined(mol, "gfn2", config)
    if len(energies) == 0:
        return "no conformer kept its bonds and its stereo"
    positions = np.stack([c.GetPositions() for c in mol.GetConformers()]).astype(np.float32)
    return Made(
        source,
        smiles,
        np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()], np.uint8),
        positions - positions.mean(1, keepdims=True),
        energies - energies[0],
    )


def write_sdf(data: ConformerDataset, path: str | Path, *, overwrite: bool = False) -> None:
    """Write a data set as an SDF library, one record per conformer, grouped by title."""
    method = data.card.get("energies", "")
    with SDFWriter(path, overwrite=overwrite) as writer:
        for row, smiles in enumerate(data.smiles):
            mol = data.mol(row)
            first = int(data.conformer_ptr[row])
            title = f"{data.card.get('name', 'molecule')}-{int(data.source_index[row]):06d}"
            for k, conformer in enumerate(mol.GetConformers()):
                tags = {
                    "smiles": smiles,
                    "relative_energy_kcal_mol": float(data.energies[first + k]),
                    "boltzmann_weight": float(data.weights[first + k]),
                    "energy_method": method,
                }
                writer.write(Chem.Mol(mol, False, conformer.GetId()), tags, title)


def _refined(mol: Chem.Mol, relax: str, config: EnsembleConfig) -> tuple[Chem.Mol, np.ndarray]:
    """The distinct low conformers after relaxation, by rising energy."""
    mol, energies, _, _ = relax_ensemble(mol, relax)
    places = prune(mol, energies, config.rmsd_threshold, config.energy_window)[
        : config.max_conformers
    ]
    return keep_conformers(mol, places), energies[places]


class _LeftOut(Exception):
    """A molecule that no ensemble is made of, with the reason."""


def _isomeric_smiles(source: Source, seed: int) -> tuple[str, Chem.Mol | None]:
    """Canonical SMILES with all stereo specified, and the source's geometry, hydrogens placed."""
    given = None
    with rdBase.BlockLogs():
        if isinstance(source.molecule, Graph3D):
            mol = to_mol(source.molecule, explicit=bool((source.molecule.numbers == 1).any()))
            if Chem.SanitizeMol(mol, catchErrors=True):
                raise _LeftOut("RDKit cannot sanitise it")
            Chem.AssignStereochemistryFrom3D(mol)
            given = Chem.AddHs(mol, addCoords=True)
            mol = Chem.MolFromSmiles(Chem.MolToSmiles(Chem.RemoveHs(mol)))
        else:
            mol = Chem.MolFromSmiles(source.molecule)
        if mol is None or mol.GetNumAtoms() == 0:
            raise _LeftOut("SMILES not readable")
        if len(Chem.GetMolFrags(mol)) > 1:
            raise _LeftOut("several fragments")
        if any(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms()):
            raise _LeftOut("radical")
        if not isinstance(source.molecule, Graph3D) and unspecified_stereo(mol):
            isomers = stereoisomers(mol, 1, seed=seed + source.number)
            if not isomers:
                raise _LeftOut("no stereoisomer can be built")
            mol = isomers[0]
        return Chem.MolToSmiles(mol), given


def _sources(config: EnsembleConfig) -> tuple[list[Source], dict[str, Any]]:
    """The molecules asked for, in the order of their numbers, and where they are from."""
    path = Path(config.source)
    if path.is_dir():
        data = MoleculeDataset.load(path)
        rows = data.indices(config.split).tolist()
        sources = [
            Source(
                int(data.source_index[row]),
                data.graph(row),
                int(data.split[row]),
                _NOWHERE._replace(
                    name=data.smiles[row], source=config.source, line=row + 1, number=row + 1
                ),
            )
            for row in _some(rows, config)
        ]
        kept = ("title", "source", "doi", "citation", "licence")
        card = {name: data.card[name] for name in kept if name in data.card}
        return sources, card | {"molecules_of": data.card.get("name", path.name)}
    if not config.etkdg_conformers:
        raise UserError(
            f"the geometries of {path} are not read: --etkdg-conformers has to be 1 or more."
        )
    # Without a split to look for, what is drawn is known before the molecules are read.
    every = range(count_records(path))
    drawn = set(every if config.split else _some(list(every), config))
    sources, stripped = [], 0
    for number, record in enumerate(read_molecules(path)):
        if number not in drawn:
            continue
        place = record._replace(mol=None, tags={}, block="")
        if record.mol is None:
            sources.append(Source(number, "", 0, place))  # counted with the reason of its own
            continue
        mol = record.mol
        if config.salts == "strip":  # before the split: salts of one parent are in one
            settled = settle_salt(mol, "strip", neutralise=config.neutralise)
            if settled.refused:
                sources.append(Source(number, "", 0, place._replace(error=settled.refused)))
                continue
            mol, stripped = settled.mol, stripped + bool(settled.stripped)
        smiles = Chem.MolToSmiles(normalised(mol))  # a data set has no atom maps
        share = molecule_hash(canonical_smiles(mol)) / 2**64
        split = sum(share >= bound for bound in SHARES)
        if config.split in (None, SPLITS[split]):
            sources.append(Source(number, smiles, split, place))
    about: dict[str, Any] = {
        "title": f"conformers of the molecules in {path.name}",
        "licence": config.licence,
    }
    if stripped:
        about["salts_stripped"] = stripped
    return _some(sources, config) if config.split else sources, about


def _some(items: list[Any], config: EnsembleConfig) -> list[Any]:
    """`limit` of the items, drawn at random, in their order."""
    if config.limit is None or config.limit >= len(items):
        return items
    picked = np.random.default_rng(config.seed).permutation(len(items))[: config.limit]
    return [items[k] for k in np.sort(picked)]


def _chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _workshop(config: EnsembleConfig, out: Path, sources: list[Source]) -> Path:
    """The folder of the shards: new, or that of a run with the same settings."""
    if not sources:
        raise UserError(f"{config.source} has no molecules to make ensembles of.")
    digest = hashlib.sha256()
    for s in sources:
        known = s.molecule if isinstance(s.molecule, str) else s.molecule.positions.tobytes()
        digest.update(repr((s.number, s.split, known)).encode())
    free = {"out", "jobs", "resume", "overwrite", "sdf", "licence"}
    settings = config.model_dump(mode="json", exclude=free)
    settings |= {"molecules": digest.hexdigest(), "rdkit": rdBase.rdkitVersion, "shards": 2}
    return open_workshop(out, settings, resume=config.resume, overwrite=config.overwrite)


@dataclass(frozen=True)
class _Make:
    config: EnsembleConfig

    def __call__(self, source: Source) -> Made | str:
        return make_ensemble(source, self.config)


def _make_shard(
    path: Path,
    sources: Sequence[Source],
    config: EnsembleConfig,
    pool: WorkerPool,
) -> None:
    made: list[Made] = []
    left_out: list[tuple[int, str]] = []
    outcomes = pool.map(_Make(config), sources, timeout=TIMEOUT[config.relax], chunk=4)
    for source, outcome in zip(sources, outcomes, strict=True):
        if isinstance(outcome.value, Made):
            made.append(outcome.value)
        else:
            left_out.append((source.number, outcome.value or outcome.error or "failed"))
    tensors = {
        "numbers": _joined([m.numbers for m in made], torch.uint8),
        "positions": _joined([m.positions.reshape(-1, 3) for m in made], torch.float32, (0, 3)),
        "energies": _joined([m.energies for m in made], torch.float32),
        "atoms": torch.tensor([len(m.numbers) for m in made], dtype=torch.int64),
        "conformers": torch.tensor([len(m.energies) for m in made], dtype=torch.int64),
        "split": torch.tensor([m.source.split for m in made], dtype=torch.uint8),
        "source_index": torch.tensor([m.source.number for m in made], dtype=torch.int32),
    }
    write_shard(path, tensors, {"smiles": [m.smiles for m in made], "left_out": left_out})


def _joined(
    parts: list[np.ndarray], dtype: torch.dtype, empty: tuple[int, ...] = (0,)
) -> torch.Tensor:
    if not parts:
        return torch.zeros(empty, dtype=dtype)
    return torch.from_numpy(np.concatenate(parts)).to(dtype)


def _merged(
    shards: list[Path], config: EnsembleConfig, places: dict[int, Record], failures: Failures
) -> ConformerDataset:
    """All shards as one data set, each molecule once."""
    parts, smiles, left_out = [], [], Counter[str]()
    for shard in shards:
        tensors, note = read_shard(shard)
        parts.append(tensors)
        smiles += note["smiles"]
        for number, reason in note["left_out"]:
            left_out[reason.split(":")[0]] += 1
            failures.add(places[number], places[number].error or reason)
    whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    if not smiles:
        raise UserError(f"no molecule of {config.source} got an ensemble: {dict(left_out)}.")
    atoms, conformers = whole.pop("atoms"), whole.pop("conformers")
    first = dict(zip(reversed(smiles), reversed(range(len(smiles))), strict=True))
    once = torch.zeros(len(smiles), dtype=torch.bool)
    once[list(first.values())] = True
    if not once.all():
        left_out["the same molecule as an earlier one"] = int((~once).sum())
    data = ConformerDataset(
        numbers=whole["numbers"][once.repeat_interleave(atoms)],
        atom_ptr=pointer_of(atoms[once]),
        positions=whole["positions"][once.repeat_interleave(atoms * conformers)],
        conformer_ptr=pointer_of(conformers[once]),
        energies=whole["energies"][once.repeat_interleave(conformers)],
        weights=torch.zeros(0),
        split=whole["split"][once],
        source_index=whole["source_index"][once],
        smiles=list(itertools.compress(smiles, once.tolist())),
    )
    data.weights = torch.cat(
        [
            torch.from_numpy(boltzmann_weights(part.numpy(), config.temperature_K)).float()
            for part in data.energies.split(conformers[once].tolist())
        ]
    )
    data.card = {
        "name": config.name,
        "made_from": Path(config.source).name,
        "energies": "GFN2-xTB" if config.relax == "gfn2" else "MMFF94 (UFF where it has none)",
        "hydrogens": "explicit",
        "position_unit": "angstrom",
        "energy_unit": "kcal/mol",
        "temperature_kelvin": config.temperature_K,
        "recipe": config.model_dump(
            mode="json",
            include={
                "limit",
                "split",
                "etkdg_conformers",
                "relax",
                "rmsd_threshold",
                "energy_window",
                "max_conformers",
                "seed",
            },
        ),
        "left_out": dict(left_out.most_common()),
        "versions": versions(),
    }
    return data
