"""Properties of the molecular graph, by RDKit.

Coordinates, explicit hydrogens and atom maps do not matter. Nor do isotopes, save for the weight:
the patterns behind these numbers know no labelled hydrogen, and would take it for a heavy atom.

References:
    QED: Bickerton et al., Nature Chemistry 4, 90 (2012), doi:10.1038/nchem.1243.
    SA score: Ertl, Schuffenhauer, J. Cheminformatics 1:8 (2009), doi:10.1186/1758-2946-1-8.
    logP: Wildman, Crippen, J. Chem. Inf. Comput. Sci. 39, 868 (1999).
    TPSA, of N and O: Ertl, Rohde, Selzer, J. Med. Chem. 43, 3714 (2000).
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from rdkit import Chem, RDConfig
from rdkit.Chem import QED, Crippen, Descriptors, Mol
from rdkit.Chem import rdMolDescriptors as rd

from molflowctl.chem.identity import unlabelled
from molflowctl.properties.registry import PropertyError, register

__all__ = ["lipinski_pass", "lipinski_violations", "logp", "qed", "sa_score", "veber_pass"]


def qed(mol: Mol) -> float:
    """Weighted QED, 0 to 1."""
    return QED.qed(unlabelled(mol))


@cache
def _sascorer() -> ModuleType:
    """RDKit's contributed module; it reads RDKit's own table of fragment scores beside it."""
    path = Path(RDConfig.RDContribDir) / "SA_Score" / "sascorer.py"
    spec = importlib.util.spec_from_file_location("sascorer", path)
    if spec is None or spec.loader is None or not path.is_file():
        # Nothing about the molecule, which is not to be remembered of it.
        raise RuntimeError("this RDKit was installed without its Contrib/SA_Score folder")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sa_score(mol: Mol) -> float:
    """Synthetic accessibility, 1 (easy) to 10 (hard)."""
    if mol.GetNumHeavyAtoms() == 0:
        raise PropertyError("no heavy atoms")
    return _sascorer().calculateScore(unlabelled(mol))


def logp(mol: Mol) -> float:
    """Crippen's octanol-water partition, log10."""
    return Crippen.MolLogP(unlabelled(mol))


def lipinski_violations(mol: Mol) -> float:
    """Weight over 500 g/mol, logP over 5, over 5 NH and OH hydrogens, over 10 N and O atoms.

    Lipinski et al., Adv. Drug Deliv. Rev. 46, 3 (2001), doi:10.1016/S0169-409X(00)00129-0.
    """
    plain = unlabelled(mol)
    return (
        (Descriptors.MolWt(plain) > 500)
        + (logp(plain) > 5)
        + (rd.CalcNumLipinskiHBD(plain) > 5)
        + (rd.CalcNumLipinskiHBA(plain) > 10)
    )


def lipinski_pass(mol: Mol) -> float:
    """The rule's own alert is two violations."""
    return float(lipinski_violations(mol) <= 1)


def veber_pass(mol: Mol) -> float:
    """Veber et al., J. Med. Chem. 45, 2615 (2002), doi:10.1021/jm020017n."""
    plain = unlabelled(mol)
    return float(rd.CalcNumRotatableBonds(plain) <= 10 and rd.CalcTPSA(plain) <= 140)


@dataclass(frozen=True)
class _Rdkit:
    """A function of `rdMolDescriptors`, by its name: RDKit's own cannot be sent to a worker."""

    name: str

    def __call__(self, mol: Mol) -> float:
        return getattr(rd, self.name)(unlabelled(mol))


def _weight(mol: Mol) -> float:
    return Descriptors.MolWt(mol)


def _charge(mol: Mol) -> float:
    return Chem.GetFormalCharge(mol)


_GOOD = {"higher_is": "better"}
_BAD = {"higher_is": "worse"}
_SHARE = {"bounds": (0.0, 1.0)}
# name, unit, version, what computes it, what it is, and what there is to say besides
_TABLE: tuple[tuple[str, str, int, Callable[[Mol], float], str, dict[str, Any]], ...] = (
    ("qed", "", 2, qed, "quantitative estimate of drug-likeness, 0 to 1", _GOOD | _SHARE),
    ("sa_score", "", 2, sa_score, "synthetic accessibility, 1 (easy) to 10 (hard)",
        _BAD | {"aliases": ("sa",)}),
    ("logp", "", 2, logp, "octanol-water partition, log10", {}),
    ("tpsa", "angstrom^2", 2, _Rdkit("CalcTPSA"), "topological polar surface area", {}),
    ("mw", "g/mol", 1, _weight,
        "average molecular weight; a labelled atom weighs what its isotope does",
        {"aliases": ("molecular_weight",)}),
    ("heavy_atoms", "", 1, _Rdkit("CalcNumHeavyAtoms"), "number of heavy atoms", {}),
    ("rings", "", 2, _Rdkit("CalcNumRings"), "number of rings (smallest set)", {}),
    ("aromatic_rings", "", 2, _Rdkit("CalcNumAromaticRings"), "number of aromatic rings", {}),
    ("rotatable_bonds", "", 2, _Rdkit("CalcNumRotatableBonds"),
        "number of rotatable bonds, strict", {}),
    ("hbd", "", 2, _Rdkit("CalcNumHBD"), "number of hydrogen-bond donors", {}),
    ("hba", "", 2, _Rdkit("CalcNumHBA"), "number of hydrogen-bond acceptors", {}),
    ("formal_charge", "e", 1, _charge, "total formal charge", {"aliases": ("charge",)}),
    ("fraction_sp3", "", 2, _Rdkit("CalcFractionCSP3"), "fraction of carbons that are sp3",
        _SHARE | {"aliases": ("fsp3",)}),
    ("chiral_centres", "", 1, _Rdkit("CalcNumAtomStereoCenters"),
        "number of atoms that are or could be stereocentres",
        {"aliases": ("chiral_centers", "stereocentres", "stereocenters")}),
    ("lipinski_violations", "", 2, lipinski_violations,
        "how many of Lipinski's four limits are exceeded", _BAD),
    ("lipinski_pass", "", 2, lipinski_pass,
        "1 if at most one of Lipinski's limits is exceeded, else 0",
        _GOOD | _SHARE | {"aliases": ("lipinski",)}),
    ("veber_pass", "", 2, veber_pass,
        "1 if at most 10 rotatable bonds and TPSA at most 140 angstrom^2, else 0",
        _GOOD | _SHARE | {"aliases": ("veber",)}),
)  # fmt: skip

for name, unit, version, compute, description, more in _TABLE:
    register(
        name, unit=unit, version=version, geometry=False, description=description, **more
    )(compute)  # fmt: skip
