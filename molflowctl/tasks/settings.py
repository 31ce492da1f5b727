"""What can be set, command by command: name, default, unit, values and meaning of each setting.

Everything is generated from the configurations, which are the one place where it is written.
"""

from __future__ import annotations

import difflib
import importlib
import json
import re
import textwrap
import types
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo

from molflowctl.errors import UserError
from molflowctl.io.config import Config, flat_fields

__all__ = ["COMMANDS", "FORMATS", "Setting", "config_of", "settings_of", "shown"]

# The module and the class of each command's settings; imported when asked for, some are heavy.
COMMANDS: dict[str, tuple[str, str]] = {
    "generate": ("molflowctl.tasks.generate.settings", "GenerateConfig"),
    "conformers": ("molflowctl.tasks.conformers.settings", "ConformersConfig"),
    "score": ("molflowctl.tasks.scoring.settings", "ScoreConfig"),
    "rank": ("molflowctl.tasks.scoring.settings", "RankConfig"),
    "preview": ("molflowctl.tasks.scoring.settings", "PreviewConfig"),
    "surrogate": ("molflowctl.tasks.training.settings", "SurrogateConfig"),
    "finetune": ("molflowctl.tasks.steering.settings", "FinetuneConfig"),
    "merge": ("molflowctl.tasks.steering.settings", "MergeConfig"),
    "finetune-conformers": ("molflowctl.tasks.steering.settings", "ConformerFinetuneConfig"),
    "merge-conformers": ("molflowctl.tasks.steering.settings", "ConformerMergeConfig"),
    "train": ("molflowctl.tasks.training.settings", "TrainConfig"),
    "train-conformers": ("molflowctl.tasks.training.settings", "ConformerTrainConfig"),
    "data prepare-conformers": ("molflowctl.tasks.preparation.settings", "EnsembleConfig"),
    "data subset": ("molflowctl.tasks.preparation.subset", "SubsetConfig"),
    "docking prepare": ("molflowctl.properties.docking.receptor", "DockingConfig"),
    "benchmark denovo": ("molflowctl.tasks.evaluation.denovo", "BenchmarkConfig"),
    "benchmark compare": ("molflowctl.tasks.evaluation.compare", "CompareConfig"),
    "benchmark analytic": ("molflowctl.tasks.evaluation.analytic.benchmark", "AnalyticConfig"),
    "benchmark conformers": ("molflowctl.tasks.evaluation.conformers", "ConformerBenchmarkConfig"),
}
FORMATS = ("text", "md", "json")
_UNIT = re.compile(r"\s*\[([^\]]+)\]$")
_WIDTH = 79


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        name: as `--set NAME=VALUE` takes it.
        default: in YAML; None where there is none and the setting must be given.
        unit: of a number, or what it counts; empty for anything else.
        values: what it may be.
        meaning: what it does.
    """

    name: str
    default: str | None
    unit: str
    values: str
    meaning: str

    @classmethod
    def of(cls, name: str, field: FieldInfo) -> Setting:
        text = field.description or ""
        found = _UNIT.search(text)
        return cls(
            name,
            None if field.is_required() else _plain(field.get_default(call_default_factory=True)),
            found[1] if found else "",
            "; ".join(filter(None, [_kind(field.annotation), _bounds(field)])),
            _UNIT.sub("", text),
        )


def config_of(command: str) -> type[Config]:
    """The configuration of a command.

    Raises:
        UserError: there is no such command, or it has none; the message proposes the nearest.
    """
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=2)
        near += [known for known in COMMANDS if known.split()[-1] == command]
        hint = f"did you mean {' or '.join(dict.fromkeys(near))}? " if near else ""
        raise UserError(f"{command!r} has no settings; {hint}There are: {', '.join(COMMANDS)}.")
    module, name = COMMANDS[command]
    return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]


def settings_of(command: str) -> list[Setting]:
    """Every setting of a command, those of groups by their whole name.

    Raises:
        UserError: as `config_of` does.
    """
    return [Setting.of(name, field) for name, field in flat_fields(config_of(command)).items()]


def shown(settings: list[Setting], form: str) -> str:
    """The settings as text of 79 columns, a table in Markdown, or JSON.

    Raises:
        UserError: for another form.
    """
    if form == "json":
        return json.dumps([asdict(item) for item in settings], indent=2, ensure_ascii=False)
    if form == "md":
        return "\n".join(_markdown(settings))
    if form == "text":
        return "\n".join(_text(settings))
    raise UserError(f"--format is one of {', '.join(FORMATS)}, not {form!r}.")


def _text(settings: list[Setting]) -> Iterator[str]:
    width = max((len(item.name) for item in settings), default=0)
    for item in settings:
        default = "must be given" if item.default is None else item.default or '""'
        yield f"{item.name:{width}}  {' '.join(filter(None, [default, item.unit]))}"
        for line in (item.meaning, item.values):
            yield from textwrap.wrap(
                line, _WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 4,
                break_long_words=False, break_on_hyphens=False,
            )  # fmt: skip


def _markdown(settings: list[Setting]) -> Iterator[str]:
    yield "| name | default | unit | values | meaning |"
    yield "|---|---|---|---|---|"
    for item in settings:
        default = "must be given" if item.default is None else f"`{item.default}`"
        cells = [f"`{item.name}`", default, item.unit, item.values, item.meaning]
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _plain(value: Any) -> str:
    """A default on one line, as YAML writes it."""
    if isinstance(value, Path):
        value = str(value)
    elif isinstance(value, tuple):
        value = list(value)
    text = yaml.safe_dump(value, default_flow_style=True, width=1000)
    return text.removesuffix("\n").removesuffix("\n...")


def _kind(annotation: Any) -> str:
    """A type in words."""
    if get_origin(annotation) is Annotated:
        return _kind(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(str(_plain(value)) for value in get_args(annotation))
    if get_origin(annotation) in (Union, types.UnionType):
        parts = [_kind(part) for part in get_args(annotation)]
        # Choices of several sets are one set of choices.
        choices = [part.removeprefix("one of ") for part in parts if part.startswith("one of ")]
        others = [part for part in parts if not part.startswith("one of ")]
        return " or ".join([*(["one of " + ", ".join(choices)] if choices else []), *others])
    if get_origin(annotation) in (tuple, list):
        return f"list of {_kind(get_args(annotation)[0])}s"
    if get_origin(annotation) is dict:
        return "names with a " + _kind(get_args(annotation)[1]) + " each"
    names = {
        bool: "true or false", int: "whole number", float: "number", str: "text", Path: "path",
        type(None): "null",
    }  # fmt: skip
    return names.get(annotation, str(getattr(annotation, "__name__", annotation)).lower())


def _bounds(field: FieldInfo) -> str:
    """Limits of a number or a list, in words."""
    signs = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
    found = [
        f"{word} {getattr(item, sign):g}"
        for item in field.metadata
        for sign, word in signs.items()
        if hasattr(item, sign)
    ]
    found += [
        f"at least {item.min_length}" for item in field.metadata if hasattr(item, "min_length")
    ]
    return ", ".join(found)
