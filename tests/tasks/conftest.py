"""Small ensembles, and a small conformer flow that has seen nothing."""

import pytest

ENSEMBLE_SMILES = """
    CCO CCN CCC CC#N CC=O COC CCF C[C@H](O)F C[C@@H](O)F NC=O C1CC1 C1CO1 OCCO C/C=C/C C/C=C\\C
    CC(C)O CC(O)CN CCCO N#CCO OC=O CNC C[C@H](N)O FCCF CC(=O)N
"""


@pytest.fixture(scope="session")
def ensembles(tmp_path_factory):
    """The folder of a data set of two dozen molecules with up to six conformers."""
    import numpy as np
    import torch

    from molflowctl.tasks.preparation import ensembles as task
    from molflowctl.tasks.preparation.settings import EnsembleConfig

    folder = tmp_path_factory.mktemp("ensembles")
    config = EnsembleConfig(
        source="a list", out=str(folder / "tiny"), etkdg_conformers=6, max_conformers=6
    )
    made = [
        task.make_ensemble(task.Source(k, smiles, k % 4 == 3), config)
        for k, smiles in enumerate(ENSEMBLE_SMILES.split())
    ]
    assert all(isinstance(m, task.Made) for m in made)
    from molflowctl.chem.ensemble import boltzmann_weights
    from molflowctl.data.conformer_data import ConformerDataset

    data = ConformerDataset(
        numbers=torch.from_numpy(np.concatenate([m.numbers for m in made])),
        atom_ptr=torch.tensor([0, *np.cumsum([len(m.numbers) for m in made])]),
        positions=torch.from_numpy(np.concatenate([m.positions.reshape(-1, 3) for m in made])),
        conformer_ptr=torch.tensor([0, *np.cumsum([len(m.energies) for m in made])]),
        energies=torch.from_numpy(np.concatenate([m.energies for m in made])).float(),
        weights=torch.from_numpy(
            np.concatenate([boltzmann_weights(m.energies, 298.0) for m in made])
        ).float(),
        split=torch.tensor([m.source.split for m in made], dtype=torch.uint8),
        source_index=torch.arange(len(made), dtype=torch.int32),
        smiles=[m.smiles for m in made],
        card={"name": "tiny", "hydrogens": "explicit"},
    )
    return data.save(folder / "tiny")


@pytest.fixture(scope="session")
def untrained_conformers(tmp_path_factory):
    """The folder of an untrained conformer flow of all atoms."""
    import torch

    from molflowctl.models.conformer import ConformerFlow

    torch.manual_seed(0)
    network = {"width": 32, "pair_width": 8, "heads": 2, "vectors": 4, "depth": 1, "radial": 8}
    flow = ConformerFlow([1, 6, 7, 8, 9], {"12": 1}, network=network)
    return flow.save(tmp_path_factory.mktemp("flows") / "untrained")
