"""A seed gives the molecules it has always given: drawn, steered, merged, and conformers of given
ones. What is compared is SMILES and shapes, since other processors round the last digits otherwise.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem

from molflowctl import Flow, finetune, generate
from molflowctl import merge as merge_flows
from molflowctl.tasks.conformers import conformers
from molflowctl.tasks.conformers.settings import ConformersConfig
from molflowctl.tasks.generate import denovo
from molflowctl.tasks.generate.settings import GenerateConfig
from molflowctl.tasks.steering import finetune as control
from molflowctl.tasks.steering import merge
from molflowctl.tasks.steering.settings import FinetuneConfig, MergeConfig

FILE = Path(__file__).with_suffix(".json")
STEERING = {
    "mirror_steps": 1,
    "n_samples": 16,
    "base_samples": 64,
    "test_samples": 2,
    "nfe": 5,
    "mirror_nfe": 5,
    "train_steps": 2,
    "batch": 8,
    "device": "cpu",
    "precision": "float32",
}


def drawn(flow: str, out: Path) -> Path:
    """Eight molecules of a flow, as they are drawn."""
    settings = GenerateConfig(
        flow=flow, out=str(out), n=8, nfe=10, relax="none", seed=3, device="cpu"
    )
    denovo.generate(settings)
    return out


def by_generate(folder: Path) -> Path:
    return drawn("qm9", folder / "library.sdf")


def by_conformers(folder: Path) -> Path:
    molecules, out = folder / "two.smi", folder / "conformers.sdf"
    molecules.write_text("CC[C@H](O)C#N first\nC/C=C/CN second\n")
    settings = ConformersConfig(
        source=str(molecules), out=str(out), n=3, nfe=5, relax="none", rmsd_threshold=0, seed=3,
        energy_window=1000, device="cpu",
    )  # fmt: skip
    conformers.generate_conformers(settings)
    return out


def by_finetune(folder: Path) -> Path:
    settings = FinetuneConfig(flow="qm9", reward="logp", out=folder / "flow", **STEERING)
    control.finetune(settings)
    return drawn(str(folder / "flow"), folder / "library.sdf")


def in_memory(flow: Flow, folder: Path) -> Path:
    """The same eight molecules of a flow that was made in Python, and by a function of Python."""
    settings = {"n": 8, "nfe": 10, "relax": "none", "seed": 3, "device": "cpu"}
    return generate(flow, jobs=1, progress=False, **settings).write(folder / "library.sdf")


def by_finetune_in_python(folder: Path) -> Path:
    base = Flow.from_pretrained("qm9")
    return in_memory(finetune(base, "logp", jobs=1, progress=False, **STEERING), folder)


def by_merge_in_python(folder: Path) -> Path:
    flows = {"qm9": Flow.from_pretrained("qm9")}
    settings = {"intersection": "score-sum", "matching_steps": 2, **STEERING}
    merged = merge_flows("qm9 & qm9_polar", flows, jobs=1, progress=False, **settings)
    return in_memory(merged, folder)


def by_merge(folder: Path) -> Path:
    settings = MergeConfig(
        circuit="qm9 & qm9_polar", intersection="score-sum", matching_steps=2, out=folder / "flow",
        **STEERING,
    )  # fmt: skip
    merge.merge(settings)
    return drawn(str(folder / "flow"), folder / "library.sdf")


MAKERS = {
    "generate": by_generate,
    "conformers": by_conformers,
    "finetune": by_finetune,
    "merge": by_merge,
    "finetune in Python": by_finetune_in_python,
    "merge in Python": by_merge_in_python,
}


def made(maker: str, folder: Path) -> dict[str, list]:
    """The SMILES and the positions, in angstrom, of what a command writes."""
    mols = list(Chem.SDMolSupplier(str(MAKERS[maker](folder)), removeHs=False))
    return {
        "smiles": [Chem.MolToSmiles(Chem.RemoveHs(mol)) for mol in mols],
        "positions": [mol.GetConformer().GetPositions().round(3).tolist() for mol in mols],
    }


SLOW = {"merge in Python"}
MARKED = [pytest.param(maker, marks=[pytest.mark.slow] * (maker in SLOW)) for maker in MAKERS]


@pytest.mark.parametrize("maker", MARKED)
def test_the_same_molecules_for_a_seed(maker: str, tmp_path: Path) -> None:
    expected = json.loads(FILE.read_text())[maker.removesuffix(" in Python")]
    got = made(maker, tmp_path)
    assert got["smiles"] == expected["smiles"]
    for positions, stored in zip(got["positions"], expected["positions"], strict=True):
        off = np.asarray(positions) - np.asarray(stored)
        assert np.sqrt((off**2).sum(1).mean()) < 0.02
