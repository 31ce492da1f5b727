"""How physical a geometry is: PoseBusters' checks, each in its own column, 1 passed and 0 failed.

`posebusters` are the checks of graph and geometry, `posebusters_pass` is all of them at once, and
`posebusters_energy` the internal energy, which embeds 50 conformers and takes from a tenth of a
second to minutes: its engine has a time limit of its own.

References:
    Buttenschoen, Morris, Deane, PoseBusters, Chem. Sci. 15, 3130 (2024), doi:10.1039/D3SC04185A.
"""

import logging
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from rdkit import rdBase
from rdkit.Chem import Mol

from molflowctl.chem.graphs import EXACT
from molflowctl.properties.energies.geometry import checked_positions
from molflowctl.properties.registry import PropertyError, register

if TYPE_CHECKING:
    from posebusters import PoseBusters

__all__ = ["CheckSet", "posebusters_checks"]

CheckSet = Literal["graph and geometry", "energy"]
_CHECKS = (
    "mol_pred_loaded",
    "sanitization",
    "inchi_convertible",
    "all_atoms_connected",
    "no_radicals",
    "bond_lengths",
    "bond_angles",
    "internal_steric_clash",
    "aromatic_ring_flatness",
    "non-aromatic_ring_non-flatness",
    "double_bond_flatness",
)
_COLUMNS = {check: f"pb_{check.replace('-', '_')}" for check in _CHECKS}


def posebusters_checks(mol: Mol, checks: CheckSet) -> dict[str, bool | None]:
    """PoseBusters' configuration "mol": each check by its name, None where it gives no answer.

    checks: "energy" is the internal energy alone (the UFF energy against the mean of 50 relaxed
        conformers), "graph and geometry" are all the others.
    """
    with rdBase.BlockLogs():
        table = _busters(checks).bust([mol])
    return {
        name: bool(value) if present else None
        for name, value, present in zip(
            table.columns, table.iloc[0], table.notna().iloc[0], strict=True
        )
    }


@lru_cache
def _busters(checks: CheckSet) -> "PoseBusters":
    from posebusters import PoseBusters

    logging.getLogger("posebusters").setLevel(logging.ERROR)  # its None already tells
    config = PoseBusters("mol").config
    # The file lists the energy check twice, of which one feeds no column; and it would take all
    # cores.
    chosen = [m for m in config["modules"] if m.get("chosen_binary_test_output")]
    energy = [m for m in chosen if m["function"] == "energy_ratio"]
    for module in energy:
        module["parameters"]["num_threads"] = 1
    others = [m for m in chosen if m not in energy]
    return PoseBusters({**config, "modules": energy if checks == "energy" else others})


@lru_cache(maxsize=4)
def _of_binary(binary: bytes) -> dict[str, bool | None]:
    return posebusters_checks(Mol(binary), "graph and geometry")


def _graph_and_geometry(mol: Mol) -> dict[str, bool | None]:
    checked_positions(mol)  # PoseBusters passes what is flat, or not a number
    return _of_binary(mol.ToBinary(EXACT))


def _no_answer(checks: dict[str, bool | None]) -> PropertyError:
    silent = ", ".join(name for name, passed in checks.items() if passed is None)
    return PropertyError(f"PoseBusters has no answer to {silent}")


@register(
    "posebusters",
    unit="",
    version=1,
    engine="posebusters",
    columns=tuple(_COLUMNS.values()),
    higher_is="better",
    description="PoseBusters' checks of graph and geometry, 1 passed, 0 failed, a column each",
)
def posebusters(mol: Mol) -> dict[str, float]:
    checks = _graph_and_geometry(mol)
    if None in checks.values():
        raise _no_answer(checks)
    return {_COLUMNS.get(check, check): float(bool(passed)) for check, passed in checks.items()}


@register(
    "posebusters_pass",
    unit="",
    bounds=(0.0, 1.0),
    version=1,
    engine="posebusters",
    higher_is="better",
    aliases=("pb_pass",),
    description="1 if all of PoseBusters' checks of graph and geometry pass, else 0",
)
def posebusters_pass(mol: Mol) -> float:
    checks = _graph_and_geometry(mol)
    if False in checks.values():
        return 0.0
    if None in checks.values():
        raise _no_answer(checks)
    return 1.0


@register(
    "posebusters_energy",
    unit="",
    version=1,
    engine="posebusters-energy",
    columns=("pb_internal_energy",),
    higher_is="better",
    description="1 if PoseBusters' internal energy, UFF against 50 conformers, passes, else 0",
)
def posebusters_energy(mol: Mol) -> dict[str, float]:
    checked_positions(mol)
    passed = posebusters_checks(mol, "energy")["internal_energy"]
    if passed is None:
        raise PropertyError("PoseBusters has no answer to internal_energy")
    return {"pb_internal_energy": float(passed)}
