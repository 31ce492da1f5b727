"""Score molecules: properties over worker processes, NaN and a reason where one fails."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from rdkit.Chem import Mol

from molflowctl.chem import EXACT
from molflowctl.parallel import WorkerPool
from molflowctl.properties.registry import Property, PropertyError, get

if TYPE_CHECKING:
    import pandas

__all__ = ["Scores", "score"]


@dataclass(frozen=True)
class Scores:
    """Property values of n molecules.

    Attributes:
        values: by column, (n,) float64 in the property's unit; NaN means failed.
        errors: per molecule, the reason for each property that failed; empty if none did.
    """

    values: Mapping[str, NDArray[np.float64]]
    errors: Sequence[Mapping[str, str]]

    def __len__(self) -> int:
        return len(self.errors)

    def __getitem__(self, column: str) -> NDArray[np.float64]:
        return self.values[column]

    def failures(self) -> dict[str, Counter[str]]:
        """By property, how many molecules failed for which reason."""
        counts: dict[str, Counter[str]] = {}
        for row in self.errors:
            for name, reason in row.items():
                counts.setdefault(name, Counter())[reason] += 1
        return counts

    def frame(self) -> "pandas.DataFrame":
        """One row per molecule, one column per value."""
        import pandas

        return pandas.DataFrame(dict(self.values))


def score(
    mols: Iterable[Mol | None],
    names: Sequence[str],
    jobs: int = 1,
    timeout: float | None = 30.0,
    pool: WorkerPool | None = None,
    progress: Callable[[int], object] | None = None,
) -> Scores:
    """Compute the named properties of every molecule.

    The result does not depend on the number of workers. Properties of one engine (`xtb`, `rdkit`,
    ...) share one calculation per molecule and one time limit; a hang or crash costs these only.

    Args:
        mols: drawn lazily; `None` (a molecule that could not be read) fails in every property.
        names: registered properties; see `names()`.
        jobs: worker processes. One, without a time limit, computes in this process.
        timeout: seconds per molecule and engine, after which the calculation is killed.
        pool: workers to reuse instead of starting `jobs` new ones, which costs about a second.
        progress: called with the number of molecules done so far.

    Raises:
        UserError: an unknown property (before any work), a bad number of jobs or time limit.
    """
    properties = [get(name) for name in dict.fromkeys(names)]
    engines: dict[str, list[Property]] = {}
    for item in properties:
        engines.setdefault(item.engine, []).append(item)
    groups = list(engines.values())
    columns = [column for item in properties for column in item.columns]
    table: dict[str, list[float]] = {column: [] for column in columns}
    errors: list[dict[str, str]] = []
    if not groups:
        return Scores({}, [{} for _ in mols])

    def tasks() -> Iterator[tuple[bytes | None, int]]:
        for mol in mols:
            binary = None if mol is None else mol.ToBinary(EXACT)
            yield from ((binary, group) for group in range(len(groups)))

    workers = WorkerPool(jobs) if pool is None else pool
    row: dict[str, float] = {}
    reasons: dict[str, str] = {}
    try:
        outcomes = workers.map(partial(_compute, groups), tasks(), timeout=timeout)
        for count, outcome in enumerate(outcomes, start=1):
            if outcome.value is None:
                group = groups[(count - 1) % len(groups)]
                reasons.update({item.name: outcome.error or "failed" for item in group})
            else:
                row.update(outcome.value[0])
                reasons.update(outcome.value[1])
            if count % len(groups) == 0:
                for column in columns:
                    table[column].append(row.get(column, np.nan))
                errors.append({p.name: reasons[p.name] for p in properties if p.name in reasons})
                row, reasons = {}, {}
                if progress is not None:
                    progress(len(errors))
    finally:
        if pool is None:
            workers.close()
    return Scores({column: np.array(table[column], dtype=np.float64) for column in columns}, errors)


def _compute(
    groups: Sequence[Sequence[Property]], task: tuple[bytes | None, int]
) -> tuple[dict[str, float], dict[str, str]]:
    """Values by column and reasons by property, for one molecule and one engine."""
    binary, group = task
    if binary is None:
        return {}, {item.name: "the molecule could not be read" for item in groups[group]}
    mol = Mol(binary)
    values: dict[str, float] = {}
    reasons: dict[str, str] = {}
    for item in groups[group]:
        try:
            values.update(item(mol))
        except PropertyError as error:
            reasons[item.name] = str(error)
        except Exception as error:  # a property may be anybody's code; one must not cost the rest
            reasons[item.name] = f"{type(error).__name__}: {error}"
    return values, reasons
