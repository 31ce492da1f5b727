"""Reference molecules that a user names: by SMILES, or by a library of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from rdkit import Chem, rdBase
from rdkit.Chem import Mol, rdDistGeom

from molflowctl.chem.identity import identity
from molflowctl.io.opening import READABLE
from molflowctl.io.reading import read_molecules
from molflowctl.properties.cache import geometry_key
from molflowctl.properties.energies.geometry import checked_positions
from molflowctl.properties.functions import BadArgument
from molflowctl.properties.geometries.ready import ready
from molflowctl.properties.registry import PropertyError

__all__ = ["conformers_of", "digest", "references", "references_3d", "version_of"]

_SEED = 0xF00D  # of conformers: a molecule has the same ones wherever it is met


def references(texts: Sequence[str]) -> list[Mol]:
    """The molecules of SMILES, and of libraries that end as `molflowctl score` reads them.

    Raises:
        BadArgument: for a SMILES or a file that cannot be read, or an entry of it.
    """
    return [mol for text in texts for mol in _molecules(text)]


def references_3d(texts: Sequence[str]) -> list[Mol]:
    """As `references`, each with its conformer; one is made (ETKDGv3, MMFF94) where none is there.

    Raises:
        BadArgument: as `references`, or a conformer that cannot be made.
    """
    found = []
    for text in texts:
        for mol in _molecules(text):
            # Coordinates of a drawing are no geometry.
            flat = mol.GetNumConformers() and not mol.GetConformer().Is3D()
            plain = Chem.MolFromSmiles(Chem.MolToSmiles(mol)) if flat else mol
            made = ready(plain, salts="strip")
            try:
                checked_positions(made.mol)
            except PropertyError as error:
                raise BadArgument(text, f"{text}: {made.error or error}") from None
            found.append(made.mol)
    return found


def _molecules(text: str) -> list[Mol]:
    if not (text.lower().removesuffix(".gz").endswith(READABLE) or Path(text).is_file()):
        with rdBase.BlockLogs():
            mol = Chem.MolFromSmiles(text) if text.strip() else None
        if mol is None or mol.GetNumAtoms() == 0:
            endings = ", ".join(READABLE)
            raise BadArgument(
                text, f"{text[:60]!r} is no SMILES that can be read, nor a library ({endings})"
            )
        return [mol]
    if not Path(text).exists():
        raise BadArgument(text, f"there is no file {text}")
    found = []
    for place, record in enumerate(read_molecules(text), 1):
        if record.mol is None:
            raise BadArgument(text, f"{text}, entry {place}: {record.error}")
        found.append(record.mol)
    if not found:
        raise BadArgument(text, f"{text} holds no molecule")
    return found


def conformers_of(mol: Mol, n: int) -> Mol:
    """A molecule with its own conformer (n = 0), or with `n` new ones (ETKDGv3).

    Raises:
        PropertyError: there is none, or none can be made.
    """
    if n == 0:
        checked_positions(mol)
        return mol
    parameters = rdDistGeom.ETKDGv3()
    parameters.randomSeed = _SEED
    parameters.numThreads = 1
    full = Chem.AddHs(mol)
    with rdBase.BlockLogs():
        made = rdDistGeom.EmbedMultipleConfs(full, n, parameters)
    if not len(made):
        raise PropertyError("no conformer could be made")
    return full


def version_of(mols: Iterable[Mol], *, geometry: bool = False, stereo: bool = False) -> int:
    """A number for a set of references, so that values of another set are not taken for its own."""
    if geometry:
        return digest(sorted(geometry_key(mol).hex() for mol in mols))
    return digest(sorted({identity(mol, stereo=stereo) for mol in mols}))


def digest(lines: Iterable[str]) -> int:
    """48 bits and never 0, so that a database's integer can hold it."""
    found = hashlib.blake2b("\n".join(lines).encode(), digest_size=6).digest()
    return int.from_bytes(found, "little") or 1
