"""What a resumed `molflowctl generate` goes on with: the settings of the run's record."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from molflowctl.errors import UserError
from molflowctl.io.atomic import leftovers
from molflowctl.io.record import read_record, record_path
from molflowctl.tasks.generate.settings import GenerateConfig

__all__ = ["differences", "settings_to_resume"]

# Settings that change how many molecules there are or how they are made, but not which. The flow is
# compared by its weights, `n` and `attempts` may be raised.
_MAY_CHANGE = {
    *("flow", "out", "n", "attempts", "jobs", "batch", "device"),
    *("resume", "overwrite", "html", "grid"),
}
_OWN = ("jobs", "resume", "overwrite")  # of a call, not of the run


def differences(begun: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Why a run of the settings `begun` cannot go on with those of `now`, which may be a part."""
    differ = [
        f"{name} = {begun.get(name)}, not {value}"
        for name, value in now.items()
        # A setting that the version of the record did not have was not made.
        if name not in _MAY_CHANGE and begun.get(name) != value and (name in begun or value)
    ]
    asked, before = ("n" if c.get("attempts") is None else "attempts" for c in (now, begun))
    least = begun.get(asked)
    if asked == before and isinstance(least, int) and now.get(asked, least) < least:
        differ.append(f"{asked} = {least}, which can be raised, not {now[asked]}")
    return differ


def settings_to_resume(out: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the run that is to go on, under those that are given.

    Arguments:
        out: the library.
        given: what the user said, by the names of `GenerateConfig`; more than `n`, `attempts` and
            what changes no molecule is not taken but compared.

    Returns:
        settings; those given alone where nothing was begun yet.

    Raises:
        UserError: for what contradicts the run's record, and where there is neither a record nor a
            flow to draw from.
    """
    target = Path(out)
    records = [*reversed(leftovers(target, record_path("").name)), record_path(target)]
    first: tuple[Path, list[str]] | None = None
    for place in records:
        record = read_record(place) or {}
        begun = record.get("config")
        if record.get("command") != "generate" or not isinstance(begun, dict):
            continue
        begun = GenerateConfig.of_record(begun)
        differ = differences(begun, given)
        if not differ:
            kept = {name: value for name, value in begun.items() if name not in _OWN}
            if "n" in given or "attempts" in given:
                kept = {k: v for k, v in kept.items() if k not in ("n", "attempts")}
            return {**kept, **given, "out": out}
        first = first or (place, differ)
    if first is not None:
        raise UserError(
            f"{out} was made with other settings ({'; '.join(first[1])}): leave them out, or start "
            f"again with --overwrite."
        )
    if "flow" not in given:
        raise UserError(
            f"there is no {record_path(target)} to tell what {out} is drawn from: name the flow."
        )
    return {**given, "out": out}
