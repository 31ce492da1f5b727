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
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import lru_cache
from typing import Literal, TypeVar

from rdkit.Chem import Mol

from molflowctl.chem.identity import normalised
from molflowctl.compute.plugins import PROPERTIES, load_installed
from molflowctl.errors import UserError
from molflowctl.io.language.grammar import Call, parse
from molflowctl.io.language.places import ExpressionError, nearest
from molflowctl.io.plain_files import quoted
from molflowctl.properties.functions import Function, Given, literal

__all__ = [
    "Property",
    "PropertyError",
    "add",
    "function",
    "functions",
    "get",
    "known",
    "made",
    "made_to_order",
    "names",
    "register",
    "register_function",
    "register_maker",
    "spellings",
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
        bounds: between which its values lie, where that is known.
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
    bounds: tuple[float, float] = (-math.inf, math.inf)

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
_FUNCTIONS: dict[str, Function] = {}  # of what is made from arguments
_KEPT = 256  # properties made from arguments that are not made again when they are asked for


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
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Callable[[C], C]:
    """Register the decorated function or callable object, unchanged, as a `Property`.

    Raises:
        ValueError: the name, a column or an alias is taken by another property.
    """

    def decorate(compute: C) -> C:
        add(
            Property(
                name, unit, version, description, compute, higher_is, engine, geometry, columns,
                aliases, bounds,
            )
        )  # fmt: skip
        return compute

    return decorate


def add(item: Property) -> Property:
    """Register a property that is built already, and give it back.

    Raises:
        ValueError: as `register`.
    """
    for other in _REGISTRY.values():
        # The same function again is a module that was reloaded, or a notebook cell run twice.
        same = other.name == item.name and _source(other.compute) == _source(item.compute)
        if not same and (
            set(other.columns) & set(item.columns) or _spellings(other) & _spellings(item)
        ):
            raise ValueError(f"the property {item.name!r} clashes with {other.name!r}")
    _REGISTRY[item.name] = item
    return item


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

    `surrogate:FOLDER` is the network in that folder, `smarts:PATTERN` the number of substructures;
    `similarity("CCO")` is what that function makes of its arguments.

    Raises:
        UserError: there is none; the message proposes the nearest names.
    """
    if "(" in name and name not in _REGISTRY and not made_to_order(name):
        tree = parse(name)
        if not isinstance(tree, Call):
            raise UserError(f"{quoted(name)} is no property, but may be a reward of several")
        return made(tree, name)
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
    if asked in _FUNCTIONS:
        raise UserError(f"{asked} needs arguments: {_FUNCTIONS[asked].example}")
    near = get_close_matches(asked, known, n=3, cutoff=0.4)
    proposed = list(dict.fromkeys(known[spelling].name for spelling in near))
    hint = f"did you mean {' or '.join(proposed)}?" if near else f"there are {', '.join(names())}"
    raise UserError(f"unknown property {quoted(name)}: {hint}")


def known(name: str) -> bool:
    """Whether `get` finds a property by this name, case, hyphens and underscores aside."""
    if name in _REGISTRY or _plain(name) in _by_spelling():
        return True
    load_installed(PROPERTIES)
    return _plain(name) in _by_spelling()


def spellings() -> dict[str, str]:
    """Names and aliases of all properties, with the name that each stands for."""
    return {spelling: item.name for spelling, item in _by_spelling().items()}


def _by_spelling() -> dict[str, Property]:
    return {spelling: item for item in _REGISTRY.values() for spelling in _spellings(item)}


M = TypeVar("M", bound=Callable[[str], Property])
F = TypeVar("F", bound=Callable[..., Property])


def register_maker(prefix: str) -> Callable[[M], M]:
    """Let the decorated function make the properties whose names begin with `prefix`.

    It is given what follows the prefix, and raises `UserError` if that is nothing it can make.
    """

    def decorate(make: M) -> M:
        _MAKERS[prefix] = make
        return make

    return decorate


def register_function(
    name: str,
    *,
    description: str,
    unit: str = "",
    arguments: Mapping[str, str],
    example: str,
) -> Callable[[F], F]:
    """Let the decorated function make properties of its arguments: `properties.functions`.

    Raises:
        ValueError: the name is that of a property.
    """
    if name in _by_spelling():
        raise ValueError(f"the function {name!r} clashes with the property")

    def decorate(make: F) -> F:
        _FUNCTIONS[name] = Function(name, description, unit, make, example, arguments)
        return make

    return decorate


def functions() -> list[Function]:
    """All registered functions by name, those of installed plug-ins among them."""
    load_installed(PROPERTIES)
    return [_FUNCTIONS[name] for name in sorted(_FUNCTIONS)]


def function(name: str) -> Function | None:
    """The function of that name; None if there is none."""
    if name not in _FUNCTIONS:
        load_installed(PROPERTIES)
    return _FUNCTIONS.get(name)


def made(call: Call, text: str) -> Property:
    """The property that a call in the expression `text` makes, the same for the same call.

    Raises:
        ExpressionError: at the place of what is unknown or wrong.
    """
    maker = function(call.name)
    if maker is None:
        if call.name in _by_spelling():
            raise ExpressionError(text, call.at, f"{call.name} takes no arguments: leave out ( )")
        hint = nearest(call.name, _FUNCTIONS, f"there are {', '.join(sorted(_FUNCTIONS))}")
        raise ExpressionError(text, call.at, f"there is no function {call.name}: {hint}")
    given = maker.given(call, text)
    try:
        return _made(maker, given, _stamps(given))
    except UserError as error:
        trees = [*call.arguments, *(tree for _, tree in call.options)]
        wrong = getattr(error, "value", None)  # of a `BadArgument`
        at = next((t.at for t in trees if wrong is not None and literal(t) == wrong), None)
        at = at if at is not None else trees[0].at if len(trees) == 1 else call.at
        raise ExpressionError(text, at, str(error)) from None


@lru_cache(maxsize=_KEPT)
def _made(maker: Function, given: Given, stamps: tuple[tuple[int, int], ...]) -> Property:
    item = maker.made(given)
    columns = (given.text,) if item.columns == (item.name,) else item.columns
    return replace(item, name=given.text, columns=columns)


def _stamps(given: Given) -> tuple[tuple[int, int], ...]:
    """Time and size of the files among the arguments: one that has changed is read again."""
    found = []
    for value in (*given.positional, *(value for _, value in given.named)):
        try:
            state = os.stat(value) if isinstance(value, str) else None
        except (OSError, ValueError):  # a SMILES, or a name that no file can have
            state = None
        found.append((state.st_mtime_ns, state.st_size) if state else (0, 0))
    return tuple(found)


def made_to_order(name: str) -> bool:
    """Whether this names a property by what it is made from, `surrogate:` or `smarts:`."""
    return name.startswith(tuple(_MAKERS))


def split_names(text: str) -> list[str]:
    """Names between commas; those inside brackets or quotes part nothing."""
    found, depth, quote = [""], 0, ""
    for sign in text:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "\"'":
            quote = sign
        else:
            depth += (sign in "[(") - (sign in ")]")
        if sign == "," and depth <= 0 and not quote:
            found.append("")
        else:
            found[-1] += sign
    return [name.strip() for name in found]


def names() -> list[str]:
    """All registered names, sorted, those of installed plug-ins among them."""
    load_installed(PROPERTIES)
    return sorted(_REGISTRY)
