"""Structural alerts: substructures that medicinal chemists would rather not see.

References:
    Baell, Holloway, PAINS, J. Med. Chem. 53, 2719 (2010), doi:10.1021/jm901137j;
    Brenk et al., ChemMedChem 3, 435 (2008), doi:10.1002/cmdc.200700139; both as RDKit's catalogues.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Literal

from rdkit.Chem import Mol
from rdkit.Chem.FilterCatalog import FilterCatalog, FilterCatalogParams

from molflowctl.chem.identity import unlabelled
from molflowctl.properties.registry import Property, register, register_function

__all__ = ["CATALOGUES", "Alerts", "structural_alerts"]

# As RDKit's `FilterCatalog` has them; those of ChEMBL by their authors.
CATALOGUES = {
    "pains": "PAINS", "pains_a": "PAINS_A", "pains_b": "PAINS_B", "pains_c": "PAINS_C",
    "brenk": "BRENK", "nih": "NIH", "zinc": "ZINC", "chembl": "CHEMBL", "glaxo": "CHEMBL_Glaxo",
    "dundee": "CHEMBL_Dundee", "bms": "CHEMBL_BMS", "surechembl": "CHEMBL_SureChEMBL",
    "mlsmr": "CHEMBL_MLSMR", "inpharmatica": "CHEMBL_Inpharmatica", "lint": "CHEMBL_LINT",
}  # fmt: skip
Catalogue = Literal[
    "pains", "pains_a", "pains_b", "pains_c", "brenk", "nih", "zinc", "chembl", "glaxo", "dundee",
    "bms", "surechembl", "mlsmr", "inpharmatica", "lint",
]  # fmt: skip


def structural_alerts(mol: Mol, catalogue: Catalogue) -> list[str]:
    """Names of the catalogue's alerts that the molecule matches, each once, as RDKit spells them.

    catalogue: `pains` (480 patterns), `brenk` (105) or another of `CATALOGUES`.
    """
    plain = unlabelled(mol)  # the patterns are meant for implicit hydrogens
    return sorted(match.GetDescription() for match in _catalogue(catalogue).GetMatches(plain))


@cache
def _catalogue(name: Catalogue) -> FilterCatalog:
    parameters = FilterCatalogParams()
    parameters.AddCatalog(getattr(FilterCatalogParams.FilterCatalogs, CATALOGUES[name]))
    return FilterCatalog(parameters)


@dataclass(frozen=True)
class Alerts:
    """The number of a catalogue's alerts that a molecule matches."""

    catalogue: Catalogue

    def __call__(self, mol: Mol) -> float:
        return len(structural_alerts(mol, self.catalogue))


_REGISTERED: dict[Catalogue, str] = {
    "pains": "PAINS alerts: patterns of pan-assay interference",
    "brenk": "Brenk alerts: reactive, toxic or unstable groups",
}
for name, what in _REGISTERED.items():
    register(
        f"{name}_alerts",
        unit="",
        version=2,
        geometry=False,
        higher_is="worse",
        aliases=(name,),
        description=f"number of {what}",
    )(Alerts(name))


@register_function(
    "alerts",
    description="number of a catalogue's structural alerts, each counted once",
    arguments={"catalogue": ", ".join(CATALOGUES)},
    example='alerts("brenk")',
)
def _alerts(catalogue: Catalogue) -> Property:
    return Property(
        name="alerts",
        unit="",
        version=1,
        description=f"number of alerts of {CATALOGUES[catalogue]}",
        compute=Alerts(catalogue),
        higher_is="worse",
        geometry=False,
        bounds=(0.0, math.inf),
    )
