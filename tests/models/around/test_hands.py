"""The stereo of a core is that of every molecule around it, judged by RDKit's own matching."""

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from molflowctl.chem.graphs import Graph3D, from_mol
from molflowctl.models.around.core import Core
from molflowctl.models.around.flow import _of_its_hand

# A core, a molecule with it, and the same molecule with the other stereo at the core.
CASES = [
    ("[*:1][C@H](C)C(N)=O", "FCCO[C@H](C)C(N)=O", "FCCO[C@@H](C)C(N)=O"),
    ("[*:1]N1CCC[C@H]1C(=O)O", "CCCN1CCC[C@H]1C(=O)O", "CCCN1CCC[C@@H]1C(=O)O"),
    ("C[C@@H](N)C(=O)[*:1]", "C[C@@H](N)C(=O)NCCC", "C[C@H](N)C(=O)NCCC"),
    ("[*:1]/C=C/C(N)=O", "CCC/C=C/C(N)=O", r"CCC/C=C\C(N)=O"),
    ("C/C=C(/[*:1])C#N", "C/C=C(/CCC)C#N", r"C/C=C(\CCC)C#N"),
    ("[*:1]O[C@@H]1CC[C@H](C)CC1", "FCCO[C@@H]1CC[C@H](C)CC1", "FCCO[C@@H]1CC[C@@H](C)CC1"),
    ("[*:1][C@](C)(F)C(N)=O", "FCCO[C@](C)(F)C(N)=O", "FCCO[C@@](C)(F)C(N)=O"),
    ("C[S@](=O)c1ccc([*:1])cc1", "C[S@](=O)c1ccc(CCF)cc1", "C[S@@](=O)c1ccc(CCF)cc1"),
]


def around(core_smiles: str, smiles: str, seed: int) -> Graph3D:
    """A molecule with its core's atoms first, as a flow draws it."""
    query = Chem.MolFromSmiles(core_smiles)
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=seed) == 0
    mol = Chem.RemoveHs(mol)
    pattern = Chem.AdjustQueryProperties(query)
    match = mol.GetSubstructMatch(pattern, useChirality=False)
    own = [match[a.GetIdx()] for a in query.GetAtoms() if a.GetAtomicNum()]
    rest = [i for i in range(mol.GetNumAtoms()) if i not in own]
    return from_mol(Chem.RenumberAtoms(mol, [*own, *rest]), False)


@pytest.mark.parametrize("geometry", ["keep", "free"])
@pytest.mark.parametrize(("core", "right", "wrong"), CASES)
def test_the_other_stereo_is_found(core, right, wrong, geometry) -> None:
    read = Core.from_smiles(core, geometry=geometry)
    for seed in range(3):
        assert read.flaw(around(core, right, seed)) == ""
        assert read.flaw(around(core, wrong, seed)) != ""


@pytest.mark.parametrize(("core", "right", "wrong"), CASES)
def test_a_core_of_coordinates_says_its_stereo(core, right, wrong) -> None:
    mol = Chem.AddHs(Chem.MolFromSmiles(right))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=7) == 0
    plain = Chem.RemoveHs(mol)
    match = plain.GetSubstructMatch(Chem.AdjustQueryProperties(Chem.MolFromSmiles(core)))
    dummies = {a.GetIdx() for a in Chem.MolFromSmiles(core).GetAtoms() if not a.GetAtomicNum()}
    kept = [place for atom, place in enumerate(match) if atom not in dummies]
    read = Core.part_of(plain, kept, exact=True)
    for seed in range(3):
        assert read.flaw(around(core, right, seed)) == ""
        assert read.flaw(around(core, wrong, seed)) != ""
    assert Core.from_plain(read.plain()) == read


def test_a_mirror_image_is_turned_into_the_core_s_hand() -> None:
    core = Core.from_smiles("[*:1]N1CCC[C@H]1C(=O)O")
    graph = around("[*:1]N1CCC[C@H]1C(=O)O", "CCCN1CCC[C@@H]1C(=O)O", 3)
    assert core.flaw(graph)
    found = _of_its_hand(graph, core)
    assert core.flaw(found) == ""
    for one, other in ((graph, found), (found, _of_its_hand(found, core))):
        np.testing.assert_allclose(
            np.linalg.norm(one.positions[:, None] - one.positions, axis=-1),
            np.linalg.norm(other.positions[:, None] - other.positions, axis=-1),
        )


def test_what_is_bonded_from_the_wrong_side_is_found() -> None:
    """Three neighbours of a centre are the core's and where they were; the drawn one is not."""
    text = "[*:1][C@](C)(F)C(N)=O"
    core, graph = Core.from_smiles(text), around(text, "FCCO[C@](C)(F)C(N)=O", 1)
    x = graph.positions.copy()
    a, b, c = (x[i] for i in np.flatnonzero(graph.bonds[0, : len(core)]))
    normal = np.cross(b - a, c - a)
    normal /= np.linalg.norm(normal)
    x[len(core) :] -= 2 * ((x[len(core) :] - a) @ normal)[:, None] * normal
    assert core.flaw(graph) == ""
    assert "centre 0" in core.flaw(Graph3D(graph.numbers, graph.charges, graph.bonds, x))


def test_of_two_centres_one_wrong_fails() -> None:
    core = Core.from_smiles("C[C@@H](O)[C@H](N)C(=O)[*:1]")
    graph = around("C[C@@H](O)[C@H](N)C(=O)[*:1]", "C[C@@H](O)[C@@H](N)C(=O)NCC", 1)
    assert "centre 3" in core.flaw(_of_its_hand(graph, core))


@pytest.mark.parametrize("smiles", ["OC1CCC(C)CC1", "CC=CC(=O)O", "CC(F)(Cl)Br"])
def test_stereo_that_is_left_open_is_drawn(smiles) -> None:
    """Neither a hand to be kept, nor a rigid body that would have one."""
    core = Core.from_smiles(smiles)
    assert not core.hands.centres
    assert not core.hands.doubles
    centre = next(a for a, body in enumerate(core.bodies) if not body)
    assert centre is not None
    assert Core.from_smiles("c1ccccc1C(=O)N").bodies[0] > 0


def test_cores_saved_without_stereo_are_read() -> None:
    values = Core.from_smiles("[*:1]C1CC1").plain()
    values.pop("hands")
    assert Core.from_plain(values) == Core.from_smiles("[*:1]C1CC1")
