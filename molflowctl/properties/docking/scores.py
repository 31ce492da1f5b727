"""The properties `docking("FILE")`, `docking_efficiency("FILE")` and `docking_sile("FILE")`.

    docking("ca2.yaml")               Vina's score of the best pose, kcal/mol; the lower, the better
    docking_efficiency("ca2.yaml")    score / N, N heavy atoms: ligand efficiency
    docking_sile("ca2.yaml")          score / N^0.3: size-independent ligand efficiency

A docking score grows with the size of a molecule, so that who steers by it alone gets ever larger
ones. Ligand efficiency favours small molecules as strongly; the third lies between.

References:
    Hopkins, Groom, Alex, Drug Discovery Today 9, 430 (2004), doi:10.1016/S1359-6446(04)03069-7
    (efficiency, score / N); Nissink, J. Chem. Inf. Model. 49, 1617 (2009), doi:10.1021/ci900094m
    (SILE, affinity / N^0.3); Pan, Huang, Cho, MacKerell, J. Chem. Inf. Comput. Sci. 43, 267 (2003),
    doi:10.1021/ci020055f (the bias towards large molecules, and dividing by powers of N).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rdkit.Chem import Mol

from molflowctl.errors import UserError
from molflowctl.properties.docking.engine import check_installed, dock
from molflowctl.properties.docking.receptor import Receptor, read_receptor
from molflowctl.properties.functions import BadArgument
from molflowctl.properties.registry import Property, register_function

__all__ = ["VERSION", "Docking", "docking_property"]

VERSION = 1  # of how ligands are made and poses judged; part of every receptor's
Made = Callable[[str], Property]


@dataclass(frozen=True)
class Docking:
    """The score of the best pose over `N^power`, N the number of heavy atoms."""

    receptor: Receptor
    power: float = 0.0

    def __call__(self, mol: Mol) -> float:
        return self.of(float(dock(self.receptor, mol)[0, 0]), mol)

    def of(self, best: float, mol: Mol) -> float:
        """The value where the best pose of a molecule has the score `best`, kcal/mol."""
        return best / mol.GetNumHeavyAtoms() ** self.power


def _registered(name: str, description: str) -> Callable[[Made], Made]:
    return register_function(
        name, unit="kcal/mol", description=description,
        arguments={"receptor": "what `molflowctl docking prepare` wrote"},
        example=f'{name}("receptor.yaml")',
    )  # fmt: skip


@_registered(
    "docking", "AutoDock Vina's score of the best pose in a receptor; the lower, the better"
)
def docking_property(receptor: str) -> Property:
    """Vina's score for the receptor of a YAML file, kcal/mol.

    Raises:
        UserError: Vina is not installed, or the file cannot be used.
    """
    return _property("docking", receptor, 0.0, "Vina's docking score")


@_registered(
    "docking_efficiency",
    "docking score over the number of heavy atoms, against ever larger molecules",
)
def _efficiency(receptor: str) -> Property:
    return _property("docking_efficiency", receptor, 1.0, "docking score over heavy atoms")


@_registered(
    "docking_sile", "docking score over heavy atoms^0.3, size-independent ligand efficiency"
)
def _sile(receptor: str) -> Property:
    return _property("docking_sile", receptor, 0.3, "docking score over heavy atoms^0.3")


def _property(kind: str, file: str, power: float, what: str) -> Property:
    check_installed()
    try:
        receptor = read_receptor(file)
    except UserError as error:
        raise BadArgument(file, str(error)) from None
    return Property(
        f"{kind}_{receptor.name}",
        "kcal/mol",
        receptor.version + VERSION,
        f"{what} in {receptor.name}",
        Docking(receptor, power),
        higher_is="worse",
        engine="docking",
        geometry=False,
    )
