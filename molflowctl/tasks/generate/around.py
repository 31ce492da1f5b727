"""Flows around what a user gives: cores, molecules to vary, parts to replace."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rdkit import Chem

from molflowctl.chem.graphs import Graph3D, canonical_smiles, from_mol
from molflowctl.errors import UserError
from molflowctl.io.reading import read_molecules
from molflowctl.models.around.core import Core, embedded, has_pose
from molflowctl.models.around.hands import open_atoms
from molflowctl.models.molecule_flow import MoleculeFlow
from molflowctl.properties.similarity import Similarity
from molflowctl.properties.substructure import read_smarts
from molflowctl.tasks.generate.settings import AroundSettings

__all__ = ["CORE_TAGS", "Given", "read_given"]

CORE_TAGS = ("core_atoms", "core_rmsd_angstrom", "similarity_to_start")
FILES = (".sdf", ".sdf.gz", ".mol", ".smi", ".smi.gz", ".csv", ".csv.gz", ".parquet")
RESIZED = 3  # atoms by which what is replaced may grow or shrink


@dataclass(frozen=True)
class Given:
    """What molecules are designed around.

    Attributes:
        core: known atoms, the first of every molecule, or None.
        like: a molecule to vary, whose first atoms are the core's, or None.
        start: the SMILES of the molecule that was given, empty where it was a core.
        sizes: numbers of atoms of the molecules; None for all that the flow has.
        noise: by which `like` is varied.
        notes: what was decided where the input left it open, a line each.
    """

    core: Core | None
    like: Graph3D | None = None
    start: str = ""
    sizes: range | None = None
    noise: float | None = None
    notes: tuple[str, ...] = ()

    def digest(self) -> str:
        """A hash of all of it."""
        like = None if self.like is None else [part.tolist() for part in vars(self.like).values()]
        text = json.dumps([self.core and self.core.plain(), like, self.noise])
        return hashlib.sha256(text.encode()).hexdigest()

    def flow(self, flow: MoleculeFlow) -> MoleculeFlow:
        """A flow around it.

        Raises:
            UserError: for a flow that has no place for it.
        """
        sizes = None
        if self.sizes is not None:
            sizes = {n: count for n, count in flow.sizes.items() if n in self.sizes}
            if not sizes:
                raise UserError(
                    f"the molecule has {self.sizes.stop - 1 - RESIZED} heavy atoms; this flow "
                    f"knows molecules of {min(flow.sizes)} to {max(flow.sizes)}."
                )
        return flow.around(self.core, like=self.like, noise=self.noise, sizes=sizes)

    def tags(self, mol: Chem.Mol) -> dict[str, object]:
        """What a record says of its core, and of the molecule that was given."""
        found: dict[str, object] = {}
        if self.core is not None:
            k = len(self.core)
            found["core_atoms"] = " ".join(map(str, range(k)))
            if self.core.pose:
                gap = mol.GetConformer().GetPositions()[:k] - np.array(self.core.positions)
                found["core_rmsd_angstrom"] = float(np.sqrt((gap**2).sum(1).mean()))
        if self.start:
            found["similarity_to_start"] = float(Similarity([self.start])(mol))
        return found


def read_given(config: AroundSettings) -> Given | None:
    """What the settings give, or None.

    Raises:
        UserError: for files and SMILES that cannot be read, patterns that match nothing, and
            settings that do not go together; one line each.
    """
    noise: float | None = getattr(config, "noise", None)
    if config.core and config.like:
        raise UserError("--core and --like are two ways to say what is given: take one.")
    if not config.core:
        for name in ("attach", "core_geometry"):
            if getattr(config, name) is not None:
                raise UserError(f"--{name.replace('_', '-')} is of a core: name one with --core.")
    if not config.like:
        for name, value in (("noise", noise), ("keep", config.keep), ("replace", config.replace)):
            if value is not None:
                raise UserError(f"--{name} is of a molecule: name it with --like.")
    if config.core:
        return Given(_core(config))
    return None if config.like is None else _varied(config, config.like, noise)


def _core(config: AroundSettings) -> Core:
    """The core of `--core`, once or more."""
    assert config.core
    entries = [entry for text in config.core for entry in _entries(text)]
    attach = None if config.attach is None else _numbers(config.attach)
    geometry = config.core_geometry or "keep"
    if attach is None or len(entries) == 1:
        cores = [_one_core(name, mol, attach, geometry) for name, mol in entries]
        if geometry == "free" and len(cores) > 1:
            raise UserError("fragments to be linked keep their poses: no --core-geometry free.")
        return Core.joined(cores)
    # Numbers count through all fragments.
    cores, before = [], 0
    for name, mol in entries:
        whole = _one_core(name, mol, None, geometry)
        own = [a - before for a in attach if before <= a < before + len(whole)]
        if not own:
            raise UserError(f"--attach names no atom of {name}, which is to be linked.")
        cores.append(_one_core(name, mol, own, geometry))
        before += len(whole)
    if beyond := [a for a in attach if a >= before]:
        raise UserError(f"--attach {beyond[0]}: the fragments have the atoms 0 to {before - 1}.")
    return Core.joined(cores)


def _one_core(name: str, mol: Chem.Mol | None, attach: list[int] | None, geometry) -> Core:
    if mol is None:
        return Core.from_smiles(name, attach, geometry)
    return Core.from_mol(mol, attach, geometry, name=name)


def _entries(text: str) -> list[tuple[str, Chem.Mol | None]]:
    """The molecules of a file with their names, or a SMILES and None."""
    if not text.lower().endswith(FILES) and not Path(text).is_file():
        return [(text, None)]
    found: list[tuple[str, Chem.Mol | None]] = []
    for record in read_molecules(text):
        if record.mol is None:
            raise UserError(f"{text}, {record.place}: {record.error}")
        found.append((text if record.number == 1 else f"{text}, {record.place}", record.mol))
    return found


def _numbers(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise UserError(f"--attach takes numbers of atoms such as 0,6,7, got {text!r}.")
    return [int(part) for part in parts]


def _varied(config: AroundSettings, text: str, noise: float | None) -> Given:
    """What `--like` and its companions give."""
    if noise is None and config.replace is None:
        varied = "--noise, by which it is varied, or " if hasattr(config, "noise") else ""
        raise UserError(f"--like needs {varied}--replace.")
    if config.keep is not None and config.replace is not None:
        raise UserError("--keep and --replace say the same thing in two ways: take one.")
    entries = _entries(text)
    if len(entries) > 1:
        raise UserError(f"{text} holds {len(entries)} molecules: --like takes one.")
    name, mol = entries[0]
    if mol is None:
        mol = Chem.MolFromSmiles(name) if len(name) < 5000 else None
        if mol is None:
            raise UserError(f"{name!r} is no SMILES that RDKit can read, and no file.")
    if len(Chem.GetMolFrags(mol)) > 1:
        raise UserError(f"{name} has several fragments: --like takes one molecule.")
    plain = Chem.RemoveAllHs(mol)
    kept = _kept(config, plain, name)
    notes: tuple[str, ...] = ()
    if not has_pose(mol):
        left_open = open_atoms(plain)
        embedded(plain, name)
        if left_open and (noise is not None or left_open & set(kept)):
            notes = (_chosen(plain, name),)
    start = canonical_smiles(plain)
    if not kept:
        return Given(None, from_mol(plain, False), start, None, noise, notes)
    rest = [a for a in range(plain.GetNumAtoms()) if a not in set(kept)]
    core = Core.part_of(plain, kept, exact=config.replace is not None)
    if noise is None:
        n = plain.GetNumAtoms()
        least = max(len(kept) + 1, n - RESIZED)
        return Given(core, None, start, range(least, n + RESIZED + 1), notes=notes)
    ordered = Chem.RenumberAtoms(plain, [*kept, *rest])
    return Given(core, from_mol(ordered, False), start, None, noise, notes)


def _chosen(plain: Chem.Mol, name: str) -> str:
    """What is said of a molecule that left stereo open, of its conformer."""
    isomer = Chem.Mol(plain)
    Chem.AssignStereochemistryFrom3D(isomer)
    return (
        f"{name} leaves stereo open: the isomer {Chem.MolToSmiles(isomer)} was taken. Write the "
        f"one that is meant, or give it in SDF with 3-D coordinates."
    )


def _kept(config: AroundSettings, plain: Chem.Mol, name: str) -> list[int]:
    """The atoms that stay, in their order; none where all are varied."""
    pattern = config.keep or config.replace
    if pattern is None:
        return []
    matches = {frozenset(m) for m in plain.GetSubstructMatches(read_smarts(pattern))}
    if not matches:
        raise UserError(f"{pattern} matches nothing in {name}.")
    every = range(plain.GetNumAtoms())
    if config.keep is not None:
        kept = sorted(frozenset().union(*matches))
        if len(kept) == len(every):
            raise UserError(f"--keep {pattern} holds all of {name}: nothing is left to vary.")
        return kept
    if len(matches) > 1:
        places = "; ".join(" ".join(map(str, sorted(m))) for m in sorted(matches, key=sorted))
        raise UserError(
            f"--replace {pattern} matches {len(matches)} parts of {name} (atoms {places}, counted "
            f"from 0): make it match one."
        )
    kept = [atom for atom in every if atom not in next(iter(matches))]
    if not kept:
        raise UserError(f"--replace {pattern} matches all of {name}: nothing would stay.")
    return kept
