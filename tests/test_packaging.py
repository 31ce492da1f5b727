"""pyproject.toml, constraints.txt, environment.yml and the package tell one story."""

import ast
import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import molflowctl

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DIRECT = [Requirement(line) for line in PROJECT["dependencies"]]
OPTIONAL = [Requirement(r) for extra in PROJECT["optional-dependencies"].values() for r in extra]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())

# What PyTorch's CUDA builds bring and pin themselves; the tested build is the CPU's.
CUDA = ("cuda-", "nvidia-", "triton")


def pinned(requirement: Requirement) -> str:
    """The version of a requirement that names exactly one."""
    (specifier,) = requirement.specifier
    assert specifier.operator == "==", requirement
    assert "*" not in specifier.version, requirement
    return specifier.version


def read_constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    pins = {canonicalize_name(r.name): pinned(r) for r in requirements}
    assert len(pins) == len(requirements), "a package is constrained twice"
    return pins


CONSTRAINTS = read_constraints()


# Imported where they are used: with them at the top every command would wait for them.
LAZY = {
    "ot",
    "chemiscope",
    "tensorboard",
    "ray",
    "joblib",
    "torch_geometric",
    "cloudpickle",
    "vina",
}


def told_of() -> list[tuple[str, str]]:
    """Packages and extras of the tables in docs/dependencies.md; of what is always there, none."""
    rows = re.findall(r"^\| (\S+) \|(.*)\|$", (ROOT / "docs/dependencies.md").read_text(), re.M)
    cells = [(name, [cell.strip() for cell in rest.split("|")]) for name, rest in rows]
    return [(name, c[0] if len(c) == 2 else "") for name, c in cells if name != "package"]


def test_the_table_of_dependencies_is_that_of_pyproject():
    extras = PROJECT["optional-dependencies"]
    wanted = [(r, "") for r in DIRECT]
    wanted += [(Requirement(line), extra) for extra, lines in extras.items() for line in lines]
    told = told_of()
    assert len(set(told)) == len(told)
    assert {(canonicalize_name(name), extra) for name, extra in told} == {
        (canonicalize_name(r.name), extra) for r, extra in wanted
    }


def test_what_few_need_is_imported_where_it_is_used():
    for path in (ROOT / "molflowctl").rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            assert not {name.partition(".")[0] for name in names} & LAZY, path


def required_by(requirements: list[Requirement]) -> set[str]:
    """Names of all that `requirements` need in this environment, themselves included."""
    names: set[str] = set()
    visited: set[tuple[str, frozenset[str]]] = set()
    queue = list(requirements)
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        extras = frozenset(requirement.extras)
        if (name, extras) in visited:
            continue
        visited.add((name, extras))
        names.add(name)
        try:
            lines = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # an extra that is not installed here
        for needed in map(Requirement, lines):
            marker = needed.marker
            if marker is None or any(marker.evaluate({"extra": e}) for e in extras or {""}):
                queue.append(needed)
    return names


@pytest.mark.parametrize("requirement", [*DIRECT, *OPTIONAL], ids=str)
def test_tested_version_is_one_that_we_allow(requirement):
    version = CONSTRAINTS[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(version)


def test_every_transitive_requirement_is_constrained():
    needed = {name for name in required_by([*DIRECT, *OPTIONAL]) if not name.startswith(CUDA)}
    assert needed - CONSTRAINTS.keys() == set()


def conda_requirements() -> tuple[list[str], list[Requirement]]:
    """Options, and requirements, of the pip section of environment.yml."""
    (section,) = [part["pip"] for part in ENVIRONMENT["dependencies"] if isinstance(part, dict)]
    options = [line for line in section if line.startswith("-")]
    return options, [Requirement(line) for line in section if line not in options]


def test_conda_environment_names_the_dependencies_at_their_tested_versions():
    options, requirements = conda_requirements()
    assert options == ["-c constraints.txt", "-e ."]
    found = {(canonicalize_name(r.name), pinned(r), str(r.marker)) for r in requirements}
    names = [(canonicalize_name(r.name), str(r.marker)) for r in DIRECT]
    assert found == {(name, CONSTRAINTS[name], marker) for name, marker in names}
    assert len(requirements) == len(found)


def test_conda_environment_has_a_python_that_we_allow():
    (line,) = [
        part
        for part in ENVIRONMENT["dependencies"]
        if isinstance(part, str) and part.startswith("python=")
    ]
    version = line.removeprefix("python=")
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(version)
    assert ENVIRONMENT["name"] == PROJECT["name"]


def test_version_is_the_same_everywhere():
    assert molflowctl.__version__ == PROJECT["version"]
    assert f"## [{PROJECT['version']}] - 2" in (ROOT / "CHANGELOG.md").read_text()  # dated
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == PROJECT["version"]


def test_every_folder_with_modules_is_a_package():
    # setuptools leaves out the others, which an editable installation does not show.
    folders = {module.parent for module in (ROOT / "molflowctl").rglob("*.py")}
    assert {f.relative_to(ROOT) for f in folders if not (f / "__init__.py").exists()} == set()


def test_top_level_names():
    assert molflowctl.Flow.__name__ == "Flow"
    assert set(molflowctl.__all__) <= set(dir(molflowctl))
    with pytest.raises(AttributeError, match="Flows"):
        _ = molflowctl.Flows
