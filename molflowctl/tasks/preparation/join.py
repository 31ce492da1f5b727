"""Several data sets as one; `molflowctl data join`.

A molecule that an earlier one has, whatever its stereo and its split there, is left out of the
later ones: so none is trained on that the first data set holds out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rdkit import Chem, rdBase

from molflowctl.chem.graphs import canonical_smiles
from molflowctl.data.conformer_data import ConformerDataset
from molflowctl.data.datasets import MoleculeDataset
from molflowctl.errors import UserError
from molflowctl.io.atomic import check_free
from molflowctl.io.locks import one_writer

__all__ = ["join"]

_ALIKE = ("hydrogens", "position_unit", "energy_unit", "energies", "temperature_kelvin")
_LISTED = ("source", "doi", "citation", "licence")


@one_writer(lambda folders, out, *_, **__: out, folder=True)
def join(
    folders: Sequence[Path], out: Path, *, overwrite: bool = False
) -> MoleculeDataset | ConformerDataset:
    """Write the molecules of `folders`, in this order, to `out`, and return them.

    Args:
        folders: two data sets or more, all of molecules or all of conformers.

    Raises:
        UserError: fewer than two, no data set, of two kinds, with other hydrogens, units or
            energies, or an output that exists.
    """
    if len(folders) < 2:
        raise UserError("join takes two data sets or more.")
    check_free(out, overwrite=overwrite)
    kinds = [_kind(folder) for folder in folders]
    if len(set(kinds)) > 1:
        other = kinds.index(next(kind for kind in kinds if kind is not kinds[0]))
        raise UserError(
            f"{folders[0]} and {folders[other]} are data sets of two kinds: molecules and "
            "ensembles of conformers cannot be joined."
        )
    parts: list[Any] = [kinds[0].load(folder) for folder in folders]
    for folder, part in zip(folders[1:], parts[1:], strict=True):
        for key in _ALIKE:
            if part.card.get(key) != parts[0].card.get(key):
                raise UserError(
                    f"{folder} and {folders[0]} cannot be joined: {key} is "
                    f"{part.card.get(key)!r} there and {parts[0].card.get(key)!r} here."
                )
    seen: set[str] = set()
    kept = []
    for part in parts:
        molecules = [_constitution(s) for s in part.smiles]
        rows = [k for k, molecule in enumerate(molecules) if molecule not in seen]
        seen.update(molecules)
        kept.append(part.select(torch.tensor(rows, dtype=torch.int64)))
    whole = kinds[0].concatenate(kept)
    card = {key: parts[0].card[key] for key in _ALIKE if key in parts[0].card}
    for key in _LISTED:
        if values := list(dict.fromkeys(str(p.card[key]) for p in parts if key in p.card)):
            card[key] = "; ".join(values)
    whole.card = card | {
        "name": out.resolve().name,
        "title": " and ".join(str(part.card.get("name")) for part in parts),
        "parents": [
            {"name": part.card.get("name"), "sha256": part.card["sha256"], "kept": len(rest)}
            for part, rest in zip(parts, kept, strict=True)
        ],
        "left_out": {"in an earlier data set": sum(map(len, parts)) - len(whole)},
    }
    whole.save(out, overwrite=overwrite)
    return whole


def _kind(folder: Path) -> type[MoleculeDataset] | type[ConformerDataset]:
    return ConformerDataset if (folder / "ensembles.safetensors").is_file() else MoleculeDataset


def _constitution(smiles: str) -> str:
    """The canonical SMILES without stereo."""
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles)
    return smiles if mol is None else canonical_smiles(mol)
