"""Properties of given molecules, and the best of them."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

from molflowctl.face.library import Library, Molecules, given, is_frame, numbers
from molflowctl.face.showing import bar, say_fewer

if TYPE_CHECKING:
    import pandas

    from molflowctl.io.reading import Given, Record
    from molflowctl.properties.evaluate import Row
    from molflowctl.properties.registry import Property
    from molflowctl.properties.rewards.reward import PropertyReward
    from molflowctl.tasks.scoring.outcome import Scored
    from molflowctl.tasks.scoring.settings import ScoreConfig

__all__ = ["rank", "score"]


def score(
    molecules: Molecules,
    properties: str | Property | Sequence[str | Property],
    *,
    out: str | os.PathLike[str] | None = None,
    jobs: int | None = None,
    progress: bool = True,
    **settings: Any,
) -> pandas.DataFrame:
    """Compute properties of molecules.

    Examples:
        >>> frame = score(["CCO", "c1ccccc1O"], ["qed", "logp"])
        >>> frame = score(generate("qm9", n=100), ["dipole_debye"])

    A molecule without a geometry is given one where a property needs it, as the command does. Of
    several conformers of one RDKit molecule the first counts.

    Arguments:
        molecules: RDKit molecules or SMILES, one or many; a DataFrame with a column of these; a
            library; or a file.
        properties: names (`molflowctl properties`), `smarts:PATTERN`, `surrogate:FOLDER`, or
            properties themselves.
        out: a library to write as well, with its run record; None for none.
        jobs: worker processes; None for one per core.
        progress: show a bar on standard error.
        settings: any other of `molflowctl settings score`, such as `salts="strip"`.

    Returns:
        One row per molecule, in order; the index is that of a DataFrame that is given, else the
        place among the molecules, from 0 (twice where `isomers` makes two of one). Columns: those
        that are given, else `name` and `smiles`; then the values, each in the unit that its name
        ends with. NaN means failed; the column `failed`, there if anything did, says why.

    Raises:
        UserError: for a property, setting, molecules or file that cannot be used.

    Warns:
        FewerResults: some values are missing.
    """
    import pandas

    from molflowctl.properties.registry import Property
    from molflowctl.tasks.scoring.outcome import reasons
    from molflowctl.tasks.scoring.settings import ScoreConfig

    wanted = [properties] if isinstance(properties, str | Property) else list(properties)
    source = _given(molecules, settings)
    config = ScoreConfig.parse(
        {**settings, "library": str(source), "properties": [property_name(p) for p in wanted],
         "jobs": jobs, "out": "-" if out is None else os.fspath(out)},
        where="score()",
    )  # fmt: skip
    found, state = _scored(config, source, progress)
    if state.fewer:
        say_fewer("some values are missing", reasons(state))
    places = [record.number - 1 for record, _ in found]
    values = pandas.DataFrame([_values(record, row) for record, row in found], index=places)
    if is_frame(molecules):
        known = molecules.iloc[places]
        values.index = known.index
    else:
        known = pandas.DataFrame([_known(record) for record, _ in found], index=places)
    return known.assign(**{str(name): column for name, column in values.items()})


@overload
def rank(
    molecules: pandas.DataFrame, by: str | Property, n: int = 100, *,
    out: str | os.PathLike[str] | None = None, jobs: int | None = None, progress: bool = True,
    **settings: Any,
) -> pandas.DataFrame: ...  # fmt: skip


@overload
def rank(  # type: ignore[overload-cannot-match]  # pandas has no types of its own
    molecules: Molecules, by: str | Property, n: int = 100, *,
    out: str | os.PathLike[str] | None = None, jobs: int | None = None, progress: bool = True,
    **settings: Any,
) -> Library: ...  # fmt: skip


def rank(
    molecules: Molecules,
    by: str | Property,
    n: int = 100,
    *,
    out: str | os.PathLike[str] | None = None,
    jobs: int | None = None,
    progress: bool = True,
    **settings: Any,
) -> Library | pandas.DataFrame:
    """The best molecules, in order, each molecule once.

    Examples:
        >>> best = rank(score(mols, ["qed", "sa_score"]), by="qed", n=50)
        >>> best = rank(mols, by="product(ramp(qed, 0, 1), step(-sa_score, -4))", n=50)

    Arguments:
        molecules: as of `score`; of a file the columns count alone, as for the command.
        by: a column, or a reward made of columns. Properties that are no columns yet are computed
            first.
        n: molecules to keep.
        out: a library to write as well, with its run record; None for none.
        jobs: worker processes for what is computed first; None for one per core.
        progress: show a bar on standard error while that is computed.
        settings: any other of `molflowctl settings rank`, such as `minimise=True`.

    Returns:
        Of a DataFrame its best rows, the column `rank` first; of anything else a library with the
        values `rank`, that of `by`, and those that were there.

    Raises:
        UserError: for a setting, molecules or file that cannot be used, or where no molecule has a
            value.

    Warns:
        FewerResults: molecules without the value are left out.
    """
    from molflowctl.tasks.memory import Memory
    from molflowctl.tasks.scoring import rank as task
    from molflowctl.tasks.scoring.settings import RankConfig

    source = _given(molecules, settings)
    order = property_name(by)
    config = RankConfig.parse(
        {"n": n, **settings, "library": str(source), "by": order,
         "out": "-" if out is None else os.fspath(out)},
        where="rank()",
    )  # fmt: skip
    if not isinstance(source, str):
        source = _with_columns(source, order, jobs, progress)
    memory = Memory()
    found = task.rank_library(
        config,
        given=None if isinstance(source, str) else source,
        into=memory if out is None else None,
    )
    if found.without:
        what = f"{found.without.total():,} molecules are left out"
        say_fewer(what, [f"{count:,} {why}" for why, count in found.without.most_common()])
    if is_frame(molecules) and not isinstance(source, str):
        records = source.records
        best = molecules.iloc[[records[place.index].number - 1 for place in found.places]]
        new: dict[str, Any] = {"rank": range(1, len(best) + 1)}
        if order not in best.columns:
            new[order] = [place.value for place in found.places]
        kept = best.drop(columns="rank", errors="ignore")
        return kept.assign(**new)[[*new, *kept.columns]]
    if out is not None:
        return Library.read(out)
    entries = [entry._replace(tags=numbers(entry.tags)) for entry in memory.entries]
    made = {"command": "rank", "config": config.model_dump(mode="json")}
    return Library(entries, found.notes, made)


def property_name(item: str | Property | PropertyReward) -> str:
    """A property by name, or a reward as text; what was built by hand becomes known by its name."""
    from molflowctl.properties.registry import add
    from molflowctl.properties.rewards.reward import PropertyReward

    if isinstance(item, PropertyReward):
        return item.text
    return item if isinstance(item, str) else add(item).name


def _given(molecules: Molecules, settings: dict[str, Any]) -> Given | str:
    return given(
        molecules,
        smiles_column=settings.get("smiles_column"),
        name_column=settings.get("name_column"),
    )


def _known(record: Record) -> dict[str, Any]:
    """What a record says itself."""
    from rdkit import Chem

    smiles = None if record.mol is None else Chem.MolToSmiles(Chem.RemoveHs(record.mol))
    return {"name": record.name, "smiles": smiles, **numbers(record.tags)}


def _values(record: Record, row: Row) -> dict[str, Any]:
    """What was computed of a record, and why it is not all there."""
    from molflowctl.properties.energies.geometry import NO_COORDINATES

    reasons = [
        f"{name}: {record.error or why if why == NO_COORDINATES else why}"
        for name, why in row.errors.items()
    ]
    if record.mol is None:
        reasons = [record.error]
    return {**row.values, **({"failed": "; ".join(reasons)} if reasons else {})}


def _with_columns(source: Given, by: str, jobs: int | None, progress: bool) -> Given:
    """The molecules with the values that `by` needs and that they lack."""
    from molflowctl.io.reading import Given, survey
    from molflowctl.properties.rewards import parse_reward
    from molflowctl.tasks.scoring.settings import ScoreConfig

    there = survey(source).tags
    if by in there:
        return source
    names = parse_reward(by, there).properties
    if not names:
        return source
    config = ScoreConfig(library=str(source), out="-", properties=names, jobs=jobs)
    found, _ = _scored(config, source, progress)
    return Given(
        tuple(
            record._replace(
                tags=record.tags
                | {key: repr(v) for key, v in row.values.items() if math.isfinite(v)}
            )
            for record, row in found
        )
    )


def _scored(
    config: ScoreConfig, source: Given | str, progress: bool
) -> tuple[list[tuple[Record, Row]], Scored]:
    """Every record of the source with its values, those that failed too."""
    from molflowctl.tasks.memory import Memory
    from molflowctl.tasks.scoring import score as task

    found: list[tuple[Record, Row]] = []
    with bar(progress, "molecules") as show:
        state = task.score_library(
            config,
            show,
            given=None if isinstance(source, str) else source,
            into=Memory() if config.out == "-" else None,
            watch=lambda record, row: found.append((record._replace(block=""), row)),
        )
    return found, state
