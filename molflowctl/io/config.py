"""Run configurations: validated when they are read, dumped beside every result.

A YAML file gives any of the fields; `--set key=value` changes one, dots reach into nested ones.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from molflowctl.errors import OldSpelling, UserError
from molflowctl.io.atomic import write_file
from molflowctl.io.expressions import check_circuit, check_reward, check_spec
from molflowctl.io.plain_files import quoted
from molflowctl.io.yaml_input import lines_of, read_mapping, read_value

__all__ = [
    "SPELLINGS",
    "Config",
    "IsomerRule",
    "SaltRule",
    "check_neutralise",
    "flat_fields",
    "of_a_record",
    "packaged_configs",
    "tell_old_name",
]

Key = tuple[str, ...]  # the names of a setting and of the groups it is in, the outermost first
CircuitText = Annotated[str, AfterValidator(check_circuit)]


RewardText = Annotated[str, AfterValidator(check_reward)]


Spec = Annotated[str, AfterValidator(check_spec)]


def _check_isomers(value: Any) -> Any:
    """One of the words, or a number of isomers, 1 or more."""
    number = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value
    if number in ("first", "refuse", "enumerate"):
        return number
    if isinstance(number, int) and not isinstance(number, bool) and 1 <= number <= 10_000:
        return number
    raise ValueError(f"is first, refuse, enumerate or a number from 1 on, not {quoted(value)}")


IsomerRule = Annotated[
    Literal["first", "refuse", "enumerate"] | int, BeforeValidator(_check_isomers)
]


SaltRule = Literal["refuse", "strip", "keep"]


CONFIGS = Path(__file__).parents[1] / "configs"


# American and British: both are right, in files and after --set; options have them, too.
SPELLINGS = {"minimize": "minimise", "neutralize": "neutralise", "optimizer": "optimiser"}
_LONGEST_CHANGE = 10_000  # characters of a `--set`


def tell_old_name(old: str, new: str) -> None:
    """Warn that something is called otherwise now; once for each, by Python's own rule."""
    warnings.warn(f"{old} is {new} now: the old name goes with the next release", OldSpelling, 3)


@contextlib.contextmanager
def of_a_record() -> Iterator[None]:
    """No such warning within: what the program itself has written is nobody's to mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OldSpelling)
        yield


def flat_fields(kind: type[Config], above: str = "") -> dict[str, FieldInfo]:
    """Every setting by its whole name, such as `network.depth`, in the order of the class."""
    return dict(_flat(kind, above))


def _flat(kind: type[Config], above: str) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in kind.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Config):
            yield from _flat(inner, f"{above}{name}.")
        else:
            yield above + name, field


def packaged_configs() -> dict[str, Path]:
    """The configurations that ship with the package, by file name."""
    return {path.name: path for path in sorted(CONFIGS.glob("*.yaml"))}


def _name(key: str) -> str:
    """The name of a setting as a message can show it."""
    name = "".join(c if c.isprintable() else " " for c in key[:60])
    return name if len(key) <= 60 else f"{name[:57]}..."


def _underscored(value: Any, found: Any) -> str | None:
    """A text with a `_` that was read as a number, in a value or inside one."""
    if isinstance(value, str):
        return value if "_" in value and isinstance(found, int | float) else None
    pairs: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping) and isinstance(found, Mapping):
        pairs = [(value[key], found.get(key)) for key in value]
    elif isinstance(value, list | tuple) and isinstance(found, list | tuple):
        pairs = zip(value, found, strict=False)
    return next((text for one, of in pairs if (text := _underscored(one, of)) is not None), None)


class Config(BaseModel):
    """A frozen record that refuses unknown keys, and numbers that are not finite.

    Each field's `description` says what it means, and of a number in brackets at the end what it
    counts; `molflowctl settings` lists them. A class is made with `command=`, what they are
    settings of, and `old_names=`, settings by the names of the release before and what those are
    called now; a class inherits them. They are taken with a warning, as options are.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    command: ClassVar[str] = ""
    _old_names: ClassVar[dict[str, str]] = {}

    def __init_subclass__(
        cls, command: str = "", old_names: Mapping[str, str] | None = None, **more: Any
    ) -> None:
        super().__init_subclass__(**more)
        cls.command = command or cls.command
        cls._old_names = cls._old_names | dict(old_names or {})

    @field_validator("*", mode="wrap")
    @classmethod
    def _plain_texts(cls, value: Any, read: ValidatorFunctionWrapHandler) -> Any:
        """Refuse a number to Python alone, `1_000`, and a zero byte, which no name may hold."""
        if isinstance(value, str | Path) and "\0" in str(value):
            raise ValueError(f"{quoted(value)} holds a zero byte: leave it out")
        found = read(value)
        if (text := _underscored(value, found)) is not None:
            raise ValueError(f"{quoted(text)} is no number: leave out the _")
        return found

    if not TYPE_CHECKING:  # a type checker goes by the fields

        def __init__(self, **values: Any) -> None:
            """Raises `UserError` for settings that are wrong, as `parse` does."""
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise self._refusal(error, type(self).__name__, {}, set()) from None

        __init__.__pydantic_base_init__ = (
            True  # validation of parts goes past it, as past pydantic's
        )

    @classmethod
    def every_old_name(cls) -> dict[str, str]:
        """The old names of this class and of those above it, each with the name of now."""
        return {old: new for old, new in cls._old_names.items() if old not in cls.model_fields}

    @classmethod
    def with_new_names(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """The settings by their names of now, with a warning for each old one.

        Raises:
            UserError: where one is given by both names.
        """
        found = dict(values)
        cls.translate(found)
        for old, new in (cls.every_old_name() | SPELLINGS).items():
            if old not in found or old in cls.model_fields or new not in cls.model_fields:
                continue
            if new in found:
                raise UserError(f"{old} and {new} are one setting: leave {old} out.")
            found[new] = found.pop(old)
            if old not in SPELLINGS:
                tell_old_name(old, new)
        return found

    @classmethod
    def of_record(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """The settings in a record, by their names of now; those of an earlier release too."""
        with of_a_record():
            return cls.with_new_names(values)

    @classmethod
    def translate(cls, values: dict[str, Any]) -> None:
        """Bring to today's form, in place, what has changed more than its name."""

    @model_validator(mode="before")
    @classmethod
    def _take_old_names(cls, values: Any) -> Any:
        return cls.with_new_names(values) if isinstance(values, dict) else values

    @classmethod
    def read(cls, path: str | Path, changes: list[str] | None = None) -> Self:
        """Read a YAML file (or the name of a packaged one) and apply `key=value` changes.

        Raises:
            UserError: naming the file, the line and the field that is wrong.
        """
        file = Path(path)
        if not file.exists():
            if str(path) not in packaged_configs():
                known = ", ".join(packaged_configs())
                raise UserError(f"no configuration {path}; a path, or one of the packaged {known}.")
            file = packaged_configs()[str(path)]
        return cls.parse(read_mapping(file), changes, where=str(path), file=file)

    @classmethod
    def parse(
        cls,
        values: Any,
        changes: list[str] | None = None,
        where: str = "config",
        file: Path | None = None,
    ) -> Self:
        """Validate a mapping after applying `key=value` changes (values are YAML).

        Arguments:
            where: what messages call the mapping.
            file: the YAML file it was read from, whose lines messages then name.

        Raises:
            UserError: a line for each setting that is wrong, with its place.
        """
        if not isinstance(values, dict):
            raise UserError(
                f"{where} must hold a mapping of settings, not {type(values).__name__}."
            )
        values, changed = cls.with_new_names(copy.deepcopy(values)), set()
        for change in changes or []:
            if len(change) > _LONGEST_CHANGE:
                raise UserError(
                    f"--set {quoted(change[:60])}...: {len(change):,} characters are no setting."
                )
            key, found, text = change.partition("=")
            if not found:
                raise UserError(f"--set takes key=value, got {quoted(change)}.")
            *parents, leaf = cls._name_of_now(key.strip()).split(".")
            node = values
            for parent in parents:
                node = node.setdefault(parent, {})
                if not isinstance(node, dict):
                    raise UserError(
                        f"--set {quoted(change)}: {_name(parent)} is no group of settings."
                    )
            node[leaf] = read_value(text, f"--set {_name(key.strip())}")
            changed.add((*parents, leaf))
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise cls._refusal(error, where, lines_of(file) if file else {}, changed) from None

    @classmethod
    def _name_of_now(cls, key: str) -> str:
        """A key of `--set` by its name of now: it changes what a file gives by either name."""
        if key not in (names := cls.every_old_name() | SPELLINGS) or key in cls.model_fields:
            return key
        if key not in SPELLINGS:
            tell_old_name(key, names[key])
        return names[key]

    @classmethod
    def _refusal(
        cls, error: ValidationError, where: str, lines: dict[Key, int], changed: set[Key]
    ) -> UserError:
        """What a check of these settings says, which stands alone; else a line for each setting.

        A `UserError` is a `ValueError`, and pydantic wraps every one of these.
        """
        for item in error.errors():
            if isinstance(told := item.get("ctx", {}).get("error"), UserError):
                return told
        wrong = [cls._complaint(item, where, lines, changed) for item in error.errors()]
        return UserError("\n".join(dict.fromkeys(wrong)))

    @classmethod
    def _complaint(cls, error: Any, where: str, lines: dict[Key, int], changed: set[Key]) -> str:
        """One line about one setting: its place, its name, and what to do."""
        key = tuple(str(part) for part in error["loc"])
        above = [key[:n] for n in range(len(key), 0, -1)]
        above += [(old,) for old, new in cls.every_old_name().items() if key[:1] == (new,)]
        place = where
        if any(part in changed for part in above):
            place = "--set"
        elif line := next((lines[part] for part in above if part in lines), 0):
            place = f"{where}, line {line}"
        name = _name(".".join(key))
        if error["type"] == "extra_forbidden":
            return f"{place}: {name}: there is no such setting; {cls._nearest(key)}"
        if error["type"] == "missing":
            return f"{place}: {name}: is missing; {cls._listing()}"
        text = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
        shown = "" if error["type"] == "value_error" else f", not {quoted(error['input'])}"
        return f"{place}: {name}: {text}{shown}"

    @classmethod
    def _nearest(cls, key: Key) -> str:
        """What a name that is no setting may have meant."""
        known = list(flat_fields(cls))
        name = ".".join(key)
        # A setting of a group is found by its last name, too: depth is network.depth.
        near = [full for full in known if full.rpartition(".")[2] == key[-1]]
        near += difflib.get_close_matches(name, known, n=2, cutoff=0.6)
        hint = f"did you mean {' or '.join(dict.fromkeys(near))}? " if near else ""
        return hint + cls._listing()

    @classmethod
    def _listing(cls) -> str:
        return f"`molflowctl settings {cls.command}` lists all." if cls.command else ""

    def dump(self, path: str | Path) -> None:
        """Write the resolved configuration as YAML."""
        write_file(path, yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False))


def check_neutralise(salts: str, neutralise: bool) -> None:
    """Raise `UserError` where neutralising is asked for without stripping."""
    if neutralise and salts != "strip":
        raise UserError("neutralise goes with salts: strip (--salts strip --neutralise).")
