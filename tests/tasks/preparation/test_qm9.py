"""A small QM9 in each of the forms the real one comes in, prepared end to end."""

import csv
import io
import json
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from molflowctl.data import qm9_source
from molflowctl.data.datasets import MoleculeDataset
from molflowctl.data.qm9_source import Record, find_records, parse_uncharacterized, parse_xyz
from molflowctl.errors import UserError
from molflowctl.tasks.preparation.assets import export_assets
from molflowctl.tasks.preparation.qm9 import Matched, draw_split, match, prepare_qm9

SMILES = (
    "CCO",
    "CC(C)=O",
    "C1CC1N",
    "c1ccoc1",
    "c1cn[nH]c1",
    "N#CCC#N",
    "CC(F)C#C",
    "OC1CC1C=O",
    "C[C@H](O)C#N",
    "O=C1NC=CC1",
    "CC(C)(C)O",
    "OCC(=O)C=O",
    "C1CC2CC12",
    "CNC(=O)N",
)
SPLIT = (8, 3)


def record(smiles: str, index: int = 1) -> Record:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=7) == 0
    rdForceFieldHelpers.MMFFOptimizeMolecule(mol)
    elements = [a.GetSymbol() for a in mol.GetAtoms()]
    return Record(index, (smiles,), elements, mol.GetConformer().GetPositions().round(6))


@pytest.fixture(scope="module")
def records() -> list[Record]:
    # numbers up to QM9's last, with gaps, and not in order
    numbers = np.random.default_rng(3).permutation(np.linspace(4, 133_885, len(SMILES), dtype=int))
    return [record(s, int(n)) for s, n in zip(SMILES, numbers, strict=True)]


def csv_text(records: list[Record]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(["XYZ_file", "Index", "SMILES", "Elements", "XYZ_Ang", "RotA_GHz"])
    for r in records:
        # QM9 writes round numbers with a bare point, "1.", and so does this
        rows = ["[" + ",".join(f"{x:.6f}".rstrip("0") for x in atom) + "]" for atom in r.positions]
        elements = "[" + ",".join(f"'{e}'" for e in r.elements) + "]"
        name = f"dsgdb9nsd_{r.index:06d}.xyz"
        writer.writerow([name, r.index, r.smiles[0], elements, f"[{','.join(rows)}]", 1.5])
    return text.getvalue()


def xyz_text(r: Record) -> str:
    def number(x: float) -> str:
        # Mathematica's form of small numbers
        mantissa, exponent = f"{x:.8e}".split("e")
        return f"{mantissa}*^{int(exponent)}" if abs(x) < 1e-3 else f"{x: .6f}"

    lines = [str(len(r.elements)), f"gdb {r.index}\t157.7118\t157.70997\t0.\t13.21\t-0.3877\t"]
    lines += [
        "\t".join([e, *map(number, x), "-0.535689"])
        for e, x in zip(r.elements, r.positions, strict=True)
    ]
    lines += ["1341.307\t3151.7078", f"{r.smiles[0]}\t{r.smiles[-1]}\t", "InChI=1S/x\tInChI=1S/x"]
    return "\n".join(lines) + "\n"


def write_archive(folder: Path, records: list[Record], uncharacterised: list[int]) -> Path:
    folder.mkdir()
    file = folder / "dsgdb9nsd.xyz.tar.bz2"
    with tarfile.open(file, "w:bz2") as archive:
        for r in records:
            content = xyz_text(r).encode()
            member = tarfile.TarInfo(f"dsgdb9nsd_{r.index:06d}.xyz")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    header = [f"header {k}" for k in range(9)]
    rows = [f"    {k}  C  C  {k}.5" for k in uncharacterised]
    footer = f"{len(rows)} compounds"
    (folder / "uncharacterized.txt").write_text("\n".join([*header, *rows, footer]) + "\n")
    return file


@pytest.fixture(scope="module")
def sources(records, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sources")
    csvs = folder / "unpacked" / "data"
    csvs.mkdir(parents=True)
    halves = {"qm9_part1.csv": records[:5], "qm9_part2.csv": records[5:]}
    with zipfile.ZipFile(folder / "qm9pack-1.0.3-py3-none-any.whl", "w") as wheel:
        for name, half in halves.items():
            (csvs / name).write_text(csv_text(half))
            wheel.writestr(f"qm9pack/data/{name}", csv_text(half))
        wheel.writestr("qm9pack/data/qm9_polarizability.csv", "XYZ_file,A_xx\n")
    left_out = record("CCCC", 77)
    archive = write_archive(folder / "official", [*records, left_out], [77])
    return {
        "folder": folder / "unpacked",
        "wheel": folder / "qm9pack-1.0.3-py3-none-any.whl",
        "archive": archive,
        "archive's folder": archive.parent,
    }


def prepare(out: Path, source: Path, hydrogens: str = "explicit", **kwargs) -> MoleculeDataset:
    return prepare_qm9(
        out, hydrogens, source, jobs=kwargs.pop("jobs", 1), progress=False, split=SPLIT, **kwargs
    )


@pytest.mark.parametrize("form", ["folder", "wheel", "archive", "archive's folder"])
def test_every_form_gives_the_molecules(form, sources, records, tmp_path):
    prepare(tmp_path / "data", sources[form])
    dataset = MoleculeDataset.load(tmp_path / "data")
    by_index = sorted(records, key=lambda r: r.index)
    assert dataset.source_index.tolist() == [r.index for r in by_index]
    for row, r in enumerate(by_index):
        graph = dataset.graph(row)
        mol = Chem.AddHs(Chem.MolFromSmiles(r.smiles[0]))
        Chem.Kekulize(mol, clearAromaticFlags=True)
        assert graph.numbers.tolist() == [a.GetAtomicNum() for a in mol.GetAtoms()]
        np.testing.assert_array_equal(graph.bonds, Chem.GetAdjacencyMatrix(mol, useBO=True))
        np.testing.assert_allclose(graph.positions, r.positions - r.positions.mean(0), atol=2e-6)
        plain = Chem.MolToSmiles(Chem.MolFromSmiles(r.smiles[0]), isomericSmiles=False)
        assert dataset.smiles[row] == plain
    assert dataset.card["kept"] == len(records)
    assert dataset.card["split"] == {"train": 8, "validation": 3, "test": 3}
    is_archive = form.startswith("archive")
    assert dataset.card["left_out"] == ({"uncharacterised": 1} if is_archive else {})
    assert dataset.card["read"] == len(records) + is_archive


def test_the_installed_distribution_is_found(sources, records, tmp_path, monkeypatch):
    site = tmp_path / "site"
    with zipfile.ZipFile(sources["wheel"]) as wheel:
        wheel.extractall(site)
        names = wheel.namelist()
    info = site / "qm9pack-1.0.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: qm9pack\nVersion: 1.0.3\n")
    (info / "RECORD").write_text("".join(f"{n},,\n" for n in names))
    monkeypatch.syspath_prepend(site)
    found = find_records()
    assert found.origin == "qm9pack 1.0.3"
    assert [r.index for r in found.records] == [r.index for r in records]


def test_both_forms_of_hydrogens_share_the_split(sources, tmp_path):
    explicit = prepare(tmp_path / "explicit", sources["folder"])
    implicit = prepare(tmp_path / "implicit", sources["folder"], "implicit")
    split = dict(zip(explicit.source_index.tolist(), explicit.split.tolist(), strict=True))
    assert all(
        split[k] == s
        for k, s in zip(implicit.source_index.tolist(), implicit.split.tolist(), strict=True)
    )
    assert (implicit.numbers > 1).all()
    assert implicit.card["left_out"] == {"fewer than 4 heavy atoms": 1}  # ethanol
    assert (implicit.card["hydrogens"], explicit.card["hydrogens"]) == ("implicit", "explicit")
    files = export_assets([tmp_path / "implicit", tmp_path / "explicit"], tmp_path / "assets")
    assert [f.name.partition("_")[0] for f in files] == ["qm9"] * 3
    assert len(np.load(files[0], allow_pickle=False)) == 8
    sizes = json.loads(files[1].read_text())
    assert {k: sum(v.values()) for k, v in sizes.items()}["explicit"] == 8
    other = prepare(tmp_path / "other", sources["folder"], "implicit", seed=1)
    assert other.smiles == implicit.smiles
    with pytest.raises(UserError, match="different training molecules"):
        export_assets([tmp_path / "explicit", tmp_path / "other"], tmp_path / "assets")


def test_result_does_not_depend_on_jobs(sources, tmp_path):
    prepare(tmp_path / "one", sources["folder"], jobs=1)
    prepare(tmp_path / "two", sources["folder"], jobs=2)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_split_is_a_fixed_random_partition():
    index = np.arange(1, 133_886)
    split = draw_split(index, 100_000, 13_000, seed=0)
    assert np.bincount(split).tolist() == [100_000, 13_000, 20_885]
    np.testing.assert_array_equal(split, draw_split(index, 100_000, 13_000, seed=0))
    assert (split != draw_split(index, 100_000, 13_000, seed=1)).mean() > 0.3
    # random, so neither end of QM9 (small, large molecules) is favoured: 5 standard errors
    half = split[: len(index) // 2]
    assert abs((half == 0).mean() - 100_000 / len(index)) < 5 * 0.5 / len(index) ** 0.5
    # one molecule less moves at most one molecule over each border
    fewer = draw_split(np.delete(index, 500), 100_000, 13_000, seed=0)
    assert (np.delete(split, 500) != fewer).sum() <= 2


def test_atoms_in_another_order_are_recovered():
    original = record("[NH3+]CC(=O)[O-]")
    order = np.random.default_rng(0).permutation(len(original.elements))
    shuffled = Record(
        1, original.smiles, [original.elements[i] for i in order], original.positions[order]
    )
    a, b = match(original), match(shuffled)
    assert isinstance(a, Matched)
    assert isinstance(b, Matched)
    assert b.charges.tolist() == a.charges.tolist()
    assert b.numbers.tolist() == a.numbers.tolist()

    def lengths(m):
        return np.linalg.norm(m.positions[m.bonds[:, 0]] - m.positions[m.bonds[:, 1]], axis=1)

    np.testing.assert_allclose(np.sort(lengths(a)), np.sort(lengths(b)), atol=1e-12)


def with_smiles(r: Record, *smiles: str) -> Record:
    return Record(r.index, smiles, r.elements, r.positions)


def stretched(r: Record) -> Record:
    return Record(r.index, r.smiles, r.elements, r.positions * [1.6, 1, 1])


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (record("O=C=O"), "fewer than 6 atoms"),
        (stretched(record("OCCO")), "bond too long"),
        (with_smiles(record("C1CCC1"), "[CH2]CC[CH2]"), "short distance without a bond"),
        (record("C[CH]CC"), "radical"),
        (with_smiles(record("OCCO"), "C1CC"), "SMILES not readable"),
        (with_smiles(record("OCCO"), "CCO"), "SMILES of another molecule than the geometry"),
        (with_smiles(record("CCOC"), "CCCO"), "SMILES of another molecule than the geometry"),
    ],
)
def test_what_is_left_out_and_why(bad, reason):
    assert match(bad) == reason


def test_the_first_fitting_smiles_is_taken():
    both = match(with_smiles(record("CCO"), "COC", "OCC"))
    assert isinstance(both, Matched)
    assert both.smiles == "CCO"


def test_official_files_are_parsed():
    text = (
        "5\n"
        "gdb 1\t157.7118\t157.70997\t157.70699\t0.\t13.21\t-0.3877\t0.1171\t0.5048\t6.469\t\n"
        "C\t-0.0126981359\t 1.0858041578\t 0.0080009958\t-0.535689\n"
        "H\t 0.002150416\t-0.0060313176\t 1.9761204*^-6\t 0.133921\n"
        "H\t 1.0117308433\t 1.4637511618\t 0.\t 0.133922\n"
        "H\t-0.540815069\t 1.4475266138\t-0.8766437152\t 0.133923\n"
        "H\t-0.5238136345\t 1.4379326443\t 0.9063972942\t 0.133923\n"
        "1341.307\t1341.3284\t1341.365\t1562.6731\n"
        "C\tC\t\n"
        "InChI=1S/CH4/h1H4\tInChI=1S/CH4/h1H4\n"
    )
    methane = parse_xyz(text, "dsgdb9nsd_000001.xyz")
    assert (methane.index, methane.smiles) == (1, ("C", "C"))
    assert methane.elements == ["C", "H", "H", "H", "H"]
    assert methane.positions[1].tolist() == [0.002150416, -0.0060313176, 1.9761204e-6]
    assert methane.positions[2, 2] == 0
    with pytest.raises(UserError, match=r"a\.xyz"):
        parse_xyz("5\nnot QM9\n", "a.xyz")
    header = "line\n" * 9
    listed = parse_uncharacterized(header + "    58  N#C  N#C 1.2\n    61  C  C\n2 compounds\n")
    assert listed == {58, 61}
    with pytest.raises(UserError, match="official list"):
        parse_uncharacterized(header * 3)


def test_the_official_files_are_downloaded(sources, records, tmp_path, monkeypatch):
    official = sources["archive"].parent
    monkeypatch.setattr(qm9_source.metadata, "distribution", _not_installed)
    monkeypatch.setattr(qm9_source, "ARCHIVE_URL", sources["archive"].as_uri())
    listed = (official / "uncharacterized.txt").as_uri()
    monkeypatch.setattr(qm9_source, "UNCHARACTERIZED_URL", listed)
    found = find_records()
    assert len(found.records) == len(records)
    assert found.left_out == {"uncharacterised": 1}


def test_without_a_network_it_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(qm9_source.metadata, "distribution", _not_installed)
    with pytest.raises(UserError, match=r"Cannot download .*qm9pack.*--source"):
        prepare(tmp_path / "data", None)
    assert list(tmp_path.iterdir()) == []


def _not_installed(name: str):
    raise qm9_source.metadata.PackageNotFoundError(name)


def test_bad_sources(sources, tmp_path):
    out = tmp_path / "data"
    with pytest.raises(UserError, match="nowhere does not exist"):
        prepare(out, tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no QM9"):
        prepare(out, tmp_path)
    with pytest.raises(UserError, match=r"holds no QM9"):
        prepare(out, Path(__file__))
    (tmp_path / "qm9_part1.csv").write_text("Index,SMILES\n1,C\n")
    with pytest.raises(UserError, match=r"qm9_part1\.csv .*no column Elements, XYZ_Ang"):
        prepare(out, tmp_path)
    (tmp_path / "qm9_part1.csv").write_text(
        "Index,SMILES,Elements,XYZ_Ang\n1,C,['C'],\"[[0,x,1]]\"\n"
    )
    with pytest.raises(UserError, match=r"qm9_part1\.csv, line 2"):
        prepare(out, tmp_path)
    lonely = tmp_path / "lonely" / sources["archive"].name
    lonely.parent.mkdir()
    lonely.write_bytes(sources["archive"].read_bytes())
    with pytest.raises(UserError, match=r"uncharacterized\.txt is missing"):
        prepare(out, lonely)
    (lonely.parent / "uncharacterized.txt").write_text("\n" * 10)
    lonely.write_bytes(sources["archive"].read_bytes()[:1000])
    with pytest.raises(UserError, match="damaged"):
        prepare(out, lonely)
    with pytest.raises(UserError, match="not enough"):
        prepare_qm9(out, "explicit", sources["folder"], jobs=1, progress=False)
    with pytest.raises(UserError, match="implicit"):
        prepare(out, sources["folder"], "none")
    out.mkdir()
    with pytest.raises(UserError, match="--overwrite"):
        prepare(out, sources["folder"])


def test_progress_goes_to_stderr(sources, tmp_path, capfd):
    prepare_qm9(tmp_path / "data", "implicit", sources["folder"], jobs=1, split=SPLIT)
    out, err = capfd.readouterr()
    assert out == ""
    assert f"{len(SMILES)}/{len(SMILES)}" in err


QM9 = os.environ.get("QM9_SOURCE")


@pytest.mark.slow
@pytest.mark.skipif(QM9 is None, reason="QM9_SOURCE names no copy of QM9")
def test_the_real_one(tmp_path):
    dataset = prepare_qm9(tmp_path / "data", "explicit", QM9, progress=False)
    assert dataset.card["read"] - dataset.card["left_out"].get("uncharacterised", 0) == 130_831
    assert len(dataset) > 130_700
    assert torch.bincount(dataset.split.long())[:2].tolist() == [100_000, 13_000]
