"""Thirty goals as a chemist would say them, each one expression, against plain RDKit by hand.

Each goal is told in words, written as an expression, and computed again in the test with RDKit
alone from a molecule with a conformer.
"""

import gzip
import math
import random
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem, DataStructs
from rdkit.Chem import QED, Crippen, Descriptors, rdDistGeom, rdFingerprintGenerator
from rdkit.Chem import rdMolDescriptors as rd
from rdkit.Chem.FilterCatalog import FilterCatalog, FilterCatalogParams

from molflowctl.properties import get, score
from molflowctl.properties.rewards import PropertyReward
from molflowctl.tasks.scoring.preview import Previewed, best_and_worst, describe, parts_of

ASSET = Path(__file__).parents[3] / "molflowctl" / "assets" / "druglike_test_smiles.txt.gz"
CELECOXIB = "Cc1ccc(cc1)-c1cc(C(F)(F)F)nn1-c1ccc(cc1)S(N)(=O)=O"
IBUPROFEN = "CC(C)Cc1ccc(cc1)C(C)C(=O)O"
ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"
SULFONAMIDE = Chem.MolFromSmarts("[#7]S(=O)=O")
ECFP4 = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
FCFP4 = rdFingerprintGenerator.GetMorganGenerator(
    radius=2,
    fpSize=2048,
    atomInvariantsGenerator=rdFingerprintGenerator.GetMorganFeatureAtomInvGen(),
)
PAIRS = rdFingerprintGenerator.GetAtomPairGenerator(fpSize=2048)


def catalogue(name):
    parameters = FilterCatalogParams()
    parameters.AddCatalog(getattr(FilterCatalogParams.FilterCatalogs, name))
    return FilterCatalog(parameters)


BRENK, PAINS, NIH = catalogue("BRENK"), catalogue("PAINS"), catalogue("NIH")


def flat(mol):
    return Chem.RemoveHs(mol)


def qed(mol):
    return QED.qed(flat(mol))


def logp(mol):
    return Crippen.MolLogP(flat(mol))


def mw(mol):
    return Descriptors.MolWt(mol)


def tpsa(mol):
    return rd.CalcTPSA(flat(mol))


def like(mol, smiles, generator=ECFP4):
    return DataStructs.TanimotoSimilarity(
        generator.GetFingerprint(flat(mol)), generator.GetFingerprint(Chem.MolFromSmiles(smiles))
    )


def count(mol, smarts):
    return len(flat(mol).GetSubstructMatches(Chem.MolFromSmarts(smarts)))


def alerts(mol, known):
    return len(known.GetMatches(flat(mol)))


def largest_ring(mol):
    return max(map(len, mol.GetRingInfo().AtomRings()), default=0)


def ramp(y, low, high):
    return min(max((y - low) / (high - low), 0.0), 1.0)


def within(y, low, high, margin):
    return ramp(max(low - y, y - high, 0.0), margin, 0.0)


def sigmoid(y, midpoint, width):
    return 1 / (1 + math.exp(-(y - midpoint) / width))


def heavy(mol):
    return mol.GetNumHeavyAtoms()


GOALS = [
    ("QED above 0.7, logP 1 to 3, no Brenk alert, a sulfonamide, at most 0.4 similar to celecoxib",
     f'qed > 0.7 and 1 <= logp <= 3 and alerts("brenk") == 0 and smarts("[#7]S(=O)=O") >= 1 '
     f'and similarity("{CELECOXIB}") <= 0.4',
     lambda m: qed(m) > 0.7 and 1 <= logp(m) <= 3 and not alerts(m, BRENK)
     and m.HasSubstructMatch(SULFONAMIDE) and like(m, CELECOXIB) <= 0.4),
    ("as drug-like as possible", "qed", qed),
    ("drug-like with a sulfonamide", 'product(qed, step(smarts("[#7]S(=O)=O"), 1))',
     lambda m: qed(m) * m.HasSubstructMatch(SULFONAMIDE)),
    ("drug-like, a tenth off for each Brenk alert", "qed - 0.1 * brenk",
     lambda m: qed(m) - 0.1 * alerts(m, BRENK)),
    ("drug-like, but rings of more than six atoms are a failure",
     "qed + where(largest_ring > 6, -1, 0)", lambda m: qed(m) - (largest_ring(m) > 6)),
    ("logP near 2.5", "gauss(logp, 2.5, 0.5)",
     lambda m: math.exp(-((logp(m) - 2.5) ** 2) / 0.5)),
    ("logP 1 to 3 with half a unit of tolerance", "range(logp, 1, 3, 0.5)",
     lambda m: within(logp(m), 1, 3, 0.5)),
    ("fragment-like by the rule of three",
     "mw <= 300 and logp <= 3 and hbd <= 3 and hba <= 3 and rotatable_bonds <= 3",
     lambda m: mw(m) <= 300 and logp(m) <= 3 and rd.CalcNumHBD(flat(m)) <= 3
     and rd.CalcNumHBA(flat(m)) <= 3
     and rd.CalcNumRotatableBonds(flat(m)) <= 3),
    ("passes Lipinski and Veber", "lipinski_pass == 1 and veber_pass == 1",
     lambda m: ((mw(m) > 500) + (logp(m) > 5) + (rd.CalcNumLipinskiHBD(flat(m)) > 5)
                + (rd.CalcNumLipinskiHBA(flat(m)) > 10) <= 1)
     and rd.CalcNumRotatableBonds(flat(m)) <= 10 and tpsa(m) <= 140),
    ("gets into the brain: small TPSA, few donors, some logP",
     "geometric_mean(ramp(tpsa, 120, 60), ramp(hbd, 4, 0), range(logp, 2, 4, 2), "
     "weights=[2, 1, 1])",
     lambda m: (ramp(tpsa(m), 120, 60) ** 2 * ramp(rd.CalcNumHBD(flat(m)), 4, 0)
                * within(logp(m), 2, 4, 2)) ** 0.25),
    ("like celecoxib or ibuprofen, whichever is nearer",
     f'similarity("{CELECOXIB}", "{IBUPROFEN}")',
     lambda m: max(like(m, CELECOXIB), like(m, IBUPROFEN))),
    ("like both of them on average, by features",
     f'similarity("{CELECOXIB}", "{IBUPROFEN}", fingerprint="fcfp4", combine="mean")',
     lambda m: (like(m, CELECOXIB, FCFP4) + like(m, IBUPROFEN, FCFP4)) / 2),
    ("like celecoxib, but not a copy", f'range(similarity("{CELECOXIB}"), 0.3, 0.6, 0.2)',
     lambda m: within(like(m, CELECOXIB), 0.3, 0.6, 0.2)),
    ("like aspirin by atom pairs", f'similarity("{ASPIRIN}", fingerprint="atom_pair")',
     lambda m: like(m, ASPIRIN, PAIRS)),
    ("new: less than 0.3 similar to what is known, and drug-like",
     f'qed * (similarity("{CELECOXIB}", "{ASPIRIN}") < 0.3)',
     lambda m: qed(m) * (max(like(m, CELECOXIB), like(m, ASPIRIN)) < 0.3)),
    ("lipophilic efficiency of a constant potency of 7", "7 - logp", lambda m: 7 - logp(m)),
    ("no aldehyde, no nitro group, no Michael acceptor",
     'smarts("[CX3H1]=O") == 0 and smarts("[N+](=O)[O-]") == 0 and smarts("C=CC=O") == 0',
     lambda m: not (count(m, "[CX3H1]=O") or count(m, "[N+](=O)[O-]") or count(m, "C=CC=O"))),
    ("an acid or a tetrazole", 'smarts("C(=O)[OH]") > 0 or smarts("c1nnn[nH]1") > 0',
     lambda m: count(m, "C(=O)[OH]") > 0 or count(m, "c1nnn[nH]1") > 0),
    ("exactly one stereocentre", "chiral_centres == 1",
     lambda m: len(Chem.FindMolChiralCenters(m, includeUnassigned=True,
                                             useLegacyImplementation=False)) == 1),
    ("out of flatland: half of the carbons sp3, and a stereocentre",
     "min(ramp(fsp3, 0, 0.5), step(chiral_centres, 1))",
     lambda m: min(ramp(rd.CalcFractionCSP3(m), 0, 0.5),
                   float(rd.CalcNumAtomStereoCenters(m) >= 1))),
    ("neither rod nor disc", "npr1 + npr2 > 1.2",
     lambda m: rd.CalcNPR1(m) + rd.CalcNPR2(m) > 1.2),
    ("not more than two aromatic rings, and none fused to a strange one",
     'ramp(aromatic_rings, 4, 2) * (new_ring_systems("c1ccccc1", "c1ccncc1") <= 2)',
     lambda m: ramp(rd.CalcNumAromaticRings(m), 4, 2) * (by_hand_systems(m) <= 2)),
    ("between 20 and 30 heavy atoms, the fewer the better",
     "where(20 <= heavy_atoms <= 30, (30 - heavy_atoms) / 10, -1)",
     lambda m: (30 - heavy(m)) / 10 if 20 <= heavy(m) <= 30 else -1),
    ("QED per heavy atom", "100 * qed / heavy_atoms", lambda m: 100 * qed(m) / heavy(m)),
    ("ligand efficiency of a score of -0.2 per square angstrom of TPSA",
     "ligand_efficiency(-0.2 * tpsa)", lambda m: 0.2 * tpsa(m) / heavy(m)),
    ("no PAINS and no NIH alert", 'pains == 0 and alerts("nih") == 0',
     lambda m: not alerts(m, PAINS) and not alerts(m, NIH)),
    ("soluble by a line through logP and weight, at least -4",
     "0.16 - 0.63 * logp - 0.0062 * mw >= -4",
     lambda m: 0.16 - 0.63 * logp(m) - 0.0062 * mw(m) >= -4),
    ("QED counts twice, logP around 2 once", "mean(qed, sigmoid(-abs(logp - 2), -1, 0.25), "
     "weights=[2, 1])",
     lambda m: (2 * qed(m) + sigmoid(-abs(logp(m) - 2), -1, 0.25)) / 3),
    ("at most one halogen, of any kind", 'smarts("[F,Cl,Br,I]") <= 1',
     lambda m: sum(a.GetAtomicNum() in (9, 17, 35, 53) for a in m.GetAtoms()) <= 1),
    ("neutral, with nitrogen, without bromine",
     'formal_charge == 0 and smarts("[#7]") > 0 and not smarts("[Br]") > 0',
     lambda m: Chem.GetFormalCharge(m) == 0 and any(a.GetAtomicNum() == 7 for a in m.GetAtoms())
     and all(a.GetAtomicNum() != 35 for a in m.GetAtoms())),
    ("logP squared deviation from 2, and a cap on weight",
     "-(logp - 2) ** 2 - max(mw - 350, 0) / 50",
     lambda m: -((logp(m) - 2) ** 2) - max(mw(m) - 350, 0) / 50),
    ("rather polar: log of TPSA over weight", "log10(1 + tpsa / sqrt(mw))",
     lambda m: math.log10(1 + tpsa(m) / math.sqrt(mw(m)))),
]  # fmt: skip


def by_hand_systems(mol):
    """Ring systems other than a six-membered aromatic ring with at most one nitrogen."""
    plain = flat(mol)
    rings = [set(ring) for ring in plain.GetRingInfo().AtomRings()]
    systems = []
    for ring in rings:
        joined = [s for s in systems if s & ring]
        systems = [s for s in systems if not s & ring] + [set.union(ring, *joined)]
    new = 0
    for system in systems:
        atoms = [plain.GetAtomWithIdx(k) for k in system]
        symbols = sorted(a.GetSymbol() for a in atoms)
        plainly = len(atoms) == 6 and all(a.GetIsAromatic() for a in atoms)
        new += not (plainly and symbols in (["C"] * 6, ["C"] * 5 + ["N"]))
    return new


@pytest.fixture(scope="module")
def mols():
    """30 drug-like molecules with a conformer, and celecoxib."""
    lines = gzip.decompress(ASSET.read_bytes()).decode().split()
    found = []
    for smiles in [CELECOXIB, *random.Random(3).sample(lines, 30)]:
        mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
        assert rdDistGeom.EmbedMolecule(mol, randomSeed=1) == 0
        found.append(mol)
    return found


@pytest.fixture(scope="module")
def columns(mols):
    """The properties of all the goals, computed once."""
    needed = {item for _, text, _ in GOALS for item in PropertyReward(text).properties}
    return score(mols, [get(name) for name in sorted(needed)], timeout=None).values


def test_there_are_thirty_of_them() -> None:
    assert len(GOALS) >= 30
    assert len({text for _, text, _ in GOALS}) == len(GOALS)


@pytest.mark.parametrize(("words", "text", "by_hand"), GOALS, ids=[g[0][:60] for g in GOALS])
def test_a_goal_is_what_rdkit_says(words, text, by_hand, mols, columns) -> None:
    found = PropertyReward(text).of(columns)
    expected = np.array([float(by_hand(mol)) for mol in mols])
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("words", "text", "by_hand"), GOALS, ids=[g[0][:60] for g in GOALS])
def test_a_goal_previews(words, text, by_hand, mols, columns) -> None:
    reward = PropertyReward(text)
    found = Previewed(reward, parts_of(reward, columns), mols)
    headings, whole, *parts = describe(found)
    assert len({part[0] for part in parts}) == len(parts) >= bool(reward.node.parts)
    np.testing.assert_array_equal(found.parts[0].values, reward.of(columns))
    for part in found.parts:  # each is a reward of its own, and within what it can be
        np.testing.assert_array_equal(part.values, PropertyReward(part.text).of(columns))
        assert part.found.min() >= part.low - 1e-9
        assert part.found.max() <= part.high + 1e-9
    assert len(whole) == len(headings)
    assert len(best_and_worst(found)) == 22


def test_the_goals_tell_molecules_apart(columns) -> None:
    values = [PropertyReward(text).of(columns) for _, text, _ in GOALS]
    assert sum(np.ptp(v) > 0 for v in values) >= 25


def test_a_goal_goes_through_score(mols) -> None:
    _, text, by_hand = GOALS[0]
    found = PropertyReward(text).value(mols[:5], timeout=None)
    assert found.tolist() == [float(by_hand(mol)) for mol in mols[:5]]
