"""MMFF94 in OpenMM against RDKit's own, against differences of the energy and closed forms."""

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from molflowctl.errors import UserError
from molflowctl.properties import PropertyError
from molflowctl.properties.energies.dynamics import langevin
from molflowctl.properties.energies.forcefield import (
    build_system,
    energies_and_gradients,
    heavy_atoms,
    mmff_energy_kcal_mol,
    mmff_strain_kcal_mol,
    relax,
)
from molflowctl.properties.energies.mmff import ENERGIES, TERMS

RDKIT_TERMS = {
    "Bond": ["bond"],
    "Angle": ["angle", "linear_angle"],
    "StretchBend": ["stretch_bend"],
    "Oop": ["out_of_plane"],
    "Torsion": ["torsion"],
    "VdW": ["van_der_waals"],
    "Ele": ["coulomb"],
}

# Ions, small rings, cages, aromatics, S, P, halogens, nitro, azide, cumulenes, linear C#N and C#C.
VARIED = """
    O CCO CC#N CC#CC N#CC#N C=C=C O=C=O N=[N+]=[N-] CN=[N+]=[N-] C1CC1 C1=CC1 C1CCC1 C12CC1C2 C1CO1
    C1CN1 C1CS1 C12C3C4C1C5C2C3C45 C[NH3+] [NH3+]CC(=O)[O-] CC(=O)[O-] C[N+](C)(C)C c1c[nH]c[nH+]1
    NC(=[NH2+])N [OH-] OO ClCl N#N CSSC CS CS(C)=O CS(C)(=O)=O CS(=O)(=O)[O-] NS(=O)(=O)c1ccccc1
    C[N+](=O)[O-] O=[N+]([O-])c1ccccc1 COP(=O)(O)O CP C[Si](C)(C)C FC(F)(F)F CCl BrCCI c1ccccc1F
    c1ccccc1 c1ccsc1 c1ccoc1 c1cc[nH]c1 c1ncccc1Cl c1ccc2ccccc2c1 O=C1C=CC(=O)C=C1 CC(=O)NC C=CC=O
    O=C(O)c1ccccc1O OCC(O)CO C1CCCCC1 C1CC2CCC1C2 CC(C)(C)C FC=CF C[S+](C)C [O-][n+]1ccccc1 CON=C
"""
DRUG_LIKE = """
    CC(=O)Nc1ccc(S(N)(=O)=O)cc1 CN1CCN(CC1)C(=O)c1cc2ccccc2o1 CC(C)Cc1ccc(cc1)C(C)C(=O)O
    COc1ccc2nc(sc2c1)N1CCOCC1 O=C(NCc1ccccc1F)C1CCN(C1)c1ncccn1 N#Cc1ccc(OCC2CC2)cc1
    Cc1ccc(NC(=O)c2ccc(Cl)cc2)nc1 CC1CCCN(C1)S(=O)(=O)c1ccc(C#N)cc1 Cc1noc(C)c1CC(=O)NCc1ccco1
    O=C1CCC(=O)N1Cc1ccc(Br)cc1 CC(C)(C)NC(=O)c1ccccc1[N+](=O)[O-] COc1cc(CNC(=O)C2CC2)ccc1OC(F)F
    CN1C=NC2=C1C(=O)N(C(=O)N2C)C CC1(C)SC2C(NC(=O)Cc3ccccc3)C(=O)N2C1C(=O)[O-] OCC1OC(O)C(O)C(O)C1O
    C[NH+](C)CCOC(c1ccccc1)c1ccccc1 c1ccc(cc1)-c1nnn[n-]1 CSc1nc2ccccc2[nH]1 C#CCN(C)CC1CC1
    O=C(c1cccs1)N1CCC2(CC1)OCCO2
"""


def embed(smiles, seed=7, distort=0.0):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=seed) == 0, smiles
    return moved(mol, distort, seed)


def moved(mol, distort, seed=0):
    mol = Chem.Mol(mol)
    noise = np.random.default_rng(seed).normal(size=(mol.GetNumAtoms(), 3))
    conformer = mol.GetConformer()
    conformer.SetPositions(conformer.GetPositions() + distort * noise)
    return mol


def rdkit_terms(mol):
    """Energy of each of RDKit's terms, the others switched off."""
    values = []
    for wanted in RDKIT_TERMS:
        properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol)
        for name in RDKIT_TERMS:
            getattr(properties, f"SetMMFF{name}Term")(name == wanted)
        field = rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, properties)
        values.append(field.CalcEnergy())
    return values


def rdkit_gradient(mol):
    properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol)
    field = rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, properties)
    return np.array(field.CalcGrad()).reshape(-1, 3)


def agrees_with_rdkit(mols):
    """Every term's energy within 1e-3 kcal/mol, and the gradient OpenMM derives by itself."""
    ours = energies_and_gradients(mols)
    assert ours.errors == [None] * len(mols)
    for row, mol in enumerate(mols):
        terms = dict(zip(ENERGIES, ours.terms_kcal_mol[row], strict=True))
        summed = [sum(terms[name] for name in names) for names in RDKIT_TERMS.values()]
        assert summed == pytest.approx(rdkit_terms(mol), abs=1e-3)
        gradient = rdkit_gradient(mol)
        scale = 1 + np.abs(gradient).max()
        assert ours.gradients_kcal_mol_angstrom[row] == pytest.approx(gradient, abs=1e-4 * scale)
        assert ours.energies_kcal_mol[row] == pytest.approx(sum(summed), abs=1e-9)


@pytest.fixture(scope="module")
def varied():
    return [embed(smiles, distort=0.05) for smiles in VARIED.split()]


def test_agrees_with_rdkit_on_two_hundred(varied):
    larger = [embed(s, seed, 0.05) for s in DRUG_LIKE.split() for seed in range(4)]
    pieces = [embed(smiles, seed=8, distort=0.1) for smiles in VARIED.split()]
    mols = varied + larger + pieces
    assert len(mols) >= 200
    agrees_with_rdkit(mols)


def test_openmm_energy_is_the_sum_over_terms_and_molecules(varied):
    """OpenMM's energy of the whole System, by kind of term, is that of the tables."""
    import openmm

    system = build_system(varied)
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    positions = np.concatenate([mol.GetConformer().GetPositions() for mol in varied])
    context.setPositions(positions / 10)
    ours = energies_and_gradients(varied)
    total = dict(zip(ENERGIES, ours.terms_kcal_mol.sum(0), strict=True))
    total["pair"] = total.pop("van_der_waals") + total.pop("coulomb")
    for group, name in enumerate(TERMS):
        energy = context.getState(energy=True, groups={group}).getPotentialEnergy()
        assert energy._value / 4.184 == pytest.approx(total[name], abs=1e-6)
    assert ours.energies_kcal_mol == pytest.approx([sum(rdkit_terms(m)) for m in varied], abs=1e-3)


@pytest.mark.parametrize("smiles", ["CC(=O)NC", "CC#CC#N", "C1CC1C=O", "c1ccsc1", "C[N+](=O)[O-]"])
def test_gradient_by_finite_differences(smiles):
    mol = embed(smiles, distort=0.15)
    gradient = energies_and_gradients([mol]).gradients_kcal_mol_angstrom[0]
    rng = np.random.default_rng(1)
    directions = rng.normal(size=(6, *gradient.shape))
    step = 1e-3  # angstrom; five-point rule, error of fourth order
    shifted = []
    for direction in directions:
        for k in (-2, -1, 1, 2):
            shifted.append(Chem.Mol(mol))
            positions = mol.GetConformer().GetPositions() + k * step * direction
            shifted[-1].GetConformer().SetPositions(positions)
    e = energies_and_gradients(shifted).energies_kcal_mol.reshape(-1, 4).T
    slopes = (8 * (e[2] - e[1]) - (e[3] - e[0])) / (12 * step)
    expected = (gradient * directions).sum((1, 2))
    assert slopes == pytest.approx(expected, abs=1e-4 * np.linalg.norm(gradient))


def test_gradient_of_a_straight_angle():
    """At 180 degrees the angle itself has no derivative, but the energy has."""
    mol = relax([embed("CC#N")], max_gradient=1e-4)[0].mol
    ours = energies_and_gradients([mol]).gradients_kcal_mol_angstrom[0]
    assert ours == pytest.approx(rdkit_gradient(mol), abs=1e-6)


def test_no_force_between_molecules():
    """On top of each other or far apart, alone or in a batch: the same energies and forces."""
    mols = [embed(s, distort=0.05) for s in ("CCO", "C[NH3+]", "CC(=O)[O-]", "c1ccccc1")]
    together = energies_and_gradients(mols)
    for row, mol in enumerate(mols):
        alone = energies_and_gradients([mol])
        assert together.energies_kcal_mol[row] == pytest.approx(alone.energies_kcal_mol[0])
        gradient = together.gradients_kcal_mol_angstrom[row]
        assert gradient == pytest.approx(alone.gradients_kcal_mol_angstrom[0], abs=1e-9)
        assert gradient.sum(0) == pytest.approx(np.zeros(3), abs=1e-8)  # nothing pulls from outside
    far = Chem.Mol(mols[1])
    far.GetConformer().SetPositions(far.GetConformer().GetPositions() + 1e4)
    moved_away = energies_and_gradients([mols[0], far, *mols[2:]])
    assert moved_away.energies_kcal_mol == pytest.approx(together.energies_kcal_mol, abs=1e-6)


def complex_of(first, second, apart):
    """Two fragments in one molecule, centroids `apart` angstrom from each other."""
    one, other = embed(first), embed(second)
    for k, mol in enumerate((one, other)):
        positions = mol.GetConformer().GetPositions()
        mol.GetConformer().SetPositions(positions - positions.mean(0) + [k * apart, 0, 0])
    both = Chem.CombineMols(one, other)
    Chem.SanitizeMol(both)
    return both


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("CC(=O)[O-]", "C[NH3+]"),
        ("[Na+]", "[Cl-]"),
        ("c1ccccc1C(=O)[O-]", "[K+]"),
        ("O", "CC(=O)NC"),
        ("c1ccccc1", "c1ccccc1"),
    ],
)
def test_a_complex_counts_what_is_between_its_fragments(first, second):
    """By RDKit's own with these terms on, at every distance, batched and one by one."""
    mols = [complex_of(first, second, apart) for apart in (3.6, 5.0, 12.0, 30.0)]
    ours = energies_and_gradients(mols)
    between = []
    for row, mol in enumerate(mols):
        properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol)
        without, field = (
            rdForceFieldHelpers.MMFFGetMoleculeForceField(
                mol, properties, ignoreInterfragInteractions=ignored
            )
            for ignored in (True, False)
        )
        assert ours.energies_kcal_mol[row] == pytest.approx(field.CalcEnergy(), rel=1e-9, abs=1e-3)
        assert mmff_energy_kcal_mol(mol) == pytest.approx(field.CalcEnergy(), abs=1e-6)
        gradient = np.array(field.CalcGrad()).reshape(-1, 3)
        assert ours.gradients_kcal_mol_angstrom[row] == pytest.approx(gradient, rel=1e-6, abs=1e-4)
        between.append(field.CalcEnergy() - without.CalcEnergy())
    charges = [Chem.GetFormalCharge(Chem.MolFromSmiles(s)) for s in (first, second)]
    if any(charges):  # 332.0716 q q'/r of two points, at 30 angstrom nearly
        assert between[-1] == pytest.approx(332.0716 * charges[0] * charges[1] / 30, rel=0.15)


def test_the_strain_of_a_complex_is_that_of_the_whole():
    """Two ions at 5 angstrom fall onto each other: at rest each, and yet far from the minimum."""
    mol = complex_of("[Na+]", "[Cl-]", 5.0)
    assert mmff_strain_kcal_mol(mol) > 30
    (result,) = relax([mol], max_gradient=1e-4)
    assert result.converged
    assert result.energy_drop_kcal_mol == pytest.approx(mmff_strain_kcal_mol(mol), abs=1e-3)


def test_relax_finds_rdkits_minimum():
    smiles = ["CCO", "CC#N", "c1ccsc1", "CC(=O)NC", "C1CC1C=O", "[NH3+]CC(=O)[O-]"]
    mols = [embed(s, distort=0.05) for s in smiles]
    before = [mol.GetConformer().GetPositions().copy() for mol in mols]
    results = relax(mols, max_gradient=1e-3, batch=4)
    for mol, start, result in zip(mols, before, results, strict=True):
        assert result.error is None
        assert result.converged
        assert np.abs(rdkit_gradient(result.mol)).max() <= 1.1e-3
        assert (mol.GetConformer().GetPositions() == start).all()
        assert result.energy_kcal_mol == pytest.approx(mmff_energy_kcal_mol(result.mol), abs=1e-6)
        drop = mmff_energy_kcal_mol(mol) - mmff_energy_kcal_mol(result.mol)
        assert result.energy_drop_kcal_mol == pytest.approx(drop, abs=1e-6)
        assert result.energy_drop_kcal_mol == pytest.approx(mmff_strain_kcal_mol(mol), abs=0.01)
        # In place: the centroid stays, as no force moves it.
        assert result.mol.GetConformer().GetPositions().mean(0) == pytest.approx(
            start.mean(0), abs=1e-6
        )


def test_relax_does_not_depend_on_company():
    mols = [embed(s, distort=0.05) for s in ("CCO", "CC(=O)NC", "OCC(O)CO", "CC#N")]
    together = relax(mols)
    for mol, result in zip(mols, together, strict=True):
        alone = relax([mol])[0]
        assert alone.energy_kcal_mol == pytest.approx(result.energy_kcal_mol, abs=1e-3)


def test_fixed_atoms_stay():
    mol = embed("OCC(N)C=O", distort=0.05)
    result = relax([mol], fixed=heavy_atoms, max_gradient=1e-3)[0]
    heavy = heavy_atoms(mol)
    hydrogens = [i for i in range(mol.GetNumAtoms()) if i not in heavy]
    start, end = mol.GetConformer().GetPositions(), result.mol.GetConformer().GetPositions()
    assert result.converged
    assert end[heavy] == pytest.approx(start[heavy], abs=1e-12)
    gradient = np.abs(rdkit_gradient(result.mol))
    assert gradient[hydrogens].max() <= 1.1e-3
    assert gradient[heavy].max() > 1
    assert 0 < result.energy_drop_kcal_mol < relax([mol])[0].energy_drop_kcal_mol


def flawed(flaw):
    mol = embed("CCO")
    x = mol.GetConformer().GetPositions()
    if flaw == "clash":
        x[1] = x[0]
    elif flaw == "nan":
        x[2, 1] = np.nan
    mol.GetConformer().SetPositions(x)
    return mol


FAILURES = {
    "no atoms": Chem.Mol(),
    "no coordinates": Chem.AddHs(Chem.MolFromSmiles("C")),
    "hydrogens are missing": Chem.RemoveHs(embed("CCO")),
    "not a number": flawed("nan"),
    "two atoms are closer": flawed("clash"),
    "no parameters": embed("CB(O)O"),
}


def test_one_bad_molecule_costs_itself_only():
    good = embed("CC(=O)NC", distort=0.05)
    batch = [good, *FAILURES.values(), good]
    energies = energies_and_gradients(batch)
    relaxed = relax(batch)
    sampled = langevin(batch, duration_ps=0.01, equilibration_ps=0.0, frames=2)
    alone = relax([good])[0]
    for row in (0, len(batch) - 1):
        assert energies.errors[row] is None
        assert energies.energies_kcal_mol[row] == pytest.approx(mmff_energy_kcal_mol(good))
        assert relaxed[row].energy_kcal_mol == pytest.approx(alone.energy_kcal_mol, abs=1e-3)
        assert sampled[row].mol.GetNumConformers() == 2
    for row, reason in enumerate(FAILURES, start=1):
        assert reason in energies.errors[row]
        assert np.isnan(energies.energies_kcal_mol[row])
        assert np.isnan(energies.gradients_kcal_mol_angstrom[row]).all()
        assert reason in relaxed[row].error
        assert np.isnan(relaxed[row].energy_kcal_mol)
        assert not relaxed[row].converged
        assert reason in sampled[row].error
        assert sampled[row].mol.GetNumConformers() == 0
        for compute in (mmff_energy_kcal_mol, mmff_strain_kcal_mol):
            with pytest.raises(PropertyError, match=reason):
                compute(batch[row])


def test_unfinished_is_said():
    result = relax([embed("OCC(O)CO", distort=0.1)], max_evaluations=3)[0]
    assert result.error is None
    assert not result.converged
    assert result.evaluations == 3


def test_unknown_platform():
    with pytest.raises(UserError, match="platform Abacus does not work here"):
        energies_and_gradients([embed("CCO")], platform="Abacus")


def test_empty_batch():
    assert relax([]) == []
    assert len(energies_and_gradients([]).energies_kcal_mol) == 0


@pytest.mark.parametrize("temperature", [300.0, 1200.0])
def test_langevin_samples_the_boltzmann_distribution(temperature):
    """A diatomic in MMFF94 is a radial potential V(r): <V> = int V r^2 e^-V/kT / int r^2 e^-V/kT.

    Near kT/2, as its one mode is nearly harmonic; from the quartic of the docstring of `mmff`.
    """
    mol = relax([embed("N#N")])[0].mol
    properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol)
    _, k, r0 = properties.GetMMFFBondStretchParams(mol, 0, 1)
    kt = 8.31446261815324 / 4184 * temperature
    d = np.linspace(-0.3, 0.3, 20001)
    potential = 143.9325 / 2 * k * d**2 * (1 - 2 * d + 7 / 3 * d**2)
    weight = (r0 + d) ** 2 * np.exp(-potential / kt)
    expected = (potential * weight).sum() / weight.sum()
    assert expected == pytest.approx(kt / 2, rel=0.1)

    runs = langevin(
        [mol] * 200,
        temperature_K=temperature,
        duration_ps=2.0,
        equilibration_ps=1.0,
        frames=20,
        friction_per_ps=20.0,
        seed=3,
    )
    means = np.array([run.energies_kcal_mol.mean() for run in runs])
    error = means.std(ddof=1) / np.sqrt(len(means))
    assert error < 0.05 * expected
    assert means.mean() == pytest.approx(expected, abs=4 * error)


def test_langevin_is_seeded_and_keeps_fixed_atoms():
    mols = [relax([embed(s)])[0].mol for s in ("CCO", "CC#N")]
    settings = {"duration_ps": 0.05, "equilibration_ps": 0.0, "frames": 5}
    first, again, other = (langevin(mols, seed=seed, **settings) for seed in (0, 0, 1))
    for a, b, c in zip(first, again, other, strict=True):
        assert len(a.energies_kcal_mol) == a.mol.GetNumConformers() == 5
        assert (a.energies_kcal_mol == b.energies_kcal_mol).all()
        assert (a.energies_kcal_mol != c.energies_kcal_mol).all()
        last = Chem.Mol(mols[0] if a is first[0] else mols[1])
        last.GetConformer().SetPositions(a.mol.GetConformer(4).GetPositions())
        assert mmff_energy_kcal_mol(last) == pytest.approx(a.energies_kcal_mol[-1], abs=1e-6)
    held = langevin(mols, fixed=heavy_atoms, **settings)[0].mol
    frames = np.array([c.GetPositions() for c in held.GetConformers()])
    heavy = heavy_atoms(held)
    start = mols[0].GetConformer().GetPositions()
    assert frames[:, heavy] == pytest.approx(np.broadcast_to(start[heavy], (5, 3, 3)), abs=1e-6)
    assert np.abs(frames[:, 3:] - start[3:]).max() > 1e-2


def test_a_molecule_that_runs_away_costs_itself_only():
    calm = relax([embed("CCO")])[0].mol
    wild = embed("CCO")
    positions = wild.GetConformer().GetPositions()
    positions[1] = positions[0] + [0.0, 0.0, 0.45]  # thousands of kcal/mol
    positions[3] = positions[1] + [0.0, 0.0, 0.45]
    wild.GetConformer().SetPositions(positions)
    runs = langevin([calm, wild, calm], duration_ps=0.2, frames=2, step_ps=0.001)
    assert "ran away" in runs[1].error
    for run in (runs[0], runs[2]):
        assert run.error is None
        assert run.mol.GetNumConformers() == 2
        assert (run.energies_kcal_mol < 1e3).all()


def test_langevin_refuses_nonsense():
    with pytest.raises(UserError, match="positive temperature"):
        langevin([embed("CCO")], temperature_K=0.0)
