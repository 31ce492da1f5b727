"""The RMSD over all symmetries: against every mapping tried one by one, and relabelled copies."""

import time
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdMolAlign
from scipy.spatial.transform import Rotation

from molflowctl.chem import symmetry
from molflowctl.chem.ensemble import prune, symmetric_rmsd
from molflowctl.chem.symmetry import Symmetry, TooSymmetricError

PROBUCOL = (Path(__file__).parents[1] / "cases" / "symmetric.smi").read_text().split()[0]
TBU, FIRST = "C(C)(C)C", "CC(C)(C)"  # inside of a SMILES, and as its beginning
TMS = "[Si](C)(C)C"
SYMMETRIC = [  # most with far more than a thousand mappings, the last with 10^13
    PROBUCOL,
    f"{FIRST}P({TBU}){TBU}",
    f"C[Si](C)(C)[Si]({TMS})({TMS}){TMS}",
    f"C[Si](C)(C)[Si]({TMS})({TMS})[Si]({TMS})({TMS}){TMS}",
    f"{FIRST}c1cc({TBU})cc(c1)-c1cc({TBU})cc({TBU})c1",
    f"{FIRST}c1ccc(cc1)C(c1ccc(cc1){TBU})(c1ccc(cc1){TBU})c1ccc(cc1){TBU}",
    "FC(F)(F)" + "C(F)(F)" * 6 + "C(F)(F)F",
    "C[Si](C)(C)" + "O[Si](C)(C)" * 6 + "C",
    "c1ccc(cc1)C(c1ccccc1)(c1ccccc1)c1ccccc1",
    "c1ccc(cc1)[Si](c1ccccc1)(c1ccccc1)[Si](c1ccccc1)(c1ccccc1)c1ccccc1",
    "CC(C)C[Si]12O[Si]3(CC(C)C)O[Si]4(CC(C)C)O[Si](CC(C)C)(O1)O[Si]1(CC(C)C)O[Si](CC(C)C)"
    "(O2)O[Si](CC(C)C)(O3)O[Si](CC(C)C)(O4)O1",
    "CC(C)N(C(C)C)P(N(C(C)C)C(C)C)N(C(C)C)C(C)C",
    "C1C2CC3CC1CC(C2)C3",
    "c1cc2ccc3ccc4ccc5ccc6ccc1c1c2c3c4c5c61",
    "OC(=O)c1c(C(=O)O)c(C(=O)O)c(C(=O)O)c(C(=O)O)c1C(=O)O",
    "OCC(CO)(CO)COCC(CO)(CO)CO",
    "CC(C)(C)OC(=O)CCC(N)(CCC(=O)OC(C)(C)C)CCC(=O)OC(C)(C)C",
    "FC(F)(F)c1cc(cc(c1)C(F)(F)F)[B-](c1cc(cc(c1)C(F)(F)F)C(F)(F)F)"
    "(c1cc(cc(c1)C(F)(F)F)C(F)(F)F)c1cc(cc(c1)C(F)(F)F)C(F)(F)F",
    "CCN(CC)CCN(CCN(CC)CC)CCN(CC)CC",
    f"C[Si]({TMS})({TMS})[Si]({TMS})({TMS})[Si]({TMS})({TMS})C",
]
SMALL = [f"{FIRST}P({TBU}){TBU}", "FC(F)(F)C(F)(F)C(F)(F)C(F)(F)F", f"{FIRST}N(C(C)C){TBU}"]


def heavy(smiles: str, n: int, seed: int = 5) -> Chem.Mol:
    """Without hydrogens; random positions where distance geometry would take seconds."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    settings = rdDistGeom.ETKDGv3()
    settings.randomSeed, settings.useRandomCoords, settings.maxIterations = seed, True, 3
    if mol.GetNumHeavyAtoms() <= 36:
        rdDistGeom.EmbedMultipleConfs(mol, n, settings)
    bare = Chem.RemoveAllHs(mol)
    generator = np.random.default_rng(seed)
    for _ in range(n - bare.GetNumConformers()):
        conformer = Chem.Conformer(bare.GetNumAtoms())
        conformer.SetPositions(generator.normal(0, 3, (bare.GetNumAtoms(), 3)))
        bare.AddConformer(conformer, assignId=True)
    return bare


def positions(mol: Chem.Mol) -> list[np.ndarray]:
    return [conformer.GetPositions() for conformer in mol.GetConformers()]


@pytest.mark.parametrize("smiles", SYMMETRIC, ids=range(len(SYMMETRIC)))
def test_relabelled_copies_are_one(smiles):
    mol = heavy(smiles, 1)
    generator = np.random.default_rng(0)
    copy = Chem.RenumberAtoms(mol, generator.permutation(mol.GetNumAtoms()).tolist())
    (x,), (y,) = positions(mol), positions(copy)
    y = Rotation.random(random_state=1).apply(y) + np.array([1, -2, 3])
    began = time.process_time()
    assert Symmetry(mol, copy).rmsd(x, y) < 1e-3
    assert time.process_time() - began < 2


@pytest.mark.parametrize("few", [True, False], ids=["one by one", "taken apart"])
@pytest.mark.parametrize("smiles", ["CC(C)CC(C)C", "OC(=O)c1ccccc1", "CC(=O)[O-]", *SMALL[:2]])
def test_it_is_the_least_of_all_mappings(smiles, few, monkeypatch):
    """RDKit's `GetBestRMS`, with as many mappings as it takes."""
    monkeypatch.setattr(symmetry, "_FEW", 10**6 if few else 0)
    mol = heavy(smiles, 3)
    found = Symmetry(mol)
    assert (found.few is None) is not few
    x = positions(mol)
    for i in range(3):
        for j in range(i):
            wanted = rdMolAlign.GetBestRMS(Chem.Mol(mol), mol, i, j, maxMatches=10**6)
            assert found.rmsd(x[i], x[j]) == pytest.approx(wanted, abs=2e-5)
            assert found.within(x[i], x[j], wanted + 1e-3)
            assert not found.within(x[i], x[j], wanted - 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("smiles", [*SMALL, PROBUCOL], ids=range(4))
def test_it_is_the_least_of_very_many_mappings(smiles):
    mol = heavy(smiles, 4)
    found, x = Symmetry(mol), positions(mol)
    for i in range(4):
        for j in range(i):
            wanted = rdMolAlign.GetBestRMS(Chem.Mol(mol), mol, i, j, maxMatches=10**7)
            assert found.rmsd(x[i], x[j]) == pytest.approx(wanted, abs=2e-5)


@pytest.mark.parametrize("smiles", [PROBUCOL, SYMMETRIC[4], SYMMETRIC[6]], ids=range(3))
def test_no_random_mapping_is_better(smiles):
    """Of shaken copies, which are near, and of other conformers, which are not."""
    mol = heavy(smiles, 2)
    found, (x, y) = Symmetry(mol), positions(mol)
    matches = mol.GetSubstructMatches(mol, uniquify=False, maxMatches=3000)
    generator = np.random.default_rng(3)
    for other in (y, x + generator.normal(0, 0.4, x.shape)):
        least = found.rmsd(x, other)
        assert found.rmsd(other, x) == pytest.approx(least, abs=3e-5)
        for k in generator.integers(len(matches), size=200):
            _, distance = Rotation.align_vectors(
                x - x.mean(0), other[list(matches[k])] - other.mean(0)
            )
            assert distance / np.sqrt(len(x)) >= least - 1e-5


def test_mirror_images_stay_apart():
    mol = heavy("C[C@H](F)C(C)(C)C", 1)
    (x,) = positions(mol)
    assert Symmetry(mol).rmsd(x, x * [1, 1, -1]) > 0.1


def test_another_molecule_is_refused():
    one, other = heavy("CCCO", 1), heavy("CCOC", 1)
    with pytest.raises(ValueError, match="not of the same molecule"):
        symmetric_rmsd(one, 0, other, 0)


def test_time_that_is_up_is_said():
    mol = heavy(PROBUCOL, 2)
    with pytest.raises(TooSymmetricError, match="too many symmetric mappings"):
        Symmetry(mol, seconds=-1.0).rmsd(*positions(mol))


def test_relabelled_copies_are_pruned():
    """Each distinct conformer stays once, whatever its atoms are called."""
    mol = heavy(PROBUCOL, 2)
    matches = mol.GetSubstructMatches(mol, uniquify=False, maxMatches=5000)
    many = Chem.Mol(mol)
    many.RemoveAllConformers()
    for k, match in enumerate(matches[::500]):
        conformer = Chem.Conformer(mol.GetNumAtoms())
        conformer.SetPositions(positions(mol)[k % 2][list(match)])
        many.AddConformer(conformer, assignId=True)
    assert many.GetNumConformers() == 10
    assert prune(many, np.arange(10.0), 0.5, 100.0) == [0, 1]
