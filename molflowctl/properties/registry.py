"""The one place where properties are registered.

A property computes ONE molecule. A new one takes a dozen lines, in this package or in a script:

    from rdkit.Chem import Mol
    from molflowctl.properties import PropertyError, register

    @register(
        "oxygens",
        unit="",
        version=1,
        geometry=False,
        description="number of oxygen atoms",
    )
    def oxygens(mol: Mol) -> float:
        if mol.GetNumAtoms() == 0:
            raise PropertyError("no atoms")
        return sum(atom.GetAtomicNum() == 8 for atom in mol.GetAtoms())

`score([mol], ["oxygens"])` then knows it, and so does every command with `--import FILE.py`, or
where an installed package names its module as an entry point (`molflowctl.properties`). A failure
is a `PropertyError` with a short reason (or any other exception, or NaN), never a zero. What is
built first, from a reference set or a network, is a callable object:
`register("similarity", ...)(Similarity(actives))`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal, TypeVar

from rdkit.Chem import Mol

from molflowctl.chem.identity import normalised
from molflowctl.compute.plugins import PROPERTIES, load_installed
from molflowctl.errors import UserError
from molflowctl.io.plain_files import quoted

__all__ = [
    "Property",
    "PropertyError",
    "get",
    "made_to_order",
    "names",
    "register",
    "register_maker",
    "split_names",
]

Compute = Callable[[Mol], float | Mapping[str, float]]
C = TypeVar("C", bound=Compute)


class PropertyError(ValueError):
    """This molecule has no such value; the message is the reason, short enough to count by."""


@dataclass(frozen=True)
class Property:
    """How to compute one property of one molecule.

    Attributes:
        name: what users ask for; ends in the unit where there is one (`dipole_debye`).
        unit: `debye`, `eV`, ...; empty for pure numbers.
        version: grows whenever a value could change, so that stored values go stale.
        description: one line for tables and help.
        compute: from a molecule (with explicit hydrogens and coordinates where it needs them) to
            its value, or to one value per column.
        higher_is: which direction is usually wanted, `None` where neither is.
        engine: the program behind it; properties of one engine share a calculation and time limit.
        geometry: whether coordinates matter; without, it is a function of the graph, needs no
            conformer, and `compute` sees the molecule alone: see `molflowctl.chem.identity`.
        columns: the names of the values; `(name,)` unless `compute` returns a mapping.
        aliases: what else users may call it, in lower case with underscores.
    """

    name: str
    unit: str
    version: int
    description: str
    compute: Compute
    higher_is: Literal["better", "worse"] | None = None
    engine: str = "rdkit"
    geometry: bool = True
    columns: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.columns:
            object.__setattr__(self, "columns", (self.name,))

    def __call__(self, mol: Mol) -> dict[str, float]:
        """The value of every column.

        Without `geometry` it is computed from the normalised molecule, so that it cannot depend on
        how this record of it was written.

        Raises:
            PropertyError: the molecule has no such value (not finite counts as that), or no atoms:
                many a count is then zero, which is no value.
        """
        return self.of_prepared(mol if self.geometry else normalised(mol))

    def of_prepared(self, mol: Mol) -> dict[str, float]:
        """As a call, but of a molecule that is `normalised` already, if `geometry` is False."""
        if mol.GetNumAtoms() == 0:
            raise PropertyError("no atoms")
        result = self.compute(mol)
        row = result if isinstance(result, Mapping) else {self.columns[0]: result}
        if set(row) != set(self.columns):
            raise TypeError(f"{self.name} returned {sorted(row)}, not {sorted(self.columns)}")
        values = {column: float(row[column]) for column in self.columns}
        if not all(math.isfinite(value) for value in values.values()):
            raise PropertyError("the result is not a finite number")
        return values


_REGISTRY: dict[str, Property] = {}
_MAKERS: dict[str, Callable[[str], Property]] = {}  # of what is made to order, by prefix


def register(
    name: str,
    *,
    unit: str,
    version: int,
    description: str,
    higher_is: Literal["better", "worse"] | None = None,
    engine: str = "rdkit",
    geometry: bool = True,
    columns: tuple[str, ...] = (),
    aliases: tuple[str, ...] = (),
) -> Callable[[C], C]:
    """Register the decorated function or callable object, unchanged, as a `Property`.

    Raises:
        ValueError: the name, a column or an alias is taken by another property.
    """

    def decorate(compute: C) -> C:
        new = Property(
            name, unit, version, description, compute, higher_is, engine, geometry, columns, aliases
        )
        for other in _REGISTRY.values():
            # The same function again is a module that was reloaded, or a notebook cell run twice.
            same = other.name == name and _source(other.compute) == _source(compute)
            if not same and (
                set(other.columns) & set(new.columns) or _spellings(other) & _spellings(new)
            ):
                raise ValueError(f"the property {name!r} clashes with {other.name!r}")
        _REGISTRY[name] = new
        return compute

    return decorate


def _source(compute: Compute) -> tuple[str, str]:
    made_by = compute if hasattr(compute, "__qualname__") else type(compute)
    return made_by.__module__, made_by.__qualname__


def _plain(name: str) -> str:
    """Case, and hyphens or underscores, do not matter to who asks."""
    return name.strip().lower().replace("-", "_")


def _spellings(item: Property) -> set[str]:
    return {_plain(item.name), *map(_plain, item.aliases)}


def get(name: str) -> Property:
    """The property of that name or alias; `xtb-gap`, `xtb_gap` and `XTB-gap` are the same.

    `surrogate:FOLDER` is the network in that folder, `smarts:PATTERN` the number of substructures.

    Raises:
        UserError: there is none; the message proposes the nearest names.
    """
    for prefix, make in _MAKERS.items():
        if name.startswith(prefix):
            return make(name.removeprefix(prefix))
    if name in _REGISTRY:
        return _REGISTRY[name]
    known = _by_spelling()
    asked = _plain(name)
    if asked not in known:
        load_installed(PROPERTIES)
        known = _by_spelling()
    if asked in known:
        return known[asked]
    near = get_close_matches(asked, known, n=3, cutoff=0.4)
    proposed = list(dict.fromkeys(known[spelling].name for spelling in near))
    hint = f"did you mean {' or '.join(proposed)}?" if near else f"there are {', '.join(names())}"
    raise UserError(f"unknown property {quoted(name)}: {hint}")


def _by_spelling() -> dict[str, Property]:
    return {spelling: item for item in _REGISTRY.values() for spelling in _spellings(item)}


M = TypeVar("M", bound=Callable[[str], Property])


def register_maker(prefix: str) -> Callable[[M], M]:
    """Let the decorated function make the properties whose names begin with `prefix`.

    It is given what follows the prefix, and raises `UserError` if that is nothing it can make.
    """

    def decorate(make: M) -> M:
        _MAKERS[prefix] = make
        return make

    return decorate


def made_to_order(name: str) -> bool:
    """Whether this names a property by what it is made from, `surrogate:` or `smarts:`."""
    return name.startswith(tuple(_MAKERS))


def split_names(text: str) -> list[str]:
    """Names between commas; those inside the brackets of a SMARTS pattern part nothing."""
    found, depth = [""], 0
    for sign in text:
        depth += (sign == "[") - (sign == "]")
        if sign == "," and depth <= 0:
            found.append("")
        else:
            found[-1] += sign
    return [name.strip() for name in found]


def names() -> list[str]:
    """All registered names, sorted, those of installed plug-ins among them."""
    load_installed(PROPERTIES)
    return sorted(_REGISTRY)
