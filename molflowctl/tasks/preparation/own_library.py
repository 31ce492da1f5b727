"""An own library of molecules, an SDF file, as a data set that a given flow can learn from.

Each record is brought to the flow's representation: heavy atoms at the record's coordinates where
the flow's hydrogens are implicit, every atom where they are explicit; kekulised bonds and formal
charges. What the flow cannot hold is left out and counted by reason. Every record that is kept has
been made a molecule again from its graph alone, with the same hydrogens on each atom.

Duplicates and conformers of one molecule are kept, all on the same side of the split.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rdkit import Chem, rdBase

from molflowctl.chem.geometry import COVALENT_RADII
from molflowctl.chem.graphs import Failure, Graph3D, assemble, from_mol
from molflowctl.data.datasets import MoleculeDataset, split_by_molecule
from molflowctl.errors import UserError
from molflowctl.io.library import READABLE, count_records, read_molecules
from molflowctl.io.parsing import FLAT
from molflowctl.io.plain_files import sha256_of
from molflowctl.models.denovo import DeNovoFlow
from molflowctl.tasks.failures import Failures
from molflowctl.tasks.preparation.qm9 import LONGEST_BOND, Matched, collate

__all__ = ["FEWEST", "VALIDATION", "describe", "fit", "is_library", "library_dataset"]

FEWEST = 32  # molecules worth training on
VALIDATION = 0.1  # share of the records
_RULE = (
    "records whose elements, charges and number of atoms the flow knows, in one piece, with "
    "three-dimensional coordinates, without radicals, clashes or stretched bonds"
)


def is_library(path: Path) -> bool:
    """Whether this names a library, a file, and not a prepared data set, a folder.

    Raises:
        UserError: for a library without geometries.
    """
    kind = Path(path.name.removesuffix(".gz")).suffix.lower()
    if kind not in READABLE or path.is_dir():
        return False
    if kind != ".sdf":
        raise UserError(
            f"{path} holds no geometries to learn from. Make some, for instance with: "
            f"molflowctl score {path} -p qed -o library.sdf.gz"
        )
    return True


def fit(mol: Chem.Mol, flow: DeNovoFlow) -> tuple[Graph3D, str] | str:
    """A molecule as `flow` represents it, with its SMILES; or why it cannot, in a few words."""
    if mol.GetNumConformers() == 0 or not mol.GetConformer().Is3D():
        return "no 3-D coordinates"
    if len(Chem.GetMolFrags(mol)) != 1:
        return "several fragments"
    if any(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms()):
        return "radical"
    explicit = flow.hydrogens == "explicit"
    if explicit and any(atom.GetTotalNumHs() for atom in mol.GetAtoms()):
        return "hydrogens missing"
    try:
        with rdBase.BlockLogs():
            graph = from_mol(mol, hydrogens=explicit)
    except ValueError:
        return "a bond that is not single, double or triple"
    if foreign := sorted(set(graph.numbers.tolist()) - set(flow.elements)):
        return f"element {Chem.GetPeriodicTable().GetElementSymbol(foreign[0])}"
    if foreign := sorted(set(graph.charges.tolist()) - set(flow.charges)):
        return f"formal charge {foreign[0]:+d}"
    atoms, least, most = len(graph.numbers), min(flow.sizes), max(flow.sizes)
    if not least <= atoms <= most:
        kind = "atoms" if explicit else "heavy atoms"
        return f"fewer than {least} {kind}" if atoms < least else f"more than {most} {kind}"
    return _checked(graph, mol, explicit)


def _checked(graph: Graph3D, mol: Chem.Mol, explicit: bool) -> tuple[Graph3D, str] | str:
    i, j = np.nonzero(np.triu(graph.bonds, 1))
    lengths = np.linalg.norm(graph.positions[i] - graph.positions[j], axis=1)
    radii = COVALENT_RADII[graph.numbers]
    if (lengths > LONGEST_BOND * (radii[i] + radii[j])).any():
        return "bond too long"
    again = assemble(graph, relax="none", explicit=explicit)
    if isinstance(again, Failure):
        return again.reason
    if _hydrogens(again.mol) != _hydrogens(mol):
        return "hydrogens do not follow from valence"
    return graph, again.smiles


def _hydrogens(mol: Chem.Mol) -> list[int]:
    """On each heavy atom, in their order."""
    atoms = (atom for atom in mol.GetAtoms() if atom.GetAtomicNum() > 1)
    return [atom.GetTotalNumHs(includeNeighbors=True) for atom in atoms]


def library_dataset(
    source: Path,
    folder: Path,
    flow: DeNovoFlow,
    *,
    seed: int = 0,
    resume: bool = False,
    progress: Callable[[str, int, int], object] = lambda what, done, total: None,
) -> MoleculeDataset:
    """Read the SDF file `source` for `flow` and keep it as a data set in `folder`.

    Args:
        seed: of the split, nine records to train on for each that validates.
        resume: take what an earlier call left in `folder`; the file itself may be gone by then.
        progress: called with what is done, how many records are done, and of how many.

    Raises:
        UserError: an unreadable file, fewer than 32 usable records, or, on a resume, a file, flow
            or seed that is not the earlier call's.
    """
    origin = {"for_flow": flow.card.get("weights_sha256"), "split_seed": seed}
    if source.exists() or not (resume and folder.exists()):
        origin["source_sha256"] = sha256_of(source)
    if resume and folder.exists():
        data = MoleculeDataset.load(folder)
        if differ := [key for key, value in origin.items() if data.card.get(key) != value]:
            names = {"for_flow": "another flow", "split_seed": "another seed"}
            what = ", ".join(names.get(key, f"another {source.name}") for key in differ)
            raise UserError(
                f"the run in {folder.parent} began with {what}: go on as it began, or start "
                "a new run in another folder."
            )
        return data
    with Failures(folder) as failures:
        kept, left_out = _read(source, flow, failures, progress)
        smiles = [m.smiles for m in kept]
        if len(kept) < FEWEST or len(set(smiles)) < 2:
            raise UserError(
                f"{source} has {len(kept)} records of {len(set(smiles))} molecules to learn from, "
                f"too few: at least {FEWEST} are needed. Left out: {_counts(left_out) or 'none'}."
            )
        data = collate(kept, split_by_molecule(smiles, VALIDATION, seed).numpy())
        data.card = {
            "name": source.name.removesuffix(".gz").removesuffix(".sdf"),
            "title": f"{len(kept):,} records of {source.name}",
            "read_from": source.name,
            **origin,
            "hydrogens": flow.hydrogens,
            "position_unit": "angstrom",
            "rule": _RULE,
            "read": len(kept) + left_out.total(),
            "kept": len(kept),
            "different": len(set(smiles)),
            "left_out": dict(left_out.most_common()),
            "rdkit": rdBase.rdkitVersion,
        }
        data.save(folder, overwrite=folder.exists())
    return data


def describe(card: dict[str, Any]) -> list[tuple[str, str]]:
    """What was taken of a library and what was left out, for a table; empty for other data."""
    if "different" not in card:
        return []
    return [
        ("read", f"{card['read']:,} records"),
        ("kept", f"{card['kept']:,} records, {card['different']:,} different molecules"),
        *((f"left out: {reason}", f"{count:,}") for reason, count in card["left_out"].items()),
    ]


def _read(
    source: Path,
    flow: DeNovoFlow,
    failures: Failures,
    progress: Callable[[str, int, int], object],
) -> tuple[list[Matched], Counter[str]]:
    """What the flow can learn from, and what is left out, counted and each with its place."""
    total = count_records(source)
    kept: list[Matched] = []
    left_out: Counter[str] = Counter()
    for number, record in enumerate(read_molecules(source)):
        found = "unreadable" if record.mol is None else fit(record.mol, flow)
        if record.note == FLAT:
            found = "a flat drawing whose header says 3D"
        if isinstance(found, str):
            left_out[found] += 1
            failures.add(record, record.error or found)
        else:
            kept.append(Matched.of(found[0], number, found[1]))
        progress(f"reading {source.name}", number + 1, total)
    return kept, left_out


def _counts(left_out: Counter[str]) -> str:
    return ", ".join(f"{count:,} x {reason}" for reason, count in left_out.most_common())
