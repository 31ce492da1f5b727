"""Rewards of whole molecules, by the oracle: one number per molecule."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rdkit.Chem import Mol

from molflowctl.properties.evaluate import Scores, score
from molflowctl.properties.registry import Property
from molflowctl.properties.rewards.nodes import Bounds, Known, Node
from molflowctl.properties.rewards.reading import as_text, read

__all__ = ["NO_NUMBER", "Objective", "PropertyReward", "parse_reward"]

Values = NDArray[np.float64]
NO_NUMBER = "the reward is no finite number of these values"


class Objective(ABC):
    """One number per molecule; `str` gives its specification."""

    @property
    @abstractmethod
    def items(self) -> tuple[Property, ...]:
        """The properties it needs, each once."""

    @abstractmethod
    def of(self, columns: Mapping[str, Values]) -> Values:
        """The rewards (n,) of n molecules from their property values, (n,) by column."""

    @abstractmethod
    def bounds(self, known: Known | None = None) -> Bounds:
        """Between which its values lie, given what is known of its properties' by their names."""

    @property
    def properties(self) -> tuple[str, ...]:
        """The names of the properties it needs, each once."""
        return tuple(item.name for item in self.items)

    def score(self, mols: Iterable[Mol | None], **options: Any) -> Scores:
        """The column `reward` and those of its properties; `options` as of `properties.score`.

        A molecule that failed in any property has the reward NaN, and the reasons of the properties
        in its errors.
        """
        scores = score(mols, self.items, **options)
        rewards = self.of(scores.values) if len(scores) else np.empty(0)
        rewards = np.broadcast_to(rewards, len(scores)).copy()  # of a constant
        errors = []
        for row, value in zip(scores.errors, rewards, strict=True):
            reasons = "; ".join(f"{name}: {reason}" for name, reason in row.items())
            if not reasons and np.isnan(value):
                reasons = NO_NUMBER
            errors.append({**row, "reward": reasons} if reasons else row)
        return Scores({"reward": rewards, **scores.values}, errors, scores.notes)

    def value(self, mols: Iterable[Mol | None], **options: Any) -> Values:
        """The rewards (n,), NaN where a property failed; `options` as of `properties.score`."""
        return self.score(mols, **options)["reward"]


class PropertyReward(Objective):
    """A reward in the language of `molflowctl.properties.rewards`.

    Args:
        spec: an expression, such as `"product(qed, range(logp, 1, 3, 0.5), brenk == 0)"`.
        columns: of a table that the reward will be of; their names come before those of properties.

    Attributes: `node`, what it is made of; `text`, as it was given.

    Raises:
        UserError: it is no reward; the message shows the place and says what would be right.
    """

    def __init__(self, spec: str | Mapping[str, Any], columns: Iterable[str] = ()) -> None:
        self.text = as_text(spec).strip()
        self.node: Node = read(self.text, columns)

    @property
    def items(self) -> tuple[Property, ...]:
        return self.node.properties()

    def of(self, columns: Mapping[str, Values]) -> Values:
        return self.node.of(columns)

    def bounds(self, known: Known | None = None) -> Bounds:
        return self.node.bounds(known)

    def __str__(self) -> str:
        return str(self.node)

    def __repr__(self) -> str:
        return f"PropertyReward({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PropertyReward) and self.node == other.node

    def __hash__(self) -> int:
        return hash(self.node)


def parse_reward(spec: str | Mapping[str, Any], columns: Iterable[str] = ()) -> PropertyReward:
    """The `PropertyReward` of a specification; raises `UserError` as it does."""
    return PropertyReward(spec, columns)
