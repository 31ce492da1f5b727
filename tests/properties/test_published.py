"""Conformer energies against the published ones; see data/README.md for the source."""

import os
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem

from benchmarks.properties.conformers import LIMIT_KCAL_MOL, main, measure, rank_correlation
from molflowctl.chem.units import HARTREE_TO_KCAL_MOL
from molflowctl.properties.energies.relative import molecule_groups, relative_energies
from molflowctl.properties.energies.xtb import single_point

FILE = Path(__file__).parent / "data" / "published_conformers.sdf"


@pytest.fixture(scope="module")
def records():
    return list(Chem.SDMolSupplier(str(FILE), removeHs=False))


@pytest.mark.parametrize("backend", ["tblite", "xtb-python"])
def test_relative_gfn2_energies_are_the_published_ones(records, backend):
    energies = [single_point(mol, backend=backend).energy_hartree for mol in records]
    groups = molecule_groups(records)
    assert len(set(groups)) == 3
    found = relative_energies(np.array(energies) * HARTREE_TO_KCAL_MOL, groups)
    published = [mol.GetDoubleProp("relative_gfn2_kcal_mol") for mol in records]
    assert found == pytest.approx(published, abs=LIMIT_KCAL_MOL)


def test_runner_writes_its_tables(tmp_path, capsys):
    assert main([str(FILE), "-o", str(tmp_path)]) == 0
    lines = (tmp_path / "conformers.csv").read_text().splitlines()
    assert len(lines) == 4
    assert "3 of 3 molecules" in (tmp_path / "conformers.md").read_text().replace("\n", " ")
    assert "Spearman" in capsys.readouterr().out


def test_runner_tells_of_energies_that_are_not_the_published_ones(tmp_path):
    wrong = FILE.read_text().replace("\n3.0900\n", "\n3.1200\n")
    assert wrong != FILE.read_text()
    (tmp_path / "wrong.sdf").write_text(wrong)
    assert main([str(tmp_path / "wrong.sdf"), "-o", str(tmp_path)]) == 1


def test_rank_correlation():
    up = np.arange(5.0)
    assert rank_correlation(up, np.exp(up)) == pytest.approx(1)
    assert rank_correlation(up, -up) == pytest.approx(-1)
    # One swap of neighbours among n = 5: 1 - 6 * 2 / (n (n^2 - 1)).
    assert rank_correlation(up, np.array([0, 2, 1, 3, 4.0])) == pytest.approx(0.9)
    assert rank_correlation(np.append(up, np.nan), np.append(up, 0)) == pytest.approx(1)
    assert np.isnan(rank_correlation(up[:2], up[:2]))
    assert np.isnan(rank_correlation(up, np.ones(5)))


@pytest.mark.slow
@pytest.mark.skipif("DFT_CONFORMERS" not in os.environ, reason="DFT_CONFORMERS names no file")
def test_every_published_molecule():
    rows = measure(Path(os.environ["DFT_CONFORMERS"]), jobs=2)
    assert max(row["gfn2_max_deviation_kcal_mol"] for row in rows) <= LIMIT_KCAL_MOL


def test_relative_energies_within_their_group():
    energies = [3.0, np.nan, 1.0, -2.0, np.nan]
    found = relative_energies(energies, ["a", "a", "a", "b", "c"])
    np.testing.assert_equal(found, [2.0, np.nan, 0.0, 0.0, np.nan])
    with pytest.raises(ValueError, match=r"\(5,\) energies do not go with 1 groups"):
        relative_energies(energies, ["a"])


def test_stereoisomers_are_two_molecules_conformers_are_one():
    left, right = (Chem.AddHs(Chem.MolFromSmiles(s)) for s in ("C[C@H](N)O", "C[C@@H](N)O"))
    backwards = Chem.RenumberAtoms(left, list(reversed(range(left.GetNumAtoms()))))
    groups = molecule_groups([left, right, backwards])
    assert groups[0] == groups[2] != groups[1]
