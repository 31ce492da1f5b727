"""Properties and flows of other people: files that are imported by path, and installed packages.

    molflowctl score library.sdf -p oxygens --import mine.py -o scored.csv

imports `mine.py`, which registers a property (`molflowctl.properties.register`) or holds a `Flow`
with a `kind` of its own, here and in every worker process, on nodes of a Ray cluster too: the text
of the file travels with the work. An installed package names its modules in its metadata,

    [project.entry-points."molflowctl.properties"]
    mine = "my_package.properties"

    [project.entry-points."molflowctl.flows"]
    mine = "my_package.flows"

which are imported when a name is asked for that this package does not know.
"""

from __future__ import annotations

import hashlib
import importlib.abc
import importlib.metadata
import importlib.util
import os
import pickle
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from molflowctl.errors import BrokenPlugin, UserError

__all__ = [
    "FLOWS",
    "PROPERTIES",
    "Plugin",
    "import_file",
    "load_installed",
    "receive",
    "shipped",
    "source_stamp",
]

PROPERTIES, FLOWS = "molflowctl.properties", "molflowctl.flows"
_PREFIX = "molflowctl_import_"


@dataclass(frozen=True)
class Plugin:
    """A file that was imported: where it is, and what was in it."""

    path: str
    source: bytes

    @property
    def module(self) -> str:
        """The name of its module, the same in every process and of one text only."""
        digest = hashlib.sha256(self.path.encode() + self.source).hexdigest()[:12]
        return f"{_PREFIX}{Path(self.path).stem}_{digest}"


class _Loader(importlib.abc.SourceLoader):
    """A module of a text that is at hand, where its file need not be."""

    def __init__(self, plugin: Plugin) -> None:
        self.plugin = plugin

    def get_filename(self, fullname: str) -> str:
        return self.plugin.path

    def get_data(self, path: str | bytes) -> bytes:
        if str(path) != self.plugin.path:
            raise OSError("no compiled file is kept")
        return self.plugin.source


_imported: dict[str, Plugin] = {}
_loaded: set[str] = set()  # groups of entry points


def import_file(path: str | Path) -> None:
    """Import a Python file, here at once and later in every worker process. Again does nothing.

    Raises:
        UserError: if there is no such file or it fails, with its line and the reason.
    """
    place = Path(path)
    try:
        source = place.read_bytes()
    except OSError as error:
        raise UserError(f"--import {path}: {error.strerror or error}.") from None
    _import(Plugin(str(place.resolve()), source))


def shipped() -> tuple[Plugin, ...]:
    """What worker processes have to import, in order."""
    return tuple(_imported.values())


def receive(plugins: Iterable[Plugin]) -> bool:
    """Import, in a worker, what the parent has imported; whether there was anything new.

    Raises:
        UserError: as `import_file`.
    """
    new = [plugin for plugin in plugins if plugin.module not in _imported]
    for plugin in new:
        _import(plugin)
    return bool(new)


def source_stamp(function: Callable[..., Any]) -> str:
    """The hash of the file that a function, or the class of a callable object, is from.

    Of a notebook, which is no file, the hash of the function itself; empty for this package, whose
    properties have versions. It stands beside the version of a property, so that a value of what
    was edited since is not taken for a value of what it is now.
    """
    owner = function if hasattr(function, "__qualname__") else type(function)
    module = owner.__module__
    if module.partition(".")[0] == "molflowctl":
        return ""
    plugin = _imported.get(module)
    file = getattr(sys.modules.get(module), "__file__", None)
    if plugin is not None:
        source = plugin.source
    elif file is not None and Path(file).is_file():
        source = Path(file).read_bytes()
    else:
        source = _by_value(function)
    return hashlib.sha256(source).hexdigest()[:16]


def _by_value(function: Callable[..., Any]) -> bytes:
    """What a function of a notebook does; another text each time where that cannot be said."""
    import cloudpickle

    try:
        return cloudpickle.dumps(function)  # type: ignore[no-any-return]
    except (pickle.PicklingError, TypeError, AttributeError, RecursionError, OSError):
        return os.urandom(16)


def load_installed(group: str) -> None:
    """Import the installed plug-ins of a group, once. A broken one is told in one line."""
    if group in _loaded:
        return
    _loaded.add(group)
    for entry in importlib.metadata.entry_points(group=group):
        try:
            entry.load()
        except Exception as error:  # anybody's code
            package = entry.dist.name if entry.dist else "a package"
            warnings.warn(
                f"the plug-in {entry.name} = {entry.value} of {package} is left out: "
                f"{_reason(error)}",
                BrokenPlugin,
                stacklevel=2,
            )


def _import(plugin: Plugin) -> None:
    name = plugin.module
    if name in _imported:
        return
    loader = _Loader(plugin)
    spec = importlib.util.spec_from_loader(name, loader, origin=plugin.path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    module.__file__ = plugin.path
    sys.modules[name] = module  # where pickle finds its functions
    _imported[name] = plugin  # before it registers anything, for `source_stamp`
    try:
        loader.exec_module(module)
    except (Exception, SystemExit) as error:  # anybody's code
        del sys.modules[name], _imported[name]
        line = _line(error, plugin.path)
        raise UserError(f"--import {plugin.path}{line}: {_reason(error)}") from None


def _line(error: BaseException, path: str) -> str:
    """`, line 3`: where in the file it failed."""
    if isinstance(error, SyntaxError) and error.filename == path:
        return f", line {error.lineno}"
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
    return f", line {lines[-1]}" if lines else ""


def _reason(error: BaseException) -> str:
    """The error in one line."""
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    text = " ".join(str(text).split())[:300]
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"
