"""Laws of which molecule a record is."""

import random

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdMolDescriptors, rdMolTransforms

from molflowctl.chem.graphs import canonical_smiles
from molflowctl.chem.identity import (
    identity,
    in_canonical_order,
    normalised,
    parent,
    same_molecule,
    unlabelled,
)
from molflowctl.chem.stereo import stereo_kept
from molflowctl.data.known import known, load_hashes
from molflowctl.io.library import read_molecules
from molflowctl.properties import get, names
from molflowctl.properties import score as score_in_workers
from molflowctl.properties.alerts import structural_alerts
from molflowctl.properties.cache import Cache, graph_key
from molflowctl.properties.similarity import Similarity, reference_properties

DRUGS = [
    "CC(=O)Oc1ccccc1C(=O)O",
    "C[C@H](N)C(=O)O",
    "CN1CCC[C@H]1c1cccnc1",
    "C/C=C/C(=O)N[C@@H](C)c1ccc(F)cc1",
    "O[C@H]1[C@H](O)[C@@H](O)[C@H](O)[C@H](O)[C@@H]1O",
    "CC(C)Cc1ccc([C@@H](C)C(=O)[O-])cc1",
    "C[N+](C)(C)CC(=O)[O-]",
    "O=[N+]([O-])c1ccc(/N=N/c2ccccc2)cc1",
    "[2H]C([2H])([2H])Oc1ccc2[nH]cnc2c1",
    "[H]/N=C(\\C)c1ccccc1",
    "C1CC2CCC1C2",
    "CS(=O)(=O)Nc1ccc(OC[C@@H](O)CNC(C)C)cc1",
]
SAME = {
    "atom maps": [
        ("CCOC", "[CH3:1][CH2:2][O:3][CH3:4]"),
        ("CC(C)O", "[CH3:7][C@H:2]([CH3:3])[OH:9]"),  # the maps alone make no centre
        ("c1ccccc1N", "[cH:1]1[cH:2][cH:3][cH:4][cH:5][c:6]1[NH2:7]"),
        ("C[C@H](N)C(=O)[O-]", "[CH3:1][C@H:2]([NH2:3])[C:4](=[O:5])[O-:6]"),
        ("CO", "[CH3:1][O:2][H:3]"),
    ],
    "explicit hydrogens": [
        ("C", "[H]C([H])([H])[H]"),
        ("C[NH3+]", "C[N+]([H])([H])[H]"),
        ("N[C@@H](C)C(=O)O", "N[C@@]([H])(C)C(=O)O[H]"),
        ("c1cc[nH]c1", "c1ccn([H])c1"),
        ("[HH]", "[H][H]"),
        ("[2HH]", "[2H][H]"),
        ("[2H]OC", "[2H]OC([H])([H])[H]"),
    ],
    "spelling": [
        ("c1ccccc1O", "OC1=CC=CC=C1"),
        ("F/C=C/F", "F\\C=C\\F"),
        ("C[C@H](O)F", "O[C@@H](C)F"),
        ("[Na+].CC(=O)[O-]", "CC(=O)[O-].[Na+]"),
        ("C[N+](=O)[O-]", "CN(=O)=O"),
        ("C[C@H]1CC[C@@H](O)CC1", "O[C@H]1CC[C@@H](C)CC1"),
    ],
    "groups of centres": [
        ("C[C@H](O)F |&1:1|", "C[C@@H](O)F |&1:1|"),
        ("C[C@H](O)C[C@H](F)Cl |o1:1,o2:4|", "C[C@@H](O)C[C@H](F)Cl |o5:4,o2:1|"),
        ("C[C@H](O)[C@@H](C)F |&1:1,3|", "C[C@@H](O)[C@H](C)F |&1:1,3|"),
        ("C[C@H](O)F", "C[C@H](O)F |a:1|"),
    ],
}
OTHER = {
    "isotopes": [("CCO", "[2H]OCC"), ("C", "[13CH4]"), ("[2H]CO", "CO[2H]"), ("[2H]C", "[3H]C")],
    "charges": [
        ("CC(=O)O", "CC(=O)[O-]"),
        ("NCC(=O)O", "[NH3+]CC(=O)[O-]"),
        ("CN", "C[NH3+]"),
        ("[CH3]", "C"),
        ("CC(=O)[O-].[Na+]", "CC(=O)O"),
    ],
    "tautomers": [
        ("CC(C)=O", "CC(O)=C"),
        ("Oc1ccccn1", "O=c1cccc[nH]1"),
        ("Cc1c[nH]cn1", "Cc1cnc[nH]1"),
        ("CC(=O)CC(C)=O", "CC(=O)C=C(C)O"),
    ],
    "stereo": [
        ("C[C@H](N)O", "C[C@@H](N)O"),
        ("F/C=C/F", "F/C=C\\F"),
        ("C[C@H](N)O", "CC(N)O"),
        ("C[C@H]1CC[C@@H](O)CC1", "C[C@H]1CC[C@H](O)CC1"),
        ("[H]/N=C(/C)CC", "[H]/N=C(\\C)CC"),
        ("C[C@H](O)F", "C[C@H](O)F |&1:1|"),
        ("C[C@H](O)F |o1:1|", "C[C@H](O)F |&1:1|"),
        ("C[C@H](O)C[C@H](F)Cl |&1:1,&2:4|", "C[C@H](O)C[C@H](F)Cl |&1:1,4|"),
    ],
    "fragments": [("CCN", "CCN.Cl"), ("CCN.Cl", "CC[NH3+].[Cl-]"), ("CCO", "CCO.O")],
}
GRAPH_PROPERTIES = [name for name in names() if not get(name).geometry]


def score(mols, columns, cache=None):
    """In this process: a time limit would start others."""
    return score_in_workers(mols, columns, timeout=None, cache=cache)


def read(smiles):
    mol = Chem.MolFromSmiles(smiles)
    assert mol is not None, smiles
    return mol


def records(mol, seed):
    """The molecule in other forms: order of the atoms, hydrogens, maps, Kekule, geometry, title."""
    rng = random.Random(seed)
    shuffled = list(range(mol.GetNumAtoms()))
    rng.shuffle(shuffled)
    other = Chem.RenumberAtoms(mol, shuffled)
    full = Chem.AddHs(other)
    mapped = Chem.Mol(full)
    for atom in mapped.GetAtoms():
        if rng.random() < 0.7:
            atom.SetAtomMapNum(rng.randrange(1, 900))
    kekule = Chem.Mol(other)
    Chem.Kekulize(kekule, clearAromaticFlags=True)
    embedded = Chem.Mol(full)
    rdDistGeom.EmbedMolecule(embedded, randomSeed=seed)
    embedded.SetProp("_Name", "a title")
    embedded.SetProp("qed", "0.1")
    return [other, full, mapped, kekule, embedded]


def pairs(table):
    return [(kind, *pair) for kind, found in table.items() for pair in found]


@pytest.mark.parametrize(("kind", "one", "other"), pairs(SAME))
def test_the_same_molecule(kind, one, other):
    one, other = read(one), read(other)
    assert same_molecule(one, other)
    assert same_molecule(one, other, stereo=False)
    assert graph_key(one) == graph_key(other)


@pytest.mark.parametrize(("kind", "one", "other"), pairs(OTHER))
def test_another_molecule(kind, one, other):
    one, other = read(one), read(other)
    assert not same_molecule(one, other)
    assert same_molecule(one, other, stereo=False) == (kind == "stereo")
    assert graph_key(one) != graph_key(other)


@pytest.mark.parametrize("smiles", DRUGS)
def test_every_form_of_a_record_is_the_molecule(smiles):
    mol = read(smiles)
    name, flat = identity(mol), identity(mol, stereo=False)
    before = Chem.MolToSmiles(mol)
    for seed in range(3):
        for form in records(mol, seed):
            assert identity(form) == name
            assert identity(form, stereo=False) == flat
            again = normalised(form)
            assert identity(again) == name
            assert Chem.MolToSmiles(again, canonical=False) == Chem.MolToSmiles(
                normalised(mol), canonical=False
            )  # in the order of the atoms too
            assert not again.GetNumConformers()
            assert not again.GetPropsAsDict()
    assert Chem.MolToSmiles(mol) == before  # the argument is left as it was


@pytest.mark.parametrize("smiles", DRUGS)
def test_without_stereo_it_is_the_name_that_hashes_are_of(smiles):
    """RDKit's canonical non-isomeric SMILES, for what has no isotopes."""
    mol = read(smiles)
    if any(atom.GetIsotope() for atom in mol.GetAtoms()):
        assert identity(mol, stereo=False) != Chem.MolToSmiles(mol, isomericSmiles=False)
    else:
        plain = Chem.MolFromSmiles(Chem.MolToSmiles(mol, isomericSmiles=False))
        assert identity(mol, stereo=False) == Chem.MolToSmiles(plain, isomericSmiles=False)
    assert canonical_smiles(mol) == identity(mol, stereo=False)


@pytest.mark.parametrize("smiles", [*DRUGS, "[HH]", "[2H]C", "CC(=O)[O-].[Na+]", "[NH4+]"])
def test_canonical_order_is_that_of_no_record(smiles):
    """A conformer made in it is one of every record, with its stereo and bonds."""
    mol = Chem.AddHs(Chem.AddHs(read(smiles)))
    full, _ = in_canonical_order(mol)
    name = Chem.MolToSmiles(full, canonical=False)
    assert identity(full) == identity(mol)
    rdDistGeom.EmbedMolecule(full, randomSeed=11)
    for seed in range(3):
        shuffled = random.Random(seed).sample(range(mol.GetNumAtoms()), mol.GetNumAtoms())
        record = Chem.RenumberAtoms(mol, shuffled)
        for atom in record.GetAtoms():
            atom.SetAtomMapNum(atom.GetIdx() + 1)
        again, places = in_canonical_order(record)
        assert Chem.MolToSmiles(again, canonical=False) == name
        assert sorted(places) == list(range(len(shuffled)))
        conformer = Chem.Conformer(len(shuffled))
        for place, position in zip(places, full.GetConformer().GetPositions(), strict=True):
            conformer.SetAtomPosition(place, position.tolist())
        record.AddConformer(conformer)
        assert stereo_kept(record)
        for bond in record.GetBonds():
            atoms = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
            assert rdMolTransforms.GetBondLength(conformer, *atoms) < 2.0


def test_canonical_order_needs_all_hydrogens():
    with pytest.raises(ValueError, match="hydrogens"):
        in_canonical_order(read("CCO"))


# Three of the training molecules of QM9, and one that is too large.
QM9 = [("CC1CCCO1", 0), ("OC1CCCC1", 0), ("CCOC", 0), ("CC(C)(C)c1ccc(Br)cc1", 1)]


@pytest.mark.parametrize(("smiles", "novel"), QM9)
def test_novelty_and_its_cache_know_every_form(tmp_path, smiles, novel):
    """An atom-mapped ether of QM9 was novel, and then the plain one by the cache."""
    assert known([identity(read(smiles), stereo=False)], load_hashes("qm9"))[0] == (not novel)
    forms = [form for seed in range(2) for form in records(read(smiles), seed)]
    random.Random(1).shuffle(forms)
    with Cache(tmp_path / "c.sqlite") as cache:
        for form in forms:
            assert score([form], ["novelty_qm9"], cache=cache)["novelty_qm9"].tolist() == [novel]
        assert cache.hits == len(forms) - 1
    labelled = Chem.Mol(read(smiles))
    labelled.GetAtomWithIdx(0).SetIsotope(13)
    assert score([labelled], ["novelty_qm9"])["novelty_qm9"].tolist() == [1]


ATOM_MAPPED = "[CH3:1][CH2:2][O:3][CH3:4] mapped"  # a file that gave a wrong answer


@pytest.mark.parametrize("first", [0, 1])
def test_the_atom_mapped_ether(tmp_path, first):
    (tmp_path / "mapped.smi").write_text(ATOM_MAPPED + "\n")
    (record,) = read_molecules(tmp_path / "mapped.smi")
    assert record.name == "mapped"
    both = [record.mol, read("CCOC")]
    with Cache(tmp_path / "c.sqlite") as cache:
        for mol in (both[first], both[1 - first]):
            assert score([mol], ["novelty_qm9"], cache=cache)["novelty_qm9"].tolist() == [0]
        assert cache.hits == 1


@pytest.mark.parametrize("smiles", DRUGS)
def test_properties_of_a_graph_do_not_depend_on_the_form(smiles):
    mol = read(smiles)
    forms = [mol, *records(mol, 5)]
    reference = reference_properties([read(DRUGS[0])])
    scores = score(forms, [*GRAPH_PROPERTIES, *reference])
    for column, values in scores.values.items():
        assert len({*map(repr, values.tolist())}) == 1, (column, values)
    assert len({*map(str, scores.errors)}) == 1


LABELS = [
    ("CCO", ["[2H]OCC", "[13CH3]CO", "CC([2H])([2H])O", "[2H]C([2H])([2H])C([2H])([2H])O[2H]"]),
    ("CC(=O)Oc1ccccc1C(=O)O", ["[2H]C([2H])([2H])C(=O)Oc1ccccc1C(=O)O"]),
    ("COc1ccc2[nH]cnc2c1", ["[2H]C([2H])([2H])Oc1ccc2[nH]cnc2c1"]),
    (
        "CN1CCC[C@H]1c1cccnc1",
        ["[2H]C([2H])([2H])N1CCC[C@H]1c1cccnc1", "[13CH3]N1CCC[C@H]1c1cccnc1"],
    ),
    ("NCC(=O)O", ["[15NH2]CC(=O)O", "N[C@H]([2H])C(=O)O", "N[C@@H]([2H])C(=O)O"]),
    ("O=C1OC(=O)c2ccccc12", ["O=C1OC(=O)c2c([2H])c([2H])c([2H])c([2H])c12"]),
]


@pytest.mark.parametrize(("plain", "labelled"), LABELS)
def test_a_label_changes_the_weight_and_nothing_else(plain, labelled):
    """SA went from 1.8 to 5.5 by a deuterium label."""
    assert identity(unlabelled(read(labelled[0]))) == identity(read(plain))
    reference = Similarity([DRUGS[0], plain])
    columns = [n for n in GRAPH_PROPERTIES if n not in ("mw", "novelty_qm9")]
    bare = score([read(plain)], columns)
    for smiles in labelled:
        mol = read(smiles)
        for form in (mol, Chem.AddHs(mol)):
            found = score([form], columns)
            assert found.errors == bare.errors
            for name in columns:
                assert found[name][0] == pytest.approx(bare[name][0], abs=1e-12), name
                assert get(name).compute(form) == pytest.approx(bare[name][0], abs=1e-12), name
            assert reference(form) == 1
            for catalogue in ("pains", "brenk"):
                assert structural_alerts(form, catalogue) == structural_alerts(
                    read(plain), catalogue
                )
            assert score([form], ["mw"])["mw"][0] > score([read(plain)], ["mw"])["mw"][0] + 0.9


def test_the_weight_of_heavy_water_by_hand():
    """2 x 2.01410 + 15.999 and 2 x 1.008 + 15.999."""
    weights = score([read("[2H]O[2H]"), read("O")], ["mw"])["mw"]
    assert weights == pytest.approx([20.027, 18.015], abs=1e-3)


SALTS = [
    ("CC(=O)[O-].[Na+]", "CC(=O)[O-]", "CC(=O)O"),
    ("CC(=O)O[Na]", "CC(=O)[O-]", "CC(=O)O"),
    ("CCO[Mg]OCC", "CC[O-]", "CCO"),
    ("C[NH3+].F[P-](F)(F)(F)(F)F", "C[NH3+]", "CN"),
    ("OS(=O)(=O)O.CCN", "CCN", "CCN"),
    ("CN(C)C(=N)NC(N)=N.Cl.O", "CN(C)C(=N)NC(=N)N", "CN(C)C(=N)NC(=N)N"),
    ("C[N+](C)(C)CCO.[Cl-]", "C[N+](C)(C)CCO", "C[N+](C)(C)CCO"),
    ("[NH3+][C@@H](C)C(=O)[O-].Cl", "C[C@H]([NH3+])C(=O)[O-]", "C[C@H](N)C(=O)O"),
    ("[2H]C([2H])([2H])[NH3+].[I-]", "[2H]C([2H])([2H])[NH3+]", "[2H]C([2H])([2H])N"),
    # The metal is a part of these.
    ("N[Pt](N)(Cl)Cl", "N[Pt](N)(Cl)Cl", "N[Pt](N)(Cl)Cl"),
    ("CC[Mg]Br", "CC[Mg]Br", "CC[Mg]Br"),
    ("CC[NH3+]", "CC[NH3+]", "CCN"),
]


def canonical(smiles):
    return Chem.CanonSmiles(smiles)


@pytest.mark.parametrize(("salt", "kept", "neutral"), SALTS)
def test_the_parent_of_a_salt(salt, kept, neutral):
    mol = Chem.MolFromSmiles(salt)
    assert canonical(Chem.MolToSmiles(parent(mol))) == canonical(kept)
    assert canonical(Chem.MolToSmiles(parent(mol, neutralise=True))) == canonical(neutral)
    assert Chem.MolToSmiles(mol) == canonical(salt)  # the argument is left as it was


@pytest.mark.parametrize("salt", ["CC[NH3+].[Cl-]", "C[C@H](O)C(=O)[O-].[Na+]", "CCN.O"])
def test_a_parent_keeps_hydrogens_coordinates_and_title(salt):
    mol = Chem.AddHs(Chem.MolFromSmiles(salt))
    rdDistGeom.EmbedMolecule(mol, randomSeed=7)
    mol.SetProp("_Name", "mine")
    kept = parent(mol)
    assert kept.GetProp("_Name") == "mine"
    atoms = list(Chem.GetMolFrags(mol)[0])
    assert kept.GetNumAtoms() == len(atoms)
    positions = mol.GetConformer().GetPositions()[atoms]
    np.testing.assert_array_equal(kept.GetConformer().GetPositions(), positions)
    neutral = parent(mol, neutralise=True)
    assert Chem.GetFormalCharge(neutral) == 0
    assert not any(atom.GetTotalNumHs() for atom in neutral.GetAtoms())  # all are shown
    assert np.isfinite(neutral.GetConformer().GetPositions()).all()


@pytest.mark.parametrize("smiles", ["CC(O)F", "C[C@H](O)F", "CC(O)C(F)Cl", "C#CC(C)NC"])
def test_without_labels_and_hydrogens_centres_are_counted_as_before(smiles):
    plain = Chem.MolFromSmiles(smiles)
    marked = Chem.Mol(plain)
    marked.GetAtomWithIdx(0).SetIsotope(13)
    for count in (rdMolDescriptors.CalcNumAtomStereoCenters,
                  rdMolDescriptors.CalcNumUnspecifiedAtomStereoCenters):  # fmt: skip
        for other in (Chem.AddHs(plain), marked):
            assert count(unlabelled(other)) == count(plain)
