"""A surrogate in the loop: it learns from the calls of a slow oracle that were made so far.

With a budget of oracle calls, more molecules can be judged than are paid for. `Learning` is the
oracle and remembers what it said. `Learning.stand_in` is the same reward with its slow properties
predicted (`molflowctl.properties.surrogate`) and its quick ones computed. It gives no value outside
its range: those molecules are asked of the oracle while calls are to spare, and left out beyond.

Samples that say how good a flow is, prior and result among them, are judged by the oracle alone. A
surrogate that predicts molecules held out no better than their mean is not asked at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rdkit.Chem import Mol

from molflowctl.chem.graphs import EXACT
from molflowctl.errors import UserError
from molflowctl.properties.evaluate import Scores, score
from molflowctl.properties.registry import Property
from molflowctl.properties.rewards import Objective
from molflowctl.properties.rewards.nodes import Bounds, Known
from molflowctl.properties.surrogate import Surrogate
from molflowctl.tasks.oracle_calls import QUICK, is_slow
from molflowctl.tasks.training.surrogate import Inputs, Key, SurrogateTable, fit_surrogate, row_of

__all__ = ["Learning", "StandIn", "surrogate_samples"]

Values = NDArray[np.float64]


def surrogate_samples(config: Any, oracle: Objective) -> int:
    """Molecules that a surrogate judges per mirror step, or of the data; 0 for no surrogate.

    Raises:
        UserError: asked for without a budget.
    """
    if config.oracle_budget is None:
        if config.surrogate_samples:
            raise UserError("surrogate_samples: a surrogate goes with --oracle-budget.")
        return 0
    if config.data:
        return config.data_samples
    if config.surrogate_samples is not None:
        return config.surrogate_samples
    return 2 * config.n_samples if is_slow(oracle) else 0


class _Same(Objective):
    """A reward that computes as another does, from values that come from elsewhere."""

    def __init__(self, oracle: Objective) -> None:
        self.oracle = oracle

    @property
    def items(self) -> tuple[Property, ...]:
        return self.oracle.items

    def of(self, columns: Mapping[str, Values]) -> Values:
        return self.oracle.of(columns)

    def bounds(self, known: Known | None = None) -> Bounds:
        return self.oracle.bounds(known)

    def __str__(self) -> str:
        return str(self.oracle)


class Learning(_Same):
    """An oracle that remembers what it said of molecules, for a surrogate.

    Args:
        oracle: the reward.
        seed: of the surrogates.
        say: called with a line about how well each predicts.
        network: of the surrogates, options of `fit_surrogate`.

    Attributes:
        learned: the properties that are predicted: the slow ones, or all where none is slow.
    """

    def __init__(
        self,
        oracle: Objective,
        seed: int = 0,
        say: Callable[[str], object] = lambda text: None,
        **network: Any,
    ) -> None:
        super().__init__(oracle)
        slow = tuple(item for item in oracle.items if item.engine not in QUICK)
        self.learned = slow or oracle.items
        self.seed, self.say, self.network = seed, say, network
        self._rows: dict[Key, Inputs] = {}
        self._values: dict[str, dict[Key, list[float]]] = {
            column: {} for item in self.learned for column in item.columns
        }
        self._fitted: tuple[int, dict[str, Surrogate] | None] = 0, None

    @property
    def size(self) -> int:
        """Molecules that it has learned from."""
        return len(self._rows)

    def score(self, mols: Iterable[Mol | None], **options: Any) -> Scores:
        """As the oracle says; see `Objective.score`."""
        every = list(mols)
        found = self.oracle.score(every, **options)
        for place, mol in enumerate(every):
            values = {column: found[column][place] for column in self._values}
            row = row_of(mol.ToBinary(EXACT)) if mol is not None else ""
            if isinstance(row, str) or not np.isfinite([*values.values()]).all():
                continue
            key, counts, descriptors = row
            self._rows[key] = counts, descriptors
            for column, value in values.items():
                # A molecule in two poses has two values; asked twice, it has the same again.
                known = self._values[column].setdefault(key, [])
                if value not in known:
                    known.append(value)
        return found

    def record(self) -> dict[str, Any]:
        """What a record says: of how many calls it learned, and how well the last ones predict."""
        fitted = self._fitted[1] or {}
        return {
            "learned_from": self.size,
            **{column: one.card["test"] for column, one in fitted.items()},
        }

    def stand_in(self, spare: int = 0) -> StandIn | None:
        """The reward by what was learned; None where that predicts no better than a mean.

        Args:
            spare: calls of the oracle, at most, for molecules outside the surrogate's range.
        """
        if self._fitted[0] != self.size:
            self._fitted = self.size, self._fit()
        fitted = self._fitted[1]
        return None if fitted is None else StandIn(self, fitted, spare)

    def _fit(self) -> dict[str, Surrogate] | None:
        fitted = {}
        for item in self.learned:
            for column in item.columns:
                table = SurrogateTable.of(self._rows, self._values[column], self.seed)
                source = "what the oracle was asked so far"
                try:
                    one = fit_surrogate(
                        table, column, item.unit, source, seed=self.seed, **self.network
                    )
                except UserError as error:
                    self.say(f"no surrogate yet: {error}")
                    return None
                test, unit = one.card["test"], f" {item.unit}".rstrip()
                told = (
                    f"surrogate of {column}: wrong by {test['mae']:.3g}{unit} on {test['n']} calls "
                    f"held out, their mean by {test['mae_of_the_mean']:.3g}"
                )
                if not test["mae"] < test["mae_of_the_mean"]:
                    self.say(f"{told}: it is not asked")
                    return None
                self.say(told)
                fitted[column] = one
        return fitted


class StandIn(_Same):
    """A reward whose slow properties are predicted.

    Args:
        learning: which made it.
        surrogates: by column.
        spare: calls of the oracle, at most.

    Attributes:
        calls: of the oracle that were made.
        predicted, refused: molecules that got a value without one, and that got none.
        digests: of the surrogates.
    """

    def __init__(self, learning: Learning, surrogates: Mapping[str, Surrogate], spare: int) -> None:
        super().__init__(learning.oracle)
        self.learning, self.spare = learning, spare
        self.digests = [surrogate.digest for surrogate in surrogates.values()]
        self._items = [
            _predicted(item, surrogates) if item in learning.learned else item
            for item in learning.items
        ]
        self.calls = self.predicted = self.refused = 0

    def score(self, mols: Iterable[Mol | None], **options: Any) -> Scores:
        """The column `reward`, NaN of molecules outside the range that no call was spared for."""
        every = list(mols)
        timeout, pool = options.get("timeout", 30.0), options.get("pool")
        found = score(
            every, self._items, timeout=timeout, pool=pool, progress=options.get("progress")
        )
        rewards = np.broadcast_to(self.of(found.values), len(every)).copy()
        slow = {item.name for item in self.learning.learned}
        outside = [
            place
            for place, (mol, errors) in enumerate(zip(every, found.errors, strict=True))
            if mol is not None and errors.keys() & slow
        ]
        asked = outside[: max(0, self.spare - self.calls)]
        if asked:
            kept = {"timeout": timeout, "pool": pool, "cache": options.get("cache")}
            rewards[asked] = self.learning.value([every[place] for place in asked], **kept)
        self.calls += len(asked)
        self.refused += len(outside) - len(asked)
        self.predicted += int(np.isfinite(np.delete(rewards, outside)).sum())
        return Scores({"reward": rewards}, found.errors)


def _predicted(item: Property, surrogates: Mapping[str, Surrogate]) -> Property:
    """The property as surrogates of its columns say it."""
    return replace(
        item,
        version=sum(surrogates[column].version for column in item.columns),
        compute=_Columns({column: surrogates[column] for column in item.columns}),
        engine="surrogate",
        geometry=False,
        bounds=(-np.inf, np.inf),
    )


class _Columns:
    """Values of several columns of one molecule."""

    def __init__(self, surrogates: Mapping[str, Surrogate]) -> None:
        self.surrogates = surrogates

    def __call__(self, mol: Mol) -> dict[str, float]:
        return {column: surrogate(mol) for column, surrogate in self.surrogates.items()}
