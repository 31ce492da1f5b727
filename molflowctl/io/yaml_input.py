"""Settings as people write them: YAML of files and of `--set`, read with care and light to import.

Only plain values are made, never an object of Python. A date stays the text it is written as, and
so do `1_000`, `1:30` and `017`, which are 1000, 90 and 15 to YAML 1.1 and to few who write them.
What cannot be read is one line that names the place: the file and the line in it, or the key.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from molflowctl.errors import UserError
from molflowctl.io.plain_files import DEPTH, quoted, read_plain

__all__ = ["lines_of", "read_mapping", "read_value"]

LIMIT = 1_000_000  # bytes of a file of settings
_OCTAL = re.compile("[-+]?0[0-9]+")
ALIASES = 100  # of `*name` in a file: each repeats a whole value


class _Loader(yaml.SafeLoader):
    """YAML's plain values, but no dates, no key twice, and no depth without end."""

    depth = aliases = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.aliases += self.check_event(yaml.AliasEvent)
        if self.aliases > ALIASES:
            raise yaml.MarkedYAMLError(problem="too many aliases", problem_mark=self._mark())
        self.depth += 1
        if self.depth > DEPTH:
            raise yaml.MarkedYAMLError(
                problem=f"more than {DEPTH} levels inside one another", problem_mark=self._mark()
            )
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[str] = set()
        for key, _ in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else ""
            if name in seen and name != "<<":
                raise yaml.MarkedYAMLError(
                    problem=f"{name} is given twice", problem_mark=key.start_mark
                )
            seen.add(name)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError):
            raise yaml.MarkedYAMLError(
                problem=f"{quoted(getattr(node, 'value', ''))} is no {node.tag.rpartition(':')[2]}",
                problem_mark=node.start_mark,
            ) from None

    def _mark(self) -> Any:
        return self.peek_event().start_mark


def _number(loader: _Loader, node: yaml.ScalarNode) -> Any:
    text = str(loader.construct_scalar(node))
    if "_" in text or ":" in text or (_OCTAL.fullmatch(text) and "int" in node.tag):
        return text
    read = loader.construct_yaml_int if "int" in node.tag else loader.construct_yaml_float
    return read(node)


for _kind in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _number)
_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in known if tag != "tag:yaml.org,2002:timestamp"]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_value(text: str, where: str) -> Any:
    """The value of a text in YAML; `where` begins the message.

    Raises:
        UserError: it is none.
    """
    if len(text) > LIMIT:
        raise UserError(f"{where}: a text of {len(text):,} signs is no setting.")
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(f"{where}: {quoted(text)} is no value in YAML: {_what(error)}.") from None


def read_mapping(path: str | Path) -> dict[str, Any]:
    """The settings of a YAML file; an empty one has none.

    Raises:
        UserError: it is not there, no file, too large, no YAML, or holds no mapping.
    """
    try:
        text = read_plain(path, LIMIT).decode("utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: give a file of settings in YAML.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as YAML: {error}.") from None
    try:
        values = yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
        raise UserError(f"{path}{place}: cannot be read as YAML: {_what(error)}.") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold a mapping of settings, not {type(values).__name__}.")
    if strange := [key for key in values if not isinstance(key, str)]:
        raise UserError(f"{path}: the name of a setting is a text, not {quoted(strange[0])}.")
    return values


def lines_of(path: str | Path) -> dict[tuple[str, ...], int]:
    """The line of each key of a YAML file, by its path; nothing where it cannot be read."""
    found: dict[tuple[str, ...], int] = {}

    def walk(node: Any, above: tuple[str, ...]) -> None:
        if isinstance(node, yaml.MappingNode) and len(above) < DEPTH:
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode):
                    found[(*above, key.value)] = key.start_mark.line + 1
                    walk(value, (*above, key.value))

    try:
        walk(yaml.compose(read_plain(path, LIMIT).decode("utf-8"), _Loader), ())
    except (OSError, UserError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return found


def _what(error: Exception) -> str:
    """What is wrong, on one line."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    text = getattr(error, "problem", None) or str(error)
    return " ".join(str(text).split()).rstrip(".")
