"""`score` of salts, of open stereo and of elements that MMFF94 does not know: nothing is silent."""

import itertools

import numpy as np
import pytest
from rdkit import Chem

from molflowctl.chem.open_stereo import isomers_of
from molflowctl.chem.salts import REFUSED
from molflowctl.chem.units import HARTREE_TO_KCAL_MOL
from molflowctl.errors import UserError
from molflowctl.io.library import read_molecules, sdf_record
from molflowctl.properties import get
from molflowctl.properties.geometries.starting import start
from molflowctl.tasks.scoring.score import score_library
from molflowctl.tasks.scoring.settings import ScoreConfig

ENERGY = ("xtb_energy_hartree",)
# Salts and mixtures whose energies were hundreds to thousands of kcal/mol too high, with parents.
SALTS = """\
C[NH+](C)CCC=C1c2ccccc2CCc2ccccc21.[Cl-] amitriptyline_HCl
COc1ccc2[nH]cc(CC[NH+](C)C)c2c1.[Cl-] meodmt
O=C([O-])c1ccccc1O.[Na+] Na_salicylate
CN1CCC[C@H]1c1cccnc1.OC(=O)[C@H](O)[C@@H](O)C(=O)O nicotine_tartrate
[K+].[O-]C(=O)CCc1ccccc1 K_hydrocinnamate
"""
# Open centres and double bonds, and how many stereoisomers each has.
OPEN = """\
O=C1CCC(N2C(=O)c3ccccc3C2=O)C(=O)N1 thalidomide_flat
CC(O)C(F)C(N)=O two_open
FC=CF difluoroethene
CC1CCC(O)CC1 cis_or_trans
"""
ISOMERS = {"thalidomide_flat": 2, "two_open": 4, "difluoroethene": 2, "cis_or_trans": 2}


def run(folder, text, out="out.sdf", properties=ENERGY, **options):
    (folder / "in.smi").write_text(text)
    options = {"timeout": None, "jobs": 1, "cache": False, "overwrite": True, **options}
    config = ScoreConfig(
        library=str(folder / "in.smi"), out=str(folder / out), properties=properties, **options
    )
    state = score_library(config)
    return state, list(read_molecules(folder / out))


def energy(smiles):
    mol = start(Chem.AddHs(Chem.MolFromSmiles(smiles))).mol
    return get("xtb_energy_hartree")(mol)["xtb_energy_hartree"]


def test_salts_are_refused_by_default_and_keep_their_other_properties(tmp_path):
    state, records = run(tmp_path, SALTS, "out.csv", ("xtb_energy_hartree", "mw"))
    assert state.decisions.without == {REFUSED: 5}
    assert state.failed == {}
    assert state.fewer
    assert np.isnan(state.columns["xtb_energy_hartree"].values).all()
    assert all("." in Chem.MolToSmiles(record.mol) for record in records)
    assert float(records[2].tags["mw"]) == pytest.approx(160.10, abs=0.01)


def test_strip_gives_the_parents_energy_and_says_what_went(tmp_path):
    state, records = run(tmp_path, SALTS, salts="strip")
    gone = ["[Cl-]", "[Cl-]", "[Na+]", "O=C(O)[C@H](O)[C@@H](O)C(=O)O", "[K+]"]
    assert [record.tags["salt_stripped"] for record in records] == gone
    assert state.decisions.stripped == {"[Cl-]": 2, **dict.fromkeys(gone[2:], 1)}
    assert not state.fewer
    for record, line in zip(records, SALTS.splitlines(), strict=True):
        parent = max(line.split()[0].split("."), key=lambda s: Chem.MolFromSmiles(s).GetNumAtoms())
        assert float(record.tags["xtb_energy_hartree"]) == pytest.approx(energy(parent), abs=1e-6)
        assert record.tags["geometry_method"] == "ETKDGv3, MMFF94"
    assert "2 x stripped of [Cl-]" in state.decisions.lines()


def test_neutralised_on_request_alone(tmp_path):
    text = "C[NH2+]C.[Cl-] a\nCC(=O)[O-].[Na+] b\nCCO c\nC[N+](C)(C)C.[Br-] d\n"
    state, records = run(tmp_path, text, salts="strip", neutralise=True)
    neutral = ["CNC", "CC(=O)O", "CCO", "C[N+](C)(C)C"]
    assert [r.tags.get("charge_neutralised") for r in records] == ["+1 to 0", "-1 to 0", None, None]
    for record, smiles in zip(records, neutral, strict=True):
        assert float(record.tags["xtb_energy_hartree"]) == pytest.approx(energy(smiles), abs=1e-6)
    assert state.decisions.neutralised == {"+1 to 0": 1, "-1 to 0": 1}
    with pytest.raises(ValueError, match="strip"):
        run(tmp_path, text, salts="keep", neutralise=True)


def test_keep_is_below_the_separate_ions(tmp_path):
    few = "".join(SALTS.splitlines(keepends=True)[1:3]) + "CC(=O)O.CN mixture\n"
    state, records = run(tmp_path, few, salts="keep")
    assert not state.fewer
    for record, line in zip(records, few.splitlines(), strict=True):
        pieces = line.split()[0].split(".")
        bound = sum(map(energy, pieces)) - float(record.tags["xtb_energy_hartree"])
        assert 0 < bound * HARTREE_TO_KCAL_MOL < 200
        assert record.tags["geometry_method"] == "ETKDGv3, MMFF94, fragments relaxed together"
        assert len(Chem.GetMolFrags(record.mol)) == len(pieces)


def test_a_salt_without_a_parent_is_no_result(tmp_path):
    state, _ = run(tmp_path, "[Na+].[Cl-] salt\nCCO good\n", salts="strip")
    assert (state.read, state.written, sum(state.unreadable.values())) == (2, 1, 1)
    assert "no parent" in next(iter(state.unreadable))


def test_a_given_geometry_is_taken_as_it_is_unless_stripped(tmp_path):
    mol = start(Chem.AddHs(Chem.MolFromSmiles("CC(=O)[O-].[Na+]"))).mol
    (tmp_path / "in.sdf").write_text(sdf_record(mol, "acetate", {"salt_stripped": "mine"}))
    found = {}
    for salts in ("refuse", "keep", "strip"):
        config = ScoreConfig(
            library=str(tmp_path / "in.sdf"), out=str(tmp_path / f"{salts}.sdf"),
            properties=ENERGY, timeout=None, jobs=1, cache=False, salts=salts,
        )  # fmt: skip
        assert not score_library(config).fewer
        (found[salts],) = read_molecules(tmp_path / f"{salts}.sdf")
    whole = get("xtb_energy_hartree")(mol)["xtb_energy_hartree"]
    for salts in ("refuse", "keep"):
        assert float(found[salts].tags["xtb_energy_hartree"]) == pytest.approx(whole, abs=1e-4)
        assert found[salts].tags["salt_stripped"] == "mine"
    alone = found["strip"]
    assert alone.mol.GetNumAtoms() == 7
    assert alone.mol.GetConformer().GetPositions() == pytest.approx(
        mol.GetConformer().GetPositions()[[k for k in range(8) if k != 4]], abs=1e-4
    )
    assert (alone.tags["salt_stripped"], alone.tags["salt_stripped_computed"]) == ("mine", "[Na+]")
    with pytest.raises(UserError, match="geometries are given"):
        score_library(config.model_copy(update={"neutralise": True, "overwrite": True}))


def test_of_open_stereo_one_isomer_is_taken_and_named(tmp_path):
    state, records = run(tmp_path, OPEN, properties=("dipole_debye",))
    assert [record.name for record in records] == list(ISOMERS)
    for record, line in zip(records, OPEN.splitlines(), strict=True):
        flat = Chem.MolFromSmiles(line.split()[0])
        chosen = Chem.MolFromSmiles(record.tags["stereo_chosen"])
        assert Chem.MolToSmiles(chosen, isomericSmiles=False) == Chem.MolToSmiles(flat)
        assert Chem.MolToSmiles(Chem.RemoveHs(record.mol)) == record.tags["stereo_chosen"]
        assert int(record.tags["stereo_open"]) in (1, 2)
    assert sum(state.decisions.isomers.values()) == 4
    assert any("stereo left open" in line for line in state.decisions.lines())
    assert not state.fewer


def test_enumerate_gives_every_isomer_its_own_record(tmp_path):
    state, records = run(tmp_path, OPEN, properties=("dipole_debye",), isomers="enumerate")
    assert (state.read, state.written) == (4, 10)
    names = [f"{name}-iso{k}" for name, n in ISOMERS.items() for k in range(1, n + 1)]
    assert [record.name for record in records] == names
    chosen = [record.tags["stereo_chosen"] for record in records]
    assert len(set(chosen)) == 10
    # E has no dipole by symmetry; Z has 2.42 debye by experiment, GFN2-xTB overshoots.
    values = {r.tags["stereo_chosen"]: float(r.tags["dipole_debye"]) for r in records}
    assert values["F/C=C/F"] == pytest.approx(0, abs=0.01)
    assert values["F/C=C\\F"] == pytest.approx(3.15, abs=0.1)
    two = run(tmp_path, OPEN, properties=("dipole_debye",), isomers=3)[0]
    assert two.written == 2 + 3 + 2 + 2


def test_refused_stereo_is_counted(tmp_path):
    state, _ = run(tmp_path, OPEN + "CCO plain\n", "out.csv", isomers="refuse")
    (reason,) = state.decisions.without
    assert state.decisions.without[reason] == 4
    assert "--isomers" in reason
    assert np.isfinite(state.columns["xtb_energy_hartree"].values[-1])


def test_graph_properties_choose_no_isomer(tmp_path):
    state, records = run(tmp_path, OPEN, "out.csv", ("mw", "qed"))
    assert not any(state.decisions.counts())
    assert all("@" not in Chem.MolToSmiles(record.mol) for record in records)


@pytest.mark.parametrize("smiles", [
    "O=C1CCC(N2C(=O)c3ccccc3C2=O)C(=O)N1", "CC(N)C(=O)O", "FC=CCl", "C[C@H](O)C(F)C(N)=O",
    "CC1(C)C2CCC1(C)C(=O)C2",
])  # fmt: skip
def test_the_first_isomer_does_not_depend_on_how_the_molecule_is_written(smiles):
    mol = Chem.MolFromSmiles(smiles)
    wanted = isomers_of(mol, "first")
    assert (len(wanted.mols), wanted.refused) == (1, "")
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(mol.GetNumAtoms()).tolist()
        other = isomers_of(Chem.RenumberAtoms(mol, order), "first").mols[0]
        assert Chem.MolToSmiles(other) == Chem.MolToSmiles(wanted.mols[0])
        symbols = [atom.GetSymbol() for atom in other.GetAtoms()]
        assert symbols == [mol.GetAtomWithIdx(k).GetSymbol() for k in order]


@pytest.mark.parametrize(("smiles", "isomers"), [
    ("CC(N)C(=O)O", 2), ("C[C@H](N)C(=O)O", 1), ("C[C@H](O)C(F)C(N)=O", 2), ("CC=CC(C)O", 4),
    ("CC1(C)C2CCC1(C)C(=O)C2", 2),  # camphor: of four only those whose bridge can be
    ("OC(O)C(O)O", 1), ("CC(O)C(C)O", 3),  # of butanediol one is meso
])  # fmt: skip
def test_all_isomers_there_are_and_each_once(smiles, isomers):
    found = isomers_of(Chem.MolFromSmiles(smiles), "enumerate").mols
    assert len({Chem.MolToSmiles(m) for m in found}) == len(found) == isomers
    for a, b in itertools.combinations(found, 2):
        assert Chem.MolToSmiles(a, isomericSmiles=False) == Chem.MolToSmiles(
            b, isomericSmiles=False
        )


def test_other_elements_start_from_another_field_and_say_so(tmp_path):
    text = (
        "OB(O)c1ccccc1 boron\nC[Se]CC selenium\nC[Sn](C)(C)C tin\nFP(F)(F)(F)F phosphorus\n"
        "O=I(=O)C iodine\nCCO plain\nN[Pt](N)(Cl)Cl cisplatin\n"
    )
    state, records = run(tmp_path, text)
    uff, gfn2 = "ETKDGv3, UFF", "ETKDGv3, GFN2-xTB"
    assert [record.tags.get("geometry_method") for record in records] == [
        uff, uff, uff, gfn2, gfn2, "ETKDGv3, MMFF94", None
    ]  # fmt: skip
    assert state.decisions.without == {"no field knows how ligands stand around platinum (Pt)": 1}
    assert "3 x geometry by ETKDGv3, UFF" in state.decisions.lines()
    assert np.isfinite(state.columns["xtb_energy_hartree"].values[:-1]).all()


def test_results_do_not_depend_on_workers_or_cache(tmp_path):
    text = "CC(=O)[O-].[Na+] a\nC[NH3+].[Cl-] b\nFC=CF c\nCC(N)C=O d\nOB(O)C boron\n"
    found = []
    for options in (
        {"jobs": 1},
        {"jobs": 2, "cache": str(tmp_path / "c.sqlite")},
        {"jobs": 2, "cache": str(tmp_path / "c.sqlite")},
    ):
        _, records = run(tmp_path, text, properties=("mmff_energy_kcal_mol",), salts="keep",
                         isomers="enumerate", **options)  # fmt: skip
        found.append([(r.name, tuple(r.tags.items())) for r in records])
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("value", ["second", "0", "-1", "1.5", 0, True])
def test_isomers_that_are_none_of_the_words(tmp_path, value):
    with pytest.raises(UserError, match="isomers: is first, refuse, enumerate or a number"):
        ScoreConfig.parse(
            {"library": "a.smi", "out": "b.sdf", "properties": ["qed"], "isomers": value}
        )
