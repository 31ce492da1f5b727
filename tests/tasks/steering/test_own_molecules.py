"""A stranger's molecule flow and property, one file each, from the command line."""

import json
import subprocess
import sys

import numpy as np
import pytest
from rdkit import Chem
from typer.testing import CliRunner

from molflowctl.cli import app

# Alcohols of three and four heavy atoms about fixed geometries: the states are plain tensors, the
# deviations of the positions in tenths of an angstrom, and there is nothing else to draw.
FLOW = """
import numpy as np
import torch
from torch import nn

from molflowctl.chem.graphs import Graph3D
from molflowctl.models.molecule_flow import MoleculeFlow

UNIT = 0.1


def template(n):
    at = torch.arange(n)
    return torch.stack([1.25 * at, 0.8 * (at % 2), 0.0 * at], -1).float()


class Correction(nn.Module):
    def __init__(self, n, outputs):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3 * n + 1, 32), nn.SiLU(), nn.Linear(32, outputs))
        nn.init.zeros_(self.layers[-1].weight)
        nn.init.zeros_(self.layers[-1].bias)

    def forward(self, x, t):
        return self.layers(torch.cat([x.flatten(1), t[:, None].to(x)], -1))


class PerSize(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        self.nets = nn.ModuleDict({str(n): Correction(n, 1) for n in sizes})

    def forward(self, x, t):
        return self.nets[str(x.shape[1])](x, t)[:, 0]


class Alcohols(MoleculeFlow):
    kind = "test-alcohols"

    def __init__(self, sizes, stretch=0.0):
        super().__init__(sizes=sizes, stretch=stretch)
        self.elements, self.hydrogens = [6, 8], "implicit"
        self.sizes = {int(n): count for n, count in sizes.items()}
        self.stretch = stretch
        self.nets = nn.ModuleDict({n: Correction(int(n), 3 * int(n)) for n in sizes})

    def state_space(self):
        return "alcohols"

    def prior(self, batch, atoms, noise):
        return noise.normal(batch, atoms, 3)

    def endpoint(self, x, t):
        n = x.shape[1]
        t = t[:, None, None].to(x)
        mean = torch.zeros(n, 3)
        mean[-1, 0] = self.stretch
        exact = mean + t / (t**2 + (1 - t) ** 2) * (x - t * mean)
        return exact + (1 - t) * self.nets[str(n)](x, t[:, 0, 0]).view_as(x)

    def encode(self, numbers, charges, bonds, positions):
        return (positions - template(positions.shape[1])) / UNIT

    def decode(self, x):
        n = x.shape[1]
        numbers = np.array([6] * (n - 1) + [8])
        bonds = np.eye(n, k=1, dtype=np.int8) + np.eye(n, k=-1, dtype=np.int8)
        positions = (template(n) + UNIT * x.cpu()).numpy()
        return [Graph3D(numbers, np.zeros(n, int), bonds, place) for place in positions]

    def value_network(self):
        return PerSize(self.sizes)


def save(folder, **arguments):
    torch.manual_seed(0)
    Alcohols({"3": 3, "4": 1}, **arguments).save(folder, {"name": "alcohols"})
"""

PROPERTY = """
from molflowctl.properties import register


@register("co_distance_angstrom", unit="angstrom", version=1, description="first C to O")
def co_distance(mol):
    oxygen = next(a.GetIdx() for a in mol.GetAtoms() if a.GetAtomicNum() == 8)
    positions = mol.GetConformer().GetPositions()
    return float(((positions[0] - positions[oxygen]) ** 2).sum() ** 0.5) - 1.25 * oxygen
"""

TINY = [
    "--set", "base_samples=384", "--set", "n_samples=256", "--set", "test_samples=384",
    "--set", "train_steps=80", "--set", "batch=128", "--set", "lr=5e-3",
    "--set", "nfe=20", "--set", "mirror_nfe=20",
]  # fmt: skip


def molflowctl(*arguments, status: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "molflowctl", *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode == status, done.stderr
    return done.stderr


# Once a process: a kind of flow may be imported once, and runs in parallel come back to a module.
@pytest.fixture(scope="session")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stranger")
    (folder / "alcohols.py").write_text(FLOW)
    (folder / "distance.py").write_text(PROPERTY)
    code = (
        "from molflowctl.compute.plugins import import_file, shipped\n"
        f"import sys; import_file({str(folder / 'alcohols.py')!r})\n"
        "mine = sys.modules[shipped()[0].module]\n"
        f"mine.save({str(folder / 'flow')!r})\n"
        f"mine.save({str(folder / 'long')!r}, stretch=2.0)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    return folder


def test_it_is_drawn_from(files, tmp_path) -> None:
    out = tmp_path / "library.sdf"
    molflowctl(
        "generate", files / "flow", "-n", 60, "-j", 2, "-o", out, "-q",
        "--import", files / "alcohols.py",
    )  # fmt: skip
    mols = list(Chem.SDMolSupplier(str(out)))
    assert {Chem.MolToSmiles(mol) for mol in mols} == {"CCO", "CCCO"}
    shares = np.mean([mol.GetNumAtoms() == 3 for mol in mols])
    assert shares == pytest.approx(0.75, abs=0.2)
    # Without the file, one line says what to do.
    told = molflowctl("generate", files / "flow", "-n", 2, "-o", tmp_path / "x.sdf", status=1)
    assert "kind 'test-alcohols'" in told
    assert "--import FILE.py" in told


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["reinforce", "values"])
def test_it_is_steered_by_a_property_of_ones_own(files, tmp_path, solver) -> None:
    """`E[r] - KL` of a Gaussian reward moves its mean by a standard deviation."""
    out = tmp_path / "tuned"
    imports = ["--import", files / "alcohols.py", "--import", files / "distance.py"]
    molflowctl(
        "finetune", files / "flow", "--reward", "co_distance_angstrom", "--kl-weight", 1,
        "--mirror-steps", 3,
        "-j", 2, "-o", out, "-q", *TINY, "--set", f"solver={solver}", *imports,
    )  # fmt: skip
    run = json.loads((out / "finetune.run.json").read_text())
    prior, result = run["prior"], run["result"]
    spread = prior["error"] * prior["n"] ** 0.5
    assert (result["mean"] - prior["mean"]) / spread == pytest.approx(1.0, abs=0.3)
    assert json.loads((out / "card.json").read_text())["kind"] == "test-alcohols"
    molflowctl("generate", out, "-n", 20, "-o", tmp_path / "tuned.sdf", "-q", *imports)


@pytest.mark.slow
def test_it_is_merged(files, tmp_path) -> None:
    """The walk tilts what the first flow draws by half the log-ratio of the two flows.

    Its slope is 1 per unit and standard deviation of the states, 0.94 up to `ratio_latest = 0.8`.
    Draws of spread `s` then move by `0.94 s^2` units: half way at `s = 1`, less of draws of twenty
    evaluations, which are narrower than the flow. The last step is as noisy as its molecules: of
    256 a step, merges with other seeds came 0.4 to 0.7 of a unit far, of 1,024 they agree.
    """
    out = tmp_path / "merged"
    molflowctl(
        "merge", "a & b", "--let", f"a={files / 'flow'}", "--let", f"b={files / 'long'}",
        "--reward", "co_distance_angstrom", "--reward-weight", 0.001, "--mirror-steps", 4,
        "-j", 2, "-o", out, "-q", *TINY, "--set", "n_samples=1024", "--set", "base_samples=1024",
        "--import", files / "alcohols.py", "--import", files / "distance.py",
    )  # fmt: skip
    run = json.loads((out / "merge.run.json").read_text())
    a, b, merged = run["parts"]["a"]["mean"], run["parts"]["b"]["mean"], run["result"]["mean"]
    assert b - a == pytest.approx(0.2, abs=0.05)  # two tenths of an angstrom
    # A distance of two atoms varies by `s sqrt(2)` units of a tenth of an angstrom.
    first = run["parts"]["a"]
    spread = first["error"] * first["n"] ** 0.5 / (0.1 * 2**0.5)
    assert 0.8 < spread < 1
    assert merged - a == pytest.approx(0.1 * 0.94 * spread**2, abs=0.03)


@pytest.mark.parametrize("way", ["solver=score-sum", "union=gate", "intersection=score-sum"])
def test_what_reads_networks_of_this_package_says_so(files, tmp_path, way) -> None:
    arguments = [
        "merge", "a | b" if way == "union=gate" else "a & b",
        "--let", f"a={files / 'flow'}", "--let", f"b={files / 'long'}", "-o", tmp_path / "out",
        "--set", way, "--import", files / "alcohols.py",
    ]  # fmt: skip
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == 1
    told = done.output
    assert f"{way} is for de-novo flows of this package, and a is of kind" in " ".join(told.split())
