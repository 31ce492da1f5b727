"""Structural alerts: substructures that medicinal chemists would rather not see.

References:
    Baell, Holloway, PAINS, J. Med. Chem. 53, 2719 (2010), doi:10.1021/jm901137j;
    Brenk et al., ChemMedChem 3, 435 (2008), doi:10.1002/cmdc.200700139; both as RDKit's catalogues.
"""

from functools import cache
from typing import Literal

from rdkit.Chem import Mol
from rdkit.Chem.FilterCatalog import FilterCatalog, FilterCatalogParams

from molflowctl.chem.identity import unlabelled
from molflowctl.properties.registry import register

__all__ = ["brenk_alerts", "pains_alerts", "structural_alerts"]

Catalogue = Literal["PAINS", "BRENK"]


def structural_alerts(mol: Mol, catalogue: Catalogue) -> list[str]:
    """Names of the catalogue's alerts that the molecule matches, each once, as RDKit spells them.

    catalogue: `PAINS` (480 patterns) or `BRENK` (105).
    """
    plain = unlabelled(mol)  # the patterns are meant for implicit hydrogens
    return sorted(match.GetDescription() for match in _catalogue(catalogue).GetMatches(plain))


@cache
def _catalogue(name: Catalogue) -> FilterCatalog:
    parameters = FilterCatalogParams()
    parameters.AddCatalog(getattr(FilterCatalogParams.FilterCatalogs, name))
    return FilterCatalog(parameters)


@register(
    "pains_alerts",
    unit="",
    version=2,
    geometry=False,
    higher_is="worse",
    aliases=("pains",),
    description="number of PAINS alerts: patterns of pan-assay interference",
)
def pains_alerts(mol: Mol) -> float:
    return len(structural_alerts(mol, "PAINS"))


@register(
    "brenk_alerts",
    unit="",
    version=2,
    geometry=False,
    higher_is="worse",
    aliases=("brenk",),
    description="number of Brenk alerts: reactive, toxic or unstable groups",
)
def brenk_alerts(mol: Mol) -> float:
    return len(structural_alerts(mol, "BRENK"))
