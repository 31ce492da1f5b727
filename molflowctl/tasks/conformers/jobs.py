"""The input of `molflowctl conformers`: which stereoisomers to do, and by which flow.

A SMILES, or the entries of a file; every one that cannot be done is noted with its place, as are
duplicates, empty lines and stereo that is left open.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from rdkit import Chem
from rdkit.Chem.EnumerateStereoisomers import GetStereoisomerCount, StereoEnumerationOptions

from molflowctl.chem.identity import identity
from molflowctl.chem.stereo import stereoisomers, unspecified_stereo
from molflowctl.errors import UserError
from molflowctl.io.parsing import parse_smiles, split_smiles
from molflowctl.io.reading import (
    READABLE,
    Record,
    count_records,
    isomers_of_groups,
    read_molecules,
    survey,
)
from molflowctl.models.conformer import ConformerFlow
from molflowctl.tasks.conformers.settings import ConformersConfig

__all__ = ["Conformers", "Job", "count_entries", "read_jobs"]


@dataclass(frozen=True)
class Job:
    """One stereoisomer to make conformers of, and by which model."""

    number: int
    title: str
    smiles: str
    place: str
    model: str


@dataclass
class Conformers:
    """How a run went.

    Attributes:
        read: entries of the input; done: stereoisomers delivered; failed: entries or stereoisomers
            that were not; written: conformers; counts: draws and what became of them; notes: what
            there is to say, by line.
    """

    read: int = 0
    done: int = 0
    failed: int = 0
    written: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    complete: bool = False

    def refuse(self, place: str, reason: str) -> None:
        """Note an entry that cannot be done."""
        self.failed += 1
        self.notes.append(f"{place}: {reason}")


def count_entries(source: str) -> int:
    """Molecules in the input, those that cannot be read among them."""
    return count_records(source) if _is_file(source) else 1


def read_jobs(
    config: ConformersConfig, flows: Mapping[str, ConformerFlow], state: Conformers
) -> Iterator[Job]:
    """The stereoisomers to do, in the order of the input; what is refused goes into `state`."""
    seen: dict[str, str] = {}
    number = 0
    for record in _entries(config, state):
        state.read = record.number
        place, mol = record.place, record.mol
        reason = record.error or _refusal(mol)
        model = config.model
        if mol is not None and not reason and flows:
            model, reason = _choice(mol, flows)
        if reason:
            state.refuse(place, reason)
            continue
        assert mol is not None
        if record.note:
            state.notes.append(f"{place}: {record.note}")
        smiles = Chem.MolToSmiles(mol)
        molecule = identity(mol)
        if molecule in seen:
            state.counts["duplicates"] += 1
            state.notes.append(f"{place}: the same molecule as {seen[molecule]}, not done again")
            continue
        seen[molecule] = place
        isomers = [smiles]
        if unspecified_stereo(mol):
            isomers, note = _isomers(mol, config)
            state.notes.append(f"{place}: {note}")
            if not isomers:
                state.failed += 1
                continue
        for k, isomer in enumerate(isomers, start=1):
            suffix = f"-iso{k}" if len(isomers) > 1 else ""
            yield Job(number, record.title + suffix, isomer, place, model)
            number += 1


def _is_file(source: str) -> bool:
    # Not Path.is_file, which raises for a SMILES that is longer than a file name may be.
    known = source.removesuffix(".gz").lower().endswith(READABLE)
    return known or source == "-" or os.path.isfile(source) or _is_pipe(source)


def _is_pipe(source: str) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(source).st_mode)
    except (OSError, ValueError):
        return False


def _entries(config: ConformersConfig, state: Conformers) -> Iterator[Record]:
    """The records of the input, enhanced stereo made isomers, without explicit hydrogens."""
    source = config.source
    if not _is_file(source):
        smiles, extension, _ = split_smiles(source)
        parsed = parse_smiles(smiles, extension)
        if parsed.mol is None or parsed.mol.GetNumAtoms() == 0:
            raise UserError(f"{source!r} is neither a file nor a SMILES: {parsed.error}.")
        records = iter([Record(smiles, parsed.mol, {}, "", number=1, place=source)])
    else:
        state.notes += [f"line {number}: empty" for number in survey(source).empty]
        records = read_molecules(source)
    for entry in records:
        for record in isomers_of_groups(entry, config.isomers):
            mol = record.mol
            if mol is not None:
                if mol.GetNumConformers() and mol.GetConformer().Is3D():
                    Chem.AssignStereochemistryFrom3D(mol)
                mol = Chem.RemoveHs(mol)
            yield record._replace(mol=mol)


def _refusal(mol: Chem.Mol | None) -> str:
    """Why no model makes conformers of a molecule; empty if one may."""
    if mol is None or mol.GetNumAtoms() == 0:
        return "no molecule"
    fragments = Chem.GetMolFrags(mol, asMols=True)
    if len(fragments) > 1:
        largest = max(fragments, key=lambda part: part.GetNumHeavyAtoms())
        return (
            f"{len(fragments)} fragments, a salt or a mixture: give one molecule, perhaps "
            f"{Chem.MolToSmiles(largest)}"
        )
    return "a single atom has no conformers" if Chem.AddHs(mol).GetNumAtoms() < 2 else ""


def _choice(mol: Chem.Mol, flows: Mapping[str, ConformerFlow]) -> tuple[str, str]:
    """The flow for a molecule: one that learnt from its like, else one that does not refuse it.

    Returns its name, and why it is none, empty if it is one.
    """
    name, reasons = "", {}
    for name, flow in flows.items():
        dressed = flow.dress(mol)
        if dressed.GetNumAtoms() < 2:
            reasons[name] = "the flow places heavy atoms, and this molecule has a single one"
        else:
            reasons[name] = flow.refuses(dressed)
        if not reasons[name] and dressed.GetNumAtoms() <= max(flow.sizes):
            return name, ""
    for name, reason in reasons.items():
        if not reason:
            return name, ""
    return name, reasons[name]


def _isomers(mol: Chem.Mol, config: ConformersConfig) -> tuple[list[str], str]:
    """Stereoisomers of a molecule that leaves stereo open, and what to say about it."""
    options = StereoEnumerationOptions(onlyUnassigned=True, unique=True)
    found = stereoisomers(mol, config.isomers, seed=config.seed)
    possible = GetStereoisomerCount(mol, options=options)
    word = "centre or double bond" if unspecified_stereo(mol) == 1 else "centres or double bonds"
    says = f"{unspecified_stereo(mol)} {word} left open"
    if not found:
        return [], f"{says}, and no stereoisomer can be built"
    limit = f" of up to {possible}: --isomers raises the limit" if len(found) < possible else ""
    return [Chem.MolToSmiles(m) for m in found], f"{says}: {len(found)} stereoisomers{limit}"
