"""How near a molecule is to those of a reference set, and whether it is new to them.

In an expression it is `similarity("CCO", "actives.smi", fingerprint="fcfp4")`. In Python both are
built from the set and then registered under any name:

    actives = Similarity(["CC(=O)Oc1ccccc1C(=O)O", ...])
    register("similarity_to_actives", unit="", version=actives.version, description="...")(actives)

`version` is a digest of the set, so that values stored for another set are not mistaken for these.

References:
    Rogers, Hahn, extended-connectivity fingerprints, J. Chem. Inf. Model. 50, 742 (2010),
    doi:10.1021/ci100050t; Carhart, Smith, Venkataraghavan, atom pairs, J. Chem. Inf. Comput. Sci.
    25, 64 (1985), doi:10.1021/ci00046a002.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Literal

import numpy as np
from rdkit import Chem, DataStructs
from rdkit.Chem import Mol, rdFingerprintGenerator
from rdkit.DataStructs import ExplicitBitVect

from molflowctl.chem.identity import identity, unlabelled
from molflowctl.errors import UserError
from molflowctl.properties.likeness.references import digest, references, version_of
from molflowctl.properties.registry import Property, register, register_function

__all__ = ["Fingerprint", "Novelty", "Similarity", "reference_properties"]

_BITS = 2048
Fingerprint = Literal["ecfp4", "ecfp6", "fcfp4", "fcfp6", "atom_pair"]


class Similarity:
    """The Tanimoto similarity of fingerprints (2,048 bits) to the reference, 0 to 1.

    Isotopes and stereo do not count.

    Args:
        reference: molecules or SMILES.
        fingerprint: Morgan of radius 2 or 3, by elements (`ecfp4`, `ecfp6`) or by features
            (`fcfp4`, `fcfp6`), or `atom_pair`.
        combine: of several molecules the largest similarity, or the mean.

    Raises:
        UserError: a SMILES that cannot be read, or no molecules.
    """

    def __init__(
        self,
        reference: Iterable[Mol | str],
        fingerprint: Fingerprint = "ecfp4",
        combine: Literal["max", "mean"] = "max",
    ) -> None:
        self.fingerprint, self.combine = fingerprint, combine
        mols = [_molecule(entry) for entry in reference]
        if not mols:
            raise UserError("similarity needs a reference set with at least one molecule")
        self.version = version_of(mols)
        self._fingerprints = [self._of(mol) for mol in mols]

    def _of(self, mol: Mol) -> ExplicitBitVect:
        return _generator(self.fingerprint).GetFingerprint(unlabelled(mol))

    def __call__(self, mol: Mol) -> float:
        found = DataStructs.BulkTanimotoSimilarity(self._of(mol), self._fingerprints)
        return max(found) if self.combine == "max" else sum(found) / len(found)


@register_function(
    "similarity",
    description="Tanimoto similarity of fingerprints to known molecules, 0 to 1",
    arguments={
        "reference": "a SMILES, or a library of molecules",
        "fingerprint": "ecfp4, ecfp6, fcfp4, fcfp6 or atom_pair",
        "combine": "max or mean over several references",
    },
    example='similarity("CC(=O)Oc1ccccc1C(=O)O")',
)
def _similarity(
    *reference: str,
    fingerprint: Fingerprint = "ecfp4",
    combine: Literal["max", "mean"] = "max",
) -> Property:
    compute = Similarity(references(reference), fingerprint, combine)
    return Property(
        "similarity",
        "",
        compute.version,
        "Tanimoto similarity to known molecules",
        compute,
        engine="reference",
        geometry=False,
        bounds=(0.0, 1.0),
    )


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
        self.version = digest(map(str, self._hashes.tolist()))

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


@cache
def _generator(kind: Fingerprint) -> "rdFingerprintGenerator.FingerprintGenerator64":
    if kind == "atom_pair":
        return rdFingerprintGenerator.GetAtomPairGenerator(fpSize=_BITS)
    invariants = (
        {"atomInvariantsGenerator": rdFingerprintGenerator.GetMorganFeatureAtomInvGen()}
        if kind.startswith("fcfp")
        else {}
    )
    return rdFingerprintGenerator.GetMorganGenerator(
        radius=int(kind[-1]) // 2, fpSize=_BITS, **invariants
    )
