"""The merging benchmark: what its table says, and what it refuses before any work."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from rdkit.Chem import MolFromSmiles
from typer.testing import CliRunner

from molflowctl.tasks.evaluation.compare import Compared
from molflowctl.tasks.steering.settings import MergeConfig

FILE = Path(__file__).parents[2] / "benchmarks" / "denovo" / "flow_merging.py"


def flow(dipole, rings, **more) -> Compared:
    values = {"dipole_debye": dipole, "rings": rings, **more}
    mols = [MolFromSmiles("C")] * len(dipole)
    return Compared("x", ["C"] * len(dipole), mols, {k: np.array(v) for k, v in values.items()})


def test_a_molecule_lies_where_both_parents_have_mass_only_if_it_lies_in_both_ranges(script):
    """The parents' central 90 % are 0.5 to 9.5 and 5.25 to 14.25 debye, 1 and 1 to 3 rings."""
    first = flow(np.linspace(0, 10, 101), np.ones(101))
    second = flow(np.linspace(4.75, 14.75, 101), np.linspace(1, 3, 101).round())
    child = flow([6.0, 6.0, 1.0, 12.0, math.nan, math.nan], [1.0, 2.0, 1.0, 1.0, 1.0, 9.0])
    expected = [1, 0, 0, 0, math.nan, math.nan]
    np.testing.assert_array_equal(script.inside(child, [first, second]), expected)
    # Where an oracle failed nobody knows.
    assert script.statistics(child, [first, second])["both"].value == pytest.approx(1 / 4)


def test_markers_are_shares_of_the_molecules_that_have_a_value(script):
    child = flow([3.9, 4.0, 8.0, math.nan], [3, 2, 5, 3], homo_lumo_gap_eV=[3.3, 3.4, 1.0, 9.0])
    found = script.statistics(child, [child, child])
    assert found["dipole_debye >= 4"].value == pytest.approx(2 / 3)
    assert found["rings >= 3"].value == pytest.approx(3 / 4)
    assert found["homo_lumo_gap_eV <= 3.3"].value == pytest.approx(1 / 2)
    assert len(script.statistics(flow([1.0], [1.0]), [child, child])) == 3  # no gap was asked for


def test_inner_flows_of_a_circuit_are_those_after_their_last_steps(script, tmp_path):
    for part, steps in (("part-2", 2), ("part-10", 11)):
        for k in range(1, steps + 1):
            place = tmp_path / "circuit" / "rounds" / part / f"step-{k:03d}"
            place.mkdir(parents=True)
            (place / "card.json").write_text(f"{part} {k}")
    found = script.inner(tmp_path / "circuit")
    assert [Path(f).name for f in found] == ["circuit-2", "circuit-10"]
    assert [(Path(f) / "card.json").read_text() for f in found] == ["part-2 2", "part-10 11"]


def test_every_merge_has_settings_that_merge_takes(script):
    for circuit, *options in script.RUNS.values():
        pairs = [b for a, b in pairwise(options) if a == "--set"]
        for name in (pair.split("=")[0] for pair in pairs):
            assert name in MergeConfig.model_fields
        assert set(circuit.translate(str.maketrans("&|-()", "     ")).split()) <= {
            "qm9_polar",
            "qm9_rings",
            "qm9_lowgap",
        }


def test_an_unknown_merge_is_refused(script):
    import typer

    app = typer.Typer()
    app.command()(script.main)
    result = CliRunner().invoke(app, ["onion"])
    assert result.exit_code == 2
    assert "no merge onion" in " ".join(result.output.split())


def test_a_mixture_has_the_molecules_of_as_many_attempts_of_each_parent(script):
    """So that a parent with more valid molecules counts for more: not the mean of the shares."""
    first, second = flow([5.0, 5.0, 5.0], [1, 1, 3]), flow([1.0, 6.0], [3, 3])
    found = script.statistics(script.mixture([first, second]), [first, second])
    assert found["dipole_debye >= 4"].value == pytest.approx(4 / 5)
    assert found["rings >= 3"].value == pytest.approx(3 / 5)
