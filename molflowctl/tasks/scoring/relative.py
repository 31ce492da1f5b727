"""Energies relative to the lowest of the adjacent records of a molecule; `score --relative`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import groupby

from molflowctl.chem.units import HARTREE_TO_KCAL_MOL
from molflowctl.errors import UserError
from molflowctl.io.library import Record
from molflowctl.properties.energies.relative import molecule_groups, relative_energies
from molflowctl.properties.evaluate import Row

__all__ = ["relative_columns", "with_relative"]


def relative_columns(columns: Iterable[str]) -> dict[str, tuple[str, float]]:
    """By column of an energy, the name of the relative one and the factor to kcal/mol.

    Raises:
        UserError: no energy among them.
    """
    found = {}
    for unit, factor in (("_hartree", HARTREE_TO_KCAL_MOL), ("_kcal_mol", 1.0)):
        for column in columns:
            if column.endswith(f"_energy{unit}") and not column.startswith("relax"):
                found[column] = f"relative_{column.removesuffix(unit)}_kcal_mol", factor
    if not found:
        raise UserError("relative to what? Add an energy, for instance -p xtb-energy.")
    return found


def with_relative(
    rows: Iterator[tuple[Record, Row]], relative: dict[str, tuple[str, float]]
) -> Iterator[tuple[Record, Row]]:
    """Add each energy above the lowest of the adjacent records of the same molecule.

    A molecule that comes back after another has no such value: its lowest is not known here.
    """
    seen: set[str] = set()
    last = ""

    def molecule_of(pair: tuple[Record, Row]) -> str:
        nonlocal last
        if pair[0].mol is not None:  # an unreadable record does not part its neighbours
            (last,) = molecule_groups([pair[0].mol])
        return last

    for molecule, group in groupby(rows, key=molecule_of):
        records, found = zip(*group, strict=True)
        again = molecule in seen
        seen.add(molecule)
        added: list[dict[str, float]] = [{} for _ in found]
        for column, (name, factor) in relative.items():
            energies = [factor * row.values[column] for row in found]
            for values, value in zip(
                added, relative_energies(energies, [molecule] * len(energies)), strict=True
            ):
                values[name] = math.nan if again else float(value)
        for record, row, values in zip(records, found, added, strict=True):
            errors = dict(row.errors)
            if again and record.mol is not None:
                errors["relative energy"] = "its conformers are not next to one another"
            yield record, Row({**row.values, **values}, errors)
