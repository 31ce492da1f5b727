"""All that an expression can be made of, with arguments, units and examples, for help and pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from inspect import getdoc

import numpy as np
from numpy.typing import NDArray

from molflowctl.errors import UserError
from molflowctl.io.language.places import nearest
from molflowctl.io.plain_files import quoted
from molflowctl.properties import registry
from molflowctl.properties.rewards.desirabilities import TRANSFORMS
from molflowctl.properties.rewards.reward import PropertyReward

__all__ = ["GROUPS", "Entry", "curve", "entries", "find"]

GROUPS = {
    "property": "Properties",
    "function": "Properties with arguments",
    "desirability": "Desirabilities: from any value to 0 to 1",
    "combination": "Several values to one",
    "mathematics": "Of one value",
    "condition": "Conditions",
}


@dataclass(frozen=True)
class Entry:
    """Something that an expression can be made of.

    Attributes:
        group: one of `GROUPS`.
        name: by which it is found; usage: how it is written, with its arguments.
        meaning: a line; unit: of its value, empty for pure numbers.
        example: a whole expression.
        arguments: what each means, where that needs to be said.
        between: of a desirability, the values that its curve is drawn over.
    """

    group: str
    name: str
    usage: str
    meaning: str
    example: str
    unit: str = ""
    arguments: tuple[tuple[str, str], ...] = ()
    between: tuple[float, float] | None = None


_BETWEEN = {
    "ramp": (-1.0, 4.0),
    "range": (0.0, 4.0),
    "sigmoid": (0.0, 1.0),
    "step": (0.0, 1.0),
    "gauss": (150.0, 550.0),
}
_WEIGHTS = (("weights", "a positive number for each value; equal where not given"),)
_OTHERS = (
    Entry("combination", "product", "product(a, b, ...)", "all of them; of values from 0 to 1",
          "product(qed, range(logp, 1, 3, 0.5))"),
    Entry("combination", "geometric_mean", "geometric_mean(a, b, ..., weights=[...])",
          "all of them, 0 if one is 0; of values from 0 to 1",
          "geometric_mean(qed, step(tpsa, 40), weights=[2, 1])", arguments=_WEIGHTS),
    Entry("combination", "mean", "mean(a, b, ..., weights=[...])", "the one makes up for the other",
          "mean(qed, ramp(sa_score, 6, 2), weights=[3, 1])", arguments=_WEIGHTS),
    Entry("combination", "min", "min(a, b, ...)", "the worst of them", "min(qed, fraction_sp3)"),
    Entry("combination", "max", "max(a, b, ...)", "the best of them", "max(step(logp, 3), qed)"),
    Entry("combination", "+ - * / **", "a + b, a - b, a * b, a / b, a ** b, -a",
          "arithmetic of values", "logp - 0.1 * rotatable_bonds"),
    Entry("mathematics", "abs", "abs(y)", "the size, without sign", "-abs(logp - 2)"),
    Entry("mathematics", "sqrt", "sqrt(y)", "the square root", "sqrt(mw)"),
    Entry("mathematics", "exp", "exp(y)", "e to the power of y", "exp(-sa_score)"),
    Entry("mathematics", "log", "log(y)", "the natural logarithm", "log(mw)"),
    Entry("mathematics", "log10", "log10(y)", "the decimal logarithm", "log10(mw)"),
    Entry("mathematics", "ligand_efficiency", "ligand_efficiency(score)",
          "-score / heavy_atoms: of a score in kcal/mol that is better the lower, per heavy atom",
          "ligand_efficiency(mmff_energy_kcal_mol)", "that of the score"),
    Entry("mathematics", "column", 'column("NAME")',
          "a column of the table that `rank` reads, whatever its name", "column"),
    Entry("condition", "< <= > >= == !=", "a < b, a <= b <= c, a == b, a != b",
          "1 where it holds, else 0", "1 <= logp <= 3"),
    Entry("condition", "and or not", "a and b, a or b, not a", "of conditions",
          "qed > 0.7 and not (brenk > 0 or pains > 0)"),
    Entry("condition", "where", "where(condition, value, otherwise)",
          "the value where the condition holds, for instance a penalty",
          "qed + where(largest_ring > 6, -1, 0)"),
)  # fmt: skip


def entries() -> list[Entry]:
    """Everything there is, in the order of `GROUPS`."""
    found = []
    for name in registry.names():
        item = registry.get(name)
        single = len(item.columns) == 1
        usage = name if single else f"{name}.COLUMN"
        meaning = item.description
        if not single:
            meaning += f"; COLUMN is {', '.join(item.columns)}"
        example = name if single else f"{name}.{item.columns[0]}"
        found.append(Entry("property", name, usage, meaning, example, item.unit))
    for maker in registry.functions():
        arguments = tuple(maker.arguments.items())
        found.append(
            Entry("function", maker.name, str(maker), maker.description, maker.example,
                  maker.unit, arguments)
        )  # fmt: skip
    for word, kind in TRANSFORMS.items():
        text = " ".join((getdoc(kind) or "").replace("`", "").split()).rstrip(".")
        found.append(
            Entry("desirability", word, kind.usage(), text, kind.example, between=_BETWEEN[word])
        )
    return [*found, *_OTHERS]


def find(name: str) -> list[Entry]:
    """The entries that a user may mean: of that name, or with that word in their name.

    Raises:
        UserError: there are none; the nearest names are proposed.
    """
    every = entries()
    asked = name.strip().lower().replace("-", "_")
    exact = [entry for entry in every if asked == entry.name or asked in entry.name.split()]
    if not exact and registry.known(asked):
        exact = [entry for entry in every if entry.name == registry.get(asked).name]
    if found := exact or [entry for entry in every if asked and asked in entry.name]:
        return found
    hint = nearest(asked, [entry.name for entry in every], "`molflowctl rewards` lists all")
    raise UserError(f"there is nothing called {quoted(name)}: {hint}")


def curve(entry: Entry, points: int = 201) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values and desirabilities, both `(points,)`, of an entry's example."""
    assert entry.between is not None
    x = np.linspace(*entry.between, points)
    reward = PropertyReward(entry.example)
    (item,) = reward.items
    return x, reward.of({item.columns[0]: x})


def in_group(group: str, every: Sequence[Entry]) -> list[Entry]:
    """Those of one group."""
    return [entry for entry in every if entry.group == group]
