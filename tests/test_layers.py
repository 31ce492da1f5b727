"""The house: folders stand on those below them, nothing imports in a circle, all stays small."""

import ast
from collections import Counter
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "molflowctl"
FILES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
# From the ground up. A folder imports its own modules and those of folders before it. Files stand
# on `compute`, since what parses a large SMILES is a worker process that may be lost.
LAYERS = (
    "errors", "chem", "compute", "io", "data", "flows", "control", "models", "properties", "viz",
    "tasks", "face", "cli",
)  # fmt: skip


def imports(module: str) -> set[str]:
    """The modules of the package that `module` imports, in functions too; not for types alone."""
    tree = ast.parse(FILES[module].read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in FILES else node.module for name in names}
    # The face of the package stands on top; what modules below ask it for is the version alone.
    return {name for name in found if name in FILES} - {module, "molflowctl"}


IMPORTS = {module: imports(module) for module in FILES}


def layer(module: str) -> int:
    """How high the folder of a module is."""
    return LAYERS.index(module.split(".")[1])


def test_every_module_stands_in_a_folder_that_is_known():
    loose = {m for m in FILES if m.count(".") == 1 and FILES[m].name != "__init__.py"}
    assert loose == {"molflowctl.errors", "molflowctl.__main__"}
    assert {m.split(".")[1] for m in FILES if m.count(".") > 1} <= set(LAYERS)


def test_folders_import_folders_below_them_only():
    inside = [m for m in FILES if m not in {"molflowctl", "molflowctl.__main__"}]
    upward = [(m, other) for m in inside for other in IMPORTS[m]
              if layer(other) > layer(m)]  # fmt: skip
    assert upward == []


def test_nothing_imports_in_a_circle():
    left = dict(IMPORTS)
    while free := [m for m, others in left.items() if not others & left.keys()]:
        for module in free:
            del left[module]
    used = set().union(*left.values())
    assert {m for m in left if m in used} == set()


def test_folders_stay_small():
    modules = Counter(path.parent for path in FILES.values() if path.name != "__init__.py")
    assert {folder: n for folder, n in modules.items() if n > 14} == {}


def test_imports_inside_functions_are_seen():
    assert "molflowctl.tasks.generate.denovo" in IMPORTS["molflowctl.cli.generate"]


def test_imports_for_types_alone_are_not():
    assert "molflowctl.models.denovo" not in IMPORTS["molflowctl.models.generation"]


def test_modules_stay_short():
    lines = {module: len(path.read_text().splitlines()) for module, path in FILES.items()}
    assert {module: n for module, n in lines.items() if n > 450} == {}


def test_one_name_is_one_class():
    """Of the words in which the rest is said, none means two things."""
    words = {"Sample", "Population", "Reward", "Round", "Step", "Scaled", "Calibration", "Energies"}
    classes = Counter(
        node.name
        for path in FILES.values()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    )
    assert {name: n for name, n in classes.items() if name in words and n > 1} == {}
