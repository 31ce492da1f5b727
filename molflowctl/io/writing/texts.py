"""Molecules as plain texts that other programs read: SMILES, XYZ and PDB.

They hold the structure and the title; values go into an SDF or a table.

    .smi    a line each: SMILES, a space, the title
    .xyz    every atom with its place in angstrom; the title is the comment
    .pdb    a MODEL each, the title in COMPND, bonds in CONECT
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from rdkit import Chem, rdBase

from molflowctl.errors import UserError
from molflowctl.io import escaping
from molflowctl.io.atomic import cannot_write
from molflowctl.io.library import numbered_title
from molflowctl.io.writing.unfinished import WholeFile

__all__ = ["TEXTS", "TextWriter", "text_of"]

TEXTS = (".smi", ".xyz", ".pdb")


def text_of(mol: Chem.Mol, kind: str, title: str, number: int) -> str:
    """The text of one molecule.

    Args:
        kind: one of `TEXTS`.
        number: from 1, of a model in a PDB.

    Raises:
        UserError: for XYZ and PDB, a molecule without a geometry or without all its hydrogens.
    """
    title = escaping.title(title)
    with rdBase.BlockLogs():
        if kind == ".smi":
            return f"{Chem.MolToSmiles(Chem.RemoveHs(mol))} {title}".rstrip() + "\n"
        if not mol.GetNumConformers() or not mol.GetConformer().Is3D():
            raise UserError(f"{title} has no geometry for {kind}: score the library first, or .smi")
        if any(atom.GetTotalNumHs() for atom in mol.GetAtoms()):
            raise UserError(f"{title} lacks hydrogens, which {kind} cannot imply: score it first")
        if kind == ".xyz":
            count, _, *atoms = Chem.MolToXYZBlock(mol).splitlines()
            return "\n".join([count, title, *atoms, ""])
        named = Chem.Mol(mol)
        named.SetProp("_Name", title)
        lines = Chem.MolToPDBBlock(named).splitlines()
    inside = [line for line in lines if line != "END"]
    return "\n".join([f"MODEL     {number:4d}", *inside, "ENDMDL", ""])


class TextWriter(WholeFile):
    """Writes `.smi`, `.xyz` or `.pdb`."""

    def __init__(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        super().__init__(path, overwrite)
        self._kind = self._target.suffix
        self._count = 0

    def write(
        self, mol: Chem.Mol, tags: Mapping[str, object], title: str | None = None, block: str = ""
    ) -> None:
        """Append a molecule; without a title it is numbered by its place in the file."""
        name = numbered_title(self._count) if title is None else title
        self._count += 1
        text = text_of(mol, self._kind, name, self._count)
        try:
            self._unfinished.file.write(text.encode())
        except OSError as error:
            raise cannot_write(self._target, error) from error

    def _end(self) -> None:
        if self._kind == ".pdb":
            self._unfinished.file.write(b"END\n")
