"""The comparison of the default of `conformers` with ETKDGv3 and MMFF94."""

import runpy
from pathlib import Path

import pytest
from rdkit import Chem

from molflowctl.chem.stereo import unspecified_stereo

FOLDER = Path(__file__).parents[2] / "benchmarks" / "conformers"


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(FOLDER / "drugs.py"))


def row(auto: float, etkdg: float, seconds: tuple[float, float], coverage=None) -> dict:
    found = {
        "auto": {"lowest": auto, "seconds": seconds[0]},
        "etkdg": {"lowest": etkdg, "seconds": seconds[1]},
    }
    if coverage is not None:
        found["minima"] = 4
        for model, share in zip(("auto", "etkdg"), coverage, strict=True):
            found[model]["coverage"] = share
    return found


def test_the_summary_counts_ties_as_equal(script):
    rows = {
        "lower": row(-2.0, 0.0, (3, 2), (1.0, 0.5)),
        "same": row(1.001, 1.0, (3, 2), (0.5, 0.5)),
        "higher": row(5.0, 4.0, (3, 2)),
        "level": row(0.0, 0.0, (3, 2)),
    }
    told = script["summary"](rows)
    assert told["as_low"] == 0.75
    assert told["gain_kcal_mol"]["value"] == pytest.approx(0.24975)
    text = script["table"](rows, 50, 300)
    assert "as low as ETKDGv3 + MMFF94's: 75 % of the drugs; lower: 25 %" in text
    assert "- lower by 0.25 kcal/mol on average" in text
    assert "- seconds: 12 and 8, a ratio of 1.50" in text
    assert "within 3 kcal/mol: 75 and 50 %, a difference of 25.0" in text
    assert "| lower | -2.00 | 0.00 | 3.0 | 2.0 |" in text


def test_the_drugs_are_fifty_of_twenty_to_fortyfive_heavy_atoms():
    lines = [line.split() for line in (FOLDER / "drugs/drugs.smi").read_text().splitlines()]
    mols = [Chem.MolFromSmiles(smiles) for smiles, _ in lines]
    assert len({Chem.MolToSmiles(mol) for mol in mols}) == len({n for _, n in lines}) == 50
    assert all(20 <= mol.GetNumHeavyAtoms() <= 45 for mol in mols)
    assert sum(unspecified_stereo(mol) > 0 for mol in mols) <= 1  # a bridged amine's bridgeheads
