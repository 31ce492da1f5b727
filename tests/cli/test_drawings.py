"""Drawings whose header says 3D, in whatever plane, through the commands that take geometries."""

import re
from pathlib import Path

import numpy as np
import pandas
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem
from typer.testing import CliRunner

from molflowctl.cli import app
from molflowctl.io.library import sdf_record

FAILED, FEWER = 1, 3
SMILES = ["CC(C)CO", "NC1CCCCC1", "CCOC(=O)CC", "N#CCCO", "CC1CC1O"]
TILT = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))[0]
PLANES = {"xy": np.eye(3), "xz": np.eye(3)[[0, 2, 1]], "tilted": TILT}


@pytest.fixture
def drawings(tmp_path, monkeypatch):
    """An SDF file of drawings, with hydrogens and without, before one geometry."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    records = []
    for plane, turn in PLANES.items():
        for k, smiles in enumerate(SMILES):
            mol = Chem.MolFromSmiles(smiles)
            mol = Chem.AddHs(mol) if k % 2 else mol
            AllChem.Compute2DCoords(mol)
            mol.GetConformer().SetPositions(mol.GetConformer().GetPositions() @ turn.T)
            mol.GetConformer().Set3D(True)
            records.append(sdf_record(mol, f"{plane} {smiles}", {}))
    assert all("RDKit          3D" in record for record in records)
    mol = Chem.AddHs(Chem.MolFromSmiles("CCCCO"))
    AllChem.EmbedMolecule(mol, randomSeed=1)
    Path("my.sdf").write_text("".join(records) + sdf_record(mol, "geometry", {}))
    return [f"{plane} {smiles}" for plane in PLANES for smiles in SMILES]


def call(*arguments, code):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, (result.exit_code, result.stderr, result.exception)
    return " ".join(re.sub("[─│╭╮╰╯]", " ", result.stderr).split())


def test_score_gives_them_no_energy(drawings):
    options = ("--backend", "serial", "--no-cache", "-o", "out.csv")
    text = call("score", "my.sdf", "-p", "mmff-energy,mw", *options, code=FEWER)
    table = pandas.read_csv("out.csv").set_index("name")
    assert table.mw.notna().all()
    assert list(table.index[table.mmff_energy_kcal_mol.notna()]) == ["geometry"]
    failures = pandas.read_csv("out.csv.failures.csv")
    assert list(failures.name) == drawings
    assert failures.reason.str.contains("two-dimensional").all()
    assert "15 x mmff_energy_kcal_mol: the coordinates are two-dimensional" in text
    assert "a drawing: all its atoms are in one plane, though its header says 3D" in text


def test_train_learns_from_none(drawings):
    text = call("train", "--init", "qm9", "--data", "my.sdf", "-o", "run", code=FAILED)
    assert "my.sdf has 1 records of 1 molecules to learn from" in text
    assert "15 x a flat drawing whose header says 3D" in text
    assert not Path("run").exists()
