"""One thread per process and no network, for every test.

The thread counts have to be set before numpy or torch is first imported; they are inherited by
the processes that tests start.
"""

import errno
import os
import socket

import pytest

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ["COLUMNS"] = "200"  # tables are as wide whichever test first imports the console

LOOPBACK = ("127.", "::1", "localhost")


@pytest.fixture(autouse=True, scope="session")
def no_network():
    """Connections leave this machine as little as they would with the cable pulled."""
    connect = socket.socket.connect

    def connect_locally(self, address):
        if self.family == socket.AF_UNIX or str(address[0]).startswith(LOOPBACK):
            return connect(self, address)
        raise OSError(errno.ENETUNREACH, f"tests have no network, but one asked for {address}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect_locally)
        yield


SMALL_MOLECULES = """
    CCCC CCCO CCCN CCOC CC(C)C CC(C)O CC(C)N CC(N)=O CC(=O)O NC(N)=O CC#CC C=CC=C CC=CC CC=CO C1CCC1
    C1CCO1 C1CCN1 CC1CC1 NC1CC1 OC1CC1 CC1CO1 OCCO NCCO NCCN COCO CNCO C=CC=O C#CC=O N#CC=O C#CCO
    C#CCN N#CCO N#CCN N#CCC NC=CO OC=CO CNC=O COC=O O=CC=O NCC=O OCC=O CCC=O CC(C)=O C=C(C)C C=CCO
    C=CCN C=COC CCCCC CCCCO CCC(C)O C1CCCC1 C1CCOC1 CC(C)CO CC1CCC1 CCCC#N c1ccoc1 c1cc[nH]c1
    CC(C)C#N CCCCCC CCOCCO C1CCCCC1 c1ccccc1 CC1CCCO1
"""


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """A prepared data set of sixty molecules with 4 to 6 heavy atoms, hydrogens implicit."""
    import numpy as np
    from rdkit import Chem
    from rdkit.Chem import rdDistGeom

    from molflowctl.chem.graphs import canonical_smiles, from_mol
    from molflowctl.tasks.preparation.qm9 import Matched, collate

    molecules = []
    for number, smiles in enumerate(SMALL_MOLECULES.split()):
        mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
        assert rdDistGeom.EmbedMolecule(mol, randomSeed=1) == 0
        graph = from_mol(mol, hydrogens=False)
        molecules.append(Matched.of(graph, number, canonical_smiles(mol)))
    split = np.zeros(len(molecules), np.uint8)
    split[::5], split[3::20] = 1, 2
    data = collate(molecules, split)
    data.card = {"name": "tiny", "hydrogens": "implicit"}
    return data.save(tmp_path_factory.mktemp("data") / "tiny")


@pytest.fixture(scope="session")
def tiny_library(tiny_data, tmp_path_factory):
    """An SDF file of its last forty molecules, hydrogens and all."""
    from molflowctl.chem.graphs import assemble
    from molflowctl.data.datasets import MoleculeDataset
    from molflowctl.io.library_writers import SDFWriter

    data = MoleculeDataset.load(tiny_data)
    path = tmp_path_factory.mktemp("library") / "my.sdf"
    with SDFWriter(path) as writer:
        for row in range(len(data) - 40, len(data)):
            writer.write(assemble(data.graph(row)).mol, {})
    return path


@pytest.fixture(scope="session")
def tiny_settings(tiny_data):
    """Settings of a training that takes a second; a third of the molecules come out valid."""
    return {
        "name": "tiny",
        "data": str(tiny_data),
        "network": {
            "width": 32,
            "pair_width": 8,
            "heads": 2,
            "vectors": 4,
            "depth": 2,
            "radial": 8,
        },
        "train_steps": 80,
        "batch_atoms": 512,
        "warmup_steps": 20,
        "lr": 0.01,
        "ema": 0.98,
        "precision": "float32",
        "sample_every": 0,
    }


@pytest.fixture(scope="session")
def tiny_flow(tiny_settings, tmp_path_factory):
    """The folder of a small trained de-novo flow."""
    from molflowctl.tasks.training.settings import TrainConfig
    from molflowctl.tasks.training.train import Trainer

    return Trainer(
        TrainConfig(**tiny_settings), tmp_path_factory.mktemp("runs"), device="cpu"
    ).run()
