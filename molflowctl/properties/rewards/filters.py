"""Filters: conditions that a molecule has to meet, in the language of rewards.

    pains == 0 and largest_ring <= 6 and not smarts("[N+](=O)[O-]") > 0

What stands between the outermost `and`s are the parts, each of which is counted on its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rdkit.Chem import Mol

from molflowctl.properties.registry import Property, PropertyError
from molflowctl.properties.rewards.nodes import Node
from molflowctl.properties.rewards.reading import read_conditions

__all__ = ["Filter"]

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Filter:
    """Conditions that all have to hold.

    Args:
        texts: each as it was written.
        parts: what they mean.
    """

    texts: tuple[str, ...]
    parts: tuple[Node, ...]

    @classmethod
    def of_text(cls, text: str, columns: Iterable[str] = ()) -> Filter:
        """The filter that an expression is.

        Args:
            columns: of a table; their names come before those of properties.

        Raises:
            ExpressionError: it is no condition; with the place.
        """
        found = read_conditions(text, columns)
        return cls(tuple(found), tuple(found.values()))

    def properties(self) -> tuple[Property, ...]:
        """The properties it needs, each once."""
        every = {item.name: item for part in self.parts for item in part.properties()}
        return tuple(every.values())

    def unmet(self, columns: Mapping[str, Values]) -> list[str]:
        """The conditions that one molecule does not meet, from `(1,)` values of its properties.

        What cannot be told, since a value is missing, is not met.
        """
        return [
            text
            for text, part in zip(self.texts, self.parts, strict=True)
            if not part.of(columns)[0] > 0
        ]

    def rejects(self, mol: Mol) -> tuple[str, ...]:
        """Why a molecule does not pass; empty if it does. Computed here, without a time limit."""
        columns: dict[str, Values] = {}
        for item in self.properties():
            try:
                found = item(mol)
            except PropertyError as error:
                return (f"{item.name} failed: {error}",)
            except Exception as error:  # a property may be anybody's code
                return (f"{item.name} failed: {type(error).__name__}",)
            columns |= {name: np.array([value]) for name, value in found.items()}
        return tuple(self.unmet(columns))
