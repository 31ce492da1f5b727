"""Likeness to known ligands, against RDKit called by hand, and laws that hold for any molecule."""

import math
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem, DataStructs, RDConfig
from rdkit.Chem import AllChem, ChemicalFeatures, rdDistGeom, rdFingerprintGenerator
from rdkit.Chem import rdMolDescriptors as rd
from rdkit.Chem.FeatMaps import FeatMaps
from rdkit.Chem.rdMolTransforms import TransformConformer

from molflowctl.errors import UserError
from molflowctl.io.library import sdf_record
from molflowctl.properties import get, score
from molflowctl.properties.registry import PropertyError

rdGaussianShape = pytest.importorskip("rdkit.Chem.rdGaussianShape")

ASSET = Path(__file__).parents[3] / "molflowctl" / "assets" / "druglike_test_smiles.txt.gz"
CELECOXIB = "Cc1ccc(cc1)-c1cc(C(F)(F)F)nn1-c1ccc(cc1)S(N)(=O)=O"
IBUPROFEN = "CC(C)Cc1ccc(cc1)C(C)C(=O)O"
GEFITINIB = "COc1cc2ncnc(Nc3ccc(F)c(Cl)c3)c2cc1OCCCN1CCOCC1"
CRYSTAL = Path(__file__).parents[1] / "docking" / "data" / "1s2g_ligand.sdf"  # deoxyadenosine


@pytest.fixture(scope="module")
def smiles() -> list[str]:
    """100 drug-like molecules."""
    import gzip

    lines = gzip.decompress(ASSET.read_bytes()).decode().split()
    return random.Random(0).sample(lines, 100)


def embedded(smiles: str, seed: int = 7) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=seed) == 0
    return mol


@pytest.fixture(scope="module")
def posed(smiles) -> list[Chem.Mol]:
    return [embedded(s) for s in smiles]


@pytest.fixture(scope="module")
def ligand(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("ligand") / "celecoxib.sdf"
    path.write_text(sdf_record(embedded(CELECOXIB, 3), "celecoxib", {}))
    return str(path)


GENERATORS = {
    "ecfp4": rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048),
    "ecfp6": rdFingerprintGenerator.GetMorganGenerator(radius=3, fpSize=2048),
    "fcfp4": rdFingerprintGenerator.GetMorganGenerator(
        radius=2,
        fpSize=2048,
        atomInvariantsGenerator=rdFingerprintGenerator.GetMorganFeatureAtomInvGen(),
    ),
    "fcfp6": rdFingerprintGenerator.GetMorganGenerator(
        radius=3,
        fpSize=2048,
        atomInvariantsGenerator=rdFingerprintGenerator.GetMorganFeatureAtomInvGen(),
    ),
    "atom_pair": rdFingerprintGenerator.GetAtomPairGenerator(fpSize=2048),
}


@pytest.mark.parametrize("kind", GENERATORS)
def test_similarity_is_that_of_rdkit(kind, smiles) -> None:
    name = f'similarity("{CELECOXIB}", "{IBUPROFEN}", fingerprint="{kind}")'
    found = score([Chem.MolFromSmiles(s) for s in smiles], [name, name[:-1] + ', combine="mean")'])
    fingerprint = GENERATORS[kind].GetFingerprint
    known = [fingerprint(Chem.MolFromSmiles(s)) for s in (CELECOXIB, IBUPROFEN)]
    pairs = np.array(
        [
            [DataStructs.TanimotoSimilarity(fingerprint(Chem.MolFromSmiles(s)), k) for k in known]
            for s in smiles
        ]
    )
    largest, mean = found.values.values()
    np.testing.assert_array_equal(largest, pairs.max(1))
    np.testing.assert_allclose(mean, pairs.mean(1), rtol=1e-12)


def test_a_library_is_as_good_as_its_smiles(tmp_path) -> None:
    path = tmp_path / "actives.smi"
    path.write_text(f"{CELECOXIB} celecoxib\n{IBUPROFEN} ibuprofen\n")
    one, other = get(f'similarity("{path}")'), get(f'similarity("{IBUPROFEN}", "{CELECOXIB}")')
    mol = Chem.MolFromSmiles("CC(C)Cc1ccccc1")
    assert list(one(mol).values()) == list(other(mol).values())
    assert one.version == other.version
    path.write_text(f"{IBUPROFEN} ibuprofen\n\n")
    assert get(f'similarity("{path}")').version != one.version  # it is read anew


def by_hand(reference: Chem.Mol, mol: Chem.Mol) -> tuple[float, float, float]:
    return rdGaussianShape.AlignMol(Chem.RemoveHs(reference), Chem.RemoveHs(mol))


def test_shape_is_that_of_rdkit(ligand, posed) -> None:
    reference = next(iter(Chem.SDMolSupplier(ligand, removeHs=False)))
    names = [f'shape("{ligand}"{part})' for part in ("", ', part="shape"', ', part="colour"')]
    found = score(posed, names)
    expected = np.array([by_hand(reference, mol) for mol in posed])
    for place, name in enumerate(names):
        np.testing.assert_allclose(found[name], expected[:, place], atol=1e-6)
    assert np.ptp(expected[:, 0]) > 0.1


def test_a_ligand_overlaps_with_itself_wherever_it_lies(ligand) -> None:
    mol = embedded(CELECOXIB, 3)
    place = np.eye(4)
    place[:3, :3] = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    place[:3, :3] *= np.linalg.det(place[:3, :3])
    place[:3, 3] = 30.0
    TransformConformer(mol.GetConformer(), place)
    for name in (f'shape("{ligand}")', f'pharmacophore("{ligand}")'):
        assert get(name)(mol)[name] == pytest.approx(1.0, abs=2e-3)
        assert get(name)(embedded("CCO"))[name] < 0.6


def test_of_several_conformers_the_best_counts(ligand) -> None:
    mol = Chem.MolFromSmiles(CELECOXIB)
    values = []
    for n in (1, 5, 20):
        name = f'shape("{ligand}", conformers={n})'
        values.append(get(name)(mol)[name])
        assert get(name)(mol)[name] == values[-1]
        shuffled = Chem.RenumberAtoms(mol, random.Random(n).sample(range(mol.GetNumAtoms()), 26))
        assert get(name)(shuffled)[name] == values[-1]  # of the molecule, not of how it is written
    assert values == sorted(values)
    assert values[-1] > 0.8
    assert not get(f'shape("{ligand}", conformers=5)').geometry


def test_a_pharmacophore_is_rdkits_feature_map(ligand, posed) -> None:
    factory = ChemicalFeatures.BuildFeatureFactory(
        str(Path(RDConfig.RDDataDir, "BaseFeatures.fdef"))
    )
    kept = {"Donor", "Acceptor", "NegIonizable", "PosIonizable", "Aromatic", "Hydrophobe",
            "LumpedHydrophobe"}  # fmt: skip

    def features(mol):
        return [f for f in factory.GetFeaturesForMol(mol) if f.GetFamily() in kept]

    reference = Chem.RemoveHs(next(iter(Chem.SDMolSupplier(ligand, removeHs=False))))
    wanted = features(reference)
    parameters = {family: FeatMaps.FeatMapParams() for family in factory.GetFeatureFamilies()}
    expected = []
    for mol in posed:
        pose = Chem.RemoveHs(mol)
        rdGaussianShape.AlignMol(reference, pose)
        there = features(pose)
        met = 0.0
        for feature in wanted:
            # A map of one feature of the ligand scores each of the molecule's on its own.
            one = FeatMaps.FeatMap(feats=[feature], weights=[1.0], params=parameters)
            met += max((one.ScoreFeats([g]) for g in there), default=0.0)
        expected.append(met / len(wanted))
    name = f'pharmacophore("{ligand}")'
    np.testing.assert_allclose(score(posed, [name])[name], expected, atol=1e-6)
    assert np.ptp(expected) > 0.1


def test_moments_centres_and_alerts_are_those_of_rdkit(posed) -> None:
    found = score(posed, ["npr1", "npr2", "chiral_centres", "fsp3", 'alerts("dundee")'])
    np.testing.assert_allclose(found["npr1"], [rd.CalcNPR1(m) for m in posed], rtol=1e-9)
    np.testing.assert_allclose(found["npr2"], [rd.CalcNPR2(m) for m in posed], rtol=1e-9)
    np.testing.assert_array_equal(
        found["chiral_centres"],
        [len(AllChem.FindMolChiralCenters(m, includeUnassigned=True,
                                          useLegacyImplementation=False)) for m in posed],
    )  # fmt: skip
    parameters = Chem.FilterCatalog.FilterCatalogParams()
    parameters.AddCatalog(Chem.FilterCatalog.FilterCatalogParams.FilterCatalogs.CHEMBL_Dundee)
    dundee = Chem.FilterCatalog.FilterCatalog(parameters)
    flat = [Chem.RemoveHs(m) for m in posed]
    np.testing.assert_array_equal(
        found['alerts("dundee")'], [len(dundee.GetMatches(m)) for m in flat]
    )
    assert found['alerts("dundee")'].any()


@pytest.mark.parametrize(
    ("smiles", "count"),
    [("c1ccccc1C", 0), ("c1ccc2ccccc2c1", 1), ("C1CC1c1ccccc1", 1), ("C1CC1C1CCC1", 2), ("CCO", 0)],
)
def test_ring_systems_that_a_reference_lacks(smiles, count) -> None:
    item = get('new_ring_systems("Cc1ccccc1")')
    assert list(item(Chem.MolFromSmiles(smiles)).values()) == [count]


@pytest.mark.parametrize(
    "name", ['similarity("CCO")', 'shape("CCO")', 'pharmacophore("CCO", conformers=3)']
)
def test_workers_can_compute_it(name) -> None:
    mols = [embedded("CCO"), embedded("CCN")]
    item = pickle.loads(pickle.dumps(get(name)))
    assert [item(mol)[name] for mol in mols] == score(mols, [name], jobs=2)[name].tolist()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ('similarity("C1CC")', "no SMILES"),
        ('similarity("CCO", "nothing.sdf")', "no file nothing.sdf"),
        ('similarity("CCO", fingerprint="ecfp5")', "did you mean ecfp"),
        ('similarity("CCO", 3)', "text in quotes"),
        ('shape("CCO", conformers=-1)', "from 0"),
        ('shape("CCO", conformers=2.5)', "whole number"),
        ('shape("CCO.CCN", part="color")', "did you mean colour"),
        ('pharmacophore("[Na]")', "no pharmacophore feature"),
        ('alerts("brank")', "did you mean brenk"),
        ("new_ring_systems()", "needs reference"),
    ],
)
def test_what_is_wrong_is_named(name, words) -> None:
    with pytest.raises(UserError, match=words):
        get(name)


def test_an_entry_that_cannot_be_read_and_a_library_for_one_are_named(tmp_path) -> None:
    path = tmp_path / "two.smi"
    path.write_text("CCO a\nC1CC b\n")
    with pytest.raises(UserError, match="entry 2"):
        get(f'similarity("{path}")')
    path.write_text("CCO a\nCCN b\n")
    with pytest.raises(UserError, match="2 ligands"):
        get(f'pharmacophore("{path}")')


def test_without_coordinates_there_is_no_shape() -> None:
    for name in ('shape("CCO")', 'pharmacophore("CCO")', "npr1"):
        with pytest.raises(PropertyError, match="no coordinates"):
            get(name)(Chem.MolFromSmiles("CCO"))
    (value,) = score([Chem.MolFromSmiles("CCO")], ["npr2"])["npr2"]
    assert math.isnan(value)


def _conformers(smiles: str, n: int, seed: int) -> list[Chem.Mol]:
    """Conformers relaxed in MMFF94, the lowest first; none where a molecule cannot be embedded."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    places = list(rdDistGeom.EmbedMultipleConfs(mol, n, randomSeed=seed))
    energies = [energy for _, energy in AllChem.MMFFOptimizeMoleculeConfs(mol, maxIters=2000)]
    return [Chem.Mol(mol, confId=places[k]) for k in np.argsort(energies)]


@pytest.mark.slow
def test_shape_finds_a_drug_among_a_thousand_decoys(tmp_path) -> None:
    """A drug in a pose of its own comes before all drug-like molecules, also from a crystal."""
    import gzip

    lines = gzip.decompress(ASSET.read_bytes()).decode().split()
    decoys = [d for s in random.Random(1).sample(lines, 1010) for d in _conformers(s, 1, 3)[:1]]
    assert len(decoys) >= 1000
    crystal = Chem.MolFromMolFile(str(CRYSTAL), removeHs=False)
    drugs = [CELECOXIB, IBUPROFEN, GEFITINIB, Chem.MolToSmiles(Chem.RemoveHs(crystal))]
    for number, drug in enumerate(drugs):
        reference = crystal if number == 3 else _conformers(drug, 50, 11)[0]
        path = tmp_path / f"{number}.sdf"
        path.write_text(sdf_record(reference, "reference", {}))
        own = _conformers(drug, 20, 5)
        found = score([*own, *decoys[:1000]], [f'shape("{path}")'], timeout=None)
        (values,) = found.values.values()
        assert np.isfinite(values).all()
        assert values[: len(own)].max() > values[len(own) :].max()
