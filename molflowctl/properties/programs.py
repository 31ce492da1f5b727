"""Which programs a property's values depend on, and their versions on this machine.

The cache keeps a value under these versions: after an upgrade it is computed again.
"""

import importlib.metadata

from rdkit import rdBase

__all__ = ["program_versions"]

# RDKit decides bonds, charges and stereo of every molecule.
_PROGRAMS = {
    "rdkit": ("rdkit",),
    "mmff": ("rdkit",),
    "openmm": ("rdkit", "openmm"),
    "reference": ("rdkit",),
    "surrogate": ("rdkit", "torch", "numpy"),
    "xtb": ("rdkit", "tblite"),
    "xtb-gfn1": ("rdkit", "tblite"),
    "xtb-relax": ("rdkit", "tblite", "scipy"),
    "xtb-xtb_python": ("rdkit", "xtb"),
    "docking": ("rdkit", "vina", "meeko"),
    "posebusters": ("rdkit", "posebusters"),
    "posebusters-energy": ("rdkit", "posebusters"),
}
_ANY = ("rdkit", "tblite", "xtb", "openmm", "posebusters", "torch", "numpy", "scipy")


def program_versions(engine: str) -> str:
    """The versions behind an engine, as text: `rdkit 2026.09.1, tblite 0.4.0`.

    An engine that is not of this package depends on every program that this package knows, and on
    the installed distribution of its own name, if there is one.
    """
    names = _PROGRAMS.get(engine) or (*_ANY, *(() if engine in _ANY else (engine,)))
    return ", ".join(f"{name} {_version(name)}" for name in names)


def _version(name: str) -> str:
    if name == "rdkit":
        return rdBase.rdkitVersion
    try:
        return importlib.metadata.version(name)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return "none"
