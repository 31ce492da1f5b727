"""Properties and flows of strangers: by file and by entry point, here and in every worker."""

import importlib.metadata
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pandas
import pytest
import torch
from rdkit import Chem
from typer.testing import CliRunner

from molflowctl.cli import app
from molflowctl.compute import plugins
from molflowctl.compute.parallel import WorkerPool, open_pool
from molflowctl.compute.plugins import source_stamp
from molflowctl.errors import BrokenPlugin, UserError
from molflowctl.flows.flow import Flow
from molflowctl.properties import get, score
from molflowctl.properties.registry import _REGISTRY, names

ROOT = Path(__file__).parents[2]
# What a stranger writes: ten lines.
PROPERTY = """
from molflowctl.properties import register


@register(
    "{name}", unit="", version=1, geometry=False,
    description="oxygens and nitrogens, times {factor}",
)
def heteroatoms(mol):
    return {factor} * sum(atom.GetAtomicNum() in (7, 8) for atom in mol.GetAtoms())
"""
MOLS = [Chem.MolFromSmiles(smiles) for smiles in ("CCO", "NCCO", "c1ccccc1", "OC(=O)CN")]
COUNTS = [1.0, 2.0, 0.0, 3.0]


@pytest.fixture(autouse=True)
def as_it_was():
    """No plug-in of one test is known in another."""
    before = dict(_REGISTRY), dict(Flow.kinds), dict(plugins._imported), set(plugins._loaded)
    yield
    for now, then in zip((_REGISTRY, Flow.kinds, plugins._imported), before, strict=False):
        now.clear()
        now.update(then)
    plugins._loaded.clear()
    plugins._loaded.update(before[3])


def written(tmp_path, name="heteroatoms", factor=1, file="mine.py"):
    path = tmp_path / file
    path.write_text(PROPERTY.format(name=name, factor=factor))
    return path


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_property_of_a_file_is_computed_in_workers(tmp_path, jobs) -> None:
    plugins.import_file(written(tmp_path))
    plugins.import_file(tmp_path / "mine.py")  # again is nothing new
    assert len([p for p in plugins.shipped() if p.path == str(tmp_path / "mine.py")]) == 1
    found = score(MOLS, ["heteroatoms"], jobs=jobs, timeout=30)
    assert found["heteroatoms"].tolist() == COUNTS


def test_workers_that_ran_before_learn_of_a_new_file(tmp_path) -> None:
    with WorkerPool(1, isolate=True) as pool:
        assert next(iter(pool.map(abs, [-1]))).value == 1
        plugins.import_file(written(tmp_path))
        compute = get("heteroatoms").compute
        binaries = [mol.ToBinary() for mol in MOLS]
        found = [o.value for o in pool.map(lambda b: compute(Chem.Mol(b)), binaries)]
    assert found == COUNTS


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["joblib", "ray"])
def test_workers_of_a_cluster_learn_of_it_though_they_cannot_read_the_file(
    tmp_path, backend
) -> None:
    pytest.importorskip(backend)
    path = written(tmp_path)
    plugins.import_file(path)
    path.unlink()  # as on a node without this disk
    with open_pool(2, backend) as pool:
        found = score(MOLS, ["heteroatoms"], timeout=60, pool=pool)
    assert found["heteroatoms"].tolist() == COUNTS


def by_command(folder: Path, *words: object) -> None:
    """A command in a process of its own, as a user types it."""
    line = [sys.executable, "-m", "molflowctl", *map(str, words), "-q"]
    line += ["--import", str(folder / "mine.py")]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["processes", "joblib", "ray"])
def test_the_command_scores_by_it_on_every_backend(tmp_path, backend) -> None:
    if backend != "processes":
        pytest.importorskip(backend)
    written(tmp_path)
    library, out = tmp_path / "four.smi", tmp_path / "scored.csv"
    library.write_text("".join(f"{Chem.MolToSmiles(mol)}\n" for mol in MOLS))
    options = ["-p", "heteroatoms", "--backend", backend, "-j", 2, "--no-cache", "-o", out]
    by_command(tmp_path, "score", library, *options)
    assert pandas.read_csv(out).heteroatoms.tolist() == COUNTS


def test_a_function_of_a_notebook_is_known_by_what_it_does():
    def defined(text: str) -> dict:
        space = {"__name__": "__main__ of a notebook"}
        exec(compile(text, "<cell>", "exec"), space)
        return space["mine"]

    first, again, other = (
        source_stamp(defined(f"def mine(mol):\n    return {value}")) for value in (1, 1, 2)
    )
    assert first == again != other
    assert source_stamp(get("qed").compute) == ""
    assert len(source_stamp(defined)) == 16  # of this file


def test_values_of_an_edited_file_are_not_taken_from_the_cache(tmp_path) -> None:
    """The version of the property is the same; its text is not."""
    library = tmp_path / "library.smi"
    library.write_text("CCO\nNCCO\n")
    cache, found = tmp_path / "cache.sqlite", []
    for factor in (1, 10):
        path = written(tmp_path, factor=factor)
        arguments = ["score", library, "-p", "heteroatoms", "--import", path, "-j", 1]
        arguments += ["--cache", cache, "-o", tmp_path / f"{factor}.csv", "-q"]
        done = subprocess.run(
            [sys.executable, "-m", "molflowctl", *map(str, arguments)], capture_output=True
        )
        assert done.returncode == 0, done.stderr
        lines = (tmp_path / f"{factor}.csv").read_text().splitlines()
        place = lines[0].split(",").index("heteroatoms")
        found.append([float(line.split(",")[place]) for line in lines[1:]])
    assert found == [[1.0, 2.0], [10.0, 20.0]]


BROKEN = {
    "a missing file": (None, r"--import .*broken\.py: No such file"),
    "a syntax error": ("x = 1\nx = (\n", r"broken\.py, line 2: SyntaxError: "),
    "an error of its own": ("\n\n1 / 0\n", r"broken\.py, line 3: ZeroDivisionError: division"),
    "an exit": ("import sys\nsys.exit(3)\n", r"broken\.py, line 2: SystemExit: 3"),
    "a package that is not there": ("import nowhere\n", r"broken\.py, line 1: ModuleNotFound"),
    "a name that is taken": (
        PROPERTY.format(name="qed", factor=1),
        r"broken\.py, line \d+: ValueError: the property 'qed' clashes with 'qed'",
    ),
    "a kind that is taken": (
        "from molflowctl.flows.flow import Flow\nimport molflowctl.flows.mixture\n"
        "class Mine(Flow):\n    kind = 'mixture'\n",
        r"broken\.py, line 3: the kind 'mixture' of .*Mine is taken by .*MixtureFlow",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_named_in_one_line(case, tmp_path) -> None:
    text, message = BROKEN[case]
    path = tmp_path / "broken.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        plugins.import_file(path)
    assert "\n" not in str(error.value)
    assert not [p for p in plugins.shipped() if p.path == str(path)]
    done = CliRunner().invoke(app, ["properties", "--import", str(path)])
    assert done.exit_code == 1
    assert re.search(message, " ".join(done.output.split()))


def test_every_command_that_scores_or_draws_takes_files() -> None:
    for name in (
        "score",
        "finetune",
        "merge",
        "generate",
        "rank",
        "conformers",
        "benchmark denovo",
    ):
        done = CliRunner().invoke(app, [*name.split(), "--help"])
        assert "--import" in done.output, name


def test_an_imported_property_is_listed(tmp_path) -> None:
    done = CliRunner().invoke(app, ["properties", "--import", str(written(tmp_path))])
    assert done.exit_code == 0
    assert "oxygens and nitrogens, times 1" in done.output


def installed(folder, monkeypatch, **groups: dict[str, str]) -> None:
    """A package in `folder` with entry points, as pip would leave it."""
    info = folder / "stranger-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    lines = []
    for group, entries in groups.items():
        lines += [f"[molflowctl.{group}]", *(f"{k} = {v}" for k, v in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(str(folder))
    plugins._loaded.clear()


def test_an_installed_property_is_found_by_name(tmp_path, monkeypatch) -> None:
    written(tmp_path, name="installed_count", file="stranger_counts.py")
    installed(tmp_path, monkeypatch, properties={"counts": "stranger_counts"})
    assert get("installed-count")(MOLS[1]) == {"installed_count": 2.0}
    assert "installed_count" in names()
    found = score(MOLS, ["installed_count"], jobs=2, timeout=30)
    assert found["installed_count"].tolist() == COUNTS


def test_a_broken_package_is_named_and_the_others_work(tmp_path, monkeypatch) -> None:
    (tmp_path / "stranger_broken.py").write_text("raise RuntimeError('not\\ntoday')\n")
    written(tmp_path, name="whole_count", file="stranger_whole.py")
    installed(
        tmp_path, monkeypatch, properties={"bad": "stranger_broken", "good": "stranger_whole"}
    )
    words = "the plug-in bad = stranger_broken of stranger is left out: RuntimeError: not today"
    with pytest.warns(BrokenPlugin, match=f"^{words}$"):
        assert get("whole_count").columns == ("whole_count",)
    assert importlib.metadata.version("stranger") == "1.0"
    assert get("qed")(MOLS[0])["qed"] > 0  # and what ships never asks for it


FLOW = """
import torch
from molflowctl.flows.flow import Flow


class Shifted(Flow):
    kind = "{kind}"

    def __init__(self, by: float) -> None:
        super().__init__(by=by)
        self.shift = torch.nn.Parameter(torch.tensor(by))

    def endpoint(self, x, t):
        return torch.zeros_like(x) + self.shift

    def start(self, batch, noise):
        return self.noise_like(torch.empty(batch, 2), noise)
"""


def test_a_flow_of_a_file_is_found_by_its_folder(tmp_path) -> None:
    path = tmp_path / "flows.py"
    path.write_text(FLOW.format(kind="test-shifted"))
    code = (
        "from molflowctl.compute.plugins import import_file\n"
        "from molflowctl.flows.flow import Flow\n"
        f"import_file({str(path)!r})\n"
        f"Flow.kinds['test-shifted'](2.5).save({str(tmp_path / 'flow')!r})"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(UserError, match=r"kind 'test-shifted'; .*known after --import FILE.py"):
        Flow.load(tmp_path / "flow")
    plugins.import_file(path)
    assert Flow.load(tmp_path / "flow").draw_states(3).tolist() == [[2.5, 2.5]] * 3


def test_an_installed_flow_is_found_by_its_folder(tmp_path, monkeypatch) -> None:
    (tmp_path / "stranger_flows.py").write_text(FLOW.format(kind="test-installed"))
    installed(tmp_path, monkeypatch, flows={"shifted": "stranger_flows"})
    scope: dict = {}
    exec(textwrap.dedent(FLOW.format(kind="test-temporary")), scope)
    folder = scope["Shifted"](1.5).save(tmp_path / "flow")
    card = (folder / "card.json").read_text()
    assert "test-temporary" in card
    del Flow.kinds["test-temporary"]
    import stranger_flows  # only to write its folder

    folder = stranger_flows.Shifted(1.5).save(tmp_path / "installed")
    del Flow.kinds["test-installed"], sys.modules["stranger_flows"]
    assert torch.equal(Flow.load(folder).draw_states(2), torch.full((2, 2), 1.5))
