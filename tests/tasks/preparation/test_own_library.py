"""A library becomes what the flow can hold, molecule by molecule, or is counted with a reason."""

import csv
import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import rdDepictor, rdDistGeom
from rdkit.Geometry import Point3D

from molflowctl.chem.graphs import assemble, canonical_smiles
from molflowctl.data.datasets import MoleculeDataset
from molflowctl.errors import UserError
from molflowctl.io.library_writers import SDFWriter
from molflowctl.models.denovo import DeNovoFlow
from molflowctl.tasks.preparation.own_library import describe, fit, is_library, library_dataset

NETWORK = {"width": 8, "pair_width": 4, "heads": 1, "vectors": 1, "depth": 1, "radial": 2}
GOOD = [
    *("CCCC", "CCCO", "CC(N)=O", "CC(=O)O", "C1CCO1", "C=CC=O", "N#CCO", "c1ccoc1", "c1cc[nH]c1"),
    *("CC(C)C#N", "O=C1CC1", "C[NH2+]CC", "CC(=O)[O-]", "c1ccccc1", "OCC(O)C", "N=CC=O"),
]

CASES = Path(__file__).parents[2] / "io" / "cases"


def make_flow(hydrogens="implicit", sizes=(4, 5, 6), charges=(-1, 0, 1)) -> DeNovoFlow:
    flow = DeNovoFlow(
        elements=[6, 7, 8] if hydrogens == "implicit" else [1, 6, 7, 8],
        charges=list(charges),
        sizes={str(n): 1 for n in sizes},
        hydrogens=hydrogens,
        network=NETWORK,
    )
    flow.card = {"weights_sha256": "parent"}
    return flow


def embedded(smiles: str) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=1) == 0
    return mol


@pytest.mark.parametrize("smiles", GOOD)
@pytest.mark.parametrize("all_hydrogens", [True, False])
def test_heavy_atoms_stay_where_they_are_and_hydrogens_follow(smiles, all_hydrogens):
    mol = embedded(smiles)
    graph, name = fit(mol if all_hydrogens else Chem.RemoveAllHs(mol), make_flow())
    heavy = [a.GetIdx() for a in mol.GetAtoms() if a.GetAtomicNum() > 1]
    assert graph.numbers.tolist() == [mol.GetAtomWithIdx(i).GetAtomicNum() for i in heavy]
    assert graph.charges.tolist() == [mol.GetAtomWithIdx(i).GetFormalCharge() for i in heavy]
    np.testing.assert_array_equal(graph.positions, mol.GetConformer().GetPositions()[heavy])
    assert name == canonical_smiles(mol) == assemble(graph).smiles


@pytest.mark.parametrize("smiles", GOOD)
def test_explicit_hydrogens_are_the_records_own(smiles):
    mol = embedded(smiles)
    graph, name = fit(mol, make_flow("explicit", sizes=(4, 40)))
    np.testing.assert_array_equal(graph.positions, mol.GetConformer().GetPositions())
    assert graph.numbers.tolist() == [a.GetAtomicNum() for a in mol.GetAtoms()]
    assert name == canonical_smiles(mol)


@pytest.mark.parametrize(
    ("smiles", "reason"),
    [
        ("CCCCl", "element Cl"),
        ("CC([O-])=O.C[NH3+]", "several fragments"),
        ("CC[CH]C", "radical"),
        ("CCC", "fewer than 4 heavy atoms"),
        ("CCCCCCC", "more than 6 heavy atoms"),
        ("CN(C)(C)->O", "a bond that is not single, double or triple"),
        ("CCN=[N+]=[N-]", ""),
        ("[CH3:7][13CH2]CC", ""),
        ("[2H]C([2H])([2H])CCC", ""),
    ],
)
def test_what_the_flow_cannot_hold_has_a_reason(smiles, reason):
    found = fit(embedded(smiles), make_flow())
    assert found == reason if reason else isinstance(found, tuple)


def test_charges_and_sizes_are_the_flows():
    flow = make_flow(charges=[0], sizes=(4, 12))
    assert fit(embedded("CC(=O)[O-]"), flow) == "formal charge -1"
    assert fit(embedded("CCC[NH3+]"), flow) == "formal charge +1"
    assert isinstance(fit(embedded("CCCCCCCCC"), flow), tuple)
    explicit = make_flow("explicit", sizes=(10, 12))
    assert fit(embedded("CCC"), explicit)[0].numbers.tolist().count(1) == 8  # 11 atoms
    assert fit(embedded("CCCC"), explicit) == "more than 12 atoms"


def test_explicit_flows_need_all_hydrogens():
    mol = Chem.RemoveHs(embedded("CCCO"))
    assert fit(mol, make_flow("explicit", sizes=(4, 40))) == "hydrogens missing"


def test_geometries_are_checked():
    flow, mol = make_flow(), embedded("CCCO")
    flat = Chem.MolFromSmiles("CCCO")
    assert fit(flat, flow) == "no 3-D coordinates"
    rdDepictor.Compute2DCoords(flat)
    assert fit(flat, flow) == "no 3-D coordinates"
    stretched = Chem.Mol(mol)
    at = stretched.GetConformer().GetPositions()
    stretched.GetConformer().SetAtomPosition(0, Point3D(*(at[0] + 1.5 * (at[0] - at[1]))))
    assert fit(stretched, flow) == "bond too long"
    crushed = Chem.Mol(mol)
    crushed.GetConformer().SetAtomPosition(0, Point3D(*(0.1 * at[0] + 0.9 * at[1])))
    assert fit(crushed, flow) == "clash"
    broken = Chem.Mol(mol)
    broken.GetConformer().SetAtomPosition(0, Point3D(float("nan"), 0, 0))
    assert fit(broken, flow) == "nonfinite"


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Each good molecule three times, a chloride, a salt, a drawing and a torn record."""
    path = tmp_path_factory.mktemp("library") / "my.sdf.gz"
    flat = Chem.MolFromSmiles("CCCO")
    rdDepictor.Compute2DCoords(flat)
    with SDFWriter(path) as writer:
        for _ in range(3):
            for smiles in GOOD:
                writer.write(embedded(smiles), {})
        for mol in (embedded("CCCCl"), embedded("CCCCCl"), embedded("CC([O-])=O.[NH4+]"), flat):
            writer.write(mol, {})
    with gzip.open(path, "ab") as file:
        file.write(b"torn\n\n\n  3  2  0\n$$$$\n")
    return path


def test_a_library_becomes_a_data_set(library, tmp_path):
    seen = []
    data = library_dataset(
        library, tmp_path / "library", make_flow(), progress=lambda *row: seen.append(row)
    )
    assert seen[-1] == ("reading my.sdf.gz", 53, 53)
    card = data.card
    assert (card["name"], card["read_from"], card["hydrogens"]) == ("my", "my.sdf.gz", "implicit")
    assert (card["read"], card["kept"], card["different"]) == (53, 48, 16)
    assert card["left_out"] == {
        "element Cl": 2,
        "several fragments": 1,
        "no 3-D coordinates": 1,
        "unreadable": 1,
    }
    assert card["read"] == card["kept"] + sum(card["left_out"].values())
    assert ("left out: element Cl", "2") in describe(card)
    assert data.source_index.tolist() == list(range(48))
    again = MoleculeDataset.load(tmp_path / "library")
    for row, smiles in enumerate(again.smiles):
        mol = embedded(GOOD[row % 16])
        assert smiles == canonical_smiles(mol) == assemble(again.graph(row)).smiles
        x = Chem.RemoveAllHs(mol).GetConformer().GetPositions()
        np.testing.assert_allclose(again.graph(row).positions, x - x.mean(0), atol=1e-3)


def test_a_molecule_is_on_one_side_of_the_split(library, tmp_path):
    data = library_dataset(library, tmp_path / "a", make_flow())
    sides = {s: {data.smiles[i] for i in data.indices(s).tolist()} for s in ("train", "validation")}
    assert not sides["train"] & sides["validation"]
    assert len(sides["train"]) == 14
    assert len(sides["validation"]) == 2  # 6 records of 48
    same = library_dataset(library, tmp_path / "b", make_flow())
    other = library_dataset(library, tmp_path / "c", make_flow(), seed=1)
    assert torch.equal(data.split, same.split)
    assert not torch.equal(data.split, other.split)


def test_a_resume_takes_what_was_kept(library, tmp_path):
    file = tmp_path / "my.sdf.gz"
    file.write_bytes(library.read_bytes())
    first = library_dataset(file, tmp_path / "run", make_flow())
    again = library_dataset(file, tmp_path / "run", make_flow(), resume=True)
    assert again.card == first.card
    for words, changes in (
        ("another seed", {"seed": 1}),
        ("another flow", {"flow": make_flow()}),
    ):
        if "flow" in changes:
            changes["flow"].card = {"weights_sha256": "other"}
        arguments = {"flow": make_flow(), "resume": True} | changes
        with pytest.raises(UserError, match=words):
            library_dataset(file, tmp_path / "run", **arguments)
    with SDFWriter(file, overwrite=True) as writer:
        writer.write(embedded("CCCO"), {})
    with pytest.raises(UserError, match=r"another my\.sdf\.gz"):
        library_dataset(file, tmp_path / "run", make_flow(), resume=True)
    file.unlink()
    gone = library_dataset(file, tmp_path / "run", make_flow(), resume=True)
    assert gone.card == first.card


def test_too_few_molecules_are_refused_with_the_reasons(library, tmp_path):
    with pytest.raises(UserError, match="0 records of 0 molecules") as error:
        library_dataset(library, tmp_path / "run", make_flow(sizes=(20, 30)))
    assert "48 x fewer than 20 heavy atoms" in str(error.value)
    with SDFWriter(tmp_path / "one.sdf") as writer:
        for _ in range(40):
            writer.write(embedded("CCCO"), {})
    with pytest.raises(UserError, match="40 records of 1 molecules"):
        library_dataset(tmp_path / "one.sdf", tmp_path / "run", make_flow())
    with pytest.raises(UserError, match=r"cannot read absent\.sdf"):
        library_dataset(
            tmp_path.relative_to(tmp_path) / "absent.sdf", tmp_path / "run", make_flow()
        )
    assert not (tmp_path / "run").exists()


def test_drawings_whose_header_says_3d_are_left_out(tmp_path):
    with pytest.raises(UserError, match=r"has 0 records .* 39 x a flat drawing.* 1 x no 3-D"):
        library_dataset(
            CASES / "drawings_tagged_3d.sdf", tmp_path / "run", make_flow(sizes=range(2, 9))
        )


def test_what_is_left_out_has_its_place(library, tmp_path):
    with gzip.open(library, "rb") if library.suffix == ".gz" else library.open("rb") as file:
        text = file.read()
    mixed = tmp_path / "mixed.sdf"
    mixed.write_bytes((CASES / "drawings_tagged_3d.sdf").read_bytes() + text)
    library_dataset(mixed, tmp_path / "run", make_flow())
    with open(tmp_path / "run.failures.csv", newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["name"] for row in found[:40]] == [f"d{k}" for k in range(40)]
    reasons = [row["reason"] for row in found[:40]]
    assert reasons.count("a flat drawing whose header says 3D") == 39
    assert reasons.count("no 3-D coordinates") == 1


def test_which_data_are_a_library(tmp_path):
    (tmp_path / "folder.sdf").mkdir()
    assert is_library(tmp_path / "my.sdf")
    assert is_library(tmp_path / "my.SDF.gz")
    assert not is_library(tmp_path / "folder.sdf")
    assert not is_library(tmp_path / "qm9-implicit")
    with pytest.raises(UserError, match="no geometries"):
        is_library(tmp_path / "my.smi.gz")
