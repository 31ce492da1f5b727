import dataclasses
import io
import re
import sys
import time

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem
from rdkit.Geometry import Point3D
from scipy.spatial.transform import Rotation

from molflowctl.chem.spin import declare
from molflowctl.chem.units import BOHR_TO_ANGSTROM, HARTREE_TO_EV, HARTREE_TO_KCAL_MOL
from molflowctl.compute.parallel import WorkerPool
from molflowctl.errors import UserError
from molflowctl.properties import PropertyError, get, names
from molflowctl.properties.charges import CHARGE, attach_partial_charges, partial_charges
from molflowctl.properties.energies.xtb import MAX_ATOMS, relax, single_point
from molflowctl.properties.energies.xtb_backends import METHODS

BACKENDS = ["tblite", "xtb-python"]
VARIED = [  # drug-like pieces, heavy elements, ions, radicals
    "O",
    "C=O",
    "CC#N",
    "OCC(N)C=O",
    "[NH4+]",
    "CC(=O)[O-]",
    "[NH3+]CC(=O)[O-]",
    "C[CH2]",
    "[O][O]",
    "c1ccsc1",
    "C[Si](C)(C)Cl",
    "CP(=O)(O)O",
    "OB(O)c1ccccc1",
    "CBr",
    "C[Hg]C",
]
SMILES = ["O", "C=O", "CC#N", "OCC(N)C=O", "[NH4+]", "CC(=O)[O-]", "C[CH2]", "[O][O]", "c1ccsc1"]


def embed(smiles, distort=0.0, seed=0):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, randomSeed=7)
    noise = np.random.default_rng(seed).normal(size=(mol.GetNumAtoms(), 3))
    return at(mol, mol.GetConformer().GetPositions() + distort * noise)


def at(mol, positions):
    moved = Chem.Mol(mol)
    for index, position in enumerate(np.asarray(positions, dtype=float)):
        moved.GetConformer().SetAtomPosition(index, Point3D(*position))
    return moved


def geometry(smiles, positions):
    mol = Chem.MolFromSmiles(smiles, sanitize=False)
    mol.UpdatePropertyCache(strict=False)
    mol.AddConformer(Chem.Conformer(mol.GetNumAtoms()))
    return at(mol, positions)


def positions_of(mol):
    return mol.GetConformer().GetPositions()


WATER = geometry("O([H])[H]", [[0, 0, 0.1173], [0, 0.7572, -0.4692], [0, -0.7572, -0.4692]])


def caffeine():
    """Geometry and energy from the tests of xtb-python 22.1 (`test_gfn2_xtb_0d`), in bohr."""
    smiles = "C([H])([H])([H])N1C([H])=NC2=C1C(=O)N(C([H])([H])[H])C(=O)N2C([H])([H])[H]"
    bohr = [
        [2.02799738646442, 0.09231312124713, -0.14310895950963],
        [1.38702118184179, 2.05575746325296, -0.14178615122154],
        [1.34622199478497, -0.86356704498496, 1.55590600570783],
        [1.34624089204623, -0.86133716815647, -1.84340893849267],
        [4.75011007621000, 0.02373496014051, -0.14324124033844],
        [6.33434307654413, 2.07098865582721, -0.14235306905930],
        [5.65596919189118, 4.00172183859480, -0.14131371969009],
        [8.72860718071825, 1.38002919517619, -0.14265542523943],
        [8.65318821103610, -1.19324866489847, -0.14231527453678],
        [6.23857175648671, -2.08353643730276, -0.14218299370797],
        [5.63266886875962, -4.69950321056008, -0.13940509630299],
        [3.44931709749015, -5.48092386085491, -0.14318454855466],
        [7.77508917214346, -6.24427872938674, -0.13107140408805],
        [7.40891694074004, -8.95905928176407, -0.11636933482904],
        [5.41408424778406, -9.49239668625902, -0.11022772492007],
        [8.31919801555568, -9.74947502841788, 1.56539243085954],
        [8.31511620712388, -9.76854236502758, -1.79108242206824],
        [10.30229550927022, -5.39739796609292, -0.13672168520430],
        [12.07410272485492, -6.91573621641911, -0.13666499342053],
        [10.70038521493902, -2.79078533715849, -0.14148379504141],
        [13.24597858727017, -1.76969072232377, -0.14218299370797],
        [14.67430918222276, -3.26230980007732, -0.14344911021228],
        [13.50897177220290, -0.60815166181684, 1.54898960808727],
        [13.50780014200488, -0.60614855212345, -1.83214617078268],
    ]
    return geometry(smiles, np.array(bohr) * BOHR_TO_ANGSTROM)


def test_caffeine_published_energy():
    point = single_point(caffeine())
    assert point.error is None
    assert point.energy_hartree == pytest.approx(-42.14746312757416, abs=1e-6)


def test_water():
    # GFN2-xTB's own minimum is at -5.070544 hartree (xtb's documentation, geometry optimisation);
    # its dipole there is 2.2 D, oxygen negative.
    result = relax(WATER, max_gradient=1e-5)
    point = single_point(result.mol)
    assert point.energy_hartree == pytest.approx(-5.070544, abs=2e-6)
    assert np.linalg.norm(point.dipole_debye) == pytest.approx(2.2, abs=0.1)
    assert point.dipole_debye[2] < -2  # from the oxygen (z > 0) towards the hydrogens


@pytest.mark.parametrize("distort", [0.02, 0.1])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("smiles", VARIED)
def test_the_backends_agree(smiles, method, distort):
    pytest.importorskip("xtb.interface")
    mol = embed(smiles, distort)
    one, other = (single_point(mol, method, backend) for backend in BACKENDS)
    assert one.error is other.error is None
    assert one.energy_hartree == pytest.approx(other.energy_hartree, abs=1e-6)
    assert one.gap_eV == pytest.approx(other.gap_eV, abs=1e-4)
    assert one.dipole_debye == pytest.approx(other.dipole_debye, abs=1e-3)
    assert one.gradient_hartree_per_bohr == pytest.approx(other.gradient_hartree_per_bohr, abs=1e-5)
    assert one.charges_e == pytest.approx(other.charges_e, abs=1e-4)


def test_methods_differ():
    one, other = (single_point(WATER, method).energy_hartree for method in METHODS)
    assert abs(one - other) > 0.1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("smiles", ["CC(=O)[O-]", "[NH4+]", "c1ccsc1", "C[CH2]"])
def test_partial_charges_sum_to_the_charge(smiles, backend):
    mol = embed(smiles)
    charges = partial_charges(mol, backend=backend)
    assert charges.sum() == pytest.approx(Chem.GetFormalCharge(mol), abs=1e-6)


def test_partial_charges_have_their_sign_and_survive_an_sdf():
    charges = partial_charges(WATER)
    assert charges[0] < -0.3 < 0.1 < charges[1]
    assert charges[1] == pytest.approx(charges[2], abs=1e-6)
    assert get("xtb-min-charge-e")(WATER)["xtb_min_charge_e"] == charges[0]
    assert get("xtb_max_charge_e")(WATER)["xtb_max_charge_e"] == charges[1:].max()
    block = io.StringIO()
    with Chem.SDWriter(block) as writer:
        writer.write(attach_partial_charges(WATER))
    supplier = Chem.SDMolSupplier()
    supplier.SetData(block.getvalue(), removeHs=False)
    read = [atom.GetDoubleProp(CHARGE) for atom in next(supplier).GetAtoms()]
    assert read == pytest.approx(charges, abs=1e-4)
    assert not WATER.GetAtomWithIdx(0).HasProp(CHARGE)
    with pytest.raises(PropertyError, match="closer than"):
        attach_partial_charges(clash())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("smiles", SMILES)
def test_gradient_by_finite_differences(smiles, method, backend):
    """Relative to its length, along a random direction and along the gradient itself."""
    mol = embed(smiles, 0.1)
    gradient = single_point(mol, method, backend).gradient_hartree_per_bohr
    scale = np.linalg.norm(gradient)
    step = 1e-3  # bohr; five-point rule, error of fourth order
    for direction in (np.random.default_rng(1).normal(size=gradient.shape), gradient):
        unit = direction / np.linalg.norm(direction)

        def energy(k, unit=unit):
            shifted = positions_of(mol) + k * step * BOHR_TO_ANGSTROM * unit
            return single_point(at(mol, shifted), method, backend).energy_hartree

        slope = (8 * (energy(1) - energy(-1)) - (energy(2) - energy(-2))) / (12 * step)
        assert slope == pytest.approx((gradient * unit).sum(), abs=1e-4 * scale)


@pytest.mark.parametrize("smiles", SMILES)
def test_rotation_and_translation(smiles):
    mol = embed(smiles, 0.05)
    turn = Rotation.from_rotvec([0.3, -1.1, 0.7])
    moved = at(mol, turn.apply(positions_of(mol)) + np.array([3.0, -2.0, 5.0]))
    point, other = single_point(mol), single_point(moved)
    assert other.energy_hartree == pytest.approx(point.energy_hartree, abs=1e-7)
    assert other.gap_eV == pytest.approx(point.gap_eV, abs=1e-4)
    # A vector, and (about the centre of mass) for ions as well.
    assert other.dipole_debye == pytest.approx(turn.apply(point.dipole_debye), abs=1e-3)
    turned = turn.apply(point.gradient_hartree_per_bohr)
    assert other.gradient_hartree_per_bohr == pytest.approx(turned, abs=1e-5)


def test_one_calculation_is_shared(monkeypatch):
    from tblite.interface import Calculator

    calls = []
    original = Calculator.singlepoint
    monkeypatch.setattr(Calculator, "singlepoint", lambda *args: calls.append(1) or original(*args))
    mol = embed("CO", 0.03, seed=99)
    for name in ("xtb_energy_hartree", "homo_lumo_gap_eV", "dipole_debye"):
        assert np.isfinite(get(name)(mol)[name])
    assert len(calls) == 1


def test_charge_comes_from_the_molecule():
    """Taking an electron from water costs 12.6 eV by experiment; GFN2 is off by a few."""
    cation = single_point(geometry("[O+]([H])[H] |^1:0|", positions_of(WATER)))
    assert cation.error is None
    neutral = single_point(WATER).energy_hartree
    assert 8 < (cation.energy_hartree - neutral) * HARTREE_TO_EV < 25


def test_spin_comes_from_the_molecule():
    """Two electrons in O2's two degenerate orbitals: as a triplet the next gap is a wide one."""
    oxygen = [[0, 0, 0], [0, 0, 1.21]]
    assert single_point(geometry("O=O", oxygen)).gap_eV == pytest.approx(0, abs=1e-6)
    drawn = geometry("[O][O] |^1:0,1|", oxygen)  # two dots are no triplet: that has to be said
    assert single_point(drawn).gap_eV == pytest.approx(0, abs=1e-6)
    declare(drawn, 3)
    assert single_point(drawn).gap_eV > 10


def clash():
    x = positions_of(WATER)
    return at(WATER, [x[0], x[1], x[1]])


def flat():
    mol = Chem.AddHs(Chem.MolFromSmiles("CCO"))
    AllChem.Compute2DCoords(mol)
    return mol


def crowd(atoms):
    grid = np.stack(np.unravel_index(np.arange(atoms), (20, 20, 20)), 1)
    return geometry(".".join(["[He]"] * atoms), 3.0 * grid)


def unbound():
    """A row of atoms too far apart to bond: their charges swing for ever."""
    return geometry("[C].[O].[C].[O].[C].[O]", [[3.0 * k, 0, 0] for k in range(6)])


def hydroxyl():
    mol = geometry("[O][H]", [[0, 0, 0], [0, 0, 0.97]])
    declare(mol, 1)
    return mol


FAILURES = {
    "two atoms are closer than": clash(),
    "no atoms": Chem.Mol(),
    "no coordinates": Chem.AddHs(Chem.MolFromSmiles("C")),
    "two-dimensional": flat(),
    "hydrogens are missing": Chem.RemoveHs(embed("CCO")),
    "not a number": at(WATER, [[0, 0, np.nan], [0, 0, 1], [0, 1, 0]]),
    "no parameters for the element U": geometry("[U]", [[0, 0, 0]]),
    "no parameters for the element Fr": geometry("[Fr+]", [[0, 0, 0]]),
    "no parameters for the element *": geometry("*", [[0, 0, 0]]),
    "atoms are too many for": crowd(2001),
    "did not converge": unbound(),
    "a multiplicity of 1 does not go with 9 electrons": hydroxyl(),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("reason", FAILURES)
def test_failure_is_nan_with_a_reason(reason, backend, capfd):
    mol = FAILURES[reason]
    point = single_point(mol, backend=backend)
    assert reason in point.error
    assert np.isnan(point.energy_hartree)
    assert np.isnan(point.gap_eV)
    assert np.isnan(point.dipole_debye).all()
    assert point.gradient_hartree_per_bohr.shape == (mol.GetNumAtoms(), 3)
    assert np.isnan(point.gradient_hartree_per_bohr).all()
    assert point.charges_e.shape == (mol.GetNumAtoms(),)
    assert np.isnan(point.charges_e).all()
    relaxation = relax(mol, backend=backend)
    assert reason in relaxation.error
    assert np.isnan(relaxation.energy_drop_kcal_mol)
    assert np.isnan(relaxation.rmsd_angstrom)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("reason", FAILURES)
def test_failure_of_every_property_is_that_reason(reason):
    for name in names():
        if get(name).engine.startswith("xtb"):
            with pytest.raises(PropertyError, match=re.escape(reason)):
                get(name)(FAILURES[reason])


@pytest.mark.parametrize("backend", BACKENDS)
def test_metals_up_to_radon(backend):
    mercury = single_point(embed("C[Hg]C"), backend=backend)
    zinc = single_point(geometry("[Zn+2]", [[0, 0, 0]]), backend=backend)
    radon = single_point(geometry("[Rn]", [[0, 0, 0]]), backend=backend)
    platinum = single_point(geometry("[Pt]", [[0, 0, 0]]), backend=backend)
    for point in (mercury, zinc, radon, platinum):
        assert point.error is None
        assert np.isfinite(point.energy_hartree)
    assert np.linalg.norm(zinc.dipole_debye) == pytest.approx(0, abs=1e-9)  # about its own centre


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_worker_holds_it_to_one_thread_and_ends_it_in_time(backend):
    """The limit is the kernel's timer, which native code cannot ignore."""

    def threads(mol):
        from pathlib import Path

        from molflowctl.properties.energies.xtb import single_point

        count = len(list(Path("/proc/self/task").iterdir()))
        point = single_point(mol, backend=backend)
        return point.energy_hartree, len(list(Path("/proc/self/task").iterdir())) - count

    with WorkerPool(1) as pool:
        (first,) = pool.map(threads, [embed("CCO")], timeout=30.0)
        assert first.error is None
        assert first.value[1] == 0
        start = time.monotonic()
        (late,) = pool.map(threads, [crowd(MAX_ATOMS[backend])], timeout=0.3)
        assert time.monotonic() - start < 5
        (fine,) = pool.map(threads, [WATER], timeout=30.0)
    assert late.error == "timed out after 0.3 s"
    assert fine.value[0] == pytest.approx(
        single_point(WATER, backend=backend).energy_hartree, abs=1e-6
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("smiles", "possible"), [("[C+4]", True), ("[C+6]", False)])
def test_more_charge_than_electrons_is_no_energy(smiles, possible, backend):
    """tblite gives C(6+), which has fewer than no electrons, the energy of C(4+)."""
    found = single_point(geometry(smiles, [[0, 0, 0]]), backend=backend)
    assert np.isfinite(found.energy_hartree) == possible
    assert (found.error is None) == possible


def test_more_electrons_than_orbitals_is_no_energy():
    """Hydrogen has one orbital of GFN2-xTB, oxygen four: their densities would not fit."""
    for smiles in ("[H-3]", "[O-3]", "[Na-9]"):
        assert "is beyond" in single_point(geometry(smiles, [[0, 0, 0]])).error
    for smiles in ("[H-]", "[O-2]", "[Br-]", "[Na-]"):
        assert single_point(geometry(smiles, [[0, 0, 0]])).error is None


def test_no_empty_orbital_is_no_gap():
    hydride = geometry("[H-]", [[0, 0, 0]])
    assert single_point(hydride).error is None
    assert np.isnan(single_point(hydride).gap_eV)


def test_quiet(capfd):
    single_point(embed("CCO", 0.02, seed=5))
    assert capfd.readouterr() == ("", "")


def test_unknown_method_or_backend():
    with pytest.raises(ValueError, match="unknown method 'PM6': there are GFN2-xTB"):
        single_point(WATER, "PM6")
    with pytest.raises(ValueError, match="unknown backend 'dftb': there are tblite, xtb-python"):
        relax(WATER, backend="dftb")


def test_a_backend_that_is_not_installed_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "xtb.interface", None)
    with pytest.raises(UserError, match=r'pip install "molflowctl\[xtb\]"'):
        single_point(embed("CO", 0.01, seed=41), backend="xtb-python")


def test_properties_are_those_of_the_calculation():
    mol = embed("OCC(N)C=O", 0.05)
    for prefix, method, backend in (
        ("gfn1", "GFN1-xTB", "tblite"),
        ("xtb_python", "GFN2-xTB", "xtb-python"),
    ):
        point = single_point(mol, method, backend)
        dipole = np.linalg.norm(point.dipole_debye)
        for name, value in (("energy", point.energy_hartree), ("gap", point.gap_eV)):
            assert list(get(f"{prefix}_{name}")(mol).values()) == [value]
        assert list(get(f"{prefix}_dipole")(mol).values()) == [dipole]
    energy = get("xtb_energy")(mol)["xtb_energy_hartree"]
    per_atom = get("xtb-energy-per-atom")(mol)["xtb_energy_per_atom_hartree"]
    assert per_atom == pytest.approx(energy / mol.GetNumAtoms(), rel=1e-12)
    result = relax(mol)
    assert get("relax_energy")(mol) == {"relax_energy_kcal_mol": result.energy_drop_kcal_mol}
    assert get("relax_rmsd")(mol) == {"relax_rmsd_angstrom": result.rmsd_angstrom}


def test_a_relaxation_that_stops_early_is_no_value(monkeypatch):
    from molflowctl.properties.energies import xtb_properties

    short = dataclasses.replace(relax(WATER), converged=False)
    monkeypatch.setattr(xtb_properties, "relax", lambda mol: short)
    with pytest.raises(PropertyError, match="did not reach a minimum"):
        get("relax_rmsd")(WATER)


@pytest.mark.parametrize("smiles", SMILES)
def test_relax_reaches_a_minimum(smiles):
    mol = embed(smiles, 0.1)
    before = positions_of(mol).copy()
    result = relax(mol)
    after = single_point(result.mol)
    assert result.converged
    assert np.abs(after.gradient_hartree_per_bohr).max() <= 1.1e-3
    drop = single_point(mol).energy_hartree - after.energy_hartree
    assert result.energy_drop_kcal_mol == pytest.approx(drop * HARTREE_TO_KCAL_MOL, abs=1e-2)
    assert result.energy_drop_kcal_mol > 1
    assert (positions_of(mol) == before).all()


def test_relax_rmsd_is_of_heavy_atoms_superposed():
    minimum = relax(embed("CCO"), max_gradient=1e-4).mol
    moved = positions_of(minimum).copy()
    moved[0] += [0.02, 0.0, 0.0]
    moved[4] += [0.0, 0.0, 0.03]  # a hydrogen: does not count itself
    result = relax(at(minimum, moved), max_gradient=1e-4)
    heavy = slice(0, 3)
    a = positions_of(result.mol)[heavy]
    b = moved[heavy]
    _, rssd = Rotation.align_vectors(a - a.mean(0), b - b.mean(0))
    assert result.rmsd_angstrom == pytest.approx(rssd / np.sqrt(3), abs=1e-6)
    assert 0 < result.rmsd_angstrom < 0.05


def test_relax_stops_at_the_limit():
    result = relax(embed("OCC(N)C=O", 0.1), max_evaluations=3)
    assert result.error is None
    assert not result.converged
    assert result.evaluations <= 30  # one line search may be under way
    assert result.energy_drop_kcal_mol > 0
