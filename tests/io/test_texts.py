"""SMILES, XYZ and PDB files hold the molecules that were written, as RDKit reads them."""

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom
from typer.testing import CliRunner

from molflowctl.cli import app
from molflowctl.errors import UserError
from molflowctl.io.library import read_molecules, sdf_record
from molflowctl.io.library_writers import open_writer

SMILES = {
    "ethanol": "CCO",
    "alanine": "C[C@H](N)C(=O)O",
    "a salt, 2": "[NH4+].[Cl-]",
    "": "F/C=C/F",
}


def embedded(smiles: str) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=1) == 0
    return mol


@pytest.fixture(scope="module")
def mols() -> dict[str, Chem.Mol]:
    return {name: embedded(smiles) for name, smiles in SMILES.items()}


def written(path, mols) -> str:
    with open_writer(path) as writer:
        for title, mol in mols.items():
            writer.write(mol, {"qed": 0.5}, title)
    return path.read_text()


def test_smiles_come_back_with_their_titles(tmp_path, mols) -> None:
    written(tmp_path / "a.smi", mols)
    found = list(read_molecules(tmp_path / "a.smi"))
    assert [r.title for r in found][:3] == list(SMILES)[:3]  # one without is named by its line
    for record, mol in zip(found, mols.values(), strict=True):
        assert Chem.MolToSmiles(record.mol) == Chem.MolToSmiles(Chem.RemoveHs(mol))


def test_xyz_holds_every_atom_where_it_is(tmp_path, mols) -> None:
    lines = written(tmp_path / "a.xyz", mols).splitlines()
    for title, mol in mols.items():
        count = int(lines[0])
        assert (count, lines[1]) == (mol.GetNumAtoms(), title)
        atoms = [line.split() for line in lines[2 : 2 + count]]
        assert [a[0] for a in atoms] == [a.GetSymbol() for a in mol.GetAtoms()]
        positions = np.array([a[1:] for a in atoms], float)
        np.testing.assert_allclose(positions, mol.GetConformer().GetPositions(), atol=1e-5)
        lines = lines[2 + count :]
    assert lines == []


def test_pdb_models_are_read_back(tmp_path, mols) -> None:
    text = written(tmp_path / "a.pdb", mols)
    assert text.endswith("ENDMDL\nEND\n")
    models = text.split("ENDMDL\n")[:-1]
    for number, (model, (title, mol)) in enumerate(zip(models, mols.items(), strict=True), 1):
        assert model.splitlines()[0].split() == ["MODEL", str(number)]
        assert not title or f"COMPND    {title}" in model
        again = Chem.MolFromPDBBlock(model, removeHs=False, sanitize=False)
        assert [a.GetSymbol() for a in again.GetAtoms()] == [a.GetSymbol() for a in mol.GetAtoms()]
        np.testing.assert_allclose(
            again.GetConformer().GetPositions(), mol.GetConformer().GetPositions(), atol=6e-4
        )
        assert again.GetNumBonds() == mol.GetNumBonds()


@pytest.mark.parametrize(
    ("mol", "words"),
    [
        (Chem.AddHs(Chem.MolFromSmiles("CCO")), "no geometry"),
        (Chem.RemoveHs(embedded("CCO")), "lacks hydrogens"),
    ],
)
@pytest.mark.parametrize("kind", [".xyz", ".pdb"])
def test_what_such_a_file_cannot_hold_is_refused(tmp_path, mol, words, kind) -> None:
    with pytest.raises(UserError, match=words), open_writer(tmp_path / f"a{kind}") as writer:
        writer.write(mol, {}, "ethanol")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [".smi", ".xyz", ".pdb"])
def test_rank_writes_them_by_their_suffix(tmp_path, mols, kind) -> None:
    library = tmp_path / "scored.sdf"
    library.write_text(
        "".join(
            sdf_record(mol, title or "x", {"y": n}) for n, (title, mol) in enumerate(mols.items())
        )
    )
    out = tmp_path / f"best{kind}"
    command = ["rank", str(library), "--by", "y", "-n", "2", "-o", str(out)]
    assert CliRunner().invoke(app, command).exit_code == 0
    text = out.read_text()
    assert text.index("x") < text.index("a salt")
    assert "alanine" not in text
    assert (tmp_path / f"best{kind}.run.json").exists()
    assert CliRunner().invoke(app, command).exit_code == 1  # it exists


def test_smiles_need_no_geometry(tmp_path) -> None:
    (tmp_path / "some.csv").write_text("smiles,name,y\nCCO,a,1\nCCN,b,2\n")
    out = tmp_path / "best.smi"
    command = ["rank", str(tmp_path / "some.csv"), "--by", "y", "-o", str(out)]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert out.read_text() == "CCN b\nCCO a\n"
