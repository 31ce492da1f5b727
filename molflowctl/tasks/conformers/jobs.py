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
from molflowctl.tasks.conformers.pose import Placing, Pose
from molflowctl.tasks.conformers.settings import ConformersConfig
from molflowctl.tasks.failures import Failures

__all__ = ["AUTO", "ETKDG", "Conformers", "Job", "count_entries", "models_of", "read_jobs"]

AUTO, ETKDG = "auto", "etkdg"
LARGEST_RING = 8  # atoms, of the molecules that the shipped flows have learnt from


@dataclass(frozen=True)
class Job:
    """One stereoisomer to make conformers of, by which models, and what its records say besides.

    The spin and the hands of axes, `axes_text`, are those that the input says, if it says any.
    record: the entry it is of, without molecule, by the title of its records. placing: of a core
    that is kept in its pose.
    """

    number: int
    smiles: str
    record: Record
    models: tuple[str, ...]
    tags: dict[str, str] = field(default_factory=dict)
    multiplicity: int | None = None
    axes: str = ""
    placing: Placing | None = None

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
    pose = Pose.read(config.pose, config.core) if config.pose is not None else None
    for record in _entries(config, given, state):
        state.read = record.number
        place, mol = record.place, record.mol
        reason, tags = record.error, dict[str, str]()
        spin = config.multiplicity or (declared(mol) if mol is not None else None)
        if mol is not None and not reason:
            mol, tags, reason = _settled(mol, config)
        reason = reason or _refusal(mol, config)
        models: tuple[str, ...] = (ETKDG,)
        why = ""
        if mol is not None and not reason:
            if is_several(mol):
                why = "several fragments, by ETKDGv3 each and set apart"
            elif config.model == AUTO and pose is None:
                models, why = _best(mol, flows, config)
            elif pose is None:
                models, reason = _asked(mol, models_of(config.model, flows), flows)
            if pose is not None and is_several(mol):
                reason = "several fragments are not placed on the core of a pose"
        if why and not reason:
            state.notes.append(f"{place}: {why}")
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
            placing = pose.on(Chem.AddHs(Chem.MolFromSmiles(isomer))) if pose else None
            if isinstance(placing, str):
                state.refuse(named, placing)
                continue
            yield Job(number, isomer, named, models, tags, spin, hands, placing)
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


def models_of(model: str, flows: Mapping[str, ConformerFlow]) -> tuple[str, ...]:
    """The models that a setting names; the name of a flow in memory may have a comma."""
    return (model,) if model in flows else tuple(name.strip() for name in model.split(","))


def _asked(
    mol: Chem.Mol, models: tuple[str, ...], flows: Mapping[str, ConformerFlow]
) -> tuple[tuple[str, ...], str]:
    """The models that the user asked for, and why one of them cannot do it, empty if all can."""
    for name in models:
        if name != ETKDG and (reason := _reason(mol, flows[name])):
            return models, reason
    return models, ""


def _best(
    mol: Chem.Mol, flows: Mapping[str, ConformerFlow], config: ConformersConfig
) -> tuple[tuple[str, ...], str]:
    """What the benchmark found best for such a molecule, and what is to be said of it.

    Of small molecules the flow that has learnt from their like. Of others both that flow and
    ETKDGv3, half the conformers each, but of conformers as drawn, where the flow's have the lower
    energies. ETKDGv3 for what no flow has learnt from. (benchmarks/conformers/README.md)
    """
    reason = ""
    for name, flow in flows.items():
        heavy = flow.hydrogens == "implicit"
        reason = _reason(mol, flow) or _strange(mol, flow)
        small = flow.with_placed_atoms(mol).GetNumAtoms() <= max(flow.sizes)
        if not reason and (heavy or small):
            return ((name, ETKDG) if heavy and config.relax != "none" else (name,)), ""
    return (ETKDG,), f"by ETKDGv3 alone: {reason}"


def _reason(mol: Chem.Mol, flow: ConformerFlow) -> str:
    """Why a flow cannot place the atoms of a molecule; empty if it can."""
    dressed = flow.with_placed_atoms(mol)
    if dressed.GetNumAtoms() < 2:
        return "the flow places heavy atoms, and this molecule has a single one"
    return flow.unsupported_reason(dressed)


def _strange(mol: Chem.Mol, flow: ConformerFlow) -> str:
    """What a shipped flow has hardly learnt from, of a molecule that it could place."""
    ring = max(map(len, mol.GetRingInfo().AtomRings()), default=0)
    if ring > LARGEST_RING:
        return f"the flow has learnt from no ring of {ring}"
    if flow.hydrogens == "implicit" and any(a.GetFormalCharge() for a in mol.GetAtoms()):
        return "the flow has learnt from few charged atoms"
    return ""


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
