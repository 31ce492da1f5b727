"""Properties of the molecular graph, by RDKit.

Coordinates, explicit hydrogens and atom maps do not matter. Nor do isotopes, save for the weight:
the patterns behind these numbers know no labelled hydrogen, and would take it for a heavy atom.
"""

import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType

from rdkit import Chem, RDConfig
from rdkit.Chem import QED, Crippen, Descriptors, Mol
from rdkit.Chem import rdMolDescriptors as rd

from molflowctl.chem.identity import unlabelled
from molflowctl.properties.registry import PropertyError, register

__all__ = [
    "aromatic_rings",
    "chiral_centres",
    "formal_charge",
    "fraction_sp3",
    "hba",
    "hbd",
    "heavy_atoms",
    "lipinski_pass",
    "lipinski_violations",
    "logp",
    "mw",
    "qed",
    "rings",
    "rotatable_bonds",
    "sa_score",
    "tpsa",
    "veber_pass",
]


@register(
    "qed",
    unit="",
    bounds=(0.0, 1.0),
    version=2,
    geometry=False,
    higher_is="better",
    description="quantitative estimate of drug-likeness, 0 to 1",
)
def qed(mol: Mol) -> float:
    """Weighted QED. Bickerton et al., Nature Chemistry 4, 90 (2012), doi:10.1038/nchem.1243."""
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


@register(
    "sa_score",
    unit="",
    version=2,
    geometry=False,
    higher_is="worse",
    aliases=("sa",),
    description="synthetic accessibility, 1 (easy) to 10 (hard)",
)
def sa_score(mol: Mol) -> float:
    """SA score. Ertl, Schuffenhauer, J. Cheminformatics 1:8 (2009), doi:10.1186/1758-2946-1-8."""
    if mol.GetNumHeavyAtoms() == 0:
        raise PropertyError("no heavy atoms")
    return _sascorer().calculateScore(unlabelled(mol))


@register("logp", unit="", version=2, geometry=False, description="octanol-water partition, log10")
def logp(mol: Mol) -> float:
    """Crippen logP. Wildman and Crippen, J. Chem. Inf. Comput. Sci. 39, 868 (1999)."""
    return Crippen.MolLogP(unlabelled(mol))


@register(
    "tpsa",
    unit="angstrom^2",
    version=2,
    geometry=False,
    description="topological polar surface area",
)
def tpsa(mol: Mol) -> float:
    """TPSA of N and O. Ertl, Rohde, Selzer, J. Med. Chem. 43, 3714 (2000)."""
    return rd.CalcTPSA(unlabelled(mol))


@register(
    "mw",
    unit="g/mol",
    version=1,
    geometry=False,
    aliases=("molecular_weight",),
    description="average molecular weight; a labelled atom weighs what its isotope does",
)
def mw(mol: Mol) -> float:
    """A labelled atom weighs what its isotope does."""
    return Descriptors.MolWt(mol)


@register("heavy_atoms", unit="", version=1, geometry=False, description="number of heavy atoms")
def heavy_atoms(mol: Mol) -> float:
    return mol.GetNumHeavyAtoms()


@register("rings", unit="", version=2, geometry=False, description="number of rings (smallest set)")
def rings(mol: Mol) -> float:
    return rd.CalcNumRings(unlabelled(mol))


@register(
    "aromatic_rings", unit="", version=2, geometry=False, description="number of aromatic rings"
)
def aromatic_rings(mol: Mol) -> float:
    return rd.CalcNumAromaticRings(unlabelled(mol))


@register(
    "rotatable_bonds",
    unit="",
    version=2,
    geometry=False,
    description="number of rotatable bonds, strict",
)
def rotatable_bonds(mol: Mol) -> float:
    return rd.CalcNumRotatableBonds(unlabelled(mol))


@register("hbd", unit="", version=2, geometry=False, description="number of hydrogen-bond donors")
def hbd(mol: Mol) -> float:
    return rd.CalcNumHBD(unlabelled(mol))


@register(
    "hba", unit="", version=2, geometry=False, description="number of hydrogen-bond acceptors"
)
def hba(mol: Mol) -> float:
    return rd.CalcNumHBA(unlabelled(mol))


@register(
    "formal_charge",
    unit="e",
    version=1,
    geometry=False,
    aliases=("charge",),
    description="total formal charge",
)
def formal_charge(mol: Mol) -> float:
    return Chem.GetFormalCharge(mol)


@register(
    "fraction_sp3",
    unit="",
    aliases=("fsp3",),
    bounds=(0.0, 1.0),
    version=2,
    geometry=False,
    description="fraction of carbons that are sp3",
)
def fraction_sp3(mol: Mol) -> float:
    return rd.CalcFractionCSP3(unlabelled(mol))


@register(
    "chiral_centres",
    unit="",
    version=1,
    geometry=False,
    aliases=("chiral_centers", "stereocentres", "stereocenters"),
    description="number of atoms that are or could be stereocentres",
)
def chiral_centres(mol: Mol) -> float:
    return rd.CalcNumAtomStereoCenters(unlabelled(mol))


@register(
    "lipinski_violations",
    unit="",
    version=2,
    geometry=False,
    higher_is="worse",
    description="how many of Lipinski's four limits are exceeded",
)
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


@register(
    "lipinski_pass",
    unit="",
    bounds=(0.0, 1.0),
    version=2,
    geometry=False,
    higher_is="better",
    aliases=("lipinski",),
    description="1 if at most one of Lipinski's limits is exceeded, else 0",
)
def lipinski_pass(mol: Mol) -> float:
    """The rule's own alert is two violations."""
    return float(lipinski_violations(mol) <= 1)


@register(
    "veber_pass",
    unit="",
    bounds=(0.0, 1.0),
    version=2,
    geometry=False,
    higher_is="better",
    aliases=("veber",),
    description="1 if at most 10 rotatable bonds and TPSA at most 140 angstrom^2, else 0",
)
def veber_pass(mol: Mol) -> float:
    """Veber et al., J. Med. Chem. 45, 2615 (2002), doi:10.1021/jm020017n."""
    return float(rotatable_bonds(mol) <= 10 and tpsa(mol) <= 140)
