"""How much of a ligand's three-dimensional pharmacophore a molecule has in place.

The pharmacophore is the donors, acceptors, charges, aromatic rings and hydrophobes of the ligand's
conformer (RDKit's BaseFeatures), each at its place. The molecule is laid on the ligand by shape and
features (`likeness.shape`), and every feature f of the ligand counts with the best of the
molecule's features g of its kind within 2.5 angstrom:

    mean over f of max over g of exp(-|f - g|^2 / 1 angstrom^2)          0 to 1

which are RDKit's FeatMap scores. Features beyond those of the ligand cost nothing.

References:
    Putta, Landrum, Penzotti, J. Med. Chem. 48, 3313 (2005), doi:10.1021/jm049066l (feature maps).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from rdkit import Chem, RDConfig
from rdkit.Chem import ChemicalFeatures, Mol

from molflowctl.properties.functions import BadArgument
from molflowctl.properties.likeness.references import conformers_of, references_3d, version_of
from molflowctl.properties.likeness.shape import check_conformers, gaussian_shape, laid_on
from molflowctl.properties.registry import Property, register_function

__all__ = ["FAMILIES", "Pharmacophore", "feature_map", "features_of"]

FAMILIES = (
    "Donor", "Acceptor", "NegIonizable", "PosIonizable", "Aromatic", "Hydrophobe",
    "LumpedHydrophobe",
)  # fmt: skip


@cache
def _factory() -> Any:
    return ChemicalFeatures.BuildFeatureFactory(str(Path(RDConfig.RDDataDir, "BaseFeatures.fdef")))


def features_of(mol: Mol, conformer: int = -1) -> list[Any]:
    """RDKit's features of these families, at their places in a conformer."""
    found = _factory().GetFeaturesForMol(mol, confId=conformer)
    return [feature for feature in found if feature.GetFamily() in FAMILIES]


def feature_map(ligand: Mol) -> Any:
    """RDKit's FeatMap of a ligand: every feature with weight 1, and RDKit's radius and width."""
    from rdkit.Chem.FeatMaps.FeatMaps import FeatMap, FeatMapParams

    features = features_of(ligand)
    params = {family: FeatMapParams() for family in _factory().GetFeatureFamilies()}
    return FeatMap(feats=features, weights=[1.0] * len(features), params=params)


@lru_cache(maxsize=16)
def _map_of(ligand: bytes) -> Any:
    return feature_map(Mol(ligand))


@dataclass(frozen=True)
class Pharmacophore:
    """The share of a ligand's pharmacophore that the best of a molecule's conformers has in place.

    Args:
        ligand: a molecule with a conformer, as RDKit's binary.
        conformers: of the molecule, 0 for its own.
    """

    ligand: bytes
    conformers: int = 0

    def __call__(self, mol: Mol) -> float:
        poses = Chem.RemoveHs(conformers_of(mol, self.conformers))
        identifiers = [conformer.GetId() for conformer in poses.GetConformers()]
        return max(self._met(poses, n) for n in identifiers[: self.conformers or 1])

    def _met(self, poses: Mol, conformer: int) -> float:
        # The shape of a molecule is its first conformer alone, and so is what is moved.
        pose = Mol(poses, confId=conformer)
        laid_on(self.ligand, pose)
        wanted, there = _map_of(self.ligand), features_of(pose)
        best = [
            max((wanted.GetFeatFeatScore(f, g) for g in there), default=0.0)
            for f in wanted.GetFeatures()
        ]
        return sum(best) / len(best)


@register_function(
    "pharmacophore",
    description="share of a ligand's 3-D pharmacophore that is in place, 0 to 1",
    arguments={
        "ligand": "a SMILES, or a file with one ligand in its pose",
        "conformers": "of the molecule; 0 for its own",
    },
    example='pharmacophore("CC(=O)Oc1ccccc1C(=O)O")',
)
def _pharmacophore(ligand: str, conformers: int = 0) -> Property:
    gaussian_shape()
    check_conformers(conformers)
    mols = references_3d([ligand])
    if len(mols) > 1:
        raise BadArgument(
            ligand, f"{ligand} holds {len(mols):,} ligands: a pharmacophore is of one"
        )
    bare = Chem.RemoveHs(mols[0])
    if not features_of(bare):
        raise BadArgument(ligand, f"{ligand} has no pharmacophore feature: {', '.join(FAMILIES)}")
    return Property(
        name="pharmacophore",
        unit="",
        version=version_of(mols, geometry=True),
        description="share of a ligand's 3-D pharmacophore in place",
        compute=Pharmacophore(bare.ToBinary(), conformers),
        higher_is="better",
        engine="shape",
        geometry=conformers == 0,
        bounds=(0.0, 1.0),
    )
