"""The input of `molflowctl conformers`: which stereoisomers to do, and by which flow.

A SMILES, or the entries of a file; every one that cannot be done is noted with its place, as are
duplicates, empty lines and stereo that is left open.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from rdkit import Chem
from rdkit.Chem.EnumerateStereoisomers import GetStereoisomerCount, StereoEnumerationOptions

from molflowctl.chem.axial import axes_text
from molflowctl.chem.identity import identity, parent
from molflowctl.chem.open_stereo import MOST, isomers_of
from molflowctl.chem.salts import REFUSED, is_several, settle_salt
from molflowctl.chem.spin import declared
from molflowctl.chem.stereo import stereoisomers, unspecified_stereo, without_false_centres
from molflowctl.errors import UserError
from molflowctl.io.library import is_file
from molflowctl.io.parsing import parse_smiles, split_smiles
from molflowctl.io.reading import (
    Given,
    Record,
    count_records,
    isomers_of_groups,
    read_molecules,
    survey,
)
from molflowctl.models.conformer import ConformerFlow
from molflowctl.properties.geometries.crowded import is_crowded
from molflowctl.properties.geometries.starting import knows_mmff94, unplaceable
from molflowctl.tasks.conformers.settings import ConformersConfig
from molflowctl.tasks.failures import Failures

__all__ = ["ETKDG", "Conformers", "Job", "count_entries", "read_jobs"]

ETKDG = "etkdg"


@dataclass(frozen=True)
class Job:
    """One stereoisomer to make conformers of, by which model, and what its records say besides.

    The spin and the hands of axes, `axes_text`, are those that the input says, if it says any.
    record: the entry it is of, without molecule, by the title of its records.
    """

    number: int
    smiles: str
    record: Record
    model: str
    tags: dict[str, str] = field(default_factory=dict)
    multiplicity: int | None = None
    axes: str = ""

    @property
    def title(self) -> str:
        """Of its records."""
        return self.record.name

    @property
    def place(self) -> str:
        """Where it stands in the input."""
        return self.record.place


@dataclass
class Conformers:
    """How a run went.

    Attributes:
        read: entries of the input; done: stereoisomers delivered; failed: entries or stereoisomers
            that were not; written: conformers; counts: draws and what became of them; notes: what
            there is to say, by line; failures: what failed, one by one.
    """

    read: int = 0
    done: int = 0
    failed: int = 0
    written: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    complete: bool = False
    failures: Failures | None = None

    def refuse(self, record: Record, reason: str) -> None:
        """Note an entry that cannot be done."""
        self.failed += 1
        self.notes.append(f"{record.place}: {reason}")
        if self.failures is not None:
            self.failures.add(record, reason)


def count_entries(source: str | Given) -> int:
    """Molecules in the input, those that cannot be read among them."""
    return count_records(source) if isinstance(source, Given) or is_file(source) else 1


def read_jobs(
    config: ConformersConfig,
    given: Given | None,
    flows: Mapping[str, ConformerFlow],
    state: Conformers,
) -> Iterator[Job]:
    """The stereoisomers to do, in the order of the input; what is refused goes into `state`.

    given: molecules, in the place of `config.source`.
    """
    seen: dict[str, str] = {}
    number = 0
    for record in _entries(config, given, state):
        state.read = record.number
        place, mol = record.place, record.mol
        reason, tags = record.error, dict[str, str]()
        spin = config.multiplicity or (declared(mol) if mol is not None else None)
        if mol is not None and not reason:
            mol, tags, reason = _settled(mol, config)
        reason = reason or _refusal(mol, config)
        model = config.model
        if mol is not None and not reason and is_several(mol):
            model = ETKDG
            state.notes.append(f"{place}: several fragments, by ETKDGv3 each and set apart")
        elif mol is not None and not reason and flows:
            model, reason = _choice(mol, flows)
        if reason:
            state.refuse(record, reason)
            continue
        for tag, text in tags.items():
            what = tag.replace("_", " ")
            state.counts[what] += 1
            state.notes.append(f"{place}: {what}: {text}")
        assert mol is not None
        if record.note:
            state.notes.append(f"{place}: {record.note}")
        if groups := record.tags.get("enhanced_stereo"):
            tags["enhanced_stereo"] = groups
        smiles = Chem.MolToSmiles(mol)
        molecule = f"{identity(mol)} {spin or ''}"
        if molecule in seen:
            state.counts["duplicates"] += 1
            state.notes.append(f"{place}: the same molecule as {seen[molecule]}, not done again")
            continue
        seen[molecule] = place
        isomers, hands = [smiles], axes_text(mol)
        if unspecified_stereo(mol):
            isomers, note = _isomers(mol, config)
            if not isomers:
                state.refuse(record, note)
                continue
            if note:
                state.notes.append(f"{place}: {note}")
                tags["stereo_open"] = str(unspecified_stereo(mol))
        for k, isomer in enumerate(isomers, start=1):
            suffix = f"-iso{k}" if len(isomers) > 1 else ""
            named = record._replace(name=record.title + suffix, mol=None, tags={}, block="")
            yield Job(number, isomer, named, model, tags, spin, hands)
            number += 1


def _entries(config: ConformersConfig, given: Given | None, state: Conformers) -> Iterator[Record]:
    """The records of the input, enhanced stereo made isomers, without explicit hydrogens."""
    source = given or config.source
    if isinstance(source, str) and not is_file(source):
        smiles, extension, _ = split_smiles(source)
        parsed = parse_smiles(smiles, extension)
        if parsed.mol is None or parsed.mol.GetNumAtoms() == 0:
            raise UserError(f"{source!r} is neither a file nor a SMILES: {parsed.error}.")
        records = iter([Record(smiles, parsed.mol, {}, "", number=1, place=source)])
    else:
        state.notes += [f"line {number}: empty" for number in survey(source).empty]
        records = read_molecules(
            source, smiles_column=config.smiles_column, name_column=config.name_column
        )
    most = config.isomers if isinstance(config.isomers, int) else MOST
    for entry in records:
        for record in isomers_of_groups(entry, most):
            mol = record.mol
            if mol is not None:
                if mol.GetNumConformers() and mol.GetConformer().Is3D():
                    Chem.AssignStereochemistryFrom3D(mol)
                mol = Chem.RemoveHs(mol)
            yield record._replace(mol=mol)


def _settled(mol: Chem.Mol, config: ConformersConfig) -> tuple[Chem.Mol, dict[str, str], str]:
    """A molecule after the rule for salts, what is to be said of it, and why it is refused."""
    found = settle_salt(mol, config.salts, neutralise=config.neutralise)
    if found.refused == REFUSED:
        return (
            mol,
            {},
            (
                f"{len(Chem.GetMolFrags(mol))} fragments, a salt or a mixture: --salts strip does "
                f"{Chem.MolToSmiles(parent(mol))} alone, --salts keep all of it"
            ),
        )
    said = {"salt_stripped": found.stripped, "charge_neutralised": found.neutralised}
    return found.mol, {name: text for name, text in said.items() if text}, found.refused


def _refusal(mol: Chem.Mol | None, config: ConformersConfig) -> str:
    """Why nothing makes conformers of a molecule; empty if something may."""
    if mol is None or mol.GetNumAtoms() == 0:
        return "no molecule"
    whole = Chem.AddHs(mol)
    if whole.GetNumAtoms() < 2:
        return "a single atom has no conformers"
    if reason := unplaceable(whole):
        return reason
    if config.relax == "gfn2":
        return ""
    for atom in whole.GetAtoms():
        if is_crowded(atom):
            return (
                f"no force field knows how {atom.GetDegree()} atoms stand around "
                f"{atom.GetSymbol()}: --relax gfn2"
            )
    if is_several(mol) and not knows_mmff94(whole):
        return "MMFF94 does not know all of it, and UFF has no charges: --relax gfn2"
    return ""


def _choice(mol: Chem.Mol, flows: Mapping[str, ConformerFlow]) -> tuple[str, str]:
    """The flow for a molecule: one that learnt from its like, else one that does not refuse it.

    Returns its name, and why it is none, empty if it is one.
    """
    name, reasons = "", {}
    for name, flow in flows.items():
        dressed = flow.with_placed_atoms(mol)
        if dressed.GetNumAtoms() < 2:
            reasons[name] = "the flow places heavy atoms, and this molecule has a single one"
        else:
            reasons[name] = flow.unsupported_reason(dressed)
        if not reasons[name] and dressed.GetNumAtoms() <= max(flow.sizes):
            return name, ""
    for name, reason in reasons.items():
        if not reason:
            return name, ""
    return name, reasons[name]


def _isomers(mol: Chem.Mol, config: ConformersConfig) -> tuple[list[str], str]:
    """Stereoisomers of a molecule that leaves stereo open, and what to say about it.

    Nothing is said of a bridged ring that can be built one way only.
    """
    count = unspecified_stereo(mol)
    word = "centre or double bond" if count == 1 else "centres or double bonds"
    says = f"{count} {word} left open"
    limited = isinstance(config.isomers, int)
    if isinstance(config.isomers, int):
        found = stereoisomers(mol, config.isomers, seed=config.seed)
        options = StereoEnumerationOptions(onlyUnassigned=True, unique=True)
        possible = GetStereoisomerCount(without_false_centres(mol)[0], options=options)
        most = config.isomers
    else:
        isomers = isomers_of(mol, config.isomers)
        if not isomers.open:
            return [Chem.MolToSmiles(mol)], ""
        if config.isomers == "refuse":
            return [], f"{says}: --isomers enumerate does all of them, first one"
        found, possible, most = isomers.mols, isomers.possible, MOST
    smiles = [Chem.MolToSmiles(isomer) for isomer in found]
    if not smiles:
        return [], f"{says}, and no stereoisomer can be built"
    if limited and len(smiles) == 1 < most and not isomers_of(mol, 2).open:
        return smiles, ""
    if config.isomers == "first":
        return smiles, f"{says}: {smiles[0]} taken, of up to {possible}"
    # Of the rest some may not exist: then no limit would bring them.
    limit = f" of up to {possible}" if len(found) < possible else ""
    if limited and len(found) == most < possible:
        more = stereoisomers(mol, most + 1, seed=config.seed)
        limit += ": --isomers raises the limit" if len(more) > most else ""
    return smiles, f"{says}: {len(found)} stereoisomers{limit}"
