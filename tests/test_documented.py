"""Every public name of flows and control says what it is, of what shape, and why it may fail."""

import ast
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

PACKAGE = Path(__file__).parents[1] / "molflowctl"
MODULES = [
    importlib.import_module(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts))
    for folder in ("flows", "control")
    for path in sorted((PACKAGE / folder).rglob("[!_]*.py"))
]
# `(B,)`, `(N, m)`, `(B, *shape)`; or the words for a state, whose shape is the flow's own, and for
# a single number.
SHAPE = re.compile(r"\([A-Za-z]\w*, ?[^)]*\)|\bstates?\b|\bshapes?\b|\bscalar\b")


def own(module: ModuleType) -> list[tuple[str, object]]:
    """Public classes and functions that are defined in a module."""
    return [
        (name, thing)
        for name, thing in vars(module).items()
        if not name.startswith("_")
        and getattr(thing, "__module__", "") == module.__name__
        and (inspect.isclass(thing) or inspect.isfunction(thing))
    ]  # fmt: skip


def functions(module: ModuleType) -> Iterator[tuple[str, Callable[..., object], str]]:
    """Public functions and methods with their names, and what is said of them and their class."""
    for name, thing in own(module):
        if inspect.isfunction(thing):
            yield name, thing, inspect.getdoc(thing) or ""
        elif inspect.isclass(thing):
            for method, raw in vars(thing).items():
                function = raw.fget if isinstance(raw, property) else raw
                function = getattr(function, "func", getattr(function, "__func__", function))
                written = inspect.isfunction(function) and function.__name__ != "<lambda>"
                if written and not method.startswith("_"):
                    said = inspect.getdoc(getattr(thing, method)) or ""
                    if isinstance(raw, property):
                        said = inspect.getdoc(raw) or ""
                    yield f"{name}.{method}", function, said


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_public_name_is_listed_and_documented(module: ModuleType) -> None:
    assert inspect.getdoc(module)
    listed = set(module.__all__)
    assert {name for name, _ in own(module)} <= listed
    assert [name for name, thing in own(module) if not thing.__doc__] == []
    assert [name for name, _, said in functions(module) if not said] == []


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_whatever_takes_or_gives_tensors_says_their_shapes(module: ModuleType) -> None:
    silent = [
        name
        for name, function, said in functions(module)
        if "Tensor" in str(inspect.signature(function)) and not SHAPE.search(said)
    ]
    assert silent == []


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_whatever_refuses_its_arguments_says_so(module: ModuleType) -> None:
    """A public function that raises says `Raises`, or its class does for all its methods."""
    tree = ast.parse(inspect.getsource(module))
    known = {name: said for name, _, said in functions(module)}
    silent = []
    for node in tree.body:
        inner = node.body if isinstance(node, ast.ClassDef) else [node]
        if getattr(node, "name", "_").startswith("_"):
            continue
        whole = (ast.get_docstring(node) or "") if isinstance(node, ast.ClassDef) else ""
        for part in inner:
            if not isinstance(part, ast.FunctionDef) or part.name.startswith("_"):
                continue
            name = f"{node.name}.{part.name}" if isinstance(node, ast.ClassDef) else part.name
            raised = [
                n.exc.func.id
                for n in ast.walk(part)
                if isinstance(n, ast.Raise)
                and isinstance(n.exc, ast.Call)
                and isinstance(n.exc.func, ast.Name)
            ]
            asked = {"UserError", "ValueError"} & set(raised)
            if asked and "raise" not in (known.get(name, "") + whole).lower():
                silent.append(name)
    assert silent == []
