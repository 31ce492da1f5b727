"""How the steering around a core is judged."""

from pathlib import Path

import numpy as np

from molflowctl.tasks.steering.scored_molecules import ScoredMolecules

FILE = Path(__file__).parents[2] / "benchmarks" / "denovo" / "around_steered.py"


def test_the_core_is_counted_where_it_is_and_closed(script) -> None:
    smiles = [
        "CCNc1ccc(S(N)(=O)=O)cc1",  # has it
        "NS(=O)(=O)c1ccc(C2CC2)cc1",  # has it
        "CCc1ccc(S(N)(=O)=O)cc1C",  # bonded at another place besides
        "CCc1cccc(S(N)(=O)=O)c1",  # and at another one
        "CCc1ccc(S(=O)(=O)NC)cc1",  # at the nitrogen
        "",
    ]
    values = np.array([0.5, 0.7, 0.6, 0.6, 0.6, np.nan])
    sample = ScoredMolecules([None] * 6, smiles, values, np.empty((6, 0)))
    found = script.judged(sample)
    assert (found["attempts"], found["molecules"], found["with the core"]) == (6, 5, 2)
    assert found["valid"]["value"] == 5 / 6
    assert found["qed"]["value"] == np.nanmean(values)
    assert found["qed"]["low"] <= found["qed"]["value"] <= found["qed"]["high"]
