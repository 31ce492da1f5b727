import math

import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from molflowctl.errors import UserError
from molflowctl.properties import PropertyError, get, names, register, registry, score


@pytest.fixture
def clean_registry(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))


def test_every_property_describes_itself():
    assert {"qed", "sa_score", "logp", "dipole_debye", "homo_lumo_gap_eV"} <= set(names())
    for name in names():
        item = get(name)
        assert item.name == name
        assert item.columns == (name,) or all(c.startswith("pb_") for c in item.columns)
        assert item.version >= 1
        assert item.description
        assert item.higher_is in {"better", "worse", None}
        if item.unit and item.engine.startswith("xtb"):
            assert name.endswith(item.unit.replace("/", "_"))


def test_unknown_name_proposes_the_nearest():
    with pytest.raises(UserError, match=r"unknown property 'dipol'.*dipole_debye"):
        get("dipol")
    with pytest.raises(UserError, match=r"there are .*qed"):
        get("@@@@")


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("sa", "sa_score"),
        ("xtb-energy", "xtb_energy_hartree"),
        ("xtb_energy", "xtb_energy_hartree"),
        ("xtb-gap", "homo_lumo_gap_eV"),
        ("gap", "homo_lumo_gap_eV"),
        ("homo-lumo-gap-ev", "homo_lumo_gap_eV"),
        ("dipole", "dipole_debye"),
        ("QED", "qed"),
        ("gfn1-gap", "gfn1_gap_eV"),
        ("xtb-python-energy", "xtb_python_energy_hartree"),
        ("relax-rmsd", "relax_rmsd_angstrom"),
        ("lipinski", "lipinski_pass"),
    ],
)
def test_what_users_type(asked, name):
    assert get(asked).name == name


def test_every_spelling_means_one_property():
    spelt = [s for name in names() for s in (name, *get(name).aliases)]
    assert len({s.lower() for s in spelt}) == len(spelt)
    for name in names():
        for spelling in (name, *get(name).aliases):
            assert get(spelling.replace("_", "-").upper()).name == name


def test_unknown_alias_proposes_names():
    with pytest.raises(UserError, match=r"unknown property 'xtb-gab'.*homo_lumo_gap_eV"):
        get("xtb-gab")


@pytest.mark.parametrize("name", names())
def test_no_atoms_is_a_reason_not_a_zero(name):
    with pytest.raises(PropertyError, match="no atoms"):
        get(name)(Chem.Mol())


@pytest.mark.usefixtures("clean_registry")
def test_an_alias_is_taken_once():
    for aliases in (("gap",), ("QED",)):
        with pytest.raises(ValueError, match="clashes with"):
            register("x", unit="", version=1, description="d", aliases=aliases)(lambda mol: 0.0)


@pytest.mark.usefixtures("clean_registry")
def test_new_property_with_columns_and_a_reason():
    @register("halves", unit="", version=1, description="d", columns=("left", "right"))
    def halves(mol):
        if mol.GetNumAtoms() % 2:
            raise PropertyError("odd")
        return {"left": mol.GetNumAtoms() / 2, "right": mol.GetNumAtoms() / 2}

    mols = [Chem.MolFromSmiles(s) for s in ("CC", "C")]
    for scores in (score(mols, ["halves"], timeout=None), score(mols, ["halves"], jobs=2)):
        assert list(scores.values) == ["left", "right"]
        assert scores["left"][0] == scores["right"][0] == 1.0
        assert math.isnan(scores["left"][1])
        assert scores.errors == [{}, {"halves": "odd"}]


@pytest.mark.usefixtures("clean_registry")
def test_a_name_or_column_is_taken_once():
    with pytest.raises(ValueError, match="clashes with 'qed'"):
        register("qed", unit="", version=1, description="d")(lambda mol: 0.0)
    with pytest.raises(ValueError, match="clashes with 'qed'"):
        register("x", unit="", version=1, description="d", columns=("qed",))(lambda mol: {})


@pytest.mark.usefixtures("clean_registry")
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_not_finite_is_failed(value):
    register("bad", unit="", version=1, description="d")(lambda mol: value)
    with pytest.raises(PropertyError, match="not a finite number"):
        get("bad")(Chem.MolFromSmiles("C"))


@pytest.mark.usefixtures("clean_registry")
def test_undeclared_columns_are_refused():
    register("bad", unit="", version=1, description="d", columns=("a",))(lambda mol: {"b": 1.0})
    with pytest.raises(TypeError, match=r"bad returned \['b'\]"):
        get("bad")(Chem.MolFromSmiles("C"))


@pytest.mark.parametrize("name", [name for name in names() if not get(name).geometry])
def test_coordinates_do_not_matter_to_what_is_said_to_be_of_the_graph(name):
    graph = Chem.MolFromSmiles("C[C@H](N)C(=O)Oc1ccccc1Cl")
    full = Chem.AddHs(graph)
    AllChem.EmbedMolecule(full, randomSeed=1)
    moved = Chem.Mol(full)
    moved.GetConformer().SetPositions(3.0 * moved.GetConformer().GetPositions())
    assert get(name)(full) == get(name)(moved) == pytest.approx(get(name)(graph), abs=1e-9)


# A multiplicity is that of the record, which may declare it, but asks for no coordinates.
GEOMETRIC = [name for name in names() if get(name).geometry and name != "multiplicity"]


@pytest.mark.parametrize("name", GEOMETRIC)
def test_what_needs_coordinates_says_so(name):
    with pytest.raises(PropertyError, match="coordinates"):
        get(name)(Chem.AddHs(Chem.MolFromSmiles("CCO")))
