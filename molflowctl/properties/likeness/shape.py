"""Overlap of a molecule's shape and features with those of reference ligands.

Atoms are Gaussians, and so are pharmacophore features, the colours; the molecule is laid on the
reference where the two overlap most, and the overlap is given as Tanimoto similarities, 0 to 1:
of the shapes, of the colours, and the mean of both, which is what is made large. By RDKit's
`rdGaussianShape`, with its defaults.

References:
    Grant, Gallardo, Pickup, J. Comput. Chem. 17, 1653 (1996),
    doi:10.1002/(SICI)1096-987X(19961115)17:14<1653::AID-JCC7>3.0.CO;2-K (Gaussian shape);
    Rush, Grant, Mosyak, Nicholls, J. Med. Chem. 48, 1489 (2005), doi:10.1021/jm040163o (colour).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from rdkit import Chem
from rdkit.Chem import Mol

from molflowctl.errors import UserError
from molflowctl.properties.functions import BadArgument
from molflowctl.properties.likeness.references import conformers_of, references_3d, version_of
from molflowctl.properties.registry import Property, register_function

__all__ = ["MOST_CONFORMERS", "Overlap", "check_conformers", "laid_on", "shape"]

MOST_CONFORMERS = 1000
_PLACES = {"combo": 0, "shape": 1, "colour": 2}  # in what RDKit returns
Part = Literal["combo", "shape", "colour"]
Combine = Literal["max", "mean"]


def laid_on(reference: bytes, mol: Mol, conformer: int = -1) -> tuple[float, float, float]:
    """Move a conformer onto a reference; how well they overlap: both, shape, colour.

    Raises:
        UserError: an RDKit without `rdGaussianShape`.
    """
    found: tuple[float, float, float] = gaussian_shape().AlignMol(
        _read(reference), mol, fitConfId=conformer
    )
    return found


@lru_cache(maxsize=256)
def _read(reference: bytes) -> Mol:
    return Mol(reference)


def gaussian_shape() -> Any:
    """RDKit's module; raises `UserError` where it has none."""
    try:
        from rdkit.Chem import rdGaussianShape
    except ImportError:
        raise UserError("this RDKit has no rdGaussianShape: pip install -U rdkit") from None
    return rdGaussianShape


@dataclass(frozen=True)
class Overlap:
    """The best overlap of a molecule's conformers with reference conformers.

    Args:
        references: molecules with a conformer each, as RDKit's binary.
        part: of what the overlap is given.
        conformers: of the molecule, 0 for its own.
        combine: of several references the best, or the mean.
    """

    references: tuple[bytes, ...]
    part: Part = "combo"
    conformers: int = 0
    combine: Combine = "max"

    def __call__(self, mol: Mol) -> float:
        poses = Chem.RemoveHs(conformers_of(mol, self.conformers))
        identifiers = [conformer.GetId() for conformer in poses.GetConformers()]
        if self.conformers == 0:
            identifiers = identifiers[:1]
        place = _PLACES[self.part]
        best = [
            max(laid_on(reference, Mol(poses), n)[place] for n in identifiers)
            for reference in self.references
        ]
        found = max(best) if self.combine == "max" else sum(best) / len(best)
        return min(max(found, 0.0), 1.0)  # a rounding error above 1


def check_conformers(n: int) -> None:
    """Raise `BadArgument` for a number of conformers that is none."""
    if not 0 <= n <= MOST_CONFORMERS:
        raise BadArgument(
            float(n), f"conformers is a number from 0, the molecule's own, to {MOST_CONFORMERS:,}"
        )


@register_function(
    "shape",
    description="overlap of shape and features with a ligand's conformer, 0 to 1",
    arguments={
        "reference": "a SMILES, or a library of ligands with their poses",
        "part": "combo (the mean of both), shape or colour",
        "conformers": "of the molecule; 0 for its own",
        "combine": "max or mean over several references",
    },
    example='shape("CC(=O)Oc1ccccc1C(=O)O")',
)
def shape(
    *reference: str, part: Part = "combo", conformers: int = 0, combine: Combine = "max"
) -> Property:
    """The property of these references; see `Overlap`."""
    gaussian_shape()
    check_conformers(conformers)
    mols = references_3d(reference)
    binaries = tuple(Chem.RemoveHs(mol).ToBinary() for mol in mols)
    return Property(
        name="shape",
        unit="",
        version=version_of(mols, geometry=True),
        description="overlap of shape and features with reference conformers",
        compute=Overlap(binaries, part, conformers, combine),
        higher_is="better",
        engine="shape",
        geometry=conformers == 0,
        bounds=(0.0, 1.0),
    )
