"""How near a molecule is to those of a reference set, and whether it is new to them.

Both are built from the set and then registered under any name:

    actives = Similarity(["CC(=O)Oc1ccccc1C(=O)O", ...])
    register("similarity_to_actives", unit="", version=actives.version, description="...")(actives)

`version` is a digest of the set, so that values stored for another set are not mistaken for these.

References:
    Rogers, Hahn, extended-connectivity fingerprints, J. Chem. Inf. Model. 50, 742 (2010),
    doi:10.1021/ci100050t.
"""

import hashlib
from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np
from rdkit import Chem, DataStructs
from rdkit.Chem import Mol, rdFingerprintGenerator
from rdkit.DataStructs import ExplicitBitVect

from molflowctl.chem.identity import identity, unlabelled
from molflowctl.errors import UserError
from molflowctl.properties.registry import Property, register

__all__ = ["Novelty", "Similarity", "reference_properties"]

_RADIUS, _BITS = 2, 2048  # "ECFP4"


class Similarity:
    """The largest Tanimoto similarity of Morgan fingerprints (radius 2) to the reference, 0 to 1.

    Isotopes and stereo do not count.

    Args:
        reference: molecules or SMILES.

    Raises:
        UserError: a SMILES that cannot be read, or no molecules.
    """

    def __init__(self, reference: Iterable[Mol | str]) -> None:
        mols = [_molecule(entry) for entry in reference]
        if not mols:
            raise UserError("similarity needs a reference set with at least one molecule")
        self.version = _digest(sorted({identity(mol, stereo=False) for mol in mols}))
        self._fingerprints = [_fingerprint(mol) for mol in mols]

    def __call__(self, mol: Mol) -> float:
        return max(DataStructs.BulkTanimotoSimilarity(_fingerprint(mol), self._fingerprints))


class Novelty:
    """1 for a molecule that is not in the reference, 0 for one that is; stereo does not count.

    Args:
        reference: molecules or SMILES; or, (n,) uint64, sorted hashes of such as
            `molflowctl.data.known.load_hashes` returns.

    Raises:
        UserError: a SMILES that cannot be read.
    """

    def __init__(self, reference: Iterable[Mol | str] | np.ndarray) -> None:
        if isinstance(reference, np.ndarray):
            self._hashes = reference
        else:
            from molflowctl.data.known import hash_molecules

            self._hashes = hash_molecules(identity(_molecule(m), stereo=False) for m in reference)
        self.version = _digest(map(str, self._hashes.tolist()))

    def __call__(self, mol: Mol) -> float:
        from molflowctl.data.known import known

        return float(not known([identity(mol, stereo=False)], self._hashes)[0])


def reference_properties(mols: Sequence[Mol]) -> list[Property]:
    """`reference_similarity` and `reference_novelty` to these, for `properties.score`.

    Raises:
        UserError: no molecules.
    """
    similarity, novelty = Similarity(mols), Novelty(mols)
    return [
        Property(
            "reference_similarity",
            "",
            similarity.version,
            "Tanimoto similarity to the nearest of the reference, Morgan radius 2",
            similarity,
            engine="reference",
            geometry=False,
        ),
        Property(
            "reference_novelty",
            "",
            novelty.version,
            "1 if not in the reference, stereo aside, else 0",
            novelty,
            engine="reference",
            geometry=False,
        ),
    ]


@cache
def _novelty_to(name: str) -> Novelty:
    from molflowctl.data.known import load_hashes

    return Novelty(load_hashes(name))


@register(
    "novelty_qm9",
    unit="",
    bounds=(0.0, 1.0),
    version=2,
    geometry=False,
    engine="reference",
    description="1 if not among the 100,000 training molecules of QM9, else 0",
)
def novelty_qm9(mol: Mol) -> float:
    return _novelty_to("qm9")(mol)


def _molecule(entry: Mol | str) -> Mol:
    if isinstance(entry, Mol):
        return entry
    mol = Chem.MolFromSmiles(entry)
    if mol is None:
        raise UserError(f"the reference set has a SMILES that cannot be read: {entry!r}")
    return mol


def _fingerprint(mol: Mol) -> ExplicitBitVect:
    return _generator().GetFingerprint(unlabelled(mol))


@cache
def _generator() -> "rdFingerprintGenerator.FingerprintGenerator64":
    return rdFingerprintGenerator.GetMorganGenerator(radius=_RADIUS, fpSize=_BITS)


def _digest(lines: Iterable[str]) -> int:
    """48 bits and never 0, so that a database's integer can hold it."""
    digest = hashlib.blake2b("\n".join(lines).encode(), digest_size=6).digest()
    return int.from_bytes(digest, "little") or 1
