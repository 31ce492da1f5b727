"""Drug-like molecules end to end: a handful of SMILES in, a data set of checked molecules out."""

import gzip
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rdkit import Chem

from molflowctl.chem.ensemble import embed, force_field
from molflowctl.chem.graphs import Graph3D, Molecule, assemble, canonical_smiles, to_mol
from molflowctl.compute.parallel import Outcome
from molflowctl.data.datasets import MoleculeDataset
from molflowctl.data.known import molecule_hash
from molflowctl.data.moses_source import Found
from molflowctl.errors import UserError
from molflowctl.flows.noise import BatchNoise
from molflowctl.flows.state import State
from molflowctl.models.denovo import DeNovoFlow
from molflowctl.tasks.evaluation.physical_checks import gfn2_change
from molflowctl.tasks.evaluation.reference import load_reference
from molflowctl.tasks.preparation import druglike as task
from molflowctl.tasks.preparation.assets import export_assets
from molflowctl.tasks.preparation.druglike import Candidate, build, choose, prepare_druglike
from molflowctl.tasks.preparation.qm9 import Matched
from molflowctl.tasks.preparation.subset import Rule
from tests.pools import InProcess

# Sulphur of valence 2, 4 and 6, NH in rings, fused rings, an alkyne, a nitrile, all halogens.
FORMS = (
    "CS(=O)(=O)Nc1ccc(Cl)cc1",
    "CS(=O)c1ccc(Br)cc1",
    "CSc1nc2ccccc2[nH]1",
    "c1ccc2c(c1)sc1ncccc12",
    "O=C(O)c1ccc(C#CCO)cc1F",
    "N#Cc1c[nH]c2ccc(F)cc12",
    "O=c1[nH]c(=O)c2ccccc2[nH]1",
    "CC1CCC(O)CC1NC(=O)C=CC",
    "C1CC2CCC1N2C(=O)c1ccoc1",
    "CN(C)C(=S)Nc1ccccc1",
    "Cn1nnnc1SCCC(=O)O",
    "COCCNc1nc(NCc2ccccn2)nc2nccnc12",
)

TINY = {"width": 8, "pair_width": 4, "heads": 1, "vectors": 1, "depth": 1, "radial": 2}


@pytest.fixture
def in_process(monkeypatch):
    monkeypatch.setattr(task, "WorkerPool", InProcess)


def source(folder: Path) -> Path:
    """A hundred small ethers and thioethers, a tenth of them for testing; some to leave out."""
    rings = ("c1ccccc1", "c1ccncc1", "C1CCCC1", "c1ccoc1", "C1CC1")
    chains = ["C" * n + x + "C" * m for n in (2, 3) for x in "OS" for m in (1, 2, 3, 4, 5)]
    whole = [chain + ring for chain, ring in itertools.product(chains, rings)]
    whole = [s for s in whole if Chem.MolFromSmiles(s).GetNumAtoms() >= 10]
    odd = ["CCO.CCCCCCCCC", "C[Si](C)(C)CCCCCCC", "CCO", "nonsense"]
    lines = [f"{s},{'test' if k % 10 == 9 else 'train'}" for k, s in enumerate([*whole, *odd])]
    file = folder / "mine.csv.gz"
    file.write_bytes(gzip.compress("\n".join(["SMILES,SPLIT", *lines, ""]).encode()))
    return file


def candidate(smiles: str, key: int = 5) -> Candidate:
    return Candidate(1, smiles, 0, key)


@pytest.mark.parametrize("smiles", FORMS)
def test_every_form_comes_back_from_heavy_atoms(smiles):
    made = build(candidate(smiles))
    assert isinstance(made, Matched)
    mol = Chem.MolFromSmiles(smiles)
    assert made.smiles == canonical_smiles(mol)
    assert (made.numbers > 1).all()
    assert set(made.orders.tolist()) <= {1, 2, 3}
    assert len(made.numbers) == mol.GetNumAtoms()
    # and through the flow's state
    flow = DeNovoFlow([6, 7, 8, 9, 16, 17, 35], [0], {"20": 1}, position_scale=2.4, network=TINY)
    n = len(made.numbers)
    bonds = np.zeros((n, n), dtype=np.int64)
    bonds[tuple(made.bonds.T)] = made.orders
    state = flow.encode(
        torch.from_numpy(made.numbers).long()[None],
        torch.from_numpy(made.charges).long()[None],
        torch.from_numpy(bonds[np.triu_indices(n, 1)])[None],
        torch.from_numpy(made.positions).float()[None],
    )
    (graph,) = flow.decode(state)
    again = assemble(graph)
    assert isinstance(again, Molecule)
    assert again.smiles == made.smiles
    assert again.force_field == "MMFF94"


def test_the_geometry_is_a_minimum():
    """Aspirin has a flat benzene ring of 1.39 angstrom and a C=O of 1.20, the textbook's."""
    made = build(candidate("CC(=O)Oc1ccccc1C(=O)O"))
    ring = made.positions[4:10]
    np.testing.assert_allclose(np.linalg.norm(ring - np.roll(ring, 1, 0), axis=1), 1.39, atol=0.02)
    assert np.linalg.norm(made.positions[2] - made.positions[1]) == pytest.approx(1.20, abs=0.03)
    heights = np.linalg.svd(ring - ring.mean(0))[1]
    assert heights[2] < 0.05  # flat


@pytest.mark.parametrize(
    ("smiles", "reason"),
    [
        ("C1CC", "SMILES not readable"),
        ("CCCCCC.CCCCCC", "not one fragment"),
        ("CCCCCCCCC", "fewer than 10 or more than 27 heavy atoms"),
        ("C" * 28, "fewer than 10 or more than 27 heavy atoms"),
        ("CCCCCCCCCI", "another element"),
        ("CCCCCCCC[CH]C", "radical"),
        ("FS(F)(F)(F)(F)c1ccccc1", "MMFF94 lacks parameters"),
        ("C1=CC2CCCCC2C#CC1", "ETKDGv3 found no conformer"),
    ],
)
def test_what_is_left_out_and_why(smiles, reason):
    assert build(candidate(smiles)) == reason


def test_open_stereo_is_drawn_without_a_preference():
    """Both hands of one centre, in 200 starts: within four standard errors of a half."""
    hands = []
    mol = Chem.MolFromSmiles("CC(O)c1cccs1")
    for key in range(200):
        full = Chem.AddHs(mol)
        assert task.embed(full, 1, seed=key, tries=task.TRIES) == 1
        x = full.GetConformer().GetPositions()
        hands.append(np.linalg.det(x[[0, 2, 3]] - x[1]) > 0)
    assert abs(np.mean(hands) - 0.5) < 4 * 0.5 / 200**0.5


def test_marked_stereo_is_kept():
    for mark in ("@", "@@"):
        made = build(candidate(f"C[C{mark}H](O)c1ccc(Cl)cc1"))
        graph = task.collate([made], np.zeros(1, np.uint8)).graph(0)
        mol = to_mol(graph)
        Chem.SanitizeMol(mol)
        Chem.AssignStereochemistryFrom3D(mol)
        assert Chem.MolToSmiles(mol) == Chem.CanonSmiles(f"C[C{mark}H](O)c1ccc(Cl)cc1")


def words(n: int) -> list[str]:
    return [f"C{k}" for k in range(n)]


@pytest.mark.parametrize("held_out", [True, False])
def test_a_larger_choice_has_the_smaller_one(held_out):
    smiles = words(20_000)
    is_test = np.arange(len(smiles)) % 10 == 0 if held_out else None
    found = Found(smiles, is_test, {"read_from": "here"})
    before: list[set[str]] = [set(), set(), set()]
    for limit in (1, 100, 1000, 5000, 10**9):
        chosen = choose(found, limit)
        assert chosen == sorted(chosen, key=lambda c: (c.split, c.key))
        now = [{c.smiles for c in chosen if c.split == split} for split in range(3)]
        assert len(set.union(*now)) == len(chosen)
        assert all(small <= large for small, large in zip(before, now, strict=True))
        if limit <= 5000:
            assert [len(part) for part in now] == [limit, *2 * [max(1, limit // 20)]]
        before = now
    everything = 20_000 * (0.9 * 0.95 if held_out else 0.9)
    assert abs(len(before[0]) - everything) < 5 * 20_000**0.5 * 0.3  # five standard deviations
    for c in chosen:
        assert c.smiles == smiles[c.number]
        assert c.key == molecule_hash(c.smiles)
        if held_out:
            assert (c.split == 2) == is_test[c.number]
    reordered = choose(Found(smiles[::-1], None, found.card), 100)
    if not held_out:
        assert [c.smiles for c in reordered] == [c.smiles for c in choose(found, 100)]


def test_from_a_file(in_process, tmp_path):
    reported = []
    data = prepare_druglike(
        tmp_path / "drugs",
        source(tmp_path),
        limit=10**6,
        progress=lambda done, total: reported.append((done, total)),
    )
    again = MoleculeDataset.load(tmp_path / "drugs")
    card = again.card
    assert again.smiles == data.smiles
    assert card["left_out"] == {
        "SMILES not readable": 1,
        "not one fragment": 1,
        "another element": 1,
        "fewer than 10 or more than 27 heavy atoms": 1,
    }
    assert card["kept"] == len(data) == card["read"] - 4
    assert (card["name"], card["hydrogens"]) == ("drugs", "implicit")
    assert sum(card["split"].values()) == len(data)
    assert reported[-1] == (card["read"], card["read"])
    assert [done for done, _ in reported] == sorted(done for done, _ in reported)
    for row in range(len(again)):
        mol = to_mol(again.graph(row))
        Chem.SanitizeMol(mol)
        assert canonical_smiles(mol) == again.smiles[row]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["drugs", "mine.csv.gz"]


def test_limits_nest_and_jobs_do_not_matter(tmp_path, monkeypatch):
    file = source(tmp_path)
    other = prepare_druglike(tmp_path / "other", file, limit=15, jobs=2)
    monkeypatch.setattr(task, "WorkerPool", InProcess)
    small = prepare_druglike(tmp_path / "small", file, limit=15)
    for name in ("molecules.safetensors", "smiles.txt.gz", "train_hashes.npy", "sizes.json"):
        assert (tmp_path / "small" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
    assert small.card["left_out"] == other.card["left_out"]
    large = prepare_druglike(tmp_path / "large", file, limit=30)
    where = {s: row for row, s in enumerate(large.smiles)}
    for row, smiles in enumerate(small.smiles):
        a, b = small.graph(row), large.graph(where[smiles])
        np.testing.assert_array_equal(a.positions, b.positions)
        assert small.split[row] == large.split[where[smiles]]
    assert np.isin(small.train_hashes(), large.train_hashes()).all()


def test_a_stopped_run_goes_on(in_process, tmp_path, monkeypatch):
    monkeypatch.setitem(task.SHARD, "mmff", 7)
    file = source(tmp_path)
    whole = prepare_druglike(tmp_path / "whole", file, limit=30)
    out = tmp_path / "out"
    built = []

    def counting(item):
        if len(built) == 20:
            raise KeyboardInterrupt
        built.append(item)
        return build(item)

    monkeypatch.setattr(task, "build", counting)
    with pytest.raises(KeyboardInterrupt):
        prepare_druglike(out, file, limit=30)
    monkeypatch.setattr(task, "build", build)
    assert not out.exists()
    partial = tmp_path / "out.partial"
    assert len(list(partial.glob("*.safetensors"))) == 2
    with pytest.raises(UserError, match="--resume"):
        prepare_druglike(out, file, limit=30)
    with pytest.raises(UserError, match="other settings"):
        prepare_druglike(out, file, limit=31, resume=True)
    shard = partial / "00001.safetensors"
    content = shard.read_bytes()
    shard.write_bytes(content[:50])
    with pytest.raises(UserError, match=r"00001\.safetensors is damaged"):
        prepare_druglike(out, file, limit=30, resume=True)
    shard.write_bytes(content)
    monkeypatch.setattr(task, "build", lambda item: pytest.fail("all is there"))
    prepare_druglike(out, file, limit=30, resume=True)
    assert not partial.exists()
    for name in ("molecules.safetensors", "smiles.txt.gz", "card.json"):
        # the card too, but for its name
        a, b = ((f / name).read_bytes().replace(b'"out"', b'"whole"') for f in (out, whole.folder))
        assert a == b


def test_a_hopeless_molecule_costs_only_itself(tmp_path, monkeypatch):
    class Slow(InProcess):
        def map(self, function, items, **kwargs):
            for k, outcome in enumerate(super().map(function, items, **kwargs)):
                yield Outcome(error="timed out after 60 s") if k == 3 else outcome

    monkeypatch.setattr(task, "WorkerPool", Slow)
    data = prepare_druglike(tmp_path / "out", source(tmp_path), limit=20)
    assert data.card["left_out"]["timed out after 60 s"] == 1


def having(pattern: str) -> Rule:
    return Rule(f"smarts:{pattern}", 1, None)


@pytest.mark.parametrize("pattern", ["S", "c"])
def test_a_substructure_is_looked_for_before_the_limit_counts(in_process, tmp_path, pattern):
    file = source(tmp_path)
    searched: list[int] = []
    found = prepare_druglike(
        tmp_path / "out", file, limit=7, rule=having(pattern), searching=searched.append
    )
    query = Chem.MolFromSmarts(pattern)
    assert found.card["rule"] == f"1 <= smarts:{pattern}"
    assert all(Chem.MolFromSmiles(s).HasSubstructMatch(query) for s in found.smiles)
    whole = prepare_druglike(tmp_path / "whole", file, limit=10**6)
    mols = [Chem.MolFromSmiles(whole.smiles[k]) for k in whole.indices("train").tolist()]
    there = sum(mol.HasSubstructMatch(query) for mol in mols)
    assert len(found.indices("train")) == min(7, there)
    assert len(found.smiles) <= found.card["searched"] < 60
    assert min(searched) == 1
    assert max(searched) < 60  # no more of a hundred than it needs


def test_bad_calls(in_process, tmp_path):
    file = source(tmp_path)
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="--overwrite"):
        prepare_druglike(tmp_path / "there", file)
    with pytest.raises(UserError, match="limit is 0"):
        prepare_druglike(tmp_path / "out", file, limit=0)
    with pytest.raises(UserError, match="no SMARTS pattern"):
        prepare_druglike(tmp_path / "out", file, rule=having("["))
    with pytest.raises(UserError, match="none that follows the rule is in the train split"):
        prepare_druglike(tmp_path / "out", file, rule=having("[I]"))
    with pytest.raises(UserError, match="dipole_debye needs a geometry"):
        prepare_druglike(tmp_path / "out", file, rule=Rule("dipole_debye", 4, None))
    (tmp_path / "begun.partial").mkdir()
    with pytest.raises(UserError, match="unfinished run"):  # before it is searched for
        prepare_druglike(tmp_path / "begun", file, rule=having("[I]"))
    (tmp_path / "few.csv").write_text("SMILES\nCCCCCCCCCCO\n")
    with pytest.raises(UserError, match=r"few\.csv has 1 molecules, too few"):
        prepare_druglike(tmp_path / "out", tmp_path / "few.csv")
    lines = [f"{'C' * k},{'test' if k % 5 == 0 else 'train'}" for k in range(28, 200)]
    (tmp_path / "long.csv").write_text("\n".join(["SMILES,SPLIT", *lines, ""]))
    with pytest.raises(UserError, match="none of 3 molecules is left"):
        prepare_druglike(tmp_path / "out", tmp_path / "long.csv", limit=1)


def test_a_repeated_molecule_is_kept_once(in_process, tmp_path):
    plain = gzip.decompress(source(tmp_path).read_bytes()).decode().splitlines()[1:40]
    smiles = [line.partition(",")[0] for line in plain]
    # the same molecules for testing, written from another atom, and one that is new
    other = [Chem.MolToSmiles(Chem.MolFromSmiles(s), rootedAtAtom=3) for s in smiles]
    lines = [f"{s},train" for s in smiles] + [f"{s},test" for s in [*other, "CCCCCCCCCCO"]]
    (tmp_path / "twice.csv").write_text("\n".join(["SMILES,SPLIT", *lines, ""]))
    data = prepare_druglike(tmp_path / "out", tmp_path / "twice.csv", limit=10**6)
    assert sorted(data.smiles) == sorted({*map(Chem.CanonSmiles, smiles), "CCCCCCCCCCO"})
    assert data.card["left_out"] == {"the same molecule as an earlier one": len(smiles)}
    assert [data.smiles[row] for row in data.indices("test")] == ["CCCCCCCCCCO"]


def test_assets(in_process, tmp_path, monkeypatch):
    monkeypatch.setattr(task, "HELD_OUT", 2)
    prepare_druglike(tmp_path / "druglike", source(tmp_path), limit=60)
    data = MoleculeDataset.load(tmp_path / "druglike")
    monkeypatch.setattr("molflowctl.tasks.evaluation.reference.FEWEST", 5)
    files = export_assets([tmp_path / "druglike"], tmp_path / "assets")
    assert [f.name for f in files] == [
        "druglike_train_hashes.npy",
        "druglike_sizes.json",
        "druglike_test_reference.npz",
    ]
    np.testing.assert_array_equal(np.load(files[0]), data.train_hashes())
    sizes = json.loads(files[1].read_text())
    assert sizes == {"implicit": {str(n): count for n, count in data.sizes().items()}}
    monkeypatch.setattr("molflowctl.tasks.evaluation.reference.resources.files", lambda _: tmp_path)
    reference = load_reference("druglike")
    assert len(reference["descriptors"]["qed"]) == len(data.indices("test"))
    assert np.median(reference["bonds"]["C-H"]) == pytest.approx(1.095, abs=0.01)  # MMFF94's
    assert np.median(reference["bonds"]["C-O"]) == pytest.approx(1.42, abs=0.02)
    with pytest.raises(UserError, match="forms of one data set"):
        export_assets([tmp_path / "druglike"] * 2, tmp_path / "assets")


def test_handedness_is_unseen_by_the_flow():
    """The network commutes with reflections, so a flow draws both mirror images alike."""
    torch.manual_seed(0)
    flow = DeNovoFlow([6, 8, 16], [0], {"12": 1}, network=TINY)
    x = flow.prior(3, 12, BatchNoise(0))
    mirror = torch.tensor([-1.0, 1.0, 1.0])
    t = torch.tensor([0.2, 0.5, 0.9])
    a = flow(x, t)
    b = flow(State(**dict(x.items()) | {"positions": x["positions"] * mirror}), t)
    torch.testing.assert_close(b["positions"], a["positions"] * mirror, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(b["atoms"], a["atoms"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(b["bonds"], a["bonds"], atol=1e-5, rtol=1e-4)


def test_command(in_process, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from molflowctl.cli import app

    file = source(tmp_path)
    monkeypatch.chdir(tmp_path)
    arguments = ["data", "prepare", "druglike", "--source", file.name, "--limit", "15", "-j", "1"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    data = MoleculeDataset.load("datasets/druglike")
    assert f"{len(data):,} molecules" in result.output
    assert data.card["limit"] == 15


def test_molecules_of_an_earlier_data_set_are_taken_over(in_process, tmp_path, monkeypatch):
    file = source(tmp_path)
    small = prepare_druglike(tmp_path / "small", file, limit=20)
    built = []
    monkeypatch.setattr(task, "build", lambda c: built.append(c.number) or build(c))
    larger = prepare_druglike(tmp_path / "larger", file, limit=40, known=tmp_path / "small")
    assert not set(built) & set(small.source_index.tolist())
    afresh = prepare_druglike(tmp_path / "afresh", file, limit=40)

    def rows(data):
        order = data.source_index.argsort().tolist()
        return [(data.smiles[k], int(data.split[k]), data.graph(k).positions) for k in order]

    for found, expected in zip(rows(larger), rows(afresh), strict=True):
        assert found[:2] == expected[:2]
        np.testing.assert_allclose(found[2], expected[2], atol=1e-5)


@pytest.mark.parametrize("other", ["rdkit", "starts", "source_sha256"])
def test_only_molecules_made_in_the_same_way_are_taken_over(in_process, tmp_path, other):
    data = prepare_druglike(tmp_path / "small", source(tmp_path), limit=20)
    data.card[other] = "another"
    data.save(tmp_path / "other")
    with pytest.raises(UserError, match=other):
        prepare_druglike(tmp_path / "x", source(tmp_path), limit=40, known=tmp_path / "other")
    assert not (tmp_path / "x.partial").exists()


@pytest.mark.parametrize("smiles", FORMS[7:])
def test_the_lowest_of_three_is_kept(smiles):
    """No conformer of the three is lower; that of a single start is one of them."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert embed(mol, 3, seed=5, tries=task.TRIES) == 3
    energies, *_ = force_field(mol)
    lowest = mol.GetConformer(int(np.argmin(energies))).GetPositions()
    made = build(candidate(smiles))
    heavy = lowest[[a.GetIdx() for a in mol.GetAtoms() if a.GetAtomicNum() > 1]]
    gaps = [np.linalg.norm(x[:, None] - x[None], axis=-1) for x in (made.positions, heavy)]
    np.testing.assert_allclose(*gaps, atol=1e-3)


@pytest.mark.parametrize("smiles", [FORMS[0], FORMS[8]])
def test_minima_of_gfn2_are_minima_of_gfn2(smiles):
    """From the second, unlike the first, GFN2-xTB gains next to nothing."""
    mmff, gfn2 = (build(candidate(smiles), relax) for relax in ("mmff", "gfn2"))
    assert isinstance(mmff, Matched)
    assert isinstance(gfn2, Matched)
    assert gfn2.smiles == mmff.smiles
    np.testing.assert_array_equal(gfn2.bonds, mmff.bonds)
    n = len(gfn2.numbers)
    bonds = np.zeros((n, n), np.int8)
    bonds[tuple(gfn2.bonds.T)] = bonds[tuple(gfn2.bonds.T[::-1])] = gfn2.orders
    moved = []
    for made in (mmff, gfn2):
        graph = Graph3D(made.numbers.astype(int), made.charges.astype(int), bonds, made.positions)
        drawn = assemble(graph)
        assert isinstance(drawn, Molecule)
        moved.append(gfn2_change(drawn.mol))
    # What is left is the hydrogens, which are placed again by MMFF94.
    assert moved[1].drop < moved[0].drop / 2  # kcal/mol
    assert moved[1].rmsd < 0.02 < moved[0].rmsd  # angstrom


def test_minima_of_another_method_are_not_taken_over(in_process, tmp_path):
    data = prepare_druglike(tmp_path / "small", source(tmp_path), limit=20)
    assert data.card["relax"] == "mmff"
    with pytest.raises(UserError, match="relax"):
        prepare_druglike(
            tmp_path / "x", source(tmp_path), 40, relax="gfn2", known=tmp_path / "small"
        )
