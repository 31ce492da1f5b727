"""First geometries: salts against their separate ions, elements that MMFF94 does not know."""

from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from molflowctl.chem.identity import in_canonical_order
from molflowctl.chem.relaxation import bonds_kept
from molflowctl.chem.salts import settle_salt
from molflowctl.chem.stereo import stereo_kept
from molflowctl.chem.units import HARTREE_TO_KCAL_MOL
from molflowctl.properties import PropertyError
from molflowctl.properties.energies.forcefield import energies_and_gradients
from molflowctl.properties.energies.xtb import relax, single_point
from molflowctl.properties.geometries.complexes import fragments_apart
from molflowctl.properties.geometries.starting import method_of, start

SALTS = [
    line.split(None, 1)
    for line in (Path(__file__).parents[1] / "data" / "drug_salts.smi").read_text().splitlines()
]
FAST = {"sodium valproate", "choline chloride", "acesulfame potassium"}
FAST |= {"metformin hydrochloride, drawn without charges"}
# Of the inputs that once gave thousands of kcal/mol.
MIXED = [
    "COc1ccc2[nH]cc(CC[NH+](C)C)c2c1.[Cl-]",
    "O=C([O-])c1ccccc1O.[Na+]",
    "[K+].[O-]C(=O)CCc1ccccc1",
    "C[NH3+].[I-]",
    "O.O.O",
]


def full(smiles):
    return Chem.AddHs(Chem.MolFromSmiles(smiles))


def energy(mol):
    point = single_point(mol)
    assert point.error is None
    return point.energy_hartree * HARTREE_TO_KCAL_MOL


def held_together(smiles):
    """GFN2-xTB energy of the separate fragments above that of the whole, kcal/mol."""
    mol = full(smiles)
    made = start(mol).mol
    assert fragments_apart(made)
    pieces = Chem.GetMolFrags(mol, asMols=True)
    return sum(energy(start(piece).mol) for piece in pieces) - energy(made)


def test_there_are_forty_salts_and_no_two_alike():
    assert len(SALTS) == 40 == len({Chem.CanonSmiles(smiles) for smiles, _ in SALTS})


@pytest.mark.parametrize(("smiles", "name"), [(s, n.strip()) for s, n in SALTS if n in FAST])
def test_some_salts_are_held_together(smiles, name):
    assert 0 < held_together(smiles) < 200


@pytest.mark.parametrize("smiles", MIXED)
def test_other_salts_and_mixtures_are_held_together(smiles):
    assert 0 < held_together(smiles) < 200


@pytest.mark.slow
@pytest.mark.parametrize(("smiles", "name"), SALTS)
def test_every_salt_is_held_together_and_strips_to_its_parent(smiles, name):
    assert 0 < held_together(smiles) < 200
    pieces = sorted(smiles.split("."), key=lambda s: Chem.MolFromSmiles(s).GetNumAtoms())
    stripped = settle_salt(Chem.MolFromSmiles(smiles), "strip").mol
    assert energy(start(Chem.AddHs(stripped)).mol) == pytest.approx(
        energy(start(full(Chem.CanonSmiles(pieces[-1]))).mol), abs=0.01
    )


@pytest.mark.parametrize("smiles", ["C[NH+](C)CCO.[Cl-]", "CC(=O)[O-].[Na+]", "OCCO.NC=O"])
def test_a_complex_that_mmff94_knows_is_at_its_minimum(smiles):
    made = start(full(smiles))
    assert made.method == "ETKDGv3, MMFF94, fragments relaxed together"
    (gradient,) = energies_and_gradients([made.mol]).gradients_kcal_mol_angstrom
    assert np.abs(gradient).max() < 0.1


def test_a_plain_molecule_has_the_geometry_of_etkdg_and_mmff94():
    """To the last digit, in the canonical order of the atoms."""
    for smiles in ("CCO", "C[C@H](N)C(=O)O", "c1ccccc1C(=O)NC1CC1", "[O-]Cl(=O)(=O)=O"):
        mol, _ = in_canonical_order(full(smiles))
        made = start(mol)
        parameters = rdDistGeom.ETKDGv3()
        parameters.randomSeed = 0xF00D
        assert rdDistGeom.EmbedMolecule(mol, parameters) == 0
        rdForceFieldHelpers.MMFFOptimizeMolecule(mol, maxIters=2000)
        assert made.method == "ETKDGv3, MMFF94"
        np.testing.assert_array_equal(
            made.mol.GetConformer().GetPositions(), mol.GetConformer().GetPositions()
        )


@pytest.mark.parametrize(
    ("smiles", "field"),
    [
        ("CB(O)O", "UFF"),
        ("OB(O)c1ccccc1", "UFF"),
        ("C[Se]C", "UFF"),
        ("N[C@@H](C[SeH])C(=O)O", "UFF"),
        ("C[Sn](C)(C)C", "UFF"),
        ("C[Sn](C)(C)Cl", "UFF"),
        ("C[Ge](C)(C)C", "UFF"),
        ("C[As](C)C", "UFF"),
        ("F[B-](F)(F)F", "UFF"),
        ("FP(F)(F)(F)F", "GFN2-xTB"),
        ("CP(C)(C)(C)C", "GFN2-xTB"),
        ("F[P-](F)(F)(F)(F)F", "GFN2-xTB"),
        ("O=I(=O)c1ccccc1", "GFN2-xTB"),
        ("ClI(Cl)c1ccccc1", "GFN2-xTB"),
        ("FS(F)(F)(F)(F)F", "GFN2-xTB"),
        ("C[Pb](C)(C)C", "GFN2-xTB"),
    ],
)
def test_elements_without_mmff94_start_from_what_knows_them(smiles, field):
    mol = full(smiles)
    made = start(mol)
    assert made.method == method_of(mol) == f"ETKDGv3, {field}"
    assert bonds_kept(made.mol)
    assert stereo_kept(made.mol)
    result = relax(made.mol)
    assert result.converged
    # Near to a minimum, from which UFF of PF6- is 1,100 kcal/mol away.
    assert -0.1 < result.energy_drop_kcal_mol < (35 if field == "UFF" else 0.1)


@pytest.mark.parametrize(
    ("smiles", "longest", "shortest"),
    [
        # Equatorial 1.53, axial 1.58 by electron diffraction (Hansen and Bartell, Inorg. Chem. 4,
        # 1965); octahedral 1.60, 1.56; T-shaped: 2.47 Cl-I, 2.1 C-I in iodobenzene dichloride.
        ("FP(F)(F)(F)F", 1.58, 1.53),
        ("F[P-](F)(F)(F)(F)F", 1.60, 1.60),
        ("FS(F)(F)(F)(F)F", 1.56, 1.56),
    ],
)
def test_bonds_of_crowded_atoms_are_those_measured(smiles, longest, shortest):
    x = start(full(smiles)).mol.GetConformer().GetPositions()
    lengths = np.sort(np.linalg.norm(x - x[1], axis=1))[1:]
    assert lengths[-1] == pytest.approx(longest, abs=0.08)
    assert lengths[0] == pytest.approx(shortest, abs=0.08)


def angle(mol, a, centre, b):
    x = mol.GetConformer().GetPositions()
    u, v = x[a] - x[centre], x[b] - x[centre]
    cosine = u @ v / np.linalg.norm(u) / np.linalg.norm(v)
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


@pytest.mark.parametrize(
    ("smiles", "line", "across"),
    [
        ("ClI(Cl)C", (0, 1, 2), 3),  # the T: halogens in line, carbon at a right angle
        ("FI(F)C=C", (0, 1, 2), 3),
        ("C[I]1(OC(=O)C=C1)", (0, 1, 2), 6),  # the ring holds the other carbon to the oxygen
        ("FS(F)(C)C", (0, 1, 2), 3),  # the seesaw
        ("FP(F)(C)(C)C", (0, 1, 2), 3),  # the bipyramid, fluorine on its axis
    ],
)
def test_the_most_electronegative_neighbours_stand_in_line(smiles, line, across):
    mol = start(full(smiles)).mol
    assert angle(mol, *line) > 160
    assert angle(mol, line[0], line[1], across) == pytest.approx(90, abs=12)


# Measured by electron or X-ray diffraction, in angstrom: Hansen and Bartell, Inorg. Chem. 4, 1775
# (1965) (PF5); McClelland, Hedberg, Hedberg, Hagen, J. Am. Chem. Soc. 104, 4880 (1982) (PCl5).
# Distances of GFN2-xTB differ by a few hundredths.
@pytest.mark.parametrize(
    ("smiles", "in_line", "across"),
    [("Cl[P](Cl)(Cl)(Cl)Cl", 2.124, 2.020), ("FP(F)(F)(F)F", 1.577, 1.534)],
)
def test_a_bipyramid_has_two_long_bonds_and_three_short_ones(smiles, in_line, across):
    mol = start(full(smiles)).mol
    x = mol.GetConformer().GetPositions()
    (middle,) = (a.GetIdx() for a in mol.GetAtoms() if a.GetDegree() == 5)
    lengths = sorted(np.linalg.norm(np.delete(x, middle, 0) - x[middle], axis=1))
    assert lengths[:3] == pytest.approx([across] * 3, abs=0.04)
    assert lengths[3:] == pytest.approx([in_line] * 2, abs=0.04)


@pytest.mark.parametrize(
    ("smiles", "angles"),
    [
        ("Cl[Sb](Cl)(Cl)(Cl)Cl", {90: 6, 120: 3, 180: 1}),
        ("BrP(Br)(Br)(Br)Br", {90: 6, 120: 3, 180: 1}),
        ("F[Si-](F)(F)(F)F", {90: 6, 120: 3, 180: 1}),
        ("Cl[P-](Cl)(Cl)(Cl)(Cl)Cl", {90: 12, 180: 3}),
        ("F[Si-2](F)(F)(F)(F)F", {90: 12, 180: 3}),
        ("F[Xe](F)(F)F", {90: 4, 180: 2}),
        ("FI(F)(F)(F)F", {85: 8, 160: 2}),  # the apex pushes the base away
        ("I[I-]I", {180: 1}),
    ],
)
def test_electron_pairs_say_how_neighbours_stand(smiles, angles):
    mol = start(full(smiles)).mol
    middle = max(mol.GetAtoms(), key=lambda a: a.GetDegree())
    around = [a.GetIdx() for a in middle.GetNeighbors()]
    found = [angle(mol, i, middle.GetIdx(), j) for k, i in enumerate(around) for j in around[:k]]
    for ideal, count in angles.items():
        assert sum(abs(value - ideal) < 18 for value in found) == count
    assert len(found) == sum(angles.values())


@pytest.mark.parametrize(
    ("plain", "labelled"),
    [
        ("CCO", "[2H]OCC"),
        ("CCO", "[2H][C@H](C)O"),  # a centre by its label alone, of either hand
        ("CCO", "[2H][C@@H](C)O"),
        ("CC(C)O", "[13CH3][C@H](C)O"),
        ("C[C@H](N)C(=O)O", "C[C@]([2H])(N)C(=O)O"),
        ("C=C", "[2H]/C=C/[2H]"),
        ("C/C=C/C", "C/C=C/C([2H])([2H])[2H]"),
        ("CCC(=O)[O-].[Na+]", "CC[13C](=O)[O-].[Na+]"),
    ],
)
def test_a_label_changes_no_energy(plain, labelled):
    one, two = start(full(plain)).mol, start(full(labelled)).mol
    assert stereo_kept(two)
    energies = [single_point(mol).energy_hartree for mol in (one, two)]
    assert energies[1] == pytest.approx(energies[0], abs=1e-9)


@pytest.mark.parametrize(
    ("smiles", "words"),
    [
        ("C[Pd]C", "palladium (Pd)"),
        ("N[Pt](N)(Cl)Cl", "platinum (Pt)"),
        ("CC[U]", "uranium (U)"),
        ("Cl[Ti](Cl)(Cl)Cl", "titanium (Ti)"),
        ("[Am+3].[Cl-].[Cl-].[Cl-]", "americium (Am)"),
        ("CCN[Co]", "cobalt (Co)"),
        ("*CC", "dummy atom"),
        ("[Fe+2].c1cc[cH-]c1.c1cc[cH-]c1", "iron (Fe)"),
    ],
)
def test_what_nothing_can_make_is_refused_by_name(smiles, words):
    with pytest.raises(PropertyError, match="no geometry") as caught:
        start(full(smiles))
    assert words in str(caught.value)


@pytest.mark.parametrize("smiles", ["[Na+]", "[I-]", "[Zn+2]", "[He]"])
def test_one_atom_needs_no_field(smiles):
    made = start(full(smiles))
    assert made.method == "a single atom"
    assert (made.mol.GetConformer().GetPositions() == 0).all()


def test_no_atoms():
    with pytest.raises(PropertyError, match="no atoms"):
        start(Chem.Mol())


def test_rigid_ions_of_different_fields():
    """PF6- by GFN2-xTB, its cation by MMFF94, iodide by none."""
    for smiles, method in (
        ("C[N+](C)(C)C.F[P-](F)(F)(F)(F)F", "ETKDGv3, MMFF94, GFN2-xTB, fragments rigid"),
        ("C[N+](C)(C)C.[I-]", "ETKDGv3, MMFF94, fragments rigid"),
        ("C[N+](C)(C)C.F[B-](F)(F)F", "ETKDGv3, MMFF94, UFF, fragments rigid"),
    ):
        assert method_of(full(smiles)) == method
        assert 40 < held_together(smiles) < 120


@pytest.mark.parametrize(
    "smiles",
    [
        "CCOCCO",
        "C[C@H](F)CN",
        "F/C=C\\CO",
        "CC(=O)[O-].[Na+]",
        "C[NH3+].[Cl-]",
        "[2H]OCCO",
        "[H][H]",
    ],
)
def test_equal_molecules_get_equal_geometries(smiles):
    """In whatever order their atoms are, and with atom maps."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    first = start(mol).mol.GetConformer().GetPositions()
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(mol.GetNumAtoms()).tolist()
        other = Chem.RenumberAtoms(mol, order)
        for atom in other.GetAtoms():
            atom.SetAtomMapNum(atom.GetIdx() + 1)
        made = start(other).mol
        assert [atom.GetAtomMapNum() for atom in made.GetAtoms()] == [*range(1, len(order) + 1)]
        assert stereo_kept(made)
        heavy = [k for k, i in enumerate(order) if mol.GetAtomWithIdx(i).GetDegree() != 1]
        positions = made.GetConformer().GetPositions()
        np.testing.assert_allclose(positions[heavy], first[np.array(order)[heavy]], atol=1e-9)
        distances = [sorted(np.linalg.norm(x - x.mean(0), axis=1)) for x in (positions, first)]
        np.testing.assert_allclose(*distances, atol=1e-9)  # hydrogens of one atom may change places
